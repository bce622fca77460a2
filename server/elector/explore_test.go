package elector

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/explore"
	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestExploreElections lets every order of events happen to three agents and two replicas, and checks after each that at most
// one process takes itself for the watcher. Invariant 6 of docs/design.md.
func TestExploreElections(t *testing.T) {
	for _, c := range []struct {
		name     string
		replicas int
		depth    int
	}{{"one server", 1, 3}, {"two replicas", 2, 2}} {
		t.Run(c.name, func(t *testing.T) {
			depth := c.depth
			if testing.Short() {
				depth--
			}
			explore.Test(t, func() explore.Model { return newExplored(c.replicas) }, explore.Depth(t, depth))
		})
	}
}

// explored is three agents and their electors.
type explored struct {
	now      time.Duration
	memory   *store.Memory
	replicas []*exploredReplica
	agents   [3]*exploredAgent
	late     *exploredSync // under way
	unheard  bool          // the next write is done, but its writer hears of no success
	between  func()        // what happens between the next read and its write
	story    []string
	err      error
}

type exploredReplica struct {
	x       *explored
	n       int
	elector *Elector
	began   time.Duration
	life    int
}

// exploredAgent is one identity, with the process that lives now.
type exploredAgent struct {
	name    string
	policy  Policy
	boot    uint32
	life    int
	alive   bool
	conn    [2]int        // number of its connection to each replica
	until   time.Duration // it takes itself for the watcher
	watches bool
}

// exploredSync is a request that is still under way although its sender has given it up.
type exploredSync struct {
	agent   int
	replica int
	req     *agent.SyncRequest
	goodbye bool
}

const (
	exploredTTL   = 10 * time.Minute
	exploredLease = exploredTTL - 30*time.Second // an agent stops by itself, less a request's time
)

func newExplored(replicas int) *explored {
	x := &explored{memory: store.NewMemory(), now: time.Hour}
	for n := range replicas {
		r := &exploredReplica{x: x, n: n}
		x.replicas = append(x.replicas, r)
		r.start()
	}
	for i, a := range []exploredAgent{{name: "anna", policy: PolicyNormal}, {name: "bert", policy: PolicyNormal}, {name: "cleo", policy: PolicyWatchOnly}} {
		x.agents[i] = &a
		a.start(x)
	}
	return x
}

func (a *exploredAgent) start(x *explored) {
	a.life++
	a.alive, a.watches = true, false
	a.boot = uint32(simEpoch.Add(x.now).Unix()) + uint32(a.life)
	a.conn[0]++
	a.conn[1]++
}

func (r *exploredReplica) start() {
	r.life++
	r.began = r.x.now
	x := r.x
	// As New does, which makes metrics anew each time.
	r.elector = &Elector{
		opts: exploredElector.opts, log: exploredElector.log, metrics: exploredElector.metrics, instance: fmt.Sprintf("%d-%d", r.n, r.life),
		clusters: map[string]*cluster{}, origins: map[string]*held{},
	}
	r.elector.opts.Documents = r
	r.elector.opts.Now = func() time.Time { return simEpoch.Add(x.now) }
	began := r.began
	r.elector.opts.Elapsed = func() time.Duration { return x.now - began }
	if err := r.elector.Load(context.Background()); err != nil {
		x.fail("load: %v", err)
	}
}

var exploredElector = New(Options{Documents: store.NewMemory(), TTL: exploredTTL, Logger: slog.New(slog.DiscardHandler)})

// The storage as a replica reaches it.

func (r *exploredReplica) Document(ctx context.Context, kind, key string) (store.Document, error) {
	d, err := r.x.memory.Document(ctx, kind, key)
	if f := r.x.between; f != nil {
		r.x.between = nil
		f()
	}
	return d, err
}

func (r *exploredReplica) Documents(ctx context.Context, kind string) ([]store.Document, error) {
	return r.x.memory.Documents(ctx, kind)
}

