package packaging

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// actionlint is run from its module, as all tools are.
const actionlint = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"

type workflow struct {
	On          any               `json:"on"`
	Permissions map[string]string `json:"permissions"`
	Jobs        map[string]job    `json:"jobs"`
	Defaults    struct {
		Run struct {
			Shell string `json:"shell"`
		} `json:"run"`
	} `json:"defaults"`
}

type job struct {
	Permissions map[string]string `json:"permissions"`
	Uses        string            `json:"uses"`
	Timeout     int               `json:"timeout-minutes"`
	Env         map[string]string `json:"env"`
	Steps       []step            `json:"steps"`
}

type step struct {
	Name string            `json:"name"`
	Uses string            `json:"uses"`
	With map[string]any    `json:"with"`
	Run  string            `json:"run"`
	Env  map[string]string `json:"env"`
}

// workflows are those of the repository by the names of their files.
func workflows(t *testing.T) map[string]workflow {
	t.Helper()
	files, err := filepath.Glob("../.github/workflows/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows: %v", err)
	}
	out := map[string]workflow{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var w workflow
		// A key "on" is the truth in YAML 1.1.
		if err := yaml.Unmarshal(regexp.MustCompile(`(?m)^on:`).ReplaceAll(text, []byte(`"on":`)), &w); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out[filepath.Base(file)] = w
	}
	return out
}

// TestWorkflowsAreValid has actionlint look at them: syntax, expressions, types, and what texts of others get into shells.
func TestWorkflowsAreValid(t *testing.T) {
	files, err := filepath.Glob("../.github/workflows/*")
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"run", actionlint, "-shellcheck=", "-pyflakes="}, files...)
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Errorf("actionlint: %v\n%s", err, out)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	text := "on: push\njobs: {a: {runs-on: ubuntu-24.04, steps: [{run: 'echo ${{ github.event.pull_request.title }}'}]}}\n"
	if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "run", actionlint, "-shellcheck=", "-pyflakes=", bad).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("untrusted")) {
		t.Errorf("actionlint does not see a title in a shell: %v\n%s", err, out)
	}
}

// pinned is an action by its digest, with the version that a person reads.
var pinned = regexp.MustCompile(`^\s*-? ?uses: ([\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\.github/workflows/[\w.]+)$`)

// mayWrite are the permissions beyond reading the repository, by workflow and job, with their reason in the workflow.
var mayWrite = map[string][]string{"release.yaml/release": {"attestations", "contents", "id-token", "packages"}}

// TestWorkflowsAreConfined: actions are pinned by digest, no job may more than it needs, no credentials stay in a checkout,
// nobody's text becomes a command, every job ends, and what fails is seen.
func TestWorkflowsAreConfined(t *testing.T) {
	for name, w := range workflows(t) {
		text, err := os.ReadFile(filepath.Join("../.github/workflows", name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "uses:") && !pinned.MatchString(strings.TrimRight(line, "\n")) {
				t.Errorf("%s: not pinned by digest with its version: %s", name, line)
			}
		}
		if w.Permissions == nil || len(w.Permissions) > 0 {
			t.Errorf("%s: permissions of all jobs are %v, want none", name, w.Permissions)
		}
		if w.Defaults.Run.Shell != "bash" {
			t.Errorf("%s: a command that fails before a | would go unnoticed", name)
		}
		if strings.Contains(string(text), "pull_request_target") {
			t.Errorf("%s: pull_request_target gives the code of others a token", name)
		}
		for id, j := range w.Jobs {
			confined(t, name+"/"+id, j)
		}
	}
}

func confined(t *testing.T, where string, j job) {
	t.Helper()
	var writes []string
	for scope, access := range j.Permissions {
		if access == "write" {
			writes = append(writes, scope)
		} else if scope != "contents" || access != "read" {
			t.Errorf("%s: %s: %s", where, scope, access)
		}
	}
	slices.Sort(writes)
	if !slices.Equal(writes, mayWrite[where]) {
		t.Errorf("%s may write %q, want %q", where, writes, mayWrite[where])
	}
	if j.Uses == "" && j.Timeout == 0 {
		t.Errorf("%s has no timeout-minutes", where)
	}
	for _, s := range j.Steps {
		if strings.HasPrefix(s.Uses, "actions/checkout@") && s.With["persist-credentials"] != false {
			t.Errorf("%s: the checkout keeps its credentials", where)
		}
		if strings.Contains(s.Run, "${{") {
			t.Errorf("%s: %q puts a text into the shell; use env", where, s.Name)
		}
	}
}

