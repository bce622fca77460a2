package inventory

import (
	"slices"
	"strings"
	"time"
)

// Summary is what became of a report as a whole.
type Summary struct {
	Version  string         `json:"version"`  // "Kubernetes " and the apiserver's gitVersion
	OK       bool           `json:"ok"`       // false: the real server takes nothing over, see Failures
	Failures []Finding      `json:"failures"` // what makes the real server fail as a whole or crash
	Counts   Counts         `json:"counts"`
	Dropped  map[Reason]int `json:"dropped"`  // number of findings for each reason that occurs
	Entries  map[string]int `json:"entries"`  // number of entries for each wire type
	Networks []string       `json:"networks"` // the Pod networks that the server shows
}

// Counts are the sizes of the lists, and of what hangs on them.
type Counts struct {
	Nodes            int `json:"nodes"`
	NodeAddresses    int `json:"node_addresses"`
	Namespaces       int `json:"namespaces"`
	Workloads        int `json:"workloads"`
	ReplicaSets      int `json:"replica_sets"`
	Pods             int `json:"pods"`
	PodInterfaces    int `json:"pod_interfaces"`
	PodAddresses     int `json:"pod_addresses"`
	Services         int `json:"services"`
	ServicePorts     int `json:"service_ports"`
	ServiceAddresses int `json:"service_addresses"`
	WorkloadPorts    int `json:"workload_ports"` // ports of Services, counted for each workload behind them
	Ingresses        int `json:"ingresses"`
	IngressRules     int `json:"ingress_rules"`
	IngressBackends  int `json:"ingress_backends"`
	ConfigMaps       int `json:"config_maps"`
	ConfigMapLinks   int `json:"config_map_links"`
}

// Node is a Node as the server shows it.
type Node struct {
	UID       string `json:"uid"`
	Name      string `json:"name"`
	Role      string `json:"role"`  // master or node
	State     string `json:"state"` // NORMAL or EXCEPTION
	Address   string `json:"address"`
	PodCIDR   string `json:"pod_cidr"`
	CPUs      int    `json:"cpus"`
	MemoryMiB int    `json:"memory_mib"`
	Pods      int    `json:"pods"` // kept Pods on this Node
}

// Namespace is a reported Namespace.
type Namespace struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
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

// Ref names the workload as Type/namespace/name.
func (w *Workload) Ref() string { return w.Type + "/" + w.Namespace + "/" + w.Name }

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
}

// ServicePort is a port of a Service that the server keeps.
type ServicePort struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Port     int    `json:"port"`
	Target   int    `json:"target_port"`
	NodePort int    `json:"node_port"`
}

// Service is a Service or ServiceRule that the server keeps.
type Service struct {
	UID       string        `json:"uid"`
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	Type      string        `json:"type"`
	ClusterIP string        `json:"cluster_ip"`
	External  string        `json:"external_ip"` // joined by ", "
	Selector  string        `json:"selector"`
	Ports     []ServicePort `json:"ports"`
	Workloads []string      `json:"workloads"` // Type/namespace/name
	Ingress   string        `json:"ingress"`   // namespace/name
}

// Backend is a resolved backend of an Ingress.
type Backend struct {
	Path    string `json:"path"`
	Service string `json:"service"` // namespace/name
	Port    int    `json:"port"`
}

// IngressRule is a rule of an Ingress.
type IngressRule struct {
	Host     string    `json:"host"`
	Protocol string    `json:"protocol"`
	Backends []Backend `json:"backends"`
}

// Ingress is an Ingress or Route.
type Ingress struct {
	UID       string        `json:"uid"`
	Namespace string        `json:"namespace"`
	Name      string        `json:"name"`
	Rules     []IngressRule `json:"rules"`
}

// ConfigMap is a reported ConfigMap. Its data is not kept.
type ConfigMap struct {
	UID       string     `json:"uid"`
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	DataBytes int        `json:"data_bytes"` // length of the JSON of data
	Created   *time.Time `json:"created,omitempty"`
	Workloads []string   `json:"workloads"` // Type/namespace/name of those that mount it
}

// Filter selects objects. The zero value selects all.
type Filter struct {
	Namespace string // "" selects all namespaces, and is the only one that selects cluster-scoped objects
	Name      string // "" selects all names
	Reason    Reason // only for Findings: "" selects all reasons
	Type      string // only for Findings: wire type
}

func (f Filter) takes(namespace, name string) bool {
	return (f.Namespace == "" || f.Namespace == namespace) && (f.Name == "" || f.Name == name)
}

// Summary returns the state of the whole. It costs as much as there are Nodes and failures, not as Pods.
func (inv *Inventory) Summary() Summary {
	inv.mu.RLock()
	defer inv.mu.RUnlock()
	s := Summary{Counts: inv.countAll(), Dropped: inv.dropped(), Entries: map[string]int{}, Networks: []string{}}
	for wire, list := range inv.entries {
		s.Entries[wire] = len(list)
	}
	if len(inv.versions) > 0 && inv.versions[0].gitVersion != "" {
		s.Version = "Kubernetes " + inv.versions[0].gitVersion
	}
	for _, p := range inv.podNetworks() {
		s.Networks = append(s.Networks, p.String())
	}
	s.Failures = inv.failures()
	s.OK = len(s.Failures) == 0
	return s
}

