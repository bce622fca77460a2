package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// The times of an agent that Syncs.
const (
	syncInterval = time.Minute
	syncTimeout  = 30 * time.Second
	syncRetry    = 10 * time.Second
	watcherLease = 10 * time.Minute // after the last Sync that was answered with the wish that it watches
)

const standInMAC = "02:00:00:00:00:01"

// standIn is an agent on a node that watches only if a server wishes it.
type standIn struct {
	process
	name     string
	servers  []string
	watchers *watchers
	only     bool // policy watch-only
}

// watchers are the agents that take themselves for the cluster's watcher.
type watchers struct {
	check *checker
	alone bool // all servers decide together, so that there must not be two

	mu     sync.Mutex
	until  map[string]time.Time
	excuse time.Time // until then there may be two, because a database has forgotten the first
}

// forgotten notes that a database may have lost who the watcher is: whoever was it takes itself for the watcher until its next
// Sync, at most for its lease.
func (w *watchers) forgotten() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.excuse = time.Now().Add(watcherLease)
}

// told notes what an agent was told in answer to a Sync that it sent then.
func (w *watchers) told(name string, sent time.Time, watch bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if !watch {
		delete(w.until, name)
		return
	}
	w.check.meet("an agent is told to watch")
	w.until[name] = sent.Add(watcherLease)
	for other, until := range w.until {
		if w.alone && now.After(w.excuse) && other != name && until.After(now) && w.until[name].After(now) {
			w.check.fail("two agents watch: %s until %v and %s until %v", name, w.until[name].Sub(w.check.begun), other, until.Sub(w.check.begun))
		}
	}
}

func (w *watchers) ended(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.until, name)
}

func newStandIn(number int, n *network, log *slog.Logger, servers []string, w *watchers) *standIn {
	a := &standIn{name: fmt.Sprintf("stand-in-%d", number), servers: servers, watchers: w, only: number%3 == 2}
	a.process = process{node: fmt.Sprintf("10.0.3.%d", 1+number), net: n, log: log.With("agent", a.name), run: a.live}
	return a
}

func (a *standIn) live(ctx context.Context, _ func() bool) error {
	defer a.watchers.ended(a.name)
	boot := uint32(time.Now().Unix())
	for i := 0; ctx.Err() == nil; i++ {
		a.session(ctx, a.servers[i%len(a.servers)], boot)
		pause(ctx, syncRetry)
	}
	return nil
}

// session Syncs over one connection until a Sync fails.
func (a *standIn) session(ctx context.Context, server string, boot uint32) {
	conn, err := grpc.NewClient("passthrough:///"+server,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableServiceConfig(), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return a.net.dial(ctx, a.node, server) }))
	if err != nil {
		a.log.Error("no client", "error", err)
		return
	}
	defer func() { _ = conn.Close() }()
	policy := agent.KubernetesWatchPolicy_KWP_NORMAL
	if a.only {
		policy = agent.KubernetesWatchPolicy_KWP_WATCH_ONLY
	}
	client := agent.NewSynchronizerClient(conn)
	for {
		sent := time.Now()
		call, cancel := context.WithTimeout(ctx, syncTimeout)
		resp, err := client.Sync(call, &agent.SyncRequest{
			BootTime: &boot, ProcessName: new("deepflow-agent"), Host: &a.name, CtrlIp: &a.node, CtrlMac: new(standInMAC),
			KubernetesClusterId: new(clusterID), KubernetesWatchPolicy: &policy,
		})
		cancel()
		if err != nil {
			return
		}
		if ctx.Err() == nil && resp.GetDynamicConfig() != nil {
			a.watchers.told(a.name, sent, resp.GetDynamicConfig().GetKubernetesApiEnabled())
		}
		if !pause(ctx, syncInterval-time.Since(sent)) {
			return
		}
	}
}

// pause waits, and returns false if the context ends before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
