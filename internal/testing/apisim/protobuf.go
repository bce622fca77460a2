package apisim

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// Protobuf says what the simulator makes of requests that accept protobuf besides JSON.
type Protobuf int

// The ways to answer a request that accepts protobuf.
const (
	ProtobufWorks   Protobuf = iota // as kube-apiserver: in protobuf, of its own types
	ProtobufIgnored                 // in JSON, as an aggregated API server that has nothing else
	ProtobufRefused                 // with status 406, as a proxy that takes the words of the header one by one
)

// SetProtobuf says what becomes of requests that accept protobuf from now on.
func (s *Server) SetProtobuf(mode Protobuf) { s.set(func() { s.protobuf = mode }) }

var statusKind = schema.GroupVersionKind{Version: "v1", Kind: "Status"}

const inProtobuf = runtime.ContentTypeProtobuf

// types are what the simulator has in protobuf.
var types = func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return scheme
}()

var (
	whole = protobuf.NewSerializer(types, types)
	bare  = protobuf.NewRawSerializer(types, types)
)

// accepts tells whether the header names the media type.
func accepts(r *http.Request, mediaType string) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		if got, _, err := mime.ParseMediaType(part); err == nil && got == mediaType {
			return true
		}
	}
	return false
}

// accept decides on the form of the answer. It returns false if the request has been refused.
func (s *Server) accept(w *writer, r *http.Request, c *collection) bool {
	s.mu.Lock()
	mode := s.protobuf
	s.mu.Unlock()
	if !accepts(r, inProtobuf) {
		return true
	}
	if mode == ProtobufRefused {
		writeStatus(w, http.StatusNotAcceptable, "only the following media types are accepted: application/json", 0)
		return false
	}
	w.protobuf = mode == ProtobufWorks && (c == nil || types.Recognizes(c.kind()))
	return true
}

func (c *collection) kind() schema.GroupVersionKind { return c.GroupVersion().WithKind(c.Kind) }

// encode writes an object as kube-apiserver does.
func encode(s runtime.Encoder, obj runtime.Object) []byte {
	var b bytes.Buffer
	if err := s.Encode(obj, &b); err != nil {
		panic(fmt.Sprintf("apisim: %v", err))
	}
	return b.Bytes()
}

// typed makes an object of its JSON, which says of which kind it is, or does not and is of the given one.
func typed(kind schema.GroupVersionKind, raw []byte) (runtime.Object, error) {
	var says metav1.TypeMeta
	if err := json.Unmarshal(raw, &says); err != nil {
		return nil, err
	}
	if says.Kind != "" {
		kind = schema.FromAPIVersionAndKind(cmp.Or(says.APIVersion, "v1"), says.Kind)
	}
	obj, err := types.New(kind)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, obj); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(kind)
	return obj, nil
}

// inEnvelope writes what is given as JSON. What a Fault made of it comes as broken as it is; if it is no JSON of its type any
// more, the envelope holds a field of no known type besides.
func (w *writer) inEnvelope(kind schema.GroupVersionKind, raw []byte) []byte {
	obj, err := typed(kind, raw)
	if err == nil {
		return encode(whole, obj)
	}
	if w.fault.Garble == nil {
		panic(fmt.Sprintf("apisim: an object that is not of its type: %v in %s", err, raw))
	}
	apiVersion, name := kind.ToAPIVersionAndKind()
	const items, wrong = 2<<3 | 2, 7 // a field number and type each
	broken := &runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: name}, Raw: []byte{items, 1, wrong, wrong}}
	b, err := broken.Marshal()
	if err != nil {
		panic(err)
	}
	return append([]byte("k8s\x00"), b...)
}

// garbled is what a Fault makes of an answer, or of the JSON of which an answer in protobuf is made.
func (w *writer) garbled(b []byte) []byte {
	if w.fault.Garble == nil {
		return b
	}
	return w.fault.Garble(b)
}

// writeProtobuf writes what is given as JSON.
func writeProtobuf(w *writer, code int, kind schema.GroupVersionKind, raw []byte) {
	w.Header().Set("Content-Type", inProtobuf)
	body := []byte{}
	if raw = w.garbled(raw); len(raw) > 0 {
		body = w.inEnvelope(kind, raw)
	}
	writeBody(w, code, body)
}

// frame writes one event of a watch that is given as JSON.
func (w *writer) frame(kind schema.GroupVersionKind, raw []byte) []byte {
	var event struct {
		Type   string
		Object json.RawMessage
	}
	if raw = w.garbled(raw); len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, &event); err != nil && w.fault.Garble == nil {
		panic(fmt.Sprintf("apisim: %v in %s", err, raw))
	}
	var b bytes.Buffer
	framed := protobuf.LengthDelimitedFramer.NewFrameWriter(&b)
	object := &metav1.WatchEvent{Type: event.Type, Object: runtime.RawExtension{Raw: w.inEnvelope(kind, event.Object)}}
	if _, err := io.Copy(framed, bytes.NewReader(encode(bare, object))); err != nil {
		panic(err)
	}
	return b.Bytes()
}
