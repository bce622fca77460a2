package reporter

import (
	"time"

	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// Status is what the reporter does, why, and what an operator can do about it.
type Status struct {
	State     string     `json:"state"`
	Since     time.Time  `json:"since"`
	Reason    string     `json:"reason"`
	Advice    string     `json:"advice,omitempty"`
	Server    string     `json:"server,omitempty"`
	Address   string     `json:"address,omitempty"`
	Service   string     `json:"service,omitempty"`
	SourceIP  string     `json:"source_ip,omitempty"`
	ClusterID string     `json:"cluster_id,omitempty"`
	Derived   bool       `json:"cluster_id_derived"`
	ChangedID string     `json:"cluster_id_derived_now,omitempty"`
	AgentID   uint32     `json:"agent_id"`
	Failures  int        `json:"failures"`
	LastError string     `json:"last_error,omitempty"`
	ErrorFrom *time.Time `json:"last_error_since,omitempty"`
	ErrorMsg  string     `json:"error_msg,omitempty"`
	ErrorTold bool       `json:"error_msg_told"`

	// Version is the latest snapshot that may be sent, Acknowledged the latest that a server attested to hold.
	Version      uint64              `json:"version,omitempty"`
	Acknowledged uint64              `json:"acknowledged_version,omitempty"`
	Entries      int                 `json:"entries"`
	Bytes        int                 `json:"bytes"`
	Types        []snapshot.TypeStat `json:"types,omitempty"`
	// Pending tells that a change is not acknowledged yet, OldestChange since when.
	Pending      bool       `json:"pending"`
	OldestChange *time.Time `json:"oldest_unacknowledged_change,omitempty"`
	LastReport   *time.Time `json:"last_report,omitempty"`

	Watcher  WatcherStatus  `json:"watcher"`
	Conflict ConflictStatus `json:"conflict"`
}

// WatcherStatus is the part of Status about the watcher role.
type WatcherStatus struct {
	Policy string `json:"policy"`
	// Role is none (not asked for), granted, refused or failed.
	Role   string    `json:"state"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`
	// Watching tells whether the cluster is to be watched and reported.
	Watching bool `json:"watching"`
}

// ConflictStatus tells whether another agent reports the same cluster.
type ConflictStatus struct {
	Active         bool       `json:"active"`
	Since          *time.Time `json:"since,omitempty"`
	ForeignVersion uint64     `json:"foreign_version,omitempty"`
	Advice         string     `json:"advice,omitempty"`
}

// explanations of the states: reason and advice.
var explanations = map[state][2]string{
	stateDisabled:   {"the watch policy is watch-disabled: nothing is watched or reported", ""},
	stateStandby:    {"another replica may send, or the lease is not held", ""},
	stateConnecting: {"there is no connection to a server", ""},
	stateNaming:     {"the server is asked for the cluster id", "configure cluster_id if this takes long"},
	stateIdle:       {"the server does not want this agent to watch", ""},
	stateProbing:    {"the server is asked what it holds", ""},
	stateTelling:    {"errors keep the cluster's content from being reported; the server keeps what it has", "fix what error_msg names"},
	stateWaiting:    {"not every selected resource is listed completely yet", "see the resources' states"},
	stateReporting:  {"the server does not hold the current snapshot yet", ""},
	stateSynced:     {"the server holds the current snapshot", ""},
}

// Status may be called at any time from any goroutine.
func (r *Reporter) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.m
	why := explanations[m.state]
	s := Status{
		State: string(m.state), Since: m.stateSince, Reason: why[0], Advice: why[1],
		ClusterID: m.cluster.id, Derived: m.cluster.derived, ChangedID: m.cluster.changedID, AgentID: m.cluster.agentID,
		Failures: m.server.failures, ErrorMsg: m.source.errText, ErrorTold: m.source.hasErrors() && m.stored.errorMsg == m.source.errText,
		Acknowledged: m.stored.acked, Pending: m.pending(), OldestChange: optional(m.source.oldestChange()), LastReport: optional(m.stored.reportedAt),
		Watcher: WatcherStatus{
			Policy: string(m.opts.Policy), Role: m.claims.role, Since: m.claims.since, Reason: m.claims.reason, Watching: m.wanted,
		},
		Conflict: ConflictStatus{Active: m.others.conflict(), Since: optional(m.others.conflictSince), ForeignVersion: m.others.lastVersion},
	}
	if m.server.connected {
		p := m.server.peerOf.peer()
		s.Server, s.Address, s.Service, s.SourceIP = p.server, p.address, p.service, p.sourceIP
	}
	if t := m.server.trouble; !t.since.IsZero() {
		s.LastError, s.ErrorFrom, s.Advice = t.err, optional(t.since), causeAdvice[t.cause]
		if s.Server == "" {
			s.Server = t.server
		}
	}
	if snap := m.source.snapshot; snap != nil {
		s.Version, s.Entries, s.Bytes, s.Types = snap.Version(), snap.Len(), snap.Size(), snap.Types()
	}
	if s.Conflict.Active {
		s.Conflict.Advice = "stop the other reporter of this cluster (usually a deepflow-agent that watches), or give one of the two another cluster_id"
	}
	return s
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
