package advisor

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/check/rbac"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// owners sorts the Pods by their owner and says what to do about those that the server will drop.
func (a *Advisor) owners(ctx context.Context, v view, sel selection, pods *Pods) []Finding {
	pods.Total = len(v.pods)
	groups := map[string][]*resources.Entry{}
	for _, e := range v.pods {
		owner := e.Owner()
		if _, ok := v.reported[owner]; ok {
			pods.Bound++
			continue
		}
		ownerKind := e.OwnerKind()
		apiVersion, kind := splitOwner(ownerKind)
		switch {
		case owner == (resources.UID{}):
			pods.Bare++
		case apiVersion == "v1" && kind == "Node":
			pods.Static++
		case kind == "Job" && strings.HasPrefix(apiVersion, "batch/"), kind == "CronJob" && strings.HasPrefix(apiVersion, "batch/"):
			pods.Job++
		case kind == "InPlaceSet":
			// The server keeps these by their owner's kind alone.
			pods.Bound++
		default:
			groups[ownerKind] = append(groups[ownerKind], e)
		}
	}

	var out []Finding
	unsettled := map[resources.UID]struct{}{}
	for _, ownerKind := range slices.Sorted(maps.Keys(groups)) {
		lost := groups[ownerKind]
		apiVersion, kind := splitOwner(ownerKind)
		o := sel.owner(ctx, a.o.Resolver, apiVersion, kind)
		if o.selected && !a.o.Thorough {
			lost = a.settled(lost, unsettled)
			pods.Settling += len(groups[ownerKind]) - len(lost)
		}
		if len(lost) == 0 {
			continue
		}
		if o.replicaSet() && !a.o.Thorough {
			pods.Settling += len(lost)
		} else {
			pods.Dropped += len(lost)
		}
		out = append(out, sel.dropped(o, lost))
	}
	a.unsettled = unsettled
	return append(out, split(ctx, v, sel, a.o.Resolver)...)
}

// settled returns those of the Pods that were without their owner at the last look too.
func (a *Advisor) settled(pods []*resources.Entry, next map[resources.UID]struct{}) []*resources.Entry {
	var out []*resources.Entry
	for _, e := range pods {
		if _, ok := a.unsettled[e.UID()]; ok {
			out = append(out, e)
		}
		if len(next) < maxUnsettled {
			next[e.UID()] = struct{}{}
		}
	}
	return out
}

// split finds the ReplicaSets whose owner is not reported: their Pods are kept, under a workload of the ReplicaSet's name.
func split(ctx context.Context, v view, sel selection, resolver Resolver) []Finding {
	groups := map[string][]*resources.Entry{}
	for _, e := range v.splitReplicaSets {
		groups[e.OwnerKind()] = append(groups[e.OwnerKind()], e)
	}
	var out []Finding
	for _, ownerKind := range slices.Sorted(maps.Keys(groups)) {
		apiVersion, kind := splitOwner(ownerKind)
		o := sel.owner(ctx, resolver, apiVersion, kind)
		if o.selected {
			continue // on its way, or gone and about to be collected
		}
		sets := groups[ownerKind]
		o.as = "deployments"
		f := sel.remedy(o, sets)
		f.Problem, f.Severity = WorkloadSplit, Hint
		f.What = fmt.Sprintf("%s of %s %s: the server shows each as a workload of its own, and Services with a named targetPort do not bind",
			plural(len(sets), "ReplicaSet"), apiVersion, kind)
		out = append(out, f)
	}
	return out
}

// owner is what is known of the kind of an owner.
type owner struct {
	apiVersion, group, kind string
	resource                string
	guessed                 bool            // the plural is not from discovery
	row                     *resources.Kind // of the catalogue, nil if it is none of its kinds
	selected                bool
	as                      string // best guess; empty: from the Pods' names
}

// selection is what is watched, and the api_resources entries that say so.
type selection struct {
	requests []resources.Request
	selected []resources.Selected
}

func (s selection) owner(ctx context.Context, resolver Resolver, apiVersion, kind string) owner {
	o := owner{apiVersion: apiVersion, kind: kind}
	if group, _, ok := strings.Cut(apiVersion, "/"); ok {
		o.group = group
	}
	if !o.findRow() {
		o.resolve(ctx, resolver)
	}
	o.selected = slices.ContainsFunc(s.selected, o.isWatchedAs)
	return o
}

// findRow looks for the owner's kind in the catalogue.
func (o *owner) findRow() bool {
	names := plurals(o.kind)
	for _, k := range resources.Catalogue() {
		if k.OwnerKind == "" {
			continue
		}
		for _, c := range k.Served {
			if c.Group == o.group && slices.Contains(names, c.Resource) {
				o.row, o.resource = k, c.Resource
			}
		}
	}
	return o.row != nil
}

