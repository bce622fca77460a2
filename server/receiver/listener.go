package receiver

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc/codes"
)

// LimitConnections returns a listener of which at most Limits.MaxConnections connections are open; more are closed at
// once.
func (r *Receiver) LimitConnections(l net.Listener) net.Listener {
	return &limitedListener{Listener: l, r: r}
}

type limitedListener struct {
	net.Listener
	r    *Receiver
	open atomic.Int64
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		limit := int64(l.r.opts.Limits.MaxConnections)
		if l.open.Add(1) <= limit {
			c := &limitedConn{Conn: conn, open: &l.open, raw: pollable(conn)}
			if c.raw == nil {
				return &blockingConn{c}, nil
			}
			return c, nil
		}
		l.open.Add(-1)
		l.r.metrics.refusals.WithLabelValues(string(ruleConnections)).Inc()
		l.r.audit.refused(&Peer{Address: conn.RemoteAddr().String()}, &refusal{
			code: codes.ResourceExhausted, rule: ruleConnections, what: fmt.Sprintf("%d connections are open", limit),
			advice: "see who opens so many, or raise limits.max_connections of pseudo-server",
		})
		// It was never ours; an error of closing it concerns nobody.
		_ = conn.Close()
	}
}

type limitedConn struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
	raw  syscall.RawConn
}

// blockingConn is one that can only be waited for with a buffer.
type blockingConn struct{ net.Conn }

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}
