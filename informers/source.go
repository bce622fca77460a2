package informers

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/pseudo-agent/pseudo-agent/internal/logging"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// source is one selected resource: what is known about it, its entries, and the informer that keeps them while one runs.
type source struct {
	id    string
	set   *Set
	store *store // nil for version.Info

	absentSince time.Time // when discovery first did not name the resource; used by the Set's loop only

	mu      sync.Mutex
	spec    spec
	rec     *record
	run     *run
	badOnce bool                  // a malformed object has been logged since the last complete list
	again   bool                  // the scope was changed since the informer was started, perhaps there and back
	owners  *map[ownerKind]string // of Pods: the Set's owners when the last complete list began
}

// spec is what was asked for.
type spec struct {
	sel   resources.Selected
	rank  int
	scope scope
}

// scope is what, besides group and version, decides which objects an informer sees and what it makes of them.
type scope struct {
	kind          *resources.Kind
	as            bool
	namespace     string
	fieldSelector string
}

// run is one informer at work.
type run struct {
	target target
	scope  scope
	lw     *listWatch
	cancel context.CancelFunc
	done   chan struct{}
}

// start runs an informer for t.
func (s *source) start(ctx context.Context, want spec, t target) {
	ctx, cancel := context.WithCancel(ctx)
	lw := newListWatch(s, want, t)
	r := &run{target: t, scope: want.scope, lw: lw, cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	s.run, s.again = r, false
	s.rec.polling = failure{} // its watches have to show it themselves
	s.mu.Unlock()
	s.set.gate.expect(s.id, want.rank)
	quiet := logging.ClientGo(s.set.opts.Logger.With("resource", s.id))
	reflector := cache.NewReflectorWithOptions(lw, nil, s.store, cache.ReflectorOptions{
		Name: s.id, TypeDescription: s.id, Logger: &quiet,
		Backoff: &wait.Backoff{Duration: backoffFirst, Cap: backoffMax, Steps: 20, Factor: 2, Jitter: 0.5},
	})
	go func() {
		defer close(r.done)
		defer s.set.gate.attempted(s.id)
		defer lw.release()
		var background sync.WaitGroup
		background.Go(func() { lw.relistEvery(ctx, s.set.opts.RelistInterval) })
		reflector.RunWithContext(klog.NewContext(ctx, quiet))
		background.Wait()
	}()
}

// newListWatch returns what a reflector needs to keep the entries of s.
func newListWatch(s *source, want spec, t target) *listWatch {
	namespace := want.scope.namespace
	if !t.namespaced {
		namespace = ""
	}
	lw := &listWatch{
		src: s, set: s.set, gvr: t.gvr, rank: want.rank,
		path: resourcePath(t.gvr, namespace), namespace: namespace,
		proj: s.set.newProjector(want.sel),
		base: map[string][]string{}, doubts: make(chan struct{}, 1),
	}
	setNonEmpty(lw.base, "fieldSelector", want.scope.fieldSelector)
	return lw
}

// stop ends the informer, if one runs, and waits for its goroutines. The entries stay.
func (s *source) stop() {
	s.mu.Lock()
	r := s.run
	s.run = nil
	s.mu.Unlock()
	if r == nil {
		return
	}
	r.cancel()
	<-r.done
}

func (s *source) wanted() spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spec
}

// outdated tells whether r, which runs, has to give way to an informer of the wanted scope.
func (s *source) outdated(r *run) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.again || r.scope != s.spec.scope
}

func (s *source) state() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.state
}

func (s *source) running() *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run
}

// update changes the record and tells what an operator sees of it.
func (s *source) update(now time.Time, change func(*record)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.rec.state
	change(s.rec)
	if !s.rec.refresh(now) {
		return
	}
	s.set.metrics.show(s.id, s.rec.state)
	attrs := []any{"resource", s.id, "state", s.rec.state, "before", before}
	if f := s.rec.trouble(now); f.class != classNone {
		s.set.opts.Logger.Warn("resource state", append(attrs, "reason", f.reason, "advice", f.advice, "required", s.rec.required)...)
		return
	}
	s.set.opts.Logger.Info("resource state", attrs...)
}

func (s *source) listing(now time.Time) { s.update(now, func(r *record) { r.listing() }) }

// listed is called when the store and the sink have a complete list.
func (s *source) listed() {
	now := time.Now()
	r := s.running()
	if r != nil {
		r.lw.listed()
	}
	s.mu.Lock()
	s.badOnce = false
	if r != nil {
		s.owners = r.lw.owners
	}
	s.mu.Unlock()
	setTime(s.set.metrics.lastList, s.id, now)
	s.set.metrics.entries.WithLabelValues(s.id).Set(float64(s.store.size()))
	s.update(now, func(rec *record) {
		if r != nil && r.scope == s.spec.scope { // else another list is wanted by now
			rec.listed(now)
		}
	})
}

// behind tells whether these are Pods that were listed when their owners were named differently. s.mu is held.
func (s *source) behind() bool {
	return s.spec.scope.kind != nil && s.spec.scope.kind.Name == "pods" && s.owners != s.set.owners.Load()
}

func (s *source) opened(now time.Time) { s.update(now, func(r *record) { r.opened(now) }) }

func (s *source) heard(now time.Time, bookmark bool) {
	setTime(s.set.metrics.lastHeard, s.id, now)
	if bookmark {
		setTime(s.set.metrics.lastMark, s.id, now)
	}
	s.update(now, func(r *record) { r.heard(now, bookmark) })
}

func (s *source) failed(now time.Time, f failure) {
	s.update(now, func(r *record) { r.failed(now, f) })
}

// malformed counts an object that was skipped, and names the first one.
func (s *source) malformed(obj resources.Object, err error) {
	s.set.metrics.malformed.WithLabelValues(s.id).Inc()
	s.mu.Lock()
	first := !s.badOnce
	s.badOnce = true
	s.mu.Unlock()
	if first {
		s.set.opts.Logger.Warn("an object is skipped because it is malformed; further ones are counted only",
			"resource", s.id, "namespace", obj.Namespace, "name", obj.Name, "error", err)
	}
}

// doubtInterval is the least time between two lists that are made because of events that cannot be understood, so that a
// broken API that sends nothing else is not listed all the time.
const doubtInterval = time.Minute

// relistEvery makes the informer list again at least every interval, and after doubts.
func (lw *listWatch) relistEvery(ctx context.Context, interval time.Duration) {
	var doubted time.Time
	due := time.NewTimer(wait.Jitter(interval*9/10, 1.0/9))
	defer due.Stop()
	for {
		select {
		case <-due.C:
		case <-lw.doubts:
			if pause := doubtInterval - time.Since(doubted); pause > 0 {
				t := time.NewTimer(pause)
				select {
				case <-t.C:
				case <-ctx.Done():
					t.Stop()
					return
				}
			}
			doubted = time.Now()
			if lw.isListing() {
				lw.doubt() // the event may belong to that list: once more when it is complete
				continue
			}
		case <-ctx.Done():
			return
		}
		if !lw.isListing() { // a list that takes longer than the interval is to come to its end
			lw.relist()
		}
		due.Reset(wait.Jitter(interval*9/10, 1.0/9))
	}
}
