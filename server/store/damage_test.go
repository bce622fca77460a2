package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

// realStore writes a store with several clusters, versions and documents, and returns its bytes.
func realStore(t testing.TB, clusters, objects int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "real.db")
	backend, err := OpenEmbedded(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	s := New(backend, Options{})
	rng := rand.New(rand.NewPCG(1, 2))
	for c := range clusters {
		for version := range 2 {
			tx, err := s.Begin(ctx, fmt.Sprintf("d-%d", c))
			if err != nil {
				t.Fatal(err)
			}
			var in []Incoming
			for i := range objects {
				payload := make([]byte, 100+rng.IntN(300))
				for j := range payload {
					payload[j] = byte(rng.Uint32())
				}
				in = append(in, Incoming{Payload: payload, Entry: &Entry{
					Key: KeyOf("*v1.Pod", fmt.Append(nil, i)), Sum: SumOf("*v1.Pod", payload), Type: "*v1.Pod",
					Namespace: "ns", Name: fmt.Sprint("pod-", i), Size: uint32(len(payload)), RawSize: 1000,
				}})
			}
			if err := tx.Save(ctx, uint64(version+1), Touch{}, in); err != nil {
				t.Fatal(err)
			}
			tx.Close()
		}
	}
	for i := range 3 {
		if _, err := backend.PutDocument(ctx, "designation", Document{Key: fmt.Sprint(i), Value: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := backend.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readAll uses a store as a server does, after a start.
func readAll(path string) error {
	b, err := OpenEmbedded(path)
	if err != nil {
		return err
	}
	ctx := context.Background()
	states, err := b.Clusters(ctx)
	var errs []error
	for _, st := range states {
		var rows []uint64
		_, _, e := b.Load(ctx, st.ID, Since{}, func(e *Entry) error {
			rows = append(rows, e.Row)
			return nil
		})
		_, p := b.Payloads(ctx, st.ID, rows)
		errs = append(errs, e, p, b.Forget(ctx, st.ID, st.Revision))
	}
	_, docs := b.Documents(ctx, "designation")
	return errors.Join(append(errs, err, docs, b.Close())...)
}

// TestDamage: each damage is an error that names the file, what is damaged and the way out; what is whole is saved.
func TestDamage(t *testing.T) {
	whole := realStore(t, 3, 60)
	for _, tt := range []struct {
		name   string
		damage func(b []byte) []byte
		want   []string
		// saved tells whether anything can be.
		saved bool
	}{
		{"zero bytes", func([]byte) []byte { return nil }, []string{"zero bytes", "restore", "remove it"}, false},
		{"half", func(b []byte) []byte { return b[:len(b)/2] }, []string{"its end is missing", "store check"}, true},
		{"no database", func([]byte) []byte { return []byte(strings.Repeat("text\n", 10000)) }, []string{"no database"}, false},
		{"both meta pages", func(b []byte) []byte { clear(b[:2*4096]); return b }, []string{"both pages"}, false},
		{"zeroes", func(b []byte) []byte { clear(b[2*4096 : len(b)*3/4]); return b }, []string{"page ", "store repair"}, true},
	} {
		path := filepath.Join(t.TempDir(), "damaged.db")
		if err := os.WriteFile(path, tt.damage(append([]byte{}, whole...)), 0o600); err != nil {
			t.Fatal(err)
		}
		err := readAll(path)
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, want an error of damage", tt.name, err)
			continue
		}
		for _, part := range append(tt.want, path) {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got %v, want %q in it", tt.name, err, part)
			}
		}
		_, kept, err := Repair(path, time.Unix(0, 0))
		if (err == nil) != tt.saved {
			t.Errorf("%s: repair: %v", tt.name, err)
		}
		if err != nil {
			continue
		}
		if err := readAll(path); err != nil {
			t.Errorf("%s: after repair: %v", tt.name, err)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("%s: the damaged file: %v", tt.name, err)
		}
	}
}

// TestExamineAndRestore: a store that is whole is found to be, a flipped byte of one object costs its cluster alone, and a
// copy takes its place.
func TestExamineAndRestore(t *testing.T) {
	whole := realStore(t, 3, 60)
	dir := t.TempDir()
	backup, path := filepath.Join(dir, "copy.db"), filepath.Join(dir, "store.db")
	put := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(backup, whole)
	x, err := Examine(backup)
	if err != nil || x.Damaged != 0 || x.Documents != 3 {
		t.Fatalf("got %+v, %v", x, err)
	}
	if diff := cmp.Diff([]string{"d-0", "d-1", "d-2"}, x.Whole); diff != "" {
		t.Errorf("whole clusters (-want +got):\n%s", diff)
	}
	payload := payloadOf(t, backup, "d-1", 67)
	at := strings.Index(string(whole), string(payload))
	flipped := append([]byte{}, whole...)
	flipped[at] ^= 0xff
	put(path, flipped)
	if x, err = Examine(path); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"d-0", "d-2"}, x.Whole); diff != "" || !strings.Contains(x.Lost["d-1"], "*v1.Pod ns/pod-") {
		t.Errorf("whole clusters (-want +got):\n%s\nlost: %v", diff, x.Lost)
	}
	if _, err := Restore(backup, path, time.Unix(0, 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a damaged copy was restored: %v", err)
	}
	open := mustOpen(t, path)
	if _, _, err := Repair(path, time.Unix(0, 0)); !errors.Is(err, errRunning) {
		t.Errorf("repair of an open store: %v", err)
	}
	if _, err := Restore(path, backup, time.Unix(0, 0)); !errors.Is(err, errRunning) || !strings.Contains(err.Error(), "stop it") {
		t.Errorf("restore of an open store: %v", err)
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	kept, err := Restore(path, backup, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(kept); err != nil || len(b) != len(flipped) {
		t.Errorf("the former file: %d bytes, %v", len(b), err)
	}
	if x, err := Examine(path); err != nil || x.Damaged != 0 || len(x.Whole) != 3 {
		t.Errorf("restored: %+v, %v", x, err)
	}
}

// TestAlwaysThere: while a copy takes the place of the file, there is a file all the time. Whoever starts after a crash in
// between would else begin with an empty one.
func TestAlwaysThere(t *testing.T) {
	dir := t.TempDir()
	backup, path := filepath.Join(dir, "copy.db"), filepath.Join(dir, "store.db")
	for _, p := range []string{backup, path} {
		if err := os.WriteFile(p, realStore(t, 1, 5), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stop, missed := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				missed <- n
				return
			default:
				if _, err := os.Stat(path); err != nil {
					n++
				}
			}
		}
	}()
	for i := range 300 {
		if _, err := Restore(path, backup, time.Unix(int64(i), 0)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if n := <-missed; n > 0 {
		t.Errorf("there was no file %d times", n)
	}
}

func payloadOf(t *testing.T, path, id string, row uint64) []byte {
	t.Helper()
	b := mustOpen(t, path)
	p, err := b.Payloads(context.Background(), id, []uint64{row})
	if err != nil || p[0] == nil {
		t.Fatalf("payload: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return p[0]
}

// TestBrokenWrites: after a write that met a damaged page nothing is written any more, it is told, and nothing waits for
// bbolt's lock. Reads go on.
func TestBrokenWrites(t *testing.T) {
	e, err := OpenEmbedded(filepath.Join(t.TempDir(), "real.db"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := e.Check(ctx); err != nil {
		t.Fatal(err)
	}
	if err := e.update(func(*bolt.Tx) error { panic("page 7 already freed") }); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "page 7") {
		t.Errorf("a write that meets a damaged page: got %v, want an error that names it", err)
	}
	if _, err := e.PutDocument(ctx, "designation", Document{Key: "k", Value: []byte("{}")}); !errors.Is(err, ErrDamaged) {
		t.Errorf("the next write: got %v, want that the file is damaged", err)
	}
	if err := e.Check(ctx); !errors.Is(err, ErrDamaged) {
		t.Errorf("Check: got %v, want that the file is damaged", err)
	}
	if _, err := e.Clusters(ctx); err != nil {
		t.Errorf("a read: got %v", err)
	}
	if err := e.Close(); err != nil {
		t.Errorf("Close: got %v", err)
	}
}

// mangle flips, cuts and swaps pages.
func mangle(rng *rand.Rand, b []byte) []byte {
	const page = 4096
	b = append([]byte{}, b...)
	pages := len(b) / page
	for range 1 + rng.IntN(4) {
		switch i, j := rng.IntN(pages), rng.IntN(pages); rng.IntN(5) {
		case 0:
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		case 1: // within the headers and elements of a page
			b[i*page+rng.IntN(256)] = byte(rng.Uint32())
		case 2:
			copy(b[i*page:(i+1)*page], b[j*page:(j+1)*page])
		case 3:
			t := append([]byte{}, b[i*page:(i+1)*page]...)
			copy(b[i*page:], b[j*page:(j+1)*page])
			copy(b[j*page:], t)
		case 4:
			clear(b[i*page+rng.IntN(page) : (i+1)*page])
		}
	}
	if rng.IntN(8) == 0 {
		b = b[:rng.IntN(len(b))]
	}
	return b
}

// check opens, reads, examines and repairs a damaged store: nothing panics, nothing hangs, and what is repaired is whole.
func check(t *testing.T, b []byte) {
	t.Helper()
	dir := t.TempDir()
	path, other := filepath.Join(dir, "a.db"), filepath.Join(dir, "b.db")
	for _, p := range []string{path, other} {
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_ = readAll(path)
	if _, _, err := Repair(other, time.Unix(0, 0)); err != nil {
		return
	}
	if x, err := Examine(other); err != nil || x.Damaged > 0 {
		t.Errorf("after repair: %+v, %v", x, err)
	}
	if err := readAll(other); err != nil {
		t.Errorf("after repair: %v", err)
	}
}

// TestInvariantDamage flips, cuts and swaps pages of a real store.
func TestInvariantDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	whole := realStore(t, 3, 40)
	for range testseed.Rounds(t, 40) {
		check(t, mangle(rng, whole))
	}
}

func FuzzDamage(f *testing.F) {
	whole := realStore(f, 2, 30)
	f.Add(uint64(1), []byte(nil), uint32(0))
	f.Fuzz(func(t *testing.T, seed uint64, patch []byte, at uint32) {
		b := append([]byte{}, whole...)
		if seed != 0 {
			b = mangle(rand.New(rand.NewPCG(seed, 1)), whole)
		}
		if len(b) > 0 {
			copy(b[int(at)%len(b):], patch)
		}
		check(t, b)
	})
}
