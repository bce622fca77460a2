package server

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/fleet"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/upkeep"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

// loopLimit is how long a loop may go without a turn. In each step a loop waits for PostgreSQL no longer than
// store.Patience; a disk may hang for ten minutes, in which the embedded store cannot give up.
const loopLimit = 15 * time.Minute

// parts are what works upon one storage, and the pulses of their loops.
type parts struct {
	receiver *receiver.Receiver
	elector  *elector.Elector
	viewer   *viewer.Viewer
	fleet    *fleet.Fleet
	front    *upstream.Front // nil: there is no deepflow-server behind us
	plugins  *plugin.Registry
	upkeep   *upkeep.Upkeep
	pulses   []*operate.Pulse
}

// assemble makes the parts; opts has what does not follow from the configuration.
func (d *daemon) assemble(ctx context.Context, backend store.Backend, reg prometheus.Registerer, opts receiver.Options) (*parts, error) {
	cfg := d.cfg
	p := &parts{}
	pulse := func(name string) func() {
		beat := operate.NewPulse(name, loopLimit, nil)
		p.pulses = append(p.pulses, beat)
		return beat.Beat
	}
	forClusters, caches := budget.Divide(memory(), budget.Caches{Indexes: cfg.Store.IndexMemory, Inventories: cfg.Viewer.Memory})
	kept := store.New(backend, store.Options{
		Keep: cfg.Store.KeepVersions, KeepFor: cfg.Store.KeepVersionsFor, Budget: newBudget(forClusters, cfg.Access), Indexes: caches.Indexes,
	})
	if err := kept.Plan(ctx); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	var err error
	if p.elector, err = newElector(ctx, cfg, kept, d.log, reg, pulse("elector")); err != nil {
		return nil, err
	}
	if p.viewer, p.plugins, err = newViewer(ctx, cfg, kept, caches.Inventories, d.log, reg, pulse("viewer")); err != nil {
		return nil, err
	}
	opts.Store, opts.Elector, opts.Version, opts.Logger, opts.Registerer = kept, p.elector, d.build.Version, d.log, reg
	opts.Limits = limits(cfg.Limits)
	opts.Limits.Memory = memory() // what is in force: limits.memory, where it is 0 what the container or GOMEMLIMIT has
	opts.Retention = receiver.Retention(cfg.Retention)
	opts.Lenient = cfg.Validation.LenientClusters
	opts.Suspicion = receiver.SuspicionOptions(cfg.Validation.Suspicion)
	opts.Beat = pulse("receiver")
	p.receiver = receiver.New(opts)
	p.fleet = fleet.New(fleet.Options{
		Clusters: p.receiver.All, LastMinute: p.receiver.LastMinute, Unloaded: kept.Unloaded, Roles: p.elector.Roles, Failures: p.viewer.Failures,
		Page: kept.Budget().Page(),
	})
	p.upkeep = upkeep.New(upkeep.Options{Backend: backend, Compact: cfg.Store.Compact, Logger: d.log, Registerer: reg, Beat: pulse("store")})
	if len(cfg.Upstream.Addresses) > 0 {
		if p.front, err = newFront(cfg, p, d.build.Version, d.log, reg); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// newBudget divides n bytes among clusters.
func newBudget(n int64, access config.ServerAccess) *budget.Budget {
	bound := make([]string, len(access.Clusters))
	for i, c := range access.Clusters {
		bound[i] = c.ClusterID
	}
	return budget.New(n, bound)
}

// grpcServer returns what answers the agents.
func (p *parts) grpcServer(creds credentials.TransportCredentials) *grpc.Server {
	if p.front != nil {
		return p.front.NewGRPCServer(creds)
	}
	return p.receiver.NewGRPCServer(creds)
}

// status are the parts of the status page.
func (p *parts) status() []operate.Part {
	list := []operate.Part{
		{Name: "receiver", Status: func() any { return p.receiver.Status() }, Problems: p.receiver.Problems},
		{Name: "elector", Status: func() any { return p.elector.Status() }, Problems: p.elector.Problems},
		{Name: "viewer", Status: func() any { return p.viewer.Status() }, Problems: p.viewer.Problems},
		{Name: "store", Status: func() any { return p.upkeep.Status() }, Problems: p.upkeep.Problems},
	}
	if p.front != nil {
		list = append(list, operate.Part{Name: "upstream", Status: func() any { return p.front.Status() }, Problems: p.front.Problems})
	}
	return list
}

// run runs the loops until the context ends.
func (p *parts) run(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return p.receiver.Run(ctx) })
	g.Go(func() error { return p.elector.Run(ctx) })
	g.Go(func() error { return p.viewer.Run(ctx) })
	g.Go(func() error { return p.upkeep.Run(ctx) })
}

// live tells whether the loops turn, nothing else: a storage that is away is no reason for a restart.
func (p *parts) live() []operate.Check {
	checks := make([]operate.Check, len(p.pulses))
	for i, pulse := range p.pulses {
		checks[i] = pulse.Check()
	}
	return checks
}

// close is called when the loops have ended.
func (p *parts) close() {
	p.plugins.Close()
	if p.front != nil {
		_ = p.front.Close() // no call is under way any more
	}
}
