package viewer

import (
	"context"
	"fmt"
	"time"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// checked is what is known of a cluster that has no inventory.
type checked struct {
	version  version
	failures []inventory.Finding
}

// warmFor is how long an inventory stays that somebody looked at, even if there are more than Options.Memory, but not more than
// twice as many.
const warmFor = 5 * time.Minute

// bring brings what is held of a cluster up to date: its inventory, or what a light check finds where there is no room for more.
// A cluster that the check suspects gets an inventory, which knows for certain.
func (v *Viewer) bring(ctx context.Context, c *cluster, st store.State) error {
	if c.made.Load() == nil && !v.fits(st) {
		suspicious, err := v.lightCheck(ctx, c)
		if err != nil || !suspicious {
			return err
		}
	}
	err := v.catchUp(ctx, c, v.opts.Beat)
	v.evict(ctx, c)
	return err
}

// fits tells whether the inventory of a cluster fits into Options.Memory beside those that there are.
func (v *Viewer) fits(st store.State) bool {
	if v.opts.Memory == 0 {
		return true
	}
	n := v.held.Load()
	for wire, count := range st.Latest.Types {
		n += inventory.Expected(wire) * int64(count.Objects)
	}
	return n <= v.opts.Memory
}

// isChecked tells whether the latest version was checked; its inventory need not be there.
func (c *cluster) isChecked(st store.State) bool {
	known := c.checked.Load()
	return known != nil && known.version == versionOf(st)
}

// lightCheck looks at what changed since the last one.
func (v *Viewer) lightCheck(ctx context.Context, c *cluster) (suspicious bool, err error) {
	v.opts.Beat()
	patient, cancel := store.Patiently(ctx)
	defer cancel()
	if err := wait(patient, c.lock, "the check of cluster "+c.id); err != nil {
		return false, err
	}
	defer func() { <-c.lock }()
	view, err := v.opts.Store.View(patient, c.id)
	if err != nil {
		return false, err
	}
	if c.check == nil || c.checkBorn != view.State.Born {
		c.check, c.checkBorn, c.checkEntries = inventory.NewCheck(), view.State.Born, nil
	}
	if err := v.look(ctx, c, Compare(c.checkEntries, view.Entries)); err != nil {
		c.forgetCheck()
		return false, fmt.Errorf("check cluster %s: %w", c.id, err)
	}
	c.checkEntries = view.Entries
	known := &checked{version: versionOf(view.State)}
	if suspicious = c.check.Suspicious(); suspicious {
		if before := c.checked.Load(); before != nil {
			known.failures = before.failures // until the inventory knows
		}
	}
	c.checked.Store(known)
	return suspicious, nil
}

// look applies differences to the check, in portions.
func (v *Viewer) look(ctx context.Context, c *cluster, differences []Difference) error {
	var gone []inventory.Change
	var batch []*store.Entry
	size := 0
	flush := func() error {
		v.opts.Beat()
		changes, err := v.read(ctx, c.id, batch)
		if err != nil {
			return err
		}
		for i, e := range batch {
			changes[i].ID = string(e.Key[:]) // a uid would have to be remembered
		}
		c.check.Apply(changes)
		batch, size = batch[:0], 0
		return nil
	}
	for _, d := range differences {
		if d.After == nil {
			gone = append(gone, inventory.Change{Type: d.Before.Type, ID: string(d.Before.Key[:])})
			continue
		}
		if len(batch) > 0 && (len(batch) == batchEntries || size+int(d.After.RawSize) > batchBytes) {
			if err := flush(); err != nil {
				return err
			}
		}
		batch = append(batch, d.After)
		size += int(d.After.RawSize)
	}
	c.check.Apply(gone)
	if len(batch) == 0 {
		return nil
	}
	return flush()
}

// forgetCheck drops the check; the next one begins anew. The lock is held.
func (c *cluster) forgetCheck() { c.check, c.checkEntries, c.checkBorn = nil, nil, "" }

// evict drops the inventories that were least looked at, but not that of a cluster, until all fit into Options.Memory.
func (v *Viewer) evict(ctx context.Context, but *cluster) {
	for v.opts.Memory > 0 && v.held.Load() > v.opts.Memory && ctx.Err() == nil {
		victim := v.leastUsed(but)
		if victim == nil {
			return
		}
		if time.Since(time.Unix(0, victim.used.Load())) < warmFor && v.held.Load() <= 2*v.opts.Memory {
			return
		}
		if err := v.dismiss(ctx, victim); err != nil {
			return // it is in use; the next change tries again
		}
	}
}

func (v *Viewer) leastUsed(but *cluster) *cluster {
	var found *cluster
	for _, c := range v.all() {
		if c != but && c.made.Load() != nil && (found == nil || c.used.Load() < found.used.Load()) {
			found = c
		}
	}
	return found
}

// dismiss drops an inventory, and keeps what it found of failures.
func (v *Viewer) dismiss(ctx context.Context, c *cluster) error {
	patient, cancel := store.Patiently(ctx)
	defer cancel()
	if err := wait(patient, c.lock, "the inventory of cluster "+c.id); err != nil {
		return err
	}
	defer func() { <-c.lock }()
	if c.inv == nil {
		return nil
	}
	c.checked.Store(&checked{version: versionOf(c.state), failures: c.inv.Summary().Failures})
	if err := v.discard(patient, c); err != nil {
		return err
	}
	v.metrics.evictions.Inc()
	return nil
}

// failures are what crashes, freezes or empties the server, as far as it is known; false: nothing is.
func (c *cluster) failures() ([]inventory.Finding, bool) {
	if p := c.made.Load(); p != nil {
		return p.summary.Failures, true
	}
	if known := c.checked.Load(); known != nil {
		return known.failures, true
	}
	return nil, false
}
