package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/internal/logging"
	"github.com/pseudo-agent/pseudo-agent/operate"
)

const (
	// gcPercent keeps the heap close to the compressed entries, which are most of it: with Go's default of 100 the
	// process would need twice their size.
	gcPercent = 12
	// legacyPause is how long deepflow-agent waits after a configuration that it no longer supports, so that a
	// restarted container does not fill the log.
	legacyPause = 60 * time.Second
	// quietInterval is the time between two lines that say that all is well.
	quietInterval = time.Hour
)

func newRunCommand(build operate.Build) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Runs the daemon (the default command)",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runDaemon(cmd.Context(), cmd.Flags(), build) },
	}
	config.AgentFlags(cmd.Flags())
	return cmd
}

// runDaemon is the daemon from its configuration to its end.
func runDaemon(ctx context.Context, flags *pflag.FlagSet, build operate.Build) error {
	loaded, err := config.LoadAgent(flags)
	if errors.Is(err, config.ErrOnlyWatchVariable) {
		return refuseLegacy(ctx, err)
	}
	if err != nil {
		return err //nolint:wrapcheck // it names every mistake with its place
	}
	log, level, err := logging.New(os.Stderr, loaded.Config.Log.Format, loaded.Config.Log.Level)
	if err != nil {
		return err //nolint:wrapcheck // it names the key and the value
	}
	for _, p := range loaded.Taken {
		log.Info("configuration from a DeepFlow file", "taken", p.String())
	}
	if _, err := operate.LimitMemory(gcPercent, operate.ClientShare, log); err != nil {
		log.Warn("no memory limit", "error", err)
	}
	registry := operate.NewRegistry("pseudo_agent", build)
	d, err := newDaemon(&loaded.Config, build, log, level, registry, Surroundings{})
	if err != nil {
		return err
	}
	log.Info("pseudo-agent starts", "version", build.Version, "revision", build.Revision, "go", build.Go,
		"servers", loaded.Config.Server.Addresses, "resources", len(d.selection().selected), "files", loaded.Files)

	web := operate.New(operate.Options{
		Program: "pseudo-agent", Build: build, Address: loaded.Config.HTTP.Address, Pprof: loaded.Config.HTTP.PProf,
		Registry: registry, Logger: log,
		Live: d.liveChecks(), Ready: d.readyChecks(), Parts: d.parts(), Summary: d.summary, Overview: d.overview,
	})
	// The probes are served until everything else has ended, so that a slow end is seen as such.
	webCtx, stopWeb := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWeb()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return web.Run(webCtx) })
	g.Go(func() error {
		defer stopWeb()
		return d.run(ctx)
	})
	g.Go(func() error {
		config.WatchAgent(ctx, flags, loaded, d.reload)
		return nil
	})
	g.Go(func() error {
		d.sayHourly(ctx)
		return nil
	})
	g.Go(func() error {
		d.traceLag(ctx)
		return nil
	})
	err = g.Wait()
	log.Info("pseudo-agent ends", "error", errorText(err))
	if err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}

// refuseLegacy does what deepflow-agent does with a variable that it no longer knows: an error, a pause, a failure.
func refuseLegacy(ctx context.Context, err error) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	log.Error("configuration refused; ending in a minute", "error", err)
	select {
	case <-ctx.Done():
	case <-time.After(legacyPause):
	}
	return err
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
