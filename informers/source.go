package informers

import (
	"context"
	"errors"
	"fmt"
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
	form  form

	absentSince time.Time // when discovery first did not name the resource; used by the Set's loop only

	mu            sync.Mutex
	spec          spec
	rec           *record
	run           *run    // whose entries are in force
	next          *run    // is to take its place when it has listed
	old           []*run  // have ended, or are about to
	notMoved      failure // why the last next did not
	notMovedSince time.Time
	retry         map[target]time.Time  // not before which another next may be started
	badOnce       bool                  // a malformed object has been logged since the last complete list
	again         bool                  // the scope was changed since the informer was started, perhaps there and back
	owners        *map[ownerKind]string // of Pods: the Set's owners when the last complete list began
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
	excluded      string // as a field selector, for what is namespaced
	fieldSelector string
	labelSelector string
}

// run is one informer at work.
type run struct {
	target target
	scope  scope
	lw     *listWatch
	cancel context.CancelFunc
	done   chan struct{}
	failed bool // to take the place of another; guarded by the source's mu
}

// start runs an informer for t.
func (s *source) start(ctx context.Context, want spec, t target) {
	ctx, r := s.newRun(ctx, want, t)
	s.mu.Lock()
	s.run, s.again = r, false
	s.moved()
	s.rec.polling = failure{} // its watches have to show it themselves
	s.mu.Unlock()
	s.set.gate.expect(s.id, want.rank)
	s.launch(ctx, r)
}

// try runs an informer for t besides the one that runs. It takes its place when it has listed.
func (s *source) try(ctx context.Context, want spec, t target) {
	ctx, r := s.newRun(ctx, want, t)
	s.mu.Lock()
	s.next = r
	s.mu.Unlock()
	s.launch(ctx, r)
}

// newRun returns an informer and the context of its goroutines, which launch starts.
func (s *source) newRun(ctx context.Context, want spec, t target) (context.Context, *run) {
	ctx, cancel := context.WithCancel(ctx)
	return ctx, &run{target: t, scope: want.scope, lw: newListWatch(s, want, t), cancel: cancel, done: make(chan struct{})}
}

func (s *source) launch(ctx context.Context, r *run) {
	quiet := logging.ClientGo(s.set.opts.Logger.With("resource", s.id))
	reflector := cache.NewReflectorWithOptions(r.lw, nil, reflectorStore{r.lw}, cache.ReflectorOptions{
		Name: s.id, TypeDescription: s.id, Logger: &quiet,
		Backoff: &wait.Backoff{Duration: backoffFirst, Cap: backoffMax, Steps: 20, Factor: 2, Jitter: 0.5},
	})
	go func() {
		defer close(r.done)
		defer s.set.gate.attempted(s.id)
		defer r.lw.release()
		var background sync.WaitGroup
		background.Go(func() { r.lw.relistEvery(ctx, s.set.opts.RelistInterval) })
		reflector.RunWithContext(klog.NewContext(ctx, quiet))
		background.Wait()
	}()
}

// promote puts the informer of lw in the place of the one that runs, if it is the one that is to.
func (s *source) promote(lw *listWatch) {
	s.mu.Lock()
	if s.next == nil || s.next.lw != lw {
		s.mu.Unlock()
		return
	}
	old := s.run
	s.run, s.next = s.next, nil
	s.moved()
	s.rec.polling = failure{}
	if old != nil {
		s.old = append(s.old, old)
		old.cancel()
	}
	s.mu.Unlock()
	s.set.opts.Logger.Info("resource has moved to another version", "resource", s.id, "to", lw.gvr.GroupVersion().String())
	s.set.poke()
}

// moved: there is no other version that is preferred. s.mu is held.
func (s *source) moved() { s.notMoved, s.notMovedSince = failure{}, time.Time{} }

// vain: the informer that was to take the place of the one that runs cannot list.
func (s *source) vain(lw *listWatch, f failure) {
	s.mu.Lock()
	if s.next == nil || s.next.lw != lw || s.next.failed {
		s.mu.Unlock()
		return
	}
	s.next.failed = true
	if !s.rec.synced { // neither works, and the record says why the one that is preferred does not
		s.mu.Unlock()
		s.set.poke()
		return
	}
	told := s.notMoved.class == f.class
	f.reason = fmt.Sprintf("the apiserver prefers %s: %s", lw.gvr.GroupVersion(), f.reason)
	s.notMoved = f
	if s.notMovedSince.IsZero() {
		s.notMovedSince = time.Now()
	}
	s.mu.Unlock()
	if !told {
		s.set.opts.Logger.Warn("resource stays at its version", "resource", s.id, "reason", f.reason, "advice", f.advice)
	}
	s.set.poke()
}

