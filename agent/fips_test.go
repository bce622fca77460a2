package agent

import (
	"crypto/fips140"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/config"
)

// TestFIPS runs what commands and daemon do where FIPS 140 is enforced: everything works, but for keys that are too short,
// which are refused by name.
func TestFIPS(t *testing.T) {
	if !fips140.Enforced() {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self, "-test.v", "-test.run=^(TestFIPS|TestSnapshotCommand|TestMessages|TestDaemon.*|TestExplain.*)$")
		cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("got %v, want the tests to pass where FIPS 140 is enforced:\n%s", err, out)
		}
		if !strings.Contains(string(out), "--- PASS: TestFIPS") || !strings.Contains(string(out), "--- PASS: TestSnapshotCommand") {
			t.Errorf("got %s, want the tests to have run where FIPS 140 is enforced", out)
		}
		return
	}
	for length, want := range map[int]bool{1: false, minFIPSKey - 1: false, minFIPSKey: true, 32: true} {
		file := filepath.Join(t.TempDir(), "key")
		write(t, file, strings.Repeat("k", length))
		_, err := projectionOptions(config.AgentProjection{HashKeyFile: file}, &rest.Config{})
		if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "projection.hash_key_file") {
			t.Errorf("key of %d bytes: got %v, want success %v, else an error that names the configuration's key", length, err, want)
		}
	}
}
