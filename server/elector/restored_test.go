package elector_test

import (
	"log/slog"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// restored is a shared storage that loses everything when it is replaced by an older one.
type restored struct{ *sharedMemory }

// TestRestoredDatabase: a database that lost a decision, and to which another replica then wrote one of the same revision,
// is believed: the watcher whose role was lost is told to stop.
func TestRestoredDatabase(t *testing.T) {
	documents := &restored{&sharedMemory{store.NewMemory()}}
	open := func() *elector.Elector {
		return elector.New(elector.Options{Documents: documents, Logger: slog.New(slog.DiscardHandler)})
	}
	watches := func(e *elector.Elector, host string) bool {
		t.Helper()
		resp, err := e.Sync(t.Context(), host+":1", &agent.SyncRequest{KubernetesClusterId: new("d-a"), Host: new(host)})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetDynamicConfig().GetKubernetesApiEnabled()
	}
	one, two := open(), open()
	if !watches(one, "x") {
		t.Fatal("x: got no role, want it, because nobody has it")
	}
	documents.sharedMemory = &sharedMemory{store.NewMemory()}
	if !watches(two, "y") {
		t.Fatal("y: got no role, want it, because the database knows of nobody")
	}
	if watches(one, "x") {
		t.Error("x is told to watch, and y too")
	}
	if !watches(two, "y") {
		t.Error("y has lost its role")
	}
}
