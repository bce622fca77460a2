// Package contract says, as a test, what package informers relies on in an apiserver. The simulator and the real
// kube-apiserver have to pass it alike, so that what is shown against the one holds for the other.
//
// It needs nothing but an address and a client that may read and write ConfigMaps and Namespaces.
package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	discoveryAccept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
	patience        = 30 * time.Second
)

// Run runs the test against the apiserver at base with client, which authenticates itself.
func Run(t *testing.T, base string, client *http.Client) {
	ns := fmt.Sprintf("contract-%d", time.Now().UnixNano())
	s := &subject{base: strings.TrimSuffix(base, "/"), client: client, ns: ns}
	s.do(t, http.MethodPost, "/api/v1/namespaces", nil, fmt.Sprintf(`{"kind":"Namespace","apiVersion":"v1","metadata":{"name":%q}}`, ns), http.StatusCreated)
	t.Cleanup(func() { s.remove(t, "/api/v1/namespaces/"+ns) })
	for _, c := range []struct {
		name string
		test func(*testing.T, *subject)
	}{
		{"Version", testVersion},
		{"AggregatedDiscovery", testAggregatedDiscovery},
		{"PlainDiscovery", testPlainDiscovery},
		{"ListShape", testListShape},
		{"Pages", testPages},
		{"ContinueTakesNoResourceVersion", testContinueTakesNoResourceVersion},
		{"ResourceVersionZero", testResourceVersionZero},
		{"FutureResourceVersion", testFutureResourceVersion},
		{"InvalidResourceVersion", testInvalidResourceVersion},
		{"FieldSelector", testFieldSelector},
		{"NotFound", testNotFound},
		{"Watch", testWatch},
		{"WatchFromNothing", testWatchFromNothing},
		{"WatchTimeout", testWatchTimeout},
		{"StreamingList", testStreamingList},
		{"StreamingListNeedsMatch", testStreamingListNeedsMatch},
		{"ProtobufList", testProtobufList},
		{"ProtobufStreamingList", testProtobufStreamingList},
		{"ProtobufRefusal", testProtobufRefusal},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.clear(t)
			c.test(t, s)
		})
	}
}

// subject is the apiserver under test, and a namespace of its own in it.
type subject struct {
	base   string
	client *http.Client
	ns     string
}

type meta struct {
	Name               string            `json:"name"`
	Namespace          string            `json:"namespace"`
	UID                string            `json:"uid"`
	ResourceVersion    string            `json:"resourceVersion"`
	Continue           string            `json:"continue"`
	RemainingItemCount *int64            `json:"remainingItemCount"`
	Annotations        map[string]string `json:"annotations"`
}

// thing is whatever the apiserver answers, as far as the test looks at it.
type thing struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Metadata   meta   `json:"metadata"`
	Reason     string `json:"reason"`
	Code       int    `json:"code"`
	Details    struct {
		Causes []struct {
			Reason string `json:"reason"`
		} `json:"causes"`
	} `json:"details"`
	Items []thing `json:"items"`
	Data  map[string]string
}

func (s *subject) maps() string { return "/api/v1/namespaces/" + s.ns + "/configmaps" }

func (s *subject) request(ctx context.Context, t *testing.T, method, path string, params url.Values, body string, header http.Header) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, s.base+path+"?"+params.Encode(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	maps.Copy(req.Header, header)
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// do makes a request that has to be answered with the given status, and returns what came.
func (s *subject) do(t *testing.T, method, path string, params url.Values, body string, want int) thing {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp := s.request(ctx, t, method, path, params, body, nil)
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != want {
		t.Fatalf("%s %s?%s: got status %d, want %d: %s", method, path, params.Encode(), resp.StatusCode, want, raw)
	}
	var out thing
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, raw)
	}
	if want >= 400 && (out.Kind != "Status" || out.Code != want || out.Reason == "") {
		t.Errorf("%s %s: got %s, want a Status with code %d and a reason", method, path, raw, want)
	}
	return out
}

// remove deletes without insisting: the test may be over.
func (s *subject) remove(t *testing.T, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp := s.request(ctx, t, http.MethodDelete, path, nil, "", nil)
	_ = resp.Body.Close()
}

