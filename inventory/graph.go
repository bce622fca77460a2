package inventory

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Layer is a column of a Graph.
type Layer string

// The layers in the order in which traffic passes them; LayerOther is that of an object that no traffic passes.
const (
	LayerOther    Layer = "other"
	LayerIngress  Layer = "ingress"
	LayerService  Layer = "service"
	LayerWorkload Layer = "workload"
	LayerPod      Layer = "pod"
	LayerNode     Layer = "node"
)

// BoxState tells what became of what a Box stands for.
type BoxState string

// The states of boxes.
const (
	BoxShown   BoxState = "shown"
	BoxPartly  BoxState = "partly"  // shown, but something of it is lost
	BoxDropped BoxState = "dropped" // reported and not shown
	BoxMissing BoxState = "missing" // others refer to it, but it was not reported
)

// Box is an object of a Graph, or several Pods or Nodes.
type Box struct {
	Layer     Layer    `json:"layer"`
	State     BoxState `json:"state"`
	Kind      string   `json:"kind"`           // for people, such as Deployment
	Type      string   `json:"type,omitempty"` // wire type; "" if it is no entry
	ID        string   `json:"id,omitempty"`   // as in Change; "" if it is no entry, or several
	Namespace string   `json:"namespace,omitempty"`
	Name      string   `json:"name"`
	Count     int      `json:"count"`           // how many it stands for
	Reasons   []Reason `json:"reasons"`         // why it, or something of it, is lost
	Focus     bool     `json:"focus,omitempty"` // the object that was asked for
}

// Line leads from one Box to another, both given by their place in Graph.Boxes.
type Line struct {
	From int `json:"from"`
	To   int `json:"to"`
	// Reason is why the line breaks; "" if it does not.
	Reason Reason `json:"reason,omitempty"`
}

// Graph is a picture of objects and their relations: Ingress, Service, workload, Pod, Node.
type Graph struct {
	Boxes []Box  `json:"boxes"` // by layer, namespace and name
	Lines []Line `json:"lines"`
	// Grouped tells that Pods of one workload and one fate are one Box, because there would be too many.
	Grouped bool `json:"grouped"`
	// Omitted is how many boxes are left out, those without trouble first, since there were too many even so.
	Omitted int `json:"omitted"`
}

// NamespaceGraph returns the picture of a namespace with not more than limit boxes; false if nothing names it. It costs
// as much as the namespace has objects.
func (inv *Inventory) NamespaceGraph(namespace string, limit int) (Graph, bool) {
	inv.mu.RLock()
	defer inv.mu.RUnlock()
	ns := inv.namespaces[namespace]
	if ns == nil {
		return Graph{}, false
	}
	s := newScene(inv)
	s.addNamespace(ns)
	return s.graph(limit), true
}

// ObjectGraph returns the picture of an entry's neighbours with not more than limit boxes; false if there is no such
// entry. It costs as much as its namespace has objects, for a Node as the cluster has Pods.
func (inv *Inventory) ObjectGraph(wire, id string, limit int) (Graph, bool) {
	inv.mu.RLock()
	defer inv.mu.RUnlock()
	e := inv.entries[wire][id]
	if e == nil {
		return Graph{}, false
	}
	s := newScene(inv)
	s.focus = e.base()
	s.addAround(e)
	return s.graph(limit), true
}

// scene collects what is drawn.
type scene struct {
	inv       *Inventory
	focus     *object              // nil: none
	named     map[nameKey]*service // of those namespaces that were looked at; of several of one name the last, which Ingresses get
	looked    map[*namespaceRec]struct{}
	ingresses map[*ingress]struct{}
	services  map[*service]struct{}
	groups    map[*group]struct{}
	sets      map[*replicaSet]struct{} // those that are drawn beside the workloads
	pods      map[*pod]struct{}
	nodes     map[*node]struct{}

	boxes   []Box
	ties    []string
	keys    map[any]int // place of a box by what it stands for
	lines   map[[2]int]Reason
	grouped bool
}

func newScene(inv *Inventory) *scene {
	return &scene{
		inv: inv, ingresses: map[*ingress]struct{}{}, services: map[*service]struct{}{}, groups: map[*group]struct{}{},
		sets: map[*replicaSet]struct{}{}, pods: map[*pod]struct{}{}, nodes: map[*node]struct{}{},
		keys: map[any]int{}, lines: map[[2]int]Reason{}, named: map[nameKey]*service{}, looked: map[*namespaceRec]struct{}{},
	}
}

