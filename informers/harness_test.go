package informers

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// init takes away apimachinery's pause after errors, which is kept in a global variable and so mixes up the clocks of
// different bubbles.
func init() { utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1] }

func gvr(group, version, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: resource}
}

var (
	podsGVR       = gvr("", "v1", "pods")
	nodesGVR      = gvr("", "v1", "nodes")
	namespacesGVR = gvr("", "v1", "namespaces")
	cloneSetsGVR  = gvr("apps.kruise.io", "v1alpha1", "clonesets")
	rolloutsGVR   = gvr("argoproj.io", "v1alpha1", "rollouts")
	cloneSets     = apisim.Resource{GroupVersionResource: cloneSetsGVR, Kind: "CloneSet", Namespaced: true}
	rollouts      = apisim.Resource{GroupVersionResource: rolloutsGVR, Kind: "Rollout", Namespaced: true}
)

// builtin is what every apiserver serves of the default selection.
var builtin = []apisim.Resource{
	{GroupVersionResource: nodesGVR, Kind: "Node"},
	{GroupVersionResource: namespacesGVR, Kind: "Namespace"},
	{GroupVersionResource: podsGVR, Kind: "Pod", Namespaced: true},
	{GroupVersionResource: gvr("", "v1", "services"), Kind: "Service", Namespaced: true},
	{GroupVersionResource: gvr("", "v1", "replicationcontrollers"), Kind: "ReplicationController", Namespaced: true},
	{GroupVersionResource: gvr("", "v1", "configmaps"), Kind: "ConfigMap", Namespaced: true},
	{GroupVersionResource: gvr("apps", "v1", "deployments"), Kind: "Deployment", Namespaced: true},
	{GroupVersionResource: gvr("apps", "v1", "daemonsets"), Kind: "DaemonSet", Namespaced: true},
	{GroupVersionResource: gvr("apps", "v1", "replicasets"), Kind: "ReplicaSet", Namespaced: true},
	{GroupVersionResource: gvr("apps", "v1", "statefulsets"), Kind: "StatefulSet", Namespaced: true},
	{GroupVersionResource: gvr("networking.k8s.io", "v1", "ingresses"), Kind: "Ingress", Namespaced: true},
}

// sink keeps what the informers pass on, as the snapshot would, and what they did to it.
type sink struct {
	mu      sync.Mutex
	entries map[string]map[resources.UID]*resources.Entry
	calls   []string
	onCall  func(call, id string, uid resources.UID)
	onEntry func(id string, e *resources.Entry) // replaced or upserted
}

func newSink() *sink { return &sink{entries: map[string]map[resources.UID]*resources.Entry{}} }

func (s *sink) call(call, id string, uid resources.UID) {
	s.calls = append(s.calls, call+" "+id)
	if s.onCall != nil {
		s.onCall(call, id, uid)
	}
}

func (s *sink) entry(id string, e *resources.Entry) {
	if s.onEntry != nil {
		s.onEntry(id, e)
	}
}

func (s *sink) Replace(id string, entries []*resources.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[resources.UID]*resources.Entry{}
	for _, e := range entries {
		next[e.UID()] = e
		s.entry(id, e)
	}
	for uid := range s.entries[id] {
		if next[uid] == nil {
			s.call("delete", id, uid)
		}
	}
	s.entries[id] = next
	s.call("replace", id, resources.UID{})
}

func (s *sink) Upsert(id string, e *resources.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[id][e.UID()] = e
	s.entry(id, e)
	s.call("upsert", id, e.UID())
}

func (s *sink) Delete(id string, uid resources.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries[id], uid)
	s.call("delete", id, uid)
}

func (s *sink) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid := range s.entries[id] {
		s.call("delete", id, uid)
	}
	delete(s.entries, id)
	s.call("remove", id, resources.UID{})
}

// reset forgets the calls so far and returns them.
func (s *sink) reset() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// names returns namespace/name of the entries of id, sorted.
func (s *sink) names(t *testing.T, id string) []string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	names := []string{}
	for _, e := range s.entries[id] {
		b, err := e.JSON()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, nameOf(t, b))
	}
	slices.Sort(names)
	return names
}

// contents returns the entries of id as JSON by UID.
func (s *sink) contents(t *testing.T, id string) map[resources.UID]string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[resources.UID]string{}
	for uid, e := range s.entries[id] {
		b, err := e.JSON()
		if err != nil {
			t.Fatal(err)
		}
		out[uid] = string(b)
	}
	return out
}

func nameOf(t *testing.T, object []byte) string {
	t.Helper()
	var o struct {
		Metadata struct{ Namespace, Name string }
	}
	if err := json.Unmarshal(object, &o); err != nil {
		t.Fatalf("%v in %s", err, object)
	}
	return strings.TrimPrefix(o.Metadata.Namespace+"/"+o.Metadata.Name, "/")
}

