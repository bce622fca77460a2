package inventory_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// state is everything that an Inventory tells.
type state struct {
	Summary     inventory.Summary
	Nodes       []inventory.Node
	Namespaces  []inventory.Namespace
	Workloads   []inventory.Workload
	ReplicaSets []inventory.ReplicaSet
	Pods        []inventory.Pod
	Services    []inventory.Service
	Ingresses   []inventory.Ingress
	ConfigMaps  []inventory.ConfigMap
	Findings    []inventory.Finding
}

func stateOf(inv *inventory.Inventory) state {
	all := inventory.Filter{}
	return state{
		inv.Summary(), inv.Nodes(all), inv.Namespaces(all), inv.Workloads(all), inv.ReplicaSets(all), inv.Pods(all), inv.Services(all),
		inv.Ingresses(all), inv.ConfigMaps(all), inv.Findings(all),
	}
}

// checkCounts holds the counters, which are kept incrementally, against the lists.
func checkCounts(s *state) error {
	c := s.Summary.Counts
	var got, want [9]int
	got = [9]int{c.Nodes, c.Namespaces, c.Workloads, c.ReplicaSets, c.Pods, c.Services, c.Ingresses, c.ConfigMaps, c.PodAddresses}
	addresses := 0
	for _, p := range s.Pods {
		addresses += len(p.Addresses)
	}
	want = [9]int{
		len(s.Nodes), len(s.Namespaces), len(s.Workloads), len(s.ReplicaSets), len(s.Pods), len(s.Services), len(s.Ingresses), len(s.ConfigMaps),
		addresses,
	}
	if got != want {
		return fmt.Errorf("got counts %v, want %v as listed", got, want)
	}
	found := map[inventory.Reason]int{}
	failures := 0
	for _, f := range s.Findings {
		found[f.Reason]++
		if f.Scope == inventory.ScopeCluster || f.Scope == inventory.ScopeCrash {
			failures++
		}
	}
	if !maps.Equal(found, s.Summary.Dropped) {
		return fmt.Errorf("got dropped %v, want %v as found", s.Summary.Dropped, found)
	}
	if failures != len(s.Summary.Failures) {
		return fmt.Errorf("got %d failures, want %d as found", len(s.Summary.Failures), failures)
	}
	return nil
}

// labelMapper is a plugin without Lua: the label "map" holds type and name.
type labelMapper struct{}

func (labelMapper) Any() bool { return true }

func (labelMapper) Map(metadata []byte) (inventory.Mapping, bool) {
	var m struct {
		Labels map[string]string `json:"labels"`
	}
	if json.Unmarshal(metadata, &m) != nil {
		return inventory.Mapping{}, false
	}
	typ, name, ok := strings.Cut(m.Labels["map"], ".")
	return inventory.Mapping{Plugin: "labels", Type: typ, Name: name}, ok
}

// chaos makes entries from so few values that everything collides with everything.
type chaos struct{ *rand.Rand }

func (c chaos) pick(list ...string) string { return list[c.IntN(len(list))] }

func (c chaos) maybe(p float64, v any) any {
	if c.Float64() < p {
		return v
	}
	return nil
}

var chaosTypes = []string{
	"*v1.Node", "*v1.Namespace", "*v1.Pod", "*v1.Pod", "*v1.Pod", "*v1.Pod", "*v1.Deployment", "*v1.StatefulSet", "*v1.DaemonSet", "*v1.CloneSet",
	"*v1.OpenGaussCluster", "*v1.ReplicationController", "*v1.ReplicaSet", "*v1.ReplicaSet", "*v1.Service", "*v1.Service", "*v1.ServiceRule",
	"*v1.Ingress", "*v1.Route", "*v1beta1.Ingress", "*v1.ConfigMap", "*version.Info", "*v1.Job",
}

