package inventory

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree reads a value as encoding/json does.
func tree(s *scanner) any {
	switch s.next() {
	case '{':
		out := map[string]any{}
		s.object(func(key []byte) { out[string(key)] = tree(s) })
		return out
	case '[':
		out := []any{}
		s.array(func(int) { out = append(out, tree(s)) })
		return out
	case '"':
		text, _ := s.str()
		return text
	case 't', 'f':
		return s.boolean()
	case 'n':
		s.skip()
		return nil
	default:
		return json.Number(s.raw())
	}
}

// FuzzScanner compares with encoding/json, and skip with reading.
func FuzzScanner(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,-2.5e3,true,false,null],"b\n":{"c":"\u00e4\ud800\"\\"},"":[]}`, " [ ] ", `"x"`, "1", "{}", `[{"a":{}},[[]],"}"]`, "\"\xff\"",
		`{"a":1,"a":2}`, `[1 ,2 ]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if !json.Valid(text) {
			s := scanner{b: text}
			tree(&s) // may read nonsense, must end
			return
		}
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		var want any
		if err := decoder.Decode(&want); err != nil {
			t.Skip("too deep for encoding/json")
		}
		s := scanner{b: text}
		if d := cmp.Diff(want, tree(&s)); d != "" {
			t.Fatalf("%q (-encoding/json +scanner):\n%s", text, d)
		}
		skipped := scanner{b: text}
		skipped.skip()
		if skipped.i != s.i {
			t.Fatalf("%q: skip ends at %d, reading at %d", text, skipped.i, s.i)
		}
	})
}

func TestScannerReadsOtherTypesAsZero(t *testing.T) {
	for _, text := range []string{`{"a":1}`, `[1]`, `"x"`, "12", "true", "null", "1.5", "-3", "1e3", "99999999999999999999"} {
		read := func(f func(s *scanner) any) any {
			s := scanner{b: []byte(text + " ")}
			v := f(&s)
			if s.space(); s.i != len(s.b) {
				t.Errorf("%s: the scanner stops at %d", text, s.i)
			}
			return v
		}
		got := []any{
			read(func(s *scanner) any { return s.text() }),
			read(func(s *scanner) any { return s.integer() }),
			read(func(s *scanner) any { return s.boolean() }),
			read(func(s *scanner) any { return s.object(func([]byte) { s.skip() }) }),
			read(func(s *scanner) any { return s.array(func(int) { s.skip() }) }),
		}
		want := map[string][]any{
			`{"a":1}`: {"", 0, false, true, false}, `[1]`: {"", 0, false, false, true}, `"x"`: {"x", 0, false, false, false},
			"12": {"", 12, false, false, false}, "true": {"", 0, true, false, false}, "-3": {"", -3, false, false, false},
		}[text]
		if want == nil {
			want = []any{"", 0, false, false, false}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", text, d)
		}
	}
}
