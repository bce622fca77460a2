package inventory_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// obj is a JSON object.
type obj = map[string]any

// cluster collects the entries of a made-up company's cluster. Everything that works is made by the methods below and
// by platforms; everything that is lost is made by troubles, one call for each loss, beside its expectation.
type cluster struct {
	entries []inventory.Change
	address int               // of the next Pod on the Pod network
	lost    []string          // expected findings: "Reason type namespace/name"
	objects map[string]string // namespace/name of Pods to uid, to find a duplicate in the generator itself
}

func (c *cluster) add(wire, uid string, o obj) {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	c.raw(wire, uid, string(b))
}

func (c *cluster) raw(wire, id, text string) {
	c.entries = append(c.entries, inventory.Change{Type: wire, ID: id, JSON: []byte(text)})
}

// loses notes an expected finding.
func (c *cluster) loses(r inventory.Reason, wire, name string) {
	c.lost = append(c.lost, fmt.Sprintf("%s %s %s", r, wire, name))
}

// meta splits "namespace/name"; a cluster-scoped name has no slash.
func meta(uid, name string, labels obj) obj {
	m := obj{"uid": uid, "name": name, "labels": labels}
	if ns, rest, ok := strings.Cut(name, "/"); ok {
		m["namespace"], m["name"] = ns, rest
	}
	return m
}

func (c *cluster) namespace(name string, labels obj) {
	c.add("*v1.Namespace", "ns-"+name, obj{"metadata": meta("ns-"+name, name, labels)})
}

// node i has the address 192.168.0.i and the Pod network 10.1.i.0/24.
func (c *cluster) node(i int, labels obj, change func(status obj)) {
	uid := fmt.Sprintf("node-%02d", i)
	status := obj{
		"addresses":  []any{obj{"type": "Hostname", "address": "x"}, obj{"type": "InternalIP", "address": fmt.Sprintf("192.168.0.%d", i)}},
		"conditions": []any{obj{"type": "Ready", "status": "True", "reason": "KubeletReady"}},
		"capacity":   obj{"cpu": "8", "memory": "16777216Ki"},
	}
	if change != nil {
		change(status)
	}
	c.add("*v1.Node", uid, obj{
		"metadata": meta(uid, fmt.Sprintf("n%d", i), labels), "spec": obj{"podCIDR": fmt.Sprintf("10.1.%d.0/24", i)}, "status": status,
	})
}

// workload has a container port http 8080 and the label app.
func (c *cluster) workload(wire, uid, name string, replicas int, change func(podSpec obj)) {
	labels := obj{"app": name[strings.Index(name, "/")+1:]}
	podSpec := obj{"containers": []any{obj{"name": "main", "ports": []any{obj{"name": "http", "containerPort": 8080}}}}}
	if change != nil {
		change(podSpec)
	}
	c.add(wire, uid, obj{"metadata": meta(uid, name, labels), "spec": obj{
		"replicas": replicas, "template": obj{"metadata": obj{"labels": labels}, "spec": podSpec},
	}})
}

func (c *cluster) replicaSet(uid, name, owner string, replicas int) {
	m := meta(uid, name, obj{"app": "x"})
	if owner != "" {
		m["ownerReferences"] = []any{obj{"kind": "Deployment", "uid": owner, "name": "x"}}
	}
	c.add("*v1.ReplicaSet", uid, obj{"metadata": m, "spec": obj{"replicas": replicas}})
}

// pod runs on node 1 + n%8 with an address of its own; change may rewrite everything.
func (c *cluster) pod(name, ownerKind, owner string, change func(m, status obj)) {
	uid := "pod-" + strings.ReplaceAll(name, "/", "-")
	if c.objects[name] != "" {
		panic("two Pods " + name)
	}
	c.objects[name] = uid
	c.address++
	n := 1 + c.address%8
	m := meta(uid, name, obj{"app": "x"})
	m["ownerReferences"] = []any{obj{"kind": ownerKind, "uid": owner, "name": "owner"}}
	m["creationTimestamp"] = "2026-11-20T09:00:00Z"
	status := obj{
		"hostIP": fmt.Sprintf("192.168.0.%d", n), "podIP": fmt.Sprintf("10.1.%d.%d", n, 1+c.address),
		"conditions":        []any{obj{"type": "Ready", "status": "True"}},
		"containerStatuses": []any{obj{"containerID": "containerd://" + uid}},
	}
	if change != nil {
		change(m, status)
	}
	c.add("*v1.Pod", uid, obj{"metadata": m, "status": status})
}

