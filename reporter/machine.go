package reporter

import (
	"log/slog"
	"time"
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

// table is the whole machine; docs/protocol.md draws it. The first row whose `when` holds is the state. Facts (facts.go)
// change by answers (done), by a lost connection (lost), and by what the source says (poll, refresh):
//
//	state       request                              answer → facts
//	disabled    none
//	connecting  connection to the next server        → connected, nothing known of the server
//	naming      GetKubernetesClusterID               → the cluster's name
//	idle        none (the claims go on)              wanted comes and goes with Sync's answers
//	probing     empty, our version or 1              → what the server holds
//	telling     error, first with entries            ours → told; another → entries again
//	waiting     empty or error under what is held    → what the server holds
//	reporting   full                                 ours → held; another → failure
//	synced      heartbeat; agent id 0: full          ours → nothing; another → reporting
//
// Any failure drops the connection, waits for the backoff and goes on with the next server: connecting.
var table = []row{
	{stateDisabled, (*machine).disabled, never, nil},
	{stateConnecting, (*machine).disconnected, (*machine).connectDue, (*machine).connect},
	{stateNaming, (*machine).unnamed, atOnce, (*machine).name},
	{stateIdle, (*machine).unwanted, never, nil},
	{stateProbing, (*machine).serverUnknown, atOnce, (*machine).probe},
	{stateTelling, (*machine).reportableButForErrors, (*machine).tellDue, (*machine).tell},
	{stateWaiting, (*machine).withoutSnapshot, (*machine).waitDue, (*machine).wait},
	{stateReporting, (*machine).serverBehind, atOnce, (*machine).full},
	{stateSynced, always, (*machine).heartbeatDue, (*machine).heartbeat},
}

// disabled tells that nothing is to be sent at all.
func (m *machine) disabled() bool {
	return m.opts.Policy == WatchDisabled && !m.opts.RegisterAsAgent
}

func (m *machine) disconnected() bool { return !m.server.connected }

func (m *machine) unnamed() bool { return !m.cluster.known() }

func (m *machine) unwanted() bool { return !m.wanted }

func (m *machine) serverUnknown() bool { return !m.stored.known }

// reportableButForErrors tells that there is a snapshot, and that the server has to be told errors in its stead.
func (m *machine) reportableButForErrors() bool {
	return m.source.hasErrors() && m.source.hasSnapshot()
}

func (m *machine) withoutSnapshot() bool { return !m.source.hasSnapshot() }

// serverBehind tells that the server holds another version than the snapshot's.
func (m *machine) serverBehind() bool { return m.stored.version != m.source.version() }

func always(*machine) bool { return true }

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

	server  serverLink
	cluster clusterName
	source  sourceView
	stored  serverStore
	others  otherReporters

	claims claims
	wanted bool // this agent is to watch and report

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
		m.cluster.set(opts.ClusterID, opts.AgentID)
	}
	m.cluster.derived = opts.ClusterID == ""
	return m
}

// step brings the facts up to date and returns the requests to start now, and when to step again at the latest.
func (m *machine) step(now time.Time) (actions []action, wake time.Time) {
	wake = now.Add(pollInterval)
	m.poll(now)
	if !m.server.busy {
		wake = earlier(wake, m.refresh(now))
		a, due := m.reportingLane(now)
		actions, wake = append(actions, a...), earlier(wake, due)
	}
	a, due := m.claimingLane(now)
	actions, wake = append(actions, a...), earlier(wake, due)
	if m.stopping {
		wake = earlier(wake, m.stopBy)
	}
	return actions, wake
}

// reportingLane looks the state up and returns its request if it is due, or when to look again; zero: not before the next
// poll.
func (m *machine) reportingLane(now time.Time) ([]action, time.Time) {
	r := m.row()
	due := r.due(m, now)
	if due.IsZero() || due.After(now) {
		m.enter(r.state, now)
		return nil, due
	}
	deadline, ok := m.maySend()
	if !ok {
		m.enter(stateStandby, now)
		return nil, now.Add(standbyInterval)
	}
	m.enter(r.state, now)
	a := m.stamped(r.do(m), now, deadline)
	m.server.busy = true
	if r := a.report; r != nil && r.entries != nil && r.version != m.stored.acked {
		m.stored.newAt = now
	}
	return []action{a}, time.Time{}
}

// claimingLane returns the claim if one is due, or when it will be; zero: not before the next poll.
func (m *machine) claimingLane(now time.Time) ([]action, time.Time) {
	a, due, ok := m.claimDue(now)
	if !ok || due.After(now) {
		return nil, due
	}
	deadline, ok := m.maySend()
	if !ok {
		return nil, time.Time{}
	}
	m.claims.busy = true
	return []action{m.stamped(a, now, deadline)}, time.Time{}
}

// stamped says for which session and from when a is, and by when it has to end.
func (m *machine) stamped(a action, now, deadline time.Time) action {
	a.deadline, a.session, a.at = m.capped(deadline), m.server.session, now
	return a
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

func (m *machine) stop(now time.Time) {
	m.stopping, m.stopBy = true, now.Add(m.opts.ShutdownTimeout)
	m.source.changed(now) // a signal may not have been read yet; Take knows
}

// finished tells whether Run may end: nothing is left to be flushed, or the time for it is over.
func (m *machine) finished(now time.Time) bool {
	switch {
	case !m.stopping:
		return false
	case !now.Before(m.stopBy):
		return true
	case m.server.busy || m.claims.busy: // a claim that comes after the goodbye would take the role again
		return false
	case m.disabled() || !m.wanted || m.state == stateStandby:
		return true
	case !m.source.reportable():
		return true
	case !m.source.hasSnapshot():
		return false
	default:
		return !m.unacknowledged() && m.stored.errorMsg == ""
	}
}

// unacknowledged tells whether the source has more than the server has acknowledged.
func (m *machine) unacknowledged() bool {
	return m.source.hasChanged() || m.source.hasSnapshot() && m.source.version() != m.stored.acked
}

// pending tells whether something is not yet acknowledged.
func (m *machine) pending() bool { return m.wanted && m.unacknowledged() }

// earlier is the earlier of two times, of which b may be zero: none.
func earlier(a, b time.Time) time.Time {
	if b.IsZero() || a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
