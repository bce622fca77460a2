package resources

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// Namespaces say of which namespaces objects are selected. The zero value means all.
type Namespaces struct {
	// One is kubernetes_namespace: the only one, as DeepFlow's key says it.
	One string
	// Only are the only ones, at most MaxNamespaces, each of which is watched on its own.
	Only []string
	// Exclude are left out, at most MaxExcluded.
	Exclude []string
	// Selector is a label selector; only namespaces that it matches are watched, each on its own.
	Selector string
	// Matching are the namespaces that Selector matches, as far as they are known.
	Matching []string
}

const (
	// MaxNamespaces bounds the namespaces that are given by name: each costs a watch per resource.
	MaxNamespaces = 100
	// MaxExcluded bounds the namespaces that are left out: they stand in the URL of each request, of which proxies take
	// no more than 8 KiB.
	MaxExcluded = 64
)

// The keys of the configuration that Namespaces stand in, beside kubernetes_namespace.
const (
	keyOnly     = "selection.namespaces"
	keyExclude  = "selection.exclude_namespaces"
	keySelector = "selection.namespace_selector"
)

// each returns the namespaces that are watched each on its own; restricted is false if all are watched at once.
func (n Namespaces) each() (names []string, restricted bool) {
	switch {
	case n.One != "":
		return []string{n.One}, true
	case len(n.Only) > 0:
		return n.Only, true
	case n.Selector != "":
		names = slices.DeleteFunc(slices.Clone(n.Matching), func(name string) bool { return slices.Contains(n.Exclude, name) })
		slices.Sort(names)
		return slices.Compact(names), true
	}
	return nil, false
}

// check returns what is wrong with the namespaces.
func (n Namespaces) check() []error {
	var ms []error
	fail := func(key, value, reason string) { ms = append(ms, &Mistake{Key: key, Value: value, Reason: reason}) }
	const notAName = "is not a name of a namespace (lower case letters, digits and -, at most 63); leave it "
	if n.One != "" && !namespacePattern.MatchString(n.One) {
		fail("kubernetes_namespace", n.One, notAName+"empty for all namespaces")
	}
	for _, list := range []struct {
		key   string
		names []string
		most  int
	}{{keyOnly, n.Only, MaxNamespaces}, {keyExclude, n.Exclude, MaxExcluded}} {
		if len(list.names) > list.most {
			fail(list.key, fmt.Sprint(len(list.names), " names"), fmt.Sprintf("are more than %d; use %s, or watch all namespaces", list.most, keySelector))
		}
		for i, name := range list.names {
			at := fmt.Sprintf("%s[%d]", list.key, i)
			switch {
			case !namespacePattern.MatchString(name):
				fail(at, name, notAName+"out")
			case slices.Contains(list.names[:i], name):
				fail(at, name, "is given twice; keep one of them")
			case list.key == keyExclude && (slices.Contains(n.Only, name) || name == n.One):
				fail(at, name, "is watched and left out at the same time; take it out of one of the lists")
			}
		}
	}
	if n.One != "" && len(n.Only) > 0 {
		fail(keyOnly, strings.Join(n.Only, ", "), fmt.Sprintf("contradicts kubernetes_namespace %q; move that into the list, and leave it empty", n.One))
	}
	if _, err := labels.Parse(n.Selector); err != nil {
		fail(keySelector, n.Selector, notALabelSelector(err))
	}
	if n.Selector != "" && (n.One != "" || len(n.Only) > 0) {
		fail(keySelector, n.Selector, "contradicts the namespaces that are given by name; keep one of the two")
	}
	return ms
}

func notALabelSelector(err error) string {
	return fmt.Sprintf(`is not a label selector such as "team=shop,tier in (web, db),!legacy": %v`, err)
}

// narrow applies the namespaces to what is selected: a resource of namespaces that are watched each on its own becomes one
// for each of them.
func (n Namespaces) narrow(selected []Selected) []Selected {
	names, restricted := n.each()
	var out []Selected
	for _, s := range selected {
		switch {
		case s.Kind.Name == "namespaces" && !s.As:
			out = append(out, n.narrowNamespaces(s, names)...)
		case !s.Kind.Namespaced && !s.As:
			out = append(out, s)
		case !restricted:
			s.Excluded = n.Exclude
			out = append(out, s)
		default:
			for i, name := range names {
				further := s
				further.ID, further.Namespace, further.Further = n.id(s.ID, name, names), name, i > 0
				out = append(out, further)
			}
		}
	}
	return out
}

// narrowNamespaces makes the Namespaces themselves selected: those given by name in the form for which a role with
// resourceNames suffices.
func (n Namespaces) narrowNamespaces(s Selected, names []string) []Selected {
	if n.One == "" && len(n.Only) == 0 {
		s.LabelSelector = joinSelectors(n.Selector, s.LabelSelector)
		for _, name := range n.Exclude {
			s.FieldSelector = joinSelectors(s.FieldSelector, "metadata.name!="+name)
		}
		return []Selected{s}
	}
	out := make([]Selected, 0, len(names))
	for _, name := range names {
		one := s
		one.ID, one.Name, one.FieldSelector = n.id(s.ID, name, names), name, joinSelectors("metadata.name="+name, s.FieldSelector)
		out = append(out, one)
	}
	return out
}

// id is the ID of a resource in one namespace. It is the plain one where there can be no other namespace.
func (n Namespaces) id(id, name string, names []string) string {
	if len(names) == 1 && n.Selector == "" {
		return id
	}
	return id + "@" + name
}

// ExcludedSelector is the field selector that leaves the excluded namespaces out, for a resource that is namespaced.
func (s *Selected) ExcludedSelector() string {
	out := ""
	for _, name := range s.Excluded {
		out = joinSelectors(out, "metadata.namespace!="+name)
	}
	return out
}

func joinSelectors(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "," + b
}

// LeavesOut says why nothing of a namespace is watched, as a phrase; empty if it is.
func (n Namespaces) LeavesOut(namespace string) string {
	names, restricted := n.each()
	switch {
	case namespace == "":
		return ""
	case slices.Contains(n.Exclude, namespace):
		return "selection.exclude_namespaces has " + namespace + ", so nothing of it is watched"
	case !restricted || slices.Contains(names, namespace):
		return ""
	case n.One != "":
		return fmt.Sprintf("kubernetes_namespace is %s, so nothing of namespace %s is watched", n.One, namespace)
	case len(n.Only) > 0:
		return fmt.Sprintf("selection.namespaces is %s, so nothing of namespace %s is watched", strings.Join(n.Only, ", "), namespace)
	}
	return fmt.Sprintf("selection.namespace_selector %q does not match namespace %s, so nothing of it is watched", n.Selector, namespace)
}
