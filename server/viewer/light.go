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

// point is a version of a cluster.
type point struct {
	Born       string    `json:"born"`
	Seq        uint64    `json:"seq"`
	Version    uint64    `json:"version"`
	ReceivedAt time.Time `json:"received_at"`
}

func pointOf(st store.State) point {
	return point{Born: st.Born, Seq: st.Latest.Seq, Version: st.Latest.Version, ReceivedAt: st.Latest.ReceivedAt}
}

func (p point) version() version {
	return version{born: p.Born, seq: p.Seq, received: p.ReceivedAt.UnixNano()}
}

func (p point) snapshot() store.Snapshot {
	return store.Snapshot{Seq: p.Seq, Version: p.Version, ReceivedAt: p.ReceivedAt}
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
	n := v.held.bytes.Load()
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
	came, gone, ok := view.Since(c.checkOf.snapshot())
	if c.check == nil || c.checkOf.Born != view.State.Born || !ok {
		c.check, came, gone = inventory.NewCheck(), view.Entries, nil
	}
	if err := v.look(ctx, c, Compare(gone, came)); err != nil {
		c.forgetCheck()
		return false, fmt.Errorf("check cluster %s: %w", c.id, err)
	}
	c.checkOf = pointOf(view.State)
	known := &checked{version: c.checkOf.version()}
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
func (c *cluster) forgetCheck() { c.check, c.checkOf = nil, point{} }

// freeIdle makes room for a cluster: by its own inventory, or by that of another one that was looked at longest ago. It waits for nobody;
// false: there is none that nobody uses.
func (v *Viewer) freeIdle(id string, own bool) bool {
	v.mu.Lock()
	self := v.clusters[id]
	v.mu.Unlock()
	switch {
	case self != nil && self.todo.Load() > 0 && self.used.Load() == 0:
		return false // an inventory that nobody asked for is being made
	case own:
		return self != nil && v.free(self)
	}
	victims := v.held.leastUsed(func(c *cluster) bool { return c == self })
	for c := victims.next(); c != nil; c = victims.next() {
		if v.free(c) {
			return true
		}
	}
	return false
}

// free drops an inventory that nobody uses at this moment, and keeps what it found of failures.
func (v *Viewer) free(c *cluster) bool {
	select {
	case c.lock <- struct{}{}:
		defer func() { <-c.lock }()
	default:
		return false
	}
	if c.inv == nil || !c.use.TryAcquire(readers) {
		return false
	}
	defer c.use.Release(readers)
	v.drop(c)
	return true
}

// drop drops the inventory of a cluster whose lock and all of whose use is held.
func (v *Viewer) drop(c *cluster) {
	c.checked.Store(&checked{version: versionOf(c.state), failures: c.inv.Summary().Failures})
	c.giveUp()
	c.publish()
	v.metrics.evictions.Inc()
}

// evict drops the inventories that were least looked at, but not that of a cluster, until all fit into Options.Memory.
func (v *Viewer) evict(ctx context.Context, but *cluster) {
	for v.opts.Memory > 0 && v.held.bytes.Load() > v.opts.Memory && ctx.Err() == nil {
		victim := v.held.leastUsed(func(c *cluster) bool { return c == but }).next()
		if victim == nil {
			return
		}
		if time.Since(time.Unix(0, victim.used.Load())) < warmFor && v.held.bytes.Load() <= 2*v.opts.Memory {
			return
		}
		if err := v.dismiss(ctx, victim); err != nil {
			return // it is in use; the next change tries again
		}
	}
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
	if err := c.use.Acquire(patient, readers); err != nil {
		return err //nolint:wrapcheck // of the context
	}
	defer c.use.Release(readers)
	v.drop(c)
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
