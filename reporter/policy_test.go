package reporter

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/faultserver"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// logLines keeps the messages that were logged at a level or above.
type logLines struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func newLogLines(level slog.Level) *logLines {
	l := &logLines{}
	l.Handler = slog.NewTextHandler(l, &slog.HandlerOptions{Level: level})
	return l
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *logLines) count(substring string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if strings.Contains(line, substring) {
			n++
		}
	}
	return n
}

func syncAnswerOf(watch bool) *agent.SyncResponse {
	return &agent.SyncResponse{
		Status: agent.Status_SUCCESS.Enum(), DynamicConfig: &agent.DynamicConfig{KubernetesApiEnabled: &watch},
	}
}

func TestClaim(t *testing.T) {
	claiming := func(o *Options) { o.ClaimWatcher = true }
	scenario(t, "every minute, watch-only and by force", claiming, func(b *bench) {
		pass(150 * time.Second)
		if n := len(b.server.claims); n != 3 {
			b.t.Errorf("got %d claims in 150 s, want 3", n)
		}
		c := b.server.claims[0]
		if c.policy != agent.KubernetesWatchPolicy_KWP_WATCH_ONLY || !c.force || c.clusterID != testCluster || c.ctrlMAC != ctrlMAC(testCluster) {
			b.t.Errorf("got claim %+v, want watch-only by force for %s with the derived address", c, testCluster)
		}
		if w := b.r.Status().Watcher; w.Role != roleGranted {
			b.t.Errorf("got role %s, want granted", w.Role)
		}
	})
	scenario(t, "switched off", nil, func(b *bench) {
		pass(150 * time.Second)
		if n := len(b.server.claims); n != 0 {
			b.t.Errorf("got %d claims, want none", n)
		}
	})
	for name, f := range map[string]func(context.Context, *agent.SyncRequest) (*agent.SyncResponse, error){
		"failing": func(context.Context, *agent.SyncRequest) (*agent.SyncResponse, error) {
			return nil, status.Error(codes.Internal, "boom")
		},
		"refused": func(context.Context, *agent.SyncRequest) (*agent.SyncResponse, error) {
			return &agent.SyncResponse{Status: agent.Status_FAILED.Enum()}, nil
		},
		"given to another": func(context.Context, *agent.SyncRequest) (*agent.SyncResponse, error) {
			return syncAnswerOf(false), nil
		},
		"hanging": func(ctx context.Context, _ *agent.SyncRequest) (*agent.SyncResponse, error) {
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &bench{t: t, src: newSource(nil), server: newMemServer(), rec: &recorder{}}
				b.server.Seen, b.server.OnSync = b.rec.see, f
				seedContent(b.src)
				b.r = start(t, Options{Source: b.src, ClaimWatcher: true}, nil, b.server)
				b.expect("the report does not wait", 0, "probe full")
				b.expect("nor do heartbeats", 2*time.Minute, "empty empty")
				if role := b.r.Status().Watcher.Role; role != roleFailed && role != roleRefused {
					t.Errorf("got role %s, want failed or refused", role)
				}
				b.r.stop()
			})
		})
	}
}

func TestPolicyNormalFollowsTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		watch, fail := false, false
		var told []bool
		b := &bench{t: t, src: newSource(nil), server: newMemServer(), rec: &recorder{}}
		b.server.Seen = b.rec.see
		b.server.OnSync = func(_ context.Context, r *agent.SyncRequest) (*agent.SyncResponse, error) {
			mu.Lock()
			defer mu.Unlock()
			if r.GetKubernetesForceWatch() || r.GetKubernetesWatchPolicy() != agent.KubernetesWatchPolicy_KWP_NORMAL {
				t.Errorf("got %v, want policy normal without force", r)
			}
			if fail {
				return nil, status.Error(codes.Unavailable, "away")
			}
			return syncAnswerOf(watch), nil
		}
		say := func(w, f bool) {
			mu.Lock()
			defer mu.Unlock()
			watch, fail = w, f
		}
		seedContent(b.src)
		b.r = start(t, Options{
			Source: b.src, Policy: Normal, RegisterAsAgent: true, HeartbeatInterval: time.Hour, OnWatching: func(w bool) { told = append(told, w) },
		}, nil, b.server)
		b.expect("not wanted", 3*time.Minute+5*time.Second, "")
		b.state(stateIdle)
		say(true, false)
		b.expect("wanted", time.Minute, "probe full")
		say(false, false)
		b.expect("no longer", time.Minute, "")
		b.state(stateIdle)
		say(true, false)
		b.expect("again", time.Minute, "probe") // and the server still has our version
		say(true, true)
		pass(8 * time.Minute)
		if !b.r.Status().Watcher.Watching {
			t.Error("stopped to watch within the lease")
		}
		pass(2 * time.Minute)
		b.rec.take()
		b.expect("the server was silent longer than the lease", 5*time.Minute, "")
		if want := []bool{true, false, true, false}; !slices.Equal(told, want) {
			t.Errorf("got told %v, want %v", told, want)
		}
		b.r.stop()
	})
}

func TestPolicyDisabledSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newMemServer()
		r := start(t, Options{Policy: WatchDisabled, ClaimWatcher: true}, nil, server)
		pass(time.Hour)
		if n := r.net.(*memNet).connects.Load(); n != 0 || r.Status().State != string(stateDisabled) {
			t.Errorf("got %d connections in state %s, want none, disabled", n, r.Status().State)
		}
		r.stop()
	})
	synctest.Test(t, func(t *testing.T) {
		server := newMemServer()
		r := start(t, Options{Policy: WatchDisabled, RegisterAsAgent: true}, nil, server)
		pass(5 * time.Minute)
		if n := len(server.claims); n < 5 || server.claims[0].policy != agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED || server.requests != 0 {
			t.Errorf("got %d Syncs and %d reports, want one Sync a minute with watch-disabled and no report", n, server.requests)
		}
		r.stop()
	})
}

// A configuration without a server is in order if nothing would be sent to it.
func TestPolicyDisabledNeedsNoServer(t *testing.T) {
	if _, err := New(Options{Policy: WatchDisabled}); err != nil {
		t.Error(err)
	}
	if _, err := New(Options{Policy: WatchDisabled, RegisterAsAgent: true}); err == nil || !strings.Contains(err.Error(), "server.addresses") {
		t.Errorf("got %v for one that registers, want an error about server.addresses", err)
	}
}

func TestGoodbye(t *testing.T) {
	for _, c := range []struct{ pseudo, lost bool }{{true, false}, {true, true}, {false, false}, {false, true}} {
		synctest.Test(t, func(t *testing.T) {
			server := newMemServer()
			server.pseudo = c.pseudo
			src := newSource(nil)
			seedContent(src)
			r := start(t, Options{Source: src, ClaimWatcher: true}, nil, server)
			pass(90 * time.Second)
			if c.lost {
				server.cut()
			}
			r.stop()
			last := server.claims[len(server.claims)-1]
			if last.goodbye != c.pseudo {
				t.Errorf("%+v: got goodbye %v, want it for pseudo-servers only", c, last.goodbye)
			}
			if last.policy != agent.KubernetesWatchPolicy_KWP_WATCH_ONLY || !last.force {
				t.Errorf("got goodbye %+v, want the usual claim", last)
			}
		})
	}
}

// A connect that is under way at the deadline of stopping is joined before the role is given back, and not left open.
func TestGoodbyeWhileConnecting(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			server := newMemServer()
			server.pseudo = true
			src := newSource(nil)
			seedContent(src)
			r := start(t, Options{Source: src, ClaimWatcher: true, ConnectTimeout: time.Minute}, nil, server)
			pass(90 * time.Second)
			server.set(func(s *memServer) { s.hole, s.late = true, late })
			server.cut()
			pass(5 * time.Second)
			r.stop()
			if n := len(server.sessions); n != 0 {
				t.Errorf("late %v: got %d connections left open, want none", late, n)
			}
		})
	}
}

func TestStopFlushes(t *testing.T) {
	scenario(t, "a pending change", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.change(3, "a")
		b.r.stop()
		b.holds()
	})
	scenario(t, "nothing pending", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.r.stop()
		b.expect("nothing", 0, "")
	})
	scenario(t, "a request under way and a change behind it", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.server.Harm(once(faultserver.Fault{Delay: 3 * time.Second}))
		pass(10 * time.Second)
		b.change(3, "a")
		pass(2 * time.Second)
		b.change(4, "a")
		b.r.stop()
		b.holds()
	})
	scenario(t, "a dead server", func(o *Options) { o.ShutdownTimeout = 7 * time.Second }, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.server.set(func(s *memServer) { s.hole = true })
		b.change(3, "a")
		begin := time.Now()
		b.r.stop()
		if d := time.Since(begin); d != 7*time.Second {
			b.t.Errorf("stopping took %v, want the deadline of 7s", d)
		}
	})
	scenario(t, "incomplete", nil, func(b *bench) {
		b.expect("start", 0, "probe full")
		b.src.set(false)
		b.change(3, "a")
		b.r.stop()
		b.expect("nothing partial", 0, "")
	})
}

