package informers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// emptyList is what the reflector gets to see of a list: its resourceVersion. The objects went into the store.
type emptyList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.RawExtension
}

func (l *emptyList) DeepCopyObject() runtime.Object { c := *l; return &c }

// object is one object of a watch's event on its way through the reflector.
type object struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	found resources.Object
	feed  *feed // whose watch brought it
}

func (o *object) DeepCopyObject() runtime.Object { c := *o; return &c }

// listWatch makes the lists and watches of one resource under one group and version, on behalf of the reflector that
// runs it. The reflector calls List and Watch from one goroutine at a time.
type listWatch struct {
	src  *source
	set  *Set
	gvr  schema.GroupVersionResource
	rank int
	path string
	base url.Values // parameters of every request

	namespace string // in path, empty if there is none
	sel       resources.Selected

	running sync.WaitGroup // goroutines and calls that the reflector does not wait for
	doubts  chan struct{}  // an event of an object that cannot be told, see doubt

	mu          sync.Mutex
	projectors  []projector             // not in use; each is used by one list or watch at a time
	feed        *feed                   // of the last list, under way or complete
	watcher     *watcher                // the last one, nil if there was none
	outlived    *watcher                // one that goes on until the list that takes its place is complete
	cancelWait  context.CancelCauseFunc // of the last wait for the next list
	relistDue   bool                    // the next list has to be a consistent one
	listing     bool                    // a list is under way
	notBefore   time.Time               // the apiserver is to be left alone until then
	refusals    int                     // definite answers in a row
	interrupted int                     // streaming lists in a row that broke off
	slow        int                     // lists in a row that did not keep their deadline
	expired     int                     // answers 410 in a row
	short       int                     // watches in a row that did not last
	polling     polling
	leave       func() // the gate, held from a refused streaming list over to the list that follows it

	// Used by the reflector's calls only.
	shortcut error                 // answer for the list with which the reflector follows a failed streaming list
	paged    bool                  // the API pages even lists that could come from a watch cache
	cause    string                // of the list that is under way
	owners   *map[ownerKind]string // the Set's when the list that is under way began
	synced   bool
}

// List implements the reflector's interface for callers without a context; the reflector does not use it.
func (lw *listWatch) List(opts metav1.ListOptions) (runtime.Object, error) {
	return lw.ListWithContext(context.Background(), opts)
}

// Watch implements the reflector's interface for callers without a context; the reflector does not use it.
func (lw *listWatch) Watch(opts metav1.ListOptions) (watch.Interface, error) {
	return lw.WatchWithContext(context.Background(), opts)
}

// IsWatchListSemanticsUnSupported tells the reflector that streaming lists are understood.
func (lw *listWatch) IsWatchListSemanticsUnSupported() bool { return false }

// ListWithContext lists all pages into the store. It does the paging itself, because the reflector's pager would
// accumulate objects and offers no deadline.
func (lw *listWatch) ListWithContext(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
	lw.running.Add(1)
	defer lw.running.Done()
	if err := ctx.Err(); err != nil {
		return nil, err // the reflector has gone, and the store may already be another informer's
	}
	if err := lw.shortcut; err != nil {
		lw.shortcut = nil
		return nil, err
	}
	leave, err := lw.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	lw.begin()
	ctx, cancel := context.WithTimeoutCause(ctx, lw.deadline(), errDeadline)
	defer cancel()

	params := lw.params()
	limit := strconv.FormatInt(lw.set.opts.PageSize, 10)
	switch {
	case lw.cause != causeRenewed:
		// A consistent list. Apiservers that cannot serve it from their cache read it from etcd page by page.
		if lw.src.store.isLoaded() || opts.ResourceVersion == "" {
			params.Set("limit", limit)
		} else {
			params.Set("resourceVersion", "0")
			params.Set("limit", limit) // ignored by the watch cache
		}
	case opts.ResourceVersion == "" || opts.ResourceVersion == "0" || lw.paged:
		params.Set("limit", limit)
		setNonEmpty(params, "resourceVersion", opts.ResourceVersion)
	default:
		// From the watch cache, which does not page.
		params.Set("resourceVersion", opts.ResourceVersion)
	}
	rv, err := lw.listPages(ctx, params)
	now := time.Now()
	if err != nil {
		lw.abandon()
		lw.fail(now, "list", err)
		if classify(err) == classRefused && params.Get("resourceVersion") != "" {
			lw.relist() // perhaps it is the resourceVersion that was refused, which the reflector would repeat for ever
		}
		return nil, err
	}
	lw.complete(now)
	return &emptyList{ListMeta: metav1.ListMeta{ResourceVersion: rv}}, nil
}

