package inventory

import "strings"

type replicaSet struct {
	object
	template template
	ownerUID string
	own      group  // live if the ReplicaSet is a workload of its own
	target   *group // what its Pods are bound to; nil if it is dropped
	pods     int
	queued   bool
}

// ReplicaSet is an active ReplicaSet.
type ReplicaSet struct {
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Replicas  int    `json:"replicas"`
	Pods      int    `json:"pods"`
	Label     string `json:"label"`
	Workload  string `json:"workload"` // Type/namespace/name
}

func (d *decoder) replicaSet() entity {
	r := &replicaSet{}
	var labels []label
	if bad := d.top(true, func(key []byte) {
		if string(key) == "spec" {
			d.template(&r.template, &labels)
			return
		}
		d.skip()
	}); bad != nil {
		return bad
	}
	r.object = d.object
	r.ownerUID = d.meta.ownerUID
	r.template.label = intern(render(d.meta.labels))
	r.template.selectable = compact(selectable(nil, labels, true))
	name := r.name
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		name = name[:i]
	}
	r.own = group{
		uid: r.uid, id: r.id, rank: rankReplicaSet, typ: typeReplicaSet, kind: wireReplicaSet, name: name, noPorts: true,
	}
	return r
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

// ReplicaSets returns the kept ReplicaSets.
func (inv *Inventory) ReplicaSets(f Filter) []ReplicaSet {
	return list(inv, f, []string{wireReplicaSet}, func(r *replicaSet) (ReplicaSet, bool) {
		if r.target == nil {
			return ReplicaSet{}, false
		}
		return ReplicaSet{
			UID: r.uid, Namespace: r.ns.name, Name: r.name, Replicas: r.template.replicas, Pods: r.pods,
			Label: r.template.label.Value(), Workload: r.target.ref(),
		}, true
	})
}
