// Package reporter is the client side of KubernetesAPISync: it decides when to send what to deepflow-server, and sends it.
//
// It relies on a Source for complete snapshots and for the errors that the server has to be told, and on docs/protocol.md
// for how servers behave. One goroutine runs one state machine (machine.go holds its table); the network is behind a small
// interface, so that the machine is tested without it and under synthetic time. It promises that no partial or mixed
// content is sent, that one version has one content, that after any faults the server ends with the current snapshot, and
// that no server is asked more often than the configured intervals and the backoff allow.
package reporter

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

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
	return newReporter(opts, newClient(&opts), opts.Random), nil
}

// newReporter wires a Reporter to any transport; random returns numbers in [0, 1).
func newReporter(opts Options, net transport, random func() float64) *Reporter {
	r := &Reporter{opts: opts, log: opts.Logger, net: net}
	r.stats = newMetrics(r.opts.MaxMessageSize)
	r.m = newMachine(&r.opts, r.log, r.stats, random)
	r.stats.register(opts.Registerer, r)
	return r
}
