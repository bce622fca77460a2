package explain

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/check/oneshot"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// chance makes random objects, whose relations sometimes hold.
type chance struct {
	*rand.Rand
	n int
}

func (c *chance) pick(list ...string) string { return list[c.IntN(len(list))] }

// some is the value, or nothing.
func (c *chance) some(key string, v any) map[string]any {
	if c.IntN(5) == 0 {
		return map[string]any{}
	}
	return map[string]any{key: v}
}

func join(parts ...map[string]any) map[string]any {
	out := map[string]any{}
	for _, p := range parts {
		maps.Copy(out, p)
	}
	return out
}

func (c *chance) containers() []any {
	return []any{join(map[string]any{"name": "main", "image": "x"},
		c.some("env", []any{map[string]any{"name": "PASSWORD", "value": c.pick("secret", "other")}, map[string]any{"name": "PLAIN", "value": "v"}}),
		c.some("args", []any{"--token=" + c.pick("a", "b"), "run"}),
		c.some("ports", []any{map[string]any{"name": c.pick("http", "grpc"), "containerPort": c.IntN(9000)}}))}
}

func (c *chance) template(app string) map[string]any {
	return map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": app}}, "spec": map[string]any{"containers": c.containers()}}
}

// object returns a random object of a namespace in which each uid begins with its name.
func (c *chance) object(namespace string) (resource string, object map[string]any) {
	c.n++
	app := c.pick("a", "b", "c")
	meta := join(map[string]any{"namespace": namespace, "resourceVersion": "1"}, c.some("labels", map[string]any{"app": app}),
		c.some("annotations", map[string]any{"note": strings.Repeat("x", c.IntN(300))}), c.some("managedFields", []any{map[string]any{"manager": "kubectl"}}))
	named := func(kind, apiVersion string, body map[string]any) map[string]any {
		meta["name"] = fmt.Sprintf("%s-%d", strings.ToLower(kind), c.n)
		meta["uid"] = fmt.Sprintf("%s-%s-%d", namespace, strings.ToLower(kind), c.n)
		return join(map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": meta}, body)
	}
	owner := func(kind string) {
		meta["ownerReferences"] = []any{map[string]any{
			"apiVersion": "apps/v1", "kind": kind, "name": "x", "controller": true,
			"uid": fmt.Sprintf("%s-%s-%d", namespace, strings.ToLower(kind), 1+c.IntN(c.n)),
		}}
	}
	spec := func(parts ...map[string]any) map[string]any { return map[string]any{"spec": join(parts...)} }
	switch c.IntN(7) {
	case 0:
		return "deployments", named("Deployment", "apps/v1", spec(map[string]any{"template": c.template(app)}, c.some("replicas", c.IntN(4))))
	case 1:
		owner("Deployment")
		return "replicasets", named("ReplicaSet", "apps/v1", spec(map[string]any{"template": c.template(app)}, c.some("replicas", c.IntN(3))))
	case 2:
		return "services", named("Service", "v1", spec(c.some("selector", map[string]any{"app": app}), map[string]any{"type": c.pick("ClusterIP", "ClusterIP", "ExternalName")},
			c.some("ports", []any{map[string]any{"name": "http", "port": 80, "protocol": "TCP", "targetPort": []any{"http", "80", 8080}[c.IntN(3)]}})))
	case 3:
		return "ingresses", named("Ingress", "networking.k8s.io/v1", spec(map[string]any{"rules": []any{map[string]any{"host": "h", "http": map[string]any{"paths": []any{
			map[string]any{"path": "/", "backend": map[string]any{"service": map[string]any{
				"name": fmt.Sprintf("service-%d", 1+c.IntN(c.n)), "port": map[string]any{"name": c.pick("http", "none")},
			}}},
		}}}}}))
	case 4:
		return "statefulsets", named("StatefulSet", "apps/v1", spec(map[string]any{"template": c.template(app)}, c.some("replicas", 1)))
	default:
		owner(c.pick("ReplicaSet", "ReplicaSet", "StatefulSet", "Job"))
		if c.IntN(9) == 0 {
			delete(meta, "ownerReferences")
		}
		return "pods", named("Pod", "v1", map[string]any{"spec": map[string]any{"containers": c.containers(), "nodeName": "node"}, "status": join(
			c.some("hostIP", c.pick("192.168.0.1", "192.168.0.1", "192.168.0.9")), c.some("podIP", fmt.Sprintf("10.1.%d.%d", c.n/250, c.n%250+1)),
			c.some("phase", c.pick("Running", "Running", "Succeeded")), c.some("conditions", []any{map[string]any{"type": "Ready", "status": "True"}}))})
	}
}

// TestRandomObjects explains a thousand random objects: what is said to be sent is the entry of the whole cluster's
// snapshot to the byte, and what is said to be lost is what the inventory of the whole cluster says.
func TestRandomObjects(t *testing.T) {
	c := &chance{Rand: rand.New(rand.NewPCG(testseed.New(t), 0))}
	sim := apisim.New()
	selected, err := resources.Select(nil, resources.Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]resources.Selected{}
	for _, s := range selected {
		byName[s.Kind.Name] = s
		sim.Serve(apisim.Resource{GroupVersionResource: s.Candidates[0], Kind: apisim.KindOf(s.Kind.Name), Namespaced: s.Kind.Namespaced})
	}
	put := func(resource string, object map[string]any) []byte {
		text, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		sim.Put(byName[resource].Candidates[0], string(text))
		return text
	}
	put("nodes", map[string]any{
		"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": "node", "uid": "node"}, "spec": map[string]any{"podCIDR": "10.1.0.0/16"},
		"status": map[string]any{"addresses": []any{map[string]any{"type": "InternalIP", "address": "192.168.0.1"}}},
	})
	namespaces, each := 40, 25
	if testing.Short() {
		namespaces = 8
	}
	var objects [][]byte
	for n := range namespaces {
		name := fmt.Sprintf("team-%d", n)
		put("namespaces", map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "uid": name}})
		for range each {
			resource, object := c.object(name)
			objects = append(objects, put(resource, object))
		}
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasSuffix(req.URL.Path, "/selfsubjectaccessreviews") {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{},"status":{"allowed":true}}`))
			return
		}
		sim.ServeHTTP(w, req)
	}))
	defer srv.Close()
	o := Options{
		Config: &rest.Config{Host: srv.URL, QPS: -1}, Selected: selected,
		Projection: resources.Options{HashKey: []byte("0123456789abcdef0123456789abcdef"), CredentialWords: []string{"password", "token"}},
	}
	whole, err := oneshot.Collect(t.Context(), oneshot.Options{Config: o.Config, Selected: selected, Projection: o.Projection})
	if err != nil {
		t.Fatal(err)
	}
	sent := map[string]json.RawMessage{}
	var changes []inventory.Change
	for _, e := range whole.Entries() {
		doc, err := e.JSON()
		if err != nil {
			t.Fatal(err)
		}
		sent[idOf(doc)] = doc
		changes = append(changes, inventory.Change{Type: e.WireType(), ID: idOf(doc), JSON: doc})
	}
	lost := map[string][]inventory.Finding{}
	for _, f := range inventory.Build(inventory.Options{}, changes).Findings(inventory.Filter{}) {
		lost[f.ID] = append(lost[f.ID], f)
	}
	var mu sync.Mutex
	verdicts := map[string]int{}
	explain := func(text []byte) error {
		r, err := Run(t.Context(), o, Target{Object: text})
		if err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		if string(r.Sent) != string(sent[r.UID]) {
			t.Errorf("%s: what is sent differs:\n%s", text, cmp.Diff(string(sent[r.UID]), string(r.Sent)))
		}
		if !slices.Equal(r.Server.Findings, lost[r.UID]) {
			t.Errorf("%s: got findings %v, want %v", text, r.Server.Findings, lost[r.UID])
		}
		verdict := "not whole"
		switch {
		case r.Sent == nil:
			verdict = "not reported"
		case r.Arrives:
			verdict = "whole"
		}
		mu.Lock()
		defer mu.Unlock()
		verdicts[verdict]++
		return nil
	}
	// They wait more than they compute.
	const atOnce = 16
	var all errgroup.Group
	all.SetLimit(atOnce)
	for _, text := range objects {
		all.Go(func() error { return explain(text) })
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d objects: %v", len(objects), verdicts)
	if verdicts["whole"] < len(objects)/10 || verdicts["not whole"] < len(objects)/10 || verdicts["not reported"] < len(objects)/100 {
		t.Errorf("got %v, want many of each", verdicts)
	}
}
