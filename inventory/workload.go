package inventory

import (
	"maps"
	"slices"
	"strings"
)

// workloadKinds gives rank (the server's order) and type of every workload that is an entry.
var workloadKinds = map[string]struct {
	rank int
	typ  string
}{
	wireDeployment:  {0, typeDeployment},
	wireStatefulSet: {1, typeStatefulSet},
	wireOpenGauss:   {2, typeStatefulSet},
	wireDaemonSet:   {3, typeDaemonSet},
	wireCloneSet:    {4, typeCloneSet},
	wireReplication: {6, typeReplication},
}

// pluginTypes maps a plugin's answer, in lower case, to the server's type.
var pluginTypes = map[string]string{
	"deployment":            typeDeployment,
	"statefulset":           typeStatefulSet,
	"daemonset":             typeDaemonSet,
	"cloneset":              typeCloneSet,
	"replicaset":            typeReplicaSet,
	"replicationcontroller": typeReplication,
}

type containerPort struct {
	name string
	port int
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

type workload struct {
	object
	template template
	group    group
	queued   bool
}

// synthetic is a group made of Pods: of an InPlaceSet, or by a plugin.
type synthetic struct {
	pods  []*pod
	group *group
}

// Workload is what the server calls a pod group.
type Workload struct {
	UID        string   `json:"uid"`
	Namespace  string   `json:"namespace"`
	Name       string   `json:"name"`
	Type       string   `json:"type"`   // Deployment, StatefulSet, DaemonSet, CloneSet, RC, ReplicaSetController
	Source     string   `json:"source"` // wire type of the entry, "inplaceset", or the workload type that a plugin answered
	Replicas   int      `json:"replicas"`
	Pods       int      `json:"pods"` // kept Pods bound to it
	Label      string   `json:"label"`
	Network    int      `json:"network_mode"` // 0: not known, 1: Pod network, 2: host network
	Services   []string `json:"services"`     // namespace/name
	ConfigMaps []string `json:"config_maps"`  // names
}

// template reads spec of a workload or ReplicaSet. The selectable labels are completed by finishTemplate.
func (d *decoder) template(t *template, labels *[]label) {
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case "replicas":
			t.replicas = d.integer()
		case "template":
			d.scanner.object(func(key []byte) {
				switch string(key) {
				case "metadata":
					d.scanner.object(func(key []byte) {
						if string(key) == "labels" {
							*labels, _ = readLabels(&d.scanner)
							return
						}
						d.skip()
					})
				case "spec":
					d.podSpec(t)
				default:
					d.skip()
				}
			})
		default:
			d.skip()
		}
	})
}

func (d *decoder) podSpec(t *template) {
	var env, volumes []configMapRef
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case "hostNetwork":
			t.host = d.boolean()
		case "containers":
			d.array(func(int) { env = d.container(t, env) })
		case "volumes":
			d.array(func(int) { volumes = d.volume(volumes) })
		default:
			d.skip()
		}
	})
	t.ports = distinctPorts(t.ports)
	refs := append(env, volumes...)
	seen := make(map[configMapRef]struct{}, len(refs))
	for _, ref := range refs {
		if _, again := seen[ref]; ref.name != "" && !again {
			seen[ref] = struct{}{}
			t.refs = append(t.refs, ref)
		}
	}
}

// container reads one container and returns env with the ConfigMaps that its environment refers to.
func (d *decoder) container(t *template, env []configMapRef) []configMapRef {
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case "ports":
			d.array(func(int) { d.containerPort(t) })
		case "env":
			d.array(func(int) {
				if ref, ok := d.envRef(); ok {
					env = append(env, ref)
				}
			})
		default:
			d.skip()
		}
	})
	return env
}

// volume reads one volume and returns volumes with the ConfigMap that it mounts, if it does.
func (d *decoder) volume(volumes []configMapRef) []configMapRef {
	d.scanner.object(func(key []byte) {
		if string(key) != "configMap" {
			d.skip()
			return
		}
		d.scanner.object(func(key []byte) {
			if string(key) == "name" {
				volumes = append(volumes, configMapRef{name: d.text()})
				return
			}
			d.skip()
		})
	})
	return volumes
}

func (d *decoder) containerPort(t *template) {
	var p containerPort
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case "name":
			p.name = d.text()
		case "containerPort":
			p.port = d.integer()
		default:
			d.skip()
		}
	})
	if p.name != "" {
		t.ports = append(t.ports, p)
	}
}

func (d *decoder) workload(wire string) entity {
	w := &workload{}
	var labels []label
	if bad := d.top(true, func(key []byte) {
		if string(key) == "spec" {
			d.template(&w.template, &labels)
			return
		}
		d.skip()
	}); bad != nil {
		return bad
	}
	w.object = d.object
	k := workloadKinds[wire]
	keys := selectable(nil, labels, wire != wireReplication)
	rendered := labels
	mode := 1
	switch wire {
	case wireReplication:
		mode = 0
	default:
		keys = selectable(keys, d.meta.labels, false)
		rendered = d.meta.labels
		if w.template.host {
			mode = 2
		}
	}
	w.template.label = intern(render(rendered))
	w.template.selectable = compact(keys)
	w.group = group{uid: w.uid, id: w.id, rank: k.rank, typ: k.typ, kind: wire, name: w.name, mode: mode}
	return w
}

// distinctPorts keeps the last port of each name, in the place of the first one.
func distinctPorts(ports []containerPort) []containerPort {
	if len(ports) < 2 {
		return ports
	}
	at := make(map[string]int, len(ports))
	out := ports[:0]
	for _, p := range ports {
		if i, again := at[p.name]; again {
			out[i] = p
			continue
		}
		at[p.name] = len(out)
		out = append(out, p)
	}
	return out
}

func compact(keys []string) []string {
	slices.Sort(keys)
	return slices.Clip(slices.Compact(keys))
}

// WorkloadTypes are the types, in lower case, that a Mapping may have.
func WorkloadTypes() []string {
	return slices.Sorted(maps.Keys(pluginTypes))
}

// KnownWorkloadType tells whether a Mapping may have this type, whose case does not matter.
func KnownWorkloadType(typ string) bool {
	_, ok := pluginTypes[strings.ToLower(typ)]
	return ok
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

// Ref names the workload as Type/namespace/name.
func (w *Workload) Ref() string { return w.Type + "/" + w.Namespace + "/" + w.Name }

// Workloads returns the workloads in the server's order of kinds, then by uid.
func (inv *Inventory) Workloads(f Filter) []Workload {
	inv.mu.RLock()
	defer inv.mu.RUnlock()
	var groups []*group
	for _, o := range inv.owners {
		groups = append(groups, o.groups...)
		for _, r := range o.sets {
			if r.own.live {
				groups = append(groups, &r.own)
			}
		}
	}
	groups = slices.DeleteFunc(groups, func(g *group) bool { return !f.takes(g.ns.name, g.name) })
	slices.SortFunc(groups, compareGroups)
	out := make([]Workload, 0, len(groups))
	for _, g := range groups {
		w := Workload{
			UID: g.uid, Namespace: g.ns.name, Name: g.name, Type: g.typ, Source: g.kind, Replicas: g.template.replicas, Pods: g.pods,
			Label: g.template.label.Value(), Network: g.mode, Services: []string{}, ConfigMaps: slices.Sorted(slices.Values(g.links)),
		}
		if w.ConfigMaps == nil {
			w.ConfigMaps = []string{}
		}
		for s := range g.services {
			w.Services = append(w.Services, qualified(s.ns, s.name))
		}
		slices.Sort(w.Services)
		out = append(out, w)
	}
	return out
}
