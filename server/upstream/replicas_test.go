package upstream_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// replicas starts fronts that share a database and the servers behind them.
func replicas(t *testing.T, database *pgtest.Server, fronts, servers int, elect elector.Options) []*rig {
	t.Helper()
	var out []*rig
	for range fronts {
		backend, err := store.OpenPostgres(t.Context(), database.DSN(), 8)
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, backend: backend, elapsed: &atomic.Int64{}}
		t.Cleanup(func() { r.stop(); _ = backend.Close() })
		if len(out) == 0 {
			r.serve(servers)
		} else {
			r.elapsed, r.servers, r.opts = out[0].elapsed, out[0].servers, out[0].opts
		}
		r.start(elect)
		out = append(out, r)
	}
	return out
}

// goTo lets an agent connect to another front.
func (a *standIn) goTo(r *rig) {
	_ = a.conn.Close()
	a.r, a.conn = r, dial(r.t, r.address)
}

// Replicas on one PostgreSQL elect as one: of agents that all ask at once, each another replica in each round, one watches;
// a better one at the other replica takes over, and all calls of the cluster go to one server.
func TestReplicasElectAsOne(t *testing.T) {
	fronts := replicas(t, pgtest.Start(t, "fsync = off"), 2, 2, elector.Options{})
	var agents []*standIn
	for i := range 10 {
		agents = append(agents, fronts[i%2].agent(fmt.Sprintf("node-%d", i), fmt.Sprintf("10.0.0.%d", i), normal))
	}
	var holder *standIn
	for round := range 4 {
		var wg sync.WaitGroup
		for _, a := range agents {
			wg.Go(func() { a.sync() })
		}
		wg.Wait()
		h := fronts[0].atMostOne(agents...)
		if h == nil || holder != nil && h != holder {
			t.Fatalf("round %d: %v watches after %v", round, h, holder)
		}
		holder = h
		fronts[0].pass(time.Minute)
		for i, a := range agents {
			if a != holder { // a holder that moves does so only when its front is lost
				a.goTo(fronts[(i+round)%2])
			}
		}
	}
	other := fronts[0]
	if holder.r == other {
		other = fronts[1]
	}
	better := other.agent("watcher", "10.0.1.1", watchOnly)
	agents = append(agents, better)
	for range 4 {
		better.sync()
		holder.sync()
		fronts[0].atMostOne(agents...)
		fronts[0].pass(time.Minute)
	}
	if !better.watch {
		t.Error("the better one at the other replica does not watch within four Syncs")
	}
	busy := 0
	for _, d := range fronts[0].servers {
		if len(d.syncs) > 0 {
			busy++
		}
	}
	if busy != 1 {
		t.Errorf("the cluster is on %d servers", busy)
	}
	for _, r := range fronts {
		if c := r.front.Status().Clusters; len(c) != 1 || len(c[0].Bypassed) > 0 {
			t.Errorf("a front shows %+v", c)
		}
	}
}

// TestReplicaLost: the agents of a front that ends go to the other one. The holder stays the holder, at once and without a
// moment of two; if it ended with its front, another one follows after elector.ttl.
func TestReplicaLost(t *testing.T) {
	fronts := replicas(t, pgtest.Start(t, "fsync = off"), 2, 1, elector.Options{})
	holder, second := fronts[0].agent("a", "10.0.0.1", normal), fronts[1].agent("b", "10.0.0.2", normal)
	all := []*standIn{holder, second}
	sync := func() *standIn {
		for _, a := range all {
			a.sync()
			fronts[1].atMostOne(all...)
		}
		fronts[1].pass(time.Minute)
		return fronts[1].atMostOne(all...)
	}
	if sync() != holder {
		t.Fatal("the first one does not watch")
	}
	fronts[0].stop()
	if holder.sync(); holder.err == nil {
		t.Fatal("a front that was stopped answers")
	}
	second.sync()
	holder.goTo(fronts[1])
	for range 3 {
		if sync() != holder {
			t.Fatal("the holder lost its role with its front")
		}
	}
	holder.watch = false // it ended
	all = all[1:]
	for minute := range 12 {
		// It was heard a minute before the first one of these.
		if got := sync(); (got == second) != (minute+1 >= 10) {
			t.Errorf("%d minutes after its last Sync: %v watches", minute+1, got)
		}
	}
}

