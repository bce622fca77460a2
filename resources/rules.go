package resources

import (
	"bytes"
	"encoding/hex"
	"math"
	"net/netip"
	"strconv"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
)

// keep copies the field in canonical form.
func keep(p *Projector, v jsonscan.Value) bool {
	p.out = v.Append(p.out)
	return true
}

// text keeps a string that is not empty.
func text(p *Projector, v jsonscan.Value) bool {
	return v.Kind() == jsonscan.StringKind && len(v.Raw()) > 0 && keep(p, v)
}

// nonEmpty keeps an array that is not empty, or an object with a member that is not null.
func nonEmpty(p *Projector, v jsonscan.Value) bool {
	first := v.First()
	for v.Kind() == jsonscan.ObjectKind && first.Kind() == jsonscan.NullKind {
		first = first.Next()
	}
	return first.Kind() != jsonscan.Absent && keep(p, v)
}

func labelsOrEmpty(p *Projector, v jsonscan.Value) bool {
	if v.Kind() == jsonscan.ObjectKind {
		return keep(p, v)
	}
	p.out = append(p.out, '{', '}')
	return true
}

// appendHash appends "hash:" and eight hexadecimal digits that stand for a value that is not sent.
func (p *Projector) appendHash(value []byte) {
	p.mac.Reset()
	_, _ = p.mac.Write(value) // a hash never fails
	var sum [32]byte
	p.out = append(p.out, "hash:"...)
	p.out = hex.AppendEncode(p.out, p.mac.Sum(sum[:0])[:4])
}

// owners puts the controlling owner first and remembers the first owner for the entry.
func owners(p *Projector, v jsonscan.Value) bool {
	if v.Kind() != jsonscan.ArrayKind {
		return false
	}
	controller := v.First()
	for controller.Kind() != jsonscan.Absent && !controller.Get("controller").IsTrue() {
		controller = controller.Next()
	}
	p.out = append(p.out, '[')
	first := true
	if controller.Kind() != jsonscan.Absent {
		p.appendOwner(controller, true)
		first = false
	}
	for o := v.First(); o.Kind() != jsonscan.Absent; o = o.Next() {
		if o == controller || o.Kind() != jsonscan.ObjectKind || !o.Get("uid").Exists() {
			continue
		}
		if !first {
			p.out = append(p.out, ',')
		}
		p.appendOwner(o, first)
		first = false
	}
	p.out = append(p.out, ']')
	return !first
}

func (p *Projector) appendOwner(o jsonscan.Value, first bool) {
	kind := o.Get("kind")
	renamed := ""
	if first {
		p.owner = parseUID(o.Get("uid").Text())
		apiVersion := p.intern(o.Get("apiVersion").Text())
		p.scratch = append(append(append(p.scratch[:0], apiVersion...), '/'), kind.Text()...)
		p.ownerKind = p.intern(p.scratch)
		if p.wireType == podWireType && p.opts.OwnerKinds != nil {
			renamed = p.opts.OwnerKinds(apiVersion, p.ownerKind[len(apiVersion)+1:])
		}
	}
	if renamed == "" {
		p.out = o.Append(p.out)
		return
	}
	p.out = append(p.out, '{')
	for m := o.First(); m.Kind() != jsonscan.Absent; m = m.Next() {
		if !m.Exists() {
			continue
		}
		if p.out[len(p.out)-1] != '{' {
			p.out = append(p.out, ',')
		}
		p.out = append(m.AppendKey(p.out), ':')
		if string(m.Key()) == "kind" {
			p.out = jsonscan.AppendQuoted(p.out, []byte(renamed))
		} else {
			p.out = m.Append(p.out)
		}
	}
	p.out = append(p.out, '}')
}

const podWireType = "*v1.Pod"

// isAddress tells whether the server will understand s as an IP address: no mask, no port, no zone, no leading zeros.
func isAddress(s []byte) bool {
	if isIPv4(s) {
		return true
	}
	if bytes.IndexByte(s, ':') < 0 {
		return false
	}
	a, err := netip.ParseAddr(string(s))
	return err == nil && a.Zone() == ""
}

// isIPv4 is netip.ParseAddr for the usual case, without its allocation.
func isIPv4(s []byte) bool {
	octets := 0
	for len(s) > 0 {
		n, i := 0, 0
		for i < len(s) && i < 4 && s[i] >= '0' && s[i] <= '9' {
			n = n*10 + int(s[i]-'0')
			i++
		}
		if i == 0 || n > 255 || i > 1 && s[0] == '0' {
			return false
		}
		octets++
		s = s[i:]
		if octets == 4 {
			return len(s) == 0
		}
		if len(s) < 2 || s[0] != '.' {
			return false
		}
		s = s[1:]
	}
	return false
}

