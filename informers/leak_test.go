package informers

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// TestLeak installs and removes a CRD a thousand times: goroutines and memory stay what they were. That no goroutine is
// left after Run, synctest checks in every test of this package.
func TestLeak(t *testing.T) {
	cycles := 1000
	if testing.Short() {
		cycles = 50
	}
	inBubble(t, func(t *testing.T, r *rig) {
		r.opts.Selected = selected(t, "", resources.Request{Name: "clonesets"})
		r.opts.RelistInterval = 24 * time.Hour
		r.start()
		r.pass(time.Minute)
		var heap uint64
		var goroutines int
		for i := range cycles {
			r.sim.Serve(cloneSets)
			r.sim.Put(cloneSetsGVR, workload("CloneSet", "default", "c"))
			r.pass(25 * time.Second)
			r.wantState("clonesets", Synced)
			r.sim.Remove(cloneSetsGVR)
			r.pass(5 * time.Second)
			r.wantState("clonesets", NotServed)
			if t.Failed() {
				t.Fatalf("in cycle %d", i)
			}
			r.sink.reset()
			switch i {
			case cycles / 5:
				heap, goroutines = measure()
			case cycles - 1:
				lastHeap, lastGoroutines := measure()
				t.Logf("heap %d kB and %d goroutines after %d cycles, %d kB and %d after %d",
					heap>>10, goroutines, cycles/5, lastHeap>>10, lastGoroutines, cycles)
				if lastHeap > heap+2<<20 {
					t.Errorf("heap: got %d bytes after %d cycles, want at most 2 MiB more than the %d after %d", lastHeap, cycles, heap, cycles/5)
				}
				if lastGoroutines > goroutines {
					t.Errorf("goroutines: got %d after %d cycles, want the %d after %d", lastGoroutines, cycles, goroutines, cycles/5)
				}
			}
		}
	})
}

func measure() (heap uint64, goroutines int) {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, runtime.NumGoroutine()
}

// TestCosts counts the requests of a start, a quiet hour, a churning hour and an hour in which a CRD is waited for, and
// holds them against the table of docs/informers.md.
func TestCosts(t *testing.T) {
	doc, err := os.ReadFile("../docs/informers.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := costTable(t, string(doc))
	measured := map[string]map[apisim.Count]int{}
	hour := func(churn bool, reqs ...resources.Request) (start, hour map[apisim.Count]int) {
		inBubble(t, func(t *testing.T, r *rig) {
			r.opts.Selected = selected(t, "", reqs...)
			r.start()
			r.pass(30 * time.Second)
			start = r.sim.Counts()
			for range 3600 {
				if churn {
					r.sim.Put(podsGVR, pod("default", "p1", time.Now().String()))
				}
				r.pass(time.Second)
			}
			hour = countsBut(r.sim.Counts(), start)
		})
		return start, hour
	}
	measured["start"], measured["quiet"] = hour(false)
	_, measured["churning"] = hour(true)
	_, measured["awaiting"] = hour(false, resources.Request{Name: "clonesets"})
	seen := map[string]map[apisim.Count]bool{}
	for _, row := range rows {
		for column, bounds := range row.bounds {
			for count, n := range measured[column] {
				if count.Verb != row.verb || !row.matches(count) {
					continue
				}
				if seen[column] == nil {
					seen[column] = map[apisim.Count]bool{}
				}
				seen[column][count] = true
				if n < bounds[0] || n > bounds[1] {
					t.Errorf("%s, %s %s: got %d requests, the table says %d to %d", column, count.Verb, count.Resource, n, bounds[0], bounds[1])
				}
			}
		}
	}
	for column, counts := range measured {
		for count, n := range counts {
			if !seen[column][count] {
				t.Errorf("%s, %s %s: got %d requests, the table says nothing", column, count.Verb, count.Resource, n)
			}
		}
	}
}
