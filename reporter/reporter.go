// Package reporter is the client side of KubernetesAPISync: it decides when to send what to deepflow-server, and sends it.
//
// It relies on a Source for complete snapshots and for the errors that the server has to be told, and on docs/protocol.md
// for how servers behave. One goroutine runs one state machine (machine.go holds its table); the network is behind a small
// interface, so that the machine is tested without it and under synthetic time. It promises that no partial or mixed
// content is sent, that one version has one content, that after any faults the server ends with the current snapshot, and
// that no server is asked more often than the configured intervals and the backoff allow.
package reporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// Source is what the reporter reports. Its methods are called from the reporter's goroutine.
type Source interface {
	// Changed delivers a value after something may have changed: content, completeness or errors.
	Changed() <-chan struct{}
	// State tells whether a full report may go out, and what is wrong. It is asked again every second, because some
	// errors come and go with time alone. Errors are told to the server, which then keeps its old data for the whole
	// cluster: only what really prevents a true report belongs in them.
	State(now time.Time) (complete bool, problems []string)
	// Take returns the current content, or nil if it is not complete. Unchanged content keeps its version.
	Take() *snapshot.Snapshot
	// Renew makes the next Take return a new version even if the content is unchanged.
	Renew()
	// Observe takes note of a version that a server answered; later snapshots get greater ones.
	Observe(version uint64)
}

// Policy is what the operator wants this agent to do about watching (docs/protocol.md, section 7).
type Policy string

// The policies. WatchOnly watches and reports in any case, and claims the watcher role if ClaimWatcher is set. Normal
// watches and reports only while the server's Sync response asks for it. WatchDisabled reports nothing.
const (
	WatchOnly     Policy = "watch-only"
	Normal        Policy = "normal"
	WatchDisabled Policy = "watch-disabled"
)

// DefaultCAFile is where Kubernetes mounts the CA certificate from which a cluster id is derived.
const DefaultCAFile = "/run/secrets/kubernetes.io/serviceaccount/ca.crt"

// maxInterval bounds the configurable intervals: together with timeouts and backoff, two requests stay less than the 24
// hours apart after which a server forgets the cluster.
const maxInterval = 12 * time.Hour

