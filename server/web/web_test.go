package web

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// TestPage serves every file under its policy, and looks for what could make markup of a text.
func TestPage(t *testing.T) {
	mux := http.NewServeMux()
	for pattern, h := range Handlers() {
		mux.Handle(pattern, h)
	}
	forbidden := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|srcdoc|https?://|\bstyle=|\son[a-z]+=`)
	for path, kind := range map[string]string{"/": "text/html", "/page.js": "text/javascript", "/graph.js": "text/javascript", "/fleet.js": "text/javascript", "/texts.js": "text/javascript", "/overview.js": "text/javascript", "/tables.js": "text/javascript", "/versions.js": "text/javascript", "/watcher.js": "text/javascript", "/page.css": "text/css"} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), kind) {
			t.Errorf("%s: got %d %s, want 200 %s", path, w.Code, w.Header().Get("Content-Type"), kind)
		}
		if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: got policy %q", path, csp)
		}
		if found := forbidden.FindString(strings.ReplaceAll(w.Body.String(), `"http://www.w3.org/2000/svg"`, "")); found != "" {
			t.Errorf("%s: got %q, which the page must not use", path, found)
		}
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/web.go", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("/web.go: got %d, want 404", w.Code)
	}
}
