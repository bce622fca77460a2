// Package expect computes what a server should hold of a cluster, from what the apiserver returns.
//
// It is a second implementation of docs/projection.md, written for clarity alone: it works on decoded objects, a whole
// cluster at a time, and shares no code with the product. Tests and the demo compare its result with what the server
// shows.
package expect

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// ID identifies one reported object.
type ID struct {
	Type string // wire type, for example *v1.Pod
	UID  string // empty for *version.Info
}

// Snapshot is what a server holds: the decoded JSON of every object.
type Snapshot map[ID]map[string]any

// Source is one resource that the agent is configured to report.
type Source struct {
	Resource schema.GroupVersionResource
	Type     string // wire type
	Selector string // field selector, empty for all objects
	Labels   string // label selector, likewise
}

func source(group, version, resource, wireType string) Source {
	return Source{Resource: schema.GroupVersionResource{Group: group, Version: version, Resource: resource}, Type: wireType}
}

// Defaults are what the agent reports if nothing is configured.
var Defaults = []Source{
	source("", "v1", "namespaces", "*v1.Namespace"),
	source("", "v1", "nodes", "*v1.Node"),
	source("", "v1", "pods", "*v1.Pod"),
	source("", "v1", "replicationcontrollers", "*v1.ReplicationController"),
	source("", "v1", "services", "*v1.Service"),
	source("apps", "v1", "daemonsets", "*v1.DaemonSet"),
	source("apps", "v1", "deployments", "*v1.Deployment"),
	source("apps", "v1", "replicasets", "*v1.ReplicaSet"),
	source("apps", "v1", "statefulsets", "*v1.StatefulSet"),
	source("networking.k8s.io", "v1", "ingresses", "*v1.Ingress"),
}

// The resources that are reported only if they are configured.
var (
	ConfigMaps        = source("", "v1", "configmaps", "*v1.ConfigMap")
	Routes            = source("route.openshift.io", "v1", "routes", "*v1.Ingress")
	CloneSets         = source("apps.kruise.io", "v1alpha1", "clonesets", "*v1.CloneSet")
	KruiseSets        = source("apps.kruise.io", "v1beta1", "statefulsets", "*v1.StatefulSet")
	StatefulSetPluses = source("platform.stke", "v1alpha1", "statefulsetpluses", "*v1.StatefulSet")
	OpenGauss         = source("opengauss.sig", "v1", "opengaussclusters", "*v1.OpenGaussCluster")
	OpenGaussCMBC     = source("opengauss.cmbc.com.cn", "v1", "opengaussclusters", "*v1.OpenGaussCluster")
	ServiceRules      = source("crd.pingan.org", "v1alpha1", "servicerules", "*v1.ServiceRule")
	IPPools           = source("crd.projectcalico.org", "v1", "ippools", "*v1.IPPool")
)

// All is what an agent reports that is configured with the api_resources of package sample.
var All = append(slices.Clone(Defaults), ConfigMaps, Routes, CloneSets, KruiseSets, StatefulSetPluses, OpenGauss, OpenGaussCMBC,
	ServiceRules, IPPools)

// Names are the names of the sources as resource or resource.group, as permissions have them.
func Names(sources []Source) []string {
	names := make([]string, 0, len(sources))
	for _, s := range sources {
		names = append(names, s.Resource.GroupResource().String())
	}
	return names
}

// Of returns what a server should hold of the cluster behind the clients: of all namespaces, or of those of which within
// says so.
func Of(ctx context.Context, client dynamic.Interface, versions rest.Interface, sources []Source, within func(namespace string) bool) (Snapshot, error) {
	objs := map[Source][]unstructured.Unstructured{}
	for _, s := range sources {
		list, err := client.Resource(s.Resource).List(ctx, metav1.ListOptions{FieldSelector: s.Selector, LabelSelector: s.Labels})
		if apierrors.IsNotFound(err) {
			continue // not served, hence nothing of it
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", s.Resource.Resource, err)
		}
		objs[s] = slices.DeleteFunc(list.Items, func(o unstructured.Unstructured) bool {
			namespace := o.GetNamespace()
			if s.Type == "*v1.Namespace" {
				namespace = o.GetName()
			}
			return within != nil && namespace != "" && !within(namespace)
		})
	}
	raw, err := versions.Get().AbsPath("/version").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("version: %w", err)
	}
	var info map[string]any
	if err := json.Unmarshal(raw, &info); err != nil {
		return nil, fmt.Errorf("version: %w", err)
	}

	snapshot := Snapshot{{Type: "*version.Info"}: info}
	world := look(objs)
	for s, items := range objs {
		for i := range items {
			if doc := world.project(s, items[i].Object); doc != nil {
				snapshot[ID{Type: s.Type, UID: string(items[i].GetUID())}] = normal(doc)
			}
		}
	}
	return snapshot, nil
}

// normal brings numbers and missing values into the form in which decoded JSON has them.
func normal(doc map[string]any) map[string]any {
	b, err := json.Marshal(doc)
	if err != nil {
		panic(err) // it came from JSON
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	return out
}
