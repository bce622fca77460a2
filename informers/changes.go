package informers

import (
	"log/slog"
	"slices"
	"sync"
)

// stateChange is what a line of the log says of a resource whose state has changed.
type stateChange struct {
	state, before State
	failure       failure
	required      bool
}

// stateChanges gathers the changes of a second, so that resources that change for one cause share a line.
type stateChanges struct {
	mu    sync.Mutex
	order []stateChange
	ids   map[stateChange][]string
}

func (c *stateChanges) add(change stateChange, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil {
		c.ids = map[stateChange][]string{}
	}
	if c.ids[change] == nil {
		c.order = append(c.order, change)
	}
	c.ids[change] = append(c.ids[change], id)
}

// write logs what was gathered; all is how many resources there are.
func (c *stateChanges) write(log *slog.Logger, all int) {
	c.mu.Lock()
	order, ids := c.order, c.ids
	c.order, c.ids = nil, nil
	c.mu.Unlock()
	order, ids = sharing(order, ids)
	for _, change := range order {
		attrs := []any{"resource", ids[change][0]}
		if n := len(ids[change]); n > 1 {
			attrs = []any{"resources", someOf(ids[change], all), "count", n}
		}
		attrs = append(attrs, "state", change.state, "before", change.before)
		if f := change.failure; f.class != classNone {
			log.Warn("resource state", append(attrs, "reason", f.reason, "advice", f.advice, "required", change.required)...)
			continue
		}
		log.Info("resource state", attrs...)
	}
}

// sharing makes one of changes that differ only in how their connections broke.
func sharing(order []stateChange, ids map[stateChange][]string) ([]stateChange, map[stateChange][]string) {
	shared := slices.Clone(order)
	failures := make([]*failure, len(shared))
	for i := range shared {
		failures[i] = &shared[i].failure
	}
	oneOutage(failures)
	var outOrder []stateChange
	outIDs := map[stateChange][]string{}
	for i, change := range shared {
		if outIDs[change] == nil {
			outOrder = append(outOrder, change)
		}
		outIDs[change] = append(outIDs[change], ids[order[i]]...)
	}
	return outOrder, outIDs
}
