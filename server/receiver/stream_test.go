package receiver_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestStreamEndsWithItsToken replaces the token of one of two readers of a stream: that stream ends within a minute, the
// other goes on.
func TestStreamEndsWithItsToken(t *testing.T) {
	const former, lasting, next = "a-token-of-the-first-reader", "a-token-of-the-second-reader", "another-token-for-the-first"
	dir := t.TempDir()
	put := func(name, token string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		var access receiver.Access
		for name, token := range map[string]string{"first": former, "second": lasting} {
			known, err := receiver.NewToken(log, put(name, token))
			if err != nil {
				t.Fatal(err)
			}
			access.Users = append(access.Users, receiver.APIUser{Name: name, Role: receiver.RoleRead, Token: known})
		}
		recv := receiver.New(receiver.Options{Store: store.New(store.NewMemory(), store.Options{}), Logger: log, Access: access})
		api := recv.API(receiver.Route{
			Method: http.MethodGet, Path: "/stream", Role: receiver.RoleRead,
			Answer: func(*http.Request) (any, error) {
				return receiver.Stream(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }), nil
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		read := func(token string) <-chan struct{} {
			ended := make(chan struct{})
			req := httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/v1/stream", nil)
			req.Header.Set("Authorization", "Bearer "+token)
			go func() {
				defer close(ended)
				api.ServeHTTP(httptest.NewRecorder(), req)
			}()
			return ended
		}
		is := func(ended <-chan struct{}) bool {
			select {
			case <-ended:
				return true
			default:
				return false
			}
		}
		one, two := read(former), read(lasting)
		time.Sleep(10 * time.Minute)
		if is(one) || is(two) {
			t.Error("a stream has ended although its token is valid")
		}
		put("first", next)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !is(one) {
			t.Error("the stream whose token was replaced a minute ago goes on")
		}
		if is(two) {
			t.Error("the stream whose token is valid has ended")
		}
		cancel()
		<-one
		<-two
	})
}
