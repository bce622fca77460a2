package reporter

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// state names what the machine is about. It is never stored as a decision: each step looks it up again in the table, from
// what is known.
type state string

const (
	stateDisabled   state = "disabled"
	stateStandby    state = "standby"
	stateConnecting state = "connecting"
	stateNaming     state = "naming"
	stateIdle       state = "idle"
	stateProbing    state = "probing"
	stateTelling    state = "telling"
	stateWaiting    state = "waiting"
	stateReporting  state = "reporting"
	stateSynced     state = "synced"
)

var states = []state{
	stateDisabled, stateStandby, stateConnecting, stateNaming, stateIdle, stateProbing, stateTelling, stateWaiting,
	stateReporting, stateSynced,
}

// row is one line of the machine's table: in the first row whose facts hold, due says from when on its request may go.
type row struct {
	state state
	when  func(*machine) bool
	// due is the time of the next request; the zero time means that this state sends nothing.
	due func(*machine, time.Time) time.Time
	do  func(*machine) action
}

// table is the whole machine; docs/protocol.md draws it. The first row whose `when` holds is the state. Facts change by
// answers (done), by a lost connection (lost), and by what the source says (poll, refresh):
//
//	state       request                              answer → facts
//	disabled    none
//	connecting  connection to the next server        → connected, nothing known of the server
//	naming      GetKubernetesClusterID               → clusterID
//	idle        none (the claims go on)              wanted comes and goes with Sync's answers
//	probing     empty, our version or 1              → held is what the server answered
//	telling     error, first with entries            ours → told; another → entries again
//	waiting     empty or error under held            → held
//	reporting   full                                 ours → held; another → failure
//	synced      heartbeat; agent id 0: full          ours → nothing; another → held differs: reporting
//
// Any failure drops the connection, waits for the backoff and goes on with the next server: connecting.
var table = []row{
	{stateDisabled, (*machine).disabled, never, nil},
	{stateConnecting, func(m *machine) bool { return !m.connected }, (*machine).connectDue, (*machine).connect},
	{stateNaming, func(m *machine) bool { return m.clusterID == "" }, atOnce, (*machine).name},
	{stateIdle, func(m *machine) bool { return !m.wanted }, never, nil},
	{stateProbing, func(m *machine) bool { return !m.known }, atOnce, (*machine).probe},
	{stateTelling, func(m *machine) bool { return m.errText != "" && m.cur != nil }, (*machine).tellDue, (*machine).tell},
	{stateWaiting, func(m *machine) bool { return m.cur == nil }, (*machine).waitDue, (*machine).wait},
	{stateReporting, func(m *machine) bool { return m.held != m.cur.Version() }, atOnce, (*machine).full},
	{stateSynced, func(*machine) bool { return true }, (*machine).heartbeatDue, (*machine).heartbeat},
}

func never(*machine, time.Time) time.Time { return time.Time{} }

func atOnce(_ *machine, now time.Time) time.Time { return now }

// probeVersion is what a probe carries while there is no snapshot: a version that no server holds, so that it stores
// nothing. Snapshots begin with 2.
const probeVersion = 1

const (
	claimInterval    = time.Minute
	claimRetry       = 10 * time.Second
	conflictAfter    = 180 * time.Second
	standbyInterval  = time.Second
	backoffBase      = time.Second
	backoffCap       = time.Minute
	backoffFloor     = 50 * time.Millisecond
	maxSentVersions  = 4096
	minConflictQuiet = 10 * time.Minute
)

type actionKind string

// The kinds of actions; those of reports are also values of a metric's label.
const (
	doConnect   actionKind = "connect"
	doName      actionKind = "cluster_id"
	doRename    actionKind = "cluster_id_check"
	doSync      actionKind = "sync"
	doProbe     actionKind = "probe"
	doFull      actionKind = "full"
	doHeartbeat actionKind = "heartbeat"
	doError     actionKind = "error"
)

