package apiclient

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDo(t *testing.T) {
	var got struct{ method, path, token, body string }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got.method, got.path, got.token, got.body = r.Method, r.URL.EscapedPath(), r.Header.Get("Authorization"), string(b)
		switch {
		case strings.HasSuffix(r.URL.Path, "/refused"):
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"error":"no","advice":"ask"}`)
		case strings.HasSuffix(r.URL.Path, "/other"):
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, "<html>")
		case strings.HasSuffix(r.URL.Path, "/html"):
			_, _ = io.WriteString(w, "<html>")
		default:
			_, _ = io.WriteString(w, `{"n":7}`)
		}
	}))
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Server: server.URL + "/", TokenFile: token, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var out struct{ N int }
	if err := c.Do(t.Context(), http.MethodPost, []string{"watchers", "a/b"}, map[string]int{"x": 1}, &out); err != nil || out.N != 7 {
		t.Errorf("got %+v, %v, want 7", out, err)
	}
	if got.method != "POST" || got.path != "/api/v1/watchers/a%2Fb" || got.token != "Bearer secret" || got.body != `{"x":1}` {
		t.Errorf("got request %+v", got)
	}
	var refusal *Error
	if err := c.Do(t.Context(), http.MethodGet, []string{"refused"}, nil, &out); !errors.As(err, &refusal) || refusal.Status != 403 || refusal.Advice != "ask" {
		t.Errorf("got %v, want the server's refusal", err)
	}
	if err := c.Do(t.Context(), http.MethodGet, []string{"other"}, nil, nil); !errors.As(err, &refusal) || refusal.Status != 404 {
		t.Errorf("got %v, want 404", err)
	}
	if err := c.Do(t.Context(), http.MethodGet, []string{"html"}, nil, &out); err == nil || !strings.Contains(err.Error(), "pseudo-server?") {
		t.Errorf("got %v, want a doubt that it is a pseudo-server", err)
	}
}

func TestNewRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		opts Options
		want string
	}{
		{Options{Server: "localhost:20080"}, "--server"},
		{Options{Server: "http://"}, "--server"},
		{Options{Server: DefaultServer, TokenFile: empty + "-not-there"}, "--token-file"},
		{Options{Server: DefaultServer, TokenFile: empty}, "is empty"},
		{Options{Server: DefaultServer, CAFile: empty}, "--ca-file"},
	} {
		if _, err := New(tt.opts); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want an error with %q", tt.opts, err, tt.want)
		}
	}
}
