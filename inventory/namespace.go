package inventory

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

// Namespace is a reported Namespace.
type Namespace struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
}

func (d *decoder) namespaceObject() entity {
	if bad := d.top(false, func([]byte) { d.skip() }); bad != nil {
		return bad
	}
	n := &namespaceObject{object: d.object}
	for _, l := range d.meta.labels {
		if l.key == nativeNameLabel {
			n.native = l.value
		}
	}
	return n
}

func (inv *Inventory) namespaceRec(name string) *namespaceRec {
	n := inv.namespaces[name]
	if n == nil {
		n = &namespaceRec{
			name:        name,
			workloads:   map[*workload]struct{}{},
			replicaSets: map[*replicaSet]struct{}{},
			services:    map[*service]struct{}{},
			ingresses:   map[*ingress]struct{}{},
			configMaps:  map[*configMap]struct{}{},
		}
		inv.namespaces[name] = n
	}
	return n
}

func (inv *Inventory) dropNamespaceRec(n *namespaceRec) {
	if n.empty() && !n.queued {
		delete(inv.namespaces, n.name)
	}
}

func (inv *Inventory) queueNamespace(n *namespaceRec) {
	if !n.queued {
		n.queued = true
		inv.queue.namespaces = append(inv.queue.namespaces, n)
	}
}

func (inv *Inventory) insertNamespace(n *namespaceObject) {
	n.rec = inv.namespaceRec(n.name)
	n.rec.objects = insertSorted(n.rec.objects, n, func(a, b *namespaceObject) int { return compareObjects(&a.object, &b.object) })
	inv.queueNamespace(n.rec)
}

func (inv *Inventory) removeNamespace(n *namespaceObject) {
	n.rec.objects = removeSorted(n.rec.objects, n)
	inv.queueNamespace(n.rec)
}

func (inv *Inventory) settleNamespace(n *namespaceRec) {
	n.queued = false
	native := ""
	for _, o := range n.objects {
		if o.native != "" {
			native = o.native
		}
	}
	reported := len(n.objects) > 0
	if reported != n.reported {
		for w := range n.workloads {
			inv.queueWorkload(w)
		}
		for r := range n.replicaSets {
			inv.queueReplicaSet(r)
		}
		for s := range n.services {
			inv.queueService(s)
		}
		for i := range n.ingresses {
			inv.queueIngress(i)
		}
		for c := range n.configMaps {
			inv.queueConfigMap(c)
		}
	}
	if reported != n.reported || native != n.native {
		for _, p := range n.pods {
			inv.queuePod(p)
			inv.queueClaim(p)
		}
	}
	n.reported, n.native = reported, native
	inv.dropNamespaceRec(n)
}

func (n *namespaceRec) empty() bool {
	return len(n.objects) == 0 && len(n.workloads) == 0 && len(n.replicaSets) == 0 && len(n.services) == 0 &&
		len(n.ingresses) == 0 && len(n.configMaps) == 0 && len(n.pods) == 0
}

// Namespaces returns the reported Namespaces.
func (inv *Inventory) Namespaces(f Filter) []Namespace {
	return list(inv, f, []string{wireNamespace}, func(n *namespaceObject) (Namespace, bool) {
		return Namespace{UID: n.uid, Name: n.name}, true
	})
}
