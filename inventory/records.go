package inventory

import (
	"cmp"
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
	// bytes is what it counts with in Inventory.bytes.
	bytes int64
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

// labelRec is one "key_value" of one namespace: the groups that carry it and the Services that select it.
type labelRec struct {
	key      nameKey
	groups   set[*group]
	services set[*service]
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
