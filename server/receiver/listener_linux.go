package receiver

import (
	"errors"
	"io"
	"net"
	"syscall"

	"google.golang.org/grpc/mem"
)

// pollable returns how to wait for data of a connection without holding a buffer meanwhile, nil if that cannot be.
func pollable(conn net.Conn) syscall.RawConn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// ReadOnReady is an optional interface of gRPC's transport: it has a buffer for a connection only while there is something to read.
// gRPC does so by itself with connections that nobody wraps; thousands of agents are silent most of the time.
func (c *limitedConn) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	var buf *[]byte
	var n int
	var readErr error
	err := c.raw.Read(func(fd uintptr) bool {
		buf = pool.Get(size)
		for {
			n, readErr = syscall.Read(int(fd), *buf)
			if !errors.Is(readErr, syscall.EINTR) {
				break
			}
		}
		if readErr == nil {
			return true
		}
		pool.Put(buf)
		buf = nil
		return !errors.Is(readErr, syscall.EAGAIN)
	})
	switch {
	case err != nil:
		if buf != nil {
			pool.Put(buf)
		}
		return nil, 0, err //nolint:wrapcheck // as of the connection itself
	case readErr != nil:
		return nil, 0, &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: readErr}
	case n == 0:
		pool.Put(buf)
		return nil, 0, io.EOF
	}
	return buf, n, nil
}
