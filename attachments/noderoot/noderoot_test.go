package noderoot

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRoot(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"run/netns", "var", "opt/real/bin"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"var/run": "/run", "opt/cni": "/opt/real", "opt/up": "../../../../../../etc", "opt/real/bin/bridge": "/opt/real/bin/multi"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r := Root(dir)
	for path, want := range map[string][2]string{
		"/var/run/netns/cni-1": {"/run/netns/cni-1", "/run/netns/cni-1"},
		"/opt/cni/bin/bridge":  {"/opt/real/bin/bridge", "/opt/real/bin/multi"},
		"/opt/up/passwd":       {"/etc/passwd", "/etc/passwd"},
		"/../x":                {"/x", "/x"},
	} {
		at, err := r.Path(path)
		followed, errFollow := r.Follow(path)
		if err != nil || errFollow != nil || at != dir+want[0] || followed != dir+want[1] || r.Inside(at) != want[0] {
			t.Errorf("%s: got %s and %s (%v, %v), want %s and %s", path, at, followed, err, errFollow, want[0], want[1])
		}
	}
	own := Root("")
	if at, err := own.Path("/a/../b"); err != nil || at != "/a/../b" || own.Inside("/b") != "/b" {
		t.Errorf("without a root: got %s, %v", at, err)
	}
}
