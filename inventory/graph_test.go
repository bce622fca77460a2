package inventory_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// drawn is a graph as text: one line for each line, and for each box without lines.
func drawn(g inventory.Graph) []string {
	name := func(at int) string {
		b := g.Boxes[at]
		return fmt.Sprintf("%s %s", b.Kind, strings.TrimPrefix(b.Namespace+"/"+b.Name, "/"))
	}
	var out []string
	linked := map[int]bool{}
	for _, l := range g.Lines {
		linked[l.From], linked[l.To] = true, true
		arrow := "→"
		if l.Reason != "" {
			arrow = "⇥ " + string(l.Reason) + " ⇥"
		}
		out = append(out, name(l.From)+" "+arrow+" "+name(l.To))
	}
	for at, b := range g.Boxes {
		if !linked[at] {
			out = append(out, fmt.Sprintf("%s (%s %v)", name(at), b.State, b.Reasons))
		}
	}
	slices.Sort(out)
	return out
}

// TestObjectGraph looks at the neighbours of one object of each kind.
func TestObjectGraph(t *testing.T) {
	c := company()
	inv := inventory.Build(inventory.Options{Mapper: labelMapper{}}, c.entries)
	for _, tt := range []struct {
		wire, id string
		want     []string
	}{
		{"*v1.Pod", c.objects["shop/elsewhere"], []string{
			"Deployment shop/web1 → Pod shop/elsewhere", "Ingress shop/second → Service shop/web1", "Ingress shop/web1 → Service shop/web1",
			"Pod shop/elsewhere ⇥ PodNodeUnknown ⇥ Node hostIP 192.0.2.9", "Service shop/web1 → Deployment shop/web1",
		}},
		{"*v1.Pod", c.objects["shop/debug"], []string{"Pod shop/debug (dropped [PodOrphan])"}},
		{"*v1.Pod", c.objects["shop/nightly-1"], []string{"Job shop/job ⇥ PodOwnerKind ⇥ Pod shop/nightly-1"}},
		{"*v1.Pod", c.objects["shop/old-revision"], []string{"ReplicaSet shop/web1-old ⇥ PodOwnerDropped ⇥ Pod shop/old-revision"}},
		{"*v1.Service", "svc-bad-workload", []string{
			"Ingress edge/no-service ⇥ IngressService ⇥ Service edge/bad-workload", "Service edge/bad-workload ⇥ ServiceNoWorkload ⇥ Workload edge/app:nobody",
		}},
		{"*v1.Ingress", "ing-x3", []string{
			"Deployment edge/owner → Pod edge/inplace-0", "Deployment edge/owner → Pod edge/inplace-1", "Deployment edge/owner → Pod edge/inplace-2",
			"Ingress edge/no-port ⇥ IngressPort ⇥ Service edge/inplace",
			"Pod edge/inplace-0 → Node n10", "Pod edge/inplace-1 → Node n1", "Pod edge/inplace-2 → Node n2", "Service edge/inplace → Deployment edge/owner",
		}},
		{"*v1.ConfigMap", "cm", []string{"ConfigMap shop/settings → Deployment shop/configured"}},
		{"*v1.ReplicaSet", "rs-orphan", []string{"ReplicaSet shop/orphan (dropped [ReplicaSetOrphan])"}},
		{"*v1.Job", "job", []string{"Job shop/nightly (dropped [TypeNotRead])"}},
		{"*v1.Node", "node-09", []string{"Node n9 (dropped [NodeWithoutIP])"}},
	} {
		g, ok := inv.ObjectGraph(tt.wire, tt.id, 100)
		if !ok {
			t.Errorf("%s %q: no graph", tt.wire, tt.id)
			continue
		}
		if d := cmp.Diff(tt.want, drawn(g)); d != "" {
			t.Errorf("%s %s (-want +got):\n%s", tt.wire, tt.id, d)
		}
		focus := slices.IndexFunc(g.Boxes, func(b inventory.Box) bool { return b.Focus })
		if focus < 0 || g.Boxes[focus].Type != tt.wire || g.Boxes[focus].ID != tt.id {
			t.Errorf("%s %s: got focus %d of %+v, want the object", tt.wire, tt.id, focus, g.Boxes)
		}
		for limit := 1; limit < len(g.Boxes); limit++ {
			few, _ := inv.ObjectGraph(tt.wire, tt.id, limit)
			if !slices.ContainsFunc(few.Boxes, func(b inventory.Box) bool { return b.Focus }) {
				t.Errorf("%s %s: with %d boxes the object itself is left out", tt.wire, tt.id, limit)
			}
		}
	}
	if _, ok := inv.ObjectGraph("*v1.Pod", "none", 100); ok {
		t.Error("got a graph of a Pod that does not exist")
	}
	if _, ok := inv.NamespaceGraph("none", 100); ok {
		t.Error("got a graph of a namespace that nothing names")
	}
}

