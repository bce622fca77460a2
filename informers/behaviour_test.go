package informers

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// deny makes the simulator refuse what matches with a status, until it is called again.
func (r *rig) deny(status int, matches func(apisim.Request) bool) {
	r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
		if matches(req) {
			return apisim.Fault{Status: status}
		}
		return apisim.Fault{}
	})
}

func on(resource string) func(apisim.Request) bool {
	return func(req apisim.Request) bool { return req.Resource.Resource == resource }
}

func TestFirstListsInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var mu sync.Mutex
		var order []string
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Streaming {
				mu.Lock()
				defer mu.Unlock()
				order = append(order, req.Resource.Resource)
			}
			return apisim.Fault{}
		})
		r.start()
		r.pass(10 * time.Second)
		want := []string{"namespaces", "nodes", "services", "deployments", "statefulsets", "daemonsets", "replicationcontrollers", "replicasets", "ingresses", "pods"}
		if !slices.Equal(order, want) {
			t.Errorf("order of the first lists: got %v, want %v", order, want)
		}
	})
}

func TestForbiddenFromTheStart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.deny(http.StatusForbidden, on("services"))
		r.start()
		r.pass(10 * time.Second)
		r.wantState("services", Forbidden)
		r.wantState("pods", Synced)
		r.wantComplete(false)
		if st := r.state("services"); st.Reason == "" || !strings.Contains(st.Advice, "grant") {
			t.Errorf("reason %q, advice %q: want both, with what to grant", st.Reason, st.Advice)
		}
		r.pass(5 * time.Minute)
		r.wantComplete(true)
		if v := r.set.Verdict(time.Now()); len(v.Errors) != 0 || len(v.Standing) != 1 {
			t.Errorf("after five minutes: got errors %v and standing %v, want a standing one only", v.Errors, v.Standing)
		}
		before := r.sim.Counts()
		r.pass(time.Hour)
		asked := countsBut(r.sim.Counts(), before)
		if n := asked[apisim.Count{Verb: "stream", Resource: "services"}] + asked[apisim.Count{Verb: "list", Resource: "services"}]; n > 240 || n < 100 {
			t.Errorf("requests for a forbidden resource in an hour: got %d, want 100 to 240", n)
		}
		r.sim.SetFaults(nil)
		r.pass(40 * time.Second)
		r.wantState("services", Synced)
		if v := r.set.Verdict(time.Now()); len(v.Standing) != 0 {
			t.Errorf("granted: got standing %v, want none", v.Standing)
		}
	})
}

// TestStatesAreTold: log, metric and status say the same of a state, the log once for each change.
func TestStatesAreTold(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var mu sync.Mutex
		var told []string
		r.opts.Selected = slices.DeleteFunc(r.opts.Selected, func(s resources.Selected) bool { return s.ID != "services" })
		r.opts.Logger = slog.New(slog.NewTextHandler(writerFunc(func(line []byte) (int, error) {
			if bytes.Contains(line, []byte(`msg="resource state" resource=services`)) {
				mu.Lock()
				defer mu.Unlock()
				_, rest, _ := strings.Cut(string(line), " state=")
				state, rest, _ := strings.Cut(rest, " ")
				if strings.Contains(rest, "reason=") != (state == string(Forbidden) || state == string(Failing)) {
					t.Errorf("got %s, want a reason if and only if it fails", line)
				}
				told = append(told, state)
			}
			return len(line), nil
		}), nil))
		want := func(states ...State) {
			t.Helper()
			mu.Lock()
			got := slices.Clone(told)
			mu.Unlock()
			var texts []string
			for _, s := range states {
				texts = append(texts, string(s))
			}
			if !slices.Equal(got, texts) {
				t.Errorf("states in the log: got %v, want %v", got, texts)
			}
			last := states[len(states)-1]
			r.wantState("services", last)
			for _, s := range States {
				if v := testutil.ToFloat64(r.set.metrics.state.WithLabelValues("services", string(s))); (v == 1) != (s == last) {
					t.Errorf("the metric of %s is %v while the state is %s", s, v, last)
				}
			}
		}
		r.deny(http.StatusForbidden, on("services"))
		r.start()
		r.pass(10 * time.Minute)
		want(Listing, Forbidden)
		r.sim.SetFaults(nil)
		r.pass(time.Minute)
		want(Listing, Forbidden, Synced)
		r.deny(http.StatusInternalServerError, on("services"))
		r.pass(time.Hour)
		want(Listing, Forbidden, Synced, Failing)
		r.sim.SetFaults(nil)
		r.pass(time.Minute)
		want(Listing, Forbidden, Synced, Failing, Synced)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestRevokedLater(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.pass(10 * time.Second)
		r.deny(http.StatusForbidden, on("pods"))
		r.pass(time.Hour) // the apiserver ends the watch some day, and only then looks at permissions
		r.wantState("pods", Failing)
		r.wantNames("pods", "default/p1")
		if v := r.set.Verdict(time.Now()); !v.Complete || len(v.Errors) != 1 {
			t.Errorf("got complete %v, errors %v; want complete and one error", v.Complete, v.Errors)
		}
		r.sim.SetFaults(nil)
		r.pass(40 * time.Second)
		r.wantState("pods", Synced)
	})
}

func TestUnauthorized(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		r.deny(http.StatusUnauthorized, func(apisim.Request) bool { return true })
		r.start()
		r.pass(time.Minute)
		r.wantState("pods", Failing)
		r.wantState(VersionID, Failing)
		r.wantComplete(false)
		r.sim.SetFaults(nil)
		r.pass(time.Minute)
		r.wantComplete(true)
	})
}

func TestLateCRD(t *testing.T) {
	for name, aggregated := range map[string]bool{"aggregated discovery": true, "plain discovery": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.SetAggregated(aggregated)
				r.opts.Selected = selected(t, "", resources.Request{Name: "clonesets"})
				r.start()
				r.pass(10 * time.Second)
				r.wantState("clonesets", NotServed)
				r.wantComplete(true)
				for range 3 {
					r.sim.Serve(cloneSets)
					r.sim.Put(cloneSetsGVR, workload("CloneSet", "default", "c1"))
					r.pass(30 * time.Second)
					r.wantState("clonesets", Synced)
					r.wantNames("clonesets", "default/c1")
					r.sim.Remove(cloneSetsGVR)
					r.pass(10 * time.Second)
					r.wantState("clonesets", NotServed)
					r.wantNames("clonesets")
					r.wantComplete(true)
				}
			})
		})
	}
}

