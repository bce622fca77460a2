package receiver

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// message is a request as it came: the bytes of gRPC's own buffers, referenced and not copied. A report of 100 MiB so
// takes its size once.
type message struct {
	data mem.BufferSlice
	peer string // as Peer.quotaKey
	// gate is where the message has its place, and held how many bytes it has there; nil: nowhere yet.
	gate *gate
	held int64
	left func() // called when the place is given back
}

func (m *message) free() {
	m.data.Free()
	m.data = nil
	if m.gate != nil {
		m.gate.leave(m.peer, m.held)
		m.left()
		m.gate = nil
	}
}

// What a report takes while it is worked on, beyond its own bytes: entryWeight for each entry, of which the gate has
// counted half of its length from the start.
const entryWeight = 160

// weight is what a request of so many bytes counts at the gate.
func weight(length int) int64 { return int64(length) + int64(length)/2 }

// weigh counts the entries of the message at the gate, or refuses them if there is no room.
func (m *message) weigh(entries int) error {
	more := int64(entries)*entryWeight - int64(m.data.Len())/2
	if m.gate == nil || more <= 0 {
		return nil
	}
	if !m.gate.more(more) {
		return &refusal{
			code: codes.ResourceExhausted, rule: ruleCapacity,
			what:   fmt.Sprintf("there is no memory left for requests to work on %d entries", entries),
			advice: "send it again later, report fewer types, or give pseudo-server more memory (limits.memory, by default the container's memory limit)",
		}
	}
	m.held += more
	return nil
}

// maxFields bounds the fields of a small message, which take more memory decoded than on the wire. deepflow-agents send a
// hundred, and one for each address of the host.
const maxFields = 4096

// countFields refuses a small message that would become large in memory.
func (m *message) countFields() error {
	c := cursor{rest: m.data, left: m.data.Len()}
	for n := 0; !c.end(); n++ {
		if n == maxFields {
			return fmt.Errorf("more than %d fields", maxFields)
		}
		num, typ, err := c.tag()
		if err != nil {
			return err
		}
		if err := c.skip(num, typ); err != nil {
			return err
		}
	}
	return nil
}

// codec encodes responses as usual. Requests are received without it, see receive.go.
type codec struct{}

// Name implements encoding.CodecV2; it is that of the ordinary codec, for this is what goes over the wire.
func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("response of type %T", v)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (codec) Unmarshal(_ mem.BufferSlice, v any) error { return fmt.Errorf("request of type %T", v) }

// decode decodes a small message.
func (m *message) decode(into proto.Message) error {
	return proto.Unmarshal(m.data.Materialize(), into)
}

// request is a KubernetesAPISyncRequest. Its entries lie in the buffers of the message.
type request struct {
	clusterID string
	version   uint64
	errorMsg  string
	agentID   uint32
	sourceIP  string
	teamID    string
	entries   []rawEntry
	work      chan struct{} // as gate.work; nil: not bounded
}

// rawEntry is a KubernetesAPIInfo, not yet looked at.
type rawEntry struct {
	wireType string
	payload  []byte
}

// errTooManyEntries ends parsing before the entries take more memory than allowed.
var errTooManyEntries = errors.New("too many entries")

// maxHeaderString bounds the strings that are not entries, in bytes; error_msg is the only long one.
const maxHeaderString = 1 << 20

// parseRequest reads a KubernetesAPISyncRequest with at most maxEntries entries. The payloads are valid as long as
// the message's buffers are. weigh, which may be nil, is told how many entries there are before they take memory; its error
// ends the parsing.
func parseRequest(data mem.BufferSlice, maxEntries int, weigh func(entries int) error) (*request, error) {
	n, err := countEntries(data, maxEntries)
	if err == nil && weigh != nil {
		err = weigh(n)
	}
	if err != nil {
		return nil, err
	}
	c := cursor{rest: data, left: data.Len()}
	types := map[string]string{}
	r := request{entries: make([]rawEntry, 0, n)}
	for !c.end() {
		num, typ, err := c.tag()
		if err != nil {
			return nil, err
		}
		switch {
		case num == 10 && typ == protowire.BytesType:
			err = r.addEntry(&c, types)
		case (num == 2 || num == 4) && typ == protowire.VarintType:
			err = r.setNumber(&c, num)
		case (num == 1 || num == 3 || num == 5 || num == 6) && typ == protowire.BytesType:
			err = r.setText(&c, num)
		default:
			err = c.skip(num, typ)
		}
		if err != nil {
			return nil, err
		}
	}
	return &r, nil
}

func (req *request) addEntry(c *cursor, types map[string]string) error {
	b, err := c.bytes()
	if err == nil {
		var e rawEntry
		if e, err = parseEntry(b, types); err == nil {
			req.entries = append(req.entries, e)
			return nil
		}
	}
	return fmt.Errorf("entry %d: %w", len(req.entries), err)
}

func (req *request) setNumber(c *cursor, num protowire.Number) error {
	v, err := c.varint()
	if err != nil {
		return err
	}
	if num == 2 {
		req.version = v
	} else {
		req.agentID = uint32(v)
	}
	return nil
}