// listPages reads all pages of one list. If the list expires between two pages, it is read again in one piece.
func (lw *listWatch) listPages(ctx context.Context, params url.Values) (resourceVersion string, err error) {
	first := params.Get("resourceVersion")
	for page := 0; ; page++ {
		meta, err := lw.listPage(ctx, params)
		switch {
		case err != nil && page > 0 && classify(err) == classExpired && params.Get("continue") != "":
			params.Del("continue")
			params.Del("limit")
			setNonEmpty(params, "resourceVersion", first)
			lw.latest().restart()
			continue
		case err != nil:
			return "", err
		}
		if page == 0 || params.Get("continue") == "" {
			resourceVersion = meta.ResourceVersion
		}
		if meta.Continue == "" {
			return resourceVersion, nil
		}
		if meta.Continue == params.Get("continue") {
			return "", &dataError{"the continue token of a list does not advance"}
		}
		lw.paged = lw.paged || first == "0"
		params.Set("continue", meta.Continue)
		params.Set("limit", strconv.FormatInt(lw.set.opts.PageSize, 10))
		params.Del("resourceVersion")
	}
}

func (lw *listWatch) listPage(ctx context.Context, params url.Values) (pageMeta, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(lw.set.opts.IdleTimeout, func() { cancel(errSilent) })
	defer idle.Stop()
	proj := lw.projector()
	defer lw.putBack(proj)
	body, typed, err := lw.open(ctx, "list", params, proj)
	if err != nil {
		return pageMeta{}, withCause(ctx, err)
	}
	defer func() { _ = body.Close() }()
	r := &idleReader{body, idle, lw.set.opts.IdleTimeout}
	var meta pageMeta
	if typed == (typeName{}) {
		meta, err = decodePage(r, proj, lw.src.store.known, lw.collect)
	} else {
		meta, err = decodeProtobufPage(r, proj, typed, lw.src.store.known, lw.collect)
	}
	if err != nil {
		lw.distrusts(typed, err)
		return pageMeta{}, withCause(ctx, fmt.Errorf("read the list: %w", err))
	}
	return meta, nil
}

// projector returns one that nobody else uses until it is put back.
func (lw *listWatch) projector() projector {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	if n := len(lw.projectors); n > 0 {
		p := lw.projectors[n-1]
		lw.projectors = lw.projectors[:n-1]
		return p
	}
	return lw.set.newProjector(lw.sel)
}

func (lw *listWatch) putBack(p projector) {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	if len(lw.projectors) == 0 { // more is needed only while a watch outlives
		lw.projectors = append(lw.projectors, p)
	}
}

func (lw *listWatch) collect(obj resources.Object, malformed error) error {
	if malformed == nil {
		return lw.latest().collect(obj)
	}
	lw.src.malformed(obj, malformed)
	lw.latest().keep(obj)
	return nil
}

