package receiver

import (
	"os"
	"strings"
	"testing"
)

// TestDocs looks for every rule in docs/receiver-refusals.md, and for nothing else there.
func TestDocs(t *testing.T) {
	raw, err := os.ReadFile("../../docs/receiver-refusals.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(raw)
	_, section, ok := strings.Cut(doc, "## Refusals")
	if !ok {
		t.Fatal("docs/receiver-refusals.md has no section Refusals")
	}
	section, _, _ = strings.Cut(section, "## Suspicion")
	documented := map[string]bool{}
	for line := range strings.Lines(section) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "` | "); ok && strings.HasPrefix(line, "| `") {
			documented[name] = true
		}
	}
	for _, r := range rules {
		if !documented[string(r)] {
			t.Errorf("rule %s is not in docs/receiver-refusals.md", r)
		}
		delete(documented, string(r))
	}
	for name := range documented {
		t.Errorf("docs/receiver-refusals.md has the rule %q, which does not exist", name)
	}
}
