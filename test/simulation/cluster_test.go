package simulation

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

func gvr(group, version, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: resource}
}

// kind is a kind of object that the operator changes.
type kind struct {
	apisim.Resource
	id       string // of the selection
	wireType string
	optional bool // given up after five minutes in which it cannot be read
	object   func(namespace, name string, n int) string
}

var kinds = []kind{
	{
		Resource: apisim.Resource{GroupVersionResource: gvr("", "v1", "pods"), Kind: "Pod", Namespaced: true}, id: "pods", wireType: "*v1.Pod",
		object: func(namespace, name string, n int) string {
			return fmt.Sprintf(`{"metadata":{"name":%q,"namespace":%q,"labels":{"n":"%d"}},"status":{"podIP":"10.1.2.3","phase":"Running"}}`, name, namespace, n)
		},
	},
	{
		Resource: apisim.Resource{GroupVersionResource: gvr("", "v1", "nodes"), Kind: "Node"}, id: "nodes", wireType: "*v1.Node",
		object: func(_, name string, n int) string {
			return fmt.Sprintf(`{"metadata":{"name":%q},"status":{"addresses":[{"type":"InternalIP","address":"10.9.0.%d"}],"capacity":{"cpu":"4","memory":"8Gi"}}}`, name, n%250)
		},
	},
	{
		Resource: apisim.Resource{GroupVersionResource: gvr("apps", "v1", "replicasets"), Kind: "ReplicaSet", Namespaced: true},
		id:       "replicasets", wireType: "*v1.ReplicaSet",
		object: func(namespace, name string, n int) string { // one without replicas is not reported
			return fmt.Sprintf(`{"metadata":{"name":%q,"namespace":%q},"spec":{"replicas":%d}}`, name, namespace, n%3)
		},
	},
	{
		Resource: apisim.Resource{GroupVersionResource: gvr("apps.kruise.io", "v1alpha1", "clonesets"), Kind: "CloneSet", Namespaced: true},
		id:       "clonesets", wireType: "*v1.CloneSet", optional: true,
		object: func(namespace, name string, n int) string {
			return fmt.Sprintf(`{"kind":"CloneSet","metadata":{"name":%q,"namespace":%q},"spec":{"replicas":%d,"template":{"metadata":{"labels":{"a":"b"}}}}}`, name, namespace, n)
		},
	},
	{
		Resource: apisim.Resource{GroupVersionResource: gvr("", "v1", "configmaps"), Kind: "ConfigMap", Namespaced: true},
		id:       "configmaps", wireType: "*v1.ConfigMap", optional: true,
		object: func(namespace, name string, n int) string {
			return fmt.Sprintf(`{"metadata":{"name":%q,"namespace":%q,"labels":{"n":"%d"}},"data":{"a":"b"}}`, name, namespace, n)
		},
	},
}

// others are served and never have objects.
var others = []apisim.Resource{
	{GroupVersionResource: gvr("", "v1", "namespaces"), Kind: "Namespace"},
	{GroupVersionResource: gvr("", "v1", "services"), Kind: "Service", Namespaced: true},
	{GroupVersionResource: gvr("", "v1", "replicationcontrollers"), Kind: "ReplicationController", Namespaced: true},
	{GroupVersionResource: gvr("apps", "v1", "deployments"), Kind: "Deployment", Namespaced: true},
	{GroupVersionResource: gvr("apps", "v1", "daemonsets"), Kind: "DaemonSet", Namespaced: true},
	{GroupVersionResource: gvr("apps", "v1", "statefulsets"), Kind: "StatefulSet", Namespaced: true},
	{GroupVersionResource: gvr("networking.k8s.io", "v1", "ingresses"), Kind: "Ingress", Namespaced: true},
	{GroupVersionResource: gvr("coordination.k8s.io", "v1", "leases"), Kind: "Lease", Namespaced: true},
}

