package receiver_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// stalled is a client that takes nothing of an answer until it is released.
type stalled struct {
	*httptest.ResponseRecorder
	release <-chan struct{}
}

func (s *stalled) Write(b []byte) (int, error) {
	<-s.release
	return s.ResponseRecorder.Write(b)
}

// encoded is an answer that takes until it is released to be encoded.
type encoded struct{ release <-chan struct{} }

func (e encoded) MarshalJSON() ([]byte, error) {
	<-e.release
	return []byte(`"done"`), nil
}

// TestAnswersAreBounded: however many clients ask for large answers and read them slowly or not at all, the answers that are held
// for them are bounded in bytes, small ones are still given, and so are large ones as soon as the slow clients are gone.
func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, memory = 1 << 20, 128 << 20 // of which answers have a 16th
		large, release := strings.Repeat("x", size), make(chan struct{})
		recv := receiver.New(receiver.Options{
			Store: store.New(store.NewMemory(), store.Options{}), Logger: slog.New(slog.DiscardHandler), Limits: receiver.Limits{Memory: memory},
			Access: receiver.Access{Anonymous: receiver.RoleRead},
		})
		route := func(path string, v any) receiver.Route {
			return receiver.Route{Method: http.MethodGet, Path: path, Role: receiver.RoleRead, Answer: func(*http.Request) (any, error) { return v, nil }}
		}
		api := recv.API(route("/large", large), route("/tiny", "x"))
		get := func(path string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			api.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost"+receiver.APIPrefix+path, nil))
			return w
		}
		var readers sync.WaitGroup
		crowd := func(n int, path string) []*stalled {
			list := make([]*stalled, n)
			for i := range list {
				list[i] = &stalled{httptest.NewRecorder(), release}
				readers.Go(func() {
					api.ServeHTTP(list[i], httptest.NewRequest(http.MethodGet, "http://localhost"+receiver.APIPrefix+path, nil))
				})
				synctest.Wait()
			}
			return list
		}
		with := func(list []*stalled, code int) (n int) {
			for _, w := range list {
				if w.Code == code && w.Result().StatusCode == code {
					n++
				}
			}
			return n
		}
		slow := crowd(100, "/large")
		if got := with(slow, http.StatusOK); got == 0 || got*size > memory/16 {
			t.Errorf("%d answers of 1 MiB are held, want some, and at most %d", got, memory/16/size)
		}
		if got := get("/tiny").Code; got != http.StatusOK {
			t.Errorf("a small answer: got %d", got)
		}
		if got := get("/large"); got.Code != http.StatusServiceUnavailable || got.Header().Get("Retry-After") == "" {
			t.Errorf("a large answer beside the slow clients: got %d, want 503 with Retry-After", got.Code)
		}
		close(release)
		readers.Wait()
		if got := get("/large"); got.Code != http.StatusOK || got.Body.Len() < size {
			t.Errorf("a large answer afterwards: got %d with %d bytes", got.Code, got.Body.Len())
		}
	})
}

// TestEncodingIsBounded: to encode an answer takes memory, too, so that no more are encoded at once than are made at once.
func TestEncodingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		recv := receiver.New(receiver.Options{
			Store: store.New(store.NewMemory(), store.Options{}), Logger: slog.New(slog.DiscardHandler), Access: receiver.Access{Anonymous: receiver.RoleRead},
		})
		api := recv.API(receiver.Route{
			Method: http.MethodGet, Path: "/long", Role: receiver.RoleRead,
			Answer: func(*http.Request) (any, error) { return encoded{release}, nil },
		})
		codes := make(chan int, 20)
		for range cap(codes) {
			go func() {
				w := httptest.NewRecorder()
				api.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost"+receiver.APIPrefix+"/long", nil))
				codes <- w.Code
			}()
		}
		synctest.Wait()
		if got := len(codes); got != cap(codes)-8 {
			t.Errorf("%d of %d requests were refused while eight answers are encoded, want %d", got, cap(codes), cap(codes)-8)
		}
		close(release)
		synctest.Wait()
	})
}
