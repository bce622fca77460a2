package informers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
)

// TestListTooLarge: a list of more objects, or of more bytes, than allowed is ended and told; what was there stays, other
// resources go on, and a list that fits is taken in again.
func TestListTooLarge(t *testing.T) {
	for name, bound := range map[string]func(*Options){
		"objects": func(o *Options) { o.MaxObjects = 50 },
		"memory":  func(o *Options) { o.Memory = 50 * (entryOverhead + 200) },
	} {
		for _, mode := range []apisim.Streaming{apisim.StreamingWorks, apisim.StreamingRefused} {
			t.Run(fmt.Sprintf("%s/%d", name, mode), func(t *testing.T) {
				inBubble(t, func(t *testing.T, r *rig) {
					r.sim.SetStreaming(mode)
					bound(&r.opts)
					r.opts.PageSize, r.opts.RelistInterval = 10, time.Minute
					crowd := func(from, to int, there bool) {
						for i := from; i < to; i++ {
							if there {
								r.sim.Put(podsGVR, pod("default", fmt.Sprintf("q%03d", i), fmt.Sprint(i)))
							} else {
								r.sim.Delete(podsGVR, "default", fmt.Sprintf("q%03d", i))
							}
						}
					}
					told := func() {
						t.Helper()
						if st := r.state("pods"); !strings.Contains(st.Reason, "more than") || !strings.Contains(st.Advice, "what was there stays") {
							t.Errorf("got state %s, reason %q and advice %q, want that the list is too large", st.State, st.Reason, st.Advice)
						}
						r.wantState("nodes", Synced)
					}
					crowd(0, 300, true)
					r.start()
					r.pass(2 * time.Minute)
					told()
					r.wantNames("pods")
					r.wantComplete(false)

					crowd(5, 300, false)
					r.pass(2 * time.Minute)
					r.wantState("pods", Synced)
					want := []string{"default/p1", "default/q000", "default/q001", "default/q002", "default/q003", "default/q004"}
					r.wantNames("pods", want...)

					// Only lists can tell of the new ones.
					r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
						if req.Resource == podsGVR && req.Verb == "watch" && !req.Streaming {
							return apisim.Fault{Status: 500}
						}
						return apisim.Fault{}
					})
					r.pass(15 * time.Minute) // the watch that is open ends
					crowd(5, 300, true)
					r.pass(10 * time.Minute)
					if mode == apisim.StreamingRefused {
						told()
						r.wantNames("pods", want...)
					}
					crowd(5, 300, false)
					r.sim.SetFaults(nil)
					r.pass(5 * time.Minute)
					r.wantState("pods", Synced)
					r.wantNames("pods", want...)
					if used, counted := r.set.room.used.Load(), counted(r.set); used != counted {
						t.Errorf("room has %d bytes taken, the entries in force have %d", used, counted)
					}
				})
			})
		}
	}
}

func counted(s *Set) int64 {
	var n int64
	for _, src := range s.sources {
		src.store.mu.RLock()
		for _, e := range src.store.entries {
			n += entrySize(e)
		}
		src.store.mu.RUnlock()
	}
	return n
}
