package inventory_test

import (
	"fmt"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// TestOneAddressForAll gives a hundred thousand Pods one address, and takes them away from the winner on: the work is in
// proportion to their number, otherwise this would take minutes.
func TestOneAddressForAll(t *testing.T) {
	const pods = 100000
	name := func(i int) string { return fmt.Sprintf("p%06d", i) }
	changes := []inventory.Change{
		{Type: "*version.Info", ID: "v", JSON: []byte(`{"gitVersion":"v1.36.0"}`)},
		{Type: "*v1.Namespace", ID: "ns", JSON: []byte(`{"metadata":{"uid":"ns","name":"ns"}}`)},
		{Type: "*v1.Node", ID: "node", JSON: []byte(`{"metadata":{"uid":"node","name":"node"},"spec":{"podCIDR":"10.1.0.0/16"},` +
			`"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}`)},
		{Type: "*v1.DaemonSet", ID: "d", JSON: []byte(`{"metadata":{"uid":"d","name":"d","namespace":"ns"}}`)},
	}
	for i := range pods {
		changes = append(changes, inventory.Change{Type: "*v1.Pod", ID: name(i), JSON: fmt.Appendf(nil,
			`{"metadata":{"uid":%[1]q,"name":%[1]q,"namespace":"ns","ownerReferences":[{"kind":"DaemonSet","uid":"d"}]},"status":{"hostIP":"10.0.0.1","podIP":"10.1.0.7"}}`, name(i))})
	}
	inv := inventory.Build(inventory.Options{}, changes)
	check := func(left int, winner string) {
		t.Helper()
		if got := inv.Summary().Dropped[inventory.PodIPTaken]; got != left-1 {
			t.Errorf("got %d Pods whose address another one has, want %d", got, left-1)
		}
		for _, p := range inv.Pods(inventory.Filter{Name: winner}) {
			if len(p.Addresses) != 1 {
				t.Errorf("got %+v, want it to have the address", p)
			}
		}
	}
	check(pods, name(pods-1))
	var gone []inventory.Change
	for i := range pods / 2 {
		gone = append(gone, inventory.Change{Type: "*v1.Pod", ID: name(pods - 1 - i)})
	}
	inv.Apply(gone)
	check(pods/2, name(pods/2-1))
}

// TestFirstAddressThatIsNotEmpty: the real server passes an empty InternalIP over, and drops a Node that has no other.
func TestFirstAddressThatIsNotEmpty(t *testing.T) {
	inv := inventory.New(inventory.Options{})
	node := func(id, addresses string) inventory.Change {
		return inventory.Change{Type: "*v1.Node", ID: id, JSON: []byte(`{"metadata":{"uid":"` + id + `","name":"` + id + `"},"status":{"addresses":` + addresses + `}}`)}
	}
	inv.Apply([]inventory.Change{
		node("a", `[{"type":"InternalIP","address":""},{"type":"InternalIP","address":"10.0.0.2"},{"type":"InternalIP","address":"10.0.0.3"}]`),
		node("b", `[{"type":"InternalIP","address":""}]`),
	})
	nodes := inv.Nodes(inventory.Filter{})
	if len(nodes) != 1 || nodes[0].Name != "a" || nodes[0].Address != "10.0.0.2" {
		t.Errorf("got %+v, want a with 10.0.0.2", nodes)
	}
}
