package informers

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

var rolloutsV2 = apisim.Resource{GroupVersionResource: gvr("argoproj.io", "v2", "rollouts"), Kind: "Rollout", Namespaced: true}

// withRollout starts r with an object of a CRD, served in one version, of which no version is selected. Before that it calls
// prepare.
func withRollout(r *rig, prepare func()) {
	r.t.Helper()
	r.sim.Serve(rollouts)
	r.sim.Put(rolloutsGVR, workload("Rollout", "default", "r1"))
	prepare()
	r.opts.Selected = selected(r.t, "", resources.Request{Name: "rollouts", Group: "argoproj.io", As: "deployments"})
	r.start()
}

// TestWorseVersion: a version that the apiserver prefers and cannot list, since its conversion webhook is away, takes nothing
// away from the one that works.
func TestWorseVersion(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const id = "rollouts.argoproj.io"
		withRollout(r, func() {})
		r.pass(10 * time.Second)
		r.wantNames(id, "default/r1")

		r.sink.reset()
		r.deny(http.StatusInternalServerError, func(req apisim.Request) bool { return req.Resource == rolloutsV2.GroupVersionResource })
		before := r.sim.Counts()
		r.sim.ServeAs(rolloutsV2, rolloutsGVR)
		for range 30 * 60 {
			r.pass(time.Second)
			if v := r.set.Verdict(time.Now()); len(v.Errors)+len(v.Standing) > 0 || !v.Complete {
				t.Fatalf("got %+v, want no error, since v1alpha1 can be read", v)
			}
			if st := r.state(id); st.State != Synced || st.GroupVersion != "argoproj.io/v1alpha1" {
				t.Fatalf("got %s at %s, want Synced at v1alpha1", st.State, st.GroupVersion)
			}
		}
		if st := r.state(id); !strings.Contains(st.NotMoved, "simulated 500") || !strings.Contains(st.NotMoved, "argoproj.io/v2") {
			t.Errorf("not moved: got %q, want the version and the error", st.NotMoved)
		}
		spent := countsBut(r.sim.Counts(), before)
		if n := spent[apisim.Count{Verb: "list", Resource: "rollouts"}] + spent[apisim.Count{Verb: "stream", Resource: "rollouts"}]; n > 30 {
			t.Errorf("lists in half an hour: got %d, want few", n)
		}
		r.sim.Put(rolloutsGVR, workload("Rollout", "default", "r2"))
		r.pass(time.Second)
		r.wantNames(id, "default/r1", "default/r2")

		r.sink.reset()
		r.sim.SetFaults(nil)
		r.pass(10 * time.Minute)
		if st := r.state(id); st.State != Synced || st.GroupVersion != "argoproj.io/v2" || st.NotMoved != "" {
			t.Errorf("got %s at %s (%s), want it Synced at v2", st.State, st.GroupVersion, st.NotMoved)
		}
		if calls := r.sink.reset(); len(calls) != 0 {
			t.Errorf("calls while the version moved: got %v, want none", calls)
		}
		r.sim.Delete(rolloutsV2.GroupVersionResource, "default", "r1")
		r.pass(time.Second)
		r.wantNames(id, "default/r2")
		r.sim.Remove(rolloutsV2.GroupVersionResource)
		r.pass(10 * time.Minute)
		if st := r.state(id); st.State != Synced || st.GroupVersion != "argoproj.io/v1alpha1" {
			t.Errorf("got %s at %s, want it back at v1alpha1", st.State, st.GroupVersion)
		}
		r.wantNames(id, "default/r2")
	})
}

