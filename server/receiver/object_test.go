package receiver

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestInspect(t *testing.T) {
	for _, c := range []struct {
		text, shape                string
		uid, name, namespace, gitV string
		items                      int
		bad                        bool
	}{
		{text: `{"metadata":{"uid":"u","name":"n","namespace":"s"}}`, shape: "object", uid: "u", name: "n", namespace: "s"},
		{text: ` {"a" : [1, -2.5e+3, true, null, {"b":{}}] , "metadata" : {"name":"n"} } `, shape: "object", name: "n"},
		{text: `{"metadata":{"name":"a\u00e4\n"}}`, shape: "object", name: "aä\n"},
		{text: `{"m\u0065tadata":{"name":"escaped key"}}`, shape: "object", name: "escaped key"},
		{text: `{"metadata":{"uid":"u"},"metadata":{"name":"n"}}`, shape: "object", name: "n"},
		{text: `{"metadata":{"uid":7,"name":null}}`, shape: "object"},
		{text: `{"metadata":[],"spec":{"metadata":{"uid":"inner"}}}`, shape: "object"},
		{text: `{"gitVersion":"v1"}`, shape: "object", gitV: "v1"},
		{text: `{"kind":"PodList","items":[{},{}]}`, shape: "List", items: 2},
		{text: `{"kind":"Thing","metadata":{"uid":"u"},"items":[1]}`, shape: "object", uid: "u"},
		{text: `{"kind":"PodList","items":{}}`, shape: "object"},
		{text: `[{},1]`, shape: "array", items: 2},
		{text: `[]`, shape: "array"},
		{text: `null`, shape: "null"},
		{text: `"x"`, shape: "scalar"},
		{text: `-0`, shape: "scalar"},
		{text: ``, bad: true},
		{text: `{`, bad: true},
		{text: `{}x`, bad: true},
		{text: `{"a"}`, bad: true},
		{text: `{"a":1,}`, bad: true},
		{text: `{a:1}`, bad: true},
		{text: `[1,]`, bad: true},
		{text: `01`, bad: true},
		{text: `1.`, bad: true},
		{text: `1e`, bad: true},
		{text: `-`, bad: true},
		{text: `nul`, bad: true},
		{text: `"\x"`, bad: true},
		{text: `"\u12g4"`, bad: true},
		{text: "\"a\nb\"", bad: true},
		{text: `[[],{"a":1}, "x" ,7]`, shape: "array", items: 4},
		{text: `{ }`, shape: "object"},
		{text: strings.Repeat("[", 20000) + strings.Repeat("]", 20000), bad: true},
	} {
		o, err := inspect([]byte(c.text), 1)
		if (err != nil) != c.bad {
			t.Errorf("%.60s: got error %v, want one: %v", c.text, err, c.bad)
			continue
		}
		if c.bad {
			continue
		}
		if o.shape != c.shape || string(o.uid) != c.uid || string(o.name) != c.name || string(o.namespace) != c.namespace ||
			string(o.gitVersion) != c.gitV || o.count != c.items || len(o.items) != min(c.items, 1) {
			t.Errorf("%.60s: got %+v, want %+v", c.text, o, c)
		}
	}
}

// FuzzInspect compares with encoding/json: what is valid, and what the fields hold.
func FuzzInspect(f *testing.F) {
	for _, s := range []string{
		`{"metadata":{"uid":"u","name":"n","namespace":"s"}}`, `{"kind":"PodList","items":[{"a":1}]}`, `[1,"\u00e4\n",null]`, `{"gitVersion":"v"}`, `-1.5e-7`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !utf8.Valid(data) {
			t.Skip("refused before")
		}
		o, err := inspect(data, 3)
		if got, want := err == nil, json.Valid(data); got != want {
			t.Fatalf("%q: got valid %v (%v), want %v", data, got, err, want)
		}
		if err != nil || o.shape != "object" {
			return
		}
		var all map[string]any
		if json.Unmarshal(data, &all) != nil {
			return // a number too large for a float64, for example
		}
		meta, _ := all["metadata"].(map[string]any)
		for field, got := range map[string]string{"uid": string(o.uid), "name": string(o.name), "namespace": string(o.namespace)} {
			if want, _ := meta[field].(string); got != want {
				// encoding/json merges repeated objects only into structs; the last one counts here and there.
				t.Errorf("%q: got %s %q, want %q", data, field, got, want)
			}
		}
		if want, _ := all["gitVersion"].(string); string(o.gitVersion) != want {
			t.Errorf("%q: got gitVersion %q, want %q", data, o.gitVersion, want)
		}
	})
}

func TestClusterID(t *testing.T) {
	for md5, want := range map[string]string{
		"d41d8cd98f00b204e9800998ecf8427e":  "d-rrADNwzpt5", // of the empty file, as deepflow-server has it
		"D41D8CD98F00B204E9800998ECF8427E":  "",
		"d41d8cd98f00b204e9800998ecf8427":   "",
		"d41d8cd98f00b204e9800998ecf8427e0": "",
		"":                                  "",
		"-41d8cd98f00b204e9800998ecf8427e":  "",
	} {
		if got, ok := clusterID(md5); got != want || ok != (want != "") {
			t.Errorf("clusterID(%q): got %q, %v, want %q", md5, got, ok, want)
		}
	}
	// Every slice fits or overflows to the same seed: these two differ only above the overflow.
	a, _ := clusterID("ffffffffffffffff" + strings.Repeat("0", 16))
	b, _ := clusterID("8000000000000000" + strings.Repeat("0", 16))
	if a[2] != b[2] {
		t.Errorf("got %q and %q for slices beyond %d, want the same first character", a, b, math.MaxInt64)
	}
}

// TestCleanText: what a sender writes into its header reaches logs and screens without control characters.
func TestCleanText(t *testing.T) {
	for in, want := range map[string]string{
		"plain é\n\tx": "plain é\n\tx", "a\x1b[31mb\x7f": "a [31mb ", "a\u009b31m\u0085": "a 31m ", "a\xffb": "a\uFFFDb", "0123456789é": "0123456789 …",
	} {
		if got := cleanText(in, 11); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