func (inv *Inventory) countAll() Counts {
	c := &inv.counts
	out := Counts{
		Nodes: len(inv.nodes), Workloads: c.groups, ReplicaSets: c.replicaSets, Pods: c.pods,
		Services: c.services, ServicePorts: c.servicePorts, ServiceAddresses: c.clusterIPs, WorkloadPorts: c.groupPorts,
		Ingresses: c.ingresses, IngressRules: c.rules, IngressBackends: c.backends,
		ConfigMaps: c.configMaps, ConfigMapLinks: c.links,
	}
	for _, n := range inv.nodes {
		if !n.addr.IsValid() || inv.hosts[n.addr].node() == n {
			out.NodeAddresses++
		}
	}
	for _, e := range inv.entries[wireNamespace] {
		if _, ok := e.(*namespaceObject); ok {
			out.Namespaces++
		}
	}
	out.PodAddresses, out.PodInterfaces = c.addressed, c.addressed
	for i := range inv.networks.orphans {
		o := &inv.networks.orphans[i]
		out.PodInterfaces += o.count
		if o.fit() {
			out.PodAddresses += o.count
		}
	}
	for _, list := range inv.identities {
		if len(list) > 1 {
			out.PodInterfaces -= inv.sharedInterfaces(list)
		}
	}
	return out
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

// list shows the selected entities of the given wire types, in canonical order.
func list[E entity, T any](inv *Inventory, f Filter, wires []string, show func(E) (T, bool)) []T {
	inv.mu.RLock()
	defer inv.mu.RUnlock()
	var found []E
	for _, wire := range wires {
		start := len(found)
		for _, e := range inv.entries[wire] {
			if x, ok := e.(E); ok && f.takes(x.base().namespace(), x.base().name) {
				found = append(found, x)
			}
		}
		slices.SortFunc(found[start:], func(a, b E) int { return compareObjects(a.base(), b.base()) })
	}
	out := []T{}
	for _, e := range found {
		if v, ok := show(e); ok {
			out = append(out, v)
		}
	}
	return out
}

// Nodes returns the kept Nodes.
func (inv *Inventory) Nodes(f Filter) []Node {
	return list(inv, f, []string{wireNode}, func(n *node) (Node, bool) {
		out := Node{
			UID: n.uid, Name: n.name, Role: "node", State: "EXCEPTION", Address: n.address, PodCIDR: n.podCIDR, CPUs: n.cpu, MemoryMiB: n.memory,
		}
		if n.master {
			out.Role = "master"
		}
		if n.ready {
			out.State = "NORMAL"
		}
		if h := inv.hosts[n.addr]; h != nil && h.node() == n {
			out.Pods = h.pods
		}
		return out, true
	})
}

// Namespaces returns the reported Namespaces.
func (inv *Inventory) Namespaces(f Filter) []Namespace {
	return list(inv, f, []string{wireNamespace}, func(n *namespaceObject) (Namespace, bool) {
		return Namespace{UID: n.uid, Name: n.name}, true
	})
}

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

func (g *group) ref() string { return g.typ + "/" + g.ns.name + "/" + g.name }

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
			out.Addresses = append(out.Addresses, p.ip.String())
		}
		if p.claim != nil {
			out.Plugin = p.claim.plugin
		}
		return out, true
	})
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

func moment(unix int64) *time.Time {
	if unix == 0 {
		return nil
	}
	t := time.Unix(unix, 0).UTC()
	return &t
}

// Services returns the kept Services and ServiceRules.
func (inv *Inventory) Services(f Filter) []Service {
	return list(inv, f, []string{wireService, wireServiceRule}, func(s *service) (Service, bool) {
		if !s.kept {
			return Service{}, false
		}
		out := Service{
			UID: s.uid, Namespace: s.ns.name, Name: s.name, Type: s.typ, ClusterIP: s.clusterIP, External: strings.Join(s.external, ", "),
			Selector: s.rendered, Ports: []ServicePort{}, Workloads: []string{},
		}
		for _, b := range s.bound {
			out.Ports = append(out.Ports, ServicePort{Name: b.name, Protocol: b.protocol, Port: b.port, Target: b.target, NodePort: b.nodePort})
		}
		for _, g := range s.groups {
			out.Workloads = append(out.Workloads, g.ref())
		}
		if i := s.ingressOf(); i != nil {
			out.Ingress = qualified(i.ns, i.name)
		}
		return out, true
	})
}

// Ingresses returns the kept Ingresses (and Routes).
func (inv *Inventory) Ingresses(f Filter) []Ingress {
	return list(inv, f, []string{wireIngress, wireRoute, wireOldIngress}, func(i *ingress) (Ingress, bool) {
		if !i.kept {
			return Ingress{}, false
		}
		out := Ingress{UID: i.uid, Namespace: i.ns.name, Name: i.name, Rules: []IngressRule{}}
		for _, r := range i.resolved {
			out.Rules = append(out.Rules, IngressRule{Host: r.Host, Protocol: r.Protocol, Backends: append([]Backend{}, r.Backends...)})
		}
		return out, true
	})
}

// ConfigMaps returns the kept ConfigMaps.
func (inv *Inventory) ConfigMaps(f Filter) []ConfigMap {
	return list(inv, f, []string{wireConfigMap}, func(c *configMap) (ConfigMap, bool) {
		if !c.kept {
			return ConfigMap{}, false
		}
		out := ConfigMap{UID: c.uid, Namespace: c.ns.name, Name: c.name, DataBytes: c.size, Created: moment(c.created), Workloads: []string{}}
		for g := range inv.links[nameKey{c.ns.name, c.name}] {
			if slices.Contains(g.links, c.name) {
				out.Workloads = append(out.Workloads, g.ref())
			}
		}
		slices.Sort(out.Workloads)
		return out, true
	})
}