// TestWorseVersionAtStart: the same when the agent is started while the webhook is away.
func TestWorseVersionAtStart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const id = "rollouts.argoproj.io"
		withRollout(r, func() {
			r.sim.ServeAs(rolloutsV2, rolloutsGVR)
			r.deny(http.StatusInternalServerError, func(req apisim.Request) bool { return req.Resource == rolloutsV2.GroupVersionResource })
		})
		r.pass(time.Minute)
		r.wantNames(id, "default/r1")
		r.wantComplete(true)
		if st := r.state(id); st.State != Synced || st.GroupVersion != "argoproj.io/v1alpha1" {
			t.Errorf("got %s at %s, want it Synced at v1alpha1", st.State, st.GroupVersion)
		}
		r.sim.SetFaults(nil)
		r.pass(11 * time.Minute)
		if st := r.state(id); st.State != Synced || st.GroupVersion != "argoproj.io/v2" {
			t.Errorf("got %s at %s, want it Synced at v2", st.State, st.GroupVersion)
		}
	})
}

// TestVersionMovesDuringChanges: while the better version is listed, the other one's watch goes on.
func TestVersionMovesDuringChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		const id = "rollouts.argoproj.io"
		withRollout(r, func() {})
		r.pass(10 * time.Second)
		var slow atomic.Bool
		slow.Store(true)
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			return apisim.Fault{LateBookmark: req.Resource == rolloutsV2.GroupVersionResource && slow.Load()}
		})
		r.sim.ServeAs(rolloutsV2, rolloutsGVR)
		for range 600 {
			r.pass(time.Second)
			if next, _ := r.set.sources[len(r.set.sources)-1].trial(); next != nil {
				break
			}
		}
		r.sim.Put(podsGVR, pod("default", "p2", ""))
		r.sim.Delete(rolloutsGVR, "default", "r1")
		r.sim.Put(rolloutsGVR, workload("Rollout", "default", "r2"))
		r.pass(time.Second)
		r.wantNames(id, "default/r2")
		slow.Store(false)
		r.pass(10 * time.Minute)
		r.wantNames(id, "default/r2")
		if st := r.state(id); st.GroupVersion != "argoproj.io/v2" {
			t.Errorf("got %s, want v2", st.GroupVersion)
		}
	})
}

// TestWatchOutlivesList: while a further list is under way, however long, the watch goes on, and what it brings is not taken
// back by the list.
func TestWatchOutlivesList(t *testing.T) {
	for name, streaming := range map[string]apisim.Streaming{"streaming": apisim.StreamingWorks, "list": apisim.StreamingRefused} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.SetStreaming(streaming)
				r.start()
				r.pass(30 * time.Second)
				hanging := make(chan struct{})
				var listing atomic.Bool
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
					if req.Resource != podsGVR || !req.Streaming && req.Verb != "list" {
						return apisim.Fault{}
					}
					listing.Store(true)
					return apisim.Fault{Freeze: 200, Stop: hanging}
				})
				for range 15 * 60 {
					if r.pass(time.Second); listing.Load() {
						break
					}
				}
				if !listing.Load() {
					t.Fatal("Pods are not listed again")
				}
				for i, names := range [][]string{{"default/p1", "default/p2"}, {"default/p2"}} {
					if i == 0 {
						r.sim.Put(podsGVR, pod("default", "p2", ""))
					} else {
						r.sim.Delete(podsGVR, "default", "p1")
					}
					r.pass(time.Second)
					r.wantNames("pods", names...)
				}
				r.pass(40 * time.Second) // the list is given up, and tried again
				r.sim.Put(podsGVR, pod("default", "p3", ""))
				r.pass(time.Second)
				r.wantNames("pods", "default/p2", "default/p3")
				close(hanging)
				r.sim.SetFaults(nil)
				r.sink.reset()
				r.pass(3 * time.Minute)
				r.wantState("pods", Synced)
				r.wantNames("pods", "default/p2", "default/p3")
				if calls := r.sink.reset(); len(calls) > 0 {
					t.Errorf("calls: got %v, want none", calls)
				}
				r.sim.Put(podsGVR, pod("default", "p4", ""))
				r.pass(time.Second)
				r.wantNames("pods", "default/p2", "default/p3", "default/p4")
			})
		})
	}
}
