package viewer_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
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

// replaced is a shared storage in whose place another one can come, whose clusters are as old.
type replaced struct {
	*store.Memory

	now atomic.Pointer[store.Memory]
}

func newReplaced() *replaced {
	r := &replaced{Memory: store.NewMemory()}
	r.now.Store(r.Memory)
	return r
}

const born = "once"

// Shared implements store.Backend.
func (*replaced) Shared() bool { return true }

// Clusters implements store.Backend.
func (r *replaced) Clusters(ctx context.Context) ([]store.State, error) {
	states, err := r.now.Load().Clusters(ctx)
	for i := range states {
		states[i].Born = born
	}
	return states, err
}

// State implements store.Backend.
func (r *replaced) State(ctx context.Context, id string) (store.State, error) {
	st, err := r.now.Load().State(ctx, id)
	st.Born = born
	return st, err
}

// Load implements store.Backend.
func (r *replaced) Load(ctx context.Context, id string, since store.Since, yield func(*store.Entry) error) (store.State, []store.Snapshot, error) {
	st, snapshots, err := r.now.Load().Load(ctx, id, since, yield)
	st.Born = born
	return st, snapshots, err
}

// Payloads implements store.Backend.
func (r *replaced) Payloads(ctx context.Context, id string, rows []uint64) ([][]byte, error) {
	return r.now.Load().Payloads(ctx, id, rows)
}

// TestRestoredDatabase: the inventory follows a database that lost the last version and got another one of its number.
func TestRestoredDatabase(t *testing.T) {
	backend, other := newReplaced(), newReplaced()
	(&rig{store: store.New(other, store.Options{})}).save(t, "d-a", 2, "*version.Info", `{"gitVersion":"v1.36.1"}`)
	r := newRigOn(t, backend)
	r.save(t, "d-a", 1, "*version.Info", `{"gitVersion":"v1.36.0"}`)
	for _, want := range []string{"v1.36.0", "v1.36.1"} {
		var got viewer.Summary
		if r.call(t, http.MethodGet, "/clusters/d-a/inventory", "", http.StatusOK, &got); !strings.Contains(got.Version, want) {
			t.Errorf("got %s of version %d, want %s", got.Version, got.ReportVersion, want)
		}
		backend.now.Store(other.Memory)
	}
}

// TestStreamOfRestoredDatabase: who reads changes is told that they cannot be told, instead of nothing until as many versions
// have come again.
func TestStreamOfRestoredDatabase(t *testing.T) {
	backend, other := newReplaced(), newReplaced()
	(&rig{store: store.New(other, store.Options{})}).save(t, "d-a", 2, "*version.Info", `{"gitVersion":"v1.36.1"}`)
	r := newRigOn(t, backend)
	r.save(t, "d-a", 1, "*version.Info", `{"gitVersion":"v1.36.0"}`)
	r.save(t, "d-a", 3, "*version.Info", `{"gitVersion":"v1.36.2"}`)
	events := r.stream(t, "/clusters/d-a/changes", "")
	var alive viewer.StateEvent
	if events.next(t, "cluster", &alive); alive.Version != 3 {
		t.Errorf("got %+v, want version 3", alive)
	}
	backend.now.Store(other.Memory)
	var reset viewer.ResetEvent
	if events.next(t, "reset", &reset); reset.Version != 2 {
		t.Errorf("got %+v, want a reset to version 2", reset)
	}
}
