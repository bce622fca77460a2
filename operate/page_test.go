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
	if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "script-src") {
		t.Errorf("got policy %q, want one without scripts", csp)
	}
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
	w = httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/style.css", nil))
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/css") {
		t.Errorf("/style.css: got %d %s", w.Code, w.Header().Get("Content-Type"))
	}
}
