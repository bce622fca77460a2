package viewer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

func objectPath(cluster, wireType, namespace, name string) string {
	return "/clusters/" + cluster + "/object?" + url.Values{"type": {wireType}, "namespace": {namespace}, "name": {name}}.Encode()
}

// TestObject follows one Pod over versions: added, changed, removed.
func TestObject(t *testing.T) {
	r := newRig(t)
	cart := func(label string) string { return pod("p1", "cart-1-a", "ReplicaSet", "cart-1", "r1", label) }
	r.save(t, "d-one", 10, base()...)
	r.save(t, "d-one", 20, append(base(), "*v1.Pod", cart("cart"))...)
	r.save(t, "d-one", 30, append(base(), "*v1.Pod", cart("other"))...)

	var v viewer.ObjectView
	r.call(t, "GET", objectPath("d-one", "*v1.Pod", "shop", "cart-1-a"), "", 200, &v)
	if v.Version != 30 || !v.Reported || v.UID != "p1" || string(v.Object) != cart("other") || int(v.RawBytes) != len(v.Object) {
		t.Errorf("got %+v, want the Pod as stored in version 30", v)
	}
	facts := map[string]string{}
	for _, f := range v.Understood {
		facts[f.Name] = string(f.Value)
	}
	if facts["workload"] != `"Deployment/shop/cart"` || facts["node"] != `"node-1"` || facts["label"] != `"app:other"` {
		t.Errorf("got %v, want workload, node and label", facts)
	}
	if len(v.Findings) != 1 || v.Findings[0].Reason != inventory.PodNoIP || v.Findings[0].Advice == "" {
		t.Errorf("got %+v, want that the Pod has no address", v.Findings)
	}
	var names []string
	for _, b := range v.Graph.Boxes {
		names = append(names, b.Kind+" "+b.Name)
	}
	if got := strings.Join(names, ", "); got != "Deployment cart, Pod cart-1-a, Node node-1" || len(v.Graph.Lines) != 2 {
		t.Errorf("got %s with lines %v, want Deployment, Pod and Node", got, v.Graph.Lines)
	}
	history := func() string {
		var out []string
		for _, h := range v.History {
			out = append(out, fmt.Sprint(h.Version, " ", h.Before, " ", h.Change))
		}
		return strings.Join(out, ", ")
	}
	if got := history(); got != "30 20 changed, 20 10 added" {
		t.Errorf("got the history %s", got)
	}

	// Three versions are kept, so the first is forgotten; what is gone can still be looked at.
	r.save(t, "d-one", 40, base()...)
	r.call(t, "GET", objectPath("d-one", "Pod", "shop", "cart-1-a"), "", 200, &v)
	if got := history(); v.Reported || string(v.Object) != cart("other") || got != "40 30 removed, 30 20 changed, 20 0 oldest" || len(v.Graph.Boxes) != 0 {
		t.Errorf("got reported %v, history %s, object %s", v.Reported, got, v.Object)
	}
	// Another object of the same name.
	r.save(t, "d-one", 50, append(base(), "*v1.Pod", pod("p2", "cart-1-a", "ReplicaSet", "cart-1", "r1", "new"))...)
	r.call(t, "GET", objectPath("d-one", "v1.Pod", "shop", "cart-1-a"), "", 200, &v)
	if v.UID != "p2" || v.Others != 1 || history() != "50 40 added" {
		t.Errorf("got %s, %d others, history %s, want the new Pod", v.UID, v.Others, history())
	}
	r.call(t, "GET", "/clusters/d-one/object?type=Pod&uid=p1", "", 200, &v)
	if v.UID != "p1" || v.Reported || v.Name != "cart-1-a" {
		t.Errorf("got %s, reported %v, want the Pod that is gone", v.UID, v.Reported)
	}
	for path, status := range map[string]int{
		objectPath("d-one", "*v1.Pod", "shop", "none"): 404, objectPath("d-one", "", "shop", "cart-1-a"): 400, objectPath("d-two", "*v1.Pod", "shop", "cart-1-a"): 404,
		"/clusters/d-one/graph?namespace=none": 404, "/clusters/d-one/graph": 400, "/clusters/d-one/graph?namespace=shop&limit=501": 400,
	} {
		var refusal struct{ Error, Advice string }
		r.call(t, "GET", path, "", status, &refusal)
		if refusal.Error == "" || refusal.Advice == "" {
			t.Errorf("%s: got %+v, want an error and what to do", path, refusal)
		}
	}
}

