package inventory

import "slices"

func (inv *Inventory) labelRec(namespace, key string) *labelRec {
	full := namespace + "/" + key
	l := inv.labels[full]
	if l == nil {
		l = &labelRec{key: full, groups: map[*group]struct{}{}, services: map[*service]struct{}{}}
		inv.labels[full] = l
	}
	return l
}

func (inv *Inventory) dropLabelRec(l *labelRec) {
	if len(l.groups) == 0 && len(l.services) == 0 {
		delete(inv.labels, l.key)
	}
}

func (inv *Inventory) ownerRec(uid string) *ownerRec {
	o := inv.owners[uid]
	if o == nil {
		o = &ownerRec{uid: uid, replicaSets: map[*replicaSet]struct{}{}}
		inv.owners[uid] = o
	}
	return o
}

func (inv *Inventory) dropOwnerRec(o *ownerRec) {
	if o.empty() && !o.queued {
		delete(inv.owners, o.uid)
	}
}

// queueOwned queues everything that is bound by this uid.
func (inv *Inventory) queueOwned(o *ownerRec) {
	for _, p := range o.pods {
		inv.queuePod(p)
	}
	for r := range o.replicaSets {
		inv.queueReplicaSet(r)
	}
}

// groupNames are the names by which Services find a group besides its labels.
func groupNames(g *group) string {
	var kind string
	switch g.kind {
	case wireDeployment:
		kind = "deployment"
	case wireStatefulSet, wireOpenGauss:
		kind = "statefulset"
	case wireDaemonSet:
		kind = "daemonset"
	case wireCloneSet:
		kind = "cloneset"
	case wireReplication:
		kind = "replicationcontroller"
	case wireReplicaSet:
		return "replicasetcontroller:" + g.ns.name + ":" + g.owner.name
	default:
		kind = g.kind
	}
	return kind + ":" + g.ns.name + ":" + g.name
}

// raise makes a group live: Services can select it, and unless it is a ReplicaSet's (whose Pods bind by the
// ReplicaSet) Pods and ReplicaSets can name it as their owner.
func (inv *Inventory) raise(g *group) {
	g.live = true
	if g.services == nil {
		g.services = map[*service]struct{}{}
	}
	inv.counts.groups++
	inv.addLabels(g)
	inv.addRefs(g)
	if g.rank == rankReplicaSet {
		return
	}
	o := inv.ownerRec(g.uid)
	o.groups = insertSorted(o.groups, g, compareGroups)
	inv.queueOwned(o)
}

// lower undoes raise.
func (inv *Inventory) lower(g *group) {
	g.live = false
	inv.counts.groups--
	inv.removeLabels(g)
	inv.removeRefs(g)
	if g.rank == rankReplicaSet {
		return
	}
	o := inv.ownerRec(g.uid)
	o.groups = removeSorted(o.groups, g)
	inv.queueOwned(o)
	inv.dropOwnerRec(o)
}

func (inv *Inventory) addLabels(g *group) {
	g.labels = make([]*labelRec, 0, len(g.template.selectable)+1)
	for _, key := range g.template.selectable {
		g.labels = append(g.labels, inv.labelRec(g.ns.name, key))
	}
	if l := inv.labelRec(g.ns.name, groupNames(g)); !slices.Contains(g.labels, l) {
		g.labels = append(g.labels, l)
	}
	for _, l := range g.labels {
		l.groups[g] = struct{}{}
	}
	inv.queueSelecting(g)
}

func (inv *Inventory) removeLabels(g *group) {
	inv.queueSelecting(g)
	for _, l := range g.labels {
		delete(l.groups, g)
		inv.dropLabelRec(l)
	}
	g.labels = nil
}

// queueSelecting queues the Services that might select the group.
func (inv *Inventory) queueSelecting(g *group) {
	for _, l := range g.labels {
		for s := range l.services {
			inv.queueService(s)
		}
	}
}

