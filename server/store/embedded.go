package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Embedded is a Backend in one file, for one process. Every commit is flushed to the disk before it is acknowledged.
type Embedded struct {
	path string
	// db is replaced when the file is compacted.
	db atomic.Pointer[database]

	writing sync.Mutex
	// broken is set when a write met a damaged page: bbolt may still hold its own lock then, and would wait for ever.
	broken error
	copies map[*liveCopy]struct{} // that must hear of every write; guarded by writing

	queueing sync.Mutex
	queue    []*write // that wait for writing

	// lost is about how many bytes of the file are neither in use nor known to be free, after a crash.
	lost atomic.Int64

	// copying is held by the copy of the whole file that is under way.
	copying sync.Mutex

	states states
	reader reader
}

// database is an open file.
type database struct {
	*bolt.DB
	file os.FileInfo // to notice that another one lies at the path
	page int64       // bytes
}

// The buckets. Those of snapshots, entries and payloads have a bucket per cluster, documents one per kind.
var (
	bucketSchema    = []byte("schema")
	bucketStates    = []byte("states")
	bucketSnapshots = []byte("snapshots")
	bucketEntries   = []byte("entries")
	bucketPayloads  = []byte("payloads")
	bucketDocuments = []byte("documents")
)

const (
	schemaVersion = 1
	// stageBytes bounds what one database transaction holds in memory, in payloads. A larger change is written by
	// several, of which only the last makes it visible.
	stageBytes = 1 << 20
	lockWait   = 5 * time.Second
)

// OpenEmbedded opens the database file at path, or creates it; its folder must exist.
func OpenEmbedded(path string) (*Embedded, error) {
	e, err := openEmbedded(path)
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return e, nil
}

// errLocked is that another process has the database file open.
var errLocked = errors.New("another process has it open; use PostgreSQL for several replicas")

// errRunning is that of those who replace the file. A pseudo-server that has it open would go on with the former one, or lose what it
// has acknowledged since the copy was made and what it has in memory.
var errRunning = errors.New("a pseudo-server has it open: stop it, run this again, and start it; what it has acknowledged since would be lost without a word otherwise")

// lockStopped is lockFile for those who replace the file.
func lockStopped(path string) (unlock func() error, err error) {
	unlock, err = lockFile(path)
	if errors.Is(err, errLocked) {
		err = errRunning
	}
	return unlock, err
}

func openEmbedded(path string) (*Embedded, error) {
	how, err := beforeOpen(path)
	if err != nil {
		return nil, err
	}
	e := &Embedded{path: path, copies: map[*liveCopy]struct{}{}}
	var db *database
	err = guarded(func() error {
		var err error
		db, err = openCurrent(path)
		return err
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: %w", errLocked, err)
	}
	if err != nil {
		return nil, err
	}
	e.db.Store(db)
	if err := guarded(func() error { return e.prepare(how) }); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if how != leftSmall {
		e.readAll(how)
	}
	return e, nil
}

// openCurrent opens the file that lies at path when its lock is had. While it was waited for, whoever had it may have put
// another file there: what is written to the former one would be lost.
func openCurrent(path string) (*database, error) {
	for range maxReplaced {
		db, err := openBolt(path)
		if err != nil {
			return nil, err
		}
		now, err := os.Stat(path)
		if err == nil && os.SameFile(now, db.file) {
			return db, nil
		}
		if err := errors.Join(err, db.Close()); err != nil {
			return nil, err
		}
	}
	return nil, errReplaced
}

// maxReplaced is how often a file is opened again because another one was put in its place.
const maxReplaced = 5

var errReplaced = errors.New("another file was put in its place again and again while it was opened; start again when whoever does that has ended")

func openBolt(path string) (*database, error) {
	var file *os.File
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout: lockWait, FreelistType: bolt.FreelistMapType,
		// Otherwise every heartbeat would write the list of all free pages.
		NoFreelistSync: true,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag, perm) //nolint:gosec // the operator names it
			return file, err
		},
	})
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &database{DB: db, file: info, page: int64(db.Info().PageSize)}, nil
}

