// Package inventory holds what deepflow-server makes of the entries that a cluster reports, and the reason for
// everything that it drops. It relies on nothing but the decoded entries: no storage, no network, no clock.
//
// It promises the result of docs/protocol.md, section 6, whatever the order of the entries, but for that of Nodes, which is
// told by OrderNodes because the server makes something of it; that Apply costs in
// proportion to what the changes touch (entries are parsed once, relations are found by indexes, only the objects
// that depend on a change are looked at again); and that no input makes it panic. Where the real server crashes or
// gives up on the whole cluster, the result goes on as if the cause were away and names it in Summary.Failures.
package inventory

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
)

// Change is one entry that came or went.
type Change struct {
	Type string // wire type, such as "*v1.Pod"
	ID   string // names the entry among those of its type: metadata.uid, or any stable text where there is none
	JSON []byte // the decompressed entry; nil: the entry went. It is not kept.
}

// Mapping is a plugin's answer: the workload that it gives to a Pod.
type Mapping struct {
	Plugin string // name of the plugin that answered
	Type   string // workload type, any case
	Name   string // workload name
}

// The prefixes of a domain that sets none.
const (
	defaultIPv4MaxMask = 16
	defaultIPv6MaxMask = 64
)

// Mapper answers the workload of a Pod from the JSON of its metadata; false means that it has no opinion. The
// inventory asks once for each Pod entry that is applied, except for Pods of an InPlaceSet, as the server does. After
// a change of the Mapper's answers, apply the Pods again.
type Mapper interface {
	// Any tells whether there is a plugin at all.
	Any() bool
	Map(metadata []byte) (Mapping, bool)
}

// Options configure an Inventory. The zero value is that of a fresh domain without plugins.
type Options struct {
	// PodNetIPv4MaxMask and PodNetIPv6MaxMask are the domain's pod_net_ipv4_cidr_max_mask and …ipv6…: the shortest
	// prefix to which addresses outside every podCIDR may aggregate. 0 stands for the defaults, 16 and 64.
	PodNetIPv4MaxMask, PodNetIPv6MaxMask int
	// Mapper is asked about every Pod; nil: nobody.
	Mapper Mapper
	// MaxBindings is how many relations of Services to workloads are followed; 0 stands for the constant MaxBindings.
	MaxBindings int
	// Room is asked by Apply, before it takes changes over, whether there is room for so many bytes; where it says no, none of
	// the changes is taken over. nil: there always is.
	Room func(bytes int64) bool
}

// Inventory is the incremental result. It is safe for concurrent use.
type Inventory struct {
	applying sync.Mutex   // held by Apply
	mu       sync.RWMutex // held while the following is read or changed, not while entries are parsed and plugins asked
	options  Options      // constant

	entries    map[string]map[string]entity
	odd        map[uidKey]int
	reasons    [64]int
	versions   []*versionInfo
	namespaces map[string]*namespaceRec
	labels     map[nameKey]*labelRec
	owners     map[string]*ownerRec
	configMaps map[nameKey][]*configMap
	links      map[nameKey]map[*group]struct{} // groups that refer to a ConfigMap
	services   map[nameKey][]*service          // kept, with ports, in canonical order
	referrers  map[nameKey]map[*ingress]struct{}
	contested  map[*service]struct{} // Services of several Ingresses
	refused    map[*service]struct{} // Services that are too many to be bound
	families   [3]int
	family     int // the Ingress family that is read

	hosts      map[netip.Addr]*host
	nodes      []*node
	places     map[string]int      // of Nodes in the report, by ID; nil: not known
	addresses  map[netip.Addr]*pod // the head of the chain of Pods, which is the winner
	identities map[string][]*pod   // kept Pods with generateName
	collisions int
	networks   networks

	counts totals
	queue  queues
	bytes  int64 // what the entries take by themselves
	full   bool  // Options.Room said no
}

type uidKey struct{ wire, uid string }

type nameKey struct{ namespace, name string }

// totals are sums over kept objects that would be expensive to make when asked for.
type totals struct {
	pods, replicaSets, services, servicePorts, groupPorts, clusterIPs int
	ingresses, rules, backends, configMaps, links, groups             int
	noNode, nodeAddress, taken, addressed                             int
	bindings                                                          int // of Services to workloads
}

