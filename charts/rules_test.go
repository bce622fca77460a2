// Package charts holds the tests of the charts' alert rules. The charts themselves are tested against a real apiserver,
// in test/e2e.
package charts

import (
	"os/exec"
	"path/filepath"
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
				cmd := exec.CommandContext(t.Context(), promtool, args...) //nolint:gosec // found in the path
				cmd.Dir = filepath.Dir(file)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("promtool %v: %v\n%s", args, err, out)
				}
			}
		})
	}
}
