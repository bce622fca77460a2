package informers

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
)

// TestUselessWatches: where lists are complete and watches cannot live, changes are reported by lists, not too many of them;
// that is told, the server is told no error, and it ends when a watch works again.
func TestUselessWatches(t *testing.T) {
	for name, tt := range map[string]struct {
		fault     apisim.Fault
		bookmarks time.Duration
		told      time.Duration // after which it is told at the latest
		reason    string
		advice    string
	}{
		"410": {
			apisim.Fault{Status: http.StatusGone}, time.Minute, 30 * time.Second, "(410)", "etcd",
		},
		"a proxy that buffers": {
			apisim.Fault{Freeze: 1}, time.Minute, 7 * time.Minute, "deliver nothing", "buffers",
		},
		"a balancer with an idle timeout of 3 s": {
			apisim.Fault{Cut: 1}, 3 * time.Second, 30 * time.Second, "end within seconds", "idle timeout",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				r.sim.SetStreaming(apisim.StreamingRefused)
				r.sim.SetBookmarks(tt.bookmarks)
				r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
					if req.Verb == "watch" && !req.Streaming {
						return tt.fault
					}
					return apisim.Fault{}
				})
				r.start()
				r.pass(time.Second)
				for end := time.Now().Add(tt.told); time.Now().Before(end); {
					r.pass(time.Second)
					if v := r.set.Verdict(time.Now()); len(v.Errors) > 0 || !v.Complete {
						t.Fatalf("got %+v, want reports to go on", v)
					}
				}
				st := r.state("pods")
				if st.State != Polling || !strings.Contains(st.Reason, tt.reason) || !strings.Contains(st.Advice, tt.advice) {
					t.Errorf("got %s (%s; %s), want Polling because watches %s", st.State, st.Reason, st.Advice, tt.reason)
				}
				if v := r.set.Verdict(time.Now()); len(v.Standing) == 0 {
					t.Error("nothing is said to stand")
				}

				before := r.sim.Counts()
				r.sim.Put(podsGVR, pod("default", "p2", ""))
				r.pass(110 * time.Second)
				r.wantNames("pods", "default/p1", "default/p2")
				r.pass(30*time.Minute - 110*time.Second)
				r.wantState("pods", Polling)
				r.wantComplete(true)
				lists := countsBut(r.sim.Counts(), before)[apisim.Count{Verb: "list", Resource: "pods"}]
				if lists > 30 || lists < 15 {
					t.Errorf("lists of Pods in half an hour: got %d, want one every 90 s at most", lists)
				}

				r.sim.SetFaults(nil)
				r.sim.SetBookmarks(time.Minute)
				r.pass(5 * time.Minute)
				r.wantState("pods", Synced)
				before = r.sim.Counts()
				r.sim.Put(podsGVR, pod("default", "p3", ""))
				r.pass(8 * time.Minute)
				r.wantNames("pods", "default/p1", "default/p2", "default/p3")
				if lists := countsBut(r.sim.Counts(), before)[apisim.Count{Verb: "list", Resource: "pods"}]; lists > 1 {
					t.Errorf("lists of Pods in eight minutes with watches: got %d, want one at most", lists)
				}
			})
		})
	}
}

// TestFailingListWhilePolling: lists that take the place of watches are told when they fail.
func TestFailingListWhilePolling(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.sim.SetStreaming(apisim.StreamingRefused)
		var status atomic.Int64
		status.Store(http.StatusGone)
		r.sim.SetFaults(func(req apisim.Request) apisim.Fault {
			if req.Resource == podsGVR && (req.Verb == "watch" || status.Load() != http.StatusGone) {
				return apisim.Fault{Status: int(status.Load())}
			}
			return apisim.Fault{}
		})
		r.start()
		r.pass(time.Minute)
		r.wantState("pods", Polling)
		status.Store(http.StatusForbidden)
		r.pass(3 * time.Minute)
		r.wantState("pods", Failing)
		if v := r.set.Verdict(time.Now()); len(v.Errors) != 1 {
			t.Errorf("errors: got %v, want one", v.Errors)
		}
		status.Store(http.StatusGone)
		r.pass(2 * time.Minute)
		r.wantState("pods", Polling)
	})
}

// TestConnectionsCutEverySoOften: a balancer that ends connections of HTTP/2 ends all watches at once, also those with which
// streaming lists go on.
func TestConnectionsCutEverySoOften(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		cut := func(d time.Duration) {
			t.Helper()
			for end := time.Now().Add(d); time.Now().Before(end); {
				r.pass(3 * time.Second)
				r.net.Cut()
			}
		}
		r.start()
		cut(40 * time.Second)
		for i := range 10 {
			if st := r.state("pods"); st.State != Polling {
				t.Errorf("got %s (%s), want Polling", st.State, st.Reason)
			}
			if v := r.set.Verdict(time.Now()); len(v.Errors) > 0 || !v.Complete {
				t.Errorf("got %+v, want reports to go on", v)
			}
			r.sim.Put(podsGVR, pod("default", "p1", fmt.Sprint(i)))
			cut(110 * time.Second)
			for _, c := range r.sink.contents(t, "pods") {
				if !strings.Contains(c, fmt.Sprintf(`"l":"%d"`, i)) {
					t.Errorf("got %s, want label %d", c, i)
				}
			}
		}
	})
}
