package inventory_test

import (
	"fmt"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// TestTooManyBindings has thousands of Services that all select the same thousands of workloads: memory is bounded, what is
// not followed has a reason, and is followed when others are gone.
func TestTooManyBindings(t *testing.T) {
	const n = 2500
	changes := []inventory.Change{
		{Type: "*version.Info", ID: "v", JSON: []byte(`{"gitVersion":"v1.36.0"}`)},
		{Type: "*v1.Namespace", ID: "ns", JSON: []byte(`{"metadata":{"uid":"ns","name":"ns"}}`)},
	}
	var services []inventory.Change
	for i := range n {
		id := fmt.Sprintf("w%04d", i)
		changes = append(changes, inventory.Change{Type: "*v1.Deployment", ID: id, JSON: fmt.Appendf(nil,
			`{"metadata":{"uid":%[1]q,"name":%[1]q,"namespace":"ns"},"spec":{"template":{"metadata":{"labels":{"a":"b"}}}}}`, id)})
		id = fmt.Sprintf("s%04d", i)
		services = append(services, inventory.Change{Type: "*v1.Service", ID: id, JSON: fmt.Appendf(nil,
			`{"metadata":{"uid":%[1]q,"name":%[1]q,"namespace":"ns"},"spec":{"selector":{"a":"b"},"type":"ClusterIP","ports":[{"port":80,"targetPort":80}]}}`, id)})
	}
	inv := inventory.Build(inventory.Options{}, append(changes, services...))
	kept := len(inv.Services(inventory.Filter{}))
	lost := inv.Summary().Dropped[inventory.ServiceTooMany]
	if kept*n > inventory.MaxBindings || kept < inventory.MaxBindings/n/2 || kept+lost != n {
		t.Errorf("got %d Services of %d workloads each and %d not followed, want about %d bindings and all Services", kept, n, lost, inventory.MaxBindings)
	}
	var gone []inventory.Change
	for _, c := range services[:n-10] {
		gone = append(gone, inventory.Change{Type: c.Type, ID: c.ID})
	}
	inv.Apply(gone)
	if kept, lost := len(inv.Services(inventory.Filter{})), inv.Summary().Dropped[inventory.ServiceTooMany]; kept != 10 || lost != 0 {
		t.Errorf("got %d Services and %d not followed when 10 are left, want 10 and 0", kept, lost)
	}
}
