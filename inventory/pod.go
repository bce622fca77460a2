package inventory

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

var pluginReason = func() mask {
	var m mask
	m.add(PluginType)
	return m
}()

// ownerKinds are the kinds of ownerReferences[0] that a Pod may have.
var ownerKinds = map[string]bool{
	"CloneSet": true, "DaemonSet": true, "Deployment": true, "InPlaceSet": true, "ReplicaSet": true, "StatefulSet": true,
	"StatefulSetPlus": true, "OpenGaussCluster": true, "ReplicationController": true,
}

// podStatus is what is read of a Pod's status before it is judged.
type podStatus struct {
	hostIP, podIP string
	judged        bool // a condition of type Ready was seen
	networks      bool // podNetworks has elements
	ids           []string
}

type pod struct {
	object
	label     symbol
	ownerUID  symbol
	ownerKind symbol
	hostIP    symbol
	host      *host
	ip        netip.Addr
	ipText    string // only of a podIP that does not parse, or has a zone
	container string // ids, joined
	created   int64  // Unix seconds, 0 if unknown
	identity  string // only with generateName
	claim     *claim // only for Pods that make a group of their own
	networks  *[]PodNetwork
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

// Pod is a Pod that the server keeps.
type Pod struct {
	UID        string     `json:"uid"`
	Namespace  string     `json:"namespace"`
	Name       string     `json:"name"`
	State      string     `json:"state"` // RUNNING or EXCEPTION
	Node       string     `json:"node"`
	Workload   string     `json:"workload"`    // Type/namespace/name
	ReplicaSet string     `json:"replica_set"` // name, "" if there is none
	Service    string     `json:"service"`     // namespace/name of the one Service that the server shows
	Addresses  []string   `json:"addresses"`
	Label      string     `json:"label"`
	Containers string     `json:"containers"`        // container ids, sorted, joined by ", "
	Created    *time.Time `json:"created,omitempty"` // UTC
	Plugin     string     `json:"plugin,omitempty"`  // the plugin that named the workload
	// Networks are those beside the default one, as the Pod's annotation tells of them. The server does not read it.
	Networks []PodNetwork `json:"networks,omitempty" facts:"-"`
}

func (d *decoder) pod() entity {
	p := &pod{}
	var f podStatus
	if bad := d.top(true, func(key []byte) {
		if string(key) != "status" {
			d.skip()
			return
		}
		d.scanner.object(func(key []byte) { d.podStatus(string(key), p, &f) })
	}); bad != nil {
		return bad
	}
	p.object = d.object
	p.label = intern(render(d.meta.labels))
	p.bare = !d.meta.labelled
	p.ownerUID, p.ownerKind = intern(d.meta.ownerUID), intern(d.meta.ownerKind)
	p.laterOwner = d.meta.laterOwner
	p.hostIP = intern(f.hostIP)
	slices.Sort(f.ids)
	p.container = strings.Join(f.ids, ", ")
	p.created = d.meta.created
	if d.meta.generated {
		p.identity = d.meta.ownerUID + "\x00" + strings.TrimLeft(d.meta.name, d.meta.generateName)
	}
	if f.networks {
		p.decoding.add(CrashPodNetworks)
	}
	if addr, err := netip.ParseAddr(f.podIP); err == nil {
		p.ip = addr.WithZone("")
		if addr.Zone() != "" {
			p.ipText = f.podIP
		}
	} else if f.podIP != "" {
		p.ipText = f.podIP
		p.decoding.add(CrashPodIP)
	} else {
		p.decoding.add(PodNoIP)
	}
	if f.hostIP == "" {
		p.decoding.add(PodNotScheduled)
	}
	p.networks = podNetworks(d.meta.networks)
	d.claim(p)
	return p
}

func (d *decoder) podStatus(key string, p *pod, f *podStatus) {
	switch key {
	case "hostIP":
		f.hostIP = d.text()
	case "podIP":
		f.podIP = d.text()
	case "podNetworks":
		d.array(func(int) {
			f.networks = true
			d.skip()
		})
	case "conditions":
		d.array(func(int) {
			var typ, status string
			ok := false
			d.scanner.object(func(key []byte) {
				switch string(key) {
				case "type":
					typ = d.text()
				case "status":
					status, ok = d.str()
				default:
					d.skip()
				}
			})
			if typ == "Ready" && ok && !f.judged {
				f.judged, p.ready = true, status == "True"
			}
		})
	case "containerStatuses":
		d.array(func(int) {
			id := d.strings("containerID", "", "")[0]
			if i := strings.Index(id, "://"); i >= 0 {
				id = id[i+3:]
			}
			if id != "" {
				f.ids = append(f.ids, id)
			}
		})
	default:
		d.skip()
	}
}

// claim finds out whether the Pod makes a group of its own.
func (d *decoder) claim(p *pod) {
	m := &d.meta
	if m.ownerKind == inPlaceSet {
		if m.ownerUID != "" && m.ownerName != "" {
			p.claim = &claim{uid: p.ownerUID.Value(), typ: typeDeployment, name: m.ownerName}
		}
	} else if d.options.Mapper != nil && d.options.Mapper.Any() {
		mapping, ok := virtualWorkload(m.labels)
		if !ok {
			mapping, ok = d.options.Mapper.Map(m.raw)
		}
		if !ok || mapping.Type == "" || mapping.Name == "" {
			return
		}
		typ, known := pluginTypes[strings.ToLower(mapping.Type)]
		if !known {
			p.decoding.add(PluginType)
			return
		}
		uid := "plugin/" + m.namespace + "/" + mapping.Name
		p.claim = &claim{uid: uid, typ: typ, name: mapping.Name, plugin: mapping.Plugin}
	}
	if p.claim != nil {
		p.claim.template.label = p.label
		p.claim.template.selectable = compact(selectable(nil, m.labels, false))
	}
}

// VirtualKubelet stands for a plugin where the server itself names the workload of a Pod.
const VirtualKubelet = "virtual-kubelet"

// virtualWorkload is what the server itself makes of the labels of a virtual kubelet's Pods, before any plugin is asked but
// only once there is one: a workload of the type of a label, or StatefulSet or Deployment, with the name of another up to its
// last "-".
func virtualWorkload(labels []label) (Mapping, bool) {
	const prefix = "virtual-kubelet.io/provider-"
	of := map[string]string{}
	for _, l := range labels {
		of[l.key] = l.value
	}
	if cluster := of[prefix+"cluster-type"]; cluster != "serverless" && cluster != "proprietary" {
		return Mapping{}, false
	}
	name := of[prefix+"resource-name"]
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		name = name[:i]
	}
	typ := of[prefix+"workload-type"]
	if _, stateful := of["statefulset.kubernetes.io/pod-name"]; typ == "" && stateful {
		typ = "StatefulSet"
	} else if typ == "" {
		typ = "Deployment"
	}
	return Mapping{Plugin: VirtualKubelet, Type: typ, Name: name}, name != ""
}

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