// WatchWithContext opens a watch, or a streaming list that goes on as a watch.
func (lw *listWatch) WatchWithContext(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	lw.running.Add(1)
	defer lw.running.Done()
	initial := opts.SendInitialEvents != nil && *opts.SendInitialEvents
	if initial && !lw.set.streaming.allowed(lw.gvr.Group, time.Now()) {
		return nil, opaque{errNoStreaming}
	}
	leave := func() {}
	if initial {
		var err error
		if leave, err = lw.enter(ctx); err != nil {
			return nil, opaque{err}
		}
		if !lw.set.streaming.allowed(lw.gvr.Group, time.Now()) { // another resource has found out meanwhile
			lw.handOver(leave)
			return nil, opaque{errNoStreaming}
		}
		lw.begin()
		if lw.cause != causeRenewed {
			opts.ResourceVersion = "" // consistent
		}
	} else if err := lw.pause(ctx); err != nil {
		return nil, err
	} else if err := lw.watchable(time.Now()); err != nil {
		return nil, err
	}

	params := lw.watchParams(opts.ResourceVersion)
	if opts.TimeoutSeconds != nil {
		params.Set("timeoutSeconds", strconv.FormatInt(*opts.TimeoutSeconds, 10))
	}
	if initial {
		params.Set("sendInitialEvents", "true")
		params.Set("resourceVersionMatch", string(metav1.ResourceVersionMatchNotOlderThan))
	}

	ctx, cancel := context.WithCancelCause(ctx)
	w := &watcher{
		lw: lw, feed: lw.latest(), ctx: ctx, cancel: cancel, initial: initial, rv: opts.ResourceVersion, leave: leave, opened: time.Now(),
		events: make(chan watch.Event), stopped: make(chan struct{}), done: make(chan struct{}),
		idle: time.AfterFunc(lw.set.opts.IdleTimeout, func() { cancel(errSilent) }),
	}
	w.proj = lw.projector()
	body, typed, err := lw.open(ctx, "watch", params, w.proj)
	if err != nil {
		lw.putBack(w.proj)
		w.idle.Stop()
		err = withCause(ctx, err)
		cancel(nil)
		return nil, lw.refused(err, initial, opts.ResourceVersion, leave)
	}
	w.body, w.typed, w.last = &countingReader{ReadCloser: body}, typed, w.rv
	if initial {
		w.hush(lw.set.opts.StreamIdleTimeout)
		w.deadline = time.AfterFunc(lw.deadline(), func() { cancel(errDeadline) })
	} else {
		w.hush(lw.set.opts.SilentWatch)
	}
	if !initial {
		w.begun(time.Now())
	}
	lw.mu.Lock()
	lw.watcher = w
	due := lw.relistDue
	lw.mu.Unlock()
	lw.running.Add(1)
	go w.run()
	if due {
		w.expire(errRelist)
	}
	return w, nil
}

// refused says what the reflector is told when a watch cannot be opened.
func (lw *listWatch) refused(err error, initial bool, rv string, leave func()) error {
	if !initial {
		lw.fail(time.Now(), "watch", err)
		if classify(err) == classExpired {
			lw.wasted(time.Now(), classExpired)
		}
		return err
	}
	lw.abandon()
	if streamingRefused(err) {
		lw.set.streaming.refuse(lw.gvr.Group, time.Now())
		lw.handOver(leave)
		return opaque{errNoStreaming}
	}
	leave()
	if rv != "" && (classify(err) == classExpired || tooNew(err)) {
		return err // the reflector tries again at once, from the present
	}
	lw.fail(time.Now(), "watch", err)
	if lw.broken()%3 != 0 || classify(err).definite() {
		lw.shortcut = err // a list now would fare no better
	}
	return opaque{err}
}

// broken counts a streaming list that did not come to its end.
func (lw *listWatch) broken() int {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	lw.interrupted++
	return lw.interrupted
}

// handOver keeps the gate for the list that is to follow.
func (lw *listWatch) handOver(leave func()) {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	lw.leave = leave
}

// takeOver returns the gate if it was kept.
func (lw *listWatch) takeOver() (leave func()) {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	leave, lw.leave = lw.leave, nil
	return leave
}

// deadline is how long a list may take. It doubles when it was too short, so that a slow network needs no setting.
func (lw *listWatch) deadline() time.Duration {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	return min(lw.set.opts.ListDeadline<<min(lw.slow, 10), maxListDeadline)
}

// tooSlow gives the next list more time.
func (lw *listWatch) tooSlow() {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	lw.slow++
}

// enter waits until the apiserver may be asked again and until it is this resource's turn to list.
func (lw *listWatch) enter(ctx context.Context) (leave func(), err error) {
	if leave = lw.takeOver(); leave != nil {
		return leave, nil
	}
	if err := lw.awaitPoll(ctx); err != nil {
		return nil, err
	}
	if err := lw.pause(ctx); err != nil {
		return nil, err
	}
	return lw.set.gate.enter(ctx, lw.src.id, lw.rank)
}