func (s *scene) addNamespace(ns *namespaceRec) {
	maps.Copy(s.ingresses, ns.ingresses)
	maps.Copy(s.services, ns.services)
	for w := range ns.workloads {
		s.groups[&w.group] = struct{}{}
	}
	for r := range ns.replicaSets {
		if r.own.live {
			s.groups[&r.own] = struct{}{}
		}
	}
	s.addPods(ns.pods)
}

// addPods adds Pods, the workloads to which they are bound, and their Nodes.
func (s *scene) addPods(pods []*pod) {
	for _, p := range pods {
		s.pods[p] = struct{}{}
		if p.target != nil {
			s.groups[p.target] = struct{}{}
		}
		if n := p.host.node(); n != nil {
			s.nodes[n] = struct{}{}
		}
	}
}

// addGroup adds a workload and its Pods, those that are dropped included.
func (s *scene) addGroup(g *group) {
	s.groups[g] = struct{}{}
	o := s.inv.owners[g.uid]
	if o == nil {
		return
	}
	s.addPods(o.pods)
	for r := range o.replicaSets {
		if of := s.inv.owners[r.uid]; of != nil {
			s.addPods(of.pods)
		}
	}
}

// addServicesOf adds the Services that select a workload, and the Ingresses that name them.
func (s *scene) addServicesOf(g *group) {
	for x := range g.ns.services {
		if slices.Contains(x.groups, g) {
			s.addService(x)
		}
	}
}

func (s *scene) addService(x *service) {
	s.services[x] = struct{}{}
	for i := range s.inv.referrers[nameKey{x.ns.name, x.name}] {
		s.ingresses[i] = struct{}{}
	}
}

// addAround adds an entry and what it is related to, along the way of the traffic.
func (s *scene) addAround(e entity) {
	switch e := e.(type) {
	case *ingress:
		s.ingresses[e] = struct{}{}
		for _, name := range e.names {
			if x := s.serviceNamed(e.ns, name); x != nil {
				s.services[x] = struct{}{}
				s.addGroups(x)
			}
		}
	case *service:
		s.addService(e)
		s.addGroups(e)
	case *workload:
		s.addServicesOf(&e.group)
		s.addGroup(&e.group)
	case *replicaSet:
		s.addReplicaSet(e)
	case *pod:
		s.addPods([]*pod{e})
		if e.target != nil {
			s.addServicesOf(e.target)
		}
	case *node:
		s.nodes[e] = struct{}{}
		for _, x := range s.inv.entries[wirePod] {
			if p, ok := x.(*pod); ok && p.host.node() == e {
				s.addPods([]*pod{p})
			}
		}
	case *namespaceObject:
		s.addNamespace(e.rec)
	case *configMap:
		for g := range s.inv.links[nameKey{e.ns.name, e.name}] {
			s.groups[g] = struct{}{}
		}
	}
}

func (s *scene) addGroups(x *service) {
	for _, g := range x.groups {
		s.addGroup(g)
	}
}

func (s *scene) addReplicaSet(r *replicaSet) {
	if r.target != nil {
		s.addServicesOf(r.target)
		s.groups[r.target] = struct{}{}
	}
	if r.target != &r.own {
		s.sets[r] = struct{}{}
	}
	if o := s.inv.owners[r.uid]; o != nil {
		s.addPods(o.pods)
	}
}

// podFate is what Pods have in common that are one box.
type podFate struct {
	target *group
	owner  *ownerRec
	space  *namespaceRec
	mask   mask
}

// manyNodes is how many Nodes are boxes of their own where Pods are grouped.
const manyNodes = 20

// graph draws what was collected.
func (s *scene) graph(limit int) Graph {
	single := len(s.ingresses) + len(s.services) + len(s.groups) + len(s.sets) + len(s.pods) + len(s.nodes)
	s.grouped = single > limit
	s.boxFocus()
	for n := range s.nodes {
		s.boxNode(n)
	}
	for g := range s.groups {
		s.boxGroup(g)
	}
	for r := range s.sets {
		s.drawSet(r)
	}
	for p := range s.pods {
		s.drawPod(p)
	}
	for x := range s.services {
		s.drawService(x)
	}
	for i := range s.ingresses {
		s.drawIngress(i)
	}
	return s.finish(limit)
}

