package inventory

import "unsafe"

// What derived facts take in bytes, with the overhead of Go's maps and allocator.
const (
	entrySlot     = 150 // an entry's place in Inventory.entries, and what the object's users keep beside it
	namespaceSize = 1100
	labelSize     = 260
	ownerSize     = 500
	hostSize      = 250
	slotSize      = 150 // a key of one of the other maps
	bindingSize   = 100
	stringSize    = 24 // a string without its bytes
)

// Bytes is about how much memory the inventory takes. It is rather more than less.
func (inv *Inventory) Bytes() int64 {
	inv.mu.RLock()
	defer inv.mu.RUnlock()
	n := inv.bytes
	n += int64(len(inv.namespaces))*namespaceSize + int64(len(inv.labels))*labelSize + int64(len(inv.owners))*ownerSize + int64(len(inv.hosts))*hostSize
	n += int64(len(inv.configMaps)+len(inv.links)+len(inv.services)+len(inv.referrers)+len(inv.identities)) * slotSize
	return n + int64(inv.counts.bindings)*bindingSize
}

// Full tells whether changes were left out because Options.Room had no room for them. The inventory is then that of no
// version, and stays so.
func (inv *Inventory) Full() bool {
	inv.mu.RLock()
	defer inv.mu.RUnlock()
	return inv.full
}

// room asks for room for decoded entries, with everything that can follow from them.
func (inv *Inventory) room(decoded []entity) bool {
	if inv.options.Room == nil {
		return true
	}
	var n int64
	for _, e := range decoded {
		if e != nil {
			n += sizeOf(e) + derived(e)
		}
	}
	return inv.options.Room(n)
}

// sizeOf is what an entity takes by itself.
func sizeOf(e entity) int64 {
	o := e.base()
	n := entrySlot + int64(len(o.id)+len(o.uid)+len(o.name))
	switch e := e.(type) {
	case *pod:
		n += int64(unsafe.Sizeof(*e)) + slotSize
		n += int64(len(e.label.Value())+len(e.container)+len(e.identity)+len(e.ipText)) + symbolSize(e.ownerUID) + symbolSize(e.hostIP)
		if e.claim != nil {
			n += int64(unsafe.Sizeof(*e.claim)) + ownerSize + int64(len(e.claim.uid)+len(e.claim.name)) + e.claim.template.size()
		}
	case *workload:
		n += int64(unsafe.Sizeof(*e)) + slotSize + e.template.size()
	case *replicaSet:
		n += int64(unsafe.Sizeof(*e)) + slotSize + e.template.size() + int64(len(e.ownerUID)+len(e.own.name))
	case *service:
		n += int64(unsafe.Sizeof(*e)) + 2*slotSize + int64(len(e.rendered)+len(e.typ)+len(e.clusterIP)+len(e.openGauss))
		for _, list := range [][]string{e.selector, e.external, e.rancher} {
			n += stringsSize(list) * 2
		}
		for _, p := range e.ports {
			n += int64(unsafe.Sizeof(p)+unsafe.Sizeof(boundPort{})) + int64(len(p.name)+len(p.protocol)+len(p.targetName))*2
		}
	case *ingress:
		n += int64(unsafe.Sizeof(*e)) + slotSize
		for _, r := range e.rules {
			n += int64(unsafe.Sizeof(r)+unsafe.Sizeof(IngressRule{})) + int64(len(r.host))
			for _, b := range r.backends {
				n += b.size()
			}
		}
		if e.fallback != nil {
			n += e.fallback.size()
		}
		if e.route != nil {
			n += int64(unsafe.Sizeof(*e.route)) + slotSize + int64(len(e.route.host)+len(e.route.service)+len(e.route.port))*2
		}
	case *node:
		n += int64(unsafe.Sizeof(*e)) + int64(len(e.address)+len(e.podCIDR))
	case *configMap:
		n += int64(unsafe.Sizeof(*e)) + slotSize
	case *namespaceObject:
		n += int64(unsafe.Sizeof(*e)) + int64(len(e.native))
	case *versionInfo:
		n += int64(unsafe.Sizeof(*e)) + int64(len(e.gitVersion))
	case *other:
		n += int64(unsafe.Sizeof(*e)) + int64(len(e.space))
	}
	return n
}

// derived is the most that can follow from an entity: names that nothing else has.
func derived(e entity) int64 {
	const each = namespaceSize
	switch e := e.(type) {
	case *pod:
		n := int64(each + ownerSize + hostSize)
		if e.claim != nil {
			n += e.claim.template.derived()
		}
		return n
	case *workload:
		return each + ownerSize + e.template.derived()
	case *replicaSet:
		return each + 2*ownerSize + e.template.derived()
	case *service:
		return each + int64(len(e.selector)+len(e.rancher)+1)*labelSize
	case *ingress:
		n := int64(each)
		for _, r := range e.rules {
			n += int64(len(r.backends)) * slotSize
		}
		return n + 2*slotSize
	case *node:
		return hostSize
	case *other, *versionInfo:
		return 0
	default:
		return each
	}
}

func (t *template) size() int64 {
	n := symbolSize(t.label) + stringsSize(t.selectable)*3
	for _, p := range t.ports {
		n += int64(unsafe.Sizeof(p)) + int64(len(p.name))
	}
	for _, r := range t.refs {
		n += int64(unsafe.Sizeof(r)) + slotSize + int64(len(r.name))
	}
	return n
}

func (t *template) derived() int64 {
	return int64(len(t.selectable)+1)*labelSize + int64(len(t.refs))*slotSize
}

// size is that of a backend as it came, resolved, and by the Service that it names.
func (b *backend) size() int64 {
	return int64(unsafe.Sizeof(*b)+unsafe.Sizeof(Backend{})) + 2*slotSize + int64(len(b.path)+len(b.service)+len(b.portName))*3
}

func symbolSize(s symbol) int64 {
	if s == (symbol{}) {
		return 0
	}
	return int64(len(s.Value()))
}

func stringsSize(list []string) int64 {
	var n int64
	for _, s := range list {
		n += stringSize + int64(len(s))
	}
	return n
}

// Expected is about how many bytes the inventory takes for an ordinary object of a wire type, with what follows from it.
func Expected(wire string) int64 {
	_, workload := workloadKinds[wire]
	_, ingress := ingressFamilies[wire]
	switch {
	case workload, ingress, wire == wireReplicaSet, wire == wireService, wire == wireServiceRule, wire == wirePod:
		return 1500
	case wire == wireConfigMap, wire == wireNode, wire == wireNamespace:
		return 1000
	default:
		return entrySlot + 200
	}
}