// pause waits for as long as the apiserver has asked for. Nobody else waits meanwhile: the gate goes on without us.
func (lw *listWatch) pause(ctx context.Context) error {
	lw.mu.Lock()
	wait := time.Until(lw.notBefore)
	lw.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

const (
	causeFirst   = "first"
	causeDue     = "due"
	causeRenewed = "renewed"
)

// begin says why the list that begins is made. A list that follows a failed one has the cause of that one.
func (lw *listWatch) begin() {
	lw.mu.Lock()
	due := lw.relistDue
	lw.relistDue, lw.listing = false, true
	lw.polling.listBegan = time.Now()
	before := lw.feed
	lw.feed = lw.src.store.begin(lw.gvr.Group)
	lw.mu.Unlock()
	if before != nil {
		before.abandon()
	}
	lw.owners = lw.set.owners.Load()
	switch {
	case !lw.synced:
		lw.cause = causeFirst
	case due:
		lw.cause = causeDue
	case lw.cause == "":
		lw.cause = causeRenewed
	}
	lw.tell(time.Now(), func(r *record) { r.listing() })
}

// latest is the feed of the last list.
func (lw *listWatch) latest() *feed {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	return lw.feed
}

// inForce tells whether the source's entries are those of lw, and not of another informer that is to take its place, or has.
func (lw *listWatch) inForce() bool {
	r := lw.src.running()
	return r != nil && r.lw == lw
}

// tell changes the record of the source, if that is about lw.
func (lw *listWatch) tell(now time.Time, change func(*record)) {
	if lw.inForce() {
		lw.src.update(now, change)
	}
}

// listed is called when the store has taken a complete list over.
func (lw *listWatch) listed() {
	lw.set.metrics.relists.WithLabelValues(lw.src.id, lw.cause).Inc()
	lw.synced, lw.cause = true, ""
	lw.mu.Lock()
	lw.interrupted, lw.refusals, lw.slow, lw.expired = 0, 0, 0, 0
	lw.listing = false
	old := lw.outlived
	lw.outlived = nil
	lw.mu.Unlock()
	if old != nil {
		old.cancel(context.Canceled)
	}
}

// abandon ends a list that failed.
func (lw *listWatch) abandon() {
	if f := lw.latest(); f != nil {
		f.abandon()
	}
	lw.mu.Lock()
	defer lw.mu.Unlock()
	lw.listing = false
}

func (lw *listWatch) isListing() bool {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	return lw.listing
}

// relist makes the reflector list again, consistently, as soon as it can.
func (lw *listWatch) relist() {
	lw.mu.Lock()
	lw.relistDue = true
	w, cancelWait := lw.watcher, lw.cancelWait
	lw.mu.Unlock()
	if w != nil {
		w.expire(errRelist)
	}
	if cancelWait != nil {
		cancelWait(errRelist)
	}
}

// doubt makes the informer list again because of an event after which the store may hold an object that is gone, or lack
// one: nothing else but a list can tell.
func (lw *listWatch) doubt() {
	select {
	case lw.doubts <- struct{}{}:
	default:
	}
}

// release gives back what an attempt that was broken off still holds.
func (lw *listWatch) release() {
	lw.running.Wait()
	if leave := lw.takeOver(); leave != nil {
		leave()
	}
	lw.abandon()
}

func (lw *listWatch) params() url.Values {
	v := url.Values{}
	maps.Copy(v, lw.base)
	return v
}

func (lw *listWatch) watchParams(resourceVersion string) url.Values {
	v := lw.params()
	v.Set("watch", "true")
	v.Set("allowWatchBookmarks", "true")
	setNonEmpty(v, "resourceVersion", resourceVersion)
	return v
}

// fail records why a list or watch could not be made.
func (lw *listWatch) fail(now time.Time, verb string, err error) {
	if errors.Is(err, context.Canceled) {
		return // by ourselves
	}
	f := failureOf("cannot "+verb, err)
	f.advice = strings.Replace(f.advice, "its CustomResourceDefinition", "the CustomResourceDefinition "+lw.gvr.GroupResource().String(), 1)
	wait := retryAfter(err)
	lw.mu.Lock()
	if f.class.definite() || f.class == classNotFound || f.class == classTooLarge {
		// Somebody has to do something first: no need to ask at the reflector's pace.
		wait = max(wait, min(refusalPause<<min(lw.refusals, 10), maxRefusalPause))
		lw.refusals++
	}
	if errors.Is(err, errDeadline) {
		lw.slow++
	}
	if wait > 0 {
		lw.notBefore = now.Add(wait)
	}
	lw.mu.Unlock()
	lw.set.metrics.errors.WithLabelValues(lw.src.id, verb, string(f.class)).Inc()
	if f.class == classExpired && lw.expiredAgain() < 3 {
		return // the way of things: the next list will be from the present
	}
	if !lw.inForce() {
		lw.src.vain(lw, f)
		return
	}
	lw.src.failed(now, f)
	if f.class == classNotFound {
		lw.set.poke()
	}
}

// expiredAgain counts the answers 410 since the last complete list.
func (lw *listWatch) expiredAgain() int {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	lw.expired++
	return lw.expired
}

// watcher reads one watch. The events of a streaming list go into the store; the reflector only gets the bookmark that
// ends it.
type watcher struct {
	lw       *listWatch
	feed     *feed
	ctx      context.Context //nolint:containedctx // ends with the watch; watch.Interface leaves no other place
	cancel   context.CancelCauseFunc
	body     *countingReader
	proj     projector
	typed    typeName // of what the body brings, if that is protobuf
	initial  bool     // the streaming list is not complete yet
	rv       string   // from which the watch was asked for
	last     string   // up to which it has come
	leave    func()
	idle     *time.Timer
	deadline *time.Timer // of a streaming list, else nil
	silence  time.Duration
	events   chan watch.Event
	stopped  chan struct{}
	done     chan struct{} // nothing more is read
	opened   time.Time     // when it began, or when its streaming list was complete
	heard    bool          // something since then
	poll     *time.Timer   // ends the watch for the next list, nil if there is no need

	// Of a streaming list: since when, with how many objects and from which byte on its progress is measured.
	measured time.Time
	objects  int
	bytes    int64

	complete atomic.Bool    // the streaming list; always of a mere watch
	senders  sync.WaitGroup // on events, besides run

	mu       sync.Mutex
	stop     bool // Stop was called
	outlives bool // goes on after that
}

// ResultChan is read by the reflector.
func (w *watcher) ResultChan() <-chan watch.Event { return w.events }

// Stop ends the watch, unless it is to go on until a list is complete. It may be called more than once.
func (w *watcher) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop {
		return
	}
	w.stop = true
	close(w.stopped)
	if !w.outlives {
		w.cancel(context.Canceled)
	}
}

