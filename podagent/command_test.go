package podagent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/operate"
)

// TestCheckNamesWhatIsLacking on a machine that has nothing.
func TestCheckNamesWhatIsLacking(t *testing.T) {
	dir := t.TempDir()
	cmd := NewCommand(operate.NewBuild("v1", ""))
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{
		"check", "--node-name", "node-1", "--cri-socket", filepath.Join(dir, "none.sock"), "--cni-bin-dirs", filepath.Join(dir, "bin"), "--cni-config-dir", dir,
		"--state-dir", filepath.Join(dir, "state"), "--kubernetes-kubeconfig", filepath.Join(dir, "none"),
	})
	if err := cmd.ExecuteContext(t.Context()); err == nil {
		t.Error("got no error, want one")
	}
	for _, want := range []string{"LACKING  container runtime: ", "LACKING  plugins: cni.bin_dirs", "LACKING  network configuration: cni.config_dir", "LACKING  apiserver: kubernetes.kubeconfig"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got\n%s\nwant %q", &out, want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("check left %v, %v", entries, err)
	}
}

// TestMistakesAreNamed: the configuration's habits are those of the other programs.
func TestMistakesAreNamed(t *testing.T) {
	cmd := NewCommand(operate.NewBuild("v1", ""))
	cmd.SetArgs([]string{"run", "--network-source", "multus", "--work-parallel", "0"})
	err := cmd.ExecuteContext(t.Context())
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"network_source", "work.parallel", "node_name"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
