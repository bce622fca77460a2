package viewer

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// cluster is the inventory of one cluster.
type cluster struct {
	id   string
	seen mark // only Run uses it
	// loaded says that the check is of the process before; only Run uses it.
	loaded bool
	lock   chan struct{}             // held while catching up
	made   atomic.Pointer[published] // nil: there is no inventory

	checked     atomic.Pointer[checked] // nil: nothing was
	used        atomic.Int64            // when somebody looked last, in Unix nanoseconds; 0: nobody did
	todo, ready atomic.Int64            // objects that the inventory being made has, and has already
	held        atomic.Int64            // bytes of the inventory
	all         *inventories            // this one among them

	use   *semaphore.Weighted  // each reader holds 1; all are held while inv is between two versions
	inv   *inventory.Inventory // nil: not made yet
	state store.State          // of which inv is the inventory
	asked uint64               // Viewer.answers when the plugins were asked

	// Only the holder of lock uses these.
	uids    map[store.Key]string
	room    *budget.Account      // what the inventory takes
	growing *inventory.Inventory // that asks for room
	uidRoom int64                // of uids
	check   *inventory.Check     // nil: there is none
	checkOf point                // of which it is
	gone    bool                 // it is no longer stored
	lacking bool                 // the log says that there is no room
	waits   time.Duration        // how long it is waited after that, until it is tried again

	lack atomic.Pointer[lack] // nil: there was room
}

// lack is why there was no room for an inventory.
type lack struct {
	objects int // of the version
	at      time.Time
	wait    time.Duration // from then on
	err     error
}

// To make an inventory that there is no room for costs as much as one that there is room for, and takes the memory of others
// meanwhile. It is tried again after lackRetry, then after twice as long, up to lackRetryMost, or as soon as the cluster has an eighth
// fewer objects.
const (
	lackRetry     = time.Minute
	lackRetryMost = 10 * time.Minute
	lackShrunk    = 8
)

// lasts tells whether it is not worth while to try again with a version of so many objects.
func (l *lack) lasts(objects int, now time.Time) bool {
	return objects > l.objects-l.objects/lackShrunk && now.Sub(l.at) < l.wait
}

// uidBytes is what a uid takes in cluster.uids, without its bytes.
const uidBytes = 80

// freeRoom is called when there is no inventory any more. The lock is held.
func (c *cluster) freeRoom() {
	c.uidRoom = 0
	c.room.Free()
}

// hasRoom takes room for n bytes more than the inventory that is being made has.
func (c *cluster) hasRoom(n int64) bool {
	if err := c.room.Set(max(0, c.growing.Bytes()+c.uidRoom+n)); err != nil {
		c.lack.Store(&lack{err: err})
		return false
	}
	return true
}

// readers is the weight of cluster.use, more than there are requests at once.
const readers = 1 << 30

// published is what is known of a finished inventory while the next one is being made, which may take long: who looks at
// it waits for nobody.
type published struct {
	version version
	asked   uint64 // as cluster.asked
	summary inventory.Summary
}

// publish tells of the inventory as it is now. All of c.use is held.
func (c *cluster) publish() {
	c.all.has(c, c.inv != nil && !c.gone)
	if c.inv == nil {
		c.made.Store(nil)
		c.holds(0)
		return
	}
	c.holds(c.inv.Bytes() + c.uidRoom)
	c.made.Store(&published{version: versionOf(c.state), asked: c.asked, summary: c.inv.Summary()})
}

// holds tells that the inventory takes n bytes now.
func (c *cluster) holds(n int64) { c.all.bytes.Add(n - c.held.Swap(n)) }

// version identifies the content of a cluster.
type version struct {
	born     string // as store.State
	seq      uint64
	received int64 // in nanoseconds; in a database that lost its last versions their numbers come again
}

func versionOf(st store.State) version { return pointOf(st).version() }

// isAt tells whether the inventory is that of the latest version.
func (c *cluster) isAt(st store.State) bool {
	p := c.made.Load()
	return p != nil && p.version == versionOf(st)
}

// hasAsked tells whether the plugins have been asked since their answers changed last.
func (c *cluster) hasAsked(answers uint64) bool {
	p := c.made.Load()
	return p != nil && p.asked == answers
}

// unheard is the beat of work that no loop does.
func unheard() {}

// withLatest calls do with the lock of a cluster and its latest stored version, unless wanted, which it asks under the lock, says no.
// patient is for what waits, work for what has begun.
func (v *Viewer) withLatest(ctx context.Context, c *cluster, wanted func() bool, do func(patient, work context.Context, view *store.View) error) error {
	patient, cancel := store.Patiently(ctx)
	defer cancel()
	if err := wait(patient, c.lock, "the inventory of cluster "+c.id); err != nil {
		return err
	}
	defer func() { <-c.lock }()
	if !wanted() {
		return nil
	}
	work, done := v.detached(ctx)
	defer done()
	reading, cancel := store.Patiently(work)
	defer cancel()
	view, err := v.opts.Store.View(reading, c.id)
	if err != nil {
		return err
	}
	return do(patient, work, view)
}