// TestGroupWithoutResource: a group that is served, but without the resource, of which no version is given.
func TestGroupWithoutResource(t *testing.T) {
	for name, deny := range map[string]func(apisim.Request) bool{
		"allowed":   func(apisim.Request) bool { return false },
		"forbidden": func(req apisim.Request) bool { return req.Resource.Resource == "rollouts" },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.opts.Selected = selected(t, "", resources.Request{Name: "rollouts", Group: "argoproj.io", As: "deployments"})
				r.sim.Serve(apisim.Resource{GroupVersionResource: gvr("argoproj.io", "v1alpha1", "workflows"), Kind: "Workflow", Namespaced: true})
				r.deny(http.StatusForbidden, deny)
				r.start()
				r.pass(30 * time.Second)
				r.wantState("rollouts.argoproj.io", NotServed)
				r.wantComplete(true)
				r.sim.SetFaults(nil)
				r.sim.Serve(rollouts)
				r.pass(30 * time.Second)
				r.wantState("rollouts.argoproj.io", Synced)
				r.sim.Remove(rolloutsGVR)
				r.pass(30 * time.Second)
				r.wantState("rollouts.argoproj.io", NotServed)
			})
		})
	}
}

// TestUnclearAbsence: if it cannot be found out whether a resource is served, that is told and holds up the first report
// no longer than any other failure.
func TestUnclearAbsence(t *testing.T) {
	for name, tt := range map[string]struct {
		status int // of the resource's own path, which discovery does not name
		reason string
	}{
		"path fails":   {http.StatusInternalServerError, "simulated 500"},
		"path answers": {0, "list and watch"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.opts.Selected = selected(t, "", resources.Request{Name: "clonesets"})
				if tt.status == 0 {
					r.sim.Serve(cloneSets)
				}
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
					if req.Verb == "discovery" {
						return apisim.Fault{Garble: func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"clonesets"`), []byte(`"others"`)) }}
					}
					if req.Resource == cloneSetsGVR {
						return apisim.Fault{Status: tt.status}
					}
					return apisim.Fault{}
				})
				r.start()
				r.pass(2 * time.Minute)
				r.wantState("clonesets", Failing)
				if v := r.set.Verdict(time.Now()); len(v.Errors) != 1 || !strings.Contains(v.Errors[0], tt.reason) {
					t.Errorf("errors after two minutes: got %v, want one with %q", v.Errors, tt.reason)
				}
				r.pass(4 * time.Minute)
				r.wantComplete(true)
				r.sim.SetFaults(nil)
				r.sim.Serve(cloneSets)
				r.pass(6 * time.Minute) // the spoilt discovery had the etag of the right one
				r.wantState("clonesets", Synced)
			})
		})
	}
}

// TestShortWatches: a way to the apiserver that cuts every watch after its first event is not used at the pace of the events.
func TestShortWatches(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.pass(10 * time.Second)
		r.net.Cut()
		size := len(r.sim.Objects(podsGVR)[0]) + len(`{"type":"MODIFIED","object":}`) + 40
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Resource == podsGVR && req.Verb == "watch" && !req.Streaming {
				return apisim.Fault{Cut: size}
			}
			return apisim.Fault{}
		})
		watches := apisim.Count{Verb: "watch", Resource: "pods"}
		before := r.sim.Counts()[watches]
		for i := range 3000 {
			r.sim.Put(podsGVR, pod("default", "p1", fmt.Sprint(i)))
			r.pass(100 * time.Millisecond)
		}
		if n := r.sim.Counts()[watches] - before; n > 120 || n < 20 {
			t.Errorf("watches in five minutes: got %d, want 20 to 120", n)
		}
		r.sim.SetFaults(nil)
		r.pass(20 * time.Second)
		for _, c := range r.sink.contents(t, "pods") {
			if !strings.Contains(c, `"l":"2999"`) {
				t.Errorf("got %s, want the last label", c)
			}
		}
	})
}

// TestForbiddenCRDRemoved: without the permission to read it, a CRD's own path says nothing about its existence.
func TestForbiddenCRDRemoved(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.opts.Selected = selected(t, "", resources.Request{Name: "clonesets"})
		r.sim.Serve(cloneSets)
		r.sim.Serve(apisim.Resource{GroupVersionResource: gvr("apps.kruise.io", "v1alpha1", "sidecarsets"), Kind: "SidecarSet"})
		r.deny(http.StatusForbidden, on("clonesets"))
		r.start()
		r.pass(10 * time.Second)
		r.wantState("clonesets", Forbidden)
		r.sim.Remove(cloneSetsGVR)
		r.pass(20 * time.Second)
		r.wantState("clonesets", Forbidden) // the group is there, so discovery has to say it for a while
		r.pass(40 * time.Second)
		r.wantState("clonesets", NotServed)
		r.wantComplete(true)
	})
}

func TestRequiredCRDRemoved(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		yes := true
		r.opts.Selected = selected(t, "", resources.Request{Name: "clonesets", Required: &yes})
		r.start()
		r.pass(10 * time.Second)
		r.wantState("clonesets", NotServed)
		r.wantComplete(false)
		r.sim.Serve(cloneSets)
		r.sim.Put(cloneSetsGVR, workload("CloneSet", "default", "c1"))
		r.pass(30 * time.Second)
		r.wantComplete(true)
		r.sim.Remove(cloneSetsGVR)
		r.pass(time.Minute)
		r.wantState("clonesets", Failing)
		r.wantNames("clonesets", "default/c1")
		if v := r.set.Verdict(time.Now()); len(v.Errors) != 1 {
			t.Errorf("errors: got %v, want one", v.Errors)
		}
		r.sim.Serve(cloneSets)
		r.pass(30 * time.Second)
		r.wantState("clonesets", Synced)
		r.wantNames("clonesets")
	})
}

// TestStartingApiserver: an apiserver that has just been started does not name CRDs, which must not be taken for gone.
func TestStartingApiserver(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.opts.Selected = selected(t, "", resources.Request{Name: "clonesets"})
		r.sim.Serve(cloneSets)
		r.sim.Put(cloneSetsGVR, workload("CloneSet", "default", "c1"))
		r.sim.SetStarting(true)
		r.start()
		r.pass(20 * time.Second)
		r.wantComplete(false)
		r.sim.SetStarting(false)
		r.pass(30 * time.Second)
		r.wantComplete(true)
		r.wantNames("clonesets", "default/c1")

		r.sink.reset()
		r.net.SetDown(true)
		r.pass(5 * time.Second)
		r.sim.SetStarting(true)
		r.net.SetDown(false)
		r.pass(time.Minute)
		r.wantNames("clonesets", "default/c1")
		r.sim.SetStarting(false)
		r.pass(time.Minute)
		r.wantState("clonesets", Synced)
		r.wantNames("clonesets", "default/c1")
		if calls := r.sink.reset(); len(calls) != 0 {
			t.Errorf("calls: got %v, want none", calls)
		}
	})
}

func TestBrokenGroup(t *testing.T) {
	for name, aggregated := range map[string]bool{"aggregated discovery": true, "plain discovery": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.SetAggregated(aggregated)
				r.opts.Selected = selected(t, "", resources.Request{Name: "clonesets"}, resources.Request{Name: "routes"})
				r.sim.Serve(cloneSets)
				r.sim.Put(cloneSetsGVR, workload("CloneSet", "default", "c1"))
				r.sim.SetBroken("apps.kruise.io", true)
				r.start()
				r.pass(time.Minute)
				r.wantState("clonesets", Failing)
				r.wantState("routes", NotServed)
				r.wantState("pods", Synced)
				r.sim.SetBroken("apps.kruise.io", false)
				r.pass(30 * time.Second)
				r.wantState("clonesets", Synced)
				r.wantComplete(true)
				r.sim.SetBroken("apps.kruise.io", true)
				r.pass(time.Hour)
				r.wantState("clonesets", Failing)
				r.wantState("pods", Synced)
				r.wantNames("clonesets", "default/c1")
			})
		})
	}
}

// TestUnsureDiscoveryMovesNothing: while discovery knows nothing certain about the group that is watched, the resource is not
// moved to another group that serves it too, even if its own path answers 404 for a moment.
func TestUnsureDiscoveryMovesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		extensions := apisim.Resource{GroupVersionResource: gvr("extensions", "v1beta1", "ingresses"), Kind: "Ingress", Namespaced: true}
		ingresses := gvr("networking.k8s.io", "v1", "ingresses")
		r.sim.Serve(extensions)
		r.sim.Put(ingresses, `{"metadata":{"name":"i1","namespace":"default"},"spec":{}}`)
		r.start()
		r.pass(10 * time.Second)
		r.wantNames("ingresses", "default/i1")
		r.sink.reset()
		r.sim.SetBroken("networking.k8s.io", true)
		r.deny(http.StatusNotFound, func(req apisim.Request) bool { return req.Resource == ingresses })
		r.net.Cut()
		r.pass(10 * time.Minute)
		if st := r.state("ingresses"); st.State != Failing || st.GroupVersion != "networking.k8s.io/v1" {
			t.Errorf("got %s at %s, want it Failing at networking.k8s.io/v1", st.State, st.GroupVersion)
		}
		r.wantNames("ingresses", "default/i1")
		r.sim.SetBroken("networking.k8s.io", false)
		r.sim.SetFaults(nil)
		r.pass(time.Minute)
		r.wantState("ingresses", Synced)
		if calls := r.sink.reset(); len(calls) != 0 {
			t.Errorf("calls: got %v, want none", calls)
		}
	})
}

func TestServedVersionMoves(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		old := apisim.Resource{GroupVersionResource: gvr("networking.k8s.io", "v1beta1", "ingresses"), Kind: "Ingress", Namespaced: true}
		v1 := apisim.Resource{GroupVersionResource: gvr("networking.k8s.io", "v1", "ingresses"), Kind: "Ingress", Namespaced: true}
		r.sim.Remove(v1.GroupVersionResource)
		r.sim.Serve(old)
		r.sim.Put(old.GroupVersionResource, `{"metadata":{"name":"i1","namespace":"default"},"spec":{"rules":[{"host":"a"}]}}`)
		r.start()
		r.pass(10 * time.Second)
		if st := r.state("ingresses"); st.State != Synced || st.GroupVersion != "networking.k8s.io/v1beta1" {
			t.Fatalf("before: got %s at %s, want it synced at v1beta1", st.State, st.GroupVersion)
		}
		r.sink.reset()
		r.sim.ServeAs(v1, old.GroupVersionResource)
		r.pass(10 * time.Second)
		r.sim.Remove(old.GroupVersionResource)
		r.pass(30 * time.Second)
		if st := r.state("ingresses"); st.State != Synced || st.GroupVersion != "networking.k8s.io/v1" {
			t.Errorf("after: got %s at %s, want it synced at v1", st.State, st.GroupVersion)
		}
		if calls := r.sink.reset(); len(calls) != 0 {
			t.Errorf("calls while the version moved: got %v, want none", calls)
		}
		r.sim.Put(v1.GroupVersionResource, `{"metadata":{"name":"i2","namespace":"default"},"spec":{}}`)
		r.pass(time.Second)
		r.wantNames("ingresses", "default/i1", "default/i2")
	})
}

func TestApiserverAway(t *testing.T) {
	tests := []struct {
		away time.Duration
		told bool
	}{{15 * time.Second, false}, {50 * time.Second, true}}
	for _, tt := range tests {
		t.Run(tt.away.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.start()
				r.pass(10 * time.Second)
				r.sink.reset()
				r.net.SetDown(true)
				var told bool
				for range int(tt.away / time.Second) {
					r.pass(time.Second)
					told = told || len(r.set.Verdict(time.Now()).Errors) > 0
				}
				if told != tt.told {
					t.Errorf("told the server: got %v, want %v", told, tt.told)
				}
				r.sim.Put(podsGVR, pod("default", "p2", ""))
				r.sim.Delete(podsGVR, "default", "p1")
				r.net.SetDown(false)
				r.pass(20 * time.Second)
				r.wantState("pods", Synced)
				r.wantNames("pods", "default/p2")
				if v := r.set.Verdict(time.Now()); len(v.Errors) != 0 {
					t.Errorf("errors when the apiserver is back: got %v, want none", v.Errors)
				}
				for _, call := range r.sink.reset() {
					if !strings.HasSuffix(call, " pods") {
						t.Errorf("got call %q for an unchanged resource", call)
					}
				}
			})
		})
	}
}

func TestExpiredAndCompacted(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		r.start()
		r.pass(10 * time.Second)
		for i := range 3 {
			r.net.SetDown(true)
			r.pass(time.Second)
			r.sim.Put(podsGVR, pod("default", fmt.Sprintf("q%d", i), ""))
			r.sim.Compact()
			r.net.SetDown(false)
			r.pass(30 * time.Second)
		}
		r.wantNames("pods", "default/p1", "default/q0", "default/q1", "default/q2")
		r.wantState("pods", Synced)
	})
}

// TestFrozenWatch: a watch whose connection is dead without being closed is found out and renewed.
func TestFrozenWatch(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var frozen atomic.Bool
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if on("pods")(req) && req.Streaming && frozen.CompareAndSwap(false, true) {
				return apisim.Fault{Freeze: 750} // somewhere after the initial bookmark
			}
			return apisim.Fault{}
		})
		r.start()
		r.pass(10 * time.Second)
		r.wantState("pods", Synced)
		for i := range 5 {
			r.sim.Put(podsGVR, pod("default", fmt.Sprintf("q%d", i), ""))
		}
		r.pass(time.Minute)
		if names := r.sink.names(t, "pods"); len(names) == 6 {
			t.Fatalf("got %v before the watch was renewed: the connection was not frozen", names)
		}
		r.pass(3 * time.Minute)
		r.wantNames("pods", "default/p1", "default/q0", "default/q1", "default/q2", "default/q3", "default/q4")
		r.wantState("pods", Synced)
	})
}

// TestHangingList: a list that hangs is given up and does not hold up the others.
func TestHangingList(t *testing.T) {
	for name, fault := range map[string]apisim.Fault{"no answer": {Hang: true}, "half an answer": {Freeze: 60}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(_ *testing.T, r *rig) {
				r.sim.SetStreaming(apisim.StreamingRefused)
				var done atomic.Bool
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
					if req.Resource == nodesGVR && req.Verb == "list" && !done.Load() {
						return fault
					}
					return apisim.Fault{}
				})
				r.start()
				r.pass(70 * time.Second)
				r.wantState("pods", Synced)
				r.wantState("nodes", Failing)
				r.wantComplete(false)
				done.Store(true)
				r.pass(2 * time.Minute)
				r.wantState("nodes", Synced)
				r.wantComplete(true)
			})
		})
	}
}

// TestListDeadline: a list that takes longer than its deadline gets more time at the next attempt.
func TestListDeadline(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		r.sim.SetStreaming(apisim.StreamingRefused)
		r.opts.IdleTimeout = time.Hour
		r.opts.ListDeadline = 20 * time.Second
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Resource == nodesGVR && req.Verb == "list" {
				time.Sleep(65 * time.Second)
			}
			return apisim.Fault{}
		})
		r.start()
		r.pass(19 * time.Second)
		r.wantState("nodes", Listing)
		r.wantState("pods", Pending)
		r.pass(3 * time.Second)
		r.wantState("nodes", Failing)
		r.pass(5 * time.Minute)
		r.wantState("nodes", Synced)
	})
}

func TestNoFinalBookmark(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			return apisim.Fault{NoFinalBookmark: req.Resource == podsGVR || req.Resource == nodesGVR}
		})
		r.start()
		r.pass(30 * time.Second)
		r.wantState("nodes", Synced)
		r.wantState("pods", Synced)
		r.wantNames("pods", "default/p1")
		r.sim.Put(podsGVR, pod("default", "p2", ""))
		r.pass(time.Second)
		r.wantNames("pods", "default/p1", "default/p2")
	})
}

// TestChangesDuringStreamingList: what happens before the streaming list is complete belongs to it.
func TestChangesDuringStreamingList(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sim.Put(podsGVR, pod("default", "p2", ""))
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault { return apisim.Fault{LateBookmark: req.Resource == podsGVR} })
		r.start()
		r.pass(10 * time.Second)
		r.wantState("pods", Listing)
		r.sim.Delete(podsGVR, "default", "p1")
		r.pass(time.Second)
		r.wantState("pods", Synced)
		r.wantNames("pods", "default/p2")
		if calls := r.sink.reset(); slices.Contains(calls, "delete pods") {
			t.Errorf("calls: got %v, want the complete list only", calls)
		}
	})
}

// TestUnidentifiedEventDuringStreamingList: an object that went away while the list was under way, nobody knows which.
func TestUnidentifiedEventDuringStreamingList(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		r.sim.Put(podsGVR, pod("default", "p2", ""))
		spoil := func(b []byte) []byte {
			if bytes.HasPrefix(b, []byte(`{"type":"BOOKMARK"`)) {
				time.Sleep(5 * time.Second) // the list goes on after the event
			}
			if bytes.HasPrefix(b, []byte(`{"type":"DELETED"`)) {
				return bytes.Replace(b, []byte(`"uid"`), []byte(`"uix"`), 1)
			}
			return b
		}
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Resource != podsGVR {
				return apisim.Fault{}
			}
			return apisim.Fault{LateBookmark: true, Garble: spoil}
		})
		r.start()
		r.pass(10 * time.Second)
		r.wantState("pods", Listing)
		r.sim.Delete(podsGVR, "default", "p2")
		r.pass(15 * time.Second)
		r.wantState("pods", Synced)
		r.wantNames("pods", "default/p1", "default/p2")
		r.sim.SetFaults(nil)
		r.pass(2 * time.Minute)
		r.wantNames("pods", "default/p1")
	})
}

// TestPlainBookmark: a bookmark that does not end the streaming list shows that the apiserver began an ordinary watch.
func TestPlainBookmark(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sim.SetStreaming(apisim.StreamingIgnored)
		r.sim.SetBookmarks(5 * time.Second)
		r.start()
		r.pass(time.Minute)
		r.wantState("pods", Synced)
		if n := r.sim.Counts()[apisim.Count{Verb: "list", Resource: "pods"}]; n != 1 {
			t.Errorf("lists of Pods: got %d, want 1", n)
		}
	})
}

func TestTooManyRequests(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var mu sync.Mutex
		var asked []time.Time
		storm := true
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			mu.Lock()
			defer mu.Unlock()
			if req.Resource != podsGVR || !storm {
				return apisim.Fault{}
			}
			asked = append(asked, time.Now())
			return apisim.Fault{Status: http.StatusTooManyRequests, RetryAfter: 40}
		})
		r.start()
		r.pass(3 * time.Minute)
		mu.Lock()
		for i := 1; i < len(asked); i++ {
			if gap := asked[i].Sub(asked[i-1]); gap < 40*time.Second {
				t.Errorf("asked again after %s, want at least the 40 s that the apiserver asked for", gap)
			}
		}
		if len(asked) < 3 {
			t.Errorf("asked %d times in three minutes, want at least 3", len(asked))
		}
		storm = false
		mu.Unlock()
		r.pass(time.Minute)
		r.wantState("pods", Synced)
	})
}

// TestDiscoveryIsLeftAlone: Retry-After holds for discovery too; a changed selection does not wait for it.
func TestDiscoveryIsLeftAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.opts.Selected = selected(t, "", resources.Request{Name: "clonesets"}) // keeps the loop restless
		r.start()
		r.pass(time.Minute)
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Verb == "discovery" {
				return apisim.Fault{Status: http.StatusTooManyRequests, RetryAfter: 120}
			}
			return apisim.Fault{}
		})
		before := r.sim.Counts()
		r.pass(20 * time.Minute)
		if n := countsBut(r.sim.Counts(), before)[apisim.Count{Verb: "discovery"}]; n < 16 || n > 22 {
			t.Errorf("requests for discovery in 20 minutes: got %d, want two every two minutes", n)
		}
		r.sim.SetFaults(nil)
		r.set.Apply(selected(t, "", resources.Request{Name: "routes"}))
		r.pass(10 * time.Second)
		r.wantState("routes", NotServed)
		r.wantComplete(true)
	})
}

func TestRelist(t *testing.T) {
	for name, mode := range map[string]apisim.Streaming{"streaming": apisim.StreamingWorks, "refused": apisim.StreamingRefused} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.SetStreaming(mode)
				r.start()
				r.pass(time.Minute)
				r.sink.reset()
				before := r.set.Status()
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
					if (req.Streaming || req.Verb == "list") && req.ResourceVersion != "" && mode == apisim.StreamingWorks {
						t.Errorf("a list of %s from resourceVersion %s, want a consistent one", req.Resource.Resource, req.ResourceVersion)
					}
					return apisim.Fault{}
				})
				r.pass(time.Hour)
				for i, st := range r.set.Status().Resources {
					if st.LastList.Sub(*before.Resources[i].LastList) < 45*time.Minute {
						t.Errorf("%s was not listed again: last list %s", st.Resource, st.LastList)
					}
				}
				if calls := r.sink.reset(); len(calls) != 0 {
					t.Errorf("calls in a quiet hour: got %v, want none", calls)
				}
			})
		})
	}
}

// TestListLongerThanItsInterval: a list that takes longer than api_list_max_interval is not broken off by the next one.
func TestListLongerThanItsInterval(t *testing.T) {
	for name, mode := range map[string]apisim.Streaming{"streaming": apisim.StreamingWorks, "refused": apisim.StreamingRefused} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.SetStreaming(mode)
				r.opts.RelistInterval = time.Minute
				r.opts.IdleTimeout, r.opts.StreamIdleTimeout = time.Hour, time.Hour
				var lists atomic.Int64
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
					if req.Resource == podsGVR && (req.Streaming && mode == apisim.StreamingWorks || req.Verb == "list") {
						lists.Add(1)
						time.Sleep(4 * time.Minute)
					}
					return apisim.Fault{}
				})
				r.start()
				r.pass(5 * time.Minute)
				r.wantState("pods", Synced)
				r.wantNames("pods", "default/p1")
				r.sim.Put(podsGVR, pod("default", "p2", ""))
				r.pass(25 * time.Minute)
				r.wantNames("pods", "default/p1", "default/p2")
				if n := lists.Load(); n < 5 || n > 7 {
					t.Errorf("lists of 4 minutes each in half an hour: got %d, want one every 5 minutes", n)
				}
				r.sim.SetFaults(nil)
				r.pass(5 * time.Minute) // the last one ends
			})
		})
	}
}

// TestFailedRelist: whatever happens to the lists that follow the first, nothing is removed; then a good one without
// objects removes everything.
func TestFailedRelist(t *testing.T) {
	objects := func(body []byte) []byte {
		body = bytes.Replace(body, []byte(`"items":[{`), []byte(`"items":[{]`), 1)
		return bytes.Replace(body, []byte(`"object":{`), []byte(`"object":{]`), 1)
	}
	faults := map[string]apisim.Fault{
		"half a page": {Cut: 300}, "a few objects": {Cut: 600}, "broken JSON": {Garble: objects}, "no answer": {Hang: true},
		"error 500": {Status: 500}, "not found": {Status: 404}, "too large": {Status: 504}, "expired": {Status: 410},
		"empty body": {Garble: func([]byte) []byte { return nil }},
		"a Status":   {Garble: func([]byte) []byte { return []byte(`{"kind":"Status","metadata":{},"items":[]}`) }},
	}
	for _, mode := range []apisim.Streaming{apisim.StreamingWorks, apisim.StreamingRefused} {
		for name, fault := range faults {
			t.Run(fmt.Sprintf("%s/%d", name, mode), func(t *testing.T) {
				inBubble(t, func(t *testing.T, r *rig) {
					r.sim.SetStreaming(mode)
					for i := range 5 {
						r.sim.Put(podsGVR, pod("default", fmt.Sprintf("q%d", i), ""))
					}
					r.start()
					r.pass(time.Minute)
					r.sink.reset()
					r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
						if req.Resource == podsGVR && (req.Verb == "list" || req.Streaming) {
							return fault
						}
						return apisim.Fault{}
					})
					r.pass(30 * time.Minute)
					if calls := r.sink.reset(); len(calls) != 0 {
						t.Errorf("calls while no list succeeded: got %v, want none", calls)
					}
					r.wantState("pods", Failing)
					if v := r.set.Verdict(time.Now()); !v.Complete || len(v.Errors) != 1 {
						t.Errorf("after half an hour: got complete %v and errors %v, want complete and one error", v.Complete, v.Errors)
					}
					for i := range 5 {
						r.sim.Delete(podsGVR, "default", fmt.Sprintf("q%d", i))
					}
					r.sim.Delete(podsGVR, "default", "p1")
					r.sim.Compact()
					r.sim.SetFaults(nil)
					r.pass(3 * time.Minute)
					r.wantNames("pods")
					r.wantState("pods", Synced)
				})
			})
		}
	}
}

func TestPages(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sim.SetStreaming(apisim.StreamingRefused)
		r.opts.PageSize = 10
		var want []string
		for i := range 95 {
			r.sim.Put(podsGVR, pod("many", fmt.Sprintf("p%02d", i), ""))
			want = append(want, fmt.Sprintf("many/p%02d", i))
		}
		r.sim.Delete(podsGVR, "default", "p1")
		var mu sync.Mutex
		var pages, whole int
		expire := false
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			mu.Lock()
			defer mu.Unlock()
			if req.Resource != podsGVR || req.Verb != "list" {
				return apisim.Fault{}
			}
			if req.Limit != 0 && req.ResourceVersion == "" {
				pages++
			} else {
				whole++
			}
			if expire && req.Continue != "" {
				r.sim.Put(nodesGVR, node("n1"))
				r.sim.Compact()
			}
			return apisim.Fault{}
		})
		r.start()
		r.pass(time.Minute)
		r.wantNames("pods", want...)
		mu.Lock()
		if pages != 0 || whole != 1 {
			t.Errorf("the first list, from the watch cache: got %d pages and %d whole lists, want 0 and 1", pages, whole)
		}
		pages, whole = 0, 0
		mu.Unlock()
		r.pass(10 * time.Minute)
		mu.Lock()
		if pages != 10 || whole != 0 {
			t.Errorf("the consistent list: got %d pages and %d whole lists, want 10 and 0", pages, whole)
		}
		expire, pages, whole = true, 0, 0
		mu.Unlock()
		r.sink.reset()
		r.pass(10 * time.Minute)
		mu.Lock()
		if whole != 1 {
			t.Errorf("a list that expires between its pages: got %d whole lists, want 1", whole)
		}
		mu.Unlock()
		r.wantNames("pods", want...)
		if calls := r.sink.reset(); len(calls) != 0 {
			t.Errorf("calls: got %v, want none", calls)
		}
	})
}

func TestOneNamespace(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.opts.Selected = selected(t, "default", resources.Request{Name: "services", FieldSelector: "metadata.name!=hidden"})
		r.sim.Put(podsGVR, pod("other", "x", ""))
		r.sim.Put(namespacesGVR, namespace("other"))
		services := gvr("", "v1", "services")
		r.sim.Put(services, `{"metadata":{"name":"hidden","namespace":"default"},"spec":{}}`)
		r.sim.Put(services, `{"metadata":{"name":"seen","namespace":"default"},"spec":{}}`)
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Namespace != "default" && (req.Verb == "list" || req.Verb == "watch") && req.Resource != nodesGVR && req.Resource != namespacesGVR {
				return apisim.Fault{Status: http.StatusForbidden}
			}
			return apisim.Fault{}
		})
		r.start()
		r.pass(time.Minute)
		r.wantComplete(true)
		r.wantNames("pods", "default/p1")
		r.wantNames("namespaces", "default")
		r.wantNames("nodes", "n1")
		r.wantNames("services", "default/seen")
		if st := r.state("namespaces"); st.FieldSelector != "metadata.name=default" {
			t.Errorf("field selector of namespaces: got %q, want the one name", st.FieldSelector)
		}
	})
}

// TestReportedAs: as soon as discovery tells the kind of a workload CRD that is reported as another, Pods name it so.
func TestReportedAs(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.opts.Selected = selected(t, "", resources.Request{Name: "rollouts", Group: "argoproj.io", As: "deployments"})
		r.sim.Put(podsGVR, `{"metadata":{"name":"p1","namespace":"default","ownerReferences":[{"apiVersion":"argoproj.io/v1alpha1","kind":"Rollout","name":"r","uid":"00000000-0000-4000-8000-00000000abcd","controller":true}]}}`)
		r.start()
		r.pass(10 * time.Second)
		owner := func() string {
			for _, c := range r.sink.contents(t, "pods") {
				return c
			}
			return ""
		}
		if c := owner(); !strings.Contains(c, `"kind":"Rollout"`) {
			t.Errorf("before: got %s, want a Rollout as owner", c)
		}
		r.sink.reset()
		r.sim.Serve(rollouts)
		r.pass(40 * time.Second)
		if c := owner(); !strings.Contains(c, `"kind":"Deployment"`) {
			t.Errorf("after: got %s, want a Deployment as owner", c)
		}
		if calls := r.sink.reset(); !slices.Equal(calls, []string{"replace rollouts.argoproj.io", "upsert pods"}) {
			t.Errorf("calls: got %v, want the one Pod again", calls)
		}
		r.sim.Put(rolloutsGVR, workload("Rollout", "default", "r"))
		r.pass(time.Second)
		r.wantNames("rollouts.argoproj.io", "default/r")
	})
}

// TestReportedAsBetweenWatches: the same, while the watch of Pods is just being opened.
func TestReportedAsBetweenWatches(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.opts.Selected = selected(t, "", resources.Request{Name: "rollouts", Group: "argoproj.io", As: "deployments"})
		r.sim.Put(podsGVR, `{"metadata":{"name":"p1","namespace":"default","ownerReferences":[{"apiVersion":"argoproj.io/v1alpha1","kind":"Rollout","name":"r","uid":"00000000-0000-4000-8000-00000000abcd","controller":true}]}}`)
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Resource == podsGVR && req.Verb == "watch" && !req.Streaming {
				time.Sleep(50 * time.Second)
			}
			return apisim.Fault{}
		})
		r.start()
		r.pass(10 * time.Second)
		r.net.Cut()
		r.pass(5 * time.Second)
		r.sim.Serve(rollouts)
		r.pass(90 * time.Second)
		for _, c := range r.sink.contents(t, "pods") {
			if !strings.Contains(c, `"kind":"Deployment"`) {
				t.Errorf("got %s, want a Deployment as owner", c)
			}
		}
	})
}

// TestOwnersAreKnownFirst: no report may go out with Pods that name an owner otherwise than it is reported.
func TestOwnersAreKnownFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.opts.Selected = selected(t, "", resources.Request{Name: "rollouts", Group: "argoproj.io", As: "deployments"})
		r.sim.Serve(rollouts)
		r.sim.Put(rolloutsGVR, workload("Rollout", "default", "r"))
		r.sim.Put(podsGVR, `{"metadata":{"name":"p1","namespace":"default","ownerReferences":[{"apiVersion":"argoproj.io/v1alpha1","kind":"Rollout","name":"r","uid":"00000000-0000-4000-8000-00000000abcd","controller":true}]}}`)
		r.sim.SetBroken("argoproj.io", true)
		r.start()
		r.pass(time.Minute)
		r.wantState("pods", Synced)
		r.wantComplete(false)
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Resource == podsGVR {
				time.Sleep(20 * time.Second)
			}
			return apisim.Fault{}
		})
		r.sim.SetBroken("argoproj.io", false)
		complete := false
		for range 90 {
			r.pass(time.Second)
			if complete = r.set.Verdict(time.Now()).Complete; !complete {
				continue
			}
			for _, c := range r.sink.contents(t, "pods") {
				if !strings.Contains(c, `"kind":"Deployment"`) {
					t.Fatalf("complete with %s, want a Deployment as owner", c)
				}
			}
		}
		if !complete {
			t.Error("got no complete verdict, want one when Pods are listed again")
		}
	})
}

// TestRequiredOwnersStay: as long as the entries of a workload CRD are kept, Pods name their owner as it is reported.
func TestRequiredOwnersStay(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		yes := true
		r.opts.Selected = selected(t, "", resources.Request{Name: "rollouts", Group: "argoproj.io", As: "deployments", Required: &yes})
		r.sim.Serve(rollouts)
		r.sim.Put(rolloutsGVR, workload("Rollout", "default", "r"))
		r.sim.Put(podsGVR, `{"metadata":{"name":"p1","namespace":"default","ownerReferences":[{"apiVersion":"argoproj.io/v1alpha1","kind":"Rollout","name":"r","uid":"00000000-0000-4000-8000-00000000abcd","controller":true}]}}`)
		r.start()
		r.pass(10 * time.Second)
		r.sim.Remove(rolloutsGVR)
		r.pass(20 * time.Minute)
		r.wantState("rollouts.argoproj.io", Failing)
		for _, c := range r.sink.contents(t, "pods") {
			if !strings.Contains(c, `"kind":"Deployment"`) {
				t.Errorf("got %s, want a Deployment as owner", c)
			}
		}
	})
}

// TestApplyAnotherScope: what was listed of other objects than are wanted now is not complete.
func TestApplyAnotherScope(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sim.Put(podsGVR, pod("other", "p2", ""))
		r.opts.Selected = selected(t, "default")
		r.start()
		r.pass(10 * time.Second)
		r.wantNames("pods", "default/p1")
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Resource == podsGVR {
				time.Sleep(10 * time.Second)
			}
			return apisim.Fault{}
		})
		r.set.Apply(selected(t, ""))
		complete := false
		for range 60 {
			r.pass(time.Second)
			if complete = r.set.Verdict(time.Now()).Complete; complete {
				r.wantNames("pods", "default/p1", "other/p2")
				break
			}
			r.wantNames("pods", "default/p1")
		}
		if !complete {
			t.Error("got no complete verdict after another namespace was applied")
		}
		r.set.Apply(selected(t, "default"))
		r.set.Apply(selected(t, ""))
		r.pass(time.Minute)
		r.wantComplete(true)
		r.wantNames("pods", "default/p1", "other/p2")
	})
}

func TestApply(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sim.Serve(cloneSets)
		r.sim.Put(podsGVR, pod("other", "p2", ""))
		r.start()
		r.pass(time.Minute)
		before := r.sim.Counts()
		r.sink.reset()
		r.set.Apply(selected(t, "", resources.Request{Name: "ingresses", Disabled: true}, resources.Request{Name: "configmaps"}))
		if r.wantComplete(false); t.Failed() {
			return
		}
		r.pass(10 * time.Second)
		r.wantComplete(true)
		r.wantState("configmaps", Synced)
		if calls := r.sink.reset(); !slices.Equal(calls, []string{"remove ingresses", "replace configmaps"}) {
			t.Errorf("calls: got %v, want the two resources only", calls)
		}
		for c := range countsBut(r.sim.Counts(), before) {
			if c.Resource != "configmaps" && c.Verb != "discovery" {
				t.Errorf("got a %s of %s, want requests for the new resource only", c.Verb, c.Resource)
			}
		}
		r.wantNames("pods", "default/p1", "other/p2")
		r.set.Apply(selected(t, "default"))
		r.pass(30 * time.Second)
		r.wantNames("pods", "default/p1")
		r.wantNames("namespaces", "default")
		if calls := slices.Sorted(slices.Values(r.sink.reset())); !slices.Equal(calls, []string{"delete pods", "remove configmaps", "replace ingresses"}) {
			t.Errorf("calls for another namespace: got %v, want those for what is outside it only", calls)
		}
		r.set.Apply(selected(t, "default", resources.Request{Name: "clonesets"}))
		r.pass(10 * time.Second)
		r.wantState("clonesets", Synced)
		r.set.Apply(selected(t, "default"))
		r.pass(10 * time.Second)
		for _, st := range r.set.Status().Resources {
			if st.Resource == "configmaps" {
				t.Error("a resource that is no longer selected is still in the status")
			}
		}
		if n := testutil.CollectAndCount(r.set.metrics.state); n != len(States)*11 {
			t.Errorf("series of states: got %d, want those of 11 resources", n)
		}
	})
}

// TestMalformedObjects: what cannot be identified is skipped, and what was known under the name is kept.
func TestMalformedObjects(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sim.SetStreaming(apisim.StreamingRefused)
		r.sim.Put(podsGVR, pod("default", "p2", ""))
		r.start()
		r.pass(time.Minute)
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Resource != podsGVR {
				return apisim.Fault{}
			}
			return apisim.Fault{Garble: func(b []byte) []byte {
				b = bytes.ReplaceAll(b, []byte(`"name":"p1","namespace":"default","resourceVersion"`), []byte(`"name":"p1","namespace":"default","uix":"","resourceVersion"`))
				b = bytes.ReplaceAll(b, []byte(`,"uid":"00000000-0000-4000-8000-000000000003"`), nil)
				return bytes.Replace(b, []byte(`"items":[`), []byte(`"items":[{"spec":{}},`), 1)
			}}
		})
		r.sim.Delete(podsGVR, "default", "p2")
		r.pass(30 * time.Minute)
		r.wantNames("pods", "default/p1")
		r.wantState("pods", Synced)
		if n := testutil.ToFloat64(r.set.metrics.malformed.WithLabelValues("pods")); n < 2 {
			t.Errorf("malformed objects counted: got %v, want at least 2", n)
		}
	})
}

// TestNamelessInList: an object of a list that cannot be identified may be any of those that seem to be missing.
func TestNamelessInList(t *testing.T) {
	for name, mode := range map[string]apisim.Streaming{"streaming": apisim.StreamingWorks, "refused": apisim.StreamingRefused} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.SetStreaming(mode)
				r.sim.Put(podsGVR, pod("default", "p2", ""))
				r.start()
				r.pass(time.Minute)
				r.sink.reset()
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
					return apisim.Fault{Garble: func(b []byte) []byte {
						if req.Resource != podsGVR {
							return b
						}
						return bytes.Replace(b, []byte(`"name":"p1"`), []byte(`"nome":"p1"`), 1)
					}}
				})
				r.pass(30 * time.Minute)
				r.wantState("pods", Synced)
				if calls := r.sink.reset(); len(calls) != 0 {
					t.Errorf("calls: got %v, want none", calls)
				}
				r.sim.Put(podsGVR, pod("default", "p3", ""))
				r.sim.Delete(podsGVR, "default", "p2")
				r.pass(time.Minute)
				r.wantNames("pods", "default/p1", "default/p3")
				r.sim.SetFaults(nil)
				r.sim.Delete(podsGVR, "default", "p1")
				r.pass(time.Minute)
				r.wantNames("pods", "default/p3")
			})
		})
	}
}

// TestUnidentifiedEvents: after an event that may have removed nobody knows what, a list tells, but not more than one a minute.
func TestUnidentifiedEvents(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"deleted without uid": func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"uid":"00000000-0000-4000-8000-000000000004"`), []byte(`"uix":""`), 1)
		},
		"modified without name": func(b []byte) []byte {
			return bytes.Replace(bytes.Replace(b, []byte("DELETED"), []byte("MODIFIED"), 1), []byte(`"name":"p2"`), []byte(`"nome":""`), 1)
		},
		"not an object": func([]byte) []byte { return []byte(`{"type":"DELETED","object":7}` + "\n") },
		"nothing":       func([]byte) []byte { return []byte(`{"type":"DELETED","object":{}}` + "\n") },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				if r.protobuf && name == "not an object" {
					return // in protobuf all messages are objects
				}
				deleted := []byte(`{"type":"DELETED"`)
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
					return apisim.Fault{Garble: func(b []byte) []byte {
						if req.Resource == podsGVR && bytes.HasPrefix(b, deleted) {
							return spoil(b)
						}
						return b
					}}
				})
				r.sim.Put(podsGVR, pod("default", "p2", ""))
				r.start()
				r.pass(10 * time.Second)
				r.wantNames("pods", "default/p1", "default/p2")
				r.sim.Delete(podsGVR, "default", "p2")
				r.pass(3 * time.Second)
				r.wantNames("pods", "default/p1")
				r.wantState("pods", Synced)

				stream := apisim.Count{Verb: "stream", Resource: "pods"}
				before := r.sim.Counts()[stream]
				for range 600 {
					r.sim.Put(podsGVR, `{"metadata":{"name":"p2","namespace":"default","uid":"00000000-0000-4000-8000-000000000004"}}`)
					r.sim.Delete(podsGVR, "default", "p2")
					r.pass(time.Second)
				}
				if n := r.sim.Counts()[stream] - before; n < 9 || n > 11 {
					t.Errorf("lists in ten minutes of such events: got %d, want one a minute", n)
				}
				r.pass(2 * time.Minute)
				r.wantNames("pods", "default/p1")
			})
		})
	}
}

func TestVersionFollowsUpgrade(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.pass(10 * time.Second)
		first := slices.Collect(maps.Values(r.sink.contents(t, VersionID)))
		if len(first) != 1 || !strings.Contains(first[0], `"gitVersion":"v1.36.0"`) {
			t.Fatalf("version entries: got %v, want one with gitVersion v1.36.0", first)
		}
		r.pass(time.Hour)
		r.sim.SetGitVersion("v1.37.1")
		r.pass(6 * time.Minute)
		next := slices.Collect(maps.Values(r.sink.contents(t, VersionID)))
		if len(next) != 1 || !strings.Contains(next[0], `"gitVersion":"v1.37.1"`) {
			t.Errorf("version entries after an upgrade: got %v, want one with gitVersion v1.37.1", next)
		}
	})
}

