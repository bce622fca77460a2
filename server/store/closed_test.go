package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

// readLaterAlways has even small files read only after the start, for a test that does not run beside others.
func readLaterAlways(t *testing.T) {
	t.Helper()
	before := readLater
	readLater = 1
	t.Cleanup(func() { readLater = before })
}

// closedStore is a file with its mark, as a server leaves it.
func closedStore(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "test.db")
	if err := os.WriteFile(path, realStore(t, 3, 60), 0o600); err != nil {
		t.Fatal(err)
	}
	e := mustOpen(t, path)
	st, err := e.State(context.Background(), "d-2")
	if err == nil {
		err = e.Forget(context.Background(), "d-2", st.Revision) // so that there are free pages
	}
	if err := errors.Join(err, e.Close()); err != nil {
		t.Fatal(err)
	}
	if !wasClosed(path) {
		t.Fatal("a closed file has no mark")
	}
	return path
}

// TestClosed: the mark of a file holds until something is written, by whomever, and for no other file.
func TestClosed(t *testing.T) {
	readLaterAlways(t)
	path := closedStore(t)
	mark, err := os.ReadFile(path + closedSuffix)
	if err != nil {
		t.Fatal(err)
	}
	e := mustOpen(t, path)
	if wasClosed(path) {
		t.Error("an open file has a mark")
	}
	put := func() {
		t.Helper()
		if err := os.WriteFile(path+closedSuffix, mark, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if put(); wasClosed(path) {
		t.Error("a former mark holds for a file that was opened since")
	}
	killed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if !wasClosed(path) {
		t.Error("a file that was opened and closed has no mark")
	}
	if err := os.WriteFile(path, killed, 0o600); err != nil {
		t.Fatal(err)
	}
	if wasClosed(path) {
		t.Error("a file of a process that was killed has a mark")
	}
	if err := errors.Join(readAll(path), os.Remove(path+closedSuffix)); err != nil {
		t.Error(err)
	}
	// Another release, that knows nothing of marks, writes.
	if err := readAll(path); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketDocuments).Put([]byte("x"), nil) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if wasClosed(path) {
		t.Error("a mark holds for what another program wrote")
	}
}

// TestClosedAndDamaged: damage of a file that was closed as it should be is found at the start, or while it is in use; nothing is
// written to it then.
func TestClosedAndDamaged(t *testing.T) {
	readLaterAlways(t)
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	path := closedStore(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mark, err := os.ReadFile(path + closedSuffix)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	atStart, later := 0, 0
	for _, at := range rng.Perm(len(whole) / page) { // each page once: few are looked at when the file is opened
		at *= page
		path := filepath.Join(t.TempDir(), childFile) // a folder of its own: a damaged one stays locked
		damaged := bytes.Clone(whole)
		for i := range 16 { // its header
			damaged[at+i] ^= byte(1 + rng.IntN(255))
		}
		if err := errors.Join(os.WriteFile(path, damaged, 0o600), os.WriteFile(path+closedSuffix, mark, 0o600)); err != nil {
			t.Fatal(err)
		}
		harmless := intact(path) == nil // a page that nothing is in
		e, err := OpenEmbedded(path)
		if err != nil {
			if atStart++; !errors.Is(err, ErrDamaged) {
				t.Errorf("page %d: got %v, want an error of damage", at/page, err)
			}
			continue
		}
		e.reader.done.Wait()
		if err = e.Check(context.Background()); err == nil != harmless {
			t.Errorf("page %d: got %v; harmless: %v", at/page, err, harmless)
		}
		if !harmless {
			later++
			_, err := e.PutDocument(context.Background(), "x", Document{Key: "x", Value: []byte("x")})
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "store check") {
				t.Errorf("page %d: a write gets %v, want an error of damage with the way out", at/page, err)
			}
		}
		_ = e.Close()
	}
	if atStart == 0 || later == 0 {
		t.Errorf("damage was found %d times at the start and %d times later, want some of each", atStart, later)
	}
}

// TestFreePages: a list of free pages that names one in use is damage, since that page would be written.
func TestFreePages(t *testing.T) {
	readLaterAlways(t)
	path := closedStore(t)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	m, err := readMeta(file)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := freePages(file, m); err != nil || order.Uint16(list[10:]) == 0 {
		t.Fatalf("the file has no free pages: %v", err)
	}
	if err := intact(path); err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 8)
	order.PutUint64(id, m.root)
	if _, err := file.WriteAt(id, int64(m.freelist)*m.page+pageHeader); err != nil {
		t.Fatal(err)
	}
	if err := intact(path); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("page %d is not free", m.root)) {
		t.Errorf("got %v, want that a page is named free that is in use", err)
	}
	if e, err := OpenEmbedded(path); err == nil {
		_ = e.Close()
		t.Error("it was opened")
	}
}

// TestCloseWhileRead: closing does not wait until the file was read.
func TestCloseWhileRead(t *testing.T) {
	readLaterAlways(t)
	path := closedStore(t)
	for range 20 {
		e := mustOpen(t, path)
		start := time.Now()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > time.Minute {
			t.Fatalf("closing took %s", took)
		}
		if !wasClosed(path) {
			t.Fatal("a closed file has no mark")
		}
	}
}
