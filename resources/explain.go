package resources

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Verdict says what becomes of a field.
type Verdict string

// What can become of a field.
const (
	Sent    Verdict = "sent"
	Changed Verdict = "changed"
	Hashed  Verdict = "hashed"
	Omitted Verdict = "left out"
)

// FieldNote tells what becomes of one field of an object, with all below it that shares its fate.
type FieldNote struct {
	// Path is the way from the object's root, for example spec.template.spec.containers[0].env[1].value.
	Path    string  `json:"path"`
	Verdict Verdict `json:"verdict"`
	// Before and After are the values in the object and as they are sent; Before is absent if the projection adds the field.
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
	// Note is the reason, in the words of docs/projection.md.
	Note string `json:"note,omitempty"`
}

// Explanation is what the projection makes of one object.
type Explanation struct {
	Object Object
	// JSON is what is sent of the object, before relations complete it; nil if it is not reported.
	JSON []byte
	// Reason says why the object is not reported.
	Reason string
	Fields []FieldNote
}

// notRead is the note of fields that no row of the table names.
const notRead = "deepflow-server does not read it"

// Explain projects the JSON of one object of sel and tells of every field what becomes of it. It is for people, and costs a
// hundred times what Project does. The errors are those of Project.
func Explain(sel Selected, opts Options, object []byte) (Explanation, error) {
	var x Explanation
	obj, n, err := NewProjector(sel, opts).Project(object, nil)
	if err != nil {
		return x, err
	}
	x.Object = obj
	in, err := decodeAny(object[:n])
	if err != nil {
		return x, fmt.Errorf("explain %s: %w", sel.ID, err)
	}
	var out any
	t := tables[sel.Kind.project]
	if obj.Entry == nil {
		x.Reason = t.unreported
	} else {
		if x.JSON, err = obj.Entry.JSON(); err != nil {
			return x, err
		}
		if out, err = decodeAny(x.JSON); err != nil {
			return x, err
		}
	}
	e := explainer{opts: &opts, reason: x.Reason}
	e.object("", rowTree(t.rows), in, out)
	x.Fields = e.notes
	return x, nil
}

// Differences tells in which fields two JSON documents differ; in the notes, Before is that of the first.
func Differences(before, after []byte) ([]FieldNote, error) {
	a, err := decodeAny(before)
	if err != nil {
		return nil, err
	}
	b, err := decodeAny(after)
	if err != nil {
		return nil, err
	}
	var e explainer
	e.leaves("", a, b, "")
	return e.notes, nil
}

func decodeAny(doc []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("read the object: %w", err)
	}
	return v, nil
}

// rowNode is a part of the paths of a table.
type rowNode struct {
	row      *row
	children map[string]*rowNode
}

func rowTree(rows []row) *rowNode {
	root := &rowNode{}
	for i := range rows {
		n := root
		for name := range strings.SplitSeq(rows[i].path, ".") {
			if n.children == nil {
				n.children = map[string]*rowNode{}
			}
			if n.children[name] == nil {
				n.children[name] = &rowNode{}
			}
			n = n.children[name]
		}
		n.row = &rows[i]
	}
	return root
}

type explainer struct {
	opts   *Options
	reason string // why nothing of the object is sent
	notes  []FieldNote
}

func (e *explainer) note(path string, v Verdict, before, after any, note string) {
	f := FieldNote{Path: path, Verdict: v, Note: note}
	if before != nil {
		f.Before = encodeAny(before)
	}
	if after != nil {
		f.After = encodeAny(after)
	}
	e.notes = append(e.notes, f)
}

func encodeAny(v any) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return json.RawMessage(strconv.Quote(err.Error())) // what came from JSON can be written as JSON
	}
	return bytes.TrimSpace(b.Bytes())
}

func join(path, name string) string {
	if strings.ContainsAny(name, ".[]") || name == "" {
		return path + "[" + strconv.Quote(name) + "]"
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func member(v any, name string) any {
	m, _ := v.(map[string]any)
	return m[name]
}

// object explains the members of an object that rows stand for, or lie below.
func (e *explainer) object(path string, n *rowNode, in, out any) {
	members, ok := in.(map[string]any)
	if !ok {
		if in != nil {
			e.note(path, Omitted, in, nil, "not an object")
		}
		members = nil
	}
	names := map[string]bool{}
	for name := range members {
		names[name] = true
	}
	for name := range n.children {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		before, after, at := members[name], member(out, name), join(path, name)
		child := n.children[name]
		switch {
		case child == nil && path == "" && (name == "kind" || name == "apiVersion"):
			e.note(at, Omitted, before, nil, "the entry's wire type says it")
		case child == nil:
			if before != nil {
				e.note(at, Omitted, before, nil, notRead)
			}
		case child.row != nil:
			e.row(at, child.row, before, after)
		case before != nil || after != nil:
			e.object(at, child, before, after)
		}
	}
}

// row explains a field that a row stands for.
func (e *explainer) row(path string, r *row, before, after any) {
	switch {
	case before == nil && after == nil:
	case after == nil && e.reason != "":
		e.note(path, Omitted, before, nil, "the object is not reported")
	case after == nil:
		e.note(path, Omitted, before, nil, r.note)
	case before == nil:
		e.note(path, Changed, nil, after, r.note)
	default:
		e.leaves(path, before, after, r.note)
	}
}

var hashText = regexp.MustCompile(`^([0-9]+ bytes, )?hash:[0-9a-f]{8}$|hash:[0-9a-f]{8}`)

// leaves compares what is sent of a field with what there was. What is equal is one note, what differs has one each.
func (e *explainer) leaves(path string, before, after any, note string) {
	if reflect.DeepEqual(withoutNull(before), withoutNull(after)) {
		if note != "" {
			e.note(path, Sent, before, nil, note)
		}
		return
	}
	a, aMap := before.(map[string]any)
	b, bMap := after.(map[string]any)
	x, aList := before.([]any)
	y, bList := after.([]any)
	switch {
	case aMap && bMap:
		names := maps.Clone(a)
		maps.Copy(names, b)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			e.either(join(path, name), a[name], b[name], note)
		}
	case aList && bList && len(x) == len(y):
		for i := range x {
			e.either(fmt.Sprintf("%s[%d]", path, i), x[i], y[i], note)
		}
	default:
		verdict := Changed
		if text, ok := after.(string); ok && hashText.MatchString(text) {
			verdict = Hashed
		}
		e.note(path, verdict, before, after, note)
	}
}

func (e *explainer) either(path string, before, after any, note string) {
	switch {
	case before == nil && after == nil:
	case after == nil:
		e.note(path, Omitted, before, nil, note)
	case before == nil:
		e.note(path, Changed, nil, after, note)
	default:
		e.leaves(path, before, after, note)
	}
}

// withoutNull returns v without members that are null: the projection leaves them out everywhere.
func withoutNull(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, m := range v {
			if m != nil {
				out[k] = withoutNull(m)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = withoutNull(v[i])
		}
		return out
	default:
		return v
	}
}
