package elector_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// slowRemoval is a storage that removes a record only once it is told to.
type slowRemoval struct {
	store.Backend
	proceed chan struct{}
}

func (s *slowRemoval) PutDocument(ctx context.Context, kind string, d store.Document) (uint64, error) {
	if d.Value == nil {
		<-s.proceed
	}
	return s.Backend.PutDocument(ctx, kind, d) //nolint:wrapcheck // it plays the storage
}

// TestForgottenMeanwhile: who Syncs while its cluster is being forgotten is taken in by a cluster that is known afterwards.
func TestForgottenMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now time.Duration
		documents := &slowRemoval{Backend: store.NewMemory(), proceed: make(chan struct{})}
		e := elector.New(elector.Options{Documents: documents, Logger: slog.New(slog.DiscardHandler), Elapsed: func() time.Duration { return now }})
		sync := func() error {
			_, err := e.Sync(t.Context(), "10.0.0.1:1", &agent.SyncRequest{KubernetesClusterId: new("d-one"), Host: new("h")})
			return err //nolint:wrapcheck // the test looks at it
		}
		if err := sync(); err != nil {
			t.Fatal(err)
		}
		now += 1000 * time.Hour
		done := make(chan error)
		go func() {
			e.Sweep(t.Context())
			e.Sweep(t.Context())
			done <- nil
		}()
		synctest.Wait() // until it is being removed
		go func() { done <- sync() }()
		synctest.Wait() // until that waits for it
		close(documents.proceed)
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		e.Sweep(t.Context())
		if s := e.Status(); s.Clusters != 1 || s.Agents != 1 {
			t.Errorf("got %d clusters and %d agents, want the one that Synced last", s.Clusters, s.Agents)
		}
	})
}
