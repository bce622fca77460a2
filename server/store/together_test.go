package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// TestWritesTogether: writes that wait for each other are flushed together; one that is refused, or fails, takes none with it, and
// what was written is what the list has.
func TestWritesTogether(t *testing.T) {
	ctx := context.Background()
	e, err := OpenEmbedded(filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	transactions := func() (n int) {
		t.Helper()
		if err := e.read(func(tx *bolt.Tx) error { n = tx.ID(); return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	commit := func(id string, expected uint64) error {
		return e.Commit(ctx, &Change{Expected: expected, State: State{ID: id, Revision: expected + 1}})
	}
	// waiting starts writes while nobody can write, until all wait, and then lets them go on.
	waiting := func(writes ...func() error) []error {
		t.Helper()
		errs := make([]error, len(writes))
		var all sync.WaitGroup
		e.writing.Lock()
		for i, w := range writes {
			all.Go(func() { errs[i] = w() })
			for n := 0; n <= i; time.Sleep(time.Millisecond) {
				e.queueing.Lock()
				n = len(e.queue)
				e.queueing.Unlock()
			}
		}
		e.writing.Unlock()
		all.Wait()
		return errs
	}
	if _, err := e.Clusters(ctx); err != nil {
		t.Fatal(err)
	}
	failure := errors.New("this write fails")
	for _, c := range []struct {
		what   string
		writes []func() error
		want   []error
		most   int // transactions
	}{
		{"new clusters and a document", []func() error{
			func() error { return commit("d-a", 0) }, func() error { return commit("d-b", 0) }, func() error { return commit("d-c", 0) },
			func() error { _, err := e.PutDocument(ctx, "kind", Document{Key: "k", Value: []byte("v")}); return err },
		}, []error{nil, nil, nil, nil}, 1},
		{"one after the other of one cluster, and one that comes too late", []func() error{
			func() error { return commit("d-a", 1) }, func() error { return commit("d-a", 2) }, func() error { return commit("d-a", 1) }, func() error { return e.Forget(ctx, "d-b", 1) },
		}, []error{nil, nil, ErrConflict, nil}, 1},
		{"all are refused", []func() error{func() error { return commit("d-a", 9) }, func() error { return e.Forget(ctx, "d-none", 1) }}, []error{ErrConflict, ErrConflict}, 0},
		{"one fails", []func() error{
			func() error { return commit("d-a", 3) }, func() error { return e.update(func(*bolt.Tx) error { return failure }) }, func() error { return commit("d-c", 1) },
		}, []error{nil, failure, nil}, 2},
	} {
		before := transactions()
		for i, err := range waiting(c.writes...) {
			if !errors.Is(err, c.want[i]) {
				t.Errorf("%s: write %d: got %v, want %v", c.what, i, err, c.want[i])
			}
		}
		if n := transactions() - before; n > c.most {
			t.Errorf("%s: took %d transactions, want %d at most", c.what, n, c.most)
		}
	}
	states, err := e.Clusters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, st := range states {
		stored, err := e.State(ctx, st.ID)
		if err != nil || stored.Revision != st.Revision {
			t.Errorf("%s: the list has revision %d, the file %d, %v", st.ID, st.Revision, stored.Revision, err)
		}
		got[st.ID] = st.Revision
	}
	if fmt.Sprint(got) != "map[d-a:4 d-c:2]" {
		t.Errorf("got %v, want d-a at 4 and d-c at 2", got)
	}
}

// TestWritesTogetherAreBounded: writes of large payloads are not held in memory all at once.
func TestWritesTogetherAreBounded(t *testing.T) {
	e := &Embedded{}
	for range 5 {
		e.queue = append(e.queue, &write{bytes: stageBytes / 2})
	}
	e.queue = append(e.queue, &write{bytes: 3 * stageBytes})
	for range 2 * maxTogether {
		e.queue = append(e.queue, &write{})
	}
	var sizes []int
	for len(e.queue) > 0 {
		sizes = append(sizes, len(e.next()))
	}
	if want := fmt.Sprint([]int{2, 2, 1, 1, maxTogether, maxTogether}); fmt.Sprint(sizes) != want {
		t.Errorf("got batches of %v, want %s", sizes, want)
	}
}
