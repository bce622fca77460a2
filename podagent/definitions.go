package podagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/pseudo-agent/pseudo-agent/attachments/cni"
)

var definitionResource = schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions"}

// definitions watches the NetworkAttachmentDefinitions: few objects, of which no more than spec.config is kept.
type definitions struct {
	informer cache.SharedIndexInformer

	mu  sync.Mutex
	err error // the last one of the watch
}

func newDefinitions(client dynamic.Interface) (*definitions, error) {
	d := &definitions{informer: dynamicinformer.NewDynamicSharedInformerFactory(client, 0).ForResource(definitionResource).Informer()}
	err := d.informer.SetTransform(keepConfig)
	if err == nil {
		err = d.informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.err = err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("watch NetworkAttachmentDefinitions: %w", err)
	}
	return d, nil
}

// keepConfig drops what is not needed of a definition, before it is kept.
func keepConfig(object any) (any, error) {
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		return object, nil
	}
	kept := &unstructured.Unstructured{Object: map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind()}}
	kept.SetNamespace(u.GetNamespace())
	kept.SetName(u.GetName())
	kept.SetUID(u.GetUID())
	kept.SetResourceVersion(u.GetResourceVersion())
	if text, has, err := unstructured.NestedString(u.Object, "spec", "config"); err == nil && has {
		kept.Object["spec"] = map[string]any{"config": text}
	}
	return kept, nil
}

// run watches until ctx ends, and says which definitions have come, changed or gone.
func (d *definitions) run(ctx context.Context, changed func(namespace, name string)) error {
	tell := func(object any) {
		if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = unknown.Obj
		}
		if u, ok := object.(*unstructured.Unstructured); ok {
			changed(u.GetNamespace(), u.GetName())
		}
	}
	_, err := d.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell, DeleteFunc: tell,
		UpdateFunc: func(old, now any) {
			if configOf(old) != configOf(now) {
				tell(now)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch NetworkAttachmentDefinitions: %w", err)
	}
	d.informer.RunWithContext(ctx)
	return nil
}

func configOf(object any) string {
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		return ""
	}
	text, _, _ := unstructured.NestedString(u.Object, "spec", "config")
	return text
}

// definitionsPatience is how long the first look at Pods waits for the definitions, without which it would tell of failures.
const definitionsPatience = 15 * time.Second

// wait returns when the definitions have been listed, or after definitionsPatience.
func (d *definitions) wait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, definitionsPatience)
	defer cancel()
	cache.WaitForCacheSync(ctx.Done(), d.informer.HasSynced)
}

// get returns the configuration list of a definition.
func (d *definitions) get(_ context.Context, namespace, name string) (json.RawMessage, error) {
	fail := func(err error) (json.RawMessage, error) {
		return nil, fmt.Errorf("NetworkAttachmentDefinition %s/%s: %w", namespace, name, err)
	}
	if !d.informer.HasSynced() {
		d.mu.Lock()
		err := d.err
		d.mu.Unlock()
		if err == nil {
			err = errors.New("the first list has not ended")
		}
		return nil, fmt.Errorf("NetworkAttachmentDefinitions have not been listed yet (list and watch of network-attachment-definitions.k8s.cni.cncf.io are needed): %w", err)
	}
	object, there, err := d.informer.GetStore().GetByKey(namespace + "/" + name)
	if err != nil {
		return fail(err)
	}
	if !there {
		return fail(errors.New("there is none; make it, or correct the annotation"))
	}
	text := configOf(object)
	if text == "" {
		return fail(errors.New("spec.config is empty; write the network's CNI configuration into it"))
	}
	configuration, err := cni.Normalise([]byte(text), name)
	if err != nil {
		return fail(fmt.Errorf("spec.config: %w", err))
	}
	return configuration, nil
}