// action is one request to be made.
type action struct {
	kind     actionKind
	deadline time.Time // not later than this; zero: the usual timeout
	session  int       // number of the session that it is made for
	at       time.Time
	caMD5    string // doRename: what the file had when the id was derived
	known    string // doRename: the cluster id in use
	claim    claim
	report   *report
}

// machine decides what to send when. It does no input or output but through its Source, and its only clock is the now
// that is passed in.
type machine struct {
	opts   *Options
	log    *slog.Logger
	stats  *metrics
	random func() float64

	state      state
	stateSince time.Time

	// Facts about the way to the server.
	connected bool
	busy      bool // a request of the reporting lane is under way
	gone      bool // the connection was lost while busy
	session   int
	proven    bool // something succeeded in this session
	peer      peerInfo
	peerOf    session
	failures  int
	retryAt   time.Time
	advance   bool
	trouble   trouble

	// Facts about the cluster's name.
	clusterID string
	agentID   uint32
	derived   bool
	caMD5     string
	changedID string // what the server derives now, if that differs

	// Facts about the source.
	complete bool
	problems []string
	dirtyAt  time.Time // first signal since the last Take; zero: none
	tooLarge string
	errText  string

	// Facts about snapshots and what the server has of them.
	cur          *snapshot.Snapshot // the latest that may be sent
	taken        uint64             // version of the latest taken, sendable or not
	takenAt      time.Time
	newAt        time.Time // last attempt to send entries under a version that is not acknowledged
	known        bool      // held is what the server answered in this session
	held         uint64
	told         string // error_msg that the server has acknowledged in this session
	toldFull     bool   // some server has acknowledged it with entries since errors began
	toldFullAt   time.Time
	mismatchAt   time.Time
	exchangedAt  time.Time // last request that the server answered as it should
	reportedAt   time.Time // last acknowledged report or heartbeat
	resyncAt     time.Time
	acked        uint64
	unackedSince time.Time
	sent         versions

	// Facts about others.
	firstAck      time.Time
	ackedSince    bool // an own version was acknowledged since the last foreign one
	foreign       int
	foreignAt     time.Time
	foreignLast   uint64
	conflictSince time.Time

	claims claims
	wanted bool

	stopping bool
	stopBy   time.Time
}

// claims is the state of the claiming lane.
type claims struct {
	busy        bool
	nextAt      time.Time
	checkAt     time.Time // next look at the CA file
	server      string
	role        string
	since       time.Time
	reason      string
	grantedAt   time.Time // first time that the role was given
	wantedUntil time.Time // policy normal
	userConfig  string
	hasConfig   bool
}

// The watcher roles, also values of a metric's label.
const (
	roleNone    = "none"
	roleGranted = "granted"
	roleRefused = "refused"
	roleFailed  = "failed"
)

func newMachine(opts *Options, log *slog.Logger, stats *metrics, random func() float64) *machine {
	m := &machine{opts: opts, log: log, stats: stats, random: random, state: stateConnecting, stateSince: time.Now()}
	m.wanted = opts.Policy == WatchOnly
	m.claims.role, m.claims.since = roleNone, m.stateSince
	m.claims.reason = "not asked for yet"
	if opts.ClusterID != "" {
		m.setClusterID(opts.ClusterID)
	}
	m.derived = opts.ClusterID == ""
	return m
}

func (m *machine) setClusterID(id string) {
	m.clusterID = id
	m.agentID = autoAgentID(id)
	if m.opts.AgentID != nil {
		m.agentID = *m.opts.AgentID
	}
}

