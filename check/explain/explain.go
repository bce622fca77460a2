// Package explain follows one object from the apiserver to what deepflow-server makes of it.
//
// It relies on the product's own projection, relations and inventory (through resources, oneshot and inventory) and on
// discovery for names. It promises that what it says is sent is what the daemon would send at that moment, and that it
// changes nothing.
package explain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/check/oneshot"
	"github.com/pseudo-agent/pseudo-agent/check/rbac"
	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// Options say how the daemon would look at the cluster.
type Options struct {
	Config *rest.Config
	// Selected is what is watched, All what would be if no namespace were left out; nil: Selected.
	Selected, All []resources.Selected
	// Namespaces are those that are watched.
	Namespaces resources.Namespaces
	Projection resources.Options
	PageSize   int64
	// ContentType is that of informers.Options.
	ContentType string
}

// Target is the object to explain.
type Target struct {
	// Resource is a name as kubectl takes it: plural, singular, kind or short name, with ".group" if need be.
	Resource        string
	Namespace, Name string
	// Object is the JSON of an object that need not exist; then the fields above are not used.
	Object []byte
}

// Report is all that can be said of one object.
type Report struct {
	APIVersion string `json:"api_version"`
	Kind       string `json:"kind"`
	Resource   string `json:"resource"` // plural name with ".group"
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	UID        string `json:"uid,omitempty"`

	Way Way `json:"way"`
	// Fields tell what becomes of each field, Completed what other objects change in what is sent.
	Fields    []resources.FieldNote `json:"fields,omitempty"`
	Completed []resources.FieldNote `json:"completed,omitempty"`
	// Sent is what the server gets; absent if the object is not reported.
	Sent   json.RawMessage `json:"sent,omitempty"`
	Size   Size            `json:"size"`
	Server Server          `json:"server"`
	// Arrives tells whether the object arrives whole: reported, kept, and without a finding.
	Arrives bool `json:"arrives"`
	// Why says why it does not arrive, empty if it does or if the findings say it.
	Why string `json:"why,omitempty"`
	// Missing names what could not be read, so that the rest may be incomplete.
	Missing []string `json:"missing,omitempty"`

	object []byte
}

// Object is the JSON of the object as the apiserver or the file has it.
func (r *Report) Object() []byte { return r.object }

// Way is how an object gets into the snapshot.
type Way struct {
	// SelectedBy is the id of the selected resource; empty: none selects it.
	SelectedBy string `json:"selected_by,omitempty"`
	// Add is the entry of api_resources that would; nil if none is needed or none can.
	Add *resources.Request `json:"add,omitempty"`
	// Permitted tells whether the account may get, list and watch the resource.
	Permitted bool `json:"permitted"`
	// Rule is what it lacks.
	Rule *rbacv1.PolicyRule `json:"rule,omitempty"`
}

// Size is in bytes.
type Size struct {
	JSON       int `json:"json"`
	Projected  int `json:"projected"`
	Compressed int `json:"compressed"` // the whole record of the request
	Snapshot   int `json:"snapshot"`   // of all objects that were looked at
}

// Server is what deepflow-server makes of the object.
type Server struct {
	// Shown is the row of the inventory; absent if there is none.
	Shown any `json:"shown,omitempty"`
	// Findings are what is lost of it; Failures what makes the server refuse the whole cluster.
	Findings []inventory.Finding `json:"findings,omitempty"`
	Failures []inventory.Finding `json:"failures,omitempty"`
}

// ErrNotFound means that the apiserver has no such object.
var ErrNotFound = errors.New("no such object")