func (inv *Inventory) addRefs(g *group) {
	for _, ref := range g.template.refs {
		key := nameKey{g.ns.name, ref.name}
		if inv.links[key] == nil {
			inv.links[key] = map[*group]struct{}{}
		}
		inv.links[key][g] = struct{}{}
	}
	inv.relink(g)
}

func (inv *Inventory) removeRefs(g *group) {
	inv.counts.links -= len(g.links)
	g.links = nil
	for _, ref := range g.template.refs {
		key := nameKey{g.ns.name, ref.name}
		delete(inv.links[key], g)
		if len(inv.links[key]) == 0 {
			delete(inv.links, key)
		}
	}
	if g.owner != nil {
		inv.setMask(g.owner, g.owner.mask&^linkReasons)
	}
}

// retemplate gives a group the content of a newer entry of the same object.
func (inv *Inventory) retemplate(g *group, to *template) {
	if !g.live {
		*g.template = *to
		return
	}
	relabel := !slices.Equal(g.template.selectable, to.selectable)
	relink := !slices.Equal(g.template.refs, to.refs)
	reports := !slices.Equal(g.template.ports, to.ports)
	if relabel {
		inv.removeLabels(g)
	}
	if relink {
		inv.removeRefs(g)
	}
	*g.template = *to
	if relabel {
		inv.addLabels(g)
	} else if reports {
		inv.queueSelecting(g)
	}
	if relink {
		inv.addRefs(g)
	}
}

func (inv *Inventory) queueWorkload(w *workload) {
	if !w.queued {
		w.queued = true
		inv.queue.workloads = append(inv.queue.workloads, w)
	}
}

func (inv *Inventory) insertWorkload(w *workload) {
	w.ns.workloads[w] = struct{}{}
	w.group.ns, w.group.template, w.group.owner = w.ns, &w.template, &w.object
	o := inv.ownerRec(w.uid)
	if o.known++; o.known == 1 {
		inv.queueOwned(o)
	}
	inv.queueWorkload(w)
}

func (inv *Inventory) removeWorkload(w *workload) {
	if w.group.live {
		inv.lower(&w.group)
		inv.queueRival(w.uid)
	}
	delete(w.ns.workloads, w)
	o := inv.ownerRec(w.uid)
	if o.known--; o.known == 0 {
		inv.queueOwned(o)
	}
	inv.dropOwnerRec(o)
}

func (inv *Inventory) updateWorkload(w, to *workload) {
	mode := to.group.mode
	inv.retemplate(&w.group, &to.template)
	w.group.mode = mode
}

func (inv *Inventory) settleWorkload(w *workload) {
	w.queued = false
	if w.dead {
		return
	}
	if w.ns.reported != w.group.live {
		if w.ns.reported {
			inv.setMask(&w.object, 0)
			inv.raise(&w.group)
		} else {
			inv.lower(&w.group)
		}
		inv.queueRival(w.uid)
	}
	if !w.ns.reported {
		var m mask
		m.add(NamespaceUnknown)
		inv.setMask(&w.object, m)
	}
}

// queueRival queues the group that Pods make under this uid: it gives way to a real workload.
func (inv *Inventory) queueRival(uid string) {
	if o := inv.owners[uid]; o != nil && o.synthetic != nil {
		inv.queueSynthetic(o)
	}
}

func (inv *Inventory) queueSynthetic(o *ownerRec) {
	if !o.queued {
		o.queued = true
		inv.queue.owners = append(inv.queue.owners, o)
	}
}

