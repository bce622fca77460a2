// Package explore tries every order of events of a small model, breadth first, and tells the shortest story that breaks it.
//
// It relies on a Model being a function of the events done to it, and sharing nothing with others of its kind: a state is kept as the events that lead to it, and made
// again by doing them to a new Model, so that real code is explored that cannot be copied. It promises that every state within
// the depth is looked at once, up to what Key takes for the same, and that no shorter story breaks the model than the one told.
package explore

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Model is a small system, at the beginning of its story.
type Model interface {
	// Events are what can happen next, in an order that follows from the state alone.
	Events() []string
	// Do lets the i-th event of Events happen. Err tells what has been broken.
	Do(i int)
	// Key is the same for two states that have the same future. It is asked after Events.
	Key() string
	// Err is nil unless a rule is broken.
	Err() error
	// Settle ends all faults, lets time pass and returns what does not come right. The model is not used again.
	Settle() error
	// Story is what has happened, in sentences.
	Story() []string
}

// Result says what was explored.
type Result struct {
	// Depth is the number of events in the longest stories, States the number of different states, Steps the events done to
	// come to a state that was not known, or to find that it was.
	Depth, States, Steps int
	// Levels are the numbers of states by how many events lead to them.
	Levels []int
	// Complete says that nothing is left: deeper exploration finds no other state.
	Complete bool
	// Broken is the shortest story that breaks a rule, and Err the rule.
	Broken []string
	Err    error
}

type node struct {
	parent int
	event  uint16
}

// step is one event done in a state.
type step struct {
	key   [16]byte
	err   error
	story []string // if err is not nil
}

// batch is how many states are gone on from before it is looked which of the next ones are new.
const batch = 512

// Run explores the models that begin makes, on all processors; what it finds does not depend on how many these are.
func Run(begin func() Model, depth int) Result {
	x := exploration{begin: begin, nodes: []node{{parent: -1}}, seen: map[[16]byte]struct{}{}}
	first := begin()
	first.Events()
	x.seen[sum(first.Key())] = struct{}{}
	x.States, x.Levels = 1, []int{1}
	level := []int{0}
	for x.Depth = 0; x.Depth < depth && len(level) > 0; x.Depth++ {
		var next []int
		for part := range slices.Chunk(level, batch) {
			found := x.found(part)
			next = append(next, found...)
			if x.Err == nil {
				x.settle(found)
			}
			if x.Err != nil {
				return x.Result
			}
		}
		level = next
		x.Levels = append(x.Levels, len(level))
	}
	x.Complete = len(level) == 0
	return x.Result
}

// exploration is what is known so far.
type exploration struct {
	Result

	begin func() Model
	nodes []node
	seen  map[[16]byte]struct{}
}

// found does every event in each of these states, and returns the states that were not known.
func (x *exploration) found(states []int) (unknown []int) {
	steps := make([][]step, len(states))
	each(len(states), func(i int) { steps[i] = x.steps(states[i]) })
	for i, from := range states {
		for event, s := range steps[i] {
			x.Steps++
			if s.err != nil {
				x.Err, x.Broken = s.err, s.story
				return unknown
			}
			if _, known := x.seen[s.key]; known {
				continue
			}
			x.seen[s.key] = struct{}{}
			x.nodes = append(x.nodes, node{from, uint16(event)})
			unknown = append(unknown, len(x.nodes)-1)
			x.States++
		}
	}
	return unknown
}

// steps does every event in one state.
func (x *exploration) steps(state int) []step {
	path := x.pathTo(state)
	list := make([]step, len(x.replay(path).Events()))
	for i := range list {
		m := x.replay(path)
		m.Events()
		m.Do(i)
		if err := m.Err(); err != nil {
			list[i] = step{err: err, story: m.Story()}
			continue
		}
		m.Events()
		list[i] = step{key: sum(m.Key())}
	}
	return list
}

// settle looks whether everything comes right from each of these states.
func (x *exploration) settle(states []int) {
	ends := make([]step, len(states))
	each(len(states), func(i int) {
		m := x.replay(x.pathTo(states[i]))
		m.Events()
		if err := cmp.Or(m.Settle(), m.Err()); err != nil {
			ends[i] = step{err: err, story: m.Story()}
		}
	})
	if i := slices.IndexFunc(ends, func(s step) bool { return s.err != nil }); i >= 0 {
		x.Err, x.Broken = ends[i].err, ends[i].story
	}
}

// each calls do for all numbers below n, on all processors, and waits.
func each(n int, do func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	wg.Wait()
}

func (x *exploration) pathTo(at int) []uint16 {
	var path []uint16
	for ; x.nodes[at].parent >= 0; at = x.nodes[at].parent {
		path = append(path, x.nodes[at].event)
	}
	slices.Reverse(path)
	return path
}

func (x *exploration) replay(path []uint16) Model {
	m := x.begin()
	for _, e := range path {
		m.Events()
		m.Do(int(e))
	}
	return m
}

func sum(key string) [16]byte {
	h := sha256.Sum256([]byte(key))
	return [16]byte(h[:16])
}

// Depth is the model's own depth n; PSEUDO_TEST_DEPTH=+1 makes it one more than that, PSEUDO_TEST_DEPTH=9 makes it 9.
func Depth(tb testing.TB, n int) int {
	tb.Helper()
	s := os.Getenv("PSEUDO_TEST_DEPTH")
	if s == "" {
		return n
	}
	more, relative := strings.CutPrefix(s, "+")
	depth, err := strconv.Atoi(more)
	if relative {
		depth += n
	}
	if err != nil || depth < 1 {
		tb.Fatalf("PSEUDO_TEST_DEPTH=%q is neither a depth of at least 1 nor how much deeper than usual, as +1", s)
	}
	return depth
}

// Test explores to the depth, prints depth and states, and fails with the story that breaks a rule. It returns the result.
func Test(tb testing.TB, begin func() Model, depth int) Result {
	tb.Helper()
	start := time.Now()
	r := Run(begin, depth)
	tb.Logf("depth %d: %d states, %d steps, by depth %v, complete: %v, %v", r.Depth, r.States, r.Steps, r.Levels, r.Complete,
		time.Since(start).Round(time.Millisecond))
	if r.Err != nil {
		tb.Errorf("%v\nThe shortest story that leads to it:\n%s", r.Err, Tell(r.Broken))
	}
	return r
}

// Tell numbers the sentences of a story.
func Tell(story []string) string {
	var b strings.Builder
	for i, s := range story {
		fmt.Fprintf(&b, "%3d. %s\n", i+1, s)
	}
	return b.String()
}
