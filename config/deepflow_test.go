package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

const agentYAML = `
controller-ips:
  - 10.1.2.3
  - fd00::1
## controller listen port
#controller-port: 30035
controller-cert-file-prefix: ""
log-file: /var/log/deepflow-agent/deepflow-agent.log
kubernetes-cluster-id: d-rrcmIdbEph
kubernetes-cluster-name: ""
team-id: t-1234567890
vtap-group-id-request: g-1234567890
async-worker-thread-number: 16
`

const newGroup = `
global: {limits: {max_millicpus: 1000}}
inputs:
  resources:
    push_interval: 30s
    private_cloud: {hypervisor_resource_enabled: true}
    kubernetes:
      kubernetes_namespace: shop
      api_resources:
      - name: ingresses
        disabled: true
      - name: routes
      - name: statefulsets
        group: apps.kruise.io
        version: v1beta1
        field_selector: metadata.name=a
        of_a_later_release: {a: [b]}
      api_list_page_size: 500
      api_list_max_interval: 1h
      pod_mac_collection_method: adaptive
  cbpf: {af_packet: {interface_regex: "^(tap.*)$"}}
`

const legacyGroup = `
vtap_group_id: g-1234567890
max_cpus: 1
tap_interface_regex: "^(tap.*)$"
static_config:
  kubernetes-namespace: shop
  kubernetes-resources:
  - name: ingresses
    disabled: true
  - name: routes
  - name: statefulsets
    group: apps.kruise.io
    version: v1beta1
    field-selector: metadata.name=a
  kubernetes-api-list-limit: 500
  kubernetes-api-list-interval: 1h
  ingress-flavour: kubernetes
`

func groupResources() KubernetesResources {
	return KubernetesResources{
		KubernetesNamespace: "shop",
		APIResources: []resources.Request{
			{Name: "ingresses", Disabled: true},
			{Name: "routes"},
			{Name: "statefulsets", Group: "apps.kruise.io", Version: "v1beta1", FieldSelector: "metadata.name=a"},
		},
		APIListPageSize: 500, APIListMaxInterval: time.Hour,
	}
}

func TestDeepFlowFiles(t *testing.T) {
	both := strings.Replace(legacyGroup, "500", "600", 1) + newGroup
	for _, c := range []struct {
		name, group string
		push        time.Duration
		taken       int
	}{
		{"new form", newGroup, 30 * time.Second, 5},
		{"legacy form", legacyGroup, 10 * time.Second, 4},
		{"both forms: the new one wins", both, 30 * time.Second, 9},
		{"two documents", legacyGroup + "---\n" + newGroup, 30 * time.Second, 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, map[string]string{"deepflow-agent.yaml": agentYAML, "group.yaml": c.group})
			loaded, err := LoadAgent(flagsOf(t, agentProgram, "--deepflow-files=deepflow-agent.yaml,group.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			want := DefaultAgent()
			want.ClusterID, want.TeamID, want.AgentGroupID = "d-rrcmIdbEph", "t-1234567890", "g-1234567890"
			want.Server.Addresses = []string{"10.1.2.3:30035", "[fd00::1]:30035"}
			want.Inputs.Resources = AgentResources{PushInterval: c.push, Kubernetes: groupResources()}
			want.DeepFlowFiles = []string{"deepflow-agent.yaml", "group.yaml"}
			if d := cmp.Diff(want, loaded.Config); d != "" {
				t.Errorf("wrong configuration (-want +got):\n%s", d)
			}
			if got := len(loaded.Taken) - 4; got != c.taken {
				t.Errorf("got %d keys taken from the group, want %d: %v", got, c.taken, loaded.Taken)
			}
		})
	}
}

