// Package store keeps what clusters reported: the latest snapshots of each, entry by entry, compressed as they came.
//
// A Store holds the indexes of the clusters that are in use in memory (about 200 bytes for each entry), and everything in a
// Backend: memory, an embedded database, or PostgreSQL that several replicas share. It relies on the Backend for one thing: a
// Change is applied completely and durably, or not at all, and only upon the revision that it was made for. It
// promises that only differences are written, that a View never changes under its reader, and that nothing is
// forgotten without an Event.
package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"github.com/klauspost/compress/zlib"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotFound means that there is no such cluster, snapshot or document.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that somebody else wrote first; read again and decide again.
	ErrConflict = errors.New("written by somebody else meanwhile")
	// ErrUnavailable means that the database cannot be reached or cannot write; nothing has been stored.
	ErrUnavailable = errors.New("storage is not available")
)

// Failing returns what the storage itself fails with: an error that wraps ErrUnavailable without what was wanted of the storage, so that
// one failure has one text, whichever clusters suffer from it. Another error is returned as it is.
func Failing(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == ErrUnavailable || !errors.Is(inner, ErrUnavailable) { //nolint:errorlint // what only wraps it says more
			return err
		}
		err = inner
	}
}

// OtherWay is how often a log says that the storage fails in another way than before: while a database restarts, each attempt to reach it
// may fail in a way of its own.
const OtherWay = time.Minute

// Patience is how long a loop of the program waits for one answer of the storage.
const Patience = 5 * time.Minute

// Patiently returns a context for one step of such a loop: after Patience it ends, with ErrUnavailable as its cause.
// Backends that only this process uses do not look at it.
func Patiently(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, Patience, fmt.Errorf("%w: no answer within %s", ErrUnavailable, Patience))
}

// Sum identifies the content of an entry: its type and its compressed bytes.
type Sum [16]byte

var hashers = sync.Pool{New: func() any { return sha256.New() }}

// SumOf returns the Sum of an entry as it came over the wire.
func SumOf(wireType string, payload []byte) Sum {
	h, ok := hashers.Get().(hash.Hash)
	if !ok {
		h = sha256.New()
	}
	defer hashers.Put(h)
	h.Reset()
	// Writing to a hash cannot fail.
	_, _ = io.WriteString(h, wireType)
	_, _ = h.Write(zero)
	_, _ = h.Write(payload)
	var all [sha256.Size]byte
	return Sum(h.Sum(all[:0])[:len(Sum{})])
}

// zero ends the type in what is hashed.
var zero = []byte{0}

// Key identifies an object within a cluster: its wire type and UID.
type Key [16]byte

// KeyOf returns the Key of an object; the uid of the entry "*version.Info", which has none, is empty.
func KeyOf(wireType string, uid []byte) Key {
	return Key(SumOf(wireType, uid))
}

// Entry is one object of a snapshot, without its payload. It is never changed.
type Entry struct {
	Row       uint64 // number within the cluster, in order of arrival
	From      uint64 // sequence number of the first snapshot that has it
	To        uint64 // sequence number of the first snapshot that no longer has it, 0 while the latest one has it
	Key       Key
	Sum       Sum
	Type      string
	Namespace string
	Name      string
	Size      uint32 // bytes of the payload as it is stored, compressed with zlib
	RawSize   uint32 // bytes of the object's JSON
}

// decompressors are used again: a new one is larger than most objects, and an inventory is made of thousands of these.
var decompressors sync.Pool

// decompressor returns a reader of what is compressed, to be given back to decompressors.
func decompressor(payload []byte) (io.Reader, error) {
	if used, ok := decompressors.Get().(io.Reader); ok {
		if again, ok := used.(zlib.Resetter); ok {
			return used, again.Reset(bytes.NewReader(payload), nil)
		}
	}
	return zlib.NewReader(bytes.NewReader(payload))
}

