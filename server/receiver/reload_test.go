package receiver

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReload changes a file to something good, something bad and something good again.
func TestReload(t *testing.T) {
	var logged bytes.Buffer
	file := filepath.Join(t.TempDir(), "secret")
	put := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("one")
	r, err := newReloaded(slog.New(slog.NewTextHandler(&logged, nil)), []string{file}, func(contents [][]byte) (string, error) {
		if len(contents[0]) == 0 {
			return "", errors.New("it is empty")
		}
		return string(contents[0]), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	r.now = func() time.Time { return now }
	for _, step := range []struct {
		content, want string
		wait          time.Duration
		log           string
	}{
		{"two", "one", reloadEvery / 2, ""},
		{"two", "two", reloadEvery, "read again"},
		{"", "two", reloadEvery, "it is empty"},
		{"", "two", reloadEvery, ""},
		{"two", "two", reloadEvery, "in order again"},
		{"three", "three", reloadEvery, "read again"},
	} {
		put(step.content)
		now = now.Add(step.wait)
		logged.Reset()
		if got := r.get(); got != step.want {
			t.Errorf("after %q: got %q, want %q", step.content, got, step.want)
		}
		if got := logged.String(); (got == "") != (step.log == "") || !strings.Contains(got, step.log) {
			t.Errorf("after %q: got log %q, want %q", step.content, got, step.log)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	now = now.Add(reloadEvery)
	if got := r.get(); got != "three" {
		t.Errorf("after the file was removed: got %q, want what it held", got)
	}
}

func TestTokenFile(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	file := filepath.Join(t.TempDir(), "token")
	for content, good := range map[string]bool{"0123456789abcdef": true, " 0123456789abcdef\n": true, "short": false, "": false} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		token, err := NewToken(log, file)
		if (err == nil) != good {
			t.Errorf("%q: got %v, want good %v", content, err, good)
		}
		if err == nil && (!token.matches("0123456789abcdef") || token.matches("0123456789abcdeX") || token.matches("")) {
			t.Errorf("%q: matches something else than itself", content)
		}
		if err != nil && strings.Contains(err.Error(), "short") {
			t.Errorf("the message %q contains the token", err)
		}
	}
	if _, err := NewToken(log, file+".none"); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestServerTLSMistakes(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []TLSFiles{
		{CertFile: filepath.Join(dir, "none"), KeyFile: empty},
		{CertFile: empty, KeyFile: empty},
	} {
		cfg, err := ServerTLS(slog.New(slog.DiscardHandler), f, "h2")
		if err == nil || !strings.Contains(err.Error(), f.CertFile) {
			t.Errorf("got %v, %v, want an error that names %s", cfg, err, f.CertFile)
		}
	}
}