// boxFocus draws an object that no traffic passes.
func (s *scene) boxFocus() {
	if s.focus == nil {
		return
	}
	e := s.inv.entries[s.focus.wire.Value()][s.focus.id]
	switch e := e.(type) {
	case *ingress, *service, *workload, *replicaSet, *pod, *node:
		return
	case *configMap:
		at := s.object(LayerOther, e, e.kept)
		for g := range s.groups {
			reason := ConfigMapEnv
			if slices.Contains(g.links, e.name) {
				reason = ""
			}
			s.line(at, s.boxGroup(g), reason)
		}
	case *other:
		at := s.object(LayerOther, e, false)
		s.boxes[at].Namespace = e.space
	default:
		s.object(LayerOther, e, true)
	}
}

// object makes the box of an entry, if there is none yet.
func (s *scene) object(layer Layer, e entity, shown bool) int {
	o := e.base()
	at, isNew := s.box(o, "", Box{
		Layer: layer, State: BoxDropped, Kind: kindOf(o.wire.Value()), Type: o.wire.Value(), ID: o.id, Namespace: o.namespace(), Name: o.name,
		Count: 1, Reasons: []Reason{}, Focus: o == s.focus,
	})
	if !isNew {
		return at
	}
	b := &s.boxes[at]
	s.inv.explain(e, func(r Reason, _ string) { b.Reasons = append(b.Reasons, r) })
	switch {
	case shown && len(b.Reasons) == 0:
		b.State = BoxShown
	case shown:
		b.State = BoxPartly
	}
	return at
}

// box makes a box, if there is none yet for the key. Of boxes that look alike tie gives the order.
func (s *scene) box(key any, tie string, b Box) (at int, isNew bool) {
	if at, ok := s.keys[key]; ok {
		return at, false
	}
	s.keys[key] = len(s.boxes)
	s.boxes, s.ties = append(s.boxes, b), append(s.ties, tie)
	return len(s.boxes) - 1, true
}

// kindOf is a wire type without star and package.
func kindOf(wire string) string { return wire[strings.LastIndexByte(wire, '.')+1:] }

// missing makes the box of what was not reported. Where Pods are grouped it stands for all of one kind.
func (s *scene) missing(layer Layer, kind, namespace, name string) int {
	b := Box{Layer: layer, State: BoxMissing, Kind: kind, Namespace: namespace, Name: name, Count: 1, Reasons: []Reason{}}
	key := [4]string{string(layer), kind, namespace, name}
	if !s.grouped {
		at, _ := s.box(key, "", b)
		return at
	}
	at, _ := s.box([3]string{string(layer), kind, namespace}, "", b)
	if _, known := s.keys[key]; !known {
		s.keys[key] = at
		if s.boxes[at].Name != name {
			s.boxes[at].Count++
			s.boxes[at].Name = strconv.Itoa(s.boxes[at].Count) + " not reported"
		}
	}
	return at
}

func (s *scene) line(from, to int, reason Reason) { s.lines[[2]int{from, to}] = reason }

func (s *scene) boxNode(n *node) int {
	if s.grouped && len(s.nodes) > manyNodes && &n.object != s.focus {
		at, isNew := s.box("nodes", "", Box{Layer: LayerNode, State: BoxShown, Kind: "Node", Reasons: []Reason{}})
		if isNew {
			s.boxes[at].Count = len(s.nodes)
			s.boxes[at].Name = strconv.Itoa(len(s.nodes)) + " Nodes"
		}
		return at
	}
	return s.object(LayerNode, n, true)
}

func (s *scene) boxGroup(g *group) int {
	if g.owner != nil {
		e := s.inv.entries[g.owner.wire.Value()][g.owner.id]
		at := s.object(LayerWorkload, e, g.live)
		s.keys[g] = at
		return at
	}
	at, _ := s.box(g, g.uid, Box{
		Layer: LayerWorkload, State: BoxShown, Kind: g.typ, Namespace: g.ns.name, Name: g.name, Count: 1, Reasons: []Reason{},
	})
	return at
}

// drawSet draws a ReplicaSet beside its workload.
func (s *scene) drawSet(r *replicaSet) int {
	at := s.object(LayerWorkload, r, r.target != nil)
	if r.target != nil && r.target != &r.own {
		s.line(s.boxGroup(r.target), at, "")
	}
	return at
}

