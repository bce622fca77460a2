package reporter

import (
	"fmt"
	"unsafe"

	"google.golang.org/grpc/encoding"
	encproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// message is a KubernetesAPISyncRequest that is never put together: a header, and the records that the entries already
// are. Sending a hundred megabytes costs a few bytes per entry on top of the snapshot.
type message struct {
	header  *agent.KubernetesAPISyncRequest
	entries *snapshot.Snapshot
}

// codec writes messages without copying their entries, and is the usual protobuf codec for everything else.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(encproto.Name)} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*message)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	header, err := proto.Marshal(m.header)
	if err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	if m.entries == nil {
		return mem.BufferSlice{mem.SliceBuffer(header)}, nil
	}
	// The slice headers live in one array, of which the interfaces hold pointers: one allocation, not one per entry.
	buffers := make([]mem.SliceBuffer, 0, m.entries.Len()+1)
	buffers = append(buffers, header)
	for e := range m.entries.All() {
		w := e.Wire()
		// gRPC only reads the bytes of a message, so that they may be those of a string.
		buffers = append(buffers, unsafe.Slice(unsafe.StringData(w), len(w))) //nolint:gosec // see above
	}
	out := make(mem.BufferSlice, len(buffers))
	for i := range buffers {
		out[i] = &buffers[i]
	}
	return out, nil
}
