package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// explanation is what the test reads of `pseudo-agent explain -o json`.
type explanation struct {
	Arrives bool           `json:"arrives"`
	Why     string         `json:"why"`
	Sent    map[string]any `json:"sent"`
	Server  struct {
		Findings []lost `json:"findings"`
	} `json:"server"`
}

type lost struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// explain runs the command and returns its output and exit status.
func (p *pair) explain(stdin []byte, args ...string) (stdout, stderr string, status int) {
	p.t.Helper()
	cmd := exec.CommandContext(p.ctx, bins.Agent, append([]string{"explain", "--config", p.agent.ConfigFile}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// lost returns the reasons of everything that pseudo-server says is dropped, by uid.
func (p *pair) lost() map[string][]string {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.ctx, http.MethodGet, p.server.HTTP+"/api/v1/clusters/"+p.clusterID+"/dropped?limit=5000", nil)
	p.must(err)
	resp, err := http.DefaultClient.Do(req)
	p.must(err)
	defer resp.Body.Close()
	var list struct{ Items []lost }
	p.must(json.NewDecoder(resp.Body).Decode(&list))
	all := map[string][]string{}
	for _, l := range list.Items {
		all[l.ID] = append(all[l.ID], l.Reason)
	}
	return all
}

// What explain says is sent of an object is what the running agent has sent, and what it says the server drops is what
// pseudo-server's inventory says, for every object of the sample cluster.
func TestExplainAgreesWithTheAgentAndTheServer(t *testing.T) {
	var resources []any
	if err := yaml.Unmarshal([]byte(sample.APIResources), &resources); err != nil {
		t.Fatal(err)
	}
	p := newPair(t, options{sources: expect.All, agent: harness.Settings{"inputs.resources.kubernetes.api_resources": resources}})
	loader, objs := load(t, nil)
	p.start()
	p.quiet()
	held := map[string]map[string]any{}
	for id, doc := range p.snapshot() {
		held[id.UID] = doc
	}
	dropped := p.lost()
	whole := 0
	for _, o := range objs {
		uid := string(loader.UID(o))
		kind := strings.ToLower(o.GetKind())
		if group := o.GroupVersionKind().Group; group != "" {
			kind += "." + group
		}
		args := []string{"-o", "json", kind, o.GetName()}
		if o.GetNamespace() != "" {
			args = append(args, "-n", o.GetNamespace())
		}
		stdout, stderr, status := p.explain(nil, args...)
		var x explanation
		if err := json.Unmarshal([]byte(stdout), &x); err != nil {
			t.Errorf("%s %s: %v: %s", kind, o.GetName(), err, stderr)
			continue
		}
		if diff := cmp.Diff(held[uid], x.Sent); diff != "" && (held[uid] != nil || x.Sent != nil) {
			t.Errorf("%s %s: what is sent (-agent +explain):\n%s", kind, o.GetName(), diff)
		}
		var reasons []string
		for _, f := range x.Server.Findings {
			reasons = append(reasons, f.Reason)
		}
		if !slices.Equal(reasons, dropped[uid]) {
			t.Errorf("%s %s: explain says it loses %v, the server %v", kind, o.GetName(), reasons, dropped[uid])
		}
		if x.Arrives != (status == 0) || x.Arrives && len(reasons) > 0 || !x.Arrives && len(reasons) == 0 && x.Why == "" {
			t.Errorf("%s %s: arrives %v with status %d, reasons %v, why %q", kind, o.GetName(), x.Arrives, status, reasons, x.Why)
		}
		if x.Arrives {
			whole++
		}
	}
	if whole < len(objs)/3 {
		t.Errorf("only %d of %d objects arrive whole", whole, len(objs))
	}
	t.Logf("%d of %d objects arrive whole", whole, len(objs))
}

func TestExplainAnswers(t *testing.T) {
	p := newPair(t, options{})
	_, objs := load(t, nil)
	dir := t.TempDir()
	write := func(name string, o *unstructured.Unstructured) string {
		t.Helper()
		text, err := yaml.Marshal(o.Object)
		p.must(err)
		file := filepath.Join(dir, name)
		p.must(os.WriteFile(file, text, 0o600))
		return file
	}
	web := pick(t, objs, "Deployment", "web").DeepCopy()
	before := write("before.yaml", web)
	p.must(unstructured.SetNestedField(web.Object, "{}", "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"))
	noise := write("noise.yaml", web)
	p.must(unstructured.SetNestedField(web.Object, int64(7), "spec", "replicas"))
	after := write("after.yaml", web)
	fresh := web.DeepCopy()
	fresh.SetName("never-created")
	given := write("given.yaml", fresh)
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		want   []string // in the output, errors included
	}{
		{"a workload", []string{"deploy/web", "-n", "shop"}, 1, []string{"selected by   deployments", "get, list and watch", "arrives, but not whole", "ConfigMapUnknown", "hashed", "left out"}},
		{"a Namespace", []string{"ns/shop"}, 0, []string{"selected by   namespaces", "arrives whole"}},
		{"as a diff", []string{"deploy/web", "-n", "shop", "-o", "diff"}, 1, []string{"--- apiserver", "+++ sent", "-  managedFields:"}},
		{"a Secret", []string{"secret", "anything"}, 1, []string{"Secrets are never watched"}},
		{"a kind that is not selected", []string{"configmap/kube-root-ca.crt", "-n", "kube-system"}, 2, []string{"configmaps"}},
		{"an object that does not exist", []string{"pod/none", "-n", "shop"}, 2, []string{"no such object"}},
		{"a name that nothing has", []string{"pot/web"}, 2, []string{"is no resource that the apiserver serves"}},
		{"an object that does not exist yet", []string{"-f", given}, 1, []string{"never-created", "arrives, but not whole"}},
		{"a change that is noise", []string{"--change", before, "-f", noise}, 0, []string{"no new version"}},
		{"a change that is sent", []string{"--change", before, "-f", after}, 1, []string{"new version", "spec.replicas"}},
		{"neither", nil, 2, []string{"give TYPE and NAME"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stdout, stderr, status := p.explain(nil, tt.args...)
			if status != tt.status {
				t.Errorf("got status %d, want %d", status, tt.status)
			}
			for _, want := range tt.want {
				if !strings.Contains(stdout+stderr, want) {
					t.Errorf("got\n%s%s\nwant it to contain %q", stdout, stderr, want)
				}
			}
		})
	}
}
