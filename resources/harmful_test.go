package resources

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

// checkUnderstood holds a projection against everything that docs/protocol.md, section 6, calls harmful or not understood. It
// knows nothing of the rules that the projector follows.
func checkUnderstood(t *testing.T, wireType string, out []byte) {
	t.Helper()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s in %s", fmt.Sprintf(format, args...), out)
	}
	var o map[string]any
	if err := decodeEntry(out, &o); err != nil {
		fail("no JSON object: %v", err)
		return
	}
	meta, spec, status := asDoc(o["metadata"]), asDoc(o["spec"]), asDoc(o["status"])
	if asText(meta["uid"]) == "" || asText(meta["name"]) == "" {
		fail("no uid or name")
	}
	for _, k := range []string{"managedFields", "resourceVersion", "generation", "selfLink", "generateName"} {
		if _, ok := meta[k]; ok {
			fail("metadata.%s", k)
		}
	}
	if bytes.Contains(out, []byte("last-applied-configuration")) {
		fail("a last-applied configuration")
	}
	if bytes.Contains(out, []byte(":null")) {
		fail("a member that is null")
	}
	isIP := func(v any) bool {
		a, err := netip.ParseAddr(asText(v))
		return err == nil && a.Zone() == ""
	}
	owners := asList(meta["ownerReferences"])
	for i, owner := range owners {
		if asDoc(owner)["controller"] == true && i > 0 && asDoc(owners[0])["controller"] != true {
			fail("the controlling owner is not the first")
		}
	}
	switch wireType {
	case "*v1.Pod":
		if _, ok := meta["labels"].(map[string]any); !ok {
			fail("no labels")
		}
		if _, ok := status["podNetworks"]; ok {
			fail("podNetworks")
		}
		for _, k := range []string{"podIP", "hostIP"} {
			if v, ok := status[k]; ok && !isIP(v) {
				fail("%s %v", k, v)
			}
		}
		for _, c := range asList(status["conditions"]) {
			if asDoc(c)["type"] != "Ready" || len(asDoc(c)) != 2 {
				fail("condition %v", c)
			}
		}
		for _, c := range asList(status["containerStatuses"]) {
			if len(asDoc(c)) != 1 || asText(asDoc(c)["containerID"]) == "" {
				fail("container status %v", c)
			}
		}
	case "*v1.Node":
		for _, a := range asList(status["addresses"]) {
			if m := asDoc(a); m["type"] != "InternalIP" && m["type"] != "ExternalIP" || !isIP(m["address"]) {
				fail("address %v", a)
			}
		}
		if v, ok := spec["podCIDR"]; ok {
			if _, err := netip.ParsePrefix(asText(v)); err != nil {
				fail("podCIDR %v", v)
			}
		}
		for k, pattern := range map[string]string{"memory": `^[0-9]+Ki$`, "cpu": `^[0-9]+$`} {
			if v, ok := asDoc(status["capacity"])[k]; ok && !regexp.MustCompile(pattern).MatchString(asText(v)) {
				fail("capacity.%s %v", k, v)
			}
		}
		for _, c := range asList(status["conditions"]) {
			if m := asDoc(c); (m["reason"] == "KubeletReady") != (m["status"] == "True") {
				fail("condition %v", c)
			}
		}
	case "*v1.Service", "*v1.ServiceRule":
		if v, ok := spec["clusterIP"]; ok && v != "None" && !isIP(v) {
			fail("clusterIP %v", v)
		}
		for _, p := range asList(spec["ports"]) {
			m, ok := p.(map[string]any)
			target, isText := m["targetPort"].(string)
			if ok && isText && (target == "" || strings.Trim(target, "0123456789") == "" && port(target) > 0) || ok && m["targetPort"] == nil && port(m["port"]) > 0 {
				fail("port %v", p)
			}
		}
		for _, p := range asList(asDoc(status["loadBalancer"])["ingress"]) {
			if !isIP(asDoc(p)["ip"]) {
				fail("load balancer point %v", p)
			}
		}
	case "*v1.ReplicaSet":
		if n, ok := spec["replicas"].(json.Number); !ok || n == "0" || len(owners) == 0 {
			fail("no replicas or owner")
		}
	case "*v1.StatefulSetPlus", "*v1.Route", "*v1beta1.Ingress":
		fail("wire type %s", wireType)
	}
}

