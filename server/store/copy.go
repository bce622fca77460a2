package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// touched is a key that a write may have changed.
type touched struct {
	top   string // the bucket
	inner string // the bucket in that; empty: there is none
	key   string // empty: the inner bucket was removed
}

func (t touched) compare(u touched) int {
	return slices.Compare([]string{t.top, t.inner, t.key}, []string{u.top, u.inner, u.key})
}

// touchedBy returns the keys that one transaction of a change writes: some of its added entries, and with the last of these
// everything else.
func touchedBy(c *Change, added []Added, last bool) []touched {
	id := c.State.ID
	keys := make([]touched, 0, 2*len(added)+len(c.Ended)+2*len(c.DroppedRows)+len(c.DroppedSeqs)+2)
	in := func(bucket []byte, n uint64) { keys = append(keys, touched{string(bucket), id, string(number(n))}) }
	for _, a := range added {
		in(bucketEntries, a.Entry.Row)
		in(bucketPayloads, a.Entry.Row)
	}
	if !last {
		return keys
	}
	keys = append(keys, touched{string(bucketStates), "", id})
	for _, e := range c.Ended {
		in(bucketEntries, e.Row)
	}
	for _, n := range c.DroppedRows {
		in(bucketEntries, n)
		in(bucketPayloads, n)
	}
	if c.Snapshot != nil {
		in(bucketSnapshots, c.Snapshot.Seq)
	}
	for _, n := range c.DroppedSeqs {
		in(bucketSnapshots, n)
	}
	return keys
}

func touchedByForget(id string) []touched {
	return []touched{
		{string(bucketStates), "", id}, {string(bucketSnapshots), id, ""}, {string(bucketEntries), id, ""}, {string(bucketPayloads), id, ""},
	}
}

const (
	compactSuffix = ".compacting"
	backupSuffix  = ".backup"
	// copyBytes is about how much a copy reads at once. A read must be short: the file cannot grow while it runs.
	copyBytes = 1 << 20
	// copyKeys is the same in keys.
	copyKeys = 20_000
	// lastKeys is how many of the keys that were written meanwhile may be left for when nobody can write.
	lastKeys = 1000
	// catchUpRounds bounds how often a copy tries to come that near.
	catchUpRounds = 20
	// notedKeys is at how many of them they are copied before the scan goes on.
	notedKeys = 100_000
)

// liveCopy is a copy of the database file that is made while the file is written. It reads all keys once, in many short
// reads, then again those that were written meanwhile, until few are left; these it reads while nobody writes. So it is the
// file at that moment.
type liveCopy struct {
	from *Embedded
	to   *database
	// pace is how long to rest after each step, in multiples of the step.
	pace float64

	mu    sync.Mutex
	noted map[touched]struct{}
}

// note is called with all that is written, while Embedded.writing is held.
func (c *liveCopy) note(keys []touched) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		c.noted[k] = struct{}{}
	}
}

func (c *liveCopy) notes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.noted)
}

// take returns the noted keys in order, buckets that were removed before keys in them.
func (c *liveCopy) take() []touched {
	c.mu.Lock()
	defer c.mu.Unlock()
	keys := make([]touched, 0, len(c.noted))
	for k := range c.noted {
		keys = append(keys, k)
	}
	c.noted = map[touched]struct{}{}
	slices.SortFunc(keys, touched.compare)
	return keys
}

// liveCopy makes a copy at path, where no file may be, and calls finish with it while nobody can write. Without an error from
// finish the copy stays open and belongs to finish; else it is removed.
func (e *Embedded) liveCopy(ctx context.Context, path string, pace float64, finish func(to *database) error) (err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	to, err := openBolt(path)
	if err != nil {
		return err
	}
	to.NoSync = true
	c := &liveCopy{from: e, to: to, pace: pace, noted: map[touched]struct{}{}}
	e.writing.Lock()
	e.copies[c] = struct{}{}
	e.writing.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(err, guarded(to.Close), os.Remove(path))
		}
	}()
	// Those that are empty have no record that would make them.
	if err = to.Update(makeBuckets); err == nil {
		err = c.run(ctx)
	}
	e.writing.Lock()
	defer e.writing.Unlock()
	delete(e.copies, c)
	if err != nil {
		return err
	}
	if e.broken != nil {
		return e.broken
	}
	if err := c.apply(context.WithoutCancel(ctx), c.take(), 0); err != nil {
		return err
	}
	to.NoSync = false
	if err := to.Sync(); err != nil {
		return err
	}
	return finish(to)
}

// run copies everything but the keys that are written at last.
func (c *liveCopy) run(ctx context.Context) error {
	var at place
	for done := false; !done; {
		err := rested(ctx, c.pace, func() error {
			var records []record
			var err error
			if records, at, err = c.from.scan(at); err != nil {
				return err
			}
			done = len(records) == 0
			return c.write(records)
		})
		if err != nil {
			return err
		}
		if c.notes() > notedKeys {
			if err := c.apply(ctx, c.take(), c.pace); err != nil {
				return err
			}
		}
	}
	for range catchUpRounds {
		if c.notes() <= lastKeys {
			break
		}
		if err := c.apply(ctx, c.take(), 0); err != nil {
			return err
		}
	}
	return nil
}