// steps are what the workflows run, by the steps' names, and the calls of other programs that each makes: those outside of
// this machine, and the long ones, are written down by a stand-in instead.
var steps = map[string]string{
	"all tests": "sudo env PATH=… .ci/run",
	"generated files, modules, formats, lint": "make verify",
	"a release twice, equal to the byte":      "make verify-release",
	"the changelog has the version":           "",
	"log in to the registry":                  "docker login ghcr.io --username someone --password-stdin <<< a-token",
	"make and push":                           "make release VERSION=v1.2.3 PUSH=ghcr.io/some/where/",
	"sign what was pushed, by its digest":     "cosign sign --yes ghcr.io/some/where/a:v1.2.3@sha256:1\ncosign sign --yes ghcr.io/some/where/b:v1.2.3@sha256:2",
	"sign the checksums":                      "cosign sign-blob --yes --bundle dist/SHA256SUMS.sigstore.json dist/SHA256SUMS",
	"list what is attested":                   "",
	"publish":                                 "gh release create v1.2.3 --verify-tag --title v1.2.3 --notes-file notes.md dist/SHA256SUMS",
}

const standIn = `#!/bin/bash
said="$(basename "$0") $*"
[[ $said = *--password-stdin* ]] && said+=" <<< $(cat)"
echo "${said//PATH=$PATH/PATH=…}" >>"$CALLS"
[[ $said = "make release "* ]] && printf 'built  x\npushed  ghcr.io/some/where/a:v1.2.3@sha256:1\npushed  ghcr.io/some/where/b:v1.2.3@sha256:2\n'
true
`

// TestWorkflowsRunWhatIsMeant runs every step of every workflow in the shell that GitHub uses, one after the other.
func TestWorkflowsRunWhatIsMeant(t *testing.T) {
	dir, bin := t.TempDir(), t.TempDir()
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"sudo", "make", "docker", "cosign", "gh"} {
		write(filepath.Join(bin, program), standIn, 0o700)
	}
	if err := os.Mkdir(filepath.Join(dir, "dist"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "dist/SHA256SUMS"), "0  a.tar.gz\n", 0o600)
	write(filepath.Join(dir, "CHANGELOG.md"), "# Changes\n\n## Unreleased\n\n- later\n\n## 1.2.3\n\n### Added\n\n- this\n\n## 1.2.2\n\n- before\n", 0o600)
	seen := map[string]bool{}
	for name, w := range workflows(t) {
		for id, j := range w.Jobs {
			for _, s := range j.Steps {
				if s.Run == "" {
					continue
				}
				seen[s.Name] = true
				calls := filepath.Join(t.TempDir(), "calls")
				run := func(version string) ([]byte, error) {
					cmd := exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", s.Run)
					cmd.Dir = dir
					cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "CALLS=" + calls, "GITHUB_ACTOR=someone"}
					for _, env := range []map[string]string{j.Env, s.Env} {
						for key, value := range env {
							cmd.Env = append(cmd.Env, key+"="+strings.NewReplacer("${{ github.token }}", "a-token", "${{ github.ref_name }}", version,
								"${{ github.repository }}", "Some/Where").Replace(value))
						}
					}
					return cmd.CombinedOutput()
				}
				if s.Name == "the changelog has the version" {
					if out, err := run("v1.2"); err == nil {
						t.Errorf("%s/%s: a version that is not in the changelog goes on: %s", name, id, out)
					}
				}
				if out, err := run("v1.2.3"); err != nil {
					t.Errorf("%s/%s: %s: %v\n%s", name, id, s.Name, err, out)
				}
				got, err := os.ReadFile(calls)
				if errors.Is(err, os.ErrNotExist) {
					err = nil // it calls nothing
				}
				if want, known := steps[s.Name]; !known || err != nil || strings.TrimSpace(string(got)) != want {
					t.Errorf("%s/%s: %s runs\n%swant\n%s (%v)", name, id, s.Name, got, want, err)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(steps)) {
		if !seen[name] {
			t.Errorf("no workflow has the step %q", name)
		}
	}
	if notes, err := os.ReadFile(filepath.Join(dir, "notes.md")); err != nil || strings.TrimSpace(string(notes)) != "### Added\n\n- this" {
		t.Errorf("the notes of the release are %q (%v), want those of its version alone", notes, err)
	}
	const subjects = "0  a.tar.gz\n1  ghcr.io/some/where/a:v1.2.3\n2  ghcr.io/some/where/b:v1.2.3\n"
	if got, err := os.ReadFile(filepath.Join(dir, "subjects")); err != nil || string(got) != subjects {
		t.Errorf("attested are %q (%v), want the files and what was pushed: %q", got, err, subjects)
	}
}
