package reporter

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/faultserver"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// bench is one reporter, one source and one server under synthetic time.
type bench struct {
	t      *testing.T
	src    *testSource
	server *memServer
	rec    *recorder
	r      *run
}

func newBench(t *testing.T, change func(*Options)) *bench {
	t.Helper()
	b := &bench{t: t, src: newSource(nil), server: newMemServer(), rec: &recorder{}}
	b.server.Seen = b.rec.see
	seedContent(b.src)
	opts := Options{Source: b.src}
	if change != nil {
		change(&opts)
	}
	b.r = start(t, opts, nil, b.server)
	return b
}

// expect lets d pass and compares what the server has seen in it.
func (b *bench) expect(what string, d time.Duration, want string) []seen {
	b.t.Helper()
	pass(d)
	l := b.rec.take()
	if got := kinds(l); got != want {
		b.t.Errorf("%s: got requests %q, want %q", what, got, want)
	}
	return l
}

func (b *bench) state(want state) {
	b.t.Helper()
	if got := b.r.Status().State; got != string(want) {
		b.t.Errorf("got state %s, want %s", got, want)
	}
}

func (b *bench) change(n int, content string) { b.src.Upsert("pods", testEntry("*v1.Pod", n, content)) }

// holds checks that the server's store has exactly the current content, attested by the handshake, without an error.
func (b *bench) holds() {
	b.t.Helper()
	h := b.server.Held(testCluster)
	if h == nil {
		b.t.Fatal("the server holds nothing")
	}
	if cur := b.src.Fold.Take(); h.Version != cur.Version() || wireOf(h.Entries) != wireOfSnapshot(cur) || h.ErrorMsg != "" {
		b.t.Errorf("got version %d with %d entries and error %q, want %d with %d and none", h.Version, len(h.Entries), h.ErrorMsg, cur.Version(), cur.Len())
	}
}

func scenario(t *testing.T, name string, change func(*Options), f func(b *bench)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, change)
			f(b)
			b.r.stop()
		})
	})
}

func TestReporting(t *testing.T) {
	scenario(t, "first report, heartbeats, changes", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.state(stateSynced)
		b.expect("quiet", 150*time.Second, "empty empty")
		b.change(3, "a")
		b.expect("debounce", 900*time.Millisecond, "")
		b.expect("after the debounce", 200*time.Millisecond, "full")
		b.holds()
		b.change(4, "a")
		b.expect("within push_interval", 8*time.Second, "")
		b.change(5, "a")
		b.expect("after push_interval", 3*time.Second, "full")
		b.holds()
		b.change(5, "b")
		b.change(5, "a")
		b.expect("changed and back", 55*time.Second, "")
	})
	scenario(t, "not complete yet", nil, func(b *bench) {
		b.src.set(false)
		b.r.stop()
		b.rec.take()
		b.r = start(b.t, Options{Source: b.src}, nil, b.server)
		b.expect("incomplete", 150*time.Second, "probe probe probe")
	})
	scenario(t, "server restarts", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.server.Restart()
		l := b.expect("next heartbeat", time.Minute, "empty full")
		if l[0].version != l[1].version {
			b.t.Errorf("got full report of version %d, want %d again: nothing has changed", l[1].version, l[0].version)
		}
		b.holds()
	})
	scenario(t, "server restarts and closes connections", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.server.Restart()
		b.server.cut()
		b.expect("before the next heartbeat", 59*time.Second, "")
		b.expect("next heartbeat is the probe", 2*time.Second, "empty full")
		b.holds()
	})
	scenario(t, "hourly full report under a new version", nil, func(b *bench) {
		l := b.expect("start", 0, "probe full")
		first := l[1].version
		pass(time.Hour - time.Second)
		b.rec.take()
		l = b.expect("an hour after", 2*time.Second, "full")
		if len(l) == 1 && l[0].version == first {
			b.t.Errorf("got version %d again, want a new one", first)
		}
		b.holds()
	})
	scenario(t, "a response that got lost", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.server.Harm(once(faultserver.Fault{DropResponse: true}))
		pass(10 * time.Second)
		b.change(3, "a")
		b.expect("until the deadline", 31*time.Second, "full")
		b.expect("the probe finds it", 2*time.Second, "empty")
		b.state(stateSynced)
		b.holds()
	})
	scenario(t, "agent id 0", func(o *Options) { o.AgentID = proto.Uint32(0) }, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.expect("quiet", 599*time.Second, "")
		b.expect("keepalive", 2*time.Second, "full")
		b.server.Restart()
		b.expect("keepalive", 600*time.Second, "full")
		b.holds()
		b.src.set(true, "boom")
		b.expect("error", 2*time.Second, "error+")
		b.expect("error again", 600*time.Second, "error+")
		b.src.set(true)
		b.expect("cleared", 2*time.Second, "full")
		b.holds()
	})
}

