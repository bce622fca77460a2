package upkeep

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// mostlyFree opens a file of which little is in use.
func mostlyFree(t *testing.T) *store.Embedded {
	t.Helper()
	e, err := store.OpenEmbedded(filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	ctx := context.Background()
	tx, err := store.New(e, store.Options{}).Begin(ctx, "large")
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	payload := bytes.Repeat([]byte("x"), smallest)
	in := []store.Incoming{{Payload: payload, Entry: &store.Entry{Sum: store.SumOf("x", payload), Type: "x", Size: uint32(len(payload))}}}
	if err := errors.Join(tx.Save(ctx, 1, store.Touch{}, in), tx.Forget(ctx)); err != nil {
		t.Fatal(err)
	}
	return e
}

// TestRun compacts a file that is mostly free, tells when it cannot, and leaves it alone where that is wanted.
func TestRun(t *testing.T) {
	turn := func(u *Upkeep) {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		u.opts.Beat = cancel // one turn
		if err := u.Run(ctx); err != nil {
			t.Error(err)
		}
	}
	e := mostlyFree(t)
	before, err := e.Usage()
	if err != nil {
		t.Fatal(err)
	}
	turn(New(Options{Backend: e, Logger: slog.New(slog.DiscardHandler)}))
	if now, err := e.Usage(); err != nil || now != before {
		t.Errorf("compacted although nobody wants it: %+v, %v", now, err)
	}
	u := New(Options{Backend: e, Compact: true, Logger: slog.New(slog.DiscardHandler)})
	u.note(nil, "no room")
	if p := u.Problems(); len(p) != 1 || p[0].Advice == "" {
		t.Errorf("got %+v, want a problem with advice", p)
	}
	u.look(context.Background())
	s := u.Status()
	if s.LastCompaction == nil || s.File.File > before.File/2 || s.Problem != "" || len(u.Problems()) != 0 {
		t.Errorf("got %+v", s)
	}
	if n := testutil.ToFloat64(u.metrics.compactions.WithLabelValues("done")); n != 1 {
		t.Errorf("got %v compactions, want 1", n)
	}
	closed := mostlyFree(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	u = New(Options{Backend: closed, Compact: true, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	u.look(context.Background())
	u.look(context.Background())
	if n := testutil.ToFloat64(u.metrics.compactions.WithLabelValues("failed")); n != 2 || u.Status().Problem == "" || strings.Count(logged.String(), "cannot be compacted") != 1 {
		t.Errorf("got %v failures, %+v and\n%s", n, u.Status(), logged.String())
	}
}

// TestBackupRefused: there is none of a store without a file, and one that cannot be made is answered with advice and when
// to try again.
func TestBackupRefused(t *testing.T) {
	u := New(Options{Backend: store.NewMemory(), Logger: slog.New(slog.DiscardHandler)})
	if _, err := u.apiBackup(nil); err == nil {
		t.Error("a backup of a store in memory")
	}
	e := mostlyFree(t)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	u = New(Options{Backend: e, Logger: slog.New(slog.DiscardHandler)})
	w := httptest.NewRecorder()
	u.serveBackup(w, httptest.NewRequest(http.MethodGet, "/", nil))
	body, err := io.ReadAll(w.Body)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(string(body), `"advice":"`) || err != nil {
		t.Errorf("got %d %v %s, %v", w.Code, w.Header(), body, err)
	}
}

// TestStandbyIsTold: that a standby is passed over is one line, however often and why, and so is its end.
func TestStandbyIsTold(t *testing.T) {
	var log bytes.Buffer
	u := New(Options{Backend: store.NewMemory(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for _, use := range []*store.StandbyUse{nil, {Reads: 1}, {Reason: "what it has is 70 s old"}, {Reason: "what it has is 80 s old"}, {Reads: 2}, {Reads: 3}} {
		u.tellStandby(use)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "70 s old") || !strings.Contains(lines[1], "again") {
		t.Errorf("got %q, want when it began and when it ended", lines)
	}
}
