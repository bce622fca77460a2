package resources

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// referenceProjection does over encoding/json, without regard to cost, what Projector does in one pass. It shares no code
// with it but the catalogue and what finds credentials in a text or by a key, for which credentials_test.go has a corpus.
type referenceProjection struct {
	kind *Kind
	opts Options
}

type doc = map[string]any

func (r referenceProjection) project(data []byte) (out []byte, reported bool, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, false, err
	}
	o, ok := clean(v).(doc)
	if !ok {
		return nil, false, ErrNotObject
	}
	meta := asDoc(o["metadata"])
	switch {
	case asText(meta["name"]) == "":
		return nil, false, ErrNoName
	case asText(meta["uid"]) == "":
		return nil, false, ErrNoUID
	}
	spec, status := asDoc(o["spec"]), asDoc(o["status"])
	res := doc{"metadata": r.metadata(meta)}
	switch r.kind.project {
	case nodeProjection:
		outSpec := doc{}
		if _, err := netip.ParsePrefix(asText(spec["podCIDR"])); err == nil {
			outSpec["podCIDR"] = spec["podCIDR"]
		}
		put(res, "spec", outSpec)
		put(res, "status", r.nodeStatus(status))
	case podProjection:
		outSpec := doc{}
		if containers := envOf(spec["containers"]); r.opts.PodEnv && len(containers) > 0 {
			outSpec["containers"] = containers
		}
		put(res, "spec", outSpec)
		put(res, "status", podStatus(status))
	case serviceProjection:
		if _, ok := o["spec"].(doc); ok {
			res["spec"] = r.service(spec)
		}
		var points []any
		for _, p := range asList(asDoc(status["loadBalancer"])["ingress"]) {
			if ip := asText(asDoc(p)["ip"]); validIP(ip) {
				points = append(points, doc{"ip": ip})
			}
		}
		if points != nil {
			res["status"] = doc{"loadBalancer": doc{"ingress": points}}
		}
	case workloadProjection, ipPoolProjection:
		if _, ok := o["spec"].(doc); ok {
			res["spec"] = r.free(spec)
		}
	case replicaSetProjection:
		replicas, ok := spec["replicas"].(json.Number)
		n, err := strconv.Atoi(string(replicas))
		owners := asList(meta["ownerReferences"])
		if !ok || err != nil || n <= 0 || len(owners) == 0 || asDoc(owners[0])["uid"] == nil {
			return nil, false, nil //nolint:nilerr // such a ReplicaSet is not reported
		}
		outSpec := doc{"replicas": replicas}
		if t, ok := spec["template"].(doc); ok {
			outSpec["template"] = r.free(t)
		}
		res["spec"] = outSpec
	case ingressProjection:
		outSpec := doc{}
		if rules := only(spec["rules"], "host", "http.paths.path", "http.paths.backend"); !empty(rules) {
			outSpec["rules"] = rules
		}
		for _, k := range []string{"defaultBackend", "backend"} {
			if !empty(spec[k]) {
				outSpec[k] = spec[k]
			}
		}
		put(res, "spec", outSpec)
	case routeProjection:
		outSpec := doc{}
		if asText(spec["path"]) != "" {
			outSpec["path"] = spec["path"]
		}
		if host := wildcard(asText(spec["host"]), spec["wildcardPolicy"]); host != "" {
			outSpec["host"] = host
		}
		if to, ok := spec["to"].(doc); ok && weighs(to) {
			if v := only(to, "kind", "name"); !empty(v) {
				outSpec["to"] = v
			}
		}
		var others []any
		for _, b := range asList(spec["alternateBackends"]) {
			if v, ok := b.(doc); ok && weighs(v) && !empty(only(v, "kind", "name")) {
				others = append(others, only(v, "kind", "name"))
			}
		}
		if len(others) > 0 {
			outSpec["alternateBackends"] = others
		}
		if seen := asList(asDoc(o["status"])["ingress"]); len(seen) > 0 {
			admitted := []any{}
			for _, router := range seen {
				host := wildcard(asText(asDoc(router)["host"]), asDoc(router)["wildcardPolicy"])
				if host != "" && admits(asDoc(router)) {
					admitted = append(admitted, doc{"host": host})
				}
			}
			res["status"] = doc{"ingress": admitted}
		}
		if !empty(spec["port"]) {
			outSpec["port"] = spec["port"]
		}
		put(res, "spec", outSpec)
	case configMapProjection:
		if asText(meta["name"]) == "kube-root-ca.crt" || asDoc(meta["annotations"])["control-plane.alpha.kubernetes.io/leader"] != nil {
			return nil, false, nil
		}
		if r.opts.ConfigMapData && !empty(o["data"]) {
			res["data"] = o["data"]
		}
	case namespaceProjection:
	}
	return canonical(res), true, nil
}

