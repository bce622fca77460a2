package informers

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// TestRandomRegressions are histories of TestRandom that once removed living objects. The scheduler has a say in them: the
// tests below hold the same rules alone.
func TestRandomRegressions(t *testing.T) {
	for name, seed := range map[string]uint64{
		"discovery from the time when the apiserver was starting": 12477365313907616297,
		"discovery in which a resource has no name":               12477365313907617156,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) { newGame(t, r, seed).play() })
		})
	}
}

// withCloneSet starts r with a CRD that has one object, which is Synced.
func withCloneSet(r *rig) {
	r.t.Helper()
	r.opts.Selected = selected(r.t, "", resources.Request{Name: "clonesets"})
	r.sim.Serve(cloneSets)
	r.sim.Put(cloneSetsGVR, workload("CloneSet", "default", "c1"))
	r.start()
	r.pass(10 * time.Second)
	r.wantNames("clonesets", "default/c1")
}

// TestDamagedDiscovery: a document in which a group or a resource has no name is damaged, and says nothing about absence.
func TestDamagedDiscovery(t *testing.T) {
	for name, tt := range map[string]struct {
		aggregated bool
		old        string
	}{
		"resource, aggregated": {true, `"resource":"clonesets"`},
		"group, aggregated":    {true, `"name":"apps.kruise.io"`},
		"resource, plain":      {false, `"name":"clonesets"`},
		"group, plain":         {false, `"name":"apps.kruise.io"`},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(_ *testing.T, r *rig) {
				r.sim.SetAggregated(tt.aggregated)
				withCloneSet(r)
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
					switch {
					case req.Verb == "discovery":
						return apisim.Fault{Garble: func(b []byte) []byte {
							return bytes.ReplaceAll(b, []byte(tt.old), []byte(`"nome":""`))
						}}
					case req.Resource == cloneSetsGVR:
						return apisim.Fault{Status: http.StatusForbidden}
					}
					return apisim.Fault{}
				})
				r.sim.Serve(rollouts) // so that discovery is sent, and not answered with 304
				r.net.Cut()
				r.pass(5 * time.Minute)
				r.wantState("clonesets", Failing)
				r.wantNames("clonesets", "default/c1")
				r.sim.SetFaults(nil)
				r.pass(6 * time.Minute)
				r.wantState("clonesets", Synced)
			})
		})
	}
}

// TestForbiddenWhileStarting: an apiserver that is starting names no CRDs and, as long as it has no roles, refuses everything.
// When it has started between the request for discovery and the look that confirms it, the CRD is not gone.
func TestForbiddenWhileStarting(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		withCloneSet(r)
		start := time.Now()
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Resource != cloneSetsGVR {
				return apisim.Fault{}
			}
			if req.Verb == "list" && req.Limit == 1 && time.Since(start) > time.Minute {
				r.sim.SetStarting(false)
			}
			return apisim.Fault{Status: http.StatusForbidden}
		})
		r.sim.SetStarting(true)
		r.net.Cut()
		r.pass(3 * time.Minute)
		r.wantState("clonesets", Failing)
		r.wantNames("clonesets", "default/c1")
		r.sim.SetFaults(nil)
		r.pass(time.Minute)
		r.wantState("clonesets", Synced)
		r.wantNames("clonesets", "default/c1")
	})
}

// TestAbsenceIsUninterrupted: the time for which discovery has to be without a resource that answers 403 begins anew after
// discovery was unsure.
func TestAbsenceIsUninterrupted(t *testing.T) {
	inBubble(t, func(_ *testing.T, r *rig) {
		r.sim.Serve(apisim.Resource{GroupVersionResource: gvr("apps.kruise.io", "v1alpha1", "sidecarsets"), Kind: "SidecarSet"})
		withCloneSet(r)
		r.deny(http.StatusForbidden, on("clonesets"))
		r.sim.Remove(cloneSetsGVR)
		r.pass(25 * time.Second)
		r.wantState("clonesets", Failing)
		r.sim.SetBroken("apps.kruise.io", true)
		r.pass(time.Minute)
		r.sim.SetBroken("apps.kruise.io", false)
		r.pass(20 * time.Second)
		r.wantState("clonesets", Failing)
		r.pass(time.Minute)
		r.wantState("clonesets", NotServed)
	})
}

// TestServedAgainMeanwhile: a CRD is removed, and installed and listed again before the removal has been acted upon.
func TestServedAgainMeanwhile(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		var armed atomic.Bool
		r.opts.Config.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper{next, func(req *http.Request) (*http.Response, error) {
				resp, err := next.RoundTrip(req)
				if err != nil || !strings.Contains(req.URL.Path, "/clonesets") || req.URL.Query().Get("limit") != "1" || !armed.CompareAndSwap(true, false) {
					return resp, err
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					return nil, err
				}
				resp.Body = io.NopCloser(bytes.NewReader(body))
				r.sim.Serve(cloneSets)
				r.sim.Put(cloneSetsGVR, workload("CloneSet", "default", "c2"))
				time.Sleep(14 * time.Second) // the informer retries meanwhile
				return resp, nil
			}}
		})
		withCloneSet(r)
		armed.Store(true)
		r.sink.onCall = func(call, id string, uid resources.UID) {
			for _, raw := range r.sim.Objects(cloneSetsGVR) {
				if call == "delete" && id == "clonesets" && uid == uidOf(t, raw) {
					t.Errorf("%s was removed although it lives", raw)
				}
			}
		}
		r.sim.Remove(cloneSetsGVR)
		r.pass(time.Minute)
		if armed.Load() {
			t.Error("the removal was never looked at")
		}
		r.wantState("clonesets", Synced)
		r.wantNames("clonesets", "default/c2")
	})
}

func uidOf(t *testing.T, object []byte) resources.UID {
	t.Helper()
	var o struct{ Metadata struct{ UID string } }
	if err := json.Unmarshal(object, &o); err != nil {
		t.Fatal(err)
	}
	return resources.ParseUID(o.Metadata.UID)
}

// roundTripper is a function in the place of next, which client-go still finds.
type roundTripper struct {
	next http.RoundTripper
	f    func(*http.Request) (*http.Response, error)
}

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r.f(req) }

func (r roundTripper) WrappedRoundTripper() http.RoundTripper { return r.next }
