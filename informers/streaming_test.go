package informers

import (
	"fmt"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// TestApiserverWithoutStreaming: that an apiserver takes streaming lists for ordinary watches, and has no bookmarks, is found
// out once, not for each resource.
func TestApiserverWithoutStreaming(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sim.SetStreaming(apisim.StreamingIgnored)
		r.sim.SetBookmarks(24 * time.Hour)
		r.opts.Selected = selected(t, "", resources.Request{Name: "clonesets"})
		r.sim.Serve(cloneSets)
		r.start()
		r.pass(16 * time.Second)
		r.wantComplete(true)
	})
}

// TestAggregatedWithoutStreaming: an aggregated API server that does not know streaming lists costs the others none of them.
func TestAggregatedWithoutStreaming(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.opts.Selected = selected(t, "", resources.Request{Name: "clonesets"})
		r.sim.Serve(cloneSets)
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			return apisim.Fault{NoFinalBookmark: req.Resource == cloneSetsGVR}
		})
		r.start()
		r.pass(16 * time.Second)
		r.wantComplete(true)
		for count, n := range r.sim.Counts() {
			if want := count.Resource == "clonesets"; count.Verb == "list" && n > 0 != want {
				t.Errorf("lists of %s: got %d", count.Resource, n)
			}
		}
	})
}

// TestBusyWithoutStreaming: an ordinary watch in the place of a streaming list is told from one also if it is never silent.
func TestBusyWithoutStreaming(t *testing.T) {
	for name, tt := range map[string]struct {
		change   func(r *rig, i int)
		every    time.Duration
		within   time.Duration
		deadline time.Duration
	}{
		"one Pod changes": {
			func(r *rig, i int) { r.sim.Put(podsGVR, pod("default", "p1", fmt.Sprint(i))) },
			4 * time.Second, 45 * time.Second, 5 * time.Minute,
		},
		"Pods come and go": {
			func(r *rig, i int) {
				r.sim.Put(podsGVR, pod("default", fmt.Sprint("job-", i), ""))
				r.sim.Delete(podsGVR, "default", fmt.Sprint("job-", i-1))
			},
			time.Second, 45 * time.Second, 5 * time.Minute,
		},
		"ten Pods are created per second": {
			func(r *rig, i int) {
				for j := range 10 {
					r.sim.Put(podsGVR, pod("default", fmt.Sprint("job-", j, "-", i), ""))
					r.sim.Delete(podsGVR, "default", fmt.Sprint("job-", j, "-", i-1))
				}
			},
			time.Second, 40 * time.Second, 30 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.SetBookmarks(24 * time.Hour)
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault { return apisim.Fault{NoFinalBookmark: req.Resource == podsGVR} })
				r.opts.ListDeadline = tt.deadline
				r.start()
				for i := range int(tt.within / tt.every) {
					tt.change(r, i)
					r.pass(tt.every)
				}
				r.wantState("pods", Synced)
				r.wantComplete(true)
				if st := r.state("pods"); st.LastError != "" {
					t.Errorf("error: got %s, want none", st.LastError)
				}
			})
		})
	}
}
