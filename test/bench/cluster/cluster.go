// Package cluster makes up Kubernetes clusters for benchmarks: Pods of about 7 KB of JSON and the other kinds in
// natural proportion, all different, all made from a seed.
//
// An object is made again whenever it is asked for, always the same for the same seed, index and number of changes, so
// that a cluster of any size costs no memory by itself. It relies on k8s.io/api for the encodings. It promises that
// references hold (owners, nodes, selectors, backends) and that its Pods are no easier to compress than real ones; its
// tests state the ratio.
package cluster

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Object is an object of k8s.io/api: it knows its JSON and its protobuf form.
type Object interface {
	runtime.Object
	metav1.Object
	Marshal() ([]byte, error)
}

// State is what has happened to an object since the cluster was made.
type State struct {
	// Changes counts what the server must see: for a Pod, restarts of its container.
	Changes int
	// Touches counts what nobody needs to see: times in the status and in managedFields.
	Touches int
}

// Item is one object of the cluster.
type Item struct {
	Namespace, Name string
	// Make makes the object as it is in the state.
	Make func(State) Object
}

// Kind is one resource that the cluster has.
type Kind struct {
	Group, Version, Resource, Kind string
	Namespaced                     bool
}

// APIVersion is as in an object.
func (k Kind) APIVersion() string {
	if k.Group == "" {
		return k.Version
	}
	return k.Group + "/" + k.Version
}

// Kinds are all resources, those by which pseudo-agent reports a cluster by default.
var Kinds = []Kind{
	{"", "v1", "nodes", "Node", false},
	{"", "v1", "namespaces", "Namespace", false},
	{"", "v1", "pods", "Pod", true},
	{"", "v1", "replicationcontrollers", "ReplicationController", true},
	{"", "v1", "services", "Service", true},
	{"apps", "v1", "daemonsets", "DaemonSet", true},
	{"apps", "v1", "deployments", "Deployment", true},
	{"apps", "v1", "replicasets", "ReplicaSet", true},
	{"apps", "v1", "statefulsets", "StatefulSet", true},
	{"networking.k8s.io", "v1", "ingresses", "Ingress", true},
}

// GVR is how client-go names the resource.
func (k Kind) GVR() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group, Version: k.Version, Resource: k.Resource}
}

// Cluster is a plan by which objects are made.
type Cluster struct {
	seed       uint64
	nodes      int
	namespaces []string
	workloads  []*workload
	pods       []podPlan
	items      map[string][]Item
}

// podPlan is what tells one Pod of a workload from the others.
type podPlan struct {
	of      *workload
	ordinal int
	node    int
}

// born is when the cluster was made; every time in it is later.
var born = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// New plans a cluster of that many Pods, at least 100. There is one other object to about five Pods.
func New(pods int, seed uint64) *Cluster {
	c := &Cluster{seed: seed, items: map[string][]Item{}}
	r := c.rand("plan", 0)
	c.nodes = max(3, pods/50)
	for i := range max(4, pods/200) {
		c.namespaces = append(c.namespaces, fmt.Sprintf("%s-%s-%d", pick(r, teams), pick(r, stages), i))
	}
	c.planWorkloads(r, pods)
	c.addNodes()
	c.addNamespaces()
	c.addWorkloads()
	c.addPods()
	return c
}

// Items are all objects of a resource.
func (c *Cluster) Items(resource string) []Item { return c.items[resource] }

// Others is the number of objects that are no Pods.
func (c *Cluster) Others() int {
	n := 0
	for resource, items := range c.items {
		if resource != "pods" {
			n += len(items)
		}
	}
	return n
}

// planWorkloads decides which workloads there are and how many Pods each has: a DaemonSet one on every node, which
// makes an eighth of all Pods; the rest three quarters Deployments, of 1 to 200 Pods, then StatefulSets and Jobs.
func (c *Cluster) planWorkloads(r *rand.Rand, pods int) {
	add := func(kind string, replicas int) {
		w := c.newWorkload(kind, len(c.workloads), replicas)
		c.workloads = append(c.workloads, w)
		for i := range replicas {
			node := r.IntN(c.nodes)
			if kind == daemonSet {
				node = i
			}
			c.pods = append(c.pods, podPlan{of: w, ordinal: i, node: node})
		}
	}
	for range 6 {
		add(daemonSet, min(c.nodes, max(0, pods-len(c.pods))))
	}
	for len(c.pods) < pods {
		left := pods - len(c.pods)
		switch x := r.IntN(100); {
		case x < 56:
			// Many small ones and few large ones, about 50 Pods on average.
			size := 1 + int(float64(200)*r.Float64()*r.Float64())
			add(deployment, min(left, size))
		case x < 88:
			add(statefulSet, min(left, 1+r.IntN(20)))
		default:
			add(job, min(left, 1+r.IntN(40)))
		}
	}
}

// rand returns the random numbers of one thing: always the same ones.
func (c *Cluster) rand(what string, i int) *rand.Rand {
	h := uint64(14695981039346656037)
	for _, b := range []byte(what) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return rand.New(rand.NewPCG(c.seed^h, uint64(i)))
}

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

// uid makes a UUID of the usual form.
func uid(r *rand.Rand) types.UID {
	h := hexDigits(r, 32)
	return types.UID(h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:32])
}

func hexDigits(r *rand.Rand, n int) string {
	b := make([]byte, (n+1)/2)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return hex.EncodeToString(b)[:n]
}

const alphabet = "bcdfghjklmnpqrstvwxz2456789"

// suffix is the random end of a generated name.
func suffix(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}

func at(r *rand.Rand, within time.Duration) metav1.Time {
	return metav1.NewTime(born.Add(time.Duration(r.Int64N(int64(within)))).Truncate(time.Second))
}
