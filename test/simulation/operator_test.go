package simulation

import (
	"context"
	"errors"
	"fmt"

	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// designation is what the operator wants: an agent, a host, everybody, or nobody any more.
func designation(n [3]int) elector.Designation {
	switch n[1] % 5 {
	case 0:
		return elector.Designation{Agent: fmt.Sprintf("10.0.3.%d-%s", 1+n[2]%5, standInMAC)}
	case 1:
		return elector.Designation{HostPattern: fmt.Sprint("stand-in-", n[2]%5)}
	case 2:
		return elector.Designation{HostPattern: "agent-*"}
	case 3:
		return elector.Designation{HostPattern: "*"}
	default:
		return elector.Designation{}
	}
}

// designate designates at one server, or undoes all designations.
func (s *system) designate(n [3]int) {
	e := pick(s.servers, n[0]).electing()
	if e == nil {
		return
	}
	d := designation(n)
	var err error
	if d == (elector.Designation{}) {
		_, err = e.Undesignate(context.Background(), clusterID, d)
	} else {
		_, err = e.Designate(context.Background(), clusterID, d)
	}
	s.said("designates", err)
}

// elect has a server elect anew. Who vouches for the end of the present watcher, which goes on here, answers for two.
func (s *system) elect(server *serverProcess, gone bool) {
	e := server.electing()
	if e == nil {
		return
	}
	if gone {
		s.watchers.forgotten()
	}
	_, err := e.Elect(context.Background(), clusterID, gone)
	s.said("elects", err)
}

// said notes how a server answered the operator. It may refuse for these reasons only.
func (s *system) said(what string, err error) {
	for _, known := range []error{elector.ErrNoDesignation, store.ErrNotFound, store.ErrUnavailable, store.ErrConflict} {
		if errors.Is(err, known) {
			s.check.meet(fmt.Sprintf("operator: %s: %v", what, known))
			return
		}
	}
	if err != nil {
		s.check.fail("the operator %s: %v", what, err)
		return
	}
	s.check.meet("operator: " + what)
}