// trial returns the informer that is to take the place of the one that runs, nil if there is none, and whether it has failed.
func (s *source) trial() (r *run, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next, s.next != nil && s.next.failed
}

// endTrial ends it. With best, the informer that runs is at the best version.
func (s *source) endTrial(best bool) {
	s.mu.Lock()
	r := s.next
	s.next = nil
	if best {
		s.moved()
	}
	s.mu.Unlock()
	if r != nil {
		r.cancel()
		<-r.done
	}
}

// reap waits for those whose place was taken.
func (s *source) reap() {
	s.mu.Lock()
	old := s.old
	s.old = nil
	s.mu.Unlock()
	for _, r := range old {
		<-r.done
	}
}

// newListWatch returns what a reflector needs to keep the entries of s.
func newListWatch(s *source, want spec, t target) *listWatch {
	namespace, fieldSelector := want.scope.namespace, joined(want.scope.fieldSelector, want.scope.excluded)
	if !t.namespaced {
		namespace, fieldSelector = "", want.scope.fieldSelector
	}
	lw := &listWatch{
		src: s, set: s.set, gvr: t.gvr, rank: want.rank,
		path: resourcePath(t.gvr, namespace), namespace: namespace,
		sel:  want.sel,
		base: map[string][]string{}, doubts: make(chan struct{}, 1),
	}
	setNonEmpty(lw.base, "fieldSelector", fieldSelector)
	setNonEmpty(lw.base, "labelSelector", want.scope.labelSelector)
	return lw
}

// joined is both field selectors.
func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "," + b
}

// stop ends the informers that run, and waits for their goroutines. The entries stay.
func (s *source) stop() {
	s.mu.Lock()
	runs := s.old
	for _, r := range []*run{s.run, s.next} {
		if r != nil {
			runs = append(runs, r)
		}
	}
	s.run, s.next, s.old = nil, nil, nil
	s.mu.Unlock()
	for _, r := range runs {
		r.cancel()
	}
	for _, r := range runs {
		<-r.done
	}
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

// failsFromTheStart tells whether nothing was ever listed, for a while and for no reason that other versions would share.
func (s *source) failsFromTheStart(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rec
	return !r.synced && r.isFailing(now) && !r.failing.class.definite() && now.Sub(r.failingSince) >= errorAfter
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
	s.set.changes.add(stateChange{state: s.rec.state, before: before, failure: s.rec.trouble(now), required: s.rec.required}, s.id)
}

// reflectorStore is what the reflector takes for a store. The objects of its lists come in by the feed.
type reflectorStore struct{ lw *listWatch }

// Add is called for an ADDED event.
func (r reflectorStore) Add(obj any) error { return r.change(obj, false) }

// Update is called for a MODIFIED event.
func (r reflectorStore) Update(obj any) error { return r.change(obj, false) }

// Delete is called for a DELETED event.
func (r reflectorStore) Delete(obj any) error { return r.change(obj, true) }

func (r reflectorStore) change(obj any, deleted bool) error {
	ev, ok := obj.(*object)
	if !ok {
		return errors.New("not an object of this package")
	}
	ev.feed.change(ev.found, deleted)
	return nil
}

// Replace is called when the list is complete. The slice is always empty.
func (r reflectorStore) Replace(_ []any, resourceVersion string) error {
	if err := r.lw.latest().replace(resourceVersion); err != nil {
		return err
	}
	r.lw.src.listed(r.lw)
	return nil
}

// Resync is part of the reflector's contract; there is nothing to repeat.
func (r reflectorStore) Resync() error { return nil }

// listed is called when the store and the sink have a complete list of lw.
func (s *source) listed(lw *listWatch) {
	now := time.Now()
	s.promote(lw)
	lw.listed()
	r := s.running()
	if r != nil && r.lw != lw {
		return // its place was taken meanwhile
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

// heard: a watch delivered something. With proves, nothing else has to be shown.
func (s *source) heard(now time.Time, bookmark, proves bool) {
	setTime(s.set.metrics.lastHeard, s.id, now)
	if bookmark {
		setTime(s.set.metrics.lastMark, s.id, now)
	}
	s.update(now, func(r *record) {
		if proves {
			r.heard(now, bookmark)
		} else {
			r.noted(now, bookmark)
		}
	})
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
