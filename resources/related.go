package resources

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// The functions of this file work on the JSON of entries. They make what the server understands out of objects that
// name other objects (docs/protocol.md, section 6); who knows the other objects is package relations.

// ServicePort is one port of a Service.
type ServicePort struct {
	Name   string // empty if the Service has a single, unnamed port
	Number int    // 1 to 65535
	Target string // name or number of the container's port; empty if unknown
}

// ServicePorts returns the name ("namespace/name") and the ports of a Service, given the JSON of its entry. Ports without
// a number are left out.
func ServicePorts(doc []byte) (service string, ports []ServicePort, err error) {
	var o struct {
		Metadata struct{ Namespace, Name string }
		Spec     struct{ Ports []any }
	}
	if err = decodeEntry(doc, &o); err != nil {
		return "", nil, fmt.Errorf("read ports of a Service: %w", err)
	}
	for _, p := range o.Spec.Ports {
		port, _ := p.(map[string]any)
		if number := parsePort(scalar(port["port"])); number > 0 {
			name, _ := port["name"].(string)
			ports = append(ports, ServicePort{Name: name, Number: number, Target: scalar(port["targetPort"])})
		}
	}
	return o.Metadata.Namespace + "/" + o.Metadata.Name, ports, nil
}

// ResolveBackends returns the JSON of an Ingress or Route, given that of its entry, with every backend in the one form that
// always works: spec.rules[].http.paths[].backend.service, its port by number. services are the Services that the
// object names ("namespace/name", sorted): when one of them changes, the result can change.
//
// lookup returns the ports of a Service, nil if there is no such Service. A port name that cannot be found stays as it
// is: the server drops the backend, and nothing else. A Route that names no port means the Service's first; as long as
// that is unknown the Route has no backend.
func ResolveBackends(doc []byte, lookup func(service string) []ServicePort) (out []byte, services []string, err error) {
	var o map[string]any
	if err = decodeEntry(doc, &o); err != nil {
		return nil, nil, fmt.Errorf("resolve backends: %w", err)
	}
	namespace, _ := object(o["metadata"])["namespace"].(string)
	r := resolver{namespace: namespace, lookup: lookup}
	spec, status := object(o["spec"]), object(o["status"])
	switch {
	case isRoute(spec, status):
		o["spec"] = r.route(spec, status)
		delete(o, "status")
	case spec != nil:
		r.ingress(spec)
	}
	slices.Sort(r.services)
	if out, err = encodeEntry(o); err != nil {
		return nil, nil, fmt.Errorf("resolve backends: %w", err)
	}
	return out, slices.Compact(r.services), nil
}

// isRoute tells an entry of a Route from one of an Ingress, whose spec has other members, and which has no status.
func isRoute(spec, status map[string]any) bool {
	if status != nil {
		return true
	}
	for _, key := range []string{"alternateBackends", "host", "path", "port", "to"} {
		if spec[key] != nil {
			return true
		}
	}
	return false
}

// WithoutTemplate returns the JSON of a ReplicaSet, given that of its entry, without spec.template, which the server reads
// only when the ReplicaSet's owner is not reported.
func WithoutTemplate(doc []byte) ([]byte, error) {
	var o map[string]any
	if err := decodeEntry(doc, &o); err != nil {
		return nil, fmt.Errorf("take template from ReplicaSet: %w", err)
	}
	delete(object(o["spec"]), "template")
	return encodeEntry(o)
}

type resolver struct {
	namespace string
	lookup    func(service string) []ServicePort
	services  []string
}

func (r *resolver) ports(service string) []ServicePort {
	key := r.namespace + "/" + service
	r.services = append(r.services, key)
	return r.lookup(key)
}

func (r *resolver) ingress(spec map[string]any) {
	if old, ok := spec["backend"]; ok {
		delete(spec, "backend")
		if spec["defaultBackend"] == nil {
			spec["defaultBackend"] = old
		}
	}
	if b := object(spec["defaultBackend"]); b != nil {
		r.backend(b)
	}
	for _, rule := range list(spec["rules"]) {
		for _, path := range list(object(object(rule)["http"])["paths"]) {
			if b := object(object(path)["backend"]); b != nil {
				r.backend(b)
			}
		}
	}
}

