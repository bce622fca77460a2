package loadserver

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
)

const (
	protobufType  = "application/vnd.kubernetes.protobuf"
	bookmarkEvery = time.Minute
	// compressFrom is the size from which an apiserver compresses a list, at level 1.
	compressFrom = 128 << 10
)

// serveAPI answers what clients ask an apiserver.
func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case r.URL.Path == "/version":
		s.count("version")
		writeJSON(w, map[string]string{"major": "1", "minor": "35", "gitVersion": "v1.35.4", "platform": "linux/amd64"})
	case parts[0] == "api" && len(parts) <= 2, parts[0] == "apis" && (len(parts) == 1 || len(parts) == 3):
		s.count("discovery")
		s.discover(w, r, parts)
	case parts[0] == "api" && len(parts) == 3:
		s.resource(w, r, s.store.find("", parts[1], parts[2]))
	case parts[0] == "apis" && len(parts) == 4:
		s.resource(w, r, s.store.find(parts[1], parts[2], parts[3]))
	default:
		s.resource(w, r, nil)
	}
}

func (s *Server) resource(w http.ResponseWriter, r *http.Request, c *collection) {
	q := r.URL.Query()
	accept := r.Header.Get("Accept")
	protobuf := strings.Contains(accept, protobufType) && (s.store.protobuf.Load() || !strings.Contains(accept, "application/json"))
	switch {
	case c == nil:
		s.count("other")
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	case protobuf && !s.store.protobuf.Load():
		s.count("other")
		writeStatus(w, http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "protobuf is not switched on")
	case q.Get("watch") == "true" || q.Get("watch") == "1":
		s.count("watch")
		s.watch(w, r, c, q, protobuf)
	default:
		s.count("list")
		s.list(w, r, c, q, protobuf)
	}
}

// list serves a list or one page of it. As with a real apiserver, limit does not count with resourceVersion 0.
func (s *Server) list(w http.ResponseWriter, r *http.Request, c *collection, q url.Values, protobuf bool) {
	if !s.wait(r.Context()) {
		return
	}
	objects, rv := c.all()
	from := 0
	if token := q.Get("continue"); token != "" {
		raw, err := base64.URLEncoding.DecodeString(token)
		if err != nil || len(raw) != 16 {
			writeStatus(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "bad continue token")
			return
		}
		rv = binary.BigEndian.Uint64(raw)
		from = int(min(binary.BigEndian.Uint64(raw[8:]), uint64(len(objects))))
	}
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatUint(rv, 10)}
	objects = objects[from:]
	if limit, err := strconv.Atoi(q.Get("limit")); err == nil && limit > 0 && limit < len(objects) && q.Get("resourceVersion") != "0" {
		token := binary.BigEndian.AppendUint64(nil, rv)
		meta.Continue = base64.URLEncoding.EncodeToString(binary.BigEndian.AppendUint64(token, uint64(from+limit)))
		left := int64(len(objects) - limit)
		meta.RemainingItemCount = &left
		objects = objects[:limit]
	}
	size := 0
	for _, o := range objects {
		size += len(o.json)
	}
	var out io.Writer = w
	if size > compressFrom && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			panic(err) // the level is valid
		}
		defer z.Close() //nolint:errcheck // the client has gone
		out = z
	}
	buf := bufio.NewWriterSize(out, 64<<10)
	defer buf.Flush() //nolint:errcheck // the client has gone
	if protobuf {
		w.Header().Set("Content-Type", protobufType)
		writeProtobufList(buf, c, meta, objects)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	head, err := json.Marshal(meta)
	if err != nil {
		panic(err) // strings and numbers
	}
	fmt.Fprintf(buf, `{"kind":"%sList","apiVersion":%q,"metadata":%s,"items":[`, c.kind.Kind, c.kind.APIVersion(), head)
	for i, o := range objects {
		if i > 0 {
			_ = buf.WriteByte(',') // an error stays in buf
		}
		_, _ = buf.Write(o.json)
	}
	_, _ = buf.WriteString("]}\n")
}

// writeProtobufList writes a list; all lists of k8s.io/api have ListMeta as field 1 and items as field 2.
func writeProtobufList(out io.Writer, c *collection, meta metav1.ListMeta, objects []*object) {
	head, err := meta.Marshal()
	if err != nil {
		panic(err) // strings and numbers
	}
	raw := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), head)
	for _, o := range objects {
		raw = protowire.AppendBytes(protowire.AppendTag(raw, 2, protowire.BytesType), o.proto)
	}
	body, err := envelope(c.kind.APIVersion(), c.kind.Kind+"List", raw)
	if err != nil {
		panic(err)
	}
	_, _ = out.Write(body) // the client has gone
}

