package resources

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
)

// AnnotationRule is one entry of projection.annotations: which annotations of some resources are sent.
type AnnotationRule struct {
	// Resources are names of the catalogue to which the rule applies; empty means all that send annotations.
	Resources []string `json:"resources,omitempty" mapstructure:"resources"`
	// Allow names the annotations that are sent, in full or by a prefix that ends in *; empty means all. One that is named
	// in full is sent whole, however long it is.
	Allow []string `json:"allow,omitempty" mapstructure:"allow"`
	// Deny names the annotations that are left out, in the same form. It wins over Allow.
	Deny []string `json:"deny,omitempty" mapstructure:"deny"`
}

// CheckAnnotations returns one *Mistake for each thing that is wrong with the rules, joined; its Key is relative to
// projection.
func CheckAnnotations(rules []AnnotationRule) error {
	var mistakes []error
	seen := map[string]int{}
	for i, r := range rules {
		at := fmt.Sprintf("annotations[%d]", i)
		for j, name := range r.Resources {
			key := fmt.Sprintf("%s.resources[%d]", at, j)
			if !sendsAnnotations(name) {
				mistakes = append(mistakes, &Mistake{
					Key: key, Value: name,
					Reason: "is not a resource whose annotations are sent; allowed: " + strings.Join(annotated(), ", "),
				})
				continue
			}
			if first, ok := seen[name]; ok {
				mistakes = append(mistakes, &Mistake{
					Key: key, Value: name, Reason: fmt.Sprintf("already has a rule in annotations[%d]; only the first would apply", first),
				})
				continue
			}
			seen[name] = i
		}
		mistakes = append(mistakes, checkPatterns(at+".allow", r.Allow)...)
		mistakes = append(mistakes, checkPatterns(at+".deny", r.Deny)...)
		if len(r.Allow) == 0 && len(r.Deny) == 0 {
			mistakes = append(mistakes, &Mistake{Key: at, Reason: `has neither allow nor deny; to send none, write deny: ["*"]`})
		}
		if len(r.Resources) == 0 && i < len(rules)-1 {
			mistakes = append(mistakes, &Mistake{Key: at, Reason: "applies to all resources, so that later rules never apply; move it to the end"})
		}
	}
	return errors.Join(mistakes...)
}

func checkPatterns(at string, patterns []string) []error {
	var mistakes []error
	for i, p := range patterns {
		if star := strings.IndexByte(p, '*'); p == "" || star >= 0 && star != len(p)-1 {
			mistakes = append(mistakes, &Mistake{
				Key: fmt.Sprintf("%s[%d]", at, i), Value: p,
				Reason: "is neither the name of an annotation nor a prefix followed by one *, as example.com/*",
			})
		}
	}
	return mistakes
}

func sendsAnnotations(name string) bool { return slices.Contains(annotated(), name) }

