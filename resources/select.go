package resources

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Request is one entry of api_resources, with the keys of deepflow-agent and four of our own (`label_selector`, `as`, `disabled`, `required`).
type Request struct {
	// Name is a name of the catalogue; with As, the plural name of any workload CRD.
	Name string `json:"name" mapstructure:"name" yaml:"name"`
	// Group is the API group; "core" is the core group; empty means every group that the catalogue has for Name.
	Group string `json:"group,omitempty" mapstructure:"group" yaml:"group,omitempty"`
	// Version is the API version; empty means every version that the catalogue has for Name and Group.
	Version string `json:"version,omitempty" mapstructure:"version" yaml:"version,omitempty"`
	// FieldSelector restricts list and watch, for example "spec.nodeName=a".
	FieldSelector string `json:"field_selector,omitempty" mapstructure:"field_selector" yaml:"field_selector,omitempty"`
	// LabelSelector restricts list and watch, for example "app=web,tier!=test".
	LabelSelector string `json:"label_selector,omitempty" mapstructure:"label_selector" yaml:"label_selector,omitempty"`
	// As names the resource as which the objects of a workload CRD are reported, for example "deployments".
	As string `json:"as,omitempty" mapstructure:"as" yaml:"as,omitempty"`
	// Disabled takes the default of that name away and adds nothing.
	Disabled bool `json:"disabled,omitempty" mapstructure:"disabled" yaml:"disabled,omitempty"`
	// Required overrides whether a failure of the resource holds back, or freezes, the whole report.
	Required *bool `json:"required,omitempty" mapstructure:"required" yaml:"required,omitempty"`
}

// Selected is one resource to be watched.
type Selected struct {
	// ID is unique within a selection and the same for the same api_resources: the name, with ".group" if a group was
	// given, "/version" if only a version was given or the name and group alone would be ambiguous, "#2", "#3" … for
	// entries that differ in their selectors only, and "@namespace" if several namespaces are watched each on its own.
	ID string
	// Kind is the catalogue's row that says how the objects are projected and filed; with As, the row of the target.
	Kind *Kind
	// Candidates are to be tried in this order; the first that is served is watched. An empty Version stands for the
	// apiserver's preferred one.
	Candidates []schema.GroupVersionResource
	// Namespace restricts list and watch; empty means all. It is always empty for cluster-scoped resources of the
	// catalogue. The scope of a resource selected with As is known to the apiserver only.
	Namespace string
	// Excluded are the namespaces that are left out where Namespace is empty, unless the resource turns out to be
	// cluster-scoped. See ExcludedSelector.
	Excluded []string
	// Name is the only object that may be read, of the Namespaces; FieldSelector has it too. Empty means all.
	Name string
	// Further is true for a resource that is selected in another namespace before: if it turns out to be cluster-scoped,
	// that one has all its objects.
	Further bool
	// FieldSelector and LabelSelector restrict list and watch; empty means everything.
	FieldSelector, LabelSelector string
	// Required tells whether a failure of the resource holds back, or freezes, the whole report.
	Required bool
	// As is true for a workload CRD that is reported as Kind. Pods that it owns need their owner's kind replaced by
	// Kind.OwnerKind (Options.OwnerKinds).
	As bool
}

// Mistake is one thing that is wrong with an api_resources entry, told so that an operator can fix it.
type Mistake struct {
	// Key is the place, for example "api_resources[2].name" or "kubernetes_namespace".
	Key string
	// Value is what stands there.
	Value string
	// Reason is a phrase that says what is wrong, what is allowed and, where there is one, the nearest valid value.
	Reason string
}

func (m *Mistake) Error() string { return fmt.Sprintf("%s: %q %s", m.Key, m.Value, m.Reason) }

var namespacePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Select applies the rules of docs/protocol.md, section 5: the defaults are replaced by name as soon as an entry has
// that name, every entry that is not disabled is added on its own, and names that are not mentioned keep their default.
//
// An entry that is repeated word for word counts once. Two entries that differ only in `required` or `as` contradict each
// other and are a mistake. An entry with As whose group is not one of the catalogue's for that name does not replace the
// default of that name, since it is another resource. Secrets cannot be selected; nodes and namespaces cannot be
// disabled because the server drops everything without them.
//
// The result is in the order of the defaults first (in the catalogue's order), then of the entries. The error joins one
// *Mistake for each thing that is wrong; there is no result then.
func Select(reqs []Request, namespaces Namespaces) ([]Selected, error) {
	mistakes := namespaces.check()
	replaced := map[string]bool{}
	var chosen []Selected
	for i, r := range reqs {
		r.Group = strings.TrimSpace(r.Group)
		s, ms := selectOne(fmt.Sprintf("api_resources[%d]", i), r)
		for _, m := range ms {
			mistakes = append(mistakes, m)
		}
		if r.As == "" || inCatalogue(r) {
			replaced[r.Name] = true
		}
		if len(ms) > 0 || r.Disabled {
			continue
		}
		dup := slices.IndexFunc(chosen, func(c Selected) bool { return sameSource(c, s) })
		switch {
		case dup < 0:
			chosen = append(chosen, s)
		case chosen[dup].Kind != s.Kind || chosen[dup].As != s.As:
			mistakes = append(mistakes, &Mistake{
				Key: fmt.Sprintf("api_resources[%d].as", i), Value: r.As,
				Reason: "contradicts an earlier entry for the same resource; keep one of them",
			})
		case chosen[dup].Required != s.Required:
			mistakes = append(mistakes, &Mistake{
				Key: fmt.Sprintf("api_resources[%d].required", i), Value: fmt.Sprint(s.Required),
				Reason: "contradicts an earlier entry for the same resource; keep one of them",
			})
		}
	}
	for _, name := range []string{"nodes", "namespaces"} {
		if replaced[name] && !slices.ContainsFunc(chosen, func(c Selected) bool { return c.Kind.Name == name }) && len(mistakes) == 0 {
			mistakes = append(mistakes, &Mistake{
				Key: "api_resources", Value: name,
				Reason: "must not be disabled: the server drops everything else without it",
			})
		}
	}
	if len(mistakes) > 0 {
		return nil, errors.Join(mistakes...)
	}

	var out []Selected
	for _, k := range catalogue {
		if k.Default && !replaced[k.Name] {
			out = append(out, Selected{
				ID: k.Name, Kind: k, Candidates: slices.Clone(k.Served), Required: k.Required,
			})
		}
	}
	return namespaces.narrow(uniqueIDs(append(out, chosen...))), nil
}

func selectOne(key string, r Request) (Selected, []*Mistake) {
	if r.Name == "secrets" {
		return Selected{}, []*Mistake{{Key: key + ".name", Value: r.Name, Reason: "can never be selected: Secrets are not read"}}
	}
	var ms []*Mistake
	if _, err := fields.ParseSelector(r.FieldSelector); err != nil {
		ms = append(ms, &Mistake{
			Key: key + ".field_selector", Value: r.FieldSelector,
			Reason: fmt.Sprintf(`is not a field selector such as "metadata.name=a,spec.nodeName!=b": %v`, err),
		})
	}
	if _, err := labels.Parse(r.LabelSelector); err != nil {
		ms = append(ms, &Mistake{Key: key + ".label_selector", Value: r.LabelSelector, Reason: notALabelSelector(err)})
	}
	if r.As != "" {
		s, as := selectAs(key, r)
		return s, append(ms, as...)
	}

	k := ByName(r.Name)
	if k == nil {
		return Selected{}, append(ms, unknownName(key, r))
	}
	s := Selected{ID: k.Name, Kind: k, FieldSelector: r.FieldSelector, LabelSelector: r.LabelSelector}
	group := coreGroup(r.Group)
	for _, c := range k.Served {
		if (r.Group == "" || c.Group == group) && (r.Version == "" || c.Version == r.Version) {
			s.Candidates = append(s.Candidates, c)
		}
	}
	if len(s.Candidates) == 0 {
		return Selected{}, append(ms, unknownGroupVersion(key, r, k))
	}
	switch {
	case r.Group != "" && group != "":
		s.ID += "." + group
	case r.Version != "" && len(s.Candidates) < len(k.Served):
		s.ID += "/" + r.Version
	}
	// Only the built-in API, which is the first of each row, is needed by every cluster.
	s.Required = k.Required && s.Candidates[0] == k.Served[0]
	if r.Required != nil {
		s.Required = *r.Required
	}
	return s, ms
}

func selectAs(key string, r Request) (Selected, []*Mistake) {
	var ms []*Mistake
	if !slices.Contains(asTargets, r.As) {
		ms = append(ms, &Mistake{
			Key: key + ".as", Value: r.As,
			Reason: fmt.Sprintf("is not a workload type that the server knows; allowed are %s%s",
				strings.Join(asTargets, ", "), didYouMean(r.As, asTargets)),
		})
	}
	if !resourcePattern.MatchString(r.Name) {
		ms = append(ms, &Mistake{
			Key: key + ".name", Value: r.Name,
			Reason: `is not the plural name of a resource, such as "rollouts" (lower case letters, digits, - and .)`,
		})
	}
	group := coreGroup(r.Group)
	if !groupPattern.MatchString(group) {
		ms = append(ms, &Mistake{
			Key: key + ".group", Value: r.Group,
			Reason: `is not the group of a workload CRD; an entry with "as" needs one, such as "argoproj.io"`,
		})
	}
	if r.Version != "" && !resourcePattern.MatchString(r.Version) {
		ms = append(ms, &Mistake{
			Key: key + ".version", Value: r.Version,
			Reason: `is not an API version, such as "v1alpha1"; leave it empty for the apiserver's preferred one`,
		})
	}
	if len(ms) > 0 {
		return Selected{}, ms
	}
	s := Selected{
		ID:            r.Name + "." + group,
		Kind:          ByName(r.As),
		Candidates:    []schema.GroupVersionResource{gvr(group, r.Version, r.Name)},
		FieldSelector: r.FieldSelector,
		LabelSelector: r.LabelSelector,
		As:            true,
	}
	if r.Required != nil {
		s.Required = *r.Required
	}
	return s, nil
}

