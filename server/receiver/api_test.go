package receiver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// get asks the API as an anonymous administrator, and decodes the answer into v.
func get(t testing.TB, recv *receiver.Receiver, method, path string, want int, v any) {
	t.Helper()
	w := httptest.NewRecorder()
	recv.API().ServeHTTP(w, httptest.NewRequest(method, receiver.APIPrefix+path, nil))
	if w.Code != want {
		t.Errorf("%s %s: got %d, want %d: %s", method, path, w.Code, want, w.Body)
		return
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal(w.Body.Bytes(), v); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, w.Body)
	}
}

func administrator() receiver.Access {
	return receiver.Access{Anonymous: receiver.RoleAdminister, Hosts: []string{"example.com"}}
}

// TestAPI reads what was reported in every way that the API offers.
func TestAPI(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, receiver.Options{Access: administrator()})
	entries := []*agent.KubernetesAPIInfo{versionEntry(t), entry(t, "*v1.Node", `{"metadata":{"uid":"n1","name":"node-1"}}`)}
	for i := range 250 {
		entries = append(entries, pod(t, fmt.Sprintf("pod-%03d", i), "1"))
	}
	if _, err := r.agent.KubernetesAPISync(ctx, report(10, 7, entries...)); err != nil {
		t.Fatal(err)
	}
	second := report(20, 7, entries[:len(entries)-1]...)
	second.ErrorMsg = new("pods: <b>forbidden</b>")
	if _, err := r.agent.KubernetesAPISync(ctx, second); err != nil {
		t.Fatal(err)
	}

	var c receiver.ClusterInfo
	get(t, r.recv, http.MethodGet, "/clusters/d-test", 200, &c)
	if all, age, err := r.recv.All(ctx); err != nil || age.Standby || len(all) != 1 || all[0].ID != "d-test" || all[0].Version != 20 {
		t.Fatalf("got %+v, %v, want one cluster", all, err)
	}
	if c.ID != "d-test" || c.Version != 20 || c.ErrorMsg != "pods: <b>forbidden</b>" || c.State != "error" || c.Reporter.AgentID != 7 ||
		c.Reporter.SourceIP != "10.0.0.1" || !strings.HasPrefix(c.Reporter.Peer, "127.0.0.1:") || c.Types["*v1.Pod"].Objects != 249 ||
		c.Types["*v1.Pod"].Bytes == 0 || c.Objects != 251 || c.LastReport.IsZero() || c.AgeSeconds < 0 {
		t.Errorf("got %+v", c)
	}
	var versions struct{ Versions []store.Snapshot }
	get(t, r.recv, http.MethodGet, "/clusters/d-test/versions", 200, &versions)
	if len(versions.Versions) != 2 || versions.Versions[1].Removed != 1 || versions.Versions[0].Version != 10 {
		t.Errorf("got %+v", versions)
	}

	seen := map[string]bool{}
	token := ""
	for {
		var page receiver.ObjectList
		get(t, r.recv, http.MethodGet, "/clusters/d-test/objects?type=*v1.Pod&version=10&limit=100&continue="+token, 200, &page)
		if page.Version != 10 || page.Total != 250 {
			t.Fatalf("got %d of version %d, want 250 of version 10", page.Total, page.Version)
		}
		for _, o := range page.Objects {
			var decoded struct{ Metadata struct{ Name string } }
			if err := json.Unmarshal(o.Object, &decoded); err != nil || decoded.Metadata.Name != o.Name || o.Namespace != "default" {
				t.Errorf("object %+v: %v", o, err)
			}
			seen[o.Name] = true
		}
		if token = page.Continue; token == "" {
			break
		}
	}
	if len(seen) != 250 {
		t.Errorf("got %d objects on all pages, want 250", len(seen))
	}
	for query, want := range map[string]int{
		"type=Pod":                              249,
		"type=v1.Pod":                           249,
		"type=Pod&name=pod-007":                 1,
		"type=Pod&namespace=other":              0,
		"name=node-1":                           1,
		"namespace=default":                     249,
		"":                                      251,
		"type=*version.Info":                    1,
		"type=Pod&name=pod-249":                 0,
		"version=10&type=Pod&name=pod-249":      1,
		"continue=20.251":                       251,
		"limit=1":                               251,
		"type=Pod&namespace=default&name=pod-0": 0,
	} {
		var page receiver.ObjectList
		get(t, r.recv, http.MethodGet, "/clusters/d-test/objects?"+query, 200, &page)
		if page.Total != want {
			t.Errorf("%s: got %d objects, want %d", query, page.Total, want)
		}
	}
	for path, want := range map[string]int{
		"/clusters/d-test/objects?limit=0":         400,
		"/clusters/d-test/objects?limit=many":      400,
		"/clusters/d-test/objects?version=x":       400,
		"/clusters/d-test/objects?version=7":       410,
		"/clusters/d-test/objects?continue=x":      400,
		"/clusters/d-test/objects?continue=20.-1":  400,
		"/clusters/d-test/objects?continue=999.1":  410,
		"/clusters/none/objects":                   404,
		"/clusters/none":                           404,
		"/nothing":                                 404,
		"/clusters/d-test/versions/":               404,
		"/clusters/%2e%2e%2f/objects?version=none": 404,
	} {
		get(t, r.recv, http.MethodGet, path, want, nil)
	}
	get(t, r.recv, http.MethodPost, "/clusters/d-test/suspicion/accept", 409, nil)
	get(t, r.recv, http.MethodDelete, "/clusters/d-test", 200, nil)
	get(t, r.recv, http.MethodGet, "/clusters/d-test", 404, nil)
	var events struct{ Events []receiver.Event }
	get(t, r.recv, http.MethodGet, "/events", 200, &events)
	if len(events.Events) != 1 || events.Events[0].Reason != "operator" || events.Events[0].Cluster != "d-test" {
		t.Errorf("got events %+v, want the deletion", events)
	}
}

