package simulation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	protocol "github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// init takes away apimachinery's pause after errors, which is kept in a global variable and so mixes up the clocks of
// different bubbles.
func init() { utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1] }

// system is everything, in one bubble.
type system struct {
	t         *testing.T
	plan      plan
	net       *network
	truth     *truth
	check     *checker
	agents    []*agentProcess
	servers   []*serverProcess
	standIns  []*standIn
	watchers  *watchers
	databases []*database
	deepflows []*deepflow
	hidden    bool            // a deepflow-server may have lost something and told nobody
	lies      map[string]bool // why it may look as if agents bypassed the servers
	log       *recorder
	bounds    *bounds

	begun  time.Time
	queue  agenda
	trace  []string
	rules  rules
	seeds  uint64
	choice struct {
		sync.Mutex
		configMaps bool
		namespaces config.AgentSelection
	}
}

// recorder keeps the last lines of all logs.
type recorder struct {
	mu    sync.Mutex
	begun time.Time
	lines []string
}

const linesKept = 300

// Write implements io.Writer.
func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) >= 2*linesKept {
		r.lines = append([]string(nil), r.lines[linesKept:]...)
	}
	r.lines = append(r.lines, fmt.Sprintf("%9v %s", time.Since(r.begun).Round(time.Millisecond), bytes.TrimSpace(b)))
	return len(b), nil
}

// counting counts what is logged: the situations in which the programs find themselves, in their own words.
type counting struct {
	slog.Handler

	check  *checker
	bounds *bounds
}

// Handle implements slog.Handler.
func (c *counting) Handle(ctx context.Context, r slog.Record) error {
	c.check.meet("log: " + r.Message)
	c.bounds.often("log lines", "everybody")
	return c.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (c *counting) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &counting{c.Handler.WithAttrs(attrs), c.check, c.bounds}
}

// rules are what fails at the apiserver.
type rules struct {
	mu   sync.Mutex
	next int
	list map[int]rule
}

type rule struct {
	name  string
	match func(apisim.Request) bool
	fault apisim.Fault
}

func (r *rules) fault(req apisim.Request) apisim.Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.next {
		if rule, ok := r.list[i]; ok && rule.match(req) {
			return rule.fault
		}
	}
	return apisim.Fault{}
}

// of returns the names of the faults that such a request has.
func (r *rules) of(requests ...apisim.Request) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for _, rule := range r.list {
		if slices.ContainsFunc(requests, rule.match) {
			names = append(names, rule.name)
		}
	}
	return names
}

// appointment is something that will be done.
type appointment struct {
	at  time.Duration
	say string
	do  func()
}

// agenda has appointments in order; those of the same time in the order in which they were made.
type agenda []appointment

func (a *agenda) add(x appointment) {
	i, _ := slices.BinarySearchFunc(*a, x.at, func(o appointment, at time.Duration) int {
		if o.at <= at {
			return -1
		}
		return 1
	})
	*a = slices.Insert(*a, i, x)
}

func (a *agenda) next() (appointment, bool) {
	if len(*a) == 0 {
		return appointment{}, false
	}
	x := (*a)[0]
	*a = (*a)[1:]
	return x, true
}

// outcome is what became of a history.
type outcome struct {
	broken []string
	trace  []string
	log    []string
	met    map[string]int
	most   map[string]int // of what is bounded
	passed time.Duration  // under synthetic time
}

// play plays a plan.
func play(t *testing.T, p plan) outcome {
	t.Helper()
	var s *system
	passed := time.Duration(0)
	left := guard(p.seed, endless, func() {
		synctest.Test(t, func(t *testing.T) {
			s = newSystem(t, p)
			s.play()
			s.settle()
			s.tellErrors()
			s.end()
			passed = time.Since(s.begun)
		})
	})
	out := outcome{s.check.broken, s.trace, s.log.lines, s.check.met, s.bounds.most, passed}
	if left != "" {
		out.broken = append(out.broken, left)
	}
	return out
}

