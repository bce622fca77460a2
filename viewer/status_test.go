package viewer_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/store"
	"github.com/pseudo-agent/pseudo-agent/viewer"
)

// silent is a storage that, while hangs is set, does not answer with payloads.
type silent struct {
	*store.Memory

	hangs atomic.Bool
	asked chan struct{}
}

// Payloads implements store.Backend.
func (s *silent) Payloads(ctx context.Context, id string, rows []uint64) ([][]byte, error) {
	if s.hangs.Load() {
		select {
		case s.asked <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return s.Memory.Payloads(ctx, id, rows)
}

// TestStatusDoesNotWait: while an inventory waits for the storage in the middle of a change, its status tells of the version
// before.
func TestStatusDoesNotWait(t *testing.T) {
	backend := &silent{Memory: store.NewMemory(), asked: make(chan struct{}, 1)}
	r := newRigOn(t, backend)
	r.save(t, "d-a", 1, "*version.Info", `{"gitVersion":"v1.36.0"}`)
	for r.view.Status().Clusters == 0 {
		time.Sleep(time.Millisecond)
	}
	backend.hangs.Store(true)
	r.save(t, "d-a", 2, "*version.Info", `{"gitVersion":"v1.36.1"}`)
	<-backend.asked
	told := make(chan viewer.Status, 1)
	go func() { told <- r.view.Status() }()
	select {
	case s := <-told:
		if s.Clusters != 1 {
			t.Errorf("got %+v, want the cluster as it was", s)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the status waits for the storage")
	}
}
