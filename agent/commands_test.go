package agent

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// execute runs one command with its flags and returns what it wrote and its exit status.
func execute(t *testing.T, cmd *cobra.Command, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	cmd.SetArgs(args)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	var exit *exitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		code = exit.code
		if exit.err != nil {
			errOut.WriteString(exit.err.Error())
		}
	default:
		code = 1
		errOut.WriteString(err.Error())
	}
	return out.String(), errOut.String(), code
}

// simulator serves all defaults and a few objects.
func simulator(t *testing.T) *apisim.Server {
	t.Helper()
	sim := apisim.New()
	selected, err := resources.Select(nil, resources.Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range selected {
		kind := strings.TrimPrefix(s.Kind.WireType, "*v1.")
		sim.Serve(apisim.Resource{GroupVersionResource: s.Candidates[0], Kind: kind, Namespaced: s.Kind.Namespaced})
	}
	sim.Put(schema.GroupVersionResource{Version: "v1", Resource: "nodes"}, `{"metadata":{"name":"n1","uid":"11111111-1111-1111-1111-111111111111"},"spec":{}}`)
	sim.Put(deployments, deployment("web", 1))
	return sim
}

// simulated is a simulator behind a configuration that leads there.
func simulated(t *testing.T) (*apisim.Server, string) {
	t.Helper()
	sim := simulator(t)
	srv := httptest.NewServer(sim)
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	write(t, kubeconfig, `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "`+srv.URL+`"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
`)
	config := filepath.Join(dir, "agent.yaml")
	write(t, config, "cluster_id: d-test\nkubernetes: {kubeconfig: "+kubeconfig+"}\n")
	return sim, config
}

var deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}

func deployment(name string, replicas int) string {
	return `{"metadata":{"namespace":"shop","name":"` + name + `","uid":"22222222-2222-2222-2222-22222222222` + name[len(name)-1:] +
		`"},"spec":{"replicas":` + string(rune('0'+replicas)) + `}}`
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotCommand(t *testing.T) {
	sim, config := simulated(t)
	sim.Put(deployments, deployment("db0", 1))
	sim.Put(deployments, deployment("api1", 1))
	out, errOut, code := execute(t, newSnapshotCommand(operate.NewBuild("dev", "")), "--config", config)
	if code != 0 || !strings.Contains(out, "*v1.Deployment  3") || !strings.Contains(out, "*version.Info") {
		t.Errorf("got status %d, %s%s, want a summary with 3 Deployments and the version", code, out, errOut)
	}

	dump, errOut, code := execute(t, newSnapshotCommand(operate.NewBuild("dev", "")), "--config", config, "-o", "ndjson")
	if code != 0 || strings.Count(dump, "\n") != 5 || !strings.Contains(dump, `{"type":"*v1.Node","object":{"metadata":{"name":"n1"`) {
		t.Errorf("got status %d, %s%s, want 5 lines, one of them the Node", code, dump, errOut)
	}

	for _, object := range []string{"Deployment/shop/db0", "deployment/shop/db0", "*v1.Deployment/shop/db0"} {
		out, errOut, code = execute(t, newSnapshotCommand(operate.NewBuild("dev", "")), "--config", config, "--object", object)
		if code != 0 || !strings.Contains(out, `"name": "db0"`) {
			t.Errorf("--object %s: got status %d, %s%s, want the object", object, code, out, errOut)
		}
	}
	out, errOut, code = execute(t, newSnapshotCommand(operate.NewBuild("dev", "")), "--config", config, "--object", "version.Info")
	if code != 0 || !strings.Contains(out, "gitVersion") {
		t.Errorf("--object version.Info: got status %d, %s%s, want it", code, out, errOut)
	}

	file := filepath.Join(t.TempDir(), "before.ndjson")
	write(t, file, dump)
	out, errOut, code = execute(t, newSnapshotCommand(operate.NewBuild("dev", "")), "--config", config, "--diff", file)
	if code != 0 || out != "" {
		t.Errorf("--diff of the same: got status %d, %q%s, want nothing", code, out, errOut)
	}
	sim.Put(deployments, deployment("db0", 2))
	sim.Put(deployments, deployment("new2", 1))
	sim.Delete(deployments, "shop", "api1")
	out, _, code = execute(t, newSnapshotCommand(operate.NewBuild("dev", "")), "--config", config, "--diff", file)
	want := "- Deployment/shop/api1\n~ Deployment/shop/db0\n    spec.replicas: 1 → 2\n+ Deployment/shop/new2\n"
	if diff := cmp.Diff(want, out); diff != "" || code != 1 {
		t.Errorf("--diff: got status %d, want 1, and another output than wanted (-want +got):\n%s", code, diff)
	}
}

func TestRBACCommand(t *testing.T) {
	config := filepath.Join(t.TempDir(), "agent.yaml")
	write(t, config, "inputs: {resources: {kubernetes: {api_resources: [{name: clonesets}]}}}\nhigh_availability: {enabled: true}\n")
	out, errOut, code := execute(t, newRBACCommand(operate.NewBuild("dev", "")), "--config", config, "--name", "x", "--namespace", "mon")
	for _, want := range []string{"kind: ClusterRole\n", "- apps.kruise.io\n", "name: mon:x:lease\n  namespace: mon\n", "- kind: ServiceAccount\n  name: x\n  namespace: mon\n"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("got status %d, %s%s, want it to contain %q", code, out, errOut, want)
		}
	}
}