// step brings the facts up to date and returns the requests to start now, and when to step again at the latest.
func (m *machine) step(now time.Time) (actions []action, wake time.Time) {
	wake = now.Add(pollInterval)
	earlier := func(t time.Time) {
		if t.Before(wake) {
			wake = t
		}
	}
	m.poll(now)
	if !m.busy {
		earlier(m.refresh(now))
		r := m.row()
		s := r.state
		due := r.due(m, now)
		switch {
		case due.IsZero():
		case due.After(now):
			earlier(due)
		default:
			deadline, ok := m.maySend()
			if !ok {
				s = stateStandby
				earlier(now.Add(standbyInterval))
				break
			}
			a := r.do(m)
			a.deadline, a.session, a.at = m.capped(deadline), m.session, now
			m.busy = true
			if r := a.report; r != nil && r.entries != nil && r.version != m.acked {
				m.newAt = now
			}
			actions = append(actions, a)
		}
		m.enter(s, now)
	}
	if a, due, ok := m.claimDue(now); ok {
		if due.After(now) {
			earlier(due)
		} else if deadline, ok := m.maySend(); ok {
			a.deadline, a.session, a.at = m.capped(deadline), m.session, now
			m.claims.busy = true
			actions = append(actions, a)
		}
	}
	if m.stopping {
		earlier(m.stopBy)
	}
	return actions, wake
}

func (m *machine) row() row {
	for _, r := range table {
		if r.when(m) {
			return r
		}
	}
	panic("the table's last row holds always")
}

func (m *machine) enter(s state, now time.Time) {
	if s != m.state {
		m.log.Debug("state", "from", m.state, "to", s)
		m.state, m.stateSince = s, now
	}
}

func (m *machine) maySend() (time.Time, bool) {
	if m.opts.MaySend == nil {
		return time.Time{}, true
	}
	return m.opts.MaySend()
}

// capped is the earlier of the lease's and the shutdown's deadline.
func (m *machine) capped(deadline time.Time) time.Time {
	if m.stopping && (deadline.IsZero() || m.stopBy.Before(deadline)) {
		return m.stopBy
	}
	return deadline
}

// poll asks the source how it is.
func (m *machine) poll(now time.Time) {
	if m.opts.Policy == Normal && m.wanted && !now.Before(m.claims.wantedUntil) {
		m.log.Warn("stop watching: the server has not repeated its wish in time", "lease", m.opts.WatcherLease)
		m.setWanted(false)
	}
	if !m.conflictSince.IsZero() && now.Sub(m.foreignAt) > m.conflictQuiet() {
		m.log.Info("nobody else reports this cluster any more", "cluster_id", m.clusterID, "since", m.foreignAt)
		m.conflictSince, m.foreign = time.Time{}, 0
	}
	if m.opts.Source == nil || !m.wanted {
		return
	}
	m.complete, m.problems = m.opts.Source.State(now)
	m.compose()
}

func (m *machine) compose() {
	problems := m.problems
	if m.tooLarge != "" {
		problems = append(append([]string(nil), problems...), m.tooLarge)
	}
	before := m.errText
	m.errText = composeErrors(problems)
	switch {
	case before == m.errText:
	case m.errText == "":
		m.toldFull = false
		m.log.Info("errors are over", "were", before)
	default:
		m.log.Warn("the server will be told errors and keep the cluster's old data", "error_msg", m.errText)
	}
}

// refresh takes a new snapshot if one is due, and returns when the next may be.
func (m *machine) refresh(now time.Time) time.Time {
	far := now.Add(pollInterval)
	ready := m.connected && m.known || m.stopping && m.cur != nil
	if !m.wanted || !ready || !m.complete || len(m.problems) > 0 {
		return far
	}
	switch {
	case m.stopping:
		if m.cur == nil || !m.dirtyAt.IsZero() {
			m.take(now)
		}
	case m.cur == nil && m.tooLarge == "":
		m.take(now)
	case !m.dirtyAt.IsZero():
		due := m.changeDue()
		if due.After(now) {
			return due
		}
		m.take(now)
	case m.cur != nil && m.errText == "" && m.held == m.cur.Version() && !m.resyncAt.IsZero():
		due := later(m.resyncAt, m.nextTake())
		if due.After(now) {
			return due
		}
		m.opts.Source.Renew()
		m.take(now)
	}
	return far
}

