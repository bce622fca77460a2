package main

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link     = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	codeSpan = regexp.MustCompile("`[^`]*`")
	heading  = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	// notInAnchor is what the anchor of a heading leaves out.
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// TestLinksLeadSomewhere looks at every link of the documents: in the repository, and in a release, which has fewer files.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Chdir(root)
	out, err := exec.CommandContext(t.Context(), "git", "ls-files", "*.md").Output()
	if err != nil {
		t.Skipf("not in a git checkout: %v", err)
	}
	released := strings.Fields(text(t, "packaging/contents"))
	inRelease := func(file string) bool {
		for _, r := range released {
			if file == r || strings.HasPrefix(file, r+"/") {
				return true
			}
		}
		return file == "."
	}
	seen := 0
	for file := range strings.FieldsSeq(string(out)) {
		for _, target := range links(t, file) {
			seen++
			name, anchor, _ := strings.Cut(target, "#")
			if name == "" {
				name = file
			} else {
				name = path.Join(path.Dir(file), name)
			}
			if _, err := os.Stat(name); err != nil {
				t.Errorf("%s links to %s: %v", file, target, err)
				continue
			}
			if inRelease(file) && !inRelease(name) {
				t.Errorf("%s links to %s, which the release does not have: see packaging/contents", file, target)
			}
			if anchor != "" && path.Ext(name) == ".md" && !anchors(t, name)[anchor] {
				t.Errorf("%s links to %s, but %s has no such heading", file, target, name)
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d links were found", seen)
	}
}

// links are the targets in a document that are not elsewhere in the world.
func links(t *testing.T, file string) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(text(t, file)) {
		if strings.HasPrefix(line, "    ") {
			continue // commands
		}
		for _, m := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(line, ""), -1) {
			if target := m[1]; !strings.Contains(target, "://") {
				found = append(found, target)
			}
		}
	}
	return found
}

// anchors are what a link can have after #.
func anchors(t *testing.T, file string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(text(t, file), -1) {
		found[anchorOf(m[1])] = true
	}
	return found
}

func anchorOf(title string) string {
	return strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
}

func text(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.FromSlash(file))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
