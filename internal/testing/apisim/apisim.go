// Package apisim is an apiserver made of a few maps: discovery (aggregated and plain), list with pages, watch with
// bookmarks, streaming lists, resourceVersions with compaction, field selectors by name, and writing, over HTTP.
//
// It exists to do on command what a real apiserver cannot be made to do: a Faults function says for each request whether
// it is refused, hangs, is cut, frozen or garbled. Where it answers at all it answers as kube-apiserver does; the test
// in package contract runs against both. It keeps time with package time only, so that it can run in a synctest bubble
// behind Listen.
package apisim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Resource is a kind of object that the simulator serves.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
}

// Streaming says what the simulator makes of requests for streaming lists.
type Streaming int

// The ways in which released apiservers answer a request for a streaming list.
const (
	StreamingWorks   Streaming = iota // 1.32, and since 1.34, unless switched off
	StreamingRefused                  // known and switched off: status 422
	StreamingIgnored                  // before 1.27: an ordinary watch
)

// Request is what a Faults function gets to see.
type Request struct {
	// Verb is list, watch, get, create, update, delete, discovery or version.
	Verb string
	// Resource is empty for discovery and version.
	Resource  schema.GroupVersionResource
	Namespace string
	// Streaming tells a watch that begins with a streaming list.
	Streaming bool
	// Protobuf tells whether protobuf is accepted.
	Protobuf bool
	// ResourceVersion and Continue are the request's parameters.
	ResourceVersion, Continue string
	// Limit is the request's parameter, 0 if there is none.
	Limit int
	// Client is the address of the sender, without the port.
	Client string
}

// Fault is what goes wrong with one request; its zero value is nothing.
type Fault struct {
	Status     int // answered instead, with a proper Status object
	RetryAfter int // seconds, sent along with Status
	Hang       bool
	Cut        int // the connection is cut after so many bytes of the body
	Freeze     int // after so many bytes of the body nothing comes any more
	// Garble changes the answer or, of one in protobuf, the JSON of which it is made.
	Garble          func(body []byte) []byte
	NoFinalBookmark bool   // a streaming list never ends
	LateBookmark    bool   // a streaming list ends only after the next change
	ResourceVersion string // of a list, instead of the true one
	Stop            <-chan struct{}
}

// Server is the simulated apiserver. All methods may be called at any time.
type Server struct {
	mu          sync.Mutex
	rv          uint64
	compacted   uint64
	collections map[schema.GroupVersionResource]*collection
	broken      map[string]bool
	faults      func(Request) Fault
	streaming   Streaming
	protobuf    Protobuf
	aggregated  bool
	discovery   string
	starting    bool
	token       string
	bookmarks   time.Duration
	gitVersion  string
	uids        uint64
	counts      map[Count]int
}

// Count is the key under which requests are counted.
type Count struct{ Verb, Resource string }

func count(req Request) Count {
	if req.Streaming {
		return Count{"stream", req.Resource.Resource}
	}
	return Count{req.Verb, req.Resource.Resource}
}

type collection struct {
	Resource
	*history
	removed bool
}

// history is what happened to the objects of a resource, in all its versions.
type history struct {
	born uint64            // resourceVersion at which it was served; of what was before under its name nothing is known
	base map[string]stored // as of the last compaction
	log  []change
	lost uint64 // resourceVersion of the last change that was compacted; 0: none was

	present map[string]stored // as of the last change
	changed chan struct{}     // closed and replaced with every change
}

func newHistory(born uint64) *history {
	return &history{born: born, base: map[string]stored{}, present: map[string]stored{}, changed: make(chan struct{})}
}

// add notes a change.
func (h *history) add(ch change) {
	h.log = append(h.log, ch)
	ch.apply(h.present)
	h.wake()
}

// compact forgets the past.
func (h *history) compact() {
	if n := len(h.log); n > 0 {
		h.lost = h.log[n-1].rv
	}
	h.base, h.log = maps.Clone(h.present), nil
}

