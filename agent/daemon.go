package agent

import (
	"context"
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/discovery"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/check/advisor"
	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/internal/leader"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/relations"
	"github.com/pseudo-agent/pseudo-agent/reporter"
	"github.com/pseudo-agent/pseudo-agent/resources"
	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// daemon wires the parts of pseudo-agent: informers → relations → snapshot → reporter.
type daemon struct {
	cfg      *config.Agent // as of the start
	build    operate.Build
	log      *slog.Logger
	level    *slog.LevelVar
	registry *prometheus.Registry
	around   Surroundings

	access     *rest.Config                 // nil if nothing is watched
	reread     func() (*rest.Config, error) // rereads access
	projection resources.Options
	fold       *snapshot.Fold
	relations  *relations.Relations
	namespaces *namespaceSink // before relations
	advisor    *advisor.Advisor
	reporter   *reporter.Reporter
	election   *leader.Election // nil without high availability
	reports    *operate.Pulse
	lists      *operate.Pulse
	lag        *operate.Trace

	// tooLarge says that a snapshot exceeded the limit, with projection.when_too_large: drop_annotations.
	tooLarge chan struct{}
	// watchWanted carries the server's wish to watch, in policy normal.
	watchWanted chan bool
	groupConfig chan string

	applying sync.Mutex // one change of the selection at a time

	mu       sync.Mutex // guards what follows
	set      *informers.Set
	local    config.KubernetesResources  // of the configuration in force
	group    *config.KubernetesResources // of the agent group, with config_from_server
	choice   config.AgentSelection       // of the configuration in force
	selected []resources.Selected
	watched  map[string]bool // ids that may have entries
	working  time.Time       // when this replica began to work; zero: it is on standby
	grouped  bool            // the agent group's configuration has been heard
	lean     time.Time       // since when annotations are left out because a snapshot was too large; zero: they are not
	refused  *refusal
	restart  []string // keys whose new values hold from the next start
}

// refusal is a changed configuration that is not in force because it is wrong.
type refusal struct {
	source string
	err    error
	since  time.Time
}

const (
	// The reporter asks its source every second; a throttled CPU may hold it up.
	reportsLimit = 2 * time.Minute
	// The informers' loop asks the discovery of every group in turn, each for up to 15 s if the apiserver does not answer.
	listsLimit = 10 * time.Minute
	// groupPatience is how long the first report waits for the agent group's configuration, with config_from_server: a
	// report of another selection would make the server delete what that one lacks.
	groupPatience = time.Minute
)

func newDaemon(cfg *config.Agent, build operate.Build, log *slog.Logger, level *slog.LevelVar, registry *prometheus.Registry,
	around Surroundings,
) (*daemon, error) {
	d := &daemon{
		cfg: cfg, build: build, around: around, log: log, level: level, registry: registry,
		local:       cfg.Inputs.Resources.Kubernetes,
		choice:      cfg.Selection,
		lag:         operate.NewTrace(lagKept),
		watchWanted: make(chan bool, 1),
		groupConfig: make(chan string, 1),
		tooLarge:    make(chan struct{}, 1),
	}
	var err error
	if d.selected, err = resources.Select(d.local.APIResources, d.choice.In(&d.local)); err != nil {
		return nil, fmt.Errorf("inputs.resources.kubernetes: %w", err)
	}
	if err := d.openCluster(); err != nil {
		return nil, err
	}
	if cfg.HighAvailability.Enabled {
		if err := d.joinElection(); err != nil {
			return nil, err
		}
	}
	registry.MustRegister(NewLeanGauge(func() bool { return !d.leanSince().IsZero() }))
	d.reports = operate.NewPulse("reporter", reportsLimit, nil)
	d.lists = operate.NewPulse("informers", listsLimit, nil)
	d.fold = snapshot.New(around.Now)
	d.relations = relations.New(relations.Options{Fold: d.fold, Log: log, Registerer: registry})
	d.namespaces = &namespaceSink{Sink: d.relations, changed: d.namespacesChanged}
	d.advisor = advisor.New(advisor.Options{
		Entries: d.entries, Resolver: d.resolver(), NodeExternalIP: cfg.Projection.NodeExternalIP, Log: log, Registerer: registry,
	})
	d.advisor.Configure(d.local.APIResources, d.selected)
	if d.reporter, err = reporter.New(d.reporterOptions()); err != nil {
		return nil, err //nolint:wrapcheck // it names the key
	}
	return d, nil
}

// openCluster finds the access to the apiserver, unless nothing is to be watched.
func (d *daemon) openCluster() error {
	if d.cfg.WatchPolicy == string(reporter.WatchDisabled) {
		return nil
	}
	k := d.cfg.Kubernetes
	d.reread = func() (*rest.Config, error) { return informers.RESTConfig(k.Kubeconfig, k.Context, userAgent(d.build)) }
	if d.around.Cluster != nil {
		d.reread = d.around.Cluster
	}
	access, err := d.reread()
	if err != nil {
		return fmt.Errorf("kubernetes.kubeconfig %q, kubernetes.context %q: %w", k.Kubeconfig, k.Context, err)
	}
	access.QPS, access.Burst = float32(k.QPS), k.Burst
	d.access = access
	d.projection, err = projectionOptions(d.cfg.Projection, access)
	return err
}

// minFIPSKey is the length in bytes (112 bits) below which FIPS 140 knows no HMAC key (NIST SP 800-131A).
const minFIPSKey = 14

// projectionOptions maps the configuration. The key of the hashes that stand for literal env values is the operator's,
// or derived from the cluster's certificate authority: the same in every replica and after every restart.
func projectionOptions(p config.AgentProjection, access *rest.Config) (resources.Options, error) {
	opts := resources.Options{
		PodEnv: p.PodEnv, ConfigMapData: p.ConfigMapData, LiteralEnv: p.LiteralEnv, GenerateName: p.GenerateName,
		NodeExternalIP:  p.NodeExternalIP,
		AnnotationLimit: p.AnnotationLimit, Annotations: p.Annotations,
		CredentialWords: p.CredentialWords,
	}
	if p.HashKeyFile != "" {
		key, err := os.ReadFile(p.HashKeyFile)
		if err != nil {
			return opts, fmt.Errorf("projection.hash_key_file: %w", err)
		}
		if len(key) == 0 {
			return opts, fmt.Errorf("projection.hash_key_file: %s is empty; put at least 16 random bytes into it", p.HashKeyFile)
		}
		if fips140.Enforced() && len(key) < minFIPSKey {
			return opts, fmt.Errorf("projection.hash_key_file: %s has %d bytes; where FIPS 140 is enforced a key needs at least %d, "+
				"better 32 random ones", p.HashKeyFile, len(key), minFIPSKey)
		}
		opts.HashKey = key
		return opts, nil
	}
	ca, err := informers.CAData(access)
	if err != nil {
		return opts, err //nolint:wrapcheck // it names the file
	}
	sum := sha256.Sum256(slices.Concat([]byte("pseudo-agent env\n"+access.Host+"\n"), ca))
	if len(ca) > 0 {
		sum = sha256.Sum256(slices.Concat([]byte("pseudo-agent env\n"), ca))
	}
	opts.HashKey = sum[:]
	return opts, nil
}

func (d *daemon) resolver() advisor.Resolver {
	if d.access == nil {
		return nil
	}
	access := rest.CopyConfig(d.access)
	access.Timeout = 10 * time.Second
	client, err := discovery.NewDiscoveryClientForConfig(access)
	if err != nil {
		d.log.Warn("the advisor has to guess the names of resources", "error", err)
		return nil
	}
	return advisor.NewDiscovery(client)
}

func (d *daemon) joinElection() error {
	if d.access == nil {
		return errors.New("high_availability.enabled: watch_policy watch-disabled watches nothing; switch one of them off")
	}
	h := d.cfg.HighAvailability
	httpClient, err := informers.HTTPClient(d.access, d.reread, d.log)
	if err != nil {
		return fmt.Errorf("high_availability: %w", err)
	}
	client, err := coordinationv1.NewForConfigAndClient(d.access, httpClient)
	if err != nil {
		return fmt.Errorf("high_availability: %w", err)
	}
	identity := h.Identity
	if identity == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("high_availability.identity: %w", err)
		}
		// A restarted container has its predecessor's host name, but not its lease.
		identity = host + "_" + rand.Text()[:8]
	}
	d.election = leader.New(leader.Options{
		Client: client, Namespace: leaseNamespace(d.cfg), Name: h.LeaseName, Identity: identity,
		LeaseDuration: h.LeaseDuration, RenewDeadline: h.RenewDeadline, RetryPeriod: h.RetryPeriod,
		Logger: d.log, Registerer: d.registry,
	})
	return nil
}