// TestGraph draws a namespace, and groups it when it gets too large.
func TestGraph(t *testing.T) {
	r := newRig(t)
	entries := append(base(), "*v1.Pod", pod("lost", "lost", "Job", "nightly", "j1", "x"))
	for i := range 600 {
		entries = append(entries, "*v1.Pod", pod(fmt.Sprintf("p%d", i), fmt.Sprintf("cart-1-%d", i), "ReplicaSet", "cart-1", "r1", "cart"))
	}
	r.save(t, "d-one", 10, entries...)
	var v viewer.GraphView
	text := r.call(t, "GET", "/clusters/d-one/graph?namespace=shop", "", 200, &v)
	var got []string
	for _, b := range v.Graph.Boxes {
		got = append(got, fmt.Sprint(b.Kind, " ", b.Name, " ", b.State, " ", b.Count))
	}
	want := "Deployment cart shown 1, Job j1 missing 1, Pod 600 Pods partly 600, Pod lost dropped 1, Node node-1 shown 1"
	if s := strings.Join(got, ", "); s != want || !v.Graph.Grouped {
		t.Errorf("got %s, want %s", s, want)
	}
	var breaks []inventory.Reason
	for _, l := range v.Graph.Lines {
		if l.Reason != "" {
			breaks = append(breaks, l.Reason)
		}
	}
	if fmt.Sprint(breaks) != "[PodOwnerKind]" || !json.Valid([]byte(text)) {
		t.Errorf("got breaks %v, want where the line to the lost Pod breaks", breaks)
	}
}

// lateBackend lets something happen while an object is read.
type lateBackend struct {
	store.Backend
	then atomic.Pointer[func()] // nil: nothing; it is called once
}

func (b *lateBackend) Payloads(ctx context.Context, id string, rows []uint64) ([][]byte, error) {
	payloads, err := b.Backend.Payloads(ctx, id, rows)
	if then := b.then.Swap(nil); then != nil {
		(*then)()
	}
	return payloads, err //nolint:wrapcheck // it plays the backend
}

// TestObjectOfOneVersion: what an object is and what is understood of it are of one version, though another one comes between
// the two looks.
func TestObjectOfOneVersion(t *testing.T) {
	backend := &lateBackend{Backend: store.NewMemory()}
	r := newRigOn(t, backend)
	cart := func(label string) string { return pod("p1", "cart-1-a", "ReplicaSet", "cart-1", "r1", label) }
	r.save(t, "d-one", 10, append(base(), "*v1.Pod", cart("old"))...)
	path := objectPath("d-one", "*v1.Pod", "shop", "cart-1-a")
	var v viewer.ObjectView
	r.call(t, "GET", path, "", 200, &v) // from now on the viewer has nothing to read
	then := func() { r.save(t, "d-one", 20, append(base(), "*v1.Pod", cart("new"))...) }
	backend.then.Store(&then)
	r.call(t, "GET", path, "", 200, &v)
	label := ""
	for _, f := range v.Understood {
		if f.Name == "label" {
			label = string(f.Value)
		}
	}
	if v.Version != 20 || string(v.Object) != cart("new") || label != `"app:new"` {
		t.Errorf("got version %d, label %s of the object %s, want all of version 20", v.Version, label, v.Object)
	}
}