// TestReplicaIsNoBypass: what passed at another replica does not look as if an agent had reported past us.
func TestReplicaIsNoBypass(t *testing.T) {
	fronts := replicas(t, pgtest.Start(t, "fsync = off"), 2, 1, elector.Options{})
	report := func(front int, version uint64, entries bool) uint64 {
		t.Helper()
		req := harmful(t, version)
		if !entries {
			req.Entries = nil
		}
		v, err := fronts[front].report(req)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	report(0, 6, true)
	report(1, 7, true)
	if got := report(0, 6, false); got != 7 {
		t.Fatalf("got version %d, want 7", got)
	}
	for _, c := range fronts[0].front.Status().Clusters {
		for _, b := range c.Bypassed {
			if b.Why == "version" {
				t.Error(b.What)
			}
		}
	}
}

// TestReplicasHistories plays random histories over two fronts on one PostgreSQL: agents lose answers and change over, fronts end
// and come back, the server forgets and fails, the database is away for a moment, time passes.
//
// Invariant: at no moment two agents watch.
func TestReplicasHistories(t *testing.T) {
	database := pgtest.Start(t, "fsync = off")
	changes := 0
	for round := range testseed.Rounds(t, 6) {
		rng := rand.New(rand.NewPCG(testseed.New(t), 4))
		id := fmt.Sprintf("d-test-%d", round)
		opts := elector.Options{Designations: map[string][]elector.Designation{id: {{HostPattern: "best*"}}}}
		fronts := replicas(t, database, 2, 1, opts)
		r, d := fronts[0], fronts[0].servers[0]
		agents := []*standIn{
			r.agent("node-1", "10.0.0.1", normal), r.agent("node-2", "10.0.0.2", normal), r.agent("sidecar", "10.0.0.1", disabled),
			r.agent("deployment", "10.0.0.1", watchOnly), r.agent("best-1", "10.0.0.2", watchOnly),
		}
		for _, a := range agents {
			a.req.KubernetesClusterId = &id
		}
		until := map[*standIn]time.Duration{}
		now := func() time.Duration { return time.Duration(r.elapsed.Load()) }
		for step := range 200 {
			if step == 100 { // the database is away for a moment: nobody is told anything
				database.Kill()
				for _, a := range agents {
					if a.sync(); a.err == nil {
						t.Error("an answer without the database")
					}
				}
				database.Restart(t)
				for _, f := range fronts {
					for f.backend.Check(t.Context()) != nil { //nolint:revive // until its dead connections are gone
					}
				}
			}
			a := agents[rng.IntN(len(agents))]
			switch rng.IntN(14) {
			case 0:
				d.forget()
			case 1:
				d.broken.Store(!d.broken.Load())
			case 2:
				d.mu.Lock()
				d.status = []agent.Status{agent.Status_SUCCESS, agent.Status_SUCCESS, agent.Status_HEARTBEAT, agent.Status_FAILED}[rng.IntN(4)]
				d.mu.Unlock()
			case 3:
				if f := fronts[rng.IntN(2)]; rng.IntN(3) == 0 {
					f.stop()
					f.start(opts)
				}
			case 4:
				a.goTo(fronts[rng.IntN(2)])
			case 5: // an answer is lost, the agent tries elsewhere
				before := a.watch
				a.sync()
				a.watch = before
				a.goTo(fronts[rng.IntN(2)])
			case 6, 7:
				r.pass(time.Duration(rng.IntN(90)) * time.Second)
			default:
				before := a.watch
				if a.sync(); a.err != nil {
					a.goTo(fronts[rng.IntN(2)])
				} else if a.watch && a.told {
					until[a] = now() + 9*time.Minute
				}
				if a.watch != before {
					changes++
				}
			}
			for _, o := range agents {
				if o.watch && now() > until[o] {
					o.watch = false // it hears nothing
				}
			}
			r.atMostOne(agents...)
		}
		for _, f := range fronts {
			f.stop()
		}
	}
	if changes < 3 {
		t.Errorf("the role moved %d times: the histories ask too little", changes)
	}
}
