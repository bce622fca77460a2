package store_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// lossy is a shared database of which one connection goes dead: the next question on it is never answered.
type lossy struct {
	*store.Memory

	dead atomic.Bool
}

// Shared implements store.Backend.
func (*lossy) Shared() bool { return true }

// State implements store.Backend.
func (l *lossy) State(ctx context.Context, id string) (store.State, error) {
	if l.dead.CompareAndSwap(true, false) {
		<-ctx.Done()
		return store.State{}, context.Cause(ctx)
	}
	return l.Memory.State(ctx, id)
}

// TestReaderDoesNotHoldUpReports: while somebody who has all the time in the world reads a cluster over a dead connection, a
// report of that cluster is stored.
func TestReaderDoesNotHoldUpReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := &lossy{Memory: store.NewMemory()}
		s := store.New(backend, store.Options{})
		save(t, s, "c", 1, content{"*v1.Pod ns a": "a1"})
		backend.dead.Store(true)
		read := make(chan error, 1)
		go func() {
			ctx, cancel := store.Patiently(t.Context())
			defer cancel()
			_, err := s.View(ctx, "c")
			read <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		tx, err := s.Begin(ctx, "c")
		if err != nil {
			t.Errorf("Begin: got %v, want the right to store a report", err)
		} else {
			tx.Close()
		}
		if err := <-read; err == nil {
			t.Error("View: got no error, want one, because it was not answered")
		}
	})
}
