package simulation

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// plan is what happens in a history, and when. It follows from its seed alone.
type plan struct {
	seed    uint64
	agents  int
	servers int
	// standIns are agents that Sync, and claims whether pseudo-agent takes the watcher's role from them.
	standIns int
	claims   bool
	// normal: pseudo-agent watches only if a server wishes it. clocks: those of its replicas are wrong.
	normal, clocks bool
	pageSize       int64
	shared         bool // all servers are replicas upon one database
	lease          int  // of leases
	deepflows      int  // behind the servers; 0: the servers are those that agents report to
	events         []event
}

// event is one deed, and the numbers that say to what, how and for how long.
type event struct {
	at   time.Duration
	deed int // of deeds
	n    [3]int
}

func (e event) String() string {
	return fmt.Sprintf("%9s  %s", e.at, deeds[e.deed].tell(e.n))
}

// String tells the plan as a story.
func (p plan) String() string {
	var b strings.Builder
	how := "each with its own database"
	if p.shared {
		how = "upon one database"
	}
	fmt.Fprintf(&b, "seed %d: %d agents, %d servers %s, %d stand-ins, claims: %v, policy normal: %v, wrong clocks: %v, lease: %v, deepflow-servers: %d\n",
		p.seed, p.agents, p.servers, how, p.standIns, p.claims, p.normal, p.clocks, leases[p.lease], p.deepflows)
	for _, e := range p.events {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}

// leases are how long a standby waits for a silent leader, how long the leader tries to renew, and how often both try: the
// default, and slower ones. With the default, more than a third of the time of all histories goes into renewals.
var leases = [][3]time.Duration{
	{12 * time.Second, 8 * time.Second, time.Second},
	{24 * time.Second, 16 * time.Second, 4 * time.Second},
	{30 * time.Second, 20 * time.Second, 6 * time.Second},
	{40 * time.Second, 25 * time.Second, 10 * time.Second},
}

// newPlan makes the plan of a seed. What was added later has random numbers of its own, so that older seeds keep the rest.
func newPlan(seed uint64) plan {
	rng := rand.New(rand.NewPCG(seed, 1))
	p := plan{seed: seed, agents: 1 + rng.IntN(2), servers: 1 + rng.IntN(2), pageSize: 1 + rng.Int64N(6)}
	p.shared, p.standIns, p.claims = rng.IntN(3) > 0, rng.IntN(4), rng.IntN(2) == 0
	p.normal, p.clocks = rng.IntN(4) == 0, rng.IntN(4) == 0
	p.lease = rand.New(rand.NewPCG(seed, 2)).IntN(len(leases))
	about := subject(rng.IntN(4))
	if about == elections {
		p.standIns, p.claims = 3+rng.IntN(3), false
	}
	end := time.Duration(2+rng.IntN(12)) * time.Minute
	pace := float64(time.Duration(1+rng.IntN(15)) * time.Second)
	weights, all := weigh(rng, about, seed > oldSeeds)
	p.events = eventsOf(rng, end, pace, weights, all)
	if seed > oldSeeds {
		p.standBehind(rand.New(rand.NewPCG(seed, 3)), end)
	}
	return p
}

// eventsOf draws deeds by their weights.
func eventsOf(rng *rand.Rand, end time.Duration, pace float64, weights []int, all int) (events []event) {
	for at := time.Duration(0); ; {
		at += time.Duration(rng.ExpFloat64() * pace).Round(time.Millisecond)
		if at >= end {
			return events
		}
		pick := rng.IntN(all)
		i := slices.IndexFunc(weights, func(w int) bool {
			pick -= w
			return pick < 0
		})
		events = append(events, event{at, i, [3]int{rng.IntN(1 << 16), rng.IntN(1 << 16), rng.IntN(1 << 16)}})
	}
}

// standBehind puts deepflow-servers behind the servers of a third of the plans, with about half of the faults that these can have.
func (p *plan) standBehind(rng *rand.Rand, end time.Duration) {
	if rng.IntN(3) > 0 {
		return
	}
	p.deepflows = 1 + rng.IntN(2)
	weights, all := make([]int, len(deeds)), 0
	for i, d := range deeds {
		if d.about == behind && rng.IntN(2) == 0 {
			weights[i] = d.weight
			all += d.weight
		}
	}
	if all > 0 {
		pace := float64(time.Duration(5+rng.IntN(40)) * time.Second)
		p.events = append(p.events, eventsOf(rng, end, pace, weights, all)...)
		slices.SortStableFunc(p.events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	}
}

// weigh draws how often each deed happens. Each plan has some kinds of faults only: where everything fails all the time nothing
// happens. Plans about elections have all that concerns these, and little else.
func weigh(rng *rand.Rand, about subject, recent bool) (weights []int, all int) {
	weights = make([]int, len(deeds))
	for i, d := range deeds {
		switch {
		case d.recent && !recent, d.about == behind:
		case about == elections && d.about == objects:
			weights[i] = 1
		case about == elections && d.about == elections:
			weights[i] = 3 * d.weight
		case d.about == objects || rng.IntN(3) == 0:
			weights[i] = d.weight
		}
		all += weights[i]
	}
	return weights, all
}

// without returns the plan without the events from i to j.
func (p plan) without(i, j int) plan {
	p.events = slices.Concat(p.events[:i], p.events[j:])
	return p
}

// length is a time that n says, mostly short and at most four minutes.
func length(n int) time.Duration {
	return []time.Duration{
		300 * time.Millisecond, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second, 20 * time.Second, 40 * time.Second,
		70 * time.Second, 4 * time.Minute,
	}[n%9] + time.Duration(n%997)*time.Millisecond
}

// long is a time that n says, at most twelve minutes: longer than a watcher's lease.
func long(n int) time.Duration {
	return []time.Duration{
		20 * time.Second, time.Minute, 3 * time.Minute, 6 * time.Minute, 9 * time.Minute, 12 * time.Minute,
	}[n%6] + time.Duration(n%997)*time.Millisecond
}
