package receiver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
)

// TestClusterLabels: an operator sets and removes labels of a cluster that is stored, within bounds, and reports leave them alone.
func TestClusterLabels(t *testing.T) {
	r := newRig(t, receiver.Options{Access: administrator()})
	report1 := func(version uint64) {
		t.Helper()
		if _, err := r.agent.KubernetesAPISync(t.Context(), report(version, 7, versionEntry(t))); err != nil {
			t.Fatal(err)
		}
	}
	post := func(cluster, body string, want int) map[string]string {
		t.Helper()
		w := httptest.NewRecorder()
		r.recv.API().ServeHTTP(w, httptest.NewRequest(http.MethodPost, receiver.APIPrefix+"/clusters/"+cluster+"/labels", strings.NewReader(body)))
		var info receiver.ClusterInfo
		if err := json.Unmarshal(w.Body.Bytes(), &info); err != nil || w.Code != want {
			t.Errorf("%.100s: got %d %.300s, %v, want %d", body, w.Code, w.Body, err, want)
		}
		return info.Labels
	}
	is := func(what string, got, want map[string]string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	post("d-test", `{"set":{"region":"eu"}}`, http.StatusNotFound)
	report1(1)
	is("set", post("d-test", `{"set":{"region":"eu","example.com/team":"平台 2"}}`, 200), map[string]string{"region": "eu", "example.com/team": "平台 2"})
	is("changed", post("d-test", `{"set":{"region":"us"},"remove":["example.com/team","no-such"]}`, 200), map[string]string{"region": "us"})
	report1(2)
	var info receiver.ClusterInfo
	get(t, r.recv, http.MethodGet, "/clusters/d-test", 200, &info)
	is("after a report", info.Labels, map[string]string{"region": "us"})

	long := strings.Repeat("x", 64)
	for _, body := range []string{
		``, `{}`, `{"set":{"":"x"}}`, `{"set":{"-a":"x"}}`, `{"set":{"a b":"x"}}`, `{"set":{"` + long + `":"x"}}`, `{"set":{"a":""}}`, `{"set":{"a":"` + long + `"}}`,
		`{"set":{"a":"x,y"}}`, `{"set":{"a":"x=y"}}`, `{"set":{"a":"x\ny"}}`, `{"set":{"a":"x\u202ey"}}`, `{"set":{"a":"x"},"remove":["a"]}`, `{"nope":1}`,
		`{"set":{"a":"` + strings.Repeat("x", 20000) + `"}}`,
	} {
		post("d-test", body, http.StatusBadRequest)
	}
	var sixteen, seventeen []string
	for i := range 17 {
		if i < 15 {
			sixteen = append(sixteen, fmt.Sprintf(`"k%d":"v"`, i))
		}
		seventeen = append(seventeen, fmt.Sprintf(`"k%d":"v"`, i))
	}
	if got := post("d-test", `{"set":{`+strings.Join(sixteen, ",")+`}}`, 200); len(got) != 16 {
		t.Errorf("got %d labels, want 16", len(got))
	}
	post("d-test", `{"set":{`+strings.Join(seventeen, ",")+`}}`, http.StatusConflict)
	get(t, r.recv, http.MethodGet, "/clusters/d-test", 200, &info)
	if len(info.Labels) != 16 {
		t.Errorf("after what was refused: got %d labels, want 16", len(info.Labels))
	}
}

// TestLastMinute counts what came in the last minute and nothing older.
func TestLastMinute(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := newRig(t, receiver.Options{Now: func() time.Time { return now }})
	send := func(version uint64) {
		t.Helper()
		if _, err := r.agent.KubernetesAPISync(t.Context(), report(version, 7, versionEntry(t))); err != nil {
			t.Fatal(err)
		}
	}
	for version := range uint64(3) {
		send(version + 1)
		now = now.Add(25 * time.Second)
	}
	if reports, bytes := r.recv.LastMinute(); reports != 2 || bytes < 100 {
		t.Errorf("got %d reports of %d bytes, want those 25 and 50 seconds ago", reports, bytes)
	}
	now = now.Add(time.Hour)
	if reports, bytes := r.recv.LastMinute(); reports != 0 || bytes != 0 {
		t.Errorf("an hour later: got %d reports of %d bytes, want none", reports, bytes)
	}
}
