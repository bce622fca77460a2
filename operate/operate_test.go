package operate

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, h http.Handler, url string) (int, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, url, nil))
	return rec.Code, rec.Body.String()
}

func TestProbesNameEveryCheck(t *testing.T) {
	broken := errors.New("pods: forbidden")
	s := New(Options{
		Live: []Check{{Name: "loop", Probe: func() error { return nil }}},
		Ready: []Check{
			{Name: "synced", Probe: func() error { return broken }},
			{Name: "reported", Probe: func() error { return nil }},
		},
	})
	if code, body := get(t, s.Handler(), "/healthz/live"); code != http.StatusOK || !strings.Contains(body, `"loop": "ok"`) {
		t.Errorf("live: got %d %s, want 200 with loop ok", code, body)
	}
	code, body := get(t, s.Handler(), "/healthz/ready")
	if code != http.StatusServiceUnavailable {
		t.Errorf("ready: got status %d, want 503", code)
	}
	for _, want := range []string{`"synced": "pods: forbidden"`, `"reported": "ok"`} {
		if !strings.Contains(body, want) {
			t.Errorf("ready: got %s, want it to contain %s", body, want)
		}
	}
}

func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPulse("reporter", time.Minute, nil)
		time.Sleep(time.Minute)
		if err := p.Check().Probe(); err != nil {
			t.Errorf("at the limit: got %v, want no error", err)
		}
		time.Sleep(time.Second)
		if err := p.Check().Probe(); err == nil {
			t.Error("after the limit: got no error, want one")
		}
		p.Beat()
		if err := p.Check().Probe(); err != nil {
			t.Errorf("after a beat: got %v, want no error", err)
		}
	})
}

func TestStatusPutsTheGravestProblemFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		s := New(Options{
			Program: "pseudo-agent",
			Build:   Build{Version: "v1"},
			Summary: func() string { return "reporting 3 objects" },
			Parts: []Part{
				{
					Name:     "reporter",
					Status:   func() any { return map[string]string{"state": "Reporting"} },
					Problems: func() []Problem { return []Problem{{Severity: Warning, What: "slow", Advice: "look"}} },
				},
				{
					Name:     "informers",
					Problems: func() []Problem { return []Problem{{Severity: Failure, Since: now, What: "pods: forbidden"}} },
				},
			},
		})
		time.Sleep(90 * time.Second)
		st := s.Status()
		if st.State != string(Failure) || st.Problems[0].Part != "informers" {
			t.Errorf("got state %s and first problem in %s, want failure in informers", st.State, st.Problems[0].Part)
		}
		text := st.Text()
		for _, want := range []string{"pseudo-agent v1: FAILURE - reporting 3 objects", "up 90 s", "FAILURE in informers: pods: forbidden", "state: Reporting"} {
			if !strings.Contains(text, want) {
				t.Errorf("got\n%s\nwant it to contain %q", text, want)
			}
		}
		code, body := get(t, s.Handler(), "/status")
		var back Status
		if err := json.Unmarshal([]byte(body), &back); err != nil || code != http.StatusOK {
			t.Errorf("/status: got %d, %v, want 200 and JSON", code, err)
		}
		if code, body := get(t, s.Handler(), "/status?format=xml"); code != http.StatusBadRequest || !strings.Contains(body, "use json, text or html") {
			t.Errorf("/status?format=xml: got %d %s, want 400 naming the formats", code, body)
		}
	})
}

func TestProfilesAreOffByDefault(t *testing.T) {
	for pprof, want := range map[bool]int{false: http.StatusNotFound, true: http.StatusOK} {
		rec := httptest.NewRecorder()
		New(Options{Pprof: pprof}).Handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/debug/pprof/", nil))
		if rec.Code != want {
			t.Errorf("/debug/pprof/ with Pprof %t: got %d, want %d", pprof, rec.Code, want)
		}
	}
}

// serve serves until the returned function is called, which returns what Serve has.
func serve(t *testing.T, s *Server) (address string, stop func() error) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	return l.Addr().String(), func() error {
		cancel()
		return <-done
	}
}

func TestServeStopsWithTheContext(t *testing.T) {
	reg := NewRegistry("pseudo_agent", NewBuild("v1", "abc"))
	s := New(Options{Registry: reg, Pprof: true})
	address, stop := serve(t, s)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if want := `pseudo_agent_build_info{goversion=`; !strings.Contains(string(body), want) {
		t.Errorf("/metrics lacks %s", want)
	}
	if err := stop(); err != nil {
		t.Errorf("got %v, want nil after the context ended", err)
	}
}
