package expect

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// HashKey keys the hashes that stand for values that are not sent. Agents whose reports are compared have it as their
// projection.hash_key_file.
const HashKey = "the key of the end-to-end tests, 32 bytes or more"

// annotationLimit is the default of projection.annotation_limit.
const annotationLimit = 4096

// world is what the projection of one object needs of others.
type world struct {
	ports    map[string][]any // by namespace/name of the Service
	reported map[string]bool  // UIDs of reported workloads
}

var workloadTypes = map[string]bool{
	"*v1.Deployment": true, "*v1.StatefulSet": true, "*v1.DaemonSet": true, "*v1.CloneSet": true, "*v1.OpenGaussCluster": true,
	"*v1.ReplicationController": true,
}

func look(objs map[Source][]unstructured.Unstructured) *world {
	w := &world{ports: map[string][]any{}, reported: map[string]bool{}}
	for s, items := range objs {
		for _, o := range items {
			switch {
			case s.Type == "*v1.Service":
				w.ports[o.GetNamespace()+"/"+o.GetName()] = list(o.Object, "spec", "ports")
			case workloadTypes[s.Type]:
				w.reported[string(o.GetUID())] = true
			}
		}
	}
	return w
}

// project returns what is reported of an object, nil if nothing is.
func (w *world) project(s Source, o map[string]any) map[string]any {
	out := map[string]any{"metadata": metadata(o)}
	switch s.Type {
	case "*v1.Node":
		node(out, o)
	case "*v1.Namespace":
	case "*v1.Pod":
		pod(out, o)
	case "*v1.ConfigMap":
		if text(o, "metadata", "name") == "kube-root-ca.crt" || has(o, "metadata", "annotations", leaderAnnotation) {
			return nil
		}
		put(out, text(o, "metadata", "creationTimestamp"), "metadata", "creationTimestamp")
	case "*v1.Service", "*v1.ServiceRule":
		annotationsAndOwners(out, o)
		service(out, o)
	case "*v1.ReplicaSet":
		return w.replicaSet(out, o)
	case "*v1.Ingress":
		if s == Routes {
			w.route(out, o)
		} else {
			w.ingress(out, o)
		}
	case "*v1.IPPool":
		put(out, free(o["spec"]), "spec")
	default:
		annotationsAndOwners(out, o)
		put(out, free(o["spec"]), "spec")
	}
	return out
}

func metadata(o map[string]any) map[string]any {
	m := map[string]any{}
	for _, key := range []string{"name", "namespace", "uid"} {
		put(m, text(o, "metadata", key), key)
	}
	put(m, object(o, "metadata", "labels"), "labels")
	return m
}

func annotationsAndOwners(out, o map[string]any) {
	put(out, annotations(object(o, "metadata", "annotations")), "metadata", "annotations")
	put(out, owners(list(o, "metadata", "ownerReferences")), "metadata", "ownerReferences")
}

const leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"

func annotations(in map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range in {
		s, _ := value.(string)
		switch {
		case strings.Contains(key, "last-applied"), key == leaderAnnotation:
		case len(s) > annotationLimit && json.Valid([]byte(s)) && strings.ContainsAny(s[:1], "{["):
			if key == "field.cattle.io/targetWorkloadIds" || strings.HasPrefix(key, "k8s.v1.cni.cncf.io/network") {
				out[key] = s
			}
		case len(s) > annotationLimit:
			out[key] = fmt.Sprintf("%d bytes, %s", len(s), hash(s))
		default:
			out[key] = s
		}
	}
	return out
}

// owners brings the controlling owner to the front.
func owners(in []any) []any {
	var out []any
	for _, controlling := range []bool{true, false} {
		for _, item := range in {
			ref, _ := item.(map[string]any)
			if is, _ := ref["controller"].(bool); is != controlling {
				continue
			}
			kept := map[string]any{}
			for _, key := range []string{"apiVersion", "controller", "kind", "name", "uid"} {
				if v, ok := ref[key]; ok {
					kept[key] = v
				}
			}
			out = append(out, kept)
		}
	}
	return out
}