// rig is a Set at work against a simulator, in a synctest bubble.
type rig struct {
	t    *testing.T
	sim  *apisim.Server
	net  *apisim.Listener
	sink *sink
	set  *Set
	opts Options
	reg  *prometheus.Registry
	stop func()

	protobuf bool // Pods and Nodes come as protobuf
}

// inBubble runs f with a simulator that serves the built-in resources, each with one object, and stops everything. It does so
// twice: with an apiserver that gives Pods and Nodes as protobuf, and, unless -short is given, with one that gives JSON only.
func inBubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	t.Run("protobuf", func(t *testing.T) { inBubbleOf(t, true, f) })
	if testing.Short() { // for the race detector: the other resources are JSON all the same
		return
	}
	t.Run("json", func(t *testing.T) { inBubbleOf(t, false, f) })
}

// inBubbleOf is inBubble with one of the forms.
func inBubbleOf(t *testing.T, protobuf bool, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		sim := apisim.New()
		for _, res := range builtin {
			sim.Serve(res)
		}
		sim.Put(nodesGVR, node("n1"))
		sim.Put(namespacesGVR, namespace("default"))
		sim.Put(podsGVR, pod("default", "p1", ""))
		if !protobuf {
			sim.SetProtobuf(apisim.ProtobufIgnored)
		}
		r := &rig{t: t, sim: sim, net: sim.Listen(), sink: newSink(), reg: prometheus.NewRegistry(), protobuf: protobuf}
		r.opts = Options{
			Config: &rest.Config{Host: "http://sim", Dial: r.net.Dial, UserAgent: "test", QPS: -1},
			Sink:   r.sink, Registerer: r.reg,
			Logger:   slog.New(slog.NewTextHandler(t.Output(), nil)),
			Selected: selected(t, ""),
		}
		defer func() {
			if r.stop != nil {
				r.stop()
			}
			if err := r.net.Shutdown(); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}()
		f(t, r)
	})
}

// start runs the Set until the test ends or stop is called.
func (r *rig) start() {
	r.t.Helper()
	set, err := New(r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.set = set
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := set.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

// pass lets time pass, and then everything come to rest.
func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) state(id string) ResourceStatus {
	r.t.Helper()
	for _, st := range r.set.Status().Resources {
		if st.Resource == id {
			return st
		}
	}
	r.t.Fatalf("no resource %q in the status", id)
	return ResourceStatus{}
}

func (r *rig) wantState(id string, want State) {
	r.t.Helper()
	if st := r.state(id); st.State != want {
		r.t.Errorf("state of %s: got %s (%s), want %s", id, st.State, st.Reason, want)
	}
}

func (r *rig) wantNames(id string, want ...string) {
	r.t.Helper()
	if got := r.sink.names(r.t, id); !slices.Equal(got, want) {
		r.t.Errorf("entries of %s: got %v, want %v", id, got, want)
	}
}

func (r *rig) wantComplete(want bool) {
	r.t.Helper()
	if v := r.set.Verdict(time.Now()); v.Complete != want {
		r.t.Errorf("complete: got %v, want %v (waiting for %v, errors %v)", v.Complete, want, v.Waiting, v.Errors)
	}
}

func selected(t *testing.T, namespace string, reqs ...resources.Request) []resources.Selected {
	t.Helper()
	sel, err := resources.Select(reqs, resources.Namespaces{One: namespace})
	if err != nil {
		t.Fatal(err)
	}
	return sel
}

func node(name string) string {
	return fmt.Sprintf(`{"kind":"Node","apiVersion":"v1","metadata":{"name":%q},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}],"capacity":{"cpu":"4","memory":"8Gi"}}}`, name)
}

func namespace(name string) string {
	return fmt.Sprintf(`{"kind":"Namespace","apiVersion":"v1","metadata":{"name":%q}}`, name)
}

func pod(namespace, name, label string) string {
	return fmt.Sprintf(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":%q,"namespace":%q,"labels":{"l":%q}},"status":{"podIP":"10.1.2.3","phase":"Running"}}`, name, namespace, label)
}

func workload(kind, namespace, name string) string {
	return fmt.Sprintf(`{"kind":%q,"metadata":{"name":%q,"namespace":%q},"spec":{"replicas":1,"template":{"metadata":{"labels":{"a":"b"}}}}}`, kind, name, namespace)
}

func countsBut(counts map[apisim.Count]int, before map[apisim.Count]int) map[apisim.Count]int {
	out := maps.Clone(counts)
	for k, n := range before {
		if out[k] -= n; out[k] == 0 {
			delete(out, k)
		}
	}
	return out
}