// settleSynthetic makes the group of Pods with one InPlaceSet, or with one answer of a plugin. The first Pod gives
// type, labels and namespace.
func (inv *Inventory) settleSynthetic(o *ownerRec) {
	o.queued = false
	defer inv.dropOwnerRec(o)
	syn := o.synthetic
	if syn == nil {
		return
	}
	var first *pod
	for _, p := range syn.pods {
		if p.ns.reported && (first == nil || compareObjects(&p.object, &first.object) < 0) {
			first = p
		}
	}
	for _, g := range o.groups {
		if g.rank < rankSynthetic {
			first = nil
		}
	}
	switch {
	case first == nil:
		if syn.group != nil {
			inv.lower(syn.group)
		}
		syn.group = nil
	case syn.group != nil && syn.group.ns == first.ns && syn.group.name == first.claim.name && syn.group.typ == first.claim.typ:
		t := first.claim.template
		inv.retemplate(syn.group, &t)
	default:
		if syn.group != nil {
			inv.lower(syn.group)
		}
		t := first.claim.template
		kind := "inplaceset"
		if first.claim.plugin != "" {
			kind = pluginKind(first.claim.typ)
		}
		syn.group = &group{
			uid: o.uid, id: o.uid, rank: rankSynthetic, typ: first.claim.typ, kind: kind, ns: first.ns, name: first.claim.name,
			template: &t, mode: 1,
		}
		inv.raise(syn.group)
	}
	if len(syn.pods) == 0 {
		o.synthetic = nil
	}
}

func pluginKind(typ string) string {
	for kind, t := range pluginTypes {
		if t == typ {
			return kind
		}
	}
	return ""
}

func (inv *Inventory) queueReplicaSet(r *replicaSet) {
	if !r.queued {
		r.queued = true
		inv.queue.replicaSets = append(inv.queue.replicaSets, r)
	}
}

func (inv *Inventory) insertReplicaSet(r *replicaSet) {
	r.ns.replicaSets[r] = struct{}{}
	r.own.ns, r.own.template, r.own.owner = r.ns, &r.template, &r.object
	if r.ownerUID != "" {
		inv.ownerRec(r.ownerUID).replicaSets[r] = struct{}{}
	}
	o := inv.ownerRec(r.uid)
	if o.known++; o.known == 1 {
		inv.queueOwned(o)
	}
	inv.queueReplicaSet(r)
}

func (inv *Inventory) removeReplicaSet(r *replicaSet) {
	inv.target(r, nil)
	delete(r.ns.replicaSets, r)
	if o := inv.owners[r.ownerUID]; o != nil {
		delete(o.replicaSets, r)
		inv.dropOwnerRec(o)
	}
	o := inv.ownerRec(r.uid)
	if o.known--; o.known == 0 {
		inv.queueOwned(o)
	}
	inv.dropOwnerRec(o)
}

func (inv *Inventory) updateReplicaSet(r, to *replicaSet) {
	inv.retemplate(&r.own, &to.template)
	inv.queueReplicaSet(r)
}

func (inv *Inventory) settleReplicaSet(r *replicaSet) {
	r.queued = false
	if r.dead {
		return
	}
	var m mask
	var target *group
	switch {
	case r.template.replicas == 0:
		m.add(ReplicaSetInactive)
	case !r.ns.reported:
		m.add(NamespaceUnknown)
	case r.ownerUID == "":
		m.add(ReplicaSetOrphan)
	default:
		target = &r.own
		if o := inv.owners[r.ownerUID]; o != nil && len(o.groups) > 0 {
			target = o.groups[0]
		}
	}
	inv.setMask(&r.object, m|r.mask&linkReasons)
	inv.target(r, target)
}

// target binds a ReplicaSet to a group; nil drops it.
func (inv *Inventory) target(r *replicaSet, to *group) {
	if r.target == to {
		return
	}
	o := inv.ownerRec(r.uid)
	if r.target == &r.own {
		inv.lower(&r.own)
	}
	if r.target == nil {
		inv.counts.replicaSets++
		o.sets = insertSorted(o.sets, r, func(a, b *replicaSet) int { return compareObjects(&a.object, &b.object) })
	}
	r.target = to
	if to == &r.own {
		inv.raise(&r.own)
	}
	if to == nil {
		inv.counts.replicaSets--
		o.sets = removeSorted(o.sets, r)
	}
	inv.queueOwned(o)
	inv.dropOwnerRec(o)
}