// expire makes the reflector list, for which the watch has expired. In truth it goes on until the list is complete, with events
// that do not pass through the reflector any more, so that no change has to wait for the list.
func (w *watcher) expire(cause error) {
	if _, polls := w.lw.untilPoll(time.Now()); polls || !w.complete.Load() || !w.feed.ordered() {
		w.cancel(cause) // it is of no use, or would not do to compare with the list
		return
	}
	w.lw.lasted(w.opened, true, false)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop || w.outlives {
		return
	}
	w.outlives = true
	w.lw.outlive(w)
	w.senders.Go(func() {
		select {
		case w.events <- watch.Event{Type: watch.Error, Object: ownStatus(metav1.StatusReasonExpired, cause.Error())}:
		case <-w.stopped:
		case <-w.done:
		}
	})
}

// isOutliving tells whether the watch is to go on until a list is complete.
func (w *watcher) isOutliving() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.outlives
}

// goesOn tells whether events are taken in without the reflector, which is done with the watch.
func (w *watcher) goesOn() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stop && w.outlives
}

// outlive keeps w until the next list is complete.
func (lw *listWatch) outlive(w *watcher) {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	lw.outlived = w
}

// hush sets how long the watch may be silent from now on.
func (w *watcher) hush(d time.Duration) {
	w.silence = d
	w.idle.Reset(d)
}

// finish stops the deadline of a streaming list.
func (w *watcher) finish() { stopTimer(w.deadline) }