// changeDue is when a change may be taken: after the debounce, and not sooner than push_interval after the snapshot before
// it was taken or, if that took several attempts, was last sent.
func (m *machine) changeDue() time.Time {
	return later(m.dirtyAt.Add(m.opts.Debounce), m.nextTake())
}

func (m *machine) nextTake() time.Time {
	last := later(m.takenAt, m.newAt)
	if last.IsZero() {
		return last
	}
	return last.Add(m.opts.PushInterval)
}

// headerRoom is more than the request's header can take: error_msg, and a few short strings.
const headerRoom = maxErrorMsg + 1024

func (m *machine) take(now time.Time) {
	s := m.opts.Source.Take()
	if s == nil {
		m.complete = false
		return
	}
	// What changed between the signal and now is in s, or will be signalled again.
	m.dirtyAt = time.Time{}
	if s.Version() == m.taken {
		return
	}
	m.taken, m.takenAt = s.Version(), now
	if at := s.ChangedAt(); !at.IsZero() && s.Version() != m.acked && (m.unackedSince.IsZero() || at.Before(m.unackedSince)) {
		m.unackedSince = at
	}
	if size := s.Size() + headerRoom; size > m.opts.MaxMessageSize {
		m.tooLarge = oversize(s, size, m.opts.MaxMessageSize)
		m.stats.tooLarge.Inc()
		m.compose()
		return
	}
	m.tooLarge = ""
	m.compose()
	m.cur = s
}

func (m *machine) changed(now time.Time) {
	if m.dirtyAt.IsZero() {
		m.dirtyAt = now
	}
}

// reportable tells whether nothing but the way to the server keeps the current content from being reported.
func (m *machine) reportable() bool { return m.complete && m.errText == "" }

// disabled tells that nothing is to be sent at all.
func (m *machine) disabled() bool {
	return m.opts.Policy == WatchDisabled && !m.opts.RegisterAsAgent
}

// connectDue lets a connection that was lost in quiet be opened again only when there is something to say, so that a
// server or load balancer that closes idle connections does not cause more traffic than it saves.
func (m *machine) connectDue(now time.Time) time.Time {
	due := now
	if m.failures == 0 && !m.exchangedAt.IsZero() && !m.stopping {
		due = m.exchangedAt.Add(m.opts.HeartbeatInterval)
		if !m.wanted {
			due = m.claims.nextAt
		}
		if m.wanted && m.errText != m.told && (m.cur != nil || m.canTell()) {
			due = now
		}
		if m.wanted && !m.dirtyAt.IsZero() && m.reportable() && m.changeDue().Before(due) {
			due = m.changeDue()
		}
		if m.wanted && (m.clusterID == "" || m.cur == nil && m.reportable() || m.cur != nil && m.held != m.cur.Version()) {
			due = now
		}
	}
	return later(due, m.retryAt)
}

func (m *machine) connect() action { return action{kind: doConnect} }

func (m *machine) name() action { return action{kind: doName} }

func (m *machine) report(kind actionKind, version uint64, entries *snapshot.Snapshot, errText string) action {
	if entries != nil {
		m.sent.add(version)
		m.stats.versionSent.Set(float64(version))
	}
	return action{kind: kind, report: &report{
		clusterID: m.clusterID, teamID: m.opts.TeamID, agentID: m.agentID,
		version: version, errorMsg: errText, entries: entries,
	}}
}

// probe carries the standing error along, because an empty request under the stored version would clear it.
func (m *machine) probe() action {
	if m.cur == nil {
		return m.report(doProbe, probeVersion, nil, "")
	}
	return m.report(doProbe, m.cur.Version(), nil, m.errText)
}

func (m *machine) full() action { return m.report(doFull, m.cur.Version(), m.cur, "") }

func (m *machine) heartbeat() action {
	if m.agentID == 0 {
		return m.full()
	}
	return m.report(doHeartbeat, m.cur.Version(), nil, "")
}