// catchUp makes the inventory that of the latest stored version, and calls beat between its steps.
func (v *Viewer) catchUp(ctx context.Context, c *cluster, beat func()) error {
	beat()
	return v.withLatest(ctx, c, func() bool { return true }, func(_, work context.Context, view *store.View) error {
		return v.toLatest(work, c, view, beat)
	})
}

// toLatest is catchUp under the lock.
func (v *Viewer) toLatest(work context.Context, c *cluster, view *store.View, beat func()) error {
	if view.State.Latest.Seq == 0 || c.isAt(view.State) {
		return nil
	}
	if c.gone {
		return store.ErrNotFound
	}
	if l := c.lack.Load(); l != nil && l.lasts(view.State.Latest.Objects, time.Now()) {
		return l.err
	}
	begun := time.Now()
	if err := v.follows(work, c, view, beat); err != nil {
		return err
	}
	v.metrics.seconds.Observe(time.Since(begun).Seconds())
	return nil
}

// follows makes the inventory that of a view. The lock is held.
func (v *Viewer) follows(ctx context.Context, c *cluster, view *store.View, beat func()) error {
	var err error
	if c.inv == nil || c.state.Born != view.State.Born {
		err = v.build(ctx, c, view, beat)
	} else {
		err = v.update(ctx, c, view, beat)
	}
	v.tellLack(c, view.State, err)
	if err != nil {
		return fmt.Errorf("work out the inventory of cluster %s: %w", c.id, err)
	}
	return nil
}

// tellLack logs when there begins and ceases to be no room for the inventory of a cluster.
func (v *Viewer) tellLack(c *cluster, st store.State, err error) {
	before := c.lacking
	c.lacking = errors.Is(err, budget.ErrFull)
	switch {
	case c.lacking:
		c.waits = min(max(lackRetry, 2*c.waits), lackRetryMost)
		c.lack.Store(&lack{objects: st.Latest.Objects, at: time.Now(), wait: c.waits, err: err})
		if !before {
			v.log.Error("there is no room for the inventory of a cluster: its reports are stored, its inventory cannot be looked at", "cluster", c.id, "reason", err)
		}
	case err == nil:
		c.lack.Store(nil)
		c.waits = 0
		if before {
			v.log.Info("there is room for the inventory of a cluster again", "cluster", c.id)
		}
	}
}

// build makes the inventory from scratch. The former one, if there is any, is of a cluster of that id that was forgotten.
func (v *Viewer) build(ctx context.Context, c *cluster, view *store.View, beat func()) error {
	asked := v.answers.Load()
	if c.inv != nil {
		if err := v.discard(ctx, c); err != nil {
			return err
		}
	}
	c.freeRoom()
	inv := inventory.New(v.options(c))
	uids := make(map[store.Key]string, len(view.Entries))
	if err := v.apply(ctx, c, inv, uids, Compare(nil, view.Entries), beat); err != nil {
		c.freeRoom()
		return err
	}
	orderNodes(inv, uids, view)
	if err := c.use.Acquire(ctx, readers); err != nil {
		return err //nolint:wrapcheck // of the context
	}
	defer c.use.Release(readers)
	defer c.publish()
	c.inv, c.state, c.asked, c.uids = inv, view.State, asked, uids
	c.forgetCheck()
	return nil
}

// discard drops the inventory, so that there are never two of a cluster.
func (v *Viewer) discard(ctx context.Context, c *cluster) error {
	if err := c.use.Acquire(ctx, readers); err != nil {
		return err //nolint:wrapcheck // of the context
	}
	defer c.use.Release(readers)
	c.giveUp()
	c.publish()
	return nil
}

// update takes over what differs.
func (v *Viewer) update(ctx context.Context, c *cluster, view *store.View, beat func()) error {
	came, gone, ok := view.Since(c.state.Latest)
	if !ok {
		return v.build(ctx, c, view, beat)
	}
	differences := Compare(gone, came)
	if err := c.use.Acquire(ctx, readers); err != nil {
		return err //nolint:wrapcheck // of the context
	}
	defer c.use.Release(readers)
	defer c.publish()
	if err := v.apply(ctx, c, c.inv, c.uids, differences, beat); err != nil {
		c.giveUp()
		return err
	}
	orderNodes(c.inv, c.uids, view)
	c.state = view.State
	return nil
}

// orderNodes tells an inventory in which order the report had its Nodes.
func orderNodes(inv *inventory.Inventory, uids map[store.Key]string, view *store.View) {
	nodes := view.Nodes()
	ids := make([]string, len(nodes))
	for i, e := range nodes {
		ids[i] = uids[e.Key]
	}
	inv.OrderNodes(ids)
}

