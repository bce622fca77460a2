package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

type kind int

const (
	text     kind = iota
	boolean       // true or false
	integer       // int or int64
	number        // float64
	duration      // time.Duration
	texts         // []string
	items         // a slice of structs
)

// kindNames say in messages and in the flags' help what a key takes.
var kindNames = map[kind]string{
	text: "text", boolean: "true or false", integer: "a whole number", number: "a number", duration: "a duration",
	texts: "a list of texts", items: "a list of sections",
}

// maxElements bounds a list.
const maxElements = 10000

// section is a struct of the configuration: keys with a value (leaf) and keys with a section.
type section struct {
	names    []string // in the order of the struct
	leaves   map[string]*leaf
	sections map[string]*section
}

// leaf is one key that has a value, and its rules, as the tags of its struct field say.
type leaf struct {
	key      string // dotted from the root; within an element of a list: from the element
	index    []int  // of the field, as reflect.Value.FieldByIndex takes it
	kind     kind
	min, max float64 // inclusive; of a duration in nanoseconds
	words    []string
	alias    map[string]string
	check    string
	why      string
	usage    string
	live     bool
	secret   bool
	needed   bool
	unquoted bool
	item     *section // of items
}

// newSection reads the struct's tags. A wrong tag is a mistake of the programmer and panics.
func newSection(t reflect.Type, path string, index []int) *section {
	s := &section{leaves: map[string]*leaf{}, sections: map[string]*section{}}
	for i := range t.NumField() {
		f := t.Field(i)
		name := f.Tag.Get("mapstructure")
		if name == "" {
			panic(fmt.Sprintf("config: field %s.%s has no key", t, f.Name))
		}
		key := join(path, name)
		at := append(slices.Clone(index), i)
		s.names = append(s.names, name)
		if f.Type.Kind() == reflect.Struct {
			s.sections[name] = newSection(f.Type, key, at)
			continue
		}
		s.leaves[name] = newLeaf(f, key, at)
	}
	return s
}

func newLeaf(f reflect.StructField, key string, index []int) *leaf {
	l := &leaf{
		key: key, index: index, kind: kindOf(f.Type), min: math.Inf(-1), max: math.Inf(1),
		words: strings.Fields(f.Tag.Get("oneof")), check: f.Tag.Get("check"), why: f.Tag.Get("why"), usage: f.Tag.Get("usage"),
		live: f.Tag.Get("live") != "", secret: f.Tag.Get("secret") != "", needed: f.Tag.Get("needed") != "",
		unquoted: f.Tag.Get("unquoted") != "",
	}
	if other, word, ok := strings.Cut(f.Tag.Get("alias"), "="); ok {
		l.alias = map[string]string{other: word}
	}
	if l.check != "" && checks[l.check] == nil {
		panic("config: no rule " + l.check)
	}
	for tag, limit := range map[string]*float64{"min": &l.min, "max": &l.max} {
		if v, ok := f.Tag.Lookup(tag); ok {
			*limit = parseLimit(l.kind, v)
		}
	}
	if l.kind == items {
		l.item = newSection(f.Type.Elem(), "", nil)
	}
	return l
}

func parseLimit(k kind, s string) float64 {
	if k == duration {
		d, err := parseDuration(s)
		if err != nil {
			panic("config: limit " + s)
		}
		return float64(d)
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		panic("config: limit " + s)
	}
	return n
}

func kindOf(t reflect.Type) kind {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return duration
	case t.Kind() == reflect.String:
		return text
	case t.Kind() == reflect.Bool:
		return boolean
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int64:
		return integer
	case t.Kind() == reflect.Float64:
		return number
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return texts
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return items
	}
	panic(fmt.Sprintf("config: no kind for %s", t))
}

// all returns the leaves of the section and of those below it, in the order of the structs.
func (s *section) all() []*leaf {
	var out []*leaf
	for _, name := range s.names {
		if sub := s.sections[name]; sub != nil {
			out = append(out, sub.all()...)
			continue
		}
		out = append(out, s.leaves[name])
	}
	return out
}

// env is the name of the key's environment variable; flag that of its flag.
func (l *leaf) env(prefix string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(l.key, ".", "_"))
}

func (l *leaf) flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(l.key) }