func (m *machine) heartbeatDue(now time.Time) time.Time {
	switch {
	case m.told != "":
		return now
	case m.agentID == 0:
		return m.exchangedAt.Add(m.opts.KeepaliveInterval)
	default:
		return m.exchangedAt.Add(m.opts.HeartbeatInterval)
	}
}

// tellFull tells whether the error has to go with entries: the first time, after a mismatch, and always with agent id 0,
// for which a server stores nothing else.
func (m *machine) tellFull() bool {
	return !m.toldFull || m.held != m.cur.Version() || m.agentID == 0
}

func (m *machine) tellDue(now time.Time) time.Time {
	spaced := now
	if !m.toldFullAt.IsZero() {
		spaced = later(now, m.toldFullAt.Add(m.opts.PushInterval))
	}
	switch {
	case !m.toldFull || m.held != m.cur.Version():
		return spaced
	case m.told != m.errText:
		return later(spaced, m.exchangedAt.Add(m.opts.PushInterval))
	case m.agentID == 0:
		return m.exchangedAt.Add(m.opts.KeepaliveInterval)
	default:
		return m.exchangedAt.Add(m.opts.HeartbeatInterval)
	}
}

func (m *machine) tell() action {
	if m.tellFull() {
		return m.report(doError, m.cur.Version(), m.cur, m.errText)
	}
	return m.report(doError, m.cur.Version(), nil, m.errText)
}

// canTell tells whether an error can be attached to what the server holds from before our first report.
func (m *machine) canTell() bool { return m.held != 0 && m.agentID != 0 }

func (m *machine) waitDue(now time.Time) time.Time {
	beat := m.exchangedAt.Add(m.opts.HeartbeatInterval)
	if m.canTell() && m.told != m.errText {
		if m.told == "" {
			return later(now, m.mismatchAt.Add(m.opts.PushInterval))
		}
		beat = m.exchangedAt.Add(min(m.opts.PushInterval, m.opts.HeartbeatInterval))
	}
	return later(now, beat)
}

func (m *machine) wait() action {
	switch {
	case m.canTell() && m.errText != "":
		return m.report(doError, m.held, nil, m.errText)
	case m.canTell() && m.told != "":
		return m.report(doHeartbeat, m.held, nil, "")
	default:
		return m.probe()
	}
}

// errWrongAnswer is the cause when a server accepts a report but answers another version than the report's.
var errWrongAnswer = errors.New("wrong answer")

// done takes the result of a request.
func (m *machine) done(now time.Time, o outcome) {
	if o.action.kind == doSync || o.action.kind == doRename {
		m.claims.busy = false
		if o.action.kind == doRename {
			m.renamed(now, o)
		} else {
			m.synced(now, o)
		}
		return
	}
	m.busy = false
	if r := o.action.report; r != nil {
		m.stats.observe(o)
	}
	switch {
	case o.err != nil:
		m.fail(now, o.action.kind, o.err)
	case o.action.kind == doConnect:
		m.connectedTo(now, o.session)
	case o.action.kind == doName:
		m.named(now, o)
	default:
		m.answered(now, o)
	}
	if m.gone {
		m.gone = false
		m.lost(now)
	}
}

func (m *machine) connectedTo(now time.Time, s session) {
	m.session++
	m.connected, m.known, m.proven, m.gone = true, false, false, false
	m.told = ""
	m.peerOf, m.peer = s, s.peer()
	if m.claims.server != m.peer.address {
		m.claims.server, m.claims.nextAt = m.peer.address, now
	}
	m.log.Debug("connected", "server", m.peer.server, "address", m.peer.address, "source_ip", m.peer.sourceIP)
}

