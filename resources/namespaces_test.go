package resources

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// described is what tells selected resources of one selection apart.
func described(sel []Selected) []string {
	var out []string
	for _, s := range sel {
		out = append(out, strings.TrimSpace(fmt.Sprint(s.ID, " ", s.Namespace, " ", s.FieldSelector, " ", s.LabelSelector, " ", s.ExcludedSelector(), " ", s.Name)))
	}
	return out
}

func TestNamespaces(t *testing.T) {
	reqs := []Request{{Name: "rollouts", Group: "argoproj.io", As: "deployments"}}
	for _, name := range []string{"services", "replicationcontrollers", "deployments", "daemonsets", "replicasets", "statefulsets", "ingresses"} {
		reqs = append(reqs, Request{Name: name, Disabled: true})
	}
	reqs = append(reqs, Request{Name: "pods", LabelSelector: "app=web"})
	for _, tt := range []struct {
		name string
		in   Namespaces
		want []string
	}{
		{name: "all", want: []string{"nodes", "namespaces", "rollouts.argoproj.io", "pods   app=web"}},
		{
			name: "one", in: Namespaces{One: "shop"},
			want: []string{"nodes", "namespaces  metadata.name=shop   shop", "rollouts.argoproj.io shop", "pods shop  app=web"},
		},
		{
			name: "one of a list", in: Namespaces{Only: []string{"shop"}},
			want: []string{"nodes", "namespaces  metadata.name=shop   shop", "rollouts.argoproj.io shop", "pods shop  app=web"},
		},
		{
			name: "two", in: Namespaces{Only: []string{"shop", "bank"}},
			want: []string{
				"nodes", "namespaces@shop  metadata.name=shop   shop", "namespaces@bank  metadata.name=bank   bank",
				"rollouts.argoproj.io@shop shop", "rollouts.argoproj.io@bank bank", "pods@shop shop  app=web", "pods@bank bank  app=web",
			},
		},
		{
			name: "all but two", in: Namespaces{Exclude: []string{"a", "b"}},
			want: []string{
				"nodes", "namespaces  metadata.name!=a,metadata.name!=b",
				"rollouts.argoproj.io    metadata.namespace!=a,metadata.namespace!=b", "pods   app=web metadata.namespace!=a,metadata.namespace!=b",
			},
		},
		{name: "by label, none known", in: Namespaces{Selector: "team=shop"}, want: []string{"nodes", "namespaces   team=shop"}},
		{
			name: "by label, but one", in: Namespaces{Selector: "team=shop", Exclude: []string{"test"}, Matching: []string{"test", "shop"}},
			want: []string{"nodes", "namespaces  metadata.name!=test team=shop", "rollouts.argoproj.io@shop shop", "pods@shop shop  app=web"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sel, err := Select(reqs, tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, described(sel)); diff != "" {
				t.Errorf("got another selection (-want +got):\n%s", diff)
			}
			for _, s := range sel {
				first := slices.IndexFunc(sel, func(o Selected) bool { return o.Kind == s.Kind && o.As == s.As })
				if s.Namespace != "" && s.Further != (sel[first].ID != s.ID) {
					t.Errorf("got Further %v for %s", s.Further, s.ID)
				}
			}
		})
	}
}

func TestNamespaceMistakes(t *testing.T) {
	many := make([]string, MaxNamespaces+1)
	for i := range many {
		many[i] = fmt.Sprint("n", i)
	}
	for _, tt := range []struct {
		name, key, value, reason string
		in                       Namespaces
	}{
		{"no name", keyOnly + "[0]", "My", "not a name", Namespaces{Only: []string{"My"}}},
		{"twice", keyExclude + "[1]", "a", "twice", Namespaces{Exclude: []string{"a", "a"}}},
		{"in both", keyExclude + "[0]", "a", "at the same time", Namespaces{Only: []string{"a"}, Exclude: []string{"a"}}},
		{"the one is left out", keyExclude + "[0]", "a", "at the same time", Namespaces{One: "a", Exclude: []string{"a"}}},
		{"two keys", keyOnly, "b", `contradicts kubernetes_namespace "a"`, Namespaces{One: "a", Only: []string{"b"}}},
		{"no selector", keySelector, "a=b=c", "not a label selector", Namespaces{Selector: "a=b=c"}},
		{"names and selector", keySelector, "a=b", "contradicts", Namespaces{Only: []string{"a"}, Selector: "a=b"}},
		{"too many", keyOnly, "101 names", "more than 100", Namespaces{Only: many}},
		{"too many left out", keyExclude, "65 names", "more than 64", Namespaces{Exclude: many[:MaxExcluded+1]}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Select(nil, tt.in)
			var m *Mistake
			if !errors.As(err, &m) || m.Key != tt.key || m.Value != tt.value || !strings.Contains(m.Reason, tt.reason) {
				t.Errorf("got %v, want %s: %q with %q", err, tt.key, tt.value, tt.reason)
			}
		})
	}
	if _, err := Select([]Request{{Name: "pods", LabelSelector: "=="}}, Namespaces{}); err == nil || !strings.Contains(err.Error(), "api_resources[0].label_selector") {
		t.Errorf("got %v, want the label selector refused", err)
	}
}

func TestLeavesOut(t *testing.T) {
	for _, tt := range []struct {
		in   Namespaces
		want string
	}{
		{Namespaces{}, ""},
		{Namespaces{One: "shop"}, ""},
		{Namespaces{One: "bank"}, "kubernetes_namespace is bank, so nothing of namespace shop is watched"},
		{Namespaces{Only: []string{"a", "b"}}, "selection.namespaces is a, b, so nothing of namespace shop is watched"},
		{Namespaces{Exclude: []string{"shop"}}, "selection.exclude_namespaces has shop, so nothing of it is watched"},
		{Namespaces{Selector: "a=b", Matching: []string{"shop"}}, ""},
		{Namespaces{Selector: "a=b"}, `selection.namespace_selector "a=b" does not match namespace shop, so nothing of it is watched`},
	} {
		if got := tt.in.LeavesOut("shop"); got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.in, got, tt.want)
		}
	}
}
