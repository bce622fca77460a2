package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

// dump returns all that is in a file, by bucket, bucket in that, and key.
func dump(t testing.TB, db *database) map[touched]string {
	t.Helper()
	all := map[touched]string{}
	err := db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(top []byte, b *bolt.Bucket) error {
			all[touched{top: string(top)}] = "bucket"
			return b.ForEach(func(k, v []byte) error {
				if v != nil {
					all[touched{string(top), "", string(k)}] = string(v)
					return nil
				}
				return b.Bucket(k).ForEach(func(key, v []byte) error {
					all[touched{string(top), string(k), string(key)}] = string(v)
					return nil
				})
			})
		})
	})
	if err != nil {
		t.Error(err)
	}
	return all
}

// change writes something at random: a version, a sign of life, a document, or that a cluster is forgotten.
func change(t testing.TB, s *Store, rng *rand.Rand, id string, version uint64) {
	t.Helper()
	ctx := context.Background()
	kind := rng.IntN(20)
	if kind < 3 {
		d, err := s.Backend().Document(ctx, "kind", id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		d.Key, d.Value = id, fmt.Append(nil, rng.Uint64())
		if rng.IntN(4) == 0 && d.Revision > 0 {
			d.Value = nil
		}
		if _, err := s.Backend().PutDocument(ctx, "kind", d); err != nil {
			t.Error(err)
		}
		return
	}
	tx, err := s.Begin(ctx, id)
	if err != nil {
		t.Error(err)
		return
	}
	defer tx.Close()
	switch {
	case kind == 3:
		err = tx.Forget(ctx)
		if errors.Is(err, ErrConflict) && tx.View().State.Revision == 0 {
			err = nil // it is not there
		}
	case kind < 8:
		err = tx.Touch(ctx, Touch{})
	default:
		err = tx.Save(ctx, version, Touch{}, objects(tx, rng, 40))
	}
	if err != nil {
		t.Error(err)
	}
}

// objects returns a report of which a part is as it was.
func objects(tx *Tx, rng *rand.Rand, n int) []Incoming {
	var in []Incoming
	for i := range n {
		payload := fmt.Appendf(nil, "%d of %d", rng.IntN(3), i)
		payload = append(payload, make([]byte, rng.IntN(30)*rng.IntN(200))...)
		sum := SumOf("*v1.Pod", payload)
		if known := tx.Known(sum); known != nil {
			in = append(in, Incoming{Known: known})
			continue
		}
		in = append(in, Incoming{Payload: payload, Entry: &Entry{
			Key: KeyOf("*v1.Pod", fmt.Append(nil, i)), Sum: sum, Type: "*v1.Pod", Namespace: "ns", Name: fmt.Sprint("pod-", i), Size: uint32(len(payload)),
		}})
	}
	return in
}

// whileWritten calls f while several clusters are written, and until it returns.
func whileWritten(t *testing.T, e *Embedded, rng *rand.Rand, f func()) {
	t.Helper()
	s := New(e, Options{Keep: 2})
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for n := range 4 {
		mine := rand.New(rand.NewPCG(rng.Uint64(), 0))
		writers.Go(func() {
			for version := uint64(1); ; version++ {
				select {
				case <-stop:
					return
				default:
					change(t, s, mine, fmt.Sprintf("d-%d-%d", n, mine.IntN(3)), version)
				}
			}
		})
	}
	f()
	close(stop)
	writers.Wait()
}

// TestInvariantCopy: when a copy is done, while nobody can write, it has exactly what the file has.
func TestInvariantCopy(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	path := filepath.Join(t.TempDir(), "test.db")
	e := mustOpen(t, path)
	writes := 0
	whileWritten(t, e, rng, func() {
		for range testseed.Rounds(t, 30) {
			pace := rng.Float64() * 3
			err := e.liveCopy(context.Background(), path+".copy", pace, func(to *database) error {
				want := dump(t, e.db.Load())
				if diff := cmp.Diff(want, dump(t, to)); diff != "" {
					return fmt.Errorf("the copy (-want +got):\n%.2000s", diff)
				}
				writes = max(writes, len(want))
				return to.Close()
			})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if x, err := Examine(path + ".copy"); err != nil || x.Damaged > 0 {
		t.Errorf("the copy: %+v, %v", x, err)
	}
	t.Logf("up to %d keys", writes)
}

// TestCompact: a file that is mostly free becomes smaller while it is written and read; all that was stored is there, and
// nothing is left beside it.
func TestCompact(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	dir := t.TempDir()
	path := filepath.Join(dir, "test.db")
	e := mustOpen(t, path)
	ctx := context.Background()
	s := New(e, Options{Keep: 1})
	for version := range uint64(3) {
		tx, err := s.Begin(ctx, "large")
		if err != nil {
			t.Fatal(err)
		}
		payload := bytes.Repeat([]byte{byte(version)}, 20<<20)
		in := []Incoming{{Payload: payload, Entry: &Entry{Sum: SumOf("x", payload), Type: "x", Size: uint32(len(payload))}}}
		if err := tx.Save(ctx, version+1, Touch{}, in); err != nil {
			t.Fatal(err)
		}
		if version == 2 {
			err = tx.Forget(ctx)
		}
		tx.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	if u, err := e.Usage(); err != nil || !u.MostlyFree() {
		t.Fatalf("got %+v, %v, want a file that is mostly free", u, err)
	}
	var done Compaction
	whileWritten(t, e, rng, func() {
		for range 5 {
			d, err := e.Compact(ctx)
			if err != nil {
				t.Error(err)
			}
			if done.Before == 0 {
				done = d
			}
		}
	})
	if done.Before < 40<<20 || done.After > done.Before/2 {
		t.Errorf("got %s, want less than half", done)
	}
	want := dump(t, e.db.Load())
	if err := e.Check(ctx); err != nil {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = mustOpen(t, path)
	if diff := cmp.Diff(want, dump(t, e.db.Load())); diff != "" {
		t.Errorf("opened again (-want +got):\n%.2000s", diff)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if x, err := Examine(path); err != nil || x.Damaged > 0 {
		t.Errorf("got %+v, %v", x, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("got %v, %v, want the file alone", left, err)
	}
}

// TestCompactEmpty: a store that has nothing yet can be compacted, and takes everything afterwards.
func TestCompactEmpty(t *testing.T) {
	e := mustOpen(t, filepath.Join(t.TempDir(), "test.db"))
	ctx := context.Background()
	if _, err := e.Compact(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Documents(ctx, "kind"); err != nil {
		t.Error(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	s := New(e, Options{})
	for version := range uint64(60) {
		change(t, s, rng, "d-1", version+1)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestOneCopyAtATime: a second copy is refused, one without room is not begun, and one that is given up leaves nothing.
func TestOneCopyAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	e := mustOpen(t, path)
	t.Cleanup(func() { _ = e.Close() })
	ctx := context.Background()
	err := e.copyOnce(ctx, path+compactSuffix, Usage{}, 0, func(*database) error {
		if _, err := e.Compact(ctx); !errors.Is(err, ErrBusy) {
			t.Errorf("a second copy: got %v, want ErrBusy", err)
		}
		return errors.New("given up")
	})
	if err == nil || errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
	if err := e.copyOnce(ctx, path+compactSuffix, Usage{File: 1 << 60}, 0, nil); !errors.Is(err, ErrNoRoom) {
		t.Errorf("a file larger than the disk: got %v, want ErrNoRoom", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := e.Compact(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: got %v", err)
	}
	if _, err := os.Stat(path + compactSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is left of it: %v", err)
	}
	// The file is removed while it is copied: what would be written to the new one could not be told from a file that somebody
	// put there.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Compact(ctx); err == nil {
		t.Error("a removed file was compacted")
	}
}

// TestReplacedWhileOpened: whoever waits for the lock of a file gets the one that lies at its path then.
func TestReplacedWhileOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	e := mustOpen(t, path)
	opened := make(chan *Embedded, 1)
	go func() {
		second, err := OpenEmbedded(path)
		if err != nil {
			t.Error(err)
		}
		opened <- second
	}()
	unlocked := make(chan error, 1)
	go func() {
		unlock, err := lockFile(path)
		if err == nil {
			err = unlock()
		}
		unlocked <- err
	}()
	// Both have the former file open, or open the new one; either way they must end with the new one.
	for n := 0; n < 3; n = openTimes(t, path) {
		runtime.Gosched()
	}
	if _, err := e.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if second := <-opened; second != nil {
		now, err := os.Stat(path)
		if err != nil || !os.SameFile(now, second.db.Load().file) {
			t.Errorf("got another file than the one at the path, %v", err)
		}
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-unlocked; err != nil {
		t.Error(err)
	}
}

// openTimes is how many descriptors of this process are of a file.
func openTimes(t *testing.T, path string) int {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(links) == 0 {
		t.Skip("there is no /proc")
	}
	n := 0
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == path {
			n++
		}
	}
	return n
}
