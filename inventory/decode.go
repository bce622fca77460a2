package inventory

import (
	"encoding/json"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The wire types that the server reads (docs/protocol.md, sections 4 and 6).
const (
	wireVersion     = "*version.Info"
	wireNode        = "*v1.Node"
	wireNamespace   = "*v1.Namespace"
	wirePod         = "*v1.Pod"
	wireDeployment  = "*v1.Deployment"
	wireStatefulSet = "*v1.StatefulSet"
	wireDaemonSet   = "*v1.DaemonSet"
	wireCloneSet    = "*v1.CloneSet"
	wireOpenGauss   = "*v1.OpenGaussCluster"
	wireReplication = "*v1.ReplicationController"
	wireReplicaSet  = "*v1.ReplicaSet"
	wireService     = "*v1.Service"
	wireServiceRule = "*v1.ServiceRule"
	wireIngress     = "*v1.Ingress"
	wireRoute       = "*v1.Route"
	wireOldIngress  = "*v1beta1.Ingress"
	wireConfigMap   = "*v1.ConfigMap"
)

// The workload types as the server shows them.
const (
	typeDeployment  = "Deployment"
	typeStatefulSet = "StatefulSet"
	typeDaemonSet   = "DaemonSet"
	typeCloneSet    = "CloneSet"
	typeReplication = "RC"
	typeReplicaSet  = "ReplicaSetController"
)

// workloadKinds gives rank (the server's order) and type of every workload that is an entry.
var workloadKinds = map[string]struct {
	rank int
	typ  string
}{
	wireDeployment:  {0, typeDeployment},
	wireStatefulSet: {1, typeStatefulSet},
	wireOpenGauss:   {2, typeStatefulSet},
	wireDaemonSet:   {3, typeDaemonSet},
	wireCloneSet:    {4, typeCloneSet},
	wireReplication: {6, typeReplication},
}

const (
	rankSynthetic  = 5
	rankReplicaSet = 7
)

// pluginTypes maps a plugin's answer, in lower case, to the server's type.
var pluginTypes = map[string]string{
	"deployment":            typeDeployment,
	"statefulset":           typeStatefulSet,
	"daemonset":             typeDaemonSet,
	"cloneset":              typeCloneSet,
	"replicaset":            typeReplicaSet,
	"replicationcontroller": typeReplication,
}

// ownerKinds are the kinds of ownerReferences[0] that a Pod may have.
var ownerKinds = map[string]bool{
	"CloneSet": true, "DaemonSet": true, "Deployment": true, "InPlaceSet": true, "ReplicaSet": true, "StatefulSet": true,
	"StatefulSetPlus": true, "OpenGaussCluster": true, "ReplicationController": true,
}

const (
	inPlaceSet        = "InPlaceSet"
	nativeNameLabel   = "virtual-kubelet.io/provider-cluster-native-name"
	rancherAnnotation = "field.cattle.io/targetWorkloadIds"
	openGaussSelector = "opengauss.cluster"
)

var ingressFamilies = map[string]int{wireIngress: 0, wireRoute: 1, wireOldIngress: 2}

type label struct {
	key, value string
	text       bool // the value is a string
}

// metadata is what is read of an object's metadata.
type metadata struct {
	present              bool
	raw                  []byte
	uid, name, namespace string
	labels               []label
	labelled             bool // labels is an object
	ownerUID, ownerKind  string
	ownerName            string
	owners               int
	laterOwner           bool
	created              int64
	generated            bool // generateName is there, even null
	generateName         string
	rancher              string
	hasRancher           bool
}

func readMetadata(s *scanner) metadata {
	var m metadata
	start := s.i
	m.present = s.next() != 0
	s.object(func(key []byte) {
		switch string(key) {
		case "uid":
			m.uid = s.text()
		case "name":
			m.name = s.text()
		case "namespace":
			m.namespace = s.text()
		case "creationTimestamp":
			m.created = unixSeconds(s.text())
		case "generateName":
			m.generated = true
			m.generateName = s.text()
		case "labels":
			m.labels, m.labelled = readLabels(s)
		case "annotations":
			s.object(func(key []byte) {
				if string(key) == rancherAnnotation {
					m.rancher, m.hasRancher = s.str()
					return
				}
				s.skip()
			})
		case "ownerReferences":
			s.array(func(i int) {
				m.owners++
				var kind string
				s.object(func(key []byte) {
					switch {
					case string(key) == "kind":
						kind = s.text()
					case i == 0 && string(key) == "uid":
						m.ownerUID = s.text()
					case i == 0 && string(key) == "name":
						m.ownerName = s.text()
					default:
						s.skip()
					}
				})
				if i == 0 {
					m.ownerKind = kind
				} else if ownerKinds[kind] {
					m.laterOwner = true
				}
			})
		default:
			s.skip()
		}
	})
	m.raw = s.b[start:min(s.i, len(s.b))]
	return m
}

func readLabels(s *scanner) ([]label, bool) {
	var labels []label
	ok := s.object(func(key []byte) {
		k := string(key)
		v, text := s.str()
		labels = append(labels, label{key: k, value: v, text: text})
	})
	return labels, ok
}

// unixSeconds reads an RFC 3339 time, 0 if it is none.
func unixSeconds(text string) int64 {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Unix() == math.MinInt64 {
		return 0
	}
	return t.Unix()
}

// render writes labels as the server shows them: sorted, "key:value", joined by ", ".
func render(labels []label) string {
	parts := make([]string, 0, len(labels))
	for _, l := range labels {
		if l.text {
			parts = append(parts, l.key+":"+l.value)
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// selectable adds "key_value" for each label. A value that is no string counts as empty in a template and not at all
// in metadata.
func selectable(into []string, labels []label, emptyForOthers bool) []string {
	for _, l := range labels {
		if l.text || emptyForOthers {
			into = append(into, l.key+"_"+l.value)
		}
	}
	return into
}

// decode makes an entity of one entry. Whatever the bytes are, it returns one: a flawed entry is an *other whose mask
// says what is wrong with it. The namespace is the one that the entity names; it is "" for flawed ones.
func decode(wire, id string, text []byte, options *Options) (e entity, namespace string) {
	o := object{wire: intern(wire), id: id}
	_, isWorkload := workloadKinds[wire]
	_, isIngress := ingressFamilies[wire]
	d := decoder{object: o, scanner: scanner{b: text}, options: options}
	valid := json.Valid(text)
	switch {
	case isWorkload, isIngress:
	case wire == wireVersion, wire == wireNode, wire == wireNamespace, wire == wirePod, wire == wireReplicaSet,
		wire == wireService, wire == wireServiceRule, wire == wireConfigMap:
	default:
		if valid {
			d.top(false, func([]byte) { d.skip() })
		}
		return flawed(d.object, TypeNotRead), d.meta.namespace
	}
	if !valid {
		return flawed(o, BrokenEntry), ""
	}
	if wire == wireVersion {
		return d.version(), ""
	}
	if d.next() != '{' {
		if d.next() == '[' {
			return flawed(o, ListInOneEntry), ""
		}
		return flawed(o, NotAnObject), ""
	}
	switch {
	case wire == wireNode:
		e = d.node()
	case wire == wirePod:
		e = d.pod()
	case wire == wireReplicaSet:
		e = d.replicaSet()
	case wire == wireService, wire == wireServiceRule:
		e = d.service(wire == wireServiceRule)
	case isWorkload:
		e = d.workload(wire)
	case isIngress:
		e = d.ingress(ingressFamilies[wire])
	case wire == wireNamespace:
		e = d.namespaceObject()
	default:
		e = d.configMap()
	}
	return e, d.meta.namespace
}

func flawed(o object, r Reason) *other {
	o.mask.add(r)
	return &other{object: o}
}

// decoder reads one entry.
type decoder struct {
	object
	scanner
	options *Options
	meta    metadata
	items   bool
}

// top reads the entry's fields by f, which must consume the value, and its metadata. The result is not nil if the
// entry comes to nothing.
func (d *decoder) top(namespaced bool, f func(key []byte)) *other {
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case "metadata":
			d.meta = readMetadata(&d.scanner)
		case "items":
			d.items = d.array(func(int) { d.skip() })
		default:
			f(key)
		}
	})
	d.uid, d.name = d.meta.uid, d.meta.name
	if d.uid == d.id {
		d.uid = d.id // one copy
	}
	switch {
	case d.items && d.uid == "":
		return flawed(d.object, ListInOneEntry)
	case !d.meta.present:
		return flawed(d.object, NotAnObject)
	case d.uid == "":
		return flawed(d.object, UIDMissing)
	case d.name == "":
		return flawed(d.object, NameMissing)
	case namespaced && d.meta.namespace == "":
		return flawed(d.object, NamespaceMissing)
	}
	return nil
}

func (d *decoder) version() entity {
	v := &versionInfo{object: d.object}
	d.scanner.object(func(key []byte) {
		if string(key) == "gitVersion" {
			v.gitVersion = d.text()
			return
		}
		d.skip()
	})
	return v
}

func (d *decoder) namespaceObject() entity {
	if bad := d.top(false, func([]byte) { d.skip() }); bad != nil {
		return bad
	}
	n := &namespaceObject{object: d.object}
	for _, l := range d.meta.labels {
		if l.key == nativeNameLabel {
			n.native = l.value
		}
	}
	return n
}

// quantity is a resource quantity as it came.
type quantity struct {
	text string
	seen bool
}

// nodeFacts are what is read of a Node's spec and status before it is judged.
type nodeFacts struct {
	address      string // the first InternalIP
	addressed    bool
	ready        bool // a condition of type Ready has status True
	kubeletReady bool // there is a condition with reason KubeletReady
	kubeletTrue  bool // the first one of these has status True
	memory, cpu  quantity
	cidr         string
	oldCIDR      string // of the key podCidr, which the server prefers
}

func (d *decoder) node() entity {
	var f nodeFacts
	if bad := d.top(false, func(key []byte) {
		switch string(key) {
		case "spec":
			d.scanner.object(func(key []byte) {
				switch string(key) {
				case "podCIDR":
					f.cidr = d.text()
				case "podCidr":
					f.oldCIDR = d.text()
				default:
					d.skip()
				}
			})
		case "status":
			d.scanner.object(func(key []byte) { d.nodeStatus(string(key), &f) })
		default:
			d.skip()
		}
	}); bad != nil {
		return bad
	}
	if !f.addressed {
		return flawed(d.object, NodeWithoutIP)
	}
	n := &node{object: d.object, address: f.address, podCIDR: f.oldCIDR, ready: f.kubeletTrue}
	if n.podCIDR == "" {
		n.podCIDR = f.cidr
	}
	for _, l := range d.meta.labels {
		if l.key == "node-role.kubernetes.io/master" || l.key == "node-role.kubernetes.io/control-plane" {
			n.master = true
		}
	}
	if f.ready && !f.kubeletReady {
		n.decoding.add(NodeState)
	}
	n.judgeAddresses()
	n.judgeCapacity(f.memory, f.cpu)
	return n
}

func (d *decoder) nodeStatus(key string, f *nodeFacts) {
	switch key {
	case "addresses":
		d.array(func(int) {
			pair := d.strings("type", "address", "")
			if pair[0] == "InternalIP" && !f.addressed {
				f.addressed, f.address = true, pair[1]
			}
		})
	case "conditions":
		d.array(func(int) {
			triple := d.strings("type", "reason", "status")
			isTrue := triple[2] == "True"
			if triple[0] == "Ready" && isTrue {
				f.ready = true
			}
			if triple[1] == "KubeletReady" && !f.kubeletReady {
				f.kubeletReady, f.kubeletTrue = true, isTrue
			}
		})
	case "capacity":
		d.scanner.object(func(key []byte) {
			switch string(key) {
			case "memory":
				f.memory = quantity{text: d.text(), seen: true}
			case "cpu":
				f.cpu = quantity{text: d.text(), seen: true}
			default:
				d.skip()
			}
		})
	default:
		d.skip()
	}
}

// strings reads up to three string fields of an object.
func (d *decoder) strings(first, second, third string) [3]string {
	var out [3]string
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case first:
			out[0] = d.text()
		case second:
			out[1] = d.text()
		case third:
			out[2] = d.text()
		default:
			d.skip()
		}
	})
	return out
}

