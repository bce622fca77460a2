// Package receiver is the server side of KubernetesAPISync and GetKubernetesClusterID, and the HTTP API over what it
// holds.
//
// It holds the rules of docs/protocol.md, section 3: what is answered, what is stored, what is refused. It relies on
// store for durability and on an Elector for Sync. It promises that a version is acknowledged only after it is
// durable, that a refused request changes nothing that is stored, that a refusal names the entry, the rule and the
// way out, and that its memory is bounded by Limits whatever clients send.
package receiver

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/metadata"

	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/server/budget"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Options of a Receiver. Store and Logger are required.
type Options struct {
	Store   *store.Store
	Elector Elector // nil: nobody is told whether to watch
	// Version is this server's, told to every client in the header "pseudo-server".
	Version    string
	Limits     Limits
	Retention  Retention
	Suspicion  SuspicionOptions
	Lenient    []string // ids of clusters whose arrays and Lists are split
	Access     Access
	Logger     *slog.Logger
	Audit      *slog.Logger // nil: Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // nil: time.Now
	// Beat is called on every turn of Run's loop, and between its steps; nil: nobody wants to know.
	Beat func()
}

// Limits bound what clients can make the server do. Zero values are replaced by those of DefaultLimits.
type Limits struct {
	MaxMessageSize        int           // bytes of one request
	MaxEntrySize          int64         // bytes of one object, decompressed
	MaxSnapshotSize       int64         // bytes of one report, decompressed
	MaxEntries            int           // objects of one report
	MaxClusters           int           // clusters in the store
	MaxRetained           int           // entries of all kept versions of all clusters
	MaxConcurrentRequests int           // requests received or worked on at once, those of at most 64 KiB not counted with others
	MaxWaitingRequests    int           // requests that wait for that, each with at most 64 KiB received
	Memory                int64         // of the program in bytes, of which requests above 64 KiB have a quarter; 0: not bounded
	MinReceiveRate        int           // bytes per second of a request, after five seconds
	MaxConnections        int           // gRPC connections
	RequestsPerMinute     int           // sustained, of one cluster
	RequestTimeout        time.Duration // from the first byte of a request to its answer
}

// DefaultLimits are those of a server that nobody configured.
func DefaultLimits() Limits {
	return Limits{
		MaxMessageSize: 100 << 20, MaxEntrySize: 16 << 20, MaxSnapshotSize: 2 << 30, MaxEntries: 2000000, MaxClusters: 20000,
		MaxRetained: 20000000, MaxConcurrentRequests: 8, MaxWaitingRequests: 1024, MaxConnections: 20000, RequestsPerMinute: 60,
		RequestTimeout: time.Minute, MinReceiveRate: 64 << 10,
	}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	orDefault(&l.MaxMessageSize, d.MaxMessageSize)
	orDefault(&l.MaxEntrySize, d.MaxEntrySize)
	orDefault(&l.MaxSnapshotSize, d.MaxSnapshotSize)
	orDefault(&l.MaxEntries, d.MaxEntries)
	orDefault(&l.MaxClusters, d.MaxClusters)
	orDefault(&l.MaxRetained, d.MaxRetained)
	orDefault(&l.MaxConcurrentRequests, d.MaxConcurrentRequests)
	orDefault(&l.MaxWaitingRequests, d.MaxWaitingRequests)
	orDefault(&l.MaxConnections, d.MaxConnections)
	orDefault(&l.RequestsPerMinute, d.RequestsPerMinute)
	orDefault(&l.RequestTimeout, d.RequestTimeout)
	orDefault(&l.MinReceiveRate, d.MinReceiveRate)
	return l
}

// What a connection and a request that waits take, in bytes.
const (
	connectionBytes = 24 << 10
	waitingBytes    = 64 << 10
)

// mediumShare is the part of the bytes of its gate that a request of middle size has at most.
const mediumShare = 4

// gate returns where a message of a length waits, of which first bytes are there already.
func (r *Receiver) gate(length, first int) *gate {
	switch {
	case length <= first:
		return r.small
	case r.medium.bytes == 0 || weight(length) <= r.medium.bytes/mediumShare:
		return r.medium
	default:
		return r.large
	}
}

