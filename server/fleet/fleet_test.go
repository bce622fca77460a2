package fleet_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/fleet"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// world is what the other parts say.
type world struct {
	clusters []receiver.ClusterInfo
	age      store.Age
	unloaded []store.Unloaded
	roles    map[string]elector.Role
	failures map[string][]inventory.Reason
	page     int
}

// api returns the API over a world; the token "0123456789abcdef-eu" may see d-eu-1 only.
func (w *world) api(t testing.TB) http.Handler {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(restricted), 0o600); err != nil {
		t.Fatal(err)
	}
	if w.page == 0 {
		w.page = 1 << 20
	}
	log := slog.New(slog.DiscardHandler)
	token, err := receiver.NewToken(log, file)
	if err != nil {
		t.Fatal(err)
	}
	f := fleet.New(fleet.Options{
		Clusters: func(context.Context) ([]receiver.ClusterInfo, store.Age, error) { return w.clusters, w.age, nil },
		Unloaded: func() []store.Unloaded { return w.unloaded }, LastMinute: func() (int64, int64) { return 70, 7000 },
		Roles: func() map[string]elector.Role { return w.roles }, Failures: func() map[string][]inventory.Reason { return w.failures }, Page: w.page,
	})
	return receiver.New(receiver.Options{
		Store: store.New(store.NewMemory(), store.Options{}), Logger: log,
		Access: receiver.Access{
			Anonymous: receiver.RoleRead, Hosts: []string{"example.com"},
			Users: []receiver.APIUser{{Name: "eu", Role: receiver.RoleRead, Token: token, Clusters: []string{"d-eu-1"}}},
		},
	}).API(f.Routes()...)
}

const restricted = "0123456789abcdef-eu"

func ask(t testing.TB, api http.Handler, path, token string, want int, into any) []byte {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, receiver.APIPrefix+path, nil)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, req)
	if w.Code != want {
		t.Fatalf("%s: got %d %s, want %d", path, w.Code, w.Body, want)
	}
	if into != nil {
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return w.Body.Bytes()
}

// small is a fleet of six clusters with a trouble of each kind.
func small() *world {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	info := func(id string, age, objects int, labels map[string]string) receiver.ClusterInfo {
		return receiver.ClusterInfo{
			ID: id, Version: uint64(objects), State: "ok", LastReport: at.Add(-time.Duration(age) * time.Second), AgeSeconds: float64(age), Objects: objects,
			Bytes: int64(objects) * 100, RawBytes: int64(objects) * 200, Labels: labels, Reporter: store.Reporter{SourceIP: "10.0.0." + id[len(id)-1:]},
		}
	}
	w := &world{
		clusters: []receiver.ClusterInfo{
			info("d-eu-1", 10, 1000, map[string]string{"region": "eu", "team": "a"}),
			info("d-eu-2", 400, 20, map[string]string{"region": "eu", "team": "b"}),
			info("d-us-3", 20, 50000, map[string]string{"region": "us"}),
			info("d-us-4", 90000, 7, nil),
			info("d-xx-5", 30, 300, nil),
			info("d-xx-6", 5, 200000, map[string]string{"region": "asia"}),
		},
		unloaded: []store.Unloaded{{Cluster: "d-xx-5"}},
		roles: map[string]elector.Role{
			"d-eu-1": {State: elector.RoleHeld, Holder: "node-7 (10.9.9.9)"}, "d-eu-2": {State: elector.RoleWithout}, "d-us-3": {State: elector.RoleWaiting},
		},
		failures: map[string][]inventory.Reason{"d-us-3": {inventory.NoNodes, inventory.CrashPodIP}},
	}
	w.clusters[3].Stale, w.clusters[3].State = true, "stale"
	w.clusters[4].ErrorMsg, w.clusters[4].State = "pods: Forbidden", "error"
	w.clusters[5].Suspicion = &store.Suspicion{Other: true}
	return w
}

