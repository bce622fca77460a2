package informers

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// acceptDiscovery asks for the whole discovery in two documents, which apiservers since 1.27 have; older ones answer with
// the list of groups only.
const acceptDiscovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList," +
	"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"

// discovery is what the apiserver said about the groups of the selected resources. A group about which it could say
// nothing certain is unknown, and changes nothing.
type discovery struct {
	client *client
	roots  map[string]*root // by path: /api and /apis
}

// root is the last good answer to one of the two documents.
type root struct {
	etag   string
	groups map[string][]servedVersion // as served, preferred version first
	err    error                      // of the last request
	asked  bool
}

type servedVersion struct {
	version   string
	err       error // the version's own server gave no answer
	resources []servedResource
}

type servedResource struct {
	name       string
	kind       string
	namespaced bool
	watchable  bool
}

func newDiscovery(c *client) *discovery {
	return &discovery{client: c, roots: map[string]*root{"/api": {}, "/apis": {}}}
}

// refresh asks again about the given groups. It reports whether anything differs from before.
func (d *discovery) refresh(ctx context.Context, groups []string) (changed bool, err error) {
	var errs []error
	for _, path := range []string{"/api", "/apis"} {
		r := d.roots[path]
		if !slices.ContainsFunc(groups, func(g string) bool { return rootOf(g) == path }) {
			continue
		}
		doc, err := d.client.get(ctx, "discovery", path, "", acceptDiscovery, r.etag)
		if err != nil {
			changed = changed || r.err == nil
			r.err, r.asked = fmt.Errorf("discovery at %s: %w", path, err), true
			errs = append(errs, r.err)
			continue
		}
		changed = changed || r.err != nil || !r.asked
		r.err, r.asked = nil, true
		if doc.notModified {
			continue
		}
		served, etag, err := d.read(ctx, path, doc, groups)
		if err != nil {
			r.err = fmt.Errorf("discovery at %s: %w", path, err)
			errs = append(errs, r.err)
			continue
		}
		r.groups, r.etag = served, etag
		changed = true
	}
	return changed, errors.Join(errs...)
}

// forget makes the next refresh read everything again, because other groups are of interest.
func (d *discovery) forget() {
	for _, r := range d.roots {
		r.etag = ""
	}
}

func rootOf(group string) string {
	if group == "" {
		return "/api"
	}
	return "/apis"
}

// aggregated is an APIGroupDiscoveryList, as far as it is read.
type aggregated struct {
	Items []struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
		Versions []struct {
			Version   string `json:"version"`
			Freshness string `json:"freshness"`
			Resources []struct {
				Resource     string `json:"resource"`
				ResponseKind *struct {
					Kind string `json:"kind"`
				} `json:"responseKind"`
				Scope string   `json:"scope"`
				Verbs []string `json:"verbs"`
			} `json:"resources"`
		} `json:"versions"`
	} `json:"items"`
}

// plain is an APIVersions, an APIGroupList or an APIResourceList, as far as they are read.
type plain struct {
	Versions []string `json:"versions"`
	Groups   []struct {
		Name     string `json:"name"`
		Versions []struct {
			Version string `json:"version"`
		} `json:"versions"`
		PreferredVersion struct {
			Version string `json:"version"`
		} `json:"preferredVersion"`
	} `json:"groups"`
	Resources []struct {
		Name       string   `json:"name"`
		Kind       string   `json:"kind"`
		Namespaced bool     `json:"namespaced"`
		Verbs      []string `json:"verbs"`
	} `json:"resources"`
}

func (d *discovery) read(ctx context.Context, path string, doc document, groups []string) (
	served map[string][]servedVersion, etag string, err error,
) {
	if _, params, err := mime.ParseMediaType(doc.contentType); err == nil && params["as"] == "APIGroupDiscoveryList" {
		served, err := readAggregated(doc.body, groups)
		if err == nil && path == "/apis" && served[""] != nil {
			err = errNameless
		}
		return served, doc.etag, err
	}
	// Without an etag: whether the groups' own documents changed, the list of groups does not tell.
	served, err = d.readPlain(ctx, path, doc.body, groups)
	return served, "", err
}

func readAggregated(body []byte, groups []string) (map[string][]servedVersion, error) {
	var list aggregated
	if err := jsonUnmarshal(body, &list); err != nil {
		return nil, err
	}
	served := map[string][]servedVersion{}
	for _, item := range list.Items {
		if !slices.Contains(groups, item.Metadata.Name) {
			continue
		}
		for _, v := range item.Versions {
			sv := servedVersion{version: v.Version}
			if v.Freshness == "Stale" {
				sv.err = fmt.Errorf("the server of %s/%s does not answer", item.Metadata.Name, v.Version)
			}
			for _, r := range v.Resources {
				if r.Resource == "" {
					return nil, errNameless
				}
				sr := servedResource{name: r.Resource, namespaced: r.Scope == "Namespaced", watchable: watchable(r.Verbs)}
				if r.ResponseKind != nil {
					sr.kind = r.ResponseKind.Kind
				}
				sv.resources = append(sv.resources, sr)
			}
			served[item.Metadata.Name] = append(served[item.Metadata.Name], sv)
		}
	}
	return served, nil
}

