// Package rbac says which permissions a configuration needs, and not one more.
//
// It relies on the selection of package resources only, so that the command, the chart and the advisor all print the
// same rules without asking an apiserver. It promises the same output for the same selection, in a fixed order.
package rbac

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// Verbs are what watching a resource takes.
var Verbs = []string{"get", "list", "watch"}

// LeaseVerbs are what leader election takes on the one Lease; creating it is a rule of its own.
var LeaseVerbs = []string{"get", "update"}

// Where every cluster has its certificate authority: informers.RootCAConfigMap.
const rootCANamespace, rootCAConfigMap = "kube-system", "kube-root-ca.crt"

// Options say for whom the permissions are, and what the daemon does besides watching.
type Options struct {
	// Name is the base name of the roles and bindings; empty means "pseudo-agent". They are named
	// "ServiceAccountNamespace:Name", so that installations of one name in several namespaces do not share them.
	Name string
	// FormerNames leaves the namespace out of the names, as releases before 0.2 did, to find what they left behind.
	FormerNames bool
	// ServiceAccount and ServiceAccountNamespace name who gets the permissions; empty means Name and "deepflow".
	ServiceAccount, ServiceAccountNamespace string
	// LeaseNamespace and LeaseName are the Lease of high availability; an empty LeaseName means there is none. An empty
	// LeaseNamespace means ServiceAccountNamespace.
	LeaseNamespace, LeaseName string
	// RootCA includes reading the ConfigMap from which the cluster id is derived (informers.ClusterCA).
	RootCA bool
	// Labels are put on every object; may be nil.
	Labels map[string]string
}

func (o Options) withDefaults() Options {
	o.Name = cmp.Or(o.Name, "pseudo-agent")
	o.ServiceAccount = cmp.Or(o.ServiceAccount, o.Name)
	o.ServiceAccountNamespace = cmp.Or(o.ServiceAccountNamespace, "deepflow")
	o.LeaseNamespace = cmp.Or(o.LeaseNamespace, o.ServiceAccountNamespace)
	return o
}

// roleName is the name of everything that stands outside of the service account's namespace, or may stand there. A colon
// is in no name of a namespace, so that two pairs never give one name.
func (o Options) roleName() string {
	if o.FormerNames {
		return o.Name
	}
	return o.ServiceAccountNamespace + ":" + o.Name
}

func (o Options) leaseRoleName() string {
	if o.FormerNames {
		return o.Name + "-lease"
	}
	return o.roleName() + ":lease"
}

// RuleSet is the permissions of a configuration by where they apply.
type RuleSet struct {
	// Cluster are the rules of a ClusterRole with a ClusterRoleBinding.
	Cluster []rbacv1.PolicyRule
	// Namespaced are the rules of a Role in each of Namespaces, which are sorted; empty when all namespaces are watched.
	Namespaced []rbacv1.PolicyRule
	Namespaces []string
	// RootCA are the rules of a Role in kube-system; empty unless the cluster id is derived with a kubeconfig.
	RootCA []rbacv1.PolicyRule
	// Lease are the rules of a Role in the Lease's namespace; empty without high availability.
	Lease []rbacv1.PolicyRule
}

// Rules returns the permissions that the selection needs. An entry that may be served by one of several groups needs
// the permission in each of them, but for the apps and core groups, which every apiserver serves and which therefore
// end the search. Reading /version and discovery needs no rule: every authenticated user has the ClusterRoles
// system:public-info-viewer and system:discovery.
func Rules(selected []resources.Selected, o Options) RuleSet {
	o = o.withDefaults()
	var cluster, namespaced []need
	var names, namespaces []string
	for _, s := range selected {
		if s.Namespace != "" {
			namespaced, namespaces = append(namespaced, needs(s)...), append(namespaces, s.Namespace)
			continue
		}
		for _, n := range needs(s) {
			if s.Name != "" {
				names = append(names, s.Name)
				n.named = true
			}
			cluster = append(cluster, n)
		}
	}
	slices.Sort(namespaces)
	slices.Sort(names)
	set := RuleSet{
		Cluster: group(cluster, slices.Compact(names)), Namespaced: group(namespaced, nil), Namespaces: slices.Compact(namespaces),
	}
	if o.RootCA {
		set.RootCA = []rbacv1.PolicyRule{{
			APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{rootCAConfigMap}, Verbs: []string{"get"},
		}}
	}
	if o.LeaseName != "" {
		set.Lease = []rbacv1.PolicyRule{
			{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create"}},
			{
				APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{o.LeaseName},
				Verbs: slices.Clone(LeaseVerbs),
			},
		}
	}
	return set
}

// Rule returns the rule that watching one resource takes.
func Rule(apiGroup, resource string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{apiGroup}, Resources: []string{resource}, Verbs: slices.Clone(Verbs)}
}