// rested runs f and rests for pace times as long as that took.
func rested(ctx context.Context, pace float64, f func() error) error {
	start := time.Now()
	if err := f(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil || pace == 0 {
		return context.Cause(ctx)
	}
	rest := time.NewTimer(time.Duration(pace * float64(time.Since(start))))
	defer rest.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-rest.C:
		return nil
	}
}

// apply copies keys as they are now.
func (c *liveCopy) apply(ctx context.Context, keys []touched, pace float64) error {
	for len(keys) > 0 {
		err := rested(ctx, pace, func() error {
			records, n, err := c.from.again(keys)
			keys = keys[n:]
			return errors.Join(err, c.write(records))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// record is one key with its value; without a value it is not there.
type record struct {
	touched
	value []byte
}

// write puts records into the copy.
func (c *liveCopy) write(records []record) error {
	if len(records) == 0 {
		return nil
	}
	return guarded(func() error {
		return c.to.Update(func(tx *bolt.Tx) error {
			for _, r := range records {
				if err := r.put(tx); err != nil {
					return fmt.Errorf("copy %s %s: %w", r.top, r.inner, err)
				}
			}
			return nil
		})
	})
}

func (r *record) put(tx *bolt.Tx) error {
	b := tx.Bucket([]byte(r.top))
	if r.key == "" && r.inner != "" {
		if b.Bucket([]byte(r.inner)) == nil {
			return nil
		}
		return b.DeleteBucket([]byte(r.inner))
	}
	if r.inner != "" {
		var err error
		if b, err = b.CreateBucketIfNotExists([]byte(r.inner)); err != nil {
			return err
		}
		b.FillPercent = 0.95
	}
	if r.value == nil {
		return b.Delete([]byte(r.key))
	}
	return b.Put([]byte(r.key), r.value)
}

// place is where a scan of the file goes on: after this key.
type place touched

// scan returns the next records of the file after a place, and the place of the last; none at the end.
func (e *Embedded) scan(after place) ([]record, place, error) {
	s := scanner{after: after}
	err := e.read(func(tx *bolt.Tx) error {
		s.records, s.size = nil, 0 // a read is repeated when the file is replaced
		c := tx.Cursor()
		for top, _ := c.Seek([]byte(after.top)); top != nil && !s.full(); top, _ = c.Next() {
			s.bucket(string(top), tx.Bucket(top))
		}
		return nil
	})
	if n := len(s.records); n > 0 {
		after = place(s.records[n-1].touched)
	}
	return s.records, after, err
}

type scanner struct {
	after   place
	records []record
	size    int
}

func (s *scanner) full() bool { return s.size >= copyBytes || len(s.records) >= copyKeys }

func (s *scanner) add(t touched, value []byte) {
	s.records = append(s.records, record{t, append([]byte{}, value...)})
	s.size += len(t.key) + len(value)
}

// bucket reads one of the outer buckets. It has keys, or buckets with keys.
func (s *scanner) bucket(top string, b *bolt.Bucket) {
	begin := ""
	if top == s.after.top {
		if begin = s.after.inner; begin == "" {
			begin = s.after.key
		}
	}
	c := b.Cursor()
	for k, v := c.Seek([]byte(begin)); k != nil && !s.full(); k, v = c.Next() {
		if v != nil {
			if t := (touched{top, "", string(k)}); t != touched(s.after) {
				s.add(t, v)
			}
			continue
		}
		s.inner(top, string(k), b.Bucket(k))
	}
}

func (s *scanner) inner(top, name string, b *bolt.Bucket) {
	begin := ""
	if top == s.after.top && name == s.after.inner {
		begin = s.after.key
	}
	c := b.Cursor()
	for k, v := c.Seek([]byte(begin)); k != nil && !s.full(); k, v = c.Next() {
		if t := (touched{top, name, string(k)}); t != touched(s.after) {
			s.add(t, v)
		}
	}
}

// again reads the first of some keys, and returns of how many.
func (e *Embedded) again(keys []touched) (records []record, n int, err error) {
	err = e.read(func(tx *bolt.Tx) error {
		records, n = make([]record, 0, min(len(keys), copyKeys)), 0
		for size := 0; n < len(keys) && size < copyBytes && n < copyKeys; n++ {
			k := keys[n]
			b := tx.Bucket([]byte(k.top))
			if k.inner != "" {
				b = b.Bucket([]byte(k.inner))
			}
			r := record{touched: k}
			if b != nil && k.key != "" {
				// nil: it is not there.
				r.value = bytes.Clone(b.Get([]byte(k.key)))
			}
			size += len(r.value) + len(k.key)
			records = append(records, r)
		}
		return nil
	})
	return records, n, err
}