func (r *exploredReplica) PutDocument(ctx context.Context, kind string, d store.Document) (uint64, error) {
	revision, err := r.x.memory.PutDocument(ctx, kind, d)
	if r.x.unheard {
		r.x.unheard = false
		return 0, store.ErrUnavailable
	}
	return revision, err
}

func (r *exploredReplica) Shared() bool { return len(r.x.replicas) > 1 }

func (x *explored) fail(format string, args ...any) {
	if x.err == nil {
		x.err = fmt.Errorf(format, args...)
	}
}

func (x *explored) tell(format string, args ...any) {
	x.story = append(x.story, fmt.Sprintf("%v: ", x.now-time.Hour)+fmt.Sprintf(format, args...))
}

func (x *explored) Err() error { return x.err }

func (x *explored) Story() []string { return x.story }

// happening is one event.
type happening struct {
	name string
	do   func()
}

func (x *explored) possible() []happening {
	var list []happening
	add := func(do func(), format string, args ...any) {
		list = append(list, happening{fmt.Sprintf(format, args...), do})
	}
	for i, a := range x.agents {
		if !a.alive {
			add(func() { a.start(x) }, "%s starts", a.name)
			continue
		}
		add(func() { a.alive, a.watches = false, false }, "%s is killed", a.name)
		add(func() {
			a.alive, a.watches = false, false
			a.start(x)
		}, "%s is killed and starts", a.name)
		for n := range x.replicas {
			add(func() { x.sync(i, n) }, "%s Syncs with replica %d", a.name, n)
			add(func() {
				_, _ = x.deliver(x.request(i, n, false))
				a.conn[n]++
			}, "%s Syncs with replica %d, the answer is lost", a.name, n)
			add(func() {
				x.unheard = true
				x.sync(i, n)
				x.unheard = false
			}, "%s Syncs with replica %d, which does not hear that its write was done", a.name, n)
			add(func() {
				a.alive, a.watches = false, false
				_, _ = x.deliver(x.request(i, n, true))
			}, "%s says goodbye to replica %d", a.name, n)
			if x.late == nil {
				add(func() {
					x.late = x.request(i, n, false)
					a.conn[n]++
				}, "%s Syncs with replica %d, the request is held up", a.name, n)
				add(func() {
					x.late = x.request(i, n, true)
					a.alive, a.watches = false, false
				}, "%s says goodbye to replica %d, which is held up", a.name, n)
			}
			if len(x.replicas) > 1 {
				j := (i + 1) % len(x.agents)
				if other := x.agents[j]; other.alive {
					add(func() {
						x.between = func() { x.sync(j, 1-n) }
						x.sync(i, n)
						x.between = nil
					}, "%s Syncs with replica %d, and between its read and its write %s with the other one", a.name, n, other.name)
				}
			}
		}
	}
	if x.late != nil {
		add(func() {
			s := x.late
			x.late = nil
			_, _ = x.deliver(s)
		}, "the request of %s that was held up arrives", x.agents[x.late.agent].name)
	}
	for _, r := range x.replicas {
		add(r.start, "replica %d starts anew", r.n)
		add(func() { r.elector.sweep(context.Background()) }, "replica %d looks at all clusters", r.n)
	}
	add(func() { _, _ = x.replicas[0].elector.Elect(context.Background(), simCluster, false) }, "an operator wants a new election")
	add(func() { x.pass(time.Minute) }, "a minute passes")
	add(func() { x.pass(9 * time.Minute) }, "nine minutes pass")
	return list
}

func (x *explored) Events() []string {
	var names []string
	for _, h := range x.possible() {
		names = append(names, h.name)
	}
	return names
}

func (x *explored) Do(i int) {
	h := x.possible()[i]
	x.tell("%s", h.name)
	h.do()
	x.check()
}

func (x *explored) check() {
	var watching []string
	for _, a := range x.agents {
		if a.watches {
			watching = append(watching, a.name)
		}
	}
	if len(watching) > 1 {
		x.fail("%s take themselves for the watcher", strings.Join(watching, " and "))
	}
}

