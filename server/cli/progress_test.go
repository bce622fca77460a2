package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"
)

// TestProgress: somebody at a terminal sees how far a transfer is, and nothing of it when it is over; a file gets nothing.
func TestProgress(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "terminal"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := &cobra.Command{}
	cmd.SetErr(f)
	if p := newProgress(cmd); p.out != nil {
		t.Error("progress is written into a file")
	}
	bar := &progress{out: f}
	bar.at(5000, 12000)
	bar.at(10000, 12000)
	bar.end()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if want := "\r5000 of 12000\r10000 of 12000\r\x1b[K"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
