package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// medium is a backend that can be closed and opened again with what it holds.
type medium struct {
	open func(t testing.TB) store.Backend
	// survives says whether the content is there after the process has ended.
	survives bool
}

// onEach runs a test on every backend, each time with an empty one.
func onEach(t *testing.T, test func(t *testing.T, m medium)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		m := store.NewMemory()
		test(t, medium{open: func(testing.TB) store.Backend { return m }})
	})
	t.Run("embedded", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "test.db")
		test(t, medium{survives: true, open: func(t testing.TB) store.Backend {
			t.Helper()
			b, err := store.OpenEmbedded(path)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}})
	})
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.Start(t, "fsync = off")
		test(t, medium{survives: true, open: func(t testing.TB) store.Backend {
			t.Helper()
			b, err := store.OpenPostgres(context.Background(), server.DSN(), 4)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}})
	})
}

func closeBackend(t testing.TB, b store.Backend) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// content is what a cluster should hold: payload by type, namespace and name.
type content map[string]string

// incoming turns content into a report, taking known entries from tx.
func incoming(tx *store.Tx, c content) []store.Incoming {
	var out []store.Incoming
	for id, payload := range c {
		part := strings.SplitN(id, " ", 3)
		sum := store.SumOf(part[0], []byte(payload))
		if known := tx.Known(sum); known != nil {
			out = append(out, store.Incoming{Known: known})
			continue
		}
		out = append(out, store.Incoming{Payload: []byte(payload), Entry: &store.Entry{
			Key: store.KeyOf(part[0], []byte(part[1]+"/"+part[2])), Sum: sum, Type: part[0], Namespace: part[1], Name: part[2],
			Size: uint32(len(payload)), RawSize: uint32(2 * len(payload)),
		}})
	}
	return out
}

