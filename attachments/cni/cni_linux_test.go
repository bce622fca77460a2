package cni

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/attachments"
)

// plugins makes a folder with one plugin, a shell script.
func plugins(t *testing.T, script string, timeout time.Duration) (*Plugins, attachments.Attachment) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "test"), []byte("#!/bin/sh\ncd "+dir+"\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	config, err := Normalise([]byte(`{"cniVersion":"1.0.0","type":"test"}`), "green")
	if err != nil {
		t.Fatal(err)
	}
	return New(Options{Dirs: []string{dir}, CacheDir: filepath.Join(dir, "cache"), Timeout: timeout}), attachments.Attachment{
		Network: attachments.Network{Namespace: "shop", Name: "green", Interface: "net0"}, Sandbox: "s1", NetNS: "/none", Config: config,
	}
}

// A plugin that hangs is ended, and so are its children, one of which holds its output open.
func TestHangingPlugin(t *testing.T) {
	p, a := plugins(t, "sleep 1000 & echo $! > child; sleep 1000", time.Second)
	_, err := p.Add(t.Context(), a)
	own, ok := errors.AsType[*Error](err)
	if !ok || !own.TimedOut || !strings.Contains(err.Error(), "had not ended after 1s") {
		t.Fatalf("got %v, want a timeout", err)
	}
	text, err := os.ReadFile(filepath.Join(p.lib.Path[0], "child"))
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); runs(child); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d still runs", child)
		}
	}
}

// runs reports whether a process has not ended; one that nobody has waited for has.
func runs(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(text), ") Z ")
}

// What a plugin says of its failure is told in its words; what it writes is bounded.
func TestFailingPlugin(t *testing.T) {
	for script, want := range map[string]string{
		`echo '{"cniVersion":"1.0.0","code":11,"msg":"no address left","details":"in 10.1.0.0/24"}'; exit 1`: "CNI ADD: plugin type=\"test\" name=\"green\" failed (add): no address left; in 10.1.0.0/24",
		`echo broken >&2; exit 3`:           "exit status 3: broken",
		`head -c 3000000 /dev/zero`:         "wrote more than 1048576 bytes",
		`head -c 3000000 /dev/zero; exit 1`: "exit status 1",
		`echo '{"cniVersion":"1.0.0"'`:      "unexpected end of JSON",
	} {
		p, a := plugins(t, script, 20*time.Second)
		_, err := p.Add(t.Context(), a)
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 4096 {
			t.Errorf("%s: got %.300v, want %q", script, err, want)
		}
	}
}

// An orphan of an earlier process keeps the next one waiting until it has ended, but not longer than a plugin may take.
func TestClaimWaitsForOrphans(t *testing.T) {
	p, a := plugins(t, `(while [ ! -e go ]; do sleep 0.05; done) >/dev/null 2>&1 &
echo '{"cniVersion":"1.0.0"}'`, 20*time.Second)
	if err := p.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Add(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := p.run.held.Close(); err != nil { // as the end of the process does
		t.Fatal(err)
	}
	next := New(Options{CacheDir: p.cache, Timeout: 300 * time.Millisecond})
	if err := next.Claim(t.Context()); !errors.Is(err, ErrStillRunning) {
		t.Errorf("while the orphan runs: got %v, want ErrStillRunning", err)
	}
	if err := os.WriteFile(filepath.Join(p.lib.Path[0], "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	next = New(Options{CacheDir: p.cache, Timeout: 20 * time.Second})
	if err := next.Claim(t.Context()); err != nil {
		t.Errorf("after its end: got %v", err)
	}
}

func TestNodeConfig(t *testing.T) {
	dir := t.TempDir()
	if _, err := NodeConfig("", dir); err == nil || !strings.Contains(err.Error(), "holds no network configuration") {
		t.Errorf("an empty folder: got %v", err)
	}
	for name, text := range map[string]string{"20-b.conflist": `{"name":"b","cniVersion":"1.0.0","plugins":[{"type":"x"}]}`, "10-a.conf": `{"cniVersion":"0.4.0","type":"meta"}`, "00-readme": "none"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := NodeConfig("", dir)
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Name, CNIVersion string
		Plugins          []struct{ Type string }
	}
	if err := json.Unmarshal(got, &list); err != nil || list.Name != "10-a" || list.CNIVersion != "0.4.0" || len(list.Plugins) != 1 || list.Plugins[0].Type != "meta" {
		t.Errorf("got %s, want a list of 10-a.conf", got)
	}
}

// Whatever a definition holds, it is refused or it is a list that libcni reads.
func FuzzNormalise(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","type":"bridge"}`))
	f.Add([]byte(`{"name":"a","plugins":[{"type":"bridge"}]}`))
	f.Add([]byte(`{"name":7,"plugins":{}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := Normalise(data, "green")
		if err != nil {
			return
		}
		if _, _, err := prepare(attachments.Attachment{Config: config}); err != nil {
			t.Fatalf("%s: %v", config, err)
		}
	})
}
