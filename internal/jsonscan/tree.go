package jsonscan

import (
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"unicode/utf8"
)

// Filter says which members of an object are wanted, and what of them. Arrays are looked through: the filter of an
// array is that of its elements. A nil Filter wants everything.
type Filter struct {
	fields []filterField
}

type filterField struct {
	name string
	sub  *Filter
}

// NewFilter returns a Filter that wants nothing yet.
func NewFilter() *Filter { return &Filter{} }

// Add makes the filter want the member called path[0] and, of that, what the rest of the path names; with one element,
// all of it.
func (f *Filter) Add(path ...string) {
	if len(path) == 0 {
		return
	}
	i := slices.IndexFunc(f.fields, func(x filterField) bool { return x.name == path[0] })
	if i < 0 {
		var sub *Filter
		if len(path) > 1 {
			sub = NewFilter()
		}
		f.fields = append(f.fields, filterField{name: path[0], sub: sub})
		i = len(f.fields) - 1
	}
	switch sub := f.fields[i].sub; {
	case sub == nil:
	case len(path) == 1:
		f.fields[i].sub = nil
	default:
		sub.Add(path[1:]...)
	}
}

// Each calls f for every wanted member; sub is nil if all of it is wanted.
func (f *Filter) Each(do func(name string, sub *Filter)) {
	for _, x := range f.fields {
		do(x.name, x.sub)
	}
}

// find returns the filter of a member, and whether the member is wanted at all.
func (f *Filter) find(key []byte) (*Filter, bool) {
	for i := range f.fields {
		if f.fields[i].name == string(key) {
			return f.fields[i].sub, true
		}
	}
	return nil, false
}

// Kind is the type of a value.
type Kind uint8

// The kinds of values. A value that does not exist is Absent.
const (
	Absent Kind = iota
	NullKind
	BoolKind
	NumberKind
	StringKind
	ArrayKind
	ObjectKind
)

// node is one wanted value. Node 0 stands for an absent one.
type node struct {
	start, end int32 // of the value in buf; of a string without its quotes
	keyStart   int32 // of the member's decoded key, in buf or (keyInText) in text
	keyEnd     int32
	next       int32 // the next member (in the order of keys) or element
	child      int32 // the first member or element
	kind       Kind
	flags      uint8 // of scanString
	keyInText  bool
}

// Tree is an index of the wanted values of one document. Its zero value is ready to be used, and reused: Parse keeps
// the memory of earlier documents, unless one was a giant. It is not safe for concurrent use.
type Tree struct {
	buf     []byte
	text    []byte // decoded keys; also what is not in the buffer of a tree that was built
	nodes   []node
	members []int32 // stack of the members of the objects being read
	scratch []byte
}

// keptNodes bounds what a Tree keeps after a giant document: 2 MiB, enough for any usual one.
const keptNodes = 1 << 16

// Parse reads the value that begins at or after i and indexes what f wants of it. The whole value is checked, wanted or
// not. Errors are those of SkipValue; the tree is empty then. The tree refers to buf until the next Parse or Release.
func (t *Tree) Parse(buf []byte, i int, f *Filter) (end int, err error) {
	if cap(t.nodes) > keptNodes {
		*t = Tree{}
	}
	t.buf, t.text, t.members = buf, t.text[:0], t.members[:0]
	t.nodes = append(t.nodes[:0], node{})
	if len(buf) > math.MaxInt32 {
		return i, errors.New("document larger than 2 GiB")
	}
	_, end, err = t.value(skipSpace(buf, i), f, 0)
	if err != nil {
		t.nodes = t.nodes[:1]
	}
	return end, err
}

// Release lets go of what was parsed; its values must no longer be used. The tree's own memory stays for the next Parse.
func (t *Tree) Release() { t.buf = nil }

// Root is the value that Parse read.
func (t *Tree) Root() Value {
	if len(t.nodes) < 2 {
		return Value{t: t}
	}
	return Value{t: t, n: 1}
}

func (t *Tree) value(i int, f *Filter, depth int) (n int32, end int, err error) {
	if i >= len(t.buf) {
		return 0, i, io.ErrUnexpectedEOF
	}
	n = int32(len(t.nodes))
	t.nodes = append(t.nodes, node{start: int32(i)})
	var kind Kind
	switch c := t.buf[i]; c {
	case '"':
		var flags uint8
		if end, flags, err = scanString(t.buf, i+1); err == nil {
			x := &t.nodes[n]
			x.kind, x.flags, x.start, x.end = StringKind, flags, int32(i+1), int32(end-1)
		}
		return n, end, err
	case '{':
		kind = ObjectKind
		end, err = t.object(n, i, f, depth+1)
	case '[':
		kind = ArrayKind
		end, err = t.array(n, i, f, depth+1)
	case 't':
		kind = BoolKind
		end, err = scanLiteral(t.buf, i, "true")
	case 'f':
		kind = BoolKind
		end, err = scanLiteral(t.buf, i, "false")
	case 'n':
		kind = NullKind
		end, err = scanLiteral(t.buf, i, "null")
	default:
		if c != '-' && (c < '0' || c > '9') {
			return 0, i, syntaxError(i, "invalid beginning of a value")
		}
		kind = NumberKind
		end, err = scanNumber(t.buf, i)
	}
	x := &t.nodes[n]
	x.kind, x.end = kind, int32(end)
	return n, end, err
}

