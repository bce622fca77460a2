package viewer_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zlib"
	"go.uber.org/goleak"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

func TestMain(m *testing.M) {
	plugin.WorkerMain()
	os.Exit(m.Run())
}

// serverTimeout is the limit of the HTTP server for a request, which streams must outlive.
const serverTimeout = 500 * time.Millisecond

// rig is a viewer over a store in memory, with the API in front.
type rig struct {
	store *store.Store
	view  *viewer.Viewer
	api   *httptest.Server
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOn(t, store.NewMemory())
}

func newRigOn(t *testing.T, backend store.Backend) *rig {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	kept := store.New(backend, store.Options{Keep: 3})
	log := slog.New(slog.DiscardHandler)
	plugins, err := plugin.Open(ctx, plugin.Options{Store: viewer.PluginStore(backend)})
	if err != nil {
		t.Fatal(err)
	}
	view := viewer.New(viewer.Options{Store: kept, Plugins: plugins, Logger: log, Poll: 10 * time.Millisecond, MaxStreams: 2})
	recv := receiver.New(receiver.Options{Store: kept, Logger: log, Access: receiver.Access{Anonymous: receiver.RoleAdminister}})
	api := httptest.NewUnstartedServer(recv.API(view.Routes()...))
	api.Config.ReadTimeout, api.Config.WriteTimeout = serverTimeout, serverTimeout
	api.Start()
	done := make(chan error, 1)
	go func() { done <- view.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
		api.Close()
		plugins.Close()
	})
	return &rig{store: kept, view: view, api: api}
}

// save stores a version of a cluster: wire types and JSON by turns.
func (r *rig) save(t *testing.T, id string, version uint64, typesAndJSON ...string) {
	t.Helper()
	ctx := context.Background()
	tx, err := r.store.Begin(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	var incoming []store.Incoming
	for i := 0; i < len(typesAndJSON); i += 2 {
		wireType, text := typesAndJSON[i], typesAndJSON[i+1]
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		_, _ = w.Write([]byte(text))
		_ = w.Close()
		sum := store.SumOf(wireType, b.Bytes())
		if known := tx.Known(sum); known != nil {
			incoming = append(incoming, store.Incoming{Known: known})
			continue
		}
		var object struct {
			Metadata struct{ UID, Name, Namespace string }
		}
		if err := json.Unmarshal([]byte(text), &object); err != nil {
			t.Fatal(err)
		}
		m := object.Metadata
		incoming = append(incoming, store.Incoming{Payload: b.Bytes(), Entry: &store.Entry{
			Key: store.KeyOf(wireType, []byte(m.UID)), Sum: sum, Type: wireType, Namespace: m.Namespace, Name: m.Name,
			Size: uint32(b.Len()), RawSize: uint32(len(text)),
		}})
	}
	if err := tx.Save(ctx, version, store.Touch{}, incoming); err != nil {
		t.Fatal(err)
	}
}

// call asks the API and decodes the answer into v.
func (r *rig) call(t *testing.T, method, path, body string, want int, v any) string {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, r.api.URL+receiver.APIPrefix+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var b bytes.Buffer
	_, _ = b.ReadFrom(resp.Body)
	if resp.StatusCode != want {
		t.Fatalf("%s %s: got %d, want %d: %s", method, path, resp.StatusCode, want, b.String())
	}
	if v != nil {
		if err := json.Unmarshal(b.Bytes(), v); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, b.String())
		}
	}
	return b.String()
}

// list is a page as a client sees it.
type list[T any] struct {
	Version  uint64
	Total    int
	Items    []T
	Continue string
}

const (
	versionInfo = `{"gitVersion":"v1.36.0"}`
	node        = `{"metadata":{"uid":"n1","name":"node-1"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}`
	namespace   = `{"metadata":{"uid":"ns1","name":"shop"}}`
	deployment  = `{"metadata":{"uid":"d1","name":"cart","namespace":"shop"},"spec":{"replicas":2,"template":{"metadata":{"labels":{"app":"cart"}}}}}`
	replicaSet  = `{"metadata":{"uid":"r1","name":"cart-1","namespace":"shop","ownerReferences":[{"kind":"Deployment","name":"cart","uid":"d1"}]},"spec":{"replicas":2}}`
)

