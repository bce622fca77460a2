// Package packaging holds no code: its tests look at the files that a release is made of.
package packaging

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestNothingIsSaidTwice: no file has a key twice, of which programs take the last one without a word. Templates are looked at
// as they are rendered, in test/e2e.
func TestNothingIsSaidTwice(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "git", "-C", "..", "ls-files", "*.yaml", "*.yml", "*.json", ":!*/templates/*", ":!test/node/node/files/*").Output()
	if err != nil {
		t.Skipf("not in a git checkout: %v", err)
	}
	files := strings.Fields(string(out))
	if len(files) < 50 {
		t.Errorf("only %d files were found", len(files))
	}
	for _, file := range files {
		text, err := os.ReadFile("../" + file)
		if err != nil {
			t.Fatal(err)
		}
		for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
			var v any
			if err := d.Decode(&v); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("%s: %v", file, err)
				break
			}
		}
	}
}

// TestUnitsAreValid has systemd look at the units without running them; test/e2e runs pseudo-agent's.
func TestUnitsAreValid(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd is not installed")
	}
	// The scale of systemd-analyze: 0 is a unit that can do nothing, 100 one that can do everything. pseudo-agent needs a
	// network, pod-agent is root and enters others' network namespaces.
	for program, threshold := range map[string]string{"pseudo-agent": "15", "pod-agent": "56"} {
		t.Run(program, func(t *testing.T) { testUnit(t, program, threshold) })
	}
}

func testUnit(t *testing.T, program, threshold string) {
	t.Helper()
	unit, err := os.ReadFile(program + ".service")
	if err != nil {
		t.Fatal(err)
	}
	// The program need not be installed here.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	installed := []byte("ExecStart=/usr/local/bin/" + program + " ")
	if !bytes.Contains(unit, installed) {
		t.Errorf("the unit does not start with %q what the documents install", installed)
	}
	file := filepath.Join(t.TempDir(), program+".service")
	if err := os.WriteFile(file, bytes.ReplaceAll(unit, installed, []byte("ExecStart="+self+" ")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"verify", "--man=no", file},
		{"security", "--offline=true", "--threshold=" + threshold, "--no-pager", file},
	} {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
		if unknown := bytes.Contains(out, []byte(", ignoring")); err != nil || unknown {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}