func (r referenceProjection) metadata(meta doc) doc {
	out := doc{}
	p := r.kind.project
	keys := []string{"name", "namespace", "uid"}
	if p == podProjection || p == configMapProjection {
		keys = append(keys, "creationTimestamp")
	}
	if p == podProjection && r.opts.GenerateName {
		keys = append(keys, "generateName")
	}
	for _, k := range keys {
		if asText(meta[k]) != "" {
			out[k] = meta[k]
		}
	}
	if labels, ok := meta["labels"].(doc); p == podProjection {
		out["labels"] = doc{}
		if ok {
			out["labels"] = labels
		}
	} else if !empty(meta["labels"]) {
		out["labels"] = meta["labels"]
	}
	if p == podProjection || p == serviceProjection || p == workloadProjection {
		put(out, "annotations", r.annotations(asDoc(meta["annotations"])))
	}
	if p == podProjection || p == serviceProjection || p == workloadProjection || p == replicaSetProjection {
		if owners := r.owners(asList(meta["ownerReferences"])); len(owners) > 0 {
			out["ownerReferences"] = owners
		}
	}
	return out
}

func (r referenceProjection) owners(in []any) []any {
	out := []any{}
	controller := slices.IndexFunc(in, func(o any) bool { return asDoc(o)["controller"] == true })
	if controller >= 0 {
		out = append(out, in[controller])
	}
	for i, o := range in {
		if i != controller && asDoc(o)["uid"] != nil {
			out = append(out, o)
		}
	}
	for i, o := range out {
		out[i] = only(o, "apiVersion", "controller", "kind", "name", "uid")
	}
	if len(out) > 0 && r.kind.project == podProjection && r.opts.OwnerKinds != nil {
		first := asDoc(out[0])
		if k := r.opts.OwnerKinds(asText(first["apiVersion"]), asText(first["kind"])); k != "" && first["kind"] != nil {
			first["kind"] = k
		}
	}
	return out
}

func (r referenceProjection) annotations(in doc) doc {
	out := doc{}
	for k, v := range in {
		switch k {
		case "kapp.k14s.io/original", "kapp.k14s.io/original-diff", "kapp.k14s.io/original-diff-full",
			"objectset.rio.cattle.io/applied", "control-plane.alpha.kubernetes.io/leader":
			continue
		}
		if strings.Contains(k, "last-applied") || !r.wanted(k) {
			continue
		}
		limit := r.opts.AnnotationLimit
		if limit <= 0 {
			limit = 4096
		}
		whole := regexp.MustCompile(`^(field\.cattle\.io/targetWorkloadIds|k8s\.v1\.cni\.cncf\.io/network(s|-status|s-status)|k8s\.ovn\.org/pod-networks|`+
			`k8s\.aliyun\.com/pod-networks|vpc\.amazonaws\.com/pod-(eni|ips)|tke\.cloud\.tencent\.com/networks-status|cni\.projectcalico\.org/ipAddrs|`+
			`ipam\.spidernet\.io/ippools|yangtse\.io/pod-networks)$`).MatchString(k) || r.opts.Annotations != nil && slices.Contains(r.opts.Annotations[0].Allow, k)
		if s, ok := v.(string); ok && len(s) > limit && !whole {
			var parsed any
			if err := json.Unmarshal([]byte(s), &parsed); err == nil && (asDoc(parsed) != nil || asList(parsed) != nil) {
				continue
			}
			v = fmt.Sprintf("%d bytes, %s", len(s), r.hash(s))
		} else {
			v = r.free(v)
		}
		out[k] = v
	}
	return out
}