// allowed says what the key takes.
func (l *leaf) allowed() string {
	var s string
	switch {
	case len(l.words) > 0:
		s = list(l.words)
	case !math.IsInf(l.min, 0) || !math.IsInf(l.max, 0):
		s = l.format(l.min) + " to " + l.format(l.max)
	default:
		s = kindNames[l.kind]
	}
	if l.why != "" {
		s += " (" + l.why + ")"
	}
	return s
}

func (l *leaf) format(limit float64) string {
	switch l.kind {
	case duration:
		return formatDuration(time.Duration(limit))
	default:
		return strconv.FormatFloat(limit, 'f', -1, 64)
	}
}

// mistake makes a Mistake about the key at path; value is left out if it is secret.
func (l *leaf) mistake(path, value, problem, near string, src Source) *Mistake {
	if l.secret {
		value, near = "", ""
	}
	return &Mistake{Key: path, Value: value, Problem: problem, Allowed: l.allowed(), Nearest: near, Source: src}
}

// parse reads one value of a scalar kind, or one element of texts, from its text.
func (l *leaf) parse(path, s string, src Source) (any, *Mistake) {
	switch l.kind {
	case boolean:
		return l.parseBool(path, s, src)
	case integer:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, l.mistake(path, s, "is not a whole number", "", src)
		}
		return n, l.inRange(path, s, float64(n), src)
	case number:
		n, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(n) {
			return nil, l.mistake(path, s, "is not a number", "", src)
		}
		return n, l.inRange(path, s, n, src)
	case duration:
		d, err := parseDuration(s)
		if err != nil {
			return nil, l.mistake(path, s, err.Error(), l.nearDuration(s, err), src)
		}
		return d, l.inRange(path, s, float64(d), src)
	default:
		return l.parseText(path, s, src)
	}
}

// nearDuration adds the unit that makes a valid duration of a bare number.
func (l *leaf) nearDuration(s string, err error) string {
	switch {
	case errors.Is(err, errNegative):
		return l.format(l.min)
	case errors.Is(err, errNoUnit):
		for _, unit := range []string{"s", "m", "h", "d"} {
			near := strings.TrimSpace(s) + unit
			if d, err := parseDuration(near); err == nil && float64(d) >= l.min && float64(d) <= l.max {
				return near
			}
		}
	}
	return ""
}

func (l *leaf) parseBool(path, s string, src Source) (any, *Mistake) {
	switch strings.ToLower(s) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	case "yes", "on", "1", "enabled":
		return nil, l.mistake(path, s, "is not true or false", "true", src)
	case "no", "off", "0", "disabled":
		return nil, l.mistake(path, s, "is not true or false", "false", src)
	}
	return nil, l.mistake(path, s, "is not true or false", nearest(s, []string{"true", "false"}), src)
}

func (l *leaf) inRange(path, s string, n float64, src Source) *Mistake {
	switch {
	case n < l.min:
		return l.mistake(path, s, "is too small", l.format(l.min), src)
	case n > l.max:
		return l.mistake(path, s, "is too large", l.format(l.max), src)
	}
	return nil
}

func (l *leaf) parseText(path, s string, src Source) (any, *Mistake) {
	if !utf8.ValidString(s) { // from the environment or a flag; YAML has no such text
		return nil, l.mistake(path, strings.ToValidUTF8(s, "\uFFFD"), "is not valid UTF-8", "", src)
	}
	if word, ok := l.alias[s]; ok {
		return word, nil
	}
	if len(l.words) > 0 && !slices.Contains(l.words, s) {
		return nil, l.mistake(path, s, "is not a valid value", nearest(s, l.words), src)
	}
	if s == "" && l.needed {
		return nil, l.mistake(path, "", "is empty", "", src)
	}
	if check := checks[l.check]; check != nil && (s != "" || l.kind == texts) {
		if wrong := check(s); wrong != nil {
			m := l.mistake(path, s, wrong.problem, wrong.nearest, src)
			m.Allowed = wrong.allowed
			return nil, m
		}
	}
	return s, nil
}

// reader takes values out of one source.
type reader struct {
	src      func(line int) Source
	lenient  bool // unknown keys are not our business
	values   map[string]any
	origin   map[string]Source // of keys, of elements and of their keys
	mistakes []*Mistake
}

func newReader(src func(line int) Source) *reader {
	return &reader{src: src, values: map[string]any{}, origin: map[string]Source{}}
}

