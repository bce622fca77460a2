package inventory_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// sized are n reports of one kind each that take as much memory as their authors can make them.
var sized = map[string]func(i int) string{
	"*v1.Pod": func(i int) string {
		return fmt.Sprintf(`{"metadata":{"uid":"p%d","name":"n%d%s","namespace":"s%d","labels":{"a":"%d"},"ownerReferences":[{"kind":"ReplicaSet","uid":"o%d"}]},
			"status":{"hostIP":"10.%d.%d.%d","podIP":"11.%d.%d.%d"}}`, i, i, strings.Repeat("x", 300), i, i, i, i>>16, i>>8&255, i&255, i>>16, i>>8&255, i&255)
	},
	"*v1.Deployment": func(i int) string {
		var labels, ports strings.Builder
		for k := range 50 {
			fmt.Fprintf(&labels, `,"l%d-%d":"v"`, i, k)
			fmt.Fprintf(&ports, `,{"name":"p%d","containerPort":%d}`, k, k+1)
		}
		return fmt.Sprintf(`{"metadata":{"uid":"d%d","name":"d%d","namespace":"ns"},"spec":{"template":{"metadata":{"labels":{%s}},"spec":{"containers":[{"ports":[%s]}]}}}}`,
			i, i, labels.String()[1:], ports.String()[1:])
	},
	"*v1.StatefulSet": func(i int) string { // two of them have the same labels
		var labels strings.Builder
		for k := range 50 {
			fmt.Fprintf(&labels, `,"l%d-%d":"v"`, i/2, k)
		}
		return fmt.Sprintf(`{"metadata":{"uid":"t%d","name":"t%d","namespace":"ns"},"spec":{"template":{"metadata":{"labels":{%s}}}}}`, i, i, labels.String()[1:])
	},
	"*v1.ReplicaSet": func(i int) string {
		return fmt.Sprintf(`{"metadata":{"uid":"r%d","name":"r%d-x","namespace":"ns","ownerReferences":[{"kind":"Deployment","uid":"o%d"}]},"spec":{"replicas":1,"template":{"metadata":{"labels":{"a%d":"v"}}}}}`,
			i, i, i, i)
	},
	"*v1.Service": func(i int) string {
		return fmt.Sprintf(`{"metadata":{"uid":"s%d","name":"s%d","namespace":"ns"},"spec":{"type":"ClusterIP","clusterIP":"10.%d.%d.%d","selector":{"a%d":"b","c%d":"d"},"ports":[{"name":"a","port":1},{"name":"b","port":2}]}}`,
			i, i, i>>16, i>>8&255, i&255, i, i)
	},
	"*v1.Ingress": func(i int) string {
		var rules strings.Builder
		for k := range 20 {
			fmt.Fprintf(&rules, `,{"host":"h%d","http":{"paths":[{"path":"/%d","backend":{"service":{"name":"s%d-%d","port":{"number":1}}}}]}}`, k, k, i, k)
		}
		return fmt.Sprintf(`{"metadata":{"uid":"i%d","name":"i%d","namespace":"ns"},"spec":{"rules":[%s]}}`, i, i, rules.String()[1:])
	},
	"*v1.Node": func(i int) string {
		return fmt.Sprintf(`{"metadata":{"uid":"n%d","name":"n%d"},"status":{"addresses":[{"type":"InternalIP","address":"10.%d.%d.%d"}]}}`, i, i, i>>16, i>>8&255, i&255)
	},
	"*v1.ConfigMap": func(i int) string {
		return fmt.Sprintf(`{"metadata":{"uid":"c%d","name":"c%d","namespace":"s%d"}}`, i, i, i)
	},
	"*v1.Namespace": func(i int) string { return fmt.Sprintf(`{"metadata":{"uid":"ns%d","name":"ns%d"}}`, i, i) },
	"*v1.Unknown": func(i int) string {
		return fmt.Sprintf(`{"metadata":{"uid":"u%d","name":"u%d","namespace":"s%d"}}`, i, i, i)
	},
}

// TestBytes: what an inventory says that it takes is not much less than what it takes, of whatever kind its objects are, and
// is nothing when all are gone.
func TestBytes(t *testing.T) {
	const n = 3000
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // the first one finds symbols that nobody uses any more
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for wire, text := range sized {
		entries := []inventory.Change{{Type: "*v1.Namespace", ID: "ns", JSON: []byte(`{"metadata":{"uid":"ns","name":"ns"}}`)}}
		for i := range n {
			entries = append(entries, inventory.Change{Type: wire, ID: fmt.Sprint(wire[4:5], i), JSON: []byte(text(i))})
		}
		asked := int64(0)
		before := heap()
		inv := inventory.New(inventory.Options{Room: func(n int64) bool {
			asked += n
			return true
		}})
		inv.Apply(entries)
		took, said := heap()-before, inv.Bytes()
		t.Logf("%s: %d bytes each, says %d, asked for %d", wire, took/n, said/n, asked/n)
		// The race detector keeps garbage for longer, and memory of its own.
		if !raceDetector && (said < took || said > 4*took) {
			t.Errorf("%d of %s take %d bytes, Bytes says %d", n, wire, took, said)
		}
		if asked < said {
			t.Errorf("%s: asked for %d bytes, of which there are now %d", wire, asked, said)
		}
		for i := range entries {
			entries[i].JSON = nil
		}
		inv.Apply(entries)
		if left := inv.Bytes(); left != 0 {
			t.Errorf("%s: %d bytes are left of nothing", wire, left)
		}
	}
}

// TestFull: where there is no room nothing is taken over, and the inventory says so.
func TestFull(t *testing.T) {
	room := true
	inv := inventory.New(inventory.Options{Room: func(int64) bool { return room }})
	change := func(name string) []inventory.Change {
		return []inventory.Change{{Type: "*v1.Node", ID: name, JSON: []byte(`{"metadata":{"uid":"` + name + `","name":"` + name + `"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}`)}}
	}
	inv.Apply(change("a"))
	room = false
	inv.Apply(change("b"))
	if got := len(inv.Nodes(inventory.Filter{})); got != 1 || !inv.Full() {
		t.Errorf("got %d Nodes, full %v, want 1 and that it is", got, inv.Full())
	}
}