// once applies a fault to the next request only.
func once(f faultserver.Fault) func(*agent.KubernetesAPISyncRequest) faultserver.Fault {
	used := false
	return func(*agent.KubernetesAPISyncRequest) faultserver.Fault {
		if used {
			return faultserver.Fault{}
		}
		used = true
		return f
	}
}

// beginFailing replaces the process, after its first report, by one whose source fails from the start.
func (b *bench) beginFailing(problem string) {
	b.t.Helper()
	b.expect("start", 0, "probe full")
	b.r.stop()
	b.rec.take()
	b.src = newSource(nil)
	b.src.set(false, problem)
	b.r = start(b.t, Options{Source: b.src}, nil, b.server)
}

// TestVersionOfSomebodyElse: what a server holds under a version that was taken and never sent is not ours. That takes a replica
// that loses its lease between the two.
func TestVersionOfSomebodyElse(t *testing.T) {
	var forbidden atomic.Bool
	maySend := func() (time.Time, bool) { return time.Time{}, !forbidden.Load() }
	scenario(t, "of the same number", func(o *Options) { o.MaySend = maySend }, func(b *bench) {
		b.expect("start", 0, "probe full")
		forbidden.Store(true)
		b.change(3, "a")
		b.expect("taken", 15*time.Second, "")
		version := b.r.Status().Version
		if version == b.server.Held(testCluster).Version {
			b.t.Fatal("nothing was taken")
		}
		b.server.Treat(&agent.KubernetesAPISyncRequest{
			ClusterId: new(testCluster), Version: &version, AgentId: proto.Uint32(1), Entries: []*agent.KubernetesAPIInfo{{Type: new("*v1.Pod")}},
		}, false)
		b.server.cut()
		pass(5 * time.Second)
		forbidden.Store(false)
		b.expect("sent under another version", 2*time.Minute, "empty full empty")
		b.holds()
	})
}

