package elector_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// sharedMemory is a storage that other replicas use too.
type sharedMemory struct{ *store.Memory }

// Shared implements elector.Documents.
func (sharedMemory) Shared() bool { return true }

// TestMoreElectionsThanClusters: a storage that holds more elections than max_clusters allows, because that was lowered or
// replicas filled it together, hinders neither the start nor that silent agents and clusters are forgotten.
func TestMoreElectionsThanClusters(t *testing.T) {
	for name, documents := range map[string]elector.Documents{"one process": store.NewMemory(), "replicas": sharedMemory{store.NewMemory()}} {
		t.Run(name, func(t *testing.T) {
			var now time.Duration
			open := func(most int) *elector.Elector {
				return elector.New(elector.Options{
					Documents: documents, MaxClusters: most, Logger: slog.New(slog.DiscardHandler), Elapsed: func() time.Duration { return now },
				})
			}
			sync := func(e *elector.Elector, cluster string) error {
				_, err := e.Sync(t.Context(), "10.0.0.1:1", &agent.SyncRequest{KubernetesClusterId: new(cluster), Host: new("h")})
				return err
			}
			former := open(10)
			for i := range 5 {
				if err := sync(former, fmt.Sprintf("d-%d", i)); err != nil {
					t.Fatal(err)
				}
			}
			e := open(3)
			if err := e.Load(t.Context()); err != nil {
				t.Fatalf("Load: got %v, want the elections that there is room for", err)
			}
			for range 60 { // those that there is no room for at first follow when others are forgotten
				now += time.Hour
				e.Sweep(t.Context())
			}
			if err := sync(e, "d-new"); err != nil {
				t.Errorf("Sync of a new cluster when all others are silent for days: got %v", err)
			}
		})
	}
}