// resolve asks the apiserver what the resource of the owner's kind is called, and guesses if that gives nothing.
func (o *owner) resolve(ctx context.Context, resolver Resolver) {
	ok := false
	if resolver != nil && o.kind != "" {
		o.resource, ok = resolver.Resolve(ctx, o.apiVersion, o.kind)
	}
	if !ok {
		o.resource, o.guessed = plurals(o.kind)[0], true
	}
}

// isWatchedAs tells whether a selected resource is that of the owner's kind.
func (o *owner) isWatchedAs(sel resources.Selected) bool {
	if sel.Kind.OwnerKind == "" {
		return false // such objects own no Pods as far as the server is concerned
	}
	for _, c := range sel.Candidates {
		if c.Group == o.group && c.Resource == o.resource {
			return true
		}
		if c.Group == "" || c.Group == "apps" {
			return false // always served, so the later candidates are never watched
		}
	}
	return false
}

// plurals are what a kind's resource is usually called, likeliest first.
func plurals(kind string) []string {
	k := strings.ToLower(kind)
	switch {
	case strings.HasSuffix(k, "s"), strings.HasSuffix(k, "x"), strings.HasSuffix(k, "ch"), strings.HasSuffix(k, "sh"):
		return []string{k + "es", k}
	case strings.HasSuffix(k, "y") && !strings.HasSuffix(k, "ay") && !strings.HasSuffix(k, "ey") && !strings.HasSuffix(k, "oy"):
		return []string{strings.TrimSuffix(k, "y") + "ies"}
	}
	return []string{k + "s"}
}

func (s selection) dropped(o owner, pods []*resources.Entry) Finding {
	n := plural(len(pods), "Pod")
	switch {
	case o.kind == "":
		return Finding{
			Problem: OwnerUnreportable, Severity: Failure, Count: len(pods), Examples: examples(pods),
			What:   n + " whose owner's kind is not known to pseudo-agent",
			Advice: "look at metadata.ownerReferences of the examples and add their kind to api_resources",
		}
	case o.selected:
		return o.missing(pods)
	case o.group == "" && o.row == nil:
		return Finding{
			Problem: OwnerUnreportable, Severity: Failure, APIVersion: o.apiVersion, Kind: o.kind, Count: len(pods), Examples: examples(pods),
			What:   fmt.Sprintf("%s of %s %s, which is no workload", n, o.apiVersion, o.kind),
			Advice: "a plugin on the server (docs/plugins.md) can map such Pods to a workload; no entry of api_resources can",
		}
	}
	f := s.remedy(o, pods)
	f.Problem, f.Severity = OwnerNotReported, Failure
	f.What = fmt.Sprintf("%s of %s %s, which is not reported: the server will drop them", n, o.apiVersion, o.kind)
	return f
}

// replicaSet tells an owner that is left out while it has no replicas: its last Pods may take their time to end, which is
// nothing to be alarmed about.
func (o owner) replicaSet() bool { return o.selected && o.row != nil && o.row.Name == "replicasets" }

// missing says why an owner may be absent although its kind is selected.
func (o owner) missing(pods []*resources.Entry) Finding {
	name := strings.TrimSuffix(o.resource+"."+o.group, ".")
	f := Finding{
		Problem: OwnerMissing, Severity: Failure, APIVersion: o.apiVersion, Kind: o.kind, Count: len(pods), Examples: examples(pods),
		What: fmt.Sprintf("%s of %s %s: that kind is selected, but these owners are not among the reported objects",
			plural(len(pods), "Pod"), o.apiVersion, o.kind),
		Advice: "see the state of " + name + " in /status or `pseudo-agent check`: it may be forbidden or restricted by a field_selector; " +
			"if it is synced, the owners are gone and their Pods are about to be",
	}
	if o.replicaSet() {
		f.Severity = Hint
		f.Advice = "nothing if these Pods are ending, because a ReplicaSet with 0 replicas is not reported; a ReplicaSet without an owner of its own " +
			"is never kept by the server: create it through a Deployment"
	}
	return f
}