func (c *cluster) pods(n int, name, ownerKind, owner string) {
	for i := range n {
		c.pod(fmt.Sprintf("%s-%d", name, i), ownerKind, owner, nil)
	}
}

// service selects app=selects and has one port, 80.
func (c *cluster) service(wire, uid, name, selects string, targetPort any, change func(m, spec, status obj)) {
	m := meta(uid, name, obj{})
	spec := obj{"type": "ClusterIP", "clusterIP": "None", "selector": obj{"app": selects}, "ports": []any{
		obj{"name": "http", "port": 80, "protocol": "TCP", "targetPort": targetPort},
	}}
	status := obj{}
	if change != nil {
		change(m, spec, status)
	}
	c.add(wire, uid, obj{"metadata": m, "spec": spec, "status": status})
}

func path(service string, port obj) obj {
	return obj{"path": "/", "backend": obj{"service": obj{"name": service, "port": port}}}
}

func (c *cluster) ingress(uid, name string, paths ...any) {
	c.add("*v1.Ingress", uid, obj{"metadata": meta(uid, name, nil), "spec": obj{"rules": []any{obj{"host": "h.example", "http": obj{"paths": paths}}}}})
}

// platforms makes what works: 8 nodes, 6 namespaces and workloads of every platform.
func (c *cluster) platforms() {
	c.add("*version.Info", "version", obj{"gitVersion": "v1.36.0"})
	for i := 1; i <= 8; i++ {
		labels := obj{}
		if i == 1 {
			labels["node-role.kubernetes.io/control-plane"] = ""
		}
		c.node(i, labels, nil)
	}
	for _, ns := range []string{"shop", "data", "edge", "games", "infra"} {
		c.namespace(ns, nil)
	}
	c.namespace("remote", obj{"virtual-kubelet.io/provider-cluster-native-name": "paris"})

	for i := 1; i <= 12; i++ { // plain Kubernetes: Deployments with an old revision, a Service and an Ingress each
		name := fmt.Sprintf("shop/web%d", i)
		d, rs := fmt.Sprintf("dep-%d", i), fmt.Sprintf("rs-%d", i)
		c.workload("*v1.Deployment", d, name, 5, nil)
		c.replicaSet(rs, name+"-new", d, 5)
		c.replicaSet(rs+"-old", name+"-old", d, 0)
		c.loses(inventory.ReplicaSetInactive, "*v1.ReplicaSet", name+"-old")
		c.pods(5, name+"-new", "ReplicaSet", rs)
		c.service("*v1.Service", fmt.Sprintf("svc-%d", i), name, fmt.Sprintf("web%d", i), "http", func(_, spec, _ obj) {
			spec["clusterIP"] = fmt.Sprintf("10.96.0.%d", i)
		})
		c.ingress(fmt.Sprintf("ing-%d", i), name, path(fmt.Sprintf("web%d", i), obj{"number": 80}))
	}
	for i := 1; i <= 3; i++ { // databases behind headless Services
		name, uid := fmt.Sprintf("data/db%d", i), fmt.Sprintf("sts-%d", i)
		c.workload("*v1.StatefulSet", uid, name, 4, nil)
		c.pods(4, name, "StatefulSet", uid)
		c.service("*v1.Service", "svc-"+uid, name, fmt.Sprintf("db%d", i), "http", nil)
	}
	c.workload("*v1.ReplicationController", "rc", "data/rc", 2, nil)
	c.pods(2, "data/rc", "ReplicationController", "rc")

	c.add("*v1.OpenGaussCluster", "og", obj{"metadata": meta("og", "data/og", obj{}), "spec": obj{"replicas": 3}}) // openGauss
	c.pods(3, "data/og", "OpenGaussCluster", "og")
	c.service("*v1.Service", "svc-og", "data/og", "", 5432, func(_, spec, _ obj) { spec["selector"] = obj{"opengauss.cluster": "og"} })

	c.workload("*v1.DaemonSet", "ds", "infra/proxy", 0, nil) // on every node
	c.pods(8, "infra/proxy", "DaemonSet", "ds")
	c.workload("*v1.DaemonSet", "ds-host", "infra/exporter", 0, func(podSpec obj) { podSpec["hostNetwork"] = true })
	for i := 1; i <= 8; i++ {
		name := fmt.Sprintf("infra/exporter-%d", i)
		c.pod(name, "DaemonSet", "ds-host", func(_, status obj) {
			status["hostIP"] = fmt.Sprintf("192.168.0.%d", i)
			status["podIP"] = status["hostIP"]
		})
		c.loses(inventory.PodNodeIP, "*v1.Pod", name)
	}

	c.workload("*v1.CloneSet", "cs", "edge/cs", 4, nil) // OpenKruise
	c.pods(4, "edge/cs", "CloneSet", "cs")
	c.service("*v1.Service", "svc-cs", "edge/cs", "cs", "http", nil)
	c.workload("*v1.StatefulSet", "adv", "edge/adv", 3, nil)
	c.pods(3, "edge/adv", "StatefulSet", "adv")
	c.workload("*v1.StatefulSet", "plus", "edge/plus", 2, nil) // StatefulSetPlus of TKE
	c.pods(2, "edge/plus", "StatefulSetPlus", "plus")
	c.ingress("route-ok", "edge/route-ok", path("cs", obj{"number": 80})) // OpenShift Route in the shape of an Ingress
	for i := range 3 {                                                    // InPlaceSet: no object but its Pods
		c.pod(fmt.Sprintf("edge/inplace-%d", i), "InPlaceSet", "ips", func(m, _ obj) { m["labels"] = obj{"app": "inplace"} })
	}
	c.service("*v1.Service", "svc-ips", "edge/inplace", "inplace", 9090, nil)
	c.workload("*v1.Deployment", "ro-as", "edge/rollout-as", 2, nil) // an Argo Rollout reported as Deployment
	c.replicaSet("rs-ro-as", "edge/rollout-as-1", "ro-as", 2)
	c.pods(2, "edge/rollout-as-1", "ReplicaSet", "rs-ro-as")
	c.service("*v1.Service", "svc-rancher", "edge/rancher", "adv", 8080, func(m, _, _ obj) { // Rancher: by annotation, besides labels
		m["annotations"] = obj{"field.cattle.io/targetWorkloadIds": `["statefulset:edge:plus"]`}
	})
	c.service("*v1.ServiceRule", "rule", "edge/rule", "adv", "http", nil)

	for i := range 3 { // a game server operator, by plugin
		c.pod(fmt.Sprintf("games/arena-%d", i), "GameServerSet", "gss", func(m, _ obj) { m["labels"] = obj{"map": "statefulset.arena"} })
	}
	c.workload("*v1.Deployment", "vk", "remote/vk", 2, nil) // virtual kubelet
	c.pods(2, "remote/vk", "Deployment", "vk")
	c.add("*v1.ConfigMap", "cm", obj{"metadata": meta("cm", "shop/settings", nil), "data": obj{"k": "v"}})
}