var (
	resourcePattern = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)
	groupPattern    = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)
)

func coreGroup(group string) string {
	if group == "core" {
		return ""
	}
	return group
}

// inCatalogue tells whether an entry means a resource that the catalogue has under that name.
func inCatalogue(r Request) bool {
	k := ByName(r.Name)
	return k != nil && slices.ContainsFunc(k.Served, func(c schema.GroupVersionResource) bool {
		return c.Group == coreGroup(r.Group) && c.Resource == r.Name
	})
}

func sameSource(a, b Selected) bool {
	return a.FieldSelector == b.FieldSelector && a.LabelSelector == b.LabelSelector && slices.Equal(a.Candidates, b.Candidates)
}

func unknownName(key string, r Request) *Mistake {
	for _, k := range catalogue {
		for _, c := range k.Served {
			if c.Resource == r.Name {
				return &Mistake{
					Key: key + ".name", Value: r.Name,
					Reason: fmt.Sprintf(`is not a name of api_resources; write name: %s, group: %s`, k.Name, c.Group),
				}
			}
		}
	}
	valid := make([]string, 0, len(catalogue))
	for _, k := range catalogue {
		valid = append(valid, k.Name)
	}
	slices.Sort(valid)
	return &Mistake{
		Key: key + ".name", Value: r.Name,
		Reason: fmt.Sprintf(`is not a known resource; allowed are %s, and any workload CRD with its group and "as"%s`,
			strings.Join(valid, ", "), didYouMean(r.Name, valid)),
	}
}

func unknownGroupVersion(key string, r Request, k *Kind) *Mistake {
	var groups, versions []string
	group := coreGroup(r.Group)
	for _, c := range k.Served {
		g := c.Group
		if g == "" {
			g = "core"
		}
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
		if (r.Group == "" || c.Group == group) && !slices.Contains(versions, c.Version) {
			versions = append(versions, c.Version)
		}
	}
	if len(versions) == 0 {
		return &Mistake{
			Key: key + ".group", Value: r.Group,
			Reason: fmt.Sprintf(`is not a group of %s; allowed are %s%s; for another group add "as"`,
				k.Name, strings.Join(groups, ", "), didYouMean(r.Group, groups)),
		}
	}
	return &Mistake{
		Key: key + ".version", Value: r.Version,
		Reason: fmt.Sprintf(`is not a supported version of %s; allowed are %s%s`,
			strings.TrimSuffix(k.Name+"."+group, "."), strings.Join(versions, ", "), didYouMean(r.Version, versions)),
	}
}

// didYouMean returns a clause naming the valid value nearest to s, or nothing if none is near.
func didYouMean(s string, valid []string) string {
	best, bestDist := "", len(s)/2+2
	for _, v := range valid {
		if d := editDistance(strings.ToLower(s), v); d < bestDist {
			best, bestDist = v, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(`; did you mean %q?`, best)
}

func editDistance(a, b string) int {
	const maxLen = 64
	if len(a) > maxLen || len(b) > maxLen {
		return maxLen
	}
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		cur[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			cur[j+1] = min(prev[j]+cost, prev[j+1]+1, cur[j]+1)
		}
		prev, cur = cur, prev
	}
	return prev[len(b)]
}

// uniqueIDs makes the IDs unique: entries of one name and group are told apart by their version, then by a number.
func uniqueIDs(sel []Selected) []Selected {
	byID := map[string][]int{}
	for i, s := range sel {
		byID[s.ID] = append(byID[s.ID], i)
	}
	for _, same := range byID {
		first := sel[same[0]].Candidates
		if !slices.ContainsFunc(same, func(i int) bool { return !slices.Equal(sel[i].Candidates, first) }) {
			continue
		}
		for _, i := range same {
			if c := sel[i].Candidates; len(c) == 1 && c[0].Version != "" && !strings.Contains(sel[i].ID, "/") {
				sel[i].ID += "/" + c[0].Version
			}
		}
	}
	seen := map[string]int{}
	for i := range sel {
		seen[sel[i].ID]++
		if n := seen[sel[i].ID]; n > 1 {
			sel[i].ID = fmt.Sprintf("%s#%d", sel[i].ID, n)
		}
	}
	return sel
}
