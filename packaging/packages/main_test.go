package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// made makes the packages of a version of a program, which is a script that tells it, and returns the folder.
func made(t *testing.T, program, version, arch string) string {
	t.Helper()
	built, out := t.TempDir(), t.TempDir()
	script := "#!/bin/sh\necho " + program + " " + version + "\n"
	for name, text := range map[string]string{program: script, program + ".cdx.json": "{}"} {
		if err := os.WriteFile(filepath.Join(built, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{
		"-program", program, "-version", version, "-arch", arch, "-built", built, "-root", "../..",
		"-source", "https://code.example/pseudo-agent", "-created", "1700000000", "-o", out,
	}
	if err := run(args, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPackagesAreTheSameEachTime(t *testing.T) {
	for program := range about {
		for _, format := range []string{"deb", "rpm"} {
			name := program + "-v1.2.3-linux-arm64." + format
			first, err := os.ReadFile(filepath.Join(made(t, program, "v1.2.3", "arm64"), name))
			if err != nil {
				t.Fatal(err)
			}
			second, err := os.ReadFile(filepath.Join(made(t, program, "v1.2.3", "arm64"), name))
			if err != nil || !bytes.Equal(first, second) {
				t.Errorf("%s: made twice it differs (%v)", name, err)
			}
		}
	}
}

func TestVersions(t *testing.T) {
	for version, want := range map[string][3]string{
		"v1.2.3":             {"1.2.3", "", ""},
		"1.2.3-rc.1+build-5": {"1.2.3", "rc.1", "build.5"},
		"94baf87-dirty":      {"0.0.0", "94baf87.dirty", ""},
	} {
		release, pre, metadata := versions(version)
		if got := [3]string{release, pre, metadata}; got != want {
			t.Errorf("%s: got %q, want %q", version, got, want)
		}
	}
}

func TestMistakes(t *testing.T) {
	for want, args := range map[string][]string{
		"are needed":      {"-program", "pod-agent"},
		"no systemd unit": {"-program", "pseudo-server", "-version", "1", "-arch", "amd64", "-built", ".", "-root", "../..", "-o", t.TempDir()},
		"does not exist":  {"-program", "pod-agent", "-version", "1", "-arch", "amd64", "-built", t.TempDir(), "-root", "../..", "-o", t.TempDir()},
	} {
		if err := run(args, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", args, err, want)
		}
	}
}

// life is what becomes of a package in a machine: installed, enabled, configured, upgraded, removed. What is left is what
// the administrator has put there.
const life = `set -euo pipefail
files() { find /etc /usr/bin /usr/lib/systemd /usr/share/doc /var/lib -path /var/lib/dpkg -prune -o -path /var/lib/rpm -prune -o -path /usr/lib/sysimage -prune -o \( -type d -printf '%p %m\n' -o -printf '%p %m %s\n' \) | sort; }
files >/tmp/before
install "/packages/one/$1-v1.2.3-linux-$2.$3"
[[ $("/usr/bin/$1") = "$1 v1.2.3" ]]
systemctl enable "$1"
systemd-analyze verify --man=no "/usr/lib/systemd/system/$1.service"
mkdir -p "/etc/$1"
echo mine >"/etc/$1/config.yaml"
upgrade "/packages/two/$1-v1.10.0-rc.1-linux-$2.$3"
[[ $("/usr/bin/$1") = "$1 v1.10.0-rc.1" && $(cat "/etc/$1/config.yaml") = mine && $(systemctl is-enabled "$1") = enabled ]]
upgrade "/packages/three/$1-v1.10.0-linux-$2.$3"
[[ $("/usr/bin/$1") = "$1 v1.10.0" ]]
remove "$1"
[[ $(cat "/etc/$1/config.yaml") = mine ]]
rm -r "/etc/$1"
files >/tmp/after
diff /tmp/before /tmp/after
`

// TestPackagesInACleanRoot has dpkg and rpm do it, in a container with the host's files, none of which it can change.
func TestPackagesInACleanRoot(t *testing.T) {
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		t.Skip("systemd-nspawn is not installed (Debian's package systemd-container)")
	}
	if out, err := contained(t, nil, "true"); err != nil {
		t.Skipf("a container cannot be started here: %v\n%s", err, out)
	}
	for format, tools := range map[string]string{
		"deb": "install() { dpkg --install \"$1\"; }\nupgrade() { install \"$1\"; }\nremove() { dpkg --remove \"$1\"; }\n",
		// The machine has no database of rpm's in which the shell would be.
		"rpm": "install() { rpm --install --nodeps \"$1\"; }\nupgrade() { rpm --upgrade --nodeps \"$1\"; }\nremove() { rpm --erase \"$1\"; }\n",
	} {
		for program := range about {
			t.Run(format+"/"+program, func(t *testing.T) {
				if _, err := exec.LookPath(map[string]string{"deb": "dpkg", "rpm": "rpm"}[format]); err != nil {
					t.Skipf("%v", err)
				}
				binds := []string{
					"--bind-ro=" + made(t, program, "v1.2.3", runtime.GOARCH) + ":/packages/one",
					"--bind-ro=" + made(t, program, "v1.10.0-rc.1", runtime.GOARCH) + ":/packages/two",
					"--bind-ro=" + made(t, program, "v1.10.0", runtime.GOARCH) + ":/packages/three",
				}
				if out, err := contained(t, binds, tools+life, program, runtime.GOARCH, format); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			})
		}
	}
}

// contained runs a script in a container of its own.
func contained(t *testing.T, binds []string, script string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	const enter = `mount --bind / "$1"; exec systemd-nspawn --quiet --pipe --directory="$1" --volatile=overlay --register=no --keep-unit "${@:2}"`
	command := []string{"--mount", "--propagation", "private", "bash", "-euc", enter, "nspawn", t.TempDir()}
	command = append(append(command, binds...), "bash", "-c", script, "life")
	cmd := exec.CommandContext(ctx, "unshare", append(command, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}