func (s *subject) list(t *testing.T, params ...string) thing {
	t.Helper()
	return s.do(t, http.MethodGet, s.maps(), pairs(params), "", http.StatusOK)
}

func pairs(params []string) url.Values {
	v := url.Values{}
	for i := 0; i+1 < len(params); i += 2 {
		v.Set(params[i], params[i+1])
	}
	return v
}

// create makes a ConfigMap and returns its metadata.
func (s *subject) create(t *testing.T, name string) meta {
	t.Helper()
	body := fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q},"data":{"a":"1"}}`, name)
	return s.do(t, http.MethodPost, s.maps(), nil, body, http.StatusCreated).Metadata
}

func (s *subject) update(t *testing.T, name, value string) meta {
	t.Helper()
	body := fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q},"data":{"a":%q}}`, name, value)
	return s.do(t, http.MethodPut, s.maps()+"/"+name, nil, body, http.StatusOK).Metadata
}

func (s *subject) delete(t *testing.T, name string) {
	t.Helper()
	s.do(t, http.MethodDelete, s.maps()+"/"+name, nil, "", http.StatusOK)
}

// clear removes what an earlier test left.
func (s *subject) clear(t *testing.T) {
	t.Helper()
	for _, item := range s.list(t).Items {
		s.delete(t, item.Metadata.Name)
	}
}

func (s *subject) fill(t *testing.T, n int) []string {
	t.Helper()
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("m%02d", i))
		s.create(t, names[i])
	}
	return names
}

func names(items []thing) []string {
	out := []string{}
	for _, i := range items {
		out = append(out, i.Metadata.Name)
	}
	slices.Sort(out)
	return out
}

func wantNames(t *testing.T, got []thing, want ...string) {
	t.Helper()
	if g := names(got); !slices.Equal(g, want) {
		t.Errorf("objects: got %v, want %v", g, want)
	}
}

func number(t *testing.T, rv string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(rv, 10, 64)
	if err != nil || n == 0 {
		t.Errorf("resourceVersion: got %q, want a positive number", rv)
	}
	return n
}

func testVersion(t *testing.T, s *subject) {
	resp := s.request(t.Context(), t, http.MethodGet, "/version", nil, "", nil)
	defer func() { _ = resp.Body.Close() }()
	var v struct{ Major, Minor, GitVersion string }
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(v.GitVersion, "v"+v.Major+".") || v.Minor == "" {
		t.Errorf("got %+v, want a gitVersion that begins with major", v)
	}
}

func testAggregatedDiscovery(t *testing.T, s *subject) {
	for _, path := range []string{"/api", "/apis"} {
		list, etag := aggregatedDiscovery(t, s, path)
		core := path == "/api"
		if found := checkGroups(t, list, core); core && !found {
			t.Errorf("%s: got no proper configmaps in %+v", path, list)
		}
		again := s.request(t.Context(), t, http.MethodGet, path, nil, "", http.Header{"Accept": {discoveryAccept}, "If-None-Match": {etag}})
		_ = again.Body.Close()
		if again.StatusCode != http.StatusNotModified {
			t.Errorf("%s with If-None-Match: got status %d, want 304", path, again.StatusCode)
		}
	}
}

// groupList is an APIGroupDiscoveryList.
type groupList struct {
	Items []struct {
		Metadata meta
		Versions []struct {
			Version   string
			Freshness string
			Resources []struct {
				Resource     string
				Scope        string
				Verbs        []string
				ResponseKind struct{ Kind string }
			}
		}
	}
}

// aggregatedDiscovery gets one of the two discovery documents, which has groups, and its ETag.
func aggregatedDiscovery(t *testing.T, s *subject, path string) (list groupList, etag string) {
	t.Helper()
	resp := s.request(t.Context(), t, http.MethodGet, path, nil, "", http.Header{"Accept": {discoveryAccept}})
	raw, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	if ct := resp.Header.Get("Content-Type"); !strings.Contains(ct, "as=APIGroupDiscoveryList") {
		t.Errorf("%s: content type: got %q, want as=APIGroupDiscoveryList", path, ct)
	}
	if err := json.Unmarshal(raw, &list); err != nil || len(list.Items) == 0 {
		t.Fatalf("%s: got %s (%v), want groups", path, raw, err)
	}
	if etag = resp.Header.Get("ETag"); etag == "" {
		t.Fatalf("%s: got no ETag", path)
	}
	return list, etag
}