// Run explains one object. The errors name what cannot be resolved or read; one that wraps ErrNotFound is about the object.
func Run(ctx context.Context, o Options, t Target) (*Report, error) {
	names, err := readNames(o.Config)
	if err != nil {
		return nil, err
	}
	res, err := names.of(t, o.all())
	if err != nil {
		return nil, err
	}
	r := &Report{APIVersion: res.GroupVersion().String(), Kind: res.kind, Resource: res.GroupResource().String()}
	if res.Group == "" && res.Resource == "secrets" {
		r.Namespace, r.Name = t.Namespace, t.Name
		r.Why = "Secrets are never watched, read or sent, whatever is configured"
		return r, nil
	}
	sel := selects(o.all(), res)
	if sel != nil {
		r.Way.SelectedBy = sel.ID
	} else {
		r.Way.Add = entryFor(res)
	}
	if err := r.permissions(ctx, o.Config, res); err != nil {
		return nil, err
	}
	if err := r.read(ctx, o.Config, res, t); err != nil {
		return nil, err
	}
	if why := unselected(sel, r, o.Namespaces); why != "" {
		r.Why = why
		return r, nil
	}
	x, err := resources.Explain(*sel, o.Projection, r.object)
	if err != nil {
		return nil, err
	}
	r.Fields, r.Size.JSON, r.Size.Projected = x.Fields, len(r.object), len(x.JSON)
	if x.JSON == nil {
		r.Why = x.Reason
		return r, nil
	}
	return r, r.follow(ctx, o, sel, x, t.Object != nil)
}

// permissions asks whether the account may watch the resource.
func (r *Report) permissions(ctx context.Context, access *rest.Config, res resource) error {
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return fmt.Errorf("permissions: %w", err)
	}
	r.Way.Permitted = true
	for _, verb := range rbac.Verbs {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Group: res.Group, Resource: res.Resource},
		}}
		answer, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("ask whether %s may be read: %w", r.Resource, err)
		}
		r.Way.Permitted = r.Way.Permitted && answer.Status.Allowed
	}
	if !r.Way.Permitted {
		r.Way.Rule = new(rbac.Rule(res.Group, res.Resource))
	}
	return nil
}

// read gets the object, or takes that of the target.
func (r *Report) read(ctx context.Context, access *rest.Config, res resource, t Target) error {
	obj := &unstructured.Unstructured{}
	if t.Object != nil {
		if err := obj.UnmarshalJSON(t.Object); err != nil {
			return fmt.Errorf("the object: %w", err)
		}
		if obj.GetUID() == "" {
			obj.SetUID("00000000-0000-4000-8000-000000000000") // the apiserver would give it one
		}
		if res.namespaced && obj.GetNamespace() == "" {
			obj.SetNamespace(cmpOr(t.Namespace, metav1.NamespaceDefault))
		}
	} else {
		client, err := dynamic.NewForConfig(access)
		if err != nil {
			return fmt.Errorf("access: %w", err)
		}
		var getter dynamic.ResourceInterface = client.Resource(res.GroupVersionResource)
		where := t.Name
		if res.namespaced {
			where = cmpOr(t.Namespace, metav1.NamespaceDefault) + "/" + t.Name
			getter = client.Resource(res.GroupVersionResource).Namespace(cmpOr(t.Namespace, metav1.NamespaceDefault))
		}
		obj, err = getter.Get(ctx, t.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return fmt.Errorf("%s %s: %w; deepflow-server deletes what the apiserver no longer has", r.Resource, where, ErrNotFound)
		case apierrors.IsForbidden(err):
			return fmt.Errorf("%s %s may not be read: %w; the rule that is missing is printed by `pseudo-agent rbac`", r.Resource, where, err)
		case err != nil:
			return fmt.Errorf("get %s %s: %w", r.Resource, where, err)
		}
	}
	var err error
	if r.object, err = obj.MarshalJSON(); err != nil {
		return fmt.Errorf("encode the object: %w", err)
	}
	r.Namespace, r.Name, r.UID = obj.GetNamespace(), obj.GetName(), string(obj.GetUID())
	return nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// unselected says why the object is not in the snapshot, empty if it is.
func unselected(sel *resources.Selected, r *Report, in resources.Namespaces) string {
	namespace := r.Namespace
	if sel != nil && sel.Kind.Name == "namespaces" {
		namespace = r.Name
	}
	left := in.LeavesOut(namespace)
	switch {
	case sel == nil && r.Way.Add == nil:
		return "deepflow-server has no use for objects of this resource"
	case sel == nil:
		return "no entry of api_resources selects it"
	case left != "":
		return left
	case sel.FieldSelector != "" && !fieldsMatch(sel.FieldSelector, r):
		return fmt.Sprintf("the field selector %s of %s leaves it out", sel.FieldSelector, sel.ID)
	case sel.LabelSelector != "" && !labelsMatch(sel.LabelSelector, r):
		return fmt.Sprintf("the label selector %s of %s leaves it out", sel.LabelSelector, sel.ID)
	case !r.Way.Permitted && len(in.Only) == 0 && in.One == "":
		return "the account may not list and watch the resource, so that no report holds it"
	default:
		return ""
	}
}

// fieldsMatch tells whether a field selector takes the object, as far as its fields are in the object by the same path.
func fieldsMatch(selector string, r *Report) bool {
	parsed, err := fields.ParseSelector(selector)
	if err != nil {
		return true
	}
	var doc map[string]any
	if err := json.Unmarshal(r.object, &doc); err != nil {
		return true
	}
	set := fields.Set{}
	for _, q := range parsed.Requirements() {
		v, _, err := unstructured.NestedFieldNoCopy(doc, strings.Split(q.Field, ".")...)
		if err == nil && v != nil {
			set[q.Field] = fmt.Sprint(v)
		}
	}
	return parsed.Matches(set)
}

// labelsMatch tells whether a label selector takes the object.
func labelsMatch(selector string, r *Report) bool {
	parsed, err := labels.Parse(selector)
	if err != nil {
		return true
	}
	var doc struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
	}
	return json.Unmarshal(r.object, &doc) != nil || parsed.Matches(labels.Set(doc.Metadata.Labels))
}

