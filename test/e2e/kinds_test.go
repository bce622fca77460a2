package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// load creates the sample objects for which want returns true (nil: all of them) and removes at the end of the test what
// is left of them.
func load(t *testing.T, want func(*unstructured.Unstructured) bool) (*sample.Loader, []*unstructured.Unstructured) {
	t.Helper()
	loader, err := sample.NewLoader(cluster.Dynamic, cluster.Client.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	all, err := sample.Objects()
	if err != nil {
		t.Fatal(err)
	}
	if want != nil {
		all = slices.DeleteFunc(all, func(o *unstructured.Unstructured) bool { return !want(o) })
	}
	return loader, create(t, loader, all)
}

// create creates the objects and removes at the end of the test what is left of them.
func create(t *testing.T, loader *sample.Loader, objs []*unstructured.Unstructured) []*unstructured.Unstructured {
	t.Helper()
	var created []*unstructured.Unstructured
	t.Cleanup(func() {
		loader.SetClient(cluster.Dynamic) // the test may have replaced the apiserver's certificate
		for _, obj := range slices.Backward(created) {
			// The test's own context has ended.
			if err := loader.Delete(context.Background(), obj); err != nil && !notFound(err) {
				t.Error(err)
			}
		}
	})
	for _, obj := range objs {
		made, err := loader.Create(t.Context(), obj)
		if err != nil {
			t.Fatal(err)
		}
		created = append(created, made)
	}
	return created
}

// patch merges the change into an object.
func patch(t *testing.T, loader *sample.Loader, obj *unstructured.Unstructured, change map[string]any, subresources ...string) {
	t.Helper()
	res, err := loader.Resource(obj)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(change)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := res.Patch(t.Context(), obj.GetName(), types.MergePatchType, body, metav1.PatchOptions{}, subresources...); err != nil {
		t.Fatalf("patch %s %s: %v", obj.GetKind(), obj.GetName(), err)
	}
}

func labelled(key, value string) map[string]any {
	return map[string]any{"metadata": map[string]any{"labels": map[string]any{key: value}}}
}

func annotated(key, value string) map[string]any {
	return map[string]any{"metadata": map[string]any{"annotations": map[string]any{key: value}}}
}

// update changes an object in the way in which its kind usually changes, and its labels.
func update(t *testing.T, loader *sample.Loader, obj *unstructured.Unstructured) {
	t.Helper()
	patch(t, loader, obj, labelled("e2e.example.com/changed", "yes"))
	patch(t, loader, obj, annotated("e2e.example.com/changed", "yes"))
	switch obj.GetKind() {
	case "Node":
		patch(t, loader, obj, map[string]any{"status": map[string]any{"capacity": map[string]any{"cpu": "16", "memory": "64Gi"}}}, "status")
	case "Pod":
		patch(t, loader, obj, map[string]any{"status": map[string]any{
			"phase": "Running", "podIP": "10.244.9.9", "podIPs": []any{map[string]any{"ip": "10.244.9.9"}},
			"conditions": []any{map[string]any{"type": "Ready", "status": "True"}},
		}}, "status")
	case "Deployment", "StatefulSet", "ReplicaSet", "ReplicationController", "CloneSet", "StatefulSetPlus", "OpenGaussCluster":
		patch(t, loader, obj, map[string]any{"spec": map[string]any{"replicas": 3}})
	case "DaemonSet":
		patch(t, loader, obj, map[string]any{"spec": map[string]any{"minReadySeconds": 7}})
	case "Service":
		patch(t, loader, obj, map[string]any{"spec": map[string]any{"ports": []any{
			map[string]any{"name": "http", "port": 8088, "targetPort": "http", "protocol": "TCP"},
			map[string]any{"name": "grpc", "port": 9099, "protocol": "TCP"},
		}}})
	case "ServiceRule":
		// What no Service may have: a number as text, and no targetPort at all.
		patch(t, loader, obj, map[string]any{"spec": map[string]any{"ports": []any{
			map[string]any{"name": "http", "port": 8088, "targetPort": "8080", "protocol": "TCP"},
			map[string]any{"name": "grpc", "port": 9099, "protocol": "TCP"},
		}}})
	case "Ingress":
		patch(t, loader, obj, map[string]any{"spec": map[string]any{"defaultBackend": map[string]any{
			"service": map[string]any{"name": "checkout", "port": map[string]any{"name": "grpc", "number": nil}},
		}}})
	case "Route":
		patch(t, loader, obj, map[string]any{"spec": map[string]any{"host": "other.apps.example.com", "port": map[string]any{"targetPort": "http"}}})
	case "ConfigMap":
		patch(t, loader, obj, map[string]any{"data": map[string]any{"LOG_LEVEL": "debug"}})
	case "IPPool":
		patch(t, loader, obj, map[string]any{"spec": map[string]any{"blockSize": 24}})
	}
}

// counts are the numbers of objects of each type.
func counts(s expect.Snapshot) map[string]int {
	n := map[string]int{}
	for id := range s {
		n[id.Type]++
	}
	return n
}

func TestEveryKind(t *testing.T) {
	p := newPair(t, options{sources: expect.All, agent: harness.Settings{
		"inputs.resources.kubernetes.api_resources": yamlList(t, sample.APIResources),
	}})
	p.start()
	p.synced(time.Minute)
	before := counts(p.snapshot())

	loader, objs := load(t, nil)
	p.synced(time.Minute)
	created := counts(p.snapshot())
	for _, s := range expect.All {
		if created[s.Type] <= before[s.Type] {
			t.Errorf("after creation the server holds %d objects of type %s, want more than %d", created[s.Type], s.Type, before[s.Type])
		}
	}

	for _, obj := range objs {
		update(t, loader, obj)
	}
	p.synced(time.Minute)

	// The owners go first, so that what depends on them has to follow.
	half := slices.DeleteFunc(slices.Clone(objs), func(o *unstructured.Unstructured) bool { return o.GetKind() == "Pod" || o.GetKind() == "Namespace" })
	for _, obj := range half {
		if err := loader.Delete(p.ctx, obj); err != nil {
			t.Fatal(err)
		}
	}
	p.synced(time.Minute)

	for _, obj := range slices.Backward(objs) {
		if slices.Contains(half, obj) {
			continue
		}
		if err := loader.Delete(p.ctx, obj); err != nil {
			t.Fatal(err)
		}
	}
	p.synced(time.Minute)
	deleted := counts(p.snapshot())
	for _, s := range expect.All {
		if deleted[s.Type] != before[s.Type] {
			t.Errorf("after deletion the server holds %d objects of type %s, want %d", deleted[s.Type], s.Type, before[s.Type])
		}
	}
}

// The configurations are those of DeepFlow's documentation.
func TestPlatforms(t *testing.T) {
	without := func(sources []expect.Source, resource string) []expect.Source {
		return slices.DeleteFunc(slices.Clone(sources), func(s expect.Source) bool { return s.Resource.Resource == resource })
	}
	tests := []struct {
		name    string
		config  string
		sources []expect.Source
		types   []string // of which objects have to be there
	}{
		{
			name: "OpenKruise",
			config: `
- {name: clonesets, group: apps.kruise.io}
- {name: statefulsets, group: apps}
- {name: statefulsets, group: apps.kruise.io, version: v1beta1}
`,
			sources: append(slices.Clone(expect.Defaults), expect.CloneSets, expect.KruiseSets),
			types:   []string{"*v1.CloneSet", "*v1.StatefulSet"},
		},
		{
			name: "OpenShift",
			config: `
- {name: ingresses, disabled: true}
- {name: routes}
`,
			sources: append(without(expect.Defaults, "ingresses"), expect.Routes),
			types:   []string{"*v1.Ingress"},
		},
		{
			name: "OpenGauss of both groups",
			config: `
- {name: opengaussclusters, group: opengauss.sig, version: v1}
- {name: opengaussclusters, group: opengauss.cmbc.com.cn, version: v1}
`,
			sources: append(slices.Clone(expect.Defaults), expect.OpenGauss, expect.OpenGaussCMBC),
			types:   []string{"*v1.OpenGaussCluster"},
		},
		{
			name:    "StatefulSetPlus",
			config:  `[{name: statefulsets, group: apps}, {name: statefulsets, group: platform.stke, version: v1alpha1}]`,
			sources: append(slices.Clone(expect.Defaults), expect.StatefulSetPluses),
			types:   []string{"*v1.StatefulSet"},
		},
	}
	load(t, nil)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newPair(t, options{sources: test.sources, agent: harness.Settings{
				"inputs.resources.kubernetes.api_resources": yamlList(t, test.config),
			}})
			p.start()
			p.synced(time.Minute)
			got := counts(p.snapshot())
			for _, typ := range test.types {
				if got[typ] == 0 {
					t.Errorf("the server holds no object of type %s", typ)
				}
			}
		})
	}
}

func yamlList(t *testing.T, text string) []any {
	t.Helper()
	var out []any
	if err := unmarshal(text, &out); err != nil {
		t.Fatal(fmt.Errorf("api_resources of the test: %w", err))
	}
	return out
}

// sampleObject returns a fresh copy of an object of the sample cluster.
func sampleObject(t *testing.T, kind, name string) *unstructured.Unstructured {
	t.Helper()
	objs, err := sample.Objects()
	if err != nil {
		t.Fatal(err)
	}
	return pick(t, objs, kind, name)
}
