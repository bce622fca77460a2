package store_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// restorable is a shared database that can go back to what it was before, as a standby that lags behind or a backup does.
type restorable struct{ store.Backend }

// Shared implements store.Backend.
func (*restorable) Shared() bool { return true }

// copied returns a database with what is stored of a cluster that has one version.
func copied(t *testing.T, b store.Backend, id string) store.Backend {
	t.Helper()
	ctx := context.Background()
	c := &store.Change{}
	var rows []uint64
	st, snapshots, err := b.Load(ctx, id, store.Since{}, func(e *store.Entry) error {
		c.Added = append(c.Added, store.Added{Entry: e})
		rows = append(rows, e.Row)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	payloads, err := b.Payloads(ctx, id, rows)
	if err != nil {
		t.Fatal(err)
	}
	for i := range payloads {
		c.Added[i].Payload = payloads[i]
	}
	c.State, c.Snapshot = st, &snapshots[0]
	to := store.NewMemory()
	if err := to.Commit(ctx, c); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestRestoredDatabase lets the database lose the last version under a running store: what is stored afterwards is whole,
// and what another replica stored in between is seen, even if it has the number and the revision of what was lost.
func TestRestoredDatabase(t *testing.T) {
	first := content{"*v1.Pod ns a": "a1", "*v1.Pod ns b": "b1"}
	lost := content{"*v1.Pod ns a": "a1", "*v1.Pod ns b": "b1", "*v1.Pod ns c": "c1"}
	for name, other := range map[string]content{
		"the same replica": nil,
		"another replica":  {"*v1.Pod ns a": "a1", "*v1.Pod ns x": "x1"},
	} {
		t.Run(name, func(t *testing.T) {
			backend := &restorable{store.NewMemory()}
			s := store.New(backend, store.Options{Keep: 5})
			save(t, s, "c", 1, first)
			before := copied(t, backend, "c")
			save(t, s, "c", 2, lost)
			backend.Backend = before
			if other != nil {
				save(t, store.New(backend, store.Options{Keep: 5}), "c", 3, other)
				if diff := cmp.Diff(other, read(t, s, "c", 0)); diff != "" {
					t.Errorf("what another replica stored (-want +got):\n%s", diff)
				}
			}
			save(t, s, "c", 4, lost)
			for who, reader := range map[string]*store.Store{"the writer": s, "a new replica": store.New(backend, store.Options{Keep: 5})} {
				if diff := cmp.Diff(lost, read(t, reader, "c", 4)); diff != "" {
					t.Errorf("the version stored last, read by %s (-want +got):\n%s", who, diff)
				}
				if diff := cmp.Diff(first, read(t, reader, "c", 1)); diff != "" {
					t.Errorf("the version before, read by %s (-want +got):\n%s", who, diff)
				}
			}
		})
	}
}
