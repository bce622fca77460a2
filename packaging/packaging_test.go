// Package packaging holds no code: its tests look at the files that a release is made of.
package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestUnitIsValid has systemd look at the unit without running it; test/e2e runs it.
func TestUnitIsValid(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd is not installed")
	}
	unit, err := os.ReadFile("pseudo-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	// The program need not be installed here.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	installed := []byte("ExecStart=/usr/local/bin/pseudo-agent ")
	if !bytes.Contains(unit, installed) {
		t.Errorf("the unit does not start with %q what docs/install.md installs", installed)
	}
	file := filepath.Join(t.TempDir(), "pseudo-agent.service")
	if err := os.WriteFile(file, bytes.ReplaceAll(unit, installed, []byte("ExecStart="+self+" ")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"verify", "--man=no", file},
		// The scale of systemd-analyze: 0 is a unit that can do nothing, 10 one that can do everything; this one needs a network.
		{"security", "--offline=true", "--threshold=15", "--no-pager", file},
	} {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
		if unknown := bytes.Contains(out, []byte(", ignoring")); err != nil || unknown {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}
