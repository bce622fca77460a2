package inventory

import (
	"encoding/json"
	"math"
	"slices"
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

const (
	rankSynthetic  = 5
	rankReplicaSet = 7
)

const (
	inPlaceSet        = "InPlaceSet"
	nativeNameLabel   = "virtual-kubelet.io/provider-cluster-native-name"
	rancherAnnotation = "field.cattle.io/targetWorkloadIds"
	openGaussSelector = "opengauss.cluster"
	networkStatus     = "k8s.v1.cni.cncf.io/network-status"
)

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
	networks             string // what the annotation says of attached networks
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
				switch string(key) {
				case rancherAnnotation:
					m.rancher, m.hasRancher = s.str()
				case networkStatus:
					m.networks = s.text()
				default:
					s.skip()
				}
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
