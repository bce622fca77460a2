package elector_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestQuotas: one peer can fill neither the clusters nor the agents, bound clusters always have room, and when room is short
// silent clusters are forgotten after the TTL.
func TestQuotas(t *testing.T) {
	var now time.Duration
	b := budget.New(1<<20, []string{"d-bound"})
	e := elector.New(elector.Options{
		Documents: store.NewMemory(), MaxClusters: 8, Budget: b, Bound: b.Bound, Logger: slog.New(slog.DiscardHandler),
		Elapsed: func() time.Duration { return now },
	})
	sync := func(peer, cluster, host string) error {
		_, err := e.Sync(t.Context(), peer+":1", &agent.SyncRequest{KubernetesClusterId: new(cluster), Host: new(host)})
		return err
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	refused := func(err error, why string) {
		t.Helper()
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), why) {
			t.Errorf("got %v, want a refusal with %q", err, why)
		}
	}
	for i := range 6 {
		ok(sync("10.0.0.1", fmt.Sprintf("d-%d", i), "h"))
	}
	refused(sync("10.0.0.2", "d-6", "h"), "from one peer (10.0.0.0/24)")
	ok(sync("10.0.1.1", "d-7", "h"))
	ok(sync("10.0.1.1", "d-8", "h"))
	refused(sync("10.0.2.1", "d-9", "h"), "as many clusters")
	ok(sync("10.0.0.1", "d-bound", "h"))

	agents := 0
	for {
		if err := sync("10.0.0.1", "d-0", fmt.Sprint(agents)); err != nil {
			refused(err, "from one peer")
			break
		}
		agents++
	}
	if agents < 50 || agents > 1<<20/4/2300 {
		t.Errorf("one peer has %d agents, want three quarters of a quarter of the memory", agents)
	}
	ok(sync("10.0.1.1", "d-0", "good"))

	// They are silent; the lease of each ends with the TTL.
	now += 11 * time.Minute
	ok(sync("10.0.1.1", "d-7", "h"))
	now += 11 * time.Minute
	ok(sync("10.0.1.1", "d-7", "h"))
	for range 3 {
		e.Sweep(t.Context())
	}
	ok(sync("10.0.2.1", "d-9", "h"))
	ok(sync("10.0.0.1", "d-a", "h"))
	now += 100 * time.Hour
	e.Sweep(t.Context())
	e.Sweep(t.Context())
	if s := e.Status(); s.Clusters != 0 || s.Agents != 0 || b.Used() != 0 {
		t.Errorf("all are silent for days: got %+v and %d bytes", s, b.Used())
	}
	if err := b.Account("x").Set(1 << 30); !errors.Is(err, budget.ErrFull) {
		t.Error(err)
	}
}