// TestLenient splits arrays and Lists of the clusters that may send them.
func TestLenient(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, receiver.Options{Lenient: []string{"d-test"}})
	const a, b = `{"metadata":{"uid":"a","name":"a"}}`, `{"metadata":{"uid":"b","name":"b"}}`
	send := func(version uint64, entries ...*agent.KubernetesAPIInfo) error {
		_, err := r.agent.KubernetesAPISync(ctx, report(version, 1, append(entries, versionEntry(t))...))
		return err
	}
	for i, c := range []struct {
		entries []*agent.KubernetesAPIInfo
		want    string
	}{
		{[]*agent.KubernetesAPIInfo{entry(t, "*v1.Pod", "["+a+", "+b+"]")}, "a b"},
		{[]*agent.KubernetesAPIInfo{entry(t, "*v1.Pod", `{"kind":"PodList","items":[`+b+`]}`)}, "b"},
		{[]*agent.KubernetesAPIInfo{entry(t, "*v1.Pod", `{"kind":"PodList","items":[]}`)}, ""},
		{[]*agent.KubernetesAPIInfo{entry(t, "*v1.Pod", a), entry(t, "*v1.Pod", "["+a+"]")}, "a"},
		// The last one of a uid wins, as with deepflow-server, wherever it stands.
		{[]*agent.KubernetesAPIInfo{entry(t, "*v1.Pod", "["+a+"]"), entry(t, "*v1.Pod", strings.ReplaceAll(a, `"name":"a"`, `"name":"last"`))}, "last"},
	} {
		if err := send(uint64(i+1), c.entries...); err != nil {
			t.Errorf("report %d: %v", i+1, err)
		}
		if got := r.names(t); got != c.want {
			t.Errorf("report %d: got %q stored, want %q", i+1, got, c.want)
		}
	}
	for _, text := range []string{"null", "7", "[" + a + ", null]", "[[" + a + "]]"} {
		if err := send(99, entry(t, "*v1.Pod", text)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v, want InvalidArgument", text, err)
		}
	}
}

