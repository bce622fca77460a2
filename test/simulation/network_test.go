package simulation

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// network connects nodes by streams of bytes that keep their order, as TCP does: what is lost on the way comes later, or
// the connection ends.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	links     map[link]condition
	dead      map[string]bool // nodes
	conns     map[*conn]struct{}
	changed   chan struct{} // closed and replaced when a condition changes
	ports     int
	tap       func(from, to string) func([]byte) // if set, sees what a client sends
}

// link is the way from a client to a server, and back.
type link struct{ client, server string }

// condition is what a link does to connections.
type condition struct {
	refused bool          // new connections are refused
	hole    bool          // nothing arrives, until this ends
	delay   time.Duration // bytes take this long, each way
}

func newNetwork() *network {
	return &network{
		listeners: map[string]*listener{}, links: map[link]condition{}, dead: map[string]bool{}, conns: map[*conn]struct{}{},
		changed: make(chan struct{}),
	}
}

func (n *network) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *network) condition(l link) (condition, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[l], n.changed
}

// change sets the condition of a link.
func (n *network) change(l link, f func(*condition)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.links[l]
	f(&c)
	n.links[l] = c
	n.wake()
}

// heal makes all links good.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.links)
	n.wake()
}

// cut ends the connections that match; both ends see it, unless the link is a hole.
func (n *network) cut(match func(link) bool) {
	n.mu.Lock()
	conns := slices.Collect(maps.Keys(n.conns))
	n.mu.Unlock()
	for _, c := range conns {
		if match(c.link) {
			c.reset()
		}
	}
}

// swallow has the connections that match carry nothing any more, without an end.
func (n *network) swallow(match func(link) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if match(c.link) {
			c.in.set(func() { c.in.swallowed = true })
			c.out.set(func() { c.out.swallowed = true })
		}
	}
}

// kill takes a node away as a power cut does: its own end of each connection is gone at once, and nobody reaches it.
func (n *network) kill(node string) {
	n.mu.Lock()
	n.dead[node] = true
	n.mu.Unlock()
	n.cut(func(l link) bool { return l.client == node || l.server == node })
}

func (n *network) isDead(node string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dead[node]
}

func (n *network) revive(node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.dead, node)
}

