// Package viewer is what people look at: the API over what deepflow-server would make of each cluster, over what
// differs between versions, and over plugins.
//
// It holds inventories of stored clusters: of all of them as long as they fit into Options.Memory, beyond that of those that
// somebody looks at; of the others it knows what would crash, freeze or empty a deepflow-server. It relies on store for the reports, which it looks for in regular
// intervals, on inventory for the rules and on plugin for the scripts. It promises that an answer belongs to one
// version, which it names; that a new version costs in proportion to what changed; and that neither lists nor streams
// grow without bound, whatever is asked for.
package viewer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Options of a Viewer. Store, Plugins and Logger are required.
type Options struct {
	Store      *store.Store
	Plugins    *plugin.Registry
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not registered
	// Poll is how often new versions are looked for; 0 is a second.
	Poll time.Duration
	// Beat is called on every turn of Run's loop, and between its steps; nil: nobody wants to know.
	Beat func()
	// Memory is how many bytes of inventories are held for clusters that nobody looks at; 0: those of all clusters. Of the others a
	// light check is made, and an inventory when somebody looks.
	Memory int64
	// MaxStreams is how many change streams there may be at once; 0 is 64.
	MaxStreams int
}

// Viewer keeps the inventories up to date. It is safe for concurrent use.
type Viewer struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	streams chan struct{}
	held    inventories
	// collecting is held by who makes a list.
	collecting chan struct{}
	// answers counts how often the answers of the plugins may have changed.
	answers atomic.Uint64
	// ending ends with Run's context: then streams and catching up end, too.
	ending context.Context //nolint:containedctx // the life of the Viewer
	end    context.CancelFunc
	// working counts what readers have begun; Run waits for it.
	working sync.WaitGroup

	mu       sync.Mutex
	clusters map[string]*cluster
	changed  chan struct{} // closed and replaced when a cluster changes
	failing  failing
	last     *listing // nil: none
}

// New returns a Viewer. Run must be called.
func New(opts Options) *Viewer {
	opts.Poll = cmp.Or(opts.Poll, time.Second)
	opts.MaxStreams = cmp.Or(opts.MaxStreams, 64)
	if opts.Beat == nil {
		opts.Beat = func() {}
	}
	v := &Viewer{
		opts: opts, log: opts.Logger, metrics: newMetrics(opts.Registerer), streams: make(chan struct{}, opts.MaxStreams), collecting: make(chan struct{}, 1),
		clusters: map[string]*cluster{}, changed: make(chan struct{}),
	}
	v.ending, v.end = context.WithCancel(context.Background())
	opts.Store.Budget().Idle(v.freeIdle)
	return v
}

// refreshPlugins is how often plugins are looked for that another replica created or deleted.
const refreshPlugins = 10 * time.Second

// Run follows the clusters and the plugins until the context ends. It returns nil.
func (v *Viewer) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, v.end)
	defer stop()
	defer v.join()
	poll := time.NewTicker(v.opts.Poll)
	defer poll.Stop()
	refresh := time.NewTicker(refreshPlugins)
	defer refresh.Stop()
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	v.note(ctx, "saved checks", v.step(ctx, v.loadChecks))
	defer v.lastSave() //nolint:contextcheck // when ctx has ended
	for {
		v.follow(ctx)
		v.forgetListing()
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		case <-v.opts.Plugins.Changed():
			v.answers.Add(1) // follow asks them again
		case <-save.C:
			v.note(ctx, "saved checks", v.step(ctx, v.saveChecks))
		case <-refresh.C:
			if v.opts.Store.Backend().Shared() {
				v.note(ctx, "plugins", v.step(ctx, v.opts.Plugins.Refresh))
			}
		}
	}
}

// lastSave saves the checks when Run has ended. Without them the next start takes longer.
func (v *Viewer) lastSave() {
	ctx, cancel := context.WithTimeout(context.Background(), savePatience)
	defer cancel()
	if err := v.saveChecks(ctx); err != nil {
		v.log.Warn("what is known of the clusters was not saved: the next start reads them again", "error", err)
	}
}

// join ends and waits for what readers have begun; nothing is begun any more.
func (v *Viewer) join() {
	v.mu.Lock()
	v.end()
	v.mu.Unlock()
	v.working.Wait()
}

// mark identifies what is stored of a cluster.
type mark struct {
	born     string
	revision uint64
}

// follow brings every cluster up to date once.
func (v *Viewer) follow(ctx context.Context) {
	var states []store.State
	err := v.step(ctx, func(ctx context.Context) (err error) {
		states, err = v.opts.Store.Clusters(ctx)
		return err
	})
	v.note(ctx, "list", err)
	if err != nil {
		return
	}
	stored := make(map[string]bool, len(states))
	for _, st := range states {
		stored[st.ID] = true
	}
	news, failed := v.followAll(ctx, states)
	if ctx.Err() != nil {
		return
	}
	v.noteAll(ctx, "cluster", failed)
	var gone []*cluster
	v.mu.Lock()
	for id, c := range v.clusters {
		if !stored[id] {
			delete(v.clusters, id)
			gone = append(gone, c)
			news = true
		}
	}
	if news {
		close(v.changed)
		v.changed = make(chan struct{})
	}
	v.mu.Unlock()
	for _, c := range gone {
		if wait(ctx, c.lock, "the inventory of cluster "+c.id) == nil {
			c.gone = true
			c.freeRoom()
			c.holds(0)
			v.held.has(c, false)
			<-c.lock
		}
	}
	if news {
		v.measure()
	}
}

