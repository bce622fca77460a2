package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// environment are the variables with a value that the first container of a release's workload has, by name.
func environment(t *testing.T, objs []*unstructured.Unstructured) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, o := range objs {
		if o.GetKind() != "Deployment" && o.GetKind() != "DaemonSet" {
			continue
		}
		container := nested[[]any](o.Object, "spec", "template", "spec", "containers")[0].(map[string]any)
		for _, v := range nested[[]any](container, "env") {
			if value := nested[string](v.(map[string]any), "value"); value != "" {
				out[nested[string](v.(map[string]any), "name")] = value
			}
		}
	}
	return out
}

// TestExistingConfigMapOfAgent: what `config` and the chart say is the same by environment as it is by file. It is asked of
// the program, whose permissions follow from selection, namespaces and election.
func TestExistingConfigMapOfAgent(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(empty, []byte("log: {level: info}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Files that are not here, and what cannot be combined.
	without := []string{"tls", "deepflow-files", "all-options"}
	for _, values := range documented(t, "pseudo-agent") {
		name := strings.TrimSuffix(filepath.Base(values), "-values.yaml")
		if slices.Contains(without, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(values)
			if err != nil {
				t.Fatal(err)
			}
			set := valueSet{chart: "pseudo-agent", values: string(text)}
			file, _ := configOf(t, set.render(t))
			by := command(t, "rbac", "--config", file, "--namespace", releaseNamespace)
			for name, value := range environment(t, set.render(t, "--set", "existingConfigMap=mine")) {
				t.Setenv(name, value)
			}
			run := command(t, "rbac", "--config", empty, "--namespace", releaseNamespace)
			if by.code != 0 || run.code != 0 || by.stdout != run.stdout {
				t.Errorf("by file: %d %s\n%s\nby environment: %d %s\n%s", by.code, by.stderr, by.stdout, run.code, run.stderr, run.stdout)
			}
		})
	}
}

// TestExistingConfigMapOfServer: a pseudo-server takes store, tokens and names from the environment.
func TestExistingConfigMapOfServer(t *testing.T) {
	dir := t.TempDir()
	for _, role := range []string{"read", "administer"} {
		if err := os.WriteFile(filepath.Join(dir, role), []byte("the-token-of-the-role-"+role+"-0123456789"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set := valueSet{chart: "pseudo-server", values: "existingConfigMap: mine\nclusterDomain: corp.example\n"}
	for name, value := range environment(t, set.render(t)) {
		if strings.HasPrefix(name, "PSEUDO_SERVER_") {
			t.Setenv(name, strings.NewReplacer("/var/lib/pseudo-server/", dir+"/", "/etc/pseudo-server-tokens/", dir+"/").Replace(value))
		}
	}
	server, err := harness.NewServer(bins, dir, "pseudo-server", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err, server.Tail(20))
	}
	t.Cleanup(server.Kill)
	if _, err := os.Stat(filepath.Join(dir, "pseudo-server.db")); err != nil {
		t.Errorf("the store is not the embedded one: %v", err)
	}
	for _, c := range []struct {
		host, token string
		want        int
	}{
		{"pseudo-server.deepflow", "", http.StatusOK},
		{"pseudo-server.deepflow.svc.corp.example", "", http.StatusOK},
		{"other.example", "", http.StatusMisdirectedRequest},
		{"other.example", "the-token-of-the-role-read-0123456789", http.StatusOK},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.HTTP+"/api/v1/clusters", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = c.host
		if c.token != "" {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("asked as %s with token %q: got %d, want %d", c.host, c.token, res.StatusCode, c.want)
		}
	}
}

// TestExistingConfigMapOfPodAgent: the program knows all variables that the chart sets.
func TestExistingConfigMapOfPodAgent(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "pod-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/pod-agent")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build pod-agent: %v\n%s", err, out)
	}
	empty := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, values := range documented(t, "pod-agent") {
		text, err := os.ReadFile(values)
		if err != nil {
			t.Fatal(err)
		}
		set := valueSet{chart: "pod-agent", values: string(text), free: true}
		// What the kubelet gives.
		env := append(os.Environ(), "POD_AGENT_NODE_NAME=node-1")
		for name, value := range environment(t, set.render(t, "--set", "existingConfigMap=mine")) {
			env = append(env, name+"="+strings.ReplaceAll(value, "$(HOST_IP)", "192.0.2.1"))
		}
		cmd := exec.CommandContext(t.Context(), bin, "check", "--config", empty)
		cmd.Env = env
		out, _ := cmd.CombinedOutput() // nothing of a node is here, and it says so
		if text := string(out); strings.Contains(text, "environment variable POD_AGENT_") || !strings.Contains(text, "LACKING") {
			t.Errorf("%s: pod-agent does not take its environment %v:\n%s", values, env, text)
		}
	}
}
