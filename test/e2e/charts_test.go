package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

const (
	chartsDir        = "../../charts"
	releaseName      = "pseudo-agent"
	releaseNamespace = "deepflow"
)

var buildHelm = sync.OnceValues(func() (string, error) {
	return harness.BuildHelm(context.Background(), os.Stderr)
})

var buildHelm4 = sync.OnceValues(func() (string, error) {
	return harness.BuildHelm4(context.Background(), os.Stderr)
})

// helm runs helm 3, which renders what most tests look at; TestChartsByHelm4 shows that helm 4 renders the same.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	bin, err := buildHelm()
	if err != nil {
		t.Fatal(err)
	}
	return helmOf(t, bin, args...)
}

func helmOf(t *testing.T, bin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin, append(args, "--kube-version", bins.KubeVersion)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("helm %s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// render returns the objects of a release of the chart with the values of a file.
func render(t *testing.T, chart, values string) []*unstructured.Unstructured {
	t.Helper()
	out, err := helm(t, "template", releaseName, filepath.Join(chartsDir, chart), "--namespace", releaseNamespace, "--values", values)
	if err != nil {
		t.Fatal(err)
	}
	return documents(t, out)
}

func documents(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for doc := range strings.SplitSeq(text, "\n---\n") {
		o := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(doc), &o.Object); err != nil { // a key that is there twice
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(o.Object) > 0 {
			out = append(out, o)
		}
	}
	return out
}

// documented are the combinations of values that the documentation names.
func documented(t *testing.T, chart string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(chartsDir, chart, "ci", "*-values.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no combinations of values for %s: %v", chart, err)
	}
	return files
}

// monitoring are the kinds of the Prometheus operator that the charts use.
var monitoring = []sample.CRD{
	{Group: "monitoring.coreos.com", Version: "v1", Kind: "ServiceMonitor", Plural: "servicemonitors"},
	{Group: "monitoring.coreos.com", Version: "v1", Kind: "PrometheusRule", Plural: "prometheusrules"},
}

// releaseNamespaces creates the namespaces that the charts' documented values name. Pods in them have to meet the
// strictest of the Pod Security Standards.
func releaseNamespaces(t *testing.T) {
	t.Helper()
	makeNamespaces(t, releaseNamespace, "shop")
}

// makeNamespaces makes namespaces that enforce the restricted Pod security standard, until the test ends. What is in them
// then stays, since nobody collects it here.
func makeNamespaces(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		ns := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Namespace",
			"metadata": map[string]any{
				"name": name, "labels": map[string]any{"pod-security.kubernetes.io/enforce": "restricted"},
			},
		}}
		if _, err := cluster.Dynamic.Resource(namespaces).Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx := context.Background() // the test's own has ended
			if err := cluster.Dynamic.Resource(namespaces).Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !notFound(err) {
				t.Error(err)
			}
			if err := sample.FinishNamespace(ctx, cluster.Dynamic, name); err != nil {
				t.Error(err)
			}
		})
	}
}

var namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}

// apply creates the objects as `kubectl apply --server-side --validate=strict` does.
func apply(t *testing.T, loader *sample.Loader, objs []*unstructured.Unstructured, dryRun ...string) {
	t.Helper()
	for _, o := range objs {
		res, err := loader.Resource(o)
		if err != nil {
			t.Fatal(err)
		}
		options := metav1.CreateOptions{DryRun: dryRun, FieldValidation: metav1.FieldValidationStrict}
		if _, err := res.Create(t.Context(), o, options); err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
		if len(dryRun) == 0 {
			t.Cleanup(func() {
				if err := res.Delete(context.Background(), o.GetName(), metav1.DeleteOptions{}); err != nil && !notFound(err) {
					t.Error(err)
				}
			})
		}
	}
}

func newLoader(t *testing.T) *sample.Loader {
	t.Helper()
	loader, err := sample.NewLoader(cluster.Dynamic, cluster.Client.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	return loader
}

// podOf is a Pod as the Deployment's controller would create it.
func podOf(deployment *unstructured.Unstructured) *unstructured.Unstructured {
	pod := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(nested[map[string]any](deployment.Object, "spec", "template"))}
	pod.SetAPIVersion("v1")
	pod.SetKind("Pod")
	pod.SetName(deployment.GetName() + "-0")
	pod.SetNamespace(deployment.GetNamespace())
	return pod
}

