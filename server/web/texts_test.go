package web

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// textTables returns the tables of texts.js by language.
func textTables(t *testing.T) map[string]map[string]string {
	t.Helper()
	script := read(t, "texts.js")
	_, rest, found := strings.Cut(script, "const texts = ")
	var tables map[string]map[string]string
	if !found || json.NewDecoder(strings.NewReader(rest)).Decode(&tables) != nil {
		t.Fatal("texts.js: what is after \"const texts = \" is no JSON of tables")
	}
	return tables
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := files.ReadFile("files/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// scripts are the scripts of the page without comments, by name.
func scripts(t *testing.T) map[string]string {
	t.Helper()
	names, err := fs.Glob(files, "files/*.js")
	if err != nil {
		t.Fatal(err)
	}
	comment := regexp.MustCompile(`(?m)(^|\s)//.*$|/\*[^"'\n]*\*/`)
	out := map[string]string{}
	for _, name := range names {
		name = strings.TrimPrefix(name, "files/")
		out[name] = comment.ReplaceAllString(read(t, name), "")
	}
	return out
}

var place = regexp.MustCompile(`\{\d\}`)

// TestTextTables compares the tables of the languages: the same keys with the same places for values.
func TestTextTables(t *testing.T) {
	tables := textTables(t)
	if len(tables) != 2 || len(tables["en"]) == 0 {
		t.Fatalf("got %d tables, want en and zh", len(tables))
	}
	for key, text := range tables["en"] {
		chinese, found := tables["zh"][key]
		if !found || strings.TrimSpace(chinese) == "" || strings.TrimSpace(text) == "" {
			t.Errorf("%s: got %q in English and %q in Chinese, want both", key, text, chinese)
		}
		places := func(s string) []string {
			all := place.FindAllString(s, -1)
			slices.Sort(all)
			return all
		}
		if !slices.Equal(places(text), places(chinese)) {
			t.Errorf("%s: %q and %q have different places for values", key, text, chinese)
		}
		han := strings.ContainsFunc(chinese, func(r rune) bool { return unicode.Is(unicode.Han, r) })
		// Names of Kubernetes and DeepFlow, and the name of the other language.
		names := []string{"locale", "language", "languageTitle", "podsN", "ingressesN", "cpus", "mib", "pods", "ingress", "layer.ingress", "layer.pod", "kind.pods", "kind.ingresses", "kind.configmaps", "kindCount"}
		if !han && !slices.Contains(names, key) {
			t.Errorf("%s: %q is not Chinese", key, chinese)
		}
	}
	for key := range tables["zh"] {
		if _, found := tables["en"][key]; !found {
			t.Errorf("%s: it is in the Chinese table only", key)
		}
	}
}

// TestServerTexts: what the server says of objects, clusters and agents is in the tables, in its own words in English. Who changes
// it there is told here, and changes the Chinese text, too.
func TestServerTexts(t *testing.T) {
	english := textTables(t)["en"]
	wanted := map[string]bool{}
	want := func(key, text string) {
		wanted[key] = true
		if english[key] != text {
			t.Errorf("%s is %q in the table, the server says %q", key, english[key], text)
		}
	}
	for _, r := range inventory.Reasons() {
		want("sentence."+string(r.Reason), r.Sentence)
		want("advice."+string(r.Reason), r.Advice)
	}
	trouble := source(t, "../fleet/trouble.go")
	causes := regexp.MustCompile(`(?m)^\t\t\{(\w+), "(.+)", "(.+)"\},$`).FindAllStringSubmatch(trouble, -1)
	names := regexp.MustCompile(`(?m)^\t(\w+) += "(\w+)"`).FindAllStringSubmatch(source(t, "../fleet/*.go"), -1)
	for _, c := range causes {
		i := slices.IndexFunc(names, func(n []string) bool { return n[1] == c[1] })
		if i < 0 {
			t.Fatalf("the cause %s has no name", c[1])
		}
		want("sentence."+names[i][2], c[2])
		want("advice."+names[i][2], c[3])
	}
	if len(causes) < 7 {
		t.Errorf("found %d causes of trouble, want all", len(causes))
	}
	for key := range english {
		if server := strings.HasPrefix(key, "sentence.") || strings.HasPrefix(key, "advice."); server && !wanted[key] {
			t.Errorf("%s: the server says nothing of that", key)
		}
	}
	// Why an agent is elected or not is said in texts, with names in them.
	elector := source(t, "../elector/*.go")
	said := regexp.MustCompile(`(?m)(?:d\.reason = |, d\.reason = .*, |return (?:Excluded|Designated|WatchOnly|Ordinary), |const heldBy = )(".*)$`).FindAllStringSubmatch(elector, -1)
	for _, m := range said {
		text := regexp.MustCompile(`" \+ [\w.()]+(?: \+ ")?|"\+\w+`).ReplaceAllString(m[1], "{0}")
		text = strings.Trim(text, `"`)
		if strings.HasSuffix(text, " by ") { // a name is added where it is used
			text += "{0}"
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(english)), func(key string) bool { return strings.HasPrefix(key, "why.") && english[key] == text }) {
			t.Errorf("no text why.… is %q, which the elector says", text)
		}
	}
	if len(said) < 14 {
		t.Errorf("found %d reasons of the elector, want all", len(said))
	}
}

// source is the code of the files that a pattern finds, without tests.
func source(t *testing.T, pattern string) string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %v", pattern, err)
	}
	var out strings.Builder
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
	}
	return out.String()
}

