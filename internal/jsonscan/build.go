package jsonscan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Build empties the tree and begins one of values that are not written as JSON: texts lie in buf as they are, unescaped. The
// caller adds values, each once, and links them to the object that Build returns. names are the bytes from which AddField
// takes keys. The tree refers to buf until the next Parse, Build or Release. A value is known by its Ref until then.
func (t *Tree) Build(buf, names []byte) (root Ref, err error) {
	if cap(t.nodes) > keptNodes {
		*t = Tree{}
	}
	t.buf, t.text, t.members = buf, append(t.text[:0], names...), t.members[:0]
	t.nodes = append(t.nodes[:0], node{})
	if len(buf) > math.MaxInt32-len(names) {
		return 0, errors.New("document larger than 2 GiB")
	}
	return t.add(node{kind: ObjectKind}), nil
}

// Ref is a value of a tree that is being built; 0 is none.
type Ref int32

func (t *Tree) add(x node) Ref {
	t.nodes = append(t.nodes, x)
	return Ref(len(t.nodes) - 1)
}

// Clear makes the tree as if it had not been built, because what was read turned out to be broken.
func (t *Tree) Clear() { t.nodes = t.nodes[:min(1, len(t.nodes))] }

// NewObject adds an object without members.
func (t *Tree) NewObject() Ref { return t.add(node{kind: ObjectKind}) }

// NewArray adds an array without elements.
func (t *Tree) NewArray() Ref { return t.add(node{kind: ArrayKind}) }

// NewText adds the string at start to end of the buffer. Bytes that are not UTF-8 stand for U+FFFD, one each.
func (t *Tree) NewText(start, end int) Ref {
	return t.add(node{kind: StringKind, flags: plainFlags(t.buf[start:end]), start: int32(start), end: int32(end)})
}

// NewMadeText adds a string that is not in the buffer and that JSON needs no escapes for, as it is appended by f.
func (t *Tree) NewMadeText(f func(dst []byte) []byte) Ref {
	start := len(t.text)
	t.text = f(t.text)
	return t.add(node{kind: StringKind, flags: isPlain | isInText, start: int32(start), end: int32(len(t.text))})
}

// NewNumber adds a number.
func (t *Tree) NewNumber(n int64) Ref {
	start := len(t.text)
	t.text = strconv.AppendInt(t.text, n, 10)
	return t.add(node{kind: NumberKind, flags: isInText, start: int32(start), end: int32(len(t.text))})
}

// NewBool adds true or false.
func (t *Tree) NewBool(v bool) Ref {
	start := len(t.text)
	t.text = strconv.AppendBool(t.text, v)
	return t.add(node{kind: BoolKind, flags: isInText, start: int32(start), end: int32(len(t.text))})
}

// Empty tells whether encoding/json would leave the value out of a structure under omitempty.
func (t *Tree) Empty(r Ref) bool {
	x := &t.nodes[r]
	switch x.kind {
	case StringKind:
		return x.start == x.end
	case BoolKind:
		return t.text[x.start] == 'f'
	case NumberKind:
		return x.end-x.start == 1 && t.text[x.start] == '0'
	default:
		return false
	}
}

// Field returns the member of obj whose key begins at keyStart of the names, 0 if there is none.
func (t *Tree) Field(obj Ref, keyStart int) Ref {
	for c := t.nodes[obj].child; c != 0; c = t.nodes[c].next {
		if t.nodes[c].keyStart == int32(keyStart) {
			return Ref(c)
		}
	}
	return 0
}

// SetField makes v the member of obj whose key is keyStart to keyEnd of the names, in place of the one that there is. Keys
// of one object have to lie in the names in their order. v 0 takes the member away.
func (t *Tree) SetField(obj Ref, keyStart, keyEnd int, v Ref) {
	before, next := int32(0), t.nodes[obj].child
	for next != 0 && t.nodes[next].keyStart < int32(keyStart) {
		before, next = next, t.nodes[next].next
	}
	if next != 0 && t.nodes[next].keyStart == int32(keyStart) {
		next = t.nodes[next].next
	}
	if v != 0 {
		x := &t.nodes[v]
		x.keyStart, x.keyEnd, x.keyInText, x.next = int32(keyStart), int32(keyEnd), true, next
		next = int32(v)
	}
	if before == 0 {
		t.nodes[obj].child = next
	} else {
		t.nodes[before].next = next
	}
}

