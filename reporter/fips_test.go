package reporter

import (
	"context"
	"crypto/fips140"
	"os"
	"os/exec"
	"testing"
)

// TestFIPS derives a cluster id's MD5 where FIPS 140 is enforced: it is a name, not a protection.
func TestFIPS(t *testing.T) {
	if !fips140.Enforced() {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestFIPS$")
		cmd.Env = append(os.Environ(), "GODEBUG=fips140=only")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("got %v, want the test to pass where FIPS 140 is enforced:\n%s", err, out)
		}
		return
	}
	const want = "900150983cd24fb0d6963f7d28e17f72" // RFC 1321, section A.5
	if got, err := caMD5(t.Context(), func(context.Context) ([]byte, error) { return []byte("abc"), nil }); err != nil || got != want {
		t.Errorf("got %q and %v, want %q", got, err, want)
	}
}
