// Package informers list-watches the selected resources of one cluster. It holds, for each of them, discovery's answer,
// a client-go Reflector, a state with its reason, and the entries in force, nothing else of the objects: lists and
// watches are read from the connection straight through the projection (package resources).
//
// It relies on the apiserver's resourceVersion semantics and on a Sink that takes entries in. It promises that a Sink
// never loses a live object's entry because a list failed, was cut short or was refused; that an unchanged object causes
// no call; that a resource that cannot be read delays the others by no more than one timeout; and that no goroutine
// outlives Run.
package informers

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// VersionID is the id under which the entry of the apiserver's /version is passed to the Sink.
const VersionID = "version"

// Options configure a Set. Config, Selected and Sink are needed, everything else has a default.
type Options struct {
	// Config says how to reach the apiserver: see RESTConfig.
	Config *rest.Config
	// Reload reads Config again, for credentials that stand in a kubeconfig itself. Default: they stay as they are, unless
	// they stand in files that Config names.
	Reload func() (*rest.Config, error)
	// Selected are the resources to watch.
	Selected []resources.Selected
	// Projection says how much of the objects is kept. Its OwnerKinds is set by this package.
	Projection resources.Options
	// Sink takes the entries in.
	Sink Sink
	// Logger is told state changes. Default: nothing is logged.
	Logger *slog.Logger
	// Registerer is where the metrics go. Default: nowhere.
	Registerer prometheus.Registerer
	// ContentType is how objects are asked for: ContentTypeAuto, which is the default, or ContentTypeJSON.
	ContentType string
	// PageSize is the number of objects that a page of a list may have (api_list_page_size). Default 1000.
	PageSize int64
	// RelistInterval is the longest time between two complete lists of a resource (api_list_max_interval). Default 10 min.
	RelistInterval time.Duration
	// DiscoveryInterval is the time between two looks at discovery while some resource is not where it should be.
	// Otherwise they are five minutes apart. Default 20 s.
	DiscoveryInterval time.Duration
	// ListDeadline is how long one list may take. It is doubled, up to 30 minutes, as long as it is too short. Default 5 min.
	ListDeadline time.Duration
	// IdleTimeout is how long a list, or the answer to any request, may stand still. Default 60 s.
	IdleTimeout time.Duration
	// StreamIdleTimeout is how long a streaming list may stand still before list and watch are used instead. Default 15 s.
	StreamIdleTimeout time.Duration
	// SilentWatch is how long a watch may deliver neither event nor bookmark before it is reopened. Apiservers send a
	// bookmark about every minute. Default 3 min.
	SilentWatch time.Duration
	// Memory is how many bytes the entries of all resources may take before a list is ended that brings more; 0: any.
	Memory int64
	// MaxObjects is how many objects one list may have. Default 2,000,000, the most that pseudo-server takes.
	MaxObjects int
	// Beat, if given, is called by the loop as long as it is not stuck, for a liveness probe: every second, and while the
	// apiserver does not answer at least every minute.
	Beat func()
}

// How objects are asked for (kubernetes.content_type).
const (
	// ContentTypeAuto asks for Pods and Nodes in protobuf; whoever has JSON only is asked for that.
	ContentTypeAuto = "auto"
	// ContentTypeJSON asks for JSON only.
	ContentTypeJSON = "json"
)

const (
	settledDiscovery = 5 * time.Minute
	trialInterval    = settledDiscovery - time.Minute // between two attempts to list another version; below one look
	pokedDiscovery   = time.Second                    // least time between two looks at discovery
	versionInterval  = 5 * time.Minute
	versionRetry     = 5 * time.Second
	maxListDeadline  = 30 * time.Minute
	backoffFirst     = 800 * time.Millisecond
	backoffMax       = 8 * time.Second
	refusalPause     = 2 * time.Second
	maxRefusalPause  = 20 * time.Second
	tickInterval     = time.Second
	toldInterval     = time.Second // a busy watch need not say more often that it lives
)