// judgeAddresses sorts the Node's address and podCIDR into usable, fatal and deadly for the real server.
func (n *node) judgeAddresses() {
	if addr, err := netip.ParseAddr(n.address); err == nil {
		n.addr = addr.WithZone("")
	} else if strings.ContainsAny(n.address, ".:") && !isPrefix(n.address) {
		n.decoding.add(NodeIPInvalid)
	} else {
		n.decoding.add(CrashNodeIP)
	}
	n.prefix = parseNetwork(n.podCIDR)
	if !n.prefix.IsValid() && strings.ContainsAny(n.podCIDR, ".:") {
		n.decoding.add(PodCIDRInvalid)
	}
}

// judgeCapacity reads memory and CPUs as the server does: everything but "…Ki" and whole numbers is lost.
func (n *node) judgeCapacity(memory, cpu quantity) {
	ki, err := strconv.Atoi(strings.ReplaceAll(memory.text, "Ki", ""))
	if err == nil {
		n.memory = ki / 1024
	}
	if memory.seen && (err != nil || !strings.HasSuffix(memory.text, "Ki")) {
		n.decoding.add(NodeMemory)
	}
	if n.cpu, err = strconv.Atoi(cpu.text); err != nil {
		n.cpu = 0
		if cpu.seen {
			n.decoding.add(NodeCPU)
		}
	}
}

