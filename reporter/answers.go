package reporter

import (
	"errors"
	"fmt"
	"time"
)

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
	m.server.busy = false
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
	if m.server.gone {
		m.server.gone = false
		m.lost(now)
	}
}

func (m *machine) connectedTo(now time.Time, s session) {
	m.server.opened(s)
	m.stored.forgetSession()
	if m.claims.server != m.server.peer.address {
		m.claims.server, m.claims.nextAt = m.server.peer.address, now
	}
	m.log.Debug("connected", "server", m.server.peer.server, "address", m.server.peer.address, "source_ip", m.server.peer.sourceIP)
}

func (m *machine) named(now time.Time, o outcome) {
	if !clusterIDPattern.MatchString(o.id) {
		m.fail(now, doName, &stageError{causeClusterID, fmt.Errorf("the server gave the cluster id %q, want %s", o.id, clusterIDPattern)})
		return
	}
	m.cluster.set(o.id, m.opts.AgentID)
	m.cluster.caMD5 = o.caMD5
	m.claims.checkAt = now.Add(claimInterval)
	m.log.Info("the server derived the cluster id from the CA certificate; to keep it when the CA is renewed, configure it",
		"cluster_id", o.id, "ca_md5", m.cluster.caMD5)
}

// answered takes the server's answer to a KubernetesAPISync.
func (m *machine) answered(now time.Time, o outcome) {
	r := o.action.report
	if o.version != 0 && o.version != r.version {
		m.opts.Source.Observe(o.version)
		m.noteForeign(now, o.version)
	}
	if m.cluster.withoutHandshake() {
		// Servers answer nothing to agent id 0: what they accepted is all that can be known.
		o.version = r.version
		if o.action.kind == doProbe {
			o.version = 0
		}
	}
	m.stored.answered(o.version)
	ours := o.version == r.version
	switch {
	case o.action.kind == doProbe && (!ours || r.version != m.source.version()):
		m.stored.exchangedAt = now
		if !m.source.hasSnapshot() && !m.source.reportable() && (!m.canTell() || m.stored.errorMsg == m.source.errText) {
			m.exchanged(now)
		}
	case o.action.kind == doProbe && !m.stored.sent.has(r.version):
		// Somebody else used this very version for other content.
		m.source.snapshot, m.stored.exchangedAt = nil, now
		m.opts.Source.Renew()
	case ours:
		m.acknowledged(now, r)
	case r.entries != nil:
		m.stored.version, m.stored.known = 0, false
		m.fail(now, o.action.kind, fmt.Errorf("%w: the server took the report but answered version %d instead of %d%s", errWrongAnswer,
			o.version, r.version, hintWrong(o.version)))
	default:
		m.stored.disowned(now)
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
	m.stored.exchangedAt = now
	m.server.works()
	m.server.trouble.over(now, m.log)
}

// acknowledged notes that the server attests to hold the version of r.
func (m *machine) acknowledged(now time.Time, r *report) {
	m.stored.acknowledged(now, r)
	m.server.proven = true
	if !m.source.hasErrors() || m.stored.toldFull || !m.source.hasSnapshot() {
		m.exchanged(now)
	}
	if !m.source.hasSnapshot() || r.version != m.source.version() {
		return // an error or a heartbeat under the version of somebody before us
	}
	m.stored.reportedAt = now
	m.others.acknowledged(now, m.server.peer.address)
	m.stats.reported(now, r.version)
	if r.entries != nil {
		m.stats.content(m.source.snapshot)
	}
	if m.stored.acked != r.version {
		m.log.Debug("version acknowledged", "version", r.version, "entries", m.source.snapshot.Len(), "bytes", m.source.snapshot.Size())
		m.stored.acked, m.stored.resyncAt = r.version, now.Add(m.opts.FullResyncInterval)
		if !m.source.unackedSince.IsZero() && m.source.tooLarge == "" {
			m.stats.lag.Observe(now.Sub(m.source.unackedSince).Seconds())
			m.source.unackedSince = time.Time{}
		}
	}
}

// noteForeign counts answers that only another reporter can have caused: a version that we never sent, after that very server
// acknowledged one of ours. What another server holds may be from before us. A usual hand-over overlaps for about a minute, so the first three minutes do not count.
func (m *machine) noteForeign(now time.Time, version uint64) {
	if m.stored.sent.has(version) || !m.others.ackedBy[m.server.peer.address] {
		return
	}
	begin := m.others.firstAck
	if !m.claims.grantedAt.IsZero() {
		begin = m.claims.grantedAt
	}
	if now.Sub(begin) <= conflictAfter {
		return
	}
	m.stats.foreign.Inc()
	if m.others.answered(now, m.server.peer.address, version, m.conflictQuiet()) {
		m.log.Error("another agent reports the same cluster: the server holds versions that were not sent from here; "+
			"probably a deepflow-agent still watches, see `pseudo-agent check`",
			"cluster_id", m.cluster.id, "foreign_version", version, "server", m.server.peer.server)
	}
}

func (m *machine) conflictQuiet() time.Duration {
	return max(minConflictQuiet, 10*m.opts.HeartbeatInterval)
}

// fail drops the connection, so that the next attempt begins with the next server and knows nothing of it.
func (m *machine) fail(now time.Time, kind actionKind, err error) {
	m.server.failed(now, m.random())
	m.stored.known = false
	cause := causeOf(err)
	m.stats.errors.WithLabelValues(cause).Inc()
	m.server.trouble.begin(now, m.log, cause, m.server.peer.server, fmt.Errorf("%s: %w", kind, err))
}

// lost notes that the connection is gone.
func (m *machine) lost(now time.Time) {
	switch {
	case m.server.busy:
		m.server.gone = true // the request will tell
	case !m.server.connected:
	case !m.server.proven:
		m.fail(now, doConnect, errClosed)
	default:
		m.server.closed(now)
		m.stored.known = false
	}
}

var errClosed = errors.New("the server closed the connection before it answered anything useful")
