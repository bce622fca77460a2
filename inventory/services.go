package inventory

import (
	"slices"
	"strings"
)

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

func compareIngresses(a, b *ingress) int { return compareObjects(&a.object, &b.object) }

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
		l.services[s] = struct{}{}
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
		delete(l.services, s)
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
	case inv.counts.bindings-len(s.groups)+mostGroups(s) > MaxBindings:
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

// MaxBindings is how many relations of Services to workloads an inventory follows. Each Service can select every workload,
// so that a small report could have more of them than fit into any memory. Which ones are followed depends on their order.
const MaxBindings = 2_000_000

// mostGroups is a bound of the groups that selectGroups returns.
func mostGroups(s *service) int {
	n := 0
	for _, l := range s.rancherRe {
		n += len(l.groups)
	}
	if s.gaussRec != nil {
		n += len(s.gaussRec.groups)
	}
	least := -1
	for _, l := range s.selected {
		if c := len(l.groups); c > 0 && (least < 0 || c < least) {
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
		for g := range l.groups {
			groups = append(groups, g)
		}
	}
	var present []*labelRec
	for _, l := range s.selected {
		switch {
		case len(l.groups) > 0:
			present = append(present, l)
		case !s.gauss:
			return nil
		}
	}
	if s.gaussRec != nil {
		for g := range s.gaussRec.groups {
			groups = append(groups, g)
		}
	}
	if len(present) > 0 {
		least := slices.MinFunc(present, func(a, b *labelRec) int { return len(a.groups) - len(b.groups) })
	candidates:
		for g := range least.groups {
			for _, l := range present {
				if _, ok := l.groups[g]; !ok {
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

// targets are the container ports, by name, that the ports of a Service name.
type targets struct {
	found map[string][]int
	// lost are those of workloads to which the server binds no named port.
	lost map[string]bool
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

func (inv *Inventory) queueIngress(i *ingress) {
	if !i.queued {
		i.queued = true
		inv.queue.ingresses = append(inv.queue.ingresses, i)
	}
}

func (inv *Inventory) insertIngress(i *ingress) {
	i.ns.ingresses[i] = struct{}{}
	i.referred = map[*service]struct{}{}
	for _, r := range i.rules {
		for _, b := range r.backends {
			i.names = append(i.names, b.service)
		}
	}
	if i.fallback != nil {
		i.names = append(i.names, i.fallback.service)
	}
	if i.route != nil {
		i.names = append(i.names, i.route.service)
	}
	i.names = compact(i.names)
	for _, name := range i.names {
		key := nameKey{i.ns.name, name}
		if inv.referrers[key] == nil {
			inv.referrers[key] = map[*ingress]struct{}{}
		}
		inv.referrers[key][i] = struct{}{}
	}
	inv.queueIngress(i)
}

func (inv *Inventory) removeIngress(i *ingress) {
	inv.unresolve(i)
	for _, name := range i.names {
		key := nameKey{i.ns.name, name}
		delete(inv.referrers[key], i)
		if len(inv.referrers[key]) == 0 {
			delete(inv.referrers, key)
		}
	}
	delete(i.ns.ingresses, i)
}

// settleFamily finds out which Ingress family is read and queues everything if it is another one than before.
func (inv *Inventory) settleFamily() {
	family := 0
	for family < 2 && inv.families[family] == 0 {
		family++
	}
	if family == inv.family {
		return
	}
	inv.family = family
	for wire := range ingressFamilies {
		for _, e := range inv.entries[wire] {
			if i, ok := e.(*ingress); ok {
				inv.queueIngress(i)
			}
		}
	}
}

// unresolve undoes what settleIngress did.
func (inv *Inventory) unresolve(i *ingress) {
	if !i.kept {
		return
	}
	i.kept = false
	inv.counts.ingresses--
	inv.counts.rules -= len(i.resolved)
	inv.counts.backends -= i.backends
	for s := range i.referred {
		delete(s.ingresses, i)
		s.shown.Store(nil)
		if len(s.ingresses) < 2 {
			delete(inv.contested, s)
		}
	}
	clear(i.referred)
	i.resolved, i.backends, i.unknown, i.unknownPorts = nil, 0, nil, nil
}

func (inv *Inventory) settleIngress(i *ingress) {
	i.queued = false
	if i.dead {
		return
	}
	inv.unresolve(i)
	var m mask
	switch {
	case i.family != inv.family:
		m.add(IngressNotRead)
	case !i.ns.reported:
		m.add(NamespaceUnknown)
	}
	if m != 0 {
		inv.setMask(&i.object, m)
		return
	}
	i.kept = true
	inv.resolve(i, &m)
	inv.counts.ingresses++
	inv.counts.rules += len(i.resolved)
	inv.counts.backends += i.backends
	inv.setMask(&i.object, m)
}

// resolve makes rules and backends in the server's order, which matters: a fallback that cannot be resolved ends the
// work on this Ingress.
func (inv *Inventory) resolve(i *ingress, m *mask) {
	for _, r := range i.rules {
		rule := IngressRule{Host: r.host, Protocol: "HTTP"}
		for _, b := range r.backends {
			if !b.present {
				m.add(IngressNoBackend)
				continue
			}
			inv.addBackend(i, &rule, b, m)
		}
		i.resolved = append(i.resolved, rule)
	}
	if i.fallback != nil {
		rule := IngressRule{Protocol: "HTTP"}
		b := *i.fallback
		b.path = ""
		ok := inv.addBackend(i, &rule, b, m)
		i.resolved = append(i.resolved, rule)
		if !ok {
			return
		}
	}
	if i.route == nil {
		return
	}
	rule := IngressRule{Host: i.route.host, Protocol: "HTTP"}
	s := inv.refer(i, i.route.service, m)
	if s != nil {
		last := s.last()
		port := 0
		if i.route.hasPort {
			port = i.route.number
			if i.route.port == last.name {
				port = last.port
			}
		}
		if port == 0 {
			m.add(RoutePort)
		} else {
			rule.Backends = append(rule.Backends, Backend{Service: qualified(s.ns, s.name), Port: port})
			i.backends++
		}
	}
	i.resolved = append(i.resolved, rule)
}

func (inv *Inventory) addBackend(i *ingress, rule *IngressRule, b backend, m *mask) bool {
	s := inv.refer(i, b.service, m)
	if s == nil {
		return false
	}
	last := s.last()
	port := b.number
	if b.portName == last.name {
		port = last.port
	}
	if port == 0 {
		m.add(IngressPort)
		i.unknownPorts = append(i.unknownPorts, b.service+":"+b.portName)
		return false
	}
	rule.Backends = append(rule.Backends, Backend{Path: b.path, Service: qualified(s.ns, s.name), Port: port})
	i.backends++
	return true
}

// refer finds a Service that the Ingress names and ties the two together; nil if the server does not find it.
func (inv *Inventory) refer(i *ingress, name string, m *mask) *service {
	list := inv.services[nameKey{i.ns.name, name}]
	if len(list) == 0 {
		m.add(IngressService)
		i.unknown = append(i.unknown, name)
		return nil
	}
	s := list[len(list)-1]
	i.referred[s] = struct{}{}
	s.ingresses[i] = struct{}{}
	s.shown.Store(nil)
	if len(s.ingresses) > 1 {
		inv.contested[s] = struct{}{}
	}
	return s
}

// ingressOf is the Ingress that the Service shows: the first one.
func (s *service) ingressOf() *ingress {
	if shown := s.shown.Load(); shown != nil {
		return shown
	}
	var first *ingress
	for i := range s.ingresses {
		if first == nil || compareIngresses(i, first) < 0 {
			first = i
		}
	}
	s.shown.Store(first)
	return first
}

func qualified(ns *namespaceRec, name string) string { return ns.name + "/" + name }
