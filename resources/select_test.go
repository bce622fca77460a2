package resources

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// defaults is what is selected if api_resources says nothing.
var defaults = []string{
	"nodes", "namespaces", "pods", "services", "replicationcontrollers", "deployments", "daemonsets", "replicasets",
	"statefulsets", "ingresses",
}

func without(names ...string) []string {
	return slices.DeleteFunc(slices.Clone(defaults), func(s string) bool { return slices.Contains(names, s) })
}

func TestSelect(t *testing.T) {
	tests := []struct {
		name string
		yaml string
		want []string // IDs
		also map[string]string
	}{
		{name: "nothing", want: defaults},
		{
			name: "example of the new format",
			yaml: `
- name: ingresses
  disabled: true
- name: routes
- name: statefulsets
  group: apps
- name: statefulsets
  group: apps.kruise.io
  version: v1beta1
  field_selector: ""
`,
			want: append(without("ingresses", "statefulsets"), "routes", "statefulsets.apps", "statefulsets.apps.kruise.io"),
			also: map[string]string{
				"statefulsets.apps":           "apps/v1/statefulsets required *v1.StatefulSet",
				"statefulsets.apps.kruise.io": "apps.kruise.io/v1beta1/statefulsets *v1.StatefulSet",
				"routes":                      "route.openshift.io/v1/routes *v1.Ingress",
			},
		},
		{
			name: "OpenShift",
			yaml: "[{name: ingresses, disabled: true}, {name: routes}]",
			want: append(without("ingresses"), "routes"),
		},
		{
			name: "OpenKruise",
			yaml: "[{name: clonesets, group: apps.kruise.io}, {name: statefulsets, group: apps}, {name: statefulsets, group: apps.kruise.io}]",
			want: append(without("statefulsets"), "clonesets.apps.kruise.io", "statefulsets.apps", "statefulsets.apps.kruise.io"),
		},
		{
			name: "OpenGauss of the documentation",
			yaml: "[{name: opengaussclusters}]",
			want: append(without(), "opengaussclusters"),
			also: map[string]string{"opengaussclusters": "opengauss.sig/v1/opengaussclusters opengauss.cmbc.com.cn/v1/opengaussclusters *v1.OpenGaussCluster"},
		},
		{
			name: "both OpenGauss groups",
			yaml: "[{name: opengaussclusters, group: opengauss.sig}, {name: opengaussclusters, group: opengauss.cmbc.com.cn}]",
			want: append(without(), "opengaussclusters.opengauss.sig", "opengaussclusters.opengauss.cmbc.com.cn"),
		},
		{
			name: "StatefulSetPlus has another plural",
			yaml: "[{name: statefulsets, group: platform.stke}]",
			want: append(without("statefulsets"), "statefulsets.platform.stke"),
			also: map[string]string{"statefulsets.platform.stke": "platform.stke/v1alpha1/statefulsetpluses *v1.StatefulSet"},
		},
		{
			name: "no group and version: all, best first",
			yaml: "[{name: statefulsets}, {name: ingresses}]",
			want: append(without("statefulsets", "ingresses"), "statefulsets", "ingresses"),
			also: map[string]string{
				"statefulsets": "apps/v1/statefulsets apps.kruise.io/v1beta1/statefulsets platform.stke/v1alpha1/statefulsetpluses required *v1.StatefulSet",
				"ingresses":    "networking.k8s.io/v1/ingresses networking.k8s.io/v1beta1/ingresses extensions/v1beta1/ingresses *v1.Ingress",
			},
		},
		{
			name: "group only",
			yaml: "[{name: ingresses, group: networking.k8s.io}]",
			want: append(without("ingresses"), "ingresses.networking.k8s.io"),
			also: map[string]string{"ingresses.networking.k8s.io": "networking.k8s.io/v1/ingresses networking.k8s.io/v1beta1/ingresses *v1.Ingress"},
		},
		{
			name: "version only",
			yaml: "[{name: ingresses, version: v1beta1}, {name: pods, version: v1}]",
			want: append(without("ingresses", "pods"), "ingresses/v1beta1", "pods"),
			also: map[string]string{"ingresses/v1beta1": "networking.k8s.io/v1beta1/ingresses extensions/v1beta1/ingresses *v1.Ingress"},
		},
		{
			name: "two versions of one group",
			yaml: "[{name: ingresses, group: networking.k8s.io, version: v1beta1}, {name: ingresses, group: networking.k8s.io, version: v1}]",
			want: append(without("ingresses"), "ingresses.networking.k8s.io/v1beta1", "ingresses.networking.k8s.io/v1"),
		},
		{
			name: "core group by name",
			yaml: `[{name: pods, group: core}, {name: services, group: ""}, {name: configmaps, group: core, version: v1}]`,
			want: append(without("pods", "services"), "pods", "services", "configmaps"),
			also: map[string]string{"pods": "/v1/pods required *v1.Pod", "configmaps": "/v1/configmaps *v1.ConfigMap"},
		},
		{name: "all optional kinds", yaml: "[{name: servicerules}, {name: ippools}]", want: append(without(), "servicerules", "ippools")},
		{name: "disabled names leave no default", yaml: "[{name: services, disabled: true}, {name: pods, disabled: true}]", want: without("services", "pods")},
		{
			name: "disabled and not",
			yaml: "[{name: statefulsets, disabled: true}, {name: statefulsets, group: apps.kruise.io}]",
			want: append(without("statefulsets"), "statefulsets.apps.kruise.io"),
		},
		{name: "disabling what is no default", yaml: "[{name: routes, disabled: true}]", want: defaults},
		{name: "the same entry twice counts once", yaml: "[{name: routes}, {name: routes}, {name: pods}, {name: pods, group: core, version: v1}]", want: append(without("pods"), "routes", "pods")},
		{
			name: "different field selectors",
			yaml: "[{name: pods, field_selector: spec.nodeName=a}, {name: pods, field_selector: spec.nodeName=b}, {name: pods, field_selector: 'spec.nodeName=c,status.phase!=Failed'}]",
			want: append(without("pods"), "pods", "pods#2", "pods#3"),
		},
		{
			name: "required",
			yaml: "[{name: services, required: true}, {name: daemonsets, required: false}]",
			want: append(without("services", "daemonsets"), "services", "daemonsets"),
			also: map[string]string{"services": "/v1/services required *v1.Service", "daemonsets": "apps/v1/daemonsets *v1.DaemonSet"},
		},
		{
			name: "as",
			yaml: "[{name: rollouts, group: argoproj.io, as: deployments}, {name: gameserversets, group: game.kruise.io, version: v1alpha1, as: statefulsets, required: true}, {name: jobs, group: batch.volcano.sh, as: deployments}]",
			want: append(without(), "rollouts.argoproj.io", "gameserversets.game.kruise.io", "jobs.batch.volcano.sh"),
			also: map[string]string{
				"rollouts.argoproj.io":          "argoproj.io//rollouts as *v1.Deployment",
				"gameserversets.game.kruise.io": "game.kruise.io/v1alpha1/gameserversets required as *v1.StatefulSet",
			},
		},
		{
			name: "as for another group leaves the default of that name",
			yaml: "[{name: deployments, group: example.com, as: deployments}]",
			want: append(without(), "deployments.example.com"),
		},
		{
			name: "as for a resource of the catalogue replaces it",
			yaml: "[{name: clonesets, group: apps.kruise.io, as: deployments}, {name: statefulsets, group: apps, as: deployments}]",
			want: append(without("statefulsets"), "clonesets.apps.kruise.io", "statefulsets.apps"),
		},
		{name: "a disabled as adds nothing", yaml: "[{name: rollouts, group: argoproj.io, as: deployments, disabled: true}]", want: defaults},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var reqs []Request
			if err := yaml.Unmarshal([]byte(tt.yaml), &reqs); err != nil {
				t.Fatal(err)
			}
			got, err := Select(reqs, Namespaces{})
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			described := map[string]string{}
			for _, s := range got {
				ids = append(ids, s.ID)
				described[s.ID] = describe(s)
			}
			if !slices.Equal(ids, tt.want) {
				t.Errorf("got %v, want %v", ids, tt.want)
			}
			for id, want := range tt.also {
				if described[id] != want {
					t.Errorf("%s: got %q, want %q", id, described[id], want)
				}
			}
			again, err := Select(reqs, Namespaces{})
			if err != nil || !reflect.DeepEqual(got, again) {
				t.Errorf("a second call gave %v, %v, want the same", again, err)
			}
		})
	}
}

