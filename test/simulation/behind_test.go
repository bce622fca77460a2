package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/faultserver"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
)

// deepflow is a stand-in for a deepflow-server behind the pseudo-servers: it keeps reports as docs/protocol-server.md says, in
// memory, and elects as that page says.
type deepflow struct {
	process

	mu      sync.Mutex
	present *faultserver.Server // of the present life; nil: there is none
	reports *reportFault        // what happens to reports; nil: nothing
	syncs   *syncFault          // what happens to Syncs; nil: nothing
	size    int                 // of the fault
	holder  string              // the watcher of its own choice, in the present life
	heard   time.Time
}

// reportFault is how reports fail at a deepflow-server.
type reportFault struct {
	name  string
	fault func(n int) faultserver.Fault
	// hidden says that no answer shows what was lost, so that only the next report in full makes up for it.
	hidden bool
	lie    string // why it looks as if agents bypassed the server before it
}

var reportFaults = []reportFault{
	{"refused", func(int) faultserver.Fault { return faultserver.Fault{Code: codes.Unavailable} }, false, ""},
	{"failing", func(int) faultserver.Fault { return faultserver.Fault{Code: codes.Internal} }, false, ""},
	{"not answered", func(int) faultserver.Fault { return faultserver.Fault{DropRequest: true} }, false, ""},
	{"stored and not answered", func(int) faultserver.Fault { return faultserver.Fault{DropResponse: true} }, false, ""},
	{"stored and failing", func(int) faultserver.Fault { return faultserver.Fault{CodeAfter: codes.Internal} }, false, ""},
	{"late", func(n int) faultserver.Fault { return faultserver.Fault{Delay: length(n % 6)} }, false, ""},
	{"stored after their sender has given up", func(n int) faultserver.Fault { return faultserver.Fault{Late: 31*time.Second + length(n%4)} }, false, "version"},
	{"answered with another version", func(n int) faultserver.Fault { return faultserver.Fault{Answer: new(uint64(1 + n))} }, false, "version"},
	{"acknowledged and not stored", func(int) faultserver.Fault { return faultserver.Fault{Overwrite: true} }, true, ""},
}

// syncFault is how Syncs fail at a deepflow-server.
type syncFault struct {
	name   string
	answer func(ctx context.Context, d *deepflow, r *agent.SyncRequest) (*agent.SyncResponse, error)
	lie    string // why it looks as if agents bypassed the server before it
}

func statusOnly(s agent.Status) func(context.Context, *deepflow, *agent.SyncRequest) (*agent.SyncResponse, error) {
	return func(context.Context, *deepflow, *agent.SyncRequest) (*agent.SyncResponse, error) {
		return &agent.SyncResponse{Status: s.Enum()}, nil
	}
}

var syncFaults = []syncFault{
	{"answered HEARTBEAT", statusOnly(agent.Status_HEARTBEAT), ""},
	{"answered FAILED", statusOnly(agent.Status_FAILED), ""},
	{"refused", func(context.Context, *deepflow, *agent.SyncRequest) (*agent.SyncResponse, error) {
		return nil, status.Error(codes.Unavailable, "injected fault")
	}, ""},
	{"not answered", func(ctx context.Context, _ *deepflow, _ *agent.SyncRequest) (*agent.SyncResponse, error) {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}, ""},
	{"all told to watch", func(_ context.Context, d *deepflow, r *agent.SyncRequest) (*agent.SyncResponse, error) {
		return d.decision(r, true), nil // by a server before 6.6
	}, "enabled"},
	{"all told not to watch", func(_ context.Context, d *deepflow, r *agent.SyncRequest) (*agent.SyncResponse, error) {
		return d.decision(r, false), nil
	}, ""},
}

func newDeepflow(number int, n *network, log *slog.Logger) *deepflow {
	d := &deepflow{}
	d.process = process{node: fmt.Sprintf("10.0.4.%d", 1+number), net: n, log: log.With("deepflow", number), run: d.live}
	return d
}

func (d *deepflow) live(ctx context.Context, killed func() bool) error {
	held := &faultserver.Server{OnSync: d.sync}
	held.Harm(d.fault)
	server := grpc.NewServer()
	held.Register(server)
	d.become(held)
	defer held.Wait()
	defer d.become(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		if !killed() {
			timer := time.AfterFunc(time.Second, server.Stop)
			defer timer.Stop()
			server.GracefulStop()
		}
		server.Stop()
	}()
	err := server.Serve(d.net.listen(d.node))
	<-ended
	return err
}

