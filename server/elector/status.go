package elector

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/operate"
)

// Status is the elector's state as the status page shows it, at most some seconds old.
type Status struct {
	State    string    `json:"state"` // "ok" or "storage fails"
	Since    time.Time `json:"since,omitzero"`
	Reason   string    `json:"reason,omitempty"`
	Advice   string    `json:"advice,omitempty"`
	Clusters int       `json:"clusters"`
	Held     int       `json:"clusters_with_watcher"`
	Agents   int       `json:"agents"`
	// Not more than 100 of each are named.
	WithoutCandidate []Vacancy `json:"without_candidate,omitempty"`
	Unfulfilled      []string  `json:"unfulfilled_designations,omitempty"` // clusters
	Foreign          []string  `json:"reported_by_others,omitempty"`       // clusters

	agents      [Designated + 1]int
	unfulfilled int
	roles       map[string]Role
}

// Role is a cluster's election in short.
type Role struct {
	// State is held, stopping (the holder has been told to stop), waiting (there are candidates, none has the role yet) or
	// without_candidate.
	State string `json:"state"`
	// Holder is who has the role.
	Holder string `json:"holder,omitempty"`
}

// States of a Role.
const (
	RoleHeld     = "held"
	RoleStopping = "stopping"
	RoleWaiting  = "waiting"
	RoleWithout  = "without_candidate"
)

// Roles returns those of all clusters, at most some seconds old. It does not block. The map must not be changed.
func (e *Elector) Roles() map[string]Role {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.summary.roles
}

// role returns that of the cluster, which is locked.
func (e *election) role(now instant) Role {
	lease := e.holder(now)
	switch {
	case lease == nil && e.without(now, 0) != "":
		return Role{State: RoleWithout}
	case lease == nil:
		return Role{State: RoleWaiting}
	}
	r := Role{State: RoleHeld, Holder: e.heldBy(lease)[len(heldBy):]}
	if a := e.candidates[lease.Agent.Identity]; a != nil && a.answered.stop {
		r.State = RoleStopping
	}
	return r
}

// Vacancy is a cluster that nobody can watch.
type Vacancy struct {
	Cluster string    `json:"cluster"`
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"` // who is excluded and why
}

// States of a Status.
const (
	stateOK      = "ok"
	stateStorage = "storage fails"
)

const (
	withoutAdvice = "run a pseudo-agent or an agent in the cluster whose policy is not watch-disabled"
	storageAdvice = "look at the disk or the database; until it works agents go on with what they were told last"
)

// add counts a cluster.
func (s *Status) add(e *Elector, c *cluster) {
	now := e.opts.Elapsed()
	s.Clusters++
	role := c.role(now)
	if role.Holder != "" {
		s.Held++
	}
	s.roles[c.id] = role
	s.Agents += len(c.candidates)
	for _, a := range c.candidates {
		s.agents[a.class]++
	}
	if why := c.without(now, e.opts.Grace); why != "" && len(s.WithoutCandidate) < namedClusters {
		s.WithoutCandidate = append(s.WithoutCandidate, Vacancy{Cluster: c.id, Since: e.opts.Now().Add(c.vacantAt() - now), Reason: why})
	}
	if e.unfulfilled(c, now) {
		s.unfulfilled++
		if len(s.Unfulfilled) < namedClusters {
			s.Unfulfilled = append(s.Unfulfilled, c.id)
		}
	}
	if c.foreign != nil && now-c.foreign.at <= c.ttl && len(s.Foreign) < namedClusters {
		s.Foreign = append(s.Foreign, c.id)
	}
}

// vacantAt is when the role became free.
func (e *election) vacantAt() instant {
	if l := e.rec.Lease; l != nil {
		return e.renewed + l.TTL
	}
	return e.vacantSince
}

// without returns why nobody can take the role, empty unless that has been so for longer than the grace time.
func (e *election) without(now instant, grace time.Duration) string {
	if e.holder(now) != nil || now-e.vacantAt() <= grace {
		return ""
	}
	var excluded []string
	for _, a := range e.candidates {
		if a.class != Excluded && e.isFresh(now, a) {
			return ""
		}
		switch {
		case a.gone:
			excluded = append(excluded, a.info.String()+": it said goodbye")
		case a.class == Excluded:
			excluded = append(excluded, a.info.String()+": "+a.reason)
		default:
			excluded = append(excluded, fmt.Sprintf("%s: silent for %s", a.info.String(), (now-a.last).Round(time.Second)))
		}
	}
	if len(excluded) == 0 {
		return "no agent Syncs"
	}
	slices.Sort(excluded)
	const most = 5
	if n := len(excluded); n > most {
		excluded = append(excluded[:most], fmt.Sprintf("and %d more", n-most))
	}
	return strings.Join(excluded, "; ")
}