func (c chaos) labels() map[string]any {
	out := map[string]any{}
	for range c.IntN(3) {
		out[c.pick("app", "tier", "x_y", "map", "opengauss.cluster")] = c.pick("a", "b", "c", "statefulset.w1", "nonsense.w2", "w1")
	}
	if c.Float64() < 0.05 {
		out["odd"] = 7
	}
	return out
}

func (c chaos) workloadUID() string { return fmt.Sprintf("w%d", c.IntN(12)) }

func (c chaos) port() any {
	switch c.IntN(4) {
	case 0:
		return 8080
	case 1:
		return "8080"
	case 2:
		return c.pick("http", "adm")
	}
	return nil
}

func (c chaos) backend() any {
	if c.IntN(2) == 0 {
		return map[string]any{"serviceName": c.pick("s1", "s2", "s3"), "servicePort": c.port()}
	}
	return map[string]any{"service": map[string]any{
		"name": c.pick("s1", "s2", "s3"), "port": map[string]any{"name": c.maybe(0.5, c.pick("http", "adm")), "number": c.maybe(0.5, 80)},
	}}
}

func (c chaos) template() map[string]any {
	return map[string]any{
		"metadata": map[string]any{"labels": c.labels()},
		"spec": map[string]any{
			"hostNetwork": c.maybe(0.2, true),
			"containers": []any{map[string]any{
				"ports": []any{map[string]any{"name": c.pick("http", "adm"), "containerPort": 8080 + c.IntN(3)}},
				"env": []any{map[string]any{"valueFrom": map[string]any{
					"configMapKeyRef": c.maybe(0.3, map[string]any{c.pick("Name", "name"): c.pick("c1", "c2")}),
				}}},
			}},
			"volumes": []any{map[string]any{"configMap": c.maybe(0.5, map[string]any{"name": c.pick("c1", "c2", "c3")})}},
		},
	}
}

// entry makes a random change: mostly an entry, sometimes a broken one, sometimes a removal.
func (c chaos) entry() inventory.Change {
	wire := chaosTypes[c.IntN(len(chaosTypes))]
	id := fmt.Sprintf("%s%d", strings.ToLower(wire[4:6]), c.IntN(14))
	switch wire {
	case "*v1.Deployment", "*v1.StatefulSet", "*v1.DaemonSet", "*v1.CloneSet", "*v1.OpenGaussCluster", "*v1.ReplicationController", "*v1.ReplicaSet":
		id = c.workloadUID()
	case "*v1.Pod":
		id = fmt.Sprintf("p%d", c.IntN(60))
	case "*version.Info":
		id = c.pick("v", "v2")
	}
	ch := inventory.Change{Type: wire, ID: id}
	switch r := c.Float64(); {
	case r < 0.25:
		return ch
	case r < 0.28:
		ch.JSON = []byte(c.pick("", "null", "[]", "[{}]", "{broken", "7", `{"metadata":null}`, `{"items":[]}`, `{}`))
		return ch
	}
	meta := map[string]any{
		"uid": id, "name": c.pick("s1", "s2", "s3", "c1", "c2", "web-1", "web-2"), "namespace": c.pick("n1", "n1", "n2", "n3"),
		"labels": c.labels(), "creationTimestamp": "2026-01-02T03:04:05Z",
	}
	switch r := c.Float64(); {
	case r < 0.04:
		meta["uid"] = c.pick("p1", "p2", "w1", "")
	case r < 0.06:
		meta["name"] = ""
	case r < 0.08:
		delete(meta, "labels")
	case r < 0.1:
		delete(meta, "namespace")
	}
	o := map[string]any{"metadata": meta}
	c.fill(wire, meta, o)
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	ch.JSON = b
	return ch
}