// remedy returns a finding with the entries and the rule that make the owners of some entries reported.
func (s selection) remedy(o owner, owned []*resources.Entry) Finding {
	f := Finding{APIVersion: o.apiVersion, Kind: o.kind, Count: len(owned), Examples: examples(owned)}
	group := cmp.Or(o.group, "core")
	if o.row != nil {
		f.APIResources = append(s.keepDefault(o.row, o.group), resources.Request{Name: o.row.Name, Group: group})
	} else {
		as := cmp.Or(o.as, guessAs(o.kind, f.Examples))
		f.APIResources = []resources.Request{{Name: o.resource, Group: group, As: as}}
	}
	f.Rules = []rbacv1.PolicyRule{rbac.Rule(o.group, o.resource)}
	f.Advice = "append the entry to inputs.resources.kubernetes.api_resources and the rule to the ClusterRole"
	if o.row == nil {
		f.Advice += fmt.Sprintf(" (as: %s is a guess; any of clonesets, daemonsets, deployments, replicationcontrollers, statefulsets works)",
			f.APIResources[0].As)
	}
	if o.guessed {
		f.Advice += fmt.Sprintf("; %q is a guess too, because the apiserver does not serve %s %s now: compare with `kubectl api-resources`",
			o.resource, o.apiVersion, o.kind)
	}
	return f
}

// keepDefault returns the entry that keeps what the default of a resource watches, which the first entry of that name
// would otherwise replace (docs/protocol.md, section 5).
func (s selection) keepDefault(row *resources.Kind, group string) []resources.Request {
	if !row.Default || row.Served[0].Group == group {
		return nil
	}
	for _, r := range s.requests {
		if r.Name == row.Name && (r.As == "" || slices.ContainsFunc(row.Served, func(c schema.GroupVersionResource) bool { return c.Group == r.Group })) {
			return nil // replaced already
		}
	}
	return []resources.Request{{Name: row.Name, Group: cmp.Or(row.Served[0].Group, "core")}}
}

// guessAs returns the resource as which a workload is best reported: its Pods' names tell whether they are numbered.
func guessAs(kind string, pods []string) string {
	switch k := strings.ToLower(kind); {
	case strings.Contains(k, "daemon"):
		return "daemonsets"
	case strings.Contains(k, "cloneset"):
		return "clonesets"
	case strings.Contains(k, "statefulset"):
		return "statefulsets"
	}
	for _, name := range pods {
		if ordinal := name[strings.LastIndexByte(name, '-')+1:]; len(ordinal) > 4 || strings.Trim(ordinal, "0123456789") != "" {
			return "deployments"
		}
	}
	if len(pods) == 0 {
		return "deployments"
	}
	return "statefulsets"
}

// Merge returns the entries and the rules of all findings, each once, in the order of the findings: what to paste to
// follow all advice.
func Merge(findings []Finding) ([]resources.Request, []rbacv1.PolicyRule) {
	var reqs []resources.Request
	var rules []rbacv1.PolicyRule
	for _, f := range findings {
		for _, r := range f.APIResources {
			if !slices.Contains(reqs, r) {
				reqs = append(reqs, r)
			}
		}
		for _, rule := range f.Rules {
			if !slices.ContainsFunc(rules, func(o rbacv1.PolicyRule) bool {
				return slices.Equal(o.APIGroups, rule.APIGroups) && slices.Equal(o.Resources, rule.Resources)
			}) {
				rules = append(rules, rule)
			}
		}
	}
	return reqs, rules
}

// splitOwner takes apart "apps/v1/ReplicaSet".
func splitOwner(ownerKind string) (apiVersion, kind string) {
	i := strings.LastIndexByte(ownerKind, '/')
	if i < 0 {
		return "", ownerKind
	}
	return ownerKind[:i], ownerKind[i+1:]
}

// examples returns a few names, the same ones for the same entries in any order.
func examples(entries []*resources.Entry) []string {
	first := make([]*resources.Entry, 0, maxExamples+1)
	for _, e := range entries {
		uid := e.UID()
		at, _ := slices.BinarySearchFunc(first, uid, func(o *resources.Entry, uid resources.UID) int {
			ouid := o.UID()
			return slices.Compare(ouid[:], uid[:])
		})
		if at < maxExamples {
			first = slices.Insert(first, at, e)
			first = first[:min(len(first), maxExamples)]
		}
	}
	names := make([]string, 0, len(first))
	for _, e := range first {
		var o struct {
			Metadata struct{ Namespace, Name string } `json:"metadata"`
		}
		if decode(e, &o) {
			names = append(names, strings.TrimPrefix(o.Metadata.Namespace+"/"+o.Metadata.Name, "/"))
		}
	}
	return names
}

// decode reads an entry. Entries come from our own projection: one that cannot be read is shown by package relations,
// and left out here.
func decode(e *resources.Entry, into any) bool {
	doc, err := e.JSON()
	return err == nil && json.Unmarshal(doc, into) == nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