// become begins a life, or ends it.
func (d *deepflow) become(held *faultserver.Server) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.present, d.holder = held, ""
}

// holding returns what keeps reports in the present life, nil if nothing does.
func (d *deepflow) holding() *faultserver.Server {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.present
}

func (d *deepflow) fault(*agent.KubernetesAPISyncRequest) faultserver.Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reports == nil {
		return faultserver.Fault{}
	}
	return d.reports.fault(d.size)
}

// failing names what fails in it now.
func (d *deepflow) failing() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	if d.reports != nil {
		names = append(names, "reports are "+d.reports.name)
	}
	if d.syncs != nil {
		names = append(names, "Syncs are "+d.syncs.name)
	}
	return names
}

// set changes what fails in it.
func (d *deepflow) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *deepflow) sync(ctx context.Context, r *agent.SyncRequest) (*agent.SyncResponse, error) {
	d.mu.Lock()
	f := d.syncs
	d.mu.Unlock()
	if f != nil {
		return f.answer(ctx, d, r)
	}
	return d.decision(r, d.elects(r)), nil
}

// elects decides by the server's own mind whether somebody watches.
func (d *deepflow) elects(r *agent.SyncRequest) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	policy, who := r.GetKubernetesWatchPolicy(), r.GetCtrlIp()
	if r.GetKubernetesClusterId() == "" || policy == agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED {
		return false
	}
	const silent = 600 * time.Second
	if d.holder == "" || policy == agent.KubernetesWatchPolicy_KWP_WATCH_ONLY || time.Since(d.heard) > silent {
		d.holder = who
	}
	if d.holder != who {
		return false
	}
	d.heard = time.Now()
	return true
}

// decision is an answer with a configuration. Agents have small ids, by the last number of their addresses.
func (d *deepflow) decision(r *agent.SyncRequest, watch bool) *agent.SyncResponse {
	id := uint32(1)
	if ip := net.ParseIP(r.GetCtrlIp()).To4(); ip != nil {
		id += uint32(ip[3])
	}
	return &agent.SyncResponse{Status: agent.Status_SUCCESS.Enum(), DynamicConfig: &agent.DynamicConfig{KubernetesApiEnabled: &watch, AgentId: &id}}
}

// The deeds that concern the servers behind.

func (s *system) failReports(n [3]int) {
	if len(s.deepflows) == 0 {
		return
	}
	d, f := pick(s.deepflows, n[0]), pick(reportFaults, n[1])
	d.set(func() { d.reports, d.size = &f, n[2] })
	s.hidden, s.lies[f.lie] = s.hidden || f.hidden, true
	s.later(length(n[2]), func() {
		d.set(func() {
			if d.reports == &f {
				d.reports = nil
			}
		})
	})
}

func (s *system) failSyncs(n [3]int) {
	if len(s.deepflows) == 0 {
		return
	}
	d, f := pick(s.deepflows, n[0]), pick(syncFaults, n[1])
	s.lies[f.lie] = true
	d.set(func() { d.syncs = &f })
	s.later(long(n[2]), func() {
		d.set(func() {
			if d.syncs == &f {
				d.syncs = nil
			}
		})
	})
}

// forget has a deepflow-server forget all that it holds, as a restart does, while its connections stay.
func (s *system) forget(d *deepflow) {
	if held := d.holding(); held != nil {
		held.Restart()
	}
}

// linkBehind is the way from a server to a deepflow-server that the numbers name; false if there is none.
func (s *system) linkBehind(n [3]int) (link, bool) {
	if len(s.deepflows) == 0 {
		return link{}, false
	}
	return link{pick(s.servers, n[1]).node, pick(s.deepflows, n[2]).node}, true
}

func (s *system) spoilBehind(n [3]int, bad, good func(*condition)) {
	if l, ok := s.linkBehind(n); ok {
		s.net.change(l, bad)
		s.later(length(n[0]), func() { s.net.change(l, good) })
	}
}

func (s *system) cutBehind(n [3]int) {
	if of, ok := s.linkBehind(n); ok {
		s.net.cut(func(l link) bool { return l == of })
	}
}

// swallowBehind has whatever is on the way forget the connections: nothing arrives over them any more, and nobody is told.
func (s *system) swallowBehind(n [3]int) {
	if of, ok := s.linkBehind(n); ok {
		s.net.swallow(func(l link) bool { return l == of })
	}
}

