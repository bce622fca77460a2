// Package leader lets one of several replicas work at a time, by a Kubernetes Lease.
//
// It relies on client-go's leaderelection and adds two things that a sender needs: the moment until which the lease is
// certainly ours (client-go keeps that to itself), and an order of stopping in which the work has ended before the
// lease is given back. It promises that MaySend never says yes once another replica may have begun.
package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"

	"github.com/pseudo-agent/pseudo-agent/internal/logging"
)

// ErrLost is returned by Run when the lease could not be renewed in time. The process has to end: what it holds may be
// older than what the new leader has reported.
var ErrLost = errors.New("the leader's lease was lost")

// safetyMargin is kept between the end of the last request and the end of the lease, for clocks that run at different
// speeds and for what is still in a socket.
const safetyMargin = time.Second

// Options of an Election. All durations must be positive, with RetryPeriod < RenewDeadline < LeaseDuration.
type Options struct {
	Client    coordinationv1.LeasesGetter
	Namespace string
	Name      string
	// Identity names this replica, uniquely even when a host name is used again.
	Identity      string
	LeaseDuration time.Duration
	RenewDeadline time.Duration
	RetryPeriod   time.Duration
	Logger        *slog.Logger
	Registerer    prometheus.Registerer
}

// Status tells whether this replica works.
type Status struct {
	// State is "Leading" or "Standby".
	State    string    `json:"state"`
	Since    time.Time `json:"since"`
	Identity string    `json:"identity"`
	Leader   string    `json:"leader,omitempty"`
	Lease    string    `json:"lease"`
	// LastError is why the Lease cannot be read or written since ErrorFrom; empty while it can.
	LastError string     `json:"last_error,omitempty"`
	ErrorFrom *time.Time `json:"last_error_since,omitempty"`
}

// Election takes part in the election of the replica that works.
type Election struct {
	opts    Options
	leading prometheus.Gauge

	mu      sync.Mutex
	renewed time.Time
	status  Status
}

// New returns an Election; Run takes part in it.
func New(opts Options) *Election {
	e := &Election{
		opts: opts,
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pseudo_agent_leader",
			Help: "Whether this replica holds the leader's lease (1) or is on standby (0).",
		}),
		status: Status{
			State:    "Standby",
			Since:    time.Now(),
			Identity: opts.Identity,
			Lease:    opts.Namespace + "/" + opts.Name,
		},
	}
	if opts.Registerer != nil {
		opts.Registerer.MustRegister(e.leading)
	}
	return e
}

// MaySend tells whether this replica leads, and until when a request must have ended so that it cannot overlap with
// another leader's. It is checked before every request.
func (e *Election) MaySend() (deadline time.Time, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.renewed.IsZero() {
		return time.Time{}, false
	}
	deadline = e.renewed.Add(e.opts.LeaseDuration - safetyMargin)
	return deadline, time.Now().Before(deadline)
}

// Status tells whether this replica works, and who does.
func (e *Election) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.status
}

// Run waits until this replica is elected and then runs work once. When ctx ends, work is told to stop and waited for,
// then the lease is given back, so that a standby follows at once; Run returns work's error. When the lease is lost,
// work is stopped likewise and the error wraps ErrLost.
func (e *Election) Run(ctx context.Context, work func(context.Context) error) error {
	// The elector outlives ctx: it must go on renewing until the work has ended.
	electorCtx, stopElector := context.WithCancel(klog.NewContext(context.WithoutCancel(ctx), logging.ClientGo(e.opts.Logger)))
	defer stopElector()

	workCtx, stopWork := context.WithCancel(ctx)
	defer stopWork()
	t := &turn{stop: stopWork, ended: make(chan struct{})}
	started := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &observedLock{Interface: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: e.opts.Namespace, Name: e.opts.Name},
			Client:     e.opts.Client,
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.opts.Identity},
		}, election: e, turn: t},
		LeaseDuration:   e.opts.LeaseDuration,
		RenewDeadline:   e.opts.RenewDeadline,
		RetryPeriod:     e.opts.RetryPeriod,
		ReleaseOnCancel: true,
		Name:            e.opts.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(started) },
			OnStoppedLeading: func() {},
			OnNewLeader:      e.sawLeader,
		},
	})
	if err != nil {
		return fmt.Errorf("high_availability: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		elector.Run(electorCtx)
	}()
	defer func() { <-ended }()
	defer stopElector()

	select {
	case <-ctx.Done():
		return nil
	case <-ended:
		return fmt.Errorf("wait for the lease %s/%s: %w", e.opts.Namespace, e.opts.Name, ErrLost)
	case <-started:
	}
	if !t.begin() {
		return fmt.Errorf("the lease %s/%s was given back before the work began: %w", e.opts.Namespace, e.opts.Name, ErrLost)
	}
	e.setState("Leading", 1)
	defer e.setState("Standby", 0)

	done := make(chan error, 1)
	go func() {
		err := work(workCtx)
		close(t.ended)
		done <- err
	}()
	select {
	case err = <-done:
		if !t.isOver() {
			return err
		}
	case <-ended:
		e.acquired(time.Time{})
		stopWork()
		err = <-done
	}
	if err != nil {
		e.opts.Logger.Warn("the work ended with an error when the lease was lost", "error", err)
	}
	return fmt.Errorf("renew the lease %s/%s within %s (is the apiserver reachable, may leases be updated?): %w",
		e.opts.Namespace, e.opts.Name, e.opts.RenewDeadline, ErrLost)
}

