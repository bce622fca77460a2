package plugin

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	lua "github.com/yuin/gopher-lua"
)

// deepest is how many levels of tables decode and encode follow.
const deepest = 200

// dkjson is the module of that name as far as scripts see it: the functions, options and answers of dkjson 2.5.
type dkjson struct {
	null *lua.LTable
}

func newDKJSON(l *lua.LState) *lua.LTable {
	d := &dkjson{null: l.NewTable()}
	meta := l.NewTable()
	meta.RawSetString("__tojson", l.NewFunction(func(l *lua.LState) int {
		l.Push(lua.LString("null"))
		return 1
	}))
	l.SetMetatable(d.null, meta)
	module := l.NewTable()
	module.RawSetString("version", lua.LString("dkjson 2.5"))
	module.RawSetString("null", d.null)
	l.SetFuncs(module, map[string]lua.LGFunction{
		"decode":          d.decode,
		"encode":          d.encode,
		"quotestring":     d.quoteString,
		"addnewline":      d.addNewline,
		"encodeexception": d.encodeException,
	})
	module.RawSetString("use_lpeg", l.NewFunction(func(l *lua.LState) int {
		l.Push(module)
		return 1
	}))
	return module
}

// decode is decode(text [, position [, null [, objectmeta [, arraymeta]]]]): the value and the position behind it,
// or nil, a position and a message.
func (d *dkjson) decode(l *lua.LState) int {
	r := &jsonReader{l: l, text: l.CheckString(1), null: lua.LNil}
	position := l.OptInt(2, 1)
	if l.GetTop() >= 3 {
		r.null = l.Get(3)
	}
	if l.GetTop() >= 4 {
		r.objectMeta, r.arrayMeta = l.Get(4), l.Get(5)
	} else {
		r.objectMeta, r.arrayMeta = typeTable(l, "object"), typeTable(l, "array")
	}
	r.at = max(position-1, 0)
	value, message := r.value(0)
	if message != "" {
		l.Push(lua.LNil)
		l.Push(lua.LNumber(r.at + 1))
		l.Push(lua.LString(message))
		return 3
	}
	l.Push(value)
	l.Push(lua.LNumber(r.at + 1))
	return 2
}

func typeTable(l *lua.LState, typ string) *lua.LTable {
	t := l.NewTable()
	t.RawSetString("__jsontype", lua.LString(typ))
	return t
}

// jsonReader is as lenient as dkjson: it passes over comments and does not insist on commas.
type jsonReader struct {
	l                     *lua.LState
	text                  string
	at                    int // 0-based
	null                  lua.LValue
	objectMeta, arrayMeta lua.LValue
}

func (r *jsonReader) location(at int) string {
	before := r.text[:min(at, len(r.text))]
	line := 1 + strings.Count(before, "\n")
	column := at - strings.LastIndexByte(before, '\n')
	return "line " + strconv.Itoa(line) + ", column " + strconv.Itoa(column)
}

func (r *jsonReader) unterminated(what string, from int) string {
	r.at = len(r.text)
	return "unterminated " + what + " at " + r.location(from)
}

// white passes over white space and comments; false at the end of the text.
func (r *jsonReader) white() bool {
	for r.at < len(r.text) {
		rest := r.text[r.at:]
		switch {
		case strings.HasPrefix(rest, "\xef\xbb\xbf"):
			r.at += 3
		case strings.HasPrefix(rest, "//"):
			end := strings.IndexAny(rest, "\r\n")
			if end < 0 {
				r.at = len(r.text)
				return false
			}
			r.at += end
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				r.at = len(r.text)
				return false
			}
			r.at += end + 4
		case strings.ContainsRune(" \t\r\n\v\f", rune(rest[0])):
			r.at++
		default:
			return true
		}
	}
	return false
}

