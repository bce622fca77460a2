package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// FuzzAgentFile holds the own file to the promise of the package: no panic, and what is accepted is valid.
func FuzzAgentFile(f *testing.F) {
	seed(f, "../config.example.yaml")
	f.Add("server: {addresses: [a:1]}\nlog: &x {level: info}\nhttp: *x\n")
	f.Add("inputs: {resources: {kubernetes: {api_resources: &a [*a, {name: pods, required: }]}}}")
	f.Add("? [a]\n: b\n<<: {log: {level: debug}}\n")
	f.Setenv("PSEUDO_AGENT_SERVER_ADDRESSES", "a:1")
	f.Fuzz(func(t *testing.T, file string) { holds(t, agentProgram, file) })
}

// FuzzServerFile does the same for pseudo-server.
func FuzzServerFile(f *testing.F) {
	seed(f, "../config.server.example.yaml")
	f.Add("access: {clusters: [{cluster_id: a, token_file: b, certificate_names: [c]}]}\ntls: {client_ca_file: a}")
	f.Fuzz(func(t *testing.T, file string) { holds(t, serverProgram, file) })
}

// FuzzPodAgentFile does the same for pod-agent.
func FuzzPodAgentFile(f *testing.F) {
	seed(f, "../config.podagent.example.yaml")
	f.Add("cni: {bin_dirs: []}\nwork: {min_retry: 1m, max_retry: 1s}")
	f.Setenv("POD_AGENT_NODE_NAME", "node-1")
	f.Fuzz(func(t *testing.T, file string) { holds(t, podAgentProgram, file) })
}

// FuzzDeepFlowFiles does the same for deepflow-agent.yaml and an agent group's configuration.
func FuzzDeepFlowFiles(f *testing.F) {
	f.Add("controller-ips: [10.1.2.3]\ncontroller-port: 30035\nkubernetes-cluster-id: d-x\nteam-id: t\n",
		"inputs: {resources: {push_interval: 20s, kubernetes: {api_resources: [{name: routes, field_selector: a=b}]}}}")
	f.Add("controller-ips: x\ncontroller-port: 0x7530\n", "static_config: {kubernetes-resources: [{name: pods, field-selector: a=b}], kubernetes-api-list-limit: 50}")
	f.Add("- a", "static_config: &a {static_config: *a}\n---\ninputs: 1")
	dir := f.TempDir()
	agent, group := filepath.Join(dir, "deepflow-agent.yaml"), filepath.Join(dir, "group.yaml")
	f.Setenv("PSEUDO_AGENT_SERVER_ADDRESSES", "a:1")
	f.Setenv("PSEUDO_AGENT_DEEPFLOW_FILES", agent+","+group)
	f.Fuzz(func(t *testing.T, agentYAML, groupYAML string) {
		put(t, agent, agentYAML)
		put(t, group, groupYAML)
		loaded, err := LoadAgent(nil)
		isTold(t, err)
		if err == nil {
			reload(t, agentProgram, &loaded.Config)
		}
		k, taken, err := AgentGroupResources("user_config", []byte(groupYAML))
		isTold(t, err)
		if (k == nil) != (len(taken) == 0) {
			t.Errorf("got resources %v with %d keys taken", k, len(taken))
		}
		if k != nil {
			c := DefaultAgent()
			c.Server.Addresses, c.Inputs.Resources.Kubernetes = []string{"a:1"}, *k
			reload(t, agentProgram, &c)
		}
	})
}

// FuzzText does it for what environment and flags give.
func FuzzText(f *testing.F) {
	leaves := agentProgram.schema.all()
	for i := range leaves {
		f.Add(i, "10s")
	}
	f.Add(16, "[{name: routes}]")
	f.Fuzz(func(t *testing.T, i int, s string) {
		l := leaves[uint(i)%uint(len(leaves))]
		if l.key == "deepflow_files" {
			return
		}
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		AgentFlags(fs)
		if err := fs.Set("server-addresses", "a:1"); err != nil {
			t.Fatal(err)
		}
		if err := fs.Set(l.flag(), s); err != nil {
			t.Fatal(err)
		}
		loaded, err := LoadAgent(fs)
		isTold(t, err)
		if err == nil {
			reload(t, agentProgram, &loaded.Config)
		}
	})
}

func seed(f *testing.F, files ...string) {
	f.Helper()
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	pages, err := filepath.Glob("../docs/configuration*.md")
	if err != nil {
		f.Fatal(err)
	}
	for _, page := range pages {
		doc, err := os.ReadFile(page)
		if err != nil {
			f.Fatal(err)
		}
		for _, b := range block.FindAllStringSubmatch(string(doc), -1) {
			if b[1] == "yaml" {
				f.Add(b[3])
			}
		}
	}
}

func put(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func holds[T any](t *testing.T, p *program[T], content string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "own.yaml")
	put(t, file, content)
	if strings.Contains(content, "deepflow_files") {
		return // would read any file of this machine
	}
	loaded, err := p.load(flagsOf(t, p, "--config", file))
	isTold(t, err)
	if err == nil {
		reload(t, p, &loaded.Config)
	}
}

// isTold checks that an error consists of mistakes, a line each.
func isTold(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, m := range mistakes(t, err) {
		if m.Problem == "" || strings.ContainsAny(m.Error(), "\n\r\x1b") {
			t.Errorf("got mistake %q, want a line", m.Error())
		}
	}
}

// reload writes a configuration as a file and reads it again: only a valid one comes back, and only if it is the same.
func reload[T any](t *testing.T, p *program[T], c *T) {
	t.Helper()
	data, err := yaml.Marshal(tree(reflect.ValueOf(c).Elem(), p.schema))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "reload.yaml")
	put(t, file, string(data))
	r := newReader(func(line int) Source { return Source{File: file, Line: line} })
	p.readOwn(r, file)
	ls := layers{r.layer(), {}, {}}
	got, err := p.merge(ls, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := joined(append(r.mistakes, p.check(got, ls)...), nil); err != nil {
		t.Fatalf("an accepted configuration is refused: %v\n%s", err, data)
	}
	if d := cmp.Diff(*c, *got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("a configuration changes when it is written and read again (-want +got):\n%s\n%s", d, data)
	}
}