// Whatever a real apiserver can return, in each harmful form, and what becomes of it.
func TestHarmfulForms(t *testing.T) {
	const meta = `"metadata":{"name":"a","uid":"u","namespace":"n"`
	tests := []struct {
		name, kind, in string
		path, want     string // want "" means that nothing is at the path
	}{
		{"generateName", "pods", `{` + meta + `,"generateName":"a-"}}`, "metadata.generateName", ""},
		{"podNetworks", "pods", `{` + meta + `},"status":{"podNetworks":[{"name":"x"}]}}`, "status.podNetworks", ""},
		{"podIP a word", "pods", `{` + meta + `},"status":{"podIP":"pending"}}`, "status.podIP", ""},
		{"podIP empty", "pods", `{` + meta + `},"status":{"podIP":""}}`, "status.podIP", ""},
		{"podIP null", "pods", `{` + meta + `},"status":{"podIP":null}}`, "status.podIP", ""},
		{"podIP a number", "pods", `{` + meta + `},"status":{"podIP":10}}`, "status.podIP", ""},
		{"podIP too large", "pods", `{` + meta + `},"status":{"podIP":"10.0.0.999"}}`, "status.podIP", ""},
		{"podIP too short", "pods", `{` + meta + `},"status":{"podIP":"10.0.0"}}`, "status.podIP", ""},
		{"podIP too long", "pods", `{` + meta + `},"status":{"podIP":"10.0.0.1.2"}}`, "status.podIP", ""},
		{"podIP ends with a dot", "pods", `{` + meta + `},"status":{"podIP":"10.0.0.1."}}`, "status.podIP", ""},
		{"podIP with leading zeros", "pods", `{` + meta + `},"status":{"podIP":"10.0.0.01"}}`, "status.podIP", ""},
		{"podIP with a mask", "pods", `{` + meta + `},"status":{"podIP":"10.0.0.1/32"}}`, "status.podIP", ""},
		{"podIP with a port", "pods", `{` + meta + `},"status":{"podIP":"10.0.0.1:80"}}`, "status.podIP", ""},
		{"podIP with a space", "pods", `{` + meta + `},"status":{"podIP":" 10.0.0.1"}}`, "status.podIP", ""},
		{"podIP with a zone", "pods", `{` + meta + `},"status":{"podIP":"fe80::1%eth0"}}`, "status.podIP", ""},
		{"podIP of IPv6", "pods", `{` + meta + `},"status":{"podIP":"fd00::1"}}`, "status.podIP", `"fd00::1"`},
		{"podIP of IPv4", "pods", `{` + meta + `},"status":{"podIP":"10.255.0.1","phase":"Running"}}`, "status.podIP", `"10.255.0.1"`},
		{"podIP written with escapes", "pods", `{` + meta + `},"status":{"podIP":"10\u002e0.0.1"}}`, "status.podIP", `"10.0.0.1"`},
		{"podIP of a succeeded Pod", "pods", `{` + meta + `},"status":{"podIP":"10.0.0.1","phase":"Succeeded"}}`, "status.podIP", ""},
		{"podIP of a failed Pod", "pods", `{` + meta + `},"status":{"phase":"Failed","podIP":"10.0.0.1"}}`, "status.podIP", ""},
		{"hostIP of a failed Pod", "pods", `{` + meta + `},"status":{"phase":"Failed","hostIP":"10.0.0.1"}}`, "status.hostIP", `"10.0.0.1"`},
		{"hostIP a word", "pods", `{` + meta + `},"status":{"hostIP":"node"}}`, "status.hostIP", ""},
		{"no labels", "pods", `{` + meta + `}}`, "metadata.labels", "{}"},
		{"labels null", "pods", `{` + meta + `,"labels":null}}`, "metadata.labels", "{}"},
		{"labels empty", "pods", `{` + meta + `,"labels":{}}}`, "metadata.labels", "{}"},
		{"no labels of a Deployment", "deployments", `{` + meta + `,"labels":{}}}`, "metadata.labels", ""},
		{
			"conditions", "pods", `{` + meta + `},"status":{"conditions":[{"type":"PodScheduled","status":"True"},{"type":"Ready","status":"False","reason":"ContainersNotReady"}]}}`,
			"status.conditions", `[{"status":"False","type":"Ready"}]`,
		},
		{"no Ready condition", "pods", `{` + meta + `},"status":{"conditions":[{"type":"PodScheduled","status":"True"}]}}`, "status.conditions", ""},
		{
			"container statuses", "pods", `{` + meta + `},"status":{"containerStatuses":[{"name":"a","state":{"waiting":{}}},{"name":"b","containerID":"x://1","state":{}}]}}`,
			"status.containerStatuses", `[{"containerID":"x://1"}]`,
		},
		{
			"controlling owner last", "pods", `{` + meta + `,"ownerReferences":[{"kind":"A","uid":"1","name":"x"},{"kind":"B","uid":"2","controller":true,"blockOwnerDeletion":true}]}}`,
			"metadata.ownerReferences", `[{"controller":true,"kind":"B","uid":"2"},{"kind":"A","name":"x","uid":"1"}]`,
		},
		{
			"no controlling owner", "pods", `{` + meta + `,"ownerReferences":[{"kind":"A","uid":"1"},{"kind":"B","uid":"2","controller":false}]}}`,
			"metadata.ownerReferences.0.kind", `"A"`,
		},
		{"no owners", "pods", `{` + meta + `,"ownerReferences":[]}}`, "metadata.ownerReferences", ""},

		{"InternalIP a word", "nodes", `{` + meta + `},"status":{"addresses":[{"type":"InternalIP","address":"node-1"}]}}`, "status.addresses", ""},
		{"InternalIP with a mask", "nodes", `{` + meta + `},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1/24"}]}}`, "status.addresses", ""},
		{
			"dual stack", "nodes", `{` + meta + `},"status":{"addresses":[{"type":"Hostname","address":"10.0.0.9"},{"address":"fd00::1","type":"InternalIP"},{"type":"InternalIP","address":"10.0.0.1"}]}}`,
			"status.addresses", `[{"address":"fd00::1","type":"InternalIP"}]`,
		},
		{
			"the first that is an address", "nodes", `{` + meta + `},"status":{"addresses":[{"type":"InternalIP","address":"x"},{"type":"InternalIP","address":"10.0.0.1"}]}}`,
			"status.addresses", `[{"address":"10.0.0.1","type":"InternalIP"}]`,
		},
		{"podCIDR without mask", "nodes", `{` + meta + `},"spec":{"podCIDR":"10.0.0.0"}}`, "spec.podCIDR", ""},
		{"podCIDR with a wide mask", "nodes", `{` + meta + `},"spec":{"podCIDR":"10.0.0.0/33"}}`, "spec.podCIDR", ""},
		{"podCIDR", "nodes", `{` + meta + `},"spec":{"podCIDR":"fd00::/64"}}`, "spec.podCIDR", `"fd00::/64"`},
		{"memory in Ki", "nodes", `{` + meta + `},"status":{"capacity":{"memory":"8388608Ki"}}}`, "status.capacity.memory", `"8388608Ki"`},
		{"memory in bytes", "nodes", `{` + meta + `},"status":{"capacity":{"memory":"8589934592"}}}`, "status.capacity.memory", `"8388608Ki"`},
		{"memory a number", "nodes", `{` + meta + `},"status":{"capacity":{"memory":8589934592}}}`, "status.capacity.memory", `"8388608Ki"`},
		{"memory in Mi", "nodes", `{` + meta + `},"status":{"capacity":{"memory":"8192Mi"}}}`, "status.capacity.memory", `"8388608Ki"`},
		{"memory in Gi", "nodes", `{` + meta + `},"status":{"capacity":{"memory":"1.5Gi"}}}`, "status.capacity.memory", `"1572864Ki"`},
		{"memory in k", "nodes", `{` + meta + `},"status":{"capacity":{"memory":"1024k"}}}`, "status.capacity.memory", `"1000Ki"`},
		{"memory with exponent", "nodes", `{` + meta + `},"status":{"capacity":{"memory":"1.024e6"}}}`, "status.capacity.memory", `"1000Ki"`},
		{"memory nonsense", "nodes", `{` + meta + `},"status":{"capacity":{"memory":"much"}}}`, "status.capacity.memory", ""},
		{"memory negative", "nodes", `{` + meta + `},"status":{"capacity":{"memory":"-1Ki"}}}`, "status.capacity.memory", ""},
		{"memory beyond numbers", "nodes", `{` + meta + `},"status":{"capacity":{"memory":"1e999999999"}}}`, "status.capacity.memory", ""},
		{"cpu", "nodes", `{` + meta + `},"status":{"capacity":{"cpu":"4"}}}`, "status.capacity.cpu", `"4"`},
		{"cpu in m", "nodes", `{` + meta + `},"status":{"capacity":{"cpu":"3920m"}}}`, "status.capacity.cpu", `"4"`},
		{"cpu fraction", "nodes", `{` + meta + `},"status":{"capacity":{"cpu":"3.5"}}}`, "status.capacity.cpu", `"4"`},
		{"cpu a number", "nodes", `{` + meta + `},"status":{"capacity":{"cpu":4}}}`, "status.capacity.cpu", `"4"`},
		{"cpu null", "nodes", `{` + meta + `},"status":{"capacity":{"cpu":null}}}`, "status.capacity", ""},
		{
			"node ready", "nodes", `{` + meta + `},"status":{"conditions":[{"type":"MemoryPressure","status":"False","reason":"KubeletHasSufficientMemory"},{"type":"Ready","status":"True","reason":"RuntimeReady"}]}}`,
			"status.conditions", `[{"reason":"KubeletReady","status":"True","type":"Ready"}]`,
		},
		{
			"node ready without reason", "nodes", `{` + meta + `},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`,
			"status.conditions", `[{"reason":"KubeletReady","status":"True","type":"Ready"}]`,
		},
		{
			"node not ready", "nodes", `{` + meta + `},"status":{"conditions":[{"type":"Ready","status":"Unknown","reason":"NodeStatusUnknown"}]}}`,
			"status.conditions", `[{"reason":"NodeStatusUnknown","status":"Unknown","type":"Ready"}]`,
		},
		{
			"node not ready, wrong reason", "nodes", `{` + meta + `},"status":{"conditions":[{"type":"Ready","status":"False","reason":"KubeletReady"}]}}`,
			"status.conditions", `[{"reason":"KubeletNotReady","status":"False","type":"Ready"}]`,
		},
		{
			"another condition with that reason", "nodes", `{` + meta + `},"status":{"conditions":[{"type":"Other","status":"True","reason":"KubeletReady"},{"type":"Ready","status":"False","reason":"KubeletNotReady"}]}}`,
			"status.conditions", `[{"reason":"KubeletNotReady","status":"False","type":"Ready"}]`,
		},

		{"clusterIP a word", "services", `{` + meta + `},"spec":{"clusterIP":"auto","type":"ClusterIP"}}`, "spec", `{"type":"ClusterIP"}`},
		{"clusterIP empty", "services", `{` + meta + `},"spec":{"clusterIP":""}}`, "spec", `{}`},
		{"headless", "services", `{` + meta + `},"spec":{"clusterIP":"None"}}`, "spec.clusterIP", `"None"`},
		{"targetPort a string of digits", "services", `{` + meta + `},"spec":{"ports":[{"port":80,"targetPort":"8080"}]}}`, "spec.ports", `[{"port":80,"targetPort":8080}]`},
		{"targetPort missing", "services", `{` + meta + `},"spec":{"ports":[{"port":80,"protocol":"TCP"}]}}`, "spec.ports", `[{"port":80,"protocol":"TCP","targetPort":80}]`},
		{"targetPort zero", "services", `{` + meta + `},"spec":{"ports":[{"port":80,"targetPort":0}]}}`, "spec.ports", `[{"port":80,"targetPort":80}]`},
		{"targetPort empty", "servicerules", `{` + meta + `},"spec":{"ports":[{"port":80,"targetPort":"","x":1}]}}`, "spec.ports", `[{"port":80,"targetPort":80,"x":1}]`},
		{"targetPort a name", "services", `{` + meta + `},"spec":{"ports":[{"port":80,"targetPort":"http"}]}}`, "spec.ports", `[{"port":80,"targetPort":"http"}]`},
		{
			"load balancer points", "services", `{` + meta + `},"status":{"loadBalancer":{"ingress":[{"hostname":"a.example"},{"ip":"x"},{"ip":"1.2.3.4","ports":[]}]}}}`,
			"status.loadBalancer.ingress", `[{"ip":"1.2.3.4"}]`,
		},
		{"only a hostname", "services", `{` + meta + `},"status":{"loadBalancer":{"ingress":[{"hostname":"a.example"}]}}}`, "status", ""},

		{"literal env", "deployments", `{` + meta + `},"spec":{"template":{"spec":{"containers":[{"env":[{"name":"A","value":"secret"}]}]}}}}`, "spec.template.spec.containers.0.env.0.value", `"hash:0ee2c322"`},
		{"literal env of ephemeral containers", "clonesets", `{` + meta + `},"spec":{"template":{"spec":{"ephemeralContainers":[{"env":[{"name":"A","value":"secret"}]}]}}}}`, "spec.template.spec.ephemeralContainers.0.env.0.value", `"hash:0ee2c322"`},
		{"literal env that is no string", "opengaussclusters", `{` + meta + `},"spec":{"env":[{"name":"A","value":42}]}}`, "spec.env.0.value", `"hash:d1992d6f"`},
		{"empty literal env", "deployments", `{` + meta + `},"spec":{"env":[{"name":"A","value":""}]}}`, "spec.env.0.value", `""`},
		{"env by reference", "deployments", `{` + meta + `},"spec":{"env":[{"valueFrom":{"configMapKeyRef":{"name":"c","key":"k"}}}]}}`, "spec.env.0.valueFrom.configMapKeyRef.name", `"c"`},
		{"a field called env", "opengaussclusters", `{` + meta + `},"spec":{"env":"production"}}`, "spec.env", `"production"`},
		{"last applied", "deployments", `{` + meta + `,"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}}}`, "metadata.annotations", ""},
		{"last applied in a template", "deployments", `{` + meta + `},"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","a":"b"}}}}}`, "spec.template.metadata.annotations", `{"a":"b"}`},
		{"leader election", "services", `{` + meta + `,"annotations":{"control-plane.alpha.kubernetes.io/leader":"{}","a":"b"}}}`, "metadata.annotations", `{"a":"b"}`},
		{"huge annotation", "pods", `{` + meta + `,"annotations":{"a":"` + strings.Repeat("x", 4097) + `"}}}`, "metadata.annotations.a", `"4097 bytes, hash:880302e6"`},
		{"large annotation", "pods", `{` + meta + `,"annotations":{"a":"` + strings.Repeat("x", 4096) + `"}}}`, "metadata.annotations.a", `"` + strings.Repeat("x", 4096) + `"`},
		{"Pod env", "pods", `{` + meta + `},"spec":{"containers":[{"name":"c","env":[{"name":"A","value":"secret"}]}]}}`, "spec", ""},
		{"ConfigMap data", "configmaps", `{` + meta + `},"data":{"a":"secret"}}`, "data", ""},
		{"no spec.template", "deployments", `{` + meta + `},"spec":{"replicas":1}}`, "spec", `{"replicas":1}`},
		{"no spec", "deployments", `{` + meta + `}}`, "metadata.name", `"a"`},
	}
	for _, tt := range tests {
		t.Run(tt.kind+"/"+tt.name, func(t *testing.T) {
			sel := selected(t, Request{Name: tt.kind})
			out := project(t, sel, Options{HashKey: testKey}, []byte(tt.in))
			if out == nil {
				t.Fatal("not reported")
			}
			checkUnderstood(t, sel.Kind.WireType, out)
			if got := at(t, out, tt.path); got != tt.want {
				t.Errorf("%s: got %s, want %s, in %s", tt.path, got, tt.want, out)
			}
		})
	}
}

