package reporter

import (
	"time"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// claiming tells whether this agent takes part in the election of the cluster's watcher.
func (m *machine) claiming() bool {
	switch m.opts.Policy {
	case WatchOnly:
		return m.opts.ClaimWatcher
	case WatchDisabled:
		return m.opts.RegisterAsAgent
	default:
		return true
	}
}

// claimDue is the claiming lane's table: a Sync every minute, and a look at the CA file of a derived cluster id. It runs
// beside the reporting lane, so that neither waits for the other.
func (m *machine) claimDue(time.Time) (action, time.Time, bool) {
	if !m.server.connected || !m.cluster.known() || m.claims.busy || m.stopping {
		return action{}, time.Time{}, false
	}
	if m.cluster.derived && (!m.claiming() || m.claims.checkAt.Before(m.claims.nextAt)) {
		return action{kind: doRename, caMD5: m.cluster.caMD5, known: m.cluster.id}, m.claims.checkAt, true
	}
	if !m.claiming() {
		return action{}, time.Time{}, false
	}
	return action{kind: doSync, claim: m.newClaim()}, m.claims.nextAt, true
}

func (m *machine) newClaim() claim {
	c := claim{clusterID: m.cluster.id, ctrlMAC: ctrlMAC(m.cluster.id)}
	switch m.opts.Policy {
	case WatchDisabled:
		c.policy = agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED
	case Normal:
		c.policy = agent.KubernetesWatchPolicy_KWP_NORMAL
	default:
		// Both together keep a deepflow-server from registering the sender as an agent.
		c.policy, c.force = agent.KubernetesWatchPolicy_KWP_WATCH_ONLY, true
	}
	return c
}

// goodbye is the Sync that gives the role back, if there is one to be given back, and its deadline, zero for none. A
// replica whose lease was lost keeps silent: the role is its successor's by now.
func (m *machine) goodbye() (claim, time.Time, bool) {
	if !m.cluster.known() || !m.claiming() || m.claims.role == roleNone || m.opts.Policy == WatchDisabled {
		return claim{}, time.Time{}, false
	}
	deadline, may := m.maySend()
	c := m.newClaim()
	c.goodbye = true
	return c, deadline, may
}

// synced takes the answer to a Sync. Whatever it is, a watch-only agent goes on reporting.
func (m *machine) synced(now time.Time, o outcome) {
	current := m.server.connected && o.action.session == m.server.session
	if o.err != nil {
		m.claims.nextAt = now.Add(claimRetry)
		if !current {
			return
		}
		m.setRole(now, roleFailed, o.err.Error())
		if !m.wanted && !m.server.busy {
			m.fail(now, doSync, o.err)
		}
		return
	}
	m.claims.nextAt = later(now, o.action.at.Add(claimInterval))
	if !m.wanted && current {
		m.exchanged(now)
	}
	if c := o.sync.userConfig; c != nil && (!m.claims.hasConfig || *c != m.claims.userConfig) {
		m.claims.userConfig, m.claims.hasConfig = *c, true
		if m.opts.OnUserConfig != nil {
			m.opts.OnUserConfig(*c)
		}
	}
	switch st := o.sync.status; {
	case st != agent.Status_SUCCESS && st != agent.Status_HEARTBEAT:
		m.setRole(now, roleRefused, "the server answered "+st.String())
		return
	case !o.sync.decided:
		return
	case !o.sync.watch:
		m.setRole(now, roleRefused, "the server wants another agent to watch, or none")
		m.setWanted(m.opts.Policy == WatchOnly)
		return
	}
	if m.claims.grantedAt.IsZero() {
		m.claims.grantedAt = now
	}
	m.setRole(now, roleGranted, "")
	if m.opts.Policy == Normal {
		// Counted from when the request was sent, and less a request's time, so that the last report ends before the
		// server gives the role to somebody else.
		m.claims.wantedUntil = o.action.at.Add(m.opts.WatcherLease - m.opts.RequestTimeout)
		m.setWanted(now.Before(m.claims.wantedUntil))
	}
}

func (m *machine) setRole(now time.Time, role, reason string) {
	if m.claims.role == role && m.claims.reason == reason {
		return
	}
	if m.claims.role != role {
		m.claims.since = now
	}
	m.claims.role, m.claims.reason = role, reason
	if role == roleGranted || m.opts.Policy != WatchOnly {
		m.log.Info("watcher role", "role", role, "reason", reason, "cluster_id", m.cluster.id)
		return
	}
	m.log.Warn("the watcher role was not given; reports go on, but another agent may watch this cluster too",
		"role", role, "reason", reason, "cluster_id", m.cluster.id)
}

// setWanted starts or stops reporting by the server's decision (policy normal).
func (m *machine) setWanted(wanted bool) {
	if m.wanted == wanted {
		return
	}
	m.wanted, m.stored.known = wanted, false
	if !wanted {
		// What comes after the next start is a list of its own; nothing of this one may go under a later decision.
		m.source.forget()
		m.stored.forgetContent()
	}
	m.log.Info("the server decides who watches", "watch", wanted, "cluster_id", m.cluster.id)
	if m.opts.OnWatching != nil {
		m.opts.OnWatching(wanted)
	}
}

// renamed takes the result of a look at the CA file.
func (m *machine) renamed(now time.Time, o outcome) {
	m.claims.checkAt = now.Add(claimInterval)
	switch {
	case o.err != nil:
		m.log.Debug("could not check whether the CA file still gives the same cluster id", "error", o.err)
	case o.id == m.cluster.id:
		if m.cluster.changedID != "" {
			m.log.Info("the CA file gives the cluster id again that is used", "cluster_id", m.cluster.id)
		}
		m.cluster.changedID = ""
	case o.id != m.cluster.changedID:
		m.cluster.changedID = o.id
		m.log.Error("the CA file changed, and the server derives another cluster id from it: after the next restart this "+
			"cluster would be a new one to DeepFlow; configure cluster_id to keep it",
			"cluster_id", m.cluster.id, "derived_now", o.id)
	}
}
