package reporter

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

func TestComposeErrors(t *testing.T) {
	long := strings.Repeat("x", 3000)
	for _, c := range []struct {
		name     string
		problems []string
		want     string
	}{
		{"none", nil, ""},
		{"blank ones", []string{"", " \n"}, ""},
		{"one", []string{"pods: gone"}, "pods: gone"},
		{"shortest first, each once", []string{"nodes: connection refused", "pods: gone", "nodes: connection refused"}, "pods: gone; nodes: connection refused"},
		{"equal lengths by text", []string{"b", "a"}, "a; b"},
		{"lines and broken UTF-8", []string{"a\n  b\xff"}, "a b?"},
		{"what does not fit is counted", []string{"short", long, long + "y"}, "short; " + long + "; and 1 more"},
		{"nothing fits", []string{strings.Repeat("é", 4000), strings.Repeat("é", 4001)}, strings.Repeat("é", 2039) + "…; and 1 more"},
		{"a single one that does not fit", []string{strings.Repeat("é", 4000)}, strings.Repeat("é", 2039) + "…"},
	} {
		if got := composeErrors(c.problems); got != c.want {
			t.Errorf("%s: got %d bytes %.60q…, want %d bytes %.60q…", c.name, len(got), got, len(c.want), c.want)
		}
	}
}

func FuzzComposeErrors(f *testing.F) {
	f.Add("a|b", 1)
	f.Add(strings.Repeat("é", 5000)+"|x|\xff", 3)
	f.Fuzz(func(t *testing.T, text string, repeat int) {
		var problems []string
		for range min(max(repeat, 1), 50) {
			problems = append(problems, strings.Split(text, "|")...)
		}
		got := composeErrors(problems)
		if len(got) > maxErrorMsg || !utf8.ValidString(got) {
			t.Errorf("got %d bytes, valid %v, want at most %d and valid UTF-8", len(got), utf8.ValidString(got), maxErrorMsg)
		}
		slices.Reverse(problems)
		if other := composeErrors(problems); other != got {
			t.Errorf("the order of problems matters: got %q and %q", got, other)
		}
		if strings.TrimSpace(strings.ReplaceAll(text, "|", "")) != "" && got == "" {
			t.Error("got nothing for something")
		}
	})
}

func TestOversizeNamesTypesAndKeys(t *testing.T) {
	f := snapshot.New(nil)
	f.Upsert("pods", testEntry("*v1.Pod", 1, incompressible(1, 3000)))
	f.Upsert("pods", testEntry("*v1.Pod", 2, incompressible(2, 3000)))
	f.Upsert("configmaps", testEntry("*v1.ConfigMap", 3, incompressible(3, 2000)))
	f.Upsert("nodes", testEntry("*v1.Node", 4, incompressible(4, 1000)))
	f.Upsert("services", testEntry("*v1.Service", 5, "small"))
	s := f.Take()
	got := oversize(s, s.Size(), 4000)
	for _, want := range []string{
		"max_message_size 4000", "in 2 objects, *v1.ConfigMap", "projection.annotation_limit", "configmaps, disabled: true} saves ", "selection.exclude_namespaces",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	if strings.Contains(got, "*v1.Service") {
		t.Errorf("got %q, want the three largest types only", got)
	}
}