func (h *history) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// since returns the changes after a resourceVersion that is not compacted.
func (h *history) since(from uint64) []change {
	i := len(h.log)
	for i > 0 && h.log[i-1].rv > from {
		i--
	}
	return h.log[i:len(h.log):len(h.log)]
}

type stored struct {
	rv  uint64
	raw json.RawMessage
}

type change struct {
	rv   uint64
	kind string
	key  string
	raw  json.RawMessage
}

func (ch change) apply(state map[string]stored) {
	if ch.kind == "DELETED" {
		delete(state, ch.key)
		return
	}
	state[ch.key] = stored{ch.rv, ch.raw}
}

// New returns a server that serves nothing yet, does streaming lists and aggregated discovery, and sends a bookmark
// every minute.
func New() *Server {
	return &Server{
		rv: 1, collections: map[schema.GroupVersionResource]*collection{},
		broken: map[string]bool{}, aggregated: true, discovery: "v2", bookmarks: time.Minute, gitVersion: "v1.36.0", counts: map[Count]int{},
	}
}

// SetFaults makes f decide what goes wrong; nil ends that.
func (s *Server) SetFaults(f func(Request) Fault) { s.set(func() { s.faults = f }) }

// SetStreaming says what becomes of streaming lists from now on.
func (s *Server) SetStreaming(mode Streaming) { s.set(func() { s.streaming = mode }) }

// SetAggregated turns aggregated discovery on or off; apiservers before 1.27 do not have it.
func (s *Server) SetAggregated(on bool) { s.set(func() { s.aggregated = on }) }

// SetDiscovery sets the version of aggregated discovery: v2, or v2beta1 as apiservers from 1.27 to 1.29 have it.
func (s *Server) SetDiscovery(version string) { s.set(func() { s.discovery = version }) }

// SetBookmarks sets the time between two bookmarks of a watch.
func (s *Server) SetBookmarks(every time.Duration) { s.set(func() { s.bookmarks = every }) }

// SetGitVersion sets what /version answers.
func (s *Server) SetGitVersion(v string) { s.set(func() { s.gitVersion = v }) }

// SetBroken makes the server of one API group fail, as an aggregated API does whose backend is away.
func (s *Server) SetBroken(group string, broken bool) { s.set(func() { s.broken[group] = broken }) }

// SetStarting makes the server behave as one that has just been started: discovery does not name CRDs yet, and their
// paths, as all that it does not know, answer 503.
func (s *Server) SetStarting(on bool) { s.set(func() { s.starting = on }) }

// SetToken makes the server refuse every request that does not bear this token with 401; empty lets all in.
func (s *Server) SetToken(token string) { s.set(func() { s.token = token }) }

// custom tells the groups of CRDs from those of Kubernetes itself.
func custom(group string) bool {
	return strings.Contains(group, ".") && !strings.HasSuffix(group, ".k8s.io")
}

