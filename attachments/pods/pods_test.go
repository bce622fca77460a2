package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/reconcile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ground is the node of these tests: its namespaces are maps. The real plugins have their tests in package reconcile.
type ground struct {
	mu     sync.Mutex
	netns  map[string]map[string]string
	broken map[string]bool // interfaces whose ADD fails
	busy   map[string]int  // commands under way, by namespace
}

func (g *ground) command(netns string, f func(map[string]string) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy[netns]++; g.busy[netns] > 1 {
		return errors.New("two commands for one Pod at once")
	}
	g.mu.Unlock()
	time.Sleep(time.Millisecond)
	g.mu.Lock()
	g.busy[netns]--
	return f(g.netns[netns])
}

func (g *ground) Add(_ context.Context, a attachments.Attachment) (json.RawMessage, error) {
	return json.RawMessage(`{}`), g.command(a.NetNS, func(ns map[string]string) error {
		if g.broken[a.Interface] || ns == nil {
			return errors.New("made to fail")
		}
		ns[a.Interface] = a.MAC
		return nil
	})
}

func (g *ground) Del(_ context.Context, a attachments.Attachment) error {
	return g.command(a.NetNS, func(ns map[string]string) error {
		delete(ns, a.Interface)
		return nil
	})
}

func (g *ground) Interfaces(netns string) (map[string]attachments.Interface, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.netns[netns] == nil {
		return nil, errors.New("no such namespace")
	}
	all := map[string]attachments.Interface{}
	for name, mac := range g.netns[netns] {
		all[name] = attachments.Interface{MAC: mac}
	}
	return all, nil
}

func (g *ground) names(uid string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(g.netns[uid])), " ")
}

// world is a controller with its cluster and node.
type world struct {
	t      *testing.T
	dir    string
	client *fake.FakeDynamicClient
	// versions is the last resource version.
	versions atomic.Int64
	ground   *ground
	change   func(*Options) // of the next start; nil: nothing
	source   func() (json.RawMessage, error)
	c        *Controller
	stop     func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, dir: t.TempDir(), ground: &ground{netns: map[string]map[string]string{}, broken: map[string]bool{}, busy: map[string]int{}},
		source: func() (json.RawMessage, error) { return json.RawMessage(`{}`), nil },
		client: fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{podResource: "PodList"}),
	}
	w.client.PrependReactor("*", "pods", w.apply)
	return w
}

// apply gives each write a resource version and refuses patches of another, as the apiserver does and the fake does not.
func (w *world) apply(action clienttesting.Action) (bool, runtime.Object, error) {
	version := strconv.FormatInt(w.versions.Add(1), 10)
	switch a := action.(type) {
	case clienttesting.CreateActionImpl:
		return true, a.Object, w.write(a.Object, version, func(o runtime.Object) error { return w.client.Tracker().Create(podResource, o, a.Namespace) })
	case clienttesting.UpdateActionImpl:
		return true, a.Object, w.write(a.Object, version, func(o runtime.Object) error { return w.client.Tracker().Update(podResource, o, a.Namespace) })
	case clienttesting.PatchActionImpl:
		var patch unstructured.Unstructured
		now, err := w.client.Tracker().Get(podResource, a.Namespace, a.Name)
		if err != nil {
			return true, nil, err
		}
		if err := json.Unmarshal(a.Patch, &patch.Object); err != nil {
			return true, nil, err
		}
		has, err := meta.Accessor(now)
		if err != nil {
			return true, nil, err
		}
		if patch.GetResourceVersion() != has.GetResourceVersion() || patch.GetUID() != has.GetUID() {
			return true, nil, apierrors.NewConflict(podResource.GroupResource(), a.Name, errors.New("changed"))
		}
		patch.SetResourceVersion(version)
		if a.Patch, err = json.Marshal(patch.Object); err != nil {
			return true, nil, err
		}
		return clienttesting.ObjectReaction(w.client.Tracker())(a)
	default:
		return false, nil, nil
	}
}

func (w *world) write(object runtime.Object, version string, write func(runtime.Object) error) error {
	of, err := meta.Accessor(object)
	if err != nil {
		return err
	}
	of.SetResourceVersion(version)
	return write(object)
}

func (w *world) start() {
	w.t.Helper()
	store, err := attachments.Open(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	r, wrong, err := reconcile.New(reconcile.Options{
		Store: store, Plugins: w.ground, NodeConfig: w.source,
	})
	if err != nil || len(wrong) > 0 {
		w.t.Fatal(err, wrong)
	}
	o := Options{
		Client: w.client, Node: "node-1", Annotations: attachments.Annotations{Networks: attachments.DefaultNetworksAnnotation, List: attachments.DefaultListAnnotation},
		Limits: attachments.DefaultLimits(), Reconciler: r, Workers: 4, MinRetry: time.Millisecond, MaxRetry: 20 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Sandbox: func(_ context.Context, uid string) (*reconcile.Sandbox, error) {
			w.ground.mu.Lock()
			defer w.ground.mu.Unlock()
			if w.ground.netns[uid] == nil {
				return nil, nil //nolint:nilnil // as the real one
			}
			return &reconcile.Sandbox{ID: "sandbox-" + uid, NetNS: uid}, nil
		},
	}
	if w.change != nil {
		w.change(&o)
	}
	w.c = New(o)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.c.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		if err := store.Close(); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
}

// pod makes or changes a Pod, with a running sandbox.
func (w *world) pod(name, annotation, value, phase string) {
	w.t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": name, "namespace": "shop", "uid": "uid-" + name, "annotations": map[string]any{annotation: value, "other": "x"}},
		"spec":     map[string]any{"nodeName": "node-1"}, "status": map[string]any{"phase": phase},
	}}
	w.ground.mu.Lock()
	if w.ground.netns["uid-"+name] == nil {
		w.ground.netns["uid-"+name] = map[string]string{"lo": "", "eth0": "02:00:00:00:00:01"}
	}
	w.ground.mu.Unlock()
	api := w.client.Resource(podResource).Namespace("shop")
	if _, err := api.Update(w.t.Context(), u, metav1.UpdateOptions{}); err == nil {
		return
	}
	if _, err := api.Create(w.t.Context(), u, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) delete(name string) {
	w.t.Helper()
	if err := w.client.Resource(podResource).Namespace("shop").Delete(w.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within 30 s; problems: %v", what, w.c.Problems())
		}
	}
}

