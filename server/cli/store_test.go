package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestStoreCommands checks, repairs and restores the file of a store whose pages are cut off.
func TestStoreCommands(t *testing.T) {
	dir := t.TempDir()
	file, backup := filepath.Join(dir, "store.db"), filepath.Join(dir, "copy.db")
	b, err := store.OpenEmbedded(backup)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, whole[:4*4096], 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := storeCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(args)
		err := cmd.Execute()
		return out.String(), err
	}
	for _, tt := range []struct {
		args   []string
		want   string
		failed bool
	}{
		{[]string{"check", backup}, "whole: 0 documents", false},
		{[]string{"check", file}, "damaged: ", true},
		{[]string{"repair", file}, "the file as it was is " + file + ".before-", false},
		{[]string{"check", file}, "whole: 0 documents", false},
		{[]string{"restore", file, "--from", backup}, "is now a copy of", false},
		{[]string{"restore", file}, "", true},
		{[]string{"check", filepath.Join(dir, "none.db")}, "", true},
		{[]string{"compact", file}, "is compacted: it had ", false},
		{[]string{"compact", filepath.Join(dir, "none.db")}, "", true},
		{[]string{"backup", filepath.Join(dir, "new.db"), "--from", file}, "new.db is a copy of the store", false},
		{[]string{"backup", filepath.Join(dir, "new.db"), "--from", file}, "", true}, // it is there already
		{[]string{"check", filepath.Join(dir, "new.db")}, "whole: 0 documents", false},
		{[]string{"backup", filepath.Join(dir, "newer.db"), "--from", filepath.Join(dir, "none.db")}, "", true},
	} {
		out, err := run(tt.args...)
		if (err != nil) != tt.failed || !strings.Contains(out, tt.want) {
			t.Errorf("%v: got %v and\n%swant %q", tt.args, err, out, tt.want)
		}
	}
}
