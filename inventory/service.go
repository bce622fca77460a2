package inventory

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// MaxBindings is how many relations of Services to workloads an inventory follows. Each Service can select every workload,
// so that a small report could have more of them than fit into any memory. Which ones are followed depends on their order.
const MaxBindings = 2_000_000

// targets are the container ports, by name, that the ports of a Service name.
type targets struct {
	found map[string][]int
	// lost are those of workloads to which the server binds no named port.
	lost map[string]bool
}

type servicePort struct {
	name, protocol string
	port, nodePort int
	targetName     string
	targetNumber   int
	hasTarget      bool
}

type boundPort struct {
	name, protocol         string
	port, nodePort, target int
}

type service struct {
	object
	rule      bool // a ServiceRule
	selector  []string
	rendered  string
	typ       string
	clusterIP string
	external  []string
	ports     []servicePort
	openGauss string // value of the selector's key opengauss.cluster
	gauss     bool
	rancher   []string // workloads named by the annotation
	decoding  mask

	selected  []*labelRec
	gaussRec  *labelRec
	rancherRe []*labelRec

	kept      bool
	groups    []*group
	bound     []boundPort
	ingresses map[*ingress]struct{}
	shown     atomic.Pointer[ingress] // what ingressOf found, until ingresses changes
	queued    bool
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

func (d *decoder) service(rule bool) entity {
	s := &service{rule: rule}
	var selector []label
	if bad := d.top(true, func(key []byte) {
		switch string(key) {
		case "spec":
			d.scanner.object(func(key []byte) {
				switch string(key) {
				case "selector":
					selector, _ = readLabels(&d.scanner)
				case "type":
					s.typ = d.text()
				case "clusterIP":
					s.clusterIP = d.text()
				case "ports":
					d.array(func(int) { s.ports = append(s.ports, d.servicePort()) })
				default:
					d.skip()
				}
			})
		case "status":
			d.loadBalancer(s)
		default:
			d.skip()
		}
	}); bad != nil {
		return bad
	}
	s.object = d.object
	s.rendered = render(selector)
	for _, l := range selector {
		if l.key == openGaussSelector {
			s.gauss, s.openGauss = true, l.value
		}
	}
	s.selector = compact(selectable(nil, selector, true))
	if s.clusterIP == "None" {
		s.clusterIP = ""
	}
	if s.clusterIP != "" && !parseNetwork(s.clusterIP).IsValid() && strings.ContainsAny(s.clusterIP, ".:") {
		s.decoding.add(ClusterIPInvalid)
	}
	if d.meta.hasRancher && d.meta.rancher != "[]" && d.meta.rancher != "null" {
		if !json.Valid([]byte(d.meta.rancher)) {
			s.decoding.add(ServiceAnnotation)
		} else {
			list := scanner{b: []byte(d.meta.rancher)}
			list.array(func(int) { s.rancher = append(s.rancher, list.text()) })
			s.rancher = compact(s.rancher)
		}
	}
	return s
}

func (d *decoder) servicePort() servicePort {
	var p servicePort
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case "name":
			p.name = d.text()
		case "protocol":
			p.protocol = strings.ToUpper(d.text())
		case "port":
			p.port = d.integer()
		case "nodePort":
			p.nodePort = d.integer()
		case "targetPort":
			if d.next() == '"' {
				p.targetName = d.text()
				p.hasTarget = true
				return
			}
			p.targetNumber = d.integer()
			p.hasTarget = p.targetNumber != 0
		default:
			d.skip()
		}
	})
	return p
}

func (d *decoder) loadBalancer(s *service) {
	d.scanner.object(func(key []byte) {
		if string(key) != "loadBalancer" {
			d.skip()
			return
		}
		d.scanner.object(func(key []byte) {
			if string(key) != "ingress" {
				d.skip()
				return
			}
			d.array(func(int) {
				ip := ""
				d.scanner.object(func(key []byte) {
					if string(key) == "ip" {
						ip = d.text()
						return
					}
					d.skip()
				})
				if ip == "" {
					s.decoding.add(LoadBalancerHost)
				}
				s.external = append(s.external, ip)
			})
		})
	})
}

// compareServices is the server's order: Services before ServiceRules.
func compareServices(a, b *service) int {
	if a.rule != b.rule {
		if a.rule {
			return 1
		}
		return -1
	}
	return compareObjects(&a.object, &b.object)
}

func (inv *Inventory) queueService(s *service) {
	if !s.queued {
		s.queued = true
		inv.queue.services = append(inv.queue.services, s)
	}
}