// troubles makes every loss that leaves the cluster as a whole intact, at least once.
func (c *cluster) troubles() {
	loses := c.loses
	c.raw("*v1.Job", "job", `{"metadata":{"uid":"job","name":"nightly","namespace":"shop"}}`)
	loses(inventory.TypeNotRead, "*v1.Job", "shop/nightly")
	c.raw("*v1.Pod", "null", `null`)
	loses(inventory.NotAnObject, "*v1.Pod", "/")
	c.raw("*v1.Service", "list", `{"kind":"ServiceList","metadata":{},"items":[{}]}`)
	loses(inventory.ListInOneEntry, "*v1.Service", "/")
	c.raw("*v1.ConfigMap", "no-uid", `{"metadata":{"name":"a","namespace":"shop"}}`)
	loses(inventory.UIDMissing, "*v1.ConfigMap", "shop/a")
	c.raw("*v1.ConfigMap", "no-name", `{"metadata":{"uid":"no-name","namespace":"shop"}}`)
	loses(inventory.NameMissing, "*v1.ConfigMap", "shop/")
	c.raw("*v1.ConfigMap", "no-ns", `{"metadata":{"uid":"no-ns","name":"b"}}`)
	loses(inventory.NamespaceMissing, "*v1.ConfigMap", "/b")
	c.workload("*v1.Deployment", "dep-lost", "lost/web", 1, nil)
	loses(inventory.NamespaceUnknown, "*v1.Deployment", "lost/web")
	c.raw("*v1.ConfigMap", "cm-again", `{"metadata":{"uid":"cm","name":"settings","namespace":"shop"}}`)
	loses(inventory.UIDTwice, "*v1.ConfigMap", "shop/settings")

	c.node(9, nil, func(status obj) { delete(status, "addresses") })
	loses(inventory.NodeWithoutIP, "*v1.Node", "/n9")
	c.node(10, nil, func(status obj) { status["addresses"] = []any{obj{"type": "InternalIP", "address": "192.168.0.8"}} })
	loses(inventory.NodeIPTwice, "*v1.Node", "/n8")
	c.node(11, nil, func(status obj) {
		status["conditions"] = []any{obj{"type": "Ready", "status": "True"}}
		status["capacity"] = obj{"cpu": "3.5", "memory": "8Gi"}
	})
	loses(inventory.NodeState, "*v1.Node", "/n11")
	loses(inventory.NodeMemory, "*v1.Node", "/n11")
	loses(inventory.NodeCPU, "*v1.Node", "/n11")

	c.workload("*v1.Deployment", "dep-cm", "shop/configured", 1, func(podSpec obj) {
		podSpec["volumes"] = []any{obj{"configMap": obj{"name": "settings"}}, obj{"configMap": obj{"name": "missing"}}}
		podSpec["containers"] = []any{obj{"env": []any{obj{"valueFrom": obj{"configMapKeyRef": obj{"name": "settings", "key": "k"}}}}}}
	})
	loses(inventory.ConfigMapUnknown, "*v1.Deployment", "shop/configured")
	loses(inventory.ConfigMapEnv, "*v1.Deployment", "shop/configured")
	c.replicaSet("rs-orphan", "shop/orphan", "", 1)
	loses(inventory.ReplicaSetOrphan, "*v1.ReplicaSet", "shop/orphan")

	c.pod("shop/debug", "", "", func(m, _ obj) { delete(m, "ownerReferences") })
	loses(inventory.PodOrphan, "*v1.Pod", "shop/debug")
	c.pod("shop/two-owners", "Other", "other", func(m, _ obj) {
		m["ownerReferences"] = []any{obj{"kind": "Other", "uid": "other"}, obj{"kind": "ReplicaSet", "uid": "rs-1"}}
	})
	loses(inventory.PodOwnerNotFirst, "*v1.Pod", "shop/two-owners")
	c.pod("shop/nightly-1", "Job", "job", nil)
	loses(inventory.PodOwnerKind, "*v1.Pod", "shop/nightly-1")
	c.pod("shop/unknown-owner", "ReplicaSet", "rs-not-reported", nil)
	loses(inventory.PodOwnerUnknown, "*v1.Pod", "shop/unknown-owner")
	c.pod("shop/old-revision", "ReplicaSet", "rs-1-old", nil)
	loses(inventory.PodOwnerDropped, "*v1.Pod", "shop/old-revision")
	c.pod("games/batch", "GameServerSet", "gss", func(m, _ obj) { m["labels"] = obj{"map": "job.batch"} })
	loses(inventory.PodOwnerKind, "*v1.Pod", "games/batch")
	loses(inventory.PluginType, "*v1.Pod", "games/batch")

	// Seven more Pods of web1: kept, but something of them is lost.
	c.pod("shop/pending", "ReplicaSet", "rs-1", func(_, status obj) { clear(status) })
	loses(inventory.PodNotScheduled, "*v1.Pod", "shop/pending")
	loses(inventory.PodNoIP, "*v1.Pod", "shop/pending")
	c.pod("shop/elsewhere", "ReplicaSet", "rs-1", func(_, status obj) { status["hostIP"] = "192.0.2.9" })
	loses(inventory.PodNodeUnknown, "*v1.Pod", "shop/elsewhere")
	for _, name := range []string{"a-finished", "b-live"} {
		c.pod("shop/"+name, "ReplicaSet", "rs-1", func(_, status obj) { status["podIP"] = "10.1.1.250" })
	}
	loses(inventory.PodIPTaken, "*v1.Pod", "shop/a-finished")
	for i, ip := range []string{"172.16.0.5", "172.31.0.5", "fd00::5"} {
		c.pod(fmt.Sprintf("shop/outside-%d", i), "ReplicaSet", "rs-1", func(_, status obj) { status["podIP"] = ip })
	}
	loses(inventory.PodIPOutside, "*v1.Pod", "shop/outside-0")
	loses(inventory.PodIPOutside, "*v1.Pod", "shop/outside-1") // fd00::5 is alone in its family: it gets a network
	for _, name := range []string{"data/db1-10", "data/db1-100"} {
		c.pod(name, "StatefulSet", "sts-1", func(m, _ obj) { m["generateName"] = "db1-0" })
	}
	loses(inventory.PodIdentity, "*v1.Pod", "data/db1-100")

	c.serviceTroubles()
	c.ingressTroubles()
}