func node(out, o map[string]any) {
	if _, err := netip.ParsePrefix(text(o, "spec", "podCIDR")); err == nil {
		put(out, text(o, "spec", "podCIDR"), "spec", "podCIDR")
	}
	for _, a := range objects(o, "status", "addresses") {
		if a["type"] == "InternalIP" && isAddress(text(a, "address")) {
			put(out, []any{map[string]any{"type": "InternalIP", "address": a["address"]}}, "status", "addresses")
			break
		}
	}
	for _, a := range objects(o, "status", "addresses") { // in the place of an InternalIP (projection.node_external_ip)
		if ip := a["address"]; objects(out, "status", "addresses") == nil && a["type"] == "ExternalIP" && isAddress(text(a, "address")) {
			put(out, []any{map[string]any{"type": "InternalIP", "address": ip}, map[string]any{"type": "ExternalIP", "address": ip}}, "status", "addresses")
		}
	}
	if q, err := resource.ParseQuantity(text(o, "status", "capacity", "cpu")); err == nil {
		put(out, strconv.FormatInt(int64(math.Ceil(q.AsApproximateFloat64())), 10), "status", "capacity", "cpu")
	}
	if q, err := resource.ParseQuantity(text(o, "status", "capacity", "memory")); err == nil {
		put(out, strconv.FormatInt(q.Value()/1024, 10)+"Ki", "status", "capacity", "memory")
	}
	for _, c := range objects(o, "status", "conditions") {
		if c["type"] != "Ready" {
			continue
		}
		reason := text(c, "reason")
		switch ready := c["status"] == "True"; {
		case ready:
			reason = "KubeletReady"
		case reason == "" || reason == "KubeletReady":
			reason = "KubeletNotReady"
		}
		put(out, []any{map[string]any{"type": "Ready", "reason": reason, "status": c["status"]}}, "status", "conditions")
	}
}

func pod(out, o map[string]any) {
	annotationsAndOwners(out, o)
	labels := object(o, "metadata", "labels")
	if labels == nil {
		labels = map[string]any{}
	}
	out["metadata"].(map[string]any)["labels"] = labels
	put(out, text(o, "metadata", "creationTimestamp"), "metadata", "creationTimestamp")
	if ip := text(o, "status", "hostIP"); isAddress(ip) {
		put(out, ip, "status", "hostIP")
	}
	phase := text(o, "status", "phase")
	if ip := text(o, "status", "podIP"); isAddress(ip) && phase != "Succeeded" && phase != "Failed" {
		put(out, ip, "status", "podIP")
	}
	for _, c := range objects(o, "status", "conditions") {
		if c["type"] == "Ready" {
			put(out, []any{map[string]any{"type": "Ready", "status": c["status"]}}, "status", "conditions")
		}
	}
	var ids []any
	for _, c := range objects(o, "status", "containerStatuses") {
		if id := text(c, "containerID"); id != "" {
			ids = append(ids, map[string]any{"containerID": id})
		}
	}
	put(out, ids, "status", "containerStatuses")
}

func service(out, o map[string]any) {
	spec, _ := free(object(o, "spec")).(map[string]any)
	if ip := text(o, "spec", "clusterIP"); ip != "None" && !isAddress(ip) {
		delete(spec, "clusterIP")
	}
	for _, p := range objects(spec, "ports") {
		switch target := p["targetPort"].(type) {
		case nil:
			p["targetPort"] = p["port"]
		case string:
			if n, err := strconv.Atoi(target); err == nil {
				p["targetPort"] = n
			}
		}
	}
	put(out, spec, "spec")
	var ips []any
	for _, point := range objects(o, "status", "loadBalancer", "ingress") {
		if ip := text(point, "ip"); isAddress(ip) {
			ips = append(ips, map[string]any{"ip": ip})
		}
	}
	put(out, ips, "status", "loadBalancer", "ingress")
}

func (w *world) replicaSet(out, o map[string]any) map[string]any {
	put(out, owners(list(o, "metadata", "ownerReferences")), "metadata", "ownerReferences")
	replicas, _, _ := unstructured.NestedInt64(o, "spec", "replicas")
	refs := objects(out, "metadata", "ownerReferences")
	if replicas == 0 || len(refs) == 0 {
		return nil
	}
	put(out, replicas, "spec", "replicas")
	if !w.reported[text(refs[0], "uid")] {
		put(out, free(object(o, "spec", "template")), "spec", "template")
	}
	return out
}

// port returns the number of a Service's port by its name.
func (w *world) port(service, name string) (any, bool) {
	for _, item := range w.ports[service] {
		if p, _ := item.(map[string]any); p["name"] == name {
			return p["port"], true
		}
	}
	return nil, false
}

// backend replaces the name of a port by its number, if the Service has one of that name.
func (w *world) backend(namespace string, b map[string]any) map[string]any {
	out := copied(b).(map[string]any)
	port := object(out, "service", "port")
	if name := text(port, "name"); name != "" {
		if number, ok := w.port(namespace+"/"+text(out, "service", "name"), name); ok {
			out["service"].(map[string]any)["port"] = map[string]any{"number": number}
		}
	}
	return out
}

func (w *world) ingress(out, o map[string]any) {
	namespace := text(o, "metadata", "namespace")
	if b := object(o, "spec", "defaultBackend"); b != nil {
		put(out, w.backend(namespace, b), "spec", "defaultBackend")
	}
	var rules []any
	for _, r := range objects(o, "spec", "rules") {
		rule := map[string]any{}
		put(rule, text(r, "host"), "host")
		var paths []any
		for _, p := range objects(r, "http", "paths") {
			path := map[string]any{"backend": w.backend(namespace, object(p, "backend"))}
			put(path, text(p, "path"), "path")
			paths = append(paths, path)
		}
		put(rule, paths, "http", "paths")
		rules = append(rules, rule)
	}
	put(out, rules, "spec", "rules")
}

