package protoscan

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
)

// Error says where and why a buffer is not a message of the type. It never quotes the buffer.
type Error struct {
	Offset int // of the field that is broken
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("%s at byte %d", e.Reason, e.Offset) }

func broken(i int, reason string) error { return &Error{Offset: i, Reason: reason} }

// Scanner reads messages. Its zero value is ready to be used, and reused. It is not safe for concurrent use.
type Scanner struct {
	buf  []byte
	tree *jsonscan.Tree
	maps []jsonscan.Ref
}

// Scan reads the one message that msg is, and makes tree hold what the schema wants of it. As protobuf wants it, of a field
// that is there twice the last counts, and messages are merged. The error is an *Error; the tree is empty then. The tree
// refers to msg.
func (s *Scanner) Scan(schema *Schema, msg []byte, tree *jsonscan.Tree) error {
	root, err := tree.Build(msg, schema.names)
	if err != nil {
		return broken(0, err.Error())
	}
	s.buf, s.tree, s.maps = msg, tree, s.maps[:0]
	err = s.message(schema.root, root, 0, len(msg))
	if err == nil {
		for _, m := range s.maps {
			tree.SortEntries(m)
		}
	} else {
		tree.Clear()
	}
	s.buf, s.tree = nil, nil
	return err
}

// message reads the fields from i to end into obj.
func (s *Scanner) message(m *message, obj jsonscan.Ref, i, end int) error {
	for i < end {
		number, typ, n := protowire.ConsumeTag(s.buf[i:end])
		if n < 0 {
			return broken(i, "broken tag")
		}
		f := m.find(number)
		at := i
		i += n
		if f == nil {
			if n = protowire.ConsumeFieldValue(number, typ, s.buf[i:end]); n < 0 {
				return broken(at, "broken field")
			}
			i += n
			continue
		}
		var err error
		switch typ {
		case protowire.BytesType:
			length, n := protowire.ConsumeVarint(s.buf[i:end])
			if n < 0 || length > uint64(end-i-n) {
				return broken(at, "field longer than its message")
			}
			i += n
			err = s.bytes(f, obj, i, i+int(length))
			i += int(length)
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(s.buf[i:end])
			if n < 0 {
				return broken(at, "broken number")
			}
			i += n
			err = s.varint(f, obj, v, at)
		default:
			err = broken(at, "field of a wrong type")
		}
		if err != nil {
			return err
		}
	}
	s.complete(m, obj)
	return nil
}

// complete does for obj what encoding/json does: it leaves empty members out that are omitted if empty, and adds those that
// never are.
func (s *Scanner) complete(m *message, obj jsonscan.Ref) {
	for i := range m.fields {
		f := &m.fields[i]
		if f.shape != single {
			continue // what is there is kept, and an empty list or map that is null in JSON counts as absent
		}
		v := s.tree.Field(obj, f.keyStart)
		switch {
		case v != 0 && f.omitEmpty && s.tree.Empty(v):
			s.tree.SetField(obj, f.keyStart, f.keyEnd, 0)
		case v == 0 && f.kind == messageKind:
			v = s.tree.NewObject()
			s.tree.SetField(obj, f.keyStart, f.keyEnd, v)
			s.complete(f.message, v)
		case v == 0 && !f.omitEmpty && f.kind != timeKind: // a time that is zero is null
			s.tree.SetField(obj, f.keyStart, f.keyEnd, s.zero(f.kind))
		}
	}
}

func (s *Scanner) zero(k kind) jsonscan.Ref {
	switch k {
	case boolKind:
		return s.tree.NewBool(false)
	case int32Kind, int64Kind:
		return s.tree.NewNumber(0)
	default:
		return s.tree.NewText(0, 0)
	}
}

// varint takes a field in, or an element of one, that is a number on the wire.
func (s *Scanner) varint(f *field, obj jsonscan.Ref, v uint64, at int) error {
	var made jsonscan.Ref
	switch f.kind {
	case boolKind:
		made = s.tree.NewBool(v != 0)
	case int32Kind:
		made = s.tree.NewNumber(int64(int32(v)))
	case int64Kind:
		made = s.tree.NewNumber(int64(v))
	default:
		return broken(at, "number in a field of another type")
	}
	s.put(f, obj, made)
	return nil
}

// put makes v the member, or the last element of the list that is the member.
func (s *Scanner) put(f *field, obj, v jsonscan.Ref) {
	if f.shape != list {
		s.tree.SetField(obj, f.keyStart, f.keyEnd, v)
		return
	}
	array := s.tree.Field(obj, f.keyStart)
	if array == 0 {
		array = s.tree.NewArray()
		s.tree.SetField(obj, f.keyStart, f.keyEnd, array)
	}
	s.tree.AppendElement(array, v)
}