// watch serves a watch, or a streaming list that goes on as a watch.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, c *collection, q url.Values, protobuf bool) {
	initial := q.Get("sendInitialEvents") == "true"
	if initial && !s.streaming.Load() {
		writeStatus(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid,
			"sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")
		return
	}
	if initial && !s.wait(r.Context()) {
		return
	}
	rv, _ := strconv.ParseUint(q.Get("resourceVersion"), 10, 64) // none: from the beginning
	out := &eventWriter{w: bufio.NewWriterSize(w, 64<<10), c: c, protobuf: protobuf}
	if protobuf {
		w.Header().Set("Content-Type", protobufType+";stream=watch")
	} else {
		w.Header().Set("Content-Type", "application/json")
	}
	out.rc = http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if !out.flush() {
		return
	}
	if initial {
		rv = out.present()
	}
	s.watches.Add(1)
	defer s.watches.Add(-1)
	timeout, err := strconv.Atoi(q.Get("timeoutSeconds"))
	if err != nil || timeout <= 0 {
		timeout = 1800
	}
	end := time.NewTimer(time.Duration(timeout) * time.Second)
	defer end.Stop()
	bookmarks := time.NewTicker(bookmarkEvery)
	defer bookmarks.Stop()
	for born := -1; ; {
		events, epoch, news, ok := c.after(rv)
		if born < 0 {
			born = epoch
		}
		if !ok || epoch != born {
			out.gone()
			out.flush()
			return
		}
		for _, o := range events {
			out.event("MODIFIED", o)
			rv = o.rv
		}
		if !out.flush() {
			return
		}
		select {
		case <-news:
		case <-bookmarks.C:
			out.bookmark(rv, false)
		case <-end.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// eventWriter writes watch events. After an error it does nothing.
type eventWriter struct {
	w        *bufio.Writer
	rc       *http.ResponseController
	c        *collection
	protobuf bool
	err      error

	types, scratch []byte
}

// flush sends what was written, and reports whether the client is still there.
func (e *eventWriter) flush() bool {
	if e.err == nil {
		e.err = e.w.Flush()
	}
	if e.err == nil {
		e.err = e.rc.Flush()
	}
	return e.err == nil
}

// present writes a streaming list of all objects, and returns the resourceVersion from which it goes on.
func (e *eventWriter) present() uint64 {
	objects, rv := e.c.all()
	for _, o := range objects {
		e.event("ADDED", o)
	}
	e.bookmark(rv, true)
	return rv
}

func (e *eventWriter) event(kind string, o *object) {
	if e.err != nil {
		return
	}
	if e.protobuf {
		e.frame(kind, o.proto)
		return
	}
	_, _ = fmt.Fprintf(e.w, `{"type":%q,"object":%s`, kind, e.c.typeMeta()) // an error stays in w
	_, _ = e.w.Write(o.json[1:])
	_, e.err = e.w.WriteString("}\n")
}

// frame writes one event of a protobuf watch: its length in four bytes, then a WatchEvent whose object is a RawExtension
// with an envelope. It is put together without copying the object, so that neither form waits for the load server.
func (e *eventWriter) frame(kind string, raw []byte) {
	const typeField, objectField, rawField, encodingField, contentField = 1, 2, 1, 3, 4
	head := append(e.scratch[:0], "k8s\x00"...)
	head = protowire.AppendBytes(protowire.AppendTag(head, 1, protowire.BytesType), e.typeMeta())
	head = protowire.AppendVarint(protowire.AppendTag(head, 2, protowire.BytesType), uint64(len(raw)))
	tail := []byte{encodingField<<3 | 2, 0, contentField<<3 | 2, 0}
	inner := len(head) + len(raw) + len(tail)
	extension := protowire.SizeTag(rawField) + protowire.SizeBytes(inner)
	event := protowire.SizeTag(typeField) + protowire.SizeBytes(len(kind)) + protowire.SizeTag(objectField) + protowire.SizeBytes(extension)
	out := binary.BigEndian.AppendUint32(nil, uint32(event))
	out = protowire.AppendString(protowire.AppendTag(out, typeField, protowire.BytesType), kind)
	out = protowire.AppendVarint(protowire.AppendTag(out, objectField, protowire.BytesType), uint64(extension))
	out = protowire.AppendVarint(protowire.AppendTag(out, rawField, protowire.BytesType), uint64(inner))
	e.scratch = head
	for _, part := range [][]byte{out, head, raw, tail} {
		_, e.err = e.w.Write(part) // the last error stays in w
	}
}

// typeMeta is the runtime.TypeMeta of the objects.
func (e *eventWriter) typeMeta() []byte {
	if e.types == nil {
		e.types = protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), e.c.kind.APIVersion())
		e.types = protowire.AppendString(protowire.AppendTag(e.types, 2, protowire.BytesType), e.c.kind.Kind)
	}
	return e.types
}

