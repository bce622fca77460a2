package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// ErrDamaged is that a database file is damaged.
var ErrDamaged = errors.New("damaged")

// damage is the error for a damaged file: what is damaged, and the ways out.
func damage(what any) error {
	return fmt.Errorf("%w: %v; stop pseudo-server and see what can be saved with: pseudo-server store check FILE, then keep that "+
		"with: pseudo-server store repair FILE, or put a copy in its place with: pseudo-server store restore FILE --from COPY. "+
		"Clusters that are lost come back with the next report of their agents, without their former versions", ErrDamaged, what)
}

// guarded runs f, and turns a panic over damaged pages into an error.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damage(p)
		}
	}()
	return f()
}

// intact returns an error if the file at path is damaged, as far as its structure tells.
func intact(path string) error { return undamaged(path, nil) }

// undamaged is intact for some of the outermost buckets; nil: all.
func undamaged(path string, enter func(bucket []byte) bool) error {
	var first string
	n := 0
	w := pageWalk{enter: enter, damaged: func(_ [][]byte, what string) {
		if n++; n == 1 {
			first = what
		}
	}}
	err := w.open(path)
	switch {
	case err != nil:
		return damage(err)
	case n == 1:
		return damage(first)
	case n > 1:
		return damage(fmt.Sprintf("%s, and %d more", first, n-1))
	}
	return nil
}

// Examined is what is found in a database file.
type Examined struct {
	Path string `json:"path"`
	// Damage says what is damaged, at most maxTold of Damaged.
	Damage  []string `json:"damage,omitempty"`
	Damaged int      `json:"damaged"`
	// Whole are the clusters of which everything can be read, Lost the others, with the reason.
	Whole []string          `json:"whole"`
	Lost  map[string]string `json:"lost,omitempty"`
	// Documents is how many designations, plugins and the like can be read.
	Documents int `json:"documents"`

	clusters map[string]*examinedCluster
}

// examinedCluster is what was found of one cluster.
type examinedCluster struct {
	state     *State
	entries   map[uint64]*Entry
	payloads  int
	bytes     int64
	snapshots map[uint64]bool
	problem   string
}

// tell notes one damage.
func (x *Examined) tell(what string) {
	if x.Damaged++; len(x.Damage) < maxTold {
		x.Damage = append(x.Damage, what)
	}
}

func (x *Examined) cluster(id string) *examinedCluster {
	c := x.clusters[id]
	if c == nil {
		c = &examinedCluster{entries: map[uint64]*Entry{}, snapshots: map[uint64]bool{}}
		x.clusters[id] = c
	}
	return c
}

func (c *examinedCluster) fail(format string, args ...any) {
	if c.problem == "" {
		c.problem = fmt.Sprintf(format, args...)
	}
}

// Examine reads all of a database file that no pseudo-server has open. An error means that nothing of it can be read.
func Examine(path string) (*Examined, error) {
	x := &Examined{Path: path, Lost: map[string]string{}, clusters: map[string]*examinedCluster{}}
	damaged := func(in [][]byte, what string) {
		x.tell(what)
		if len(in) == 2 && !bytes.Equal(in[0], bucketDocuments) {
			x.cluster(string(in[1])).fail("%s", what)
		}
	}
	// Payloads are looked at with their entries, which may come later.
	if err := walkFile(path, x.visit, damaged); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	if err := walkFile(path, x.payload, func([][]byte, string) {}); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	for id, c := range x.clusters {
		if c.judge(); c.problem == "" {
			x.Whole = append(x.Whole, id)
			continue
		}
		x.Lost[id] = c.problem
		x.tell(fmt.Sprintf("cluster %s: %s", id, c.problem))
	}
	slices.Sort(x.Whole)
	return x, nil
}

func (x *Examined) visit(in [][]byte, key, value []byte) error {
	switch {
	case len(in) == 1 && bytes.Equal(in[0], bucketStates):
		c := x.cluster(string(key))
		var st State
		if err := json.Unmarshal(value, &st); err != nil || st.ID != string(key) {
			c.fail("its state cannot be read: %v", err)
			return nil
		}
		c.state = &st
	case len(in) == 2 && bytes.Equal(in[0], bucketSnapshots):
		c := x.cluster(string(in[1]))
		var s Snapshot
		if err := json.Unmarshal(value, &s); err != nil || !bytes.Equal(key, number(s.Seq)) {
			c.fail("a version cannot be read: %v", err)
			return nil
		}
		c.snapshots[s.Seq] = true
	case len(in) == 2 && bytes.Equal(in[0], bucketEntries):
		c := x.cluster(string(in[1]))
		if len(key) != 8 {
			c.fail("an object cannot be read")
			return nil
		}
		row := binary.BigEndian.Uint64(key)
		e, err := decodeEntry(row, value, nil)
		if err != nil {
			c.fail("object %d cannot be read: %v", row, err)
			return nil
		}
		c.entries[row] = e
	case len(in) == 2 && bytes.Equal(in[0], bucketDocuments):
		if len(value) >= 8 {
			x.Documents++
		}
	}
	return nil
}