func (o *Options) complete() error {
	if o.Config == nil || o.Sink == nil {
		return errors.New("informers: Config and Sink must be given")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Beat == nil {
		o.Beat = func() {}
	}
	setDefault(&o.PageSize, 1000)
	setDefault(&o.MaxObjects, 2_000_000)
	setDefault(&o.RelistInterval, 10*time.Minute)
	setDefault(&o.DiscoveryInterval, 20*time.Second)
	setDefault(&o.ListDeadline, 5*time.Minute)
	setDefault(&o.IdleTimeout, time.Minute)
	setDefault(&o.StreamIdleTimeout, 15*time.Second)
	setDefault(&o.SilentWatch, 3*time.Minute)
	return nil
}

func setDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Set watches the selected resources of one cluster. Its methods may be called by any goroutine, Run only once.
type Set struct {
	opts         Options
	client       *client
	metrics      *metrics
	gate         *gate
	streaming    streaming
	room         *room
	newProjector func(resources.Selected) projector
	owners       atomic.Pointer[map[ownerKind]string]
	poked        chan struct{}
	version      *source
	changes      stateChanges

	mu      sync.Mutex
	wanted  []resources.Selected
	sources []*source // in the order of wanted, once the loop has seen it
}

// New returns a Set that does nothing before Run. The error says what is wrong with the access to the apiserver.
func New(opts Options) (*Set, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	s := &Set{opts: opts, metrics: newMetrics(opts.Registerer), gate: newGate(), room: &room{limit: opts.Memory, objects: opts.MaxObjects}, poked: make(chan struct{}, 1)}
	s.opts.Projection.OwnerKinds = s.ownerKind
	s.newProjector = func(sel resources.Selected) projector { return resources.NewProjector(sel, s.opts.Projection) }
	var err error
	if s.client, err = newClient(s.opts.Config, s.opts.Reload, s.metrics, s.opts.Logger); err != nil {
		return nil, err
	}
	now := time.Now()
	s.version = &source{id: VersionID, set: s, rec: newRecord(VersionID, true, now)}
	s.metrics.show(VersionID, Pending)
	s.Apply(opts.Selected)
	return s, nil
}

// Apply changes the selection. Resources that stay keep their entries, state and watch; those that are new are listed;
// those that go are removed from the Sink. A resource whose selector or namespace changes keeps its entries until the
// new list is complete, and no report may go out before that: it would mix the two. It returns at once.
func (s *Set) Apply(selected []resources.Selected) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = slices.Clone(selected)
	old := s.sources
	s.sources = make([]*source, 0, len(selected))
	for _, sel := range s.wanted {
		i := slices.IndexFunc(old, func(src *source) bool { return src.id == sel.ID })
		var src *source
		if i >= 0 {
			src = old[i]
		} else {
			src = &source{id: sel.ID, set: s, rec: newRecord(sel.ID, sel.Required, now), retry: map[target]time.Time{}}
			src.store = newStore(sel.ID, s.opts.Sink, s.room)
			s.metrics.show(sel.ID, Pending)
		}
		want := spec{sel, rank(sel), scope{
			kind: sel.Kind, as: sel.As, namespace: sel.Namespace, excluded: sel.ExcludedSelector(),
			fieldSelector: sel.FieldSelector, labelSelector: sel.LabelSelector,
		}}
		src.mu.Lock()
		if i >= 0 && src.spec.scope != want.scope {
			src.rec.reselected(now)
			src.again = true
		}
		src.spec = want
		src.rec.required = sel.Required
		src.mu.Unlock()
		s.sources = append(s.sources, src)
	}
	s.poke()
}

// rank is the order of the first lists: small and needed ones first, Pods last.
func rank(sel resources.Selected) int {
	order := []string{"namespaces", "nodes", "services", "deployments", "statefulsets", "daemonsets", "replicationcontrollers", "replicasets", "ingresses", "routes"}
	if sel.Kind.Name == "pods" {
		return len(order) + 1
	}
	if i := slices.Index(order, sel.Kind.Name); i >= 0 {
		return i
	}
	return len(order)
}

// poke makes the loop look at discovery and at the selection soon.
func (s *Set) poke() {
	select {
	case s.poked <- struct{}{}:
	default:
	}
}

// Run watches until ctx is done and then returns nil, when all goroutines have ended. The Sink keeps what it has.
func (s *Set) Run(ctx context.Context) error {
	defer s.client.close()
	var background sync.WaitGroup
	background.Go(func() { s.watchVersion(ctx) })
	s.loop(ctx)
	background.Wait()
	s.changes.write(s.opts.Logger, len(s.all()))
	return nil
}

