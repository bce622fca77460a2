package e2e

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/kustomize"
)

// kustomized is what kubectl makes of a folder of packaging/kustomize.
func kustomized(t *testing.T, root, dir string) []*unstructured.Unstructured {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bins.Kubectl, "kustomize", filepath.Join(root, kustomize.Dir, dir))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kubectl kustomize %s: %v\n%s", dir, err, stderr.String())
	}
	return documents(t, string(out))
}

// withoutTool is an object by its name, without what only Helm or only Kustomize writes.
func withoutTool(o *unstructured.Unstructured, chart string) (string, map[string]any) {
	for _, path := range [][]string{{"metadata"}, {"spec", "template", "metadata"}} {
		for _, label := range []string{"app.kubernetes.io/managed-by", "helm.sh/chart", "app.kubernetes.io/version"} {
			unstructured.RemoveNestedField(o.Object, append(slices.Clone(path), "labels", label)...)
		}
		unstructured.RemoveNestedField(o.Object, append(slices.Clone(path), "annotations", "checksum/config")...)
		if annotations, found, _ := unstructured.NestedMap(o.Object, append(slices.Clone(path), "annotations")...); found && len(annotations) == 0 {
			unstructured.RemoveNestedField(o.Object, append(slices.Clone(path), "annotations")...)
		}
	}
	if o.GetKind() == "ConfigMap" {
		o.SetName(chart)
	}
	volumes, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "volumes")
	for _, v := range volumes {
		if source := nested[map[string]any](v.(map[string]any), "configMap"); source != nil {
			source["name"] = chart
		}
	}
	if len(volumes) > 0 {
		_ = unstructured.SetNestedSlice(o.Object, volumes, "spec", "template", "spec", "volumes")
	}
	return o.GetKind() + " " + o.GetName(), o.Object
}

// TestKustomizeBasesAreTheCharts: the files are those that the chart gives today, kubectl builds them, what comes out is what
// Helm renders, and the apiserver takes it.
func TestKustomizeBasesAreTheCharts(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	helmBin, err := buildHelm()
	if err != nil {
		t.Fatal(err)
	}
	makeFreeNamespace(t, kustomize.Namespace)
	loader := newLoader(t)
	for _, chart := range kustomize.Charts {
		t.Run(chart, func(t *testing.T) {
			files, err := kustomize.Base(t.Context(), helmBin, root, chart)
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range files {
				got, err := os.ReadFile(filepath.Join(root, kustomize.Dir, chart, name))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s/%s is not what the chart gives (%v): run make generate-kustomize", chart, name, err)
				}
			}
			out, err := helm(t, kustomize.Template(root, chart)...)
			if err != nil {
				t.Fatal(err)
			}
			byHelm, byKustomize := map[string]map[string]any{}, map[string]map[string]any{}
			for _, o := range documents(t, out) {
				id, object := withoutTool(o, chart)
				byHelm[id] = object
			}
			for _, o := range kustomized(t, root, chart) {
				takenTwice(t, loader, o)
				id, object := withoutTool(o.DeepCopy(), chart)
				byKustomize[id] = object
			}
			if d := cmp.Diff(byHelm, byKustomize); d != "" {
				t.Errorf("the base differs from the chart (-helm +kustomize):\n%s", d)
			}
		})
	}
}

// TestKustomizeExample: an overlay moves everything to its namespace, with its image and its configuration.
func TestKustomizeExample(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	makeNamespaces(t, "observability")
	loader := newLoader(t)
	objs := kustomized(t, root, "example")
	kinds := map[string]bool{}
	for _, o := range objs {
		kinds[o.GetKind()] = true
		takenTwice(t, loader, o)
		if o.GetNamespace() != "observability" && !clusterWide(o.GetKind()) {
			t.Errorf("%s %s is in %q", o.GetKind(), o.GetName(), o.GetNamespace())
		}
	}
	want := []string{"ClusterRole", "ClusterRoleBinding", "ConfigMap", "Deployment", "Service", "ServiceAccount"}
	if got := slices.Sorted(maps.Keys(kinds)); !slices.Equal(got, want) {
		t.Errorf("got the kinds %q, want %q", got, want)
	}
	config := at(objs, "Deployment spec template spec volumes 0 configMap name")
	for path, want := range map[string]string{
		"ClusterRoleBinding subjects 0 namespace":          "observability",
		"Deployment spec template spec containers 0 image": "registry.example/observability/pseudo-agent:0.1.0",
		"ConfigMap metadata name":                          config,
	} {
		if got := at(objs, path); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	text := at(objs, "ConfigMap data config.yaml")
	if !strings.Contains(text, "d-rrcmIdbEph") || !strings.HasPrefix(config, "pseudo-agent-") {
		t.Errorf("the ConfigMap %s has\n%s", config, text)
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if run := command(t, "rbac", "--config", file, "--namespace", "observability"); run.code != 0 {
		t.Errorf("pseudo-agent does not take the configuration: %s", run.stderr)
	}
}
