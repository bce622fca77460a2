package elector

import (
	"slices"
	"time"
)

// maxTenures bounds what is kept of who had the role in a cluster.
const maxTenures = 12

// Tenure is a time in which an agent had the role. Tenures are kept in memory, for people: of those before the process began
// only the last is known, and not since when.
type Tenure struct {
	Name  string    `json:"name"`
	Class Class     `json:"class"`
	From  time.Time `json:"from,omitzero"`
	Until time.Time `json:"until,omitzero"` // zero: it has the role
	// How it ended: goodbye, stopped, expired or operator.
	How string `json:"how,omitempty"`
}

// tenure is what is kept of a Tenure. Its strings are those of the record.
type tenure struct {
	agent       Agent
	class       Class
	from, until time.Time
	how         string
}

// noteTenure notes who has and had the role by a record that follows the present one.
func (e *election) noteTenure(rec Record) {
	last := func() *tenure {
		if len(e.tenures) == 0 {
			return nil
		}
		return &e.tenures[len(e.tenures)-1]
	}
	// The lease that ended is the last one, or one that only another replica saw.
	if v := rec.Vacated; v != nil && (!e.known || e.rec.Vacated == nil || *e.rec.Vacated != *v) {
		if t := last(); t != nil && t.until.IsZero() && t.agent.Identity == v.Agent.Identity {
			t.until, t.how = v.At, v.How
		} else {
			e.addTenure(tenure{agent: v.Agent, class: v.Class, until: v.At, how: v.How})
		}
	}
	if l := rec.Lease; l != nil && (!e.known || e.rec.Lease == nil || e.rec.Term != rec.Term) {
		e.addTenure(tenure{agent: l.Agent, class: l.Class, from: l.Since})
	}
}

func (e *election) addTenure(t tenure) {
	if n := len(e.tenures); n > 0 && e.tenures[n-1].until.IsZero() {
		// How it ended was overwritten before this replica read it.
		e.tenures[n-1].until = t.from
		if t.from.IsZero() {
			e.tenures[n-1].until = t.until
		}
	}
	if len(e.tenures) == maxTenures {
		copy(e.tenures, e.tenures[1:])
		e.tenures = e.tenures[:maxTenures-1]
	}
	e.tenures = append(e.tenures, t)
}

// history returns the tenures, the latest first.
func (e *election) history() []Tenure {
	out := make([]Tenure, 0, len(e.tenures))
	for _, t := range slices.Backward(e.tenures) {
		out = append(out, Tenure{Name: t.agent.String(), Class: t.class, From: t.from, Until: t.until, How: t.how})
	}
	return out
}
