package operate

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestStatusPage shows hostile texts in every place where a part can put them.
func TestStatusPage(t *testing.T) {
	const hostile = `<script>alert(1)</script>"'><img src=x onerror=alert(1)>`
	s := New(Options{
		Program: "pseudo-agent", Build: NewBuild("v1", ""), Summary: func() string { return hostile },
		Parts: []Part{{
			Name: "informers",
			Status: func() any {
				return map[string]any{
					"state": "ok", hostile: hostile, "nested": map[string]any{"reason": hostile}, "names": []string{hostile},
					"resources": []map[string]any{{"id": "pods", "state": "Forbidden", "reason": hostile}, {"id": "nodes", "more": 1}},
				}
			},
			Problems: func() []Problem {
				return []Problem{{Severity: Failure, Since: time.Unix(1, 0), What: hostile, Advice: hostile}}
			},
		}},
	})
	req := httptest.NewRequest(http.MethodGet, "/status", nil)
	req.Header.Set("Accept", "text/html,application/xhtml+xml;q=0.9")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, req)
	body := w.Body.String()
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("got %d %s, want a page", w.Code, w.Header().Get("Content-Type"))
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "script-src 'self';") || strings.Contains(csp, "unsafe") {
		t.Errorf("got policy %q, want one with no scripts but the program's own", csp)
	}
	const own = `<script src="status.js" defer></script>`
	if !strings.Contains(body, own) {
		t.Errorf("the page lacks %s", own)
	}
	body = strings.Replace(body, own, "", 1)
	for _, bad := range []string{"<script", "<img"} {
		if strings.Contains(body, bad) {
			t.Errorf("got %s in the page, want it escaped:\n%s", bad, body)
		}
	}
	for _, want := range []string{
		"&lt;script&gt;", `<th scope="row">nested: reason</th>`, `<th scope="col">more</th>`, `<td class="bad">Forbidden</td>`, "1970-01-01T00:00:01Z",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %s:\n%s", want, body)
		}
	}
	for path, kind := range map[string]string{"/style.css": "text/css", "/status.js": "text/javascript"} {
		w = httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) {
			t.Errorf("%s: got %d %s", path, w.Code, w.Header().Get("Content-Type"))
		}
	}
}

// TestOverview shows the order of the page and of the text: verdict, problems, way, lag, resources, details.
func TestOverview(t *testing.T) {
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	now := begun
	trace := NewTrace(time.Hour)
	for i := range 1000 {
		now = begun.Add(time.Duration(i) * 5 * time.Second)
		trace.Add(now, time.Duration(i%30)*time.Second, i%30 == 0, i > 900)
	}
	s := New(Options{
		Program: "pseudo-agent", Build: NewBuild("v1", ""), Now: func() time.Time { return now }, Summary: func() string { return strings.Repeat("long words ", 30) },
		Overview: func() Overview {
			return Overview{
				Way: []Stage{
					{Name: "apiserver", State: "answers", Tone: Good, Since: now.Add(-58 * time.Second)},
					{Name: "resources", State: "10 of 11 in order", Tone: Bad, Number: "37 objects"},
					{Name: "server", State: "acknowledged", Tone: Good},
				},
				Lag: trace,
				Listing: &Listing{Name: "Resources", Header: []string{"resource", "state", "last change"}, Rows: []ListingRow{
					{Tone: Bad, Cells: []ListingCell{{Text: "pods"}, {Text: "Forbidden"}, {At: now.Add(-3 * time.Hour)}}},
				}},
			}
		},
		Parts: []Part{{
			Name: "reporter",
			Status: func() any {
				return map[string]any{"bytes": 12345, "since": begun, "types": []any{map[string]any{"type": "*v1.Pod"}}}
			},
			Problems: func() []Problem {
				return []Problem{{Severity: Failure, Since: begun, What: "pods is Forbidden", Means: "nothing is deleted", Advice: strings.Repeat("do this ", 40), Command: "pseudo-agent rbac"}}
			},
		}},
	})
	for format, order := range map[string][]string{
		"text": {"pseudo-agent v1: FAILURE - long", "FAILURE in reporter: pods is Forbidden", "means", "do ", "run    pseudo-agent rbac", "apiserver", "58 s ago", "→ resources", "in order !", "changes waited 29 s at most", "Forbidden", "3 h ago", "reporter\n"},
		"html": {"failure</span>", "long words", "pods is Forbidden", "What it means", "What to do", "pseudo-agent rbac</pre>", `class="stage bad"`, "holds things up", `class="failing"`, "<polyline", `<td class="bad">Forbidden</td>`, `title="2026-01-02T01:`, "<details>", `title="12345 bytes">12.1 KiB`},
	} {
		_, body := get(t, s.Handler(), "/status?format="+format)
		rest := body
		for _, want := range order {
			_, after, found := strings.Cut(rest, want)
			if !found {
				t.Errorf("%s: got\n%s\nwant %q after what comes before it", format, body, want)
				break
			}
			rest = after
		}
		for line := range strings.Lines(body) {
			if n := len([]rune(line)); format == "text" && n > textWidth+1 {
				t.Errorf("got a line of %d characters, want %d at most: %s", n, textWidth, line)
			}
		}
	}
	if _, body := get(t, s.Handler(), "/status?format=html&details=open"); !strings.Contains(body, "<details open>") || strings.Contains(body, "http-equiv") {
		t.Error("with details=open: want the details open, and no renewal that would fold them")
	}
	if n := len(trace.points); n > maxTrace {
		t.Errorf("got %d points, want %d at most", n, maxTrace)
	}
	if first := trace.points[0].at; now.Sub(first) > time.Hour {
		t.Errorf("the oldest point is %s old, want an hour at most", now.Sub(first))
	}
}

func TestHumanUnits(t *testing.T) {
	now := time.Unix(1e9, 0)
	for got, want := range map[string]string{
		Span(58 * time.Second): "58 s", Span(119 * time.Second): "119 s", Span(7 * time.Minute): "7 min", Span(3 * time.Hour): "3 h", Span(26*time.Hour + 5*time.Minute): "26 h 5 min",
		Span(50 * time.Hour): "2 d 2 h", Span(-time.Second): "0 s", Ago(now, now.Add(-time.Hour)): "1 h ago", Ago(now, now.Add(90*time.Second)): "in 90 s",
		Bytes(12): "12 B", Bytes(2048): "2.0 KiB", Bytes(3 << 20): "3.0 MiB", Bytes(1 << 60): "1024.0 PiB",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
