package receiver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// object is what the receiver itself needs to know of an entry's JSON.
type object struct {
	uid, name, namespace []byte
	gitVersion           []byte
	// shape is "object", "List", "array", "null" or "scalar".
	shape string
	// count is the number of elements of an array or a List, items are the first of them, undecoded.
	count int
	items [][]byte
}

// maxDepth bounds the nesting of an object; Kubernetes' own limit is lower.
const maxDepth = 512

var errTooDeep = fmt.Errorf("nested deeper than %d levels", maxDepth)

// inspect checks that data is one JSON value and nothing else (RFC 8259; UTF-8 is checked elsewhere) and reads what
// object needs, with keys compared exactly, as deepflow-server does. It does not build the value, because that takes
// ten times as long. At most so many items are collected. What object holds may be
// part of data.
func inspect(data []byte, collect int) (object, error) {
	s := scanner{data: data, collect: collect}
	var o object
	s.space()
	var err error
	switch s.peek() {
	case '{':
		o.shape = "object"
		err = s.top(&o)
	case '[':
		o.shape = "array"
		o.items, o.count, err = s.elements()
	case 'n':
		o.shape = "null"
		err = s.value(0)
	default:
		o.shape = "scalar"
		err = s.value(0)
	}
	if err == nil {
		s.space()
		if s.pos < len(data) {
			err = errors.New("something follows the value")
		}
	}
	if err != nil {
		return object{}, fmt.Errorf("at byte %d: %w", s.pos, err)
	}
	return o, nil
}

// top reads the outermost object.
func (s *scanner) top(o *object) error {
	var kind []byte
	var items [][]byte
	var count int
	listed := false
	err := s.object(0, func(key []byte) error {
		switch string(key) {
		case "metadata":
			o.uid, o.name, o.namespace = nil, nil, nil
			return s.metadata(o)
		case "gitVersion":
			return s.text(&o.gitVersion, 1)
		case "kind":
			return s.text(&kind, 1)
		case "items":
			listed = s.peek() == '['
			if !listed {
				return s.value(1)
			}
			var err error
			items, count, err = s.elements()
			return err
		default:
			return s.value(1)
		}
	})
	if listed && len(o.uid) == 0 && bytes.HasSuffix(kind, []byte("List")) {
		o.shape, o.items, o.count = "List", items, count
	}
	return err
}

func (s *scanner) metadata(o *object) error {
	if s.peek() != '{' {
		return s.value(1)
	}
	return s.object(1, func(key []byte) error {
		switch string(key) {
		case "uid":
			return s.text(&o.uid, 2)
		case "name":
			return s.text(&o.name, 2)
		case "namespace":
			return s.text(&o.namespace, 2)
		default:
			return s.value(2)
		}
	})
}

// scanner walks over JSON text.
type scanner struct {
	data    []byte
	pos     int
	collect int
}

var errEnd = errors.New("the text ends too early")

func (s *scanner) unexpected() error {
	if s.pos >= len(s.data) {
		return errEnd
	}
	return fmt.Errorf("unexpected %q", s.data[s.pos])
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// peek returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// text reads a value into dst if it is a string, and passes over it otherwise.
func (s *scanner) text(dst *[]byte, depth int) error {
	*dst = nil
	if s.peek() != '"' {
		return s.value(depth)
	}
	raw, err := s.str()
	if err != nil {
		return err
	}
	*dst, err = unquote(raw)
	return err
}

// unquote returns the text of a valid JSON string literal.
func unquote(raw []byte) ([]byte, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1], nil
	}
	var out string
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("string: %w", err)
	}
	return []byte(out), nil
}

// object passes over an object; for each member it calls field, which must pass over the value.
func (s *scanner) object(depth int, field func(key []byte) error) error {
	if depth >= maxDepth {
		return errTooDeep
	}
	s.pos++
	s.space()
	if s.peek() == '}' {
		s.pos++
		return nil
	}
	for {
		if s.peek() != '"' {
			return s.unexpected()
		}
		raw, err := s.str()
		if err != nil {
			return err
		}
		s.space()
		if s.peek() != ':' {
			return s.unexpected()
		}
		s.pos++
		s.space()
		if field == nil {
			err = s.value(depth + 1)
		} else {
			var key []byte
			if key, err = unquote(raw); err == nil {
				err = field(key)
			}
		}
		if err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
			s.space()
		case '}':
			s.pos++
			return nil
		default:
			return s.unexpected()
		}
	}
}

// elements passes over an array and returns its first elements and how many there are.
func (s *scanner) elements() ([][]byte, int, error) {
	var out [][]byte
	n := 0
	err := s.array(0, func() error {
		start := s.pos
		if err := s.value(1); err != nil {
			return err
		}
		if n < s.collect {
			out = append(out, s.data[start:s.pos])
		}
		n++
		return nil
	})
	return out, n, err
}

func (s *scanner) array(depth int, element func() error) error {
	if depth >= maxDepth {
		return errTooDeep
	}
	s.pos++
	s.space()
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for {
		var err error
		if element == nil {
			err = s.value(depth + 1)
		} else {
			err = element()
		}
		if err != nil {
			return err
		}
		s.space()
		switch s.peek() {
		case ',':
			s.pos++
			s.space()
		case ']':
			s.pos++
			return nil
		default:
			return s.unexpected()
		}
	}
}

func (s *scanner) value(depth int) error {
	switch c := s.peek(); {
	case c == '{':
		return s.object(depth, nil)
	case c == '[':
		return s.array(depth, nil)
	case c == '"':
		_, err := s.str()
		return err
	case c == '-' || isDigit(c):
		return s.number()
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return s.literal("null")
	default:
		return s.unexpected()
	}
}

func (s *scanner) literal(word string) error {
	for i := range len(word) {
		if s.peek() != word[i] {
			return s.unexpected()
		}
		s.pos++
	}
	return nil
}

// str passes over a string and returns it with its quotes.
func (s *scanner) str() ([]byte, error) {
	start := s.pos
	s.pos++
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return s.data[start:s.pos], nil
		case c == '\\':
			s.pos++
			if err := s.escape(); err != nil {
				return nil, err
			}
		case c < 0x20:
			return nil, s.unexpected()
		default:
			s.pos++
		}
	}
	return nil, errEnd
}

func (s *scanner) escape() error {
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos++
		return nil
	case 'u':
		s.pos++
		for range 4 {
			c := s.peek()
			if !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
				return s.unexpected()
			}
			s.pos++
		}
		return nil
	default:
		return s.unexpected()
	}
}

func (s *scanner) number() error {
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++
	} else if err := s.digits(); err != nil {
		return err
	}
	if s.peek() == '.' {
		s.pos++
		if err := s.digits(); err != nil {
			return err
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.pos++
		if c = s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		return s.digits()
	}
	return nil
}

func (s *scanner) digits() error {
	if !isDigit(s.peek()) {
		return s.unexpected()
	}
	for isDigit(s.peek()) {
		s.pos++
	}
	return nil
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
