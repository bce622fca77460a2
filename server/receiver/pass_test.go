package receiver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// FuzzFix fixes reports of which one entry is foreign. What comes of it is a report, is always the same, and needs no
// further fixing.
func FuzzFix(f *testing.F) {
	f.Add("*v1.Pod", []byte(`{"metadata":{"name":"a","namespace":"vk"},"status":{"podIP":"10.0.0.999","podNetworks":{}}}`))
	f.Add("*v1.Pod", []byte(`{"status":[],"metadata":7}`))
	f.Add("*v1.Node", []byte(`{"status":{"addresses":[{"type":"InternalIP","address":[1]},7]},"spec":{"podCIDR":{}}}`))
	f.Add("*v1.Service", []byte(`{"spec":{"clusterIP":1e400}}`))
	f.Add("*v1.Namespace", []byte(`null`))
	f.Add("*v1.Node", []byte(`{"metadata":{"uid":"a","name":"a"},"spec":{"podCIDR":"10.244.0.0/24"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.9"}]}}`))
	var d decoder
	virtual := &agent.KubernetesAPIInfo{Type: new("*v1.Namespace"), CompressedInfo: d.compress([]byte(`{"metadata":{"name":"vk","labels":{"` + virtualLabel + `":"x"}}}`))}
	node := func(i int) *agent.KubernetesAPIInfo {
		return &agent.KubernetesAPIInfo{Type: new("*v1.Node"), CompressedInfo: d.compress(fmt.Appendf(nil,
			`{"metadata":{"uid":"n%d","name":"n%d"},"spec":{"podCIDR":"10.244.%d.0/24"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.%d"}]}}`, i, i, i, i))}
	}
	f.Fuzz(func(t *testing.T, wireType string, object []byte) {
		req := &agent.KubernetesAPISyncRequest{ClusterId: new("d-fuzz"), Entries: []*agent.KubernetesAPIInfo{
			virtual, node(1), node(2), {Type: &wireType, CompressedInfo: object}, {Type: &wireType, CompressedInfo: d.compress(object)},
		}}
		b, err := proto.Marshal(req)
		if err != nil {
			return // a type that is no UTF-8
		}
		first := fix(t, b)
		if again := fix(t, b); !bytes.Equal(first, again) {
			t.Error("the same report became two different ones")
		}
		if again := fix(t, first); !bytes.Equal(first, again) {
			t.Errorf("what was fixed needs fixing: %x, %x", first, again)
		}
	})
}

