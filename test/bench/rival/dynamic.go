package rival

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
)

// dynamicSet is a factory of dynamic informers, as most controllers for any resource use it.
type dynamicSet struct {
	factory   dynamicinformer.DynamicSharedInformerFactory
	informers []cache.SharedIndexInformer
}

func newDynamic(cfg *rest.Config, trim bool) (*dynamicSet, error) {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	s := &dynamicSet{factory: dynamicinformer.NewDynamicSharedInformerFactory(client, 0)}
	for _, k := range cluster.Kinds {
		inf := s.factory.ForResource(k.GVR()).Informer()
		if trim {
			if err := inf.SetTransform(trimmer(k.Resource)); err != nil {
				return nil, err
			}
		}
		if _, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{}); err != nil {
			return nil, err
		}
		s.informers = append(s.informers, inf)
	}
	return s, nil
}

func (s *dynamicSet) start(ctx context.Context) { s.factory.Start(ctx.Done()) }

func (s *dynamicSet) synced() []cache.InformerSynced { return synced(s.informers) }

func synced(informers []cache.SharedIndexInformer) []cache.InformerSynced {
	var out []cache.InformerSynced
	for _, inf := range informers {
		out = append(out, inf.HasSynced)
	}
	return out
}

// kept are the fields that are kept of a resource, beside the metadata; of those not named: the spec.
var kept = map[string][][]string{
	"pods": {{"status", "hostIP"}, {"status", "podIP"}, {"status", "conditions"}, {"status", "containerStatuses"}},
	"nodes": {
		{"spec", "podCIDR"}, {"status", "addresses"}, {"status", "conditions"}, {"status", "capacity"},
	},
	"namespaces":  {},
	"replicasets": {{"spec", "replicas"}},
	"services":    {{"spec"}, {"status", "loadBalancer"}},
}

var keptMetadata = []string{"name", "namespace", "uid", "resourceVersion", "labels", "annotations", "ownerReferences", "creationTimestamp"}

// trimmer makes a new, small object of each; what it takes over is not copied.
func trimmer(resource string) cache.TransformFunc {
	paths, ok := kept[resource]
	if !ok {
		paths = [][]string{{"spec"}}
	}
	for _, field := range keptMetadata {
		paths = append(paths, []string{"metadata", field})
	}
	return func(obj any) (any, error) {
		u, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return obj, nil
		}
		out := map[string]any{"apiVersion": u.Object["apiVersion"], "kind": u.Object["kind"]}
		for _, path := range paths {
			v, found, err := unstructured.NestedFieldNoCopy(u.Object, path...)
			if err != nil || !found {
				continue
			}
			at := out
			for _, name := range path[:len(path)-1] {
				next, ok := at[name].(map[string]any)
				if !ok {
					next = map[string]any{}
					at[name] = next
				}
				at = next
			}
			at[path[len(path)-1]] = v
		}
		return &unstructured.Unstructured{Object: out}, nil
	}
}