func (t *Tree) array(n int32, i int, f *Filter, depth int) (int, error) {
	if depth > MaxDepth {
		return i, syntaxError(i, "nested too deeply")
	}
	i = skipSpace(t.buf, i+1)
	if i < len(t.buf) && t.buf[i] == ']' {
		return i + 1, nil
	}
	var last int32
	for {
		c, end, err := t.value(i, f, depth)
		if err != nil {
			return end, err
		}
		if last == 0 {
			t.nodes[n].child = c
		} else {
			t.nodes[last].next = c
		}
		last = c
		var more bool
		if i, more, err = scanMore(t.buf, end, ']'); err != nil || !more {
			return i, err
		}
	}
}

func (t *Tree) object(n int32, i int, f *Filter, depth int) (int, error) {
	if depth > MaxDepth {
		return i, syntaxError(i, "nested too deeply")
	}
	base := len(t.members)
	i = skipSpace(t.buf, i+1)
	if i < len(t.buf) && t.buf[i] == '}' {
		return i + 1, nil
	}
	for more := true; more; {
		k, end, err := t.memberKey(i)
		if err != nil {
			return end, err
		}
		if i, err = t.member(k, end, f, depth); err != nil {
			return i, err
		}
		if i, more, err = scanMore(t.buf, i, '}'); err != nil {
			return i, err
		}
	}
	t.link(n, t.members[base:])
	t.members = t.members[:base]
	return i, nil
}

// memberKey is where the decoded key of a member lies: in buf, or in text.
type memberKey struct {
	start, end int
	inText     bool
}

// memberKey reads the key at i and the colon, and returns where the value begins.
func (t *Tree) memberKey(i int) (k memberKey, value int, err error) {
	if i >= len(t.buf) {
		return k, i, io.ErrUnexpectedEOF
	}
	if t.buf[i] != '"' {
		return k, i, syntaxError(i, "invalid beginning of an object key")
	}
	end, flags, err := scanString(t.buf, i+1)
	if err != nil {
		return k, end, err
	}
	k = memberKey{start: i + 1, end: end - 1}
	if raw := t.buf[k.start:k.end]; flags != 0 && !standsForItself(raw, flags) {
		k.start, k.inText = len(t.text), true
		t.text = appendText(t.text, raw)
		k.end = len(t.text)
	}
	value, err = scanColon(t.buf, end)
	return k, value, err
}

// member reads the value at i, and keeps it if the filter wants it.
func (t *Tree) member(k memberKey, i int, f *Filter, depth int) (int, error) {
	sub, wanted := (*Filter)(nil), true
	if f != nil {
		from := t.buf
		if k.inText {
			from = t.text
		}
		sub, wanted = f.find(from[k.start:k.end])
	}
	if !wanted {
		if k.inText {
			t.text = t.text[:k.start]
		}
		return skip(t.buf, i, depth)
	}
	c, i, err := t.value(i, sub, depth)
	if err != nil {
		return i, err
	}
	x := &t.nodes[c]
	x.keyStart, x.keyEnd, x.keyInText = int32(k.start), int32(k.end), k.inText
	t.members = append(t.members, c)
	return i, nil
}

// link makes the members the children of n, sorted by key; of equal keys the last wins.
func (t *Tree) link(n int32, members []int32) {
	if len(members) == 0 {
		return
	}
	t.sortMembers(members)
	last := int32(0)
	for i, m := range members {
		if i+1 < len(members) && bytes.Equal(t.key(m), t.key(members[i+1])) {
			continue
		}
		if last == 0 {
			t.nodes[n].child = m
		} else {
			t.nodes[last].next = m
		}
		last = m
	}
}

func (t *Tree) sortMembers(members []int32) {
	const few = 24
	if len(members) > few {
		slices.SortStableFunc(members, func(a, b int32) int { return bytes.Compare(t.key(a), t.key(b)) })
		return
	}
	for i := 1; i < len(members); i++ {
		m := members[i]
		key := t.key(m)
		j := i
		for j > 0 && bytes.Compare(t.key(members[j-1]), key) > 0 {
			members[j] = members[j-1]
			j--
		}
		members[j] = m
	}
}

