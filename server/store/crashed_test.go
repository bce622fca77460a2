package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

// crash returns what a process that is killed now would leave.
func crash(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestInvariantKilledLarge kills the store of a large file again and again with kill -9, also while it starts: what was acknowledged is
// there, and no page is damaged, although nobody read the file to its end before it was written.
func TestInvariantKilledLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("crashes take a while")
	}
	readLaterAlways(t)
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	path := filepath.Join(t.TempDir(), childFile)
	o := told{begun: map[string]uint64{}, acked: map[string]uint64{}}
	rounds := testseed.Rounds(t, 8)
	for round := range rounds {
		for range 1 + rng.IntN(3) {
			first := make(chan struct{})
			once := sync.OnceFunc(func() { close(first) })
			child(t, "write"+childLarge, path, func() <-chan time.Time {
				if round > 0 && rng.IntN(3) == 0 { // in its first steps
					return time.After(time.Duration(rng.IntN(60)) * time.Millisecond)
				}
				<-first
				return time.After(time.Duration(rng.IntN(200)) * time.Millisecond)
			}, func(r io.Reader) {
				o.read(r, filepath.Dir(path), func(string) { once() })
				once()
			})
		}
		if x, err := Examine(path); err != nil || x.Damaged > 0 || len(x.Lost) > 0 {
			t.Fatalf("round %d: %v, %+v", round, err, x)
		}
		verify(t, "killed while it was written", path, o.acked, o.begun)
	}
	t.Logf("%d rounds, %d versions acknowledged, %d compactions", rounds, o.acked["d-0"]+o.acked["d-1"]+o.acked["d-2"], o.compactions)
}

// TestCrashedFreePages: after a crash nothing is written to a page that was not looked at, whatever the list of free pages in the file
// says; the list is there if the process was killed between closing the file and leaving its mark.
func TestCrashedFreePages(t *testing.T) {
	readLaterAlways(t)
	path := closedStore(t)
	whole := crash(t, path)
	m, err := readMeta(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	// A list that names a page in use.
	order.PutUint64(whole[int64(m.freelist)*m.page+pageHeader:], pageOf(t, whole, bucketPayloads))
	if err := errors.Join(os.WriteFile(path, whole, 0o600), os.Remove(path+closedSuffix)); err != nil {
		t.Fatal(err)
	}
	e := mustOpen(t, path)
	for i := range 200 {
		d := Document{Key: fmt.Sprint(i), Value: bytes.Repeat([]byte("x"), 1000)}
		if _, err := e.PutDocument(context.Background(), "x", d); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if x, err := Examine(path); err != nil || x.Damaged > 0 {
		t.Errorf("%v, %+v", err, x)
	}
}

// pageOf returns a page of which something of a bucket is in.
func pageOf(t *testing.T, file []byte, bucket []byte) (page uint64) {
	t.Helper()
	w := pageWalk{file: bytes.NewReader(file), size: int64(len(file)), damaged: func([][]byte, string) {}}
	w.enter = func(b []byte) bool { return !bytes.Equal(b, bucket) }
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	without := w.seen
	w.enter = nil
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	for id := range w.limit {
		if bit := uint64(1) << (id % 64); w.seen[id/64]&bit != 0 && without[id/64]&bit == 0 {
			return id
		}
	}
	t.Fatal("the bucket has no page of its own")
	return 0
}

// TestLost: what was free when a process was killed is known to be lost once the file was read, and comes back by compaction.
func TestLost(t *testing.T) {
	readLaterAlways(t)
	path := filepath.Join(t.TempDir(), "test.db")
	ctx := context.Background()
	e := mustOpen(t, path)
	put := func(size int) {
		t.Helper()
		for i := range 200 {
			d, err := e.Document(ctx, "x", fmt.Sprint(i))
			if err != nil && !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
			d.Key, d.Value = fmt.Sprint(i), bytes.Repeat([]byte("x"), size)
			if _, err := e.PutDocument(ctx, "x", d); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(20_000)
	put(10)
	left := crash(t, path)
	if err := errors.Join(e.Close(), os.Remove(path+closedSuffix), os.WriteFile(path, left, 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is killed at once
		e = mustOpen(t, path)
		e.reader.done.Wait()
		usage, err := e.Usage()
		if err != nil || usage.Free > usage.File/2 || !usage.MostlyFree() {
			t.Errorf("got %+v, %v, want a file of which more than half is lost", usage, err)
		}
		left = crash(t, path)
		if err := errors.Join(e.Close(), os.Remove(path+closedSuffix), os.WriteFile(path, left, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	e = mustOpen(t, path)
	e.reader.done.Wait()
	done, err := e.compact(ctx, atOnce)
	if err != nil || done.After > done.Before/2 {
		t.Errorf("got %v, %v, want less than half", done, err)
	}
	if usage, err := e.Usage(); err != nil || usage.lost != 0 {
		t.Errorf("after it: got %+v, %v, want that nothing is lost", usage, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}