func (d *discovery) readPlain(ctx context.Context, path string, body []byte, groups []string) (map[string][]servedVersion, error) {
	var list plain
	if err := jsonUnmarshal(body, &list); err != nil {
		return nil, err
	}
	versions := map[string][]string{}
	if path == "/api" {
		versions[""] = list.Versions
	}
	for _, g := range list.Groups {
		if g.Name == "" {
			return nil, errNameless
		}
		if g.PreferredVersion.Version != "" {
			versions[g.Name] = append(versions[g.Name], g.PreferredVersion.Version)
		}
		for _, v := range g.Versions {
			if v.Version != g.PreferredVersion.Version {
				versions[g.Name] = append(versions[g.Name], v.Version)
			}
		}
	}
	served := map[string][]servedVersion{}
	for _, group := range groups {
		for _, v := range versions[group] {
			sv := servedVersion{version: v}
			sv.resources, sv.err = d.readVersion(ctx, "discovery", schema.GroupVersion{Group: group, Version: v})
			served[group] = append(served[group], sv)
		}
	}
	return served, nil
}

// readVersion reads the resources of one group and version, on behalf of the resource of that id. After an error there are
// none.
func (d *discovery) readVersion(ctx context.Context, id string, gv schema.GroupVersion) ([]servedResource, error) {
	doc, err := d.client.get(ctx, id, groupVersionPath(gv), "", runtime.ContentTypeJSON, "")
	if err != nil {
		return nil, err
	}
	var own plain
	if err := jsonUnmarshal(doc.body, &own); err != nil {
		return nil, err
	}
	var found []servedResource
	for _, r := range own.Resources {
		if r.Name == "" {
			return nil, errNameless
		}
		found = append(found, servedResource{name: r.Name, kind: r.Kind, namespaced: r.Namespaced, watchable: watchable(r.Verbs)})
	}
	return found, nil
}

// errNameless keeps a damaged document from being taken for one of an apiserver that does not have the resource.
var errNameless = &dataError{"a group or resource in discovery has no name"}

func watchable(verbs []string) bool {
	return slices.Contains(verbs, "list") && slices.Contains(verbs, "watch")
}

// versions are those in which a group is served, as far as is known.
func (d *discovery) versions(group string) []string {
	var out []string
	for _, v := range d.roots[rootOf(group)].groups[group] {
		out = append(out, v.version)
	}
	return out
}

// target is where a selected resource is to be watched.
type target struct {
	gvr        schema.GroupVersionResource
	kind       string
	namespaced bool
}

// resolve finds the first of sel's candidates that is served. If there is none, err says why nothing certain can be said
// about one of them; a nil err means that none is served.
func (d *discovery) resolve(sel resources.Selected) (t target, ok bool, err error) {
	var errs []error
	for _, c := range sel.Candidates {
		t, ok, err := d.find(c)
		if ok {
			return t, true, nil
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return target{}, false, errors.Join(errs...)
}

// served returns all of sel's candidates that are served, in all their versions, the best first.
func (d *discovery) served(sel resources.Selected) []target {
	var out []target
	for _, c := range sel.Candidates {
		versions := []string{c.Version}
		if c.Version == "" {
			versions = d.versions(c.Group)
		}
		for _, c.Version = range versions {
			if t, ok, _ := d.find(c); ok && !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
	}
	return out
}

// find looks one candidate up. An empty version means any, the preferred one first.
func (d *discovery) find(c schema.GroupVersionResource) (t target, ok bool, err error) {
	r := d.roots[rootOf(c.Group)]
	if r.err != nil || !r.asked {
		return target{}, false, r.err
	}
	var errs []error
	for _, v := range r.groups[c.Group] {
		if c.Version != "" && v.version != c.Version {
			continue
		}
		if v.err != nil {
			errs = append(errs, fmt.Errorf("discovery of %s/%s: %w", c.Group, v.version, v.err))
			continue
		}
		i := slices.IndexFunc(v.resources, func(r servedResource) bool { return r.name == c.Resource && r.watchable })
		if i >= 0 {
			gvr := schema.GroupVersionResource{Group: c.Group, Version: v.version, Resource: c.Resource}
			return target{gvr, v.resources[i].kind, v.resources[i].namespaced}, true, nil
		}
	}
	return target{}, false, errors.Join(errs...)
}
