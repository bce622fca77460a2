package receiver

import (
	"context"
	"net"
	"net/http"

	"google.golang.org/grpc/peer"
)

// Role is what a user of the API may do. The zero Role may do nothing.
type Role int

// Roles, each of which includes those before it.
const (
	RoleNone Role = iota
	RoleRead
	RoleAdminister
)

// Access says who may report which cluster and who may use the API.
type Access struct {
	// Anonymous is what the API grants to those without a token.
	Anonymous Role
}

// APIUser is a user of the API.
type APIUser struct {
	Name string
	Role Role
}

// Peer is who sent a request.
type Peer struct {
	Address  string
	Identity string // name of the certificate or token, empty if there was none
	cluster  string // the cluster it spoke for, for the audit log
}

func (p *Peer) host() string {
	host, _, err := net.SplitHostPort(p.Address)
	if err != nil {
		return p.Address
	}
	return host
}

func peerOf(ctx context.Context) *Peer {
	p := &Peer{}
	if from, ok := peer.FromContext(ctx); ok {
		p.Address = from.Addr.String()
	}
	return p
}

func (Access) admit(*Peer) error { return nil }

func (r *Receiver) mayReport(p *Peer, cluster string) error {
	p.cluster = cluster
	return nil
}

func (a Access) authorise(_ *http.Request, need Role) (APIUser, *APIError) {
	u := APIUser{Name: "anonymous", Role: a.Anonymous}
	if u.Role < need {
		return u, &APIError{Status: http.StatusUnauthorized, Message: "this needs a token", Advice: "send Authorization: Bearer TOKEN"}
	}
	return u, nil
}