func isPrefix(text string) bool {
	_, err := netip.ParsePrefix(text)
	return err == nil
}

// parseNetwork reads a network or a single address; the result is invalid for everything else.
func parseNetwork(text string) netip.Prefix {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked()
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a.WithZone(""), a.BitLen())
	}
	return netip.Prefix{}
}

// template reads spec of a workload or ReplicaSet. The selectable labels are completed by finishTemplate.
func (d *decoder) template(t *template, labels *[]label) {
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case "replicas":
			t.replicas = d.integer()
		case "template":
			d.scanner.object(func(key []byte) {
				switch string(key) {
				case "metadata":
					d.scanner.object(func(key []byte) {
						if string(key) == "labels" {
							*labels, _ = readLabels(&d.scanner)
							return
						}
						d.skip()
					})
				case "spec":
					d.podSpec(t)
				default:
					d.skip()
				}
			})
		default:
			d.skip()
		}
	})
}

func (d *decoder) podSpec(t *template) {
	var env, volumes []configMapRef
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case "hostNetwork":
			t.host = d.boolean()
		case "containers":
			d.array(func(int) {
				d.scanner.object(func(key []byte) {
					switch string(key) {
					case "ports":
						d.array(func(int) { d.containerPort(t) })
					case "env":
						d.array(func(int) {
							if ref, ok := d.envRef(); ok {
								env = append(env, ref)
							}
						})
					default:
						d.skip()
					}
				})
			})
		case "volumes":
			d.array(func(int) {
				d.scanner.object(func(key []byte) {
					if string(key) != "configMap" {
						d.skip()
						return
					}
					d.scanner.object(func(key []byte) {
						if string(key) == "name" {
							volumes = append(volumes, configMapRef{name: d.text()})
							return
						}
						d.skip()
					})
				})
			})
		default:
			d.skip()
		}
	})
	t.ports = distinctPorts(t.ports)
	refs := append(env, volumes...)
	seen := make(map[configMapRef]struct{}, len(refs))
	for _, ref := range refs {
		if _, again := seen[ref]; ref.name != "" && !again {
			seen[ref] = struct{}{}
			t.refs = append(t.refs, ref)
		}
	}
}