// wanted tells whether the one rule that optionsOf makes lets the annotation pass.
func (r referenceProjection) wanted(key string) bool {
	if len(r.opts.Annotations) == 0 {
		return true
	}
	in := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			ok, err := regexp.MatchString("^"+strings.ReplaceAll(regexp.QuoteMeta(p), `\*`, "(?s:.*)")+"$", key)
			return ok && err == nil
		})
	}
	rule := r.opts.Annotations[0]
	return !in(rule.Deny) && (len(rule.Allow) == 0 || in(rule.Allow))
}

func (r referenceProjection) hash(s string) string {
	mac := hmac.New(sha256.New, r.opts.HashKey)
	mac.Write([]byte(s))
	return "hash:" + hex.EncodeToString(mac.Sum(nil))[:8]
}

func (r referenceProjection) free(v any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = r.free(e)
		}
		return out
	case doc:
		out := doc{}
		for k, m := range v {
			if f, keep := r.freeMember(k, m); keep {
				out[k] = f
			}
		}
		if s, ok := v["value"].(string); ok && r.credentials().inName([]byte(asText(v["name"]))) {
			out["value"] = r.literal(s)
		}
		return out
	case string:
		return string(r.credentials().urls(nil, []byte(v)))
	default:
		return v
	}
}

func (r referenceProjection) credentials() *credentials {
	return newCredentials(r.opts.CredentialWords, func(dst, value []byte) []byte { return append(dst, r.hash(string(value))...) })
}

func (r referenceProjection) ruleOf(key string) memberRule {
	return (&Projector{opts: r.opts, credentials: r.credentials()}).ruleOfKey([]byte(key))
}

func (r referenceProjection) freeMember(k string, v any) (any, bool) {
	m, isDoc := v.(doc)
	l, isList := v.([]any)
	s, isText := v.(string)
	switch rule := r.ruleOf(k); {
	case isDoc && rule == plainMember:
		return v, true
	case isDoc && rule == notesMember:
		out := r.annotations(m)
		return out, len(out) > 0
	case isDoc && (rule == envMember || rule == headerMember):
		out := doc{}
		for name, e := range m {
			switch e.(type) {
			case doc, []any:
				out[name] = r.envVar(e)
			default:
				out[name] = r.literal(e)
			}
		}
		return out, true
	case isList && (rule == envMember || rule == headerMember):
		out := []any{}
		for _, e := range l {
			out = append(out, r.envVar(e))
		}
		return out, true
	case rule == commandMember && (isText || isList):
		if isText {
			l = []any{s}
		}
		out, state, c := []any{}, scan{}, r.credentials()
		for _, e := range l {
			if arg, ok := e.(string); ok {
				e = string(c.argument(nil, c.urls(nil, []byte(arg)), &state))
			} else {
				e = r.free(e)
			}
			out = append(out, e)
		}
		if isText {
			return out[0], true
		}
		return out, true
	case rule == secretMember && isText:
		return r.literal(v), true
	default:
		return r.free(v), true
	}
}

func (r referenceProjection) envVar(v any) any {
	if s, ok := v.(string); ok {
		if name, value, ok := strings.Cut(s, "="); ok && value != "" {
			return name + "=" + r.hash(value)
		}
	}
	m, ok := v.(doc)
	if !ok {
		return r.free(v)
	}
	out := doc{}
	for k, e := range m {
		if _, isText := e.(string); k == "value" || isText && k != "name" && k != "key" && k != "type" {
			out[k] = r.literal(e)
		} else if f, keep := r.freeMember(k, e); keep {
			out[k] = f
		}
	}
	return out
}