func (r *jsonReader) value(depth int) (lua.LValue, string) {
	if !r.white() {
		return lua.LNil, "no valid JSON value (reached the end)"
	}
	if depth > deepest {
		return lua.LNil, "more than " + strconv.Itoa(deepest) + " levels at " + r.location(r.at)
	}
	switch r.text[r.at] {
	case '{':
		return r.table("object", '}', r.objectMeta, depth)
	case '[':
		return r.table("array", ']', r.arrayMeta, depth)
	case '"':
		return r.string()
	}
	if n := numberLength(r.text[r.at:]); n > 0 {
		if number, err := strconv.ParseFloat(r.text[r.at:r.at+n], 64); err == nil || errors.Is(err, strconv.ErrRange) {
			r.at += n
			return lua.LNumber(number), ""
		}
	}
	n := 0
	for rest := r.text[r.at:]; n < len(rest) && isWord(rest[n], n); {
		n++
	}
	switch r.text[r.at : r.at+n] {
	case "true":
		r.at += n
		return lua.LTrue, ""
	case "false":
		r.at += n
		return lua.LFalse, ""
	case "null":
		r.at += n
		return r.null, ""
	}
	return lua.LNil, "no valid JSON value at " + r.location(r.at)
}

func isWord(c byte, place int) bool {
	letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	return letter || place > 0 && (c >= '0' && c <= '9' || c == '_')
}

// numberLength is the length of what may be a number: an optional minus, digits and points, an exponent.
func numberLength(s string) int {
	i := 0
	if i < len(s) && s[i] == '-' {
		i++
	}
	start := i
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '.') {
		i++
	}
	if i == start {
		return 0
	}
	end := i
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		digits := i
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		if i > digits {
			end = i
		}
	}
	return end
}

func (r *jsonReader) table(what string, closing byte, meta lua.LValue, depth int) (lua.LValue, string) {
	start := r.at
	t := r.l.NewTable()
	if m, ok := meta.(*lua.LTable); ok {
		r.l.SetMetatable(t, m)
	}
	n := 0
	r.at++
	for {
		if !r.white() {
			return lua.LNil, r.unterminated(what, start)
		}
		if r.text[r.at] == closing {
			r.at++
			return t, ""
		}
		first, message := r.value(depth + 1)
		if message != "" {
			return lua.LNil, message
		}
		if !r.white() {
			return lua.LNil, r.unterminated(what, start)
		}
		if r.text[r.at] == ':' {
			if message := r.field(t, first, depth); message != "" {
				return lua.LNil, message
			}
			if !r.white() {
				return lua.LNil, r.unterminated(what, start)
			}
		} else {
			n++
			if first != lua.LNil {
				t.RawSetInt(n, first)
			}
		}
		if r.text[r.at] == ',' {
			r.at++
		}
	}
}

// field reads the value behind the colon at r.at and puts it into the table under key.
func (r *jsonReader) field(t *lua.LTable, key lua.LValue, depth int) string {
	if key == lua.LNil {
		return "cannot use nil as table index (at " + r.location(r.at) + ")"
	}
	r.at++
	value, message := r.value(depth + 1)
	if message == "" {
		t.RawSet(key, value)
	}
	return message
}