func save(t testing.TB, s *store.Store, id string, version uint64, c content) {
	t.Helper()
	ctx := context.Background()
	tx, err := s.Begin(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if err := tx.Save(ctx, version, store.Touch{Reporter: store.Reporter{AgentID: 1}}, incoming(tx, c)); err != nil {
		t.Fatalf("save version %d: %v", version, err)
	}
}

// read returns the content of a version as the store has it.
func read(t testing.TB, s *store.Store, id string, version uint64) content {
	t.Helper()
	ctx := context.Background()
	v, err := s.View(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	snap, entries, err := v.At(version)
	if err != nil {
		t.Fatal(err)
	}
	if snap.Objects != len(entries) {
		t.Errorf("version %d: got %d entries, want %d as its description says", version, len(entries), snap.Objects)
	}
	payloads, err := s.Payloads(ctx, id, entries)
	if err != nil {
		t.Fatal(err)
	}
	c := content{}
	for i, e := range entries {
		c[e.Type+" "+e.Namespace+" "+e.Name] = string(payloads[i])
	}
	return c
}

func versions(t testing.TB, s *store.Store, id string) []uint64 {
	t.Helper()
	v, err := s.View(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	var out []uint64
	for _, sn := range v.Snapshots {
		out = append(out, sn.Version)
	}
	return out
}

// TestHistory saves random snapshots, reopens the backend in between, and compares every kept version with a model.
func TestHistory(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		rng := rand.New(rand.NewPCG(testseed.New(t), 0))
		const keep = 4
		backend := m.open(t)
		s := store.New(backend, store.Options{Keep: keep})
		model := map[uint64]content{}
		var order []uint64
		now := content{}
		for version := uint64(1); version <= 40; version++ {
			next := content{}
			for id, payload := range now {
				switch rng.IntN(10) {
				case 0: // goes
				case 1:
					next[id] = fmt.Sprint("changed ", version, id)
				default:
					next[id] = payload
				}
			}
			for range rng.IntN(20) {
				id := fmt.Sprintf("*v1.Pod ns%d pod%d", rng.IntN(3), rng.IntN(100))
				if next[id] == "" {
					next[id] = fmt.Sprint("new ", version, id)
				}
			}
			now = next
			save(t, s, "c", version, now)
			model[version] = now
			order = append(order, version)
			if m.survives && rng.IntN(4) == 0 {
				closeBackend(t, backend)
				backend = m.open(t)
				s = store.New(backend, store.Options{Keep: keep})
			}
			want := order[max(0, len(order)-keep):]
			if got := versions(t, s, "c"); !slices.Equal(got, want) {
				t.Fatalf("after version %d: got versions %v, want %v", version, got, want)
			}
			for _, v := range want {
				if diff := cmp.Diff(model[v], read(t, s, "c", v)); diff != "" {
					t.Fatalf("after version %d: version %d differs (-want +got):\n%s", version, v, diff)
				}
			}
		}
		v, err := s.View(context.Background(), "c")
		if err != nil {
			t.Fatal(err)
		}
		union := map[string]bool{}
		for _, version := range order[len(order)-keep:] {
			for id, payload := range model[version] {
				union[id+payload] = true
			}
		}
		if got := v.State.Retained.Objects; got < len(union) {
			t.Errorf("got %d entries retained, want at least the %d that the kept versions have", got, len(union))
		}
		if !slices.IsSortedFunc(v.Entries, func(a, b *store.Entry) int {
			return strings.Compare(a.Type+"\x00"+a.Namespace+"\x00"+a.Name, b.Type+"\x00"+b.Namespace+"\x00"+b.Name)
		}) {
			t.Error("entries are not ordered")
		}
		closeBackend(t, backend)
	})
}

// TestOnlyDifferencesAreWritten looks at what a commit consists of.
func TestOnlyDifferencesAreWritten(t *testing.T) {
	spy := &spyBackend{Backend: store.NewMemory()}
	s := store.New(spy, store.Options{Keep: 2})
	save(t, s, "c", 1, content{"*v1.Pod ns a": "a1", "*v1.Pod ns b": "b1", "*v1.Pod ns c": "c1"})
	save(t, s, "c", 2, content{"*v1.Pod ns a": "a1", "*v1.Pod ns b": "b2", "*v1.Pod ns d": "d1"})
	c := spy.last
	if len(c.Added) != 2 || len(c.Ended) != 2 || len(c.DroppedRows) != 0 {
		t.Errorf("got %d added, %d ended, %d dropped, want 2, 2 and 0", len(c.Added), len(c.Ended), len(c.DroppedRows))
	}
	if got := [3]int{c.Snapshot.Added, c.Snapshot.Changed, c.Snapshot.Removed}; got != [3]int{1, 1, 1} {
		t.Errorf("got %v added, changed, removed, want 1 each", got)
	}
	save(t, s, "c", 3, content{"*v1.Pod ns a": "a1"})
	if c = spy.last; len(c.Added) != 0 || len(c.DroppedRows) != 2 || len(c.DroppedSeqs) != 1 {
		t.Errorf("got %d added, %d rows and %d versions dropped, want 0, 2 and 1", len(c.Added), len(c.DroppedRows), len(c.DroppedSeqs))
	}
}

type spyBackend struct {
	store.Backend
	last *store.Change
}

func (s *spyBackend) Commit(ctx context.Context, c *store.Change) error {
	s.last = c
	return s.Backend.Commit(ctx, c)
}

// TestTouch stores signs of life and errors.
func TestTouch(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		ctx := context.Background()
		backend := m.open(t)
		now := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		opts := store.Options{Keep: 2, Now: func() time.Time { return now }}
		s := store.New(backend, opts)
		if _, err := s.View(ctx, "c"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("unknown cluster: got %v, want ErrNotFound", err)
		}
		save(t, s, "c", 1, content{"*v1.Pod ns a": "a1"})
		touch := func(msg string) store.State {
			t.Helper()
			now = now.Add(time.Minute)
			tx, err := s.Begin(ctx, "c")
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			if err := tx.Touch(ctx, store.Touch{ErrorMsg: msg, Reporter: store.Reporter{AgentID: 7, SourceIP: "10.0.0.1"}}); err != nil {
				t.Fatal(err)
			}
			return tx.View().State
		}
		touch("bad")
		since := now
		touch("worse")
		if m.survives {
			closeBackend(t, backend)
			backend = m.open(t)
			s = store.New(backend, opts)
		}
		v, err := s.View(ctx, "c")
		if err != nil {
			t.Fatal(err)
		}
		st := v.State
		if st.ErrorMsg != "worse" || !st.ErrorSince.Equal(since) || !st.LastReport.Equal(now) || st.Reporter.AgentID != 7 || st.Latest.Version != 1 {
			t.Errorf("got %+v", st)
		}
		if st = touch(""); st.ErrorMsg != "" || !st.ErrorSince.IsZero() {
			t.Errorf("got %+v, want no error", st)
		}
		closeBackend(t, backend)
	})
}