// distinctPorts keeps the last port of each name, in the place of the first one.
func distinctPorts(ports []containerPort) []containerPort {
	if len(ports) < 2 {
		return ports
	}
	at := make(map[string]int, len(ports))
	out := ports[:0]
	for _, p := range ports {
		if i, again := at[p.name]; again {
			out[i] = p
			continue
		}
		at[p.name] = len(out)
		out = append(out, p)
	}
	return out
}

func (d *decoder) containerPort(t *template) {
	var p containerPort
	d.scanner.object(func(key []byte) {
		switch string(key) {
		case "name":
			p.name = d.text()
		case "containerPort":
			p.port = d.integer()
		default:
			d.skip()
		}
	})
	if p.name != "" {
		t.ports = append(t.ports, p)
	}
}

// envRef reads valueFrom.configMapKeyRef. The server asks for its key Name; the one that Kubernetes writes is name.
func (d *decoder) envRef() (ref configMapRef, ok bool) {
	var read, written string
	d.scanner.object(func(key []byte) {
		if string(key) != "valueFrom" {
			d.skip()
			return
		}
		d.scanner.object(func(key []byte) {
			if string(key) != "configMapKeyRef" {
				d.skip()
				return
			}
			d.scanner.object(func(key []byte) {
				switch string(key) {
				case "Name":
					read = d.text()
				case "name":
					written = d.text()
				default:
					d.skip()
				}
			})
		})
	})
	if read != "" {
		return configMapRef{name: read}, true
	}
	return configMapRef{name: written, env: true}, written != ""
}