func (s *Server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// KindOf returns the kind of a resource that is reported by default, by its plural name; empty for others.
func KindOf(plural string) string {
	return map[string]string{
		"nodes": "Node", "namespaces": "Namespace", "pods": "Pod", "services": "Service", "replicationcontrollers": "ReplicationController",
		"deployments": "Deployment", "daemonsets": "DaemonSet", "replicasets": "ReplicaSet", "statefulsets": "StatefulSet", "ingresses": "Ingress",
	}[plural]
}

// Serve adds a resource, as the installation of a CRD does. A resource that is served already stays as it is.
func (s *Server) Serve(r Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collections[r.GroupVersionResource] == nil {
		s.collections[r.GroupVersionResource] = &collection{Resource: r, history: newHistory(s.rv)}
	}
}

// ServeAs adds r as another version of the objects of an existing resource, as an upgrade does.
func (s *Server) ServeAs(r Resource, of schema.GroupVersionResource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.collections[r.GroupVersionResource] = &collection{Resource: r, history: s.collections[of].history}
}

// Remove takes a resource away with all its objects, as the removal of a CRD does. Its watches end.
func (s *Server) Remove(gvr schema.GroupVersionResource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.collections[gvr]; c != nil {
		c.removed = true
		s.rv++ // the CRD is an object, too
		delete(s.collections, gvr)
		c.wake()
	}
}

// Put creates or updates an object given as JSON, and returns its resourceVersion. A uid is given to it if it has none.
func (s *Server) Put(gvr schema.GroupVersionResource, object string) string {
	var obj map[string]any
	if err := json.Unmarshal([]byte(object), &obj); err != nil {
		panic(fmt.Sprintf("apisim: %v in %s", err, object))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put(s.collections[gvr], obj)
}

func (s *Server) put(c *collection, obj map[string]any) string {
	meta, ok := obj["metadata"].(map[string]any)
	if !ok {
		meta = map[string]any{}
		obj["metadata"] = meta
	}
	key := objectKey(text(meta["namespace"]), text(meta["name"]))
	kind := "ADDED"
	if old, ok := c.present[key]; ok {
		kind = "MODIFIED"
		if meta["uid"] == nil {
			meta["uid"] = metaOf(old.raw).UID
		}
	}
	if meta["uid"] == nil {
		s.uids++
		meta["uid"] = fmt.Sprintf("00000000-0000-4000-8000-%012x", s.uids)
	}
	s.rv++
	meta["resourceVersion"] = strconv.FormatUint(s.rv, 10)
	c.add(change{s.rv, kind, key, mustMarshal(obj)})
	return strconv.FormatUint(s.rv, 10)
}

// Delete removes an object, and reports whether there was one.
func (s *Server) Delete(gvr schema.GroupVersionResource, namespace, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.delete(s.collections[gvr], objectKey(namespace, name))
	return ok
}

func (s *Server) delete(c *collection, key string) (json.RawMessage, bool) {
	old, ok := c.present[key]
	if !ok {
		return nil, false
	}
	var obj map[string]any
	if err := json.Unmarshal(old.raw, &obj); err != nil {
		panic(err)
	}
	s.rv++
	if meta, ok := obj["metadata"].(map[string]any); ok {
		meta["resourceVersion"] = strconv.FormatUint(s.rv, 10)
	}
	raw := mustMarshal(obj)
	c.add(change{s.rv, "DELETED", key, raw})
	return raw, true
}

// Objects returns the objects of a resource, sorted by namespace and name.
func (s *Server) Objects(gvr schema.GroupVersionResource) []json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.collections[gvr]
	if c == nil {
		return nil
	}
	out := make([]json.RawMessage, 0, len(c.present))
	for _, o := range c.objects(s.rv, everything) {
		out = append(out, o.raw)
	}
	return out
}

// Compact forgets the past: lists and watches from an older resourceVersion get 410.
func (s *Server) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.collections {
		c.compact()
		c.wake()
	}
	s.compacted = s.rv
}

// Counts returns how many requests there were by verb and resource. The verb of a streaming list, which for an apiserver
// is a watch, is "stream" here.
func (s *Server) Counts() map[Count]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// object is one of a collection.
type object struct {
	key string
	raw json.RawMessage
}

func everything(string) bool { return true }

// objects returns those whose key matches as of a resourceVersion that is not compacted, sorted by key. The server's mu is held.
func (h *history) objects(at uint64, match func(key string) bool) []object {
	state := h.present
	if n := len(h.log); n > 0 && h.log[n-1].rv > at {
		state = maps.Clone(h.base)
		for _, ch := range h.log {
			if ch.rv > at {
				break
			}
			ch.apply(state)
		}
	}
	var out []object
	for key, o := range state {
		if match(key) {
			out = append(out, object{key, o.raw})
		}
	}
	slices.SortFunc(out, func(a, b object) int { return strings.Compare(a.key, b.key) })
	return out
}

func objectKey(namespace, name string) string { return namespace + "/" + name }

func text(v any) string {
	s, _ := v.(string)
	return s
}

