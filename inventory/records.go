package inventory

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"
	"unique"
)

// symbol is a string that many objects share; the runtime keeps one copy of it and drops it with its last user.
type symbol = unique.Handle[string]

func intern(s string) symbol { return unique.Make(s) }

// object is what all entries have in common.
type object struct {
	wire symbol
	id   string // names the entry among those of its type
	uid  string
	name string
	ns   *namespaceRec // nil: cluster-scoped, or without a namespace
	mask mask          // the reasons that are counted in Inventory.reasons
	dead bool          // withdrawn; still referred to by a queue
}

func (o *object) base() *object { return o }

func (o *object) namespace() string {
	if o.ns == nil {
		return ""
	}
	return o.ns.name
}

// entity is an entry of any type.
type entity interface{ base() *object }

// compareObjects is the order in which conflicts are decided: the one in which an agent sends a snapshot.
func compareObjects(a, b *object) int {
	return cmp.Or(
		cmp.Compare(a.wire.Value(), b.wire.Value()),
		cmp.Compare(a.uid, b.uid),
		cmp.Compare(a.id, b.id),
	)
}

// other is an entry that comes to nothing by itself: of a type that is not read, or flawed.
type other struct {
	object
	space string // the namespace that it names
}

// versionInfo is the *version.Info entry.
type versionInfo struct {
	object
	gitVersion string
}

// namespaceObject is a Namespace entry; a namespaceRec is the name, reported or not.
type namespaceObject struct {
	object
	rec    *namespaceRec
	native string // label virtual-kubelet.io/provider-cluster-native-name
}

type namespaceRec struct {
	name     string
	objects  []*namespaceObject
	reported bool   // as of the last settling
	native   string // as of the last settling
	queued   bool

	workloads   map[*workload]struct{}
	replicaSets map[*replicaSet]struct{}
	services    map[*service]struct{}
	ingresses   map[*ingress]struct{}
	configMaps  map[*configMap]struct{}
	pods        []*pod
}

func (n *namespaceRec) empty() bool {
	return len(n.objects) == 0 && len(n.workloads) == 0 && len(n.replicaSets) == 0 && len(n.services) == 0 &&
		len(n.ingresses) == 0 && len(n.configMaps) == 0 && len(n.pods) == 0
}

type node struct {
	object
	address  string     // the first InternalIP as it came
	addr     netip.Addr // invalid if address does not parse
	podCIDR  string
	prefix   netip.Prefix // invalid if podCIDR is absent or no network
	master   bool
	ready    bool
	cpu      int
	memory   int // MiB
	decoding mask
}

// host is an address that a Node has or a Pod names as its hostIP.
type host struct {
	addr  netip.Addr
	nodes []*node // in canonical order; the last one has the address
	pods  int     // kept Pods with this hostIP
}

func (h *host) node() *node {
	if h == nil || len(h.nodes) == 0 {
		return nil
	}
	return h.nodes[len(h.nodes)-1]
}

// labelRec is one "key_value" of one namespace: the groups that carry it and the Services that select it.
type labelRec struct {
	key      string
	groups   map[*group]struct{}
	services map[*service]struct{}
}

type containerPort struct {
	name string
	port int
}

type configMapRef struct {
	name string
	env  bool // by configMapKeyRef.name, which the server does not read
}

// template is what a workload's or ReplicaSet's spec.template and labels come to.
type template struct {
	label      symbol   // rendered metadata.labels
	selectable []string // "key_value" that Services can select, sorted, each once
	ports      []containerPort
	refs       []configMapRef
	host       bool
	replicas   int
}

// group is what the server calls a pod group: something that Pods and Services are bound to.
type group struct {
	uid       string
	id        string
	rank      int // the server's order of kinds
	typ       string
	kind      string // wire type of the entry it was made of
	ns        *namespaceRec
	name      string
	template  *template
	mode      int // 0: unknown, 1: pod network, 2: host network
	noPorts   bool
	live      bool
	relinking bool
	labels    []*labelRec
	links     []string // names of the reported ConfigMaps
	services  map[*service]struct{}
	shown     atomic.Pointer[service] // what podService found, until services changes
	pods      int
	owner     *object // whose mask tells of the ConfigMaps; nil for groups made of Pods
}