func TestConflict(t *testing.T) {
	logs := newLogLines(slog.LevelError)
	scenario(t, "another agent", func(o *Options) { o.ClaimWatcher, o.Logger = true, slog.New(logs) }, func(b *bench) {
		version := uint64(1000)
		other := func() {
			version++
			b.server.Treat(&agent.KubernetesAPISyncRequest{
				ClusterId: new(testCluster), Version: &version, AgentId: proto.Uint32(7),
				Entries: []*agent.KubernetesAPIInfo{{Type: new("*v1.Pod")}},
			}, false)
		}
		pass(30 * time.Second)
		for range 3 { // the usual hand-over
			other()
			pass(time.Minute)
		}
		if b.r.Status().Conflict.Active {
			b.t.Error("the first three minutes count as a conflict, want a hand-over")
		}
		other()
		pass(time.Minute)
		if b.r.Status().Conflict.Active {
			b.t.Error("one foreign version is a conflict, want two")
		}
		other()
		pass(time.Minute)
		if s := b.r.Status().Conflict; !s.Active || s.ForeignVersion != version {
			b.t.Errorf("got %+v, want a conflict with version %d", s, version)
		}
		b.server.Restart()
		b.server.cut()
		pass(20 * time.Minute)
		if b.r.Status().Conflict.Active {
			b.t.Error("the conflict stands 20 minutes after the other agent went")
		}
		if n := logs.count("another agent reports"); n != 1 {
			b.t.Errorf("got %d log lines about the conflict, want 1", n)
		}
	})
}

// TestFormerVersionsAreNoConflict: servers that hold what a former process reported are no sign of another one.
func TestFormerVersionsAreNoConflict(t *testing.T) {
	logs := newLogLines(slog.LevelError)
	synctest.Test(t, func(t *testing.T) {
		src := newSource(nil)
		seedContent(src)
		servers := []*memServer{newMemServer(), newMemServer(), newMemServer()}
		for i, s := range servers {
			s.Treat(&agent.KubernetesAPISyncRequest{
				ClusterId: new(testCluster), Version: new(uint64(1000 + i)), AgentId: proto.Uint32(7),
				Entries: []*agent.KubernetesAPIInfo{{Type: new("*v1.Pod")}},
			}, false)
		}
		r := start(t, Options{Source: src, Logger: slog.New(logs)}, nil, servers...)
		pass(5 * time.Minute)
		for _, s := range servers[:2] {
			s.set(func(s *memServer) { s.down = true })
			s.cut()
			pass(2 * time.Minute)
		}
		if h := servers[2].Held(testCluster); h == nil || h.Version != src.Fold.Take().Version() {
			t.Errorf("got %+v from the third server, want the current version", h)
		}
		if r.Status().Conflict.Active || logs.count("another agent reports") > 0 {
			t.Error("two servers in turn held what came before us, which is told as a conflict")
		}
		r.stop()
	})
}

func TestClusterID(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.crt")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one CA")
	logs := newLogLines(slog.LevelError)
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, src: newSource(nil), server: newMemServer(), rec: &recorder{}}
		var works atomic.Bool
		b.server.Seen = b.rec.see
		b.server.OnClusterID = func(r *agent.KubernetesClusterIDRequest) (*agent.KubernetesClusterIDResponse, error) {
			if !works.Load() {
				return nil, errors.New("not yet")
			}
			return &agent.KubernetesClusterIDResponse{ClusterId: new("d-" + r.GetCaMd5()[:10])}, nil
		}
		seedContent(b.src)
		b.r = start(t, Options{Source: b.src, CAFile: file, ClaimWatcher: true, Logger: slog.New(logs)}, nil, b.server)
		b.expect("no id, no report", 5*time.Second, "")
		b.state(stateConnecting)
		works.Store(true)
		b.expect("named", time.Minute, "probe full")
		id := b.r.Status().ClusterID
		if id != "d-03eb08b422" {
			t.Errorf("got cluster id %s, want d-03eb08b422 for the MD5 of the file", id)
		}
		write("another CA")
		pass(10 * time.Minute)
		if s := b.r.Status(); s.ClusterID != id || s.ChangedID == "" || s.ChangedID == id {
			t.Errorf("got id %s and derived now %q, want %s kept and the other one shown", s.ClusterID, s.ChangedID, id)
		}
		if n := logs.count("derives another cluster id"); n != 1 {
			t.Errorf("got %d loud lines, want 1", n)
		}
		b.r.stop()
	})
}

func TestUserConfigIsHandedOutWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, src := newMemServer(), newSource(nil)
		var mu sync.Mutex
		yaml := "a: 1"
		server.OnSync = func(context.Context, *agent.SyncRequest) (*agent.SyncResponse, error) {
			mu.Lock()
			defer mu.Unlock()
			r := syncAnswerOf(true)
			r.UserConfig = new(yaml)
			return r, nil
		}
		var got []string
		r := start(t, Options{Source: src, ClaimWatcher: true, OnUserConfig: func(y string) { got = append(got, y) }}, nil, server)
		pass(150 * time.Second)
		mu.Lock()
		yaml = "a: 2"
		mu.Unlock()
		pass(150 * time.Second)
		r.stop()
		if want := []string{"a: 1", "a: 2"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestMaySendForbidsAndBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		leader := false
		var until time.Time
		b := &bench{t: t, src: newSource(nil), server: newMemServer(), rec: &recorder{}}
		b.server.Seen = b.rec.see
		b.server.pseudo = true
		seedContent(b.src)
		b.r = start(t, Options{Source: b.src, ClaimWatcher: true, MaySend: func() (time.Time, bool) {
			mu.Lock()
			defer mu.Unlock()
			return until, leader
		}}, nil, b.server)
		pass(10 * time.Minute)
		if n := b.r.net.(*memNet).connects.Load(); n != 0 || len(b.server.claims) != 0 {
			t.Errorf("a standby made %d connections and %d claims, want none", n, len(b.server.claims))
		}
		b.state(stateStandby)
		mu.Lock()
		leader = true
		mu.Unlock()
		b.expect("leader", 2*time.Second, "probe full")
		b.server.Harm(func(*agent.KubernetesAPISyncRequest) faultserver.Fault { return faultserver.Fault{DropRequest: true} })
		mu.Lock()
		until = time.Now().Add(60 * time.Second)
		mu.Unlock()
		pass(59 * time.Second) // the heartbeat is under way, and would be for 30 s
		synctest.Wait()
		mu.Lock()
		leader = false
		mu.Unlock()
		pass(2 * time.Second)
		if n := b.r.Status().Failures; n == 0 {
			t.Error("a request outlives the lease")
		}
		claims := len(b.server.claims)
		b.r.stop()
		if got := b.server.claims[claims:]; len(got) != 0 {
			t.Errorf("got %+v after the lease was lost, want nothing: the role is the successor's", got)
		}
	})
}

func TestFailOverToTheNextServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two, src := newMemServer(), newMemServer(), newSource(nil)
		seedContent(src)
		r := start(t, Options{Source: src}, nil, one, two)
		pass(10 * time.Second)
		if two.requests != 0 {
			t.Errorf("got %d requests to the second server, want none while the first works", two.requests)
		}
		one.set(func(s *memServer) { s.down = true })
		one.cut()
		pass(2 * time.Minute)
		if h := two.Held(testCluster); h == nil || h.Version != src.Fold.Take().Version() {
			t.Errorf("got %+v from the second server, want the current version", h)
		}
		n := one.requests
		one.set(func(s *memServer) { s.down = false })
		pass(time.Hour)
		if one.requests != n {
			t.Errorf("got %d more requests to the first server, want none while the second works", one.requests-n)
		}
		r.stop()
	})
}