// follow looks at the object among those that it depends on.
func (r *Report) follow(ctx context.Context, o Options, sel *resources.Selected, x resources.Explanation, given bool) error {
	var over *oneshot.Object
	if given {
		over = &oneshot.Object{ID: sel.ID, Entry: x.Object.Entry, Key: x.Object.Key}
	}
	result, err := oneshot.Collect(ctx, oneshot.Options{
		Config: o.Config, Selected: o.around(r.Namespace), Projection: o.Projection, PageSize: o.PageSize, ContentType: o.ContentType, Over: over,
	})
	if err != nil {
		return err
	}
	r.Missing = result.Missing
	var changes []inventory.Change
	uid := x.Object.UID
	for _, e := range result.Entries() {
		doc, err := e.JSON()
		if err != nil {
			return err
		}
		if e.UID() == uid && e.WireType() == sel.Kind.WireType {
			r.Sent, r.Size.Compressed = doc, len(e.Wire())
		}
		changes = append(changes, inventory.Change{Type: e.WireType(), ID: idOf(doc), JSON: doc})
	}
	r.Size.Snapshot = result.Snapshot.Size()
	if r.Sent == nil {
		r.Why = "it was not in what was listed a moment later: it may have been deleted"
		return nil
	}
	if r.Completed, err = resources.Differences(x.JSON, r.Sent); err != nil {
		return err
	}
	r.judge(inventory.Build(inventory.Options{}, changes), sel.Kind.WireType)
	return nil
}

func (o Options) all() []resources.Selected {
	if o.All == nil {
		return o.Selected
	}
	return o.All
}

// around returns the selection, narrowed to one namespace if the object is in one.
func (o Options) around(namespace string) []resources.Selected {
	if namespace == "" {
		return o.Selected
	}
	var out []resources.Selected
	for _, s := range o.all() {
		switch {
		case s.Kind.Name == "namespaces": // a role may let only some of them be read
		case s.Kind.Namespaced:
			s.Namespace, s.Excluded = namespace, nil
			out = append(out, s)
		default:
			out = append(out, s)
		}
	}
	for _, s := range o.Selected {
		if s.Kind.Name == "namespaces" {
			out = append(out, s)
		}
	}
	return out
}

func idOf(doc []byte) string {
	var o struct {
		Metadata struct{ UID string }
	}
	if err := json.Unmarshal(doc, &o); err != nil {
		return ""
	}
	return o.Metadata.UID
}

// judge takes from the inventory what is said of the object.
func (r *Report) judge(inv *inventory.Inventory, wire string) {
	for _, f := range inv.Findings(inventory.Filter{Namespace: r.Namespace, Name: r.Name, Type: wire}) {
		if f.ID == r.UID {
			r.Server.Findings = append(r.Server.Findings, f)
		}
	}
	r.Server.Failures = inv.Summary().Failures
	r.Server.Shown = inv.Row(wire, r.Namespace, r.Name, r.UID)
	r.Arrives = r.Server.Shown != nil && len(r.Server.Findings) == 0 && len(r.Server.Failures) == 0
	if r.Server.Shown == nil && len(r.Server.Findings) == 0 {
		r.Why = "deepflow-server does not show it"
	}
}
