package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/reported"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// newElector returns the elector with what is stored of earlier elections.
func newElector(ctx context.Context, cfg *config.Server, kept *store.Store, log *slog.Logger, reg prometheus.Registerer, beat func()) (*elector.Elector, error) {
	e := elector.New(elector.Options{
		Documents: kept.Backend(), Workloads: reported.New(kept, time.Now), TTL: cfg.Elector.TTL, Grace: cfg.Elector.Grace,
		RefuseOthers: cfg.Elector.RefuseOthers, Designations: designations(cfg.Elector.Designations), MaxClusters: cfg.Limits.MaxClusters,
		Budget: kept.Budget(), Bound: bound(cfg.Access), Logger: log, Registerer: reg, Beat: beat,
	})
	return e, e.Load(ctx)
}

// bound tells whether a cluster is bound to its senders.
func bound(access config.ServerAccess) func(string) bool {
	ids := map[string]bool{}
	for _, c := range access.Clusters {
		ids[c.ClusterID] = true
	}
	return func(id string) bool { return ids[id] }
}

func designations(list []config.Designation) map[string][]elector.Designation {
	byCluster := map[string][]elector.Designation{}
	for _, d := range list {
		byCluster[d.ClusterID] = append(byCluster[d.ClusterID], elector.Designation{
			Workload: d.Workload, AgentGroup: d.AgentGroup, HostPattern: d.HostPattern, Agent: d.Agent,
		})
	}
	return byCluster
}
