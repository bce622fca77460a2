package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/explore"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestExploreStore lets two replicas write to one database in every order, die at each write, and lose the last write when a
// standby takes over. What any of them reads is what the database holds, whole, and each version has the content that it was
// stored with. Invariant 2 of docs/design.md.
func TestExploreStore(t *testing.T) {
	depth := 5
	if testing.Short() {
		depth--
	}
	t.Run("two replicas", func(t *testing.T) {
		explore.Test(t, func() explore.Model { return newExploredStore(2) }, explore.Depth(t, depth))
	})
	t.Run("a database of one process", func(t *testing.T) { // which does not look what others wrote
		explore.Test(t, func() explore.Model { return newExploredStore(1) }, explore.Depth(t, depth+1))
	})
}

const exploredCluster = "d-explored"

var exploredContents = []content{
	{"*v1.Pod ns a": "a1"}, {"*v1.Pod ns a": "a1", "*v1.Pod ns b": "b1"}, {"*v1.Pod ns a": "a2", "*v1.Pod ns b": "b1"},
}

type exploredStore struct {
	db      *exploredDB
	writers []*exploredWriter
	now     time.Time
	version uint64
	reports map[uint64]int // which content by version
	lost    bool           // a standby has taken over: once is enough for a story
	story   []string
	err     error
}

// exploredDB is a database with the semantics of PostgreSQL: all or nothing, upon a revision; it knows what was written last.
type exploredDB struct {
	*store.Memory

	log    []*store.Change
	shared bool
	// fate is what happens to the next write.
	fate fate
}

type fate int

const (
	stored fate = iota
	failed
	unconfirmed
)

var errGone = fmt.Errorf("%w: the connection is gone", store.ErrUnavailable)

func (d *exploredDB) Shared() bool { return d.shared }

// Commit copies entries, as a database does that has them on a disk.
func (d *exploredDB) Commit(ctx context.Context, c *store.Change) error {
	of := d.fate
	d.fate = stored
	if of == failed {
		return errGone
	}
	own := *c
	own.Added, own.Ended = slices.Clone(c.Added), slices.Clone(c.Ended)
	for i := range own.Added {
		own.Added[i].Entry = new(*own.Added[i].Entry)
	}
	for i := range own.Ended {
		own.Ended[i] = new(*own.Ended[i])
	}
	if err := d.Memory.Commit(ctx, &own); err != nil {
		return err
	}
	d.log = append(d.log, &own)
	if of == unconfirmed {
		return errGone
	}
	return nil
}

// takeOver lets a standby take over that has not had the last write yet.
func (d *exploredDB) takeOver() error {
	d.log = d.log[:len(d.log)-1]
	d.Memory = store.NewMemory()
	for _, c := range d.log {
		if err := d.Memory.Commit(context.Background(), c); err != nil {
			return err
		}
	}
	return nil
}

// versions are those that the database holds, by what was written.
func (d *exploredDB) versions(writes int) []uint64 {
	var list []uint64
	for _, c := range d.log[:writes] {
		if c.Snapshot != nil {
			list = append(list, c.Snapshot.Version)
		}
	}
	return list[max(0, len(list)-exploredKeep):]
}

const exploredKeep = 2

type exploredWriter struct {
	store *store.Store
	tx    *store.Tx
	held  *store.View // of a reader that goes on reading
	read  string      // what it was when it was taken
}

func newExploredStore(writers int) *exploredStore {
	x := &exploredStore{
		db: &exploredDB{Memory: store.NewMemory(), shared: writers > 1}, writers: make([]*exploredWriter, writers),
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), reports: map[uint64]int{},
	}
	for i := range writers {
		x.start(i)
	}
	return x
}

func (x *exploredStore) start(i int) {
	x.writers[i] = &exploredWriter{store: store.New(x.db, store.Options{Keep: exploredKeep, Now: func() time.Time { return x.now }})}
}

func (x *exploredStore) fail(format string, args ...any) {
	if x.err == nil {
		x.err = fmt.Errorf(format, args...)
	}
}

func (x *exploredStore) Err() error { return x.err }

func (x *exploredStore) Story() []string { return x.story }

type storeEvent struct {
	name string
	do   func()
}

