package inventory

import (
	"slices"
	"strings"
)

var ingressFamilies = map[string]int{wireIngress: 0, wireRoute: 1, wireOldIngress: 2}

type backend struct {
	path, service, portName string
	number                  int
	present                 bool
}

type ingressRule struct {
	host     string
	backends []backend
}

type route struct {
	host, service, port string
	hasPort             bool
	number              int
}

type ingress struct {
	object
	family       int
	rules        []ingressRule
	fallback     *backend // spec.backend or spec.defaultBackend
	route        *route
	kept         bool
	resolved     []IngressRule
	backends     int
	referred     map[*service]struct{}
	names        []string // Services named, each once
	queued       bool
	unknown      []string // Services that were not found
	unknownPorts []string // "service:port" of those that were not found
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

func (d *decoder) ingress(family int) entity {
	i := &ingress{family: family}
	var old, current *backend
	var r route
	isRoute := false
	if bad := d.top(true, func(key []byte) {
		if string(key) != "spec" {
			d.skip()
			return
		}
		d.scanner.object(func(key []byte) {
			switch string(key) {
			case "rules":
				d.array(func(int) { i.rules = append(i.rules, d.ingressRule()) })
			case "backend":
				b := d.backend()
				old = &b
			case "defaultBackend":
				b := d.backend()
				current = &b
			case "host":
				isRoute, r.host = true, d.text()
			case "to":
				d.scanner.object(func(key []byte) {
					if string(key) == "name" {
						r.service = d.text()
						return
					}
					d.skip()
				})
			case "port":
				r.hasPort, r.port = true, d.text()
			case "targetPort":
				r.number = d.integer()
			default:
				d.skip()
			}
		})
	}); bad != nil {
		return bad
	}
	i.object = d.object
	if old == nil {
		old = current
	}
	i.fallback = old
	if isRoute {
		i.route = &r
	}
	return i
}

func (d *decoder) ingressRule() ingressRule {
	var r ingressRule
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case "host":
			r.host = d.text()
		case "http":
			d.scanner.object(func(key []byte) {
				if string(key) != "paths" {
					d.skip()
					return
				}
				d.array(func(int) {
					var path string
					var b backend
					d.scanner.object(func(key []byte) {
						switch string(key) {
						case "path":
							path = d.text()
						case "backend":
							b = d.backend()
						default:
							d.skip()
						}
					})
					b.path = path
					r.backends = append(r.backends, b)
				})
			})
		default:
			d.skip()
		}
	})
	return r
}

// backend reads both shapes: service.{name,port} and serviceName, servicePort.
func (d *decoder) backend() backend {
	b := backend{present: true}
	var oldService, oldPort string
	oldNumber := 0
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case "serviceName":
			oldService = d.text()
		case "servicePort":
			if d.next() == '"' {
				oldPort = d.text()
				return
			}
			oldNumber = d.integer()
		case "service":
			d.scanner.object(func(key []byte) {
				switch string(key) {
				case "name":
					b.service = d.text()
				case "port":
					d.scanner.object(func(key []byte) {
						switch string(key) {
						case "name":
							b.portName = d.text()
						case "number":
							b.number = d.integer()
						default:
							d.skip()
						}
					})
				default:
					d.skip()
				}
			})
		default:
			d.skip()
		}
	})
	if b.service == "" {
		b.service = oldService
	}
	if oldPort != "" {
		b.portName = oldPort
	}
	if oldNumber != 0 {
		b.number = oldNumber
	}
	return b
}

func compareIngresses(a, b *ingress) int { return compareObjects(&a.object, &b.object) }

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

func (inv *Inventory) explainIngress(i *ingress, report func(r Reason, detail string)) {
	var taken []string
	for s := range i.referred {
		if first := s.ingressOf(); first != i {
			taken = append(taken, qualified(s.ns, s.name)+" shows "+qualified(first.ns, first.name))
		}
	}
	if len(taken) > 0 {
		slices.Sort(taken)
		report(IngressTaken, strings.Join(taken, "; "))
	}
}

func ingressDetail(i *ingress, r Reason) string {
	switch r {
	case IngressService:
		return "Service " + strings.Join(compact(slices.Clone(i.unknown)), ", ")
	case IngressPort:
		return strings.Join(compact(slices.Clone(i.unknownPorts)), ", ")
	case RoutePort:
		return "Service " + i.route.service
	default:
		return ""
	}
}