func (s *scene) drawPod(p *pod) {
	at := s.boxPod(p)
	from, reason := s.ownerBox(p)
	if from >= 0 {
		s.line(from, at, reason)
	}
	switch n := p.host.node(); {
	case n != nil:
		s.line(at, s.boxNode(n), "")
	case p.kept && p.hostIP.Value() != "":
		s.line(at, s.missing(LayerNode, "Node", "", "hostIP "+p.hostIP.Value()), PodNodeUnknown)
	}
}

// ownerBox is the box of what a Pod is bound to, or should be; -1 if it names nothing.
func (s *scene) ownerBox(p *pod) (int, Reason) {
	if p.kept {
		if _, drawn := s.sets[p.replicaSet]; drawn && p.replicaSet != nil {
			return s.drawSet(p.replicaSet), ""
		}
		return s.boxGroup(p.target), ""
	}
	var reason Reason
	for _, r := range []Reason{NamespaceUnknown, PodOwnerKind, PodOwnerNotFirst, PodOwnerUnknown, PodOwnerDropped} {
		if p.mask.has(r) {
			reason = r
		}
	}
	uid := p.ownerUID.Value()
	if reason == "" || uid == "" {
		return -1, ""
	}
	for _, wire := range ownerWires {
		switch e := s.inv.entries[wire][uid].(type) {
		case *replicaSet:
			return s.drawSet(e), reason
		case *workload:
			return s.boxGroup(&e.group), reason
		case nil:
		default:
			return s.object(LayerWorkload, e, false), reason
		}
	}
	return s.missing(LayerWorkload, p.ownerKind.Value(), p.namespace(), uid), reason
}

// boxPod makes the box of a Pod, or of all Pods with the same fate.
func (s *scene) boxPod(p *pod) int {
	if !s.grouped || &p.object == s.focus {
		return s.object(LayerPod, p, p.kept)
	}
	key := podFate{target: p.target, owner: p.owner, space: p.ns}
	tie := p.ownerUID.Value()
	switch {
	case p.kept:
		key.owner, tie = nil, p.target.uid
	case p.owner == nil || p.owner.known == 0:
		key.owner, tie = nil, ""
	}
	s.inv.explain(p, func(r Reason, _ string) { key.mask.add(r) })
	at, isNew := s.box(key, tie, Box{Layer: LayerPod, State: BoxDropped, Kind: "Pod", Type: wirePod, Namespace: p.namespace(), Reasons: []Reason{}})
	b := &s.boxes[at]
	b.Count++
	b.Name = strconv.Itoa(b.Count) + " Pods"
	if b.Count == 1 {
		b.Name, b.ID = p.name, p.id
	} else {
		b.ID = ""
	}
	if !isNew {
		return at
	}
	key.mask.each(func(row int) { b.Reasons = append(b.Reasons, catalogue[row].Reason) })
	switch {
	case p.kept && len(b.Reasons) == 0:
		b.State = BoxShown
	case p.kept:
		b.State = BoxPartly
	}
	return at
}

func (s *scene) drawService(x *service) {
	at := s.object(LayerService, x, x.kept)
	for _, g := range x.groups {
		if to, drawn := s.keys[g]; drawn {
			s.line(at, to, "")
		}
	}
	if x.mask.has(ServiceNoWorkload) {
		s.line(at, s.missing(LayerWorkload, "Workload", x.namespace(), x.rendered), ServiceNoWorkload)
	}
}

// serviceNamed is the Service of a name that an Ingress gets, or would get if it were not dropped; nil: there is none.
func (s *scene) serviceNamed(ns *namespaceRec, name string) *service {
	if _, done := s.looked[ns]; !done {
		s.looked[ns] = struct{}{}
		for x := range ns.services {
			key := nameKey{ns.name, x.name}
			// Only those with ports are found by Ingresses.
			y := s.named[key]
			if y == nil || len(x.bound) > 0 && len(y.bound) == 0 || (len(x.bound) > 0) == (len(y.bound) > 0) && compareServices(x, y) > 0 {
				s.named[key] = x
			}
		}
	}
	return s.named[nameKey{ns.name, name}]
}