func (d *daemon) reporterOptions() reporter.Options {
	c := d.cfg
	opts := reporter.Options{
		Logger: d.log, Registerer: d.registry,
		Addresses: c.Server.Addresses, Service: c.Server.Service, SourceIP: c.Server.SourceIP, TokenFile: c.Server.TokenFile,
		ConnectTimeout: c.Server.ConnectTimeout, RequestTimeout: c.Server.RequestTimeout,
		MaxMessageSize: int(c.Server.MaxMessageSize),
		ClusterID:      c.ClusterID, ClusterName: c.ClusterName, TeamID: c.TeamID, AgentGroupID: c.AgentGroupID,
		Debounce: c.Report.Debounce, PushInterval: c.Inputs.Resources.PushInterval,
		HeartbeatInterval: c.Report.HeartbeatInterval, KeepaliveInterval: c.Report.KeepaliveInterval,
		FullResyncInterval: c.Report.FullResyncInterval, ShutdownTimeout: c.Report.ShutdownTimeout,
		Policy: reporter.Policy(c.WatchPolicy), ClaimWatcher: c.ClaimWatcher, RegisterAsAgent: c.RegisterAsAgent,
		TLS: clientTLS(c.Server.TLS), Revision: d.build.Version, Beat: d.reports.Beat,
		Dial: d.around.Dial, Random: d.around.Random,
	}
	if c.Projection.WhenTooLarge == dropAnnotations {
		opts.OnTooLarge = func() { latest(d.tooLarge, struct{}{}) }
	}
	if d.access != nil {
		opts.Source = source{d}
		opts.CA = func(ctx context.Context) ([]byte, error) { return informers.ClusterCA(ctx, d.access) }
	}
	if auto, id := c.Server.ParseAgentID(); !auto {
		opts.AgentID = &id
	}
	if opts.Policy == reporter.Normal {
		opts.OnWatching = func(watch bool) { latest(d.watchWanted, watch) }
	}
	if c.ConfigFromServer {
		opts.OnUserConfig = func(yaml string) { latest(d.groupConfig, yaml) }
	}
	if d.election != nil {
		opts.MaySend = d.election.MaySend
	}
	return opts
}

