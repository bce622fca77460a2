package inventory_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// TestFacts asks for every row of every list by its entry: each value has a source, and what is dropped has no row.
func TestFacts(t *testing.T) {
	c := company()
	inv := inventory.Build(inventory.Options{Mapper: labelMapper{}}, c.entries)
	shown := map[string]int{}
	for _, e := range c.entries {
		o := identity(t, e.JSON)
		facts, err := inv.Facts(e.Type, o.Namespace, o.Name, o.UID)
		if err != nil {
			t.Fatal(err)
		}
		if len(facts) > 0 {
			shown[e.Type]++
		}
		for _, f := range facts {
			if f.From == "" || len(f.Value) == 0 {
				t.Errorf("%s %s/%s: %s has the value %q from %q, want both", e.Type, o.Namespace, o.Name, f.Name, f.Value, f.From)
			}
		}
	}
	counts := inv.Summary().Counts
	got := [...]int{shown["*v1.Pod"], shown["*v1.Node"], shown["*v1.Namespace"], shown["*v1.ReplicaSet"], shown["*v1.Service"] + shown["*v1.ServiceRule"], shown["*v1.ConfigMap"]}
	want := [...]int{counts.Pods, counts.Nodes, counts.Namespaces, counts.ReplicaSets, counts.Services, counts.ConfigMaps}
	if got != want {
		t.Errorf("got %v rows of Pods, Nodes, Namespaces, ReplicaSets, Services, ConfigMaps, want %v", got, want)
	}
	facts, _ := inv.Facts("*v1.Pod", "shop", "elsewhere", c.objects["shop/elsewhere"])
	text := ""
	for _, f := range facts {
		text += f.Name + " " + string(f.Value) + " from " + f.From + "\n"
	}
	for _, want := range []string{`workload "Deployment/shop/web1" from metadata.ownerReferences[0].uid`, `node "" from status.hostIP`} {
		if !strings.Contains(text, want) {
			t.Errorf("got\n%s\nwant it to contain %s", text, want)
		}
	}
}

type named struct{ UID, Namespace, Name string }

// identity is what the metadata of an entry say; empty if they say nothing.
func identity(t *testing.T, text []byte) named {
	t.Helper()
	var o struct{ Metadata named }
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatal(err)
	}
	return o.Metadata
}