func (m *machine) named(now time.Time, o outcome) {
	if !clusterIDPattern.MatchString(o.id) {
		m.fail(now, doName, &stageError{causeClusterID, fmt.Errorf("the server gave the cluster id %q, want %s", o.id, clusterIDPattern)})
		return
	}
	m.setClusterID(o.id)
	m.caMD5 = o.caMD5
	m.claims.checkAt = now.Add(claimInterval)
	m.log.Info("the server derived the cluster id from the CA certificate; to keep it when the CA is renewed, configure it",
		"cluster_id", o.id, "ca_md5", m.caMD5)
}

// answered takes the server's answer to a KubernetesAPISync.
func (m *machine) answered(now time.Time, o outcome) {
	r := o.action.report
	if o.version != 0 && o.version != r.version {
		m.opts.Source.Observe(o.version)
		m.noteForeign(now, o.version)
	}
	if m.agentID == 0 {
		// Servers answer nothing to agent id 0: what they accepted is all that can be known.
		o.version = r.version
		if o.action.kind == doProbe {
			o.version = 0
		}
	}
	m.known, m.held = true, o.version
	ours := o.version == r.version
	switch {
	case o.action.kind == doProbe && (!ours || m.cur == nil || r.version != m.cur.Version()):
		m.exchangedAt = now
		if m.cur == nil && !m.reportable() && (!m.canTell() || m.told == m.errText) {
			m.exchanged(now)
		}
	case o.action.kind == doProbe && !m.sent.has(r.version):
		// Somebody else used this very version for other content.
		m.cur, m.exchangedAt = nil, now
		m.opts.Source.Renew()
	case ours:
		m.acknowledged(now, r)
	case r.entries != nil:
		m.held, m.known = 0, false
		m.fail(now, o.action.kind, fmt.Errorf("%w: the server took the report but answered version %d instead of %d%s", errWrongAnswer,
			o.version, r.version, hintWrong(o.version)))
	default:
		m.told, m.toldFull = "", false
		m.exchangedAt, m.mismatchAt = now, now
	}
}

func hintWrong(version uint64) string {
	if version == 0 {
		return "; it ignores reports of an unknown team_id or cluster_id"
	}
	return ""
}

// exchanged notes that the server works as it should and nothing follows that could still fail: only then the backoff
// starts over. Otherwise a server that takes small requests and refuses large ones would be asked without pause.
func (m *machine) exchanged(now time.Time) {
	m.exchangedAt, m.proven, m.failures, m.retryAt = now, true, 0, time.Time{}
	m.trouble.over(now, m.log)
}

// acknowledged notes that the server attests to hold the version of r.
func (m *machine) acknowledged(now time.Time, r *report) {
	m.told = r.errorMsg
	if r.errorMsg != "" && r.entries != nil {
		m.toldFull, m.toldFullAt = true, now
	}
	m.exchangedAt, m.proven = now, true
	if m.errText == "" || m.toldFull || m.cur == nil {
		m.exchanged(now)
	}
	if m.cur == nil || r.version != m.cur.Version() {
		return // an error or a heartbeat under the version of somebody before us
	}
	m.reportedAt, m.ackedSince = now, true
	if m.firstAck.IsZero() {
		m.firstAck = now
	}
	m.stats.reported(now, r.version)
	if r.entries != nil {
		m.stats.content(m.cur)
	}
	if m.acked != r.version {
		m.log.Debug("version acknowledged", "version", r.version, "entries", m.cur.Len(), "bytes", m.cur.Size())
		m.acked, m.resyncAt = r.version, now.Add(m.opts.FullResyncInterval)
		if !m.unackedSince.IsZero() && m.tooLarge == "" {
			m.stats.lag.Observe(now.Sub(m.unackedSince).Seconds())
			m.unackedSince = time.Time{}
		}
	}
}

