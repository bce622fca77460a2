package inventory_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// TestCheckMissesNothing: whatever an inventory finds that crashes, freezes or empties the server, the light check suspects, after
// any changes; and it does not suspect everything.
func TestCheckMissesNothing(t *testing.T) {
	c := newSeed(t)
	calm, failing := 0, 0
	found := map[inventory.Reason]bool{}
	for range 1500 {
		sound := []inventory.Change{
			{Type: "*version.Info", ID: "v0", JSON: []byte(`{"gitVersion":"v1.36.0"}`)},
			{Type: "*v1.Node", ID: "sound", JSON: []byte(`{"metadata":{"uid":"sound","name":"sound"},"status":{"addresses":[{"type":"InternalIP","address":"1.0.0.9"}]}}`)},
			{Type: "*v1.Namespace", ID: "sound", JSON: []byte(`{"metadata":{"uid":"sound","name":"n1","labels":{"virtual-kubelet.io/provider-cluster-native-name":"x"}}}`)},
			{Type: "*v1.Deployment", ID: "sound", JSON: []byte(`{"metadata":{"uid":"sound","name":"d","namespace":"n1"},"spec":{"template":{"metadata":{"labels":{"a":"b"}}}}}`)},
		}
		check, held := inventory.NewCheck(), map[[2]string]inventory.Change{}
		for step := range 1 + c.IntN(4) {
			var batch []inventory.Change
			if step == 0 {
				batch = sound[c.IntN(2)*c.IntN(2)*c.IntN(2):]
			}
			for range c.IntN(4) {
				e := c.entry()
				if c.IntN(8) == 0 {
					e.Type, e.ID = "*v1.Pod", "bare"
					e.JSON = []byte(fmt.Sprintf(`{"metadata":{"uid":"bare","name":"p","namespace":"n1",%s"ownerReferences":[{"kind":"Deployment","uid":"sound"}]}}`, c.pick("", `"labels":{},`)))
				}
				if c.IntN(8) == 0 {
					e.Type, e.ID = "*v1.Pod", "networks"
					e.JSON = []byte(fmt.Sprintf(`{"metadata":{"uid":"networks","name":"q","namespace":"n1","labels":{},"ownerReferences":[{"kind":"Deployment","uid":"sound"}]},"status":{"podIP":%q,"podNetworks":[%s]}}`,
						c.pick("10.0.0.1", "none"), c.pick("", "{}")))
				}
				if c.IntN(8) == 0 {
					e.Type, e.ID = "*v1.Node", "subnet"
					e.JSON = []byte(fmt.Sprintf(`{"metadata":{"uid":"subnet","name":"n"},"spec":{"podCIDR":%q},"status":{"addresses":[{"type":"InternalIP","address":%q}]}}`,
						c.pick("10.1.0.0/24", "10.9.0.0/99"), c.pick("1.0.0.8", "1.0.0.800", "none")))
				}
				if c.IntN(8) == 0 {
					e.Type, e.ID = "*v1.Service", "service"
					e.JSON = []byte(fmt.Sprintf(`{"metadata":{"uid":"service","name":"s","namespace":"n1"},"spec":{"type":"ClusterIP","selector":{"a":"b"},"clusterIP":%q,"ports":[{"port":80,"targetPort":80}]}}`,
						c.pick("10.96.0.1", "10.96.0.999")))
				}
				batch = append(batch, e)
			}
			if c.IntN(5) == 0 {
				batch = append(batch, inventory.Change{Type: sound[c.IntN(2)].Type, ID: sound[c.IntN(2)].ID})
			}
			for _, e := range batch {
				if e.JSON == nil {
					delete(held, [2]string{e.Type, e.ID})
				} else {
					held[[2]string{e.Type, e.ID}] = e
				}
			}
			if c.IntN(3) == 0 {
				check = again(t, check)
			}
			check.Apply(batch)
			failures := inventory.Build(inventory.Options{}, slices.Collect(maps.Values(held))).Summary().Failures
			for _, f := range failures {
				found[f.Reason] = true
			}
			switch {
			case len(failures) > 0 && !check.Suspicious():
				t.Fatalf("the check suspects nothing, the inventory finds %+v", failures[0])
			case len(failures) > 0:
				failing++
			case !check.Suspicious():
				calm++
			}
		}
	}
	if calm < 100 || failing < 100 {
		t.Errorf("%d states were calm and %d failed, want at least 100 of each", calm, failing)
	}
	if !inventory.NewCheck().Suspicious() {
		t.Error("nothing at all is not suspicious")
	}
	found[inventory.NoEntries] = true
	for _, r := range inventory.Reasons() {
		if grave := r.Scope == inventory.ScopeCluster || r.Scope == inventory.ScopeCrash; grave && !found[r.Reason] {
			t.Errorf("reason %s never occurred", r.Reason)
		}
	}
}

// again is a check after a restart.
func again(t *testing.T, check *inventory.Check) *inventory.Check {
	t.Helper()
	b, err := check.Save()
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := inventory.LoadCheck(b)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}
