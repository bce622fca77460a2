package operate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestConnectionsAreBounded opens more connections than are kept, without a word, and with half a request. A request that is
// being answered goes on, and new ones are answered.
func TestConnectionsAreBounded(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	s := New(Options{
		Program: "pseudo-agent", Registry: prometheus.NewRegistry(),
		Extra: map[string]http.Handler{"GET /stream": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(begun)
			<-end
			_, _ = io.WriteString(w, "whole") // the client's error says more
		})},
	})
	s.connections.max = 8
	address, stop := serve(t, s)
	var conns []net.Conn
	dial := func(say string) net.Conn {
		t.Helper()
		var d net.Dialer
		conn, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		if _, err := io.WriteString(conn, say); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	answer := func(conn net.Conn) string {
		t.Helper()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(resp.StatusCode, " ", string(body))
	}
	const request = "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
	stream := dial(fmt.Sprintf(request, "/stream"))
	<-begun
	first := dial("")
	for i := range 50 {
		dial([]string{"", "GET /"}[i%2])
		if got := answer(dial(fmt.Sprintf(request, "/healthz/live"))); !strings.HasPrefix(got, "200") {
			t.Fatalf("after %d connections: got %s, want 200", i, got)
		}
	}
	if n, err := first.Read(make([]byte, 1)); err == nil {
		t.Errorf("the oldest connection is open and has %d bytes, want it closed", n)
	}
	close(end)
	if got := answer(stream); got != "200 whole" {
		t.Errorf("a request under way got %q, want its whole answer", got)
	}
	if got := testutil.ToFloat64(s.connections.closed); got < 50 {
		t.Errorf("%v connections are counted as closed, want at least 50", got)
	}
	if p := s.Status().Problems; len(p) != 1 || p[0].Part != "http" || !strings.Contains(p[0].What, "more than 8 connections") {
		t.Errorf("the status tells %+v, want one problem of http", p)
	}
	for _, conn := range conns {
		_ = conn.Close() // some were closed by the server
	}
	for open := 1; open > 0; time.Sleep(time.Millisecond) {
		s.connections.mu.Lock()
		open = len(s.connections.open)
		s.connections.mu.Unlock()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
