package jsonscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
)

// reference reads the first value of data as encoding/json does, and writes it in the form of Append.
func reference(data []byte) (canonical []byte, end int, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, 0, err
	}
	return encode(v), int(d.InputOffset()), nil
}

func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(withoutNull(v)); err != nil {
		panic(err) // v came out of the decoder
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func withoutNull(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, m := range v {
			if m == nil {
				delete(v, k)
			} else {
				v[k] = withoutNull(m)
			}
		}
	case []any:
		for i, e := range v {
			v[i] = withoutNull(e)
		}
	}
	return v
}

var documents = []string{
	`{}`, `[]`, `""`, `null`, `true`, `false`, ` {"a" : [ 1 , 2.50e+10 ] , "b":{} } x`,
	`{"b":1,"a":2,"b":3}`, `{"a":1,"\u0061":2}`, `{"a":{"x":1},"a":{"y":2}}`, `{"a":1,"a":null}`, `{"z":null,"a":[null]}`,
	`"\u003c\u0026\u003e<&>"`, `"\"\\\/\b\f\n\r\t\u0000\u001f\u007f"`, "\"\u2028\u2029é\U0001F600\"",
	`"\ud83d\ude00 \ud83d \ude00 \ud83dx \ud83d\u0041 \uD83D\uDE00"`, "\"\xff\xfe a\xc3\"", "{\"\xff\":1,\"\xfe\":2}",
	`123456789012345678901234567890.1e-999 `, `-0 `, `-`, `01 `, `1. `, `1e `, `1e+ `, `.5`, `+1`, `tru`, `trux`, `nul`, `fals`,
	`{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `[1,]`, `[,]`, `[1 2]`, `{"a":1 "b":2}`, `{a:1}`, `{"a":1]`, `[1}`,
	`"a`, `"a\`, `"a\u00`, `"a\u00zz"`, `"a\x"`, "\"a\nb\"", "\"\x00\"", ``, `   `, "\x00",
	`{"metadata":{"name":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nb"}}`,
	strings.Repeat("[", 10000) + strings.Repeat("]", 10000),
	strings.Repeat("[", 10001) + strings.Repeat("]", 10001),
	strings.Repeat(`{"a":`, 10001) + `1` + strings.Repeat("}", 10001),
	strings.Repeat(`{"a":[1,`, 70) + `{}` + strings.Repeat("],\"b\":[]}", 70), strings.Repeat("[", 64) + "{}" + strings.Repeat("]", 64),
	strings.Repeat("[", 65) + strings.Repeat("]", 63) + "}]", strings.Repeat(`{"a":`, 64) + `[1}` + strings.Repeat("}", 64),
	`{"k31":1,"k30":1,"k29":1,"k28":1,"k27":1,"k26":1,"k25":1,"k24":1,"k23":1,"k22":1,"k21":1,"k20":1,"k19":1,"k18":1,` +
		`"k17":1,"k16":1,"k15":1,"k14":1,"k13":1,"k12":1,"k11":1,"k10":1,"k11":2,"k12":2,"k30":2,"k31":3,"k31":4,"k10":3}`,
}

func check(t *testing.T, data []byte) {
	t.Helper()
	want, wantEnd, wantErr := reference(data)
	var tree Tree
	end, err := tree.Parse(data, 0, nil)
	skipEnd, skipErr := SkipValue(data, 0)
	nothingEnd, nothingErr := new(Tree).Parse(data, 0, NewFilter())
	if end != skipEnd || nothingEnd != end || !sameError(err, skipErr) || !sameError(err, nothingErr) {
		t.Fatalf("%q: Parse gave %d, %v; SkipValue %d, %v; Parse of nothing %d, %v", data, end, err, skipEnd, skipErr, nothingEnd, nothingErr)
	}
	var syntax *SyntaxError
	switch {
	case wantErr == nil && wantEnd == len(data) && isNumber(data):
		// More digits could follow.
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%q: got error %v, want %v", data, err, io.ErrUnexpectedEOF)
		}
	case wantErr == nil:
		if err != nil || end != wantEnd {
			t.Fatalf("%q: got end %d, error %v, want %d, nil", data, end, err, wantEnd)
		}
		if got := tree.Root().Append(nil); !bytes.Equal(got, want) {
			t.Fatalf("%q: got %q, want %q", data, got, want)
		}
	case errors.Is(wantErr, io.EOF), errors.Is(wantErr, io.ErrUnexpectedEOF):
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%q: got error %v, want %v", data, err, io.ErrUnexpectedEOF)
		}
	default:
		if !errors.As(err, &syntax) || syntax.Offset < 0 || syntax.Offset > len(data) {
			t.Fatalf("%q: got error %v, want a syntax error like %v", data, err, wantErr)
		}
	}
}

func isNumber(data []byte) bool {
	i := skipSpace(data, 0)
	return i < len(data) && (data[i] == '-' || data[i] >= '0' && data[i] <= '9')
}

