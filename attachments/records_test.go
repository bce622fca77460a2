package attachments

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sampleRecord(id string, n int) *Record {
	r := &Record{UID: id, Namespace: "shop", Name: "web-0"}
	for i := range n {
		r.Put(Attachment{
			Network: Network{Namespace: "shop", Name: fmt.Sprintf("n%d", i), Interface: fmt.Sprintf("net%d", i)}, State: Attached, Sandbox: "abc", NetNS: "/var/run/netns/x",
			Config: json.RawMessage(`{"cniVersion":"1.0.0","name":"n"}`), Args: [][2]string{{"K8S_POD_NAME", "web-0"}}, Capabilities: map[string]any{"mac": "02:00:00:00:00:01"},
			Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		})
	}
	return r
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("a second process: got %v, want ErrLocked", err)
	}
	want := sampleRecord("uid-1", 2)
	for _, r := range []*Record{want, sampleRecord("uid-2", 1)} {
		if err := s.Save(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Save(&Record{UID: "uid-2"}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"bad.json": "{", "uid-3.json": `{"version":1,"uid":"uid-4"}`, "uid-5.json": `{"version":9,"uid":"uid-5"}`, "uid-6.new": "{"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, wrong, err := s.Load()
	if err != nil || len(wrong) != 3 || len(got) != 1 {
		t.Fatalf("got %d records, %v, %v, want one and three damaged files", len(got), wrong, err)
	}
	indent := cmp.Transformer("json", func(m json.RawMessage) any {
		var v any
		_ = json.Unmarshal(m, &v) // of the test's own
		return v
	})
	if d := cmp.Diff(want, got[0], indent); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if _, err := os.Stat(filepath.Join(dir, "uid-6.new")); err == nil {
		t.Error("what an ended process left half-written is still there")
	}
	if _, err := os.Stat(filepath.Join(dir, "bad.json")); err != nil {
		t.Error("a damaged record was removed, want it left for people")
	}
	for _, id := range []string{"", "../x", "a/b", "a.json", strings.Repeat("x", 65)} {
		if err := s.Save(sampleRecord(id, 1)); err == nil {
			t.Errorf("UID %q becomes a path name", id)
		}
	}
}

// TestKilledWhileSaving kills a process at any moment of its writing: afterwards there is the last record that it said to
// be durable, or the one that it was writing.
func TestKilledWhileSaving(t *testing.T) {
	if dir := os.Getenv("ATTACHMENTS_TEST_WRITER"); dir != "" {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; ; i++ {
			r := sampleRecord("uid-1", 8)
			r.Name = strconv.Itoa(i)
			if err := s.Save(r); err != nil {
				t.Fatal(err)
			}
			fmt.Println("saved", i)
		}
	}
	dir := t.TempDir()
	for round := range 20 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledWhileSaving$")
		cmd.Env = append(os.Environ(), "ATTACHMENTS_TEST_WRITER="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last := 0
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if n, err := strconv.Atoi(strings.TrimPrefix(lines.Text(), "saved ")); err == nil {
				last = n
			}
			if last == 5+round {
				_ = cmd.Process.Kill() // it may have failed; then it said less than was asked
			}
		}
		_ = cmd.Wait() // killed
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		got, wrong, err := s.Load()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err != nil || len(wrong) > 0 || len(got) != 1 {
			t.Fatalf("after %d: got %d records, %v, %v", last, len(got), wrong, err)
		}
		if n, _ := strconv.Atoi(got[0].Name); n != last && n != last+1 || len(got[0].Attachments) != 8 {
			t.Errorf("got record %s, want %d or the next", got[0].Name, last)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"uid":"a","attachments":[{"state":"attached","config":{}}]}`))
	f.Add([]byte(`{"version":1,"uid":"a","attachments":[{"state":"x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decode("a", data)
		if err == nil && (r.UID != "a" || r.Version != recordVersion) {
			t.Fatalf("got %+v", r)
		}
	})
}