// annotated are the names of the resources of which annotations are sent.
func annotated() []string {
	var out []string
	for _, k := range catalogue {
		if slices.Contains([]projection{podProjection, serviceProjection, workloadProjection, replicaSetProjection}, k.project) {
			out = append(out, k.Name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ruleFor returns the first rule for the resources of that name, nil if there is none.
func ruleFor(rules []AnnotationRule, name string) *AnnotationRule {
	for i := range rules {
		if len(rules[i].Resources) == 0 || slices.Contains(rules[i].Resources, name) {
			return &rules[i]
		}
	}
	return nil
}

// sent tells whether the rule lets the annotation pass, and whether by its full name.
func (r *AnnotationRule) sent(key []byte) (sent, byName bool) {
	if r == nil {
		return true, false
	}
	if denied, _ := matches(r.Deny, key); denied {
		return false, false
	}
	if len(r.Allow) == 0 {
		return true, false
	}
	return matches(r.Allow, key)
}

func matches(patterns []string, key []byte) (found, byName bool) {
	for _, p := range patterns {
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			found = found || len(key) >= len(prefix) && string(key[:len(prefix)]) == prefix
		} else if p == string(key) {
			return true, true
		}
	}
	return found, false
}

// neverSent are annotations that repeat the object as its author wrote it, or that change all the time without meaning.
func neverSent(key []byte) bool {
	switch string(key) {
	case "kapp.k14s.io/original", "kapp.k14s.io/original-diff", "kapp.k14s.io/original-diff-full",
		"objectset.rio.cattle.io/applied", leaderAnnotation:
		return true
	}
	return bytes.Contains(key, []byte("last-applied"))
}

const (
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"

	// WorkloadsAnnotation is parsed by the server itself: Rancher's list of the workloads of a Service.
	WorkloadsAnnotation = "field.cattle.io/targetWorkloadIds"
)

// alwaysWhole are annotations that the server, or a plugin that looks for a Pod's networks, parses: half of one would be
// worse than none. The apiserver limits all annotations of an object to 256 KiB.
func alwaysWhole(key []byte) bool { return slices.Contains(parsed, string(key)) }

var parsed = []string{
	WorkloadsAnnotation,
	"k8s.v1.cni.cncf.io/networks", "k8s.v1.cni.cncf.io/network-status", "k8s.v1.cni.cncf.io/networks-status",
	"k8s.ovn.org/pod-networks", "k8s.aliyun.com/pod-networks", "vpc.amazonaws.com/pod-eni", "vpc.amazonaws.com/pod-ips",
	"tke.cloud.tencent.com/networks-status", "cni.projectcalico.org/ipAddrs", "ipam.spidernet.io/ippools",
	"yangtse.io/pod-networks",
}

// OnlyParsed are the rules that leave out all annotations but those that the server, or a plugin for networks, parses.
func OnlyParsed() []AnnotationRule { return []AnnotationRule{{Allow: slices.Clone(parsed)}} }

// Spare returns how many bytes of the entry OnlyParsed would save.
func (e *Entry) Spare() (int, error) {
	doc, err := e.JSON()
	if err != nil {
		return 0, err
	}
	var root any
	if err := json.Unmarshal(doc, &root); err != nil {
		return 0, fmt.Errorf("read entry: %w", err)
	}
	if !dropAnnotations(root) {
		return 0, nil
	}
	if doc, err = json.Marshal(root); err != nil {
		return 0, fmt.Errorf("write entry: %w", err)
	}
	return max(0, int(e.size)-len(NewEncoder().Encode(Content{WireType: e.WireType(), JSON: doc}, nil).Wire())), nil
}

// dropAnnotations takes away what OnlyParsed does not send, wherever there are annotations, and tells whether there was any.
func dropAnnotations(v any) (dropped bool) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			dropped = dropAnnotations(item) || dropped
		}
	case map[string]any:
		for key, member := range v {
			notes, ok := member.(map[string]any)
			if key != "annotations" || !ok {
				dropped = dropAnnotations(member) || dropped
				continue
			}
			before := len(notes)
			maps.DeleteFunc(notes, func(name string, _ any) bool { return !slices.Contains(parsed, name) })
			dropped = dropped || len(notes) < before
			if len(notes) == 0 {
				delete(v, key)
			}
		}
	}
	return dropped
}

// isJSONText tells whether somebody may read the value as JSON: an object or an array.
func isJSONText(value []byte) bool {
	value = bytes.TrimSpace(value)
	if len(value) == 0 || value[0] != '{' && value[0] != '[' {
		return false
	}
	end, err := jsonscan.SkipValue(value, 0)
	return err == nil && end == len(value)
}

func annotations(p *Projector, v jsonscan.Value) bool {
	if v.Kind() != jsonscan.ObjectKind {
		return false
	}
	p.out = append(p.out, '{')
	first := true
	for m := v.First(); m.Kind() != jsonscan.Absent; m = m.Next() {
		if p.appendMember(m, first, p.appendAnnotation) {
			first = false
		}
	}
	p.out = append(p.out, '}')
	return !first
}

// appendAnnotation appends the value of one annotation; it returns false if it is left out.
func (p *Projector) appendAnnotation(m jsonscan.Value) bool {
	sent, byName := p.annotations.sent(m.Key())
	if !sent || neverSent(m.Key()) {
		return false
	}
	// A byte stands for at most three (U+FFFD for one that is not UTF-8), so that a short text need not be decoded.
	if m.Kind() != jsonscan.StringKind || 3*len(m.Raw()) <= p.opts.AnnotationLimit || byName || alwaysWhole(m.Key()) {
		p.appendFree(m)
		return true
	}
	value := m.Text()
	switch {
	case len(value) <= p.opts.AnnotationLimit:
		p.appendFree(m)
	case isJSONText(value):
		return false // whoever parses it would fail on anything else
	default:
		p.out = append(p.out, '"')
		p.out = strconv.AppendInt(p.out, int64(len(value)), 10)
		p.out = append(p.out, " bytes, "...)
		p.appendHash(value)
		p.out = append(p.out, '"')
	}
	return true
}