// Status returns the present state. It does not block.
func (e *Elector) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.summary
	s.State = stateOK
	if e.storage != nil {
		s.State, s.Since, s.Reason, s.Advice = stateStorage, e.since, e.storage.Error(), storageAdvice
	}
	return s
}

// Problems returns what an operator should look at now.
func (e *Elector) Problems() []operate.Problem {
	const part = "elector"
	s := e.Status()
	var out []operate.Problem
	if s.State != stateOK {
		out = append(out, operate.Problem{
			Severity: operate.Failure, Part: part, Since: s.Since, What: "the elector's storage fails: " + s.Reason, Advice: s.Advice,
		})
	}
	for _, v := range s.WithoutCandidate {
		out = append(out, operate.Problem{
			Severity: operate.Failure, Part: part, Since: v.Since, What: "nobody can watch (" + v.Reason + ")", Subject: "cluster " + v.Cluster, Advice: withoutAdvice,
		})
	}
	for _, id := range s.Unfulfilled {
		out = append(out, operate.Problem{
			Severity: operate.Warning, Part: part, What: "no agent fulfils a designation, the usual ranking decides", Subject: "cluster " + id,
			Advice: "see pseudo-server watchers list CLUSTER, then correct or undo the designation",
		})
	}
	for _, id := range s.Foreign {
		out = append(out, operate.Problem{
			Severity: operate.Warning, Part: part, What: "an agent reports that is not the watcher", Subject: "cluster " + id,
			Advice: "see pseudo-server watchers list CLUSTER; let that agent be watch-disabled, or designate it",
		})
	}
	return out
}

// ClusterInfo is a cluster's election as the API shows it.
type ClusterInfo struct {
	Cluster       string      `json:"cluster"`
	State         string      `json:"state"` // as that of a Role
	Holder        *HolderInfo `json:"holder,omitempty"`
	VacantSeconds float64     `json:"vacant_seconds,omitempty"`
	Reason        string      `json:"reason,omitempty"` // why there is no candidate
	Term          uint64      `json:"term"`
	Last          *Vacated    `json:"last,omitempty"` // the lease before this one
	// History is who had the role since this process began, and the last one before; the latest first, twelve at most.
	History []Tenure `json:"history"`
	// Candidates are those that Sync with this replica, best first, the excluded ones last.
	Candidates   []CandidateInfo   `json:"candidates"`
	Designations []DesignationInfo `json:"designations"`
	// Unfulfilled says that no candidate fulfils any of the designations.
	Unfulfilled  bool     `json:"unfulfilled,omitempty"`
	ElectionOpen bool     `json:"election_open,omitempty"` // an operator asked for a new election
	Foreign      *Foreign `json:"reported_by_other,omitempty"`
}

// HolderInfo is who has the role.
type HolderInfo struct {
	Agent
	Name             string    `json:"name"`
	Class            Class     `json:"class"`
	AgentID          uint32    `json:"agent_id,omitempty"`
	Since            time.Time `json:"since"`
	ExpiresInSeconds float64   `json:"expires_in_seconds"` // unless it Syncs
	Stopping         bool      `json:"stopping,omitempty"` // this replica has told it to stop
}

// CandidateInfo is an agent that Syncs.
type CandidateInfo struct {
	Agent
	Name    string `json:"name"`
	Rank    int    `json:"rank"` // 1 is the first; 0 for those that cannot be elected now
	Class   Class  `json:"class"`
	Reason  string `json:"reason"` // why it has this class
	Answer  string `json:"answer"` // why it was answered as it was
	State   string `json:"state"`  // holder, candidate, silent, gone or excluded
	AgentID uint32 `json:"agent_id,omitempty"`
	// PresentSeconds is how long it has been Syncing, SeenSecondsAgo when it did so last.
	PresentSeconds float64 `json:"present_seconds"`
	SeenSecondsAgo float64 `json:"seen_seconds_ago"`
	// Twins counts Syncs of an older process with the same identity.
	Twins int `json:"twins,omitempty"`
}

