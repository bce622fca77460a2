package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// sideNamespace is where no other test installs anything.
const sideNamespace = "deepflow-side"

// releasedDir holds the charts of all former versions, packed.
const releasedDir = "testdata/released"

// inCluster runs a program with access to the cluster, and returns what it says.
func inCluster(t *testing.T, stdin, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.Kubeconfig)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustRun(t *testing.T, stdin, program string, args ...string) string {
	t.Helper()
	out, err := inCluster(t, stdin, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return out
}

// rolesOf are the roles and bindings of all namespaces that pseudo-agent made, one "kind namespace/name" each.
func rolesOf(t *testing.T) []string {
	t.Helper()
	out, err := inCluster(t, "", bins.Kubectl, "get", "clusterroles,clusterrolebindings,roles,rolebindings", "-A", "--no-headers",
		"-o", "custom-columns=KIND:.kind,NS:.metadata.namespace,NAME:.metadata.name")
	if err != nil {
		t.Fatal(err, out)
	}
	var got []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 && strings.Contains(f[2], releaseName) {
			got = append(got, f[0]+" "+strings.ReplaceAll(f[1], "<none>", "")+"/"+f[2])
		}
	}
	slices.Sort(got)
	return got
}

func bothOf(name, namespace string) []string {
	kinds := []string{"Role", "RoleBinding"}
	if namespace == "" {
		kinds = []string{"ClusterRole", "ClusterRoleBinding"}
	}
	return []string{kinds[0] + " " + namespace + "/" + name, kinds[1] + " " + namespace + "/" + name}
}