func (s *system) restartBehind(n [3]int, power bool) {
	if len(s.deepflows) > 0 {
		s.restart(&pick(s.deepflows, n[0]).process, power, length(n[1]))
	}
}

func behindFor(n [3]int) string { return behindOf(n) + ", for " + length(n[0]).String() }

func behindOf(n [3]int) string {
	return fmt.Sprintf("between server %d and deepflow-server %d", n[1], n[2])
}

// behindDeeds are those of plans with deepflow-servers behind the servers.
var behindDeeds = []deed{
	{"reports to a deepflow-server are", 6, behind, func(n [3]int) string {
		return fmt.Sprintf("%s (%d), for %v", pick(reportFaults, n[1]).name, n[0], length(n[2]))
	}, func(s *system, n [3]int) { s.failReports(n) }, true},
	{"Syncs to a deepflow-server are", 4, behind, func(n [3]int) string {
		return fmt.Sprintf("%s (%d), for %v", pick(syncFaults, n[1]).name, n[0], long(n[2]))
	}, func(s *system, n [3]int) { s.failSyncs(n) }, true},
	{"a deepflow-server is stopped", 3, behind, procFor, func(s *system, n [3]int) { s.restartBehind(n, false) }, true},
	{"a deepflow-server is killed", 3, behind, procFor, func(s *system, n [3]int) { s.restartBehind(n, true) }, true},
	{"a deepflow-server forgets", 3, behind, func(n [3]int) string { return fmt.Sprintf("(%d)", n[0]) }, func(s *system, n [3]int) {
		if len(s.deepflows) > 0 {
			s.forget(pick(s.deepflows, n[0]))
		}
	}, true},
	{"connections are cut", 3, behind, behindOf, func(s *system, n [3]int) { s.cutBehind(n) }, true},
	{"connections are forgotten on the way", 3, behind, behindOf, func(s *system, n [3]int) { s.swallowBehind(n) }, true},
	{"nothing arrives", 4, behind, behindFor, func(s *system, n [3]int) {
		s.spoilBehind(n, func(c *condition) { c.hole = true }, func(c *condition) { c.hole = false })
	}, true},
	{"everything is late", 3, behind, behindFor, func(s *system, n [3]int) {
		s.spoilBehind(n, func(c *condition) { c.delay = length(n[0] % 6) }, func(c *condition) { c.delay = 0 })
	}, true},
	{"connections are refused and cut", 3, behind, behindFor, func(s *system, n [3]int) {
		s.spoilBehind(n, func(c *condition) { c.refused = true }, func(c *condition) { c.refused = false })
		s.cutBehind(n)
	}, true},
}

// behindNow counts how the servers see those behind them, and what fails there.
func (s *system) behindNow() {
	for _, server := range s.servers {
		front := server.standing()
		if front == nil {
			continue
		}
		for i, st := range front.Status().Servers {
			d := s.deepflows[i]
			seen := "passed over"
			if st.Healthy {
				seen = "in use"
			}
			fails := append(d.failing(), s.failing(link{server.node, d.node}, "it is away")...)
			if len(fails) == 0 {
				fails = []string{nothingFails}
			}
			for _, f := range fails {
				s.check.meet(fmt.Sprintf("deepflow-server: %s while %s", seen, f))
			}
		}
	}
}

// deepflowsWhile are the situations of deepflow-servers that the usual histories have to come to.
func deepflowsWhile() (list []string) {
	for _, f := range reportFaults {
		list = append(list, "deepflow-server: in use while reports are "+f.name)
	}
	for _, f := range syncFaults {
		list = append(list, "deepflow-server: in use while Syncs are "+f.name)
	}
	for _, w := range ways {
		list = append(list, "deepflow-server: in use while "+w.name)
	}
	return list
}

// deepflowInUse returns the deepflow-server to which the server in use passes the cluster's reports, nil if there is none.
func (s *system) deepflowInUse() *deepflow {
	server := s.inUse()
	if server == nil {
		return nil
	}
	front := server.standing()
	if front == nil {
		return nil
	}
	for _, c := range front.Status().Clusters {
		for _, d := range s.deepflows {
			if c.Cluster == clusterID && c.Server == address(d.node) {
				return d
			}
		}
	}
	return nil
}

