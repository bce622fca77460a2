package apisim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// writer is a response that a Fault may cut, freeze or garble.
type writer struct {
	http.ResponseWriter
	req   *http.Request
	fault Fault
	sent  int

	protobuf bool // the form of the answer
}

func (w *writer) Write(b []byte) (int, error) {
	if !w.protobuf {
		b = w.garbled(b)
	}
	if limit := max(w.fault.Cut, w.fault.Freeze); limit > 0 && w.sent+len(b) >= limit {
		if _, err := w.ResponseWriter.Write(b[:limit-w.sent]); err != nil {
			panic(http.ErrAbortHandler)
		}
		w.flush()
		if w.fault.Freeze > 0 {
			wait(w.req, w.fault)
		}
		panic(http.ErrAbortHandler)
	}
	w.sent += len(b)
	if _, err := w.ResponseWriter.Write(b); err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
	return len(b), nil
}

func (w *writer) flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// event writes one event of a watch, whose object is of that kind and given as JSON.
func (w *writer) event(event string, kind schema.GroupVersionKind, object json.RawMessage) {
	b := slices.Concat([]byte(`{"type":"`+event+`","object":`), object, []byte("}\n"))
	if w.protobuf {
		b = w.frame(kind, b)
	}
	if _, err := w.Write(b); err != nil {
		panic(http.ErrAbortHandler)
	}
	w.flush()
}

// wait blocks until the client goes away or the fault ends.
func wait(r *http.Request, f Fault) {
	select {
	case <-r.Context().Done():
	case <-f.Stop:
	}
}

func writeJSON(w *writer, code int, v any) { writeBody(w, code, append(mustMarshal(v), '\n')) }

func writeBody(w *writer, code int, body []byte) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(code)
	if _, err := w.Write(body); err != nil {
		panic(http.ErrAbortHandler)
	}
}

func status(code int, message string, retryAfter int) *metav1.Status {
	reasons := map[int]metav1.StatusReason{
		http.StatusBadRequest: metav1.StatusReasonBadRequest, http.StatusUnauthorized: metav1.StatusReasonUnauthorized,
		http.StatusForbidden: metav1.StatusReasonForbidden, http.StatusNotFound: metav1.StatusReasonNotFound,
		http.StatusConflict: metav1.StatusReasonConflict, http.StatusNotAcceptable: metav1.StatusReasonNotAcceptable, http.StatusGone: metav1.StatusReasonExpired,
		http.StatusUnprocessableEntity: metav1.StatusReasonInvalid, http.StatusTooManyRequests: metav1.StatusReasonTooManyRequests,
		http.StatusInternalServerError: metav1.StatusReasonInternalError, http.StatusServiceUnavailable: metav1.StatusReasonServiceUnavailable,
		http.StatusGatewayTimeout: metav1.StatusReasonTimeout,
	}
	st := &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reasons[code], Message: message,
	}
	if retryAfter > 0 {
		st.Details = &metav1.StatusDetails{RetryAfterSeconds: int32(retryAfter)}
	}
	return st
}

func writeStatus(w *writer, code int, message string, retryAfter int) {
	answerStatus(w, code, status(code, message, retryAfter))
}

func answerStatus(w *writer, code int, st *metav1.Status) {
	if w.protobuf {
		writeProtobuf(w, code, statusKind, mustMarshal(st))
		return
	}
	writeJSON(w, code, st)
}

func writeTooLarge(w *writer, wanted string, current uint64) {
	st := status(http.StatusGatewayTimeout, "Too large resource version: "+wanted+", current: "+strconv.FormatUint(current, 10), 1)
	st.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	answerStatus(w, http.StatusGatewayTimeout, st)
}