func TestOptionsAreChecked(t *testing.T) {
	src := newSource(nil)
	for _, c := range []struct {
		name string
		opts Options
		want []string
	}{
		{"nothing", Options{}, []string{"no source", "server.addresses: no server"}},
		{"all at once", Options{
			Source: src, Addresses: []string{"host"}, Service: "x", Policy: "y", ClusterID: "-z", HeartbeatInterval: 25 * time.Hour,
			MaxMessageSize: -1,
		}, []string{`"host" is not host:port`, `service: "x"`, `watch_policy: "y"`, `cluster_id: "-z"`, "heartbeat_interval: 25h0m0s", "max_message_size: -1"}},
		{"normal without leave", Options{Source: src, Addresses: []string{"a:1"}, Policy: Normal}, []string{"register_as_agent: true"}},
		{"a day without request", Options{Source: src, Addresses: []string{"a:1"}, KeepaliveInterval: 24 * time.Hour}, []string{"keepalive_interval: 24h0m0s is not allowed, want 1s to 12h0m0s"}},
		{"good", Options{Source: src, Addresses: []string{"a:1", "[::1]:2"}}, nil},
	} {
		_, err := New(c.opts)
		if c.want == nil {
			if err != nil {
				t.Errorf("%s: got %v, want no error", c.name, err)
			}
			continue
		}
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q in it", c.name, err, want)
			}
		}
	}
}

func TestARepeatedFailureIsLoggedOnce(t *testing.T) {
	logs := newLogLines(slog.LevelInfo)
	scenario(t, "outage", func(o *Options) { o.Logger = slog.New(logs) }, func(b *bench) {
		pass(time.Second)
		b.server.set(func(s *memServer) { s.down = true })
		b.server.cut()
		pass(time.Hour)
		b.server.set(func(s *memServer) { s.down = false; s.hole = true })
		pass(time.Hour)
		b.server.set(func(s *memServer) { s.hole = false })
		pass(3 * time.Minute)
	})
	if n := logs.count("cannot be reported to"); n > 2 {
		t.Errorf("got %d lines about two hours of failures, want at most one per cause", n)
	}
	if n := logs.count("can be reported to again"); n != 1 {
		t.Errorf("got %d lines about the end, want 1", n)
	}
}

// Clusters without a CA certificate (a publicly trusted apiserver, kubectl proxy) must not become one.
func TestNoCANoClusterID(t *testing.T) {
	for _, pem := range []string{"", "\n \n"} {
		if sum, err := caMD5(t.Context(), func(context.Context) ([]byte, error) { return []byte(pem), nil }); err == nil || !strings.Contains(err.Error(), "set cluster_id") {
			t.Errorf("of %q: got %q, %v, want an error that says what to set", pem, sum, err)
		}
	}
}

// TestAnOutageIsNotLoggedEverySecond: resources that fail, and come back, one by one change what the server is told each time; the
// log tells how it began, how it stands now and then, and that it is over.
func TestAnOutageIsNotLoggedEverySecond(t *testing.T) {
	logs := newLogLines(slog.LevelInfo)
	scenario(t, "outage", func(o *Options) { o.Logger = slog.New(logs) }, func(b *bench) {
		pass(time.Second)
		for n := range 40 {
			b.src.set(true, strconv.Itoa(n+1)+" resources: away")
			pass(time.Second)
		}
		pass(time.Minute)
		for n := 40; n > 0; n-- {
			b.src.set(true, strconv.Itoa(n)+" resources: away")
			pass(time.Second)
		}
		b.src.set(true)
		pass(2 * time.Second)
		b.holds()
	})
	if n := logs.count("will be told errors"); n > 5 {
		t.Errorf("got %d lines while resources fail and come back, want five at most", n)
	}
	for text, want := range map[string]int{`error_msg="1 resources: away"`: 1, `error_msg="40 resources: away"`: 1, "errors are over": 1} {
		if n := logs.count(text); n != want {
			t.Errorf("got %d lines with %s, want %d", n, text, want)
		}
	}
}

// TestAServerThatIsAwayIsOneCause: refused, silent and closed connections alternate as a server goes and comes back.
func TestAServerThatIsAwayIsOneCause(t *testing.T) {
	logs := newLogLines(slog.LevelInfo)
	var run trouble
	for n := range 30 {
		cause := []string{causeUnavailable, causeConnect, causeTimeout}[n%3]
		run.begin(time.Unix(int64(n), 0), slog.New(logs), cause, "s", errClosed)
	}
	run.begin(time.Unix(31, 0), slog.New(logs), causeTLS, "s", errClosed)
	if n := logs.count("cannot be reported to"); n != 2 {
		t.Errorf("got %d lines, want one of the outage and one of the other cause", n)
	}
}