func address(p *Projector, v jsonscan.Value) bool { return isAddress(v.Text()) && keep(p, v) }

func prefix(p *Projector, v jsonscan.Value) bool {
	_, err := netip.ParsePrefix(string(v.Text()))
	return err == nil && keep(p, v)
}

func podIP(p *Projector, v jsonscan.Value) bool {
	phase := p.tree.Root().Get("status").Get("phase")
	return !phase.Is("Succeeded") && !phase.Is("Failed") && address(p, v)
}

func podReady(p *Projector, v jsonscan.Value) bool {
	for c := v.First(); c.Kind() != jsonscan.Absent; c = c.Next() {
		if status := c.Get("status"); c.Get("type").Is("Ready") && status.Kind() == jsonscan.StringKind {
			p.out = append(p.out, `[{"status":`...)
			p.out = status.Append(p.out)
			p.out = append(p.out, `,"type":"Ready"}]`...)
			return true
		}
	}
	return false
}

func containerIDs(p *Projector, v jsonscan.Value) bool {
	return p.appendEach(v, func(c jsonscan.Value) bool {
		id := c.Get("containerID")
		if id.Kind() != jsonscan.StringKind || len(id.Raw()) == 0 {
			return false
		}
		p.out = append(p.out, `{"containerID":`...)
		p.out = append(id.Append(p.out), '}')
		return true
	})
}

func loadBalancerIPs(p *Projector, v jsonscan.Value) bool {
	return p.appendEach(v, func(c jsonscan.Value) bool {
		ip := c.Get("ip")
		if !isAddress(ip.Text()) {
			return false
		}
		p.out = append(p.out, `{"ip":`...)
		p.out = append(ip.Append(p.out), '}')
		return true
	})
}

// routeHost keeps the host that a Route asks for.
func routeHost(p *Projector, v jsonscan.Value) bool {
	return p.appendRouteHost(v, p.tree.Root().Get("spec").Get("wildcardPolicy"))
}

// appendRouteHost appends a host, "*.a.example" for "www.a.example" where the policy is Subdomain: such a Route takes all
// hosts of the domain (route.openshift.io/v1, RouteSpec.wildcardPolicy).
func (p *Projector) appendRouteHost(host, policy jsonscan.Value) bool {
	if host.Kind() != jsonscan.StringKind || len(host.Raw()) == 0 {
		return false
	}
	if !policy.Is("Subdomain") {
		return keep(p, host)
	}
	_, domain, found := bytes.Cut(host.Text(), []byte("."))
	if !found {
		return keep(p, host)
	}
	p.scratch = append(append(p.scratch[:0], "*."...), domain...)
	p.out = jsonscan.AppendQuoted(p.out, p.scratch)
	return true
}

// routeBackend keeps kind and name of a backend that gets requests: weight 0 takes it out of service.
func routeBackend(p *Projector, v jsonscan.Value) bool {
	if weight, err := strconv.ParseFloat(string(v.Get("weight").Raw()), 64); err == nil && weight == 0 {
		return false
	}
	p.out = append(p.out, '{')
	empty := true
	for _, key := range [...]string{"kind", "name"} {
		if m := v.Get(key); m.Exists() {
			if !empty {
				p.out = append(p.out, ',')
			}
			p.out = append(append(append(p.out, '"'), key...), '"', ':')
			p.out = m.Append(p.out)
			empty = false
		}
	}
	p.out = append(p.out, '}')
	return !empty
}

func routeBackends(p *Projector, v jsonscan.Value) bool {
	return p.appendEach(v, func(b jsonscan.Value) bool { return routeBackend(p, b) })
}

// routers keeps the host of each router that has not rejected the Route. Nothing but rejections gives an empty array.
func routers(p *Projector, v jsonscan.Value) bool {
	if v.Kind() != jsonscan.ArrayKind || v.First().Kind() == jsonscan.Absent {
		return false
	}
	mark := len(p.out)
	if !p.appendEach(v, func(router jsonscan.Value) bool { return !rejected(router) && p.appendRouter(router) }) {
		p.out = append(p.out[:mark], '[', ']')
	}
	return true
}

func (p *Projector) appendRouter(router jsonscan.Value) bool {
	p.out = append(p.out, `{"host":`...)
	if !p.appendRouteHost(router.Get("host"), router.Get("wildcardPolicy")) {
		return false
	}
	p.out = append(p.out, '}')
	return true
}

