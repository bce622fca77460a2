package upstream

import (
	"context"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/stats"
)

// frame is one message as it came: the bytes of gRPC's own buffers, referenced and not copied.
type frame struct {
	data mem.BufferSlice
}

func (f *frame) free() {
	f.data.Free()
	f.data = nil
}

// whenSent calls done once gRPC has written the message out and nobody refers to it any more.
func (f *frame) whenSent(done func()) {
	left := &atomic.Int64{}
	left.Store(1)
	last := func() {
		if left.Add(-1) == 0 {
			done()
		}
	}
	for i, b := range f.data {
		data := b.ReadOnlyData()
		if mem.IsBelowBufferPoolingThreshold(cap(data)) {
			continue // gRPC does not tell when it is free
		}
		left.Add(1)
		f.data[i] = mem.NewBuffer(&data, freed{of: b, done: last})
	}
	last()
}

// freed is told when a buffer is free.
type freed struct {
	of   mem.Buffer
	done func()
}

// Get implements mem.BufferPool; nothing is taken from it.
func (freed) Get(n int) *[]byte { return new(make([]byte, n)) }

// Put implements mem.BufferPool.
func (p freed) Put(*[]byte) {
	p.of.Free()
	p.done()
}

// replace makes b the message.
func (f *frame) replace(b []byte) {
	f.data.Free()
	f.data = mem.BufferSlice{mem.SliceBuffer(b)}
}

// codec passes messages on undecoded.
type codec struct{}

// Name implements encoding.CodecV2; it is that of the ordinary codec, for this is what goes over the wire.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2. gRPC frees what it returns.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("message of type %T", v)
	}
	f.data.Ref()
	return f.data, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("message of type %T", v)
	}
	data.Ref()
	f.data = data
	return nil
}

// encodings notes how the messages of both sides of a call are compressed. gRPC tells it to a stats.Handler only.
type encodings struct {
	agent, server atomic.Pointer[string]
}

type encodingsKey struct{}

func encodingsOf(ctx context.Context) *encodings {
	e, _ := ctx.Value(encodingsKey{}).(*encodings)
	return e
}

func load(p *atomic.Pointer[string]) string {
	if s := p.Load(); s != nil && *s != "identity" {
		return *s
	}
	return ""
}

// encodingHandler is a stats.Handler of one side.
type encodingHandler struct {
	// begins says that this side's calls begin here: the side of the agents.
	begins bool
}

// TagRPC implements stats.Handler.
func (h encodingHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	if h.begins {
		return context.WithValue(ctx, encodingsKey{}, &encodings{})
	}
	return ctx
}

// HandleRPC implements stats.Handler.
func (h encodingHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	in, ok := s.(*stats.InHeader)
	if !ok || in.Compression == "" {
		return
	}
	if e := encodingsOf(ctx); e != nil {
		if h.begins {
			e.agent.Store(&in.Compression)
		} else {
			e.server.Store(&in.Compression)
		}
	}
}

// TagConn implements stats.Handler.
func (encodingHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (encodingHandler) HandleConn(context.Context, stats.ConnStats) {}