// object serves get, create, update and delete of one object.
func (s *Server) object(w *writer, r *http.Request, c *collection, req Request, name string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	var obj map[string]any
	if req.Verb == "create" || req.Verb == "update" {
		if err := json.Unmarshal(body, &obj); err != nil {
			writeStatus(w, http.StatusBadRequest, err.Error(), 0)
			return
		}
		meta, ok := obj["metadata"].(map[string]any)
		if !ok {
			writeStatus(w, http.StatusUnprocessableEntity, "metadata is required", 0)
			return
		}
		if c.Namespaced {
			meta["namespace"] = req.Namespace
		}
		delete(meta, "uid")
		obj["kind"], obj["apiVersion"] = c.Kind, c.GroupVersion().String()
		if name == "" {
			name = text(meta["name"])
		}
	}
	key := objectKey(req.Namespace, name)
	s.mu.Lock()
	old, exists := c.present[key]
	code, out := http.StatusOK, old.raw
	switch {
	case req.Verb == "create" && exists:
		code = http.StatusConflict
	case req.Verb != "create" && !exists:
		code = http.StatusNotFound
	case req.Verb == "update" && stale(obj, old.raw):
		code = http.StatusConflict
	case req.Verb == "create", req.Verb == "update":
		s.put(c, obj)
		out = c.present[key].raw
		if req.Verb == "create" {
			code = http.StatusCreated
		}
	case req.Verb == "delete":
		out, _ = s.delete(c, key)
	}
	s.mu.Unlock()
	if code >= 400 {
		writeStatus(w, code, req.Verb+" "+key, 0)
		return
	}
	if w.protobuf {
		writeProtobuf(w, code, c.kind(), out)
		return
	}
	writeBody(w, code, append(slices.Clone(out), '\n'))
}

// stale tells whether an update is based on another state of the object than the present one. An update that does not
// say on which it is based is never stale.
func stale(update map[string]any, present json.RawMessage) bool {
	meta, _ := update["metadata"].(map[string]any)
	based := text(meta["resourceVersion"])
	return based != "" && based != metaOf(present).ResourceVersion
}