// bytes takes a field in that lies at start to end.
func (s *Scanner) bytes(f *field, obj jsonscan.Ref, start, end int) error {
	if f.shape == dictionary {
		return s.entry(f, obj, start, end)
	}
	switch f.kind {
	case textKind:
		s.put(f, obj, s.tree.NewText(start, end))
		return nil
	case messageKind:
		var v jsonscan.Ref
		if f.shape != list {
			v = s.tree.Field(obj, f.keyStart)
		}
		if v == 0 {
			v = s.tree.NewObject()
			s.put(f, obj, v)
		}
		return s.message(f.message, v, start, end)
	case timeKind:
		return s.time(f, obj, start, end)
	default:
		return s.packed(f, obj, start, end)
	}
}

// packed takes elements in that lie one behind the other.
func (s *Scanner) packed(f *field, obj jsonscan.Ref, start, end int) error {
	if f.shape != list || f.kind == quantityKind {
		return broken(start, "text in a field of another type")
	}
	for i := start; i < end; {
		v, n := protowire.ConsumeVarint(s.buf[i:end])
		if n < 0 {
			return broken(i, "broken number")
		}
		i += n
		if err := s.varint(f, obj, v, i); err != nil {
			return err
		}
	}
	return nil
}

// time takes a metav1.Time in, of which JSON has whole seconds. The last one counts: times are not merged.
func (s *Scanner) time(f *field, obj jsonscan.Ref, start, end int) error {
	var seconds int64
	err := s.small(start, end, func(number protowire.Number, v uint64, _, _ int, isNumber bool) bool {
		const secondsField, nanosField = 1, 2
		if number == secondsField {
			seconds = int64(v)
		}
		return isNumber || number > nanosField
	})
	t := time.Unix(seconds, 0).UTC()
	switch {
	case err != nil:
		return err
	case start == end || t.IsZero():
		s.tree.SetField(obj, f.keyStart, f.keyEnd, 0)
	default:
		s.put(f, obj, s.tree.NewMadeText(func(dst []byte) []byte { return t.AppendFormat(dst, time.RFC3339) }))
	}
	return nil
}

// entry takes one entry of a map in.
func (s *Scanner) entry(f *field, obj jsonscan.Ref, start, end int) error {
	const keyField, valueField = 1, 2
	keyStart, keyEnd, valueStart, valueEnd := start, start, start, start
	err := s.small(start, end, func(number protowire.Number, _ uint64, from, to int, isNumber bool) bool {
		switch number {
		case keyField:
			keyStart, keyEnd = from, to
		case valueField:
			valueStart, valueEnd = from, to
		}
		return !isNumber || number > valueField
	})
	if err != nil {
		return err
	}
	var v jsonscan.Ref
	if f.kind == quantityKind {
		if v, err = s.quantity(valueStart, valueEnd); err != nil {
			return err
		}
	} else {
		v = s.tree.NewText(valueStart, valueEnd)
	}
	m := s.tree.Field(obj, f.keyStart)
	if m == 0 {
		m = s.tree.NewObject()
		s.tree.SetField(obj, f.keyStart, f.keyEnd, m)
		s.maps = append(s.maps, m)
	}
	if f.keys == nil || slices.Contains(f.keys, string(s.buf[keyStart:keyEnd])) {
		s.tree.AppendEntry(m, keyStart, keyEnd, v)
	}
	return nil
}

// quantity reads a resource.Quantity, which has its text in protobuf as in JSON. It is left to the reader to parse it.
func (s *Scanner) quantity(start, end int) (jsonscan.Ref, error) {
	const stringField = 1
	var v jsonscan.Ref
	err := s.small(start, end, func(number protowire.Number, _ uint64, from, to int, isNumber bool) bool {
		if number == stringField {
			v = s.tree.NewText(from, to)
		}
		return !isNumber || number != stringField
	})
	if err == nil && v == 0 {
		v = s.tree.NewMadeText(func(dst []byte) []byte { return append(dst, '0') })
	}
	return v, err
}

// small reads a message of few fields, and calls one for each that is a number or text; it returns false if the field is of
// the wrong type.
func (s *Scanner) small(i, end int, one func(number protowire.Number, v uint64, from, to int, isNumber bool) bool) error {
	for i < end {
		number, typ, n := protowire.ConsumeTag(s.buf[i:end])
		if n < 0 {
			return broken(i, "broken tag")
		}
		length := protowire.ConsumeFieldValue(number, typ, s.buf[i+n:end])
		if length < 0 {
			return broken(i, "broken field")
		}
		value := s.buf[i+n : i+n+length]
		var ok bool
		switch typ {
		case protowire.VarintType:
			v, _ := protowire.ConsumeVarint(value)
			ok = one(number, v, 0, 0, true)
		case protowire.BytesType:
			text, _ := protowire.ConsumeBytes(value)
			ok = one(number, 0, i+n+length-len(text), i+n+length, false)
		default:
			// For a field of neither type there is no use in these messages.
			ok = number > 2
		}
		if !ok {
			return broken(i, "field of a wrong type")
		}
		i += n + length
	}
	return nil
}
