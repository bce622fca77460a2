package server

import (
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
)

// newFront returns what stands in front of the configured deepflow-servers.
func newFront(cfg *config.Server, p *parts, version string, log *slog.Logger, reg prometheus.Registerer) (*upstream.Front, error) {
	front, err := upstream.New(upstream.Options{
		Addresses: cfg.Upstream.Addresses, TLS: upstream.TLS(cfg.Upstream.TLS), Advertise: cfg.Upstream.Advertise, ReportMode: cfg.Upstream.Reports,
		MaxMessageSize: int(cfg.Limits.MaxMessageSize), MaxClusters: cfg.Limits.MaxClusters, Elector: p.elector, Reports: p.receiver,
		Version: version, Logger: log, Registerer: reg,
	})
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	return front, nil
}