// selection is what the agents are to watch beyond the default.
func selection(configMaps bool) []resources.Request {
	requests := []resources.Request{{Name: "clonesets"}}
	if configMaps {
		requests = append(requests, resources.Request{Name: "configmaps"})
	}
	return requests
}

// choices of namespaces that the operator has.
var choices = []struct {
	name string
	config.AgentSelection
}{
	{"all", config.AgentSelection{}},
	{"default only", config.AgentSelection{Namespaces: []string{"default"}}},
	{"default and shop only", config.AgentSelection{Namespaces: []string{"default", "shop"}}},
	{"all but shop", config.AgentSelection{ExcludeNamespaces: []string{"shop"}}},
}

// namespaces are those in which there are objects.
var namespaces = []string{"default", "shop"}

// namespaceOf is the namespace of the object of that name, and of that kind.
func (k kind) namespaceOf(name int) string {
	switch {
	case !k.Namespaced:
		return ""
	case name%8 < 5:
		return namespaces[0]
	default:
		return namespaces[1]
	}
}

// namespaces are those in which there may be objects of a kind.
func (k kind) namespaces() []string {
	if !k.Namespaced {
		return []string{""}
	}
	return namespaces
}

// cell is a type in a namespace, which is watched by one reflector at a time and so moves from one moment to the next.
type cell struct{ wireType, namespace string }

// line is one object as it is reported.
type line struct{ text, namespace string }

func lineOf(text string) line {
	for _, ns := range namespaces {
		if strings.Contains(text, `"namespace":"`+ns+`"`) {
			return line{text, ns}
		}
	}
	return line{text, ""}
}

// reader reads entries as they go over the wire, and remembers what they say: most are sent and stored many times.
type reader struct {
	mu    sync.Mutex
	lines map[string]line // by the compressed bytes
}

func (r *reader) read(compressed []byte) (line, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l, ok := r.lines[string(compressed)]; ok {
		return l, nil
	}
	text, err := inflate(compressed)
	if err != nil {
		return line{}, err
	}
	l := lineOf(text)
	r.lines[string(compressed)] = l
	return l, nil
}

// content is what a snapshot or a cluster has: one object a line, sorted.
type content map[cell]string

// contentOf reads entries as they go over the wire.
func (r *reader) contentOf(entries func(yield func(wireType string, compressed []byte) bool)) (content, error) {
	lines := map[cell][]string{}
	for wireType, compressed := range entries {
		l, err := r.read(compressed)
		if err != nil {
			return nil, err
		}
		at := cell{wireType, l.namespace}
		lines[at] = append(lines[at], l.text)
	}
	return joined(lines), nil
}

func joined(lines map[cell][]string) content {
	c := content{}
	for at, list := range lines {
		slices.Sort(list)
		c[at] = strings.Join(list, "\n")
	}
	return c
}

var readers sync.Pool // of zlib

func inflate(compressed []byte) (string, error) {
	from := bytes.NewReader(compressed)
	zr, ok := readers.Get().(io.ReadCloser)
	var err error
	if resetter, can := zr.(zlib.Resetter); ok && can {
		err = resetter.Reset(from, nil)
	} else {
		zr, err = zlib.NewReader(from)
	}
	if err != nil {
		return "", err
	}
	var text strings.Builder
	if _, err := io.Copy(&text, zr); err != nil {
		return "", err
	}
	readers.Put(zr)
	return text.String(), nil
}

// truth is the cluster, and all that it ever was.
type truth struct {
	t          testing.TB
	sim        *apisim.Server
	projectors map[string]*resources.Projector // by id of a kind

	mu       sync.Mutex
	selected map[string]bool // ids of kinds
	chosen   config.AgentSelection
	served   map[string]bool
	history  map[cell][]moment
	// projected is what is reported of an object, by the id of its kind and its JSON; empty: nothing is.
	projected map[string]map[string]line
}

// moment is what a cell had from then on.
type moment struct {
	at   time.Time
	text string
}

