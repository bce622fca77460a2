package store_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestLabels: labels of a cluster survive reports, heartbeats and a restart on every backend, and go with the cluster.
func TestLabels(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		ctx := context.Background()
		backend := m.open(t)
		s := store.New(backend, store.Options{Keep: 2})
		labelsOf := func() map[string]string {
			t.Helper()
			states, err := s.Clusters(ctx)
			if err != nil || len(states) != 1 {
				t.Fatalf("got %d clusters, %v", len(states), err)
			}
			view, err := s.View(ctx, "d-a")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(view.State.Labels, states[0].Labels); diff != "" {
				t.Errorf("the list has other labels than the cluster (-cluster +list):\n%s", diff)
			}
			return states[0].Labels
		}
		change := func(do func(tx *store.Tx) error) {
			t.Helper()
			tx, err := s.Begin(ctx, "d-a")
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			if err := do(tx); err != nil {
				t.Fatal(err)
			}
		}
		save(t, s, "d-a", 1, content{"*v1.Pod ns a": "a"})
		if got := labelsOf(); len(got) != 0 {
			t.Errorf("got labels %v of a new cluster", got)
		}
		want := map[string]string{"region": "eu", "team": "平台"}
		change(func(tx *store.Tx) error { return tx.Label(ctx, want) })
		save(t, s, "d-a", 2, content{"*v1.Pod ns a": "b"})
		change(func(tx *store.Tx) error { return tx.Touch(ctx, store.Touch{}) })
		if diff := cmp.Diff(want, labelsOf()); diff != "" {
			t.Errorf("after a report and a heartbeat (-want +got):\n%s", diff)
		}
		if m.survives {
			closeBackend(t, backend)
			backend = m.open(t)
			s = store.New(backend, store.Options{Keep: 2})
			if diff := cmp.Diff(want, labelsOf()); diff != "" {
				t.Errorf("after a restart (-want +got):\n%s", diff)
			}
		}
		change(func(tx *store.Tx) error { return tx.Forget(ctx) })
		save(t, s, "d-a", 3, content{"*v1.Pod ns a": "a"})
		if got := labelsOf(); len(got) != 0 {
			t.Errorf("got labels %v of a cluster that was forgotten and came again", got)
		}
		closeBackend(t, backend)
	})
}