func (x *exploredStore) possible() []storeEvent {
	var list []storeEvent
	add := func(do func(), format string, args ...any) {
		list = append(list, storeEvent{fmt.Sprintf(format, args...), do})
	}
	for i, w := range x.writers {
		if w.tx == nil {
			add(func() { x.begin(w) }, "writer %d takes in a report", i)
			add(func() { x.hold(w) }, "somebody begins to read from writer %d", i)
			continue
		}
		for c := range exploredContents {
			add(func() { x.save(w, c, stored) }, "writer %d stores content %d", i, c)
		}
		add(func() { x.save(w, 1, failed) }, "writer %d stores content 1, which fails", i)
		add(func() { x.save(w, 1, unconfirmed) }, "writer %d stores content 1, and does not hear that it is done", i)
		add(func() {
			x.save(w, 2, unconfirmed)
			x.start(i)
		}, "writer %d stores content 2 and is killed before it hears of it", i)
		add(func() { x.start(i) }, "writer %d is killed before it writes", i)
		add(func() { x.end(w, w.tx.Touch(context.Background(), store.Touch{}), stored) }, "writer %d stores a heartbeat", i)
	}
	if len(x.db.log) > 0 && !x.lost && x.db.shared {
		add(func() {
			x.lost = true
			if err := x.db.takeOver(); err != nil {
				x.fail("a standby takes over: %v", err)
			}
		}, "a standby takes over that lacks the last write")
	}
	return list
}

func (x *exploredStore) Events() []string {
	var names []string
	for _, e := range x.possible() {
		names = append(names, e.name)
	}
	return names
}

func (x *exploredStore) Do(i int) {
	e := x.possible()[i]
	x.now = x.now.Add(time.Second)
	x.story = append(x.story, e.name)
	e.do()
	for _, w := range x.writers {
		if w.held != nil && viewed(w.held) != w.read {
			x.fail("a View changes under its reader, from %s to %s", w.read, viewed(w.held))
		}
	}
}

func (x *exploredStore) begin(w *exploredWriter) {
	tx, err := w.store.Begin(context.Background(), exploredCluster)
	if err != nil {
		x.fail("begin: %v", err)
		return
	}
	w.tx = tx
}

func (x *exploredStore) hold(w *exploredWriter) {
	v, err := w.store.View(context.Background(), exploredCluster)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		x.fail("view: %v", err)
	}
	w.held = v
	if v != nil {
		w.read = viewed(v)
	}
}

// save stores a report under a new version.
func (x *exploredStore) save(w *exploredWriter, c int, of fate) {
	x.version++
	x.reports[x.version] = c
	x.db.fate = of
	x.end(w, w.tx.Save(context.Background(), x.version, store.Touch{}, incoming(w.tx, exploredContents[c])), of)
	x.db.fate = stored
}

func (x *exploredStore) end(w *exploredWriter, err error, of fate) {
	switch {
	case errors.Is(err, store.ErrConflict):
		x.story = append(x.story, "    the other one wrote first")
	case err == nil && of != stored:
		x.fail("a write is confirmed that failed")
	case err != nil && of == stored:
		x.fail("a write fails without a reason: %v", err)
	}
	w.tx.Close()
	w.tx = nil
}

func viewed(v *store.View) string {
	var b strings.Builder
	fmt.Fprint(&b, v.State.Revision)
	for _, s := range v.Snapshots {
		_, entries, err := v.At(s.Version)
		fmt.Fprint(&b, " ", s.Seq, ":", s.Version, err)
		for _, e := range entries {
			fmt.Fprintf(&b, " %s%x", e.Name, e.Sum[:2])
		}
	}
	return b.String()
}

// Settle has all that write end, and reads everything from both replicas and from a new one.
func (x *exploredStore) Settle() error {
	for _, w := range x.writers {
		if w.tx != nil {
			w.tx.Close()
			w.tx = nil
		}
	}
	x.readAll()
	// It can be written on.
	for _, w := range x.writers {
		if x.err != nil {
			break // whoever reads now would wait for a Tx that nobody ends
		}
		x.now = x.now.Add(time.Second)
		if x.begin(w); x.err == nil {
			x.save(w, 0, stored)
			x.readAll()
		}
	}
	return x.err
}

