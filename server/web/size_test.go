package web

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"testing"
)

// TestSize: the page is less than 150 KB in all, compressed, so that it comes at once over a slow line.
func TestSize(t *testing.T) {
	const most = 150_000
	total := 0
	err := fs.WalkDir(files, "files", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		if _, err := w.Write(text); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		total += out.Len()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", total)
	if total > most {
		t.Errorf("got %d bytes, want %d at most", total, most)
	}
}