// latest puts v into a channel of one place, in which only the last value counts. There is one sender.
func latest[T any](ch chan T, v T) {
	select {
	case <-ch:
	default:
	}
	ch <- v
}

// run works until ctx ends, as the leader if there is more than one replica.
func (d *daemon) run(ctx context.Context) error {
	if d.election == nil {
		return d.work(ctx)
	}
	return d.election.Run(ctx, d.work) //nolint:wrapcheck // it names the lease
}

// work watches and reports. The reporter outlives the informers, so that it can send what they saw last.
func (d *daemon) work(ctx context.Context) error {
	d.mu.Lock()
	d.working = time.Now()
	d.mu.Unlock()
	d.reports.Beat()
	d.lists.Beat()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.reporter.Run(ctx) })
	if d.access == nil {
		return g.Wait() //nolint:wrapcheck // wrapped by the reporter
	}
	g.Go(func() error { return d.watch(ctx) })
	g.Go(func() error { return d.advisor.Run(ctx) })
	if d.cfg.ConfigFromServer {
		g.Go(func() error {
			d.followGroup(ctx)
			return nil
		})
	}
	return g.Wait() //nolint:wrapcheck // wrapped by the parts
}

// watch runs the informers: always, or in policy normal while the server wishes it.
func (d *daemon) watch(ctx context.Context) error {
	if d.cfg.WatchPolicy != string(reporter.Normal) {
		return d.runInformers(ctx)
	}
	var informing *task
	defer func() {
		if informing != nil {
			_ = informing.stop() // the context's end
		}
	}()
	for {
		var ended <-chan struct{} // nil: nothing to end
		if informing != nil {
			ended = informing.ended
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			return informing.stop()
		case wanted := <-d.watchWanted:
			switch {
			case wanted && informing == nil:
				d.log.Info("watching, as the server wishes")
				informing = start(ctx, d.runInformers)
			case !wanted && informing != nil:
				d.log.Info("no longer watching, as the server wishes")
				if err := informing.stop(); err != nil {
					return err
				}
				informing = nil
				d.forget()
			}
		}
	}
}

// task is a function that runs in a goroutine of its own.
type task struct {
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // may be read once ended is closed
}

func start(ctx context.Context, f func(context.Context) error) *task {
	ctx, cancel := context.WithCancel(ctx)
	t := &task{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		t.err = f(ctx)
	}()
	return t
}

// stop ends the function, waits for it and returns its error.
func (t *task) stop() error {
	t.cancel()
	<-t.ended
	return t.err
}

