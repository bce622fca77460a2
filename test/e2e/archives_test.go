package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// archived are the names of the files in a packed chart, sorted.
func archived(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "bash", "-eo", "pipefail", "-c", `tar --list --gzip --file "$0" | LC_ALL=C sort`, file).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", file, err, out)
	}
	return string(out)
}

// TestChartArchives: what a release packs of a chart is what Helm would pack, and Helm takes it.
func TestChartArchives(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := buildHelm()
	if err != nil {
		t.Fatal(err)
	}
	for _, chart := range []string{"pseudo-agent", "pseudo-server", "pod-agent"} {
		ours, helms := t.TempDir(), t.TempDir()
		pack := exec.CommandContext(t.Context(), "go", "run", "./chart", "-chart", filepath.Join(root, "charts", chart), "-version", "v1.2.3+build.5", "-o", ours)
		pack.Dir = filepath.Join(root, "packaging", "image")
		if out, err := pack.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", chart, err, out)
		}
		archive := filepath.Join(ours, chart+"-v1.2.3+build.5-chart.tgz")
		mustRun(t, "", bin, "package", filepath.Join(root, "charts", chart), "--destination", helms, "--version", "1.2.3")
		if d := cmp.Diff(archived(t, filepath.Join(helms, chart+"-1.2.3.tgz")), archived(t, archive)); d != "" {
			t.Errorf("%s (-helm +ours):\n%s", chart, d)
		}
		const values = "config.server.addresses={s:20035}"
		mustRun(t, "", bin, "lint", "--strict", archive, "--set", values)
		text := mustRun(t, "", bin, "template", "x", archive, "--set", values)
		// Tags of images have no +.
		if !strings.Contains(text, "helm.sh/chart: "+chart+"-1.2.3_build.5\n") || !strings.Contains(text, "image: \""+chart+":v1.2.3_build.5\"\n") {
			t.Errorf("%s: neither the chart's version nor the image's tag is the release's:\n%.2000s", chart, text)
		}
	}
}