// TestReleasesSideBySide: one release name in two namespaces, one of them upgraded from each former version. What stands in
// the cluster as a whole, or in a namespace of others, carries the release's namespace.
func TestReleasesSideBySide(t *testing.T) {
	bin, err := buildHelm()
	if err != nil {
		t.Fatal(err)
	}
	values := filepath.Join(t.TempDir(), "values.yaml")
	text := "replicas: 2\nconfig: {server: {addresses: ['s:20035']}, inputs: {resources: {kubernetes: {kubernetes_namespace: shop}}}}\n"
	if err := os.WriteFile(values, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	former, err := filepath.Glob(filepath.Join(releasedDir, "pseudo-agent-*.tgz"))
	if err != nil || len(former) == 0 {
		t.Fatal("no former version of the chart", err)
	}
	before := rolesOf(t)
	for _, tgz := range former {
		t.Run(filepath.Base(tgz), func(t *testing.T) {
			makeNamespaces(t, sideNamespace, "shop")
			mustRun(t, "", bin, "install", releaseName, tgz, "-n", sideNamespace, "-f", values)
			mustRun(t, "", bin, "upgrade", releaseName, filepath.Join(chartsDir, "pseudo-agent"), "-n", sideNamespace, "-f", values)
			own := slices.Concat(before, bothOf(sideNamespace+":pseudo-agent", ""), bothOf(sideNamespace+":pseudo-agent", "shop"),
				bothOf(sideNamespace+":pseudo-agent:lease", sideNamespace))
			slices.Sort(own)
			if d := cmp.Diff(own, rolesOf(t)); d != "" {
				t.Errorf("after the upgrade (-want +got):\n%s", d)
			}
			mustRun(t, "", bin, "install", releaseName, filepath.Join(chartsDir, "pseudo-agent"), "-n", "shop", "-f", values)
			for _, ns := range []string{sideNamespace, "shop"} {
				mustRun(t, "", bin, "install", "pseudo-server", filepath.Join(chartsDir, "pseudo-server"), "-n", ns)
				mustRun(t, "", bin, "install", "pod-agent", filepath.Join(chartsDir, "pod-agent"), "-n", ns, "--set", "admissionPolicy.enabled=true")
			}
			for _, ns := range []string{sideNamespace, "shop"} {
				mustRun(t, "", bin, "uninstall", releaseName, "pseudo-server", "pod-agent", "-n", ns)
			}
			if d := cmp.Diff(before, rolesOf(t)); d != "" {
				t.Errorf("after both were uninstalled (-want +got):\n%s", d)
			}
		})
	}
	for _, tgz := range []string{"pseudo-server-0.1.0.tgz"} {
		t.Run(tgz, func(t *testing.T) {
			makeNamespaces(t, sideNamespace, "shop")
			mustRun(t, "", bin, "install", "pseudo-server", filepath.Join(releasedDir, tgz), "-n", sideNamespace)
			mustRun(t, "", bin, "upgrade", "pseudo-server", filepath.Join(chartsDir, "pseudo-server"), "-n", sideNamespace)
			mustRun(t, "", bin, "uninstall", "pseudo-server", "-n", sideNamespace)
		})
	}
}

// TestServerTokens: the chart of pseudo-server makes its tokens once; what is only rendered has no random ones.
func TestServerTokens(t *testing.T) {
	bin, err := buildHelm()
	if err != nil {
		t.Fatal(err)
	}
	chart := filepath.Join(chartsDir, "pseudo-server")
	makeNamespaces(t, sideNamespace)
	read := func() (map[string][]byte, string) {
		s, err := cluster.Client.CoreV1().Secrets(sideNamespace).Get(t.Context(), "pseudo-server-tokens", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s.Data, s.ResourceVersion
	}
	if said := mustRun(t, "", bin, "install", "pseudo-server", chart, "-n", sideNamespace); !strings.Contains(said, "get secret pseudo-server-tokens") || strings.Contains(said, "create secret") {
		t.Errorf("the notes do not say how to read the token:\n%s", said)
	}
	first, revision := read()
	if len(first) != 2 || len(first["read"]) < 32 || len(first["administer"]) < 32 || string(first["read"]) == string(first["administer"]) {
		t.Errorf("got %d tokens of %d and %d bytes, want two of at least 32", len(first), len(first["read"]), len(first["administer"]))
	}
	mustRun(t, "", bin, "upgrade", "pseudo-server", chart, "-n", sideNamespace, "--set", "podLabels.a=b")
	if again, now := read(); now != revision || string(again["read"]) != string(first["read"]) {
		t.Error("an upgrade changed the tokens")
	}
	mustRun(t, "", bin, "uninstall", "pseudo-server", "-n", sideNamespace)

	for _, more := range [][]string{nil, {"--set", "tokens.existingSecret=mine"}, {"--set", "tokens.create=false"}} {
		render := func() string {
			return mustRun(t, "", bin, append([]string{"template", "pseudo-server", chart, "-n", sideNamespace}, more...)...)
		}
		text := render()
		if text != render() {
			t.Errorf("%v: two renderings differ", more)
		}
		if strings.Contains(text, "kind: Secret\n") || strings.Contains(text, "token_file") != (len(more) == 0 || more[1] != "tokens.create=false") {
			t.Errorf("%v: got\n%s\nwant no Secret, and the tokens' files unless there are none", more, text)
		}
	}
}

// TestPrintedPermissionsReplaceTheFormer follows docs/commands.md: apply those of today, delete those of before 0.2.
func TestPrintedPermissionsReplaceTheFormer(t *testing.T) {
	makeNamespaces(t, sideNamespace, "shop")
	config := filepath.Join(t.TempDir(), "config.yaml")
	text := "server: {addresses: ['s:20035']}\nhigh_availability: {enabled: true}\ninputs: {resources: {kubernetes: {kubernetes_namespace: shop}}}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	printed := func(more ...string) string {
		run := command(t, append([]string{"rbac", "--config", config, "-n", sideNamespace}, more...)...)
		if run.code != 0 {
			t.Fatalf("rbac: %d\n%s", run.code, run.stderr)
		}
		return run.stdout
	}
	before := rolesOf(t)
	mustRun(t, printed("--former-names"), bins.Kubectl, "apply", "-f", "-")
	mustRun(t, printed(), bins.Kubectl, "apply", "-f", "-")
	mustRun(t, printed("--former-names"), bins.Kubectl, "delete", "--ignore-not-found", "-f", "-")
	want := slices.Concat(before, bothOf(sideNamespace+":pseudo-agent", ""), bothOf(sideNamespace+":pseudo-agent", "shop"),
		bothOf(sideNamespace+":pseudo-agent:lease", sideNamespace))
	slices.Sort(want)
	if d := cmp.Diff(want, rolesOf(t)); d != "" {
		t.Errorf("roles (-want +got):\n%s", d)
	}
	mustRun(t, printed(), bins.Kubectl, "delete", "-f", "-")
	if d := cmp.Diff(before, rolesOf(t)); d != "" {
		t.Errorf("roles at the end (-want +got):\n%s", d)
	}
}

// umbrella makes a chart that depends on the given one under the names, which are aliases unless they are the chart's own.
func umbrella(t *testing.T, chart, version, values string, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	into := filepath.Join(dir, "charts", chart)
	if err := os.CopyFS(into, os.DirFS(filepath.Join(chartsDir, chart))); err != nil {
		t.Fatal(err)
	}
	meta, err := os.ReadFile(filepath.Join(into, "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(meta, &doc); err != nil {
		t.Fatal(err)
	}
	if version != "" {
		doc["version"], doc["appVersion"] = version, version
	}
	var deps []any
	for _, name := range names {
		dep := map[string]any{"name": chart, "version": doc["version"], "condition": name + ".enabled"}
		if name != chart {
			dep["alias"] = name
		}
		deps = append(deps, dep)
	}
	write := func(path string, v any) {
		data, err := yaml.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(into, "Chart.yaml"), doc)
	write(filepath.Join(dir, "Chart.yaml"), map[string]any{"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": deps})
	if err := os.WriteFile(filepath.Join(dir, "values.yaml"), []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// accepted has the apiserver look at what helm renders of a chart, and returns it.
func accepted(t *testing.T, release, chart string, args ...string) []*unstructured.Unstructured {
	t.Helper()
	out, err := helm(t, append([]string{"template", release, chart, "--namespace", releaseNamespace}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	objs := documents(t, out)
	for _, o := range objs {
		if o.GetNamespace() == "" && !strings.HasPrefix(o.GetKind(), "ClusterRole") {
			o.SetNamespace(releaseNamespace)
		}
	}
	apply(t, newLoader(t), objs, metav1.DryRunAll)
	return objs
}

// TestChartAsDependency: with a condition, with aliases, with build metadata in its version, with the longest release name.
func TestChartAsDependency(t *testing.T) {
	releaseNamespaces(t)
	for chart, values := range map[string]string{
		"pseudo-agent":  "enabled: true, replicas: 2, networkPolicy: {enabled: true}, config: {server: {addresses: ['s:20035']}}",
		"pseudo-server": "enabled: true, replicas: 2, networkPolicy: {enabled: true}, storage: {type: postgres, postgres: {secretName: dsn}}",
		"pod-agent":     "enabled: true, config: {network_source: definitions}",
	} {
		t.Run(chart+"/condition", func(t *testing.T) {
			if objs := accepted(t, "u", umbrella(t, chart, "", chart+": {"+values+"}\n", chart)); len(objs) < 5 {
				t.Errorf("got %d objects", len(objs))
			}
			off := strings.Replace(values, "enabled: true", "enabled: false", 1)
			if objs := accepted(t, "u", umbrella(t, chart, "", chart+": {"+off+"}\n", chart)); len(objs) != 0 {
				t.Errorf("switched off it has %d objects", len(objs))
			}
		})
		t.Run(chart+"/version", func(t *testing.T) {
			accepted(t, "u", umbrella(t, chart, "0.1.0+4fda46fd8c4e", chart+": {"+values+"}\n", chart))
			accepted(t, "u", umbrella(t, chart, "0.1.0-"+strings.Repeat("long.", 11)+"long+4fda46fd8c4e", chart+": {"+values+"}\n", chart))
		})
		for _, release := range []string{"hub", "east", longestRelease} {
			t.Run(chart+"/aliases/"+release, func(t *testing.T) {
				aliases := []string{"east", "east-hub", "cluster-west"}
				text := "global: {imageRegistry: registry.example}\n"
				for _, a := range aliases {
					text += a + ": {" + values + "}\n"
				}
				objs := accepted(t, release, umbrella(t, chart, "", text, aliases...))
				names, selectors := map[string]bool{}, map[string]int{}
				for _, o := range objs {
					id := o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
					if names[id] {
						t.Errorf("two objects are %s", id)
					}
					names[id] = true
					if o.GetKind() == "Deployment" || o.GetKind() == "DaemonSet" {
						text, err := yaml.Marshal(nested[map[string]any](o.Object, "spec", "selector", "matchLabels"))
						if err != nil {
							t.Fatal(err)
						}
						selectors[string(text)]++
						if image := at([]*unstructured.Unstructured{o}, o.GetKind()+" spec template spec containers 0 image"); !strings.HasPrefix(image, "registry.example/") {
							t.Errorf("the image is %s, want that of global.imageRegistry", image)
						}
					}
				}
				if len(selectors) != len(aliases) {
					t.Errorf("want a selector of its own for each alias, got %v", selectors)
				}
			})
		}
	}
}

// TestChartsBoundLocalStorage: no Pod of ours can fill its node's disk.
func TestChartsBoundLocalStorage(t *testing.T) {
	for _, chart := range []string{"pseudo-agent", "pseudo-server"} {
		files, err := filepath.Glob(filepath.Join(chartsDir, chart, "ci", "*-values.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("examples of %s: %v, %v", chart, files, err)
		}
		for _, file := range files {
			for _, o := range render(t, chart, file) {
				if o.GetKind() != "Deployment" {
					continue
				}
				spec := nested[map[string]any](podOf(o).Object, "spec")
				for _, v := range nested[[]any](spec, "volumes") {
					if dir, ok := v.(map[string]any)["emptyDir"].(map[string]any); ok && dir["sizeLimit"] == nil {
						t.Errorf("%s: the emptyDir %v has no sizeLimit", file, v)
					}
				}
			}
		}
	}
}