// dial connects a client with a server.
func (n *network) dial(ctx context.Context, client, server string) (net.Conn, error) {
	l := link{client, server}
	for {
		c, changed := n.condition(l)
		if c.refused {
			return nil, refusedError()
		}
		if !c.hole {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	n.mu.Lock()
	to := n.listeners[server]
	if to == nil || n.dead[client] || n.dead[server] {
		n.mu.Unlock()
		return nil, refusedError()
	}
	n.ports++
	from := &net.TCPAddr{IP: net.ParseIP(client), Port: 1024 + n.ports}
	there, back := &stream{link: l, network: n, changed: make(chan struct{})}, &stream{link: l, network: n, changed: make(chan struct{})}
	mine := &conn{link: l, network: n, in: back, out: there, local: from, remote: to.address}
	theirs := &conn{link: l, network: n, in: there, out: back, local: to.address, remote: from}
	if n.tap != nil {
		mine.tap = n.tap(client, server)
	}
	n.conns[mine], n.conns[theirs] = struct{}{}, struct{}{}
	n.mu.Unlock()
	select {
	case to.conns <- theirs:
		return mine, nil
	case <-to.closed:
	case <-ctx.Done():
	}
	mine.reset()
	theirs.reset()
	return nil, refusedError()
}

func refusedError() error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

// listen makes a node a server.
func (n *network) listen(node string) *listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &listener{
		network: n, node: node, address: &net.TCPAddr{IP: net.ParseIP(node), Port: 1}, conns: make(chan net.Conn), closed: make(chan struct{}),
	}
	n.listeners[node] = l
	return l
}

type listener struct {
	network *network
	node    string
	address net.Addr
	conns   chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.network.mu.Lock()
		if l.network.listeners[l.node] == l {
			delete(l.network.listeners, l.node)
		}
		l.network.mu.Unlock()
		close(l.closed)
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.address }

// stream is one direction of a connection.
type stream struct {
	link    link
	network *network

	mu     sync.Mutex
	queue  []segment
	size   int
	ended  bool  // the writer has closed; the reader sees it after the last byte
	left   bool  // the reader has closed; the writer sees it unless the link is a hole
	broken error // both sides see it at once
	// swallowed: nothing arrives any more, not even an end.
	swallowed bool
	deadline  struct{ read, write time.Time }
	changed   chan struct{} // closed and replaced with every change
}

type segment struct {
	at   time.Time
	data []byte
}

// window is how much a stream holds before its writer has to wait, in bytes.
const window = 64 << 10

func (s *stream) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait waits until the stream or the network changes, or one of the times has come. It returns false once a deadline has.
func wait(changed, network <-chan struct{}, deadline, ready time.Time) bool {
	var timer <-chan time.Time
	next := ready
	if next.IsZero() || !deadline.IsZero() && deadline.Before(next) {
		next = deadline
	}
	if !next.IsZero() {
		t := time.NewTimer(time.Until(next))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-changed:
	case <-network:
	case <-timer:
	}
	return deadline.IsZero() || time.Now().Before(deadline)
}

func (s *stream) read(b []byte) (int, error) {
	for {
		now := time.Now()
		c, network := s.network.condition(s.link)
		s.mu.Lock()
		var ready time.Time
		switch {
		case s.broken != nil:
			s.mu.Unlock()
			return 0, s.broken
		case s.left:
			s.mu.Unlock()
			return 0, net.ErrClosed
		case c.hole, s.swallowed:
		case len(s.queue) > 0 && !now.Before(s.queue[0].at):
			n := copy(b, s.queue[0].data)
			if s.queue[0].data = s.queue[0].data[n:]; len(s.queue[0].data) == 0 {
				s.queue = s.queue[1:]
			}
			s.size -= n
			close(s.changed)
			s.changed = make(chan struct{})
			s.mu.Unlock()
			return n, nil
		case len(s.queue) > 0:
			ready = s.queue[0].at
		case s.ended:
			s.mu.Unlock()
			return 0, io.EOF
		}
		changed, deadline := s.changed, s.deadline.read
		s.mu.Unlock()
		if !deadline.IsZero() && !now.Before(deadline) || !wait(changed, network, deadline, ready) {
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (s *stream) write(b []byte) (int, error) {
	c, _ := s.network.condition(s.link)
	for {
		now := time.Now()
		s.mu.Lock()
		switch {
		case s.broken != nil:
			s.mu.Unlock()
			return 0, s.broken
		case s.ended:
			s.mu.Unlock()
			return 0, net.ErrClosed
		case s.left && !c.hole && !s.swallowed:
			s.mu.Unlock()
			return 0, errReset
		case s.size < window:
			at := now.Add(c.delay)
			if n := len(s.queue); n > 0 && s.queue[n-1].at.After(at) {
				at = s.queue[n-1].at
			}
			s.queue = append(s.queue, segment{at, slices.Clone(b)})
			s.size += len(b)
			close(s.changed)
			s.changed = make(chan struct{})
			s.mu.Unlock()
			return len(b), nil
		}
		changed, deadline := s.changed, s.deadline.write
		s.mu.Unlock()
		if !deadline.IsZero() && !now.Before(deadline) || !wait(changed, nil, deadline, time.Time{}) {
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// conn is one end of a connection.
type conn struct {
	link          link
	network       *network
	in, out       *stream
	local, remote net.Addr
	tap           func([]byte)
}

var errReset = &net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}

func (c *conn) reset() {
	for _, s := range []*stream{c.in, c.out} {
		s.set(func() {
			if s.broken == nil {
				s.broken = errReset
			}
		})
	}
	c.forget()
}

func (c *conn) forget() {
	c.network.mu.Lock()
	defer c.network.mu.Unlock()
	delete(c.network.conns, c)
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) { return c.in.read(b) }

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if c.tap != nil {
		c.tap(b) // before the other end can act upon it
	}
	return c.out.write(b)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.out.set(func() { c.out.ended = true })
	c.in.set(func() { c.in.left = true })
	c.forget()
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.set(func() { c.in.deadline.read = t })
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.set(func() { c.out.deadline.write = t })
	return nil
}