// checkGroups holds every group against what all have, and reports whether ConfigMaps are as they should be.
func checkGroups(t *testing.T, list groupList, core bool) (found bool) {
	t.Helper()
	for _, g := range list.Items {
		if core && g.Metadata.Name != "" {
			t.Errorf("name of the core group: got %q, want none", g.Metadata.Name)
		}
		for _, v := range g.Versions {
			if v.Freshness != "Current" {
				t.Errorf("freshness of %s/%s: got %q, want Current", g.Metadata.Name, v.Version, v.Freshness)
			}
			for _, r := range v.Resources {
				if r.Resource == "configmaps" {
					found = r.Scope == "Namespaced" && r.ResponseKind.Kind == "ConfigMap" && slices.Contains(r.Verbs, "watch")
				}
			}
		}
	}
	return found
}

func testPlainDiscovery(t *testing.T, s *subject) {
	fetch := func(path string, into any) {
		t.Helper()
		resp := s.request(t.Context(), t, http.MethodGet, path, nil, "", nil)
		defer func() { _ = resp.Body.Close() }()
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	var core struct{ Versions []string }
	if fetch("/api", &core); !slices.Contains(core.Versions, "v1") {
		t.Errorf("/api: got versions %v, want v1 among them", core.Versions)
	}
	var groups struct {
		Groups []struct {
			Name             string
			Versions         []struct{ Version string }
			PreferredVersion struct{ Version string }
		}
	}
	fetch("/apis", &groups)
	for _, g := range groups.Groups {
		if g.Name == "" || len(g.Versions) == 0 || g.PreferredVersion.Version == "" {
			t.Errorf("/apis: got group %+v, want name, versions and the preferred one", g)
		}
	}
	var list struct {
		Resources []struct {
			Name, Kind string
			Namespaced bool
			Verbs      []string
		}
	}
	fetch("/api/v1", &list)
	for _, r := range list.Resources {
		if r.Name == "configmaps" && r.Kind == "ConfigMap" && r.Namespaced && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "watch") {
			return
		}
	}
	t.Errorf("/api/v1: got no proper configmaps in %+v", list)
}

func testListShape(t *testing.T, s *subject) {
	empty := s.list(t)
	if empty.Kind != "ConfigMapList" || empty.APIVersion != "v1" || len(empty.Items) != 0 {
		t.Errorf("empty list: got %+v, want a ConfigMapList of v1 without items", empty)
	}
	first := number(t, empty.Metadata.ResourceVersion)
	m := s.create(t, "a")
	list := s.list(t)
	wantNames(t, list.Items, "a")
	if n := number(t, list.Metadata.ResourceVersion); n <= first || n < number(t, m.ResourceVersion) {
		t.Errorf("resourceVersion: got %d after %d, want it to grow", n, first)
	}
	if got := list.Items[0].Metadata; got.UID == "" || got.UID != m.UID || got.ResourceVersion != m.ResourceVersion || got.Namespace != s.ns {
		t.Errorf("item: got %+v, want uid, resourceVersion and namespace of %+v", got, m)
	}
	u := s.update(t, "a", "2")
	if u.UID != m.UID || number(t, u.ResourceVersion) <= number(t, m.ResourceVersion) {
		t.Errorf("updated: got %+v, want the uid of %+v and a greater resourceVersion", u, m)
	}
	stale := fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","resourceVersion":%q}}`, m.ResourceVersion)
	s.do(t, http.MethodPut, s.maps()+"/a", nil, stale, http.StatusConflict)
}