func TestDeepFlowFilesAddUp(t *testing.T) {
	write(t, map[string]string{
		"a.yaml": "controller-ips: [10.1.2.3]\nkubernetes-cluster-id: d-a\nteam-id: ''\n",
		"b.yaml": "controller-port: 20035\nkubernetes-cluster-id: d-b\n",
		"c.yaml": "analyzer-ip: 10.1.2.3\n",
		"d.yaml": "# nothing\n",
	})
	loaded, err := LoadAgent(flagsOf(t, agentProgram, "--deepflow-files=a.yaml,b.yaml", "--deepflow-files=c.yaml,d.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range loaded.Taken {
		got = append(got, p.String())
	}
	want := []string{
		`cluster_id = "d-a" taken from kubernetes-cluster-id of a.yaml:2, overridden by b.yaml:2`,
		`cluster_id = "d-b" taken from kubernetes-cluster-id of b.yaml:2`,
		`nothing taken from c.yaml: it has none of the keys that concern this program`,
		`nothing taken from d.yaml: it has none of the keys that concern this program`,
		`server.addresses = [10.1.2.3:20035] taken from controller-ips and controller-port (of b.yaml:1) of a.yaml:1`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got, want := loaded.Config.Server.Addresses, []string{"10.1.2.3:20035"}; !slices.Equal(got, want) {
		t.Errorf("got addresses %q, want %q", got, want)
	}
	if got := loaded.Config.ClusterID; got != "d-b" {
		t.Errorf("got cluster id %q, want that of the later file", got)
	}
}

func TestAgentGroupResources(t *testing.T) {
	for _, c := range []struct{ name, group string }{{"new form", newGroup}, {"legacy form", legacyGroup}} {
		t.Run(c.name, func(t *testing.T) {
			got, taken, err := AgentGroupResources("user_config", []byte(c.group))
			if err != nil {
				t.Fatal(err)
			}
			want := groupResources()
			if d := cmp.Diff(&want, got); d != "" {
				t.Errorf("wrong resources (-want +got):\n%s", d)
			}
			if len(taken) != 4 {
				t.Errorf("got %d keys taken, want 4: %v", len(taken), taken)
			}
		})
	}
	t.Run("what is not mentioned has its default", func(t *testing.T) {
		got, _, err := AgentGroupResources("user_config", []byte("inputs: {resources: {kubernetes: {kubernetes_namespace: a}}}"))
		if err != nil {
			t.Fatal(err)
		}
		want := DefaultAgent().Inputs.Resources.Kubernetes
		want.KubernetesNamespace = "a"
		if d := cmp.Diff(&want, got); d != "" {
			t.Errorf("wrong resources (-want +got):\n%s", d)
		}
	})
	t.Run("nothing that concerns us", func(t *testing.T) {
		for _, data := range []string{"", "global: {}", "inputs: {resources: {push_interval: 20s}}", "inputs: {resources: {push_interval: 1ns}}", "controller-ips: 5"} {
			if got, taken, err := AgentGroupResources("user_config", []byte(data)); got != nil || taken != nil || err != nil {
				t.Errorf("%q: got %v, %v, %v, want nothing", data, got, taken, err)
			}
		}
	})
	t.Run("mistakes", func(t *testing.T) {
		_, _, err := AgentGroupResources("user_config", []byte("static_config:\n  kubernetes-api-list-limit: 1\n  kubernetes-resources: [{name: pod}]\n"))
		var got []string
		for _, m := range mistakes(t, err) {
			got = append(got, m.Key+" "+m.Source.String())
		}
		want := []string{"static_config.kubernetes-api-list-limit user_config:2", "static_config.kubernetes-resources[0].name user_config:3"}
		if !slices.Equal(got, want) {
			t.Errorf("got mistakes %q, want %q", got, want)
		}
		if _, _, err := AgentGroupResources("user_config", []byte("a: [")); err == nil {
			t.Error("got no error, want one for what is not YAML")
		}
	})
}

// A key that concerns us and stands twice is a mistake, as it is for deepflow-agent; others are not our business.
func TestDeepFlowDuplicates(t *testing.T) {
	write(t, map[string]string{"a.yaml": "log-file: a\nlog-file: b\ncontroller-ips: [a]\nteam-id: a\nteam-id: b\n"})
	_, err := LoadAgent(flagsOf(t, agentProgram, "--deepflow-files=a.yaml"))
	got := mistakes(t, err)
	if len(got) != 1 || got[0].Key != "team-id" || got[0].Source.Line != 5 {
		t.Errorf("got %v, want one mistake about team-id in line 5", err)
	}
}