func (x *exploredStore) readAll() {
	want := x.db.versions(len(x.db.log))
	readers := []*store.Store{store.New(x.db, store.Options{Keep: exploredKeep})}
	for _, w := range x.writers {
		readers = append(readers, w.store)
	}
	for i, s := range readers {
		v, err := s.View(context.Background(), exploredCluster)
		if errors.Is(err, store.ErrNotFound) && len(x.db.log) == 0 {
			continue
		}
		if err != nil {
			x.fail("reader %d: %v", i, err)
			return
		}
		var got []uint64
		for _, snap := range v.Snapshots {
			got = append(got, snap.Version)
			if c := x.contentOf(s, v, snap.Version); !maps.Equal(c, exploredContents[x.reports[snap.Version]]) {
				x.fail("reader %d finds version %d with %v, it was stored with %v", i, snap.Version, c, exploredContents[x.reports[snap.Version]])
			}
		}
		if !slices.Equal(got, want) {
			x.fail("reader %d finds the versions %v, the database has %v", i, got, want)
		}
		rows := 0
		if _, _, err := x.db.Load(context.Background(), exploredCluster, store.Since{}, func(*store.Entry) error { rows++; return nil }); err != nil {
			x.fail("load: %v", err)
		}
		var numbers []uint64
		for row := uint64(1); row < v.State.NextRow; row++ {
			numbers = append(numbers, row)
		}
		payloads, err := x.db.Payloads(context.Background(), exploredCluster, numbers)
		if err != nil {
			x.fail("payloads: %v", err)
		}
		if kept := len(payloads) - len(slices.DeleteFunc(numbers, func(row uint64) bool { return payloads[row-1] != nil })); kept != rows {
			x.fail("the database has the payloads of %d rows, and %d rows", kept, rows)
		}
		if rows != v.State.Retained.Objects {
			x.fail("the database has %d rows, the state counts %d", rows, v.State.Retained.Objects)
		}
	}
}

func (x *exploredStore) contentOf(s *store.Store, v *store.View, version uint64) content {
	_, entries, err := v.At(version)
	if err != nil {
		x.fail("version %d: %v", version, err)
	}
	payloads, err := s.Payloads(context.Background(), exploredCluster, entries)
	if err != nil {
		x.fail("payloads: %v", err)
	}
	c := content{}
	for i, e := range entries {
		c[e.Type+" "+e.Namespace+" "+e.Name] = string(payloads[i])
	}
	return c
}

// Key makes states the same that differ in nothing but how many versions and revisions have come before, and which of the two
// writers is the first.
func (x *exploredStore) Key() string {
	contents := func(versions []uint64) string {
		var list []int
		for _, v := range versions {
			list = append(list, x.reports[v])
		}
		return fmt.Sprint(list)
	}
	db := contents(x.db.versions(len(x.db.log)))
	if n := len(x.db.log); n > 0 && !x.lost {
		db += contents(x.db.versions(n - 1))
	}
	revision := uint64(0)
	if st, err := x.db.State(context.Background(), exploredCluster); err == nil {
		revision = st.Revision
	}
	var writers []string
	for _, w := range x.writers {
		s := "idle"
		if w.tx != nil {
			v := w.tx.View()
			s = fmt.Sprint("begun ", v.State.Revision == revision, v.State.Revision > revision, known(x, v, contents))
		}
		if w.held != nil {
			s += " read " + known(x, w.held, contents)
		}
		writers = append(writers, s+" "+store.Remembered(w.store, exploredCluster, func(v *store.View) string {
			return fmt.Sprint(v.State.Revision == revision, known(x, v, contents))
		}))
	}
	slices.Sort(writers)
	return fmt.Sprint(db, x.lost, len(x.db.log) == 0, writers)
}

// known is what a view has, and whether the database has the same.
func known(x *exploredStore, v *store.View, contents func([]uint64) string) string {
	var versions []uint64
	for _, s := range v.Snapshots {
		versions = append(versions, s.Version)
	}
	return fmt.Sprint(contents(versions), slices.Equal(versions, x.db.versions(len(x.db.log))))
}