func testPages(t *testing.T, s *subject) {
	all := s.fill(t, 10)
	page := s.list(t, "limit", "4")
	rv := page.Metadata.ResourceVersion
	if len(page.Items) != 4 || page.Metadata.Continue == "" || page.Metadata.RemainingItemCount == nil || *page.Metadata.RemainingItemCount != 6 {
		t.Fatalf("first page: got %d items and %+v, want 4, a continue token and 6 remaining", len(page.Items), page.Metadata)
	}
	// What happens between the pages does not show in them.
	s.create(t, "late")
	s.delete(t, all[9])
	items := page.Items
	for page.Metadata.Continue != "" {
		page = s.list(t, "limit", "4", "continue", page.Metadata.Continue)
		if page.Metadata.ResourceVersion != rv {
			t.Errorf("resourceVersion of a further page: got %s, want %s", page.Metadata.ResourceVersion, rv)
		}
		items = append(items, page.Items...)
	}
	wantNames(t, items, all...)
}

func testContinueTakesNoResourceVersion(t *testing.T, s *subject) {
	s.fill(t, 3)
	page := s.list(t, "limit", "2")
	s.do(t, http.MethodGet, s.maps(), pairs([]string{"continue", page.Metadata.Continue, "resourceVersion", page.Metadata.ResourceVersion}), "", http.StatusBadRequest)
	s.do(t, http.MethodGet, s.maps(), pairs([]string{"continue", "nonsense"}), "", http.StatusBadRequest)
}

// testResourceVersionZero: a list at 0 comes from the watch cache, whole, whatever the limit.
func testResourceVersionZero(t *testing.T, s *subject) {
	all := s.fill(t, 5)
	deadline := time.Now().Add(patience)
	for {
		list := s.list(t, "limit", "2", "resourceVersion", "0")
		if list.Metadata.Continue != "" {
			t.Fatalf("got a continue token, want the whole list")
		}
		if slices.Equal(names(list.Items), all) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("objects: got %v, want %v", names(list.Items), all)
		}
		time.Sleep(50 * time.Millisecond) // the cache may be behind
	}
}

func testFutureResourceVersion(t *testing.T, s *subject) {
	out := s.do(t, http.MethodGet, s.maps(), pairs([]string{"resourceVersion", "999999999999"}), "", http.StatusGatewayTimeout)
	if len(out.Details.Causes) == 0 || out.Details.Causes[0].Reason != "ResourceVersionTooLarge" {
		t.Errorf("got %+v, want the cause ResourceVersionTooLarge", out)
	}
}

func testInvalidResourceVersion(t *testing.T, s *subject) {
	s.do(t, http.MethodGet, s.maps(), pairs([]string{"resourceVersion", "abc"}), "", http.StatusBadRequest)
}

func testFieldSelector(t *testing.T, s *subject) {
	s.fill(t, 3)
	wantNames(t, s.list(t, "fieldSelector", "metadata.name=m01").Items, "m01")
	wantNames(t, s.list(t, "fieldSelector", "metadata.name!=m01").Items, "m00", "m02")
	namespaces := s.do(t, http.MethodGet, "/api/v1/namespaces", pairs([]string{"fieldSelector", "metadata.name=" + s.ns}), "", http.StatusOK)
	wantNames(t, namespaces.Items, s.ns)
	w := s.watch(t, "fieldSelector", "metadata.name=m01", "resourceVersion", s.list(t).Metadata.ResourceVersion)
	s.update(t, "m00", "2")
	s.update(t, "m01", "2")
	w.want(t, "MODIFIED m01")
}

func testNotFound(t *testing.T, s *subject) {
	for _, path := range []string{"/api/v1/nonsenses", "/apis/nonsense.example.com", "/apis/nonsense.example.com/v1", "/apis/nonsense.example.com/v1/nonsenses"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		resp := s.request(ctx, t, http.MethodGet, path, nil, "", nil)
		_ = resp.Body.Close()
		cancel()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: got status %d, want 404", path, resp.StatusCode)
		}
	}
}

// watching is an open watch.
type watching struct {
	events chan string // "TYPE name", "BOOKMARK", "BOOKMARK end"; closed at the end
	rvs    chan string
}

