// Package sample is a small cluster that has every kind of object that pseudo-agent reports.
//
// The objects are in cluster.yaml. Custom resources get the least CustomResourceDefinition with which an apiserver
// serves them. Loading relies on an administrator's clients and writes each status separately, as a controller would.
package sample

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

//go:embed cluster.yaml
var clusterYAML []byte

// APIResources is the value of inputs.resources.kubernetes.api_resources, in YAML, with which every kind of the sample
// cluster is reported.
const APIResources = `
- {name: configmaps}
- {name: routes}
- {name: clonesets}
- {name: statefulsets, group: apps}
- {name: statefulsets, group: apps.kruise.io, version: v1beta1}
- {name: statefulsets, group: platform.stke}
- {name: opengaussclusters, group: opengauss.sig}
- {name: opengaussclusters, group: opengauss.cmbc.com.cn}
- {name: servicerules}
- {name: ippools}
`

// CRD is a custom resource of the sample cluster.
type CRD struct {
	Group, Version, Kind, Plural string
	ClusterScoped                bool
}

// CRDs are the custom resources of the sample cluster.
var CRDs = []CRD{
	{Group: "route.openshift.io", Version: "v1", Kind: "Route", Plural: "routes"},
	{Group: "apps.kruise.io", Version: "v1alpha1", Kind: "CloneSet", Plural: "clonesets"},
	{Group: "apps.kruise.io", Version: "v1beta1", Kind: "StatefulSet", Plural: "statefulsets"},
	{Group: "platform.stke", Version: "v1alpha1", Kind: "StatefulSetPlus", Plural: "statefulsetpluses"},
	{Group: "opengauss.sig", Version: "v1", Kind: "OpenGaussCluster", Plural: "opengaussclusters"},
	{Group: "opengauss.cmbc.com.cn", Version: "v1", Kind: "OpenGaussCluster", Plural: "opengaussclusters"},
	{Group: "crd.pingan.org", Version: "v1alpha1", Kind: "ServiceRule", Plural: "servicerules"},
	{Group: "crd.projectcalico.org", Version: "v1", Kind: "IPPool", Plural: "ippools", ClusterScoped: true},
}

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// Resource is what the CRD serves.
func (c CRD) Resource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: c.Group, Version: c.Version, Resource: c.Plural}
}

// Install creates the definition and waits until the apiserver serves it.
func (c CRD) Install(ctx context.Context, client dynamic.Interface) error {
	scope := "Namespaced"
	if c.ClusterScoped {
		scope = "Cluster"
	}
	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1",
		"kind":       "CustomResourceDefinition",
		"metadata":   map[string]any{"name": c.Plural + "." + c.Group},
		"spec": map[string]any{
			"group":    c.Group,
			"scope":    scope,
			"names":    map[string]any{"plural": c.Plural, "kind": c.Kind},
			"versions": c.versions([]string{c.Version}),
		},
	}}
	if _, err := client.Resource(crdResource).Create(ctx, obj, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("install %s.%s: %w", c.Plural, c.Group, err)
	}
	return poll(ctx, func() error {
		_, err := client.Resource(c.Resource()).List(ctx, metav1.ListOptions{Limit: 1})
		return err
	})
}

// versions are the definition's versions: c.Version, in which objects are stored, and the served ones, best first.
func (c CRD) versions(served []string) []any {
	names := served
	if !slices.Contains(served, c.Version) {
		names = append(slices.Clone(served), c.Version)
	}
	out := make([]any, 0, len(names))
	for _, name := range names {
		out = append(out, map[string]any{
			"name": name, "served": slices.Contains(served, name), "storage": name == c.Version,
			"subresources": map[string]any{"status": map[string]any{}},
			"schema": map[string]any{"openAPIV3Schema": map[string]any{
				"type": "object", "x-kubernetes-preserve-unknown-fields": true,
			}},
		})
	}
	return out
}

// Serve makes the apiserver serve these versions and no others.
func (c CRD) Serve(ctx context.Context, client dynamic.Interface, versions ...string) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"versions": c.versions(versions)}})
	if err != nil {
		return err
	}
	_, err = client.Resource(crdResource).Patch(ctx, c.Plural+"."+c.Group, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("serve %v of %s.%s: %w", versions, c.Plural, c.Group, err)
	}
	return poll(ctx, func() error {
		_, err := client.Resource(c.Resource()).List(ctx, metav1.ListOptions{Limit: 1})
		if served := slices.Contains(versions, c.Version); served == (err == nil) || !served && apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("serving %v of %s.%s has no effect yet", versions, c.Plural, c.Group)
	})
}

// Remove deletes the definition and waits until the apiserver no longer serves it.
func (c CRD) Remove(ctx context.Context, client dynamic.Interface) error {
	if err := client.Resource(crdResource).Delete(ctx, c.Plural+"."+c.Group, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("remove %s.%s: %w", c.Plural, c.Group, err)
	}
	return poll(ctx, func() error {
		_, err := client.Resource(c.Resource()).List(ctx, metav1.ListOptions{Limit: 1})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		default:
			return fmt.Errorf("%s.%s is still served", c.Plural, c.Group)
		}
	})
}