type objectMeta struct {
	Namespace       string `json:"namespace"`
	Name            string `json:"name"`
	UID             string `json:"uid"`
	ResourceVersion string `json:"resourceVersion"`
}

func metaOf(raw json.RawMessage) objectMeta {
	var o struct {
		Metadata objectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		panic(err)
	}
	return o.Metadata
}

func mustMarshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	req, res, name := s.parse(r)
	req.Client, _, _ = net.SplitHostPort(r.RemoteAddr) // always host:port
	s.mu.Lock()
	s.counts[count(req)]++
	faults, broken := s.faults, s.broken[req.Resource.Group] && req.Verb != "discovery"
	broken = broken || s.starting && (custom(req.Resource.Group) || res == nil && req.Resource.Resource != "")
	token := s.token
	s.mu.Unlock()
	var fault Fault
	if faults != nil {
		fault = faults(req)
	}
	if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
		fault = Fault{Status: http.StatusUnauthorized}
	}
	if fault.Hang {
		wait(r, fault)
		panic(http.ErrAbortHandler)
	}
	w := &writer{ResponseWriter: rw, req: r, fault: fault}
	switch {
	case !s.accept(w, r, res):
	case fault.Status != 0:
		if fault.RetryAfter > 0 {
			rw.Header().Set("Retry-After", strconv.Itoa(fault.RetryAfter))
		}
		writeStatus(w, fault.Status, fmt.Sprintf("simulated %d", fault.Status), fault.RetryAfter)
	case broken:
		writeStatus(w, http.StatusServiceUnavailable, "the server is currently unable to handle the request", 0)
	case req.Verb == "version":
		s.version(w)
	case req.Verb == "discovery":
		s.discover(w, r)
	case res == nil:
		writeStatus(w, http.StatusNotFound, "the server could not find the requested resource", 0)
	case req.Verb == "list":
		s.list(w, r, res, req)
	case req.Verb == "watch":
		s.watch(w, r, res, req)
	default:
		s.object(w, r, res, req, name)
	}
}

// parse sorts a request by its path, as kube-apiserver does.
func (s *Server) parse(r *http.Request) (req Request, c *collection, name string) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	var gv schema.GroupVersion
	switch {
	case parts[0] == "version":
		return Request{Verb: "version"}, nil, ""
	case parts[0] == "api" && len(parts) > 2:
		gv.Version, parts = parts[1], parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		gv.Group, gv.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return Request{Verb: "discovery"}, nil, ""
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		req.Namespace, parts = parts[1], parts[2:]
	}
	req.Resource = gv.WithResource(parts[0])
	if len(parts) > 1 {
		name = parts[1]
	}
	q := r.URL.Query()
	req.ResourceVersion, req.Continue = q.Get("resourceVersion"), q.Get("continue")
	req.Limit, _ = strconv.Atoi(q.Get("limit")) // absent is 0
	req.Protobuf = accepts(r, inProtobuf)
	switch {
	case r.Method == http.MethodPost:
		req.Verb = "create"
	case r.Method == http.MethodPut:
		req.Verb = "update"
	case r.Method == http.MethodDelete:
		req.Verb = "delete"
	case name != "":
		req.Verb = "get"
	case q.Get("watch") == "true" || q.Get("watch") == "1":
		req.Verb = "watch"
		req.Streaming = q.Get("sendInitialEvents") == "true"
	default:
		req.Verb = "list"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return req, s.collections[req.Resource], name
}

func (s *Server) version(w *writer) {
	s.mu.Lock()
	v := s.gitVersion
	s.mu.Unlock()
	parts := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
	writeJSON(w, http.StatusOK, map[string]string{
		"major": parts[0], "minor": parts[1], "gitVersion": v, "gitCommit": "0", "gitTreeState": "clean",
		"buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.26", "compiler": "gc", "platform": "linux/amd64",
	})
}

// continuation is the content of a continue token.
type continuation struct {
	RV    uint64 `json:"rv"`
	Start string `json:"start"`
}