var jsonEscapes = map[byte]string{'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t"}

func (r *jsonReader) string() (lua.LValue, string) {
	start := r.at
	r.at++
	var out strings.Builder
	for r.at < len(r.text) {
		c := r.text[r.at]
		switch {
		case c == '"':
			r.at++
			return lua.LString(out.String()), ""
		case c != '\\':
			end := strings.IndexAny(r.text[r.at:], `"\`)
			if end < 0 {
				return lua.LNil, r.unterminated("string", start)
			}
			out.WriteString(r.text[r.at : r.at+end])
			r.at += end
		case r.at+1 >= len(r.text):
			return lua.LNil, r.unterminated("string", start)
		default:
			r.escape(&out)
		}
	}
	return lua.LNil, r.unterminated("string", start)
}

func (r *jsonReader) escape(out *strings.Builder) {
	c := r.text[r.at+1]
	if c == 'u' {
		if code, ok := hex4(r.text[r.at+2:]); ok {
			r.at += 6
			if code >= 0xD800 && code <= 0xDBFF && strings.HasPrefix(r.text[r.at:], `\u`) {
				if low, ok := hex4(r.text[r.at+2:]); ok && low >= 0xDC00 && low <= 0xDFFF {
					r.at += 6
					code = 0x10000 + (code-0xD800)<<10 + (low - 0xDC00)
				}
			}
			out.WriteString(encodeRune(code))
			return
		}
	}
	if text, ok := jsonEscapes[c]; ok {
		out.WriteString(text)
	} else {
		out.WriteByte(c)
	}
	r.at += 2
}

func hex4(s string) (rune, bool) {
	if len(s) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:4], 16, 16)
	return rune(n), err == nil
}

// encodeRune is UTF-8 that, as dkjson's, also writes lone surrogates.
func encodeRune(c rune) string {
	if c >= 0xD800 && c <= 0xDFFF {
		return string([]byte{0xE0 | byte(c>>12), 0x80 | byte(c>>6)&0x3F, 0x80 | byte(c)&0x3F})
	}
	return string(c)
}

// encode is encode(value [, state]). The state's fields are indent, level, keyorder, buffer, bufferlen, tables and
// exception; with a buffer the text goes there and the answer is true.
func (d *dkjson) encode(l *lua.LState) int {
	w := &jsonWriter{l: l, tables: map[*lua.LTable]bool{}, order: map[string]int{}}
	state, _ := l.Get(2).(*lua.LTable)
	level := 0
	if state != nil {
		w.state = state
		w.indent = lua.LVAsBool(state.RawGetString("indent"))
		if n, ok := state.RawGetString("level").(lua.LNumber); ok {
			level = int(min(max(n, 0), deepest))
		}
		if order, ok := state.RawGetString("keyorder").(*lua.LTable); ok {
			w.readOrder(order)
		}
		w.exception, _ = state.RawGetString("exception").(*lua.LFunction)
		if tables, ok := state.RawGetString("tables").(*lua.LTable); ok {
			tables.ForEach(func(k, v lua.LValue) {
				if t, ok := k.(*lua.LTable); ok && lua.LVAsBool(v) {
					w.tables[t] = true
				}
			})
		}
	}
	if message := w.value(l.Get(1), level, 0); message != "" {
		l.RaiseError("%s", message)
		return 0
	}
	if state != nil {
		if buffer, ok := state.RawGetString("buffer").(*lua.LTable); ok {
			n, ok := state.RawGetString("bufferlen").(lua.LNumber)
			if !ok {
				n = lua.LNumber(buffer.Len())
			}
			buffer.RawSetInt(int(n)+1, lua.LString(w.out.String()))
			state.RawSetString("bufferlen", n+1)
			l.Push(lua.LTrue)
			return 1
		}
	}
	l.Push(lua.LString(w.out.String()))
	return 1
}

type jsonWriter struct {
	l         *lua.LState
	out       strings.Builder
	state     *lua.LTable
	indent    bool
	order     map[string]int
	exception *lua.LFunction
	tables    map[*lua.LTable]bool // those that are being written
}

func (w *jsonWriter) readOrder(order *lua.LTable) {
	for i := 1; i <= order.Len(); i++ {
		if key := keyText(order.RawGetInt(i)); key != "" {
			if _, ok := w.order[key]; !ok {
				w.order[key] = i
			}
		}
	}
}

// keyText is a key as it is written, "" if it cannot be one.
func keyText(v lua.LValue) string {
	switch v := v.(type) {
	case lua.LString:
		return string(v)
	case lua.LNumber:
		return numberText(v)
	}
	return ""
}

func numberText(n lua.LNumber) string {
	f := float64(n)
	if f == math.Trunc(f) && math.Abs(f) < 1e15 {
		return strconv.FormatInt(int64(f), 10)
	}
	return strconv.FormatFloat(f, 'g', 14, 64)
}

func (w *jsonWriter) newline(level int) {
	if w.indent {
		w.out.WriteByte('\n')
		w.out.WriteString(strings.Repeat("  ", level))
	}
}

// except asks the state's exception function, which may answer a text to write instead, or true if it wrote to the
// buffer itself.
func (w *jsonWriter) except(reason, message string, value lua.LValue) string {
	if w.exception == nil {
		return message
	}
	state := lua.LNil
	if w.state != nil {
		state = w.state
	}
	w.l.Push(w.exception)
	w.l.Push(lua.LString(reason))
	w.l.Push(value)
	w.l.Push(state)
	w.l.Push(lua.LString(message))
	w.l.Call(4, 2)
	answer, second := w.l.Get(-2), w.l.Get(-1)
	w.l.Pop(2)
	switch answer := answer.(type) {
	case lua.LString:
		w.out.WriteString(string(answer))
		return ""
	default:
		if lua.LVAsBool(answer) {
			return ""
		}
	}
	if text, ok := second.(lua.LString); ok {
		return string(text)
	}
	return message
}

func (w *jsonWriter) value(v lua.LValue, level, depth int) string {
	switch v := v.(type) {
	case *lua.LNilType:
		w.out.WriteString("null")
	case lua.LBool:
		w.out.WriteString(strconv.FormatBool(bool(v)))
	case lua.LNumber:
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			w.out.WriteString("null")
		} else {
			w.out.WriteString(numberText(v))
		}
	case lua.LString:
		quote(&w.out, string(v))
	case *lua.LTable:
		return w.table(v, level, depth)
	default:
		return w.except("unsupported type", "type '"+v.Type().String()+"' is not supported by JSON.", v)
	}
	return ""
}

func (w *jsonWriter) table(t *lua.LTable, level, depth int) string {
	if w.tables[t] {
		return w.except("reference cycle", "reference cycle", t)
	}
	if depth > deepest {
		return w.except("reference cycle", "more than "+strconv.Itoa(deepest)+" levels", t)
	}
	if w.out.Len() > longestString {
		return "the text is longer than " + strconv.Itoa(longestString) + " bytes"
	}
	w.tables[t] = true
	defer delete(w.tables, t)
	meta, _ := t.Metatable.(*lua.LTable)
	if meta != nil {
		if f, ok := meta.RawGetString("__tojson").(*lua.LFunction); ok {
			return w.custom(f, t)
		}
	}
	isArray, n, entries := arrayLength(t)
	if entries == 0 && meta != nil && meta.RawGetString("__jsontype") == lua.LString("object") {
		isArray = false
	}
	if isArray {
		w.out.WriteByte('[')
		for i := 1; i <= n; i++ {
			if i > 1 {
				w.out.WriteByte(',')
			}
			if message := w.value(t.RawGetInt(i), level, depth+1); message != "" {
				return message
			}
		}
		w.out.WriteByte(']')
		return ""
	}
	return w.object(t, meta, level, depth)
}

// custom writes what a __tojson function answers.
func (w *jsonWriter) custom(f *lua.LFunction, t *lua.LTable) string {
	w.l.Push(f)
	w.l.Push(t)
	if w.state != nil {
		w.l.Push(w.state)
	} else {
		w.l.Push(lua.LNil)
	}
	w.l.Call(2, 2)
	answer, second := w.l.Get(-2), w.l.Get(-1)
	w.l.Pop(2)
	if text, ok := answer.(lua.LString); ok {
		w.out.WriteString(string(text))
		return ""
	}
	if lua.LVAsBool(answer) {
		return ""
	}
	message := "custom encoder failed"
	if text, ok := second.(lua.LString); ok {
		message = string(text)
	}
	return w.except("custom encoder failed", message, t)
}

// arrayLength tells whether a table is written as an array, and how long it is. One with too many holes is not.
func arrayLength(t *lua.LTable) (isArray bool, length, entries int) {
	isArray = true
	declared := 0
	t.ForEach(func(k, v lua.LValue) {
		if n, ok := v.(lua.LNumber); ok && k == lua.LString("n") {
			declared = int(min(max(n, 0), longestString))
			length = max(length, declared)
			return
		}
		n, ok := k.(lua.LNumber)
		if !ok || n < 1 || float64(n) != math.Floor(float64(n)) || n > 1<<31 {
			isArray = false
			return
		}
		entries++
		length = max(length, int(n))
	})
	if !isArray || length > 10 && length > declared && length > entries*2 {
		return false, 0, entries
	}
	return true, length, entries
}

func (w *jsonWriter) object(t, meta *lua.LTable, level, depth int) string {
	type pair struct {
		key   string
		value lua.LValue
	}
	var pairs []pair
	bad := ""
	t.ForEach(func(k, v lua.LValue) {
		if typ := k.Type(); typ != lua.LTString && typ != lua.LTNumber {
			bad = "type '" + typ.String() + "' is not supported as a key by JSON."
			return
		}
		pairs = append(pairs, pair{keyText(k), v})
	})
	if bad != "" {
		return bad
	}
	order := w.order
	if meta != nil {
		if own, ok := meta.RawGetString("__jsonorder").(*lua.LTable); ok {
			x := &jsonWriter{order: map[string]int{}}
			x.readOrder(own)
			order = x.order
		}
	}
	place := func(key string) int {
		if n, ok := order[key]; ok {
			return n
		}
		return math.MaxInt
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		if x, y := place(a.key), place(b.key); x != y {
			if x < y {
				return -1
			}
			return 1
		}
		return strings.Compare(a.key, b.key)
	})
	w.out.WriteByte('{')
	for i, p := range pairs {
		if i > 0 {
			w.out.WriteByte(',')
		}
		w.newline(level + 1)
		quote(&w.out, p.key)
		w.out.WriteByte(':')
		if message := w.value(p.value, level+1, depth+1); message != "" {
			return message
		}
	}
	if len(pairs) > 0 {
		w.newline(level)
	}
	w.out.WriteByte('}')
	return ""
}

// quote writes a JSON string with dkjson's escapes: besides the necessary ones, characters that JavaScript or
// terminals stumble over.
func quote(out *strings.Builder, s string) {
	out.WriteByte('"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			switch c {
			case '"', '\\':
				out.WriteByte('\\')
				out.WriteByte(c)
			case '\b':
				out.WriteString(`\b`)
			case '\f':
				out.WriteString(`\f`)
			case '\n':
				out.WriteString(`\n`)
			case '\r':
				out.WriteString(`\r`)
			case '\t':
				out.WriteString(`\t`)
			default:
				if c < 0x20 || c == 0x7F {
					out.WriteString(escaped(rune(c)))
				} else {
					out.WriteByte(c)
				}
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if size > 1 && troublesome(r) {
			out.WriteString(escaped(r))
		} else {
			out.WriteString(s[i : i+size])
		}
		i += size
	}
	out.WriteByte('"')
}

func escaped(r rune) string {
	text := strconv.FormatInt(int64(r), 16)
	return `\u` + strings.Repeat("0", 4-len(text)) + text
}

func troublesome(r rune) bool {
	switch {
	case r == 0xAD, r >= 0x600 && r <= 0x604, r == 0x70F, r == 0x17B4, r == 0x17B5, r >= 0x200C && r <= 0x200F,
		r >= 0x2028 && r <= 0x202F, r >= 0x2060 && r <= 0x206F, r == 0xFEFF, r >= 0xFFF0 && r <= 0xFFFF:
		return true
	}
	return false
}

func (d *dkjson) quoteString(l *lua.LState) int {
	var out strings.Builder
	quote(&out, l.CheckString(1))
	l.Push(lua.LString(out.String()))
	return 1
}

// addNewline adds a line break and the indentation of state.level to state.buffer.
func (d *dkjson) addNewline(l *lua.LState) int {
	state := l.CheckTable(1)
	if !lua.LVAsBool(state.RawGetString("indent")) {
		return 0
	}
	buffer, ok := state.RawGetString("buffer").(*lua.LTable)
	if !ok {
		return 0
	}
	n, ok := state.RawGetString("bufferlen").(lua.LNumber)
	if !ok {
		n = lua.LNumber(buffer.Len())
	}
	level, _ := state.RawGetString("level").(lua.LNumber)
	buffer.RawSetInt(int(n)+1, lua.LString("\n"+strings.Repeat("  ", int(min(max(level, 0), deepest)))))
	state.RawSetString("bufferlen", n+1)
	return 0
}

// encodeException is the exception function that writes the message in place of the value.
func (d *dkjson) encodeException(l *lua.LState) int {
	var out strings.Builder
	quote(&out, "<"+l.OptString(4, "")+">")
	l.Push(lua.LString(out.String()))
	return 1
}