func TestChartsWithDocumentedValuesAreAccepted(t *testing.T) {
	for _, crd := range monitoring {
		if err := crd.Install(t.Context(), cluster.Dynamic); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := crd.Remove(context.Background(), cluster.Dynamic); err != nil {
				t.Error(err)
			}
		})
	}
	releaseNamespaces(t)
	loader := newLoader(t)
	for _, chart := range []string{"pseudo-agent", "pseudo-server"} {
		for _, values := range documented(t, chart) {
			t.Run(chart+"/"+strings.TrimSuffix(filepath.Base(values), "-values.yaml"), func(t *testing.T) {
				if _, err := helm(t, "lint", "--strict", filepath.Join(chartsDir, chart), "--values", values); err != nil {
					t.Error(err)
				}
				objs := render(t, chart, values)
				for _, o := range objs {
					// `helm install` gives the namespace to what has none.
					if o.GetNamespace() == "" && !strings.HasPrefix(o.GetKind(), "ClusterRole") {
						o.SetNamespace(releaseNamespace)
					}
				}
				apply(t, loader, objs, metav1.DryRunAll)
				for _, o := range objs {
					if o.GetKind() == "Deployment" {
						apply(t, loader, []*unstructured.Unstructured{podOf(o)}, metav1.DryRunAll)
					}
				}
			})
		}
	}
}

// TestChartsPods: what holds of the charts with all documented values, whether the apiserver insists on it or not.
func TestChartsPods(t *testing.T) {
	for _, chart := range []string{"pseudo-agent", "pseudo-server"} {
		for _, values := range documented(t, chart) {
			t.Run(chart+"/"+strings.TrimSuffix(filepath.Base(values), "-values.yaml"), func(t *testing.T) {
				kinds := map[string]map[string]any{}
				for _, o := range render(t, chart, values) {
					kinds[o.GetKind()] = o.Object
				}
				spec := nested[map[string]any](kinds["Deployment"], "spec")
				replicas := nested[float64](spec, "replicas")
				strategy, want := nested[string](spec, "strategy", "type"), "Recreate"
				if replicas > 1 {
					want = "RollingUpdate"
				}
				if strategy != want {
					t.Errorf("got strategy %q for %g replicas, want %q", strategy, replicas, want)
				}
				if _, budget := kinds["PodDisruptionBudget"]; budget && replicas < 2 {
					t.Error("one replica has a PodDisruptionBudget, which would keep its node from being drained")
				}
				if nested[bool](kinds["Service"], "spec", "publishNotReadyAddresses") != (chart == "pseudo-agent") {
					t.Error("want the addresses of Pods that are not ready from the agent's Service only: the server's is for clients too")
				}
				pod := nested[map[string]any](spec, "template", "spec")
				container := nested[[]any](pod, "containers")[0].(map[string]any)
				got := map[string]any{
					"runAsNonRoot":             nested[bool](pod, "securityContext", "runAsNonRoot"),
					"seccompProfile":           nested[string](pod, "securityContext", "seccompProfile", "type"),
					"readOnlyRootFilesystem":   nested[bool](container, "securityContext", "readOnlyRootFilesystem"),
					"allowPrivilegeEscalation": nested[bool](container, "securityContext", "allowPrivilegeEscalation"),
					"capabilities":             fmt.Sprint(nested[[]any](container, "securityContext", "capabilities", "drop")),
					"live":                     nested[string](container, "livenessProbe", "httpGet", "path"),
					"ready":                    nested[string](container, "readinessProbe", "httpGet", "path"),
					"limited":                  nested[string](container, "resources", "limits", "memory") != "",
					"requested":                nested[string](container, "resources", "requests", "cpu") != "",
				}
				if d := cmp.Diff(map[string]any{
					"runAsNonRoot": true, "seccompProfile": "RuntimeDefault", "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
					"capabilities": "[ALL]", "live": "/healthz/live", "ready": "/healthz/ready", "limited": true, "requested": true,
				}, got); d != "" {
					t.Errorf("the container differs (-want +got):\n%s", d)
				}
			})
		}
	}
}

