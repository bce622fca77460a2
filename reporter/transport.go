package reporter

import (
	"context"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// transport reaches one server at a time. It is not used by two goroutines at once, but its sessions are.
type transport interface {
	// connect opens a session with the current server.
	connect(ctx context.Context) (session, error)
	// next makes the next connect go to the next server, if there is one.
	next()
}

// session is one connection to one server process; it does not reconnect. Its methods may be called concurrently.
type session interface {
	// report sends one KubernetesAPISync and returns the version that the server answered.
	report(ctx context.Context, r *report) (uint64, error)
	sync(ctx context.Context, c claim) (syncAnswer, error)
	clusterID(ctx context.Context, caMD5 string) (string, error)
	// lost is closed when the connection is gone.
	lost() <-chan struct{}
	// pseudoServer tells whether the server has said that it is a pseudo-server.
	pseudoServer() bool
	// peer names the server's address and service for people.
	peer() peerInfo
	close()
}

type peerInfo struct{ server, address, service, sourceIP string }

// report is one KubernetesAPISync request.
type report struct {
	clusterID string
	teamID    string
	agentID   uint32
	version   uint64
	errorMsg  string
	// entries of this snapshot go along; nil: none.
	entries *snapshot.Snapshot
}

// header is the request without its entries and without the source IP, which only the session knows.
func (r *report) header() *agent.KubernetesAPISyncRequest {
	h := &agent.KubernetesAPISyncRequest{ClusterId: &r.clusterID, Version: &r.version, AgentId: &r.agentID}
	if r.errorMsg != "" {
		h.ErrorMsg = &r.errorMsg
	}
	if r.teamID != "" {
		h.TeamId = &r.teamID
	}
	return h
}

// size is the number of bytes that the entries take; the header comes on top.
func (r *report) size() int {
	if r.entries == nil {
		return 0
	}
	return r.entries.Size()
}

// claim is what one Sync says.
type claim struct {
	clusterID string
	ctrlMAC   string
	policy    agent.KubernetesWatchPolicy
	force     bool
	goodbye   bool
}

// syncAnswer is what a server said to a Sync.
type syncAnswer struct {
	status     agent.Status
	decided    bool // the answer says whether to watch
	watch      bool
	userConfig *string
}