func (r referenceProjection) literal(v any) string {
	s, ok := v.(string)
	if !ok {
		s = string(canonical(v))
	}
	if s == "" {
		return ""
	}
	return r.hash(s)
}

func (r referenceProjection) service(spec doc) doc {
	out := doc{}
	for k, v := range spec {
		ports, isList := v.([]any)
		switch {
		case k == "clusterIP":
			if s := asText(v); s == "None" || validIP(s) {
				out[k] = s
			}
		case k == "ports" && isList:
			res := []any{}
			for _, p := range ports {
				res = append(res, r.servicePort(p))
			}
			out[k] = res
		default:
			if f, keep := r.freeMember(k, v); keep {
				out[k] = f
			}
		}
	}
	return out
}

func (r referenceProjection) servicePort(v any) any {
	m, ok := v.(doc)
	if !ok {
		return r.free(v)
	}
	out := doc{}
	for k, e := range m {
		if f, keep := r.freeMember(k, e); keep && k != "targetPort" {
			out[k] = f
		}
	}
	switch t := m["targetPort"].(type) {
	case string:
		if t != "" && t != "0" {
			out["targetPort"] = t
		}
	case json.Number:
		if t != "0" {
			out["targetPort"] = t
		}
	}
	if out["targetPort"] == nil && port(m["port"]) > 0 {
		out["targetPort"] = m["port"]
	}
	if n := port(out["targetPort"]); n > 0 {
		out["targetPort"] = json.Number(strconv.Itoa(n))
	}
	return out
}