func (x *Examined) payload(in [][]byte, key, value []byte) error {
	if len(in) != 2 || !bytes.Equal(in[0], bucketPayloads) || len(key) != 8 {
		return nil
	}
	c := x.cluster(string(in[1]))
	row := binary.BigEndian.Uint64(key)
	if c.state != nil && row >= c.state.NextRow {
		return nil // of a change that was not finished
	}
	e := c.entries[row]
	switch {
	case e == nil:
		c.fail("the entry of object %d is missing", row)
	case len(value) != int(e.Size) || SumOf(e.Type, value) != e.Sum:
		c.fail("the content of %s %s/%s is damaged", e.Type, e.Namespace, e.Name)
	default:
		c.payloads++
		c.bytes += int64(len(value))
	}
	return nil
}

// judge finds out whether everything of the cluster is there. A cluster of which an object is missing must not be shown
// as whole.
func (c *examinedCluster) judge() {
	if c.state == nil {
		c.fail("its state is missing")
		return
	}
	n := 0
	for row := range c.entries {
		if row < c.state.NextRow {
			n++
		}
	}
	if want := c.state.Retained; n != want.Objects || c.payloads != want.Objects || c.bytes != want.Bytes {
		c.fail("%d of %d objects can be read", min(n, c.payloads), want.Objects)
	}
	if latest := c.state.Latest.Seq; latest > 0 {
		for seq := max(1, c.state.Oldest); seq <= latest; seq++ {
			if !c.snapshots[seq] {
				c.fail("version %d of %d is missing", seq, latest)
				return
			}
		}
	}
}

// Repair writes what can be read of a database file, whole clusters and documents, to a new one that takes its place, and
// returns where the damaged one is kept.
func Repair(path string, now time.Time) (x *Examined, kept string, err error) {
	unlock, err := lockStopped(path)
	if err != nil {
		return nil, "", fmt.Errorf("database %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if x, err = Examine(path); err != nil {
		return nil, "", err
	}
	next := path + ".repaired"
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, "", err
	}
	if err := x.copyTo(next); err != nil {
		return nil, "", fmt.Errorf("write %s: %w", next, err)
	}
	kept, err = replaceFile(path, next, now)
	return x, kept, err
}

// Restore puts a copy of a database file in its place, and returns where the former one is kept; empty: there was none.
func Restore(path, from string, now time.Time) (kept string, err error) {
	x, err := Examine(from)
	if err != nil {
		return "", err
	}
	if x.Damaged > 0 {
		return "", fmt.Errorf("database %s: %w", from, damage(x.Damage[0]))
	}
	if _, err := os.Stat(path); err == nil {
		unlock, lockErr := lockStopped(path)
		if lockErr != nil {
			return "", fmt.Errorf("database %s: %w", path, lockErr)
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	next := path + ".restored"
	if err := copyFile(next, from); err != nil {
		return "", err
	}
	return replaceFile(path, next, now)
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from) //nolint:gosec // the operator names it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // the operator names it
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(err, out.Close())
	}
	return errors.Join(out.Sync(), out.Close())
}

// replaceFile puts next in the place of path.
//
// There is a file at path all the time: whoever starts after a crash between two steps would else begin with an empty one.
func replaceFile(path, next string, now time.Time) (kept string, err error) {
	if _, err := os.Stat(path); err == nil {
		kept = path + ".before-" + now.UTC().Format("20060102T150405.000000000")
		if err := os.Link(path, kept); err != nil {
			// Some file systems have no second names.
			if err := copyFile(kept, path); err != nil {
				return "", err
			}
		}
		if err := syncFolder(filepath.Dir(path)); err != nil {
			return kept, err
		}
	}
	if err := os.Rename(next, path); err != nil {
		return kept, err
	}
	return kept, syncFolder(filepath.Dir(path))
}

// copyTo writes whole clusters and documents to a new database file.
func (x *Examined) copyTo(path string) error {
	b, err := openEmbedded(path)
	if err != nil {
		return err
	}
	var batch []func(tx *bolt.Tx) error
	size := 0
	flush := func() error {
		err := b.db.Load().Update(func(tx *bolt.Tx) error {
			for _, f := range batch {
				if err := f(tx); err != nil {
					return err
				}
			}
			return nil
		})
		batch, size = nil, 0
		return err
	}
	err = walkFile(x.Path, func(in [][]byte, key, value []byte) error {
		if !x.keeps(in, key, value) {
			return nil
		}
		in, key, value = slices.Clone(in), bytes.Clone(key), bytes.Clone(value)
		batch = append(batch, func(tx *bolt.Tx) error {
			bucket := tx.Bucket(in[0])
			for _, name := range in[1:] {
				var err error
				if bucket, err = bucket.CreateBucketIfNotExists(name); err != nil {
					return err
				}
			}
			return bucket.Put(key, value)
		})
		if size += len(value); size > stageBytes {
			return flush()
		}
		return nil
	}, func([][]byte, string) {})
	return errors.Join(err, flush(), b.Close())
}

// keeps tells whether a key is worth keeping.
func (x *Examined) keeps(in [][]byte, key, value []byte) bool {
	whole := func(id []byte) bool {
		_, found := slices.BinarySearch(x.Whole, string(id))
		return found
	}
	switch {
	case len(key) == 0:
		return false
	case len(in) == 1:
		return bytes.Equal(in[0], bucketStates) && whole(key)
	case len(in) == 2 && bytes.Equal(in[0], bucketDocuments):
		return len(value) >= 8
	case len(in) == 2:
		return slices.ContainsFunc([][]byte{bucketSnapshots, bucketEntries, bucketPayloads}, func(b []byte) bool { return bytes.Equal(b, in[0]) }) && whole(in[1])
	}
	return false
}
