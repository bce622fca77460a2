package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBillOfThisTest(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := write(out, self, "v1.2.3"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two bills of the same file differ")
	}
	var doc document
	if err := json.Unmarshal(first.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if m := doc.Metadata.Component; m.Version != "v1.2.3" || len(m.Hashes) != 1 {
		t.Errorf("got %+v, want the given version and a hash", m)
	}
	if c := doc.Components[0]; c.Name != "std" || !strings.HasPrefix(c.Version, "go1.") {
		t.Errorf("got %+v first, want Go's own library", c)
	}
}

func TestBillOfSomethingElse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := write(&bytes.Buffer{}, file, "v1"); err == nil {
		t.Error("got no error for a file that is no Go program")
	}
}
