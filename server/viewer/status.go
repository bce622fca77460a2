package viewer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/operate"
)

// Status is the state of the inventories and plugins as the status page shows it.
type Status struct {
	State    string          `json:"state"` // "ok" or "failing"
	Reason   string          `json:"reason,omitempty"`
	Clusters int             `json:"clusters"` // that have an inventory
	Checked  int             `json:"checked"`  // that have a light check instead, because nobody looks at them
	Bytes    int64           `json:"bytes"`    // about what the inventories take
	Streams  int             `json:"streams"`
	NoRoom   []string        `json:"no_room,omitempty"` // clusters without room for their inventory, not more than 20
	Refused  []Refused       `json:"refused,omitempty"` // not more than 20
	Plugins  []plugin.Status `json:"plugins,omitempty"`
}

// Refused is a cluster of which deepflow-server would take nothing over.
type Refused struct {
	Cluster string           `json:"cluster"`
	Reason  inventory.Reason `json:"reason"`
	Detail  string           `json:"detail"`
	Advice  string           `json:"advice"`
}

// refusedNames bounds the list of a Status.
const refusedNames = 20

// Status returns the present state.
func (v *Viewer) Status() Status {
	s := Status{State: "ok", Streams: len(v.streams), Bytes: v.held.bytes.Load(), Plugins: v.opts.Plugins.Status()}
	clusters := v.all()
	slices.SortFunc(clusters, func(a, b *cluster) int { return strings.Compare(a.id, b.id) })
	for _, c := range clusters {
		if c.lack.Load() != nil && len(s.NoRoom) < refusedNames {
			s.NoRoom = append(s.NoRoom, c.id)
		}
		failures, ok := c.failures()
		if !ok {
			continue
		}
		if c.made.Load() != nil {
			s.Clusters++
		} else {
			s.Checked++
		}
		if len(failures) > 0 && len(s.Refused) < refusedNames {
			f := failures[0]
			s.Refused = append(s.Refused, Refused{
				Cluster: c.id, Reason: f.Reason, Detail: strings.TrimSpace(strings.Join([]string{f.Sentence, f.Type, f.Namespace, f.Name, f.Detail}, " ")),
				Advice: f.Advice,
			})
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if reason := v.failing.text(); reason != "" {
		s.State, s.Reason = "failing", reason
	}
	return s
}

// Failures returns of every cluster of which deepflow-server would take nothing over, as far as it is known, what makes it so: the
// reasons, each once.
func (v *Viewer) Failures() map[string][]inventory.Reason {
	found := map[string][]inventory.Reason{}
	for _, c := range v.all() {
		failures, _ := c.failures()
		for _, f := range failures {
			if !slices.Contains(found[c.id], f.Reason) {
				found[c.id] = append(found[c.id], f.Reason)
			}
		}
	}
	return found
}

// summary returns the summary of the inventory, false if it is not made yet.
func (c *cluster) summary() (inventory.Summary, bool) {
	p := c.made.Load()
	if p == nil {
		return inventory.Summary{}, false
	}
	return p.summary, true
}

// measure sets the gauges.
func (v *Viewer) measure() {
	found := map[inventory.Reason]int{}
	failing := 0
	for _, c := range v.all() {
		if failures, _ := c.failures(); len(failures) > 0 {
			failing++
		}
		summary, ok := c.summary()
		if !ok {
			continue
		}
		for reason, n := range summary.Dropped {
			found[reason] += n
		}
	}
	v.metrics.failing.Set(float64(failing))
	v.metrics.bytes.Set(float64(v.held.bytes.Load()))
	for _, r := range inventory.Reasons() {
		v.metrics.findings.WithLabelValues(string(r.Reason)).Set(float64(found[r.Reason]))
	}
	v.metrics.streams.Set(float64(len(v.streams)))
}

// Problems returns what an operator should look at now.
func (v *Viewer) Problems() []operate.Problem {
	const part = "viewer"
	s := v.Status()
	var out []operate.Problem
	if s.Reason != "" {
		out = append(out, operate.Problem{
			Severity: operate.Warning, Part: part, What: "a cluster cannot be followed: " + s.Reason, Advice: "what is shown of it may be old; look at the storage",
		})
	}
	for _, id := range s.NoRoom {
		out = append(out, operate.Problem{
			Severity: operate.Warning, Part: part, What: "there is no room in memory for the inventory", Subject: "cluster " + id,
			Advice: "its reports are stored; give pseudo-server more memory (limits.memory, by default the container's limit), or delete clusters that are gone",
		})
	}
	for _, r := range s.Refused {
		out = append(out, operate.Problem{
			Severity: operate.Warning, Part: part, What: fmt.Sprintf("deepflow-server would take nothing over: %s (%s)", r.Reason, r.Detail),
			Subject: "cluster " + r.Cluster, Advice: r.Advice,
		})
	}
	for _, p := range s.Plugins {
		if p.State == plugin.StateStopped {
			out = append(out, operate.Problem{
				Severity: operate.Warning, Part: part, Since: p.Since, What: fmt.Sprintf("plugin %s was stopped: %s", p.Name, p.Reason), Advice: p.Advice,
			})
		}
	}
	return out
}