// discover serves /api, /apis and what lies below them down to a group and version.
func (s *Server) discover(w *writer, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	core := parts[0] == "api"
	if !core && parts[0] != "apis" {
		writeStatus(w, http.StatusNotFound, "the server could not find the requested resource", 0)
		return
	}
	s.mu.Lock()
	groups := map[string]map[string][]Resource{}
	for gvr, c := range s.collections {
		if (gvr.Group == "") != core || s.starting && custom(gvr.Group) {
			continue
		}
		if groups[gvr.Group] == nil {
			groups[gvr.Group] = map[string][]Resource{}
		}
		groups[gvr.Group][gvr.Version] = append(groups[gvr.Group][gvr.Version], c.Resource)
	}
	broken, together, starting, version := maps.Clone(s.broken), s.aggregated, s.starting, s.discovery
	s.mu.Unlock()
	for _, versions := range groups {
		for _, list := range versions {
			slices.SortFunc(list, func(a, b Resource) int { return strings.Compare(a.Resource, b.Resource) })
		}
	}
	switch depth := len(parts); {
	case depth == 1 && together && strings.Contains(r.Header.Get("Accept"), "v="+version+";as=APIGroupDiscoveryList"):
		s.discoverAll(w, r, version, groups, broken)
	case depth == 1 && core:
		writeJSON(w, http.StatusOK, map[string]any{"kind": "APIVersions", "versions": versionsOf(groups[""])})
	case depth == 1:
		var list []map[string]any
		for _, g := range slices.Sorted(maps.Keys(groups)) {
			list = append(list, plainGroup(g, versionsOf(groups[g])))
		}
		writeJSON(w, http.StatusOK, map[string]any{"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
	case depth == 2 && !core && groups[parts[1]] != nil:
		writeJSON(w, http.StatusOK, plainGroup(parts[1], versionsOf(groups[parts[1]])))
	case depth == 2 && core && groups[""][parts[1]] != nil:
		plainResources(w, schema.GroupVersion{Version: parts[1]}, groups[""][parts[1]])
	case depth == 3 && !core && broken[parts[1]]:
		writeStatus(w, http.StatusServiceUnavailable, "the server is currently unable to handle the request", 0)
	case depth == 3 && !core && groups[parts[1]][parts[2]] != nil:
		plainResources(w, schema.GroupVersion{Group: parts[1], Version: parts[2]}, groups[parts[1]][parts[2]])
	case starting:
		writeStatus(w, http.StatusServiceUnavailable, "the server is starting", 1)
	default:
		writeStatus(w, http.StatusNotFound, "the server could not find the requested resource", 0)
	}
}

func (s *Server) discoverAll(w *writer, r *http.Request, version string, groups map[string]map[string][]Resource, broken map[string]bool) {
	items := []map[string]any{}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		versions := []map[string]any{}
		for _, v := range versionsOf(groups[g]) {
			freshness, list := "Current", []map[string]any{}
			if broken[g] {
				freshness = "Stale"
			} else {
				for _, res := range groups[g][v] {
					scope := "Cluster"
					if res.Namespaced {
						scope = "Namespaced"
					}
					list = append(list, map[string]any{
						"resource": res.Resource, "scope": scope, "verbs": verbs,
						"responseKind": map[string]string{"group": g, "version": v, "kind": res.Kind},
					})
				}
			}
			versions = append(versions, map[string]any{"version": v, "freshness": freshness, "resources": list})
		}
		items = append(items, map[string]any{"metadata": map[string]any{"name": g, "creationTimestamp": nil}, "versions": versions})
	}
	body := mustMarshal(map[string]any{"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/" + version, "items": items})
	sum := sha256.Sum256(body)
	etag := `"` + hex.EncodeToString(sum[:]) + `"`
	w.Header().Set("ETag", etag)
	w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v="+version+";as=APIGroupDiscoveryList")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeBody(w, http.StatusOK, body)
}

var verbs = []string{"create", "delete", "get", "list", "update", "watch"}

// versionsOf sorts stable versions before others, and newer ones first.
func versionsOf(versions map[string][]Resource) []string {
	out := slices.Collect(maps.Keys(versions))
	slices.SortFunc(out, func(a, b string) int {
		if x, y := len(a) > 2, len(b) > 2; x != y {
			if x {
				return 1
			}
			return -1
		}
		return strings.Compare(b, a)
	})
	return out
}

func plainGroup(name string, versions []string) map[string]any {
	var list []map[string]string
	for _, v := range versions {
		list = append(list, map[string]string{"groupVersion": name + "/" + v, "version": v})
	}
	return map[string]any{"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": list, "preferredVersion": list[0]}
}

func plainResources(w *writer, gv schema.GroupVersion, resources []Resource) {
	var list []map[string]any
	for _, r := range resources {
		list = append(list, map[string]any{"name": r.Resource, "kind": r.Kind, "namespaced": r.Namespaced, "verbs": verbs})
	}
	writeJSON(w, http.StatusOK, map[string]any{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv.String(), "resources": list})
}

// Listen serves s on connections within the process, so that it works in a synctest bubble too. The address for a client
// is http://sim, its dial function Dial. Close ends it and waits for its goroutines.
func (s *Server) Listen() *Listener {
	l := &Listener{conns: make(chan net.Conn), closed: make(chan struct{})}
	l.http = &http.Server{Handler: s}
	l.done.Go(func() {
		if err := l.http.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			panic(err)
		}
	})
	return l
}

// Listener is a net.Listener for connections within the process.
type Listener struct {
	http   *http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	done   sync.WaitGroup
	mu     sync.Mutex
	open   []net.Conn
	down   bool
}

// Dial connects to the server.
func (l *Listener) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	l.mu.Lock()
	down := l.down
	l.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "sim", Err: errors.New("connection refused")}
	}
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		l.mu.Lock()
		l.open = append(l.open, server)
		l.mu.Unlock()
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// SetDown cuts all connections and refuses new ones, as an apiserver that has been killed does, or ends that.
func (l *Listener) SetDown(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	if down {
		for _, c := range l.open {
			_ = c.Close()
		}
		l.open = nil
	}
}

// Cut cuts all connections; new ones are taken at once.
func (l *Listener) Cut() {
	l.SetDown(true)
	l.SetDown(false)
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: "sim", Net: "sim"} }

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Shutdown cuts all connections and waits for the server's goroutines.
func (l *Listener) Shutdown() error {
	err := l.http.Close()
	l.done.Wait()
	return err
}