func TestChartRefusesWrongValues(t *testing.T) {
	for _, c := range []struct{ chart, set, want string }{
		{"pseudo-agent", "replicas=1", "config.server.addresses is needed"},
		{"pseudo-agent", "replica=2", "replica"},
		{"pseudo-agent", "config.server.addresses={a:1},config.inputs.resources.kubernetes.api_resources[0].name=pod", "not a known resource"},
		{"pseudo-agent", "config.server.addresses={a:1},config.cluster_id=a_b", "cluster_id"},
		{"pseudo-agent", "config.server.addresses={a:1},updateStrategy.type=RollingUpdate", "updateStrategy.type must be Recreate"},
		{"pseudo-agent", "config.server.addresses={a:1},updateStrategy.rollingUpdate.maxSurge=1", "updateStrategy.type must be Recreate"},
		{"pseudo-agent", "existingConfigMap=mine,deepflowFiles.a=log_level: info", "deepflowFiles has no effect"},
		{"pseudo-agent", "config.server.addresses={a:1},namespaceOverride=No_Name", "namespaceOverride"},
		{"pseudo-agent", "config.server.addresses={a:1},commonAnnotations.a=1", "commonAnnotations"},
		{"pseudo-agent", "config.server.addresses={a:1},metrics.serviceMonitor.namespaces=a", "namespaces"},
		{"pseudo-server", "updateStrategy.type=RollingUpdate", "updateStrategy.type must be Recreate"},
		{"pseudo-server", "metrics.serviceMonitor.enabled=true,metrics.serviceMonitor.namespace=monitoring", "metrics.serviceMonitor.authorization"},
		{"pseudo-server", "clusterDomain=", "clusterDomain"},
		{"pseudo-server", "config.http.tls.enabled=true,config.http.tls.require_client_cert=true", "would fail the probes"},
		{"pod-agent", "image.digest=sha256:1", "digest"},
		{"pod-agent", "updateStrategy.type=Recreate", "updateStrategy"},
		{"pod-agent", "fullnameOverride=A", "fullnameOverride"},
		{"pseudo-server", "replicas=2", "storage.type postgres"},
		{"pseudo-server", "storage.type=postgres", "storage.postgres.secretName"},
		{"pseudo-server", "upstream.advertise=a:1", "upstream.addresses is needed"},
		{"pseudo-server", "upstream.addresses={a}", "addresses"},
		{"pseudo-server", "upstream.address={a:1}", "address"},
		{"pseudo-server", "upstream.addresses={a:1},upstream.reports=drop", "reports"},
		{"pseudo-server", "upstream.addresses={a:1},upstream.tls.secretName=x", "upstream.tls.enabled"},
		{"pseudo-server", "upstream.addresses={a:1},upstream.tls.enabled=true,upstream.tls.clientCert=true", "upstream.tls.secretName"},
	} {
		_, err := helm(t, "template", releaseName, filepath.Join(chartsDir, c.chart), "--set", c.set)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s with %s: got %v, want an error with %q", c.chart, c.set, err, c.want)
		}
	}
}

