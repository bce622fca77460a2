package inventory_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// TestDocument holds docs/inventory.md against the catalogue of reasons and the list of differences.
func TestDocument(t *testing.T) {
	b, err := os.ReadFile("../docs/inventory.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	var rows, want []string
	for _, line := range lines {
		if regexp.MustCompile("^\\| `[A-Z]").MatchString(line) {
			rows = append(rows, line)
		}
	}
	for _, r := range inventory.Reasons() {
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s |", r.Reason, r.Scope, r.Sentence, r.Advice))
	}
	for _, row := range want {
		if !slices.Contains(rows, row) {
			t.Errorf("the document lacks the row\n%s", row)
		}
	}
	for _, row := range rows {
		if !slices.Contains(want, row) {
			t.Errorf("the document has a row that the code does not have\n%s", row)
		}
	}
	listed := map[string]bool{}
	for _, line := range lines {
		if m := regexp.MustCompile("^\\| `([0-9]+[a-z]+[^`]*)` \\|").FindStringSubmatch(line); m != nil {
			listed[m[1]] = true
		}
	}
	for name := range differences {
		if !listed[name] {
			t.Errorf("the document does not list the difference %s", name)
		}
	}
	for name, reason := range failureReasons {
		if !listed[name] || !slices.ContainsFunc(lines, func(line string) bool {
			return strings.HasPrefix(line, "| `"+name+"` |") && strings.HasSuffix(line, "| `"+string(reason)+"` |")
		}) {
			t.Errorf("the document does not list the failure %s with %s", name, reason)
		}
	}
	if got, all := len(listed), len(differences)+len(failureReasons); got != all {
		t.Errorf("the document lists %d cases, want %d", got, all)
	}
}

// TestReasonsAreUsable checks what the code relies on: unique names, a bit for each, words for people.
func TestReasonsAreUsable(t *testing.T) {
	all := inventory.Reasons()
	if len(all) > 64 {
		t.Fatalf("got %d reasons, at most 64 fit into a mask", len(all))
	}
	seen := map[inventory.Reason]bool{}
	for _, r := range all {
		if seen[r.Reason] || r.Sentence == "" || r.Advice == "" || r.Scope == "" {
			t.Errorf("%+v: want a unique reason with scope, sentence and advice", r)
		}
		seen[r.Reason] = true
	}
}