func (c *cluster) serviceTroubles() {
	trouble := func(r inventory.Reason, name, selects string, targetPort any, change func(m, spec, status obj)) {
		c.service("*v1.Service", "svc-"+name, "edge/"+name, selects, targetPort, change)
		c.loses(r, "*v1.Service", "edge/"+name)
	}
	trouble(inventory.ServiceSelector, "bad-selector", "", 80, func(_, spec, _ obj) { delete(spec, "selector") })
	trouble(inventory.ServiceType, "bad-type", "cs", 80, func(_, spec, _ obj) { spec["type"] = "ExternalName" })
	trouble(inventory.ServicePorts, "bad-ports", "cs", 80, func(_, spec, _ obj) { delete(spec, "ports") })
	trouble(inventory.ServiceNoWorkload, "bad-workload", "nobody", 80, nil)
	trouble(inventory.ServiceAnnotation, "bad-annotation", "cs", 80, func(m, _, _ obj) {
		m["annotations"] = obj{"field.cattle.io/targetWorkloadIds": "deployment:edge:cs"}
	})
	// The following five are kept.
	trouble(inventory.ServicePortName, "port-name", "cs", "grpc", nil)
	trouble(inventory.ServicePortString, "port-string", "cs", "8080", nil)
	trouble(inventory.ServicePortTarget, "port-target", "cs", nil, nil)
	c.add("*v1.ReplicaSet", "rs-ro", obj{
		"metadata": func() obj {
			m := meta("rs-ro", "edge/rollout-5d9c", obj{"app": "rollout"})
			m["ownerReferences"] = []any{obj{"kind": "Rollout", "uid": "ro", "name": "rollout"}}
			return m
		}(),
		"spec": obj{"replicas": 2, "template": obj{
			"metadata": obj{"labels": obj{"app": "rollout"}},
			"spec":     obj{"containers": []any{obj{"ports": []any{obj{"name": "http", "containerPort": 8080}}}}},
		}},
	})
	c.pods(2, "edge/rollout-5d9c", "ReplicaSet", "rs-ro")
	trouble(inventory.ServicePortWorkload, "port-workload", "rollout", "http", nil)
	trouble(inventory.LoadBalancerHost, "balancer", "cs", "http", func(_, spec, status obj) {
		spec["type"] = "LoadBalancer"
		status["loadBalancer"] = obj{"ingress": []any{obj{"ip": "198.51.100.1"}, obj{"hostname": "lb.example"}}}
	})
}