// giveUp drops an inventory that is neither that of one nor that of another version.
func (c *cluster) giveUp() {
	c.inv, c.uids, c.growing = nil, nil, nil
	c.freeRoom()
}

// again applies the Pods once more, because plugins may answer otherwise.
func (v *Viewer) again(ctx context.Context, c *cluster, beat func()) error {
	beat()
	var answers uint64
	wanted := func() bool {
		answers = v.answers.Load()
		return c.inv != nil && c.asked != answers
	}
	return v.withLatest(ctx, c, wanted, func(patient, work context.Context, view *store.View) error {
		return v.askAgain(patient, work, c, view, answers, beat)
	})
}

// askAgain is again under the lock.
func (v *Viewer) askAgain(patient, work context.Context, c *cluster, view *store.View, answers uint64, beat func()) error {
	if !c.isAt(view.State) {
		if err := v.follows(work, c, view, beat); err != nil {
			return err
		}
	}
	if err := c.use.Acquire(patient, readers); err != nil {
		return err //nolint:wrapcheck // of the context
	}
	defer c.use.Release(readers)
	if c.asked == answers {
		return nil
	}
	defer c.publish()
	var pods []Difference
	for _, e := range view.Entries {
		if e.Type == podType {
			pods = append(pods, Difference{Before: e, After: e})
		}
	}
	if err := v.apply(work, c, c.inv, c.uids, pods, beat); err != nil {
		c.giveUp()
		return fmt.Errorf("ask plugins about the Pods of cluster %s: %w", c.id, err)
	}
	c.asked = answers
	return nil
}

const podType = "*v1.Pod"

// What is decompressed at once.
const (
	batchEntries = 1000
	batchBytes   = 4 << 20
)

// apply applies differences to an inventory, in portions.
func (v *Viewer) apply(ctx context.Context, c *cluster, inv *inventory.Inventory, uids map[store.Key]string, differences []Difference, beat func()) error {
	c.growing = inv
	defer func() { c.growing = nil }() // one that found no room must not stay
	var gone []inventory.Change
	for _, d := range differences {
		if d.After == nil {
			gone = append(gone, inventory.Change{Type: d.Before.Type, ID: uids[d.Before.Key]})
			c.uidRoom -= uidBytes + int64(len(uids[d.Before.Key]))
			delete(uids, d.Before.Key)
		}
	}
	inv.Apply(gone)
	c.todo.Store(int64(len(differences)))
	c.ready.Store(0)
	defer c.todo.Store(0)
	var batch []*store.Entry
	size := 0
	flush := func() error {
		beat()
		changes, err := v.read(ctx, c.id, batch)
		if err != nil {
			return err
		}
		for i, e := range batch {
			if old, ok := uids[e.Key]; ok {
				c.uidRoom -= uidBytes + int64(len(old))
			}
			uids[e.Key] = changes[i].ID
			c.uidRoom += uidBytes + int64(len(changes[i].ID))
		}
		inv.Apply(changes)
		if inv.Full() {
			return c.lack.Load().err
		}
		// What was asked for is the most; this is what it came to, less than that.
		_ = c.room.Set(min(c.room.Held(), max(0, inv.Bytes()+c.uidRoom)))
		c.ready.Add(int64(len(batch)))
		batch, size = batch[:0], 0
		return nil
	}
	for _, d := range differences {
		if d.After == nil {
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
	if len(batch) == 0 {
		return nil
	}
	return flush()
}

// read returns entries as changes of an inventory.
func (v *Viewer) read(ctx context.Context, id string, entries []*store.Entry) ([]inventory.Change, error) {
	ctx, cancel := store.Patiently(ctx)
	defer cancel()
	payloads, err := v.opts.Store.Payloads(ctx, id, entries)
	if err != nil {
		return nil, err
	}
	var tree jsonscan.Tree
	changes := make([]inventory.Change, len(entries))
	for i, e := range entries {
		if payloads[i] == nil {
			return nil, fmt.Errorf("%s %s/%s: dropped while it was read: %w", e.Type, e.Namespace, e.Name, store.ErrNotFound)
		}
		data, err := e.JSON(payloads[i])
		if err != nil {
			return nil, fmt.Errorf("%s %s/%s: %w", e.Type, e.Namespace, e.Name, err)
		}
		uid := ""
		if _, err := tree.Parse(data, 0, uidFilter); err == nil {
			uid = string(tree.Root().Get("metadata").Get("uid").Text())
		}
		changes[i] = inventory.Change{Type: e.Type, ID: uid, JSON: data}
	}
	return changes, nil
}

var uidFilter = func() *jsonscan.Filter {
	f := jsonscan.NewFilter()
	f.Add("metadata", "uid")
	return f
}()
