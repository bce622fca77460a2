package informers

import (
	"context"
	"sync"
)

// gate lets one resource list at a time: memory, the apiserver's load and the order of the first lists depend on it.
// Whoever is expected and has a lower rank goes first, even if it arrives later.
type gate struct {
	mu       sync.Mutex
	busy     bool
	expected map[string]int           // id → rank of those whose first attempt is still to come
	waiting  map[chan struct{}]waiter // closed to let one in
}

type waiter struct {
	id   string
	rank int
}

func newGate() *gate {
	return &gate{expected: map[string]int{}, waiting: map[chan struct{}]waiter{}}
}

// expect announces that id will come soon.
func (g *gate) expect(id string, rank int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.expected[id] = rank
}

// attempted ends the waiting for id; calls after the first have no effect.
func (g *gate) attempted(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.expected, id)
	g.admit()
}

// enter waits for the turn of id. The caller must call leave once, which also ends the waiting for id.
func (g *gate) enter(ctx context.Context, id string, rank int) (leave func(), err error) {
	turn := make(chan struct{})
	g.mu.Lock()
	g.waiting[turn] = waiter{id, rank}
	g.admit()
	g.mu.Unlock()
	leave = sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.busy = false
		delete(g.expected, id)
		g.admit()
	})
	select {
	case <-turn:
		return leave, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	_, still := g.waiting[turn]
	delete(g.waiting, turn)
	g.mu.Unlock()
	if !still {
		leave()
	}
	return nil, context.Cause(ctx)
}

func (g *gate) admit() {
	if g.busy {
		return
	}
	var best chan struct{}
	for turn, w := range g.waiting {
		if best == nil || w.rank < g.waiting[best].rank {
			best = turn
		}
	}
	if best == nil {
		return
	}
	for id, rank := range g.expected {
		if rank < g.waiting[best].rank && id != g.waiting[best].id {
			return
		}
	}
	delete(g.waiting, best)
	g.busy = true
	close(best)
}