func (inv *Inventory) insertService(s *service) {
	s.ns.services[s] = struct{}{}
	s.ingresses = map[*ingress]struct{}{}
	for _, key := range s.selector {
		s.selected = append(s.selected, inv.labelRec(s.ns.name, key))
	}
	for _, key := range s.rancher {
		s.rancherRe = append(s.rancherRe, inv.labelRec(s.ns.name, key))
	}
	if s.gauss {
		s.gaussRec = inv.labelRec(s.ns.name, "statefulset:"+s.ns.name+":"+s.openGauss)
	}
	for _, l := range s.watched() {
		l.services.add(s)
	}
	inv.queueService(s)
}

// watched are the labels whose groups decide what the Service is bound to.
func (s *service) watched() []*labelRec {
	all := slices.Concat(s.selected, s.rancherRe)
	if s.gaussRec != nil {
		all = append(all, s.gaussRec)
	}
	return all
}

func (inv *Inventory) removeService(s *service) {
	inv.unbind(s)
	delete(inv.refused, s)
	for _, l := range s.watched() {
		l.services.remove(s)
		inv.dropLabelRec(l)
	}
	delete(s.ns.services, s)
}

// unbind undoes what settleService did.
func (inv *Inventory) unbind(s *service) {
	if !s.kept {
		return
	}
	s.kept = false
	inv.counts.services--
	inv.counts.bindings -= len(s.groups)
	inv.counts.servicePorts -= len(s.bound)
	inv.counts.groupPorts -= len(s.bound) * len(s.groups)
	if s.clusterIP != "" {
		inv.counts.clusterIPs--
	}
	for _, g := range s.groups {
		delete(g.services, s)
		g.shown.Store(nil)
	}
	if len(s.bound) > 0 {
		key := nameKey{s.ns.name, s.name}
		inv.services[key] = removeSorted(inv.services[key], s)
		if len(inv.services[key]) == 0 {
			delete(inv.services, key)
		}
		inv.queueReferrers(key)
	}
	s.groups, s.bound = nil, nil
}

func (inv *Inventory) queueReferrers(key nameKey) {
	for i := range inv.referrers[key] {
		inv.queueIngress(i)
	}
}

func (inv *Inventory) settleService(s *service) {
	s.queued = false
	if s.dead {
		return
	}
	delete(inv.refused, s)
	groups, m := inv.groupsOf(s)
	var bound []boundPort
	if len(groups) > 0 {
		var unbound mask
		bound, unbound = bindPorts(s, groups)
		m |= unbound | s.decoding
	}
	if s.kept && slices.Equal(groups, s.groups) && slices.Equal(bound, s.bound) {
		inv.setMask(&s.object, m)
		return
	}
	inv.unbind(s)
	inv.setMask(&s.object, m)
	if len(groups) == 0 {
		return
	}
	s.kept, s.groups, s.bound = true, groups, bound
	inv.counts.services++
	inv.counts.bindings += len(groups)
	inv.counts.servicePorts += len(bound)
	inv.counts.groupPorts += len(bound) * len(groups)
	if s.clusterIP != "" {
		inv.counts.clusterIPs++
	}
	if len(bound) == 0 {
		return
	}
	for _, g := range groups {
		g.services[s] = struct{}{}
		g.shown.Store(nil)
	}
	key := nameKey{s.ns.name, s.name}
	inv.services[key] = insertSorted(inv.services[key], s, compareServices)
	inv.queueReferrers(key)
}

// groupsOf returns the groups that the Service is bound to, in canonical order; if there are none, the reason.
func (inv *Inventory) groupsOf(s *service) ([]*group, mask) {
	var m mask
	switch {
	case !s.ns.reported:
		m.add(NamespaceUnknown)
	case len(s.selector) == 0:
		m.add(ServiceSelector)
	case s.typ != "ClusterIP" && s.typ != "NodePort" && s.typ != "LoadBalancer":
		m.add(ServiceType)
	case len(s.ports) == 0:
		m.add(ServicePorts)
	case s.decoding.has(ServiceAnnotation):
		m.add(ServiceAnnotation)
	case inv.counts.bindings-len(s.groups)+mostGroups(s) > inv.options.MaxBindings:
		m.add(ServiceTooMany)
		inv.refused[s] = struct{}{}
	default:
		groups := selectGroups(s)
		if len(groups) == 0 {
			m.add(ServiceNoWorkload)
		}
		return groups, m
	}
	return nil, m
}

