package store

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

func testEntry(row uint64) *Entry {
	return &Entry{Row: row, From: 1, Key: Key{1, byte(row)}, Sum: Sum{2, byte(row)}, Type: "*v1.Pod", Namespace: "ns", Name: "name", Size: 3, RawSize: 4}
}

func mustOpen(t *testing.T, path string) *Embedded {
	t.Helper()
	e, err := OpenEmbedded(path)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func rows(t *testing.T, e *Embedded) []uint64 {
	t.Helper()
	var out []uint64
	_, _, err := e.Load(context.Background(), "c", Since{}, func(entry *Entry) error {
		out = append(out, entry.Row)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestStaged leaves the rows of a change that was not finished: nobody sees them, and they are gone after a restart.
func TestStaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	e := mustOpen(t, path)
	payload := bytes.Repeat([]byte("x"), stageBytes/2+1)
	commit := func(expected, first uint64, n int) {
		t.Helper()
		c := &Change{Expected: expected, State: State{ID: "c", Revision: expected + 1, NextRow: first + uint64(n)}}
		for i := range n {
			c.Added = append(c.Added, Added{Entry: testEntry(first + uint64(i)), Payload: payload})
		}
		if err := e.Commit(context.Background(), c); err != nil {
			t.Fatal(err)
		}
	}
	commit(0, 1, 5)
	stage := func(first, last uint64) {
		t.Helper()
		err := e.db.Load().Update(func(tx *bolt.Tx) error {
			var added []Added
			for row := first; row <= last; row++ {
				added = append(added, Added{Entry: testEntry(row), Payload: payload})
			}
			return putEntries(tx, "c", added)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	stage(6, 12)
	if diff := cmp.Diff([]uint64{1, 2, 3, 4, 5}, rows(t, e)); diff != "" {
		t.Errorf("with a change that was not finished (-want +got):\n%s", diff)
	}
	commit(1, 6, 2) // a smaller one takes the first of its rows
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = mustOpen(t, path)
	if diff := cmp.Diff([]uint64{1, 2, 3, 4, 5, 6, 7}, rows(t, e)); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	err := e.db.Load().View(func(tx *bolt.Tx) error {
		for _, top := range [][]byte{bucketEntries, bucketPayloads} {
			if last, _ := tx.Bucket(top).Bucket([]byte("c")).Cursor().Last(); !bytes.Equal(last, number(7)) {
				t.Errorf("%s: got last row %x, want 7", top, last)
			}
		}
		return nil
	})
	if err := errors.Join(err, e.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestOpenEmbedded refuses what it must not use.
func TestOpenEmbedded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	e := mustOpen(t, path)
	if !testing.Short() {
		if _, err := OpenEmbedded(path); err == nil || !strings.Contains(err.Error(), "PostgreSQL") {
			t.Errorf("open twice: got %v, want an error that tells of PostgreSQL", err)
		}
	}
	err := e.db.Load().Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketSchema).Put([]byte("version"), number(99)) })
	if err := errors.Join(err, e.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenEmbedded(path); err == nil || !strings.Contains(err.Error(), "another release") {
		t.Errorf("another schema: got %v, want an error that says so", err)
	}
	if _, err := OpenEmbedded(filepath.Join(path, "below")); err == nil {
		t.Error("a path below a file was opened")
	}
}

func TestEntryEncoding(t *testing.T) {
	want := testEntry(7)
	want.To = 9
	b := encodeEntry(want)
	got, err := decodeEntry(7, b, nil)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("got %v (-want +got):\n%s", err, diff)
	}
	for n := range b {
		if _, err := decodeEntry(7, b[:n], nil); !errors.Is(err, errDamaged) {
			t.Errorf("the first %d bytes: got %v, want errDamaged", n, err)
		}
	}
}
