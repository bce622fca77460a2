package inventory

import (
	"net/netip"
	"slices"
)

func (inv *Inventory) queuePod(p *pod) {
	if !p.queued {
		p.queued = true
		inv.queue.pods = append(inv.queue.pods, p)
	}
}

// queueClaim queues the group that the Pod takes part in making.
func (inv *Inventory) queueClaim(p *pod) {
	if p.claim != nil {
		inv.queueSynthetic(inv.ownerRec(p.claim.uid))
	}
}

func (inv *Inventory) insertPod(p *pod) {
	p.inNamespace = len(p.ns.pods)
	p.ns.pods = append(p.ns.pods, p)
	uid := p.ownerUID.Value()
	if p.claim != nil {
		uid = p.claim.uid
	}
	if uid != "" {
		o := inv.ownerRec(uid)
		p.owner, p.ofOwner = o, len(o.pods)
		o.pods = append(o.pods, p)
		if p.claim != nil {
			if o.synthetic == nil {
				o.synthetic = &synthetic{}
			}
			o.synthetic.pods = append(o.synthetic.pods, p)
			inv.queueSynthetic(o)
		}
	}
	inv.queuePod(p)
}

func (inv *Inventory) removePod(p *pod) {
	inv.release(p)
	last := p.ns.pods[len(p.ns.pods)-1]
	p.ns.pods[p.inNamespace], last.inNamespace = last, p.inNamespace
	p.ns.pods[len(p.ns.pods)-1] = nil
	p.ns.pods = p.ns.pods[:len(p.ns.pods)-1]
	o := p.owner
	if o == nil {
		return
	}
	last = o.pods[len(o.pods)-1]
	o.pods[p.ofOwner], last.ofOwner = last, p.ofOwner
	o.pods[len(o.pods)-1] = nil
	o.pods = o.pods[:len(o.pods)-1]
	if p.claim != nil {
		i := slices.Index(o.synthetic.pods, p)
		o.synthetic.pods = slices.Delete(o.synthetic.pods, i, i+1)
		inv.queueSynthetic(o)
	}
	inv.dropOwnerRec(o)
}

func (inv *Inventory) settlePod(p *pod) {
	p.queued = false
	if p.dead {
		return
	}
	var m mask
	var target *group
	var set *replicaSet
	switch o := p.owner; {
	case !p.ns.reported:
		m.add(NamespaceUnknown)
	case o == nil:
		m.add(PodOrphan)
	case p.claim == nil && !ownerKinds[p.ownerKind.Value()]:
		if p.laterOwner {
			m.add(PodOwnerNotFirst)
		} else {
			m.add(PodOwnerKind)
		}
	case len(o.sets) > 0:
		set = o.sets[0]
		target = set.target
	case len(o.groups) > 0:
		target = o.groups[0]
	case o.known > 0:
		m.add(PodOwnerDropped)
	default:
		m.add(PodOwnerUnknown)
	}
	if target != nil {
		m |= p.decoding
		if p.bare && p.ns.native != "" {
			m.add(CrashPodLabels)
		}
	} else {
		m |= p.decoding & pluginReason
	}
	inv.setMask(&p.object, m)
	if p.kept == (target != nil) && p.target == target && p.replicaSet == set {
		return
	}
	inv.release(p)
	if target != nil {
		inv.keep(p, target, set)
	}
}

var pluginReason = func() mask {
	var m mask
	m.add(PluginType)
	return m
}()

// keep binds a Pod and counts it wherever it counts.
func (inv *Inventory) keep(p *pod, target *group, set *replicaSet) {
	p.kept, p.target, p.replicaSet = true, target, set
	inv.counts.pods++
	target.pods++
	if set != nil {
		set.pods++
	}
	if addr, err := netip.ParseAddr(p.hostIP.Value()); err == nil {
		p.host = inv.hostOf(addr.WithZone(""))
		p.host.pods++
	}
	if p.hostIP.Value() != "" && p.host.node() == nil {
		inv.counts.noNode++
	}
	if p.ip.IsValid() {
		inv.changeAddress(p.ip, func() { inv.chain(p) })
	}
	if p.identity != "" {
		list := inv.identities[p.identity]
		inv.identities[p.identity] = insertSorted(list, p, comparePods)
		if len(list) > 0 {
			inv.collisions++
		}
	}
}