func (s *subject) watch(t *testing.T, params ...string) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	v := pairs(params)
	v.Set("watch", "true")
	resp := s.request(ctx, t, http.MethodGet, s.maps(), v, "", nil) //nolint:bodyclose // closed when the test ends
	if resp.StatusCode != http.StatusOK {
		raw, err := io.ReadAll(resp.Body)
		t.Fatalf("watch %v: got status %d, want 200: %s (%v)", params, resp.StatusCode, raw, err)
	}
	w := &watching{events: make(chan string, 100), rvs: make(chan string, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(w.events)
		dec := json.NewDecoder(resp.Body)
		for {
			var ev struct {
				Type   string
				Object thing
			}
			if err := dec.Decode(&ev); err != nil {
				return
			}
			line := ev.Type
			switch {
			case ev.Type == "BOOKMARK" && ev.Object.Metadata.Annotations["k8s.io/initial-events-end"] == "true":
				line += " end"
			case ev.Type == "ERROR":
				line += fmt.Sprint(" ", ev.Object.Code)
			case ev.Type != "BOOKMARK":
				line += " " + ev.Object.Metadata.Name
			}
			select {
			case w.events <- line:
				w.rvs <- ev.Object.Metadata.ResourceVersion
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = resp.Body.Close()
		<-done
	})
	return w
}

// want expects these events next, and returns the last one's resourceVersion.
func (w *watching) want(t *testing.T, want ...string) (rv string) {
	t.Helper()
	for _, line := range want {
		select {
		case got, ok := <-w.events:
			if !ok {
				t.Fatalf("the watch ended, want %q", line)
			}
			rv = <-w.rvs
			if got != line {
				t.Fatalf("event: got %q, want %q", got, line)
			}
		case <-time.After(patience):
			t.Fatalf("no event in %s, want %q", patience, line)
		}
	}
	return rv
}

func testWatch(t *testing.T, s *subject) {
	s.fill(t, 2)
	from := s.list(t).Metadata.ResourceVersion
	s.create(t, "a")
	w := s.watch(t, "resourceVersion", from)
	updated := s.update(t, "a", "2")
	s.delete(t, "a")
	w.want(t, "ADDED a")
	if rv := w.want(t, "MODIFIED a"); rv != updated.ResourceVersion {
		t.Errorf("resourceVersion of the event: got %s, want %s", rv, updated.ResourceVersion)
	}
	if rv := w.want(t, "DELETED a"); number(t, rv) <= number(t, updated.ResourceVersion) {
		t.Errorf("resourceVersion of the deletion: got %s, want more than %s", rv, updated.ResourceVersion)
	}
}

func testWatchFromNothing(t *testing.T, s *subject) {
	s.fill(t, 2)
	w := s.watch(t)
	w.want(t, "ADDED m00", "ADDED m01")
	s.delete(t, "m00")
	w.want(t, "DELETED m00")
}

func testWatchTimeout(t *testing.T, s *subject) {
	w := s.watch(t, "timeoutSeconds", "1", "resourceVersion", s.list(t).Metadata.ResourceVersion)
	select {
	case ev, ok := <-w.events:
		if ok {
			t.Errorf("event: got %q, want the end", ev)
		}
	case <-time.After(patience):
		t.Error("the watch did not end after its timeoutSeconds")
	}
}

func testStreamingList(t *testing.T, s *subject) {
	s.fill(t, 3)
	for _, from := range []string{"", s.list(t).Metadata.ResourceVersion} {
		w := s.watch(t, "sendInitialEvents", "true", "resourceVersionMatch", "NotOlderThan", "allowWatchBookmarks", "true", "resourceVersion", from)
		rv := w.want(t, "ADDED m00", "ADDED m01", "ADDED m02", "BOOKMARK end")
		if from != "" && number(t, rv) < number(t, from) {
			t.Errorf("resourceVersion of the last bookmark: got %s, want at least %s", rv, from)
		}
		s.update(t, "m01", "x"+from)
		w.want(t, "MODIFIED m01")
	}
}

func testStreamingListNeedsMatch(t *testing.T, s *subject) {
	params := pairs([]string{"watch", "true", "sendInitialEvents", "true", "allowWatchBookmarks", "true"})
	out := s.do(t, http.MethodGet, s.maps(), params, "", http.StatusUnprocessableEntity)
	if !bytes.Contains([]byte(out.Reason), []byte("Invalid")) {
		t.Errorf("reason: got %q, want Invalid", out.Reason)
	}
}