// noteForeign counts answers that only another reporter can have caused: a version that we never sent, after one of
// ours was acknowledged. A usual hand-over overlaps for about a minute, so the first three minutes do not count.
func (m *machine) noteForeign(now time.Time, version uint64) {
	if m.sent.has(version) || !m.ackedSince {
		return
	}
	begin := m.firstAck
	if !m.claims.grantedAt.IsZero() {
		begin = m.claims.grantedAt
	}
	if now.Sub(begin) <= conflictAfter {
		return
	}
	if now.Sub(m.foreignAt) > m.conflictQuiet() {
		m.foreign = 0
	}
	m.ackedSince, m.foreignAt, m.foreignLast = false, now, version
	m.foreign++
	m.stats.foreign.Inc()
	if m.foreign == 2 && m.conflictSince.IsZero() {
		m.conflictSince = now
		m.log.Error("another agent reports the same cluster: the server holds versions that were not sent from here; "+
			"probably a deepflow-agent still watches, see `pseudo-agent check`",
			"cluster_id", m.clusterID, "foreign_version", version, "server", m.peer.server)
	}
}

func (m *machine) conflictQuiet() time.Duration {
	return max(minConflictQuiet, 10*m.opts.HeartbeatInterval)
}

// fail drops the connection, so that the next attempt begins with the next server and knows nothing of it.
func (m *machine) fail(now time.Time, kind actionKind, err error) {
	m.failures++
	limit := backoffCap
	if m.failures <= 6 {
		limit = backoffBase << (m.failures - 1)
	}
	wait := max(backoffFloor, time.Duration(m.random()*float64(limit)))
	m.retryAt = now.Add(wait)
	cause := causeOf(err)
	m.stats.errors.WithLabelValues(cause).Inc()
	m.trouble.begin(now, m.log, cause, m.peer.server, fmt.Errorf("%s: %w", kind, err))
	m.connected, m.known, m.gone, m.advance = false, false, false, true
}

// lost notes that the connection is gone.
func (m *machine) lost(now time.Time) {
	switch {
	case m.busy:
		m.gone = true // the request will tell
	case !m.connected:
	case !m.proven:
		m.fail(now, doConnect, errClosed)
	default:
		m.connected, m.known = false, false
		m.retryAt = now.Add(backoffBase)
	}
}

var errClosed = errors.New("the server closed the connection before it answered anything useful")

// takeAdvance tells once after a failure that the next server is to be used.
func (m *machine) takeAdvance() bool {
	a := m.advance
	m.advance = false
	return a
}

func (m *machine) stop(now time.Time) {
	m.stopping, m.stopBy = true, now.Add(m.opts.ShutdownTimeout)
	m.changed(now) // a signal may not have been read yet; Take knows
}

// finished tells whether Run may end: nothing is left to be flushed, or the time for it is over.
func (m *machine) finished(now time.Time) bool {
	switch {
	case !m.stopping:
		return false
	case !now.Before(m.stopBy):
		return true
	case m.busy || m.claims.busy: // a claim that comes after the goodbye would take the role again
		return false
	case m.disabled() || !m.wanted || m.state == stateStandby:
		return true
	case !m.complete || m.errText != "":
		return true
	case m.cur == nil:
		return false
	default:
		return m.cur.Version() == m.acked && m.dirtyAt.IsZero() && m.told == ""
	}
}

// pending tells whether something is not yet acknowledged.
func (m *machine) pending() bool {
	return m.wanted && (!m.dirtyAt.IsZero() || m.cur != nil && m.cur.Version() != m.acked)
}

// oldestChange is the time of the oldest change that is not acknowledged; zero if there is none.
func (m *machine) oldestChange() time.Time {
	if !m.unackedSince.IsZero() {
		return m.unackedSince
	}
	return m.dirtyAt
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// versions remembers the latest versions sent, so that they can be told from those of others.
type versions struct {
	set  map[uint64]bool
	list []uint64
}

func (v *versions) add(version uint64) {
	if v.set[version] {
		return
	}
	if v.set == nil {
		v.set = map[uint64]bool{}
	}
	if len(v.list) == maxSentVersions {
		delete(v.set, v.list[0])
		v.list = v.list[1:]
	}
	v.set[version] = true
	v.list = append(v.list, version)
}

func (v *versions) has(version uint64) bool { return v.set[version] }