// mostGroups is a bound of the groups that selectGroups returns.
func mostGroups(s *service) int {
	n := 0
	for _, l := range s.rancherRe {
		n += l.groups.size()
	}
	if s.gaussRec != nil {
		n += s.gaussRec.groups.size()
	}
	least := -1
	for _, l := range s.selected {
		if c := l.groups.size(); c > 0 && (least < 0 || c < least) {
			least = c
		} else if c == 0 && !s.gauss {
			return 0
		}
	}
	return n + max(least, 0)
}

// selectGroups unites the workloads named by annotation or by OpenGauss name with those that carry all selected
// labels. A selected label that nothing carries leaves the Service with nothing at all, unless it selects an
// OpenGauss cluster.
func selectGroups(s *service) []*group {
	var groups []*group
	for _, l := range s.rancherRe {
		for g := range l.groups.all() {
			groups = append(groups, g)
		}
	}
	var present []*labelRec
	for _, l := range s.selected {
		switch {
		case l.groups.size() > 0:
			present = append(present, l)
		case !s.gauss:
			return nil
		}
	}
	if s.gaussRec != nil {
		for g := range s.gaussRec.groups.all() {
			groups = append(groups, g)
		}
	}
	if len(present) > 0 {
		least := slices.MinFunc(present, func(a, b *labelRec) int { return a.groups.size() - b.groups.size() })
	candidates:
		for g := range least.groups.all() {
			for _, l := range present {
				if !l.groups.has(g) {
					continue candidates
				}
			}
			groups = append(groups, g)
		}
	}
	slices.SortFunc(groups, compareGroups)
	return slices.Compact(groups)
}

// bindPorts resolves the ports; what cannot be resolved is in the mask.
func bindPorts(s *service, groups []*group) ([]boundPort, mask) {
	var bound []boundPort
	var m mask
	t := targetsOf(s, groups)
	for _, p := range s.ports {
		ports := t.of(p)
		if len(ports) == 0 {
			m.add(t.unbound(p))
		}
		for _, target := range ports {
			bound = append(bound, boundPort{name: p.name, protocol: p.protocol, port: p.port, nodePort: p.nodePort, target: target})
		}
	}
	return bound, m
}

func targetsOf(s *service, groups []*group) targets {
	t := targets{}
	for _, p := range s.ports {
		if p.targetNumber == 0 && p.targetName != "" {
			if t.found == nil {
				t.found, t.lost = map[string][]int{}, map[string]bool{}
			}
			t.found[p.targetName] = nil
		}
	}
	if t.found == nil {
		return t
	}
	for _, g := range groups {
		for _, c := range g.template.ports {
			if ports, named := t.found[c.name]; named && g.noPorts {
				t.lost[c.name] = true
			} else if named {
				t.found[c.name] = append(ports, c.port)
			}
		}
	}
	for name, ports := range t.found {
		slices.Sort(ports)
		t.found[name] = slices.Compact(ports)
	}
	return t
}

// of returns the container ports to which a port of the Service leads.
func (t targets) of(p servicePort) []int {
	if p.targetNumber != 0 {
		return []int{p.targetNumber}
	}
	return t.found[p.targetName]
}

// unbound tells why a port leads nowhere.
func (t targets) unbound(p servicePort) Reason {
	switch {
	case p.targetName == "":
		return ServicePortTarget
	case strings.Trim(p.targetName, "0123456789") == "":
		return ServicePortString
	case t.lost[p.targetName]:
		return ServicePortWorkload
	}
	return ServicePortName
}

func qualified(ns *namespaceRec, name string) string { return ns.name + "/" + name }

// last is the only port that the server finds by name.
func (s *service) last() boundPort { return s.bound[len(s.bound)-1] }

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

func serviceDetail(s *service, r Reason) string {
	switch r {
	case ClusterIPInvalid:
		return strconv.Quote(s.clusterIP)
	case ServiceType:
		return "type " + strconv.Quote(s.typ)
	case ServiceNoWorkload:
		return "selector " + s.rendered
	case ServicePortName, ServicePortString, ServicePortTarget, ServicePortWorkload:
		var ports []string
		t := targetsOf(s, s.groups)
		for _, p := range s.ports {
			if len(t.of(p)) == 0 && t.unbound(p) == r {
				ports = append(ports, strconv.Itoa(p.port)+" → "+strconv.Quote(p.targetName))
			}
		}
		return "port " + strings.Join(ports, ", ")
	default:
		return ""
	}
}
