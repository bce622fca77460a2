package main

import (
	"os"
	"path"
	"path/filepath"
	"testing"
)

// TestMutantsApply: each mutant still has its line, and there are at least 60, over all parts.
func TestMutantsApply(t *testing.T) {
	all, err := parse(list)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 60 {
		t.Errorf("got %d mutants, want at least 60", len(all))
	}
	folders, rules := map[string]bool{}, map[string]bool{}
	for _, m := range all {
		folders[path.Dir(m.File)] = true
		if rules[m.Rule] {
			t.Errorf("two mutants are called %q", m.Rule)
		}
		rules[m.Rule] = true
		source, err := os.ReadFile(filepath.Join("../..", m.File))
		if err != nil {
			t.Error(err)
			continue
		}
		broken, err := m.apply(string(source))
		if err != nil {
			t.Error(err)
		} else if broken == string(source) {
			t.Errorf("mutant %q changes nothing", m.Rule)
		}
	}
	for folder := range tests {
		if !folders[folder] {
			t.Errorf("no mutant of %s", folder)
		}
	}
	for folder := range folders {
		if len(tests[folder]) == 0 {
			t.Errorf("%s has mutants and no tests that would notice", folder)
		}
	}
}
