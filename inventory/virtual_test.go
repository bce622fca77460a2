package inventory_test

import (
	"fmt"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// silent is a plugin without opinions.
type silent struct{}

func (silent) Any() bool { return true }

func (silent) Map([]byte) (inventory.Mapping, bool) { return inventory.Mapping{}, true }

// empty is a server without plugins.
type empty struct{ silent }

func (empty) Any() bool { return false }

// TestVirtualKubelet: once there is a plugin, the server takes the workload of a virtual kubelet's Pods from their labels.
func TestVirtualKubelet(t *testing.T) {
	const provider = `"virtual-kubelet.io/provider-`
	for _, tt := range []struct {
		name, labels string
		mapper       inventory.Mapper
		want         string // type/namespace/name of the workload; empty: the Pod is dropped
	}{
		{"typed", provider + `cluster-type":"serverless",` + provider + `workload-type":"DaemonSet",` + provider + `resource-name":"cart-6f7d"`, silent{}, "DaemonSet/shop/cart"},
		{"proprietary", provider + `cluster-type":"proprietary",` + provider + `resource-name":"cart-6f7d-x1"`, silent{}, "Deployment/shop/cart-6f7d"},
		{
			"stateful", provider + `cluster-type":"serverless",` + provider + `resource-name":"db-0","statefulset.kubernetes.io/pod-name":"db-0"`,
			silent{},
			"StatefulSet/shop/db",
		},
		{"no dash", provider + `cluster-type":"serverless",` + provider + `resource-name":"cart"`, silent{}, "Deployment/shop/cart"},
		{"no name", provider + `cluster-type":"serverless"`, silent{}, ""},
		{"another cluster type", provider + `cluster-type":"native",` + provider + `resource-name":"cart-1"`, silent{}, ""},
		{"unknown type", provider + `cluster-type":"serverless",` + provider + `workload-type":"Job",` + provider + `resource-name":"cart-1"`, silent{}, ""},
		{"no plugin", provider + `cluster-type":"serverless",` + provider + `resource-name":"cart-1"`, empty{}, ""},
		{"no plugins at all", provider + `cluster-type":"serverless",` + provider + `resource-name":"cart-1"`, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inv := inventory.Build(inventory.Options{Mapper: tt.mapper}, []inventory.Change{
				{Type: "*version.Info", ID: "v", JSON: []byte(`{"gitVersion":"v1.36.0"}`)},
				{Type: "*v1.Namespace", ID: "ns", JSON: []byte(`{"metadata":{"uid":"ns","name":"shop"}}`)},
				{Type: "*v1.Node", ID: "n", JSON: []byte(`{"metadata":{"uid":"n","name":"n1"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}`)},
				{Type: "*v1.Pod", ID: "p", JSON: fmt.Appendf(nil, `{"metadata":{"uid":"p","name":"cart","namespace":"shop","labels":{%s}},"status":{"podIP":"fe80::1%%eth0","hostIP":"10.0.0.1"}}`, tt.labels)},
			})
			got := ""
			for _, p := range inv.Pods(inventory.Filter{}) {
				got = p.Workload
				if len(p.Addresses) != 1 || p.Addresses[0] != "fe80::1%eth0" {
					t.Errorf("got addresses %v, want the one with its zone", p.Addresses)
				}
				if p.Plugin != inventory.VirtualKubelet {
					t.Errorf("got plugin %q", p.Plugin)
				}
			}
			if got != tt.want {
				t.Errorf("got workload %q, want %q", got, tt.want)
			}
		})
	}
}
