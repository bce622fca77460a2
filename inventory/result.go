package inventory

import (
	"slices"
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

func (g *group) ref() string { return g.typ + "/" + g.ns.name + "/" + g.name }

func moment(unix int64) *time.Time {
	if unix == 0 {
		return nil
	}
	t := time.Unix(unix, 0).UTC()
	return &t
}
