package main

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	fence   = regexp.MustCompile("^```")
	comment = regexp.MustCompile(` +#[^#]*$`)
	item    = regexp.MustCompile(`^(?:[-*]|\d+\.) `)
	// identifier is an alert, a metric or a key that stands outside of a code span.
	identifier = regexp.MustCompile(`\b(?:(?:PseudoAgent|PseudoServer|PodAgent)[A-Z]\w+|(?:pseudo_agent|pseudo_server|pod_agent)_\w+|[a-z]+(?:_[a-z]+)+)\b`)
	number     = regexp.MustCompile(`\d+(?:[.,]\d+)*`)
)

// otherLanguage is where each first page leads to the same page in the other language.
var otherLanguage = map[string]string{
	"README.md": "README.zh.md", "README.zh.md": "README.md", "docs/README.md": "zh/README.md", "docs/zh/README.md": "../README.md",
}

// A section of a page is what both languages have alike, from one heading to the next.
type section struct {
	level        int
	title        string
	rows, items  int
	blocks       []string        // lines of commands and files, without comments
	spans, names map[string]bool // what is written as code, and identifiers elsewhere
	numbers      map[string]bool
	targets      map[string]bool // of links
	line         int
}

// TestChinesePagesSayWhatTheEnglishOnesSay compares every page of docs/zh with that of docs, section by section: commands, files,
// keys, metrics, alerts, figures, links, rows of tables, items of lists. What differs was changed in one language only.
func TestChinesePagesSayWhatTheEnglishOnesSay(t *testing.T) {
	t.Chdir(root)
	pages, err := filepath.Glob("docs/zh/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pairs := map[string]string{"README.zh.md": "README.md"}
	for _, page := range pages {
		pairs[filepath.ToSlash(page)] = path.Join("docs", filepath.Base(page))
	}
	for chinese, english := range pairs {
		for _, d := range differences(chinese, text(t, chinese), english, text(t, english), pairs) {
			t.Error(d)
		}
	}
}

// TestDriftIsNoticed changes one page in the ways in which pages drift apart.
func TestDriftIsNoticed(t *testing.T) {
	const english = "# Title\n\nText of 5 s, `key_one`, [x](b.md#second), PseudoAgentAbsent.\n\n    command --flag   # why\n\n## Second\n\n| a | b |\n|---|---|\n| c | d |\n\n- one\n- two\n"
	const chinese = "# 标题\n\n5 s 的文字，`key_one`，[x](b.md#其二)，PseudoAgentAbsent。\n\n    command --flag   # 原因\n\n## 其二\n\n| 甲 | 乙 |\n|---|---|\n| 丙 | 丁 |\n\n- 一\n- 二\n"
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("docs/zh", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"docs/b.md": english, "docs/zh/b.md": chinese} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pairs := map[string]string{"docs/zh/b.md": "docs/b.md"}
	if d := differences("docs/zh/b.md", chinese, "docs/b.md", english, pairs); len(d) > 0 {
		t.Errorf("pages that agree differ: %v", d)
	}
	for _, change := range [][2]string{
		{"    command --flag   # 原因\n", ""},
		{"command --flag", "command --other"},
		{"`key_one`", "`key_two`"},
		{"5 s", "6 s"},
		{"PseudoAgentAbsent", "PseudoAgentConflict"},
		{"b.md#其二", "b.md#标题"},
		{"[x](b.md#其二)", "x"},
		{"## 其二", "### 其二"},
		{"## 其二\n", ""},
		{"| 丙 | 丁 |\n", ""},
		{"- 二\n", ""},
	} {
		changed := strings.Replace(chinese, change[0], change[1], 1)
		if changed == chinese {
			t.Fatalf("%q is not in the page", change[0])
		}
		if d := differences("docs/zh/b.md", changed, "docs/b.md", english, pairs); len(d) == 0 {
			t.Errorf("%q became %q and nobody noticed", change[0], change[1])
		}
	}
}

func differences(chinese, chineseText, english, englishText string, pairs map[string]string) []string {
	got, want := sections(chineseText), sections(englishText)
	if len(got) != len(want) {
		return []string{fmt.Sprintf("%s has %d headings, %s has %d: %s", chinese, len(got), english, len(want), titles(got, want))}
	}
	var out []string
	for i, g := range got {
		w := want[i]
		differ := func(what string, a, b any) {
			out = append(out, fmt.Sprintf("%s:%d %q: %s: %v; %s:%d %q: %v", chinese, g.line, g.title, what, a, english, w.line, w.title, b))
		}
		for _, n := range []struct {
			what string
			a, b int
		}{{"level of the heading", g.level, w.level}, {"rows of tables", g.rows, w.rows}, {"items of lists", g.items, w.items}} {
			if n.a != n.b {
				differ(n.what, n.a, n.b)
			}
		}
		if !slices.Equal(g.blocks, w.blocks) {
			differ("commands and files", only(g.blocks, w.blocks), only(w.blocks, g.blocks))
		}
		for _, s := range []struct {
			what string
			a, b map[string]bool
		}{
			{"code", g.spans, w.spans},
			{"names", g.names, w.names},
			{"figures", g.numbers, w.numbers},
			{"links", g.links(chinese, pairs), w.links(english, nil)},
		} {
			a, b := slices.Sorted(maps.Keys(s.a)), slices.Sorted(maps.Keys(s.b))
			if !slices.Equal(a, b) {
				differ(s.what, only(a, b), only(b, a))
			}
		}
	}
	return out
}

// only are the elements of a that b has not; all of a if there is only another order.
func only(a, b []string) []string {
	rest := slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
	if len(rest) == 0 && len(a) == len(b) {
		return a
	}
	return rest
}

func titles(got, want []section) string {
	var lines []string
	for i := range max(len(got), len(want)) {
		var a, b string
		if i < len(got) {
			a = got[i].title
		}
		if i < len(want) {
			b = want[i].title
		}
		lines = append(lines, a+" = "+b)
	}
	return strings.Join(lines, "; ")
}

// links are the targets of a section as paths of English pages, with the number of the heading in place of the anchor.
func (s section) links(file string, pairs map[string]string) map[string]bool {
	out := map[string]bool{}
	for target := range s.targets {
		if otherLanguage[file] == target {
			continue
		}
		if strings.Contains(target, "://") {
			out[target] = true
			continue
		}
		name, anchor, _ := strings.Cut(target, "#")
		if name == "" {
			name = file
		} else {
			name = path.Join(path.Dir(file), name)
		}
		place := ""
		if anchor != "" {
			data, _ := os.ReadFile(filepath.FromSlash(name)) // TestLinksLeadSomewhere tells about files that are not there
			place = fmt.Sprintf("#%d", slices.IndexFunc(sections(string(data)), func(s section) bool { return anchorOf(s.title) == anchor }))
		}
		if english, ok := pairs[name]; ok {
			name = english
		}
		out[name+place] = true
	}
	return out
}

func sections(page string) []section {
	var out []section
	inFence := false
	n := 0
	for line := range strings.Lines(page) {
		n++
		line = strings.TrimRight(line, "\n")
		if m := heading.FindStringSubmatch(line); m != nil && !inFence {
			out = append(out, section{
				level: strings.IndexFunc(line, func(r rune) bool { return r != '#' }), title: m[1], line: n,
				spans: map[string]bool{}, names: map[string]bool{}, numbers: map[string]bool{}, targets: map[string]bool{},
			})
			line = m[1]
		}
		if len(out) == 0 {
			continue
		}
		s := &out[len(out)-1]
		if fence.MatchString(line) {
			inFence = !inFence
			s.blocks = append(s.blocks, line)
			continue
		}
		if inFence || strings.HasPrefix(line, "    ") {
			s.blocks = append(s.blocks, comment.ReplaceAllString(line, ""))
			continue
		}
		s.prose(line)
	}
	return out
}

func (s *section) prose(line string) {
	if strings.HasPrefix(line, "|") {
		s.rows++
	}
	if m := item.FindString(line); m != "" {
		s.items++
		line = strings.TrimPrefix(line, m)
	}
	for _, span := range codeSpan.FindAllString(line, -1) {
		s.spans[span] = true
	}
	line = codeSpan.ReplaceAllString(line, "")
	for _, m := range link.FindAllStringSubmatch(line, -1) {
		s.targets[m[1]] = true
	}
	line = link.ReplaceAllString(line, "]")
	for _, name := range identifier.FindAllString(line, -1) {
		s.names[name] = true
	}
	for _, figure := range number.FindAllString(line, -1) {
		s.numbers[strings.ReplaceAll(figure, ",", "")] = true
	}
}