var (
	literal = regexp.MustCompile("\"(?:[^\"\\\\\n]|\\\\.)*\"|'(?:[^'\\\\\n]|\\\\.)*'|`[^`]*`")
	called  = regexp.MustCompile(`\bt\("([^"]+)"`)
)

// TestTextsAreUsed: every key that a script asks for is in the table, and every key is asked for.
func TestTextsAreUsed(t *testing.T) {
	english := textTables(t)["en"]
	used := map[string]bool{"locale": true}
	for name, script := range scripts(t) {
		for _, m := range called.FindAllStringSubmatch(script, -1) {
			if _, found := english[m[1]]; !found && !strings.HasSuffix(m[1], ".") {
				t.Errorf("%s asks for the text %q, which is in no table", name, m[1])
			}
		}
		if name == "texts.js" {
			continue
		}
		for _, l := range literal.FindAllString(script, -1) {
			used[strings.Trim(l, `"`)] = true
		}
	}
	for key := range english {
		// Those with a dot are made of a word of the API, or the name of a view.
		if !used[key] && !strings.Contains(key, ".") {
			t.Errorf("no script uses the text %q", key)
		}
	}
}

// TestNoTextOutsideTheTables looks for texts for people in the scripts and in the document.
func TestNoTextOutsideTheTables(t *testing.T) {
	for name, script := range scripts(t) {
		if name == "texts.js" {
			continue
		}
		for _, l := range outside(script) {
			t.Errorf("%s: %s is a text outside the tables of texts.js", name, l)
		}
	}
	if len(outside(`show(el("p", {}, "No cluster has it"), el("b", { title: "Open" }, "all of " + n))`)) != 3 {
		t.Error("this test finds no texts")
	}
	page := regexp.MustCompile(`(?s)<noscript>.*?</noscript>|<title>.*?</title>`).ReplaceAllString(read(t, "index.html"), "")
	for _, text := range regexp.MustCompile(`>[^<>]*\pL[^<>]*<|(?:title|placeholder|aria-label|alt)="[^"]*"`).FindAllString(page, -1) {
		if text != ">pseudo-server<" {
			t.Errorf("index.html: %s is a text outside the tables of texts.js", text)
		}
	}
}

// outside returns the literals of a script that look like texts for people: a capital letter and small ones, or two words
// where no selector and no class is.
func outside(script string) []string {
	capital := regexp.MustCompile(`^[^\pL]*[A-Z][a-z]+`)
	words := regexp.MustCompile(`[a-z]{2,},? [a-z]{2,}`)
	selector := regexp.MustCompile(`(?:class: |className = |querySelector(?:All)?\(|matches\(|closest\()(?:\w+ [!=]== )?$`)
	// Keys of the keyboard, wire types, headers, and words that are looked up or compared.
	known := regexp.MustCompile(`^(Arrow(Up|Down|Left|Right)|Home|End|PageUp|PageDown|Enter|Escape|Authorization|Bearer |Service|Ingress|Last-Event-ID|Space|use strict)$`)
	var out []string
	for _, at := range literal.FindAllStringIndex(script, -1) {
		l := strings.Trim(script[at[0]:at[1]], "\"'`")
		if known.MatchString(l) || selector.MatchString(script[max(0, at[0]-60):at[0]]) {
			continue
		}
		if capital.MatchString(l) || words.MatchString(l) {
			out = append(out, l)
		}
	}
	return out
}