func sameError(a, b error) bool {
	return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error())
}

func TestAgreesWithEncodingJSON(t *testing.T) {
	for _, doc := range documents {
		for cut := range len(doc) + 1 {
			if cut > 200 && cut < len(doc)-5 {
				continue
			}
			check(t, []byte(doc[:cut]))
		}
		check(t, []byte(doc))
	}
}

func FuzzAgreesWithEncodingJSON(f *testing.F) {
	for _, doc := range documents {
		if len(doc) < 1000 {
			f.Add([]byte(doc))
		}
	}
	f.Fuzz(check)
}

func TestFilter(t *testing.T) {
	f := NewFilter()
	f.Add("metadata", "name")
	f.Add("metadata", "labels")
	f.Add("status", "conditions", "type")
	f.Add("spec")
	f.Add("spec", "replicas")
	f.Add("a", "b")
	f.Add("a")
	f.Add()
	tests := []struct{ name, doc, want string }{
		{"nested", `{"metadata":{"uid":1,"name":"n","labels":{"b":"2","a":"1"}},"x":{"name":1}}`, `{"metadata":{"labels":{"a":"1","b":"2"},"name":"n"}}`},
		{"through arrays", `{"status":{"conditions":[{"type":"A","s":1},3,[{"type":"B","s":1}]],"s":[1]}}`, `{"status":{"conditions":[{"type":"A"},3,[{"type":"B"}]]}}`},
		{"the wider wins", `{"spec":{"replicas":1,"x":2},"a":{"b":1,"c":2}}`, `{"a":{"b":1,"c":2},"spec":{"replicas":1,"x":2}}`},
		{"escaped keys", `{"met\u0061data":{"n\u0061me":"n","\u0078":1}}`, `{"metadata":{"name":"n"}}`},
		{"scalar instead of object", `{"metadata":7,"spec":null}`, `{"metadata":7}`},
		{"the last wins", `{"metadata":{"name":"a"},"metadata":{"uid":"b"}}`, `{"metadata":{}}`},
	}
	var tree Tree
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tree.Parse([]byte(tt.doc), 0, f); err != nil {
				t.Fatal(err)
			}
			if got := string(tree.Root().Append(nil)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestValue(t *testing.T) {
	var tree Tree
	if v := tree.Root(); v.Kind() != Absent || v.Get("x").Exists() || v.First().Next().Key() != nil || v.Text() != nil {
		t.Errorf("an empty tree has a value of kind %d", v.Kind())
	}
	doc := `{"s":"a\u0062c","n":1,"t":true,"f":false,"null":null,"o":{"k":"v"},"a":["x"]}`
	if _, err := tree.Parse([]byte("  "+doc), 1, nil); err != nil {
		t.Fatal(err)
	}
	root := tree.Root()
	for key, kind := range map[string]Kind{
		"s": StringKind, "n": NumberKind, "t": BoolKind, "f": BoolKind, "null": NullKind, "o": ObjectKind, "a": ArrayKind, "none": Absent,
	} {
		if got := root.Get(key).Kind(); got != kind {
			t.Errorf("kind of %q: got %d, want %d", key, got, kind)
		}
	}
	if !root.Get("s").Is("abc") || root.Get("n").Is("1") || !root.Get("t").IsTrue() || root.Get("f").IsTrue() || root.Get("null").Exists() {
		t.Errorf("wrong scalars in %s", root.Append(nil))
	}
	if got := string(root.Get("n").Raw()); got != "1" {
		t.Errorf("raw number: got %s, want 1", got)
	}
	if _, err := tree.Parse([]byte(`{"s":`), 0, nil); !errors.Is(err, io.ErrUnexpectedEOF) || tree.Root().Kind() != Absent {
		t.Errorf("after a failed Parse: error %v, root of kind %d; want %v and nothing", err, tree.Root().Kind(), io.ErrUnexpectedEOF)
	}
}

func TestReusedTreeDoesNotAllocate(t *testing.T) {
	doc := []byte(`{"b":[1,2,{"x":"a\u0062"}],"a":{"\u0061":1,"y":[]}}`)
	var tree Tree
	out := make([]byte, 0, 1024)
	got := testing.AllocsPerRun(100, func() {
		if _, err := tree.Parse(doc, 0, nil); err != nil {
			t.Fatal(err)
		}
		out = tree.Root().Append(out[:0])
	})
	if got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

func TestTreeForgetsGiants(t *testing.T) {
	var tree Tree
	giant := []byte("[" + strings.Repeat("0,", 2*keptNodes) + "0]")
	for _, doc := range [][]byte{giant, []byte("{}")} {
		if _, err := tree.Parse(doc, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	if cap(tree.nodes) > keptNodes {
		t.Errorf("got memory for %d nodes after a giant, want at most %d", cap(tree.nodes), keptNodes)
	}
}