// runInformers watches until ctx ends, or watching fails. What was watched stays, so that the reporter can send what was
// seen last. A snapshot that is too large begins it anew without annotations, if that is configured.
func (d *daemon) runInformers(ctx context.Context) error {
	informing := start(ctx, d.informOnce)
	select {
	case <-informing.ended:
		return informing.stop()
	case <-d.tooLarge:
	}
	if err := informing.stop(); err != nil {
		return err
	}
	d.leanFrom(time.Now())
	return d.informOnce(ctx)
}

// informOnce watches with the projection in force until ctx ends.
func (d *daemon) informOnce(ctx context.Context) error {
	d.lists.Beat() // it may have stood still since the last time
	registered := &scopedRegisterer{Registerer: d.registry}
	defer registered.release()
	d.mu.Lock()
	res := d.resourcesInForce()
	projection := d.projection
	if !d.lean.IsZero() {
		projection.Annotations = resources.OnlyParsed()
	}
	set, err := informers.New(informers.Options{
		Config: d.access, Reload: d.reread, Selected: d.selected, Projection: projection, Sink: d.namespaces,
		Logger: d.log, Registerer: registered, ContentType: d.cfg.Kubernetes.ContentType,
		PageSize: res.APIListPageSize, RelistInterval: res.APIListMaxInterval, Beat: d.lists.Beat,
		Memory: entryMemory(),
	})
	d.set = set
	d.watched = map[string]bool{informers.VersionID: true}
	d.remember(d.selected)
	d.mu.Unlock()
	if err != nil {
		return err //nolint:wrapcheck // it says what is wrong with the access
	}
	return set.Run(ctx) //nolint:wrapcheck // wrapped by the informers
}

// entryMemory is what entries may take, in bytes: three quarters of what the garbage collector keeps to, which is the
// container's memory or GOMEMLIMIT; 0 if there is no limit.
func entryMemory() int64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return 0
	}
	return limit / 4 * 3
}

// remember notes whose entries forget has to drop. d.mu is held.
func (d *daemon) remember(selected []resources.Selected) {
	if d.watched == nil {
		return // nothing is watched
	}
	for _, sel := range selected {
		d.watched[sel.ID] = true
	}
}

// forget drops what informers that have ended leave behind, because others will watch before these do again.
func (d *daemon) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set = nil
	for id := range d.watched {
		d.relations.Remove(id)
	}
	d.watched = nil
	d.namespaces.forget()
}

// resourcesInForce are those of the agent group if it has any, else those of the configuration. d.mu is held.
func (d *daemon) resourcesInForce() *config.KubernetesResources {
	if d.group != nil {
		return d.group
	}
	return &d.local
}

// scopedRegisterer remembers what was registered through it, for informers that are made more than once.
type scopedRegisterer struct {
	prometheus.Registerer
	collectors []prometheus.Collector
}

func (s *scopedRegisterer) MustRegister(cs ...prometheus.Collector) {
	s.Registerer.MustRegister(cs...)
	s.collectors = append(s.collectors, cs...)
}

func (s *scopedRegisterer) release() {
	for _, c := range s.collectors {
		s.Unregister(c)
	}
}

// verdict is the informers', false before they have been made.
func (d *daemon) verdict(now time.Time) (informers.Verdict, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.verdictLocked(now)
}

func (d *daemon) verdictLocked(now time.Time) (informers.Verdict, bool) {
	if d.set == nil {
		return informers.Verdict{}, false
	}
	v := d.set.Verdict(now)
	if d.cfg.ConfigFromServer && !d.grouped && now.Sub(d.working) < groupPatience {
		v.Complete = false
		v.Waiting = append(v.Waiting, "the agent group's configuration")
	}
	return v, true
}

// entries are what is reported now, nil before everything is listed.
func (d *daemon) entries() []*resources.Entry {
	if v, ok := d.verdict(time.Now()); !ok || !v.Complete {
		return nil
	}
	current := d.fold.Current()
	if current == nil {
		return nil
	}
	return slices.Collect(current.All())
}

// source is what the reporter reports.
type source struct{ d *daemon }

func (s source) Changed() <-chan struct{} { return s.d.fold.Changed() }

func (s source) State(now time.Time) (complete bool, problems []string) {
	v, ok := s.d.verdict(now)
	return ok && v.Complete, v.Errors
}

func (s source) Take() *snapshot.Snapshot {
	// One lock over both: informers that stop empty the fold, which must not be taken for an empty cluster.
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if v, ok := s.d.verdictLocked(time.Now()); !ok || !v.Complete {
		return nil
	}
	return s.d.fold.Take()
}

func (s source) Renew() { s.d.fold.Renew() }

func (s source) Observe(version uint64) { s.d.fold.Observe(version) }
