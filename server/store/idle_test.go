package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// keptModel is what the last versions of a cluster should be.
type keptModel struct {
	versions []uint64
	contents map[uint64]content
}

// TestInvariantIndexesReadAgain saves, touches, reads and forgets some clusters while next to no index stays in memory: every version
// is as it was saved, and no more indexes are in memory than are in use.
func TestInvariantIndexesReadAgain(t *testing.T) {
	const keep = 3
	onEach(t, func(t *testing.T, m medium) {
		rng := rand.New(rand.NewPCG(testseed.New(t), 0))
		backend := m.open(t)
		defer func() { closeBackend(t, backend) }()
		open := func() *store.Store {
			s := store.New(backend, store.Options{Keep: keep, Indexes: 1, Budget: budget.New(64<<20, nil)})
			if err := s.Plan(t.Context()); err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := open()
		var reads int64 // of the stores before
		_, inMemory := backend.(*store.Memory)
		models := map[string]*keptModel{}
		ids := []string{"a", "b", "c", "d"}
		rounds := testseed.Rounds(t, 150)
		for i := range rounds {
			id := ids[rng.IntN(len(ids))]
			model := models[id]
			switch op := rng.IntN(12); {
			case op == 0:
				reads += s.Indexes().Reads
				s = open()
			case op == 1 && model != nil:
				forget(t, s, id)
				delete(models, id)
			case op < 4 && model != nil:
				touchState(t, s, id, fmt.Sprint("error ", i))
			case op < 8 && model != nil:
				readModel(t, s, id, model)
			default:
				if model == nil {
					model = &keptModel{contents: map[uint64]content{}}
					models[id] = model
				}
				c := content{}
				for k := range rng.IntN(30) {
					c[fmt.Sprintf("*v1.Pod ns-%d %d", k%3, k)] = fmt.Sprint(id, k, rng.IntN(2))
				}
				version := uint64(i + 1)
				save(t, s, id, version, c)
				model.versions = append(model.versions, version)
				model.versions = model.versions[max(0, len(model.versions)-keep):]
				model.contents[version] = c
			}
			if n := s.Indexes(); !inMemory && n.Clusters > 1 {
				waitFor(t, func() bool { n = s.Indexes(); return n.Clusters <= 1 })
			}
		}
		for id, model := range models {
			readModel(t, s, id, model)
		}
		if reads += s.Indexes().Reads; !inMemory && reads < 3 && rounds >= 100 {
			t.Errorf("%d were read again, want that it happens", reads)
		}
	})
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 1000 {
		if done() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it does not happen")
}

// touchState stores a sign of life as a heartbeat does.
func touchState(t *testing.T, s *store.Store, id, errorMsg string) {
	t.Helper()
	tx, err := s.BeginState(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if err := tx.Touch(t.Context(), store.Touch{ErrorMsg: errorMsg}); err != nil {
		t.Fatal(err)
	}
	if st, err := s.State(t.Context(), id); err != nil || st.ErrorMsg != errorMsg {
		t.Errorf("after a sign of life with %q: got %q, %v", errorMsg, st.ErrorMsg, err)
	}
}

// readModel compares all versions that are kept of a cluster with what they should be.
func readModel(t *testing.T, s *store.Store, id string, model *keptModel) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	v, err := s.View(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	var versions []uint64
	for _, snap := range v.Snapshots {
		versions = append(versions, snap.Version)
		c := content{}
		_, entries, err := v.At(snap.Version)
		if err != nil {
			t.Fatal(err)
		}
		payloads, err := s.Payloads(ctx, id, entries)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			c[e.Type+" "+e.Namespace+" "+e.Name] = string(payloads[i])
		}
		if diff := cmp.Diff(model.contents[snap.Version], c); diff != "" {
			t.Errorf("version %d of %s (-want +got):\n%s", snap.Version, id, diff)
		}
		sinceModel(t, v, snap, model)
	}
	if !slices.Equal(versions, model.versions) {
		t.Errorf("cluster %s has the versions %v, want %v", id, versions, model.versions)
	}
}

// sinceModel compares what came and went since a version with what should have.
func sinceModel(t *testing.T, v *store.View, snap store.Snapshot, model *keptModel) {
	t.Helper()
	came, gone, ok := v.Since(snap)
	if !ok {
		t.Fatalf("version %d is kept, and nothing is known since", snap.Version)
	}
	now := map[store.Key]store.Sum{}
	_, entries, err := v.At(snap.Version)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		now[e.Key] = e.Sum
	}
	for _, e := range gone {
		if now[e.Key] != e.Sum {
			t.Errorf("since version %d of %v an object went that it did not have", snap.Version, model.versions)
		}
		delete(now, e.Key)
	}
	for _, e := range came {
		now[e.Key] = e.Sum
	}
	latest := map[store.Key]store.Sum{}
	for _, e := range v.Entries {
		latest[e.Key] = e.Sum
	}
	if diff := cmp.Diff(latest, now); diff != "" {
		t.Errorf("version %d with what came and went since is not the latest one (-want +got):\n%s", snap.Version, diff)
	}
	snap.ReceivedAt = snap.ReceivedAt.Add(time.Second)
	if _, _, ok := v.Since(snap); ok {
		t.Error("something is known since a version that was never there")
	}
}

// TestRoomOfOthers: a cluster gets the room of another whose index nobody uses, and none of one that is being read.
func TestRoomOfOthers(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		backend := m.open(t)
		defer func() { closeBackend(t, backend) }()
		if _, ok := backend.(*store.Memory); ok {
			t.Skip("what is in memory is all that there is")
		}
		b := budget.New(100<<10, nil)
		s := store.New(backend, store.Options{Keep: 1, Budget: b})
		c := content{}
		for k := range 50 {
			c[fmt.Sprintf("*v1.Pod ns %d%s", k, strings.Repeat("x", 800))] = fmt.Sprint(k)
		}
		try := func(id string, version uint64) error {
			tx, err := s.Begin(t.Context(), id)
			if err != nil {
				return err
			}
			defer tx.Close()
			return tx.Save(t.Context(), version, store.Touch{}, incoming(tx, c))
		}
		for version, id := range []string{"a", "b", "c", "a"} {
			if err := try(id, uint64(version+1)); err != nil {
				t.Fatalf("cluster %s: %v", id, err)
			}
			if b.Used() > b.Limit() || len(s.Unloaded()) > 0 {
				t.Errorf("%d of %d bytes are used, %v unloaded", b.Used(), b.Limit(), s.Unloaded())
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		view, err := s.View(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		if err := try("b", 5); !errors.Is(err, budget.ErrFull) {
			t.Errorf("while another cluster is read: got %v, want that there is no room", err)
		}
		if st, err := s.State(t.Context(), "b"); err != nil || st.Latest.Version != 2 {
			t.Errorf("got version %d, %v, want that what is stored stays", st.Latest.Version, err)
		}
		touchState(t, s, "b", "heartbeats need no room")
		if len(view.Entries) != 50 {
			t.Error("the view changed under its reader")
		}
		cancel()
		waitFor(t, func() bool { return try("b", 6) == nil })
		if len(s.Unloaded()) > 0 {
			t.Errorf("%v are unloaded, want none", s.Unloaded())
		}
	})
}

// TestPrunable: what the state alone tells of versions that are too old is what Prune does.
func TestPrunable(t *testing.T) {
	onEach(t, func(t *testing.T, m medium) {
		backend := m.open(t)
		defer func() { closeBackend(t, backend) }()
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		s := store.New(backend, store.Options{Keep: 3, KeepFor: time.Hour, Now: func() time.Time { return now }})
		prune := func(want int) {
			t.Helper()
			st, err := s.State(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			tx, err := s.Begin(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			n, err := tx.Prune(t.Context())
			if err != nil || n != want || s.Prunable(&st) != (want > 0) {
				t.Errorf("at %s: %d versions were dropped, %v; want %d; prunable: %v", now.Format(time.TimeOnly), n, err, want, s.Prunable(&st))
			}
		}
		save(t, s, "a", 1, content{"*v1.Pod ns a": "1"})
		prune(0)
		now = now.Add(10 * time.Minute)
		save(t, s, "a", 2, content{"*v1.Pod ns a": "2"})
		now = now.Add(time.Hour)
		prune(0)
		now = now.Add(time.Second)
		prune(1)
		prune(0)
		save(t, s, "a", 3, content{"*v1.Pod ns a": "3"})
		now = now.Add(2 * time.Hour)
		s = store.New(backend, store.Options{Keep: 1, KeepFor: 24 * time.Hour, Now: func() time.Time { return now }})
		prune(1) // fewer are kept than before
		prune(0)
	})
}
