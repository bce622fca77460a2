// Package relations completes the entries that need something from another object.
//
// It holds small indexes: the port numbers of the Services by name, the reported workloads, and the entries of Ingresses,
// Routes and ReplicaSets as the projection made them. It relies on package resources for the rules and takes the events of package informers in. It promises that what it has passed on to the fold depends only
// on the objects that exist, never on the order in which they were seen, that a list passes as a whole, and that it
// holds nothing per Pod.
package relations

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// Fold is where completed entries go; package snapshot has it. The methods mean what they mean in informers.Sink. The
// fold is told of a new list only as a whole.
type Fold interface {
	// Replace says that entries are all that the source has.
	Replace(id string, entries []*resources.Entry)
	// Upsert says that one object of the source was added or has changed.
	Upsert(id string, e *resources.Entry)
	// Delete says that one object of the source is gone.
	Delete(id string, uid resources.UID)
	// Remove says that the source itself is gone.
	Remove(id string)
}

// Options are what Relations needs from outside.
type Options struct {
	Fold       Fold
	Log        *slog.Logger          // nil: discarded
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// Relations stands between the informers and the fold. Its methods may be called by several goroutines at once; the
// fold sees the calls one after the other.
type Relations struct {
	fold    Fold
	log     *slog.Logger
	metrics *metrics

	mu      sync.Mutex
	enc     *resources.Encoder
	sources map[string]*source
	// services has more than one item under a name only while an object is being replaced by another of that name.
	services map[string][]*item
	// backends has the Ingresses and Routes that name a Service, whether or not it exists.
	backends map[string][]*item
	// owned has the ReplicaSets by their owner.
	owned  map[resources.UID][]*item
	broken map[*item]string
	status Status
}

// Status is what Relations shows of itself.
type Status struct {
	State     string    `json:"state"` // "ok", or "degraded" while an object could not be completed
	Since     time.Time `json:"since,omitzero"`
	Reason    string    `json:"reason,omitempty"`
	Advice    string    `json:"advice,omitempty"`
	Services  int       `json:"services"`  // names in the Service index
	Dependent int       `json:"dependent"` // Ingresses, Routes and ReplicaSets held
	Workloads int       `json:"workloads"` // reported workloads
	Remade    uint64    `json:"remade"`    // entries made again because another object changed
}

type class uint8

const (
	passing class = iota // nothing is held
	service
	ingress // Ingress or Route
	replicaSet
	workload
)

// classes has the wire types that take part in a relation (docs/protocol.md, sections 4 and 6).
var classes = map[string]class{
	"*v1.Service":               service,
	"*v1.Ingress":               ingress,
	"*v1.ReplicaSet":            replicaSet,
	"*v1.Deployment":            workload,
	"*v1.StatefulSet":           workload,
	"*v1.DaemonSet":             workload,
	"*v1.CloneSet":              workload,
	"*v1.OpenGaussCluster":      workload,
	"*v1.ReplicationController": workload,
}

// source is what is held of one watched resource.
type source struct {
	id     string
	class  class
	listed bool // the fold has had a list of it
	items  map[resources.UID]*item
}

// item is what is held of one object.
type item struct {
	source *source
	base   *resources.Entry // as the projection made it
	sent   *resources.Entry // as the fold has it
	links  *links           // of a Service or an Ingress; nil of the others, which are many
}

// links are what connects Ingresses and Services.
type links struct {
	name  string                  // of a Service: namespace/name; empty if it could not be read
	ports []resources.ServicePort // of a Service
	refs  []string                // of an Ingress: the Services that it names
}

// New returns Relations that pass on to o.Fold.
func New(o Options) *Relations {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Relations{
		fold:     o.Fold,
		log:      o.Log,
		metrics:  newMetrics(o.Registerer),
		enc:      resources.NewEncoder(),
		sources:  map[string]*source{},
		services: map[string][]*item{},
		backends: map[string][]*item{},
		owned:    map[resources.UID][]*item{},
		broken:   map[*item]string{},
		status:   Status{State: "ok", Since: time.Now()},
	}
}

// touched are the keys of the indexes that a change altered.
type touched struct {
	services map[string]struct{}
	owners   map[resources.UID]struct{}
}

func (t *touched) service(name string) {
	if t.services == nil {
		t.services = map[string]struct{}{}
	}
	t.services[name] = struct{}{}
}

func (t *touched) owner(uid resources.UID) {
	if t.owners == nil {
		t.owners = map[resources.UID]struct{}{}
	}
	t.owners[uid] = struct{}{}
}

// Replace takes the complete list of one source, whose objects have one wire type until the next list. It reaches the fold in one call, and so do all entries of another
// source that change with it.
func (r *Relations) Replace(id string, entries []*resources.Entry) {
	c := passing
	if len(entries) > 0 {
		c = classes[entries[0].WireType()]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	src := r.sources[id]
	if c == passing && src == nil {
		r.fold.Replace(id, entries)
		return
	}
	var t touched
	if src != nil && c != src.class && len(entries) > 0 {
		r.drop(src, &t)
		src = nil
	}
	if src == nil && c != passing {
		src = r.newSource(id, c)
	}
	if src == nil {
		r.fold.Replace(id, entries)
		r.remake(&t, true)
		return
	}
	changed := !src.listed
	src.listed = true
	keep := make(map[resources.UID]struct{}, len(entries))
	for _, e := range entries {
		keep[e.UID()] = struct{}{}
	}
	for uid, it := range src.items {
		if _, ok := keep[uid]; !ok {
			r.forget(it, &t)
			changed = true
		}
	}
	for _, e := range entries {
		before := src.sent(e.UID())
		changed = r.hold(src, e, &t).sent != before || changed
	}
	if changed {
		r.fold.Replace(id, src.entries())
	}
	r.remake(&t, true)
	r.told()
}

// Upsert takes one added or changed object of a source. An entry that comes out as it was is not passed on.
func (r *Relations) Upsert(id string, e *resources.Entry) {
	c := classes[e.WireType()]
	r.mu.Lock()
	defer r.mu.Unlock()
	src := r.sources[id]
	var t touched
	if src != nil && src.class != c {
		r.drop(src, &t)
		r.fold.Remove(id)
		src = nil
	}
	if c == passing {
		r.fold.Upsert(id, e)
		r.remake(&t, false)
		return
	}
	if src == nil {
		src = r.newSource(id, c)
	}
	before := src.sent(e.UID())
	if it := r.hold(src, e, &t); it.sent != before {
		r.fold.Upsert(id, it.sent)
	}
	r.remake(&t, false)
	r.told()
}

// Delete takes the end of one object of a source.
func (r *Relations) Delete(id string, uid resources.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	src := r.sources[id]
	if src == nil {
		r.fold.Delete(id, uid)
		return
	}
	it := src.items[uid]
	if it == nil {
		return
	}
	var t touched
	r.forget(it, &t)
	r.fold.Delete(id, uid)
	r.remake(&t, false)
	r.told()
}

// Remove takes the end of a source: it is no longer selected, or no longer served.
func (r *Relations) Remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var t touched
	if src := r.sources[id]; src != nil {
		r.drop(src, &t)
	}
	r.fold.Remove(id)
	r.remake(&t, true)
	r.told()
}

// Reported says whether an object with this UID is reported as a workload.
func (r *Relations) Reported(uid resources.UID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.isReported(uid)
}

func (r *Relations) isReported(uid resources.UID) bool {
	for _, src := range r.sources {
		if src.class == workload && src.items[uid] != nil {
			return true
		}
	}
	return false
}

// Status returns the present sizes and troubles.
func (r *Relations) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

func (r *Relations) newSource(id string, c class) *source {
	src := &source{id: id, class: c, items: map[resources.UID]*item{}}
	r.sources[id] = src
	return src
}

func (r *Relations) drop(src *source, t *touched) {
	for _, it := range src.items {
		r.forget(it, t)
	}
	delete(r.sources, src.id)
}

// hold enters e into the indexes and completes it.
func (r *Relations) hold(src *source, e *resources.Entry, t *touched) *item {
	it := src.items[e.UID()]
	if it != nil && same(it.base, e) {
		return it
	}
	if it == nil {
		if src.class == workload && !r.isReported(e.UID()) {
			t.owner(e.UID())
		}
		it = &item{source: src}
		if src.class == service || src.class == ingress {
			it.links = &links{}
		}
		src.items[e.UID()] = it
	} else if src.class != service {
		r.unlink(it, t)
	}
	it.base = e
	switch src.class {
	case service:
		r.linkService(it, t)
	case replicaSet:
		add(r.owned, e.Owner(), it)
	case workload, ingress, passing:
	}
	it.sent = r.complete(it)
	return it
}

// linkService enters a Service, unless it is there already with the same ports: most changes of a Service are of no
// interest to what names it.
func (r *Relations) linkService(it *item, t *touched) {
	name, ports, err := servicePorts(it.base)
	r.trouble(it, err)
	if err == nil && it.links.name == name && slices.Equal(it.links.ports, ports) {
		return
	}
	r.unlink(it, t)
	if err != nil {
		return
	}
	it.links.name, it.links.ports = name, ports
	add(r.services, name, it)
	t.service(name)
}

func servicePorts(e *resources.Entry) (string, []resources.ServicePort, error) {
	doc, err := e.JSON()
	if err != nil {
		return "", nil, err
	}
	return resources.ServicePorts(doc)
}

func (r *Relations) forget(it *item, t *touched) {
	r.unlink(it, t)
	delete(r.broken, it)
	uid := it.base.UID()
	delete(it.source.items, uid)
	if it.source.class == workload && !r.isReported(uid) {
		t.owner(uid)
	}
}

func (r *Relations) unlink(it *item, t *touched) {
	switch it.source.class {
	case service:
		if it.links.name == "" {
			return
		}
		remove(r.services, it.links.name, it)
		t.service(it.links.name)
		it.links.name, it.links.ports = "", nil
	case ingress:
		for _, name := range it.links.refs {
			remove(r.backends, name, it)
		}
		it.links.refs = nil
	case replicaSet:
		remove(r.owned, it.base.Owner(), it)
	case workload, passing:
	}
}

// remake completes again what depends on the touched keys. With whole, each source that changes is passed on in one
// call, so that no snapshot falls between two of its entries.
func (r *Relations) remake(t *touched, whole bool) {
	changed := map[*source][]*item{}
	visit := func(dependents []*item) {
		for _, it := range dependents {
			before := it.sent
			if it.sent = r.complete(it); it.sent != before {
				changed[it.source] = append(changed[it.source], it)
			}
		}
	}
	for name := range t.services {
		// complete alters what is under this name.
		visit(slices.Clone(r.backends[name]))
	}
	for uid := range t.owners {
		visit(r.owned[uid])
	}
	for src, items := range changed {
		r.status.Remade += uint64(len(items))
		r.metrics.remade.Add(float64(len(items)))
		if whole && len(items) > 1 {
			r.fold.Replace(src.id, src.entries())
			continue
		}
		for _, it := range items {
			r.fold.Upsert(src.id, it.sent)
		}
	}
}

// complete returns the entry of it under the present indexes: the same pointer as before if nothing came of it.
func (r *Relations) complete(it *item) *resources.Entry {
	switch it.source.class {
	case ingress:
		var refs []string
		doc, err := it.base.JSON()
		if err == nil {
			doc, refs, err = resources.ResolveBackends(doc, r.lookup)
		}
		r.trouble(it, err)
		for _, name := range it.links.refs {
			remove(r.backends, name, it)
		}
		it.links.refs = refs
		for _, name := range refs {
			add(r.backends, name, it)
		}
		return r.encode(it, doc)
	case replicaSet:
		if !r.isReported(it.base.Owner()) {
			return it.settle(it.base)
		}
		doc, err := it.base.JSON()
		if err == nil {
			doc, err = resources.WithoutTemplate(doc)
		}
		r.trouble(it, err)
		return r.encode(it, doc)
	case service, workload, passing:
	}
	return it.settle(it.base)
}

// encode makes an entry like the base entry of it, with doc (nil: the base entry itself).
func (r *Relations) encode(it *item, doc []byte) *resources.Entry {
	if doc == nil {
		return it.settle(it.base)
	}
	c := resources.Content{
		WireType:  it.base.WireType(),
		UID:       it.base.UID(),
		Owner:     it.base.Owner(),
		OwnerKind: it.base.OwnerKind(),
		JSON:      doc,
	}
	known := it.sent
	if known == nil {
		known = it.base
	}
	e := r.enc.Encode(c, known)
	if e != known && same(e, it.base) {
		return it.base // shared with the informer's store
	}
	return e
}

// settle prefers the entry that the fold has over another with the same content.
func (it *item) settle(e *resources.Entry) *resources.Entry {
	if it.sent != nil && same(it.sent, e) {
		return it.sent
	}
	return e
}

func same(a, b *resources.Entry) bool {
	return a == b || a.Sum() == b.Sum() && a.UID() == b.UID() && a.Owner() == b.Owner() && a.OwnerKind() == b.OwnerKind()
}

// lookup returns the ports of a Service, nil if there is none of that name.
func (r *Relations) lookup(name string) []resources.ServicePort {
	items := r.services[name]
	if len(items) == 0 {
		return nil
	}
	// Of two objects of one name (the old one's end has not been seen yet) always the same one is taken, whichever came first.
	first := slices.MinFunc(items, func(a, b *item) int {
		x, y := a.base.UID(), b.base.UID()
		return slices.Compare(x[:], y[:])
	})
	return first.links.ports
}

// entries are all completed entries of the source, in no order.
func (s *source) entries() []*resources.Entry {
	out := make([]*resources.Entry, 0, len(s.items))
	for _, it := range s.items {
		out = append(out, it.sent)
	}
	return out
}

// sent is the entry that the fold has of an object, nil if none.
func (s *source) sent(uid resources.UID) *resources.Entry {
	if it := s.items[uid]; it != nil {
		return it.sent
	}
	return nil
}

// trouble notes that an entry could not be read, which means that the projection made something wrong: the entry then
// goes on as it is.
func (r *Relations) trouble(it *item, err error) {
	if err == nil {
		delete(r.broken, it)
		return
	}
	text := err.Error()
	if r.broken[it] == text {
		return
	}
	r.broken[it] = text
	r.metrics.failures.Inc()
	r.log.Error("entry passed on without its relations", "source", it.source.id, "error", err)
}

// told brings the figures of status and metrics up to date.
func (r *Relations) told() {
	s := &r.status
	s.Services, s.Workloads, s.Dependent = len(r.services), 0, 0
	for _, src := range r.sources {
		switch src.class {
		case workload:
			s.Workloads += len(src.items)
		case ingress, replicaSet:
			s.Dependent += len(src.items)
		case service, passing:
		}
	}
	state, reason, advice := "ok", "", ""
	if len(r.broken) > 0 {
		texts := slices.Sorted(maps.Values(r.broken))
		state = "degraded"
		reason = fmt.Sprintf("%d entries could not be read, one of them: %s", len(texts), texts[0])
		advice = "report this as a bug of pseudo-agent; until then these objects are sent without their relations"
	}
	if state != s.State {
		s.State, s.Since = state, time.Now()
	}
	s.Reason, s.Advice = reason, advice
	r.metrics.services.Set(float64(s.Services))
	r.metrics.workloads.Set(float64(s.Workloads))
	r.metrics.dependent.Set(float64(s.Dependent))
}

func add[K comparable](m map[K][]*item, key K, it *item) { m[key] = append(m[key], it) }

func remove[K comparable](m map[K][]*item, key K, it *item) {
	rest := slices.DeleteFunc(m[key], func(o *item) bool { return o == it })
	if len(rest) == 0 {
		delete(m, key)
	} else {
		m[key] = rest
	}
}
