package receiver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// wireStream is what gRPC's transport offers beneath ServerStream.RecvMsg. With it the size of a message is known, and can
// be refused, before any of it is taken in; and what comes too slowly can be ended.
type wireStream interface {
	ReadMessageHeader(header []byte) error
	Read(n int) (mem.BufferSlice, error)
}

// wireOf returns the stream of a request.
func wireOf(ctx context.Context) (wireStream, error) {
	if w, ok := grpc.ServerTransportStreamFromContext(ctx).(wireStream); ok {
		return w, nil
	}
	return nil, errors.New("this release of gRPC hides its streams") // TestReceive fails then
}

// How much is received at once, in bytes. The first portion is what the flow control lets a client send before anybody
// reads; the following ones grow, so that a long way does not slow a sender down.
const (
	firstPortion = 64<<10 - headerSize
	maxPortion   = 1 << 20
	headerSize   = 5 // of a gRPC message: a flag and the length
)

// patience is how long a portion may take beyond what Limits.MinReceiveRate says.
const patience = 5 * time.Second

// errSlow is why a request ends that comes too slowly, errTimeout that of one that is not answered in time.
var (
	errSlow    = errors.New("received too slowly")
	errTimeout = errors.New("request timeout")
)

// pendingKey is the context key of a request's pending.
type pendingKey struct{}

// pending is what ends a request before its time, and the request's context.
type pending struct {
	context.Context //nolint:containedctx // it is one
	abort           context.CancelCauseFunc
	release         context.CancelFunc
	slow            *time.Timer // aborts; one for all portions, since every Sync has two
}

// Value implements context.Context.
func (p *pending) Value(key any) any {
	if key == (pendingKey{}) {
		return p
	}
	return p.Context.Value(key)
}

// bounded returns a request's context that ends after the request timeout and can be ended before. Its timer ends
// with the stream, whose context is the one above.
func (r *Receiver) bounded(ctx context.Context) context.Context {
	ctx, release := context.WithTimeoutCause(ctx, r.opts.Limits.RequestTimeout, errTimeout)
	ctx, abort := context.WithCancelCause(ctx)
	return &pending{Context: ctx, abort: abort, release: release}
}

// within calls read, which is to receive n bytes, and ends the request if that is too slow.
func (r *Receiver) within(ctx context.Context, n int, read func() error) error {
	p, ok := ctx.Value(pendingKey{}).(*pending)
	if !ok {
		return read() // it came without a network
	}
	patient := patience + time.Duration(n)*time.Second/time.Duration(r.opts.Limits.MinReceiveRate)
	if p.slow == nil {
		p.slow = time.AfterFunc(patient, func() {
			p.abort(errSlow)
			p.release()
		})
	} else {
		p.slow.Reset(patient)
	}
	defer p.slow.Stop()
	return read()
}

// messageLength receives the header of a message and returns the message's length, at most limit.
func (r *Receiver) messageLength(ctx context.Context, w wireStream, limit int) (int, error) {
	var header [headerSize]byte
	if err := r.within(ctx, len(header), func() error { return w.ReadMessageHeader(header[:]) }); err != nil {
		return 0, receiveError(err)
	}
	if header[0] != 0 {
		return 0, status.Error(codes.Unimplemented, "compressed messages are not taken; each object is compressed already")
	}
	length := binary.BigEndian.Uint32(header[1:])
	if int64(length) > int64(limit) {
		advice := "send the messages of docs/protocol.md, section 1"
		if limit == r.opts.Limits.MaxMessageSize {
			advice = "report fewer types or raise limits.max_message_size of pseudo-server"
		}
		return 0, &refusal{
			code: codes.ResourceExhausted, rule: ruleMessageSize, advice: advice,
			what: fmt.Sprintf("the message has %d bytes, at most %d are taken", length, limit),
		}
	}
	return int(length), nil
}

// receive adds n bytes of the message to m, in portions of at most portion bytes, which grow.
func (r *Receiver) receive(ctx context.Context, w wireStream, m *message, n, portion int) error {
	for n > 0 {
		size := min(n, portion)
		err := r.within(ctx, size, func() error {
			data, err := w.Read(size)
			m.data = append(m.data, data...)
			return err
		})
		if err != nil {
			return receiveError(err)
		}
		n -= size
		portion = min(2*portion, maxPortion)
	}
	return nil
}

// receiveError tells a message that ended too early from one whose request ended.
func receiveError(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return invalid(ruleProtobuf, "send the messages of docs/protocol.md, section 1", "the message was not received: %v", err)
}