// queues hold what the running Apply has to look at again, in the order in which it is done.
type queues struct {
	namespaces  []*namespaceRec
	configMaps  []*configMap
	workloads   []*workload
	links       []*group    // whose ConfigMaps came or went
	owners      []*ownerRec // whose Pods' own groups are to be made again
	replicaSets []*replicaSet
	services    []*service
	ingresses   []*ingress
	pods        []*pod
	addresses   []netip.Addr // whose winner went, some of them more than once
	nodes       bool
}

// New returns an empty Inventory.
func New(options Options) *Inventory {
	options.PodNetIPv4MaxMask = cmp.Or(options.PodNetIPv4MaxMask, defaultIPv4MaxMask)
	options.PodNetIPv6MaxMask = cmp.Or(options.PodNetIPv6MaxMask, defaultIPv6MaxMask)
	options.MaxBindings = cmp.Or(options.MaxBindings, MaxBindings)
	inv := &Inventory{
		options:    options,
		entries:    map[string]map[string]entity{},
		odd:        map[uidKey]int{},
		namespaces: map[string]*namespaceRec{},
		labels:     map[nameKey]*labelRec{},
		owners:     map[string]*ownerRec{},
		configMaps: map[nameKey][]*configMap{},
		links:      map[nameKey]map[*group]struct{}{},
		services:   map[nameKey][]*service{},
		referrers:  map[nameKey]map[*ingress]struct{}{},
		contested:  map[*service]struct{}{},
		refused:    map[*service]struct{}{},
		hosts:      map[netip.Addr]*host{},
		addresses:  map[netip.Addr]*pod{},
		identities: map[string][]*pod{},
	}
	inv.networks.init(options)
	return inv
}

// Build returns the Inventory of a complete report.
func Build(options Options, entries []Change) *Inventory {
	inv := New(options)
	inv.Apply(entries)
	return inv
}

// Apply takes changes over, in their order, and brings everything that depends on them up to date. A Change of an
// unknown ID without JSON does nothing. Readers see the state before or after all changes, and wait only for the
// shorter part of the work.
func (inv *Inventory) Apply(changes []Change) {
	inv.applying.Lock()
	defer inv.applying.Unlock()
	decoded := make([]entity, len(changes))
	namespaces := make([]string, len(changes))
	for i := range changes {
		if c := &changes[i]; c.JSON != nil {
			decoded[i], namespaces[i] = decode(c.Type, c.ID, c.JSON, &inv.options)
		}
	}
	room := inv.room(decoded)
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if !room {
		inv.full = true
		return
	}
	for i := range changes {
		inv.apply(&changes[i], decoded[i], namespaces[i])
	}
	inv.settle()
}

// OrderNodes tells in which order the report has its Nodes, by Change.ID. The others, before the first call all, count as
// if they came first, in the order in which nothing is lost.
func (inv *Inventory) OrderNodes(ids []string) {
	places := make(map[string]int, len(ids))
	for i, id := range ids {
		places[id] = i
	}
	inv.applying.Lock()
	defer inv.applying.Unlock()
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.places = places
	inv.settleNodes()
}

// apply replaces an entry by e, or removes it if e is nil.
func (inv *Inventory) apply(c *Change, e entity, namespace string) {
	old := inv.entries[c.Type][c.ID]
	if old != nil {
		if e != nil && inv.update(old, e, namespace) {
			return
		}
		inv.remove(old)
	}
	if e != nil {
		inv.insert(e, namespace)
	}
}

// update replaces a workload or ReplicaSet in place if it is the same object, so that the Pods bound to it need not
// be looked at.
func (inv *Inventory) update(old, e entity, namespace string) bool {
	a, b := old.base(), e.base()
	if a.uid != b.uid || a.name != b.name || a.namespace() != namespace {
		return false
	}
	switch e := e.(type) {
	case *workload:
		w, ok := old.(*workload)
		if !ok {
			return false
		}
		inv.resize(a, e)
		inv.updateWorkload(w, e)
		return true
	case *replicaSet:
		r, ok := old.(*replicaSet)
		if !ok || r.ownerUID != e.ownerUID {
			return false
		}
		inv.resize(a, e)
		inv.updateReplicaSet(r, e)
		return true
	}
	return false
}

// resize makes o count with what e takes.
func (inv *Inventory) resize(o *object, e entity) {
	size := sizeOf(e)
	inv.bytes += size - o.bytes
	o.bytes = size
}