// TestWrongResourceVersions: resourceVersions that go back, stand still or come from the future cost lists, not objects.
func TestWrongResourceVersions(t *testing.T) {
	for _, rv := range []string{"1", "0", "99999999", "abc"} {
		t.Run(rv, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.SetStreaming(apisim.StreamingRefused)
				wrong := true
				var mu sync.Mutex
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
					mu.Lock()
					defer mu.Unlock()
					if req.Resource == podsGVR && wrong {
						return apisim.Fault{ResourceVersion: rv}
					}
					return apisim.Fault{}
				})
				r.sink.onCall = func(call, id string, _ resources.UID) {
					if call == "delete" {
						t.Errorf("%s %s although nothing was deleted", call, id)
					}
				}
				r.start()
				for i := range 10 {
					r.pass(time.Minute)
					r.sim.Put(podsGVR, pod("default", fmt.Sprintf("q%d", i), ""))
				}
				mu.Lock()
				wrong = false
				mu.Unlock()
				r.pass(2 * time.Minute)
				r.wantState("pods", Synced)
				if n := len(r.sink.names(t, "pods")); n != 11 {
					t.Errorf("Pods: got %d, want 11", n)
				}
			})
		})
	}
}

// TestWatchCutAtEveryByte cuts the connection at every byte of an event.
func TestWatchCutAtEveryByte(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.pass(10 * time.Second)
		const event = `{"type":"MODIFIED","object":}` + "\n"
		size := len(r.sim.Objects(podsGVR)[0]) + len(event)
		var cut atomic.Int64
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Resource == podsGVR && req.Verb == "watch" {
				return apisim.Fault{Cut: int(cut.Swap(0))}
			}
			return apisim.Fault{}
		})
		for i := 1; i <= size+10; i++ {
			cut.Store(int64(i))
			r.net.Cut()
			r.pass(2 * time.Second)
			r.sim.Put(podsGVR, pod("default", "p1", fmt.Sprint(i)))
			r.pass(10 * time.Second)
			for _, c := range r.sink.contents(t, "pods") {
				if !strings.Contains(c, fmt.Sprintf(`"l":"%d"`, i)) {
					t.Fatalf("cut after %d bytes: got %s, want label %d", i, c, i)
				}
			}
			r.wantNames("pods", "default/p1")
			r.wantState("pods", Synced)
		}
	})
}

