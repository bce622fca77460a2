package elector_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

func openPostgres(t *testing.T, dsn string) store.Backend {
	t.Helper()
	p, err := store.OpenPostgres(t.Context(), dsn, 8)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// Replicas that share a PostgreSQL agree: of agents that all ask at once one gets the role, also one that asks another
// replica each time, and a candidate that ranks higher is heard of by the replica that the holder Syncs with.
func TestReplicasAgree(t *testing.T) {
	server := pgtest.Start(t, "fsync = off")
	replicas := []*rig{
		newRig(t, openPostgres(t, server.DSN()), elector.Options{}),
		newRig(t, openPostgres(t, server.DSN()), elector.Options{}),
	}
	const agents = 12
	clients := make([][]*client, agents) // by agent and replica
	for i := range clients {
		for _, r := range replicas {
			clients[i] = append(clients[i], r.client(fmt.Sprintf("node-%d", i), fmt.Sprintf("10.0.0.%d", i), normal))
		}
	}
	watching := func(round int) map[string]bool {
		var wg sync.WaitGroup
		var mu sync.Mutex
		told := map[string]bool{}
		for i := range clients {
			wg.Go(func() {
				c := clients[i][(i+round)%len(replicas)]
				if c.sync() {
					mu.Lock()
					defer mu.Unlock()
					told[c.name] = true
				}
			})
		}
		wg.Wait()
		for _, r := range replicas {
			r.pass(time.Minute)
		}
		return told
	}
	holder := ""
	for round := range 5 {
		told := watching(round)
		for name := range told {
			if holder == "" {
				holder = name
			}
			if name != holder {
				t.Fatalf("round %d: %s and %s are told to watch", round, name, holder)
			}
		}
	}
	if holder == "" {
		t.Fatal("nobody is told to watch")
	}
	for i, r := range replicas {
		if info := r.call(http.MethodGet, "/watchers/"+cluster, "", http.StatusOK); info.Holder == nil || info.Holder.Host != holder {
			t.Errorf("replica %d: got holder %+v, want %s", i, info.Holder, holder)
		}
	}

	// The holder keeps to the first replica, a better candidate to the second.
	var old *client
	for _, c := range clients {
		if c[0].name == holder {
			old = c[0]
		}
	}
	better := replicas[1].client("watcher", "10.0.1.1", only)
	got := false
	for range 4 {
		if old.sync() && got {
			t.Fatal("both are told to watch")
		}
		got = better.sync()
		for _, r := range replicas {
			r.pass(time.Minute)
		}
	}
	if !got {
		t.Error("the better candidate did not get the role within four Syncs")
	}

	// A third replica starts later and knows only what is stored.
	late := newRig(t, openPostgres(t, server.DSN()), elector.Options{})
	if info := late.call(http.MethodGet, "/watchers/"+cluster, "", http.StatusOK); info.Holder == nil || info.Holder.Host != "watcher" {
		t.Errorf("new replica: got holder %+v, want watcher", info.Holder)
	}
	if late.client("node-99", "10.0.0.99", only).sync() {
		t.Error("new replica: an equal candidate is told to watch")
	}
}

// While the database is away nobody is told anything; afterwards the holder is still the holder.
func TestDatabaseAway(t *testing.T) {
	server := pgtest.Start(t, "fsync = off")
	r := newRig(t, openPostgres(t, server.DSN()), elector.Options{})
	a, b := r.client("node-1", "10.0.0.1", normal), r.client("watcher", "10.0.0.2", only)
	r.round(a)
	server.Kill()
	for _, c := range []*client{a, b} {
		if err := c.trySync(); err == nil {
			t.Errorf("%s got an answer although nothing can be stored", c.name)
		}
	}
	if s := r.elector.Status(); s.State == "ok" || s.Reason == "" {
		t.Errorf("got status %+v, want that the storage fails", s)
	}
	server.Restart(t)
	if got := r.round(a); got != "node-1" {
		t.Errorf("got watcher %q, want node-1 still", got)
	}
}
