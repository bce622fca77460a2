package receiver_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestRebinding: a name of somebody else that leads here opens nothing that needs no token, and no change.
func TestRebinding(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	secret, err := receiver.NewToken(log, write(t, t.TempDir(), "token", []byte("0123456789abcdef")))
	if err != nil {
		t.Fatal(err)
	}
	recv := receiver.New(receiver.Options{
		Store: store.New(store.NewMemory(), store.Options{}), Logger: log,
		Access: receiver.Access{
			Anonymous: receiver.RoleAdminister, Users: []receiver.APIUser{{Name: "a", Role: receiver.RoleAdminister, Token: secret}},
			Hosts: []string{"Pseudo.Example.com", "*.inside.example"},
		},
	})
	mux := http.NewServeMux()
	mux.Handle(receiver.APIPrefix+"/", recv.API())
	mux.Handle("/status", recv.Guard(http.NotFoundHandler()))
	s := httptest.NewServer(mux)
	defer s.Close()
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	// The resolver of whoever owns the name says that it is here.
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", s.Listener.Addr().String())
	}}}
	ask := func(method, host, path, token string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+host+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	const clusters, one = receiver.APIPrefix + "/events", receiver.APIPrefix + "/clusters/d-a"
	for _, host := range []string{
		"127.0.0.1", "10.1.2.3", "[::1]", "[fd00::1]", "localhost", "page.localhost", "pseudo-server", "pseudo-server.deepflow.svc", "pseudo-server.deepflow.svc.cluster.local.",
		"pseudo.example.com", "PSEUDO.example.com.", "a.inside.example",
	} {
		if got := ask(http.MethodGet, host+":"+port, clusters, ""); got != http.StatusOK {
			t.Errorf("%s: reading gets %d, want 200", host, got)
		}
		if got := ask(http.MethodDelete, host, one, ""); got != http.StatusNotFound {
			t.Errorf("%s: a change gets %d, want 404", host, got)
		}
		if got := ask(http.MethodGet, host, "/status", ""); got != http.StatusNotFound {
			t.Errorf("%s: the status gets %d, want 404", host, got)
		}
	}
	for _, host := range []string{"rebind.example.net", "127.0.0.1.example.net", "localhost.example.net", "svc.example.net", "inside.example", "xinside.example", "example.com"} {
		const want = http.StatusMisdirectedRequest
		if got := ask(http.MethodGet, host+":"+port, clusters, ""); got != want {
			t.Errorf("%s: reading gets %d, want %d", host, got, want)
		}
		for what, got := range map[string]int{
			"a change": ask(http.MethodDelete, host, one, ""), "a change with a token": ask(http.MethodDelete, host, one, "0123456789abcdef"),
			"the status": ask(http.MethodGet, host, "/status", ""),
		} {
			if got != want {
				t.Errorf("%s: %s gets %d, want %d", host, what, got, want)
			}
		}
		if got := ask(http.MethodGet, host, clusters, "0123456789abcdef"); got != http.StatusOK {
			t.Errorf("%s: reading with a token gets %d, want 200", host, got)
		}
	}
}