// JSON decompresses the entry's payload as Payloads returns it.
func (e *Entry) JSON(payload []byte) ([]byte, error) {
	zr, err := decompressor(payload)
	if err != nil {
		return nil, fmt.Errorf("decompress stored entry: %w", err)
	}
	defer decompressors.Put(zr)
	var data bytes.Buffer
	data.Grow(int(e.RawSize) + bytes.MinRead)
	// One byte more than expected: only at its end the stream's checksum is looked at.
	if _, err := data.ReadFrom(io.LimitReader(zr, int64(e.RawSize)+1)); err != nil {
		return nil, fmt.Errorf("decompress stored entry: %w", err)
	}
	if data.Len() != int(e.RawSize) {
		return nil, fmt.Errorf("decompress stored entry: it does not have the %d bytes that it had", e.RawSize)
	}
	return data.Bytes(), nil
}

// Reporter tells who sent a report.
type Reporter struct {
	AgentID  uint32 `json:"agent_id"`
	SourceIP string `json:"source_ip"`
	TeamID   string `json:"team_id,omitempty"`
	// Peer is the address of the connection, which a proxy may have replaced by its own.
	Peer string `json:"peer"`
	// Identity is the name of the certificate or token by which the sender was admitted, if any.
	Identity string `json:"identity,omitempty"`
}

// Count is the number of objects of a type and their bytes, compressed.
type Count struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// Snapshot describes one stored version.
type Snapshot struct {
	Seq        uint64           `json:"seq"` // 1, 2, 3 … in order of arrival
	Version    uint64           `json:"version"`
	ReceivedAt time.Time        `json:"received_at"`
	Reporter   Reporter         `json:"reporter"`
	Types      map[string]Count `json:"types"`
	Objects    int              `json:"objects"`
	Bytes      int64            `json:"bytes"`
	RawBytes   int64            `json:"raw_bytes"`
	// Compared with the snapshot before.
	Added   int `json:"added"`
	Changed int `json:"changed"`
	Removed int `json:"removed"`
}

// State is all that is kept of a cluster besides its snapshots and entries.
type State struct {
	ID string `json:"id"`
	// Born tells a cluster from one of the same id that was forgotten before.
	Born     string `json:"born"`
	Revision uint64 `json:"revision"` // rises with every write
	NextRow  uint64 `json:"next_row"`
	Oldest   uint64 `json:"oldest"` // sequence number of the oldest snapshot kept
	// SecondAt is when the snapshot after the oldest one came; zero: there is none, or another release wrote this.
	SecondAt    time.Time `json:"second_at,omitzero"`
	FirstReport time.Time `json:"first_report,omitzero"`
	LastReport  time.Time `json:"last_report,omitzero"` // the last stored request, heartbeats included
	ErrorMsg    string    `json:"error_msg,omitempty"`
	ErrorSince  time.Time `json:"error_since,omitzero"`
	Reporter    Reporter  `json:"reporter"`
	Latest      Snapshot  `json:"latest"` // Seq 0: nothing is stored yet
	// Retained counts the entries of all kept snapshots, each once.
	Retained Count `json:"retained"`
	// Memory is what the index of all kept snapshots takes, in bytes; 0: written by a release, or a server, that did not count.
	Memory    int64      `json:"memory,omitempty"`
	Suspicion *Suspicion `json:"suspicion,omitempty"`
	// Origin is where the cluster's first report came from, as Touch has it.
	Origin string `json:"origin,omitempty"`
	// Enrolled is by what the cluster was let in and to whom it is bound since; nil: it was there before, or anybody may enroll.
	Enrolled *Enrolled `json:"enrolled,omitempty"`
	// Labels are an operator's, for people and for lists of clusters.
	Labels map[string]string `json:"labels,omitempty"`
	// NodeOrder is the order in which the latest report had its Nodes, for View.Nodes; empty: not known.
	NodeOrder []byte `json:"node_order,omitempty"`
}

// Enrolled binds a cluster to the holders of the token by which it was let in.
type Enrolled struct {
	Token string    `json:"token"` // its name
	At    time.Time `json:"at"`
}

