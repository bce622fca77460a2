package resources

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"sync"
	"unsafe"

	"github.com/klauspost/compress/zlib"
	"google.golang.org/protobuf/encoding/protowire"
)

// UID is a Kubernetes UID in 16 bytes, so that a hundred thousand of them stay small.
type UID [16]byte

// ParseUID returns the 16 bytes of a UUID in its usual text form. Any other string (the apiserver makes none, but
// aggregated APIs may) is mapped to the first 16 bytes of its SHA-256. The empty string gives the zero UID.
func ParseUID(s string) UID { return parseUID(s) }

func parseUID[S string | []byte](s S) UID {
	var u UID
	if len(s) == 0 {
		return u
	}
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		var h [32]byte
		n := copy(h[:], s[0:8])
		n += copy(h[n:], s[9:13])
		n += copy(h[n:], s[14:18])
		n += copy(h[n:], s[19:23])
		copy(h[n:], s[24:36])
		if _, err := hex.Decode(u[:], h[:]); err == nil {
			return u
		}
	}
	sum := sha256.Sum256([]byte(s))
	copy(u[:], sum[:])
	return u
}

// Entry is one Kubernetes object in the form in which it is sent: a KubernetesAPIInfo, encoded once, never changed. It is
// made by an Encoder only and cannot be copied.
//
// A large cluster has a hundred thousand of them, so an entry is one piece of memory without a pointer: these 48 bytes and
// its wire form right behind them. The collector has half as many objects to look at, and nothing to follow.
type Entry struct {
	_         uncopied
	uid       UID
	owner     UID
	sum       uint64
	size      uint32 // of the wire form
	wireType  uint16
	ownerKind uint16
}

const headerSize = unsafe.Sizeof(Entry{})

// uncopied makes go vet find copies of what holds it, which would leave the wire form behind.
type uncopied struct{}

func (*uncopied) Lock()   {}
func (*uncopied) Unlock() {}

// newEntry returns an entry without anything but its wire form.
func newEntry(wire []byte) *Entry {
	// Words, not bytes, so that the header is aligned; and a byte at least, so that there is one to point at.
	const word = unsafe.Sizeof(uint64(0))
	block := make([]uint64, (headerSize+uintptr(max(1, len(wire)))+word-1)/word)
	e := (*Entry)(unsafe.Pointer(unsafe.SliceData(block))) //nolint:gosec // see Entry
	e.size = uint32(len(wire))
	copy(unsafe.Slice(e.payload(), len(wire)), wire) //nolint:gosec // within block
	return e
}

func (e *Entry) payload() *byte {
	return (*byte)(unsafe.Add(unsafe.Pointer(e), headerSize)) //nolint:gosec // see newEntry
}

// UID identifies the object.
func (e *Entry) UID() UID { return e.uid }

// WireType is the type under which the server files the object, for example "*v1.Pod".
func (e *Entry) WireType() string { return wireTypes.name(e.wireType) }

// Owner is the UID of the first ownerReference as it is sent, zero if there is none.
func (e *Entry) Owner() UID { return e.owner }

// OwnerKind is "apiVersion/Kind" of the first ownerReference as the apiserver has it (so before any renaming by `as`),
// for example "apps/v1/ReplicaSet"; empty if there is none.
func (e *Entry) OwnerKind() string { return ownerKinds.name(e.ownerKind) }

// Sum is a hash of type and content, comparable within this process only.
func (e *Entry) Sum() uint64 { return e.sum }

// Wire is the entry as a complete record of a KubernetesAPISyncRequest: tag and length of field 10 and the encoded
// KubernetesAPIInfo. A request is the concatenation of its header fields and the records of its entries.
func (e *Entry) Wire() string { return unsafe.String(e.payload(), e.size) } //nolint:gosec // it never changes

// JSON returns the object's JSON as the server will see it.
func (e *Entry) JSON() ([]byte, error) {
	payload, err := compressedInfo(e.Wire())
	if err != nil {
		return nil, err
	}
	zr, err := zlib.NewReader(bytes.NewReader(payload))
	if err != nil {
		return nil, fmt.Errorf("decompress entry: %w", err)
	}
	out, err := io.ReadAll(zr)
	if err != nil {
		return nil, fmt.Errorf("decompress entry: %w", err)
	}
	return out, nil
}