func (x *explored) pass(d time.Duration) {
	x.now += d
	for _, a := range x.agents {
		if a.watches && x.now >= a.until {
			a.watches = false
			x.tell("%s stops watching by itself", a.name)
		}
	}
}

func (x *explored) request(i, replica int, goodbye bool) *exploredSync {
	a := x.agents[i]
	policy := agent.KubernetesWatchPolicy_KWP_NORMAL
	if a.policy == PolicyWatchOnly {
		policy = agent.KubernetesWatchPolicy_KWP_WATCH_ONLY
	}
	return &exploredSync{agent: i, replica: replica, goodbye: goodbye, req: &agent.SyncRequest{
		BootTime: new(a.boot), ProcessName: new("agent"), CtrlIp: new(fmt.Sprintf("10.0.0.%d", i)), CtrlMac: new("02"), Host: new(a.name),
		KubernetesClusterId: new(simCluster), KubernetesWatchPolicy: policy.Enum(), Revision: new(fmt.Sprint(a.conn[replica])),
	}}
}

// deliver brings a request to its replica.
func (x *explored) deliver(s *exploredSync) (bool, error) {
	ctx := context.Background()
	if s.goodbye {
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(protocol.GoodbyeHeader, "1"))
	}
	conn := fmt.Sprintf("%s-%s", x.agents[s.agent].name, s.req.GetRevision())
	resp, err := x.replicas[s.replica].elector.Sync(ctx, conn, s.req)
	if err != nil {
		return false, err
	}
	return resp.GetDynamicConfig().GetKubernetesApiEnabled(), nil
}

// sync is an exchange that works, but for the storage.
func (x *explored) sync(i, replica int) {
	a := x.agents[i]
	watch, err := x.deliver(x.request(i, replica, false))
	switch {
	case err != nil:
		x.tell("%s gets no decision", a.name)
	case watch:
		x.tell("%s is told to watch", a.name)
		a.watches, a.until = true, x.now+exploredLease
	default:
		x.tell("%s is told not to watch", a.name)
		a.watches = false
	}
}

// Settle lets all agents that live Sync every minute: one of the best class watches in the end, alone and for good.
func (x *explored) Settle() error {
	if x.late != nil {
		_, _ = x.deliver(x.late)
		x.late = nil
	}
	x.tell("all goes well from here on")
	round := func() {
		for i, a := range x.agents {
			if a.alive {
				x.sync(i, i%len(x.replicas))
				x.check()
			}
		}
		x.pass(time.Minute)
	}
	for range 20 {
		round()
	}
	before := x.watcher()
	for range 3 {
		round()
	}
	if x.err != nil {
		return x.err
	}
	best := ""
	for _, a := range x.agents {
		if a.alive && (best == "" || a.policy == PolicyWatchOnly) {
			best = a.name
		}
	}
	switch w := x.watcher(); {
	case best == "" && w != nil:
		return fmt.Errorf("%s watches, which is dead", w.name)
	case best == "":
		return nil
	case w == nil:
		return fmt.Errorf("nobody watches, though %s could", best)
	case w != before:
		return fmt.Errorf("the watcher changes although nothing happens, to %s", w.name)
	case x.agents[2].alive && w != x.agents[2]:
		return fmt.Errorf("%s watches, though %s ranks higher", w.name, x.agents[2].name)
	}
	return nil
}

func (x *explored) watcher() *exploredAgent {
	for _, a := range x.agents {
		if a.watches {
			return a
		}
	}
	return nil
}

// ignored are fields that no decision depends on: for people, or counters of room that nobody bounds here.
var ignored = map[string]bool{
	"lock": true, "room": true, "foreign": true, "origin": true, "candidates.origin": true, "candidates.reason": true, "candidates.answer": true,
	"election.candidates.reason": true, "election.candidates.answer": true, "election.candidates.origin": true, "election.candidates.twins": true,
	"toldVacant": true, "toldUnfulfilled": true, "toldExpired": true, "revision": true, "value": true, "unfulfilledSince": true,
	"election.rules": true, "election.candidates.undelivered": true, "election.vacantSince": true, "election.candidates.info.Revision": true,
}

