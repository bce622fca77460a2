package elector_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// lossy is a shared storage of which one connection goes dead: the next question on it is never answered.
type lossy struct {
	*store.Memory

	dead atomic.Bool
}

// Shared implements elector.Documents.
func (*lossy) Shared() bool { return true }

// Document implements elector.Documents.
func (l *lossy) Document(ctx context.Context, kind, key string) (store.Document, error) {
	if l.dead.CompareAndSwap(true, false) {
		<-ctx.Done()
		return store.Document{}, context.Cause(ctx)
	}
	return l.Memory.Document(ctx, kind, key)
}

// TestSweepDoesNotHoldUpSyncs: while the housekeeping of a cluster waits on a dead connection to the database, an agent that
// waits half a minute, as deepflow-agent does, is answered.
func TestSweepDoesNotHoldUpSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		documents := &lossy{Memory: store.NewMemory()}
		e := elector.New(elector.Options{Documents: documents, Logger: slog.New(slog.DiscardHandler)})
		sync := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := e.Sync(ctx, "10.0.0.1:1", &agent.SyncRequest{KubernetesClusterId: new("d-a"), Host: new("h")})
			return err
		}
		if err := sync(); err != nil {
			t.Fatal(err)
		}
		documents.dead.Store(true)
		swept := make(chan struct{})
		go func() {
			defer close(swept)
			e.Sweep(t.Context())
		}()
		synctest.Wait()
		if err := sync(); err != nil {
			t.Errorf("Sync: got %v, want an answer", err)
		}
		<-swept
	})
}