func stopTimer(t *time.Timer) {
	if t != nil {
		t.Stop()
	}
}

// begun: from now on it is a watch, and no list.
func (w *watcher) begun(now time.Time) {
	w.opened = now
	w.complete.Store(true)
	w.lw.tell(now, func(r *record) { r.opened(now) })
	if wait, ok := w.lw.untilPoll(now); ok {
		w.poll = time.AfterFunc(wait, func() { w.expire(errPoll) })
	}
}

func (w *watcher) run() {
	lw := w.lw
	defer lw.running.Done()
	defer func() {
		close(w.done)
		w.senders.Wait()
		close(w.events)
	}()
	defer func() { w.leave() }()
	defer w.cancel(nil)
	defer w.finish()
	defer w.idle.Stop()
	defer func() { stopTimer(w.poll) }()
	defer lw.putBack(w.proj)
	defer func() { _ = w.body.Close() }()
	for w.read() {
		if !w.reopen() {
			return
		}
	}
}

// read takes everything in that the connection brings. It returns true if the watch has ended although it is to go on.
func (w *watcher) read() (again bool) {
	lw := w.lw
	var told time.Time
	d := newWatchDecoder(w.body, w.initial, w.typed)
	for {
		ev, err := d.nextEvent(w.proj, lw.src.store.known)
		if err != nil {
			lw.distrusts(w.typed, err)
		}
		switch {
		case err != nil && w.isOutliving():
			return w.ctx.Err() == nil
		case err != nil:
			w.ended(withCause(w.ctx, err))
			return false
		case ev.kind == "ERROR" && w.isOutliving():
			return classify(apierrors.FromObject(ev.status)) != classExpired
		case ev.kind == "ERROR":
			w.refused(ev.status)
			return false
		case w.initial && !w.progress(ev, time.Now()):
			w.noStreaming()
			return false
		}
		w.heard = !w.initial
		if now := time.Now(); ev.kind == "BOOKMARK" || now.Sub(told) >= toldInterval {
			told = now
			w.idle.Reset(w.silence)
			if !w.initial { // until it is complete, a streaming list proves nothing
				w.lives(now, ev.kind == "BOOKMARK")
			}
		}
		if !w.pass(ev) {
			return false
		}
		if !w.initial {
			d.least = watchBuffer
			if ev.malformed == nil {
				w.last = cmp.Or(ev.version, ev.found.ResourceVersion, w.last)
			}
		}
	}
}

// reopen opens a watch again that is to go on until a list is complete, from where it was.
func (w *watcher) reopen() bool {
	lw := w.lw
	_ = w.body.Close()
	select {
	case <-w.stopped: // by then the reflector has taken in what it had got
	case <-w.ctx.Done():
		return false
	}
	params := lw.watchParams(w.last)
	for pause := backoffFirst; ; pause = min(2*pause, backoffMax) {
		select {
		case <-time.After(pause):
		case <-w.ctx.Done():
			return false
		}
		body, typed, err := lw.open(w.ctx, "watch", params, w.proj)
		if err == nil {
			w.body, w.typed = &countingReader{ReadCloser: body}, typed
			w.idle.Reset(w.silence)
			return true
		}
		lw.set.metrics.errors.WithLabelValues(lw.src.id, "watch", string(classify(err))).Inc()
		if c := classify(err); c.definite() || c == classExpired || c == classNotFound {
			return false
		}
	}
}

// lives: the watch has delivered something.
func (w *watcher) lives(now time.Time, bookmark bool) {
	lw := w.lw
	lw.useful()
	stopTimer(w.poll)
	if lw.inForce() {
		lw.src.heard(now, bookmark, !w.goesOn())
	}
}

// A streaming list that is under way brings, in twice the time for which it may be silent, at least leastObjects or
// leastBytes. One that does not is an ordinary watch, of an apiserver that does not know streaming lists.
const (
	leastObjects = 100
	leastBytes   = 1 << 20
)