func (t *Tree) key(n int32) []byte {
	x := &t.nodes[n]
	if x.keyInText {
		return t.text[x.keyStart:x.keyEnd]
	}
	return t.buf[x.keyStart:x.keyEnd]
}

// Value is one value of a Tree. It is valid until the tree's next Parse.
type Value struct {
	t *Tree
	n int32
}

// Kind is the type of the value.
func (v Value) Kind() Kind {
	if v.n == 0 {
		return Absent
	}
	return v.t.nodes[v.n].kind
}

// Exists tells whether there is a value other than null.
func (v Value) Exists() bool { return v.Kind() > NullKind }

// First returns the first member of an object, in the order of keys, or the first element of an array; Absent if there
// is none.
func (v Value) First() Value {
	if v.n == 0 {
		return v
	}
	return Value{t: v.t, n: v.t.nodes[v.n].child}
}

// Next returns the next member or element after v; Absent if there is none.
func (v Value) Next() Value {
	if v.n == 0 {
		return v
	}
	return Value{t: v.t, n: v.t.nodes[v.n].next}
}

// Key is the decoded key of a member.
func (v Value) Key() []byte {
	if v.n == 0 {
		return nil
	}
	return v.t.key(v.n)
}

// Get returns the member of that key; Absent if v is not an object or has none.
func (v Value) Get(key string) Value {
	if v.Kind() != ObjectKind {
		return Value{t: v.t}
	}
	for m := v.First(); m.n != 0; m = m.Next() {
		if string(m.Key()) == key {
			return m
		}
	}
	return Value{t: v.t}
}

// Raw is the value as it is written in the document; of a string without its quotes. Texts of a tree that was built (Build)
// are written without escapes.
func (v Value) Raw() []byte {
	if v.n == 0 {
		return nil
	}
	x := &v.t.nodes[v.n]
	if x.flags&isInText != 0 {
		return v.t.text[x.start:x.end]
	}
	return v.t.buf[x.start:x.end]
}

// Text is the decoded text of a string, nil for any other kind. It is valid until the next call of Text on the tree.
func (v Value) Text() []byte {
	if v.Kind() != StringKind {
		return nil
	}
	raw, flags := v.Raw(), v.t.nodes[v.n].flags
	if standsForItself(raw, flags) {
		return raw
	}
	if flags&isPlain != 0 {
		v.t.scratch = appendValid(v.t.scratch[:0], raw)
	} else {
		v.t.scratch = appendText(v.t.scratch[:0], raw)
	}
	return v.t.scratch
}

// Is tells whether the value is the string s.
func (v Value) Is(s string) bool { return v.Kind() == StringKind && string(v.Text()) == s }

// IsTrue tells whether the value is the literal true.
func (v Value) IsTrue() bool { return v.Kind() == BoolKind && v.Raw()[0] == 't' }

// AppendKey appends the member's key in the canonical form of Append.
func (v Value) AppendKey(dst []byte) []byte {
	if v.n == 0 {
		return dst
	}
	return AppendQuoted(dst, v.Key())
}

// Append appends the value in canonical form: no white space, members in the order of their keys, members that are null
// left out, strings escaped as encoding/json does without HTML escaping, numbers as they are written.
func (v Value) Append(dst []byte) []byte {
	switch v.Kind() {
	case Absent:
		return dst
	case StringKind:
		return v.appendString(dst)
	case ArrayKind:
		dst = append(dst, '[')
		first := true
		for e := v.First(); e.n != 0; e = e.Next() {
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = e.Append(dst)
		}
		return append(dst, ']')
	case ObjectKind:
		dst = append(dst, '{')
		first := true
		for m := v.First(); m.n != 0; m = m.Next() {
			if !m.Exists() {
				continue
			}
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = append(m.AppendKey(dst), ':')
			dst = m.Append(dst)
		}
		return append(dst, '}')
	default:
		return append(dst, v.Raw()...)
	}
}

func (v Value) appendString(dst []byte) []byte {
	raw, flags := v.Raw(), v.t.nodes[v.n].flags
	if flags&hasOddEsc != 0 || flags&hasNonASCII != 0 && !verbatim(raw) {
		return AppendQuoted(dst, v.Text())
	}
	dst = append(dst, '"')
	dst = append(dst, raw...)
	return append(dst, '"')
}

// verbatim tells whether a string with bytes beyond ASCII is already written as encoding/json would.
func verbatim(raw []byte) bool {
	return utf8.Valid(raw) && !bytes.Contains(raw, []byte("\u2028")) && !bytes.Contains(raw, []byte("\u2029"))
}
