// Command docgen makes the files that repeat what the code or the charts say. It runs in the repository's root; with
// -check it writes nothing and fails if a file is not what it should be.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
)

// generated are the files and what makes them.
var generated = []struct {
	path string
	make func() ([]byte, error)
}{
	{"charts/pseudo-agent/files/catalogue.yaml", chartCatalogue},
	{"charts/pseudo-agent/README.md", chartReadme("charts/pseudo-agent")},
	{"charts/pseudo-server/README.md", chartReadme("charts/pseudo-server")},
	{"charts/pod-agent/README.md", chartReadme("charts/pod-agent")},
	{"docs/metrics.md", metricsDocument},
	{"docs/openapi.yaml", openAPI},
	{"docs/img/architecture.svg", architecturePicture},
	{"docs/img/dashboard.svg", dashboardPicture},
	{"docs/img/election.svg", electionPicture},
	{"docs/img/states.svg", statesPicture},
}

func main() {
	check := flag.Bool("check", false, "only compare")
	flag.Parse()
	var errs []error
	for _, g := range generated {
		if err := update(g.path, g.make, *check); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func update(path string, generate func() ([]byte, error), check bool) error {
	want, err := generate()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	got, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read what is there: %w", err)
	}
	switch {
	case bytes.Equal(got, want):
		return nil
	case check:
		return fmt.Errorf("%s is not what its source says: run make generate", path)
	}
	if err := os.WriteFile(path, want, 0o644); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
