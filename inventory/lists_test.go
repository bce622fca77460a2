package inventory_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// TestLongLists reports a workload with very many ports and references and a Service with as many ports: the work is in
// proportion to their number, otherwise this would take minutes.
func TestLongLists(t *testing.T) {
	const n = 60000
	list := func(format string) string {
		var b strings.Builder
		for i := range n {
			_, _ = fmt.Fprintf(&b, format, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	inv := inventory.Build(inventory.Options{}, []inventory.Change{
		{Type: "*version.Info", ID: "v", JSON: []byte(`{"gitVersion":"v1.36.0"}`)},
		{Type: "*v1.Namespace", ID: "ns", JSON: []byte(`{"metadata":{"uid":"ns","name":"ns"}}`)},
		{Type: "*v1.ConfigMap", ID: "c", JSON: []byte(`{"metadata":{"uid":"c","name":"c7","namespace":"ns"}}`)},
		{Type: "*v1.Deployment", ID: "d", JSON: []byte(`{"metadata":{"uid":"d","name":"d","namespace":"ns"},"spec":{"template":{"metadata":{"labels":{"a":"b"}},"spec":{` +
			`"containers":[{"ports":[` + list(`{"name":"p%d","containerPort":7},`) + `,{"name":"p0","containerPort":8}]}],"volumes":[` + list(`{"configMap":{"name":"c%d"}},`) + `]}}}}`)},
		{Type: "*v1.Service", ID: "s", JSON: []byte(`{"metadata":{"uid":"s","name":"s","namespace":"ns"},"spec":{"selector":{"a":"b"},"type":"ClusterIP","ports":[` +
			list(`{"port":80,"targetPort":"p%d"},`) + `,{"port":81,"targetPort":"none"}]}}`)},
	})
	services := inv.Services(inventory.Filter{})
	if len(services) != 1 || len(services[0].Ports) != n || services[0].Ports[0].Target != 8 || services[0].Ports[1].Target != 7 {
		t.Errorf("got %d Services, want one with %d ports, of which the first leads to the last port of that name", len(services), n)
	}
	if got := inv.Summary().Counts.ConfigMapLinks; got != 1 {
		t.Errorf("got %d links to ConfigMaps, want 1", got)
	}
	if got := inv.Findings(inventory.Filter{Reason: inventory.ServicePortName}); len(got) != 1 || got[0].Detail != `port 81 → "none"` {
		t.Errorf("got %+v, want the port without a target", got)
	}
}

// TestManyLinks reports as many ConfigMaps as one workload refers to.
func TestManyLinks(t *testing.T) {
	const n = 4000
	changes := []inventory.Change{
		{Type: "*version.Info", ID: "v", JSON: []byte(`{"gitVersion":"v1.36.0"}`)},
		{Type: "*v1.Namespace", ID: "ns", JSON: []byte(`{"metadata":{"uid":"ns","name":"ns"}}`)},
	}
	var volumes []string
	for i := range n {
		id := fmt.Sprintf("c%d", i)
		changes = append(changes, inventory.Change{Type: "*v1.ConfigMap", ID: id, JSON: fmt.Appendf(nil, `{"metadata":{"uid":%[1]q,"name":%[1]q,"namespace":"ns"}}`, id)})
		volumes = append(volumes, fmt.Sprintf(`{"configMap":{"name":%q}}`, id))
	}
	inv := inventory.Build(inventory.Options{}, changes[:2])
	inv.Apply([]inventory.Change{{Type: "*v1.Deployment", ID: "d", JSON: []byte(
		`{"metadata":{"uid":"d","name":"d","namespace":"ns"},"spec":{"template":{"spec":{"volumes":[` + strings.Join(volumes, ",") + `]}}}}`)}})
	inv.Apply(changes[2:])
	if got := inv.Summary().Counts.ConfigMapLinks; got != n {
		t.Errorf("got %d links to ConfigMaps, want %d", got, n)
	}
	for i := range changes[2:] {
		changes[2+i].JSON = nil
	}
	inv.Apply(changes[2:])
	if got := inv.Summary(); got.Counts.ConfigMapLinks != 0 || got.Dropped[inventory.ConfigMapUnknown] != 1 {
		t.Errorf("got %d links and %v when the ConfigMaps are gone, want none and a reason", got.Counts.ConfigMapLinks, got.Dropped)
	}
}

// TestManyNetworks has as many Nodes with networks of their own as Pods.
func TestManyNetworks(t *testing.T) {
	const n = 20000
	changes := []inventory.Change{
		{Type: "*version.Info", ID: "v", JSON: []byte(`{"gitVersion":"v1.36.0"}`)},
		{Type: "*v1.Namespace", ID: "ns", JSON: []byte(`{"metadata":{"uid":"ns","name":"ns"}}`)},
		{Type: "*v1.DaemonSet", ID: "d", JSON: []byte(`{"metadata":{"uid":"d","name":"d","namespace":"ns"}}`)},
	}
	for i := range n {
		id := fmt.Sprintf("n%d", i)
		changes = append(changes, inventory.Change{Type: "*v1.Node", ID: id, JSON: fmt.Appendf(nil,
			`{"metadata":{"uid":%[1]q,"name":%[1]q},"spec":{"podCIDR":"2001:db8:%[2]x:1::/64"},"status":{"addresses":[{"type":"InternalIP","address":"2001:db8:%[2]x:2::1"}]}}`, id, i)})
	}
	for i := range n {
		id := fmt.Sprintf("p%d", i)
		changes = append(changes, inventory.Change{Type: "*v1.Pod", ID: id, JSON: fmt.Appendf(nil,
			`{"metadata":{"uid":%[1]q,"name":%[1]q,"namespace":"ns","ownerReferences":[{"kind":"DaemonSet","uid":"d"}]},"status":{"hostIP":"2001:db8:%[2]x:2::1","podIP":"2001:db8:%[2]x:1::7"}}`, id, i)})
	}
	inv := inventory.Build(inventory.Options{}, changes)
	if got := inv.Summary().Counts.PodAddresses; got != n {
		t.Errorf("got %d addresses of Pods, want %d", got, n)
	}
	for _, p := range inv.Pods(inventory.Filter{Name: "p7"}) {
		if len(p.Addresses) != 1 {
			t.Errorf("got %+v, want its address in the network of its Node", p)
		}
	}
}
