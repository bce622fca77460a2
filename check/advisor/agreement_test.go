package advisor

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// TestAgreesWithInventory: the advisor's quick look and the inventory, which does everything that the server does, count
// the same Pods and Services as lost.
func TestAgreesWithInventory(t *testing.T) {
	seed := testseed.New(t)
	rnd := rand.New(rand.NewPCG(seed, 0))
	pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
	for range 200 {
		var entries []*resources.Entry
		add := func(wireType, name, ownerKind, owner, doc string) {
			c := resources.Content{WireType: wireType, UID: resources.ParseUID(name), OwnerKind: ownerKind, JSON: []byte(doc)}
			if owner != "" {
				c.Owner = resources.ParseUID(owner)
			}
			entries = append(entries, encoder.Encode(c, nil))
		}
		add("*version.Info", "version", "", "", `{"gitVersion":"v1.36.3"}`)
		add("*v1.Namespace", "ns", "", "", `{"metadata":{"name":"shop","uid":"ns"}}`)
		add("*v1.Node", "n1", "", "", `{"metadata":{"name":"n1","uid":"n1"},"spec":{"podCIDR":"10.244.0.0/24"},`+
			`"status":{"addresses":[{"address":"192.168.0.9","type":"InternalIP"}]}}`)
		for i := range 4 {
			name := fmt.Sprint("wl", i)
			if rnd.IntN(3) == 0 {
				continue
			}
			add(pick("*v1.Deployment", "*v1.StatefulSet", "*v1.DaemonSet", "*v1.CloneSet"), name, "", "", fmt.Sprintf(
				`{"metadata":{"labels":{%s},"name":%q,"namespace":"shop","uid":%q},"spec":{"replicas":1,"template":{"metadata":{"labels":{%s}},"spec":{"containers":[{"name":"c"}]}}}}`,
				pick(``, `"app":"a"`, `"tier":"x"`), name, name, pick(``, `"app":"a"`, `"app":"b","tier":"x"`)))
		}
		for i := range 4 {
			name, owner := fmt.Sprint("rs", i), fmt.Sprint("wl", rnd.IntN(4))
			if rnd.IntN(3) == 0 {
				continue
			}
			add("*v1.ReplicaSet", name, "apps/v1/Deployment", owner, fmt.Sprintf(
				`{"metadata":{"name":%q,"namespace":"shop","ownerReferences":[{"kind":"Deployment","uid":%q}],"uid":%q},"spec":{"replicas":1,"template":{"metadata":{"labels":{%s}}}}}`,
				name, owner, name, pick(``, `"app":"a"`, `"app":"c"`)))
		}
		for i := range 12 {
			name := fmt.Sprint("pod", i)
			kind, owner := pick("ReplicaSet", "Deployment", "StatefulSet", "Job", "Node", "GameServerSet", "InPlaceSet", ""), fmt.Sprint(pick("wl", "rs"), rnd.IntN(4))
			switch kind {
			case "Job", "GameServerSet", "InPlaceSet":
				owner = kind
			case "Node":
				owner = "n1"
			}
			groups := map[string]string{"Job": "batch/v1", "Node": "v1", "GameServerSet": "game.example/v1"}
			apiVersion := "apps/v1"
			if g, ok := groups[kind]; ok {
				apiVersion = g
			}
			owners, ownerKind := fmt.Sprintf(`[{"kind":%q,"name":"o","uid":%q}]`, kind, owner), apiVersion+"/"+kind
			if kind == "" {
				owners, ownerKind, owner = `[]`, "", ""
			}
			add("*v1.Pod", name, ownerKind, owner, fmt.Sprintf(
				`{"metadata":{"labels":{},"name":%q,"namespace":"shop","ownerReferences":%s,"uid":%q},"status":{"hostIP":"192.168.0.9","podIP":"10.%s.0.%d"}}`,
				name, owners, name, pick("244", "245"), i+1))
		}
		for i := range 4 {
			name := fmt.Sprint("svc", i)
			add("*v1.Service", name, "", "", fmt.Sprintf(
				`{"metadata":{"name":%q,"namespace":"shop","uid":%q},"spec":{"clusterIP":"10.96.0.%d","ports":[{"port":80,"protocol":"TCP","targetPort":80}],"selector":{%s},"type":%q}}`,
				name, name, i+1, pick(``, `"app":"a"`, `"app":"b"`, `"app":"c"`, `"app":"a","tier":"x"`), pick("ClusterIP", "ExternalName")))
		}
		changes := make([]inventory.Change, 0, len(entries))
		for _, e := range entries {
			doc, err := e.JSON()
			if err != nil {
				t.Fatal(err)
			}
			uid := e.UID()
			changes = append(changes, inventory.Change{Type: e.WireType(), ID: string(uid[:]), JSON: doc})
		}
		inv := inventory.Build(inventory.Options{}, changes)
		s := inv.Summary()

		a := New(Options{Entries: func() []*resources.Entry { return entries }, Thorough: true})
		r, _ := a.Look(t.Context())
		if r.Pods.Bound != s.Counts.Pods {
			t.Errorf("seed %d: got %d bound Pods, want the inventory's %d: %+v\n%+v", seed, r.Pods.Bound, s.Counts.Pods, r.Pods, inv.Findings(inventory.Filter{Type: "*v1.Pod"}))
		}
		unbound := 0
		for _, f := range r.Findings {
			if f.Problem == ServiceUnbound {
				unbound = f.Count
			}
		}
		if want := s.Dropped[inventory.ServiceNoWorkload]; unbound != want {
			t.Errorf("seed %d: got %d Services that bind to nothing, want the inventory's %d: %+v", seed, unbound, want, inv.Findings(inventory.Filter{Type: "*v1.Service"}))
		}
		if t.Failed() {
			return
		}
	}
}
