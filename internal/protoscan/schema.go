// Package protoscan reads Kubernetes objects in protobuf straight from a byte buffer, in one pass, without making Go values
// of them.
//
// It holds Schema, which says where in the messages of a Go type the wanted members of its JSON lie, and Scanner, which puts
// them into a jsonscan.Tree: what is read of an object is then the same as from the JSON that an apiserver makes of that type
// (names, order, omitempty, maps, times and quantities). Everything else is skipped by its length and not looked at.
//
// It relies on the `protobuf` and `json` tags of the type, and on the buffer staying unchanged while the tree is in use. It
// promises never to panic, to take time in proportion to the message (but for sorting keys), and to refuse what it cannot
// read in full: a wanted member that the type does not have, or a structure of which everything is wanted, since an apiserver
// may know members of it that the type does not have yet.
package protoscan

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
)

// ErrNotReadable says that what is wanted of a type cannot be read from protobuf as an apiserver would write it as JSON.
var ErrNotReadable = errors.New("not readable from protobuf")

// Schema is what is wanted of a type. It is never changed and may be shared.
type Schema struct {
	root  *message
	names []byte // keys of members; those of one message in their order
}

// message is what is wanted of one type of message.
type message struct {
	fields   []field // by key
	byNumber []uint8 // index in fields plus 1, 0 for a field that is not wanted
}

type kind uint8

const (
	textKind     kind = iota
	boolKind          // a varint
	int32Kind         // a varint, cut to 32 bits
	int64Kind         // a varint
	timeKind          // metav1.Time
	quantityKind      // resource.Quantity
	messageKind
)

type shape uint8

const (
	single   shape = iota // absent and zero are the same
	optional              // a pointer
	list
	dictionary // a map with strings as keys
)

// field is one wanted member.
type field struct {
	number           protowire.Number
	keyStart, keyEnd int // in the names
	kind             kind
	shape            shape
	omitEmpty        bool
	message          *message // of messageKind
	keys             []string // the wanted keys of a dictionary, nil for all
}

// Compile finds in the structure typ what the filter wants of it. The error wraps ErrNotReadable.
func Compile(typ reflect.Type, filter *jsonscan.Filter) (*Schema, error) {
	s := &Schema{}
	root, err := s.message(typ, filter)
	if err != nil {
		return nil, err
	}
	s.root = root
	return s, nil
}

func (s *Schema) message(typ reflect.Type, filter *jsonscan.Filter) (*message, error) {
	if filter == nil {
		return nil, fmt.Errorf("%w: all of %s is wanted", ErrNotReadable, typ)
	}
	type wanted struct {
		name string
		sub  *jsonscan.Filter
	}
	var all []wanted
	filter.Each(func(name string, sub *jsonscan.Filter) { all = append(all, wanted{name, sub}) })
	slices.SortFunc(all, func(a, b wanted) int { return cmp.Compare(a.name, b.name) })
	m := &message{}
	for _, w := range all {
		start := len(s.names)
		s.names = append(s.names, w.name...)
		m.fields = append(m.fields, field{keyStart: start, keyEnd: len(s.names)})
	}
	for i, w := range all {
		if err := s.field(&m.fields[i], typ, w.name, w.sub); err != nil {
			return nil, err
		}
		number := int(m.fields[i].number)
		for len(m.byNumber) <= number {
			m.byNumber = append(m.byNumber, 0)
		}
		m.byNumber[number] = uint8(i + 1)
	}
	return m, nil
}

// find returns what is known of a field, nil if it is not wanted.
func (m *message) find(number protowire.Number) *field {
	if int(number) >= len(m.byNumber) || m.byNumber[number] == 0 {
		return nil
	}
	return &m.fields[m.byNumber[number]-1]
}

// mostFields is what the index of a message holds: the numbers of Kubernetes' fields are small.
const mostFields = 200