// checkGraph compares the picture of a namespace with the lists.
func checkGraph(inv *inventory.Inventory, namespace string, g inventory.Graph) error {
	f := inventory.Filter{Namespace: namespace}
	lost := map[string][]inventory.Reason{}
	for _, x := range inv.Findings(f) {
		lost[x.Type+" "+x.ID] = append(lost[x.Type+" "+x.ID], x.Reason)
	}
	lines := map[string]bool{}
	for _, l := range g.Lines {
		if l.Reason == "" {
			lines[g.Boxes[l.From].Type+" "+g.Boxes[l.From].Name+" → "+string(g.Boxes[l.To].Layer)+" "+g.Boxes[l.To].Name] = true
		}
	}
	kept, seen := inv.Pods(f), 0
	for _, p := range kept {
		if !g.Grouped && g.Omitted == 0 && p.Node != "" && !lines["*v1.Pod "+p.Name+" → node "+p.Node] {
			return fmt.Errorf("Pod %s is on node %q, which no line shows", p.Name, p.Node)
		}
	}
	for _, b := range g.Boxes {
		if b.ID != "" && b.Namespace == namespace {
			got, want := slices.Sorted(slices.Values(b.Reasons)), slices.Sorted(slices.Values(lost[b.Type+" "+b.ID]))
			if !slices.Equal(got, want) {
				return fmt.Errorf("%s %s: got reasons %v, want %v", b.Type, b.ID, got, want)
			}
		}
		if b.Layer == inventory.LayerPod && (b.State == inventory.BoxShown || b.State == inventory.BoxPartly) {
			seen += b.Count
		}
	}
	if g.Omitted == 0 && seen != len(kept) {
		return fmt.Errorf("got %d Pods drawn as kept, want %d", seen, len(kept))
	}
	return nil
}

// TestRandomGraphs draws namespaces of random clusters: what is drawn is what the lists say, whatever the bound is.
func TestRandomGraphs(t *testing.T) {
	c := newSeed(t)
	for range 60 {
		inv := inventory.New(inventory.Options{Mapper: labelMapper{}})
		held := map[[2]string]inventory.Change{}
		for range 150 {
			e := c.entry()
			if e.JSON == nil || e.Type != "*v1.Pod" && c.IntN(2) == 0 {
				continue
			}
			held[[2]string{e.Type, e.ID}] = e
		}
		inv.Apply(slices.Collect(maps.Values(held)))
		for _, ns := range inv.Namespaces(inventory.Filter{}) {
			for _, limit := range []int{500, 40, 5} {
				g, ok := inv.NamespaceGraph(ns.Name, limit)
				if !ok || len(g.Boxes) > limit {
					t.Fatalf("namespace %s: got %v with %d boxes, want not more than %d", ns.Name, ok, len(g.Boxes), limit)
				}
				if again, _ := inv.NamespaceGraph(ns.Name, limit); cmp.Diff(g, again) != "" {
					t.Fatalf("the same picture twice differs:\n%s", cmp.Diff(g, again))
				}
				if err := checkGraph(inv, ns.Name, g); err != nil {
					t.Fatalf("namespace %s, limit %d: %v", ns.Name, limit, err)
				}
			}
		}
		for _, e := range held {
			g, ok := inv.ObjectGraph(e.Type, e.ID, 30)
			if !ok || len(g.Boxes) == 0 || len(g.Boxes) > 30 {
				t.Fatalf("%s %s: got %v with %d boxes, want 1 to 30", e.Type, e.ID, ok, len(g.Boxes))
			}
		}
	}
}

// TestLargeGraph groups the Pods of a namespace that has too many.
func TestLargeGraph(t *testing.T) {
	inv := inventory.Build(inventory.Options{}, large(1000))
	largest := inventory.Namespace{}
	most := 0
	for _, ns := range inv.Namespaces(inventory.Filter{}) {
		if n := len(inv.Pods(inventory.Filter{Namespace: ns.Name})); n > most {
			largest, most = ns, n
		}
	}
	g, _ := inv.NamespaceGraph(largest.Name, 500)
	n := 0
	for _, b := range g.Boxes {
		if b.Layer == inventory.LayerPod {
			n += b.Count
		}
	}
	if !g.Grouped || n != most || len(g.Boxes) > 500 || g.Omitted != 0 {
		t.Errorf("got grouped %v, %d of %d Pods in %d boxes, %d left out, want all in 500", g.Grouped, n, most, len(g.Boxes), g.Omitted)
	}
}