// backend brings one backend into the form of networking.k8s.io/v1, its port by number.
func (r *resolver) backend(b map[string]any) {
	if name, ok := b["serviceName"].(string); ok {
		port := map[string]any{}
		if s := scalar(b["servicePort"]); parsePort(s) > 0 {
			port["number"] = json.Number(s)
		} else if s != "" {
			port["name"] = s
		}
		delete(b, "serviceName")
		delete(b, "servicePort")
		b["service"] = map[string]any{"name": name, "port": port}
	}
	service := object(b["service"])
	name, _ := service["name"].(string)
	if name == "" {
		return
	}
	ports := r.ports(name)
	portName, _ := object(service["port"])["name"].(string)
	if portName == "" {
		return
	}
	for _, p := range ports {
		if p.Name == portName {
			service["port"] = portByNumber(p.Number)
			return
		}
	}
}

// route returns the spec of an Ingress that does what the Route does: one rule for each host at a router that serves it.
func (r *resolver) route(spec, status map[string]any) map[string]any {
	path, _ := spec["path"].(string)
	if path == "" {
		path = "/"
	}
	target := scalar(object(spec["port"])["targetPort"])
	var paths []any
	for _, to := range append([]any{spec["to"]}, list(spec["alternateBackends"])...) {
		backend := object(to)
		name, _ := backend["name"].(string)
		if kind, _ := backend["kind"].(string); name == "" || kind != "" && kind != "Service" {
			continue
		}
		if port := routePort(target, r.ports(name)); port != nil {
			paths = append(paths, map[string]any{
				"path":    path,
				"backend": map[string]any{"service": map[string]any{"name": name, "port": port}},
			})
		}
	}
	rules := []any{}
	for _, host := range routeHosts(spec, status) {
		rule := map[string]any{}
		if host != "" {
			rule["host"] = host
		}
		if len(paths) > 0 {
			rule["http"] = map[string]any{"paths": paths}
		}
		rules = append(rules, rule)
	}
	return map[string]any{"rules": rules}
}

// routeHosts returns the hosts at the routers that serve a Route, sorted: none if all reject it, the one that it asks for
// ("" for none) as long as no router has answered.
func routeHosts(spec, status map[string]any) []string {
	routers, answered := status["ingress"].([]any)
	if !answered {
		host, _ := spec["host"].(string)
		return []string{host}
	}
	hosts := make([]string, 0, len(routers))
	for _, router := range routers {
		host, _ := object(router)["host"].(string)
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// routePort returns the port of the backend of a Route whose port.targetPort is target: the name of a port of the Service,
// or name or number of the port of its Pods.
func routePort(target string, ports []ServicePort) map[string]any {
	number := parsePort(target)
	by := []func(ServicePort) bool{
		func(p ServicePort) bool { return p.Name == target },
		func(p ServicePort) bool { return p.Target == target },
		func(p ServicePort) bool { return p.Number == number },
		// What is left is a number of a Pod's port that the Service knows by name; with a single port there is no doubt.
		func(ServicePort) bool { return number > 0 && len(ports) == 1 },
	}
	switch {
	case target == "" && len(ports) == 0:
		return nil
	case target == "":
		return portByNumber(ports[0].Number)
	}
	for _, matches := range by {
		if i := slices.IndexFunc(ports, matches); i >= 0 {
			return portByNumber(ports[i].Number)
		}
	}
	if number > 0 {
		return portByNumber(number)
	}
	return map[string]any{"name": target}
}

func portByNumber(n int) map[string]any {
	return map[string]any{"number": json.Number(strconv.Itoa(n))}
}

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// scalar returns the text of a string or number, "" for anything else.
func scalar(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	default:
		return ""
	}
}

func decodeEntry(doc []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	return d.Decode(into)
}

// encodeEntry writes the canonical form: that of jsonscan's Append.
func encodeEntry(o any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(o); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}