func pod(uid, name, ownerKind, owner, ownerUID, label string) string {
	return fmt.Sprintf(`{"metadata":{"uid":%q,"name":%q,"namespace":"shop","labels":{"app":%q},"ownerReferences":[{"kind":%q,"name":%q,"uid":%q}]},"status":{"hostIP":"10.0.0.1"}}`,
		uid, name, label, ownerKind, owner, ownerUID)
}

func base() []string {
	return []string{
		"*version.Info", versionInfo, "*v1.Node", node, "*v1.Namespace", namespace, "*v1.Deployment", deployment, "*v1.ReplicaSet", replicaSet,
	}
}

// TestInventory follows a cluster over versions and plugins.
func TestInventory(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	defer http.DefaultClient.CloseIdleConnections()
	t.Run("rig", func(t *testing.T) {
		r := newRig(t)
		game := pod("p2", "game-0", "GameServerSet", "game", "g1", "game")
		r.save(t, "d-one", 10, append(base(), "*v1.Pod", pod("p1", "cart-1-a", "ReplicaSet", "cart-1", "r1", "cart"), "*v1.Pod", game)...)

		var summary viewer.Summary
		r.call(t, http.MethodGet, "/clusters/d-one/inventory", "", 200, &summary)
		if !summary.OK || summary.Counts.Pods != 1 || summary.ReportVersion != 10 || summary.Dropped[inventory.PodOwnerKind] != 1 {
			t.Errorf("got %+v, want one Pod kept and one dropped", summary)
		}
		var pods list[inventory.Pod]
		r.call(t, http.MethodGet, "/clusters/d-one/inventory/pods?workload=Deployment/shop/cart", "", 200, &pods)
		if len(pods.Items) != 1 || pods.Items[0].Name != "cart-1-a" || pods.Items[0].Node != "node-1" {
			t.Errorf("got %+v, want cart-1-a on node-1", pods)
		}
		var dropped list[inventory.Finding]
		r.call(t, http.MethodGet, "/clusters/d-one/dropped?scope=object", "", 200, &dropped)
		if dropped.Total != 1 || dropped.Items[0].Name != "game-0" || dropped.Items[0].Advice == "" {
			t.Errorf("got %+v, want game-0 with advice", dropped)
		}
		var reasons viewer.ReasonList
		r.call(t, http.MethodGet, "/clusters/d-one/dropped/reasons", "", 200, &reasons)
		if len(reasons.Reasons) == 0 || reasons.Reasons[0].Scope != inventory.ScopeObject {
			t.Errorf("got %+v, want the dropped object first", reasons)
		}

		// A changed, a new and a removed Pod.
		r.save(t, "d-one", 20, append(base(), "*v1.Pod", pod("p1", "cart-1-a", "ReplicaSet", "cart-1", "r1", "other"),
			"*v1.Pod", pod("p3", "cart-1-b", "ReplicaSet", "cart-1", "r1", "cart"))...)
		r.call(t, http.MethodGet, "/clusters/d-one/inventory/pods?limit=1", "", 200, &pods)
		if pods.Total != 2 || pods.Version != 20 || pods.Items[0].Label != "app:other" || pods.Continue == "" {
			t.Errorf("got %+v, want the first of two Pods with its new label", pods)
		}
		r.call(t, http.MethodGet, "/clusters/d-one/inventory/pods?limit=1&continue="+pods.Continue, "", 200, &pods)
		if len(pods.Items) != 1 || pods.Items[0].Name != "cart-1-b" {
			t.Errorf("got %+v, want the second Pod", pods)
		}
		var differences viewer.DifferenceList
		r.call(t, http.MethodGet, "/clusters/d-one/differences?from=10&to=20&content=true", "", 200, &differences)
		if fmt.Sprint(differences.Added, differences.Changed, differences.Removed) != "1 1 1" || len(differences.Objects) != 3 {
			t.Errorf("got %+v, want one of each", differences)
		}
		for _, o := range differences.Objects {
			if (o.Before == nil) != (o.Change == viewer.Added) || (o.After == nil) != (o.Change == viewer.Removed) {
				t.Errorf("got %+v, want the sides that it has", o)
			}
		}

		// A plugin is in effect for Pods that are there already.
		script := `function GetWorkloadTypeAndName(m) if string.find(m, "GameServerSet") then return "StatefulSet", "game" end return "", "" end`
		r.save(t, "d-one", 30, append(base(), "*v1.Pod", game)...)
		test, _ := json.Marshal(viewer.PluginTest{Script: script})
		var result viewer.PluginResult
		r.call(t, http.MethodPost, "/clusters/d-one/plugin-test", string(test), 200, &result)
		if result.Mapped != 1 || result.Pods != 1 || result.Outcomes[0].Pod != "game-0" {
			t.Errorf("got %+v, want game-0 mapped", result)
		}
		create, _ := json.Marshal(viewer.NewPlugin{Name: "games", Script: script})
		r.call(t, http.MethodPost, "/plugins", string(create), 200, nil)
		r.call(t, http.MethodGet, "/clusters/d-one/inventory/pods", "", 200, &pods)
		if pods.Total != 1 || pods.Items[0].Plugin != "games" {
			t.Errorf("got %+v, want game-0 mapped by the plugin", pods)
		}
		r.call(t, http.MethodDelete, "/plugins/games", "", 200, nil)
		r.call(t, http.MethodDelete, "/plugins/games", "", 404, nil)
		if s := r.view.Status(); s.State != "ok" || s.Clusters != 1 || len(s.Plugins) != 0 {
			t.Errorf("got %+v, want one cluster and no plugin", s)
		}
	})
}