func (s *Server) list(w *writer, r *http.Request, c *collection, req Request) {
	q := r.URL.Query()
	s.mu.Lock()
	at, compacted := s.rv, s.compacted
	var token continuation
	var code int
	var message string
	switch wanted, err := strconv.ParseUint(req.ResourceVersion, 10, 64); {
	case req.Continue != "" && req.ResourceVersion != "" && req.ResourceVersion != "0":
		code, message = http.StatusBadRequest, "specifying resource version is not allowed when using continue"
	case req.Continue != "":
		raw, err := base64.RawURLEncoding.DecodeString(req.Continue)
		if err != nil || json.Unmarshal(raw, &token) != nil {
			code, message = http.StatusBadRequest, "continue key is not valid"
		} else if token.RV < compacted {
			code, message = http.StatusGone, "The provided continue parameter is too old"
		}
		at = token.RV
	case req.ResourceVersion == "":
	case err != nil:
		code, message = http.StatusBadRequest, "Invalid value: "+strconv.Quote(req.ResourceVersion)
	case wanted > at:
		code = http.StatusGatewayTimeout
	}
	match := selects(req.Namespace, q.Get("fieldSelector"))
	objects := c.objects(at, func(key string) bool { return key >= token.Start && match(key) })
	s.mu.Unlock()
	switch {
	case code == http.StatusGatewayTimeout:
		writeTooLarge(w, req.ResourceVersion, at)
		return
	case code != 0:
		writeStatus(w, code, message, 0)
		return
	}

	limit := req.Limit
	if req.ResourceVersion == "0" && req.Continue == "" {
		limit = 0 // as the watch cache does
	}
	meta := map[string]any{"resourceVersion": strconv.FormatUint(at, 10)}
	if w.fault.ResourceVersion != "" {
		meta["resourceVersion"] = w.fault.ResourceVersion
	}
	if limit > 0 && len(objects) > limit {
		meta["remainingItemCount"] = len(objects) - limit
		meta["continue"] = base64.RawURLEncoding.EncodeToString(mustMarshal(continuation{at, objects[limit].key}))
		objects = objects[:limit]
	}
	items := make([]json.RawMessage, 0, len(objects))
	for _, o := range objects {
		items = append(items, o.raw)
	}
	list := []byte(`{"kind":` + strconv.Quote(c.Kind+"List") + `,"apiVersion":` + strconv.Quote(c.GroupVersion().String()) +
		`,"metadata":` + string(mustMarshal(meta)) + `,"items":` + string(mustMarshal(items)) + `}`)
	if custom(c.Group) {
		list = mustMarshal(map[string]any{ // lists of CRDs have their keys sorted
			"kind": c.Kind + "List", "apiVersion": c.GroupVersion().String(), "metadata": meta, "items": items,
		})
	}
	if w.protobuf {
		writeProtobuf(w, http.StatusOK, c.GroupVersion().WithKind(c.Kind+"List"), list)
		return
	}
	writeBody(w, http.StatusOK, append(list, '\n'))
}

// selects returns a function that says whether a key is in the namespace and satisfies the field selector, of which only
// metadata.name and metadata.namespace are understood.
func selects(namespace, fieldSelector string) func(key string) bool {
	type term struct {
		field, value string
		not          bool
	}
	var terms []term
	for part := range strings.SplitSeq(fieldSelector, ",") {
		field, value, ok := strings.Cut(part, "=")
		if !ok {
			continue
		}
		not := strings.HasSuffix(field, "!")
		terms = append(terms, term{strings.TrimSuffix(field, "!"), strings.TrimPrefix(value, "="), not})
	}
	return func(key string) bool {
		ns, name, _ := strings.Cut(key, "/")
		if namespace != "" && ns != namespace {
			return false
		}
		for _, t := range terms {
			got := name
			if t.field == "metadata.namespace" {
				got = ns
			}
			if (got == t.value) == t.not {
				return false
			}
		}
		return true
	}
}
