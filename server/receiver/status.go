package receiver

import (
	"context"
	"time"

	"github.com/pseudo-agent/pseudo-agent/operate"
)

// Status is the state of the receiver as the status page shows it.
type Status struct {
	State    string    `json:"state"` // "ok" or "storage fails"
	Since    time.Time `json:"since,omitzero"`
	Reason   string    `json:"reason,omitempty"`
	Advice   string    `json:"advice,omitempty"`
	Clusters int       `json:"clusters"`
	Objects  int       `json:"objects"`
	Bytes    int64     `json:"bytes"` // compressed, of the latest versions
	Waiting  int       `json:"requests_waiting"`
	Working  int       `json:"requests_working"`
	// Not more than 20 of each are named.
	Stale     []string `json:"stale,omitempty"`
	Erroneous []string `json:"with_error_msg,omitempty"`
	Suspected []string `json:"under_suspicion,omitempty"`
	// TwoClusters are ids under which a second cluster tries to report.
	TwoClusters []string `json:"two_clusters_under_one_id,omitempty"`
	// Unloaded are stored and not in memory, because there is no room for them.
	Unloaded []string `json:"unloaded,omitempty"`
	// Memory of all clusters, in bytes. A limit of 0 is none.
	MemoryUsed  int64 `json:"memory_used"`
	MemoryLimit int64 `json:"memory_limit"`
}

// statusNames bounds the lists of clusters in a Status.
const statusNames = 20

const storageAdvice = "look at the disk or the database; senders repeat what was refused"

// Status returns the present state.
func (r *Receiver) Status() Status {
	states, err := r.overview()
	s := Status{State: "ok", Working: r.small.inside() + r.medium.inside() + r.large.inside(), Waiting: r.waiting.inside()}
	r.mu.Lock()
	failing := r.storage
	r.mu.Unlock()
	if err != nil && failing.err == nil {
		failing = storageState{err: err, since: r.now()}
	}
	if failing.err != nil {
		s.State, s.Since, s.Reason, s.Advice = "storage fails", failing.since, failing.err.Error(), storageAdvice
	}
	s.MemoryUsed, s.MemoryLimit = r.store.Budget().Used(), r.store.Budget().Limit()
	for _, u := range r.store.Unloaded() {
		s.Unloaded = named(s.Unloaded, u.Cluster, true)
	}
	for _, info := range states {
		s.Clusters++
		s.Objects += info.Objects
		s.Bytes += info.Bytes
		s.Stale = named(s.Stale, info.ID, info.Stale)
		s.Erroneous = named(s.Erroneous, info.ID, info.ErrorMsg != "")
		s.Suspected = named(s.Suspected, info.ID, info.Suspicion != nil)
		s.TwoClusters = named(s.TwoClusters, info.ID, info.Suspicion != nil && info.Suspicion.Other)
	}
	return s
}

func named(list []string, id string, condition bool) []string {
	if !condition || len(list) >= statusNames {
		return list
	}
	return append(list, id)
}

// overview returns all clusters. It does not wait long for a database that does not answer.
func (r *Receiver) overview() ([]ClusterInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	infos, _, err := r.All(ctx)
	return infos, err
}

// Problems returns what an operator should look at now.
func (r *Receiver) Problems() []operate.Problem {
	const part = "receiver"
	var out []operate.Problem
	s := r.Status()
	if s.Reason != "" {
		out = append(out, operate.Problem{
			Severity: operate.Failure, Part: part, Since: s.Since, What: "the storage fails: " + s.Reason, Advice: s.Advice,
		})
	}
	for _, p := range []struct {
		ids          []string
		what, advice string
	}{
		{s.Stale, "not heard from for long", "see whether its pseudo-agent runs and reaches this server"},
		{s.Erroneous, "an error is reported, the objects stay as they are", "read error_msg of the cluster and the log of its pseudo-agent"},
		{
			s.Unloaded, "not in memory, because there is no room: what is stored stays, but can neither be reported nor looked at",
			"delete clusters that are gone, or give pseudo-server more memory (limits.memory, by default the container's limit)",
		},
		{s.Suspected, "a report that would remove too much was refused", "look at the cluster, then accept it or fix its sender"},
	} {
		for _, id := range p.ids {
			out = append(out, operate.Problem{Severity: operate.Warning, Part: part, What: p.what, Subject: "cluster " + id, Advice: p.advice})
		}
	}
	return out
}