// TestConflict has two stores write to one cluster, as two replicas do.
func TestConflict(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		ctx := context.Background()
		backend := m.open(t)
		defer closeBackend(t, backend)
		a := store.New(backend, store.Options{Keep: 3})
		b := store.New(backend, store.Options{Keep: 3})
		save(t, a, "c", 1, content{"*v1.Pod ns a": "a1", "*v1.Pod ns b": "b1"})
		ta, err := a.Begin(ctx, "c")
		if err != nil {
			t.Fatal(err)
		}
		tb, err := b.Begin(ctx, "c")
		if err != nil {
			t.Fatal(err)
		}
		if err := tb.Save(ctx, 2, store.Touch{}, incoming(tb, content{"*v1.Pod ns b": "b2"})); err != nil {
			t.Fatal(err)
		}
		if err := ta.Save(ctx, 3, store.Touch{}, incoming(ta, content{"*v1.Pod ns a": "a1"})); !errors.Is(err, store.ErrConflict) {
			t.Errorf("second writer: got %v, want ErrConflict", err)
		}
		if err := ta.Touch(ctx, store.Touch{}); !errors.Is(err, store.ErrConflict) {
			t.Errorf("late touch: got %v, want ErrConflict", err)
		}
		if err := ta.Forget(ctx); !errors.Is(err, store.ErrConflict) {
			t.Errorf("late forget: got %v, want ErrConflict", err)
		}
		ta.Close()
		tb.Close()
		for _, s := range []*store.Store{a, b} {
			if diff := cmp.Diff(content{"*v1.Pod ns b": "b2"}, read(t, s, "c", 0)); diff != "" {
				t.Errorf("after the conflict (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(content{"*v1.Pod ns a": "a1", "*v1.Pod ns b": "b1"}, read(t, s, "c", 1)); diff != "" {
				t.Errorf("version 1 after the conflict (-want +got):\n%s", diff)
			}
		}
	})
}

// TestReplicas alternates between two stores of one shared backend; each must see what the other wrote, also after
// the cluster was forgotten and came again.
func TestReplicas(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		ctx := context.Background()
		backend := m.open(t)
		defer closeBackend(t, backend)
		if !backend.Shared() {
			t.Skip("not for several processes")
		}
		rng := rand.New(rand.NewPCG(testseed.New(t), 0))
		replicas := []*store.Store{store.New(backend, store.Options{Keep: 2}), store.New(backend, store.Options{Keep: 2})}
		for version := uint64(1); version < 60; version++ {
			c := content{}
			for range 1 + rng.IntN(10) {
				n := rng.IntN(10)
				c[fmt.Sprintf("*v1.Pod ns pod%d", n)] = fmt.Sprint("payload ", n, rng.IntN(3))
			}
			writer := replicas[rng.IntN(2)]
			if rng.IntN(10) == 0 && version > 1 {
				tx, err := writer.Begin(ctx, "c")
				if err != nil {
					t.Fatal(err)
				}
				if err := tx.Forget(ctx); err != nil {
					t.Fatal(err)
				}
				tx.Close()
			}
			save(t, writer, "c", version, c)
			if rng.IntN(2) == 0 {
				continue // the other one has more to catch up with
			}
			for i, s := range replicas {
				if diff := cmp.Diff(c, read(t, s, "c", 0)); diff != "" {
					t.Fatalf("version %d at replica %d (-want +got):\n%s", version, i, diff)
				}
			}
		}
	})
}

