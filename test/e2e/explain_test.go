package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

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

// changing are the texts of explain's output that differ from run to run.
var changing = []struct {
	text *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`\b10\.96\.\d+\.\d+\b`), "CLUSTER-IP"},
	{regexp.MustCompile(`("node_port":|nodePort":)3\d{4}`), "${1}NODE-PORT"},
	{regexp.MustCompile(`\d+ bytes of JSON, \d+ projected, \d+ as sent; all objects looked at are \d+ as sent`), "N bytes of JSON, N projected, N as sent; all objects looked at are N as sent"},
	{regexp.MustCompile(`(  service +shop/web)(-public|-rule)?\b`), "${1}…"}, // that with the smallest uid
	{regexp.MustCompile(`https?://127\.0\.0\.1:\d+`), "APISERVER"},
}

// lostPod is a Pod that is not in the sample cluster and loses something.
func lostPod(name, owner, status string) string {
	return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q, "namespace": "shop", "uid": "00000000-0000-4000-8000-00000000000%d"%s}, "status": {%s}}`,
		name, len(name)%10, owner, status)
}

// explainSamples are the sample outputs of docs/commands-explain.md by their commands; "…" stands for any lines.
func explainSamples(t *testing.T) map[string]*regexp.Regexp {
	t.Helper()
	text, err := os.ReadFile("../../docs/commands-explain.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*regexp.Regexp{}
	for _, part := range strings.Split(string(text), "\n    $ ")[1:] {
		command, rest, _ := strings.Cut(part, "\n")
		if !strings.HasPrefix(command, "pseudo-agent explain ") {
			continue
		}
		var want []string
		for line := range strings.SplitSeq(rest, "\n") {
			if line != "" && !strings.HasPrefix(line, "    ") {
				break
			}
			want = append(want, strings.TrimPrefix(line, "    "))
		}
		pattern := regexp.QuoteMeta(strings.TrimSpace(strings.Join(want, "\n")) + "\n")
		found[command] = regexp.MustCompile("^" + strings.ReplaceAll(pattern, "…\n", `(?:.*\n)*?`) + "\\s*$")
	}
	if len(found) < 2 {
		t.Fatalf("docs/commands-explain.md has %d samples of explain, want two", len(found))
	}
	return found
}

// TestExplainGolden compares what explain shows of every object of the sample cluster, of Pods that are dropped, and of
// what cannot be explained, with testdata/explain.golden; $E2E_UPDATE writes it.
func TestExplainGolden(t *testing.T) {
	crd := sample.CRD{Group: "argoproj.io", Version: "v1alpha1", Kind: "Rollout", Plural: "rollouts"}
	if err := crd.Install(t.Context(), cluster.Dynamic); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = crd.Remove(context.Background(), cluster.Dynamic) })
	resources := yamlList(t, sample.APIResources+"- {name: rollouts, group: argoproj.io, as: deployments}\n")
	p := newPair(t, options{
		sources: append(slices.Clone(expect.All), expect.Source{Resource: crd.Resource(), Type: "*v1.Deployment"}),
		agent:   harness.Settings{"inputs.resources.kubernetes.api_resources": resources},
	})
	loader, objs := load(t, nil)
	output := func(stdin string, args ...string) (string, int) {
		t.Helper()
		stdout, stderr, status := p.explain([]byte(stdin), args...)
		text := stdout + stderr
		for _, c := range changing {
			text = c.text.ReplaceAllString(text, c.by)
		}
		return text, status
	}
	samples := explainSamples(t)
	for _, command := range slices.Sorted(maps.Keys(samples)) {
		args := strings.Fields(strings.TrimPrefix(command, "pseudo-agent explain --config agent.yaml "))
		if got, _ := output("", args...); !samples[command].MatchString(got) {
			t.Errorf("docs/commands-explain.md: %s prints\n%s\nwant it as %s", command, got, samples[command])
		}
	}
	var golden strings.Builder
	show := func(title string, stdin string, args ...string) {
		t.Helper()
		text, status := output(stdin, args...)
		fmt.Fprintf(&golden, "==== %s: status %d\n%s\n", title, status, text)
	}
	for _, o := range objs {
		kind := strings.ToLower(o.GetKind())
		if group := o.GroupVersionKind().Group; group != "" {
			kind += "." + group
		}
		args := []string{kind + "/" + o.GetName()}
		if o.GetNamespace() != "" {
			args = append(args, "-n", o.GetNamespace())
		}
		show(strings.Join(args, " "), "", args...)
	}
	set := string(loader.UID(pick(t, objs, "ReplicaSet", "web-6d5f8b9c4")))
	owner := func(kind, uid string) string {
		return fmt.Sprintf(`, "labels": {"app": "web"}, "ownerReferences": [{"apiVersion": "apps/v1", "kind": %q, "name": "owner", "uid": %q, "controller": true}]`, kind, uid)
	}
	running := `"phase": "Running", "hostIP": "172.18.0.3", "podIP": "10.244.1.77", "conditions": [{"type": "Ready", "status": "True"}]`
	for _, pod := range [][3]string{
		{"pod-orphan", ``, running},
		{"pod-owner-kind", owner("Job", "00000000-0000-4000-8000-0000000000aa"), running},
		{"pod-owner-unknown", owner("StatefulSet", "00000000-0000-4000-8000-0000000000ab"), running},
		{"pod-not-first", `, "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "a", "uid": "00000000-0000-4000-8000-0000000000ac"}, {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "b", "uid": "` + set + `"}]`, running},
		{"pod-pending", owner("ReplicaSet", set), `"phase": "Pending"`},
		{"pod-no-node", owner("ReplicaSet", set), strings.Replace(running, "172.18.0.3", "172.18.9.9", 1)},
		{"pod-host", owner("ReplicaSet", set), strings.Replace(running, "10.244.1.77", "172.18.0.3", 1)},
		{"pod-outside", owner("ReplicaSet", set), strings.Replace(running, "10.244.1.77", "192.0.2.7", 1)},
		{"pod-whole", owner("ReplicaSet", set), running},
	} {
		show(pod[0], lostPod(pod[0], pod[1], pod[2]), "-f", "-")
	}
	rollout := `{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "canary", "namespace": "shop"}, "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "canary"}}, "spec": {"containers": [{"name": "main", "image": "x"}]}}}}`
	show("a Rollout with as:", rollout, "-f", "-")
	show("a Secret", "", "secret/anything", "-n", "shop")
	show("an object that does not exist", "", "pod/none", "-n", "shop")
	show("an object that may not be read", "", "lease/none", "-n", "shop")
	show("an ambiguous name", "", "opengausscluster/accounts", "-n", "data")
	show("no name of a resource", "", "pot/web")
	show("a CRD without schema that the server does not read", `{"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "given"}, "spec": {"any": {"thing": [1, 2]}}}`, "-f", "-")
	const file = "testdata/explain.golden"
	if os.Getenv("E2E_UPDATE") != "" {
		p.must(os.WriteFile(file, []byte(golden.String()), 0o600))
	}
	want, err := os.ReadFile(file)
	p.must(err)
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(golden.String(), "\n")); diff != "" {
		t.Errorf("%s (-want +got); E2E_UPDATE=1 writes it:\n%s", file, diff)
	}
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
		{"a change that is sent", []string{"--change", before, after}, 1, []string{"new version", "spec.replicas"}},
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

