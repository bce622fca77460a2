package inventory

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Fact is one value that deepflow-server gets out of an object.
type Fact struct {
	Name  string          `json:"name"`  // as in the lists
	Value json.RawMessage `json:"value"` // as in the lists
	From  string          `json:"from"`  // the fields of the object, or of others, that it is read from
}

// metaFrom are the sources that all kinds share.
var metaFrom = map[string]string{
	"uid": "metadata.uid", "namespace": "metadata.namespace", "name": "metadata.name", "label": "metadata.labels", "created": "metadata.creationTimestamp",
}

// factsFrom are the other sources by type and name.
var factsFrom = map[reflect.Type]map[string]string{
	reflect.TypeFor[Node](): {
		"role": "metadata.labels", "state": "status.conditions",
		"address": "status.addresses: the first InternalIP", "pod_cidr": "spec.podCIDR", "cpus": "status.capacity.cpu", "memory_mib": "status.capacity.memory",
		"pods": "status.hostIP of Pods",
	},
	reflect.TypeFor[Namespace](): {},
	reflect.TypeFor[Workload](): {
		"type": "the kind", "source": "the kind, or a Pod's owner or plugin", "replicas": "spec.replicas", "pods": "metadata.ownerReferences of Pods and ReplicaSets",
		"network_mode": "spec.template.spec.hostNetwork", "services": "spec.selector of Services, metadata.labels and spec.template.metadata.labels",
		"config_maps": "spec.template.spec.volumes",
	},
	reflect.TypeFor[ReplicaSet](): {
		"replicas": "spec.replicas", "pods": "metadata.ownerReferences of Pods", "workload": "metadata.ownerReferences[0].uid",
	},
	reflect.TypeFor[Pod](): {
		"state": "status.conditions: Ready", "node": "status.hostIP", "workload": "metadata.ownerReferences[0].uid", "replica_set": "metadata.ownerReferences[0].uid",
		"service": "spec.selector of Services", "addresses": "status.podIP", "containers": "status.containerStatuses", "plugin": "the plugin's answer for metadata",
	},
	reflect.TypeFor[Service](): {
		"type": "spec.type", "cluster_ip": "spec.clusterIP", "external_ip": "status.loadBalancer.ingress", "selector": "spec.selector",
		"ports": "spec.ports, and container ports of the workloads", "workloads": "spec.selector and the labels of workloads", "ingress": "backends of Ingresses",
	},
	reflect.TypeFor[Ingress]():   {"rules": "spec.rules and spec.defaultBackend, with the ports of Services; of a Route spec.host and spec.to"},
	reflect.TypeFor[ConfigMap](): {"data_bytes": "data", "workloads": "spec.template.spec.volumes of workloads"},
}

// Facts returns what the server gets out of an entry, nothing if it does not show it. The errors are those of encoding.
func (inv *Inventory) Facts(wire, namespace, name, uid string) ([]Fact, error) {
	row := inv.Row(wire, namespace, name, uid)
	if row == nil {
		return []Fact{}, nil
	}
	v := reflect.ValueOf(row)
	out := make([]Fact, 0, v.NumField())
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("facts") == "-" {
			continue // nothing that the server gets
		}
		key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		value, err := json.Marshal(v.Field(i).Interface())
		if err != nil {
			return nil, fmt.Errorf("encode %s of %s %s: %w", key, wire, name, err)
		}
		from := factsFrom[v.Type()][key]
		if from == "" {
			from = metaFrom[key]
		}
		out = append(out, Fact{Name: key, Value: value, From: from})
	}
	return out, nil
}

// Row returns the row of an entry in the list of its kind; nil if the server does not show it.
func (inv *Inventory) Row(wire, namespace, name, uid string) any {
	f := Filter{Namespace: namespace, Name: name}
	switch wire {
	case wirePod:
		return rowOf(inv.Pods(f), uid, func(r Pod) string { return r.UID })
	case wireNode:
		return rowOf(inv.Nodes(f), uid, func(r Node) string { return r.UID })
	case wireNamespace:
		return rowOf(inv.Namespaces(f), uid, func(r Namespace) string { return r.UID })
	case wireReplicaSet:
		return rowOf(inv.ReplicaSets(f), uid, func(r ReplicaSet) string { return r.UID })
	case wireService, wireServiceRule:
		return rowOf(inv.Services(f), uid, func(r Service) string { return r.UID })
	case wireIngress, wireRoute, wireOldIngress:
		return rowOf(inv.Ingresses(f), uid, func(r Ingress) string { return r.UID })
	case wireConfigMap:
		return rowOf(inv.ConfigMaps(f), uid, func(r ConfigMap) string { return r.UID })
	default:
		if _, ok := workloadKinds[wire]; ok {
			return rowOf(inv.Workloads(f), uid, func(r Workload) string { return r.UID })
		}
		return nil
	}
}

func rowOf[T any](list []T, uid string, of func(T) string) any {
	for _, r := range list {
		if of(r) == uid {
			return r
		}
	}
	return nil
}