func (d *decoder) workload(wire string) entity {
	w := &workload{}
	var labels []label
	if bad := d.top(true, func(key []byte) {
		if string(key) == "spec" {
			d.template(&w.template, &labels)
			return
		}
		d.skip()
	}); bad != nil {
		return bad
	}
	w.object = d.object
	k := workloadKinds[wire]
	keys := selectable(nil, labels, wire != wireReplication)
	rendered := labels
	mode := 1
	switch wire {
	case wireReplication:
		mode = 0
	default:
		keys = selectable(keys, d.meta.labels, false)
		rendered = d.meta.labels
		if w.template.host {
			mode = 2
		}
	}
	w.template.label = intern(render(rendered))
	w.template.selectable = compact(keys)
	w.group = group{uid: w.uid, id: w.id, rank: k.rank, typ: k.typ, kind: wire, name: w.name, mode: mode}
	return w
}

func compact(keys []string) []string {
	slices.Sort(keys)
	return slices.Clip(slices.Compact(keys))
}

func (d *decoder) replicaSet() entity {
	r := &replicaSet{}
	var labels []label
	if bad := d.top(true, func(key []byte) {
		if string(key) == "spec" {
			d.template(&r.template, &labels)
			return
		}
		d.skip()
	}); bad != nil {
		return bad
	}
	r.object = d.object
	r.ownerUID = d.meta.ownerUID
	r.template.label = intern(render(d.meta.labels))
	r.template.selectable = compact(selectable(nil, labels, true))
	name := r.name
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		name = name[:i]
	}
	r.own = group{
		uid: r.uid, id: r.id, rank: rankReplicaSet, typ: typeReplicaSet, kind: wireReplicaSet, name: name, noPorts: true,
	}
	return r
}

func (d *decoder) configMap() entity {
	c := &configMap{}
	if bad := d.top(true, func(key []byte) {
		if string(key) == "data" {
			c.size = len(d.raw())
			return
		}
		d.skip()
	}); bad != nil {
		return bad
	}
	c.object = d.object
	c.created = d.meta.created
	return c
}

// podStatus is what is read of a Pod's status before it is judged.
type podStatus struct {
	hostIP, podIP string
	judged        bool // a condition of type Ready was seen
	networks      bool // podNetworks has elements
	ids           []string
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
	} else if f.podIP != "" {
		p.ipText = f.podIP
		p.decoding.add(CrashPodIP)
	} else {
		p.decoding.add(PodNoIP)
	}
	if f.hostIP == "" {
		p.decoding.add(PodNotScheduled)
	}
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
	} else if d.options.Mapper != nil {
		mapping, ok := d.options.Mapper.Map(m.raw)
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

// WorkloadTypes are the types, in lower case, that a Mapping may have.
func WorkloadTypes() []string {
	return slices.Sorted(maps.Keys(pluginTypes))
}

// KnownWorkloadType tells whether a Mapping may have this type, whose case does not matter.
func KnownWorkloadType(typ string) bool {
	_, ok := pluginTypes[strings.ToLower(typ)]
	return ok
}