// TestPagesEnd reads, page by page, workloads that have namespace, name and uid in common: each comes once.
func TestPagesEnd(t *testing.T) {
	r := newRig(t)
	report := []string{"*version.Info", `{"gitVersion":"v1.36.0"}`, "*v1.Namespace", `{"metadata":{"uid":"n","name":"ns"}}`}
	types := []string{"*v1.Deployment", "*v1.StatefulSet", "*v1.DaemonSet"}
	for _, wire := range types {
		report = append(report, wire, `{"metadata":{"uid":"u","name":"w","namespace":"ns"}}`)
	}
	r.save(t, "d-one", 1, report...)
	for _, limit := range []string{"1", "2", "3"} {
		seen := map[string]int{}
		token := ""
		for range 10 {
			var page struct {
				Items    []struct{ Type string }
				Continue string
			}
			r.call(t, http.MethodGet, "/clusters/d-one/inventory/workloads?limit="+limit+"&continue="+token, "", 200, &page)
			for _, item := range page.Items {
				seen[item.Type]++
			}
			if token = page.Continue; token == "" {
				break
			}
		}
		if token != "" || len(seen) != len(types) || seen["Deployment"] != 1 {
			t.Errorf("limit %s: got %v and it goes on at %q, want each of %v once and the end", limit, seen, token, types)
		}
	}
}

// TestStream reads changes as they come, and after a version.
func TestStream(t *testing.T) {
	r := newRig(t)
	r.save(t, "d-one", 10, base()...)
	r.save(t, "d-one", 20, append(base(), "*v1.Pod", pod("p1", "a", "Job", "j", "j1", "x"))...)

	events := r.stream(t, "/clusters/d-one/changes?since=10", "")
	var e viewer.VersionEvent
	events.next(t, "version", &e)
	if e.Version != 20 || e.Before != 10 || e.Added != 1 || len(e.Objects) != 1 || e.Objects[0].Name != "a" {
		t.Errorf("got %+v, want Pod a added by version 20", e)
	}
	time.Sleep(serverTimeout + serverTimeout/5)
	r.save(t, "d-one", 30, base()...)
	e = viewer.VersionEvent{}
	events.next(t, "version", &e)
	if e.Version != 30 || e.Removed != 1 {
		t.Errorf("got %+v, want Pod a removed by version 30", e)
	}
	again := r.stream(t, "/clusters/d-one/changes", "20")
	e = viewer.VersionEvent{}
	if again.next(t, "version", &e); e.Version != 30 {
		t.Errorf("got %+v after Last-Event-ID 20, want version 30", e)
	}
	if body := r.call(t, http.MethodGet, "/clusters/d-one/changes", "", 503, nil); !strings.Contains(body, "too many streams") {
		t.Errorf("got %s for a third stream, want a refusal", body)
	}
	again.close()
	old := r.stream(t, "/clusters/d-one/changes?since=5", "")
	var reset viewer.ResetEvent
	if old.next(t, "reset", &reset); reset.Version != 30 {
		t.Errorf("got %+v, want a reset to version 30", reset)
	}
}

