package reporter

import (
	"time"

	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// connectDue lets a connection that was lost in quiet be opened again only when there is something to say, so that a
// server or load balancer that closes idle connections does not cause more traffic than it saves.
func (m *machine) connectDue(now time.Time) time.Time {
	due := now
	if m.server.failures == 0 && !m.stored.exchangedAt.IsZero() && !m.stopping {
		due = m.somethingToSayDue(now)
	}
	return later(due, m.server.retryAt)
}

// somethingToSayDue is when the next request would go if there were a connection.
func (m *machine) somethingToSayDue(now time.Time) time.Time {
	switch {
	case !m.wanted:
		return m.claims.nextAt
	case m.newsForServer():
		return now
	}
	due := m.stored.exchangedAt.Add(m.opts.HeartbeatInterval)
	if m.source.hasChanged() && m.source.reportable() {
		due = earlier(due, m.changeDue())
	}
	return due
}

// newsForServer tells whether the server has to be asked or told something now.
func (m *machine) newsForServer() bool {
	switch {
	case !m.cluster.known():
		return true
	case m.source.errText != m.stored.errorMsg && (m.source.hasSnapshot() || m.canTell()):
		return true
	case m.source.hasSnapshot():
		return m.serverBehind()
	default:
		return m.source.reportable()
	}
}

func (m *machine) connect() action { return action{kind: doConnect} }

func (m *machine) name() action { return action{kind: doName} }

func (m *machine) report(kind actionKind, version uint64, entries *snapshot.Snapshot, errText string) action {
	if entries != nil {
		m.stored.sent.add(version)
		m.stats.versionSent.Set(float64(version))
	}
	return action{kind: kind, report: &report{
		clusterID: m.cluster.id, teamID: m.opts.TeamID, agentID: m.cluster.agentID,
		version: version, errorMsg: errText, entries: entries,
	}}
}

// probe carries the standing error along, because an empty request under the stored version would clear it.
func (m *machine) probe() action {
	if !m.source.hasSnapshot() {
		return m.report(doProbe, probeVersion, nil, "")
	}
	return m.report(doProbe, m.source.version(), nil, m.source.errText)
}

func (m *machine) full() action { return m.report(doFull, m.source.version(), m.source.snapshot, "") }

func (m *machine) heartbeat() action {
	if m.cluster.withoutHandshake() {
		return m.full()
	}
	return m.report(doHeartbeat, m.source.version(), nil, "")
}

func (m *machine) heartbeatDue(now time.Time) time.Time {
	switch {
	case m.stored.errorMsg != "":
		return now
	case m.cluster.withoutHandshake():
		return m.stored.exchangedAt.Add(m.opts.KeepaliveInterval)
	default:
		return m.stored.exchangedAt.Add(m.opts.HeartbeatInterval)
	}
}

// tellFull tells whether the error has to go with entries: the first time, after a mismatch, and always with agent id 0,
// for which a server stores nothing else.
func (m *machine) tellFull() bool {
	return !m.stored.toldFull || m.serverBehind() || m.cluster.withoutHandshake()
}

func (m *machine) tellDue(now time.Time) time.Time {
	spaced := now
	if !m.stored.toldFullAt.IsZero() {
		spaced = later(now, m.stored.toldFullAt.Add(m.opts.PushInterval))
	}
	switch {
	case !m.stored.toldFull || m.serverBehind():
		return spaced
	case m.stored.errorMsg != m.source.errText:
		return later(spaced, m.stored.exchangedAt.Add(m.opts.PushInterval))
	case m.cluster.withoutHandshake():
		return m.stored.exchangedAt.Add(m.opts.KeepaliveInterval)
	default:
		return m.stored.exchangedAt.Add(m.opts.HeartbeatInterval)
	}
}

func (m *machine) tell() action {
	if m.tellFull() {
		return m.report(doError, m.source.version(), m.source.snapshot, m.source.errText)
	}
	return m.report(doError, m.source.version(), nil, m.source.errText)
}

// canTell tells whether an error can be attached to what the server holds from before our first report.
func (m *machine) canTell() bool { return m.stored.version != 0 && !m.cluster.withoutHandshake() }

func (m *machine) waitDue(now time.Time) time.Time {
	beat := m.stored.exchangedAt.Add(m.opts.HeartbeatInterval)
	if m.canTell() && m.stored.errorMsg != m.source.errText {
		if m.stored.errorMsg == "" {
			return later(now, m.stored.mismatchAt.Add(m.opts.PushInterval))
		}
		beat = m.stored.exchangedAt.Add(min(m.opts.PushInterval, m.opts.HeartbeatInterval))
	}
	return later(now, beat)
}

func (m *machine) wait() action {
	switch {
	case m.canTell() && m.source.hasErrors():
		return m.report(doError, m.stored.version, nil, m.source.errText)
	case m.canTell() && m.stored.errorMsg != "":
		return m.report(doHeartbeat, m.stored.version, nil, "")
	default:
		return m.probe()
	}
}
