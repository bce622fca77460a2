package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// What a page may have, so that it is read, on a phone, too. A page that grows beyond it is split by what its readers look for.
const (
	pageLines      = 150
	tableColumns   = 6
	paragraphRunes = 800 // without the targets of links: about one screen of a phone
)

// TestPagesAreShort holds every page against these limits. There are no exceptions.
func TestPagesAreShort(t *testing.T) {
	t.Chdir(root)
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md"} {
		pages, err := filepath.Glob(pattern)
		if err != nil || len(pages) == 0 {
			t.Fatalf("no pages %s: %v", pattern, err)
		}
		for _, page := range pages {
			for _, f := range tooLong(text(t, filepath.ToSlash(page))) {
				t.Errorf("%s:%s", filepath.ToSlash(page), f)
			}
		}
	}
}

// TestLongPagesAreNoticed shows each finding.
func TestLongPagesAreNoticed(t *testing.T) {
	row := "|" + strings.Repeat(" a |", tableColumns)
	line := strings.Repeat("a", 99) + "\n"
	good := strings.Repeat(line, paragraphRunes/100) + "\n" + row + "\n\n- " + line + "- " + strings.Repeat(line, 7) + "\n```\n" + strings.Repeat(line, 20) + "```\n"
	good += strings.Repeat("\n", pageLines-strings.Count(good, "\n"))
	if f := tooLong(good); len(f) > 0 {
		t.Errorf("a page at the limits: %v", f)
	}
	for change, want := range map[string]string{
		good + "\n": "1: the page has 151 lines",
		strings.Replace(good, row, row+" b |", 1):                                             "10: the table has 7 columns",
		"b\n" + strings.Replace(good, "\n\n", "\n", 1):                                        "1: the paragraph has 801 letters",
		strings.Replace(strings.TrimRight(good, "\n"), "- ", "- "+strings.Repeat(line, 8), 1): "12: the paragraph has 901 letters",
	} {
		if got := strings.Join(tooLong(change), "; "); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

var (
	listItem   = regexp.MustCompile(`^\s*(?:[-*]|\d+\.) `)
	linkTarget = regexp.MustCompile(`\]\([^()\s]+\)`)
)

// tooLong are the places of a page that are beyond the limits, each with its line.
func tooLong(page string) []string {
	var found []string
	if n := strings.Count(page, "\n"); n > pageLines {
		found = append(found, fmt.Sprintf("1: the page has %d lines, at most %d are read: split it by what its readers look for", n, pageLines))
	}
	paragraph, begin, columns, fenced := "", 0, 0, false
	end := func() {
		if n := utf8.RuneCountInString(strings.TrimSpace(linkTarget.ReplaceAllString(paragraph, "]"))); n > paragraphRunes {
			found = append(found, fmt.Sprintf("%d: the paragraph has %d letters, want at most %d: one idea each", begin, n, paragraphRunes))
		}
		paragraph = ""
	}
	n := 0
	for line := range strings.Lines(page) {
		n++
		if fence.MatchString(line) {
			fenced = !fenced
		}
		row := !fenced && strings.HasPrefix(line, "|")
		if row && columns == 0 {
			columns = strings.Count(strings.ReplaceAll(line, `\|`, ""), "|") - 1
			if columns > tableColumns {
				found = append(found, fmt.Sprintf("%d: the table has %d columns, want at most %d: make two of it, or a list", n, columns, tableColumns))
			}
		} else if !row {
			columns = 0
		}
		item := listItem.MatchString(line)
		if item || row || fenced || fence.MatchString(line) || strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "    ") {
			end()
			if !item || fenced {
				continue
			}
		}
		if paragraph == "" {
			begin = n
		}
		paragraph += line
	}
	end()
	return found
}
