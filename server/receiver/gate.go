package receiver

import (
	"context"
	"runtime"
	"slices"
	"sync"

	"github.com/pseudo-agent/pseudo-agent/server/budget"
)

// gate lets a bounded number of requests, with a bounded number of bytes, through at once; others wait in order of arrival.
// Those who have somebody inside already share three quarters of places and bytes, so that however many they are, a peer that
// has nobody inside finds room.
type gate struct {
	places int
	bytes  int64 // 0: not bounded
	// work has a place for each goroutine that checks entries of requests inside: as many as there are CPUs, so that however much
	// is to be checked of large requests, others need not wait long for a CPU.
	work chan struct{}

	mu        sync.Mutex
	used      int
	usedBytes int64
	peers     map[string]int
	queue     []*arrival
}

// arrival is a request that waits at a gate.
type arrival struct {
	peer  string
	bytes int64
	let   chan struct{} // closed when it has its place
}

func newGate(places int, bytes int64) *gate {
	return &gate{places: places, bytes: bytes, peers: map[string]int{}, work: make(chan struct{}, runtime.GOMAXPROCS(0))}
}

// tryEnter takes a place if there is one now.
func (g *gate) tryEnter(peer string, bytes int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) > 0 || !g.hasRoom(peer, bytes) {
		return false
	}
	g.take(peer, bytes)
	return true
}

// enter takes a place, or returns false when the context ends before there is one. With true, leave must be called.
func (g *gate) enter(ctx context.Context, peer string, bytes int64) bool {
	g.mu.Lock()
	a := &arrival{peer: peer, bytes: bytes, let: make(chan struct{})}
	g.queue = append(g.queue, a)
	g.admit()
	g.mu.Unlock()
	select {
	case <-a.let:
		return true
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.queue, a)
	if i < 0 {
		return true // it was let in at the same moment
	}
	g.queue = slices.Delete(g.queue, i, i+1)
	g.admit()
	return false
}

// leave gives a place and all bytes of its request back.
func (g *gate) leave(peer string, bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.used--
	g.usedBytes -= bytes
	if g.peers[peer]--; g.peers[peer] == 0 {
		delete(g.peers, peer)
	}
	g.admit()
}

// more gives a request that is inside more bytes if there are so many now.
func (g *gate) more(bytes int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.bytes > 0 && g.usedBytes+bytes > g.bytes {
		return false
	}
	g.usedBytes += bytes
	return true
}

func (g *gate) inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.used
}

func (g *gate) hasRoom(peer string, bytes int64) bool {
	places, most := g.places, g.bytes
	if g.peers[peer] > 0 {
		places, most = budget.Share(places), most/4*3
	}
	return g.used < places && (g.bytes == 0 || g.usedBytes+bytes <= most)
}

func (g *gate) take(peer string, bytes int64) {
	g.used++
	g.usedBytes += bytes
	g.peers[peer]++
}

// admit lets in who waits and has room. Peers that have somebody inside are passed over; who waits for bytes and has not is not
// passed, or small requests would keep a large one waiting for ever.
func (g *gate) admit() {
	g.queue = slices.DeleteFunc(g.queue, func() func(*arrival) bool {
		stop := false
		return func(a *arrival) bool {
			if stop || !g.hasRoom(a.peer, a.bytes) {
				stop = stop || g.peers[a.peer] == 0
				return false
			}
			g.take(a.peer, a.bytes)
			close(a.let)
			return true
		}
	}())
}

// quotaKey is what places are counted by.
func (p *Peer) quotaKey() string { return budget.Origin(p.Address, p.certificates) }