// field fills in f for the member called name of typ.
func (s *Schema) field(f *field, typ reflect.Type, name string, sub *jsonscan.Filter) error {
	sf, options, ok := memberOf(typ, name)
	if !ok {
		return fmt.Errorf("%w: %s has no member %s", ErrNotReadable, typ, name)
	}
	encoding, rest, _ := strings.Cut(sf.Tag.Get("protobuf"), ",")
	text, rest, _ := strings.Cut(rest, ",")
	number, err := strconv.Atoi(text)
	if err != nil || number < 1 || number > mostFields {
		return fmt.Errorf("%w: %s.%s has the protobuf tag %q", ErrNotReadable, typ, name, sf.Tag.Get("protobuf"))
	}
	f.number = protowire.Number(number)
	f.omitEmpty = slices.Contains(options, "omitempty")
	elem := sf.Type
	switch {
	case strings.HasPrefix(rest, "rep") && elem.Kind() == reflect.Map && elem.Key().Kind() == reflect.String:
		f.shape, elem = dictionary, elem.Elem()
		if sub != nil {
			sub.Each(func(key string, below *jsonscan.Filter) {
				f.keys = append(f.keys, key)
				if below != nil {
					err = fmt.Errorf("%w: a part of %s in %s.%s", ErrNotReadable, key, typ, name)
				}
			})
			sub = nil
		}
	case strings.HasPrefix(rest, "rep") && elem.Kind() == reflect.Slice:
		f.shape, elem = list, elem.Elem()
	case elem.Kind() == reflect.Pointer:
		f.shape, elem = optional, elem.Elem()
	}
	if err == nil {
		err = s.kind(f, elem, encoding, sub)
	}
	if err == nil && f.kind == messageKind && (slices.Contains(options, "omitzero") || f.shape == dictionary) {
		err = fmt.Errorf("%w: the structure %s.%s", ErrNotReadable, typ, name)
	}
	return err
}

// kind fills in what one value of the field is.
func (s *Schema) kind(f *field, typ reflect.Type, encoding string, sub *jsonscan.Filter) (err error) {
	made := reflect.PointerTo(typ).Implements(reflect.TypeFor[interface{ MarshalJSON() ([]byte, error) }]())
	switch {
	case typ == reflect.TypeFor[metav1.Time]() && sub == nil && f.shape == single:
		f.kind = timeKind
	case typ == reflect.TypeFor[resource.Quantity]() && sub == nil && f.shape == dictionary:
		f.kind = quantityKind
	case made:
		return fmt.Errorf("%w: %s, which is written as JSON in its own way", ErrNotReadable, typ)
	case typ.Kind() == reflect.String && encoding == "bytes" && sub == nil:
		f.kind = textKind
	case typ.Kind() == reflect.Bool && encoding == "varint" && sub == nil && f.shape != dictionary:
		f.kind = boolKind
	case typ.Kind() == reflect.Int32 && encoding == "varint" && sub == nil && f.shape != dictionary:
		f.kind = int32Kind
	case typ.Kind() == reflect.Int64 && encoding == "varint" && sub == nil && f.shape != dictionary:
		f.kind = int64Kind
	case typ.Kind() == reflect.Struct && encoding == "bytes":
		f.kind = messageKind
		f.message, err = s.message(typ, sub)
	default:
		return fmt.Errorf("%w: a value of type %s, encoded as %q", ErrNotReadable, typ, encoding)
	}
	return err
}

// memberOf returns the field of a structure that becomes the member called name of its JSON, and the options of its tag.
// Members of embedded structures are not looked for: in protobuf they lie in a message of their own.
func memberOf(typ reflect.Type, name string) (sf reflect.StructField, options []string, ok bool) {
	for sf = range typ.Fields() {
		parts := strings.Split(sf.Tag.Get("json"), ",")
		if parts[0] == name {
			return sf, parts[1:], true
		}
	}
	return sf, nil, false
}
