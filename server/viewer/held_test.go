package viewer

import (
	"cmp"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestLeastUsed: what gives way is what was looked at longest ago, of what there is.
func TestLeastUsed(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	for range testseed.Rounds(t, 50) {
		var all inventories
		there := map[*cluster]bool{}
		for range rng.IntN(40) {
			c := &cluster{}
			c.used.Store(int64(rng.IntN(20)))
			there[c] = true
			all.has(c, true)
			all.has(c, true) // known already
			if rng.IntN(3) == 0 {
				delete(there, c)
				all.has(c, false)
			}
		}
		var but *cluster
		for c := range there {
			but = c
			delete(there, c)
			break
		}
		var last int64
		h := all.leastUsed(func(c *cluster) bool { return c == but })
		for c := h.next(); c != nil; c = h.next() {
			if !there[c] || c.used.Load() < last {
				t.Fatalf("got one that was used at %d after %d; it is there: %v", c.used.Load(), last, there[c])
			}
			last = c.used.Load()
			delete(there, c)
		}
		if len(there) > 0 {
			t.Fatalf("%d were left out", len(there))
		}
	}
}

// BenchmarkLeastUsed finds the first of 1,000 inventories of 10,000 clusters, and sorts all of them for comparison.
func BenchmarkLeastUsed(b *testing.B) {
	var all inventories
	clusters := make([]*cluster, 10_000)
	for i := range clusters {
		clusters[i] = &cluster{}
		clusters[i].used.Store(rand.Int64())
		if i%10 == 0 {
			clusters[i].made.Store(&published{})
			all.has(clusters[i], true)
		}
	}
	b.Run("heap", func(b *testing.B) {
		for b.Loop() {
			all.leastUsed(func(*cluster) bool { return false }).next()
		}
	})
	b.Run("sorted", func(b *testing.B) {
		for b.Loop() {
			list := slices.DeleteFunc(slices.Clone(clusters), func(c *cluster) bool { return c.made.Load() == nil })
			slices.SortFunc(list, func(x, y *cluster) int { return cmp.Compare(x.used.Load(), y.used.Load()) })
		}
	})
}

// TestLackLasts: an inventory that found no room is not made again and again in vain.
func TestLackLasts(t *testing.T) {
	now := time.Now()
	l := &lack{objects: 80, at: now, wait: 2 * time.Minute}
	for _, tt := range []struct {
		objects int
		later   time.Duration
		want    bool
	}{
		{80, time.Second, true},
		{200, 119 * time.Second, true},
		{71, time.Minute, true}, // who reports one more and one less by turns must not have it made each time
		{70, time.Second, false},
		{80, 2 * time.Minute, false},
	} {
		if got := l.lasts(tt.objects, now.Add(tt.later)); got != tt.want {
			t.Errorf("%d objects after %v: got %t, want %t", tt.objects, tt.later, got, tt.want)
		}
	}
	v := &Viewer{log: slog.New(slog.DiscardHandler)}
	c := &cluster{id: "d-test"}
	for i, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute} {
		v.tellLack(c, store.State{}, budget.ErrFull)
		if got := c.lack.Load().wait; got != want {
			t.Errorf("after failure %d: got %v, want %v", i+1, got, want)
		}
	}
	v.tellLack(c, store.State{}, nil)
	v.tellLack(c, store.State{}, budget.ErrFull)
	if got := c.lack.Load().wait; got != time.Minute {
		t.Errorf("after there was room: got %v, want a minute again", got)
	}
}