func (c *cluster) ingressTroubles() {
	c.ingress("ing-x1", "edge/no-backend", obj{"path": "/"})
	c.loses(inventory.IngressNoBackend, "*v1.Ingress", "edge/no-backend")
	c.ingress("ing-x2", "edge/no-service", path("bad-workload", obj{"number": 80}), path("port-name", obj{"number": 80}))
	c.loses(inventory.IngressService, "*v1.Ingress", "edge/no-service")
	c.ingress("ing-x3", "edge/no-port", path("inplace", obj{"name": "grpc"}))
	c.loses(inventory.IngressPort, "*v1.Ingress", "edge/no-port")
	c.ingress("ing-x4", "shop/second", path("web1", obj{"name": "http"}))
	c.loses(inventory.IngressTaken, "*v1.Ingress", "shop/second")
	c.add("*v1.Ingress", "route-raw", obj{"metadata": meta("route-raw", "edge/route-raw", nil), "spec": obj{
		"host": "r.example", "to": obj{"kind": "Service", "name": "rancher"}, "port": obj{"targetPort": "http"},
	}})
	c.loses(inventory.RoutePort, "*v1.Ingress", "edge/route-raw")
	c.add("*v1.Route", "route-typed", obj{"metadata": meta("route-typed", "edge/route-typed", nil), "spec": obj{"host": "r.example"}})
	c.loses(inventory.IngressNotRead, "*v1.Route", "edge/route-typed")
}

func company() *cluster {
	c := &cluster{objects: map[string]string{}}
	c.platforms()
	c.troubles()
	return c
}