func rejected(router jsonscan.Value) bool {
	for c := router.Get("conditions").First(); c.Kind() != jsonscan.Absent; c = c.Next() {
		if c.Get("type").Is("Admitted") {
			return c.Get("status").Is("False")
		}
	}
	return false
}

func podEnv(p *Projector, v jsonscan.Value) bool {
	return p.appendEach(v, func(c jsonscan.Value) bool {
		return c.Kind() == jsonscan.ObjectKind && keep(p, c)
	})
}

// appendEach appends an array of what one appends for each element of v; it tells whether there was any.
func (p *Projector) appendEach(v jsonscan.Value, one func(jsonscan.Value) bool) bool {
	if v.Kind() != jsonscan.ArrayKind {
		return false
	}
	p.out = append(p.out, '[')
	found := false
	for e := v.First(); e.Kind() != jsonscan.Absent; e = e.Next() {
		mark := len(p.out)
		if found {
			p.out = append(p.out, ',')
		}
		if one(e) {
			found = true
		} else {
			p.out = p.out[:mark]
		}
	}
	p.out = append(p.out, ']')
	return found
}

// nodeIP keeps the address by which the server knows a Node. An ExternalIP in the place of an InternalIP is sent as what it
// is too, by which readers of the report can tell.
func nodeIP(p *Projector, v jsonscan.Value) bool {
	ip := firstAddress(v, "InternalIP")
	external := !ip.Exists() && p.opts.NodeExternalIP
	if external {
		ip = firstAddress(v, "ExternalIP")
	}
	if !ip.Exists() {
		return false
	}
	p.out = append(p.out, `[{"address":`...)
	p.out = ip.Append(p.out)
	p.out = append(p.out, `,"type":"InternalIP"}`...)
	if external {
		p.out = append(p.out, `,{"address":`...)
		p.out = ip.Append(p.out)
		p.out = append(p.out, `,"type":"ExternalIP"}`...)
	}
	p.out = append(p.out, ']')
	return true
}

// firstAddress returns the first address of that type which is one, an absent value if there is none.
func firstAddress(addresses jsonscan.Value, typ string) jsonscan.Value {
	for a := addresses.First(); a.Kind() != jsonscan.Absent; a = a.Next() {
		if ip := a.Get("address"); a.Get("type").Is(typ) && isAddress(ip.Text()) {
			return ip
		}
	}
	return jsonscan.Value{}
}

// nodeReady writes the Ready condition so that the server, which looks for the reason KubeletReady and then at the
// status, takes the node for ready if and only if it is.
func nodeReady(p *Projector, v jsonscan.Value) bool {
	const ready = "KubeletReady"
	for c := v.First(); c.Kind() != jsonscan.Absent; c = c.Next() {
		typ, reason, status := c.Get("type"), c.Get("reason"), c.Get("status")
		if !typ.Is("Ready") && (typ.Exists() || !reason.Is(ready)) {
			continue
		}
		p.out = append(p.out, `[{"reason":`...)
		switch {
		case status.Is("True"):
			p.out = append(p.out, `"`+ready+`"`...)
		case reason.Kind() != jsonscan.StringKind || len(reason.Raw()) == 0 || reason.Is(ready):
			p.out = append(p.out, `"KubeletNotReady"`...)
		default:
			p.out = reason.Append(p.out)
		}
		p.out = append(p.out, `,"status":`...)
		if status.Kind() == jsonscan.StringKind {
			p.out = status.Append(p.out)
		} else {
			p.out = append(p.out, `"Unknown"`...)
		}
		p.out = append(p.out, `,"type":"Ready"}]`...)
		return true
	}
	return false
}

// quantity reads a Kubernetes quantity from 0 to 2^63-1, written as a string or number. (Value gives 0 for larger ones.)
func quantity(v jsonscan.Value) (resource.Quantity, bool) {
	var s []byte
	switch v.Kind() {
	case jsonscan.StringKind:
		s = v.Text()
	case jsonscan.NumberKind:
		s = v.Raw()
	default:
		return resource.Quantity{}, false
	}
	// Exponents of more than two digits stand for no machine's capacity, and cost the parser memory.
	const longest, longestExponent = 64, 3
	if e := bytes.IndexAny(s, "eE"); len(s) > longest || e >= 0 && len(s)-e-1 > longestExponent {
		return resource.Quantity{}, false
	}
	q, err := resource.ParseQuantity(string(s))
	return q, err == nil && q.Sign() >= 0 && q.CmpInt64(math.MaxInt64) < 0
}