// What exists but is not reported.
func TestNotReported(t *testing.T) {
	tests := []struct {
		name, kind, in string
		want           bool
	}{
		{"ReplicaSet", "replicasets", `{"metadata":{"name":"a","uid":"u","ownerReferences":[{"uid":"o","kind":"Deployment"}]},"spec":{"replicas":1}}`, true},
		{"without replicas", "replicasets", `{"metadata":{"name":"a","uid":"u","ownerReferences":[{"uid":"o","kind":"Deployment"}]},"spec":{"replicas":0}}`, false},
		{"replicas absent", "replicasets", `{"metadata":{"name":"a","uid":"u","ownerReferences":[{"uid":"o","kind":"Deployment"}]},"spec":{}}`, false},
		{"without owner", "replicasets", `{"metadata":{"name":"a","uid":"u"},"spec":{"replicas":1}}`, false},
		{"ConfigMap", "configmaps", `{"metadata":{"name":"a","uid":"u"}}`, true},
		{"CA", "configmaps", `{"metadata":{"name":"kube-root-ca.crt","uid":"u"}}`, false},
		{"leader", "configmaps", `{"metadata":{"name":"a","uid":"u","annotations":{"control-plane.alpha.kubernetes.io/leader":"{}"}}}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.kind+"/"+tt.name, func(t *testing.T) {
			p := NewProjector(selected(t, Request{Name: tt.kind}), Options{})
			obj, n, err := p.Project([]byte(tt.in), nil)
			if err != nil || n != len(tt.in) || obj.Name == "" || obj.UID != ParseUID("u") {
				t.Errorf("got %+v, %d bytes, error %v, want the object and %d", obj, n, err, len(tt.in))
			}
			if got := obj.Entry != nil; got != tt.want {
				t.Errorf("reported: got %t, want %t", got, tt.want)
			}
		})
	}
}

// Whatever the apiserver returns, mutated at random, stays understood.
func TestNeverHarmful(t *testing.T) {
	rnd := newRand(t)
	for _, s := range samples {
		data := document(t, s.file)
		p := NewProjector(selected(t, s.req), Options{})
		for range 40 {
			obj, _, err := p.Project(scramble(rnd, nil, mutate(rnd, decoded(t, data), 0)), nil)
			if err != nil || obj.Entry == nil {
				continue
			}
			out, err := obj.Entry.JSON()
			if err != nil {
				t.Fatal(err)
			}
			checkUnderstood(t, obj.Entry.WireType(), out)
		}
	}
}