// loop starts, moves and stops the informers. It alone touches what source keeps for it.
func (s *Set) loop(ctx context.Context) {
	l := &loop{set: s, discovery: newDiscovery(s.client), owners: map[*source]ownership{}, absent: map[schema.GroupVersionResource]time.Time{}}
	defer l.stopAll()
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	var last time.Time
	due := true
	for {
		s.opts.Beat()
		now := time.Now()
		if interval := l.interval(); due && now.Sub(last) >= pokedDiscovery || now.Sub(last) >= interval {
			due = false
			select {
			case <-s.poked: // answered by this look
			default:
			}
			l.look(ctx)
			last = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-s.poked:
			due = true
		case now := <-tick.C:
			s.refresh(now)
		}
	}
}

// refresh shows what time alone has changed.
func (s *Set) refresh(now time.Time) {
	all := s.all()
	for _, src := range all {
		src.update(now, func(*record) {})
		if src.store != nil {
			s.metrics.entries.WithLabelValues(src.id).Set(float64(src.store.size()))
		}
	}
	s.changes.write(s.opts.Logger, len(all))
}

// all returns version.Info and the selected resources.
func (s *Set) all() []*source {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*source{s.version}, s.sources...)
}

// loop is the state of Set.loop.
type loop struct {
	set       *Set
	discovery *discovery
	sources   []*source
	groups    []string
	failed    bool      // discovery, when it was last asked
	notBefore time.Time // it is to be left alone until then
	restless  bool      // some resource is not where it should be
	doubted   time.Time // when discovery was last distrusted: a resource that it did not name answered
	owners    map[*source]ownership
	// absent has when resources were last found not to be served, so that it is asked once for all their namespaces.
	absent map[schema.GroupVersionResource]time.Time
}

// ownership says how Pods name the owners that one resource reports.
type ownership struct {
	kind ownerKind
	as   string
}

func (l *loop) interval() time.Duration {
	cannotBeRead := func(src *source) bool { state := src.state(); return state == Forbidden || state == Failing }
	if l.restless || slices.ContainsFunc(l.sources, cannotBeRead) {
		return l.set.opts.DiscoveryInterval
	}
	return settledDiscovery
}

// look asks discovery and brings every resource to where it belongs.
func (l *loop) look(ctx context.Context) {
	l.set.mu.Lock()
	sources := slices.Clone(l.set.sources)
	l.set.mu.Unlock()
	for _, old := range l.sources {
		if !slices.Contains(sources, old) {
			old.stop()
			old.store.clear()
			delete(l.owners, old)
			if !slices.ContainsFunc(sources, func(src *source) bool { return src.id == old.id }) {
				l.set.metrics.forget(old.id)
			}
			l.set.opts.Logger.Info("resource is no longer selected", "resource", old.id)
		}
	}
	l.sources = sources

	groups := []string{""} // the core group answers for the apiserver as a whole
	for _, src := range sources {
		for _, c := range src.wanted().sel.Candidates {
			groups = append(groups, c.Group)
		}
	}
	slices.Sort(groups)
	if groups = slices.Compact(groups); !slices.Equal(groups, l.groups) {
		l.groups, l.notBefore = groups, time.Time{}
		l.discovery.forget()
	}
	if !time.Now().Before(l.notBefore) {
		l.refresh(ctx)
	}
	if ctx.Err() != nil {
		return
	}

	l.restless = l.failed
	ordered := slices.Clone(sources)
	slices.SortStableFunc(ordered, func(a, b *source) int { return a.wanted().rank - b.wanted().rank })
	for _, src := range ordered {
		l.set.opts.Beat()
		l.place(ctx, src)
	}
	l.mapOwners()
}

// refresh asks discovery.
func (l *loop) refresh(ctx context.Context) {
	changed, err := l.discovery.refresh(ctx, l.groups)
	if ctx.Err() != nil {
		return
	}
	l.failed, l.notBefore = err != nil, time.Now().Add(retryAfter(err))
	result := "unchanged"
	switch {
	case err != nil:
		result = "error"
	case changed:
		result = "changed"
	}
	l.set.metrics.discovery.WithLabelValues(result).Inc()
}

