package inventory_test

import (
	"fmt"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// TestContest has tens of thousands of Ingresses on one Service, of Services on one workload with as many Pods, and of
// ConfigMaps and links of one name: what is asked for comes in proportion to their number, otherwise this would take minutes.
func TestContest(t *testing.T) {
	const n = 30000
	changes := []inventory.Change{
		{Type: "*version.Info", ID: "v", JSON: []byte(`{"gitVersion":"v1.36.0"}`)},
		{Type: "*v1.Namespace", ID: "ns", JSON: []byte(`{"metadata":{"uid":"ns","name":"ns"}}`)},
		{Type: "*v1.Deployment", ID: "d", JSON: []byte(`{"metadata":{"uid":"d","name":"d","namespace":"ns"},"spec":{"template":{"metadata":{"labels":{"a":"b"}}}}}`)},
	}
	for i := range n {
		add := func(wire, prefix, rest string) {
			id := fmt.Sprintf("%s%06d", prefix, i)
			changes = append(changes, inventory.Change{Type: wire, ID: id, JSON: fmt.Appendf(nil, `{"metadata":{"uid":%q,"name":%q,"namespace":"ns"%s}`, id, id, rest)})
		}
		add("*v1.Service", "s", `},"spec":{"selector":{"a":"b"},"type":"ClusterIP","ports":[{"port":80,"targetPort":80,"protocol":"TCP"}]}`)
		add("*v1.Ingress", "i", `},"spec":{"defaultBackend":{"service":{"name":"s000000","port":{"number":80}}}}`)
		add("*v1.Pod", "p", `,"ownerReferences":[{"kind":"Deployment","uid":"d"}]}`)
		id := fmt.Sprintf("c%06d", i)
		changes = append(changes, inventory.Change{Type: "*v1.ConfigMap", ID: id, JSON: fmt.Appendf(nil, `{"metadata":{"uid":%q,"name":"c","namespace":"ns"}}`, id)})
		id = fmt.Sprintf("w%06d", i)
		changes = append(changes, inventory.Change{Type: "*v1.StatefulSet", ID: id, JSON: fmt.Appendf(nil,
			`{"metadata":{"uid":%[1]q,"name":%[1]q,"namespace":"ns"},"spec":{"template":{"spec":{"volumes":[{"configMap":{"name":"c"}}]}}}}`, id)})
	}
	inv := inventory.Build(inventory.Options{}, changes)
	if got := inv.Summary().Dropped[inventory.IngressTaken]; got != n-1 {
		t.Errorf("got %d Ingresses whose Service shows another one, want %d", got, n-1)
	}
	if got := len(inv.Findings(inventory.Filter{Reason: inventory.IngressTaken})); got != n-1 {
		t.Errorf("got %d findings of Ingresses, want %d", got, n-1)
	}
	pods := inv.Pods(inventory.Filter{})
	if len(pods) != n || pods[n-1].Service == "" || pods[n-1].Service != pods[0].Service {
		t.Errorf("got %d Pods, want %d with one Service", len(pods), n)
	}
	if got := inv.Summary().Counts.ConfigMapLinks; got != n {
		t.Errorf("got %d links to ConfigMaps, want %d", got, n)
	}
}