// fail keeps a mistake, if it may still be told.
func (r *reader) fail(m ...*Mistake) {
	if len(r.mistakes) <= maxMistakes {
		r.mistakes = append(r.mistakes, m...)
	}
}

// fits refuses a list that is too long to be meant.
func (r *reader) fits(n *yaml.Node, l *leaf, path string) bool {
	if len(n.Content) <= maxElements {
		return true
	}
	m := l.mistake(path, "", fmt.Sprintf("has %d elements", len(n.Content)), "", r.src(n.Line))
	m.Allowed = fmt.Sprintf("at most %d elements", maxElements)
	r.fail(m)
	return false
}

// section reads a mapping whose keys are those of s.
func (r *reader) section(n *yaml.Node, s *section, path string) {
	n = resolve(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.fail(&Mistake{
			Key: path, Value: scalar(n), Problem: "is " + describe(n) + ", not a section", Allowed: list(s.names), Source: r.src(n.Line),
		})
		return
	}
	r.pairs(n, s, path, func(name, key string, value *yaml.Node) {
		if sub := s.sections[name]; sub != nil {
			r.section(value, sub, key)
			return
		}
		if v, ok := r.leaf(value, s.leaves[name], key); ok {
			r.values[key] = v
		}
	})
}

// pairs calls f for each key of a mapping that s has, once.
func (r *reader) pairs(n *yaml.Node, s *section, path string, f func(name, key string, value *yaml.Node)) {
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := resolve(n.Content[i])
		name, key := k.Value, join(path, k.Value)
		if k.Kind != yaml.ScalarNode || name == "" {
			if !r.lenient {
				r.fail(&Mistake{Key: path, Problem: "holds a key that is not a name", Allowed: list(s.names), Source: r.src(k.Line)})
			}
			continue
		}
		if !slices.Contains(s.names, name) {
			if !r.lenient {
				r.fail(&Mistake{
					Key: shorten(key), Problem: "is not a known key", Allowed: list(sorted(s.names)), Nearest: nearest(name, s.names), Source: r.src(k.Line),
				})
			}
			continue
		}
		if line, ok := first[name]; ok {
			r.fail(&Mistake{Key: key, Problem: fmt.Sprintf("is given twice, first in line %d; keep one of them", line), Source: r.src(k.Line)})
			continue
		}
		first[name] = k.Line
		f(name, key, n.Content[i+1])
	}
}

// leaf reads the value of one key. There is none if the node is null.
func (r *reader) leaf(n *yaml.Node, l *leaf, path string) (any, bool) {
	n = resolve(n)
	if isNull(n) {
		return nil, false
	}
	r.origin[path] = r.src(n.Line)
	switch l.kind {
	case texts:
		return r.texts(n, l, path)
	case items:
		return r.items(n, l, path)
	default:
		return r.scalar(n, l, path)
	}
}

func (r *reader) texts(n *yaml.Node, l *leaf, path string) (any, bool) {
	if n.Kind != yaml.SequenceNode {
		r.fail(l.mistake(path, scalar(n), "is "+describe(n)+", not a list", bracketed(n), r.src(n.Line)))
		return nil, false
	}
	if !r.fits(n, l, path) {
		return nil, false
	}
	out, ok := []string{}, true
	for i, e := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		r.origin[at] = r.src(e.Line)
		v, good := r.scalar(resolve(e), l, at)
		if s, isText := v.(string); good && isText {
			out = append(out, s)
		} else {
			ok = false
		}
	}
	return out, ok
}

// items reads a list of sections. An element that is wrong stays in the list as far as it is right, so that the rules
// for the whole can be applied to the others.
func (r *reader) items(n *yaml.Node, l *leaf, path string) (any, bool) {
	if n.Kind != yaml.SequenceNode {
		r.fail(l.mistake(path, scalar(n), "is "+describe(n)+", not a list", "", r.src(n.Line)))
		return nil, false
	}
	if !r.fits(n, l, path) {
		return nil, false
	}
	out := []any{}
	for i, e := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		r.origin[at] = r.src(e.Line)
		out = append(out, r.item(resolve(e), l.item, at))
	}
	return out, true
}