// progress tells whether the streaming list may still come to its end.
func (w *watcher) progress(ev event, now time.Time) bool {
	switch ev.kind {
	case "BOOKMARK":
		return true // see pass
	case "ADDED":
		w.objects++
	}
	if w.measured.IsZero() {
		w.measured = now
	}
	if now.Sub(w.measured) < 2*w.silence {
		return true
	}
	if w.objects < leastObjects && w.body.n-w.bytes < leastBytes {
		return false
	}
	w.measured, w.objects, w.bytes = now, 0, w.body.n
	return true
}

// pass hands one event on. It returns false if the watch is over.
func (w *watcher) pass(ev event) bool {
	lw := w.lw
	if ev.malformed != nil {
		lw.src.malformed(ev.found, ev.malformed)
		switch {
		case ev.kind == "DELETED" || ev.found.Name == "" && !w.initial:
			lw.doubt()
		case w.initial:
			w.feed.keep(ev.found)
		}
		return true
	}
	switch {
	case ev.kind == "BOOKMARK" && w.initial && !ev.initialEnd:
		// An apiserver that does not know streaming lists has begun an ordinary watch.
		w.noStreaming()
		return false
	case ev.kind == "BOOKMARK":
		obj := &object{ObjectMeta: metav1.ObjectMeta{ResourceVersion: ev.version}}
		if w.initial {
			obj.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
			w.initial = false
			w.hush(lw.set.opts.SilentWatch)
			w.finish()
			lw.complete(time.Now())
			w.begun(time.Now())
			defer w.leave()
		}
		return w.send(watch.Event{Type: watch.Bookmark, Object: obj}) || w.goesOn()
	case w.initial && ev.kind == "DELETED":
		w.feed.uncollect(ev.found.Key)
		return true
	case w.initial:
		if err := w.feed.collect(ev.found); err != nil {
			w.ended(err)
			return false
		}
		return true
	}
	obj := &object{ObjectMeta: metav1.ObjectMeta{ResourceVersion: ev.found.ResourceVersion}, found: ev.found, feed: w.feed}
	if w.send(watch.Event{Type: watch.EventType(ev.kind), Object: obj}) {
		return true
	}
	if !w.goesOn() {
		return false
	}
	w.feed.change(ev.found, ev.kind == "DELETED")
	return true
}

func (w *watcher) send(ev watch.Event) bool {
	select {
	case w.events <- ev:
		return true
	case <-w.stopped:
		return false
	}
}

// refused: the apiserver ended the watch with an error.
func (w *watcher) refused(status *metav1.Status) {
	lw := w.lw
	err := apierrors.FromObject(status)
	expired := classify(err) == classExpired
	if w.initial {
		lw.abandon()
		lw.broken()
	}
	if !w.heard {
		lw.fail(time.Now(), "watch", err)
		if expired && !w.initial {
			lw.wasted(time.Now(), classExpired)
		}
	} else {
		lw.set.metrics.errors.WithLabelValues(lw.src.id, "watch", string(classify(err))).Inc()
	}
	if w.initial && (!expired || w.rv == "") {
		// Under other reasons the reflector might wait without heeding its context, or try again at once for ever.
		status = ownStatus(metav1.StatusReasonUnknown, err.Error())
	}
	w.send(watch.Event{Type: watch.Error, Object: status})
}

// ended: nothing more can be read.
func (w *watcher) ended(err error) {
	lw := w.lw
	select {
	case <-w.stopped:
		return
	default:
	}
	now := time.Now()
	ourselves := errors.Is(err, errRelist) || errors.Is(err, errPoll)
	lw.lasted(w.opened, ourselves, errors.Is(err, errSilent))
	switch {
	case ourselves:
		// For the reflector the watch has expired, so that it lists again.
		w.send(watch.Event{Type: watch.Error, Object: ownStatus(metav1.StatusReasonExpired, err.Error())})
	case errors.Is(err, context.Canceled):
	case w.initial:
		w.brokeOff(now, err)
	case errors.Is(err, errSilent):
		// It is opened again from where it was.
		lw.set.metrics.errors.WithLabelValues(lw.src.id, "watch", string(classSilent)).Inc()
		if !w.heard {
			lw.wasted(now, classSilent)
		}
	case errors.Is(err, io.EOF) && (w.heard || now.Sub(w.opened) >= watchProof):
		// The apiserver ends every watch after some minutes.
	case classify(err) != classData && !w.heard && now.Sub(w.opened) < watchProof && lw.wasted(now, classShort):
		lw.set.metrics.errors.WithLabelValues(lw.src.id, "watch", string(classShort)).Inc()
	case errors.Is(err, io.EOF):
	case !w.heard && now.Sub(w.opened) < watchProof, classify(err) == classData:
		lw.fail(now, "watch", fmt.Errorf("the watch broke off: %w", err))
	default:
		lw.set.metrics.errors.WithLabelValues(lw.src.id, "watch", string(classify(err))).Inc()
	}
}