func TestRBACAdvised(t *testing.T) {
	sim, config := simulated(t)
	sim.Put(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, `{"metadata":{"namespace":"shop","name":"c-x","uid":"33333333-3333-3333-3333-333333333333",
		"ownerReferences":[{"apiVersion":"apps.kruise.io/v1alpha1","kind":"CloneSet","name":"c","uid":"44444444-4444-4444-4444-444444444444","controller":true}]}}`)
	out, errOut, code := execute(t, newRBACCommand(operate.NewBuild("dev", "")), "--config", config, "--advised")
	if code != 0 || !strings.Contains(out, "# - name: clonesets\n#   group: apps.kruise.io\napiVersion:") || !strings.Contains(out, "  - clonesets\n") {
		t.Errorf("got status %d, %s%s, want the entry as a comment and the permission", code, out, errOut)
	}
}

// TestMessages shows what wrong inputs lead to. docs/commands.md has the same texts.
func TestMessages(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "docs", "commands.md"))
	if err != nil {
		t.Fatal(err)
	}
	const nobody = "127.0.0.1:1" // a port that no program may take
	dir := t.TempDir()
	dump, kubeconfig := filepath.Join(dir, "not-a-dump"), filepath.Join(dir, "kubeconfig")
	write(t, dump, "hello\n")
	write(t, kubeconfig, `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://`+nobody+`"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
`)
	entry := func(text string) string { return "--inputs-resources-kubernetes-api-resources=" + text }
	sim, config := simulated(t)
	sim.SetFaults(func(req apisim.Request) apisim.Fault {
		if req.Resource.Resource == "pods" {
			return apisim.Fault{Status: http.StatusForbidden}
		}
		return apisim.Fault{}
	})
	for _, tt := range []struct {
		name string
		cmd  *cobra.Command
		args []string
		code int
		want string
	}{
		{
			"unknown as", newRBACCommand(operate.NewBuild("dev", "")),
			[]string{entry("[{name: rollouts, group: argoproj.io, as: deployment}]")},
			1,
			`is not a workload type that the server knows; allowed are clonesets, daemonsets, deployments, replicationcontrollers, statefulsets; did you mean "deployments"?`,
		},
		{
			"as without a group", newRBACCommand(operate.NewBuild("dev", "")),
			[]string{entry("[{name: rollouts, as: deployments}]")},
			1,
			`is not the group of a workload CRD; an entry with "as" needs one, such as "argoproj.io"`,
		},
		{
			"apiserver away", newCheckCommand(operate.NewBuild("dev", "")),
			[]string{"--quick", "--kubernetes-kubeconfig", kubeconfig, "--server-addresses", nobody},
			2,
			"nothing listens there: check the server in the kubeconfig, and that the apiserver runs",
		},
		{
			"server away", newCheckCommand(operate.NewBuild("dev", "")),
			[]string{"--quick", "--kubernetes-kubeconfig", kubeconfig, "--server-addresses", nobody},
			2,
			"the host answers, but nothing listens on that port: 30035 is the NodePort of deepflow-server, 20035 its port inside the cluster",
		},
		{
			"no kubeconfig", newCheckCommand(operate.NewBuild("dev", "")),
			[]string{"--quick", "--kubernetes-kubeconfig", "/none", "--server-addresses", nobody},
			2,
			"set kubernetes.kubeconfig (or KUBECONFIG), or run where a service account is mounted",
		},
		{
			"no server", newCheckCommand(operate.NewBuild("dev", "")),
			[]string{"--quick"},
			2,
			"server.addresses: is empty: no server to report to",
		},
		{
			"snapshot with the apiserver away", newSnapshotCommand(operate.NewBuild("dev", "")),
			[]string{"--kubernetes-kubeconfig", kubeconfig},
			2,
			"nothing listens there: check the server in the kubeconfig, and that the apiserver runs",
		},
		{"snapshot without permission", newSnapshotCommand(operate.NewBuild("dev", "")), []string{"--config", config}, 2, "required resources cannot be read: pods forbidden"},
		{"no dump", newSnapshotCommand(operate.NewBuild("dev", "")), []string{"--diff", dump}, 2, "is not a line of `pseudo-agent snapshot -o ndjson`"},
		{"a bad object", newSnapshotCommand(operate.NewBuild("dev", "")), []string{"--object", "a/b/c/d"}, 2, "is not TYPE/NAMESPACE/NAME or TYPE/NAME, such as Pod/shop/web-0 or Node/n1"},
		{"a bad format", newCheckCommand(operate.NewBuild("dev", "")), []string{"-o", "yaml"}, 2, `--output: "yaml" is not allowed, want table or json`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, errOut, code := execute(t, tt.cmd, tt.args...)
			if code != tt.code || !strings.Contains(out+errOut, tt.want) {
				t.Errorf("got status %d, want %d, and %s%s, want it to contain %q", code, tt.code, out, errOut, tt.want)
			}
			if !strings.Contains(string(doc), tt.want) {
				t.Errorf("docs/commands.md does not have %q", tt.want)
			}
		})
	}
}