// append makes v the last element of the array, or the last entry of an object that is filled by AppendEntry.
func (t *Tree) append(to, v Ref) {
	// Of a value that is built, end is the last child: nothing else needs it.
	if last := t.nodes[to].end; last == 0 {
		t.nodes[to].child = int32(v)
	} else {
		t.nodes[last].next = int32(v)
	}
	t.nodes[to].end = int32(v)
}

// AppendElement makes v the last element of an array.
func (t *Tree) AppendElement(array, v Ref) { t.append(array, v) }

// AppendEntry adds v to an object under the key at start to end of the buffer. The object has to be put in order by
// SortEntries before it is read; of equal keys the last that was added wins.
func (t *Tree) AppendEntry(obj Ref, keyStart, keyEnd int, v Ref) {
	x := &t.nodes[v]
	x.keyStart, x.keyEnd, x.keyInText = int32(keyStart), int32(keyEnd), false
	t.append(obj, v)
}

// SortEntries puts the entries that were added by AppendEntry in order, as encoding/json writes a map and reads it again:
// keys that are not UTF-8 get U+FFFD for each wrong byte, and of those that are equal then, the greatest before wins.
func (t *Tree) SortEntries(obj Ref) {
	base := len(t.members)
	valid, sorted := true, true
	for c := t.nodes[obj].child; c != 0; c = t.nodes[c].next {
		if n := len(t.members); n > base && bytes.Compare(t.key(t.members[n-1]), t.key(c)) >= 0 {
			sorted = false
		}
		t.members = append(t.members, c)
		valid = valid && utf8.Valid(t.key(c))
	}
	if members := t.members[base:]; !valid || !sorted {
		t.relink(obj, members)
		if !valid {
			members = members[:0]
			for c := t.nodes[obj].child; c != 0; c = t.nodes[c].next {
				t.validKey(c)
				members = append(members, c)
			}
			t.relink(obj, members)
		}
	}
	t.members = t.members[:base]
}

// relink makes the members the children of obj, in order.
func (t *Tree) relink(obj Ref, members []int32) {
	for _, m := range members {
		t.nodes[m].next = 0
	}
	t.nodes[obj].child = 0
	t.link(int32(obj), members)
	last := t.nodes[obj].child
	for last != 0 && t.nodes[last].next != 0 {
		last = t.nodes[last].next
	}
	t.nodes[obj].end = last
}

// validKey moves a key that is not UTF-8 to text, with U+FFFD in it.
func (t *Tree) validKey(n int32) {
	key := t.key(n)
	if utf8.Valid(key) {
		return
	}
	key = slices.Clone(key)
	start := len(t.text)
	t.text = appendValid(t.text, key)
	x := &t.nodes[n]
	x.keyStart, x.keyEnd, x.keyInText = int32(start), int32(len(t.text)), true
}

// plainFlags are the flags of a text that is not escaped.
func plainFlags(text []byte) uint8 {
	flags := uint8(isPlain)
	for i := 0; ; i++ {
		end := plainEnd(text, i)
		if nonASCII(text[i:end]) {
			flags |= hasNonASCII
		}
		if i = end; i == len(text) {
			return flags
		}
		flags |= hasOddEsc // it will have to be escaped
	}
}

func nonASCII(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b)&highs != 0 {
			return true
		}
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return true
		}
	}
	return false
}

// appendValid appends a text with U+FFFD for each byte that is not UTF-8.
func appendValid(dst, text []byte) []byte {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		dst = utf8.AppendRune(dst, r)
		i += n
	}
	return dst
}