// route writes a Route as an Ingress with one rule for each host at a router that has not rejected it. Its targetPort is the name of a port of the Service, or the name or
// number of a port of the Pods.
func (w *world) route(out, o map[string]any) {
	service := text(o, "spec", "to", "name")
	target := at(o, "spec", "port", "targetPort")
	ports := objects(map[string]any{"ports": w.ports[text(o, "metadata", "namespace")+"/"+service]}, "ports")
	var port map[string]any
	if name, ok := target.(string); ok {
		port = map[string]any{"name": name} // as it is, if no port is found
	}
	for _, p := range slices.Backward(ports) {
		if target == nil || p["name"] == target || fmt.Sprint(p["targetPort"]) == fmt.Sprint(target) {
			port = map[string]any{"number": p["port"]}
		}
	}
	rules := []any{}
	for _, host := range routeHosts(o) {
		rule := map[string]any{}
		put(rule, host, "host")
		if port != nil {
			path := map[string]any{"path": "/", "backend": map[string]any{"service": map[string]any{"name": service, "port": port}}}
			put(path, text(o, "spec", "path"), "path")
			put(rule, []any{path}, "http", "paths")
		}
		rules = append(rules, rule)
	}
	out["spec"] = map[string]any{"rules": rules}
}

func routeHosts(o map[string]any) []string {
	wildcard := func(host, policy string) string {
		if _, domain, found := strings.Cut(host, "."); found && policy == "Subdomain" {
			return "*." + domain
		}
		return host
	}
	routers := objects(o, "status", "ingress")
	if len(routers) == 0 {
		return []string{wildcard(text(o, "spec", "host"), text(o, "spec", "wildcardPolicy"))}
	}
	var hosts []string
	for _, router := range routers {
		admitted := true
		for _, c := range objects(router, "conditions") {
			if text(c, "type") == "Admitted" && text(c, "status") == "False" {
				admitted = false
			}
		}
		if host := wildcard(text(router, "host"), text(router, "wildcardPolicy")); admitted && host != "" {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// free copies a value that its author is free in, such as a Pod template, without what must not leave the cluster.
func free(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			env, isList := value.([]any)
			notes, isObject := value.(map[string]any)
			switch {
			case value == nil:
			case key == "env" && isList:
				out[key] = environment(env)
			case key == "annotations" && isObject:
				if kept := annotations(notes); len(kept) > 0 {
					out[key] = kept
				}
			default:
				out[key] = free(value)
			}
		}
		return out
	case []any:
		out := make([]any, 0, len(v))
		for _, value := range v {
			out = append(out, free(value))
		}
		return out
	default:
		return v
	}
}

// environment replaces literal values by their hashes.
func environment(in []any) []any {
	out := make([]any, 0, len(in))
	for _, item := range in {
		v, _ := free(item).(map[string]any)
		if s := text(v, "value"); s != "" {
			v["value"] = hash(s)
		}
		out = append(out, v)
	}
	return out
}

func hash(value string) string {
	mac := hmac.New(sha256.New, []byte(HashKey))
	mac.Write([]byte(value))
	return fmt.Sprintf("hash:%x", mac.Sum(nil)[:4])
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// The rest is access to decoded JSON.

func at(o map[string]any, path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(o, path...)
	return v
}

func has(o map[string]any, path ...string) bool { return at(o, path...) != nil }

func text(o map[string]any, path ...string) string {
	s, _ := at(o, path...).(string)
	return s
}

func object(o map[string]any, path ...string) map[string]any {
	m, _ := at(o, path...).(map[string]any)
	return m
}

func list(o map[string]any, path ...string) []any {
	l, _ := at(o, path...).([]any)
	return l
}

func objects(o map[string]any, path ...string) []map[string]any {
	var out []map[string]any
	for _, item := range list(o, path...) {
		if m, ok := item.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// put sets the value at path, unless it is empty.
func put(o map[string]any, value any, path ...string) {
	switch v := value.(type) {
	case nil:
		return
	case string:
		if v == "" {
			return
		}
	case map[string]any:
		if len(v) == 0 {
			return
		}
	case []any:
		if len(v) == 0 {
			return
		}
	}
	for _, key := range path[:len(path)-1] {
		next, ok := o[key].(map[string]any)
		if !ok {
			next = map[string]any{}
			o[key] = next
		}
		o = next
	}
	o[path[len(path)-1]] = value
}

func copied(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			out[key] = copied(value)
		}
		return out
	case []any:
		out := slices.Clone(v)
		for i := range out {
			out[i] = copied(out[i])
		}
		return out
	default:
		return v
	}
}