// passed tells what is not as it should be at the deepflow-server in use.
func (s *system) passed(wantError string) string {
	d := s.deepflowInUse()
	if d == nil {
		return "no deepflow-server is in use"
	}
	held := d.holding()
	if held == nil {
		return "the deepflow-server in use does not run"
	}
	h := held.Held(clusterID)
	if h == nil {
		return fmt.Sprintf("deepflow-server %s holds nothing", d.node)
	}
	got, err := s.check.entries.contentOf(func(yield func(string, []byte) bool) {
		for _, e := range h.Entries {
			if !yield(e.GetType(), e.GetCompressedInfo()) {
				return
			}
		}
	})
	delete(got, versionCell)
	want := s.truth.current()
	switch {
	case err != nil:
		return err.Error()
	case wantError == "" && h.ErrorMsg != "":
		return fmt.Sprintf("deepflow-server %s has the error %q", d.node, h.ErrorMsg)
	case !strings.Contains(h.ErrorMsg, wantError):
		return fmt.Sprintf("deepflow-server %s has the error %q, want one with %q", d.node, h.ErrorMsg, wantError)
	case !maps.Equal(got, want):
		return fmt.Sprintf("deepflow-server %s holds version %d with\n%v\nwant\n%v", d.node, h.Version, got, want)
	}
	s.check.holds("deepflow-server "+d.node+" holds", h.Version, got)
	return ""
}

// loseDeepflow takes the deepflow-server in use away, if there is another; then the one in use forgets all while nothing changes.
func (s *system) loseDeepflow() {
	if lost := s.deepflowInUse(); len(s.deepflows) > 1 && lost != nil && len(s.check.complaints()) == 0 {
		how, back := s.takeAway(lost)
		s.check.meet("the deepflow-server in use: " + how)
		s.write(0, 2, int(s.plan.seed%1000))
		limit := time.Duration(len(s.servers)) * s.limit() // each server has to see it by calls that are left without an answer
		s.await("after the loss of the deepflow-server", limit, func() string {
			if s.deepflowInUse() == lost {
				return "reports still go to the deepflow-server that " + how
			}
			return s.passed("")
		})
		back()
	}
	if d := s.deepflowInUse(); d != nil && len(s.check.complaints()) == 0 {
		s.forget(d)
		s.await("after the deepflow-server forgot all", s.limit(), func() string { return s.passed("") })
	}
}

// takeAway takes a deepflow-server away in one of three ways.
func (s *system) takeAway(d *deepflow) (how string, back func()) {
	change := func(f func(*condition)) {
		for _, server := range s.servers {
			s.net.change(link{server.node, d.node}, f)
		}
	}
	switch s.plan.seed % 3 {
	case 0:
		d.stop(true)
		return "was killed", d.start
	case 1:
		change(func(c *condition) { c.hole = true })
		return "cannot be reached", func() { change(func(c *condition) { c.hole = false }) }
	default:
		reports, syncs := reportFaults[2], syncFaults[3] // not answered
		d.set(func() { d.reports, d.syncs = &reports, &syncs })
		return "answers nothing", func() { d.set(func() { d.reports, d.syncs = nil, nil }) }
	}
}

// bypassed looks whether a server says that agents bypass it. None does; it looks so if a deepflow-server lies, or if our own storage does not
// know what passed at another replica.
func (s *system) bypassed() {
	for _, server := range s.servers {
		front := server.standing()
		if front == nil {
			continue
		}
		for _, c := range front.Status().Clusters {
			for _, b := range c.Bypassed {
				if s.lies[b.Why] {
					s.check.meet("deepflow-server: it looks as if agents bypass us: " + b.Why)
					continue
				}
				s.check.fail("server %s says that agents bypass it (%s): %s", server.node, b.Why, b.What)
			}
		}
	}
}

// front returns what passes calls on to the deepflow-servers.
func (s *serverProcess) front(opts upstream.Options) (*upstream.Front, error) {
	opts.Addresses = s.behind
	opts.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return s.net.dial(ctx, s.node, host)
	}
	return upstream.New(opts)
}

// standing returns the front of the present life, nil if there is none.
func (s *serverProcess) standing() *upstream.Front {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stands
}

func (s *serverProcess) stand(f *upstream.Front) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stands = f
}

// isServer tells whether a node is a server.
func (s *system) isServer(node string) bool {
	return slices.ContainsFunc(s.servers, func(p *serverProcess) bool { return p.node == node })
}

func address(node string) string { return node + ":" + port }
