package reporter

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/faultserver"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/resources"
	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// TestRandomHistories lets reporters live through random histories of changes, errors, restarts, network and server
// faults and clock steps, and checks at each request and at the end what docs/protocol.md promises:
//
//   - content that goes out is the cluster's content at one moment, complete, and never another under a version that had
//     one before, across restarts of the reporter and steps of its clock;
//   - an error goes out under a version that the server or we had before, never alone under a new one;
//   - changed snapshots are push_interval apart, and nothing ever storms;
//   - once the faults are over, the server holds exactly the current content within two heartbeat intervals, and within
//     full_resync_interval if the server hid a loss.
func TestRandomHistories(t *testing.T) {
	histories := testseed.Rounds(t, 1500)
	first := testseed.New(t)
	for i := range uint64(histories) {
		seed := first + i
		ok := true
		synctest.Test(t, func(t *testing.T) {
			h := newHistory(t, seed)
			h.run()
			ok = !t.Failed()
		})
		if !ok {
			t.Fatalf("failed in the history of PSEUDO_TEST_SEED=%d", seed)
		}
	}
}

const (
	modelHeartbeat = time.Minute
	modelResync    = 20 * time.Minute
	modelKeepalive = 2 * time.Minute
	modelPush      = 10 * time.Second
)

// history is one random history. What it does is drawn by the test's goroutine, what each server does by requests.
type history struct {
	t       *testing.T
	rnd     *rand.Rand
	servers []*memServer
	agentID *uint32

	mu        sync.Mutex
	faulty    bool
	faultRnd  *rand.Rand
	refusing  bool // every server refuses all entries
	hidden    bool
	lateUntil time.Time
	offset    time.Duration // of the reporter's wall clock
	contents  map[uint64]string
	answered  map[uint64]bool // versions that a server held
	firstAt   map[uint64]time.Time
	greatest  uint64 // version that was answered to this process
	probed    map[*memServer]bool
	lastNew   time.Time
	flushing  bool
	times     []time.Time

	src     *modelSource
	running *run
	truth   map[int]string // pods
	extra   bool           // whether the second source is there
}

// modelSource checks each snapshot against what the cluster has at that moment.
type modelSource struct {
	*testSource
	h *history
}

func (s *modelSource) Take() *snapshot.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The state was asked in the same instant, so that it cannot have changed.
	if !s.complete || len(s.problems) > 0 {
		s.h.t.Errorf("taken although complete is %v with problems %q", s.complete, s.problems)
	}
	snap := s.Fold.Take()
	s.h.took(snap)
	return snap
}

func newHistory(t *testing.T, seed uint64) *history {
	t.Helper()
	h := &history{
		t: t, rnd: rand.New(rand.NewPCG(seed, 1)), faultRnd: rand.New(rand.NewPCG(seed, 2)), faulty: true,
		contents: map[uint64]string{}, answered: map[uint64]bool{}, firstAt: map[uint64]time.Time{}, truth: map[int]string{},
	}
	if h.rnd.IntN(4) == 0 {
		h.agentID = proto.Uint32(0)
	}
	for range 1 + h.rnd.IntN(3) {
		s := newMemServer()
		s.Seen = func(r *agent.KubernetesAPISyncRequest) { h.seen(s, r) }
		s.Harm(func(r *agent.KubernetesAPISyncRequest) faultserver.Fault { return h.fault(r) })
		s.answered = func(v uint64) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if v < 1<<62 { // greater ones are not heeded: ours never get there
				h.greatest = max(h.greatest, v)
			}
		}
		h.servers = append(h.servers, s)
	}
	return h
}

// entries is what the cluster has, by source.
func (h *history) entries() (pods []*resources.Entry) {
	for n, c := range h.truth {
		pods = append(pods, testEntry("*v1.Pod", n, c))
	}
	return pods
}

// begin starts a reporter process.
func (h *history) begin() {
	src := newSource(func() time.Time {
		h.mu.Lock()
		defer h.mu.Unlock()
		return time.Now().Add(h.offset)
	})
	src.complete = false
	h.src = &modelSource{testSource: src, h: h}
	h.mu.Lock()
	h.lastNew, h.flushing, h.greatest, h.probed = time.Time{}, false, 0, map[*memServer]bool{}
	h.mu.Unlock()
	jitter := rand.New(rand.NewPCG(h.rnd.Uint64(), 3))
	h.running = start(h.t, Options{
		Source: h.src, AgentID: h.agentID, ClaimWatcher: true, ShutdownTimeout: h.pick(time.Millisecond, 5*time.Second),
		HeartbeatInterval: modelHeartbeat, FullResyncInterval: modelResync, KeepaliveInterval: modelKeepalive, PushInterval: modelPush,
	}, jitter.Float64, h.servers...)
}

