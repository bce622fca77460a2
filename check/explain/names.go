package explain

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// resource is a resource that the apiserver serves.
type resource struct {
	schema.GroupVersionResource
	kind       string
	singular   string
	short      []string
	namespaced bool
}

// names are the resources that the apiserver serves, each in its preferred version.
type names []resource

func readNames(access *rest.Config) (names, error) {
	client, err := discovery.NewDiscoveryClientForConfig(access)
	if err != nil {
		return nil, fmt.Errorf("names of resources: %w", err)
	}
	// An error about one group leaves the others usable.
	lists, err := client.ServerPreferredResources()
	if len(lists) == 0 {
		return nil, fmt.Errorf("names of resources: %w", errors.Join(err, errors.New("the apiserver lists none")))
	}
	var out names
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue // an aggregated API that serves nonsense is no reason to explain nothing
		}
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") && slices.Contains(r.Verbs, "get") {
				out = append(out, resource{gv.WithResource(r.Name), r.Kind, r.SingularName, r.ShortNames, r.Namespaced})
			}
		}
	}
	return out, nil
}

// of returns the resource of a target.
func (n names) of(t Target, selected []resources.Selected) (resource, error) {
	if t.Object == nil {
		return n.named(t.Resource, selected)
	}
	obj := &unstructured.Unstructured{}
	if err := obj.UnmarshalJSON(t.Object); err != nil {
		return resource{}, fmt.Errorf("the object: %w", err)
	}
	gvk := obj.GroupVersionKind()
	for _, r := range n {
		if r.Group == gvk.Group && r.kind == gvk.Kind {
			r.Version = gvk.Version
			return r, nil
		}
	}
	return resource{}, fmt.Errorf("apiVersion %s, kind %s: the apiserver serves no such resource; is its CRD installed?", obj.GetAPIVersion(), obj.GetKind())
}

// named finds a resource by one of its names.
func (n names) named(name string, selected []resources.Selected) (resource, error) {
	plain, group, withGroup := strings.Cut(strings.ToLower(name), ".")
	var found []resource
	for _, r := range n {
		if withGroup && r.Group != group {
			continue
		}
		if plain == r.Resource || plain == r.singular || plain == strings.ToLower(r.kind) || slices.Contains(r.short, plain) {
			found = append(found, r)
		}
	}
	// As kubectl does, Kubernetes' own names go first; then those that are reported.
	for _, better := range []func(resource) bool{
		func(r resource) bool { return r.Group == "" },
		func(r resource) bool { return selects(selected, r) != nil },
	} {
		if first := slices.IndexFunc(found, better); len(found) > 1 && first >= 0 && !slices.ContainsFunc(found[first+1:], better) {
			return found[first], nil
		}
	}
	switch len(found) {
	case 0:
		return resource{}, fmt.Errorf("%q is no resource that the apiserver serves; `kubectl api-resources` lists them", name)
	case 1:
		return found[0], nil
	default:
		all := make([]string, len(found))
		for i, r := range found {
			all[i] = r.GroupResource().String()
		}
		return resource{}, fmt.Errorf("%q is ambiguous: give one of %s", name, strings.Join(all, ", "))
	}
}

// selects returns the selected resource that watches r, nil if none does.
func selects(selected []resources.Selected, r resource) *resources.Selected {
	for i := range selected {
		for _, c := range selected[i].Candidates {
			if c.Group == r.Group && c.Resource == r.Resource {
				return &selected[i]
			}
		}
	}
	return nil
}

// entryFor returns the entry of api_resources that selects r, nil if the server has no use for it.
func entryFor(r resource) *resources.Request {
	for _, k := range resources.Catalogue() {
		for _, s := range k.Served {
			if s.Group == r.Group && s.Resource == r.Resource {
				return &resources.Request{Name: k.Name, Group: r.Group}
			}
		}
	}
	return nil
}