func newSystem(t *testing.T, p plan) *system {
	t.Helper()
	w := newTruth(t)
	s := &system{t: t, plan: p, net: newNetwork(), truth: w, check: newChecker(w, !p.clocks), begun: time.Now(), seeds: p.seed, lies: map[string]bool{}}
	s.rules.list = map[int]rule{}
	s.bounds = newBounds(s.check)
	s.log = &recorder{begun: s.begun}
	log := slog.New(&counting{slog.NewTextHandler(s.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}), s.check, s.bounds})
	w.sim.SetFaults(s.rules.fault)
	s.net.tap = func(client, server string) func([]byte) {
		if server == apiserver {
			return nil
		}
		if s.isServer(client) {
			return reports(clusterID, func(r *protocol.KubernetesAPISyncRequest) {
				s.bounds.often("reports of a server to a deepflow-server", client)
				s.check.forwarded(client, r)
			})
		}
		first := true
		return reports(clusterID, func(r *protocol.KubernetesAPISyncRequest) {
			s.mayReport(client)
			s.bounds.often("reports of an agent", client)
			s.check.sent(client, r)
			if first && len(r.GetEntries()) > 0 {
				s.check.fail("the first report of a connection has entries, want a probe")
			}
			first = false
		})
	}
	s.lies["version"] = p.servers > 1 && !p.shared // what passes at one server passes the other one by
	var addresses, nodes, behind []string
	for i := range p.deepflows {
		d := newDeepflow(i, s.net, log)
		s.deepflows, behind = append(s.deepflows, d), append(behind, address(d.node))
	}
	for i := range p.servers {
		if i == 0 || !p.shared {
			db := newDatabase(p.shared && p.servers > 1)
			db.written = func(m *store.Memory, id string) error {
				if err := s.check.room(s.bounds, m); err != nil {
					return err
				}
				return s.check.stored(m, id)
			}
			s.databases = append(s.databases, db)
		}
		server := newServer(i, s.net, log, s.databases[len(s.databases)-1])
		server.behind = behind
		s.servers = append(s.servers, server)
		addresses, nodes = append(addresses, address(server.node)), append(nodes, server.node)
	}
	var mu sync.Mutex
	seed := func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		s.seeds++
		return s.seeds
	}
	for i := range p.agents {
		s.agents = append(s.agents, newAgent(i, s.net, log, seed, func() config.Agent { return s.config(addresses) }))
	}
	s.watchers = &watchers{check: s.check, alone: p.shared || p.servers == 1, until: map[string]time.Time{}}
	for i := range p.standIns {
		s.standIns = append(s.standIns, newStandIn(i, s.net, log, nodes, s.watchers))
	}
	return s
}

// config is the agents' configuration as it is now.
func (s *system) config(addresses []string) config.Agent {
	cfg := config.DefaultAgent()
	cfg.ClusterID = clusterID
	cfg.Server.Addresses = addresses
	cfg.ClaimWatcher = s.plan.claims
	cfg.Inputs.Resources.Kubernetes.APIListPageSize = s.plan.pageSize
	if s.plan.normal {
		cfg.WatchPolicy, cfg.RegisterAsAgent = "normal", true
	}
	cfg.HighAvailability.Enabled = s.plan.agents > 1
	cfg.HighAvailability.LeaseNamespace = "deepflow"
	lease := leases[s.plan.lease]
	cfg.HighAvailability.LeaseDuration, cfg.HighAvailability.RenewDeadline, cfg.HighAvailability.RetryPeriod = lease[0], lease[1], lease[2]
	cfg.Report.FullResyncInterval = fullResync
	s.choice.Lock()
	defer s.choice.Unlock()
	cfg.Inputs.Resources.Kubernetes.APIResources, cfg.Selection = selection(s.choice.configMaps), s.choice.namespaces
	return cfg
}

// later appoints what ends a fault.
func (s *system) later(d time.Duration, do func()) {
	s.queue.add(appointment{time.Since(s.begun) + d, "", do})
}

