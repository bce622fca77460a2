package reporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/protocol"
)

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

	// Addresses are "host:port", tried in order; a DNS name may stand for several servers. Required, unless Policy
	// is WatchDisabled without RegisterAsAgent.
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
	CA func(context.Context) ([]byte, error)
	// OnTooLarge, if set, is called for each snapshot that exceeds MaxMessageSize. It must not block.
	OnTooLarge func()
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

	// Dial connects to a server; default TCP with keepalive.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Random returns numbers in [0, 1), for the jitter of the backoff; default math/rand/v2.
	Random func() float64
}

var clusterIDPattern = regexp.MustCompile(`^[0-9a-zA-Z][-0-9a-zA-Z]{0,31}$`)

// complete sets the defaults, and returns an error that names every wrong option.
func (o *Options) complete() error {
	return errors.Join(
		o.completeIntervals(), o.completeTexts(), o.checkReporting(), o.checkServer(),
	)
}

// completeIntervals gives each interval its default, or refuses what is out of range.
func (o *Options) completeIntervals() error {
	var errs []error
	for _, d := range []struct {
		value      *time.Duration
		def, least time.Duration
		key        string
	}{
		{&o.ConnectTimeout, 5 * time.Second, time.Millisecond, "connect_timeout"},
		{&o.RequestTimeout, 30 * time.Second, time.Millisecond, "request_timeout"},
		{&o.Debounce, time.Second, time.Millisecond, "debounce"},
		{&o.PushInterval, 10 * time.Second, time.Second, "push_interval"},
		{&o.HeartbeatInterval, time.Minute, time.Second, "heartbeat_interval"},
		{&o.KeepaliveInterval, 10 * time.Minute, time.Second, "keepalive_interval"},
		{&o.FullResyncInterval, time.Hour, time.Minute, "full_resync_interval"},
		{&o.ShutdownTimeout, 10 * time.Second, time.Millisecond, "shutdown_timeout"},
		{&o.WatcherLease, 10 * time.Minute, 2 * time.Minute, "watcher lease"},
	} {
		switch {
		case *d.value == 0:
			*d.value = d.def
		case *d.value < d.least || *d.value > maxInterval:
			errs = append(errs, fmt.Errorf("%s: %v is not allowed, want %v to %v", d.key, *d.value, d.least, maxInterval))
		}
	}
	return errors.Join(errs...)
}

// completeTexts gives everything that is no interval its default.
func (o *Options) completeTexts() error {
	o.Service = cmp.Or(o.Service, "auto")
	o.CAFile = cmp.Or(o.CAFile, DefaultCAFile)
	o.ProcessName = cmp.Or(o.ProcessName, "pseudo-agent")
	o.Policy = cmp.Or(o.Policy, WatchOnly)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	o.MaxMessageSize = cmp.Or(o.MaxMessageSize, protocol.MaxMessageSize)
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3},
		}).DialContext
	}
	if o.CA == nil {
		o.CA = func(context.Context) ([]byte, error) { return os.ReadFile(o.CAFile) }
	}
	if o.Host != "" {
		return nil
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	o.Host = host
	return nil
}

// checkReporting looks at what is reported, and whether it is.
func (o *Options) checkReporting() error {
	var errs []error
	if o.MaxMessageSize < 0 {
		errs = append(errs, fmt.Errorf("max_message_size: %d is not allowed, want more than 0", o.MaxMessageSize))
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
	return errors.Join(errs...)
}

// checkServer looks at how the server is reached.
func (o *Options) checkServer() error {
	var errs []error
	switch o.Service {
	case "auto", "agent", "trident":
	default:
		errs = append(errs, fmt.Errorf("service: %q is not allowed, want auto, agent or trident", o.Service))
	}
	if o.TokenFile != "" && o.TLS == nil {
		errs = append(errs, errors.New("server.token_file: a token is sent over TLS only; set server.tls.enabled"))
	}
	// Without the wish to register, a policy that watches nothing has nothing to tell anybody.
	if len(o.Addresses) == 0 && (o.Policy != WatchDisabled || o.RegisterAsAgent) {
		errs = append(errs, errors.New("server.addresses: no server is given, want at least one host:port"))
	}
	for _, a := range o.Addresses {
		if _, _, err := net.SplitHostPort(a); err != nil {
			errs = append(errs, fmt.Errorf("server.addresses: %q is not host:port: %w", a, err))
		}
	}
	return errors.Join(errs...)
}
