package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/internal/leader"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/reporter"
)

// Surroundings are how a daemon reaches what is outside of its process. The zero value is the machine's own network, and the
// access that kubernetes.kubeconfig names.
type Surroundings struct {
	// Cluster returns the access to the apiserver.
	Cluster func() (*rest.Config, error)
	// Dial connects to a deepflow-server.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the wall clock by which versions are made.
	Now func() time.Time
	// Random returns numbers in [0, 1), for the jitter of the reporter's backoff.
	Random func() float64
}

// Daemon is pseudo-agent without command line and HTTP server, so that several can run in one process among surroundings that
// are simulated (test/simulation).
type Daemon struct{ daemon *daemon }

// NewDaemon returns a daemon of a configuration that is valid.
func NewDaemon(cfg *config.Agent, around Surroundings, log *slog.Logger, registry *prometheus.Registry) (*Daemon, error) {
	d, err := newDaemon(cfg, operate.NewBuild("dev", ""), log, &slog.LevelVar{}, registry, around)
	if err != nil {
		return nil, err
	}
	return &Daemon{d}, nil
}

// Run works until ctx ends. It must be called once.
func (d *Daemon) Run(ctx context.Context) error { return d.daemon.run(ctx) }

// Reload takes over a changed configuration, as of a file that was changed.
func (d *Daemon) Reload(cfg config.Agent) {
	d.daemon.reload(&config.Loaded[config.Agent]{Config: cfg}, nil)
}

// Status is what the reporter says of itself on the status page.
func (d *Daemon) Status() reporter.Status { return d.daemon.reporter.Status() }

// Resources returns what the informers tell of what they watch; nothing while nothing is watched.
func (d *Daemon) Resources() []informers.ResourceStatus {
	st, _ := d.daemon.informersStatus().(informers.Status)
	return st.Resources
}

// LeaseLost tells whether Run ended because another replica may work now: the process has to end and to start again.
func LeaseLost(err error) bool { return errors.Is(err, leader.ErrLost) }
