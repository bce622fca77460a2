package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestGeneratedFilesAreCurrent(t *testing.T) {
	t.Chdir(root)
	for _, g := range generated {
		if err := update(g.path, g.make, true); err != nil {
			t.Error(err)
		}
	}
}

func TestDependenciesHaveTheirReasons(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{if not .Indirect}}{{.Path}}{{end}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	direct := strings.Fields(string(out))[1:] // the first one is this module
	var documented []string
	for line := range strings.Lines(read(t, "docs/dependencies.md")) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
				documented = append(documented, m[1])
			}
		}
	}
	for _, m := range direct {
		if !slices.Contains(documented, m) {
			t.Errorf("docs/dependencies.md does not give the reason of %s", m)
		}
	}
	for _, m := range documented {
		if !slices.Contains(direct, m) {
			t.Errorf("docs/dependencies.md names %s, which go.mod does not have as a direct dependency", m)
		}
	}
}

// TestQueriesNameOnlyMetricsThatExist looks at the alert rules and dashboards of the charts.
func TestQueriesNameOnlyMetricsThatExist(t *testing.T) {
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([a-z]+)").FindAllStringSubmatch(read(t, "docs/metrics.md"), -1) {
		documented[m[1]] = true
		if m[2] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				documented[m[1]+suffix] = true
			}
		}
	}
	used := 0
	for _, pattern := range []string{"charts/*/rules/*.yaml", "charts/*/dashboards/*.json"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range regexp.MustCompile(`\bpseudo_(agent|server)_[a-z_]+`).FindAllString(string(data), -1) {
				used++
				if !documented[name] {
					t.Errorf("%s uses %s, which docs/metrics.md does not have", file, name)
				}
			}
		}
	}
	if used == 0 {
		t.Error("no query was found")
	}
}

// runbooks are the pages of each chart's alerts.
var runbooks = map[string]string{
	"pseudo-agent": "docs/runbooks-agent.md", "pseudo-server": "docs/runbooks-server.md", "pod-agent": "docs/runbooks-pod-agent.md",
}

// TestEveryAlertHasARunbookAndATest looks for the heading that an alert's annotation points to, and for a test. The list of runbooks
// in docs/operations.md has each alert.
func TestEveryAlertHasARunbookAndATest(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "charts/*/rules/alerts.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no alert rules found: %v", err)
	}
	list := read(t, "docs/operations.md")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		page := runbooks[filepath.Base(filepath.Dir(filepath.Dir(file)))]
		doc := read(t, page)
		tests := read(t, filepath.Join(filepath.Dir(strings.TrimPrefix(file, root+"/")), "alerts_test.yaml"))
		for _, m := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(string(data), -1) {
			if n := strings.Count(tests, "alertname: "+m[1]); n < 3 {
				t.Errorf("alerts_test.yaml looks at %s %d times, want it before it fires, while it does, and after it", m[1], n)
			}
			if !strings.Contains(doc, "\n## "+m[1]+"\n") {
				t.Errorf("%s has no runbook for %s", page, m[1])
			}
			want := page + "#" + strings.ToLower(m[1])
			if !strings.Contains(string(data), " runbook_url: https://github.com/pseudo-agent/pseudo-agent/blob/main/"+want+"\n") {
				t.Errorf("%s: %s does not point to its runbook %s", file, m[1], want)
			}
			if entry := "[" + m[1] + "](" + strings.TrimPrefix(want, "docs/") + ")"; !strings.Contains(list, entry) {
				t.Errorf("docs/operations.md does not list the runbook of %s as %s", m[1], entry)
			}
		}
	}
}