// DesignationInfo is a designation and where it comes from.
type DesignationInfo struct {
	Designation
	Source      string `json:"source"` // configuration or api
	Provisional bool   `json:"provisional,omitempty"`
	FulfilledBy int    `json:"fulfilled_by"` // agents
}

// info describes a cluster, which is locked.
func (e *Elector) info(c *cluster) ClusterInfo {
	now := e.opts.Elapsed()
	info := ClusterInfo{
		Cluster: c.id, State: c.role(now).State, Term: c.rec.Term, Last: c.rec.Vacated, History: c.history(), Unfulfilled: e.unfulfilled(c, now), ElectionOpen: c.rec.Election,
		Candidates: []CandidateInfo{}, Designations: []DesignationInfo{},
	}
	if c.foreign != nil && now-c.foreign.at <= c.ttl {
		f := *c.foreign
		info.Foreign = &f
	}
	lease := c.holder(now)
	if lease != nil {
		info.held(c, lease, now)
	} else {
		info.vacant(c, now)
	}
	rank := 0
	for _, a := range c.ranked(now) {
		ci := e.candidateInfo(c, a, lease, now)
		if ci.State == "holder" || ci.State == "candidate" {
			rank++
			ci.Rank = rank
		}
		info.Candidates = append(info.Candidates, ci)
	}
	for i, d := range e.designations(c) {
		info.Designations = append(info.Designations, e.designationInfo(c, i, d, now))
	}
	return info
}

func (info *ClusterInfo) held(c *cluster, lease *Lease, now instant) {
	info.Holder = &HolderInfo{
		Agent: lease.Agent, Name: lease.Agent.String(), Class: lease.Class, AgentID: lease.AgentID, Since: lease.Since,
		ExpiresInSeconds: (c.renewed + lease.TTL - now).Seconds(),
	}
	info.Holder.Stopping = info.State == RoleStopping
}

func (info *ClusterInfo) vacant(c *cluster, now instant) {
	info.VacantSeconds = (now - c.vacantAt()).Seconds()
	info.Reason = c.without(now, 0)
}

// designationInfo describes the designation with number i in the order of Elector.designations.
func (e *Elector) designationInfo(c *cluster, i int, d Designation, now instant) DesignationInfo {
	di := DesignationInfo{Designation: d, Source: "configuration"}
	if i >= len(e.opts.Designations[c.id]) {
		di.Source = "api"
	}
	for _, a := range c.candidates {
		if a.match.ok && a.match.by == d.String() && c.isFresh(now, a) {
			di.FulfilledBy++
			di.Provisional = di.Provisional || a.match.provisional
		}
	}
	return di
}

func (e *Elector) candidateInfo(c *cluster, a *candidate, lease *Lease, now instant) CandidateInfo {
	state := "candidate"
	switch {
	case lease != nil && lease.Agent.Identity == a.info.Identity:
		state = "holder"
	case a.gone:
		state = "gone"
	case a.class == Excluded:
		state = "excluded"
	case !c.isFresh(now, a):
		state = "silent"
	}
	return CandidateInfo{
		Agent: a.info, Name: a.info.String(), Class: a.class, Reason: a.reason, Answer: a.answer, State: state, AgentID: a.agentID(),
		PresentSeconds: (now - a.first).Seconds(), SeenSecondsAgo: (now - a.last).Seconds(), Twins: a.twins,
	}
}

// ranked returns all agents in the order in which they would get the role, those that cannot get it last.
func (e *election) ranked(now instant) []*candidate {
	list := make([]*candidate, 0, len(e.candidates))
	for _, a := range e.candidates {
		list = append(list, a)
	}
	lease := e.holder(now)
	key := func(a *candidate) (able, holder int) {
		if a.class != Excluded && e.isFresh(now, a) {
			able = 1
		}
		if lease != nil && lease.Agent.Identity == a.info.Identity {
			holder = 1
		}
		return max(able, holder), holder
	}
	slices.SortFunc(list, func(a, b *candidate) int {
		ableA, holderA := key(a)
		ableB, holderB := key(b)
		byRank := 1
		if before(a, b, e.rec.Vacated) {
			byRank = -1
		}
		return cmp.Or(cmp.Compare(ableB, ableA), cmp.Compare(b.class, a.class), cmp.Compare(holderB, holderA), byRank)
	})
	return list
}
