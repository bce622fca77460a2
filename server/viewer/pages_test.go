package viewer_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// TestPagesEndByBytes: a page of a list is bounded in bytes, whatever a cluster's rows hold, and the pages have each row once.
func TestPagesEndByBytes(t *testing.T) {
	r := newRig(t)
	const workloads, most = 14, 9 << 20 // 8 MiB and what lies around the rows
	objects := []string{"*version.Info", `{"gitVersion":"v1.36.1"}`, "*v1.Namespace", `{"metadata":{"uid":"ns","name":"ns"}}`}
	value := strings.Repeat("v", 200)
	for d := range workloads {
		var labels strings.Builder
		for i := range 4000 {
			fmt.Fprintf(&labels, `,"l%d-%d":%q`, d, i, value)
		}
		objects = append(objects, "*v1.Deployment",
			fmt.Sprintf(`{"metadata":{"uid":"d%d","name":"d%d","namespace":"ns","labels":{%s}},"spec":{"template":{}}}`, d, d, labels.String()[1:]))
	}
	r.save(t, "d-labels", 1, objects...)
	seen, pages := map[string]int{}, 0
	for token := ""; ; pages++ {
		path := "http://localhost/api/v1/clusters/d-labels/inventory/workloads?limit=5000"
		if token != "" {
			path += "&continue=" + url.QueryEscape(token)
		}
		var w *httptest.ResponseRecorder // by no connection, whose time is short here
		for range 20 {
			w = httptest.NewRecorder()
			r.api.Config.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			if w.Code != http.StatusServiceUnavailable { // the inventory is being computed
				break
			}
		}
		body := w.Body.Bytes()
		if w.Code != http.StatusOK {
			t.Fatalf("page %d: %d: %.200s", pages, w.Code, body)
		}
		if len(body) > most {
			t.Errorf("page %d has %d bytes, want at most %d", pages, len(body), most)
		}
		var list struct {
			Total    int
			Items    []struct{ Name string }
			Continue string
		}
		if err := json.Unmarshal(body, &list); err != nil {
			t.Fatal(err)
		}
		if list.Total != workloads {
			t.Errorf("page %d: got total %d, want %d", pages, list.Total, workloads)
		}
		for _, w := range list.Items {
			seen[w.Name]++
		}
		if token = list.Continue; token == "" {
			break
		}
	}
	if pages == 0 {
		t.Error("all came on one page: the test shows nothing")
	}
	for d := range workloads {
		if name := fmt.Sprintf("d%d", d); seen[name] != 1 {
			t.Errorf("workload %s came %d times, want once", name, seen[name])
		}
	}
}