// TestExplainWatch changes an object under explain --watch: what is sent makes a new version, what is not does not.
func TestExplainWatch(t *testing.T) {
	p := newPair(t, options{})
	loader, objs := load(t, nil)
	web := pick(t, objs, "Deployment", "web")
	cmd := exec.CommandContext(p.ctx, bins.Agent, "explain", "--config", p.agent.ConfigFile, "--watch", "deploy/web", "-n", "shop")
	out, err := cmd.StdoutPipe()
	p.must(err)
	p.must(cmd.Start())
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	// Nothing is said when the watch begins: it has begun when the first of these changes is told.
	p.eventually(time.Minute, "a change is told", func() error {
		patch(t, loader, web, labelled("e2e.example.com/watched", strconv.FormatInt(time.Now().UnixNano(), 10)))
		select {
		case line := <-lines:
			if !strings.Contains(line, "new version: changed fields that are sent: 1") {
				t.Errorf("of a label: got %q", line)
			}
			return nil
		case <-time.After(time.Second):
			return errors.New("it is not yet")
		}
	})
	patch(t, loader, web, annotated("kubectl.kubernetes.io/last-applied-configuration", "{}"))
	p.eventually(time.Minute, "a change that is not sent is told", func() error {
		select {
		case line := <-lines:
			if !strings.Contains(line, "no new version") {
				return fmt.Errorf("got %q", line)
			}
			return nil
		case <-time.After(time.Second):
			return errors.New("nothing is told")
		}
	})
	p.must(cmd.Process.Signal(os.Interrupt))
	for range lines {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
}