// permissions are the single permissions that roles with bindings to the service account give, one line each.
func permissions(t *testing.T, objs []*unstructured.Unstructured) []string {
	t.Helper()
	bound := map[string]bool{}
	for _, o := range objs {
		if strings.HasSuffix(o.GetKind(), "RoleBinding") {
			ref := nested[map[string]any](o.Object, "roleRef")
			subject := nested[[]any](o.Object, "subjects")[0].(map[string]any)
			if subject["name"] != releaseName || subject["namespace"] != releaseNamespace {
				t.Errorf("%s %s binds to %v", o.GetKind(), o.GetName(), subject)
			}
			bound[fmt.Sprint(o.GetNamespace(), "/", ref["kind"], "/", ref["name"])] = true
		}
	}
	found := map[string]bool{}
	for _, o := range objs {
		if o.GetKind() != "Role" && o.GetKind() != "ClusterRole" {
			continue
		}
		if !bound[fmt.Sprint(o.GetNamespace(), "/", o.GetKind(), "/", o.GetName())] {
			t.Errorf("%s %s is bound to nobody", o.GetKind(), o.GetName())
		}
		var role rbacv1.ClusterRole // whose rules are those of a Role
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &role); err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			names := rule.ResourceNames
			if len(names) == 0 {
				names = []string{"*"}
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, name := range names {
						for _, verb := range rule.Verbs {
							found[fmt.Sprintf("in %q: %s %s.%s %s", o.GetNamespace(), verb, resource, group, name)] = true
						}
					}
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// configOf writes the release's configuration into a folder, and returns its path and what it says.
func configOf(t *testing.T, objs []*unstructured.Unstructured) (path string, config map[string]any) {
	t.Helper()
	dir := t.TempDir()
	for _, o := range objs {
		if o.GetKind() != "ConfigMap" || o.GetName() != releaseName {
			continue
		}
		for name, content := range nested[map[string]any](o.Object, "data") {
			text := strings.ReplaceAll(content.(string), "/etc/pseudo-agent/", dir+"/")
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if name == "config.yaml" {
				if err := yaml.Unmarshal([]byte(text), &config); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if config == nil {
		t.Fatal("the release has no configuration")
	}
	return filepath.Join(dir, "config.yaml"), config
}

// samePermissions compares the chart's permissions with those that the command prints for the same configuration.
func samePermissions(t *testing.T, objs []*unstructured.Unstructured) {
	t.Helper()
	path, config := configOf(t, objs)
	run := command(t, "rbac", "--config", path, "--namespace", releaseNamespace)
	if run.code != 0 {
		t.Fatalf("pseudo-agent rbac: %d\n%s", run.code, run.stderr)
	}
	want, got := permissions(t, documents(t, run.stdout)), permissions(t, objs)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the chart's permissions differ from the printed ones (-printed +chart):\n%s\nconfiguration: %v", d, config)
	}
}

func TestChartPermissionsAreThePrintedOnes(t *testing.T) {
	for _, values := range documented(t, "pseudo-agent") {
		name := strings.TrimSuffix(filepath.Base(values), "-values.yaml")
		if name == "own-account" || name == "tls" { // no permissions, or files that are not here
			continue
		}
		t.Run(name, func(t *testing.T) { samePermissions(t, render(t, "pseudo-agent", values)) })
	}
	t.Run("random", func(t *testing.T) {
		seed := rand.Uint64()
		if text := os.Getenv("PSEUDO_TEST_SEED"); text != "" {
			var err error
			if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
				t.Fatalf("PSEUDO_TEST_SEED: %v", err)
			}
		}
		t.Logf("PSEUDO_TEST_SEED=%d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		for range 20 {
			values := randomSelection(t, random)
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, values, 0o600); err != nil {
				t.Fatal(err)
			}
			samePermissions(t, render(t, "pseudo-agent", file))
		}
	})
}

// randomSelection makes values with api_resources entries of all forms, in one namespace or all, with one replica or two.
func randomSelection(t *testing.T, random *rand.Rand) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(chartsDir, "pseudo-agent/files/catalogue.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var catalogue struct {
		Resources []struct {
			Name   string
			Served []struct{ Group, Version, Resource string }
		}
	}
	if err := yaml.Unmarshal(data, &catalogue); err != nil {
		t.Fatal(err)
	}
	var entries []any
	for _, r := range catalogue.Resources {
		entry := map[string]any{"name": r.Name}
		served := r.Served[random.IntN(len(r.Served))]
		switch random.IntN(8) {
		case 0:
			entry["disabled"] = r.Name != "namespaces" && r.Name != "nodes" // without which the server drops everything
		case 1:
			if served.Group != "" {
				entry["group"] = served.Group
			}
		case 2:
			if served.Group != "" {
				entry["group"], entry["version"] = served.Group, served.Version
			}
		case 3:
			entry["required"] = random.IntN(2) == 0
		case 4:
			entry = map[string]any{"name": "my" + r.Name, "group": "workloads.example.com", "as": "deployments"}
		case 5: // the bare name
		default:
			continue
		}
		entries = append(entries, entry)
	}
	kubernetes, selection := map[string]any{"api_resources": entries}, map[string]any{}
	switch random.IntN(5) {
	case 0:
		kubernetes["kubernetes_namespace"] = "shop"
	case 1:
		selection["namespaces"] = []any{"shop", "bank"}
	case 2:
		selection["namespaces"] = []any{"bank"}
	case 3:
		selection["exclude_namespaces"], selection["namespace_selector"] = []any{"kube-system"}, "team in (shop, bank)"
	}
	values, err := yaml.Marshal(map[string]any{
		"replicas": 1 + random.IntN(2),
		"config": map[string]any{
			"server":    map[string]any{"addresses": []any{"deepflow-server:20035"}},
			"inputs":    map[string]any{"resources": map[string]any{"kubernetes": kubernetes}},
			"selection": selection,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// flat makes settings with dots of a configuration's sections.
func flat(prefix string, section map[string]any, into harness.Settings) {
	for key, value := range section {
		if inner, ok := value.(map[string]any); ok {
			flat(prefix+key+".", inner, into)
			continue
		}
		into[prefix+key] = value
	}
}

// TestChartsAccountSuffices runs the agent with the service account and the configuration of a release, and looks into the
// apiserver's audit log for what it was refused.
func TestChartsAccountSuffices(t *testing.T) {
	for name, values := range map[string]string{
		"all namespaces": `
replicas: 2
config:
  server: {addresses: ["127.0.0.1:1"]}
  inputs: {resources: {kubernetes: {api_resources: [
    {name: configmaps}, {name: routes}, {name: clonesets}, {name: statefulsets, group: apps},
    {name: statefulsets, group: apps.kruise.io, version: v1beta1}, {name: statefulsets, group: platform.stke},
    {name: opengaussclusters, group: opengauss.sig}, {name: opengaussclusters, group: opengauss.cmbc.com.cn},
    {name: servicerules}, {name: ippools}]}}}
`,
		"several namespaces": `
config:
  server: {addresses: ["127.0.0.1:1"]}
  selection: {namespaces: [shop, default]}
  inputs: {resources: {kubernetes: {api_resources: [{name: configmaps}, {name: ippools}]}}}
`,
		"namespaces by label": `
config:
  server: {addresses: ["127.0.0.1:1"]}
  selection: {namespace_selector: "kubernetes.io/metadata.name in (shop, default)", exclude_namespaces: [kube-system]}
`,
		"one namespace": `
config:
  server: {addresses: ["127.0.0.1:1"]}
  inputs: {resources: {kubernetes: {kubernetes_namespace: shop, api_resources: [{name: configmaps}, {name: ippools}]}}}
`,
	} {
		t.Run(name, func(t *testing.T) {
			releaseNamespaces(t)
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
				t.Fatal(err)
			}
			objs := render(t, "pseudo-agent", file)
			for _, o := range objs {
				if o.GetNamespace() == "" && !strings.HasPrefix(o.GetKind(), "ClusterRole") {
					o.SetNamespace(releaseNamespace)
				}
			}
			apply(t, newLoader(t), objs)

			token, err := cluster.Client.CoreV1().ServiceAccounts(releaseNamespace).
				CreateToken(t.Context(), releaseName, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			kubeconfig := filepath.Join(dir, "kubeconfig")
			if err := cluster.WriteKubeconfig(kubeconfig, &clientcmdapi.AuthInfo{Token: token.Status.Token}); err != nil {
				t.Fatal(err)
			}
			server, err := harness.NewServer(bins, dir, "pseudo-server", nil)
			if err != nil {
				t.Fatal(err)
			}
			_, config := configOf(t, objs)
			settings := harness.Settings{}
			flat("", config, settings)
			settings["server.addresses"] = []string{server.GRPC}
			settings["report.heartbeat_interval"] = "1s"
			agent, err := harness.NewAgent(bins, dir, "pseudo-agent", kubeconfig, server.GRPC, "d-chart", settings)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				agent.Kill()
				server.Kill()
			})
			if err := errors.Join(server.Start(t.Context()), agent.Start(t.Context())); err != nil {
				t.Fatal(err)
			}
			deadline := time.Now().Add(time.Minute)
			for agent.Ready(t.Context()) != nil {
				if time.Now().After(deadline) {
					status, _ := agent.Status(t.Context())
					t.Fatalf("the agent is not ready: %v\n%s", agent.Ready(t.Context()), status)
				}
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(3 * time.Second) // some heartbeats and a renewal of the lease

			forbidden, err := agent.Metric(t.Context(), "pseudo_agent_apiserver_requests_total", `code="403"`)
			if err != nil {
				t.Fatal(err)
			}
			if forbidden != 0 {
				t.Errorf("the agent counts %v forbidden requests, want none", forbidden)
			}
			if err := agent.Stop(); err != nil {
				t.Error(err)
			}
			events, err := cluster.Audit(releaseNamespace, releaseName)
			if err != nil {
				t.Fatal(err)
			}
			watches := 0
			for _, e := range events {
				if e.Verb == "watch" {
					watches++
				}
				if e.Response.Code == 401 || e.Response.Code == 403 {
					t.Errorf("%s %s was answered %d", e.Verb, e.URI, e.Response.Code)
				}
			}
			if watches < len(expect.Defaults)-1 { // version is not watched
				t.Errorf("the audit log has %d watches in %d requests of the agent, want them all", watches, len(events))
			}
		})
	}
}
