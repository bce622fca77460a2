package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// readLater is how large a file is at least, in bytes, that is not read to its end before it is used: reading it would take longer than
// whoever starts pseudo-server can wait. It is read while it is in use.
var readLater int64 = 256 << 20

// closedSuffix is that of the small file beside a database that was closed as it should be.
const closedSuffix = ".closed"

// closedMark tells how a database file was left. While it holds nothing has been written to the file since.
type closedMark struct {
	// Meta and Freelist are hashes of the page that tells where all others are, and of the list of free pages: a free page is written
	// without being looked at, so that a damaged list would damage everything.
	Meta     string `json:"meta"`
	Freelist string `json:"freelist"`
}

// markOf computes the mark of a file. Without a list of free pages there is none.
func markOf(path string) (mark closedMark, err error) {
	file, err := os.Open(path) //nolint:gosec // the operator names it
	if err != nil {
		return mark, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	m, err := readMeta(file)
	if err != nil {
		return mark, err
	}
	list, err := freePages(file, m)
	if err != nil {
		return mark, err
	}
	if list == nil {
		return mark, errors.New("it has no list of free pages")
	}
	hash := func(b []byte) string {
		sum := sha256.Sum256(b)
		return hex.EncodeToString(sum[:])
	}
	return closedMark{Meta: hash(m.raw), Freelist: hash(list)}, nil
}

// wasClosed tells whether a file is as it was when it was closed as it should be.
func wasClosed(path string) bool {
	b, err := os.ReadFile(path + closedSuffix) //nolint:gosec // beside what the operator names
	if err != nil {
		return false
	}
	var told closedMark
	if json.Unmarshal(b, &told) != nil {
		return false
	}
	mark, err := markOf(path)
	return err == nil && mark == told
}

// leaveMark makes the next start quick: it writes the list of free pages, which is not written otherwise, closes the file, and leaves
// the mark beside it. Without the mark the whole file is read at the next start, so that its errors are no harm.
func leaveMark(db *database, path string) error {
	db.NoFreelistSync = false
	err := db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketSchema).Put([]byte("version"), number(schemaVersion))
	})
	if e := db.Close(); err != nil || e != nil {
		return e
	}
	mark, err := markOf(path)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	b, err := json.Marshal(mark)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	_ = writeWhole(path+closedSuffix, b)
	return nil
}

// writeWhole writes a small file that is whole or not there.
func writeWhole(path string, b []byte) error {
	next := path + ".new"
	out, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // beside what the operator names
	if err != nil {
		return err
	}
	_, err = out.Write(b)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// freePages returns the list of free pages as it is in the file, nil if the file has none.
func freePages(file io.ReaderAt, m meta) ([]byte, error) {
	if m.freelist == noFreelist {
		return nil, nil
	}
	header := make([]byte, pageHeader)
	if m.freelist < 2 || m.freelist >= m.limit {
		return nil, fmt.Errorf("page %d, the list of free pages, does not exist", m.freelist)
	}
	if _, err := file.ReadAt(header, int64(m.freelist)*m.page); err != nil {
		return nil, err
	}
	overflow := uint64(order.Uint32(header[12:]))
	total := int64(overflow+1) * m.page
	if order.Uint64(header) != m.freelist || order.Uint16(header[8:]) != freelistPage || overflow >= m.limit-m.freelist || total > maxPageBytes {
		return nil, fmt.Errorf("page %d, the list of free pages, is damaged: its header is not its own", m.freelist)
	}
	list := make([]byte, total)
	_, err := file.ReadAt(list, int64(m.freelist)*m.page)
	return list, err
}

// freelist looks at the list of free pages: what is written to one of them must not be in use.
func (w *pageWalk) freelist(m meta) {
	list, err := freePages(w.file, m)
	if err != nil {
		w.damaged(nil, err.Error())
		return
	}
	if list == nil {
		return
	}
	n, ids := uint64(order.Uint16(list[10:])), list[pageHeader:]
	if n == manyFree {
		n, ids = order.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids)/8) {
		w.damaged(nil, fmt.Sprintf("page %d, the list of free pages, is damaged: it is longer than its page", m.freelist))
		return
	}
	for i := range n {
		id := order.Uint64(ids[8*i:])
		if id < 2 || id >= w.limit || w.seen[id/64]&(1<<(id%64)) != 0 {
			w.damaged(nil, fmt.Sprintf("page %d, the list of free pages, is damaged: page %d is not free", m.freelist, id))
			return
		}
	}
}

// reader reads a file to its end while it is in use.
type reader struct {
	stop context.CancelFunc
	done sync.WaitGroup
}

// readPace is how long it rests after each step, in multiples of the step.
const readPace = 4

// readAll reads the whole file in the background, as a start does that has the time. From damage on nothing can be written.
func (e *Embedded) readAll(how left) {
	db := e.db.Load()
	size := db.file.Size()
	ctx, stop := context.WithCancel(context.Background())
	e.reader.stop = stop
	e.reader.done.Go(func() {
		inUse, err := e.readToEnd(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil && how == leftCrashed {
			e.writing.Lock()
			defer e.writing.Unlock()
			if e.db.Load() == db { // else it was compacted, and nothing is lost
				e.lost.Store(lostPages(size, inUse))
			}
		}
		if err == nil {
			return
		}
		e.writing.Lock()
		defer e.writing.Unlock()
		if e.broken == nil {
			e.broken = err
		}
	})
}

// readToEnd returns how many bytes keys and values take.
func (e *Embedded) readToEnd(ctx context.Context) (inUse int64, err error) {
	var at place
	for {
		var records []record
		err := rested(ctx, readPace, func() error {
			before := touched(at)
			var err error
			if records, at, err = e.scan(at); err != nil {
				return err
			}
			for i, r := range records {
				inUse += pageElement + int64(len(r.key)+len(r.value))
				if (i > 0 || before != touched{}) && before.compare(r.touched) >= 0 {
					return damage(fmt.Sprintf("keys of %s %s are not in order", r.top, r.inner))
				}
				before = r.touched
			}
			return nil
		})
		if err != nil || len(records) == 0 {
			return inUse, err
		}
	}
}

// end ends the reading, if there is any.
func (r *reader) end() {
	if r.stop != nil {
		r.stop()
	}
	r.done.Wait()
}

// structure looks at what a start needs in any case: which pages there are, and the states of the clusters.
func structure(path string) error {
	return undamaged(path, func(top []byte) bool { return bytes.Equal(top, bucketSchema) || bytes.Equal(top, bucketStates) })
}
