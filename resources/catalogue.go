package resources

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kind is one row of the catalogue: a resource by the name that api_resources uses, and how deepflow-server files it
// (docs/protocol.md, section 4). Kinds are shared and must not be changed.
type Kind struct {
	// Name is the api_resources name, for example "statefulsets".
	Name string
	// WireType is the type under which the server files the objects, for example "*v1.StatefulSet".
	WireType string
	// OwnerKind is what a Pod's ownerReference must name so that the server looks for the owner among the objects of
	// this kind; empty if such objects own no Pods.
	OwnerKind string
	// Namespaced tells whether kubernetes_namespace applies.
	Namespaced bool
	// Default tells whether the resource is reported when api_resources does not mention it.
	Default bool
	// Required tells whether the server would delete Pods, or everything, if the resource were missing.
	Required bool
	// Served are the group, version and plural names under which the objects may be found, best first. All of them
	// have the same projection. The plural need not be Name.
	Served []schema.GroupVersionResource

	project projection
}

func gvr(group, version, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: resource}
}

// catalogue is the protocol document's table, in its order. *version.Info is not in it: it is not watched.
var catalogue = []*Kind{
	{
		Name: "nodes", WireType: "*v1.Node", Default: true, Required: true, project: nodeProjection,
		Served: []schema.GroupVersionResource{gvr("", "v1", "nodes")},
	},
	{
		Name: "namespaces", WireType: "*v1.Namespace", Default: true, Required: true, project: namespaceProjection,
		Served: []schema.GroupVersionResource{gvr("", "v1", "namespaces")},
	},
	{
		Name: "pods", WireType: "*v1.Pod", Namespaced: true, Default: true, Required: true, project: podProjection,
		Served: []schema.GroupVersionResource{gvr("", "v1", "pods")},
	},
	{
		Name: "services", WireType: "*v1.Service", Namespaced: true, Default: true, project: serviceProjection,
		Served: []schema.GroupVersionResource{gvr("", "v1", "services")},
	},
	{
		Name: "replicationcontrollers", WireType: "*v1.ReplicationController", OwnerKind: "ReplicationController",
		Namespaced: true, Default: true, Required: true, project: workloadProjection,
		Served: []schema.GroupVersionResource{gvr("", "v1", "replicationcontrollers")},
	},
	{
		Name: "configmaps", WireType: "*v1.ConfigMap", Namespaced: true, project: configMapProjection,
		Served: []schema.GroupVersionResource{gvr("", "v1", "configmaps")},
	},
	{
		Name: "deployments", WireType: "*v1.Deployment", OwnerKind: "Deployment",
		Namespaced: true, Default: true, Required: true, project: workloadProjection,
		Served: []schema.GroupVersionResource{gvr("apps", "v1", "deployments")},
	},
	{
		Name: "daemonsets", WireType: "*v1.DaemonSet", OwnerKind: "DaemonSet",
		Namespaced: true, Default: true, Required: true, project: workloadProjection,
		Served: []schema.GroupVersionResource{gvr("apps", "v1", "daemonsets")},
	},
	{
		Name: "replicasets", WireType: "*v1.ReplicaSet", OwnerKind: "ReplicaSet",
		Namespaced: true, Default: true, Required: true, project: replicaSetProjection,
		Served: []schema.GroupVersionResource{gvr("apps", "v1", "replicasets")},
	},
	{
		Name: "statefulsets", WireType: "*v1.StatefulSet", OwnerKind: "StatefulSet",
		Namespaced: true, Default: true, Required: true, project: workloadProjection,
		Served: []schema.GroupVersionResource{
			gvr("apps", "v1", "statefulsets"),
			gvr("apps.kruise.io", "v1beta1", "statefulsets"),
			gvr("platform.stke", "v1alpha1", "statefulsetpluses"),
		},
	},
	{
		Name: "ingresses", WireType: "*v1.Ingress", Namespaced: true, Default: true, project: ingressProjection,
		Served: []schema.GroupVersionResource{
			gvr("networking.k8s.io", "v1", "ingresses"),
			gvr("networking.k8s.io", "v1beta1", "ingresses"),
			gvr("extensions", "v1beta1", "ingresses"),
		},
	},
	{
		Name: "routes", WireType: "*v1.Ingress", Namespaced: true, project: routeProjection,
		Served: []schema.GroupVersionResource{gvr("route.openshift.io", "v1", "routes")},
	},
	{
		Name: "clonesets", WireType: "*v1.CloneSet", OwnerKind: "CloneSet", Namespaced: true, project: workloadProjection,
		Served: []schema.GroupVersionResource{gvr("apps.kruise.io", "v1alpha1", "clonesets")},
	},
	{
		Name: "opengaussclusters", WireType: "*v1.OpenGaussCluster", OwnerKind: "OpenGaussCluster",
		Namespaced: true, project: workloadProjection,
		Served: []schema.GroupVersionResource{
			gvr("opengauss.sig", "v1", "opengaussclusters"),
			gvr("opengauss.cmbc.com.cn", "v1", "opengaussclusters"),
		},
	},
	{
		Name: "servicerules", WireType: "*v1.ServiceRule", Namespaced: true, project: serviceProjection,
		Served: []schema.GroupVersionResource{gvr("crd.pingan.org", "v1alpha1", "servicerules")},
	},
	{
		Name: "ippools", WireType: "*v1.IPPool", project: ipPoolProjection,
		Served: []schema.GroupVersionResource{gvr("crd.projectcalico.org", "v1", "ippools")},
	},
}

// asTargets are the resources as which another workload CRD can be reported. ReplicaSets are not among them because
// the server skips those without an owner.
var asTargets = []string{"clonesets", "daemonsets", "deployments", "replicationcontrollers", "statefulsets"}

// Catalogue returns every resource that can be selected by its name alone, in the order of docs/protocol.md, section 4.
func Catalogue() []*Kind { return slices.Clone(catalogue) }

// ByName returns the catalogue's resource of that api_resources name, nil if there is none.
func ByName(name string) *Kind {
	for _, k := range catalogue {
		if k.Name == name {
			return k
		}
	}
	return nil
}