// TestList asks for clusters in every way.
func TestList(t *testing.T) {
	api := small().api(t)
	for query, want := range map[string]string{
		"":                                "d-eu-1 d-eu-2 d-us-3 d-us-4 d-xx-5 d-xx-6",
		"sort=-cluster":                   "d-xx-6 d-xx-5 d-us-4 d-us-3 d-eu-2 d-eu-1",
		"sort=age":                        "d-xx-6 d-eu-1 d-us-3 d-xx-5 d-eu-2 d-us-4",
		"sort=-age&limit=2":               "d-us-4 d-eu-2",
		"sort=objects":                    "d-us-4 d-eu-2 d-xx-5 d-eu-1 d-us-3 d-xx-6",
		"sort=-bytes&max_objects=1000":    "d-eu-1 d-xx-5 d-eu-2 d-us-4",
		"sort=version":                    "d-us-4 d-eu-2 d-xx-5 d-eu-1 d-us-3 d-xx-6",
		"sort=trouble":                    "d-us-3 d-xx-5 d-xx-6 d-us-4 d-eu-2 d-eu-1",
		"sort=watcher":                    "d-eu-1 d-us-3 d-eu-2 d-us-4 d-xx-5 d-xx-6",
		"sort=label.region":               "d-xx-6 d-eu-1 d-eu-2 d-us-3 d-us-4 d-xx-5",
		"sort=-label.region":              "d-xx-5 d-us-4 d-us-3 d-eu-2 d-eu-1 d-xx-6",
		"contains=US":                     "d-us-3 d-us-4",
		"contains=10.0.0.5":               "d-xx-5",
		"contains=forbidden":              "d-xx-5",
		"contains=node-7":                 "d-eu-1",
		"contains=team%3Db":               "d-eu-2",
		"label=region%3Deu":               "d-eu-1 d-eu-2",
		"label=region%3Deu,team%3Da":      "d-eu-1",
		"label=region%3D":                 "",
		"min_age=20&max_age=400":          "d-eu-2 d-us-3 d-xx-5",
		"min_objects=300&max_objects=300": "d-xx-5",
		"version=1000":                    "d-eu-1",
		"trouble=any":                     "d-eu-2 d-us-3 d-us-4 d-xx-5 d-xx-6",
		"trouble=none":                    "d-eu-1",
		"trouble=late":                    "d-eu-2",
		"trouble=stale":                   "d-us-4",
		"trouble=frozen":                  "d-xx-5",
		"trouble=unloaded":                "d-xx-5",
		"trouble=two_clusters":            "d-xx-6",
		"trouble=without_watcher":         "d-eu-2",
		"trouble=NoNodes":                 "d-us-3",
		"watcher=held":                    "d-eu-1",
		"watcher=waiting":                 "d-us-3",
		"watcher=none":                    "d-us-4 d-xx-5 d-xx-6",
	} {
		var list fleet.List
		ask(t, api, "/clusters?"+query, "", http.StatusOK, &list)
		var ids []string
		for _, c := range list.Clusters {
			ids = append(ids, c.ID)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	for _, query := range []string{
		"trouble=nope", "watcher=nope", "sort=nope", "sort=label.", "sort=-", "label=region", "min_age=-1", "max_age=x", "min_objects=1e9", "version=0",
		"limit=0", "limit=5001", "continue=nope", "nope=1",
	} {
		ask(t, api, "/clusters?"+query, "", http.StatusBadRequest, nil)
	}
}

// TestInvariantPagesHaveEachOnce: in every order, the pages have each cluster once, in this order, and each page is bounded in bytes.
func TestInvariantPagesHaveEachOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 1))
	w := &world{page: 20000, roles: map[string]elector.Role{}}
	for i := range 700 {
		info := receiver.ClusterInfo{
			ID: fmt.Sprintf("d-%s%d", strings.Repeat("x", rng.IntN(4)), i), Version: rng.Uint64(), Objects: rng.IntN(50), Bytes: rng.Int64N(50),
			LastReport: time.Unix(rng.Int64N(100), 0), Labels: map[string]string{},
		}
		if region := rng.IntN(4); region > 0 {
			info.Labels["region"] = []string{"", "eu", "eu-west", "欧洲"}[region]
		}
		if rng.IntN(3) == 0 {
			info.ErrorMsg = strings.Repeat("e", rng.IntN(2000))
		}
		if n := rng.IntN(5); n < 4 {
			w.roles[info.ID] = elector.Role{State: fleet.Watchers()[n], Holder: fmt.Sprint(n)}
		}
		w.clusters = append(w.clusters, info)
	}
	slices.SortFunc(w.clusters, func(a, b receiver.ClusterInfo) int { return strings.Compare(a.ID, b.ID) })
	api := w.api(t)
	for _, order := range append(fleet.Orders(), "label.region") {
		whole := map[string][]string{}
		for _, sort := range []string{order, "-" + order} {
			for token := ""; ; {
				var list fleet.List
				body := ask(t, api, "/clusters?limit=90&sort="+sort+"&continue="+url.QueryEscape(token), "", http.StatusOK, &list)
				if len(body) > w.page+4000 || list.Total != len(w.clusters) || len(list.Clusters) > 90 {
					t.Fatalf("%s: got a page of %d bytes, %d of %d clusters", sort, len(body), len(list.Clusters), list.Total)
				}
				for _, c := range list.Clusters {
					whole[sort] = append(whole[sort], c.ID)
				}
				if token = list.Continue; token == "" {
					break
				}
			}
		}
		turned := slices.Clone(whole["-"+order])
		slices.Reverse(turned)
		if diff := cmp.Diff(whole[order], turned); diff != "" {
			t.Errorf("%s: one direction is not the other one turned around (-rising +falling):\n%s", order, diff)
		}
		if once := slices.Compact(slices.Sorted(slices.Values(turned))); len(once) != len(w.clusters) || len(turned) != len(once) {
			t.Errorf("%s: got %d clusters, %d different, want %d", order, len(turned), len(once), len(w.clusters))
		}
	}
}

