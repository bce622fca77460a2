package simulation

import (
	"slices"
	"testing"
	"time"
)

// How many plans are played at most to find a shorter one, and for how long: a test that fails has to end, too.
const (
	shrinkTries = 200
	shrinkTime  = time.Minute
)

// shrink leaves out of a plan what is not needed to break a rule: halves of the events, then quarters, down to single ones,
// then agents and servers. Goroutines do not take turns in the same way each time, so a plan that breaks a rule now and then
// shrinks less far than one that always does.
func shrink(t *testing.T, p plan, breaks func(plan) bool) plan {
	t.Helper()
	tries, begun := 0, time.Now()
	try := func(q plan) bool {
		if tries++; tries > shrinkTries || time.Since(begun) > shrinkTime || !breaks(q) {
			return false
		}
		p = q
		return true
	}
	for size := (len(p.events) + 1) / 2; size > 0; size /= 2 {
		for at := 0; at < len(p.events); {
			if !try(p.without(at, min(at+size, len(p.events)))) {
				at += size
			}
		}
	}
	for _, smaller := range []func(*plan){
		func(q *plan) { q.agents = 1 },
		func(q *plan) { q.servers = 1 },
		func(q *plan) { q.standIns = 0 },
		func(q *plan) { q.deepflows = min(q.deepflows, 1) },
		func(q *plan) { q.deepflows = 0 },
	} {
		q := p
		smaller(&q)
		try(q)
	}
	return p
}

// TestShrink: of a plan that breaks a rule only that is left which breaks it.
func TestShrink(t *testing.T) {
	p := newPlan(3)
	first, last := p.events[1], p.events[len(p.events)-2]
	got := shrink(t, p, func(q plan) bool { return slices.Contains(q.events, first) && slices.Contains(q.events, last) })
	if len(got.events) != 2 || got.agents != 1 || got.servers != 1 {
		t.Errorf("got\n%v\nwant these two events:\n%v\n%v", got, first, last)
	}
}