func describe(s Selected) string {
	var b strings.Builder
	for _, c := range s.Candidates {
		fmt.Fprintf(&b, "%s/%s/%s ", c.Group, c.Version, c.Resource)
	}
	if s.Required {
		b.WriteString("required ")
	}
	if s.As {
		b.WriteString("as ")
	}
	return b.String() + s.Kind.WireType
}

func TestSelectNamespace(t *testing.T) {
	sel, err := Select([]Request{{Name: "ippools"}, {Name: "rollouts", Group: "argoproj.io", As: "deployments"}}, Namespaces{One: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sel {
		want := "shop"
		if s.ID == "nodes" || s.ID == "namespaces" || s.ID == "ippools" {
			want = ""
		}
		if s.Namespace != want {
			t.Errorf("%s: got namespace %q, want %q", s.ID, s.Namespace, want)
		}
	}
}

func TestSelectMistakes(t *testing.T) {
	yes := true
	tests := []struct {
		name string
		reqs []Request
		ns   string
		want []string // key, value and a part of the reason
	}{
		{"unknown name", []Request{{Name: "pod"}}, "", []string{"api_resources[0].name", "pod", `did you mean "pods"?`}},
		{"case", []Request{{Name: "Deployments"}}, "", []string{"api_resources[0].name", "Deployments", `did you mean "deployments"?`}},
		{"nothing near", []Request{{Name: "x"}}, "", []string{"api_resources[0].name", "x", "allowed are clonesets, configmaps"}},
		{"empty name", []Request{{}}, "", []string{"api_resources[0].name", "", "allowed are"}},
		{"disabled unknown name", []Request{{Name: "endpoint", Disabled: true}}, "", []string{"api_resources[0].name", "endpoint", "allowed are"}},
		{"plural of the apiserver", []Request{{Name: "statefulsetpluses"}}, "", []string{"api_resources[0].name", "statefulsetpluses", "write name: statefulsets, group: platform.stke"}},
		{"secrets", []Request{{Name: "secrets", Group: "core", As: "deployments"}}, "", []string{"api_resources[0].name", "secrets", "never"}},
		{"wrong group", []Request{{Name: "pods"}, {Name: "statefulsets", Group: "app"}}, "", []string{"api_resources[1].group", "app", `did you mean "apps"?`}},
		{"group core of apps", []Request{{Name: "deployments", Group: "core"}}, "", []string{"api_resources[0].group", "core", "allowed are apps"}},
		{"wrong version", []Request{{Name: "ingresses", Group: "networking.k8s.io", Version: "v1beta2"}}, "", []string{"api_resources[0].version", "v1beta2", "allowed are v1, v1beta1"}},
		{"version of another group", []Request{{Name: "statefulsets", Group: "apps", Version: "v1beta1"}}, "", []string{"api_resources[0].version", "v1beta1", "allowed are v1"}},
		{"field selector", []Request{{Name: "pods", FieldSelector: "spec.nodeName"}}, "", []string{"api_resources[0].field_selector", "spec.nodeName", "is not a field selector"}},
		{"unknown as", []Request{{Name: "rollouts", Group: "argoproj.io", As: "deployment"}}, "", []string{"api_resources[0].as", "deployment", `allowed are clonesets, daemonsets, deployments, replicationcontrollers, statefulsets; did you mean "deployments"?`}},
		{"as replicasets", []Request{{Name: "rollouts", Group: "argoproj.io", As: "replicasets"}}, "", []string{"api_resources[0].as", "replicasets", "allowed are"}},
		{"as without group", []Request{{Name: "rollouts", As: "deployments"}}, "", []string{"api_resources[0].group", "", "needs one"}},
		{"as of the core group", []Request{{Name: "podtemplates", Group: "core", As: "deployments"}}, "", []string{"api_resources[0].group", "core", "needs one"}},
		{"as with a kind for a name", []Request{{Name: "Rollout", Group: "argoproj.io", As: "deployments"}}, "", []string{"api_resources[0].name", "Rollout", "plural"}},
		{"as with a path for a version", []Request{{Name: "rollouts", Group: "argoproj.io", Version: "v1/x", As: "deployments"}}, "", []string{"api_resources[0].version", "v1/x", "API version"}},
		{"no nodes", []Request{{Name: "nodes", Disabled: true}}, "", []string{"api_resources", "nodes", "must not be disabled"}},
		{"no namespaces", []Request{{Name: "namespaces", Disabled: true}}, "", []string{"api_resources", "namespaces", "must not be disabled"}},
		{"namespace", nil, "Shop", []string{"kubernetes_namespace", "Shop", "lower case"}},
		{"contradicting required", []Request{{Name: "routes"}, {Name: "routes", Required: &yes}}, "", []string{"api_resources[1].required", "true", "contradicts"}},
		{"contradicting as", []Request{{Name: "rollouts", Group: "argoproj.io", As: "deployments"}, {Name: "rollouts", Group: "argoproj.io", As: "statefulsets"}}, "", []string{"api_resources[1].as", "statefulsets", "contradicts"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sel, err := Select(tt.reqs, Namespaces{One: tt.ns})
			if sel != nil {
				t.Errorf("got a selection of %d, want none", len(sel))
			}
			var m *Mistake
			if !errors.As(err, &m) {
				t.Fatalf("got error %v, want a *Mistake", err)
			}
			if m.Key != tt.want[0] || m.Value != tt.want[1] || !strings.Contains(m.Reason, tt.want[2]) {
				t.Errorf("got %v, want %q", m, tt.want)
			}
			if strings.Count(err.Error(), "\n") != 0 {
				t.Errorf("got more than one mistake: %v", err)
			}
		})
	}
}

// All mistakes are told at once.
func TestSelectTellsAllMistakes(t *testing.T) {
	_, err := Select([]Request{{Name: "pod"}, {Name: "rollouts", As: "x", Version: "!"}, {Name: "routes", FieldSelector: "a"}}, Namespaces{One: "-"})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("got error %v, want joined ones", err)
	}
	if got := len(joined.Unwrap()); got != 6 {
		t.Errorf("got %d mistakes, want 6: %v", got, err)
	}
}

func TestCatalogue(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Catalogue() {
		if seen[k.Name] || ByName(k.Name) != k || len(k.Served) == 0 || !strings.HasPrefix(k.WireType, "*v1.") {
			t.Errorf("%s: listed twice, not found by name, or incomplete: %+v", k.Name, k)
		}
		seen[k.Name] = true
		if k.Required && !k.Default {
			t.Errorf("%s is required but no default", k.Name)
		}
		if _, ok := tables[k.project]; !ok {
			t.Errorf("%s has no projection", k.Name)
		}
	}
	for _, name := range asTargets {
		if k := ByName(name); k == nil || k.OwnerKind == "" {
			t.Errorf("%s cannot be a target of as: no kind for the owners of Pods", name)
		}
	}
	if ByName("secrets") != nil || ByName("") != nil {
		t.Error("secrets are in the catalogue")
	}
	var required []string
	for _, k := range catalogue {
		if k.Required {
			required = append(required, k.Name)
		}
	}
	want := []string{"nodes", "namespaces", "pods", "replicationcontrollers", "deployments", "daemonsets", "replicasets", "statefulsets"}
	if !slices.Equal(required, want) {
		t.Errorf("required by default: got %v, want %v", required, want)
	}
}
