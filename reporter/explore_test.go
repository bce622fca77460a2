package reporter

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/explore"
	"github.com/pseudo-agent/pseudo-agent/resources"
	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// TestExploreMachine lets every order of events happen to the machine, two servers and three contents, and checks at each
// request and each answer what docs/simulation.md says. Invariant 1, 2, 4 and 5 of docs/design.md.
func TestExploreMachine(t *testing.T) {
	for _, c := range []struct {
		name    string
		agentID *uint32
		depth   int
	}{
		{"with the handshake", nil, 6},
		{"agent id 0", proto.Uint32(0), 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			depth := c.depth
			if testing.Short() {
				depth -= 2
			}
			e := &edges{met: map[[2]state]bool{}}
			explore.Test(t, func() explore.Model { return newExplored(c.agentID, e) }, explore.Depth(t, depth))
			t.Logf("%d edges of the table: %v", len(e.met), e)
			for _, s := range []state{stateConnecting, stateProbing, stateTelling, stateWaiting, stateReporting, stateSynced} {
				if !slices.ContainsFunc(slices.Collect(maps.Keys(e.met)), func(edge [2]state) bool { return edge[1] == s }) {
					t.Errorf("no order of events leads to %s", s)
				}
			}
		})
	}
}

// edges are those of the machine's table that were met.
type edges struct {
	mu  sync.Mutex
	met map[[2]state]bool
}

