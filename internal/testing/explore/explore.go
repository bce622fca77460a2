// Package explore tries every order of events of a small model, breadth first, and tells the shortest story that breaks it.
//
// It relies on a Model being a function of the events done to it: a state is kept as the events that lead to it, and made
// again by doing them to a new Model, so that real code is explored that cannot be copied. It promises that every state within
// the depth is looked at once, up to what Key takes for the same, and that no shorter story breaks the model than the one told.
package explore

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strconv"
	"strings"
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

// Run explores the models that begin makes.
func Run(begin func() Model, depth int) Result {
	r := Result{}
	nodes := []node{{parent: -1}}
	seen := map[[16]byte]struct{}{}
	first := begin()
	first.Events()
	seen[sum(first.Key())] = struct{}{}
	r.States, r.Levels = 1, []int{1}
	level := []int{0}
	for r.Depth = 0; r.Depth < depth && len(level) > 0; r.Depth++ {
		var next []int
		for _, at := range level {
			path := pathTo(nodes, at)
			for i := range replay(begin, path).Events() {
				m := replay(begin, path)
				m.Events()
				m.Do(i)
				r.Steps++
				if r.Err = m.Err(); r.Err != nil {
					r.Broken = m.Story()
					return r
				}
				m.Events()
				key := sum(m.Key())
				if _, known := seen[key]; known {
					continue
				}
				seen[key] = struct{}{}
				if r.Err = settled(m); r.Err != nil {
					r.Broken = m.Story()
					return r
				}
				nodes = append(nodes, node{at, uint16(i)})
				next = append(next, len(nodes)-1)
				r.States++
			}
		}
		level = next
		r.Levels = append(r.Levels, len(level))
	}
	r.Complete = len(level) == 0
	return r
}

func settled(m Model) error {
	if err := m.Settle(); err != nil {
		return err
	}
	return m.Err()
}

func pathTo(nodes []node, at int) []uint16 {
	var path []uint16
	for ; nodes[at].parent >= 0; at = nodes[at].parent {
		path = append(path, nodes[at].event)
	}
	for i, j := 0, len(path)-1; i < j; i, j = i+1, j-1 {
		path[i], path[j] = path[j], path[i]
	}
	return path
}

func replay(begin func() Model, path []uint16) Model {
	m := begin()
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