func newTruth(t testing.TB) *truth {
	t.Helper()
	w := &truth{
		t: t, sim: apisim.New(), projectors: map[string]*resources.Projector{},
		selected: map[string]bool{}, served: map[string]bool{}, history: map[cell][]moment{},
		projected: map[string]map[string]line{},
	}
	selected, err := resources.Select(selection(true), resources.Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range selected {
		w.projectors[s.ID] = resources.NewProjector(s, resources.Options{})
		w.projected[s.ID] = map[string]line{}
	}
	for _, r := range others {
		w.sim.Serve(r)
	}
	for _, k := range kinds {
		w.sim.Serve(k.Resource)
		w.served[k.id], w.selected[k.id] = true, k.id != "configmaps"
		for _, ns := range k.namespaces() {
			w.history[cell{k.wireType, ns}] = []moment{{time.Now(), ""}}
		}
	}
	return w
}

// do changes objects of kinds, and notes what they are then.
func (w *truth) do(f func(), changed ...kind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	for _, k := range changed {
		all := w.all(k)
		for _, ns := range k.namespaces() {
			at := cell{k.wireType, ns}
			w.note(at, all[at], w.selected[k.id] && w.watches(ns))
		}
	}
}

// note notes what a cell has now. Of what is no longer selected it notes both that it is not to be reported and what it is: an
// agent that cannot ask what is served goes on with its former selection, and what it reports until then has to be true. mu is
// held.
func (w *truth) note(at cell, text string, selected bool) {
	past := w.history[at]
	last := past[len(past)-1].text
	switch {
	case selected && last != text:
		past = append(past, moment{time.Now(), text})
	case selected:
	case text != "" && (len(past) < 2 || last != "" || past[len(past)-2].text != text):
		past = append(past, moment{time.Now(), text}, moment{time.Now(), ""})
	case last != "":
		past = append(past, moment{time.Now(), ""})
	}
	w.history[at] = past
}

// all is what the cluster has of a kind, whatever is selected of it. mu is held.
func (w *truth) all(k kind) content {
	if !w.served[k.id] {
		return nil
	}
	lines := map[cell][]string{}
	for _, raw := range w.sim.Objects(k.GroupVersionResource) {
		l, known := w.projected[k.id][string(raw)]
		if !known {
			l = w.project(k, raw)
			w.projected[k.id][string(raw)] = l
		}
		if l.text != "" {
			at := cell{k.wireType, l.namespace}
			lines[at] = append(lines[at], l.text)
		}
	}
	return joined(lines)
}

// project tells what is reported of an object.
func (w *truth) project(k kind, raw []byte) line {
	o, _, err := w.projectors[k.id].Project(raw, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if o.Entry == nil {
		return line{}
	}
	text, err := o.Entry.JSON()
	if err != nil {
		w.t.Fatal(err)
	}
	return lineOf(string(text))
}

// watches tells whether objects of a namespace, or of none, are to be reported. mu is held.
func (w *truth) watches(namespace string) bool {
	only := w.chosen.Namespaces
	return namespace == "" || (len(only) == 0 || slices.Contains(only, namespace)) && !slices.Contains(w.chosen.ExcludeNamespaces, namespace)
}

// current is what a report has to have.
func (w *truth) current() content {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := content{}
	for at, past := range w.history {
		if past[len(past)-1].text != "" {
			c[at] = past[len(past)-1].text
		}
	}
	return c
}

// reach is how far each cell's history goes now.
func (w *truth) reach() map[cell]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := map[cell]int{}
	for at, past := range w.history {
		r[at] = len(past)
	}
	return r
}

// find returns the first moment of a cell, from one on and before another, that had this content; false if none had.
func (w *truth) find(at cell, text string, from, before int) (int, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	past := w.history[at]
	for i := from; i < min(before, len(past)); i++ {
		if past[i].text == text {
			return i, true
		}
	}
	return 0, false
}