// play begins everything and lets the plan happen.
func (s *system) play() {
	api := &http.Server{Handler: s.bounds.requests(s.truth.sim)}
	served := make(chan struct{})
	listener := s.net.listen(apiserver)
	go func() {
		defer close(served)
		if err := api.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.check.fail("apiserver: %v", err)
		}
	}()
	s.t.Cleanup(func() {
		_ = api.Close()
		<-served
	})
	for i := range 6 {
		s.write(i, i, i)
	}
	for _, p := range s.processes() {
		p.start()
	}
	for _, e := range s.plan.events {
		s.queue.add(appointment{e.at, e.String(), func() { deeds[e.deed].do(s, e.n) }})
	}
	for len(s.check.complaints()) == 0 {
		next, ok := s.queue.next()
		if !ok {
			return
		}
		time.Sleep(next.at - time.Since(s.begun))
		synctest.Wait()
		if next.say != "" {
			s.trace = append(s.trace, fmt.Sprintf("%9s  %s", time.Since(s.begun), strings.TrimSpace(next.say)))
		}
		next.do()
		s.situations()
	}
}

// mayReport looks whether the replica that sends something holds the lease.
func (s *system) mayReport(node string) {
	if s.plan.agents < 2 {
		return
	}
	for _, raw := range s.truth.sim.Objects(gvr("coordination.k8s.io", "v1", "leases")) {
		var lease struct {
			Spec struct{ HolderIdentity string }
		}
		if err := json.Unmarshal(raw, &lease); err != nil {
			s.check.fail("the lease: %v", err)
			return
		}
		for _, a := range s.agents {
			if a.node == node && !strings.HasPrefix(lease.Spec.HolderIdentity, a.name()) {
				s.check.fail("%s reports although the lease is held by %q", a.name(), lease.Spec.HolderIdentity)
			}
		}
	}
}

func (s *system) processes() []*process {
	var all []*process
	for _, p := range s.deepflows {
		all = append(all, &p.process)
	}
	for _, p := range s.servers {
		all = append(all, &p.process)
	}
	for _, p := range s.agents {
		all = append(all, &p.process)
	}
	for _, p := range s.standIns {
		all = append(all, &p.process)
	}
	return all
}

func (s *system) write(which, name, n int) {
	k := pick(kinds, which)
	s.truth.do(func() {
		if s.truth.served[k.id] {
			s.truth.sim.Put(k.GroupVersionResource, k.object(k.namespaceOf(name), fmt.Sprint("x", name%8), n))
		}
	}, k)
}

func (s *system) toggleCRD() {
	k := kinds[3]
	s.truth.do(func() {
		if s.truth.served[k.id] = !s.truth.served[k.id]; s.truth.served[k.id] {
			s.truth.sim.Serve(k.Resource)
		} else {
			s.truth.sim.Remove(k.GroupVersionResource)
		}
	}, k)
}

func (s *system) toggleSelection() {
	s.choose(func() {
		s.choice.configMaps = !s.choice.configMaps
		s.truth.selected["configmaps"] = s.choice.configMaps
	})
}

func (s *system) chooseNamespaces(of config.AgentSelection) {
	s.choose(func() { s.choice.namespaces, s.truth.chosen = of, of })
}

// choose changes the configuration of all agents.
func (s *system) choose(change func()) {
	s.truth.do(func() {
		s.choice.Lock()
		defer s.choice.Unlock()
		change()
	}, kinds...)
	for _, a := range s.agents {
		if d := a.present(); d != nil {
			d.Reload(a.config())
		}
	}
}

func (s *system) failRequests(match func(apisim.Request) bool, name string, f apisim.Fault, d time.Duration) {
	stop := make(chan struct{})
	f.Stop = stop
	s.rules.mu.Lock()
	i := s.rules.next
	s.rules.list[i] = rule{name, match, f}
	s.rules.next++
	s.rules.mu.Unlock()
	s.later(d, func() {
		s.rules.mu.Lock()
		delete(s.rules.list, i)
		s.rules.mu.Unlock()
		close(stop)
	})
}