// Options configure a Reporter. The zero value of a field means its default.
type Options struct {
	// Source is what to report; required unless Policy is WatchDisabled.
	Source Source
	// Logger gets one line per event; default slog.Default().
	Logger *slog.Logger
	// Registerer gets the metrics; nil means that they are not registered.
	Registerer prometheus.Registerer

	// Addresses are "host:port", tried in order; a DNS name may stand for several servers. Required.
	Addresses []string
	// Service is "auto" (agent first, then trident; the default), "agent" or "trident".
	Service string
	// TLS switches encryption on; nil means plain text.
	TLS *TLS
	// TokenFile holds the bearer token of each request, reread every time; empty: none. It needs TLS.
	TokenFile string
	// SourceIP is told to the server instead of the connection's local address.
	SourceIP string
	// ConnectTimeout bounds name resolution, TCP and TLS together; default 5 s.
	ConnectTimeout time.Duration
	// RequestTimeout is the deadline of each request; default 30 s.
	RequestTimeout time.Duration
	// MaxMessageSize in bytes: a larger report is not sent but told; default 100 MiB, the server's own limit.
	MaxMessageSize int

	// ClusterID as the operator gave it; empty: derived by the server from CAFile.
	ClusterID string
	// CAFile is read only if ClusterID is empty; default DefaultCAFile.
	CAFile string
	// CA, if set, is called instead of reading CAFile, for clusters whose certificate is not in a file.
	CA func() ([]byte, error)
	// ClusterName, TeamID and AgentGroupID are passed on to the server.
	ClusterName, TeamID, AgentGroupID string
	// AgentID nil means a stable id derived from the cluster id. 0 switches the version handshake off.
	AgentID *uint32

	// Debounce is the time from the first change after quiet to its report; default 1 s.
	Debounce time.Duration
	// PushInterval is the least time between two changed snapshots; default 10 s.
	PushInterval time.Duration
	// HeartbeatInterval is the time between requests while nothing changes; default 60 s, at most 12 h.
	HeartbeatInterval time.Duration
	// KeepaliveInterval is the time between full reports with agent id 0, which heartbeats cannot serve; default 10 min,
	// at most 12 h.
	KeepaliveInterval time.Duration
	// FullResyncInterval is the time after which a full report goes out under a new version even if nothing changed,
	// because a server can lose what it acknowledged; default 1 h, at most 12 h.
	FullResyncInterval time.Duration
	// ShutdownTimeout bounds the flush of a pending change when Run's context ends; default 10 s.
	ShutdownTimeout time.Duration

	// Policy defaults to WatchOnly. Normal is refused without RegisterAsAgent.
	Policy Policy
	// ClaimWatcher makes a WatchOnly agent take the cluster's watcher role by Sync, so that no other agent watches too.
	ClaimWatcher bool
	// RegisterAsAgent permits Syncs by which a deepflow-server registers the sender as an agent.
	RegisterAsAgent bool
	// WatcherLease is how long, in policy Normal, a server's wish to watch holds without being repeated; default 10 min.
	WatcherLease time.Duration
	// Host is told as the host name; default os.Hostname, which in a Pod is the Pod's name.
	Host string
	// ProcessName and Revision are told by Sync; default "pseudo-agent" and empty.
	ProcessName, Revision string

	// OnWatching, if set, is told each change of whether to watch. It is called in the reporter's goroutine and must
	// return at once. Not called in the policies other than Normal.
	OnWatching func(watch bool)
	// OnUserConfig, if set, gets the agent group's configuration (YAML) when it first comes and whenever it changes. It is
	// called in the reporter's goroutine and must return at once.
	OnUserConfig func(yaml string)
	// MaySend, if set, is asked before each request: false forbids it, and the request's deadline is not later than the
	// returned one (zero: no bound). High availability uses it to let requests end before the lease does.
	MaySend func() (deadline time.Time, ok bool)
	// Beat, if set, is called in every turn of the reporter's loop, at least once a second, whatever the policy and
	// state: a liveness probe can tell by it that the loop is not stuck.
	Beat func()
}

var clusterIDPattern = regexp.MustCompile(`^[0-9a-zA-Z][-0-9a-zA-Z]{0,31}$`)

