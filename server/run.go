package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/internal/logging"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// stopTimeout is how long requests under way may take when the daemon is told to stop.
const stopTimeout = 10 * time.Second

// gcPercent keeps the memory for a large report below twice its size. Most of such a report is bytes, which cost the
// garbage collector nothing; docs/receiver-limits.md has the figures. Under load it is eased as far as the memory limit allows.
const gcPercent = 15

// gcPercentUpstream is that of a server that passes calls on: a Sync of every agent leaves garbage, of which little else is
// in memory, and collecting it at each few hundred KiB would cost more than passing the Sync on.
const gcPercentUpstream = 100

func newRunCommand(build operate.Build) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Runs the daemon",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := config.LoadServer(cmd.Flags())
			if err != nil {
				return err
			}
			cfg := &loaded.Config
			log, level, err := logging.New(os.Stderr, cfg.Log.Format, cfg.Log.Level)
			if err != nil {
				return err
			}
			d := &daemon{cfg: cfg, build: build, log: log, level: level}
			return d.run(cmd.Context(), func(ctx context.Context) {
				config.WatchServer(ctx, cmd.Flags(), loaded, d.reload)
			})
		},
	}
	config.ServerFlags(cmd.Flags())
	return cmd
}

// daemon is a running pseudo-server.
type daemon struct {
	cfg   *config.Server
	build operate.Build
	log   *slog.Logger
	level *slog.LevelVar
}

// run is the daemon from its configuration to its end. It calls watch, which follows the configuration until its
// context ends.
func (d *daemon) run(ctx context.Context, watch func(context.Context)) error {
	percent := gcPercent
	if len(d.cfg.Upstream.Addresses) > 0 {
		percent = gcPercentUpstream
	}
	if _, err := operate.LimitMemory(percent, operate.ServerShare, d.log); err != nil {
		d.log.Warn("no memory limit", "error", err)
	}
	if m := d.cfg.Limits.Memory; m > 0 {
		debug.SetMemoryLimit(m / 10 * 8)
	}
	backend, err := openBackend(ctx, d.cfg.Store)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var easing sync.WaitGroup
	easing.Go(func() { operate.EaseCollector(ctx, percent) })
	err = d.serve(ctx, backend, watch)
	cancel()
	easing.Wait()
	return errors.Join(err, backend.Close())
}

func (d *daemon) serve(ctx context.Context, backend store.Backend, watch func(context.Context)) error {
	cfg := d.cfg
	audit, err := openAudit(cfg.Access.AuditFile, d.log)
	if err != nil {
		return err
	}
	defer audit.close()
	who, err := access(cfg, d.log)
	if err != nil {
		return err
	}
	d.tellAccess(ctx, &who)
	who.Hosts = cfg.HTTP.AllowedHosts
	if name, _, err := net.SplitHostPort(cfg.Listen.HTTP); err == nil && name != "" {
		who.Hosts = append(slices.Clip(who.Hosts), name)
	}
	registry := operate.NewRegistry("pseudo_server", d.build)
	parts, err := d.assemble(ctx, backend, registry, receiver.Options{Audit: audit.log, Access: who})
	if err != nil {
		return err
	}
	defer parts.close()
	recv, elect, view := parts.receiver, parts.elector, parts.viewer
	web := operate.New(operate.Options{
		Program: "pseudo-server", Build: d.build, Pprof: cfg.HTTP.PProf, Registry: registry, Logger: d.log,
		Live:  parts.live(),
		Ready: []operate.Check{{Name: "storage", Probe: func() error { return recv.Check(ctx) }}},
		Parts: parts.status(), //nolint:contextcheck // a status belongs to no request
		Guard: recv.Guard,
		Extra: handlers(recv.API(slices.Concat(parts.fleet.Routes(), elect.Routes(), view.Routes(), parts.front.Routes(), parts.upkeep.Routes())...)),
	})
	creds, err := grpcCredentials(cfg.TLS, recv, d.log)
	if err != nil {
		return err
	}
	grpcListener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen.GRPC)
	if err != nil {
		return fmt.Errorf("listen.grpc: %w", err)
	}
	httpListener, err := listenHTTP(ctx, cfg.Listen.HTTP, cfg.HTTP.TLS, d.log)
	if err != nil {
		return errors.Join(err, grpcListener.Close())
	}
	d.log.Info("pseudo-server runs", "version", d.build.Version, "grpc", grpcListener.Addr().String(), "tls", cfg.TLS.Enabled,
		"http", httpListener.Addr().String(), "http_tls", cfg.HTTP.TLS.Enabled, "store", cfg.Store.Type)

	g, ctx := errgroup.WithContext(ctx)
	server := parts.grpcServer(creds) //nolint:contextcheck // each request brings its own
	g.Go(func() error { return server.Serve(recv.LimitConnections(grpcListener)) })
	g.Go(func() error {
		<-ctx.Done()
		stop(server)
		return nil
	})
	g.Go(func() error { return web.Serve(ctx, httpListener) })
	parts.run(ctx, g)
	g.Go(func() error {
		watch(ctx)
		return nil
	})
	err = g.Wait()
	d.log.Info("pseudo-server ends", "error", err)
	return err
}

