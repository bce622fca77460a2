package explain

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// Each change of an object gets one line with its verdict; a watch that is opened again tells nothing by itself.
func TestWatcher(t *testing.T) {
	selected, err := resources.Select(nil, resources.Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(selected, func(s resources.Selected) bool { return s.Kind.Name == "deployments" })
	var told []string
	w := watcher{sel: selected[at], projection: resources.Options{HashKey: []byte("0123456789abcdef")}, tell: func(c Change) error {
		told = append(told, fmt.Sprintf("%v %s", c.NewVersion, c.Why))
		if c.At.IsZero() {
			t.Error("a change has no time")
		}
		return nil
	}}
	deployment := func(version string, replicas int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment",
			"metadata": map[string]any{"name": "web", "namespace": "shop", "uid": "00000000-0000-4000-8000-000000000001", "resourceVersion": version},
			"spec":     map[string]any{"replicas": replicas},
		}}
	}
	follow := func(events ...watch.Event) error {
		f := watch.NewFakeWithChanSize(len(events), false)
		for _, ev := range events {
			f.Action(ev.Type, ev.Object)
		}
		f.Stop()
		return w.follow(context.Background(), f)
	}
	failed := func(code int32, reason metav1.StatusReason) watch.Event {
		return watch.Event{Type: watch.Error, Object: &metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: "no more"}}
	}
	for _, events := range [][]watch.Event{
		{{Type: watch.Added, Object: deployment("1", 2)}, {Type: watch.Modified, Object: deployment("2", 2)}, {Type: watch.Modified, Object: deployment("3", 3)}},
		{{Type: watch.Added, Object: deployment("3", 3)}, failed(410, metav1.StatusReasonExpired)},
		{{Type: watch.Added, Object: deployment("4", 4)}, {Type: watch.Deleted, Object: deployment("5", 4)}, {Type: watch.Added, Object: deployment("6", 4)}},
	} {
		if err := follow(events...); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"false what is sent of the object stays the same to the byte", "true changed fields that are sent: 1", "true changed fields that are sent: 1",
		"true the object is no longer reported", "true the object is reported from now on",
	}
	if !slices.Equal(told, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
	if err := follow(failed(403, metav1.StatusReasonForbidden)); err == nil || !strings.Contains(err.Error(), "no more") {
		t.Errorf("of a watch that is refused: got %v, want the reason", err)
	}
}