// Suspicion is a report that was refused because it would remove too much, or is another cluster's.
type Suspicion struct {
	// Other is set if the report is of another cluster: its Namespace kube-system is not the stored one.
	Other bool `json:"other_cluster,omitempty"`
	// Digest stands for the set of objects of the refused report.
	Digest   string    `json:"digest"`
	Version  uint64    `json:"version"`
	Since    time.Time `json:"since"` // when this set of objects was refused first
	Last     time.Time `json:"last"`
	Refused  int       `json:"refused"` // how often
	Objects  int       `json:"objects"` // in the refused report
	Removed  int       `json:"removed"` // objects that would go
	Stored   int       `json:"stored"`  // objects stored now
	Reporter Reporter  `json:"reporter"`
	// Accepted is set when an operator accepts that objects go; the next report until then is stored whatever it removes.
	AcceptedUntil time.Time `json:"accepted_until,omitzero"`
	AcceptedBy    string    `json:"accepted_by,omitempty"`
}

// Added is an entry that a Change adds. The payload is only read, and not after the call.
type Added struct {
	Entry   *Entry
	Payload []byte
}

// Since is how far a reader has read: the sequence number of the latest snapshot and the first row that it does not
// have. The zero Since is the beginning.
type Since struct {
	Seq, Row uint64
}

// has tells whether the reader has the entry as it is.
func (s Since) has(e *Entry) bool { return e.Row < s.Row && e.To <= s.Seq }

// Change is one write to a cluster.
type Change struct {
	// Expected is the revision upon which the change was made, 0 for a new cluster; State.Revision is the next one.
	Expected uint64
	State    State
	Snapshot *Snapshot // nil: no new one
	Added    []Added
	Ended    []*Entry // entries that the new snapshot no longer has, To set
	// Forgotten history.
	DroppedRows []uint64
	DroppedSeqs []uint64
}

// Backend is where a Store keeps its data. Its errors wrap ErrNotFound, ErrConflict or ErrUnavailable where these apply.
type Backend interface {
	// Clusters returns the states of all clusters, in no particular order.
	Clusters(ctx context.Context) ([]State, error)
	// State returns a cluster's state, or ErrNotFound.
	State(ctx context.Context, id string) (State, error)
	// Load returns a cluster's state and snapshots (oldest first) and calls yield for each entry whose Row is at least
	// since.Row or whose To is greater than since.Seq, all as of one moment; ErrNotFound if there is no such cluster.
	Load(ctx context.Context, id string, since Since, yield func(*Entry) error) (State, []Snapshot, error)
	// Payloads returns the payloads of rows, nil for a row that is gone. The result belongs to the caller.
	Payloads(ctx context.Context, id string, rows []uint64) ([][]byte, error)
	// Commit applies a change, or returns ErrConflict if the revision is not the expected one.
	Commit(ctx context.Context, c *Change) error
	// Forget removes a cluster, or returns ErrConflict.
	Forget(ctx context.Context, id string, expected uint64) error
	// Document returns the value and the revision of a document, or ErrNotFound.
	Document(ctx context.Context, kind, key string) (Document, error)
	// Documents returns all documents of a kind, ordered by key.
	Documents(ctx context.Context, kind string) ([]Document, error)
	// PutDocument writes a document whose present revision is d.Revision (0: there is none yet) and returns the new
	// revision, or ErrConflict. A nil value removes it; revisions of a document that was removed start over.
	PutDocument(ctx context.Context, kind string, d Document) (uint64, error)
	// Check returns an error if the backend cannot be used now.
	Check(ctx context.Context) error
	// Shared says whether other processes may write too.
	Shared() bool
	// Close releases everything. It waits for calls under way.
	Close() error
}

// Document is a small value that other parts keep beside the clusters: a decision of the elector, a plugin.
type Document struct {
	Key      string
	Value    []byte
	Revision uint64
}
