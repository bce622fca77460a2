package harness

import (
	"errors"
	"io"
	"net"
	"sync"
)

// Proxy is a way to the apiserver that can go dead without a word: connections stay open, and nothing passes.
type Proxy struct {
	target   string
	listener net.Listener
	done     sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn
	live   chan struct{} // closed when the connections that were opened since Freeze, or since the start, freeze
	frozen bool          // so do new ones
	closed chan struct{}
}

// NewProxy returns a proxy on loopback to host:port.
func NewProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, listener: l, live: make(chan struct{}), closed: make(chan struct{})}
	p.done.Go(p.serve)
	return p, nil
}

// Address is the proxy's host:port.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Freeze makes the open connections dead for ever. With all, new connections are dead too, until Thaw.
func (p *Proxy) Freeze(all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.live)
	p.live = make(chan struct{})
	p.frozen = all
}

// Thaw lets new connections through again.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = false
}

// Close ends all connections.
func (p *Proxy) Close() {
	close(p.closed)
	_ = p.listener.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.done.Wait()
}

func (p *Proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.conns = append(p.conns, client)
		frozen, dead := p.live, p.frozen
		p.mu.Unlock()
		if dead {
			continue
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, server)
		p.mu.Unlock()
		p.done.Go(func() { p.copy(client, server, frozen) })
		p.done.Go(func() { p.copy(server, client, frozen) })
	}
}

// copy passes bytes on until the connection freezes, and then keeps it open.
func (p *Proxy) copy(to, from net.Conn, frozen <-chan struct{}) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-frozen:
			<-p.closed
			return
		default:
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				_ = from.Close()
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				_ = from.Close()
			}
			_ = to.Close()
			return
		}
	}
}
