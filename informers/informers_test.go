package informers

import (
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
)

func TestListAndWatch(t *testing.T) {
	for name, mode := range map[string]apisim.Streaming{
		"streaming": apisim.StreamingWorks, "refused": apisim.StreamingRefused, "ignored": apisim.StreamingIgnored,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.SetStreaming(mode)
				r.start()
				r.pass(3 * time.Minute)
				r.wantState("pods", Synced)
				r.wantComplete(true)
				r.wantNames("pods", "default/p1")
				r.sink.reset()
				r.sim.Put(podsGVR, pod("default", "p2", "a"))
				r.sim.Put(podsGVR, pod("default", "p1", ""))
				r.sim.Put(nodesGVR, node("n2"))
				r.pass(time.Second)
				r.wantNames("pods", "default/p1", "default/p2")
				r.wantNames("nodes", "n1", "n2")
				if calls := r.sink.reset(); len(calls) != 2 {
					t.Errorf("calls for one unchanged and two new objects: got %v, want two", calls)
				}
				r.sim.Delete(podsGVR, "default", "p1")
				r.pass(time.Second)
				r.wantNames("pods", "default/p2")
			})
		})
	}
}
