package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/internal/logging"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/receiver"
	"github.com/pseudo-agent/pseudo-agent/store"
)

// stopTimeout is how long requests under way may take when the daemon is told to stop.
const stopTimeout = 10 * time.Second

// gcPercent keeps the heap close to what is stored; see docs/receiver.md.
const gcPercent = 50

func newRunCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Runs the daemon",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := config.LoadServer(cmd.Flags())
			if err != nil {
				return err
			}
			log, _, err := logging.New(os.Stderr, loaded.Config.Log.Format, loaded.Config.Log.Level)
			if err != nil {
				return err
			}
			return run(cmd.Context(), &loaded.Config, log)
		},
	}
	config.ServerFlags(cmd.Flags())
	return cmd
}

// run is the daemon from its configuration to its end.
func run(ctx context.Context, cfg *config.Server, log *slog.Logger) error {
	if _, err := operate.LimitMemory(gcPercent, log); err != nil {
		log.Warn("no memory limit", "error", err)
	}
	backend, err := openBackend(ctx, cfg.Store)
	if err != nil {
		return err
	}
	kept := store.New(backend, store.Options{Keep: cfg.Store.KeepVersions, KeepFor: cfg.Store.KeepVersionsFor})
	build := operate.NewBuild(version, revision)
	registry := operate.NewRegistry("pseudo_server", build)
	recv := receiver.New(receiver.Options{
		Store: kept, Version: version, Logger: log, Registerer: registry,
		Limits:    limits(cfg.Limits),
		Retention: receiver.Retention{StaleAfter: cfg.Retention.StaleAfter, GoneAfter: cfg.Retention.GoneAfter},
		Lenient:   cfg.Validation.LenientClusters,
		Suspicion: receiver.SuspicionOptions(cfg.Validation.Suspicion),
		Access:    receiver.Access{Anonymous: role(cfg.Access.Anonymous)},
	})
	web := operate.New(operate.Options{
		Program: "pseudo-server", Build: build, Address: cfg.Listen.HTTP, Pprof: cfg.HTTP.PProf, Registry: registry, Logger: log,
		Ready: []operate.Check{{Name: "storage", Probe: func() error { return recv.Check(ctx) }}},
		Extra: map[string]http.Handler{receiver.APIPrefix + "/": recv.API()},
	})
	grpcListener, err := net.Listen("tcp", cfg.Listen.GRPC)
	if err != nil {
		return errors.Join(fmt.Errorf("listen.grpc: %w", err), backend.Close())
	}
	httpListener, err := net.Listen("tcp", cfg.Listen.HTTP)
	if err != nil {
		return errors.Join(fmt.Errorf("listen.http: %w", err), grpcListener.Close(), backend.Close())
	}
	log.Info("pseudo-server runs", "version", version, "grpc", grpcListener.Addr().String(), "http", httpListener.Addr().String(), "store", cfg.Store.Type)

	g, ctx := errgroup.WithContext(ctx)
	server := recv.NewGRPCServer(nil)
	g.Go(func() error { return server.Serve(grpcListener) })
	g.Go(func() error {
		<-ctx.Done()
		stop(server)
		return nil
	})
	g.Go(func() error { return web.Serve(ctx, httpListener) })
	g.Go(func() error { return recv.Run(ctx) })
	err = g.Wait()
	return errors.Join(err, backend.Close())
}

// stop lets requests under way end, but not for ever.
func stop(server *grpc.Server) {
	timer := time.AfterFunc(stopTimeout, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
}

func openBackend(_ context.Context, cfg config.ServerStore) (store.Backend, error) {
	switch cfg.Type {
	case "memory":
		return store.NewMemory(), nil
	default:
		return nil, fmt.Errorf("store.type %q is not supported", cfg.Type)
	}
}

func limits(l config.ServerLimits) receiver.Limits {
	return receiver.Limits{
		MaxMessageSize: int(l.MaxMessageSize), MaxEntrySize: l.MaxEntrySize, MaxSnapshotSize: l.MaxSnapshotSize, MaxEntries: l.MaxEntries,
		MaxClusters: l.MaxClusters, MaxConcurrentRequests: l.MaxConcurrentRequests, RequestsPerMinute: l.RequestsPerMinute,
		RequestTimeout: l.RequestTimeout,
	}
}

func role(name string) receiver.Role {
	switch name {
	case "administer":
		return receiver.RoleAdminister
	case "read":
		return receiver.RoleRead
	default:
		return receiver.RoleNone
	}
}
