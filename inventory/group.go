package inventory

import "slices"

func (inv *Inventory) labelRec(namespace, key string) *labelRec {
	full := nameKey{namespace, key}
	l := inv.labels[full]
	if l == nil {
		l = &labelRec{key: full}
		inv.labels[full] = l
	}
	return l
}

func (inv *Inventory) dropLabelRec(l *labelRec) {
	if l.groups.size() == 0 && l.services.size() == 0 {
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
	for i, key := range g.template.selectable {
		l := inv.labelRec(g.ns.name, key)
		g.template.selectable[i] = l.key.name // one text for all groups that have the label
		g.labels = append(g.labels, l)
	}
	if l := inv.labelRec(g.ns.name, groupNames(g)); !slices.Contains(g.labels, l) {
		g.labels = append(g.labels, l)
	}
	for _, l := range g.labels {
		l.groups.add(g)
	}
	inv.queueSelecting(g)
}

func (inv *Inventory) removeLabels(g *group) {
	inv.queueSelecting(g)
	for _, l := range g.labels {
		l.groups.remove(g)
		inv.dropLabelRec(l)
	}
	g.labels = nil
}

// queueSelecting queues the Services that might select the group.
func (inv *Inventory) queueSelecting(g *group) {
	for _, l := range g.labels {
		for s := range l.services.all() {
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