func (o *Options) complete() error {
	var errs []error
	orDuration := func(d *time.Duration, def, least time.Duration, key string) {
		switch {
		case *d == 0:
			*d = def
		case *d < least || *d > maxInterval:
			errs = append(errs, fmt.Errorf("%s: %v is not allowed, want %v to %v", key, *d, least, maxInterval))
		}
	}
	orDuration(&o.ConnectTimeout, 5*time.Second, time.Millisecond, "connect_timeout")
	orDuration(&o.RequestTimeout, 30*time.Second, time.Millisecond, "request_timeout")
	orDuration(&o.Debounce, time.Second, time.Millisecond, "debounce")
	orDuration(&o.PushInterval, 10*time.Second, time.Second, "push_interval")
	orDuration(&o.HeartbeatInterval, time.Minute, time.Second, "heartbeat_interval")
	orDuration(&o.KeepaliveInterval, 10*time.Minute, time.Second, "keepalive_interval")
	orDuration(&o.FullResyncInterval, time.Hour, time.Minute, "full_resync_interval")
	orDuration(&o.ShutdownTimeout, 10*time.Second, time.Millisecond, "shutdown_timeout")
	orDuration(&o.WatcherLease, 10*time.Minute, 2*time.Minute, "watcher lease")
	orString := func(s *string, def string) {
		if *s == "" {
			*s = def
		}
	}
	orString(&o.Service, "auto")
	orString(&o.CAFile, DefaultCAFile)
	if o.CA == nil {
		o.CA = func() ([]byte, error) { return os.ReadFile(o.CAFile) }
	}
	orString(&o.ProcessName, "pseudo-agent")
	orString((*string)(&o.Policy), string(WatchOnly))
	if o.Host == "" {
		host, err := os.Hostname()
		if err != nil {
			errs = append(errs, fmt.Errorf("host name: %w", err))
		}
		o.Host = host
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MaxMessageSize == 0 {
		o.MaxMessageSize = protocol.MaxMessageSize
	}
	if o.MaxMessageSize < 0 {
		errs = append(errs, fmt.Errorf("max_message_size: %d is not allowed, want more than 0", o.MaxMessageSize))
	}
	switch o.Service {
	case "auto", "agent", "trident":
	default:
		errs = append(errs, fmt.Errorf("service: %q is not allowed, want auto, agent or trident", o.Service))
	}
	switch o.Policy {
	case WatchOnly, WatchDisabled:
	case Normal:
		if !o.RegisterAsAgent {
			errs = append(errs, errors.New("watch_policy: normal needs register_as_agent: true, because a deepflow-server "+
				"registers whoever asks it for this policy as an agent"))
		}
	default:
		errs = append(errs, fmt.Errorf("watch_policy: %q is not allowed, want watch-only, normal or watch-disabled", o.Policy))
	}
	if o.ClusterID != "" && !clusterIDPattern.MatchString(o.ClusterID) {
		errs = append(errs, fmt.Errorf("cluster_id: %q is not allowed, want %s", o.ClusterID, clusterIDPattern))
	}
	if o.Policy != WatchDisabled && o.Source == nil {
		errs = append(errs, errors.New("no source to report from"))
	}
	if o.TokenFile != "" && o.TLS == nil {
		errs = append(errs, errors.New("server.token_file: a token is sent over TLS only; set server.tls.enabled"))
	}
	if len(o.Addresses) == 0 {
		errs = append(errs, errors.New("server.addresses: no server is given, want at least one host:port"))
	}
	for _, a := range o.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			errs = append(errs, fmt.Errorf("server.addresses: %q is not host:port: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

// Reporter reports one cluster to one server at a time.
type Reporter struct {
	opts  Options
	log   *slog.Logger
	net   transport
	stats *metrics

	mu sync.Mutex // guards m against Status and the gauges; only Run's goroutine changes it
	m  *machine
}

// New returns a Reporter, or an error that names every wrong option.
func New(opts Options) (*Reporter, error) {
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("reporter: %w", err)
	}
	return newReporter(opts, newClient(&opts), rand.Float64), nil
}

// newReporter wires a Reporter to any transport; random returns numbers in [0, 1).
func newReporter(opts Options, net transport, random func() float64) *Reporter {
	r := &Reporter{opts: opts, log: opts.Logger, net: net}
	r.stats = newMetrics(r.opts.MaxMessageSize)
	r.m = newMachine(&r.opts, r.log, r.stats, random)
	r.stats.register(opts.Registerer, r)
	return r
}

// outcome is the result of one request of the reporting lane or the claiming lane.
type outcome struct {
	action  action
	session session // of a connect
	version uint64
	id      string
	caMD5   string
	sync    syncAnswer
	err     error
	took    time.Duration
}

// pollInterval is how often the Source's state is asked without a signal.
const pollInterval = time.Second

// Run reports until ctx ends, then flushes a pending change, gives the watcher role back where the server understands
// that, and returns nil. It must be called once.
func (r *Reporter) Run(ctx context.Context) error {
	// Requests outlive ctx, so that the one in flight can end and a pending change can be flushed.
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	var current session
	defer func() {
		cancel()
		wg.Wait()
		if current != nil {
			current.close()
		}
	}()

	results := make(chan outcome, 2) // one per lane, so that no request ever waits to deliver
	start := func(a action) {
		s := current
		wg.Go(func() { results <- r.do(requests, s, a) })
	}
	var changed <-chan struct{}
	if r.opts.Source != nil {
		changed = r.opts.Source.Changed()
	}
	r.log.Info("reporter starts", "servers", r.opts.Addresses, "policy", r.opts.Policy, "cluster_id", r.opts.ClusterID)
	stop := ctx.Done()
	lostSeen, pseudo := false, false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var lost <-chan struct{}
		if current != nil && !lostSeen {
			lost = current.lost()
		}
		select {
		case <-timer.C:
		case <-changed:
			r.locked(func(now time.Time) { r.m.changed(now) })
		case <-lost:
			lostSeen = true
			r.locked(func(now time.Time) { r.m.lost(now) })
		case o := <-results:
			if o.session != nil {
				current, lostSeen = o.session, false
			}
			r.locked(func(now time.Time) { r.m.done(now, o) })
		case <-stop:
			stop = nil
			r.locked(func(now time.Time) { r.m.stop(now) })
		}

		if r.opts.Beat != nil {
			r.opts.Beat()
		}
		var actions []action
		var wake time.Time
		var finished, advance bool
		r.locked(func(now time.Time) {
			if current != nil && !r.m.connected && !r.m.busy {
				// A Sync that is still under way is cut off by this; its result is for a session that is gone.
				pseudo = current.pseudoServer()
				current.close()
				current = nil
			}
			actions, wake = r.m.step(now)
			finished, advance = r.m.finished(now), r.m.takeAdvance()
		})
		if advance {
			r.net.next()
		}
		if finished {
			if current != nil {
				pseudo = current.pseudoServer()
			}
			if pseudo {
				current = r.goodbye(requests, current)
			}
			r.log.Info("reporter ends", "unreported_changes", r.Status().Pending)
			return nil
		}
		for _, a := range actions {
			start(a)
		}
		timer.Reset(time.Until(wake))
	}
}

func (r *Reporter) locked(f func(now time.Time)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(time.Now())
}

// do carries out one action. It runs in a goroutine of its own.
func (r *Reporter) do(ctx context.Context, s session, a action) outcome {
	o := outcome{action: a}
	begin := time.Now()
	timeout := r.opts.RequestTimeout
	if a.kind == doConnect {
		timeout = r.opts.ConnectTimeout
	}
	deadline := begin.Add(timeout)
	if !a.deadline.IsZero() && a.deadline.Before(deadline) {
		deadline = a.deadline
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	switch a.kind {
	case doConnect:
		o.session, o.err = r.net.connect(ctx)
	case doName, doRename:
		o.caMD5, o.err = caMD5(r.opts.CA)
		switch {
		case o.err != nil:
			o.err = &stageError{causeClusterID, o.err}
		case a.kind == doRename && o.caMD5 == a.caMD5:
			o.id = a.known
		default:
			o.id, o.err = s.clusterID(ctx, o.caMD5)
		}
	case doSync:
		o.sync, o.err = s.sync(ctx, a.claim)
	default:
		o.version, o.err = s.report(ctx, a.report)
	}
	o.took = time.Since(begin)
	return o
}

// goodbyeTimeout bounds giving the role back, connection included.
const goodbyeTimeout = 2 * time.Second

// goodbye gives the watcher role back, over s or a new session, which it returns. It is for pseudo-servers only: others
// would take it for one more claim.
func (r *Reporter) goodbye(ctx context.Context, s session) session {
	r.mu.Lock()
	claim, leaseEnd, ok := r.m.goodbye()
	r.mu.Unlock()
	if !ok {
		return s
	}
	deadline := time.Now().Add(goodbyeTimeout)
	if !leaseEnd.IsZero() && leaseEnd.Before(deadline) {
		deadline = leaseEnd
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var err error
	if s == nil {
		s, err = r.net.connect(ctx)
	}
	if err == nil {
		_, err = s.sync(ctx, claim)
	}
	if err != nil {
		r.log.Warn("could not give the watcher role back; it expires by itself", "error", err)
		return s
	}
	r.log.Info("watcher role given back")
	return s
}