func fix(t *testing.T, b []byte) []byte {
	t.Helper()
	req, err := parseRequest(mem.BufferSlice{mem.SliceBuffer(b)}, 100, nil)
	if err != nil {
		t.Skip(err)
	}
	m := fixer{limit: 1 << 20, most: 1 << 22}
	passed := Passed{Data: b}
	if err := m.fix(&passed, nil, req, 100); err != nil {
		t.Fatal(err)
	}
	out := passed.Data
	if err := proto.Unmarshal(out, &agent.KubernetesAPISyncRequest{}); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestFixedIsSound fixes random reports full of what a server crashes or fails on. Of what comes of them it crashes and fails
// on nothing, and no Pod network is lost, as far as the inventory knows.
func TestFixedIsSound(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	pick := func(list ...any) any { return list[rng.IntN(len(list))] }
	address := func() any {
		return pick("10.0.0.1", "10.244.1.7", "fd00::1", "fe80::1%eth0", "10.0.0.999", "word", "10.0.0.1/24", " 10.0.0.1", "a:b", "", nil, 7, []any{}, map[string]any{})
	}
	networks := func() any {
		return pick("10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.0.0/22", "10.244.1.1", "10.0.0.0/8", "fd00::/64", "10.244.0.0/99", "x.y", "word", "", nil, 7)
	}
	made := map[inventory.Reason]bool{}
	rounds := testseed.Rounds(t, 300)
	for range rounds {
		var d decoder
		req := &agent.KubernetesAPISyncRequest{ClusterId: new("d-random")}
		add := func(wireType string, object any) {
			b, err := json.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			switch rng.IntN(40) {
			case 0:
				b = []byte(`{"metadata":`)
			case 1:
				b = []byte(`null`)
			}
			info := &agent.KubernetesAPIInfo{Type: &wireType, CompressedInfo: d.compress(b)}
			if rng.IntN(40) == 0 {
				info.CompressedInfo = b
			}
			req.Entries = append(req.Entries, info)
		}
		add("*version.Info", map[string]any{"gitVersion": "v1.36.0"})
		for i := range 40 {
			meta := map[string]any{"uid": fmt.Sprintf("u%d", i), "name": fmt.Sprintf("o%d", i), "namespace": pick("a", "vk")}
			if l := pick(nil, 1, map[string]any{}, map[string]any{"app": "x"}); l != 1 {
				meta["labels"] = l
			}
			o := map[string]any{"metadata": meta}
			wireType := pick("*v1.Pod", "*v1.Node", "*v1.Service", "*v1.ServiceRule", "*v1.Namespace", "*v1.StatefulSet").(string)
			switch wireType {
			case "*v1.Namespace":
				meta["name"] = pick("a", "vk")
				meta["labels"] = pick(nil, map[string]any{virtualLabel: "x"})
			case "*v1.StatefulSet":
				meta["uid"], meta["namespace"] = "w", "vk"
				o["spec"] = map[string]any{"template": map[string]any{}}
			case "*v1.Pod":
				meta["ownerReferences"] = []any{map[string]any{"kind": "StatefulSet", "uid": "w", "name": "w"}}
				o["status"] = map[string]any{"podIP": address(), "hostIP": address(), "podNetworks": pick(nil, nil, []any{}, []any{1}, map[string]any{"a": 1})}
			case "*v1.Node":
				o["spec"] = map[string]any{"podCIDR": networks(), "podCidr": pick(nil, nil, networks())}
				o["status"] = map[string]any{"addresses": []any{
					map[string]any{"type": pick("InternalIP", "Hostname"), "address": address()}, map[string]any{"type": "InternalIP", "address": address()},
				}}
			default:
				o["spec"] = map[string]any{"type": "ClusterIP", "clusterIP": pick("None", address()), "selector": map[string]any{"app": "x"}, "ports": []any{map[string]any{"port": 80}}}
			}
			add(wireType, o)
		}
		b, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		for r := range understood(t, b).Summary().Dropped {
			made[r] = true
		}
		for _, f := range understood(t, fix(t, b)).Findings(inventory.Filter{}) {
			whole := f.Reason == inventory.NoNodes || f.Reason == inventory.VersionMissing
			if !whole && (f.Scope == inventory.ScopeCluster || f.Scope == inventory.ScopeCrash) || f.Reason == inventory.NodeOrder {
				t.Fatalf("after fixing: %+v", f)
			}
		}
	}
	if rounds < 100 {
		return // too few to have had everything
	}
	for _, r := range inventory.Reasons() {
		if s := r.Scope; !made[r.Reason] && (s == inventory.ScopeCrash || s == inventory.ScopeCluster) {
			switch r.Reason {
			case inventory.NoEntries, inventory.VersionMissing, inventory.GitVersionMissing, inventory.NoNodes: // nothing that can be fixed
			default:
				t.Errorf("no report had %s: the test asks too little", r.Reason)
			}
		}
	}
	if !made[inventory.NodeOrder] {
		t.Error("no report had its Nodes in a bad order")
	}
}

// understood is what a server makes of a report.
func understood(t *testing.T, b []byte) *inventory.Inventory {
	t.Helper()
	req, err := parseRequest(mem.BufferSlice{mem.SliceBuffer(b)}, 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	var changes []inventory.Change
	var nodes []string
	var d decoder
	for i, e := range req.entries {
		data, _ := d.decompress(i, e, 1<<20, nil)
		id := fmt.Sprintf("#%d", i)
		changes = append(changes, inventory.Change{Type: e.wireType, ID: id, JSON: append([]byte{}, data...)})
		if e.wireType == nodeType {
			nodes = append(nodes, id)
		}
	}
	inv := inventory.Build(inventory.Options{}, changes)
	inv.OrderNodes(nodes)
	return inv
}

// TestFixedNumbers: what is not fixed within an object keeps its value, numbers beyond a float64 included.
func TestFixedNumbers(t *testing.T) {
	next, what := repaired([]byte(`{"metadata":{"name":"a","generation":9007199254740993},"status":{"podIP":"x","hostIP":"<&>"}}`), repairPod, nil)
	var o struct {
		Metadata struct{ Generation json.Number }
		Status   struct{ PodIP, HostIP string }
	}
	if err := json.Unmarshal(next, &o); err != nil || what == "" || o.Metadata.Generation != "9007199254740993" || o.Status.PodIP != "" || o.Status.HostIP != "<&>" {
		t.Errorf("%s, %s, %v", next, what, err)
	}
}
