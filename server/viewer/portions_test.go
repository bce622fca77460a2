package viewer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// counting knows how many payloads were asked for at once.
type counting struct {
	*store.Memory

	most atomic.Int64
}

// Payloads implements store.Backend.
func (c *counting) Payloads(ctx context.Context, id string, rows []uint64) ([][]byte, error) {
	c.most.Store(max(c.most.Load(), int64(len(rows))))
	return c.Memory.Payloads(ctx, id, rows)
}

// TestPortions: large Pods are not decompressed all at once, neither for their inventory nor for the test of a plugin.
func TestPortions(t *testing.T) {
	backend := &counting{Memory: store.NewMemory()}
	r := newRigOn(t, backend)
	report := []string{"*version.Info", `{"gitVersion":"v1.36.0"}`}
	const pods, mib = 40, 16
	for i := range pods {
		report = append(report, "*v1.Pod", fmt.Sprintf(`{"metadata":{"uid":"u%d","name":"p%d","namespace":"ns","annotations":{"a":%q}}}`, i, i, strings.Repeat("x", 1<<20)))
	}
	r.save(t, "d-a", 1, report...)
	api := receiver.New(receiver.Options{
		Store: r.store, Logger: slog.New(slog.DiscardHandler), Access: receiver.Access{Anonymous: receiver.RoleAdminister, Hosts: []string{"example.com"}},
	}).API(r.view.Routes()...)
	ask := func(method, path, body string) (answer struct{ Pods int }) {
		t.Helper()
		var w *httptest.ResponseRecorder // the limit of the rig's server is too short
		for range 20 {
			w = httptest.NewRecorder()
			api.ServeHTTP(w, httptest.NewRequest(method, receiver.APIPrefix+path, strings.NewReader(body)))
			if w.Code != http.StatusServiceUnavailable { // as it says of itself on a busy machine: try again
				break
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%s %s: got %d %.200s, %v", method, path, w.Code, w.Body, err)
		}
		return answer
	}
	ask(http.MethodGet, "/clusters/d-a/inventory", "")
	if got := backend.most.Load(); got > mib {
		t.Errorf("inventory: got %d Pods of 1 MiB at once, want at most %d", got, mib)
	}
	backend.most.Store(0)
	tested := ask(http.MethodPost, "/clusters/d-a/plugin-test", `{"script":"function GetWorkloadTypeAndName(s) return \"\", \"\" end"}`).Pods
	if got := backend.most.Load(); got > mib || tested != pods {
		t.Errorf("test of a plugin: got %d Pods of 1 MiB at once and %d in all, want at most %d and %d", got, tested, mib, pods)
	}
}
