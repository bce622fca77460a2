package viewer

import (
	"cmp"
	"container/heap"
	"sync"
	"sync/atomic"
)

// inventories are those that there are.
type inventories struct {
	bytes atomic.Int64 // about what all of them take

	mu sync.Mutex
	of map[*cluster]struct{}
}

// has notes whether there is one of a cluster.
func (i *inventories) has(c *cluster, there bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !there {
		delete(i.of, c)
		return
	}
	if i.of == nil {
		i.of = map[*cluster]struct{}{}
	}
	i.of[c] = struct{}{}
}

// leastUsed returns the clusters that have one, but for one, to be taken from the heap in the order in which they were looked at.
// They are not sorted: mostly the first is taken and no other, and there may be thousands.
func (i *inventories) leastUsed(but func(*cluster) bool) *byUse {
	h := &byUse{}
	i.mu.Lock()
	for c := range i.of {
		if !but(c) {
			*h = append(*h, lastUse{c, c.used.Load()})
		}
	}
	i.mu.Unlock()
	heap.Init(h)
	return h
}

// lastUse is when somebody looked at a cluster last.
type lastUse struct {
	*cluster
	at int64
}

// byUse is a heap of clusters, the one that was looked at longest ago first.
type byUse []lastUse

func (h byUse) Len() int           { return len(h) }
func (h byUse) Less(i, j int) bool { return cmp.Less(h[i].at, h[j].at) }
func (h byUse) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *byUse) Push(x any) { *h = append(*h, x.(lastUse)) } //nolint:forcetypeassert // nothing else is pushed

// Pop implements heap.Interface.
func (h *byUse) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// next takes the first one; nil: there is none.
func (h *byUse) next() *cluster {
	if h.Len() == 0 {
		return nil
	}
	return heap.Pop(h).(lastUse).cluster //nolint:forcetypeassert // see Push
}