// place brings one resource to where discovery says it is.
func (l *loop) place(ctx context.Context, src *source) {
	want := src.wanted()
	best, ok, err := l.discovery.resolve(want.sel)
	if ok && want.sel.Further && !best.namespaced {
		l.vanish(src) // its objects are in no namespace: the first has them
		return
	}
	first := want.sel.Candidates[0]
	if !ok || best.gvr != first && first.Version != "" {
		l.restless = true // something better may still come
	}
	src.reap()
	r := src.running()
	if r == nil {
		l.begin(ctx, src, want, best, ok, err)
		return
	}
	if src.outdated(r) {
		src.stop()
		l.start(ctx, src, want, r.target)
		return
	}
	if ok && best == r.target {
		src.absentSince = time.Time{}
		if others := l.others(src, want, r.target); len(others) > 0 {
			l.besides(ctx, src, want, others)
		} else {
			src.endTrial(true)
		}
		return
	}
	_, still, unsure := l.discovery.find(r.target.gvr)
	before := src.store.changes()
	switch {
	case !still && unsure != nil:
		src.absentSince = time.Time{} // it is not known to be absent any more
		return
	case !still && !l.gone(ctx, src, r.target.gvr, r.lw.namespace):
		return
	case ok && still && sameObjects(best, r.target):
		l.besides(ctx, src, want, []target{best})
	case ok:
		l.set.opts.Logger.Info("resource moves to another group or version", "resource", src.id,
			"from", r.target.gvr.GroupVersion().String(), "to", best.gvr.GroupVersion().String())
		src.stop()
		l.start(ctx, src, want, best)
	case err != nil:
		// Another candidate may be served; until that is known the informer goes on trying.
	default:
		if src.stop(); src.store.changes() != before {
			l.start(ctx, src, want, r.target) // it was served again meanwhile, and its objects live
			return
		}
		l.vanish(src)
	}
}

// sameObjects tells whether a and b are two versions of the same objects.
func sameObjects(a, b target) bool {
	return a.gvr.GroupResource() == b.gvr.GroupResource() && a.kind == b.kind
}

// others are the versions that may be tried instead of t, which is the best: none, unless it fails and was never listed.
func (l *loop) others(src *source, want spec, t target) []target {
	if !src.failsFromTheStart(time.Now()) {
		return nil
	}
	return slices.DeleteFunc(l.discovery.served(want.sel), func(o target) bool { return o == t || !sameObjects(o, t) })
}

// besides tries one of the targets besides the informer that runs, which goes on until that one has listed. One that failed is
// tried again after some minutes.
func (l *loop) besides(ctx context.Context, src *source, want spec, targets []target) {
	now := time.Now()
	if r, failed := src.trial(); r != nil {
		if !failed && slices.Contains(targets, r.target) {
			return
		}
		src.endTrial(false)
		src.retry[r.target] = now.Add(trialInterval)
	}
	for _, t := range targets {
		if now.Before(src.retry[t]) {
			continue
		}
		l.set.opts.Logger.Info("resource is tried in another version", "resource", src.id, "version", t.gvr.GroupVersion().String())
		src.try(ctx, want, t)
		return
	}
}

// begin starts the informer of a resource that has none.
func (l *loop) begin(ctx context.Context, src *source, want spec, best target, ok bool, err error) {
	switch {
	case ok:
		src.absentSince = time.Time{}
		l.start(ctx, src, want, best)
	case err != nil:
		f := failureOf("cannot find out whether it is served", err)
		if f.class == classServer || f.class == classNotFound || f.class == classForbidden {
			f = failure{class: classDiscovery, reason: f.reason, advice: advices[classDiscovery]}
		}
		src.failed(time.Now(), f)
		l.set.gate.attempted(src.id)
	case src.state() == NotServed:
		l.vanish(src)
	default:
		first := want.sel.Candidates[0]
		if want.sel.Further && time.Since(l.absent[first]) < l.set.opts.DiscoveryInterval {
			l.vanish(src)
			return
		}
		gone, err := l.confirmed(ctx, src, first, want.scope.namespace)
		switch {
		case gone:
			l.absent[first] = time.Now()
			l.vanish(src)
		case err != nil:
			now := time.Now()
			if errors.Is(err, errUnnamed) && now.Sub(l.doubted) >= settledDiscovery {
				l.doubted = now
				l.discovery.forget() // perhaps it was not what its etag stands for
			}
			src.failed(now, failureOf("cannot find out whether it is served", err))
			l.set.gate.attempted(src.id)
		}
	}
}