func (c chaos) fill(wire string, meta, o map[string]any) {
	switch wire {
	case "*version.Info":
		o["gitVersion"] = c.maybe(0.8, "v1.36.0")
	case "*v1.Node":
		o["spec"] = map[string]any{"podCIDR": c.maybe(0.5, c.pick("10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24", "10.2.0.0/24", "10.9.0.0/99", "fd00::/64", "10.0.0.0/8"))}
		o["status"] = map[string]any{
			"addresses":  []any{map[string]any{"type": c.pick("InternalIP", "InternalIP", "Hostname"), "address": c.pick("1.0.0.1", "1.0.0.2", "1.0.0.3", "word", "1.2.3.999", "10.1.0.5")}},
			"conditions": []any{map[string]any{"type": "Ready", "status": "True", "reason": c.pick("KubeletReady", "x")}},
			"capacity":   map[string]any{"memory": c.pick("2048Ki", "2Mi"), "cpu": c.pick("2", "2500m")},
		}
	case "*v1.Namespace":
		meta["name"] = c.pick("n1", "n2", "n3")
		if c.Float64() < 0.2 {
			meta["labels"] = map[string]any{"virtual-kubelet.io/provider-cluster-native-name": c.pick("k1", "k2")}
		}
	case "*v1.Pod":
		kind := c.pick("ReplicaSet", "ReplicaSet", "StatefulSet", "InPlaceSet", "Deployment", "GameServerSet")
		owners := []any{map[string]any{"kind": kind, "uid": c.workloadUID(), "name": c.pick("o1", "o2")}}
		if c.Float64() < 0.1 {
			owners = append(owners, map[string]any{"kind": "StatefulSet", "uid": "w1"})
		}
		if c.Float64() < 0.9 {
			meta["ownerReferences"] = owners
		}
		if c.Float64() < 0.2 {
			meta["generateName"] = c.pick("s", "web-", "")
		}
		status := map[string]any{
			"hostIP": c.maybe(0.9, c.pick("1.0.0.1", "1.0.0.2", "1.0.0.3", "word")),
			"podIP": c.maybe(0.9, c.pick("10.1.0.1", "10.1.0.2", "10.1.0.5", "10.1.1.9", "10.2.0.1", "10.3.0.1", "10.3.0.2", "10.4.0.1", "fd00::1", "fd01::1", "fd01:0:0:1::2", "1.0.0.1",
				"bad", "1.0.0.2")),
			"conditions": []any{map[string]any{"type": "Ready", "status": c.pick("True", "False")}},
		}
		if c.Float64() < 0.03 {
			status["podNetworks"] = []any{map[string]any{}}
		}
		o["status"] = status
	case "*v1.Service", "*v1.ServiceRule":
		spec := map[string]any{
			"selector": c.maybe(0.9, c.labels()), "type": c.pick("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
			"clusterIP": c.pick("None", "10.96.0.1", "10.96.0.999", ""),
			"ports":     []any{map[string]any{"name": c.pick("http", ""), "port": 80, "protocol": "TCP", "targetPort": c.port()}, map[string]any{"name": "adm", "port": 81, "targetPort": c.port()}},
		}
		if c.Float64() < 0.1 {
			delete(spec, "ports")
		}
		if c.Float64() < 0.2 {
			meta["annotations"] = map[string]any{"field.cattle.io/targetWorkloadIds": c.pick(`["deployment:n1:s1"]`, "null", "[]", "{", `["statefulset:n1:web-1"]`)}
		}
		o["spec"] = spec
		o["status"] = map[string]any{"loadBalancer": map[string]any{"ingress": []any{map[string]any{"ip": c.maybe(0.8, "9.9.9.9")}}}}
	case "*v1.Ingress", "*v1.Route", "*v1beta1.Ingress":
		spec := map[string]any{"rules": []any{map[string]any{"host": "h", "http": map[string]any{"paths": []any{
			map[string]any{"path": "/", "backend": c.backend()}, map[string]any{"path": "/x"},
		}}}}}
		if c.Float64() < 0.3 {
			spec[c.pick("backend", "defaultBackend")] = c.backend()
		}
		if c.Float64() < 0.3 {
			spec["host"], spec["to"] = "r", map[string]any{"name": c.pick("s1", "s2")}
			spec["port"] = c.maybe(0.7, c.pick("http", "adm"))
			spec["targetPort"] = c.maybe(0.5, 80)
		}
		o["spec"] = spec
	case "*v1.ConfigMap":
		meta["name"] = c.pick("c1", "c2", "c3")
		o["data"] = map[string]any{"k": "v"}
	case "*v1.ReplicaSet":
		if c.Float64() < 0.9 {
			meta["ownerReferences"] = []any{map[string]any{"kind": "Deployment", "uid": c.workloadUID()}}
		}
		o["spec"] = map[string]any{"replicas": c.IntN(3), "template": c.template()}
	default:
		o["spec"] = map[string]any{"replicas": c.IntN(3), "template": c.template()}
	}
}

func newSeed(tb testing.TB) chaos {
	tb.Helper()
	return chaos{rand.New(rand.NewPCG(testseed.New(tb), 0))}
}

// TestIncrementalEqualsScratch applies thousands of random changes and compares with a report of the same entries in
// any order, with and without plugins.
func TestIncrementalEqualsScratch(t *testing.T) {
	for _, mapper := range []inventory.Mapper{nil, labelMapper{}} {
		c := newSeed(t)
		options := inventory.Options{Mapper: mapper}
		inv := inventory.New(options)
		held := map[[2]string]inventory.Change{}
		reasons := map[inventory.Reason]bool{}
		var order []string // of Nodes, as told last
		changes, checks := 6000, 0
		for done := 0; done < changes; {
			batch := make([]inventory.Change, 1+c.IntN(8))
			for i := range batch {
				batch[i] = c.entry()
				key := [2]string{batch[i].Type, batch[i].ID}
				if batch[i].JSON == nil {
					delete(held, key)
				} else {
					held[key] = batch[i]
				}
			}
			done += len(batch)
			inv.Apply(batch)
			if c.IntN(6) != 0 {
				continue
			}
			checks++
			entries := slices.Collect(maps.Values(held))
			c.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
			scratch := inventory.Build(options, entries)
			if c.IntN(2) == 0 {
				order = nodeIDs(entries)
				inv.OrderNodes(order)
			}
			if order != nil {
				scratch.OrderNodes(order)
			}
			got, want := stateOf(inv), stateOf(scratch)
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("after %d changes the incremental result differs (-scratch +incremental):\n%s", done, d)
			}
			if err := checkCounts(&got); err != nil {
				t.Fatalf("after %d changes: %v", done, err)
			}
			for r := range got.Summary.Dropped {
				reasons[r] = true
			}
		}
		t.Logf("%d changes, %d comparisons, %d of %d reasons seen", changes, checks, len(reasons), len(inventory.Reasons()))
		var gone []inventory.Change
		for _, e := range held {
			gone = append(gone, inventory.Change{Type: e.Type, ID: e.ID})
		}
		inv.Apply(gone)
		if d := cmp.Diff(stateOf(inventory.New(options)), stateOf(inv)); d != "" {
			t.Fatalf("removing everything leaves something (-empty +got):\n%s", d)
		}
		if n := inventory.Residue(inv); n != 0 {
			t.Errorf("removing everything leaves %d records in the indexes", n)
		}
	}
}

// TestReadersDuringApply reads everything while changes come in; the race detector watches.
func TestReadersDuringApply(t *testing.T) {
	c := newSeed(t)
	inv := inventory.New(inventory.Options{Mapper: labelMapper{}})
	quit := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				s := stateOf(inv)
				if s.Summary.Counts.Pods < 0 {
					t.Error("got a negative number of Pods")
				}
			}
		})
	}
	for range 300 {
		inv.Apply([]inventory.Change{c.entry(), c.entry(), c.entry()})
	}
	close(quit)
	readers.Wait()
}