// fit lowers what Memory does not allow. No object of an apiserver is larger than 2 MiB.
func (l *Limits) fit(log *slog.Logger) {
	if l.Memory == 0 {
		return
	}
	lower := func(key string, v, most int64) int64 {
		if v <= most {
			return v
		}
		log.Info("a limit is lowered, because the memory does not allow more", "key", key, "from", v, "to", most, "memory", l.Memory)
		return most
	}
	l.MaxConnections = int(lower("limits.max_connections", int64(l.MaxConnections), max(256, l.Memory/budget.ConnectionShare/connectionBytes)))
	l.MaxWaitingRequests = int(lower("limits.max_waiting_requests", int64(l.MaxWaitingRequests), max(64, l.Memory/budget.WaitingShare/waitingBytes)))
	l.MaxEntrySize = lower("limits.max_entry_size", l.MaxEntrySize, max(2<<20, l.Memory/budget.EntryShare))
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Retention says what becomes of a cluster after its last report. Zero values mean 24 hours and 7 days.
type Retention struct {
	StaleAfter time.Duration
	GoneAfter  time.Duration
}

// Receiver receives reports. It is safe for concurrent use.
type Receiver struct {
	opts     Options
	store    *store.Store
	log      *slog.Logger
	now      func() time.Time
	metrics  *metrics
	greeting metadata.MD // in every response
	// Where requests wait and are worked on: those whose first portion is on its way, small ones, those of up to
	// 1/mediumShare of the bytes, larger ones: a large report takes its time, and others do not wait for it.
	waiting, small, medium, large *gate
	// entries has a place for each large entry that is decompressed at once; nil: there is no bound.
	entries chan struct{}
	lenient map[string]bool
	audit   *auditLog
	// listening is since when reports can be stored; only Run uses it.
	listening time.Time
	// toldUnloaded are the clusters of which the log says that they are not in memory; only Run uses it.
	toldUnloaded map[string]bool
	sending      atomic.Int64 // bytes of larger answers that are being sent
	taken        meter

	mu       sync.Mutex
	limiters map[string]*rate.Limiter
	// enrolled are clusters that the store has, as a short memory of what enrollment found there.
	enrolled map[string]seenEnrolled
	storage  storageState
	places   places
	retained int // entries stored, of all versions
}

// storageState remembers since when the storage fails, so that it is told once and not for each request.
type storageState struct {
	since   time.Time
	err     error
	checked bool      // Check has failed since then
	failed  time.Time // when a write failed last; zero: none has since one worked
	writing time.Time // since when a probe is under way
	told    time.Time // when the log said last in what way it fails
}

// New returns a Receiver; NewGRPCServer and API put it on the network, Run does its housekeeping.
func New(opts Options) *Receiver {
	opts.Limits = opts.Limits.withDefaults()
	orDefault(&opts.Retention.StaleAfter, 24*time.Hour)
	orDefault(&opts.Retention.GoneAfter, 7*24*time.Hour)
	opts.Limits.fit(opts.Logger)
	if opts.Elector == nil {
		opts.Elector = noElector{}
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Beat == nil {
		opts.Beat = func() {}
	}
	if opts.Audit == nil {
		opts.Audit = opts.Logger
	}
	r := &Receiver{
		opts: opts, store: opts.Store, log: opts.Logger, now: opts.Now, metrics: newMetrics(opts.Registerer),
		greeting: metadata.Pairs(protocol.ServerHeader, opts.Version),
		waiting:  newGate(opts.Limits.MaxWaitingRequests, 0),
		small:    newGate(opts.Limits.MaxConcurrentRequests, 0),
		medium:   newGate(opts.Limits.MaxConcurrentRequests, opts.Limits.Memory/budget.MediumShare),
		large:    newGate(opts.Limits.MaxConcurrentRequests, opts.Limits.Memory/16*budget.LargeSixteenths),
		lenient:  map[string]bool{},
		limiters: map[string]*rate.Limiter{}, enrolled: map[string]seenEnrolled{},
		audit: newAuditLog(opts.Audit, opts.Now), listening: opts.Now(),
	}
	if m := opts.Limits.Memory; m > 0 {
		// Growing by appending, a buffer and the next one exist together.
		r.entries = make(chan struct{}, max(1, m/budget.EntriesShare/(2*opts.Limits.MaxEntrySize)))
	}
	for _, id := range opts.Lenient {
		r.lenient[id] = true
	}
	if opts.Registerer != nil {
		opts.Registerer.MustRegister(newClusterMetrics(r))
	}
	return r
}

// storageError is what the storage fails with now, nil if it works.
func (r *Receiver) storageError() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.storage.err
}

// noteStorage logs when the storage begins to fail, fails in another way, and works again.
func (r *Receiver) noteStorage(err error) {
	if err != nil && !errors.Is(err, store.ErrUnavailable) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before, now := r.storage, r.now()
	if err != nil {
		err = store.Failing(err)
	}
	switch {
	case err == nil && before.err != nil:
		r.storage = storageState{writing: before.writing}
		r.log.Info("storage works again", "failed_for", now.Sub(before.since).Round(time.Second))
	case err != nil && before.err == nil:
		r.storage = storageState{since: now, err: err, failed: before.failed, writing: before.writing, told: now}
		r.log.Error("storage fails: reports are refused until it works again, nothing is acknowledged that is not stored", "error", err)
	case err != nil && before.err.Error() != err.Error():
		r.storage.err = err
		if now.Sub(before.told) >= store.OtherWay {
			r.storage.told = now
			r.log.Error("storage fails in another way", "error", err)
		}
	}
}