// TestSuspicion follows a report that would remove too much until it is stored.
func TestSuspicion(t *testing.T) {
	ctx := context.Background()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := newRig(t, receiver.Options{
		Now: func() time.Time { return now }, Access: administrator(),
		Suspicion: receiver.SuspicionOptions{Enabled: true, MaxRemovedShare: 0.5, ConfirmAfter: 10 * time.Minute},
	})
	all := []*agent.KubernetesAPIInfo{versionEntry(t)}
	for i := range 9 {
		all = append(all, pod(t, fmt.Sprint(i), "1"))
	}
	version := uint64(0)
	send := func(entries ...*agent.KubernetesAPIInfo) codes.Code {
		version++
		_, err := r.agent.KubernetesAPISync(ctx, report(version, 1, entries...))
		return status.Code(err)
	}
	relabelled := append([]*agent.KubernetesAPIInfo{versionEntry(t)}, pod(t, "0", "2"), pod(t, "1", "2"))
	const ok, refused = codes.OK, codes.FailedPrecondition
	for i, step := range []struct {
		wait    time.Duration
		entries []*agent.KubernetesAPIInfo
		code    codes.Code
	}{
		{0, all, ok},                         // the first report of a cluster removes nothing
		{time.Minute, all[:5], ok},           // half is not more than half
		{time.Minute, all, ok},               //
		{time.Minute, all[:3], refused},      //
		{9 * time.Minute, all[:3], refused},  // not yet
		{time.Minute, all[:4], refused},      // other objects: starts over
		{0, all[:3], refused},                // and again
		{9 * time.Minute, all[:3], refused},  //
		{time.Minute, relabelled, ok},        // the same objects, whatever their labels
		{0, all, ok},                         // back again
		{0, all[:2], refused},                //
		{time.Minute, all, ok},               // a harmless report ends the suspicion
		{20 * time.Minute, all[:2], refused}, // so that it starts over
	} {
		now = now.Add(step.wait)
		if got := send(step.entries...); got != step.code {
			t.Fatalf("step %d: got %s, want %s", i, got, step.code)
		}
	}
	var c receiver.ClusterInfo
	get(t, r.recv, http.MethodGet, "/clusters/d-test", 200, &c)
	if c.Suspicion == nil || c.Suspicion.Removed != 8 || c.Suspicion.Stored != 10 || c.Version != version-1 {
		t.Errorf("got %+v, suspicion %+v, want 8 of 10 removed", c, c.Suspicion)
	}
	get(t, r.recv, http.MethodPost, "/clusters/d-test/suspicion/accept", 200, nil)
	now = now.Add(59 * time.Minute)
	if got := send(all[:1]...); got != ok {
		t.Errorf("after the acceptance: got %s, want OK", got)
	}
	if got := send(all...); got != ok {
		t.Errorf("refilled: got %s, want OK", got)
	}
	if got := send(all[:1]...); got != refused {
		t.Errorf("the acceptance is used up: got %s, want FAILED_PRECONDITION", got)
	}
	get(t, r.recv, http.MethodPost, "/clusters/d-test/suspicion/accept", 200, nil)
	now = now.Add(2 * time.Hour)
	if got := send(all[:2]...); got != refused {
		t.Errorf("the acceptance is too old: got %s, want FAILED_PRECONDITION", got)
	}
}

// TestOtherCluster: two clusters do not overwrite each other under one id; one that was made anew takes the place of the
// former, after a while or when an operator says so.
func TestOtherCluster(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := newRig(t, receiver.Options{
		Now: func() time.Time { return now }, Access: administrator(),
		Suspicion: receiver.SuspicionOptions{OtherCluster: true, MaxRemovedShare: 0.5, ConfirmAfter: 10 * time.Minute},
	})
	version := uint64(0)
	send := func(system string, more ...*agent.KubernetesAPIInfo) error {
		version++
		entries := append([]*agent.KubernetesAPIInfo{versionEntry(t), pod(t, "p", fmt.Sprint(version))}, more...)
		if system != "" {
			entries = append(entries, entry(t, "*v1.Namespace", fmt.Sprintf(`{"metadata":{"name":"kube-system","uid":%q}}`, system)))
		}
		_, err := r.agent.KubernetesAPISync(t.Context(), report(version, 1, entries...))
		return err
	}
	const ok, refused = codes.OK, codes.FailedPrecondition
	for i, step := range []struct {
		wait   time.Duration
		system string
		code   codes.Code
	}{
		{0, "a", ok},
		{time.Minute, "a", ok},
		{time.Minute, "b", refused},
		{time.Minute, "", ok}, // kube-system is not reported: nothing is known
		{time.Minute, "b", ok},
		{time.Minute, "a", refused},
		{8 * time.Minute, "a", refused}, // not yet
		{0, "b", ok},
		{5 * time.Minute, "a", refused},
		{5 * time.Minute, "a", ok}, // b is silent
		{time.Minute, "b", refused},
	} {
		now = now.Add(step.wait)
		err := send(step.system)
		if got := status.Code(err); got != step.code {
			t.Fatalf("step %d: got %v, want %s", i, err, step.code)
		}
		if step.code == refused && !strings.Contains(err.Error(), "give one of the two clusters a cluster_id of its own") {
			t.Errorf("step %d: got %v, want it to say what to do", i, err)
		}
	}
	if s := r.recv.Status(); !slices.Equal(s.TwoClusters, []string{"d-test"}) {
		t.Errorf("got %v, want the cluster named", s.TwoClusters)
	}
	get(t, r.recv, http.MethodPost, "/clusters/d-test/suspicion/accept", 200, nil)
	if err := send("b"); err != nil {
		t.Errorf("after the acceptance: %v", err)
	}
	if s := r.recv.Status(); len(s.TwoClusters) > 0 {
		t.Errorf("got %v after the acceptance, want none", s.TwoClusters)
	}
	if err := send("a"); status.Code(err) != refused {
		t.Errorf("the acceptance is used up: got %v, want FAILED_PRECONDITION", err)
	}
}

