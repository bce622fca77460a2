package viewer_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

// TestReadersGiveUp lets the storage hang in the middle of an update of an inventory, which Run or a reader itself has
// begun: whoever reads gets 503 with advice within 15 seconds, and the new version as soon as the storage works again.
func TestReadersGiveUp(t *testing.T) {
	for name, running := range map[string]bool{"update by Run": true, "update by a reader": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { readersGiveUp(t, running) })
		})
	}
}

func readersGiveUp(t *testing.T, running bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	backend := &silent{Memory: store.NewMemory(), asked: make(chan struct{}, 1)}
	kept := store.New(backend, store.Options{Keep: 3})
	log := slog.New(slog.DiscardHandler)
	plugins, err := plugin.Open(ctx, plugin.Options{Store: viewer.PluginStore(backend)})
	if err != nil {
		t.Fatal(err)
	}
	view := viewer.New(viewer.Options{Store: kept, Plugins: plugins, Logger: log})
	recv := receiver.New(receiver.Options{Store: kept, Logger: log, Access: receiver.Access{Anonymous: receiver.RoleRead, Hosts: []string{"example.com"}}})
	api := recv.API(view.Routes()...)
	done := make(chan error, 1)
	run := func() { go func() { done <- view.Run(ctx) }() }
	if running {
		run()
	}
	read := func(want int) {
		t.Helper()
		answer := httptest.NewRecorder()
		begun := time.Now()
		api.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/api/v1/clusters/d-a/inventory", nil))
		var body struct {
			Error, Advice string
		}
		if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); answer.Code != want || took > 15*time.Second {
			t.Errorf("got %d %s after %s, want %d within 15 s", answer.Code, answer.Body, took, want)
		}
		if want != http.StatusOK && (body.Error == "" || body.Advice == "") {
			t.Errorf("got %s, want an error with advice", answer.Body)
		}
	}
	r := &rig{store: kept}
	r.save(t, "d-a", 1, "*version.Info", `{"gitVersion":"v1.36.0"}`)
	read(http.StatusOK)
	backend.hangs.Store(true)
	r.save(t, "d-a", 2, "*version.Info", `{"gitVersion":"v1.36.1"}`)
	if running {
		<-backend.asked
	}
	read(http.StatusServiceUnavailable)
	read(http.StatusServiceUnavailable)
	backend.hangs.Store(false)
	time.Sleep(2 * store.Patience)
	read(http.StatusOK)
	if !running {
		run()
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: got %v, want nil", err)
	}
	plugins.Close()
}
