package server

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestScopedTokens: a token of some clusters opens every route of these, and no route of any other; lists have only these, and
// what concerns all is refused.
func TestScopedTokens(t *testing.T) {
	const secret = "0123456789abcdef"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config.DefaultServer()
	cfg.Access.Tokens = []config.TokenAccess{{Name: "alice", Role: "administer", TokenFile: file, Clusters: []string{"d-mine"}}}
	log := slog.New(slog.DiscardHandler)
	who, err := access(&cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{cfg: &cfg, log: log}
	backend := store.NewMemory()
	parts, err := d.assemble(t.Context(), backend, prometheus.NewRegistry(), receiver.Options{Access: who})
	if err != nil {
		t.Fatal(err)
	}
	defer parts.close()
	kept := store.New(backend, store.Options{Keep: 1})
	for _, id := range []string{"d-mine", "d-other"} {
		if _, err := parts.elector.Sync(t.Context(), "10.0.0.1:1", &agent.SyncRequest{KubernetesClusterId: new(id), Host: new("h")}); err != nil {
			t.Fatal(err)
		}
		tx, err := kept.Begin(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Touch(t.Context(), store.Touch{}); err != nil {
			t.Fatal(err)
		}
		tx.Close()
	}
	routes := slices.Concat(parts.receiver.Routes(), parts.fleet.Routes(), parts.elector.Routes(), parts.viewer.Routes())
	api := parts.receiver.API(slices.Concat(parts.fleet.Routes(), parts.elector.Routes(), parts.viewer.Routes())...)
	ask := func(method, path string) (int, string) {
		req := httptest.NewRequest(method, "http://localhost"+receiver.APIPrefix+path, strings.NewReader("{}"))
		req.Header.Set("Authorization", "Bearer "+secret)
		w := httptest.NewRecorder()
		api.ServeHTTP(w, req)
		return w.Code, w.Body.String()
	}
	seen := 0
	for _, r := range routes {
		path := strings.NewReplacer("{kind}", "pods", "{name}", "p").Replace(r.Path)
		code, body := ask(r.Method, strings.ReplaceAll(path, "{cluster}", "d-other"))
		switch {
		case r.Filtered:
			seen++
			if code != http.StatusOK || strings.Contains(body, "d-other") {
				t.Errorf("%s %s: got %d %s, want nothing of d-other", r.Method, r.Path, code, body)
			}
			if r.Path != "/events" && r.Path != "/fleet" && !strings.Contains(body, "d-mine") {
				t.Errorf("%s %s: got %s, want d-mine", r.Method, r.Path, body)
			}
		case code != http.StatusForbidden:
			t.Errorf("%s %s of another cluster, or of all: got %d, want 403", r.Method, r.Path, code)
		}
		if !strings.Contains(path, "{cluster}") || strings.HasSuffix(path, "/changes") || r.Method == http.MethodDelete && r.Path == "/clusters/{cluster}" {
			continue
		}
		if code, body := ask(r.Method, strings.ReplaceAll(path, "{cluster}", "d-mine")); code == http.StatusForbidden || code == http.StatusUnauthorized {
			t.Errorf("%s %s of its own cluster: got %d %s", r.Method, r.Path, code, body)
		}
	}
	if code, _ := ask(http.MethodDelete, "/clusters/d-mine"); code != http.StatusOK || seen != 4 {
		t.Errorf("deleting its own cluster gets %d, want 200; %d routes are filtered, want 4", code, seen)
	}
}