func cores(p *Projector, v jsonscan.Value) bool {
	q, ok := quantity(v)
	p.out = append(p.out, '"')
	p.out = strconv.AppendInt(p.out, q.Value(), 10)
	p.out = append(p.out, '"')
	return ok
}

func kibibytes(p *Projector, v jsonscan.Value) bool {
	q, ok := quantity(v)
	p.out = append(p.out, '"')
	p.out = strconv.AppendInt(p.out, q.Value()/1024, 10)
	p.out = append(p.out, `Ki"`...)
	return ok
}

// workloadSpec copies what the author of a workload wrote, without what is nobody else's business.
func workloadSpec(p *Projector, v jsonscan.Value) bool {
	if v.Kind() != jsonscan.ObjectKind {
		return false
	}
	p.appendFree(v)
	return true
}

// appendFree copies a value of any shape; wherever there are annotations, environment variables, command lines or other
// places for credentials in it, their rules apply.
func (p *Projector) appendFree(v jsonscan.Value) {
	switch v.Kind() {
	case jsonscan.ObjectKind:
		if value := v.Get("value"); value.Kind() == jsonscan.StringKind && p.credentials.inName(v.Get("name").Text()) {
			p.appendMembers(v, p.appendParameterMember)
			return
		}
		p.appendMembers(v, p.appendFreeMember)
	case jsonscan.ArrayKind:
		p.appendElements(v, p.appendFree)
	default:
		p.appendText(v)
	}
}

func (p *Projector) appendFreeMember(m jsonscan.Value) bool {
	compound := m.Kind() >= jsonscan.ArrayKind
	switch rule := p.memberRule(m.Key()); {
	case rule == plainMember && m.Kind() == jsonscan.ObjectKind:
		p.out = m.Append(p.out)
	case rule == notesMember && m.Kind() == jsonscan.ObjectKind:
		return annotations(p, m)
	case rule == envMember && compound, rule == headerMember && compound:
		p.appendEnv(m)
	case rule == commandMember:
		p.appendCommand(m)
	case rule == secretMember && m.Kind() == jsonscan.StringKind:
		p.appendLiteral(m)
	default:
		p.appendFree(m)
	}
	return true
}

// appendParameterMember copies a member of a name and value whose name stands for a credential.
func (p *Projector) appendParameterMember(m jsonscan.Value) bool {
	if string(m.Key()) != "value" {
		return p.appendFreeMember(m)
	}
	p.appendLiteral(m)
	return true
}

// appendEnv copies environment variables, as a list of name and value or (in some CRDs) of texts or as a map, with every
// literal value replaced by its hash.
func (p *Projector) appendEnv(v jsonscan.Value) {
	if v.Kind() == jsonscan.ArrayKind {
		p.appendElements(v, p.appendEnvVar)
		return
	}
	p.appendMembers(v, func(m jsonscan.Value) bool {
		if m.Kind() >= jsonscan.ArrayKind {
			p.appendEnvVar(m)
		} else {
			p.appendLiteral(m)
		}
		return true
	})
}

// appendEnvVar copies one variable: an object of which only the members that name the variable stay, or NAME=value.
func (p *Projector) appendEnvVar(v jsonscan.Value) {
	switch v.Kind() {
	case jsonscan.ObjectKind:
	case jsonscan.StringKind:
		p.appendAssignment(v)
		return
	default:
		p.appendFree(v)
		return
	}
	p.appendMembers(v, func(m jsonscan.Value) bool {
		switch key := string(m.Key()); {
		case key == "value":
			p.appendLiteral(m)
		case key == "name" || key == "key" || key == "type" || m.Kind() != jsonscan.StringKind:
			return p.appendFreeMember(m)
		default:
			p.appendLiteral(m)
		}
		return true
	})
}

// appendAssignment copies NAME=value with the hash of the value.
func (p *Projector) appendAssignment(v jsonscan.Value) {
	name, value, ok := bytes.Cut(v.Text(), []byte("="))
	if !ok || len(value) == 0 {
		p.appendText(v)
		return
	}
	p.argument = p.sum(append(append(p.argument[:0], name...), '='), value)
	p.out = jsonscan.AppendQuoted(p.out, p.argument)
}

// appendLiteral appends the hash of a literal value; an empty one stays, since it tells nothing.
func (p *Projector) appendLiteral(m jsonscan.Value) {
	value := m.Text()
	if m.Kind() != jsonscan.StringKind {
		p.scratch = m.Append(p.scratch[:0])
		value = p.scratch
	}
	p.out = append(p.out, '"')
	if len(value) > 0 {
		p.appendHash(value)
	}
	p.out = append(p.out, '"')
}