func (s *scene) drawIngress(i *ingress) {
	at := s.object(LayerIngress, i, i.kept)
	broken := map[string]Reason{}
	for _, port := range i.unknownPorts {
		broken[port[:max(0, strings.LastIndexByte(port, ':'))]] = IngressPort
	}
	for _, name := range i.unknown {
		broken[name] = IngressService
	}
	for _, name := range i.names {
		reason := broken[name]
		for _, r := range []Reason{RoutePort, NamespaceUnknown, IngressNotRead} {
			if i.mask.has(r) && (r != RoutePort || i.route != nil && i.route.service == name) {
				reason = r
			}
		}
		x := s.serviceNamed(i.ns, name)
		switch {
		case name == "":
		case x != nil:
			// In the picture of one Service the others of its Ingresses are not drawn.
			if _, drawn := s.services[x]; drawn {
				s.line(at, s.object(LayerService, x, x.kept), reason)
			}
		case s.focus == nil || s.focus == &i.object || s.focus.wire.Value() == wireNamespace:
			s.line(at, s.missing(LayerService, "Service", i.namespace(), name), cmp.Or(reason, IngressService))
		}
	}
}

// layers is the order of boxes.
var layers = []Layer{LayerOther, LayerIngress, LayerService, LayerWorkload, LayerPod, LayerNode}

// finish orders boxes and lines, and leaves out what is too much.
func (s *scene) finish(limit int) Graph {
	g := Graph{Boxes: []Box{}, Lines: []Line{}, Grouped: s.grouped}
	order := make([]int, len(s.boxes))
	for i := range order {
		order[i] = i
	}
	compare := func(a, b int) int {
		x, y := &s.boxes[a], &s.boxes[b]
		return cmp.Or(slices.Index(layers, x.Layer)-slices.Index(layers, y.Layer), cmp.Compare(x.Namespace, y.Namespace),
			cmp.Compare(x.Name, y.Name), cmp.Compare(x.Type, y.Type), cmp.Compare(x.ID, y.ID), cmp.Compare(x.Kind, y.Kind), slices.Compare(x.Reasons, y.Reasons), cmp.Compare(s.ties[a], s.ties[b]))
	}
	if len(order) > limit {
		first, weight := s.chains(compare)
		slices.SortFunc(order, func(a, b int) int {
			x, y := &s.boxes[a], &s.boxes[b]
			if x.Focus != y.Focus { // however many Services lead to it
				if x.Focus {
					return -1
				}
				return 1
			}
			return cmp.Or(weight[first[b]]-weight[first[a]], compare(first[a], first[b]), compare(a, b))
		})
		g.Omitted = len(order) - limit
		order = order[:limit]
	}
	slices.SortFunc(order, compare)
	place := make(map[int]int, len(order))
	for i, at := range order {
		place[at] = i
		g.Boxes = append(g.Boxes, s.boxes[at])
	}
	for ends, reason := range s.lines {
		from, ok := place[ends[0]]
		to, also := place[ends[1]]
		if ok && also {
			g.Lines = append(g.Lines, Line{From: from, To: to, Reason: reason})
		}
	}
	slices.SortFunc(g.Lines, func(a, b Line) int { return cmp.Or(a.From-b.From, a.To-b.To) })
	return g
}

// chains returns for every box the first of those with which lines connect it, Nodes aside, and for each of these what it
// is worth to draw them: what belongs together is drawn together.
func (s *scene) chains(compare func(a, b int) int) (first, weight []int) {
	first, weight = make([]int, len(s.boxes)), make([]int, len(s.boxes))
	for i := range first {
		first[i] = i
	}
	root := func(i int) int {
		for first[i] != i {
			first[i] = first[first[i]]
			i = first[i]
		}
		return i
	}
	for ends := range s.lines {
		a, b := root(ends[0]), root(ends[1])
		if s.boxes[ends[0]].Layer == LayerNode || s.boxes[ends[1]].Layer == LayerNode || a == b {
			continue
		}
		if compare(a, b) > 0 {
			a, b = b, a
		}
		first[b] = a
	}
	for i := range first {
		first[i] = root(i)
		weight[first[i]] = max(weight[first[i]], s.boxes[i].weight())
	}
	return first, weight
}

// weight is how much a box is worth to be drawn.
func (b *Box) weight() int {
	switch {
	case b.Focus:
		return 4
	case b.Layer == LayerNode:
		return 3
	case b.State == BoxDropped, b.State == BoxMissing:
		return 2
	case b.State == BoxPartly:
		return 1
	default:
		return 0
	}
}
