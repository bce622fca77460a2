package receiver

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// counting counts the buffers that are out.
type counting struct {
	out int
	mem.BufferPool
}

func (p *counting) Get(n int) *[]byte {
	p.out++
	return p.BufferPool.Get(n)
}

func (p *counting) Put(b *[]byte) {
	p.out--
	p.BufferPool.Put(b)
}

// TestReadOnReady: gRPC can read a connection without holding a buffer while nothing comes; ends and deadlines are told as by Read.
func TestReadOnReady(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	l := New(Options{Store: store.New(store.NewMemory(), store.Options{}), Logger: slog.New(slog.DiscardHandler)}).LimitConnections(listener)
	pair := func() (client net.Conn, server *limitedConn) {
		t.Helper()
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		server, ok := conn.(*limitedConn)
		if !ok {
			t.Fatalf("got %T, which gRPC reads with a buffer of its own", conn)
		}
		return client, server
	}
	client, server := pair()
	defer func() { _ = client.Close() }()
	defer func() { _ = server.Close() }()
	pool := &counting{BufferPool: mem.DefaultBufferPool()}

	// Nothing comes: it holds nothing while it waits.
	if err := server.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if b, n, err := server.ReadOnReady(100, pool); !errors.Is(err, os.ErrDeadlineExceeded) || n != 0 || b != nil || pool.out != 0 {
		t.Errorf("got %v, %d, %v with %d buffers out, want the deadline", b, n, err, pool.out)
	}
	if err := server.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}

	sent := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() {
		_, _ = client.Write(sent)
		_ = client.Close()
	}()
	var got []byte
	for {
		b, n, err := server.ReadOnReady(4096, pool)
		if err != nil {
			if !errors.Is(err, io.EOF) || b != nil {
				t.Errorf("got %v, %v, want the end", b, err)
			}
			break
		}
		got = append(got, (*b)[:n]...)
		pool.Put(b)
	}
	if !bytes.Equal(got, sent) || pool.out != 0 {
		t.Errorf("got %d bytes, want %d as they were sent; %d buffers out", len(got), len(sent), pool.out)
	}

	// Reset by the other side, and closed by this one.
	resets, server := pair()
	if err := errors.Join(resets.(*net.TCPConn).SetLinger(0), resets.Close()); err != nil {
		t.Fatal(err)
	}
	if _, n, err := server.ReadOnReady(100, pool); err == nil || n != 0 || pool.out != 0 {
		t.Errorf("after a reset: got %d, %v with %d buffers out, want an error", n, err, pool.out)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := server.ReadOnReady(100, pool); !errors.Is(err, net.ErrClosed) || pool.out != 0 {
		t.Errorf("after Close: got %v with %d buffers out", err, pool.out)
	}
}
