package operate

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
)

func han(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return unicode.Is(unicode.Han, r) })
}

// TestTextTables compares the tables of the languages: the same keys, the same places for values, and every key is used.
func TestTextTables(t *testing.T) {
	program := statusPage
	for _, name := range []string{"language.go", "overview.go", "page.go", "status.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		program += string(text)
	}
	for key, text := range englishTexts {
		translated, found := chineseTexts[key]
		if !found || text == "" || translated == "" {
			t.Errorf("%s: got %q in English and %q in Chinese, want both", key, text, translated)
		}
		if en, zh := placeholders.FindAllString(text, -1), placeholders.FindAllString(translated, -1); !slices.Equal(en, zh) {
			t.Errorf("%s: %q and %q have different places for values", key, text, translated)
		}
		// Severities and states are looked up by their own names.
		if !strings.Contains(program, `t "`+key+`"`) && !strings.Contains(program, `t("`+key+`"`) && !slices.Contains([]string{"ok", string(Warning), string(Failure)}, key) {
			t.Errorf("no text %q is asked for", key)
		}
	}
	for key := range chineseTexts {
		if _, found := englishTexts[key]; !found {
			t.Errorf("%s: it is in the Chinese table only", key)
		}
	}
	for _, m := range regexp.MustCompile(`\bt\(?[ ]?"([a-zA-Z]+)"`).FindAllStringSubmatch(program, -1) {
		if _, found := englishTexts[m[1]]; !found {
			t.Errorf("the text %q is asked for, which is in no table", m[1])
		}
	}
	for _, p := range chinesePhrases {
		if en, zh := placeholders.FindAllString(p[0], -1), placeholders.FindAllString(p[1], -1); !slices.Equal(en, zh) {
			t.Errorf("%q and %q have different places for values", p[0], p[1])
		}
	}
}

// TestNoTextOutsideTheTables: the page as a file has no text but the program's.
func TestNoTextOutsideTheTables(t *testing.T) {
	page := regexp.MustCompile(`\{\{.*?\}\}`).ReplaceAllString(statusPage, "")
	if got := regexp.MustCompile(`>[^<>]*\pL[^<>]*<|(?:title|placeholder|aria-label|alt)="[^"]*\pL[^"]*"`).FindAllString(page, -1); got != nil {
		t.Errorf("status.html: %q are texts outside the tables of texts.go", got)
	}
}

