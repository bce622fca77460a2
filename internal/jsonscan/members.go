package jsonscan

import "io"

// Members walks over the members of one object:
//
//	m, err := jsonscan.Object(buf, i)
//	for err == nil && m.Next() {
//		// m.Key() is the decoded key, buf[m.Value():] begins with the value.
//		err = m.Skip() // or m.Done(end) when the value's end is already known
//	}
//	if err == nil { err = m.Err() }
//	// m.End() is the offset behind the object.
type Members struct {
	buf   []byte
	pos   int // where the next key, comma or closing brace is expected; at a value after Next
	key   []byte
	text  []byte
	first bool
	ended bool
	err   error
}

// Object begins to walk over the object at or after i. Errors are those of SkipValue.
func Object(buf []byte, i int) (Members, error) {
	i = SkipSpace(buf, i)
	if i >= len(buf) {
		return Members{}, io.ErrUnexpectedEOF
	}
	if buf[i] != '{' {
		return Members{}, syntaxError(i, "not an object")
	}
	return Members{buf: buf, pos: i + 1, first: true}, nil
}

// Next moves to the next member. It returns false behind the last one and on errors.
func (m *Members) Next() bool {
	if m.ended || m.err != nil {
		return false
	}
	m.pos = SkipSpace(m.buf, m.pos)
	switch {
	case m.pos >= len(m.buf):
		m.err = io.ErrUnexpectedEOF
		return false
	case m.first && m.buf[m.pos] == '}':
		m.pos++
		m.ended = true
		return false
	case !m.first:
		var more bool
		if m.pos, more, m.err = scanMore(m.buf, m.pos, '}'); m.err != nil || !more {
			m.ended = m.err == nil
			return false
		}
	}
	m.first = false
	raw, plain, end, err := String(m.buf, m.pos)
	if err != nil {
		m.err = err
		return false
	}
	m.key = raw
	if !plain {
		m.text = AppendText(m.text[:0], raw)
		m.key = m.text
	}
	m.pos, m.err = scanColon(m.buf, end)
	return m.err == nil
}

// Key is the decoded key of the member; valid until the next call of Next.
func (m *Members) Key() []byte { return m.key }

// Value is the offset at which the member's value begins.
func (m *Members) Value() int { return m.pos }

// Skip moves behind the member's value, which it checks.
func (m *Members) Skip() error {
	m.pos, m.err = SkipValue(m.buf, m.pos)
	return m.err
}

// Done tells that the member's value ends at end.
func (m *Members) Done(end int) { m.pos = end }

// Err returns what stopped the walk, nil if the object was complete.
func (m *Members) Err() error { return m.err }

// End is the offset behind the object, once Next has returned false without error.
func (m *Members) End() int { return m.pos }