// Objects returns fresh copies of the sample's objects, in the order in which they can be created.
func Objects() ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(clusterYAML), 4096)
	for {
		obj := &unstructured.Unstructured{}
		err := docs.Decode(&obj.Object)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("sample object %d: %w", len(out)+1, err)
		}
		out = append(out, obj)
	}
}

// Loader creates objects in a cluster.
type Loader struct {
	client dynamic.Interface
	mapper meta.RESTMapper
	uids   map[string]types.UID // kind/namespace/name of what was created
}

// NewLoader returns a Loader for the resources that the apiserver serves now.
func NewLoader(client dynamic.Interface, served discovery.DiscoveryInterface) (*Loader, error) {
	groups, err := restmapper.GetAPIGroupResources(served)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	return &Loader{client: client, mapper: restmapper.NewDiscoveryRESTMapper(groups), uids: map[string]types.UID{}}, nil
}

// Resource returns the client for objects like obj.
func (l *Loader) Resource(obj *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := obj.GroupVersionKind()
	m, err := l.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return l.client.Resource(m.Resource).Namespace(obj.GetNamespace()), nil
	}
	return l.client.Resource(m.Resource), nil
}

// SetClient makes the loader use another client of the same cluster.
func (l *Loader) SetClient(client dynamic.Interface) { l.client = client }

// UID returns the uid that obj got when it was created, empty if it was not.
func (l *Loader) UID(obj *unstructured.Unstructured) types.UID {
	return l.uids[key(obj.GetAPIVersion(), obj.GetKind(), obj.GetNamespace(), obj.GetName())]
}

// Create creates obj with its status and returns what the apiserver made of it.
func (l *Loader) Create(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	what := obj.GetKind() + " " + obj.GetNamespace() + "/" + obj.GetName()
	res, err := l.Resource(obj)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	owners := obj.GetOwnerReferences()
	for i, o := range owners {
		if o.UID != "" {
			continue
		}
		uid, ok := l.uids[key(o.APIVersion, o.Kind, obj.GetNamespace(), o.Name)]
		if !ok {
			uid, ok = l.uids[key(o.APIVersion, o.Kind, "", o.Name)]
		}
		if !ok {
			return nil, fmt.Errorf("%s: its owner %s %s was not created before", what, o.Kind, o.Name)
		}
		owners[i].UID = uid
	}
	obj = obj.DeepCopy()
	obj.SetOwnerReferences(owners)
	status, hasStatus := obj.Object["status"]
	delete(obj.Object, "status")
	created, err := res.Create(ctx, obj, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", what, err)
	}
	if hasStatus {
		if created, err = SetStatus(ctx, res, created.GetName(), status); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
	}
	l.uids[key(obj.GetAPIVersion(), obj.GetKind(), obj.GetNamespace(), obj.GetName())] = created.GetUID()
	return created, nil
}

// SetStatus replaces the fields of status that are given, as a kubelet or controller would.
func SetStatus(ctx context.Context, res dynamic.ResourceInterface, name string, status any) (*unstructured.Unstructured, error) {
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return nil, err
	}
	obj, err := res.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return nil, fmt.Errorf("status of %s: %w", name, err)
	}
	return obj, nil
}

// Delete deletes obj at once, doing what kubelets and controllers do in a whole cluster: Pods go without a grace period,
// and the deletion of a Namespace, from which everything has been deleted before, is finished.
func (l *Loader) Delete(ctx context.Context, obj *unstructured.Unstructured) error {
	what := obj.GetKind() + " " + obj.GetNamespace() + "/" + obj.GetName()
	res, err := l.Resource(obj)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	now, background := int64(0), metav1.DeletePropagationBackground // the default of some kinds waits for a garbage collector
	if err := res.Delete(ctx, obj.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now, PropagationPolicy: &background}); err != nil {
		return fmt.Errorf("delete %s: %w", what, err)
	}
	if obj.GetKind() != "Namespace" {
		return nil
	}
	return FinishNamespace(ctx, l.client, obj.GetName())
}

var namespaceResource = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}

// FinishNamespace finishes the deletion of a Namespace that has been deleted and is empty, as a controller would.
func FinishNamespace(ctx context.Context, client dynamic.Interface, name string) error {
	res := client.Resource(namespaceResource)
	return poll(ctx, func() error {
		current, err := res.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		unstructured.RemoveNestedField(current.Object, "spec", "finalizers")
		_, err = res.Update(ctx, current, metav1.UpdateOptions{}, "finalize")
		return err
	})
}

// Load installs every CRD and creates every object of the sample.
func Load(ctx context.Context, client dynamic.Interface, served discovery.DiscoveryInterface) (*Loader, error) {
	for _, c := range CRDs {
		if err := c.Install(ctx, client); err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, err
		}
	}
	loader, err := NewLoader(client, served)
	if err != nil {
		return nil, err
	}
	objs, err := Objects()
	if err != nil {
		return nil, err
	}
	for _, obj := range objs {
		if _, err := loader.Create(ctx, obj); err != nil {
			return nil, err
		}
	}
	return loader, nil
}

func key(apiVersion, kind, namespace, name string) string {
	return apiVersion + " " + kind + " " + namespace + "/" + name
}

// poll repeats f until it succeeds or the context, or half a minute, is over.
func poll(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
