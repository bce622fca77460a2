package main

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var today = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// proxied writes a version of a module, with one package, as a module proxy serves it.
func proxied(t *testing.T, proxy, module, version, date, gomod, source string) {
	t.Helper()
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	for name, content := range map[string]string{"go.mod": gomod, "p.go": source} {
		w, err := z.Create(module + "@" + version + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(proxy, module, "@v")
	list, _ := os.ReadFile(filepath.Join(dir, "list"))
	for name, content := range map[string]string{
		version + ".info": fmt.Sprintf(`{"Version": %q, "Time": "%sT00:00:00Z"}`, version, date),
		version + ".mod":  gomod, version + ".zip": archive.String(), "list": string(list) + version + "\n",
	} {
		write(t, filepath.Join(dir, name), content)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestGoCommand asks the real go command about modules of a proxy that is a folder: one version was retracted later, one module is
// deprecated, one is old, and one that only another imports is deprecated, too.
func TestGoCommand(t *testing.T) {
	proxy := t.TempDir()
	const plain = "package p\n"
	proxied(t, proxy, "example.com/taken", "v1.0.0", "2026-01-01", "module example.com/taken\n", plain)
	proxied(t, proxy, "example.com/taken", "v1.0.1", "2026-02-01", "module example.com/taken\n\nretract v1.0.0 // loses data\n", plain)
	proxied(t, proxy, "example.com/given-up", "v1.0.0", "2026-01-01", "// Deprecated: use example.com/next.\nmodule example.com/given-up\n", plain)
	proxied(t, proxy, "example.com/old", "v1.0.0", "2019-01-01", "module example.com/old\n", plain)
	proxied(t, proxy, "example.com/good", "v1.0.0", "2019-01-01", "module example.com/good\n\nrequire example.com/inner v1.0.0\n", "package p\n\nimport _ \"example.com/inner\"\n")
	proxied(t, proxy, "example.com/good", "v1.1.0", "2026-01-01", "module example.com/good\n", plain)
	proxied(t, proxy, "example.com/inner", "v1.0.0", "2019-01-01", "// Deprecated: it was for us only.\nmodule example.com/inner\n", plain)

	root := t.TempDir()
	t.Chdir(root)
	t.Setenv("GOPROXY", "file://"+filepath.ToSlash(proxy))
	t.Setenv("GOMODCACHE", filepath.Join(root, "cache"))
	t.Setenv("GOFLAGS", "-mod=mod -modcacherw")
	for key, value := range map[string]string{"GOSUMDB": "off", "GONOSUMDB": "*", "GONOPROXY": "none", "GOPRIVATE": "", "GOWORK": "off"} {
		t.Setenv(key, value)
	}
	write(t, "docs/dependencies.md", "# Dependencies\n")
	write(t, "ours/go.mod", `module example.com/ours

require (
	example.com/taken v1.0.0
	example.com/given-up v1.0.0
	example.com/old v1.0.0
	example.com/good v1.0.0
)

require example.com/inner v1.0.0 // indirect
`)
	write(t, "ours/p.go", "package p\n\nimport (\n\t_ \"example.com/given-up\"\n\t_ \"example.com/good\"\n\t_ \"example.com/old\"\n\t_ \"example.com/taken\"\n)\n")

	var out strings.Builder
	err := run(t.Context(), []string{"ours"}, today, &out)
	want := `ours: example.com/given-up is deprecated: use example.com/next.
ours: example.com/old has had no release since 2019-01-01: replace it, or say in docs/dependencies.md, "Without a release for three years", why it needs none
ours: example.com/taken v1.0.0 is retracted: loses data; the newest version is v1.0.1`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if want := "ours: example.com/inner is deprecated: it was for us only. (imported by others only)\n"; out.String() != want {
		t.Errorf("told %q, want %q", out.String(), want)
	}
}

func TestJudge(t *testing.T) {
	for name, tt := range map[string]struct {
		list, document string
		want           []string // parts of the faults
	}{
		"good":            {list: `{"Path": "a", "Version": "v1.0.0", "Time": "2024-01-01T00:00:00Z"}`},
		"no time":         {list: `{"Path": "a", "Version": "v1.0.0"}`},
		"newer":           {list: `{"Path": "a", "Version": "v1.0.0", "Time": "2013-01-01T00:00:00Z", "Update": {"Version": "v2", "Time": "2026-01-01T00:00:00Z"}}`},
		"old, of others":  {list: `{"Path": "a", "Version": "v1.0.0", "Time": "2013-01-01T00:00:00Z", "Indirect": true}`},
		"retracted twice": {list: `{"Path": "a", "Version": "v1.0.0", "Retracted": ["x", "y"], "Indirect": true}`, want: []string{"a v1.0.0 is retracted: x; y"}},
		"old": {
			list: `{"Path": "a", "Version": "v1.0.0", "Time": "2013-01-01T00:00:00Z"}` + "\n" + `{"Path": "b", "Version": "v1.0.0", "Time": "2013-01-01T00:00:00Z"}`,
			want: []string{"a has had no release since 2013-01-01", "b has had no release since 2013-01-01"},
		},
		"old, with a reason": {
			list:     `{"Path": "a", "Version": "v1.0.0", "Time": "2013-01-01T00:00:00Z"}`,
			document: heading + "\n- `a`: it is done\n",
		},
		"old, with a reason elsewhere": {
			list:     `{"Path": "a", "Version": "v1.0.0", "Time": "2013-01-01T00:00:00Z"}`,
			document: heading + "\n- `b`: it is done\n\n## Others\n\n- `a`: x\n",
			want:     []string{"a has had no release"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			deps, err := parse([]byte(tt.list))
			if err != nil {
				t.Fatal(err)
			}
			faults, _ := judge(deps, today, complete(tt.document))
			if len(faults) != len(tt.want) {
				t.Fatalf("got %q, want %q", faults, tt.want)
			}
			for i, f := range faults {
				if !strings.Contains(f, tt.want[i]) {
					t.Errorf("got %q, want it to have %q", f, tt.want[i])
				}
			}
		})
	}
	if _, err := parse([]byte(`{"Path": "a"} {"Path"`)); err == nil {
		t.Error("half an object is taken")
	}
}

// TestReasonsAreNeeded: a module with a reason that is not there, or has a release again, is to be taken from the list.
func TestReasonsAreNeeded(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "docs/dependencies.md", heading+"\n- `example.com/gone`: it was done\n")
	if err := run(t.Context(), nil, today, &strings.Builder{}); err == nil || !strings.Contains(err.Error(), "example.com/gone is listed") {
		t.Errorf("got %v, want the module that nobody imports", err)
	}
}