// link is the one that the numbers name.
func (s *system) link(n [3]int) link {
	l := link{pick(s.agents, n[1]).node, apiserver}
	if n[2]%3 > 0 {
		l.server = pick(s.servers, n[2]/3).node
	}
	return l
}

func (s *system) spoil(n [3]int, bad, good func(*condition)) {
	l := s.link(n)
	s.net.change(l, bad)
	s.later(length(n[0]), func() { s.net.change(l, good) })
}

func (s *system) restart(p *process, power bool, d time.Duration) {
	p.stop(power)
	s.later(d, p.start)
}

// failOver makes a standby the database, which lacks the last n writes. Servers that have a database for themselves do not look
// for that while they run: they are killed and started anew.
func (s *system) failOver(db *database, n int, d time.Duration) {
	if !db.shared {
		for _, p := range s.servers {
			if p.db == db {
				s.restart(&p.process, true, d)
			}
		}
		synctest.Wait()
	}
	s.watchers.forgotten()
	s.lies["version"] = true
	if err := db.failOver(n); err != nil {
		s.check.fail("%v", err)
	}
}

// promised is the time in which everything has come right after the last fault.
const promised = 4 * time.Minute

// limit is the time in which everything has to come right. Where the servers decide who watches, the lease of somebody who is
// gone has to end first: each of them, and a database that lost writes, may know of another one.
func (s *system) limit() time.Duration {
	if s.plan.normal {
		return promised + watcherLease + sweeps
	}
	return promised
}

// fullResync is how often a cluster is reported in full.
const fullResync = 20 * time.Minute

// sweeps is the time that servers take to see what has expired.
const sweeps = 3 * time.Minute

// settle looks whether everything comes right: all appointments are kept, so that no fault is left.
func (s *system) settle() {
	if len(s.check.complaints()) > 0 {
		return
	}
	s.net.heal()
	for _, p := range s.processes() {
		p.start()
	}
	for _, db := range s.databases {
		db.set(func() { db.away, db.full, db.unconfirmed = false, false, 0 })
	}
	for _, d := range s.deepflows {
		d.set(func() { d.reports, d.syncs = nil, nil })
	}
	if s.plan.normal {
		for _, p := range s.standIns {
			p.stop(true)
		}
	}
	s.awaitRight("after the last fault", "")
	s.hidden = false
	s.loseServer()
	s.loseDeepflow()
	s.loseWrites()
}

// loseWrites takes the last writes from the database in use. Nothing else changes, so that the agent has to notice by itself.
func (s *system) loseWrites() {
	server := s.inUse()
	if server == nil || len(s.check.complaints()) > 0 {
		return
	}
	s.failOver(server.db, 1+int(s.plan.seed%5), 0)
	server.start()
	s.awaitRight("after the loss of writes", "")
}

// loseServer takes the server away to which the agent reports, if there is another.
func (s *system) loseServer() {
	if len(s.servers) < 2 || len(s.check.complaints()) > 0 {
		return
	}
	lost := s.inUse()
	if lost == nil {
		return
	}
	lost.stop(true)
	s.write(0, 1, int(s.plan.seed%1000))
	s.await("after the loss of the server", s.limit(), func() string {
		if s.inUse() == lost {
			return "the agent still reports to the server that is gone"
		}
		return ""
	})
	s.awaitRight("after the loss of the server", "")
	lost.start()
}

// inUse is the server to which the agents report, nil if there is none.
func (s *system) inUse() *serverProcess {
	for _, a := range s.agents {
		if d := a.present(); d != nil {
			if server := s.serverAt(d.Status().Address); server != nil {
				return server
			}
		}
	}
	return nil
}

func (s *system) serverAt(at string) *serverProcess {
	for _, p := range s.servers {
		if at == address(p.node) {
			return p
		}
	}
	return nil
}