// beforeOpen makes sure that there is a file that can be opened. A new one gets its name when it is complete, so that one of
// zero bytes is never ours. A large one is not read to its end.
func beforeOpen(path string) (how left, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		next := path + ".new"
		if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
			return leftSmall, err
		}
		db, err := openBolt(next)
		if err != nil {
			return leftSmall, err
		}
		if err := db.Close(); err != nil {
			return leftSmall, err
		}
		return leftSmall, os.Rename(next, path)
	case err != nil:
		return leftSmall, err
	case info.Size() == 0:
		return leftSmall, fmt.Errorf("%w: it has zero bytes: what was in it is lost; put a copy in its place with: pseudo-server store restore FILE --from COPY, "+
			"or remove it to begin with an empty store", ErrDamaged)
	}
	unlock, err := lockFile(path)
	if err != nil {
		return leftSmall, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	switch {
	case info.Size() < readLater:
		return leftSmall, intact(path)
	case wasClosed(path):
		return leftClosed, structure(path)
	}
	if err := structure(path); err != nil {
		return leftCrashed, err
	}
	return leftCrashed, forgetFree(path)
}

func (e *Embedded) prepare(how left) error {
	// What a copy left that was killed, and what holds only until something is written. Nobody makes a copy now: we have the lock of
	// the file.
	for _, left := range []string{e.path + compactSuffix, e.path + backupSuffix, e.path + closedSuffix, e.path + closedSuffix + ".new"} {
		if err := os.Remove(left); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := syncFolder(filepath.Dir(e.path)); err != nil {
		return err
	}
	return e.db.Load().Update(func(tx *bolt.Tx) error {
		if err := makeBuckets(tx); err != nil {
			return err
		}
		schema := tx.Bucket(bucketSchema)
		switch v := schema.Get([]byte("version")); {
		case v == nil:
			if err := schema.Put([]byte("version"), number(schemaVersion)); err != nil {
				return err
			}
		case !bytes.Equal(v, number(schemaVersion)):
			return fmt.Errorf("it was written by another release (schema %x, this release has %d)", v, schemaVersion)
		}
		if how == leftClosed {
			return nil // no change was under way
		}
		return dropStaged(tx)
	})
}

func makeBuckets(tx *bolt.Tx) error {
	for _, name := range [][]byte{bucketSchema, bucketStates, bucketSnapshots, bucketEntries, bucketPayloads, bucketDocuments} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return nil
}

// syncFolder makes the name of a new file durable.
func syncFolder(path string) error {
	d, err := os.Open(path) //nolint:gosec // the operator names it
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// dropStaged removes the rows of changes that were not finished: those from NextRow on.
func dropStaged(tx *bolt.Tx) error {
	return tx.Bucket(bucketEntries).ForEachBucket(func(id []byte) error {
		first := uint64(1)
		if raw := tx.Bucket(bucketStates).Get(id); raw != nil {
			var st State
			if err := json.Unmarshal(raw, &st); err != nil {
				return fmt.Errorf("state of cluster %s: %w", id, err)
			}
			first = st.NextRow
		}
		for _, top := range [][]byte{bucketEntries, bucketPayloads} {
			b := tx.Bucket(top).Bucket(id)
			if b == nil {
				continue
			}
			var rows [][]byte
			c := b.Cursor()
			for k, _ := c.Seek(number(first)); k != nil; k, _ = c.Next() {
				rows = append(rows, bytes.Clone(k))
			}
			for _, k := range rows {
				if err := b.Delete(k); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// view runs a read. Its function must be short: the file cannot grow while it runs.
func (e *Embedded) view(f func(tx *bolt.Tx) error) error {
	return e.classify(e.read(f))
}

func (e *Embedded) read(f func(tx *bolt.Tx) error) error {
	for {
		db := e.db.Load()
		err := guarded(func() error { return db.View(f) })
		// A compacted file may have taken its place before the read began.
		if errors.Is(err, berrors.ErrDatabaseNotOpen) && e.db.Load() != db {
			continue
		}
		return err
	}
}

// update does a write, which touches these keys.
func (e *Embedded) update(f func(tx *bolt.Tx) error, touched ...touched) error {
	return e.write(&write{do: f, touched: touched})
}

func (e *Embedded) classify(err error) error {
	if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict) {
		return err
	}
	return fmt.Errorf("%w: database %s: %w", ErrUnavailable, e.path, err)
}

// sameFile refuses to write to a file that is no longer there: it would be lost with the process.
func (e *Embedded) sameFile() error {
	now, err := os.Stat(e.path)
	if err == nil && os.SameFile(now, e.db.Load().file) {
		return nil
	}
	if err == nil {
		err = errors.New("another file lies in its place")
	}
	return fmt.Errorf("%w: database %s was removed while in use; restart to begin with the one that is there, or with an empty one: %w",
		ErrUnavailable, e.path, err)
}

// Clusters implements Backend.
func (e *Embedded) Clusters(context.Context) ([]State, error) {
	return e.states.all(func(found func(State)) error {
		return e.view(func(tx *bolt.Tx) error {
			return tx.Bucket(bucketStates).ForEach(func(id, raw []byte) error {
				var st State
				if err := json.Unmarshal(raw, &st); err != nil {
					return fmt.Errorf("state of cluster %s: %w", id, err)
				}
				found(st)
				return nil
			})
		})
	})
}

// State implements Backend.
func (e *Embedded) State(_ context.Context, id string) (State, error) {
	st, ok := e.states.of(id)
	if ok {
		return st, nil
	}
	err := e.view(func(tx *bolt.Tx) error {
		var err error
		st, err = stateOf(tx, id)
		return err
	})
	return st, err
}

func stateOf(tx *bolt.Tx, id string) (State, error) {
	var st State
	raw := tx.Bucket(bucketStates).Get([]byte(id))
	if raw == nil {
		return st, ErrNotFound
	}
	if err := json.Unmarshal(raw, &st); err != nil {
		return st, fmt.Errorf("state of cluster %s: %w", id, err)
	}
	return st, nil
}

// Load implements Backend.
func (e *Embedded) Load(_ context.Context, id string, since Since, yield func(*Entry) error) (State, []Snapshot, error) {
	var st State
	var snapshots []Snapshot
	names := map[string]string{}
	err := e.view(func(tx *bolt.Tx) error {
		var err error
		if st, err = stateOf(tx, id); err != nil {
			return err
		}
		if b := tx.Bucket(bucketSnapshots).Bucket([]byte(id)); b != nil {
			err = b.ForEach(func(_, raw []byte) error {
				var s Snapshot
				if err := json.Unmarshal(raw, &s); err != nil {
					return fmt.Errorf("snapshot of cluster %s: %w", id, err)
				}
				snapshots = append(snapshots, s)
				return nil
			})
			if err != nil {
				return err
			}
		}
		b := tx.Bucket(bucketEntries).Bucket([]byte(id))
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, raw []byte) error {
			row := binary.BigEndian.Uint64(k)
			if row >= st.NextRow { // of a change that was not finished
				return nil
			}
			entry, err := decodeEntry(row, raw, names)
			if err != nil {
				return fmt.Errorf("entry %d of cluster %s: %w", row, id, err)
			}
			if since.has(entry) {
				return nil
			}
			return yield(entry)
		})
	})
	return st, snapshots, err
}

// Payloads implements Backend.
func (e *Embedded) Payloads(_ context.Context, id string, rows []uint64) ([][]byte, error) {
	out := make([][]byte, len(rows))
	err := e.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketPayloads).Bucket([]byte(id))
		if b == nil {
			return nil
		}
		for i, row := range rows {
			out[i] = bytes.Clone(b.Get(number(row)))
		}
		return nil
	})
	return out, err
}

// Commit implements Backend.
func (e *Embedded) Commit(_ context.Context, c *Change) error {
	added := c.Added
	for {
		n, size := 0, 0
		for n < len(added) && size < stageBytes {
			size += len(added[n].Payload)
			n++
		}
		last := n == len(added)
		err := e.write(&write{bytes: size, touched: touchedBy(c, added[:n], last), do: func(tx *bolt.Tx) error {
			if err := expect(tx, c.State.ID, c.Expected); err != nil {
				return err
			}
			if err := putEntries(tx, c.State.ID, added[:n]); err != nil || !last {
				return err
			}
			tx.OnCommit(func() { e.states.put(c.State) })
			return finish(tx, c)
		}})
		if err != nil || last {
			return err
		}
		added = added[n:]
	}
}

func expect(tx *bolt.Tx, id string, revision uint64) error {
	st, err := stateOf(tx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if st.Revision != revision {
		return ErrConflict
	}
	return nil
}

func putEntries(tx *bolt.Tx, id string, added []Added) error {
	if len(added) == 0 {
		return nil
	}
	entries, err := tx.Bucket(bucketEntries).CreateBucketIfNotExists([]byte(id))
	if err != nil {
		return err
	}
	payloads, err := tx.Bucket(bucketPayloads).CreateBucketIfNotExists([]byte(id))
	if err != nil {
		return err
	}
	// Rows only ever come at the end.
	entries.FillPercent, payloads.FillPercent = 0.95, 0.95
	for _, a := range added {
		if err := entries.Put(number(a.Entry.Row), encodeEntry(a.Entry)); err != nil {
			return err
		}
		if err := payloads.Put(number(a.Entry.Row), a.Payload); err != nil {
			return err
		}
	}
	return nil
}

// finish writes everything but the added entries, and so makes them visible.
func finish(tx *bolt.Tx, c *Change) error {
	id := []byte(c.State.ID)
	if err := putJSON(tx.Bucket(bucketStates), id, c.State); err != nil {
		return err
	}
	if c.Snapshot != nil {
		b, err := tx.Bucket(bucketSnapshots).CreateBucketIfNotExists(id)
		if err != nil {
			return err
		}
		if err := putJSON(b, number(c.Snapshot.Seq), c.Snapshot); err != nil {
			return err
		}
	}
	entries := tx.Bucket(bucketEntries).Bucket(id)
	for _, ended := range c.Ended {
		if err := entries.Put(number(ended.Row), encodeEntry(ended)); err != nil {
			return err
		}
	}
	for _, row := range c.DroppedRows {
		if err := errors.Join(entries.Delete(number(row)), tx.Bucket(bucketPayloads).Bucket(id).Delete(number(row))); err != nil {
			return err
		}
	}
	for _, seq := range c.DroppedSeqs {
		if err := tx.Bucket(bucketSnapshots).Bucket(id).Delete(number(seq)); err != nil {
			return err
		}
	}
	return nil
}

func putJSON(b *bolt.Bucket, key []byte, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, raw)
}

// Forget implements Backend.
func (e *Embedded) Forget(_ context.Context, id string, expected uint64) error {
	return e.update(func(tx *bolt.Tx) error {
		if err := expect(tx, id, expected); err != nil {
			return err
		}
		if err := tx.Bucket(bucketStates).Delete([]byte(id)); err != nil {
			return err
		}
		for _, top := range [][]byte{bucketSnapshots, bucketEntries, bucketPayloads} {
			if err := tx.Bucket(top).DeleteBucket([]byte(id)); err != nil && !errors.Is(err, berrors.ErrBucketNotFound) {
				return err
			}
		}
		tx.OnCommit(func() { e.states.remove(id) })
		return nil
	}, touchedByForget(id)...)
}

// Document implements Backend.
func (e *Embedded) Document(_ context.Context, kind, key string) (Document, error) {
	var d Document
	err := e.view(func(tx *bolt.Tx) error {
		var err error
		d, err = document(tx, kind, key)
		return err
	})
	return d, err
}

func document(tx *bolt.Tx, kind, key string) (Document, error) {
	b := tx.Bucket(bucketDocuments).Bucket([]byte(kind))
	if b == nil {
		return Document{}, ErrNotFound
	}
	raw := b.Get([]byte(key))
	if raw == nil {
		return Document{}, ErrNotFound
	}
	return decodeDocument([]byte(key), raw)
}

func decodeDocument(key, raw []byte) (Document, error) {
	if len(raw) < 8 {
		return Document{}, fmt.Errorf("document %s is damaged", key)
	}
	return Document{Key: string(key), Revision: binary.BigEndian.Uint64(raw), Value: bytes.Clone(raw[8:])}, nil
}

// Documents implements Backend.
func (e *Embedded) Documents(_ context.Context, kind string) ([]Document, error) {
	var docs []Document
	err := e.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketDocuments).Bucket([]byte(kind))
		if b == nil {
			return nil
		}
		return b.ForEach(func(key, raw []byte) error {
			d, err := decodeDocument(key, raw)
			docs = append(docs, d)
			return err
		})
	})
	return docs, err
}