// reload takes over a changed configuration file: what can change while running at once, everything else is named and
// holds from the next start. A file that is wrong changes nothing.
func (d *daemon) reload(loaded *config.Loaded[config.Server], err error) {
	if err == nil {
		err = logging.SetLevel(d.level, loaded.Config.Log.Level)
	}
	if err != nil {
		d.log.Error("configuration file refused; the former configuration stays in force", "error", err)
		return
	}
	for _, c := range config.ServerChanges(d.cfg, &loaded.Config) {
		d.log.Info("configuration changed", "change", c.String(), "from_next_start", !c.Live)
	}
}

// stop lets requests under way end, but not for ever.
func stop(server *grpc.Server) {
	timer := time.AfterFunc(stopTimeout, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
}

func openBackend(ctx context.Context, cfg config.ServerStore) (store.Backend, error) {
	switch cfg.Type {
	case "memory":
		return store.NewMemory(), nil
	case "postgres":
		return asBackend(openPostgres(ctx, cfg))
	default:
		if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
			return nil, fmt.Errorf("store.path: %w", err)
		}
		return asBackend(store.OpenEmbedded(cfg.Path)) //nolint:contextcheck // what it does in the background lasts until Close
	}
}

func openPostgres(ctx context.Context, cfg config.ServerStore) (*store.Postgres, error) {
	dsn, err := connectionString("store.dsn_file", cfg.DSN, cfg.DSNFile)
	if err != nil {
		return nil, err
	}
	standby, err := connectionString("store.standby_dsn_file", cfg.StandbyDSN, cfg.StandbyDSNFile)
	if err != nil {
		return nil, err
	}
	p, err := store.OpenPostgres(ctx, dsn, cfg.MaxConnections)
	if err != nil || standby == "" {
		return p, err
	}
	if err := p.UseStandby(ctx, standby, cfg.MaxConnections, cfg.StandbyMaxAge); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// connectionString is the one given, or what is in the file, whose key is named in errors.
func connectionString(key, dsn, file string) (string, error) {
	if file == "" {
		return dsn, nil
	}
	b, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// asBackend keeps a nil pointer from becoming a Backend that is not nil.
func asBackend[B store.Backend](b B, err error) (store.Backend, error) {
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return b, nil
}

func grpcCredentials(cfg config.ServerTLS, recv *receiver.Receiver, log *slog.Logger) (credentials.TransportCredentials, error) {
	if !cfg.Enabled {
		return nil, nil //nolint:nilnil // plain text
	}
	tlsConfig, err := receiver.ServerTLS(log, tlsFiles(cfg), "h2")
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return recv.Credentials(tlsConfig), nil
}

func tlsFiles(cfg config.ServerTLS) receiver.TLSFiles {
	return receiver.TLSFiles{
		CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, ClientCAFile: cfg.ClientCAFile, RequireClientCert: cfg.RequireClientCert,
	}
}

func listenHTTP(ctx context.Context, address string, cfg config.ServerTLS, log *slog.Logger) (net.Listener, error) {
	var tlsConfig *tls.Config
	if cfg.Enabled {
		var err error
		if tlsConfig, err = receiver.ServerTLS(log, tlsFiles(cfg), "http/1.1"); err != nil {
			return nil, fmt.Errorf("http.tls: %w", err)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen.http: %w", err)
	}
	if tlsConfig != nil {
		l = tls.NewListener(l, tlsConfig)
	}
	return l, nil
}

// access reads the files that the configuration names. All mistakes are told at once.
func access(server *config.Server, log *slog.Logger) (receiver.Access, error) {
	cfg := server.Access
	a := receiver.Access{Teams: cfg.TeamIDs, OnlyBound: cfg.OnlyBound, Clusters: map[string]receiver.Binding{}}
	var errs []error
	var err error
	if a.Anonymous, err = receiver.ParseRole(server.AnonymousRole()); err != nil {
		errs = append(errs, fmt.Errorf("access.anonymous: %w", err))
	}
	for i, c := range cfg.Clusters {
		b := receiver.Binding{CertificateNames: c.CertificateNames}
		if c.TokenFile != "" {
			if b.Token, err = receiver.NewToken(log, c.TokenFile); err != nil {
				errs = append(errs, fmt.Errorf("access.clusters[%d]: %w", i, err))
			}
		}
		a.Clusters[c.ClusterID] = b
	}
	if a.Enroll, err = receiver.ParseEnroll(cfg.Enroll); err != nil {
		errs = append(errs, fmt.Errorf("access.enroll: %w", err))
	}
	for i, t := range cfg.EnrollTokens {
		named := receiver.NamedToken{Name: t.Name}
		if named.Token, err = receiver.NewToken(log, t.TokenFile); err != nil {
			errs = append(errs, fmt.Errorf("access.enroll_tokens[%d]: %w", i, err))
		}
		a.EnrollTokens = append(a.EnrollTokens, named)
	}
	for i, t := range cfg.Tokens {
		u := receiver.APIUser{Name: t.Name, Clusters: t.Clusters}
		if u.Role, err = receiver.ParseRole(t.Role); err != nil {
			errs = append(errs, fmt.Errorf("access.tokens[%d]: %w", i, err))
		}
		if u.Token, err = receiver.NewToken(log, t.TokenFile); err != nil {
			errs = append(errs, fmt.Errorf("access.tokens[%d]: %w", i, err))
		}
		a.Users = append(a.Users, u)
	}
	return a, errors.Join(errs...)
}

// tellAccess says what those without a token get where that follows from the address only, and what to set for another choice.
func (d *daemon) tellAccess(ctx context.Context, who *receiver.Access) {
	if d.cfg.Access.Anonymous != "auto" || who.Anonymous != receiver.RoleNone {
		return
	}
	level, advice := slog.LevelInfo, "give out tokens (access.tokens), or set access.anonymous: read to let everybody read who reaches listen.http"
	if len(who.Users) == 0 {
		level, advice = slog.LevelWarn, "nobody can use them now: set access.tokens, or access.anonymous: read to let everybody read who reaches listen.http"
	}
	d.log.Log(ctx, level, "API, metrics and status need a token, because listen.http is no loopback address and access.anonymous is auto",
		"listen_http", d.cfg.Listen.HTTP, "users", len(who.Users), "advice", advice)
}

// audit is where refusals and administration are recorded.
type audit struct {
	log  *slog.Logger
	file *os.File // nil: the daemon's log
}

func openAudit(path string, log *slog.Logger) (*audit, error) {
	if path == "" {
		return &audit{log: log}, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("access.audit_file: %w", err)
	}
	return &audit{log: slog.New(slog.NewJSONHandler(f, nil)), file: f}, nil
}

func (a *audit) close() {
	if a.file != nil {
		// Every line was written by itself; there is nothing left to lose.
		_ = a.file.Close()
	}
}

func limits(l config.ServerLimits) receiver.Limits {
	return receiver.Limits{
		MaxMessageSize: int(l.MaxMessageSize), MaxEntrySize: l.MaxEntrySize, MaxSnapshotSize: l.MaxSnapshotSize, MaxEntries: l.MaxEntries,
		MaxClusters: l.MaxClusters, MaxRetained: l.MaxRetainedEntries, MaxConcurrentRequests: l.MaxConcurrentRequests,
		MaxWaitingRequests: l.MaxWaitingRequests, MaxConnections: l.MaxConnections, RequestsPerMinute: l.RequestsPerMinute,
		RequestTimeout: l.RequestTimeout, MinReceiveRate: l.MinReceiveRate, Memory: l.Memory,
	}
}

// memory is what the program may use, in bytes: limits.memory, the container's or GOMEMLIMIT; 0 if nothing bounds it.
func memory() int64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}