// await waits until there is no complaint any more, and notes the last one if there is one in the end.
func (s *system) await(when string, limit time.Duration, complaint func() string) {
	begun := time.Now()
	for {
		time.Sleep(5 * time.Second)
		synctest.Wait()
		why := complaint()
		waited := time.Since(begun).Round(time.Second)
		if why == "" {
			s.check.meet(fmt.Sprintf("%s, within %v", when, waited.Truncate(30*time.Second)+30*time.Second))
			return
		}
		if waited >= limit {
			s.check.fail("%s, %v: %s", when, waited, why)
			return
		}
	}
}

// awaitRight waits until all is as it should be. Behind a server that passes reports on, the deepflow-server has to be right in that time;
// the server's own copy, which is behind if its storage failed, may wait for the next report in full.
func (s *system) awaitRight(when, wantError string) {
	limit := s.limit()
	if len(s.deepflows) > 0 {
		if s.hidden {
			limit += fullResync
		}
		s.await(when+", deepflow-server", limit, func() string { return s.passed(wantError) })
		limit += fullResync
	}
	if len(s.check.complaints()) == 0 {
		s.await(when, limit, func() string { return s.right(wantError) })
	}
}

// right tells what is not as it should be: the server of the agent that works holds what the cluster is, and the error (a part
// of it; empty: none).
func (s *system) right(wantError string) string {
	want := s.truth.current()
	var why []string
	for _, a := range s.agents {
		d := a.present()
		if d == nil {
			continue
		}
		st := d.Status()
		server := s.serverAt(st.Address)
		if server == nil || !st.Watcher.Watching {
			continue
		}
		m, err := (&handle{db: server.db}).read()
		if err != nil {
			return err.Error()
		}
		state, got, err := s.check.latest(m)
		switch {
		case err != nil:
			why = append(why, err.Error())
		case wantError == "" && state.ErrorMsg != "":
			why = append(why, fmt.Sprintf("server %s has the error %q", server.node, state.ErrorMsg))
		case wantError != "" && !strings.Contains(state.ErrorMsg, wantError):
			why = append(why, fmt.Sprintf("server %s has the error %q, want one with %q", server.node, state.ErrorMsg, wantError))
		case !maps.Equal(got, want):
			why = append(why, fmt.Sprintf("server %s holds version %d with\n%v\nwant\n%v", server.node, state.Latest.Version, got, want))
		default:
			return ""
		}
	}
	if len(why) == 0 {
		return "no agent that watches is connected to a server"
	}
	return strings.Join(why, "; ")
}

// tellErrors takes a permission away: within two minutes the server knows, and keeps what it has; and gives it back.
func (s *system) tellErrors() {
	if len(s.check.complaints()) > 0 {
		return
	}
	s.rules.mu.Lock()
	i := s.rules.next
	s.rules.list[i] = rule{"forbidden", resource("pods"), apisim.Fault{Status: http.StatusForbidden}}
	s.rules.next++
	s.rules.mu.Unlock()
	s.net.cut(func(l link) bool { return l.server == apiserver })
	s.awaitRight("an error is told", "pods")
	s.rules.mu.Lock()
	delete(s.rules.list, i)
	s.rules.mu.Unlock()
	s.awaitRight("an error is cleared", "")
}

// end stops everything.
func (s *system) end() {
	s.net.heal()
	for next, ok := s.queue.next(); ok; next, ok = s.queue.next() { // of a history that was given up
		if next.say == "" {
			next.do()
		}
	}
	for _, p := range s.processes() {
		p.stop(false)
	}
	s.await("the end", stopTime, func() string {
		for _, p := range s.processes() {
			if !p.ended() {
				return p.node + " has not ended after it was told to"
			}
		}
		return ""
	})
	for _, p := range s.processes() {
		p.wait()
	}
	synctest.Wait()
}

// stopTime is the time in which all processes end after they were told to.
const stopTime = time.Minute