// TestCompany compares with numbers and lists that were computed by hand from the generator above.
func TestCompany(t *testing.T) {
	c := company()
	if len(c.entries) < 200 {
		t.Fatalf("got %d objects, want a few hundred", len(c.entries))
	}
	inv := inventory.Build(inventory.Options{Mapper: labelMapper{}}, c.entries)
	all := inventory.Filter{}
	sum := inv.Summary()
	if !sum.OK || sum.Version != "Kubernetes v1.36.0" {
		t.Errorf("got %v, %q, failures %+v, want OK", sum.OK, sum.Version, sum.Failures)
	}
	var got []string
	for _, f := range inv.Findings(all) {
		got = append(got, fmt.Sprintf("%s %s %s/%s", f.Reason, f.Type, f.Namespace, f.Name))
	}
	slices.Sort(got)
	slices.Sort(c.lost)
	if d := cmp.Diff(c.lost, got); d != "" {
		t.Errorf("findings differ (-want +got):\n%s", d)
	}
	want := inventory.Counts{
		Nodes:         10, // n1 … n8, n10, n11
		NodeAddresses: 9,  // n8 and n10 share one
		Namespaces:    6,
		// 12 web, configured, rollout-as, vk; 3 db, adv, plus; og; 2 DaemonSets; cs; inplace, arena; rc; rollout-5d9c
		Workloads:   15 + 5 + 1 + 2 + 1 + 2 + 1 + 1,
		ReplicaSets: 12 + 1 + 1, // web…-new, rollout-as-1, rollout-5d9c
		// web; db; rc; og; DaemonSets; cs, adv, plus, inplace, rollout-as, arena, vk; troubles of web1, of db1; rollout-5d9c
		Pods: 60 + 12 + 2 + 3 + 16 + 4 + 3 + 2 + 3 + 2 + 3 + 2 + 7 + 2 + 2,
		// all but 8 on the host network, pending, a-finished, outside-0 and -1
		PodAddresses: 123 - 8 - 1 - 1 - 2,
		// outside-0 and -1 have an interface without address; the Pods of one identity share one
		PodInterfaces: 111 + 2 - 1,
		// web, db, og, cs, inplace, rancher, rule; port-name, port-string, port-target, port-workload, balancer
		Services: 12 + 3 + 1 + 1 + 1 + 1 + 1 + 5,
		// all of these but the four of which the port is lost
		ServicePorts:     25 - 4,
		ServiceAddresses: 12,     // web; all others are headless
		WorkloadPorts:    21 + 1, // rancher has two workloads
		// web, route-ok, no-backend, no-service, no-port, second, route-raw
		Ingresses:       12 + 1 + 1 + 1 + 1 + 1 + 1,
		IngressRules:    18,
		IngressBackends: 12 + 1 + 1, // web, route-ok, second
		ConfigMaps:      2,          // settings, twice
		ConfigMapLinks:  1,          // configured → settings, by volume
	}
	if d := cmp.Diff(want, sum.Counts); d != "" {
		t.Errorf("counts differ (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"10.1.0.0/20", "fd00::5/128"}, sum.Networks); d != "" {
		t.Errorf("networks differ (-want +got):\n%s", d)
	}
	checkCompanyObjects(t, inv)
}

func checkCompanyObjects(t *testing.T, inv *inventory.Inventory) {
	t.Helper()
	workloads := map[string]string{}
	for _, w := range inv.Workloads(inventory.Filter{}) {
		workloads[w.Ref()] = fmt.Sprintf("%d of %d, mode %d, %q, services %v, config maps %v", w.Pods, w.Replicas, w.Network, w.Label, w.Services, w.ConfigMaps)
	}
	for ref, want := range map[string]string{
		"Deployment/shop/web1":              `12 of 5, mode 1, "app:web1", services [shop/web1], config maps []`,
		"Deployment/shop/web12":             `5 of 5, mode 1, "app:web12", services [shop/web12], config maps []`,
		"Deployment/shop/configured":        `0 of 1, mode 1, "app:configured", services [], config maps [settings]`,
		"StatefulSet/data/db1":              `6 of 4, mode 1, "app:db1", services [data/db1], config maps []`,
		"StatefulSet/data/og":               `3 of 3, mode 1, "", services [data/og], config maps []`,
		"RC/data/rc":                        `2 of 2, mode 0, "app:rc", services [], config maps []`,
		"DaemonSet/infra/exporter":          `8 of 0, mode 2, "app:exporter", services [], config maps []`,
		"CloneSet/edge/cs":                  `4 of 4, mode 1, "app:cs", services [edge/balancer edge/cs], config maps []`,
		"StatefulSet/edge/adv":              `3 of 3, mode 1, "app:adv", services [edge/rancher edge/rule], config maps []`,
		"StatefulSet/edge/plus":             `2 of 2, mode 1, "app:plus", services [edge/rancher], config maps []`,
		"Deployment/edge/owner":             `3 of 0, mode 1, "app:inplace", services [edge/inplace], config maps []`,
		"Deployment/edge/rollout-as":        `2 of 2, mode 1, "app:rollout-as", services [], config maps []`,
		"ReplicaSetController/edge/rollout": `2 of 2, mode 0, "app:rollout", services [], config maps []`,
		"StatefulSet/games/arena":           `3 of 0, mode 1, "map:statefulset.arena", services [], config maps []`,
		"Deployment/remote/vk":              `2 of 2, mode 1, "app:vk", services [], config maps []`,
	} {
		if got := workloads[ref]; got != want {
			t.Errorf("%s: got %s, want %s", ref, got, want)
		}
	}
	pods := map[string]string{}
	for _, p := range inv.Pods(inventory.Filter{}) {
		pods[p.Namespace+"/"+p.Name] = strings.Join([]string{p.State, p.Node, p.Workload, p.ReplicaSet, p.Service, p.Plugin, p.Label, strings.Join(p.Addresses, "+")}, "|")
	}
	for name, want := range map[string]string{
		"shop/web1-new-0":  "RUNNING|n2|Deployment/shop/web1|web1-new|shop/web1||app:x|10.1.2.2",
		"shop/pending":     "EXCEPTION||Deployment/shop/web1|web1-new|shop/web1||app:x|",
		"shop/b-live":      "RUNNING|" + nodeOf(inv, "shop/b-live") + "|Deployment/shop/web1|web1-new|shop/web1||app:x|10.1.1.250",
		"infra/exporter-8": "RUNNING|n10|DaemonSet/infra/exporter||||app:x|", // n10 took the address of n8
		"games/arena-0":    "RUNNING|" + nodeOf(inv, "games/arena-0") + "|StatefulSet/games/arena|||labels|map:statefulset.arena|" + addressOf(inv, "games/arena-0"),
		"remote/vk-0":      "RUNNING|" + nodeOf(inv, "remote/vk-0") + "|Deployment/remote/vk||||app:x, virtual-kubelet.io/provider-cluster-native-name:paris|" + addressOf(inv, "remote/vk-0"),
		"edge/cs-0":        "RUNNING|" + nodeOf(inv, "edge/cs-0") + "|CloneSet/edge/cs||edge/balancer||app:x|" + addressOf(inv, "edge/cs-0"), // by uid svc-balancer
		"shop/outside-2":   "RUNNING|" + nodeOf(inv, "shop/outside-2") + "|Deployment/shop/web1|web1-new|shop/web1||app:x|fd00::5",
		"edge/rollout-5d9c-1": "RUNNING|" + nodeOf(inv, "edge/rollout-5d9c-1") + "|ReplicaSetController/edge/rollout|rollout-5d9c|||app:x|" +
			addressOf(inv, "edge/rollout-5d9c-1"),
	} {
		if got := pods[name]; got != want {
			t.Errorf("Pod %s: got %s, want %s", name, got, want)
		}
	}
	services := map[string]string{}
	for _, s := range inv.Services(inventory.Filter{Namespace: "edge"}) {
		services[s.Name] = fmt.Sprintf("%v %v %q %q", s.Ports, s.Workloads, s.Ingress, s.External)
	}
	for name, want := range map[string]string{
		"cs":            `[{http TCP 80 8080 0}] [CloneSet/edge/cs] "edge/route-ok" ""`,
		"rancher":       `[{http TCP 80 8080 0}] [StatefulSet/edge/adv StatefulSet/edge/plus] "edge/route-raw" ""`,
		"inplace":       `[{http TCP 80 9090 0}] [Deployment/edge/owner] "edge/no-port" ""`,
		"port-workload": `[] [ReplicaSetController/edge/rollout] "" ""`,
		"balancer":      `[{http TCP 80 8080 0}] [CloneSet/edge/cs] "" "198.51.100.1, "`,
	} {
		if services[name] != want {
			t.Errorf("Service %s: got %s, want %s", name, services[name], want)
		}
	}
}

// nodeOf and addressOf take from the report what the generator gives by counting.
func nodeOf(inv *inventory.Inventory, name string) string { return podNamed(inv, name).Node }

func addressOf(inv *inventory.Inventory, name string) string {
	return strings.Join(podNamed(inv, name).Addresses, "+")
}

func podNamed(inv *inventory.Inventory, name string) inventory.Pod {
	ns, rest, _ := strings.Cut(name, "/")
	if list := inv.Pods(inventory.Filter{Namespace: ns, Name: rest}); len(list) == 1 {
		return list[0]
	}
	return inventory.Pod{}
}

// TestCompanyFailures spoils the sound cluster in every way that makes the real server fail as a whole or crash: it is
// named, alone, and gone when the cause is gone.
func TestCompanyFailures(t *testing.T) {
	change := func(wire, id, text string) []inventory.Change {
		return []inventory.Change{{Type: wire, ID: id, JSON: []byte(text)}}
	}
	node := func(address, cidr string) []inventory.Change {
		return change("*v1.Node", "x", fmt.Sprintf(`{"metadata":{"uid":"x","name":"x"},"spec":{"podCIDR":%q},"status":{"addresses":[{"type":"InternalIP","address":%q}]}}`, cidr, address))
	}
	pod := func(ns, rest, status string) []inventory.Change {
		owner := map[string]string{"shop": "dep-1", "remote": "vk"}[ns]
		return change("*v1.Pod", "x", fmt.Sprintf(`{"metadata":{"uid":"x","name":"x","namespace":%q%s,"ownerReferences":[{"kind":"Deployment","uid":%q}]},"status":{%s}}`, ns, rest, owner, status))
	}
	c := company()
	byID := map[string]inventory.Change{}
	var nodes []inventory.Change
	for _, e := range c.entries {
		byID[e.Type+" "+e.ID] = e
		if e.Type == "*v1.Node" {
			nodes = append(nodes, inventory.Change{Type: e.Type, ID: e.ID})
		}
	}
	seen := map[inventory.Reason]bool{}
	for _, x := range []struct {
		reason inventory.Reason
		scope  inventory.Scope
		spoil  []inventory.Change
	}{
		{inventory.VersionMissing, inventory.ScopeCluster, []inventory.Change{{Type: "*version.Info", ID: "version"}}},
		{inventory.GitVersionMissing, inventory.ScopeCluster, change("*version.Info", "version", `{"major":"1"}`)},
		{inventory.NoNodes, inventory.ScopeCluster, nodes},
		{inventory.BrokenEntry, inventory.ScopeCluster, change("*v1.Service", "x", `{"metadata":`)},
		{inventory.BrokenEntry, inventory.ScopeCluster, change("*v1.Pod", "x", ``)},
		{inventory.NodeIPInvalid, inventory.ScopeCluster, node("10.0.0.999", "")},
		{inventory.CrashNodeIP, inventory.ScopeCrash, node("localhost", "")},
		{inventory.CrashNodeIP, inventory.ScopeCrash, node("10.0.0.1/24", "")},
		{inventory.PodCIDRInvalid, inventory.ScopeCluster, node("192.168.0.99", "10.1.0.0/99")},
		{inventory.ClusterIPInvalid, inventory.ScopeCluster, change("*v1.Service", "x", `{"metadata":{"uid":"x","name":"x","namespace":"edge"},"spec":{"type":"ClusterIP","clusterIP":"10.96.0.300","selector":{"app":"cs"},"ports":[{"port":80,"targetPort":80}]}}`)},
		{inventory.CrashPodIP, inventory.ScopeCrash, pod("shop", "", `"podIP":"10.1.1.1/32","hostIP":"192.168.0.1"`)},
		{inventory.CrashPodNetworks, inventory.ScopeCrash, pod("shop", "", `"podNetworks":[{"ip":["10.9.0.1"]}]`)},
		{inventory.CrashPodLabels, inventory.ScopeCrash, pod("remote", "", ``)},
	} {
		seen[x.reason] = true
		inv := inventory.Build(inventory.Options{Mapper: labelMapper{}}, c.entries)
		before := stateOf(inv)
		inv.Apply(x.spoil)
		sum := inv.Summary()
		if sum.OK || len(sum.Failures) != 1 || sum.Failures[0].Reason != x.reason || sum.Failures[0].Scope != x.scope {
			t.Errorf("%s: got OK %v, failures %+v", x.reason, sum.OK, sum.Failures)
		}
		var fix []inventory.Change
		for _, s := range x.spoil {
			old, ok := byID[s.Type+" "+s.ID]
			if !ok {
				old = inventory.Change{Type: s.Type, ID: s.ID}
			}
			fix = append(fix, old)
		}
		inv.Apply(fix)
		if d := cmp.Diff(before, stateOf(inv)); d != "" {
			t.Errorf("%s: fixing leaves a difference (-before +after):\n%s", x.reason, d)
		}
	}
	if f := inventory.New(inventory.Options{}).Summary().Failures; len(f) != 1 || f[0].Reason != inventory.NoEntries {
		t.Errorf("got %+v of nothing, want NoEntries", f)
	}
	seen[inventory.NoEntries] = true
	seen[inventory.ServiceTooMany] = true // by TestTooManyBindings
	seen[inventory.NodeOrder] = true      // by TestNodeOrder
	for _, line := range c.lost {
		reason, _, _ := strings.Cut(line, " ")
		seen[inventory.Reason(reason)] = true
	}
	for _, r := range inventory.Reasons() {
		if !seen[r.Reason] {
			t.Errorf("no object of the company is lost by %s", r.Reason)
		}
	}
	if len(seen) != len(inventory.Reasons()) {
		t.Errorf("got reasons %v, want those of the catalogue", slices.Sorted(maps.Keys(seen)))
	}
}