// TestListCutAtEveryByte cuts the connection at every byte of a list: nothing is removed, and the next list is complete.
func TestListCutAtEveryByte(t *testing.T) {
	for name, mode := range map[string]apisim.Streaming{"streaming": apisim.StreamingWorks, "refused": apisim.StreamingRefused} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.SetStreaming(mode)
				r.sim.Put(podsGVR, pod("default", "p2", ""))
				r.start()
				r.pass(10 * time.Second)
				r.sink.reset()
				size := 400 // of what surrounds the objects
				for _, raw := range r.sim.Objects(podsGVR) {
					size += len(raw)
				}
				var cut, done atomic.Int64
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
					if req.Resource == podsGVR && (req.Streaming && mode == apisim.StreamingWorks || req.Verb == "list") {
						if n := int(cut.Swap(0)); n > 0 {
							return apisim.Fault{Cut: n}
						}
						done.Add(1)
					}
					return apisim.Fault{}
				})
				i := slices.IndexFunc(r.set.sources, func(src *source) bool { return src.id == "pods" })
				for n := 1; n <= size; n++ {
					cut.Store(int64(n))
					r.set.sources[i].running().lw.relist()
					r.pass(40 * time.Second)
					r.wantNames("pods", "default/p1", "default/p2")
					r.wantState("pods", Synced)
					if calls := r.sink.reset(); len(calls) != 0 {
						t.Fatalf("cut after %d bytes: got calls %v, want none", n, calls)
					}
				}
				least := size - 400
				if r.protobuf {
					least = size / 3
				}
				if got := int(done.Load()); got < least {
					t.Errorf("complete lists: got %d, want at least one for each of %d bytes", got, least)
				}
			})
		})
	}
}