func (req *request) setText(c *cursor, num protowire.Number) error {
	b, err := c.bytes()
	if err != nil {
		return err
	}
	if len(b) > maxHeaderString {
		return fmt.Errorf("field %d has %d bytes, at most %d are allowed", num, len(b), maxHeaderString)
	}
	switch num {
	case 1:
		req.clusterID = string(b)
	case 3:
		req.errorMsg = string(b)
	case 5:
		req.sourceIP = string(b)
	case 6:
		req.teamID = string(b)
	}
	return nil
}

// countEntries passes over a request, so that its entries are then collected without memory being wasted.
func countEntries(data mem.BufferSlice, maxEntries int) (int, error) {
	c := cursor{rest: data, left: data.Len()}
	n := 0
	for !c.end() {
		num, typ, err := c.tag()
		if err != nil {
			return 0, err
		}
		if num == 10 && typ == protowire.BytesType {
			if n++; n > maxEntries {
				return 0, errTooManyEntries
			}
		}
		if err := c.skip(num, typ); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// parseEntry reads a KubernetesAPIInfo. Wire types that are in types already take no memory of their own.
func parseEntry(b []byte, types map[string]string) (rawEntry, error) {
	var e rawEntry
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return e, protowire.ParseError(n)
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return e, protowire.ParseError(n)
		}
		if typ == protowire.BytesType && (num == 1 || num == 3) {
			v, _ := protowire.ConsumeBytes(b)
			if num == 3 {
				e.payload = v
			} else if len(v) > maxTypeLength {
				return e, fmt.Errorf("its type has %d bytes, at most %d are allowed", len(v), maxTypeLength)
			} else {
				e.wireType = internType(types, v)
			}
		}
		b = b[n:]
	}
	return e, nil
}

// internType returns the one string of each wire type, of which there are few.
func internType(types map[string]string, v []byte) string {
	t, ok := types[string(v)]
	if !ok {
		t = string(v)
		if len(types) < maxTypes {
			types[t] = t
		}
	}
	return t
}

// cursor reads protobuf records from a sequence of buffers. It copies only what lies across a border.
type cursor struct {
	rest mem.BufferSlice
	off  int // within rest[0]
	left int
}

func (c *cursor) end() bool {
	for len(c.rest) > 0 && c.off == c.rest[0].Len() {
		c.rest = c.rest[1:]
		c.off = 0
	}
	return len(c.rest) == 0
}

func (c *cursor) varint() (uint64, error) {
	var v uint64
	for shift := uint(0); shift < 70; shift += 7 {
		if c.end() {
			return 0, io.ErrUnexpectedEOF
		}
		b := c.rest[0].ReadOnlyData()[c.off]
		c.off++
		c.left--
		if shift == 63 && b > 1 {
			break
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v, nil
		}
	}
	return 0, errors.New("a number is too long")
}

func (c *cursor) tag() (protowire.Number, protowire.Type, error) {
	v, err := c.varint()
	if err != nil {
		return 0, 0, err
	}
	num, typ := protowire.DecodeTag(v)
	if num < protowire.MinValidNumber {
		return 0, 0, errors.New("invalid field number")
	}
	return num, typ, nil
}

func (c *cursor) bytes() ([]byte, error) {
	n, err := c.varint()
	if err != nil {
		return nil, err
	}
	if n > uint64(c.left) {
		return nil, io.ErrUnexpectedEOF
	}
	return c.take(int(n)), nil
}

// take returns the next n bytes, which must be there.
func (c *cursor) take(n int) []byte {
	if n == 0 || c.end() {
		return nil
	}
	c.left -= n
	data := c.rest[0].ReadOnlyData()[c.off:]
	if n <= len(data) {
		c.off += n
		return data[:n:n]
	}
	out := make([]byte, 0, n)
	for len(out) < n && !c.end() {
		data = c.rest[0].ReadOnlyData()[c.off:]
		m := min(n-len(out), len(data))
		out = append(out, data[:m]...)
		c.off += m
	}
	return out
}

// skip passes over a field that we do not know. Groups are not part of any message here.
func (c *cursor) skip(num protowire.Number, typ protowire.Type) error {
	var n uint64
	var err error
	switch typ {
	case protowire.VarintType:
		_, err = c.varint()
	case protowire.BytesType:
		n, err = c.varint()
	case protowire.Fixed32Type:
		n = 4
	case protowire.Fixed64Type:
		n = 8
	default:
		err = fmt.Errorf("field %d has wire type %d", num, typ)
	}
	if err != nil {
		return err
	}
	if n > uint64(c.left) {
		return io.ErrUnexpectedEOF
	}
	c.discard(int(n))
	return nil
}

// discard passes over the next n bytes, which must be there.
func (c *cursor) discard(n int) {
	c.left -= n
	for n > 0 && !c.end() {
		m := min(n, c.rest[0].Len()-c.off)
		c.off += m
		n -= m
	}
}
