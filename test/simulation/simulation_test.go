package simulation

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // what a history holds is small
	labelTracebacks()
	m.Run()
}

// usual is how many histories make test plays: half of them from seed 1 on, half from recentSeeds on.
const usual = 1000

// Seeds after oldSeeds have deeds that were added later. make test plays both kinds, since the old ones found faults as they are.
const (
	oldSeeds    = 1000
	recentSeeds = 2_000_001
)

// TestSimulation plays random histories of whole systems. What breaks a rule is told by its seed and a plan from which all
// was left out that is not needed.
func TestSimulation(t *testing.T) {
	histories := usual
	if testing.Short() {
		histories /= 10 // of which Rounds leaves a tenth: each is larger than those of other tests
	}
	// The same ones each time: new ones are looked for by make simulation.
	c := &campaign{from: []uint64{1, recentSeeds}, histories: uint64(testseed.Rounds(t, histories)), met: map[string]int{}, most: map[string]int{}}
	if os.Getenv("PSEUDO_TEST_SEED") != "" || os.Getenv("PSEUDO_TEST_ROUNDS") != "" {
		c.from = []uint64{testseed.New(t)}
	}
	t.Run("histories", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint("lane", i), func(t *testing.T) {
				t.Parallel()
				c.run(t)
			})
		}
	})
	t.Log(c)
	if c.late {
		t.Errorf("only %d of %d histories were played in the time that go test gives (-timeout)", c.ended, c.histories)
	}
	if c.failed || c.late || c.histories < usual {
		return
	}
	for _, situation := range slices.Concat(needed, informersWhile(), deepflowsWhile()) {
		if c.met[situation] == 0 {
			t.Errorf("no history has come to %q: the weights of the deeds have to make it reachable", situation)
		}
	}
}

// needed are situations that the usual histories have to come to, some dozens of times each.
var needed = []string{
	"reporter: idle", "reporter: probing", "reporter: reporting", "reporter: synced", "reporter: telling", "reporter: waiting",
	"sent: a full report", "sent: a heartbeat or probe", "sent: an error alone", "sent: an error with entries", "stored: an error",
	"log: leader election", "log: the lease cannot be reached; trying on", "log: the server cannot be reported to", "log: storage works again",
	"log: resource is no longer selected", "log: selection of resources changed", "log: another agent reports the cluster",
	"log: watching, as the server wishes", "log: no longer watching, as the server wishes",
	"log: watcher is silent, its role is free", "log: watcher told to stop, another one ranks higher", "log: watcher role given back",
	"deepflow-server: in use while nothing fails", "deepflow-server: passed over while nothing arrives", "deepflow-server: passed over while it is away",
	"deepflow-server: passed over while connections are refused", "log: another deepflow-server takes the calls",
	"passed on: a full report", "passed on: a heartbeat or probe", "passed on: an error",
	"operator: designates", "operator: elects", "apiserver: writing the lease: not answered", "apiserver: writing the lease: forbidden",
}

// campaign is many histories, each with the next seed of one of the rows that begin with from, in turn.
type campaign struct {
	from      []uint64
	histories uint64

	mu     sync.Mutex
	begun  uint64
	ended  int
	failed bool
	late   bool // the time of go test is nearly over
	met    map[string]int
	most   map[string]int
	passed time.Duration
	events int
}

// next returns the next seed, false if there is none. None is begun that might not end, and be shortened, in time.
func (c *campaign) next(t *testing.T) (seed uint64, ok bool) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed || c.begun == c.histories {
		return 0, false
	}
	if end, limited := t.Deadline(); limited && time.Until(end) < shrinkTime+time.Minute {
		c.late = true
		return 0, false
	}
	rows := uint64(len(c.from))
	seed = c.from[c.begun%rows] + c.begun/rows
	c.begun++
	return seed, true
}

func (c *campaign) run(t *testing.T) {
	t.Helper()
	for {
		seed, ok := c.next(t)
		if !ok {
			return
		}
		p := newPlan(seed)
		out := play(t, p)
		if c.done(out); len(out.broken) == 0 {
			continue
		}
		shorter := p
		if !testing.Short() {
			shorter = shrink(t, p, func(q plan) bool { return len(play(t, q).broken) > 0 })
		}
		last := play(t, shorter)
		t.Errorf("PSEUDO_TEST_SEED=%d PSEUDO_TEST_ROUNDS=1 breaks a rule:\n%s\nof the plan this much is needed:\n%v%s\nthe last lines of the log:\n%s",
			seed, strings.Join(out.broken, "\n"), shorter, strings.Join(last.broken, "\n"), strings.Join(last.log, "\n"))
		return
	}
}

func (c *campaign) done(out outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended++
	c.passed += out.passed
	c.events += len(out.trace)
	c.failed = c.failed || len(out.broken) > 0
	for k, n := range out.met {
		c.met[k] += n
	}
	for k, n := range out.most {
		c.most[k] = max(c.most[k], n)
	}
}

// String tells what was reached.
func (c *campaign) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d histories from seeds %d, %v of synthetic time, %d events; situations:\n", c.ended, c.from, c.passed.Round(time.Second), c.events)
	for _, k := range slices.Sorted(maps.Keys(c.met)) {
		fmt.Fprintf(&b, "%8d  %s\n", c.met[k], k)
	}
	b.WriteString("at most:\n")
	for _, k := range slices.Sorted(maps.Keys(c.most)) {
		fmt.Fprintf(&b, "%8d  %s, of %d\n", c.most[k], k, limits[k])
	}
	return b.String()
}

// TestPlanFollowsFromSeed: the same seed gives the same plan and the same times of its events, to the byte.
func TestPlanFollowsFromSeed(t *testing.T) {
	front := uint64(recentSeeds)
	for newPlan(front).deepflows == 0 {
		front++
	}
	for _, seed := range []uint64{7, front} {
		a, b := newPlan(seed), newPlan(seed)
		if a.String() != b.String() {
			t.Fatalf("got two plans:\n%v\n%v", a, b)
		}
		one, two := play(t, a), play(t, b)
		if !slices.Equal(one.trace, two.trace) {
			t.Errorf("got two traces:\n%s\n\n%s", strings.Join(one.trace, "\n"), strings.Join(two.trace, "\n"))
		}
		if len(one.trace) != len(a.events) {
			t.Errorf("%d events of %d have happened", len(one.trace), len(a.events))
		}
	}
}