// gone is confirmed without the reason why not.
func (l *loop) gone(ctx context.Context, src *source, c schema.GroupVersionResource, namespace string) bool {
	gone, err := l.confirmed(ctx, src, c, namespace)
	return gone && err == nil
}

// confirmed makes sure that a resource which discovery does not name is really not served. Discovery is built up while
// an apiserver starts, and names CRDs late; a path answers 404 only when the apiserver is sure. An error says why that
// cannot be found out; without one it is too early to tell.
func (l *loop) confirmed(ctx context.Context, src *source, c schema.GroupVersionResource, namespace string) (bool, error) {
	now := time.Now()
	if src.absentSince.IsZero() {
		src.absentSince = now
	}
	settled := now.Sub(src.absentSince) >= l.set.opts.DiscoveryInterval
	l.restless = true
	look := func(path string) error {
		_, err := l.set.client.get(ctx, src.id, path, "limit=1", runtime.ContentTypeJSON, "")
		return err
	}
	versions := []string{c.Version}
	if c.Version == "" {
		if versions = l.discovery.versions(c.Group); len(versions) == 0 {
			err := look("/apis/" + c.Group)
			if apierrors.IsNotFound(err) {
				return true, nil
			}
			return false, err
		}
	}
	for _, c.Version = range versions {
		err := look(resourcePath(c, namespace))
		if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
			// Permissions are looked at before existence, so that this says nothing. Discovery may be read by all, and is
			// read anew: what it said before may be from the time when the apiserver was starting.
			var listed []servedResource
			listed, err = l.discovery.readVersion(ctx, src.id, c.GroupVersion())
			named := slices.ContainsFunc(listed, func(r servedResource) bool { return r.name == c.Resource })
			switch {
			case err != nil:
			case named:
				l.discovery.forget()
				return false, nil
			case settled:
				continue
			}
		} else if err == nil && settled {
			err = errUnnamed
		}
		if !apierrors.IsNotFound(err) {
			return false, err
		}
	}
	return true, nil
}

// vanish: the resource is not served.
func (l *loop) vanish(src *source) {
	src.stop()
	var remove bool
	now := time.Now()
	src.update(now, func(r *record) { remove = r.gone(now) })
	if remove {
		src.store.clear()
		delete(l.owners, src)
	}
	l.set.gate.attempted(src.id)
}

func (l *loop) stopAll() {
	var wg sync.WaitGroup
	for _, src := range l.sources {
		wg.Go(src.stop)
	}
	wg.Wait()
}

// ownerKind names the kind of a Pod's owner regardless of its version.
type ownerKind struct{ group, kind string }

// start runs an informer of src for t. Pods learn of the owners that it will report before it can report any: a report
// in which a Pod does not name its owner as it is reported makes the server delete the Pod.
func (l *loop) start(ctx context.Context, src *source, want spec, t target) {
	delete(l.owners, src)
	if want.scope.as && t.kind != "" {
		l.owners[src] = ownership{ownerKind{t.gvr.Group, t.kind}, want.scope.kind.OwnerKind}
	}
	l.mapOwners()
	src.start(ctx, want, t)
}

// mapOwners puts together the kinds of the workloads that are reported as another one, for as long as their entries are
// kept. When that changes, Pods are listed again, since their owners are then named differently.
func (l *loop) mapOwners() {
	owners := map[ownerKind]string{}
	for _, o := range l.owners {
		owners[o.kind] = o.as
	}
	old := l.set.owners.Load()
	if old == nil && len(owners) == 0 || old != nil && maps.Equal(*old, owners) {
		return
	}
	l.set.owners.Store(&owners)
	for _, src := range l.sources {
		if r := src.running(); r != nil && r.scope.kind.Name == "pods" {
			r.lw.relist()
		}
	}
}