func (e *Election) setState(state string, gauge float64) {
	e.mu.Lock()
	e.status.State = state
	e.status.Since = time.Now()
	e.mu.Unlock()
	e.leading.Set(gauge)
	e.opts.Logger.Info("leader election", "state", state, "lease", e.status.Lease, "identity", e.opts.Identity)
}

func (e *Election) sawLeader(identity string) {
	e.mu.Lock()
	e.status.Leader = identity
	e.mu.Unlock()
	e.opts.Logger.Info("the leader is now", "leader", identity, "self", identity == e.opts.Identity)
}

// acquired records that a request which began at t made or kept this replica the leader; the zero time, that it is not.
func (e *Election) acquired(t time.Time) {
	e.mu.Lock()
	e.renewed = t
	e.mu.Unlock()
}

// reached records whether the Lease could be read or written. It is logged when that begins to fail, fails otherwise, and
// works again.
func (e *Election) reached(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	e.mu.Lock()
	before := e.status.LastError
	e.status.LastError = text
	switch {
	case text == "":
		e.status.ErrorFrom = nil
	case before == "":
		now := time.Now()
		e.status.ErrorFrom = &now
	}
	e.mu.Unlock()
	switch text {
	case before:
	case "":
		e.opts.Logger.Info("the lease can be reached again", "lease", e.status.Lease)
	default:
		e.opts.Logger.Warn("the lease cannot be reached; trying on", "lease", e.status.Lease, "error", text)
	}
}

// turn is the work that one election allows, at most once.
type turn struct {
	stop  context.CancelFunc
	ended chan struct{} // closed once the work has ended

	mu          sync.Mutex
	begun, over bool
}

// begin tells whether the work may begin.
func (t *turn) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = !t.over
	return t.begun
}

// end has the work never begin, or stops it and waits until it has ended.
func (t *turn) end(ctx context.Context) error {
	t.mu.Lock()
	t.over = true
	begun := t.begun
	t.mu.Unlock()
	t.stop()
	if !begun {
		return nil
	}
	select {
	case <-t.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isOver tells whether the work was told to end because the lease was lost.
func (t *turn) isOver() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.over
}

// observedLock notes when the lease was last written with us as holder. The time before the request counts: others
// measure the lease's duration from a moment after it.
type observedLock struct {
	resourcelock.Interface
	election *Election
	turn     *turn
	holder   string // as of the last Get; only the elector's goroutine uses it
}

func (l *observedLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	r, raw, err := l.Interface.Get(ctx)
	l.holder = ""
	if err == nil {
		l.holder = r.HolderIdentity
	}
	if apierrors.IsNotFound(err) {
		l.election.reached(nil) // it is about to be created
	} else {
		l.election.reached(err)
	}
	return r, raw, err //nolint:wrapcheck // client-go looks into it
}

func (l *observedLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.write(ctx, r, l.Interface.Create)
}

func (l *observedLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	return l.write(ctx, r, l.Interface.Update)
}

func (l *observedLock) write(
	ctx context.Context,
	r resourcelock.LeaderElectionRecord,
	write func(context.Context, resourcelock.LeaderElectionRecord) error,
) error {
	ours := r.HolderIdentity == l.Identity()
	if !ours {
		// A release: once it is on its way, another replica may begin.
		l.election.acquired(time.Time{})
		if l.holder != l.Identity() {
			// client-go reads the lease, and gives back whatever it finds. Another replica may have it by now.
			return nil
		}
		// client-go gives back a lease that it could not renew in time, too, while the work goes on. If the work takes too long
		// the lease ends by itself.
		if err := l.turn.end(ctx); err != nil {
			return fmt.Errorf("the lease is not given back before the work has ended: %w", err)
		}
	}
	begun := time.Now()
	err := write(ctx, r)
	if ours && err == nil {
		l.election.acquired(begun)
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return err // another replica was faster, which is no failure
	}
	l.election.reached(err)
	return err
}
