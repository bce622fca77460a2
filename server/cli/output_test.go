package cli

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// TestTable cuts, colours and cleans.
func TestTable(t *testing.T) {
	tab := table{header: []string{"NAME", "STATE"}, colour: 1, rows: [][]string{
		{strings.Repeat("x", 60), "ok"}, {"a\x1b[31mb\u202e\n c", "error"}, {"", "other"},
	}}
	got := tab.text(40, true)
	for line := range strings.SplitSeq(strings.TrimSuffix(got, "\n"), "\n") {
		plain := regexp.MustCompile(`\x1b\[\d+m`).ReplaceAllString(line, "")
		if n := len([]rune(plain)); n > 40 {
			t.Errorf("got %d columns, want at most 40: %q", n, plain)
		}
	}
	for _, want := range []string{"x…", "\x1b[32mok\x1b[0m", "a\uFFFD[31mb\uFFFD c", "\n-  "} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want it to contain %q", got, want)
		}
	}
	if plain := tab.text(0, false); strings.Contains(plain, "\x1b") || !strings.Contains(plain, strings.Repeat("x", 60)) {
		t.Errorf("got %q for a file, want it uncut and without colours", plain)
	}
}

// TestJSONIsHarmless: what a cluster chose cannot control the terminal as JSON either, and is the same text to a program.
func TestJSONIsHarmless(t *testing.T) {
	hostile := map[string]string{"a": "x\u009b31m\u007f\u202ey\u00e9\U000e0041"}
	var out bytes.Buffer
	if err := (&printer{format: "json", out: &out}).print(hostile, table{}); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	if err := (&follower{p: &printer{format: "json", out: &out}}).show("cluster", data); err != nil {
		t.Fatal(err)
	}
	for _, r := range out.String() {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
			t.Errorf("got %q, want no control character %U", out.String(), r)
		}
	}
	dec := json.NewDecoder(&out)
	var got map[string]string
	if err := dec.Decode(&got); err != nil || got["a"] != hostile["a"] {
		t.Errorf("got %q, %v, want the same text when it is read as JSON", got, err)
	}
	var event struct{ Data map[string]string }
	if err := dec.Decode(&event); err != nil || event.Data["a"] != hostile["a"] {
		t.Errorf("got %q, %v, want the same text when an event is read as JSON", event.Data, err)
	}
}