func compareGroups(a, b *group) int {
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.uid, b.uid), cmp.Compare(a.id, b.id))
}

type workload struct {
	object
	template template
	group    group
	queued   bool
}

type replicaSet struct {
	object
	template template
	ownerUID string
	own      group  // live if the ReplicaSet is a workload of its own
	target   *group // what its Pods are bound to; nil if it is dropped
	pods     int
	queued   bool
}

// synthetic is a group made of Pods: of an InPlaceSet, or by a plugin.
type synthetic struct {
	pods  []*pod
	group *group
}

type pod struct {
	object
	label     symbol
	ownerUID  symbol
	ownerKind symbol
	hostIP    symbol
	host      *host
	ip        netip.Addr
	ipText    string // only of a podIP that does not parse
	container string // ids, joined
	created   int64  // Unix seconds, 0 if unknown
	identity  string // only with generateName
	claim     *claim // only for Pods that make a group of their own
	decoding  mask

	ready      bool
	kept       bool
	bare       bool // without labels
	laterOwner bool // an owner behind the first has a known kind
	queued     bool

	target     *group
	replicaSet *replicaSet

	next, prev  *pod // the other Pods with the same address, the winner is the first
	sharers     int  // of the first one: how many they are
	owner       *ownerRec
	inNamespace int // its place in namespaceRec.pods
	ofOwner     int // its place in ownerRec.pods
}

// claim is a Pod's wish for a group that is no object: by its InPlaceSet, or by a plugin.
type claim struct {
	uid, typ, name string
	plugin         string
	template       template
}

// ownerRec is a uid that Pods or ReplicaSets name as their owner, or that an owner has.
type ownerRec struct {
	uid         string
	groups      []*group      // live, in canonical order
	sets        []*replicaSet // kept, in canonical order
	known       int           // workloads and ReplicaSets with this uid, kept or not
	pods        []*pod
	replicaSets map[*replicaSet]struct{} // that name it as owner
	synthetic   *synthetic
	queued      bool
}

func (o *ownerRec) empty() bool {
	return len(o.groups) == 0 && len(o.sets) == 0 && o.known == 0 && len(o.pods) == 0 && len(o.replicaSets) == 0 && o.synthetic == nil
}

type servicePort struct {
	name, protocol string
	port, nodePort int
	targetName     string
	targetNumber   int
	hasTarget      bool
}

type boundPort struct {
	name, protocol         string
	port, nodePort, target int
}

type service struct {
	object
	rule      bool // a ServiceRule
	selector  []string
	rendered  string
	typ       string
	clusterIP string
	external  []string
	ports     []servicePort
	openGauss string // value of the selector's key opengauss.cluster
	gauss     bool
	rancher   []string // workloads named by the annotation
	decoding  mask

	selected  []*labelRec
	gaussRec  *labelRec
	rancherRe []*labelRec

	kept      bool
	groups    []*group
	bound     []boundPort
	ingresses map[*ingress]struct{}
	shown     atomic.Pointer[ingress] // what ingressOf found, until ingresses changes
	queued    bool
}

// last is the only port that the server finds by name.
func (s *service) last() boundPort { return s.bound[len(s.bound)-1] }

type backend struct {
	path, service, portName string
	number                  int
	present                 bool
}

type ingressRule struct {
	host     string
	backends []backend
}

type route struct {
	host, service, port string
	hasPort             bool
	number              int
}

type ingress struct {
	object
	family       int
	rules        []ingressRule
	fallback     *backend // spec.backend or spec.defaultBackend
	route        *route
	kept         bool
	resolved     []IngressRule
	backends     int
	referred     map[*service]struct{}
	names        []string // Services named, each once
	queued       bool
	unknown      []string // Services that were not found
	unknownPorts []string // "service:port" of those that were not found
}

type configMap struct {
	object
	created int64
	size    int
	kept    bool
	queued  bool
}

// insertSorted puts v into list, which is sorted by compare.
func insertSorted[T any](list []T, v T, compare func(a, b T) int) []T {
	i, _ := slices.BinarySearchFunc(list, v, compare)
	return slices.Insert(list, i, v)
}

// removeSorted takes v out of list, which is sorted by compare.
func removeSorted[T comparable](list []T, v T) []T {
	if i := slices.Index(list, v); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}
