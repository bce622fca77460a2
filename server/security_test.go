package server

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatModel: each attack of docs/security.md names tests, which exist.
func TestThreatModel(t *testing.T) {
	declared := map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range declaration.FindAllStringSubmatch(string(b), -1) {
			declared[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	tables := strings.Split(string(doc), "| attack |")[1:]
	if len(tables) != 3 {
		t.Errorf("got %d tables of attacks, want those on pseudo-server, on pseudo-agent by servers, and by who has a Pod", len(tables))
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	for _, attacks := range tables {
		attacks, _, _ = strings.Cut(attacks, "\n\n")
		for _, row := range strings.Split(attacks, "\n")[2:] {
			tests := named.FindAllStringSubmatch(row, -1)
			if len(tests) == 0 {
				t.Errorf("no test is named: %s", row)
			}
			for _, m := range tests {
				if !declared[m[1]] {
					t.Errorf("there is no %s: %s", m[1], row)
				}
			}
		}
	}
}