// followAll brings all these up to date. It tells whether one of them has changed, and which could not be followed.
func (v *Viewer) followAll(ctx context.Context, states []store.State) (news bool, failed map[string]error) {
	failed = map[string]error{}
	for _, st := range states {
		if ctx.Err() != nil {
			return news, failed // a backend that only this process uses does not look at it
		}
		if st.Latest.Seq == 0 {
			continue
		}
		c := v.cluster(st.ID)
		if seen := (mark{st.Born, st.Revision}); c.seen != seen {
			c.seen, news = seen, true
		}
		if c.loaded && v.fits(st) {
			c.checked.Store(nil) // there is room for more than a check
		}
		c.loaded = false
		var err error
		switch {
		case c.isAt(st) && !c.hasAsked(v.answers.Load()):
			news = true
			err = v.again(ctx, c, v.opts.Beat)
		case !c.isAt(st) && !c.isChecked(st):
			err = v.bring(ctx, c, st)
		}
		// For those without room others speak: Status, and the store's list of unloaded clusters.
		if err != nil && !errors.Is(err, budget.ErrFull) {
			failed[st.ID] = err
		}
	}
	return news, failed
}

// step does one step of Run's loop.
func (v *Viewer) step(ctx context.Context, do func(context.Context) error) error {
	v.opts.Beat()
	ctx, cancel := store.Patiently(ctx)
	defer cancel()
	return do(ctx)
}

// failing is what following fails with now.
type failing struct {
	causes map[string]map[string]string // by what was done, and the cluster that it was done to
	told   string                       // what the log said last, empty: that it works
	at     time.Time                    // when it did
}

// note remembers how one step ended that is about no cluster.
func (v *Viewer) note(ctx context.Context, step string, err error) {
	failed := map[string]error{}
	if err != nil {
		failed[""] = err
	}
	v.noteAll(ctx, step, failed)
}

// noteAll remembers how one step ended for all clusters, and logs when following begins to fail, fails in another way, and works again.
func (v *Viewer) noteAll(ctx context.Context, step string, failed map[string]error) {
	if ctx.Err() != nil {
		return
	}
	causes := map[string]string{}
	for id, err := range failed {
		if !errors.Is(err, store.ErrNotFound) { // the cluster was forgotten meanwhile
			causes[id] = store.Failing(err).Error()
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failing.causes == nil {
		v.failing.causes = map[string]map[string]string{}
	}
	v.failing.causes[step] = causes
	text, now := v.failing.text(), time.Now()
	switch {
	case text == v.failing.told:
		return
	case text == "":
		v.log.Info("clusters are followed again")
	case v.failing.told != "" && now.Sub(v.failing.at) < store.OtherWay:
		return
	default:
		v.log.Warn("a cluster cannot be followed; what is shown of it may be old", "error", text)
	}
	v.failing.told, v.failing.at = text, now
}

// text names the causes, each once, and at most three of them; empty: nothing fails.
func (f failing) text() string {
	const most = 3
	var all []string
	for _, causes := range f.causes {
		all = slices.AppendSeq(all, maps.Values(causes))
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if n := len(all); n > most {
		all = append(all[:most], fmt.Sprintf("and %d more", n-most))
	}
	return strings.Join(all, "; ")
}

func (v *Viewer) all() []*cluster {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := make([]*cluster, 0, len(v.clusters))
	for _, c := range v.clusters {
		list = append(list, c)
	}
	return list
}

// cluster returns what is held of a stored cluster.
func (v *Viewer) cluster(id string) *cluster {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.clusters[id]
	if c == nil {
		c = &cluster{
			id: id, lock: make(chan struct{}, 1), use: semaphore.NewWeighted(readers), all: &v.held, room: v.opts.Store.Budget().Account(id),
		}
		v.clusters[id] = c
	}
	return c
}

// news is closed when a cluster changes after the call.
func (v *Viewer) news() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

// bindingBytes is about what a relation of a Service to a workload takes; all of one cluster have a quarter of the memory.
const bindingBytes = 100

// options are those of the inventory of a cluster.
func (v *Viewer) options(c *cluster) inventory.Options {
	o := inventory.Options{Mapper: v.opts.Plugins}
	if limit := v.opts.Store.Budget().Limit(); limit > 0 {
		o.Room = c.hasRoom
		o.MaxBindings = int(min(inventory.MaxBindings, max(1000, limit/4/bindingBytes)))
	}
	return o
}

// detached returns a context for work that a request began and others profit from: it ends with the Viewer, not with
// the request.
func (v *Viewer) detached(ctx context.Context) (context.Context, func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(v.ending, cancel)
	return work, func() {
		stop()
		cancel()
	}
}

// wait takes a lock or gives up with the context.
func wait(ctx context.Context, lock chan struct{}, what string) error {
	select {
	case lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
	}
}
