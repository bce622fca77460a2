package elector_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// impatient is a Workloads during whose answer a client may give up.
type impatient struct{ meanwhile func() }

// Pod implements elector.Workloads.
func (i *impatient) Pod(context.Context, string, string, string) (elector.Pod, error) {
	i.meanwhile()
	return elector.Pod{Age: -1}, nil
}

// TestUnheardStop: a stop that the holder cannot have heard, because it gave up meanwhile, counts as none although it
// Syncs again on the same connection.
func TestUnheardStop(t *testing.T) {
	workloads := &impatient{func() {}}
	e := elector.New(elector.Options{
		Documents: store.NewMemory(), Workloads: workloads, Logger: slog.New(slog.DiscardHandler),
		Designations: map[string][]elector.Designation{"d-a": {{Workload: "ns/Deployment/other"}}},
	})
	sync := func(ctx context.Context, host string, policy agent.KubernetesWatchPolicy) bool {
		t.Helper()
		resp, err := e.Sync(ctx, host+":1", &agent.SyncRequest{KubernetesClusterId: new("d-a"), Host: new(host), KubernetesWatchPolicy: policy.Enum()})
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		return resp.GetDynamicConfig().GetKubernetesApiEnabled()
	}
	holder := func(ctx context.Context) bool { return sync(ctx, "holder", agent.KubernetesWatchPolicy_KWP_NORMAL) }
	better := func() bool { return sync(t.Context(), "better", agent.KubernetesWatchPolicy_KWP_WATCH_ONLY) }
	if !holder(t.Context()) || better() {
		t.Fatal("got another watcher than the holder")
	}
	ctx, cancel := context.WithCancel(t.Context())
	workloads.meanwhile = cancel
	holder(ctx)
	workloads.meanwhile = func() {}
	if holder(t.Context()) {
		t.Error("the holder is told to go on although a better one is there")
	}
	if better() {
		t.Error("the better one is told to watch before the holder can have heard of its stop")
	}
	if holder(t.Context()) || !better() {
		t.Error("the better one has no role although the holder has heard of its stop")
	}
}