func port(v any) int {
	var s string
	switch v := v.(type) {
	case string:
		s = v
	case json.Number:
		s = string(v)
	}
	if len(s) > 5 || strings.Trim(s, "0123456789") != "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}

func (r referenceProjection) nodeStatus(status doc) doc {
	out := doc{}
	for _, a := range asList(status["addresses"]) {
		if m := asDoc(a); m["type"] == "InternalIP" && validIP(asText(m["address"])) {
			out["addresses"] = []any{doc{"address": m["address"], "type": "InternalIP"}}
			break
		}
	}
	for _, a := range asList(status["addresses"]) {
		m := asDoc(a)
		if r.opts.NodeExternalIP && out["addresses"] == nil && m["type"] == "ExternalIP" && validIP(asText(m["address"])) {
			out["addresses"] = []any{
				doc{"address": m["address"], "type": "InternalIP"}, doc{"address": m["address"], "type": "ExternalIP"},
			}
		}
	}
	capacity, outCapacity := asDoc(status["capacity"]), doc{}
	if q, ok := amount(capacity["cpu"]); ok {
		outCapacity["cpu"] = strconv.FormatInt(q.Value(), 10)
	}
	if q, ok := amount(capacity["memory"]); ok {
		outCapacity["memory"] = strconv.FormatInt(q.Value()>>10, 10) + "Ki"
	}
	put(out, "capacity", outCapacity)
	for _, c := range asList(status["conditions"]) {
		m := asDoc(c)
		if m["type"] != "Ready" && (m["type"] != nil || m["reason"] != "KubeletReady") {
			continue
		}
		reason, state := asText(m["reason"]), m["status"]
		if _, ok := state.(string); !ok {
			state = "Unknown"
		}
		switch {
		case state == "True":
			reason = "KubeletReady"
		case reason == "", reason == "KubeletReady":
			reason = "KubeletNotReady"
		}
		out["conditions"] = []any{doc{"type": "Ready", "status": state, "reason": reason}}
		break
	}
	return out
}

func amount(v any) (resource.Quantity, bool) {
	var s string
	switch v := v.(type) {
	case string:
		s = v
	case json.Number:
		s = v.String()
	}
	if i := strings.IndexAny(s, "eE"); len(s) > 64 || i >= 0 && len(s[i+1:]) > 3 {
		return resource.Quantity{}, false
	}
	q, err := resource.ParseQuantity(s)
	if err != nil || q.Sign() < 0 {
		return resource.Quantity{}, false
	}
	// Its own rounding up, by whole numbers of any size.
	d := q.DeepCopy()
	unscaled, scale := d.AsDec().UnscaledBig(), int(d.AsDec().Scale())
	n := new(big.Int).Set(unscaled)
	ten := big.NewInt(10)
	for ; scale < 0; scale++ {
		n.Mul(n, ten)
	}
	rest := false
	for ; scale > 0; scale-- {
		m := new(big.Int)
		n.DivMod(n, ten, m)
		rest = rest || m.Sign() > 0
	}
	if rest {
		n.Add(n, big.NewInt(1))
	}
	return *resource.NewQuantity(n.Int64(), resource.DecimalSI), n.IsInt64() && n.Int64() < 1<<63-1
}

func podStatus(status doc) doc {
	out := doc{}
	finished := status["phase"] == "Succeeded" || status["phase"] == "Failed"
	for _, k := range []string{"hostIP", "podIP"} {
		if s := asText(status[k]); validIP(s) && (k == "hostIP" || !finished) {
			out[k] = s
		}
	}
	for _, c := range asList(status["conditions"]) {
		if m := asDoc(c); m["type"] == "Ready" {
			if s, ok := m["status"].(string); ok {
				out["conditions"] = []any{doc{"type": "Ready", "status": s}}
				break
			}
		}
	}
	var ids []any
	for _, c := range asList(status["containerStatuses"]) {
		if id := asText(asDoc(c)["containerID"]); id != "" {
			ids = append(ids, doc{"containerID": id})
		}
	}
	if ids != nil {
		out["containerStatuses"] = ids
	}
	return out
}

func envOf(containers any) []any {
	var out []any
	for _, c := range asList(containers) {
		if _, ok := c.(doc); ok {
			out = append(out, only(c, "name", "env"))
		}
	}
	return out
}

func validIP(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}

// only keeps the members of objects that the paths name; it looks through arrays, and keeps scalars.
func only(v any, paths ...string) any {
	switch v := v.(type) {
	case []any:
		out := []any{}
		for _, e := range v {
			out = append(out, only(e, paths...))
		}
		return out
	case doc:
		out := doc{}
		below := map[string][]string{}
		for _, p := range paths {
			head, rest, more := strings.Cut(p, ".")
			if more {
				below[head] = append(below[head], rest)
			} else {
				below[head] = nil
			}
		}
		for k, sub := range below {
			switch m, ok := v[k]; {
			case !ok:
			case sub == nil:
				out[k] = m
			default:
				out[k] = only(m, sub...)
			}
		}
		return out
	default:
		return v
	}
}

// clean takes the members that are null away.
func clean(v any) any {
	switch v := v.(type) {
	case doc:
		maps.DeleteFunc(v, func(_ string, m any) bool { return m == nil })
		for k, m := range v {
			v[k] = clean(m)
		}
	case []any:
		for i, e := range v {
			v[i] = clean(e)
		}
	}
	return v
}

func canonical(v any) []byte {
	out, err := encodeEntry(v)
	if err != nil {
		panic(err)
	}
	return out
}

func put(into doc, key string, m doc) {
	if len(m) > 0 {
		into[key] = m
	}
}

func asDoc(v any) doc     { m, _ := v.(doc); return m }
func asList(v any) []any  { l, _ := v.([]any); return l }
func asText(v any) string { s, _ := v.(string); return s }

func empty(v any) bool {
	switch v := v.(type) {
	case doc:
		return len(v) == 0
	case []any:
		return len(v) == 0
	default:
		return true
	}
}

func wildcard(host string, policy any) string {
	if i := strings.Index(host, "."); policy == "Subdomain" && i >= 0 {
		return "*" + host[i:]
	}
	return host
}

func weighs(backend doc) bool {
	n, isNumber := backend["weight"].(json.Number)
	f, err := n.Float64()
	return !isNumber || err != nil || f != 0
}

func admits(router doc) bool {
	for _, c := range asList(router["conditions"]) {
		if asDoc(c)["type"] == "Admitted" {
			return asDoc(c)["status"] != "False"
		}
	}
	return true
}
