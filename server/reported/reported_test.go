package reported

import (
	"bytes"
	"compress/zlib"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

func entry(t *testing.T, wireType, namespace, name, object string) store.Incoming {
	t.Helper()
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	if _, err := io.WriteString(z, object); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return store.Incoming{Payload: b.Bytes(), Entry: &store.Entry{
		Key: store.KeyOf(wireType, []byte(namespace+"/"+name)), Sum: store.SumOf(wireType, b.Bytes()), Type: wireType,
		Namespace: namespace, Name: name, Size: uint32(b.Len()), RawSize: uint32(len(object)),
	}}
}

func owned(owners ...string) string {
	var list []string
	for _, o := range owners {
		kind, name, _ := strings.Cut(o, "/")
		controller := "false"
		if bare, ok := strings.CutSuffix(name, "!"); ok {
			name, controller = bare, "true"
		}
		list = append(list, `{"kind":"`+kind+`","name":"`+name+`","controller":`+controller+`}`)
	}
	return `{"metadata":{"ownerReferences":[` + strings.Join(list, ",") + `]}}`
}

func TestPod(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	s := store.New(store.NewMemory(), store.Options{Keep: 1, Now: clock})
	w := New(s, clock)
	if pod, err := w.Pod(t.Context(), "d-test", "deepflow", "agent-x"); err != nil || pod.Age >= 0 || pod.Found || pod.Namespace {
		t.Errorf("no report: got %+v, %v, want a negative age", pod, err)
	}
	tx, err := s.Begin(t.Context(), "d-test")
	if err != nil {
		t.Fatal(err)
	}
	err = tx.Save(t.Context(), 1, store.Touch{}, []store.Incoming{
		entry(t, "*v1.Deployment", "deepflow", "agent", owned()),
		entry(t, "*v1.ReplicaSet", "deepflow", "agent-1", owned("Deployment/agent!")),
		entry(t, "*v1.Pod", "deepflow", "agent-1-x", owned("ReplicaSet/agent-1!")),
		entry(t, "*v1.Pod", "deepflow", "lost-1-x", owned("ReplicaSet/lost-1!")),
		entry(t, "*v1.Pod", "deepflow", "daemon-x", owned("Other/thing", "DaemonSet/daemon!")),
		entry(t, "*v1.Pod", "deepflow", "plain", `{"metadata":{"name":"plain"}}`),
		entry(t, "*v1.Pod", "deepflow", "uncontrolled", owned("First/one", "Second/two")),
		entry(t, "*v1.Pod", "shop", "agent-1-x", owned("ReplicaSet/shop-1!")),
	})
	tx.Close()
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	for _, tt := range []struct {
		namespace, name string
		found, reports  bool
		owners          []string
	}{
		{"deepflow", "agent-1-x", true, true, []string{"ReplicaSet/agent-1", "Deployment/agent"}},
		{"deepflow", "lost-1-x", true, true, []string{"ReplicaSet/lost-1"}},
		{"deepflow", "daemon-x", true, true, []string{"DaemonSet/daemon"}},
		{"deepflow", "plain", true, true, nil},
		{"deepflow", "uncontrolled", true, true, []string{"First/one"}},
		{"deepflow", "agent", false, true, nil},
		{"deepflow", "zzz", false, true, nil},
		{"shop", "agent-1-x", true, true, []string{"ReplicaSet/shop-1"}},
		{"aaa", "agent-1-x", false, false, nil},
		{"zzz", "agent-1-x", false, false, nil},
	} {
		pod, err := w.Pod(t.Context(), "d-test", tt.namespace, tt.name)
		if err != nil || pod.Found != tt.found || pod.Namespace != tt.reports || !slices.Equal(pod.Owners, tt.owners) || pod.Age != time.Minute {
			t.Errorf("%s/%s: got %+v, %v, want %+v a minute old", tt.namespace, tt.name, pod, err, tt)
		}
	}
}