// TestRetention lets a cluster become stale and then gone.
func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		var logged lockedBuffer
		s := store.New(store.NewMemory(), store.Options{Keep: 2})
		recv := receiver.New(receiver.Options{Store: s, Logger: slog.New(slog.NewTextHandler(&logged, nil)), Access: administrator()})
		tx, err := s.Begin(ctx, "d-test")
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Save(ctx, 1, store.Touch{}, nil); err != nil {
			t.Fatal(err)
		}
		tx.Close()
		done := make(chan error, 1)
		go func() { done <- recv.Run(ctx) }()
		for _, step := range []struct {
			wait  time.Duration
			state string
		}{{23 * time.Hour, "ok"}, {2 * time.Hour, "stale"}, {142 * time.Hour, "stale"}} {
			time.Sleep(step.wait)
			synctest.Wait()
			var c receiver.ClusterInfo
			get(t, recv, http.MethodGet, "/clusters/d-test", 200, &c)
			if c.State != step.state {
				t.Errorf("after %s more: got %q, want %q", step.wait, c.State, step.state)
			}
		}
		if problems := recv.Problems(); len(problems) != 1 || problems[0].Subject != "cluster d-test" {
			t.Errorf("got problems %v, want the stale cluster", problems)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		get(t, recv, http.MethodGet, "/clusters/d-test", 404, nil)
		var events struct{ Events []receiver.Event }
		get(t, recv, http.MethodGet, "/events", 200, &events)
		if len(events.Events) != 1 || events.Events[0].Reason != "age" || !strings.Contains(logged.String(), "cluster forgotten") {
			t.Errorf("got events %+v and log %q, want both to tell", events, logged.String())
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
}

// TestRetentionAfterAbsence: a server, or its storage, that was away for longer than clusters are remembered first gives
// their agents time to report.
func TestRetentionAfterAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		backend := &failing{Memory: store.NewMemory()}
		save := func(s *store.Store, id string) {
			t.Helper()
			tx, err := s.Begin(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Close()
			if err := tx.Save(ctx, 1, store.Touch{}, nil); err != nil {
				t.Fatal(err)
			}
		}
		before := store.New(backend, store.Options{})
		save(before, "d-alive")
		save(before, "d-gone")
		time.Sleep(8 * 24 * time.Hour)
		s := store.New(backend, store.Options{})
		recv := receiver.New(receiver.Options{Store: s, Logger: slog.New(slog.DiscardHandler), Access: administrator()})
		done := make(chan error, 1)
		go func() { done <- recv.Run(ctx) }()
		for range 2 {
			time.Sleep(30 * time.Minute)
			get(t, recv, http.MethodGet, "/clusters/d-alive", 200, nil)
			save(s, "d-alive")
			time.Sleep(2 * time.Hour)
			get(t, recv, http.MethodGet, "/clusters/d-alive", 200, nil)
			get(t, recv, http.MethodGet, "/clusters/d-gone", 404, nil)
			backend.fails.Store(true)
			time.Sleep(8 * 24 * time.Hour)
			backend.fails.Store(false)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
}

// failing is a storage that is away while fails is set.
type failing struct {
	*store.Memory

	fails atomic.Bool
}

// Clusters implements store.Backend.
func (f *failing) Clusters(ctx context.Context) ([]store.State, error) {
	if f.fails.Load() {
		return nil, store.ErrUnavailable
	}
	return f.Memory.Clusters(ctx)
}

// TestRateAndCapacity runs into the limits of rate, number of clusters and entries.
func TestRateAndCapacity(t *testing.T) {
	ctx := context.Background()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := newRig(t, receiver.Options{
		Now: func() time.Time { return now }, Limits: receiver.Limits{RequestsPerMinute: 60, MaxClusters: 2, MaxRetained: 5},
	})
	send := func(cluster string, version uint64) error {
		req := report(version, 1, versionEntry(t))
		req.ClusterId = new(cluster)
		_, err := r.agent.KubernetesAPISync(ctx, req)
		return err
	}
	var err error
	n := 0
	for n = range 1000 {
		if err = send("d-a", uint64(n+1)); err != nil {
			break
		}
	}
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "rule rate") || n != 20 {
		t.Errorf("got %v after %d requests, want a refusal by rule rate after 20", err, n)
	}
	now = now.Add(time.Second)
	if err := send("d-a", 5000); err != nil {
		t.Errorf("a second later: %v", err)
	}
	if err := send("d-b", 1); err != nil {
		t.Errorf("second cluster: %v", err)
	}
	if err := send("d-c", 1); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "rule capacity") {
		t.Errorf("third cluster: got %v, want a refusal by rule capacity", err)
	}
	if err := send("d-b", 2); err != nil {
		t.Errorf("known cluster when all are taken: %v", err)
	}
	many := report(3, 1, versionEntry(t), pod(t, "a", "1"), pod(t, "b", "1"), pod(t, "c", "1"), pod(t, "d", "1"), pod(t, "e", "1"))
	if _, err := r.agent.KubernetesAPISync(ctx, many); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "rule capacity") {
		t.Errorf("too many entries: got %v, want a refusal by rule capacity", err)
	}
}