func (e *eventWriter) frameRaw(kind string, object []byte) {
	ev := metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: object}}
	b, err := ev.Marshal()
	if err != nil {
		panic(err)
	}
	_, _ = e.w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
	_, e.err = e.w.Write(b)
}

func (e *eventWriter) bookmark(rv uint64, end bool) {
	obj, err := emptyObject(e.c.kind)
	if err != nil {
		panic(err) // every kind of cluster.Kinds is known
	}
	obj.SetResourceVersion(strconv.FormatUint(rv, 10))
	if end {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	b := &object{}
	if b.json, err = json.Marshal(obj); err != nil {
		panic(err)
	}
	if b.proto, err = obj.Marshal(); err != nil {
		panic(err)
	}
	e.event("BOOKMARK", b)
}

// gone ends a watch whose resourceVersion is too old.
func (e *eventWriter) gone() {
	st := status(http.StatusGone, metav1.StatusReasonExpired, "too old resource version")
	if e.protobuf {
		raw, err := st.Marshal()
		if err != nil {
			panic(err)
		}
		object, err := envelope("v1", "Status", raw)
		if err != nil {
			panic(err)
		}
		e.frameRaw("ERROR", object)
		return
	}
	doc, err := json.Marshal(st)
	if err != nil {
		panic(err)
	}
	_, e.err = fmt.Fprintf(e.w, `{"type":"ERROR","object":%s}`+"\n", doc)
}

// discover answers the aggregated and the plain form of discovery.
func (s *Server) discover(w http.ResponseWriter, r *http.Request, parts []string) {
	root, accept := parts[0], r.Header.Get("Accept")
	if len(parts) == 1 && strings.Contains(accept, "as=APIGroupDiscoveryList") {
		w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
		writeBody(w, aggregatedDiscovery(root))
		return
	}
	switch {
	case len(parts) == 1 && root == "api":
		writeJSON(w, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}})
	case len(parts) == 1:
		list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
		for _, g := range groups("apis") {
			v := metav1.GroupVersionForDiscovery{GroupVersion: g + "/v1", Version: "v1"}
			list.Groups = append(list.Groups, metav1.APIGroup{Name: g, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
		}
		writeJSON(w, list)
	default:
		group := ""
		if root == "apis" {
			group = parts[1]
		}
		list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: strings.Join(parts[1:], "/")}
		for _, k := range cluster.Kinds {
			if k.Group == group {
				list.APIResources = append(list.APIResources, metav1.APIResource{
					Name: k.Resource, Kind: k.Kind, Namespaced: k.Namespaced, Verbs: metav1.Verbs{"get", "list", "watch"},
				})
			}
		}
		writeJSON(w, list)
	}
}

// groups are the API groups below /api or /apis.
func groups(root string) []string {
	if root == "api" {
		return []string{""}
	}
	var out []string
	for _, k := range cluster.Kinds {
		if k.Group != "" && (len(out) == 0 || out[len(out)-1] != k.Group) {
			out = append(out, k.Group)
		}
	}
	return out
}

func aggregatedDiscovery(root string) any {
	items := []any{}
	for _, g := range groups(root) {
		served := []any{}
		for _, k := range cluster.Kinds {
			if k.Group != g {
				continue
			}
			scope := "Cluster"
			if k.Namespaced {
				scope = "Namespaced"
			}
			served = append(served, map[string]any{
				"resource": k.Resource, "scope": scope, "verbs": []string{"get", "list", "watch"},
				"responseKind": map[string]string{"group": k.Group, "version": k.Version, "kind": k.Kind},
			})
		}
		items = append(items, map[string]any{
			"metadata": map[string]string{"name": g},
			"versions": []any{map[string]any{"version": "v1", "freshness": "Current", "resources": served}},
		})
	}
	return map[string]any{"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": map[string]any{}, "items": items}
}

func status(code int, reason metav1.StatusReason, message string) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message,
	}
}

func writeStatus(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	writeBody(w, status(code, reason, message))
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	writeBody(w, v)
}

func writeBody(w io.Writer, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs
	}
	_, _ = w.Write(b) // the client has gone
}