func TestErrors(t *testing.T) {
	scenario(t, "after the first report", nil, func(b *bench) {
		l := b.expect("start", 0, "probe full")
		version := l[1].version
		b.src.set(true, "pods: connection refused", "nodes: gone")
		l = b.expect("once with entries", 2*time.Second, "error+")
		if l[0].version != version || l[0].errMsg != "nodes: gone; pods: connection refused" {
			b.t.Errorf("got %d %q, want the old version %d and both errors, the shorter first", l[0].version, l[0].errMsg, version)
		}
		b.state(stateTelling)
		b.change(3, "a")
		l = b.expect("then alone", 120*time.Second, "error error")
		if l[1].version != version {
			b.t.Errorf("got version %d, want %d: an error has no version of its own", l[1].version, version)
		}
		b.server.Restart()
		b.expect("mismatch", time.Minute, "error error+")
		b.src.Delete("pods", testUID(3))
		b.src.set(true)
		l = b.expect("over, nothing changed", 2*time.Second, "empty")
		if l[0].version != version {
			b.t.Errorf("got version %d, want %d: no needless version", l[0].version, version)
		}
		b.holds()
		b.src.set(true, "again")
		b.expect("again", 12*time.Second, "error+")
		b.src.set(true)
		b.change(4, "a")
		b.expect("over, and something changed with it", 2*time.Second, "empty full")
		b.holds()
		b.src.set(true, "again")
		b.expect("again", 12*time.Second, "error+")
		b.change(5, "a")
		synctest.Wait()
		b.src.set(true)
		b.expect("over, after something changed", 2*time.Second, "full")
		b.holds()
	})
	scenario(t, "before the first report", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.r.stop()
		held := b.server.Held(testCluster).Version
		b.src = newSource(nil)
		b.src.set(false, "pods: forbidden")
		b.r = start(b.t, Options{Source: b.src}, nil, b.server)
		l := b.expect("told under what the server holds", 2*time.Second, "probe error")
		if l[1].version != held {
			b.t.Errorf("got version %d, want %d", l[1].version, held)
		}
		b.state(stateWaiting)
		b.expect("repeated", 2*time.Minute, "error error")
		seedContent(b.src)
		b.src.set(true)
		b.expect("over", 2*time.Second, "full")
		b.holds()
	})
	scenario(t, "before the first report, on a connection that was lost", nil, func(b *bench) {
		b.beginFailing("pods: forbidden")
		b.expect("told", 2*time.Second, "probe error")
		b.server.cut()
		b.expect("whoever answers now may not have been told", 61*time.Second, "probe error")
	})
	scenario(t, "before the first report, when somebody else reports", nil, func(b *bench) {
		b.beginFailing("pods: forbidden")
		b.expect("told", 2*time.Second, "probe error")
		b.server.Treat(&agent.KubernetesAPISyncRequest{
			ClusterId: new(testCluster), Version: proto.Uint64(77), AgentId: proto.Uint32(1), Entries: []*agent.KubernetesAPIInfo{{Type: new("*v1.Pod")}},
		}, false)
		l := b.expect("told again under what the server holds now", 75*time.Second, "error error")
		if len(l) == 2 && l[1].version != 77 {
			b.t.Errorf("got version %d, want 77", l[1].version)
		}
	})
	scenario(t, "before the first report, the server holds nothing", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.r.stop()
		b.server.Restart()
		b.src.set(false, "pods: forbidden")
		b.r = start(b.t, Options{Source: b.src}, nil, b.server)
		b.expect("nothing to attach an error to", 2*time.Minute, "probe probe probe")
	})
	scenario(t, "too large", func(o *Options) { o.MaxMessageSize = 8 << 10 }, func(b *bench) {
		b.expect("start", 0, "probe full")
		for n := range 100 {
			b.change(n, "a")
		}
		l := b.expect("told", 12*time.Second, "error+")
		if len(l) > 0 && l[0].entries != 3 {
			b.t.Errorf("got %d entries, want the 3 of the last report", l[0].entries)
		}
		b.state(stateTelling)
		for n := 3; n < 100; n++ {
			b.src.Delete("pods", testUID(n))
		}
		b.expect("fits again", 12*time.Second, "full")
		b.holds()
	})
}

func TestFailures(t *testing.T) {
	scenario(t, "every failure costs one attempt per backoff step", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.server.Harm(func(*agent.KubernetesAPISyncRequest) faultserver.Fault {
			return faultserver.Fault{Code: codes.Unavailable}
		})
		b.change(3, "a")
		pass(time.Hour)
		// 1+2+4+8+16+32 s, then one a minute.
		if n := len(b.rec.take()); n < 60 || n > 68 {
			b.t.Errorf("got %d requests in an hour, want about 65", n)
		}
		b.server.Harm(nil)
		b.expect("over", 61*time.Second, "empty full")
		b.holds()
	})
	scenario(t, "a server that answers full reports wrongly", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		asked := 0
		b.server.Harm(func(*agent.KubernetesAPISyncRequest) faultserver.Fault {
			asked++
			return faultserver.Fault{Answer: proto.Uint64(7), DropResponse: asked > 1000} // so that it ends if it is asked without pause
		})
		pass(time.Hour)
		l := b.rec.take()
		full := 0
		for _, s := range l {
			if s.entries > 0 {
				full++
			}
		}
		if full > 68 {
			b.t.Errorf("got %d full reports in an hour, want at most one a minute", full)
		}
		if st := b.r.Status(); st.State == string(stateSynced) || !strings.Contains(st.LastError, "answered version 7") {
			b.t.Errorf("got state %s with error %q, want the wrong answer shown", st.State, st.LastError)
		}
		b.server.Harm(nil)
		pass(2 * time.Minute)
		b.holds()
	})
}