func (w *world) has(name, want string) {
	w.t.Helper()
	w.eventually(name+" has "+want, func() bool { return w.ground.names("uid-"+name) == want })
}

const networksOf = attachments.DefaultNetworksAnnotation

func TestController(t *testing.T) {
	w := newWorld(t)
	selector := make(chan string, 100)
	w.client.PrependReactor("list", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if list, ok := a.(clienttesting.ListAction); ok {
			selector <- list.GetListRestrictions().Fields.String()
		}
		return false, nil, nil
	})
	w.pod("web", networksOf, "green@a0", "Running")
	w.start()
	if got := <-selector; got != "spec.nodeName=node-1" {
		t.Errorf("got Pods with %q, want those of the node only", got)
	}
	w.has("web", "a0 eth0 lo")
	w.pod("web", networksOf, "green@a0,red@b0", "Running")
	w.has("web", "a0 b0 eth0 lo")

	// What does not parse changes nothing, and is told.
	w.pod("web", networksOf, "green@a0,,", "Running")
	w.eventually("the mistake is told", func() bool {
		p := w.c.Problems()
		return len(p) == 1 && p[0].Pod == "shop/web" && strings.Contains(p[0].What, "byte 10")
	})
	if got := w.ground.names("uid-web"); got != "a0 b0 eth0 lo" {
		t.Errorf("after a mistake in the annotation the Pod has %s", got)
	}
	w.pod("web", attachments.DefaultListAnnotation, `[{"name":"red","interface":"b0"}]`, "Running")
	w.has("web", "b0 eth0 lo")
	w.eventually("the mistake is forgotten", func() bool { return len(w.c.Problems()) == 0 })

	// A Pod that has ended is detached.
	w.pod("web", attachments.DefaultListAnnotation, `[{"name":"red","interface":"b0"}]`, "Succeeded")
	w.has("web", "eth0 lo")
}

// One network's failure is told and tried again for as long as it is wanted; the others are attached.
func TestNeverGivesUp(t *testing.T) {
	w := newWorld(t)
	w.ground.broken["a0"] = true
	w.pod("web", networksOf, "green@a0,red@b0", "Running")
	w.start()
	w.has("web", "b0 eth0 lo")
	w.eventually("told", func() bool { return len(w.c.Problems()) == 1 && w.c.Problems()[0].Network == "shop/green@a0" })
	time.Sleep(50 * time.Millisecond) // several pauses
	w.ground.mu.Lock()
	delete(w.ground.broken, "a0")
	w.ground.mu.Unlock()
	w.has("web", "a0 b0 eth0 lo")
	w.eventually("no longer told", func() bool { return len(w.c.Problems()) == 0 })
}

// Pods that come, change and vanish, some of them while no process runs, and whose sandbox comes late.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	for i := range 20 {
		w.pod(fmt.Sprint("p", i), networksOf, "green@a0,red@b0", "Running")
	}
	w.start()
	for i := range 20 {
		w.has(fmt.Sprint("p", i), "a0 b0 eth0 lo")
	}
	w.stop()
	w.delete("p0")
	w.pod("p1", networksOf, "red@b0", "Running")
	w.pod("late", networksOf, "green@a0", "Pending")
	w.ground.mu.Lock()
	w.ground.netns["uid-late"] = nil
	w.ground.mu.Unlock()
	w.start()
	w.has("p0", "eth0 lo")
	w.has("p1", "b0 eth0 lo")
	w.has("p2", "a0 b0 eth0 lo")
	w.ground.mu.Lock()
	w.ground.netns["uid-late"] = map[string]string{"eth0": ""}
	w.ground.mu.Unlock()
	w.has("late", "a0 eth0")
	w.delete("p2")
	w.has("p2", "eth0 lo")
	w.eventually("records of living Pods only", func() bool { return len(w.c.o.Reconciler.Recorded()) == 19 })
}

func FuzzMade(f *testing.F) {
	f.Add(`[{"name":"shop/green","interface":"net1"},{"name":"red","interface":"net2"}]`)
	f.Add(`[null]`)
	f.Fuzz(func(t *testing.T, status string) {
		for network := range made(status, "shop") {
			if !strings.Contains(network, "/") {
				t.Fatalf("got %q", network)
			}
		}
	})
}