func (h *history) pick(d ...time.Duration) time.Duration { return d[h.rnd.IntN(len(d))] }

// list makes the source complete, as informers do that have listed everything.
func (h *history) list() {
	h.src.mu.Lock()
	defer h.src.mu.Unlock()
	h.src.Replace("version", []*resources.Entry{testEntry("*version.Info", 1_000_000, "v1.35.0")})
	h.src.Replace("pods", h.entries())
	h.extra = true
	h.src.Replace("nodes", []*resources.Entry{testEntry("*v1.Node", 2_000_000, "n")})
	h.src.complete, h.src.problems = true, nil
}

// took checks a snapshot as it is taken.
func (h *history) took(s *snapshot.Snapshot) {
	want := snapshot.New(nil)
	want.Replace("version", []*resources.Entry{testEntry("*version.Info", 1_000_000, "v1.35.0")})
	want.Replace("pods", h.entries())
	want.Replace("nodes", []*resources.Entry{testEntry("*v1.Node", 2_000_000, "n")})
	got := wireOfSnapshot(s)
	if got != wireOfSnapshot(want.Take()) {
		h.t.Errorf("version %d is not the cluster's content", s.Version())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, ok := h.contents[s.Version()]; ok && old != got {
		h.t.Errorf("version %d has two contents", s.Version())
	}
	if _, ok := h.contents[s.Version()]; !ok && h.answered[s.Version()] {
		h.t.Errorf("version %d is new, but a server has answered it before", s.Version())
	}
	if _, ok := h.contents[s.Version()]; !ok && s.Version() <= h.greatest {
		h.t.Errorf("version %d is not greater than %d, which a server answered", s.Version(), h.greatest)
	}
	h.contents[s.Version()] = got
}

// seen checks each request.
func (h *history) seen(s *memServer, r *agent.KubernetesAPISyncRequest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, v := time.Now(), r.GetVersion()
	h.times = append(h.times, now)
	if n := len(h.times); n > 30 && now.Sub(h.times[n-31]) < 10*time.Second {
		h.t.Errorf("more than 30 requests in %v", now.Sub(h.times[n-31]))
	}
	if !h.probed[s] && len(r.GetEntries()) > 0 {
		h.t.Error("the first request of a process to a server has entries, want a probe")
	}
	h.probed[s] = true
	content, known := h.contents[v]
	if len(r.GetEntries()) > 0 {
		if got := wireOf(r.GetEntries()); !known || got != content {
			h.t.Errorf("version %d was sent with content that it was not taken with", v)
		}
		if _, ok := h.firstAt[v]; !ok {
			h.firstAt[v] = now
			if !h.lastNew.IsZero() && now.Sub(h.lastNew) < modelPush && !h.flushing {
				h.t.Errorf("version %d follows the one before after %v, want at least %v", v, now.Sub(h.lastNew), modelPush)
			}
			h.lastNew = now
		}
	}
	if r.GetErrorMsg() != "" && len(r.GetEntries()) == 0 && !known && !h.answered[v] {
		h.t.Errorf("an error went out alone under the new version %d", v)
	}
	if held := s.Handshake(testCluster); held != 0 {
		h.answered[held] = true
	}
}

// fault draws what happens to a request.
func (h *history) fault(r *agent.KubernetesAPISyncRequest) faultserver.Fault {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.faulty && h.refusing && len(r.GetEntries()) > 0 {
		return faultserver.Fault{Code: codes.ResourceExhausted}
	}
	if !h.faulty || h.faultRnd.IntN(3) > 0 {
		return faultserver.Fault{}
	}
	v := r.GetVersion()
	switch h.faultRnd.IntN(12) {
	case 0:
		return faultserver.Fault{DropRequest: true}
	case 1, 2:
		return faultserver.Fault{DropResponse: true}
	case 3:
		return faultserver.Fault{Delay: time.Duration(h.faultRnd.IntN(40)) * time.Second}
	case 4:
		late := time.Duration(1+h.faultRnd.IntN(50)) * time.Second
		if until := time.Now().Add(late); until.After(h.lateUntil) {
			h.lateUntil = until
		}
		return faultserver.Fault{Late: late}
	case 5:
		return faultserver.Fault{Code: codes.Unavailable}
	case 6:
		return faultserver.Fault{Code: codes.ResourceExhausted}
	case 7:
		return faultserver.Fault{CodeAfter: codes.Unavailable}
	case 8:
		return h.answer(v - uint64(1+h.faultRnd.IntN(1_000_000)))
	case 9:
		return h.answer(v + uint64(1+h.faultRnd.IntN(100_000_000)))
	case 10:
		return h.answer(0)
	default:
		if len(r.GetEntries()) > 0 {
			h.hidden = true
		}
		return faultserver.Fault{Overwrite: true}
	}
}

func (h *history) answer(v uint64) faultserver.Fault {
	h.answered[v] = true
	return faultserver.Fault{Answer: &v}
}

func (h *history) run() {
	for n := range h.rnd.IntN(6) {
		h.truth[n] = "a"
	}
	h.begin()
	end := time.Now().Add(time.Duration(2+h.rnd.IntN(25)) * time.Minute)
	for time.Now().Before(end) {
		time.Sleep(time.Duration(1 + h.rnd.Int64N(int64(h.pick(time.Second, 10*time.Second, time.Minute)))))
		h.event()
	}
	h.settle()
	h.running.stop()
	for _, s := range h.servers {
		s.Wait()
	}
}

func (h *history) locked(f func()) {
	h.src.mu.Lock()
	defer h.src.mu.Unlock()
	f()
}

func (h *history) event() {
	server := h.servers[h.rnd.IntN(len(h.servers))]
	switch h.rnd.IntN(17) {
	case 0, 1, 2, 3:
		h.locked(func() {
			for range 1 + h.rnd.IntN(3) {
				n, c := h.rnd.IntN(8), strconv.Itoa(h.rnd.IntN(3))
				h.truth[n] = c
				h.src.Upsert("pods", testEntry("*v1.Pod", n, c))
			}
		})
	case 4:
		h.locked(func() {
			n := h.rnd.IntN(8)
			delete(h.truth, n)
			h.src.Delete("pods", testUID(n))
		})
	case 5:
		h.list()
	case 6:
		h.locked(func() { h.src.problems = []string{fmt.Sprintf("pods: failing %d", h.rnd.IntN(3))} })
	case 7:
		h.locked(func() { h.src.problems = nil })
	case 8: // a change of the selection: half of the content is away until everything is listed again
		h.locked(func() {
			h.src.complete = false
			h.src.Remove("nodes")
		})
	case 9:
		h.mu.Lock()
		h.flushing = true
		h.mu.Unlock()
		h.running.stop()
		h.begin()
	case 10:
		server.Restart()
	case 11:
		server.Restart()
		server.cut()
	case 12:
		server.cut()
	case 13:
		down, hole := h.rnd.IntN(3) == 0, h.rnd.IntN(3) == 0
		server.set(func(s *memServer) { s.down, s.hole = down, hole })
	case 14:
		h.mu.Lock()
		h.offset += time.Duration(h.rnd.Int64N(int64(10*time.Minute))) - 5*time.Minute
		h.mu.Unlock()
	case 16:
		h.mu.Lock()
		h.refusing = !h.refusing
		h.mu.Unlock()
	case 15: // somebody else reports the same cluster
		r := &agent.KubernetesAPISyncRequest{
			ClusterId: new(testCluster), Version: new(uint64(time.Now().Unix()) + h.rnd.Uint64N(100)),
			AgentId: new(uint32(h.rnd.IntN(2))), Entries: []*agent.KubernetesAPIInfo{{Type: new("*v1.Pod")}},
		}
		h.mu.Lock()
		h.answered[r.GetVersion()] = true
		h.hidden = h.hidden || r.GetAgentId() == 0
		h.mu.Unlock()
		server.Treat(r, false)
	}
}

// settle ends all faults and checks that the server ends with the cluster's content.
func (h *history) settle() {
	h.mu.Lock()
	h.faulty = false
	h.mu.Unlock()
	for _, s := range h.servers {
		s.set(func(s *memServer) { s.down, s.hole = false, false })
	}
	h.list()
	h.mu.Lock()
	late := time.Until(h.lateUntil)
	h.mu.Unlock()
	time.Sleep(late) // requests that are still late are faults, too
	wait := 2 * modelHeartbeat
	if h.agentID != nil {
		wait += modelKeepalive
	}
	h.mu.Lock()
	if h.hidden {
		wait += modelResync
	}
	h.mu.Unlock()
	pass(wait)

	cur := h.src.Fold.Take()
	st := h.running.Status()
	if st.State != string(stateSynced) || st.Acknowledged != cur.Version() {
		h.t.Errorf("got state %s with version %d acknowledged, want synced with %d; last error: %s", st.State, st.Acknowledged, cur.Version(), st.LastError)
	}
	server := h.servers[h.running.net.(*memNet).index]
	held := server.Held(testCluster)
	switch {
	case held == nil:
		h.t.Error("the server holds nothing")
	case held.Version != cur.Version() || held.ErrorMsg != "" || wireOf(held.Entries) != wireOfSnapshot(cur):
		h.t.Errorf("the server holds version %d with %d entries and error %q, want %d with %d and none (hidden loss: %v)",
			held.Version, len(held.Entries), held.ErrorMsg, cur.Version(), cur.Len(), h.hidden)
	}
}