// TestOverview counts the clusters, and what is wrong by cause, the worst first.
func TestOverview(t *testing.T) {
	w := small()
	w.age = store.Age{Standby: true, Most: 3 * time.Second}
	api := w.api(t)
	var o fleet.Overview
	ask(t, api, "/fleet", "", http.StatusOK, &o)
	if o.Clusters != 6 || o.Fine != 1 || o.Late != 1 || o.Stale != 1 || o.Frozen != 1 || o.WithoutWatcher != 1 || o.Objects != 251327 || o.Bytes != 25132700 ||
		*o.ReportsPerMinute != 70 || *o.BytesPerMinute != 7000 || o.ReadFrom != "standby" || o.AgeSeconds != 3 {
		t.Errorf("got %+v", o)
	}
	var got []string
	for _, g := range o.Troubles {
		got = append(got, fmt.Sprint(g.Cause, " ", g.Count, " ", g.Clusters))
		if g.Sentence == "" || g.Advice == "" {
			t.Errorf("%s: got sentence %q and advice %q, want both", g.Cause, g.Sentence, g.Advice)
		}
	}
	want := []string{
		"CrashPodIP 1 [d-us-3]", "unloaded 1 [d-xx-5]", "two_clusters 1 [d-xx-6]", "NoNodes 1 [d-us-3]", "frozen 1 [d-xx-5]", "stale 1 [d-us-4]",
		"without_watcher 1 [d-eu-2]", "late 1 [d-eu-2]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]fleet.Bucket{{60, 4}, {120, 0}, {300, 0}, {3600, 1}, {86400, 0}, {0, 1}}, o.Ages); diff != "" {
		t.Errorf("ages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]fleet.Bucket{{100, 2}, {1000, 2}, {10000, 0}, {100000, 1}, {0, 1}}, o.Sizes); diff != "" {
		t.Errorf("sizes (-want +got):\n%s", diff)
	}
}

// TestOverviewNamesFew: however many clusters have one trouble, few are named.
func TestOverviewNamesFew(t *testing.T) {
	w := &world{}
	for i := range 5000 {
		w.clusters = append(w.clusters, receiver.ClusterInfo{ID: fmt.Sprintf("d-%05d", i), ErrorMsg: strings.Repeat("e", 1000)})
	}
	var o fleet.Overview
	if body := ask(t, w.api(t), "/fleet", "", http.StatusOK, &o); len(body) > 4000 {
		t.Errorf("got %d bytes", len(body))
	}
	if len(o.Troubles) != 1 || o.Troubles[0].Count != 5000 || len(o.Troubles[0].Clusters) != 10 {
		t.Errorf("got %+v", o.Troubles)
	}
}

// TestOnlyWhatMayBeSeen: who may see some clusters is told nothing of the others, in lists, in searches and in numbers.
func TestOnlyWhatMayBeSeen(t *testing.T) {
	api := small().api(t)
	var list fleet.List
	ask(t, api, "/clusters", restricted, http.StatusOK, &list)
	if list.Total != 1 || len(list.Clusters) != 1 || list.Clusters[0].ID != "d-eu-1" {
		t.Errorf("got %+v", list)
	}
	ask(t, api, "/clusters?trouble=any", restricted, http.StatusOK, &list)
	if list.Total != 0 {
		t.Errorf("got %+v, want none", list)
	}
	var o fleet.Overview
	ask(t, api, "/fleet", restricted, http.StatusOK, &o)
	if o.Clusters != 1 || o.Objects != 1000 || len(o.Troubles) != 0 || o.ReportsPerMinute != nil || o.BytesPerMinute != nil {
		t.Errorf("got %+v, want one cluster and nothing of the others", o)
	}
}

// BenchmarkList asks for a page of ten thousand clusters, and for all of them in numbers.
func BenchmarkList(b *testing.B) {
	w := &world{roles: map[string]elector.Role{}}
	for i := range 10_000 {
		id := fmt.Sprintf("d-%05d", i)
		w.clusters = append(w.clusters, receiver.ClusterInfo{
			ID: id, Version: uint64(i), State: "ok", LastReport: time.Unix(int64(i), 0), Objects: i, Labels: map[string]string{"region": fmt.Sprint("r", i%7)},
		})
		w.roles[id] = elector.Role{State: elector.RoleHeld, Holder: fmt.Sprint("node-", i)}
	}
	for _, path := range []string{"/clusters", "/clusters?sort=trouble", "/clusters?contains=r3&sort=-age", "/fleet"} {
		b.Run(path, func(b *testing.B) {
			api := w.api(b)
			for b.Loop() {
				ask(b, api, path, "", http.StatusOK, nil)
			}
		})
	}
}