// appendMembers appends an object of what one appends for each member that is not null; where one returns false the
// member is left out.
func (p *Projector) appendMembers(v jsonscan.Value, one func(jsonscan.Value) bool) {
	p.out = append(p.out, '{')
	first := true
	for m := v.First(); m.Kind() != jsonscan.Absent; m = m.Next() {
		if p.appendMember(m, first, one) {
			first = false
		}
	}
	p.out = append(p.out, '}')
}

func (p *Projector) appendMember(m jsonscan.Value, first bool, one func(jsonscan.Value) bool) bool {
	if !m.Exists() {
		return false
	}
	mark := len(p.out)
	if !first {
		p.out = append(p.out, ',')
	}
	p.out = append(m.AppendKey(p.out), ':')
	if !one(m) {
		p.out = p.out[:mark]
		return false
	}
	return true
}

func (p *Projector) appendElements(v jsonscan.Value, one func(jsonscan.Value)) {
	p.out = append(p.out, '[')
	first := true
	for e := v.First(); e.Kind() != jsonscan.Absent; e = e.Next() {
		if !first {
			p.out = append(p.out, ',')
		}
		first = false
		one(e)
	}
	p.out = append(p.out, ']')
}

func serviceSpec(p *Projector, v jsonscan.Value) bool {
	if v.Kind() != jsonscan.ObjectKind {
		return false
	}
	p.appendMembers(v, func(m jsonscan.Value) bool {
		switch string(m.Key()) {
		case "clusterIP":
			return m.Is("None") && keep(p, m) || address(p, m)
		case "ports":
			if m.Kind() == jsonscan.ArrayKind {
				p.appendElements(m, p.appendServicePort)
				return true
			}
		}
		return p.appendFreeMember(m)
	})
	return true
}

// appendServicePort writes targetPort as a number if it is one, and as the port's own number if there is none.
func (p *Projector) appendServicePort(v jsonscan.Value) {
	if v.Kind() != jsonscan.ObjectKind {
		p.appendFree(v)
		return
	}
	const key = "targetPort"
	target := v.Get(key)
	isName := target.Kind() == jsonscan.StringKind || target.Kind() == jsonscan.NumberKind
	if !isName || len(target.Raw()) == 0 || string(target.Raw()) == "0" {
		target = v.Get("port")
		isName = false
	}
	number := portNumber(target)
	pending, first := number > 0 || isName, true
	appendTarget := func() {
		if !first {
			p.out = append(p.out, ',')
		}
		p.out = append(p.out, `"`+key+`":`...)
		if number > 0 {
			p.out = strconv.AppendInt(p.out, int64(number), 10)
		} else {
			p.out = target.Append(p.out)
		}
		pending, first = false, false
	}
	p.out = append(p.out, '{')
	for m := v.First(); m.Kind() != jsonscan.Absent; m = m.Next() {
		if pending && string(m.Key()) > key {
			appendTarget()
		}
		if string(m.Key()) != key && p.appendMember(m, first, p.appendFreeMember) {
			first = false
		}
	}
	if pending {
		appendTarget()
	}
	p.out = append(p.out, '}')
}

// portNumber returns the port that v gives as a number or as a string of digits, 0 if it gives none.
func portNumber(v jsonscan.Value) int {
	s := v.Text()
	if v.Kind() == jsonscan.NumberKind {
		s = v.Raw()
	}
	return parsePort(s)
}

// parsePort returns the port number that s spells, 0 if it spells none.
func parsePort[S string | []byte](s S) int {
	const mostDigits = 5
	if len(s) > mostDigits {
		return 0
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0
		}
		n = n*10 + int(s[i]-'0')
	}
	if n > math.MaxUint16 {
		return 0
	}
	return n
}

// hasReplicasAndOwner tells whether the server would take the ReplicaSet at all; nine of ten it would not.
func hasReplicasAndOwner(root jsonscan.Value) bool {
	replicas := root.Get("spec").Get("replicas")
	n, err := strconv.Atoi(string(replicas.Raw()))
	return replicas.Kind() == jsonscan.NumberKind && err == nil && n > 0 &&
		root.Get("metadata").Get("ownerReferences").First().Get("uid").Exists()
}

// isConfiguration tells whether the ConfigMap is its author's, not the platform's bookkeeping.
func isConfiguration(root jsonscan.Value) bool {
	meta := root.Get("metadata")
	return !meta.Get("name").Is("kube-root-ca.crt") && !meta.Get("annotations").Get(leaderAnnotation).Exists()
}