// sharedInterfaces is the number of interfaces that Pods of one identity have too few.
func (inv *Inventory) sharedInterfaces(list []*pod) int {
	n := 0
	for _, p := range list {
		if p.ip.IsValid() && inv.addresses[p.ip] == p && inv.hosts[p.ip].node() == nil {
			n++
		}
	}
	return max(0, n-1)
}

// shownLabel is the Pod's labels with the one that its Namespace adds.
func (p *pod) shownLabel() string {
	label := p.label.Value()
	if p.ns.native == "" {
		return label
	}
	parts := strings.Split(label, ", ")
	if label == "" {
		parts = nil
	}
	parts = slices.DeleteFunc(parts, func(part string) bool { return strings.HasPrefix(part, nativeNameLabel+":") })
	parts = append(parts, nativeNameLabel+":"+p.ns.native)
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// Pods returns the kept Pods.
func (inv *Inventory) Pods(f Filter) []Pod {
	return list(inv, f, []string{wirePod}, func(p *pod) (Pod, bool) {
		if !p.kept {
			return Pod{}, false
		}
		out := Pod{
			UID: p.uid, Namespace: p.ns.name, Name: p.name, State: "EXCEPTION", Workload: p.target.ref(), Addresses: []string{},
			Label: p.shownLabel(), Containers: p.container, Created: moment(p.created),
		}
		if p.ready {
			out.State = "RUNNING"
		}
		if n := p.host.node(); n != nil {
			out.Node = n.name
		}
		if p.replicaSet != nil {
			out.ReplicaSet = p.replicaSet.name
		}
		if s := podService(p.target); s != nil {
			out.Service = qualified(s.ns, s.name)
		}
		if inv.fate(p) == "" {
			out.Addresses = append(out.Addresses, cmp.Or(p.ipText, p.ip.String()))
		}
		if p.claim != nil {
			out.Plugin = p.claim.plugin
		}
		if p.networks != nil {
			out.Networks = *p.networks
		}
		return out, true
	})
}

func (inv *Inventory) explainPod(p *pod, report func(r Reason, detail string)) {
	if !p.kept {
		return
	}
	if p.hostIP.Value() != "" && p.host.node() == nil {
		report(PodNodeUnknown, "hostIP "+p.hostIP.Value())
	}
	switch r := inv.fate(p); r {
	case PodNodeIP:
		report(r, p.ip.String()+" of "+inv.hosts[p.ip].node().name)
	case PodIPTaken:
		winner := inv.addresses[p.ip]
		report(r, p.ip.String()+" goes to "+qualified(winner.ns, winner.name))
	case PodIPOutside:
		text := p.ip.String()
		if n, ok := inv.networks.lost.around(single(p.ip)); ok {
			text += ", of " + n.podCIDR + " of " + n.name + ", which the order of the Nodes lost"
		}
		report(r, text)
	default: // it has an address, or its mask tells that it has none
	}
	if p.identity != "" {
		if first := inv.identities[p.identity][0]; first != p {
			report(PodIdentity, "same as "+first.name)
		}
	}
}

// fate says why a kept Pod has no address; "" if it has one.
func (inv *Inventory) fate(p *pod) Reason {
	switch {
	case !p.ip.IsValid():
		return PodNoIP
	case inv.hosts[p.ip].node() != nil:
		return PodNodeIP
	case inv.addresses[p.ip] != p:
		return PodIPTaken
	case inv.networks.contains(p.ip), inv.networks.orphans[family(p.ip)].fit():
		return ""
	default:
		return PodIPOutside
	}
}

func podDetail(p *pod, r Reason) string {
	switch r {
	case CrashPodIP:
		return strconv.Quote(p.ipText)
	case PodOwnerKind, PodOwnerNotFirst, PodOwnerUnknown, PodOwnerDropped:
		return "owner " + p.ownerKind.Value() + " " + p.ownerUID.Value()
	default:
		return ""
	}
}
