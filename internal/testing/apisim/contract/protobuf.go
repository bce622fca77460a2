package contract

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

var acceptProtobuf = http.Header{"Accept": {"application/vnd.kubernetes.protobuf,application/json"}}

// message is what the types of Kubernetes can do.
type message interface{ Unmarshal(b []byte) error }

// open takes an object out of its envelope.
func open(t *testing.T, raw []byte, kind string, into message) {
	t.Helper()
	const prefix = "k8s\x00"
	if !bytes.HasPrefix(raw, []byte(prefix)) {
		t.Fatalf("got %.20q, want an object that begins with %q", raw, prefix)
	}
	const typeMeta = 1<<3 | 2 // which list it is has to be known before its items
	if len(raw) == len(prefix) || raw[len(prefix)] != typeMeta {
		t.Errorf("the envelope begins with %.8q, want the type", raw[len(prefix):])
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(raw[len(prefix):]); err != nil {
		t.Fatal(err)
	}
	if envelope.APIVersion != "v1" || envelope.Kind != kind || envelope.ContentEncoding != "" ||
		envelope.ContentType != "" && envelope.ContentType != runtime.ContentTypeProtobuf {
		t.Errorf("got a %s of %s, encoded as %q %q, want a %s of v1", envelope.Kind, envelope.APIVersion, envelope.ContentEncoding, envelope.ContentType, kind)
	}
	if err := into.Unmarshal(envelope.Raw); err != nil {
		t.Fatal(err)
	}
}

func wantProtobuf(t *testing.T, resp *http.Response, parameter string) {
	t.Helper()
	if got, want := strings.ReplaceAll(resp.Header.Get("Content-Type"), " ", ""), runtime.ContentTypeProtobuf+parameter; got != want {
		t.Errorf("content type: got %q, want %q", got, want)
	}
}

func testProtobufList(t *testing.T, s *subject) {
	s.fill(t, 3)
	read := func(path string, params url.Values, status int) []byte {
		resp := s.request(t.Context(), t, http.MethodGet, path, params, "", acceptProtobuf)
		defer func() { _ = resp.Body.Close() }()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != status {
			t.Fatalf("%s: got status %d, want %d", path, resp.StatusCode, status)
		}
		wantProtobuf(t, resp, "")
		return raw
	}
	var page, rest corev1.ConfigMapList
	open(t, read(s.maps(), url.Values{"limit": {"2"}}, http.StatusOK), "ConfigMapList", &page)
	if len(page.Items) != 2 || page.Items[1].Name != "m01" || page.Items[1].Data["a"] != "1" || page.Continue == "" {
		t.Errorf("first page: got %d items and %+v, want 2 and a continue token", len(page.Items), page.ListMeta)
	}
	number(t, page.ResourceVersion)
	open(t, read(s.maps(), url.Values{"limit": {"2"}, "continue": {page.Continue}}, http.StatusOK), "ConfigMapList", &rest)
	if len(rest.Items) != 1 || rest.Items[0].Name != "m02" || rest.Continue != "" || rest.ResourceVersion != page.ResourceVersion {
		t.Errorf("last page: got %d items and %+v, want 1 of resourceVersion %s", len(rest.Items), rest.ListMeta, page.ResourceVersion)
	}
	var st metav1.Status
	open(t, read(s.maps()+"/none", nil, http.StatusNotFound), "Status", &st)
	if st.Code != http.StatusNotFound || st.Reason != metav1.StatusReasonNotFound {
		t.Errorf("got %+v, want code and reason of 404", st)
	}
}

func testProtobufStreamingList(t *testing.T, s *subject) {
	s.fill(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resp := s.request(ctx, t, http.MethodGet, s.maps(), pairs([]string{
		"watch", "true", "sendInitialEvents", "true", "resourceVersionMatch", "NotOlderThan", "allowWatchBookmarks", "true",
	}), "", acceptProtobuf)
	defer func() { _ = resp.Body.Close() }()
	wantProtobuf(t, resp, ";stream=watch")
	next := func(kind string, objectKind string, into message) {
		t.Helper()
		var size uint32
		if err := binary.Read(resp.Body, binary.BigEndian, &size); err != nil {
			t.Fatal(err)
		}
		if size > 1<<20 {
			t.Fatalf("got an event of %d bytes", size)
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(resp.Body, frame); err != nil {
			t.Fatal(err)
		}
		var ev metav1.WatchEvent
		if err := ev.Unmarshal(frame); err != nil {
			t.Fatal(err)
		}
		if ev.Type != kind {
			t.Errorf("event: got %s, want %s", ev.Type, kind)
		}
		open(t, ev.Object.Raw, objectKind, into)
	}
	for _, name := range []string{"m00", "m01"} {
		var m corev1.ConfigMap
		if next("ADDED", "ConfigMap", &m); m.Name != name || m.ResourceVersion == "" || m.UID == "" {
			t.Errorf("got %+v, want %s with uid and resourceVersion", m.ObjectMeta, name)
		}
	}
	var mark, gone corev1.ConfigMap
	next("BOOKMARK", "ConfigMap", &mark)
	number(t, mark.ResourceVersion)
	if mark.Annotations[metav1.InitialEventsAnnotationKey] != "true" {
		t.Errorf("annotations of the bookmark: got %v, want that of the list's end", mark.Annotations)
	}
	s.delete(t, "m00")
	if next("DELETED", "ConfigMap", &gone); gone.Name != "m00" {
		t.Errorf("got %s deleted, want m00", gone.Name)
	}
}

func testProtobufRefusal(t *testing.T, s *subject) {
	resp := s.request(t.Context(), t, http.MethodGet, s.maps(), url.Values{"resourceVersion": {"x"}}, "", acceptProtobuf)
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var st metav1.Status
	open(t, raw, "Status", &st)
	if st.Code != http.StatusBadRequest || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a list from an invalid resourceVersion: got status %d and code %d, want 400", resp.StatusCode, st.Code)
	}
}