// TestStreamCanBeResumedAtOnce: a stream that breaks before the first new version goes on where it began, because each
// event tells how far it is.
func TestStreamCanBeResumedAtOnce(t *testing.T) {
	r := newRig(t)
	r.save(t, "d-one", 10, base()...)
	first := r.stream(t, "/clusters/d-one/changes", "")
	id := ""
	for first.lines.Scan() && !strings.HasPrefix(first.lines.Text(), "data: ") {
		if text, ok := strings.CutPrefix(first.lines.Text(), "id: "); ok {
			id = text
		}
	}
	if id != "10" {
		t.Fatalf("the first event has the id %q, want 10", id)
	}
	first.close()
	r.save(t, "d-one", 20, append(base(), "*v1.Pod", pod("p1", "a", "Job", "j", "j1", "x"))...)
	var e viewer.VersionEvent
	if r.stream(t, "/clusters/d-one/changes", id).next(t, "version", &e); e.Version != 20 {
		t.Errorf("got %+v, want version 20, which came while nobody read", e)
	}
}

// eventStream reads server-sent events.
type eventStream struct {
	lines *bufio.Scanner
	close func()
}

func (r *rig) stream(t *testing.T, path, last string) *eventStream {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	for deadline := time.Now().Add(20 * time.Second); ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.api.URL+receiver.APIPrefix+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Last-Event-ID", last)
		resp, err := http.DefaultClient.Do(req) //nolint:bodyclose // closed with the stream
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusOK {
			s := &eventStream{lines: bufio.NewScanner(resp.Body), close: func() {
				cancel()
				_ = resp.Body.Close()
			}}
			t.Cleanup(s.close)
			return s
		}
		// The place of a stream that was just closed becomes free a moment later.
		_ = resp.Body.Close()
		if time.Now().After(deadline) {
			t.Fatalf("GET %s: got %s", path, resp.Status)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// next reads up to the next event of a name.
func (s *eventStream) next(t *testing.T, name string, v any) {
	t.Helper()
	event := ""
	for s.lines.Scan() {
		line := s.lines.Text()
		if e, ok := strings.CutPrefix(line, "event: "); ok {
			event = e
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok && event == name {
			if err := json.Unmarshal([]byte(data), v); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("the stream ended without event %s: %v", name, s.lines.Err())
}

// TestRefusals gives wrong parameters.
func TestRefusals(t *testing.T) {
	r := newRig(t)
	r.save(t, "d-one", 10, base()...)
	for _, tt := range []struct {
		method, path, body string
		status             int
		message            string
	}{
		{"GET", "/clusters/none/inventory", "", 404, `no cluster`},
		{"GET", "/clusters/none/changes", "", 404, `no cluster`},
		{"GET", "/clusters/d-one/inventory?x=1", "", 400, `x\" is unknown`},
		{"GET", "/clusters/d-one/inventory/jobs", "", 400, `jobs\" is unknown`},
		{"GET", "/clusters/d-one/inventory/nodes?workload=x", "", 400, "of pods only"},
		{"GET", "/clusters/d-one/inventory/pods?limit=0", "", 400, "from 1 to 5000"},
		{"GET", "/clusters/d-one/inventory/pods?limit=2&limit=3", "", 400, "given 2 times"},
		{"GET", "/clusters/d-one/inventory/pods?continue=%25", "", 400, "no answer contained"},
		{"GET", "/clusters/d-one/inventory/pods?a=%zz", "", 400, "query is not valid"},
		{"GET", "/clusters/d-one/dropped?scope=all", "", 400, "scope is"},
		{"GET", "/clusters/d-one/dropped?reason=None", "", 400, "reason is"},
		{"GET", "/clusters/d-one/differences?from=5", "", 410, "is not stored"},
		{"GET", "/clusters/d-one/differences?from=x", "", 400, "number of a version"},
		{"GET", "/clusters/d-one/differences?content=yes", "", 400, "content is"},
		{"GET", "/clusters/d-one/differences?continue=1.2", "", 400, "no answer contained"},
		{"GET", "/clusters/d-one/changes?since=now", "", 400, "number of a version"},
		{"POST", "/plugins", `{"name":"a","script":"syntax error"}`, 400, "invalid plugin"},
		{"POST", "/plugins", `{"nam":"a"}`, 400, "unknown field"},
		{"POST", "/plugins", strings.Repeat(" ", 1<<20) + `{}`, 400, "longer than"},
		{"POST", "/clusters/d-one/plugin-test", `{"script":"x("}`, 400, "invalid plugin"},
		{"DELETE", "/plugins/none", "", 404, "no such plugin"},
	} {
		var answer receiver.APIError
		r.call(t, tt.method, tt.path, tt.body, tt.status, &answer)
		if quoted, _ := json.Marshal(answer.Message); !strings.Contains(string(quoted), tt.message) {
			t.Errorf("%s %s: got %s, want it to contain %s", tt.method, tt.path, quoted, tt.message)
		}
	}
}

// TestNodeOrder: the Nodes count in the order of the latest report, also if nothing but that changed, and for a viewer that
// has just been started.
func TestNodeOrder(t *testing.T) {
	r := newRig(t)
	report := func(order ...int) []string {
		out := []string{"*version.Info", versionInfo}
		for _, i := range order {
			out = append(out, "*v1.Node", fmt.Sprintf(
				`{"metadata":{"uid":"n%d","name":"node-%d"},"spec":{"podCIDR":"10.244.%d.0/24"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.%d"}]}}`, i, i, i, i))
		}
		return out
	}
	networks := func(r *rig, version uint64, lost int, want string) {
		t.Helper()
		var summary viewer.Summary
		r.call(t, http.MethodGet, "/clusters/d-one/inventory", "", 200, &summary)
		if summary.ReportVersion != version || summary.Dropped[inventory.NodeOrder] != lost || fmt.Sprint(summary.Networks) != want {
			t.Errorf("got version %d, networks %v, dropped %v, want %d, %s, %d lost", summary.ReportVersion, summary.Networks, summary.Dropped, version, want, lost)
		}
	}
	r.save(t, "d-one", 1, report(0, 1, 2)...)
	networks(r, 1, 0, "[10.244.0.0/22]")
	r.save(t, "d-one", 2, report(1, 2, 0)...)
	networks(r, 2, 2, "[10.244.0.0/24]")
	networks(newRigOn(t, r.store.Backend()), 2, 2, "[10.244.0.0/24]")
	r.save(t, "d-one", 3, report(1, 2, 3)...)
	networks(r, 3, 0, "[10.244.0.0/22]")
}

// TestPluginsAreAskedWithoutAReader: a new plugin is asked about every cluster, also where nobody looks, also if it cannot be at first.
func TestPluginsAreAskedWithoutAReader(t *testing.T) {
	backend := &failingPayloads{Memory: store.NewMemory(), err: errors.New("damaged"), format: "%w, attempt %d"}
	r := newRigOn(t, backend)
	r.save(t, "d-a", 1, "*v1.Pod", `{"metadata":{"uid":"p","name":"p","namespace":"ns"}}`)
	until := func(what string, held func() bool) {
		t.Helper()
		for range 3000 {
			if held() {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatal(what)
	}
	until("no inventory", func() bool { return r.view.Inventories() == 1 })
	backend.of.Store(new("d-"))
	plugin, err := json.Marshal(viewer.NewPlugin{Name: "none", Script: `function GetWorkloadTypeAndName(m) return "", "" end`})
	if err != nil {
		t.Fatal(err)
	}
	r.call(t, http.MethodPost, "/plugins", string(plugin), 200, nil)
	until("the failure is not told", func() bool { return r.view.Status().State == "failing" })
	backend.of.Store(nil)
	until("the plugin is not asked", func() bool { return r.view.Asked() && r.view.Status().State == "ok" })
}