func (r *reader) item(n *yaml.Node, s *section, path string) map[string]any {
	element := map[string]any{}
	if n.Kind != yaml.MappingNode {
		near := ""
		if n.Kind == yaml.ScalarNode && s.leaves["name"] != nil && !isNull(n) {
			near = "name: " + shorten(n.Value)
		}
		r.fail(&Mistake{
			Key: path, Value: scalar(n), Problem: "is " + describe(n) + ", not a section", Allowed: list(s.names), Nearest: near, Source: r.src(n.Line),
		})
		return element
	}
	before := len(r.mistakes)
	r.pairs(n, s, path, func(name, key string, value *yaml.Node) {
		if v, ok := r.leaf(value, s.leaves[name], key); ok {
			element[name] = v
		}
	})
	wrong := r.mistakes[before:]
	for _, l := range s.all() {
		if key := join(path, l.key); l.needed && element[l.key] == nil {
			missing := l.mistake(key, "", "is missing", "", r.src(n.Line))
			r.fail(independent([]*Mistake{missing}, wrong)...)
		}
	}
	return element
}

// scalar reads one value of a scalar kind, or one element of texts. YAML's own idea of the type must fit.
func (r *reader) scalar(n *yaml.Node, l *leaf, path string) (any, bool) {
	src := r.src(n.Line)
	if n.Kind != yaml.ScalarNode {
		r.fail(l.mistake(path, "", "is "+describe(n)+", not "+strings.TrimPrefix(kindNames[scalarOf(l.kind)], "a list of "), "", src))
		return nil, false
	}
	tag, value := n.ShortTag(), n.Value
	var wrong *Mistake
	switch scalarOf(l.kind) {
	case text:
		if tag != "!!str" && (!l.unquoted || tag != "!!int") {
			if _, wrong = l.parse(path, value, src); wrong == nil {
				wrong = l.mistake(path, value, "is "+describe(n)+", not text", strconv.Quote(shorten(value))+" in quotes", src)
			}
		}
	case boolean:
		if tag == "!!str" && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
			wrong = l.mistake(path, value, "is text in quotes, not true or false", "", src)
		}
	case integer, number:
		if tag == "!!str" && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
			wrong = l.mistake(path, value, "is text in quotes, not "+kindNames[l.kind], "", src)
		} else if tag == "!!int" {
			value = decimal(n)
		}
	default: // YAML has no durations: they are text, which parse looks at
	}
	if wrong != nil {
		r.fail(wrong)
		return nil, false
	}
	v, m := l.parse(path, value, src)
	if m != nil {
		r.fail(m)
		return nil, false
	}
	return v, true
}

// text reads a value as environment variables and flags give it: lists of texts are separated by commas, lists of
// sections are YAML.
func (r *reader) text(l *leaf, s string) {
	src := r.src(0)
	r.origin[l.key] = src
	switch l.kind {
	case texts:
		out, ok := []string{}, true
		for i, e := range splitList(s) {
			_, m := l.parse(fmt.Sprintf("%s[%d]", l.key, i), e, src)
			if m != nil {
				r.fail(m)
				ok = false
			}
			out = append(out, e)
		}
		if ok {
			r.values[l.key] = out
		}
	case items:
		docs, m := parseYAML([]byte(s), r.src)
		if m != nil {
			m.Key = l.key
			r.fail(m)
			return
		}
		if len(docs) == 0 {
			return
		}
		if v, ok := r.leaf(docs[0], l, l.key); ok {
			r.values[l.key] = v
		}
	default:
		v, m := l.parse(l.key, s, src)
		if m != nil {
			r.fail(m)
			return
		}
		r.values[l.key] = v
	}
}

func scalarOf(k kind) kind {
	if k == texts {
		return text
	}
	return k
}

func splitList(s string) []string {
	var out []string
	for e := range strings.SplitSeq(s, ",") {
		if e = strings.TrimSpace(e); e != "" {
			out = append(out, e)
		}
	}
	return out
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// resolve follows an alias; YAML has no alias of an alias.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n.Kind == 0 || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// scalar is the text of a scalar node, "" of others.
func scalar(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

func bracketed(n *yaml.Node) string {
	if s := scalar(n); s != "" {
		return "[" + shorten(s) + "]"
	}
	return ""
}

// decimal writes an integer of any of YAML's notations as a decimal one; what does not fit stays as it is.
func decimal(n *yaml.Node) string {
	var i int64
	if err := n.Decode(&i); err != nil {
		return n.Value
	}
	return strconv.FormatInt(i, 10)
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	case "!!str":
		return "text"
	}
	return "of an unknown YAML type"
}