// PutDocument implements Backend.
func (e *Embedded) PutDocument(_ context.Context, kind string, d Document) (uint64, error) {
	var revision uint64
	err := e.update(func(tx *bolt.Tx) error {
		old, err := document(tx, kind, d.Key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if old.Revision != d.Revision {
			return ErrConflict
		}
		b, err := tx.Bucket(bucketDocuments).CreateBucketIfNotExists([]byte(kind))
		if err != nil {
			return err
		}
		if d.Value == nil {
			revision = 0
			return b.Delete([]byte(d.Key))
		}
		revision = d.Revision + 1
		return b.Put([]byte(d.Key), append(number(revision), d.Value...))
	}, touched{string(bucketDocuments), kind, d.Key})
	return revision, err
}

// Check implements Backend.
func (e *Embedded) Check(context.Context) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	if e.broken != nil {
		return e.classify(e.broken)
	}
	return e.sameFile()
}

// Shared implements Backend.
func (e *Embedded) Shared() bool { return false }

// Close implements Backend.
func (e *Embedded) Close() error {
	e.reader.end()
	e.writing.Lock()
	defer e.writing.Unlock()
	if e.broken != nil {
		return nil // bbolt would wait for its own lock; the file is closed with the process
	}
	db := e.db.Load()
	if info, err := os.Stat(e.path); err == nil && info.Size() >= readLater && os.SameFile(info, db.file) {
		return guarded(func() error { return leaveMark(db, e.path) })
	}
	return guarded(db.Close)
}