// TestPartsSpeakChinese reads what parts of the programs say to people, in their sources, and looks for the phrases.
func TestPartsSpeakChinese(t *testing.T) {
	found := 0
	for _, folder := range []string{".", "../agent", "../podagent", "../server", "../reporter"} {
		err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			for _, text := range said(t, path) {
				found++
				// A place takes any text; what has more places in a row than one is a name, a colon and a reason.
				sample := strings.NewReplacer("%s", "x", "%d", "7", "%v", "x").Replace(text)
				if got := chinese.say(sample); !han(got) {
					t.Errorf("%s: there is no Chinese phrase for %q", path, text)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 60 {
		t.Errorf("got %d texts of parts, want at least 60: this test does not find them any more", found)
	}
}

// said returns the texts that a file gives to Problems, Stages and Listings of this package.
func said(t *testing.T, path string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	fields := []string{"What", "Means", "Advice", "Subject", "State", "Number", "Name"}
	add := func(field string, value ast.Expr) {
		if slices.Contains(fields, field) {
			if text := written(value); text != "apiserver" && strings.ContainsFunc(placeholders.ReplaceAllString(text, ""), unicode.IsLetter) {
				out = append(out, text)
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch e := n.(type) {
		case *ast.CompositeLit:
			kind := ""
			switch typ := e.Type.(type) {
			case *ast.SelectorExpr:
				if x, ok := typ.X.(*ast.Ident); ok && x.Name == "operate" {
					kind = typ.Sel.Name
				}
			case *ast.ArrayType:
				if sel, ok := typ.Elt.(*ast.SelectorExpr); ok && sel.Sel.Name == "Problem" {
					for _, item := range e.Elts {
						if lit, ok := item.(*ast.CompositeLit); ok {
							lit.Type = typ.Elt
						}
					}
				}
			}
			if kind != "Problem" && kind != "Stage" && kind != "Listing" {
				return true
			}
			for _, item := range e.Elts {
				if kv, ok := item.(*ast.KeyValueExpr); ok {
					if key, ok := kv.Key.(*ast.Ident); ok {
						add(key.Name, kv.Value)
					}
				}
			}
		case *ast.AssignStmt:
			if path != "../agent/overview.go" && path != "../agent/status.go" {
				return true
			}
			for i, left := range e.Lhs {
				if sel, ok := left.(*ast.SelectorExpr); ok && len(e.Rhs) == len(e.Lhs) {
					add(sel.Sel.Name, e.Rhs[i])
				}
			}
		}
		return true
	})
	return out
}

// written is the text of an expression: literals, their sums with other values as %s, and what is given to Sprintf.
func written(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value)
		return text
	case *ast.BinaryExpr:
		left, right := written(e.X), written(e.Y)
		if left == "" && right == "" {
			return ""
		}
		if left == "" {
			left = "%s"
		}
		if right == "" {
			right = "%s"
		}
		return left + right
	case *ast.CallExpr:
		if sel, ok := e.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sprintf" {
			return written(e.Args[0])
		}
	}
	return ""
}

// TestChineseStatus asks for the page and the text in Chinese, by the address and by the browser's wish.
func TestChineseStatus(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := New(Options{
		Program: "pseudo-agent", Build: NewBuild("v1", ""), Now: func() time.Time { return now }, Summary: func() string { return "standing by for the leader a" },
		Overview: func() Overview {
			return Overview{Way: []Stage{{Name: "apiserver", State: "does not answer", Tone: Bad, Number: "7 objects", Since: now.Add(-time.Minute)}}, Listing: resources(now)}
		},
		Parts: []Part{{Name: "receiver", Problems: func() []Problem {
			var out []Problem
			for i := range 5 {
				out = append(out, Problem{Severity: Failure, Since: now.Add(-time.Hour), What: "not heard from for long", Subject: fmt.Sprintf("cluster d-%d", i), Advice: "see whether its pseudo-agent runs and reaches this server"})
			}
			return append(out, Problem{Severity: Warning, What: "said by nobody else", Means: strings.Repeat("很长的句子", 30)})
		}}},
	})
	want := []string{"备用，主副本为 a", "集群 d-0、集群 d-1、集群 d-2 等另外 2 个：长时间没有上报", "查看其 pseudo-agent", "said by nobody else", "无应答", "7 个对象", "60 秒前", "无权限"}
	for _, c := range []struct{ path, accept string }{{"/status?format=text&lang=zh", ""}, {"/status?format=text", "zh-CN,zh;q=0.9,en;q=0.8"}, {"/status?format=html&lang=zh", "en"}, {"/status?format=html", "zh-TW"}} {
		req := httptest.NewRequest(http.MethodGet, c.path, nil)
		req.Header.Set("Accept-Language", c.accept)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		body := w.Body.String()
		for _, text := range want {
			if !strings.Contains(body, text) {
				t.Errorf("%s, %s: it lacks %q:\n%s", c.path, c.accept, text, body)
			}
		}
		for line := range strings.Lines(body) {
			if n := width(strings.TrimRight(line, "\n")); strings.Contains(c.path, "text") && n > textWidth {
				t.Errorf("got a line of %d columns, want %d at most: %s", n, textWidth, line)
			}
		}
	}
	for _, accept := range []string{"", "en-US,en;q=0.9,zh;q=0.8", "fr"} {
		req := httptest.NewRequest(http.MethodGet, "/status?format=text", nil)
		req.Header.Set("Accept-Language", accept)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		if !strings.Contains(w.Body.String(), "not heard from for long") {
			t.Errorf("Accept-Language %q: want English, got\n%s", accept, w.Body)
		}
	}
}

func resources(now time.Time) *Listing {
	return &Listing{Name: "Resources", Header: []string{"resource", "state", "last change"}, Rows: []ListingRow{{Tone: Bad, Cells: []ListingCell{{Text: "pods"}, {Text: "Forbidden"}, {At: now}}}}}
}

// TestSummaryIsWholeInChinese: no word of the summary stays English, however long ago the report was.
func TestSummaryIsWholeInChinese(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, ago := range []time.Duration{time.Second, 7 * time.Minute, 3 * time.Hour, 26*time.Hour + 5*time.Minute, 96 * time.Hour, 99 * time.Hour} {
		said := chinese.say("cluster d-1, 14 objects, 2.7 KiB, version 7 acknowledged by 127.0.0.1:1, " + Ago(now, now.Add(-ago)))
		if want := "集群 d-1，14 个对象，2.7 KiB，版本 7 已由 127.0.0.1:1 确认（" + chinese.ago(now, now.Add(-ago)) + "）"; said != want {
			t.Errorf("got %s, want %s", said, want)
		}
	}
}