// brokeOff: the streaming list has ended before it was complete.
func (w *watcher) brokeOff(now time.Time, err error) {
	lw := w.lw
	if errors.Is(err, errDeadline) {
		lw.tooSlow()
	}
	if errors.Is(err, errDeadline) || errors.Is(err, errSilent) {
		w.noStreaming()
		return
	}
	lw.abandon()
	lw.broken()
	lw.fail(now, "watch", fmt.Errorf("the streaming list broke off: %w", unexpected(err)))
	w.send(watch.Event{Type: watch.Error, Object: ownStatus(metav1.StatusReasonUnknown, err.Error())})
}

// lasted puts off the next watch if too many have ended soon after they were opened: the reflector, which only does so
// after a watch without any event, would open the next at once. A watch that we have ended ourselves does not count.
func (lw *listWatch) lasted(opened time.Time, ourselves, silent bool) {
	now := time.Now()
	lw.tell(now, func(r *record) { r.closed(now) })
	lw.mu.Lock()
	defer lw.mu.Unlock()
	switch {
	case now.Sub(opened) >= watchProof:
		lw.short = 0
		if !silent {
			lw.polling.lasted()
		}
	case !ourselves:
		if lw.short++; lw.short > 1 { // one may be chance
			pause := min(backoffFirst<<min(lw.short-2, 10), backoffMax)
			lw.notBefore = later(lw.notBefore, now.Add(pause))
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// noStreaming makes the reflector fall back to list and watch, now and for some time.
func (w *watcher) noStreaming() {
	lw := w.lw
	lw.abandon()
	lw.set.streaming.refuse(lw.gvr.Group, time.Now())
	lw.handOver(w.leave)
	w.leave = func() {}
	w.send(watch.Event{Type: watch.Error, Object: ownStatus(metav1.StatusReasonUnknown, errNoStreaming.Error())})
}

func ownStatus(reason metav1.StatusReason, message string) *metav1.Status {
	code := int32(500)
	if reason == metav1.StatusReasonExpired {
		code = 410
	}
	return &metav1.Status{Status: metav1.StatusFailure, Reason: reason, Code: code, Message: message}
}

// withCause returns why ctx was cancelled, if that is why err came.
func withCause(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

func setNonEmpty(v url.Values, name, value string) {
	if value != "" {
		v.Set(name, value)
	}
}

// idleReader puts off a timer with every byte.
type idleReader struct {
	r     io.Reader
	timer *time.Timer
	limit time.Duration
}

func (r *idleReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.timer.Reset(r.limit)
	}
	return n, err
}

// countingReader counts what is read.
type countingReader struct {
	io.ReadCloser
	n int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	return n, err
}

// streaming remembers which API servers do not complete streaming lists.
type streaming struct {
	mu    sync.Mutex
	until map[string]time.Time // by serverOf
}

const streamingRetry = time.Hour

// serverOf names the server of a group: kube-apiserver itself for the groups of Kubernetes, which is "". Others may be those
// of an aggregated API server.
func serverOf(group string) string {
	if !strings.Contains(group, ".") || group == "networking.k8s.io" {
		return ""
	}
	return group
}

// allowed tells whether a streaming list is worth trying. What kube-apiserver cannot do or a proxy before it prevents, other
// groups are not asked for either.
func (s *streaming) allowed(group string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !now.Before(s.until[""]) && !now.Before(s.until[serverOf(group)])
}

func (s *streaming) refuse(group string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil {
		s.until = map[string]time.Time{}
	}
	s.until[serverOf(group)] = now.Add(streamingRetry)
}
