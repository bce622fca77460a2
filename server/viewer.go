package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
	"github.com/pseudo-agent/pseudo-agent/server/web"
)

// newViewer returns the viewer, and the plugins that are to be closed when it has ended.
func newViewer(ctx context.Context, cfg *config.Server, kept *store.Store, inventories int64, log *slog.Logger, reg prometheus.Registerer, beat func()) (*viewer.Viewer, *plugin.Registry, error) {
	plugins, err := plugin.Open(ctx, plugin.Options{
		Store:  viewer.PluginStore(kept.Backend()),
		Limits: plugin.Limits{CallTime: cfg.Plugins.Timeout, Memory: cfg.Plugins.MaxMemory},
		Logger: log, Registerer: reg,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("plugins: %w", err)
	}
	return viewer.New(viewer.Options{Store: kept, Plugins: plugins, Logger: log, Registerer: reg, Beat: beat, Memory: inventories}), plugins, nil
}

// handlers are the API and the page.
func handlers(api http.Handler) map[string]http.Handler {
	all := web.Handlers()
	all[receiver.APIPrefix+"/"] = api
	return all
}