// need is one resource that must be readable, in one of several groups.
type need struct {
	groups   string // joined by ","
	resource string
	named    bool // not all objects, but those that are given by name
}

// needs returns one need per plural name, because a group served under another name is another resource.
func needs(s resources.Selected) []need {
	var order []string
	groups := map[string][]string{}
	for _, c := range s.Candidates {
		if _, ok := groups[c.Resource]; !ok {
			order = append(order, c.Resource)
		}
		if !slices.Contains(groups[c.Resource], c.Group) {
			groups[c.Resource] = append(groups[c.Resource], c.Group)
		}
		if c.Group == "" || c.Group == "apps" {
			break
		}
	}
	out := make([]need, 0, len(order))
	for _, r := range order {
		out = append(out, need{groups: strings.Join(groups[r], ","), resource: r})
	}
	return out
}

// group makes as few rules as the needs allow: one per set of groups, for all objects or those of the names.
func group(ns []need, names []string) []rbacv1.PolicyRule {
	slices.SortFunc(ns, func(a, b need) int {
		return cmp.Or(cmp.Compare(a.groups, b.groups), compareBool(a.named, b.named), cmp.Compare(a.resource, b.resource))
	})
	ns = slices.Compact(ns)
	var out []rbacv1.PolicyRule
	for i, n := range ns {
		if i > 0 && n.groups == ns[i-1].groups && n.named == ns[i-1].named {
			last := &out[len(out)-1]
			last.Resources = append(last.Resources, n.resource)
			continue
		}
		rule := rbacv1.PolicyRule{APIGroups: strings.Split(n.groups, ","), Resources: []string{n.resource}, Verbs: slices.Clone(Verbs)}
		if n.named {
			rule.ResourceNames = names
		}
		out = append(out, rule)
	}
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Manifest returns the permissions as YAML documents, roles before their bindings, for `kubectl apply -f -`. The
// ServiceAccount itself is not among them.
func Manifest(selected []resources.Selected, o Options) ([]byte, error) {
	o = o.withDefaults()
	set := Rules(selected, o)
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: o.ServiceAccount, Namespace: o.ServiceAccountNamespace}}
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: o.Labels}
	}
	ref := func(kind, name string) rbacv1.RoleRef {
		return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
	}
	typ := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
	}
	var docs []any
	name := o.roleName()
	if len(set.Cluster) > 0 {
		docs = append(docs,
			rbacv1.ClusterRole{TypeMeta: typ("ClusterRole"), ObjectMeta: meta("", name), Rules: set.Cluster},
			rbacv1.ClusterRoleBinding{
				TypeMeta: typ("ClusterRoleBinding"), ObjectMeta: meta("", name), RoleRef: ref("ClusterRole", name), Subjects: subjects,
			})
	}
	role := func(namespace, name string, rules []rbacv1.PolicyRule) {
		if len(rules) > 0 {
			docs = append(docs,
				rbacv1.Role{TypeMeta: typ("Role"), ObjectMeta: meta(namespace, name), Rules: rules},
				rbacv1.RoleBinding{
					TypeMeta: typ("RoleBinding"), ObjectMeta: meta(namespace, name), RoleRef: ref("Role", name), Subjects: subjects,
				})
		}
	}
	for _, namespace := range set.Namespaces {
		role(namespace, name, set.Namespaced)
	}
	role(rootCANamespace, o.roleName()+":root-ca", set.RootCA)
	role(o.LeaseNamespace, o.leaseRoleName(), set.Lease)
	return encode(docs)
}

// RulesYAML returns rules as a YAML list, as they stand under `rules:` of a role.
func RulesYAML(rules []rbacv1.PolicyRule) (string, error) {
	out, err := yaml.Marshal(rules)
	if err != nil {
		return "", fmt.Errorf("write rules: %w", err)
	}
	return string(out), nil
}

func encode(docs []any) ([]byte, error) {
	var out bytes.Buffer
	for i, doc := range docs {
		if i > 0 {
			out.WriteString("---\n")
		}
		b, err := yaml.Marshal(doc)
		if err != nil {
			return nil, fmt.Errorf("write manifest: %w", err)
		}
		// A role that is about to be created has no such time; the type writes one all the same.
		out.Write(bytes.ReplaceAll(b, []byte("  creationTimestamp: null\n"), nil))
	}
	return out.Bytes(), nil
}
