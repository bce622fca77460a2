package server

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestBackupWhileRunning takes a backup of a running daemon with the command, and starts another daemon on it. Only
// administrators may.
func TestBackupWhileRunning(t *testing.T) {
	dir := t.TempDir()
	tokens := map[string]string{"administer": filepath.Join(dir, "administer"), "read": filepath.Join(dir, "read")}
	cfg := testConfig(t)
	for role, file := range tokens {
		if err := os.WriteFile(file, []byte("0123456789abcdef-"+role), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg.Access.Tokens = append(cfg.Access.Tokens, config.TokenAccess{Name: role, Role: role, TokenFile: file})
	}
	log, _, stop := start(t, cfg, func(ctx context.Context) { <-ctx.Done() })
	line := log.wait(t, "pseudo-server runs")
	send(t, text(line["grpc"]), demoVersion, demo...)
	backup := func(to string, more ...string) (string, error) {
		var out bytes.Buffer
		cmd := NewCommand(operate.Build{Version: "test"})
		cmd.SetArgs(append([]string{"store", "backup", to, "--server", "http://" + text(line["http"])}, more...))
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	copied := filepath.Join(dir, "copy.db")
	for _, file := range []string{"", tokens["read"]} {
		if out, err := backup(copied, "--token-file", file); err == nil {
			t.Errorf("without the right to administer: got no error and %s", out)
		}
	}
	if out, err := backup(copied, "--token-file", tokens["administer"]); err != nil || !strings.Contains(out, "is a copy of the store") {
		t.Fatalf("got %v, %s", err, out)
	}
	if out, err := backup(copied, "--token-file", tokens["administer"]); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Errorf("a second one of that name: got %v, %s", err, out)
	}
	if status, _, body := ask(t, http.MethodGet, "http://"+text(line["http"])+"/api/v1/store", "0123456789abcdef-read", nil); status != http.StatusOK ||
		!strings.Contains(string(body), `"type":"embedded"`) || !strings.Contains(string(body), `"last_backup"`) {
		t.Errorf("GET /store: got %d %s", status, body)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(cfg.Store.Path), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("got %v, %v beside the store, want nothing", left, err)
	}
	stop()
	restored := testConfig(t)
	restored.Store.Path = filepath.Join(dir, "restored.db")
	if _, err := store.Restore(restored.Store.Path, copied, time.Now()); err != nil {
		t.Fatal(err)
	}
	log, _, stop = start(t, restored, func(ctx context.Context) { <-ctx.Done() })
	defer stop()
	line = log.wait(t, "pseudo-server runs")
	if status, _, body := ask(t, http.MethodGet, "http://"+text(line["http"])+"/api/v1/clusters/d-demo", "", nil); status != http.StatusOK {
		t.Errorf("the cluster in the backup: got %d %s", status, body)
	}
}