// TestForgetting drops versions by age and whole clusters.
func TestForgetting(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		ctx := context.Background()
		backend := m.open(t)
		defer closeBackend(t, backend)
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		s := store.New(backend, store.Options{Keep: 10, KeepFor: time.Hour, Now: func() time.Time { return now }})
		for version := uint64(1); version <= 4; version++ {
			save(t, s, "c", version, content{"*v1.Pod ns a": fmt.Sprint("a", version), "*v1.Pod ns b": "b"})
			now = now.Add(20 * time.Minute)
		}
		// Version 2 was superseded 40 minutes ago, version 1 an hour ago: not longer than that.
		if got := versions(t, s, "c"); !slices.Equal(got, []uint64{1, 2, 3, 4}) {
			t.Errorf("got versions %v, want all", got)
		}
		now = now.Add(10 * time.Minute)
		prune := func() int {
			t.Helper()
			tx, err := s.Begin(ctx, "c")
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			n, err := tx.Prune(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := prune(); n != 1 {
			t.Errorf("got %d versions pruned, want 1", n)
		}
		now = now.Add(24 * time.Hour)
		if n := prune(); n != 2 {
			t.Errorf("got %d versions pruned, want 2", n)
		}
		if diff := cmp.Diff(content{"*v1.Pod ns a": "a4", "*v1.Pod ns b": "b"}, read(t, s, "c", 0)); diff != "" {
			t.Errorf("the latest version must stay (-want +got):\n%s", diff)
		}
		v, err := s.View(ctx, "c")
		if err != nil {
			t.Fatal(err)
		}
		if got := v.State.Retained.Objects; got != 2 {
			t.Errorf("got %d entries retained, want 2", got)
		}
		tx, err := s.Begin(ctx, "c")
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Forget(ctx); err != nil {
			t.Fatal(err)
		}
		tx.Close()
		if _, err := s.View(ctx, "c"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("forgotten cluster: got %v, want ErrNotFound", err)
		}
		if states, err := s.Clusters(ctx); err != nil || len(states) != 0 {
			t.Errorf("got %v, %v, want no cluster", states, err)
		}
	})
}

// TestDocuments covers the small values that other parts keep.
func TestDocuments(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		ctx := context.Background()
		b := m.open(t)
		defer closeBackend(t, b)
		if _, err := b.Document(ctx, "kind", "a"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
		put := func(key, value string, revision uint64) (uint64, error) {
			d := store.Document{Key: key, Revision: revision}
			if value != "" {
				d.Value = []byte(value)
			}
			return b.PutDocument(ctx, "kind", d)
		}
		for _, step := range []struct {
			key, value string
			revision   uint64
			want       uint64
			err        error
		}{
			{"b", "1", 0, 1, nil},
			{"b", "1", 0, 0, store.ErrConflict},
			{"a", "1", 3, 0, store.ErrConflict},
			{"b", "2", 1, 2, nil},
			{"b", "3", 1, 0, store.ErrConflict},
			{"a", "1", 0, 1, nil},
			{"a", "", 2, 0, store.ErrConflict},
			{"a", "", 1, 0, nil},
			{"a", "", 0, 0, nil},
			{"b", "", 0, 0, store.ErrConflict},
			{"A", "x", 0, 1, nil},
		} {
			got, err := put(step.key, step.value, step.revision)
			if got != step.want || !errors.Is(err, step.err) {
				t.Errorf("put %q=%q upon %d: got %d, %v, want %d, %v", step.key, step.value, step.revision, got, err, step.want, step.err)
			}
		}
		docs, err := b.Documents(ctx, "kind")
		want := []store.Document{{Key: "A", Value: []byte("x"), Revision: 1}, {Key: "b", Value: []byte("2"), Revision: 2}}
		if diff := cmp.Diff(want, docs); err != nil || diff != "" {
			t.Errorf("documents: %v (-want +got):\n%s", err, diff)
		}
		if docs, err := b.Documents(ctx, "other"); err != nil || len(docs) != 0 {
			t.Errorf("got %v, %v, want none", docs, err)
		}
	})
}
