package inventory

import (
	"encoding/json"
	"strconv"
)

// scanner walks over one valid JSON text without building a tree, because a Pod's tree costs a hundred times what is
// kept of it. The caller checks the text with json.Valid first; then every method ends behind the value it was
// called at. A value of another type than the one asked for is skipped and read as the zero value, as the server does.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		default:
			return
		}
	}
}

// next returns the first byte of the next value: one of { [ " t f n, a digit or a minus; 0 at the end.
func (s *scanner) next() byte {
	s.space()
	if s.i >= len(s.b) {
		return 0
	}
	return s.b[s.i]
}

// rawString returns the bytes between the quotes and whether they hold an escape.
func (s *scanner) rawString() (raw []byte, escaped bool) {
	s.i++
	start := s.i
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case '"':
			raw = s.b[start:s.i]
			s.i++
			return raw, escaped
		case '\\':
			escaped = true
			s.i += 2
		default:
			if s.b[s.i] >= 0x80 {
				escaped = true // possibly invalid UTF-8, which encoding/json replaces
			}
			s.i++
		}
	}
	s.i = len(s.b)
	return s.b[min(start, len(s.b)):], escaped
}

func unescape(raw []byte) string {
	quoted := make([]byte, 0, len(raw)+2)
	quoted = append(quoted, '"')
	quoted = append(quoted, raw...)
	quoted = append(quoted, '"')
	var out string
	if err := json.Unmarshal(quoted, &out); err != nil {
		return string(raw)
	}
	return out
}

// str reads a string; ok tells that the value was one.
func (s *scanner) str() (text string, ok bool) {
	if s.next() != '"' {
		s.skip()
		return "", false
	}
	raw, escaped := s.rawString()
	if escaped {
		return unescape(raw), true
	}
	return string(raw), true
}

// text reads a string, "" if the value is something else.
func (s *scanner) text() string {
	t, _ := s.str()
	return t
}

// integer reads an integral number, 0 if the value is something else.
func (s *scanner) integer() int {
	c := s.next()
	start := s.i
	s.skip()
	if c != '-' && (c < '0' || c > '9') {
		return 0
	}
	n, err := strconv.Atoi(string(s.b[start:s.i]))
	if err != nil {
		return 0
	}
	return n
}

// boolean reads true; everything else is false.
func (s *scanner) boolean() bool {
	c := s.next()
	s.skip()
	return c == 't'
}

// object calls f at every value of an object; f must read or skip exactly that value. The result is false if the value
// is not an object.
func (s *scanner) object(f func(key []byte)) bool {
	if s.next() != '{' {
		s.skip()
		return false
	}
	s.i++
	for {
		switch s.next() {
		case '"':
			raw, escaped := s.rawString()
			if escaped {
				raw = []byte(unescape(raw))
			}
			s.space()
			s.i = min(s.i+1, len(s.b)) // the colon
			f(raw)
		case ',':
			s.i++
		case '}':
			s.i++
			return true
		default:
			return true
		}
	}
}

// array calls f at every element of an array; f must read or skip exactly that element.
func (s *scanner) array(f func(index int)) bool {
	if s.next() != '[' {
		s.skip()
		return false
	}
	s.i++
	for n := 0; ; {
		switch s.next() {
		case ']':
			s.i++
			return true
		case ',':
			s.i++
		case 0:
			return true
		default:
			f(n)
			n++
		}
	}
}

// skip passes over one value of any type.
func (s *scanner) skip() {
	depth := 0
	for {
		switch c := s.next(); c {
		case 0:
			return
		case '{', '[':
			depth++
			s.i++
		case '}', ']':
			depth--
			s.i++
		case '"':
			s.rawString()
		case ',', ':':
			s.i++
		default:
			s.literal()
		}
		if depth <= 0 {
			return
		}
	}
}

// literal passes over a number, true, false or null.
func (s *scanner) literal() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ',', ']', '}', ' ', '\t', '\r', '\n', ':':
			return
		default:
			s.i++
		}
	}
}

// raw passes over one value and returns its text, which is not copied.
func (s *scanner) raw() []byte {
	s.space()
	start := s.i
	s.skip()
	return s.b[start:min(s.i, len(s.b))]
}