// ownerKind is the resources.Options.OwnerKinds of every projection.
func (s *Set) ownerKind(apiVersion, kind string) string {
	owners := s.owners.Load()
	if owners == nil {
		return ""
	}
	return (*owners)[ownerKind{groupOf(apiVersion), kind}]
}

func groupOf(apiVersion string) string {
	group, _, found := strings.Cut(apiVersion, "/")
	if !found {
		return ""
	}
	return group
}

// Verdict says whether a report may go out at the time now, and what is wrong.
func (s *Set) Verdict(now time.Time) Verdict {
	v := Verdict{Complete: true}
	all := s.all()
	for _, src := range all {
		src.mu.Lock()
		src.rec.judge(now, src.behind(), &v)
		src.mu.Unlock()
	}
	v.compose(len(all))
	return v
}

// Status is what /status shows of the informers.
type Status struct {
	Resources []ResourceStatus `json:"resources"`
	Verdict   Verdict          `json:"verdict"`
}

// ResourceStatus is the state of one selected resource.
type ResourceStatus struct {
	Resource      string     `json:"resource"`
	State         State      `json:"state"`
	Since         time.Time  `json:"since"`
	Reason        string     `json:"reason,omitempty"`
	Advice        string     `json:"advice,omitempty"`
	Required      bool       `json:"required"`
	GroupVersion  string     `json:"group_version,omitempty"`
	ContentType   string     `json:"content_type,omitempty"` // of the last list or watch: json or protobuf
	Namespace     string     `json:"namespace,omitempty"`
	FieldSelector string     `json:"field_selector,omitempty"`
	LabelSelector string     `json:"label_selector,omitempty"`
	As            string     `json:"as,omitempty"`
	Entries       int        `json:"entries"`
	LastList      *time.Time `json:"last_list,omitempty"`
	LastEvent     *time.Time `json:"last_event,omitempty"`
	LastBookmark  *time.Time `json:"last_bookmark,omitempty"`
	LastError     string     `json:"last_error,omitempty"`
	LastErrorAt   *time.Time `json:"last_error_at,omitempty"`
	// NotMoved says why the resource is not watched in another version, which the apiserver prefers; NotMovedAdvice what to do.
	NotMoved       string    `json:"not_moved,omitempty"`
	NotMovedAdvice string    `json:"not_moved_advice,omitempty"`
	NotMovedSince  time.Time `json:"not_moved_since,omitzero"`
}

// Status returns the present state of everything.
func (s *Set) Status() Status {
	now := time.Now()
	st := Status{Verdict: s.Verdict(now)}
	all := s.all()
	troubles, failures := make([]failure, len(all)), make([]*failure, len(all))
	for i, src := range all {
		var resource ResourceStatus
		resource, troubles[i] = src.status(now)
		st.Resources, failures[i] = append(st.Resources, resource), &troubles[i]
	}
	oneOutage(failures)
	for i, trouble := range troubles {
		st.Resources[i].Reason, st.Resources[i].Advice = trouble.reason, trouble.advice
	}
	return st
}

// status is what an operator is told of the resource, but for why it is in trouble, which comes beside.
func (s *source) status(now time.Time) (ResourceStatus, failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rec
	st := ResourceStatus{
		Resource: s.id, State: r.current(now), Since: r.since, Required: r.required,
		Namespace: s.spec.scope.namespace, FieldSelector: joined(s.spec.scope.fieldSelector, s.spec.scope.excluded),
		LabelSelector: s.spec.scope.labelSelector,
		LastList:      timeOrNil(r.lastList), LastEvent: timeOrNil(r.lastEvent), LastBookmark: timeOrNil(r.lastBookmark),
		LastError: r.lastError, LastErrorAt: timeOrNil(r.lastErrorAt), ContentType: s.form.last(),
	}
	st.NotMoved, st.NotMovedAdvice = s.notMoved.reason, s.notMoved.advice
	st.NotMovedSince = s.notMovedSince
	if s.spec.sel.As {
		st.As = s.spec.sel.Kind.Name
	}
	if s.run != nil {
		st.GroupVersion = s.run.target.gvr.GroupVersion().String()
	}
	if s.store != nil {
		st.Entries = s.store.size()
	} else if r.synced {
		st.Entries = 1
	}
	return st, r.trouble(now)
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
