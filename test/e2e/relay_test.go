package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// relay stands between one agent and a server. It notes each request in a ledger, and can hold back what the agent sends
// as a slow network does.
type relay struct {
	address string

	name   string
	server string
	ledger *ledger
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn
	ended  bool          // connections that come now are closed
	gate   chan struct{} // closed while bytes may pass
	armed  bool          // the next report is held back
	caught chan struct{} // closed once such a report is here in full
}

// ledger is the order in which several agents began their requests.
type ledger struct {
	mu       sync.Mutex
	requests []request
}

type request struct {
	name   string // of the agent
	report bool   // it has entries, unlike a heartbeat
}

func (l *ledger) add(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, request{name: name})
}

// report notes that the request that the agent began last is a report. An agent has one request at a time.
func (l *ledger) report(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range slices.Backward(l.requests) {
		if l.requests[i].name == name {
			l.requests[i].report = true
			return
		}
	}
}

// after returns the requests but the first n ones.
func (l *ledger) after(n int) []request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.requests[n:])
}

// count is how many requests the agent has begun.
func (l *ledger) count(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, r := range l.requests {
		if r.name == name {
			n++
		}
	}
	return n
}

// turns are the agents in the order in which they took over from each other. An agent that two others follow each other
// around is in it twice.
func (l *ledger) turns() []string {
	var names []string
	for _, r := range l.after(0) {
		names = append(names, r.name)
	}
	return slices.Compact(names)
}

// newRelay starts a relay to the server's host:port, which ends with the test.
func newRelay(t *testing.T, name, server string, l *ledger) *relay {
	t.Helper()
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: listener.Addr().String(), name: name, server: server, ledger: l, gate: make(chan struct{})}
	close(r.gate)
	r.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed at the end of the test
			}
			r.serve(conn)
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		r.release()
		r.mu.Lock()
		r.ended = true
		for _, c := range r.conns {
			_ = c.Close()
		}
		r.mu.Unlock()
		r.wg.Wait()
	})
	return r
}

// hold keeps everything back that the agent sends from now on.
func (r *relay) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = make(chan struct{})
}

// catch holds back the next request that is no heartbeat, and what follows it. The channel is closed when it is here.
func (r *relay) catch() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed, r.caught = true, make(chan struct{})
	return r.caught
}

// release lets everything pass.
func (r *relay) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed = false
	select {
	case <-r.gate:
	default:
		close(r.gate)
	}
}

func (r *relay) serve(agent net.Conn) {
	server, err := net.Dial("tcp", r.server)
	if err != nil {
		_ = agent.Close() // the agent sees a server that is away
		return
	}
	r.mu.Lock()
	r.conns = append(r.conns, agent, server)
	if r.ended { // while this connection was accepted
		_, _ = agent.Close(), server.Close()
	}
	r.mu.Unlock()
	// What was read is buffered, so that the agent's last words are here even if it is killed while they are held back.
	frames := make(chan []byte, 4096)
	r.wg.Go(func() {
		defer close(frames)
		_ = r.read(bufio.NewReader(agent), frames) // it ends when the agent does
	})
	r.wg.Go(func() {
		defer server.Close()
		for f := range frames {
			r.mu.Lock()
			gate := r.gate
			r.mu.Unlock()
			<-gate
			if _, err := server.Write(f); err != nil {
				break
			}
		}
		for range frames {
		}
	})
	r.wg.Go(func() {
		defer agent.Close()
		_, _ = io.Copy(agent, server) // it ends when the server does
	})
}

// The parts of HTTP/2 (RFC 9113) that tell where a request begins and how large it is.
const (
	preface         = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeader     = 9
	frameData       = 0
	frameHeaders    = 1
	flagEndStream   = 1
	heartbeatAtMost = 1024
)

func (r *relay) read(agent *bufio.Reader, frames chan<- []byte) error {
	head := make([]byte, len(preface))
	if _, err := io.ReadFull(agent, head); err != nil {
		return err
	}
	if string(head) != preface {
		return errors.New("not HTTP/2")
	}
	frames <- head
	for {
		header := make([]byte, frameHeader)
		if _, err := io.ReadFull(agent, header); err != nil {
			return err
		}
		size := int(binary.BigEndian.Uint32(append([]byte{0}, header[:3]...)))
		frame := slices.Concat(header, make([]byte, size))
		if _, err := io.ReadFull(agent, frame[frameHeader:]); err != nil {
			return err
		}
		r.see(header[3], header[4], size)
		frames <- frame
	}
}

func (r *relay) see(kind, flags byte, size int) {
	if kind == frameHeaders {
		r.ledger.add(r.name)
	}
	if kind == frameData && size > heartbeatAtMost {
		r.ledger.report(r.name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.caught == nil {
		return
	}
	switch {
	case r.armed && kind == frameHeaders:
		// The request's deadline begins for the server when these arrive. Kept until it is seen what they are the headers of.
		r.gate = make(chan struct{})
	case r.armed && kind == frameData && size > heartbeatAtMost:
		r.armed = false
	case r.armed && kind == frameData && flags&flagEndStream != 0:
		close(r.gate)
	}
	if !r.armed && kind == frameData && flags&flagEndStream != 0 {
		close(r.caught)
		r.caught = nil
	}
}
