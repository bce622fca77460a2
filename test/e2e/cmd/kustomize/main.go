// Command kustomize makes the files of packaging/kustomize from the charts.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/kustomize"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "kustomize:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root, err := harness.Root()
	if err != nil {
		return err
	}
	helm, err := harness.BuildHelm(ctx, os.Stderr)
	if err != nil {
		return err
	}
	for _, chart := range kustomize.Charts {
		files, err := kustomize.Base(ctx, helm, root, chart)
		if err != nil {
			return err
		}
		dir := filepath.Join(root, kustomize.Dir, chart)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
