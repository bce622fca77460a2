// Package charts holds the tests of the charts' alert rules. The charts themselves are tested against a real apiserver,
// in test/e2e.
package charts

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestAlertRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian's package prometheus has it)")
	}
	files, err := filepath.Glob("*/rules/alerts.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no alert rules found: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Dir(filepath.Dir(file)), func(t *testing.T) {
			for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
				cmd := exec.CommandContext(t.Context(), promtool, args...)
				cmd.Dir = filepath.Dir(file)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("promtool %v: %v\n%s", args, err, out)
				}
			}
		})
	}
}

// TestDashboardQueriesAreValid checks their syntax, as that of recording rules. That they name only metrics that exist is
// a test of tools/docgen.
func TestDashboardQueriesAreValid(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian's package prometheus has it)")
	}
	files, err := filepath.Glob("*/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards found: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard any
		if err := json.Unmarshal(data, &dashboard); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var rules bytes.Buffer
		rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
		queries := expressions(dashboard)
		for i, q := range queries {
			q = strings.NewReplacer("$__rate_interval", "5m", "$__interval", "1m", "$__range", "1h").Replace(q)
			fmt.Fprintf(&rules, "  - {record: 'query%d', expr: %q}\n", i, q)
		}
		if len(queries) == 0 {
			t.Errorf("%s has no query", file)
		}
		out := filepath.Join(t.TempDir(), "rules.yaml")
		if err := os.WriteFile(out, rules.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if said, err := exec.CommandContext(t.Context(), promtool, "check", "rules", out).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s%s", file, err, said, rules.String())
		}
	}
}

// expressions are the values of all keys expr.
func expressions(v any) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			if q, ok := inner.(string); ok && key == "expr" {
				out = append(out, q)
				continue
			}
			out = append(out, expressions(inner)...)
		}
	case []any:
		for _, inner := range v {
			out = append(out, expressions(inner)...)
		}
	}
	return out
}
