// Package jsonscan reads JSON (RFC 8259) straight from a byte buffer, in one pass, without building Go values.
//
// It holds SkipValue, which finds the end of a value in a buffer that may end anywhere, and Tree, an index of the few
// values of a document that somebody wants, which other scanners can build too (Build). It accepts exactly the documents that
// encoding/json accepts, and reads them as encoding/json does into map[string]any with UseNumber: of equal keys the last
// wins, invalid UTF-8 and lone surrogates become U+FFFD, numbers stay as they are written, nesting ends at MaxDepth.
//
// It relies on nothing but the buffer staying unchanged while results are in use, and promises never to panic, to take time
// in proportion to the document (but for sorting keys), and to tell a buffer that ends too early (io.ErrUnexpectedEOF) from
// one that is not JSON (*SyntaxError).
package jsonscan

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
)

// MaxDepth is the deepest nesting of arrays and objects that is accepted, the same as that of encoding/json.
const MaxDepth = 10000

// SyntaxError says where and why a buffer is not JSON. It never quotes the buffer.
type SyntaxError struct {
	Offset int // of the offending byte in the buffer
	Reason string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%s at byte %d", e.Reason, e.Offset) }

func syntaxError(i int, reason string) error { return &SyntaxError{Offset: i, Reason: reason} }

// skipSpace returns the offset of the first byte at or after i that is not white space; len(buf) if there is none.
func skipSpace(buf []byte, i int) int {
	for i < len(buf) && (buf[i] == ' ' || buf[i] == '\n' || buf[i] == '\t' || buf[i] == '\r') {
		i++
	}
	return i
}

// SkipValue checks the value that begins at or after i (white space may precede it) and returns the offset behind its
// last byte. The error is io.ErrUnexpectedEOF if the buffer ends before the value does; a number that touches the end of
// the buffer counts as unfinished, because more digits may follow.
func SkipValue(buf []byte, i int) (end int, err error) {
	return skip(buf, skipSpace(buf, i), 0)
}

// skip returns the offset behind the value at i, which lies within depth arrays and objects. Most of what an apiserver sends
// is skipped, so this is one loop that remembers what is open, and not a function that calls itself for each value. Split into
// steps that pass on what is open, projecting a Pod takes 8 % longer.
func skip(buf []byte, i, depth int) (int, error) { //nolint:gocognit // the innermost loop of the program, see above
	const most = 64
	var (
		open   int    // arrays and objects that have begun since
		within uint64 // what they are, the innermost in the lowest bit: 1 for an object
		err    error
	)
	for {
		if within&1 != 0 {
			if i, err = skipKey(buf, i); err != nil {
				return i, err
			}
		}
		if i >= len(buf) {
			return i, io.ErrUnexpectedEOF
		}
		switch c := buf[i]; {
		case c == '"':
			i = plainEnd(buf, i+1)
			if i < len(buf) && buf[i] == '"' {
				i++
			} else if i, _, err = scanString(buf, i); err != nil {
				return i, err
			}
		case (c == '{' || c == '[') && open == most:
			if i, err = skip(buf, i, depth+open); err != nil {
				return i, err
			}
		case c == '{' || c == '[':
			if depth+open >= MaxDepth {
				return i, syntaxError(i, "nested too deeply")
			}
			i = skipSpace(buf, i+1)
			if i < len(buf) && buf[i] == c+closing {
				i++
				break
			}
			open++
			within <<= 1
			if c == '{' {
				within |= 1
			}
			continue
		default:
			if i, err = skipScalar(buf, i); err != nil {
				return i, err
			}
		}
		// The value has ended, and perhaps what it lies in.
		for more := false; !more; {
			if open == 0 {
				return i, nil
			}
			end := byte(']')
			if within&1 != 0 {
				end = '}'
			}
			if i < len(buf) && buf[i] == end {
				i, open, within = i+1, open-1, within>>1
				continue
			}
			if i, more, err = scanMore(buf, i, end); err != nil {
				return i, err
			}
			if !more {
				open, within = open-1, within>>1
			}
		}
	}
}

// closing is how far a closing bracket is from its opening one, in ASCII.
const closing = '}' - '{'

// skipKey reads the key of a member and the colon, and returns where the value begins.
func skipKey(buf []byte, i int) (int, error) {
	if i >= len(buf) {
		return i, io.ErrUnexpectedEOF
	}
	if buf[i] != '"' {
		return i, syntaxError(i, "invalid beginning of an object key")
	}
	i = plainEnd(buf, i+1)
	if i+2 < len(buf) && buf[i] == '"' && buf[i+1] == ':' && buf[i+2] > ' ' {
		return i + 2, nil // the way apiservers write
	}
	i, _, err := scanString(buf, i)
	if err != nil {
		return i, err
	}
	return scanColon(buf, i)
}

func skipScalar(buf []byte, i int) (int, error) {
	switch c := buf[i]; {
	case c == 't':
		return scanLiteral(buf, i, "true")
	case c == 'f':
		return scanLiteral(buf, i, "false")
	case c == 'n':
		return scanLiteral(buf, i, "null")
	case c == '-' || c >= '0' && c <= '9':
		return scanNumber(buf, i)
	default:
		return i, syntaxError(i, "invalid beginning of a value")
	}
}

// plainEnd returns the offset of the first quote, backslash or control character at or after i; len(buf) if there is none.
func plainEnd(buf []byte, i int) int {
	for i+8 <= len(buf) {
		if m := special(binary.LittleEndian.Uint64(buf[i:])); m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
		i += 8
	}
	for i < len(buf) && buf[i] != '"' && buf[i] != '\\' && buf[i] >= 0x20 {
		i++
	}
	return i
}

// scanColon reads the colon after a key and returns the beginning of the value.
func scanColon(buf []byte, i int) (int, error) {
	if i+1 < len(buf) && buf[i] == ':' && buf[i+1] > ' ' {
		return i + 1, nil // the way apiservers write
	}
	i = skipSpace(buf, i)
	if i >= len(buf) {
		return i, io.ErrUnexpectedEOF
	}
	if buf[i] != ':' {
		return i, syntaxError(i, "missing colon after object key")
	}
	return skipSpace(buf, i+1), nil
}

// scanMore reads what follows a member or element: a comma (more is true, the offset is that of the next one) or the
// closing bracket (the offset is behind it).
func scanMore(buf []byte, i int, closing byte) (next int, more bool, err error) {
	if i+1 < len(buf) && buf[i] == ',' && buf[i+1] > ' ' {
		return i + 1, true, nil // the way apiservers write
	}
	i = skipSpace(buf, i)
	if i >= len(buf) {
		return i, false, io.ErrUnexpectedEOF
	}
	switch buf[i] {
	case ',':
		return skipSpace(buf, i+1), true, nil
	case closing:
		return i + 1, false, nil
	default:
		return i, false, syntaxError(i, "missing comma or closing bracket")
	}
}

func scanLiteral(buf []byte, i int, lit string) (int, error) {
	for j := range len(lit) {
		if i+j >= len(buf) {
			return i + j, io.ErrUnexpectedEOF
		}
		if buf[i+j] != lit[j] {
			return i + j, syntaxError(i+j, "invalid literal")
		}
	}
	return i + len(lit), nil
}

func scanNumber(buf []byte, i int) (int, error) {
	if buf[i] == '-' {
		i++
	}
	if i < len(buf) && buf[i] == '0' {
		i++
	} else {
		var err error
		if i, err = scanDigits(buf, i); err != nil {
			return i, err
		}
	}
	if i < len(buf) && buf[i] == '.' {
		var err error
		if i, err = scanDigits(buf, i+1); err != nil {
			return i, err
		}
	}
	if i < len(buf) && (buf[i] == 'e' || buf[i] == 'E') {
		i++
		if i < len(buf) && (buf[i] == '+' || buf[i] == '-') {
			i++
		}
		var err error
		if i, err = scanDigits(buf, i); err != nil {
			return i, err
		}
	}
	if i >= len(buf) {
		return i, io.ErrUnexpectedEOF
	}
	return i, nil
}

func scanDigits(buf []byte, i int) (int, error) {
	start := i
	for i < len(buf) && buf[i] >= '0' && buf[i] <= '9' {
		i++
	}
	switch {
	case i >= len(buf):
		return i, io.ErrUnexpectedEOF
	case i == start:
		return i, syntaxError(i, "invalid number")
	}
	return i, nil
}

// What scanString saw inside a string.
const (
	hasEscape   = 1 << iota // any escape sequence
	hasOddEsc               // one that is not written as encoding/json would write it
	hasNonASCII             // a byte of 0x80 or more

	// Of a value that was not read from JSON (Build).
	isPlain  // a backslash stands for itself
	isInText // in text, not in the buffer
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special marks the lowest byte of w that is a quote, a backslash or a control character (higher marks may be wrong).
// With one bit flipped, a quote is 0x20 and control characters are below, so that both are found at once.
func special(w uint64) uint64 {
	q := w ^ ones*('"'^0x20)
	b := w ^ ones*'\\'
	return ((q-ones*0x21)&^q | (b-ones)&^b) & highs
}

// scanString reads a string whose opening quote is before i and returns the offset behind the closing quote.
func scanString(buf []byte, i int) (end int, flags uint8, err error) { //nolint:gocognit // split in two, projecting takes 3 % longer
	var nonASCII uint64
	for {
		for {
			if i+8 > len(buf) {
				for i < len(buf) && buf[i] != '"' && buf[i] != '\\' && buf[i] >= 0x20 {
					nonASCII |= uint64(buf[i] & 0x80)
					i++
				}
				break
			}
			w := binary.LittleEndian.Uint64(buf[i:])
			if m := special(w); m != 0 {
				n := bits.TrailingZeros64(m) &^ 7
				nonASCII |= w & highs & (1<<n - 1)
				i += n / 8
				break
			}
			nonASCII |= w & highs
			i += 8
		}
		if nonASCII != 0 {
			flags |= hasNonASCII
		}
		if i >= len(buf) {
			return i, flags, io.ErrUnexpectedEOF
		}
		switch buf[i] {
		case '"':
			return i + 1, flags, nil
		case '\\':
			var odd bool
			if i, odd, err = scanEscape(buf, i+1); err != nil {
				return i, flags, err
			}
			flags |= hasEscape
			if odd {
				flags |= hasOddEsc
			}
		default:
			return i, flags, syntaxError(i, "control character in a string")
		}
	}
}

func scanEscape(buf []byte, i int) (end int, odd bool, err error) {
	if i >= len(buf) {
		return i, false, io.ErrUnexpectedEOF
	}
	switch buf[i] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return i + 1, false, nil
	case '/':
		return i + 1, true, nil
	case 'u':
		for j := i + 1; j < i+5; j++ {
			if j >= len(buf) {
				return j, true, io.ErrUnexpectedEOF
			}
			if hexValue(buf[j]) < 0 {
				return j, true, syntaxError(j, "invalid \\u escape")
			}
		}
		return i + 5, true, nil
	default:
		return i, false, syntaxError(i, "invalid escape")
	}
}

func hexValue(c byte) rune {
	switch {
	case '0' <= c && c <= '9':
		return rune(c - '0')
	case 'a' <= c && c <= 'f':
		return rune(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return rune(c-'A') + 10
	default:
		return -1
	}
}
