package inventory

import (
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

// TestSet: a set does what a map does.
func TestSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	members := []*int{new(int), new(int), new(int), new(int)}
	for range testseed.Rounds(t, 300) {
		var s set[*int]
		want := map[*int]struct{}{}
		for range 20 {
			v := members[rng.IntN(len(members))]
			if rng.IntN(2) == 0 {
				s.add(v)
				want[v] = struct{}{}
			} else {
				s.remove(v)
				delete(want, v)
			}
			got := map[*int]struct{}{}
			for v := range s.all() {
				got[v] = struct{}{}
			}
			if !maps.Equal(got, want) || s.size() != len(want) {
				t.Fatalf("got %v of size %d, want %v", got, s.size(), want)
			}
			for _, v := range members {
				if _, in := want[v]; s.has(v) != in {
					t.Fatalf("%p is a member: got %t, want %t", v, s.has(v), in)
				}
			}
			if len(want) > 0 && s.one == nil && s.many == nil {
				t.Fatal("an empty set has members")
			}
			if s.many != nil && len(s.many) < 2 {
				t.Fatalf("a map of %d members", len(s.many))
			}
		}
	}
}