// Key makes states the same that differ in nothing but when they happen, how many lives, terms and renewals have come before,
// and which of two replicas is the first.
func (x *explored) Key() string {
	orders := [][]int{{0}}
	if len(x.replicas) == 2 {
		orders = [][]int{{0, 1}, {1, 0}}
	}
	best := ""
	for _, order := range orders {
		if k := x.key(order); best == "" || k < best {
			best = k
		}
	}
	return best
}

// ranks writes numbers by their order alone.
type ranks []uint64

func (r ranks) of(n uint64) string { return fmt.Sprint(slices.Index(r, n)) }

func (x *explored) key(order []int) string {
	var renewals, boots ranks
	conns := map[string]string{}
	for i, a := range x.agents {
		boots = append(boots, uint64(a.boot))
		for to, n := range order {
			conns[fmt.Sprintf("%s/%s-%d", x.replicas[n].elector.instance, a.name, a.conn[n])] = fmt.Sprintf("conn%d.%d", i, to)
		}
	}
	if x.late != nil {
		boots = append(boots, uint64(x.late.req.GetBootTime()))
	}
	rename := func(collect bool, began time.Duration) func(path string, v reflect.Value) (string, bool) {
		return func(path string, v reflect.Value) (string, bool) {
			name := path[strings.LastIndexByte(path, '.')+1:]
			switch {
			case ignored[path]:
				return "", true
			case name == "TTL" || name == "Since" || name == "At" || name == "Revision" || name == "Group" || name == "Term" || name == "ids":
				return "", true
			case v.Type() == reflect.TypeFor[time.Duration]():
				return max(time.Duration(v.Int())+began-x.now, -2*exploredTTL).String(), true
			case v.Kind() == reflect.Uint32 && (name == "boot" || name == "Boot" || name == "toldAt"):
				if collect {
					boots = append(boots, v.Uint())
				}
				return "b" + boots.of(v.Uint()), true
			case v.Kind() == reflect.Uint64 && (name == "renewals" || name == "Renewals" || name == "Renewal" || name == "First" || name == "Seen"):
				if collect {
					renewals = append(renewals, v.Uint())
				}
				return "r" + renewals.of(v.Uint()), true
			case name == "conn":
				if alive, ok := conns[v.String()]; ok {
					return alive, true
				}
				return fmt.Sprint("gone", v.String() == ""), true
			}
			return "", false
		}
	}
	all := func(collect bool) string {
		var b strings.Builder
		for _, n := range order {
			r := x.replicas[n]
			c := r.elector.clusters[simCluster]
			b.WriteString(explore.Fingerprint(c, rename(collect, r.began)))
			if d, err := x.memory.Document(context.Background(), documentKind, simCluster); err == nil && c != nil {
				fmt.Fprint(&b, c.loaded && c.revision == d.Revision)
			}
		}
		return b.String()
	}
	all(true)
	slices.Sort(boots)
	boots = slices.Compact(boots)
	slices.Sort(renewals)
	renewals = slices.Compact(renewals)
	var b strings.Builder
	b.WriteString(all(false))
	for _, a := range x.agents {
		until := time.Duration(0)
		if a.watches {
			until = a.until - x.now
		}
		fmt.Fprint(&b, "|", a.alive, until, boots.of(uint64(a.boot)))
	}
	if s := x.late; s != nil {
		fmt.Fprint(&b, "|late", s.agent, slices.Index(order, s.replica), s.goodbye, boots.of(uint64(s.req.GetBootTime())),
			s.req.GetRevision() == fmt.Sprint(x.agents[s.agent].conn[s.replica]))
	}
	return b.String()
}