func (e *edges) meet(from, to state) {
	if from == to {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.met[[2]state{from, to}] = true
}

// String lists them.
func (e *edges) String() string {
	var list []string
	for edge := range e.met {
		list = append(list, fmt.Sprintf("%s → %s", edge[0], edge[1]))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// explored is the machine with all that it meets.
type explored struct {
	m       *machine
	opts    Options
	now     time.Time
	wake    time.Time
	src     *exploredSource
	servers [2]exploredServer
	current int
	flight  *action // of the reporting lane
	late    *late
	hidden  bool // a server lost what it acknowledged
	edges   *edges

	contents map[uint64]string // by version, of all processes
	held     map[uint64]bool   // versions that a server has ever answered
	newAt    time.Time         // when this process sent content under a new version last
	newest   uint64            // that version
	session  bool              // whether the present session has seen its first request
	story    []string
	err      error
}

// exploredServer is a deepflow-server as docs/protocol.md, section 3, describes it.
type exploredServer struct {
	handshake uint64
	version   uint64
	content   string
	errorMsg  string
}

type late struct {
	server int
	report *report
}

// exploredSession is a session of which only the peer is asked.
type exploredSession struct {
	session

	server int
}

func (s exploredSession) peer() peerInfo {
	return peerInfo{server: fmt.Sprint(s.server), address: fmt.Sprint(s.server)}
}

// exploredSource is a real fold with one Pod that has three contents.
type exploredSource struct {
	*snapshot.Fold
	x        *explored
	complete bool
	problems []string
	content  int
}

func (s *exploredSource) State(time.Time) (bool, []string) { return s.complete, s.problems }

func (s *exploredSource) Take() *snapshot.Snapshot {
	if !s.complete || len(s.problems) > 0 {
		s.x.fail("a snapshot is taken although the source is not complete, or fails")
	}
	snap := s.Fold.Take()
	got := contentOf(snap)
	if got != exploredNames[s.content] {
		s.x.fail("the snapshot has the content %q, the cluster %q", got, exploredNames[s.content])
	}
	if before, ok := s.x.contents[snap.Version()]; ok && before != got {
		s.x.fail("a version has two contents: %q and %q", before, got)
	} else if !ok && s.x.held[snap.Version()] {
		s.x.fail("a version that a server has answered before is used for new content")
	}
	s.x.contents[snap.Version()] = got
	return snap
}

var (
	exploredNames   = []string{"one", "two", "three"}
	exploredPods    = []*resources.Entry{testEntry("*v1.Pod", 1, "one"), testEntry("*v1.Pod", 1, "two"), testEntry("*v1.Pod", 1, "three")}
	exploredMetrics = newMetrics(1)
	exploredStart   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

func contentOf(s *snapshot.Snapshot) string {
	var names []string
	for e := range s.All() {
		names = append(names, exploredNames[slices.Index(exploredPods, e)])
	}
	return strings.Join(names, "+")
}

func newExplored(agentID *uint32, e *edges) *explored {
	x := &explored{edges: e, now: exploredStart, contents: map[uint64]string{}, held: map[uint64]bool{}}
	x.opts = Options{
		Addresses: []string{"a:1", "b:1"}, ClusterID: testCluster, AgentID: agentID, Logger: quiet(), Host: "host",
		FullResyncInterval: 5 * time.Minute, KeepaliveInterval: 2 * time.Minute,
	}
	x.opts.Source = &exploredSource{}
	x.err = x.opts.complete()
	x.begin(0)
	x.step()
	return x
}

// begin starts a process that knows nothing but the cluster.
func (x *explored) begin(content int) {
	x.src = &exploredSource{Fold: snapshot.New(func() time.Time { return x.now }), x: x, complete: true, content: content}
	x.src.Replace("pods", exploredPods[content:content+1])
	x.opts.Source = x.src
	x.m = newMachine(&x.opts, x.opts.Logger, exploredMetrics, func() float64 { return .5 })
	x.flight, x.current, x.newAt, x.newest = nil, 0, time.Time{}, 0
}

func (x *explored) fail(format string, args ...any) {
	if x.err == nil {
		x.err = fmt.Errorf(format, args...)
	}
}

func (x *explored) tell(format string, args ...any) {
	x.story = append(x.story, fmt.Sprintf(format, args...))
}

func (x *explored) Err() error { return x.err }

func (x *explored) Story() []string { return x.story }

// step is a turn of the reporter's loop.
func (x *explored) step() {
	select {
	case <-x.src.Changed():
		x.m.source.changed(x.now)
	default:
	}
	before := x.m.state
	actions, wake := x.m.step(x.now)
	x.edges.meet(before, x.m.state)
	if x.m.server.takeAdvance() {
		x.current = 1 - x.current
	}
	x.wake = wake
	if !wake.After(x.now) && len(actions) == 0 && x.flight == nil {
		x.wake = x.now.Add(time.Millisecond)
	}
	for _, a := range actions {
		if x.flight != nil {
			x.fail("a second request while one is under way: %s", a.kind)
		}
		x.flight = &a
		x.sent(a.report)
	}
}

// sent checks a request as it is made.
func (x *explored) sent(r *report) {
	if r == nil {
		return
	}
	x.tell("the reporter asks server %d: %s", x.current, x.describe(r))
	content, known := x.contents[r.version]
	switch {
	case r.entries != nil && (!known || contentOf(r.entries) != content):
		x.fail("a version goes out with other content than it was taken with")
	case r.entries != nil && !x.session && !x.m.cluster.withoutHandshake():
		x.fail("the first request of a session has entries, want a probe")
	case r.errorMsg != "" && len(x.src.problems) == 0:
		x.fail("an error is told while there is none")
	case r.errorMsg != "" && r.entries == nil && !known && !x.held[r.version]:
		x.fail("an error goes out alone under a new version")
	case r.errorMsg == "" && r.entries != nil && len(x.src.problems) > 0:
		x.fail("a report that clears the error goes out while there is one")
	}
	x.session = true
	if r.entries != nil && r.version != x.newest {
		if !x.newAt.IsZero() && x.now.Sub(x.newAt) < x.opts.PushInterval {
			x.fail("content under a new version %v after the last, want at least %v", x.now.Sub(x.newAt), x.opts.PushInterval)
		}
		x.newAt, x.newest = x.now, r.version
	}
}

func (x *explored) describe(r *report) string {
	s := "nothing"
	if r.entries != nil {
		s = fmt.Sprintf("content %q", contentOf(r.entries))
	}
	if r.errorMsg != "" {
		s += fmt.Sprintf(", error %q", r.errorMsg)
	}
	return s + " under " + x.name(r.version)
}

// name is a version as people can read it.
func (x *explored) name(v uint64) string {
	switch content, ok := x.contents[v]; {
	case v == 0:
		return "no version"
	case v == probeVersion:
		return "the probe's version"
	case ok:
		return fmt.Sprintf("version %d (%s)", int64(v)-exploredStart.UnixMicro(), content)
	default:
		return fmt.Sprintf("version %d (of somebody else)", int64(v)-exploredStart.UnixMicro())
	}
}

// treat does what a server does with a report.
func (x *explored) treat(server int, r *report, lost bool) uint64 {
	s := &x.servers[server]
	answer := uint64(0)
	if r.agentID != 0 {
		if s.handshake != r.version && r.entries == nil {
			return s.handshake
		}
		s.handshake, answer = r.version, r.version
		x.held[r.version] = true
	} else if r.entries == nil {
		return 0
	}
	if lost {
		x.hidden = true
		return answer
	}
	if s.version != r.version {
		s.version, s.content = r.version, ""
		if r.entries != nil {
			s.content = contentOf(r.entries)
		}
	}
	s.errorMsg = r.errorMsg
	return answer
}

// happening is one event.
type happening struct {
	name string
	when func(*explored) bool
	do   func(*explored)
}

func connecting(x *explored) bool { return x.flight != nil && x.flight.kind == doConnect }

func asking(x *explored) bool { return x.flight != nil && x.flight.report != nil }

var happenings = []happening{
	{"the connection is made", connecting, func(x *explored) { x.answer(outcome{session: exploredSession{server: x.current}}) }},
	{"the connection is refused", connecting, func(x *explored) { x.answer(outcome{err: errors.New("refused")}) }},
	{"the server answers", asking, func(x *explored) { x.answer(outcome{version: x.treat(x.current, x.flight.report, false)}) }},
	{"the request is lost", asking, func(x *explored) { x.timeout() }},
	{"the answer is lost", asking, func(x *explored) {
		x.treat(x.current, x.flight.report, false)
		x.timeout()
	}},
	{"the request is held up on its way", func(x *explored) bool { return asking(x) && x.late == nil }, func(x *explored) {
		x.late = &late{x.current, x.flight.report}
		x.timeout()
	}},
	{"the server acknowledges and loses the report", func(x *explored) bool { return asking(x) && x.flight.report.entries != nil }, func(x *explored) {
		x.answer(outcome{version: x.treat(x.current, x.flight.report, true)})
	}},
	{"the request that was held up arrives", func(x *explored) bool { return x.late != nil }, func(x *explored) {
		x.treat(x.late.server, x.late.report, false)
		x.late = nil
	}},
	{"time passes until the next request", func(x *explored) bool { return x.flight == nil }, func(x *explored) { x.pass(10*time.Minute, true) }},
	{"the content changes", func(*explored) bool { return true }, func(x *explored) {
		x.src.content = (x.src.content + 1) % len(exploredPods)
		x.src.Upsert("pods", exploredPods[x.src.content])
	}},
	{"the source fails", func(x *explored) bool { return x.src.complete && len(x.src.problems) == 0 }, func(x *explored) { x.src.problems = []string{"pods: forbidden"} }},
	{"the source works again", func(x *explored) bool { return len(x.src.problems) > 0 }, func(x *explored) { x.src.problems = nil }},
	{"the source lists everything anew", func(x *explored) bool { return x.src.complete }, func(x *explored) { x.src.complete = false }},
	{"the source is complete", func(x *explored) bool { return !x.src.complete }, func(x *explored) { x.src.complete = true }},
	{"the server forgets everything", func(x *explored) bool { return x.servers[x.current] != exploredServer{} }, func(x *explored) {
		x.servers[x.current] = exploredServer{}
	}},
	{"the connection is cut", func(x *explored) bool { return x.m.server.connected && !connecting(x) }, func(x *explored) {
		x.m.lost(x.now)
		if x.flight != nil {
			x.answer(outcome{err: errClosed})
		}
	}},
	{"another process reports the cluster", func(x *explored) bool { return x.flight == nil }, func(x *explored) {
		v := uint64(x.now.UnixMicro()) + 2_000_007 // no clock of ours shows this
		x.held[v] = true
		x.servers[x.current] = exploredServer{handshake: v, version: v, content: "somebody's"}
		if x.m.cluster.withoutHandshake() {
			x.servers[x.current].handshake = 0
			x.hidden = true
		}
	}},
	{"the reporter starts anew", func(*explored) bool { return true }, func(x *explored) {
		x.now = x.now.Add(time.Second)
		x.begin(x.src.content)
		x.session = false
	}},
}

func (x *explored) possible() []happening {
	return slices.DeleteFunc(slices.Clone(happenings), func(h happening) bool { return !h.when(x) })
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
	x.tell("%v: %s", x.now.Sub(exploredStart), h.name)
	h.do(x)
	x.step()
	x.attest()
}

func (x *explored) answer(o outcome) {
	o.action = *x.flight
	x.flight = nil
	if o.session != nil {
		x.session = false
	}
	x.m.done(x.now, o)
}

func (x *explored) timeout() {
	x.now = x.now.Add(x.opts.RequestTimeout)
	x.answer(outcome{err: errors.New("no answer in time")})
}

// attest checks that what a server holds under one of our versions is what was taken under it.
func (x *explored) attest() {
	for i, s := range x.servers {
		if want, ours := x.contents[s.version]; ours && s.content != want && (s.content != "" || !x.hidden) {
			x.fail("server %d holds %q under %s", i, s.content, x.name(s.version))
		}
	}
}

// pass lets time pass until a request is made if once is set, and otherwise answers each.
func (x *explored) pass(d time.Duration, once bool) {
	end := x.now.Add(d)
	for (x.now.Before(end) || x.flight != nil) && x.err == nil {
		switch {
		case x.flight == nil:
			x.now = earlier(end, x.wake)
		case once:
			return
		case x.flight.kind == doConnect:
			x.answer(outcome{session: exploredSession{server: x.current}})
		default:
			x.answer(outcome{version: x.treat(x.current, x.flight.report, false)})
		}
		x.step()
	}
}

// Settle checks that the server is told what is wrong, and that it ends with the content and without an error.
func (x *explored) Settle() error {
	if x.late != nil {
		x.treat(x.late.server, x.late.report, false)
		x.late = nil
	}
	x.src.complete = true
	x.tell("%v: all goes well from here on", x.now.Sub(exploredStart))
	fault := backoffCap
	if len(x.src.problems) > 0 {
		x.pass(fault+2*x.opts.HeartbeatInterval, false)
		if s := x.servers[x.current]; s.handshake != 0 && s.errorMsg == "" && !x.hidden {
			return fmt.Errorf("server %d has not been told the error", x.current)
		}
		x.src.problems = nil
	}
	wait := fault + 2*x.opts.HeartbeatInterval
	if x.hidden {
		wait += x.opts.FullResyncInterval + x.opts.PushInterval
	}
	if x.m.cluster.withoutHandshake() {
		wait += x.opts.KeepaliveInterval
	}
	x.pass(wait, false)
	if x.err != nil {
		return x.err
	}
	s, want := x.servers[x.current], exploredNames[x.src.content]
	if s.content != want || s.errorMsg != "" || s.version != x.m.source.version() {
		return fmt.Errorf("server %d ends with %q under %s and error %q, want %q under %s", x.current, s.content, x.name(s.version), s.errorMsg, want,
			x.name(x.m.source.version()))
	}
	return nil
}

// unheeded are the fields on which no request depends: they are for people, or counters that only tell sessions apart.
var unheeded = map[string]bool{
	"opts": true, "log": true, "stats": true, "random": true, "stateSince": true, "others": true, "server.trouble": true, "server.peer": true,
	"server.peerOf": true, "server.session": true, "source.unackedSince": true, "stored.reportedAt": true, "claims.since": true, "stored.sent.list": true,
	"claims.server": true, "claims.nextAt": true, "stored.sent.set": true,
}

// Key makes states the same that differ in nothing but when they happen, how many versions have come before, and which of
// the two servers is the first.
func (x *explored) Key() string {
	live := []uint64{0, probeVersion, x.servers[0].handshake, x.servers[0].version, x.servers[1].handshake, x.servers[1].version}
	versions := func(path string, v reflect.Value) (string, bool) {
		switch v.Type() {
		case reflect.TypeFor[*snapshot.Snapshot]():
			if s := explore.Get[*snapshot.Snapshot](v); s != nil {
				live = append(live, s.Version())
			}
			return "", true
		case reflect.TypeFor[uint64]():
			live = append(live, v.Uint())
		}
		return "", unheeded[path]
	}
	explore.Fingerprint(x.m, versions)
	for _, r := range []*report{x.inFlight(), x.lateReport()} {
		if r != nil {
			live = append(live, r.version)
		}
	}
	if c := x.src.Current(); c != nil {
		live = append(live, c.Version())
	}
	slices.Sort(live)
	live = slices.Compact(live)
	version := func(v uint64) string {
		s := fmt.Sprint(slices.Index(live, v), x.contents[v], x.held[v], x.m.stored.sent.has(v))
		if ahead := int64(v) - x.now.UnixMicro(); ahead > 0 {
			s += fmt.Sprint("ahead", ahead/1_000_000)
		}
		return s
	}
	of := func(r *report) string {
		if r == nil {
			return "-"
		}
		s := version(r.version) + r.errorMsg
		if r.entries != nil {
			s += contentOf(r.entries)
		}
		return s
	}
	s := explore.Fingerprint(x.m, func(path string, v reflect.Value) (string, bool) {
		switch {
		case unheeded[path]:
			return "", true
		case v.Type() == reflect.TypeFor[time.Time]():
			return x.since(explore.Get[time.Time](v)), true
		case v.Type() == reflect.TypeFor[uint64]():
			return version(v.Uint()), true
		case v.Type() == reflect.TypeFor[*snapshot.Snapshot]():
			if s := explore.Get[*snapshot.Snapshot](v); s != nil {
				return version(s.Version()), true
			}
		case path == "server.failures":
			return fmt.Sprint(min(v.Int(), 7)), true
		}
		return "", false
	})
	flight := "-"
	if x.flight != nil {
		flight = string(x.flight.kind) + of(x.flight.report)
	}
	at := func(i int) string {
		s := x.servers[i]
		return version(s.handshake) + "," + version(s.version) + s.content + s.errorMsg
	}
	late := "-"
	if x.late != nil {
		late = fmt.Sprint(x.late.server == x.current) + of(x.late.report)
	}
	folded := "-"
	if c := x.src.Current(); c != nil {
		folded = version(c.Version())
	}
	return strings.Join([]string{
		s, flight, at(x.current), at(1 - x.current), late, folded, fmt.Sprint(x.hidden, x.session, x.src.content, x.src.complete, x.src.problems, len(x.src.Changed())),
		x.since(x.newAt), fmt.Sprint(x.newest == x.m.source.version()),
	}, "|")
}

// since is a time as it is seen from now. What lies further back than every interval of the machine is as good as for ever.
func (x *explored) since(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return max(t.Sub(x.now), -6*time.Minute).String()
}

func (x *explored) inFlight() *report {
	if x.flight == nil {
		return nil
	}
	return x.flight.report
}

func (x *explored) lateReport() *report {
	if x.late == nil {
		return nil
	}
	return x.late.report
}
