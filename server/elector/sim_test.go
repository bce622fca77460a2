package elector

import (
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

const (
	simCluster  = "d-sim"
	simInterval = time.Minute
	simTTL      = 10 * time.Minute
	simTimeout  = 30 * time.Second // of a client's request
	simRetry    = 10 * time.Second
	simFaults   = 2 * time.Hour // of trouble, after which there is none
	simQuiet    = time.Hour
	simWorkload = "deepflow/Deployment/watcher"
)

// world is one history: agents that Sync with replicas of the elector over a bad network, under synthetic time.
type world struct {
	rng     *rand.Rand
	now     time.Duration
	queue   events
	seq     int
	shared  bool
	memory  *store.Memory
	servers []*server
	clients []*client
	conns   int
	calm    bool // no more faults
	proxy   bool // a proxy before another server asks, see Elector.Decide
	admin   bool // operators act, too
	nested  bool
	broken  []string
	trace   []string
	// stopped was told to stop last, by that life of the only replica.
	stopped struct {
		c             *client
		process, life int
		term          uint64
	}
}

type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + d, w.seq, do})
}

func (w *world) chance(p float64) bool { return !w.calm && w.rng.Float64() < p }

func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d) + 1)) }

func (w *world) fail(format string, args ...any) {
	w.broken = append(w.broken, fmt.Sprintf("%v: ", w.now.Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

func (w *world) note(format string, args ...any) {
	if len(w.trace) > 400 {
		w.trace = w.trace[200:]
	}
	w.trace = append(w.trace, fmt.Sprintf("%v: ", w.now.Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

// server is a replica.
type server struct {
	w       *world
	elector *Elector
	down    bool
	cut     bool // from the database
	busy    bool
	clock   time.Duration // by how much its wall clock is wrong
	life    int
}

var simEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (s *server) start() {
	w, began := s.w, s.w.now
	s.life++
	s.down = false
	ttl := simTTL
	if w.chance(0.3) {
		ttl += w.upTo(5 * time.Minute)
	}
	s.elector = New(Options{
		Documents: &documents{s}, TTL: ttl, Logger: slog.New(slog.DiscardHandler),
		Designations: map[string][]Designation{simCluster: {{Workload: simWorkload}}},
		Now:          func() time.Time { return simEpoch.Add(w.now + s.clock) },
		Elapsed:      func() time.Duration { return w.now - began },
	})
	s.elector.instance = fmt.Sprintf("%p-%d", s, s.life)
	if err := s.elector.Load(context.Background()); err != nil && !errors.Is(err, store.ErrUnavailable) {
		w.fail("load: %v", err)
	}
}

// documents is the storage as one replica reaches it.
type documents struct{ s *server }

func (d *documents) trouble() error {
	if d.s.cut || d.s.w.chance(0.005) {
		return store.ErrUnavailable
	}
	return nil
}

// meanwhile lets other replicas answer while this one reads or writes.
func (d *documents) meanwhile() {
	w := d.s.w
	if w.nested || !w.chance(0.1) {
		return
	}
	w.nested = true
	defer func() { w.nested = false }()
	for _, c := range w.clients {
		if c.alive && !c.cut && w.servers[c.server] != d.s && w.chance(0.3) {
			_, _ = w.deliver(c.server, c.request(), fmt.Sprintf("conn-%d", w.newConn()), false)
		}
	}
}

func (d *documents) Document(ctx context.Context, kind, key string) (store.Document, error) {
	if err := d.trouble(); err != nil {
		return store.Document{}, err
	}
	doc, err := d.s.w.memory.Document(ctx, kind, key)
	d.meanwhile()
	return doc, err
}

func (d *documents) Documents(ctx context.Context, kind string) ([]store.Document, error) {
	if err := d.trouble(); err != nil {
		return nil, err
	}
	return d.s.w.memory.Documents(ctx, kind)
}

func (d *documents) PutDocument(ctx context.Context, kind string, doc store.Document) (uint64, error) {
	if err := d.trouble(); err != nil {
		return 0, err
	}
	d.meanwhile()
	revision, err := d.s.w.memory.PutDocument(ctx, kind, doc)
	if d.s.w.chance(0.01) {
		return 0, store.ErrUnavailable // it was written, but nobody knows
	}
	return revision, err
}

func (d *documents) Shared() bool { return d.s.w.shared }

// client is an agent.
type client struct {
	w        *world
	name     string
	info     Agent
	agent    *agent.SyncRequest
	class    Class
	alive    bool
	cut      bool
	process  int // changes with each start
	boot     uint32
	clock    time.Duration
	conn     int
	server   int
	inflight int
	lease    time.Duration
	until    time.Duration // it takes itself for the watcher
	heard    time.Duration // when the request that is delivered last was
}

func (w *world) newConn() int { w.conns++; return w.conns }

func (c *client) request() *agent.SyncRequest { return c.agent }

func (w *world) join(name string, policy Policy, pod string) *client {
	i := len(w.clients)
	c := &client{
		w: w, name: name, server: w.rng.IntN(len(w.servers)), clock: w.upTo(2*time.Hour) - time.Hour, lease: simTTL - w.upTo(time.Minute),
		info: Agent{Identity: Identity{CtrlIP: fmt.Sprintf("10.0.0.%d", i%7), CtrlMAC: fmt.Sprintf("02:00:00:00:00:%02x", i%7), Host: name, Process: "agent", Policy: policy}},
	}
	switch policy {
	case PolicyDisabled:
	case PolicyWatchOnly, PolicyForce:
		c.class = WatchOnly
	default:
		c.class = Ordinary
	}
	if pod != "" {
		c.info.Host = pod
		if c.class != Excluded {
			c.class = Designated
		}
	}
	w.clients = append(w.clients, c)
	c.start()
	return c
}

func (c *client) start() {
	c.process++
	c.alive, c.until, c.inflight = true, 0, 0
	c.conn = c.w.newConn()
	c.boot = uint32(simEpoch.Add(c.w.now + c.clock).Unix())
	policy := map[Policy]agent.KubernetesWatchPolicy{
		PolicyNormal: agent.KubernetesWatchPolicy_KWP_NORMAL, PolicyForce: agent.KubernetesWatchPolicy_KWP_NORMAL,
		PolicyWatchOnly: agent.KubernetesWatchPolicy_KWP_WATCH_ONLY, PolicyDisabled: agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED,
	}[c.info.Policy]
	c.agent = &agent.SyncRequest{
		BootTime: new(c.boot), ProcessName: &c.info.Process, CtrlIp: &c.info.CtrlIP, CtrlMac: &c.info.CtrlMAC, Host: &c.info.Host,
		KubernetesClusterId: new(simCluster), KubernetesWatchPolicy: policy.Enum(),
		KubernetesForceWatch: new(c.info.Policy == PolicyForce),
	}
	c.w.note("%s starts (%s)", c.name, c.info.Policy)
	c.later(c.w.upTo(5 * time.Second))
}

// later Syncs after a while, unless the process has ended by then.
func (c *client) later(d time.Duration) {
	process := c.process
	c.w.after(d, func() {
		if c.alive && c.process == process {
			c.sync()
		}
	})
}

func (w *world) latency() time.Duration {
	switch {
	case w.chance(0.02):
		return w.upTo(40 * time.Second)
	default:
		return time.Millisecond + w.upTo(50*time.Millisecond)
	}
}

// sync sends one Sync. A request whose answer does not come in time closes the connection.
func (c *client) sync() {
	w, process, sent := c.w, c.process, c.w.now
	w.seq++
	id := w.seq
	c.inflight = id
	conn, to, request := fmt.Sprintf("conn-%d", c.conn), c.server, c.agent
	mine := func() bool { return c.alive && c.process == process && c.inflight == id }
	retry := func() {
		c.inflight, c.conn, c.server = 0, w.newConn(), w.rng.IntN(len(w.servers))
		c.later(simRetry)
	}
	w.after(simTimeout, func() {
		if mine() {
			retry()
		}
	})
	if w.chance(0.1) { // a proxy sends it once more
		w.after(w.upTo(5*time.Minute), func() {
			_, _ = w.deliver(w.rng.IntN(len(w.servers)), request, fmt.Sprintf("conn-%d", w.newConn()), false)
		})
	}
	if c.cut || w.chance(0.02) {
		return
	}
	w.after(w.latency(), func() {
		resp, err := w.deliver(to, request, conn, false)
		if c.cut || w.chance(0.02) {
			return
		}
		w.after(w.latency(), func() {
			switch {
			case !mine():
			case err != nil:
				c.inflight = 0
				c.later(simRetry)
			default:
				c.inflight = 0
				c.told(sent, resp.GetDynamicConfig().GetKubernetesApiEnabled())
				c.later(max(sent+simInterval-w.now, 0))
			}
		})
	})
}

// told takes an answer.
func (c *client) told(sent time.Duration, watch bool) {
	w := c.w
	if !watch {
		if c.until > w.now {
			w.note("%s stops", c.name)
			w.stopped.c, w.stopped.process, w.stopped.life, w.stopped.term = c, c.process, w.servers[0].life, w.term()
			if !w.admin && !w.higher(c) {
				w.fail("%s was told to stop although nobody ranks higher", c.name)
			}
		}
		c.until = 0
		return
	}
	if c.class == Excluded {
		w.fail("%s is told to watch although it is watch-disabled", c.name)
	}
	if c.until <= w.now {
		w.note("%s watches", c.name)
		if p := w.stopped; p.c != nil && p.c.alive && p.c.process == p.process && p.life == w.servers[0].life && !w.shared && !w.admin &&
			p.c != c && c.class <= p.c.class && w.now-p.c.heard < simInterval &&
			w.term() == p.term+1 { // nobody had the role in between without hearing of it
			w.fail("%s watches instead of %s, which was told to stop for somebody better", c.name, p.c.name)
		}
		w.stopped.c = nil
	}
	c.until = sent + c.lease
	for _, o := range w.clients {
		if o != c && o.alive && o.until > w.now && c.until > w.now {
			w.fail("%s watches until %v and %s until %v", c.name, c.until, o.name, o.until)
		}
	}
}

// higher tells whether somebody of a higher class has Synced lately.
func (w *world) higher(c *client) bool {
	for _, o := range w.clients {
		if o.class > c.class && o.heard > 0 && w.now-o.heard < simInterval*5/2+simTimeout*3 {
			return true
		}
	}
	return false
}

func (w *world) deliver(to int, req *agent.SyncRequest, conn string, goodbye bool) (*agent.SyncResponse, error) {
	s := w.servers[to]
	if s.down || s.busy {
		return nil, store.ErrUnavailable
	}
	s.busy = true
	defer func() { s.busy = false }()
	ctx := context.Background()
	if goodbye {
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(protocol.GoodbyeHeader, "1"))
	}
	for _, c := range w.clients {
		if c.info.Host == req.GetHost() { // requests of earlier processes are under way, too
			c.heard = w.now
		}
	}
	life := s.life
	resp, err := w.ask(ctx, s, conn, req)
	if err != nil && status.Code(err) != codes.Unavailable {
		w.fail("Sync: %v", err)
	}
	if s.life != life || s.down {
		return nil, store.ErrUnavailable
	}
	return resp, err
}

// ask asks as a receiver does, or as a proxy: then a server behind answers, fails, or answers without a decision.
func (w *world) ask(ctx context.Context, s *server, conn string, req *agent.SyncRequest) (*agent.SyncResponse, error) {
	if !w.proxy {
		return s.elector.Sync(ctx, conn, req)
	}
	watch, answered, err := s.elector.Decide(ctx, conn, req)
	if err != nil {
		return nil, err
	}
	if !w.calm && w.chance(0.1) {
		return nil, status.Error(codes.Unavailable, "the server behind the proxy fails")
	}
	answered(0)
	return response(agent.Status_SUCCESS, watch, 0), nil
}

// end ends a process: as a crash, or after it gave its role back.
func (c *client) end(goodbye bool) {
	if !c.alive {
		return
	}
	c.alive, c.until = false, 0
	c.w.note("%s ends, goodbye %v", c.name, goodbye)
	if !goodbye || c.cut || c.w.chance(0.1) {
		return
	}
	req, conn, to := c.agent, fmt.Sprintf("conn-%d", c.conn), c.server
	c.w.after(c.w.latency(), func() { _, _ = c.w.deliver(to, req, conn, true) })
	if c.w.chance(0.2) {
		c.w.after(c.w.upTo(5*time.Minute), func() { _, _ = c.w.deliver(to, req, "proxy", true) })
	}
}

// trouble is one thing that happens.
func (w *world) trouble() {
	c := w.clients[w.rng.IntN(len(w.clients))]
	s := w.servers[w.rng.IntN(len(w.servers))]
	switch w.rng.IntN(12) {
	case 0:
		w.join(fmt.Sprintf("agent-%d", len(w.clients)), []Policy{PolicyNormal, PolicyNormal, PolicyWatchOnly, PolicyForce, PolicyDisabled}[w.rng.IntN(5)], "")
	case 1:
		c.end(w.chance(0.5))
	case 2: // a restart
		c.end(w.chance(0.5))
		w.after(w.upTo(2*time.Minute), func() {
			if !c.alive {
				c.start()
			}
		})
	case 3:
		c.cut = true
		w.after(w.upTo(20*time.Minute), func() { c.cut = false })
	case 4, 5:
		w.rollingUpdate()
	case 6:
		if !s.down {
			w.note("server crashes")
			s.down = true
			w.after(w.upTo(3*time.Minute), s.start)
		}
	case 7:
		s.cut = true
		w.after(w.upTo(3*time.Minute), func() { s.cut = false })
	case 8:
		s.clock = w.upTo(48*time.Hour) - 24*time.Hour
	case 9:
		c.clock = w.upTo(2*time.Hour) - time.Hour
	case 10:
		w.operate(s)
	}
	w.after(w.upTo(6*time.Minute), func() {
		if !w.calm {
			w.trouble()
		}
	})
}

// rollingUpdate replaces the designated Pod: the new one starts before (RollingUpdate) or after (Recreate) the old ends.
func (w *world) rollingUpdate() {
	const letters = "bcdfghjklmnpqrstvwxz2456789"
	suffix := make([]byte, 5)
	for i := range suffix {
		suffix[i] = letters[w.rng.IntN(len(letters))]
	}
	pod := "watcher-6d5f8b9c4-" + string(suffix)
	var old []*client
	for _, c := range w.clients {
		if c.alive && strings.HasPrefix(c.info.Host, "watcher-") {
			old = append(old, c)
		}
	}
	start := func() { w.join("pod-"+string(suffix), []Policy{PolicyWatchOnly, PolicyNormal}[w.rng.IntN(2)], pod) }
	stop := func() {
		for _, c := range old {
			c.end(w.rng.IntN(4) > 0)
		}
	}
	if w.rng.IntN(2) == 0 {
		start()
		w.after(w.upTo(time.Minute), stop)
		return
	}
	stop()
	w.after(w.upTo(time.Minute), start)
}

// operate is what an operator does.
func (w *world) operate(s *server) {
	if s.down || !w.admin || s.busy {
		return
	}
	s.busy = true
	defer func() { s.busy = false }()
	var err error
	switch w.rng.IntN(3) {
	case 0:
		_, err = s.elector.Elect(context.Background(), simCluster, false)
	case 1:
		_, err = s.elector.Designate(context.Background(), simCluster, Designation{HostPattern: "agent-*" + strconv.Itoa(w.rng.IntN(10))})
	default:
		_, err = s.elector.Undesignate(context.Background(), simCluster, Designation{})
	}
	w.note("operator: %v", err)
}

func (w *world) sweep(s *server) {
	w.after(30*time.Second, func() {
		if !s.down && !s.busy {
			s.busy = true
			s.elector.sweep(context.Background())
			s.busy = false
		}
		w.sweep(s)
	})
}

func (w *world) run(until time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= until && len(w.broken) == 0 {
		e, ok := heap.Pop(&w.queue).(event)
		if !ok {
			return
		}
		w.now = e.at
		e.do()
	}
	w.now = until
}

// watcher returns who takes itself for the watcher, nil if nobody does.
func (w *world) watcher() *client {
	for _, c := range w.clients {
		if c.alive && c.until > w.now {
			return c
		}
	}
	return nil
}

func (w *world) term() uint64 {
	d, err := w.memory.Document(context.Background(), documentKind, simCluster)
	if err != nil {
		return 0
	}
	var rec Record
	if err := json.Unmarshal(d.Value, &rec); err != nil {
		w.fail("%v", err)
	}
	return rec.Term
}

// history is one run of the simulation.
func history(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 8)), memory: store.NewMemory()}
	replicas := 1
	if w.shared = w.rng.IntN(2) == 0; w.shared {
		replicas = 2 + w.rng.IntN(2)
	}
	w.admin = w.rng.IntN(3) == 0
	w.proxy = seed%2 == 0
	for range replicas {
		s := &server{w: w}
		w.servers = append(w.servers, s)
		s.start()
		w.sweep(s)
	}
	for i := range 2 + w.rng.IntN(6) {
		w.join(fmt.Sprintf("agent-%d", i), []Policy{PolicyNormal, PolicyNormal, PolicyWatchOnly, PolicyForce, PolicyDisabled}[w.rng.IntN(5)], "")
	}
	if w.rng.IntN(2) == 0 {
		w.rollingUpdate()
	}
	w.after(w.upTo(10*time.Minute), w.trouble)
	w.run(simFaults)
	w.settle()
	return w
}

// settle ends the trouble and looks at what comes of it.
func (w *world) settle() {
	w.calm = true
	best := Excluded
	for _, s := range w.servers {
		s.cut = false
		if s.down {
			s.start()
		}
	}
	// What is still under way may begin a lease yet.
	w.run(w.now + 5*time.Minute)
	for _, c := range w.clients {
		c.cut = false
		if c.alive {
			best = max(best, c.class)
		}
	}
	w.run(w.now + simTTL + 5*time.Minute /* a longer TTL */ + 2*simInterval + simTimeout + simRetry)
	if len(w.broken) > 0 {
		return
	}
	if holder := w.watcher(); (holder != nil) != (best > Excluded) {
		w.fail("%v after the last fault: watcher %v, best candidate %v", w.now-simFaults, holder != nil, best)
		return
	}
	// Stop, its confirmation and the new holder's Sync take three more intervals.
	w.run(w.now + 4*simInterval)
	holder, term := w.watcher(), w.term()
	if !w.admin && best > Excluded && (holder == nil || holder.class != best) {
		w.fail("in the end %v watches, the best is %v", holder, best)
	}
	for w.now < simFaults+simQuiet && len(w.broken) == 0 {
		w.run(w.now + simInterval/4)
		if best > Excluded && w.watcher() != holder {
			w.fail("the watcher changed although nothing happened")
		}
	}
	if got := w.term(); got != term && len(w.broken) == 0 {
		w.fail("%d elections although nothing happened", got-term)
	}
	w.epilogue(holder)
}

// epilogue lets the watcher say goodbye: the next best follows.
func (w *world) epilogue(holder *client) {
	if holder == nil || len(w.broken) > 0 {
		return
	}
	holder.end(true)
	best := Excluded
	for _, c := range w.clients {
		if c.alive {
			best = max(best, c.class)
		}
	}
	w.run(w.now + 2*simInterval + simInterval*3/2)
	if w.shared { // one that knows of somebody worse only may be asked first
		w.run(w.now + 3*simInterval)
	}
	next := w.watcher()
	if best > Excluded && next == nil {
		w.fail("nobody watches after the goodbye of %s", holder.name)
	}
	if next != nil && next.class != best && !w.admin {
		w.fail("%s watches after the goodbye of %s, there are better ones", next.name, holder.name)
	}
}

// TestSimulation plays random histories. If PSEUDO_TEST_ROUNDS is 1 it tells all of it.
func TestSimulation(t *testing.T) {
	n := testseed.Rounds(t, 2000)
	first := testseed.New(t)
	var next, bad atomic.Uint64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < uint64(n) && bad.Load() < 5; i = next.Add(1) - 1 {
				w := history(first + i)
				if n == 1 {
					t.Log(strings.Join(w.trace, "\n"))
				}
				if len(w.broken) > 0 {
					bad.Add(1)
					t.Errorf("PSEUDO_TEST_SEED=%d PSEUDO_TEST_ROUNDS=1: %s", first+i, strings.Join(w.broken, "; "))
				}
			}
		})
	}
	wg.Wait()
}
