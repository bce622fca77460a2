package rbac

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

func selection(t *testing.T, namespace string, reqs ...resources.Request) []resources.Selected {
	t.Helper()
	sel, err := resources.Select(reqs, resources.Namespaces{One: namespace})
	if err != nil {
		t.Fatal(err)
	}
	return sel
}

func TestRules(t *testing.T) {
	all := []string{"get", "list", "watch"}
	for _, tt := range []struct {
		name      string
		namespace string
		reqs      []resources.Request
		opts      Options
		want      RuleSet
	}{
		{
			name: "defaults",
			want: RuleSet{Cluster: []rbacv1.PolicyRule{
				{
					APIGroups: []string{""}, Verbs: all,
					Resources: []string{"namespaces", "nodes", "pods", "replicationcontrollers", "services"},
				},
				{APIGroups: []string{"apps"}, Verbs: all, Resources: []string{"daemonsets", "deployments", "replicasets", "statefulsets"}},
				{APIGroups: []string{"networking.k8s.io", "extensions"}, Verbs: all, Resources: []string{"ingresses"}},
			}},
		},
		{
			name: "OpenShift and OpenKruise",
			reqs: []resources.Request{
				{Name: "ingresses", Disabled: true},
				{Name: "routes"},
				{Name: "clonesets", Group: "apps.kruise.io"},
				{Name: "statefulsets", Group: "apps"},
				{Name: "statefulsets", Group: "apps.kruise.io"},
				{Name: "statefulsets", Group: "platform.stke"},
				{Name: "rollouts", Group: "argoproj.io", As: "deployments"},
			},
			want: RuleSet{Cluster: []rbacv1.PolicyRule{
				{
					APIGroups: []string{""}, Verbs: all,
					Resources: []string{"namespaces", "nodes", "pods", "replicationcontrollers", "services"},
				},
				{APIGroups: []string{"apps"}, Verbs: all, Resources: []string{"daemonsets", "deployments", "replicasets", "statefulsets"}},
				{APIGroups: []string{"apps.kruise.io"}, Verbs: all, Resources: []string{"clonesets", "statefulsets"}},
				{APIGroups: []string{"argoproj.io"}, Verbs: all, Resources: []string{"rollouts"}},
				{APIGroups: []string{"platform.stke"}, Verbs: all, Resources: []string{"statefulsetpluses"}},
				{APIGroups: []string{"route.openshift.io"}, Verbs: all, Resources: []string{"routes"}},
			}},
		},
		{
			name:      "one namespace with a lease",
			namespace: "shop",
			reqs: []resources.Request{
				{Name: "ingresses", Disabled: true},
				{Name: "replicationcontrollers", Disabled: true},
				{Name: "configmaps"},
				{Name: "ippools"},
			},
			opts: Options{LeaseName: "pseudo-agent"},
			want: RuleSet{
				Cluster: []rbacv1.PolicyRule{
					{APIGroups: []string{""}, Verbs: all, Resources: []string{"nodes"}},
					{APIGroups: []string{""}, Verbs: all, Resources: []string{"namespaces"}, ResourceNames: []string{"shop"}},
					{APIGroups: []string{"crd.projectcalico.org"}, Verbs: all, Resources: []string{"ippools"}},
				},
				Namespaces: []string{"shop"},
				Namespaced: []rbacv1.PolicyRule{
					{APIGroups: []string{""}, Verbs: all, Resources: []string{"configmaps", "pods", "services"}},
					{APIGroups: []string{"apps"}, Verbs: all, Resources: []string{"daemonsets", "deployments", "replicasets", "statefulsets"}},
				},
				Lease: []rbacv1.PolicyRule{
					{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create"}},
					{
						APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"get", "update"},
						ResourceNames: []string{"pseudo-agent"},
					},
				},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Rules(selection(t, tt.namespace, tt.reqs...), tt.opts)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("got other rules than wanted (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRulesNeverWrite(t *testing.T) {
	var reqs []resources.Request
	for _, k := range resources.Catalogue() {
		reqs = append(reqs, resources.Request{Name: k.Name})
	}
	for _, namespace := range []string{"", "shop"} {
		set := Rules(selection(t, namespace, reqs...), Options{})
		for _, rule := range slices.Concat(set.Cluster, set.Namespaced) {
			if !slices.Equal(rule.Verbs, Verbs) {
				t.Errorf("got verbs %v for %v, want %v", rule.Verbs, rule.Resources, Verbs)
			}
			if slices.Contains(rule.Resources, "*") || slices.Contains(rule.APIGroups, "*") || slices.Contains(rule.Resources, "secrets") {
				t.Errorf("got rule %v, want neither wildcards nor secrets", rule)
			}
		}
	}
}

func TestManifest(t *testing.T) {
	sel := selection(t, "shop")
	opts := Options{Name: "agent", ServiceAccountNamespace: "mon", LeaseName: "agent"}
	first, err := Manifest(sel, opts)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(sel)
	second, err := Manifest(sel, opts)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Errorf("got another manifest for the same selection in another order:\n%s\n%s", first, second)
	}
	var got []string
	for doc := range strings.SplitSeq(string(first), "---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Namespace, Name string }
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		if o.Kind == "ClusterRole" {
			if err := yaml.UnmarshalStrict([]byte(doc), &rbacv1.ClusterRole{}); err != nil {
				t.Errorf("got an invalid ClusterRole: %v\n%s", err, doc)
			}
		}
		got = append(got, o.Kind+" "+o.Metadata.Namespace+"/"+o.Metadata.Name)
	}
	want := []string{
		"ClusterRole /mon:agent", "ClusterRoleBinding /mon:agent", "Role shop/mon:agent", "RoleBinding shop/mon:agent",
		"Role mon/mon:agent:lease", "RoleBinding mon/mon:agent:lease",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("got other objects than wanted (-want +got):\n%s", diff)
	}
	if bytes.Contains(first, []byte("creationTimestamp")) {
		t.Errorf("got a creationTimestamp, want none:\n%s", first)
	}
}

// TestSeveralNamespaces: each has a Role of its own, and of the Namespaces only those may be read.
func TestSeveralNamespaces(t *testing.T) {
	sel, err := resources.Select(nil, resources.Namespaces{Only: []string{"shop", "bank"}})
	if err != nil {
		t.Fatal(err)
	}
	set := Rules(sel, Options{})
	if want := []string{"bank", "shop"}; !slices.Equal(set.Namespaces, want) {
		t.Errorf("got Roles in %v, want %v", set.Namespaces, want)
	}
	for _, rule := range set.Cluster {
		if slices.Contains(rule.Resources, "namespaces") && !slices.Equal(rule.ResourceNames, []string{"bank", "shop"}) {
			t.Errorf("got %+v, want the two namespaces by name", rule)
		}
		if slices.Contains(rule.Resources, "pods") {
			t.Errorf("got %+v for the whole cluster", rule)
		}
	}
	manifest, err := Manifest(sel, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"namespace: bank", "namespace: shop"} {
		if n := strings.Count(string(manifest), want); n != 2 { // a Role and its binding
			t.Errorf("got %q %d times, want 2", want, n)
		}
	}
}

// TestRootCA: the certificate from which the cluster id is derived is read by name, in one namespace.
func TestRootCA(t *testing.T) {
	set := Rules(selection(t, ""), Options{RootCA: true})
	want := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"kube-root-ca.crt"}, Verbs: []string{"get"}}}
	if diff := cmp.Diff(want, set.RootCA); diff != "" {
		t.Errorf("got other rules than wanted (-want +got):\n%s", diff)
	}
	manifest, err := Manifest(selection(t, ""), Options{RootCA: true})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(manifest), "name: deepflow:pseudo-agent:root-ca\n  namespace: kube-system") {
		t.Errorf("got no Role in kube-system:\n%s", manifest)
	}
}
