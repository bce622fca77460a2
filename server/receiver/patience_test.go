package receiver_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// mute is a shared database that takes questions and never answers.
type mute struct{ *store.Memory }

// Shared implements store.Backend.
func (mute) Shared() bool { return true }

// State implements store.Backend.
func (mute) State(ctx context.Context, _ string) (store.State, error) {
	<-ctx.Done()
	return store.State{}, ctx.Err()
}

// TestAPIGivesUp: whoever reads from a database that does not answer is told so within 15 seconds.
func TestAPIGivesUp(t *testing.T) {
	for _, path := range []string{"/clusters/c", "/clusters/c/objects", "/clusters/c/versions"} {
		synctest.Test(t, func(t *testing.T) {
			recv := receiver.New(receiver.Options{
				Store: store.New(mute{store.NewMemory()}, store.Options{}), Logger: slog.New(slog.DiscardHandler),
				Access: receiver.Access{Anonymous: receiver.RoleRead, Hosts: []string{"example.com"}},
			})
			answer := httptest.NewRecorder()
			begun := time.Now()
			recv.API().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, receiver.APIPrefix+path, nil))
			var body receiver.APIError
			if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); answer.Code != http.StatusServiceUnavailable || took > 15*time.Second || body.Message == "" || body.Advice == "" ||
				answer.Header().Get("Retry-After") == "" {
				t.Errorf("GET %s: got %d %+v after %s, want 503 with Retry-After and advice within 15 s", path, answer.Code, body, took)
			}
		})
	}
}

// TestReportGivesUp: a sender whose report waits for a database that does not answer is told so, and not to look at the
// network.
func TestReportGivesUp(t *testing.T) {
	r := newRig(t, receiver.Options{
		Store: store.New(mute{store.NewMemory()}, store.Options{}), Limits: receiver.Limits{RequestTimeout: 300 * time.Millisecond},
	})
	_, err := r.agent.KubernetesAPISync(context.Background(), report(1, 1, versionEntry(t)))
	if status.Code(err) != codes.DeadlineExceeded || !strings.Contains(err.Error(), "storage") {
		t.Errorf("got %v, want DEADLINE_EXCEEDED that names the storage", err)
	}
}