// encodeEntry writes an entry for the database: numbers and hashes of fixed size, then three strings with their lengths.
func encodeEntry(e *Entry) []byte {
	b := make([]byte, 0, 64+3*2+len(e.Type)+len(e.Namespace)+len(e.Name))
	b = binary.BigEndian.AppendUint64(b, e.From)
	b = binary.BigEndian.AppendUint64(b, e.To)
	b = append(b, e.Key[:]...)
	b = append(b, e.Sum[:]...)
	b = binary.BigEndian.AppendUint32(b, e.Size)
	b = binary.BigEndian.AppendUint32(b, e.RawSize)
	for _, s := range []string{e.Type, e.Namespace, e.Name} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	return b
}

var errDamaged = errors.New("it is damaged")

// decodeEntry reads what encodeEntry wrote. names has the texts of types and namespaces, which many entries have in common; nil:
// each has its own.
func decodeEntry(row uint64, b []byte, names map[string]string) (*Entry, error) {
	const fixed = 8 + 8 + 16 + 16 + 4 + 4
	if len(b) < fixed {
		return nil, errDamaged
	}
	e := &Entry{
		Row: row, From: binary.BigEndian.Uint64(b), To: binary.BigEndian.Uint64(b[8:]),
		Key: Key(b[16:32]), Sum: Sum(b[32:48]), Size: binary.BigEndian.Uint32(b[48:]), RawSize: binary.BigEndian.Uint32(b[52:]),
	}
	b = b[fixed:]
	for i, s := range []*string{&e.Type, &e.Namespace, &e.Name} {
		if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
			return nil, errDamaged
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		if i < 2 && names != nil {
			*s = shareBytes(names, b[2:n])
		} else {
			*s = string(b[2:n])
		}
		b = b[n:]
	}
	return e, nil
}
