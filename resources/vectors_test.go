package resources_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// better are the cases that come out better than with the objects as they are, and what differs.
var better = map[string]string{
	"03a-route-as-Ingress":           "the Route has a backend",
	"03c-route-targetPort-number":    "the Route has a backend",
	"03k-v1-and-v1beta1-both":        "both Ingresses are read",
	"03l-2port-service-first-name":   "the first port of two is found by its name",
	"03q-route-without-port":         "the Route has a backend",
	"07na-word":                      "a node without a usable address does not fail the cluster",
	"07nb-dots":                      "a node without a usable address does not fail the cluster",
	"07ne-colon":                     "a node without a usable address does not fail the cluster",
	"07nf-space":                     "a node without a usable address does not fail the cluster",
	"07nh-v6zone":                    "a link-local address with a zone, which no kubelet reports, is taken for none",
	"07x-bad-podCIDR":                "a podCIDR that is none does not fail the cluster",
	"08j-service-without-targetPort": "the Service has its port",
	"12b-Mi-mem":                     "the memory is known",
	"12c-Gi-mem":                     "the memory is known",
	"12f-num-mem":                    "the memory is known",
	"12h-cpu-number":                 "the number of CPUs is known",
	"12i-cpu3.5":                     "the number of CPUs is known",
	"12j-cond-no-reason":             "a ready node counts as ready",
	"14i-targetPort-string-number":   "the Service has its port",
}

// faulty are the cases whose fault is not in an object: something is missing.
var faulty = []string{"01a-no-version", "01b-version-without-gitVersion", "16b-no-nodes"}

// The objects of every server vector, projected and completed, give the server what the objects as they are would give, or
// better; and nothing that makes it fail.
func TestServerVectors(t *testing.T) {
	files, err := filepath.Glob("../inventory/testdata/vectors/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("list vectors: %v, %d files", err, len(files))
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var v struct {
				Entries map[string][]json.RawMessage `json:"entries"`
			}
			if err := json.Unmarshal(data, &v); err != nil {
				t.Fatal(err)
			}
			before := inventory.Build(inventory.Options{}, changes(v.Entries))
			after := inventory.Build(inventory.Options{}, changes(projected(t, v.Entries)))
			reason, differs := better[name]
			// The random clusters have Services with several ports and StatefulSetPluses in them.
			differs = differs || strings.HasPrefix(name, "random-")
			if diff := cmp.Diff(contents(t, before), contents(t, after)); diff != "" && !differs {
				t.Errorf("the server would make something else of it (- before, + after): %s", diff)
			} else if diff == "" && reason != "" {
				t.Errorf("there is no difference, want: %s", reason)
			}
			if failures := after.Summary().Failures; len(failures) > 0 && !slices.Contains(faulty, name) {
				t.Errorf("the server would fail: %v", failures)
			}
			if a, b := len(after.Findings(inventory.Filter{})), len(before.Findings(inventory.Filter{})); a > b && reason == "" {
				t.Errorf("the server would drop more: got %d findings, want at most %d", a, b)
			}
		})
	}
}

// projected returns the entries as pseudo-agent would send the objects.
func projected(t *testing.T, in map[string][]json.RawMessage) map[string][]json.RawMessage {
	t.Helper()
	out := map[string][]json.RawMessage{}
	uids := map[string]bool{}
	for wireType, docs := range in {
		for _, doc := range docs {
			if wireType == "*version.Info" {
				out[wireType] = append(out[wireType], doc)
				continue
			}
			kind := kindOf(wireType, doc)
			if kind == nil {
				out[wireType] = append(out[wireType], doc)
				continue
			}
			p := resources.NewProjector(resources.Selected{ID: kind.Name, Kind: kind}, resources.Options{ConfigMapData: true, LiteralEnv: true})
			obj, _, err := p.Project(doc, nil)
			if err != nil || obj.Entry == nil {
				continue // broken on purpose, or not reported
			}
			entry, err := obj.Entry.JSON()
			if err != nil {
				t.Fatal(err)
			}
			uids[identity(doc).Metadata.UID] = kind.OwnerKind != "" && kind.Name != "replicasets"
			out[obj.Entry.WireType()] = append(out[obj.Entry.WireType()], entry)
		}
	}
	services := map[string][]resources.ServicePort{}
	for _, doc := range out["*v1.Service"] {
		service, ports, err := resources.ServicePorts(doc)
		if err != nil {
			t.Fatal(err)
		}
		services[service] = ports
	}
	for i, doc := range out["*v1.Ingress"] {
		resolved, _, err := resources.ResolveBackends(doc, func(s string) []resources.ServicePort { return services[s] })
		if err != nil {
			t.Fatal(err)
		}
		out["*v1.Ingress"][i] = resolved
	}
	for i, doc := range out["*v1.ReplicaSet"] {
		if o := identity(doc); uids[o.Metadata.OwnerReferences[0].UID] {
			stripped, err := resources.WithoutTemplate(doc)
			if err != nil {
				t.Fatal(err)
			}
			out["*v1.ReplicaSet"][i] = stripped
		}
	}
	return out
}

type identified struct {
	Metadata struct {
		UID             string
		OwnerReferences []struct{ UID string }
	}
	Spec struct{ Host, To any }
}

func identity(doc []byte) identified {
	var o identified
	_ = json.Unmarshal(doc, &o) // broken on purpose
	return o
}

// kindOf returns the kind that reports such objects, nil if none does.
func kindOf(wireType string, doc []byte) *resources.Kind {
	switch {
	case wireType == "*v1.Route", wireType == "*v1.Ingress" && (identity(doc).Spec.To != nil || identity(doc).Spec.Host != nil):
		return resources.ByName("routes")
	case wireType == "*v1beta1.Ingress":
		return resources.ByName("ingresses")
	case wireType == "*v1.StatefulSetPlus":
		return resources.ByName("statefulsets")
	}
	for _, k := range resources.Catalogue() {
		if k.WireType == wireType {
			return k
		}
	}
	return nil
}

func changes(entries map[string][]json.RawMessage) []inventory.Change {
	var out []inventory.Change
	for wireType, docs := range entries {
		for i, doc := range docs {
			var literal string
			if json.Unmarshal(doc, &literal) == nil {
				doc = json.RawMessage(literal)
			}
			out = append(out, inventory.Change{Type: wireType, ID: fmt.Sprintf("%s#%d", identity(doc).Metadata.UID, i), JSON: doc})
		}
	}
	slices.SortFunc(out, func(a, b inventory.Change) int { return strings.Compare(a.Type+a.ID, b.Type+b.ID) })
	return out
}

// contents is everything that an inventory holds.
func contents(t *testing.T, inv *inventory.Inventory) any {
	t.Helper()
	all := inventory.Filter{}
	b, err := json.Marshal(map[string]any{
		"nodes": inv.Nodes(all), "namespaces": inv.Namespaces(all), "workloads": inv.Workloads(all), "replica sets": inv.ReplicaSets(all),
		"pods": inv.Pods(all), "services": inv.Services(all), "ingresses": inv.Ingresses(all), "config maps": inv.ConfigMaps(all),
		"networks": inv.Summary().Networks, "version": inv.Summary().Version,
	})
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