func comparePods(a, b *pod) int { return compareObjects(&a.object, &b.object) }

// release undoes keep.
func (inv *Inventory) release(p *pod) {
	if !p.kept {
		return
	}
	inv.counts.pods--
	p.target.pods--
	if p.replicaSet != nil {
		p.replicaSet.pods--
	}
	if p.hostIP.Value() != "" && p.host.node() == nil {
		inv.counts.noNode--
	}
	if p.host != nil {
		p.host.pods--
		inv.dropHost(p.host)
		p.host = nil
	}
	if p.ip.IsValid() {
		inv.changeAddress(p.ip, func() { inv.unchain(p) })
	}
	if p.identity != "" {
		list := removeSorted(inv.identities[p.identity], p)
		if len(list) > 0 {
			inv.collisions--
			inv.identities[p.identity] = list
		} else {
			delete(inv.identities, p.identity)
		}
	}
	p.kept, p.target, p.replicaSet = false, nil, nil
}

// chain adds a Pod to those that have its address. The first of them is the winner: the server lets the last entry win.
func (inv *Inventory) chain(p *pod) {
	head := inv.addresses[p.ip]
	if head == nil {
		p.sharers = 1
		inv.addresses[p.ip] = p
		return
	}
	if comparePods(p, head) > 0 {
		p.next, head.prev = head, p
		p.sharers, head.sharers = head.sharers+1, 0
		inv.addresses[p.ip] = p
		return
	}
	head.sharers++
	if p.next = head.next; p.next != nil {
		p.next.prev = p
	}
	p.prev, head.next = head, p
}

// unchain undoes chain. If the winner goes, the next one is found when everything else is settled: of many that have one
// address many may go at once.
func (inv *Inventory) unchain(p *pod) {
	head := inv.addresses[p.ip]
	if p.next != nil {
		p.next.prev = p.prev
	}
	switch {
	case p.prev != nil:
		p.prev.next = p.next
		head.sharers--
	case p.next == nil:
		delete(inv.addresses, p.ip)
	default:
		p.next.sharers = p.sharers - 1
		inv.addresses[p.ip] = p.next
		inv.queue.addresses = append(inv.queue.addresses, p.ip)
	}
	p.next, p.prev, p.sharers = nil, nil, 0
}

// settleAddress puts the winner first among those that have an address.
func (inv *Inventory) settleAddress(addr netip.Addr) {
	head := inv.addresses[addr]
	best := head
	for p := head; p != nil; p = p.next {
		if comparePods(p, best) > 0 {
			best = p
		}
	}
	if best == head {
		return
	}
	unlink(best)
	best.next, head.prev = head, best
	best.sharers, head.sharers = head.sharers, 0
	inv.addresses[addr] = best
}

// unlink takes a Pod that is not the first out of its chain.
func unlink(p *pod) {
	p.prev.next = p.next
	if p.next != nil {
		p.next.prev = p.prev
	}
	p.prev, p.next = nil, nil
}

func (inv *Inventory) hostOf(addr netip.Addr) *host {
	h := inv.hosts[addr]
	if h == nil {
		h = &host{addr: addr}
		inv.hosts[addr] = h
	}
	return h
}

func (inv *Inventory) dropHost(h *host) {
	if h.pods == 0 && len(h.nodes) == 0 {
		delete(inv.hosts, h.addr)
	}
}

// podService is the Service that the server shows for the Pods of a group: the first by uid among those that have a
// port.
func podService(g *group) *service {
	if shown := g.shown.Load(); shown != nil {
		return shown
	}
	var first *service
	for s := range g.services {
		if first == nil || s.uid < first.uid || s.uid == first.uid && compareServices(s, first) < 0 {
			first = s
		}
	}
	g.shown.Store(first)
	return first
}