func compressedInfo(wire string) ([]byte, error) {
	b := []byte(wire)
	_, _, n := protowire.ConsumeTag(b)
	if n < 0 {
		return nil, protowire.ParseError(n)
	}
	msg, m := protowire.ConsumeBytes(b[n:])
	if m < 0 {
		return nil, protowire.ParseError(m)
	}
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		msg = msg[n:]
		if num == 3 && typ == protowire.BytesType {
			v, n := protowire.ConsumeBytes(msg)
			if n < 0 {
				return nil, protowire.ParseError(n)
			}
			return v, nil
		}
		n = protowire.ConsumeFieldValue(num, typ, msg)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		msg = msg[n:]
	}
	return nil, errors.New("entry without compressed_info")
}

// Content is what an Entry is made of.
type Content struct {
	WireType  string
	UID       UID
	Owner     UID
	OwnerKind string
	JSON      []byte // one JSON object; not kept
}

// Encoder makes entries. It is not safe for concurrent use: give each goroutine its own.
type Encoder struct {
	buf bytes.Buffer
	out []byte
}

// compressors are shared by all encoders, because each holds more than a megabyte: there are as many as compress at the
// same time, and none when nothing changes.
var compressors = sync.Pool{New: func() any {
	// Level 6, as deepflow-agent's.
	zw, err := zlib.NewWriterLevel(io.Discard, 6)
	if err != nil {
		panic(err) // 6 is a valid level
	}
	return zw
}}

// NewEncoder returns an Encoder that compresses with zlib at level 6, as deepflow-agent does.
func NewEncoder() *Encoder { return &Encoder{} }

var sumSeed = maphash.MakeSeed()

// Encode returns the entry for c. If known (may be nil) has the same content it is returned itself, without
// compressing anything: that is what makes an unchanged object cheap.
func (e *Encoder) Encode(c Content, known *Entry) *Entry {
	var h maphash.Hash
	h.SetSeed(sumSeed)
	_, _ = h.WriteString(c.WireType)
	_ = h.WriteByte(0)
	_, _ = h.Write(c.JSON)
	sum := h.Sum64()
	if known != nil && known.sum == sum && known.uid == c.UID && known.owner == c.Owner {
		return known
	}
	e.buf.Reset()
	zw, _ := compressors.Get().(*zlib.Writer)
	zw.Reset(&e.buf)
	// Writing to a bytes.Buffer cannot fail.
	_, _ = zw.Write(c.JSON)
	_ = zw.Close()
	compressors.Put(zw)
	z := e.buf.Bytes()
	inner := protowire.SizeTag(1) + protowire.SizeBytes(len(c.WireType)) + protowire.SizeTag(3) + protowire.SizeBytes(len(z))
	e.out = protowire.AppendTag(e.out[:0], 10, protowire.BytesType)
	e.out = protowire.AppendVarint(e.out, uint64(inner))
	e.out = protowire.AppendTag(e.out, 1, protowire.BytesType)
	e.out = protowire.AppendString(e.out, c.WireType)
	e.out = protowire.AppendTag(e.out, 3, protowire.BytesType)
	e.out = protowire.AppendBytes(e.out, z)
	made := newEntry(e.out)
	made.uid, made.owner, made.sum = c.UID, c.Owner, sum
	made.wireType, made.ownerKind = wireTypes.index(c.WireType), ownerKinds.index(c.OwnerKind)
	return made
}

// names gives short numbers to the few strings that very many entries share. Number 0 is the empty string, and stands
// for every name that comes after the table is full, so that a hostile cluster cannot make it grow without limit.
type names struct {
	mu    sync.RWMutex
	byStr map[string]uint16
	byNum []string
}

const maxNames = 4096

var wireTypes, ownerKinds names

func (t *names) index(s string) uint16 {
	if s == "" {
		return 0
	}
	t.mu.RLock()
	n, ok := t.byStr[s]
	t.mu.RUnlock()
	if ok {
		return n
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.byStr[s]; ok {
		return n
	}
	if t.byStr == nil {
		t.byStr = map[string]uint16{}
		t.byNum = []string{""}
	}
	if len(t.byNum) >= maxNames {
		return 0
	}
	s = string(append([]byte(nil), s...))
	n = uint16(len(t.byNum))
	t.byNum = append(t.byNum, s)
	t.byStr[s] = n
	return n
}

func (t *names) name(n uint16) string {
	if n == 0 {
		return ""
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byNum[n]
}