func (inv *Inventory) insert(e entity, namespace string) {
	o := e.base()
	inv.resize(o, e)
	wire := o.wire.Value()
	if inv.entries[wire] == nil {
		inv.entries[wire] = map[string]entity{}
	}
	inv.entries[wire][o.id] = e
	if o.uid != "" && o.uid != o.id {
		inv.odd[uidKey{wire, o.uid}]++
	}
	if f, ok := ingressFamilies[wire]; ok {
		inv.families[f]++
	}
	flaws := o.mask
	o.mask = 0
	inv.setMask(o, flaws)
	if x, ok := e.(*other); ok {
		x.space = namespace
		return
	}
	if namespace != "" && namespaced(e) {
		o.ns = inv.namespaceRec(namespace)
	}
	switch e := e.(type) {
	case *versionInfo:
		inv.versions = insertSorted(inv.versions, e, func(a, b *versionInfo) int { return compareObjects(&a.object, &b.object) })
	case *namespaceObject:
		inv.insertNamespace(e)
	case *node:
		inv.insertNode(e)
	case *configMap:
		o.ns.configMaps[e] = struct{}{}
		inv.queueConfigMap(e)
	case *workload:
		inv.insertWorkload(e)
	case *replicaSet:
		inv.insertReplicaSet(e)
	case *service:
		inv.insertService(e)
	case *ingress:
		inv.insertIngress(e)
	case *pod:
		inv.insertPod(e)
	}
}

func namespaced(e entity) bool {
	switch e.(type) {
	case *versionInfo, *namespaceObject, *node:
		return false
	}
	return true
}

func (inv *Inventory) remove(e entity) {
	o := e.base()
	inv.bytes -= o.bytes
	wire := o.wire.Value()
	delete(inv.entries[wire], o.id)
	if len(inv.entries[wire]) == 0 {
		delete(inv.entries, wire)
	}
	if o.uid != "" && o.uid != o.id {
		k := uidKey{wire, o.uid}
		if inv.odd[k]--; inv.odd[k] == 0 {
			delete(inv.odd, k)
		}
	}
	if f, ok := ingressFamilies[wire]; ok {
		inv.families[f]--
	}
	switch e := e.(type) {
	case *versionInfo:
		inv.versions = removeSorted(inv.versions, e)
	case *namespaceObject:
		inv.removeNamespace(e)
	case *node:
		inv.removeNode(e)
	case *configMap:
		inv.removeConfigMap(e)
	case *workload:
		inv.removeWorkload(e)
	case *replicaSet:
		inv.removeReplicaSet(e)
	case *service:
		inv.removeService(e)
	case *ingress:
		inv.removeIngress(e)
	case *pod:
		inv.removePod(e)
	}
	inv.setMask(o, 0)
	o.dead = true
	if o.ns != nil {
		inv.dropNamespaceRec(o.ns)
	}
}

// settle brings derived facts up to date, each stage before those that depend on it.
func (inv *Inventory) settle() {
	q := &inv.queue
	drain(&q.namespaces, inv.settleNamespace)
	drain(&q.configMaps, inv.settleConfigMap)
	drain(&q.workloads, inv.settleWorkload)
	drain(&q.owners, inv.settleSynthetic)
	drain(&q.replicaSets, inv.settleReplicaSet)
	drain(&q.links, inv.relink)
	drain(&q.services, inv.settleService)
	if inv.counts.bindings < inv.options.MaxBindings/2 {
		for s := range inv.refused {
			inv.queueService(s)
		}
		drain(&q.services, inv.settleService)
	}
	inv.settleFamily()
	drain(&q.ingresses, inv.settleIngress)
	drain(&q.pods, inv.settlePod)
	slices.SortFunc(q.addresses, netip.Addr.Compare)
	q.addresses = slices.Compact(q.addresses)
	drain(&q.addresses, inv.settleAddress)
	if q.nodes {
		q.nodes = false
		inv.settleNodes()
	}
}

// drain calls f for everything queued, and for what f itself adds to the queue.
func drain[T any](queue *[]T, f func(T)) {
	for len(*queue) > 0 {
		next := (*queue)[0]
		*queue = (*queue)[1:]
		f(next)
	}
	*queue = nil
}

// setMask replaces the counted reasons of an object.
func (inv *Inventory) setMask(o *object, m mask) {
	if o.mask == m {
		return
	}
	o.mask.each(func(row int) { inv.reasons[row]-- })
	m.each(func(row int) { inv.reasons[row]++ })
	o.mask = m
}
