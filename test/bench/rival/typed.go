package rival

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"sync"

	"github.com/klauspost/compress/zlib"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
)

// typedSet is a factory of typed informers.
type typedSet struct {
	factory   informers.SharedInformerFactory
	informers []cache.SharedIndexInformer
}

func newTyped(cfg *rest.Config, compress bool, rep *reporter) (*typedSet, error) {
	if compress {
		cfg.ContentType = runtime.ContentTypeProtobuf
		cfg.AcceptContentTypes = runtime.ContentTypeProtobuf
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	s := &typedSet{factory: informers.NewSharedInformerFactory(client, 0)}
	for _, k := range cluster.Kinds {
		generic, err := s.factory.ForResource(k.GVR())
		if err != nil {
			return nil, err
		}
		inf := generic.Informer()
		handler := cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { rep.change() },
			UpdateFunc: func(any, any) { rep.change() }, // nothing tells what has changed
			DeleteFunc: func(any) { rep.change() },
		}
		if compress {
			c := &compressor{wireType: "*v1." + k.Kind, known: inf.GetStore()}
			if err := inf.SetTransform(c.transform); err != nil {
				return nil, err
			}
			handler.UpdateFunc = func(old, now any) {
				a, _ := old.(*entry)
				b, _ := now.(*entry)
				if a == nil || b == nil || a.sum != b.sum {
					rep.change()
				}
			}
		}
		if _, err := inf.AddEventHandler(handler); err != nil {
			return nil, err
		}
		rep.add(k, inf.GetStore(), compress)
		s.informers = append(s.informers, inf)
	}
	return s, nil
}

func (s *typedSet) start(ctx context.Context) { s.factory.StartWithContext(ctx) }

func (s *typedSet) synced() []cache.InformerSynced { return synced(s.informers) }

// entry is what the compressing rival keeps of an object: its key, its version and its compressed projection. It has of
// metav1.Object only what a reflector and a store ask for.
type entry struct {
	metav1.Object `json:"-"`

	namespace, name, version string
	uid                      types.UID
	sum                      uint64
	compressed               []byte
}

func (e *entry) GetNamespace() string                  { return e.namespace }
func (e *entry) GetName() string                       { return e.name }
func (e *entry) GetResourceVersion() string            { return e.version }
func (e *entry) GetUID() types.UID                     { return e.uid }
func (e *entry) GetAnnotations() map[string]string     { return nil }
func (e *entry) GetObjectKind() schema.ObjectKind      { return schema.EmptyObjectKind }
func (e *entry) DeepCopyObject() runtime.Object        { c := *e; return &c }
func (e *entry) GetObjectMeta() metav1.Object          { return e }
func (e *entry) SetResourceVersion(version string)     { e.version = version }
func (e *entry) GetDeletionTimestamp() *metav1.Time    { return nil }
func (e *entry) GetGenerateName() string               { return "" }
func (e *entry) GetLabels() map[string]string          { return nil }
func (e *entry) GetCreationTimestamp() (t metav1.Time) { return t }

// compressor turns objects into entries. An object whose projection is known is not compressed again.
type compressor struct {
	wireType string
	known    cache.Store

	mu  sync.Mutex
	zw  *zlib.Writer
	buf bytes.Buffer
}

var seed = maphash.MakeSeed()

func (c *compressor) transform(obj any) (any, error) {
	o, ok := obj.(metav1.Object)
	if _, done := obj.(*entry); done || !ok {
		return obj, nil
	}
	doc, err := json.Marshal(project(obj))
	if err != nil {
		return nil, fmt.Errorf("project %s %s/%s: %w", c.wireType, o.GetNamespace(), o.GetName(), err)
	}
	e := &entry{namespace: o.GetNamespace(), name: o.GetName(), version: o.GetResourceVersion(), uid: o.GetUID(), sum: maphash.Bytes(seed, doc)}
	if old, found, err := c.known.Get(e); err == nil && found {
		if old, ok := old.(*entry); ok && old.sum == e.sum {
			e.compressed = old.compressed
			return e, nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf.Reset()
	if c.zw == nil {
		if c.zw, err = zlib.NewWriterLevel(&c.buf, 6); err != nil {
			return nil, err
		}
	} else {
		c.zw.Reset(&c.buf)
	}
	if _, err := c.zw.Write(doc); err != nil {
		return nil, err
	}
	if err := c.zw.Close(); err != nil {
		return nil, err
	}
	e.compressed = bytes.Clone(c.buf.Bytes())
	return e, nil
}

// projection is the common form of what is sent.
type projection struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     any               `json:"spec,omitempty"`
	Status   any               `json:"status,omitempty"`
}

type podStatus struct {
	HostIP            string            `json:"hostIP,omitempty"`
	PodIP             string            `json:"podIP,omitempty"`
	Conditions        []condition       `json:"conditions,omitempty"`
	ContainerStatuses []containerStatus `json:"containerStatuses,omitempty"`
}

type condition struct {
	Type   string `json:"type"`
	Status string `json:"status"`
}

type containerStatus struct {
	ContainerID string `json:"containerID"`
}

// project selects the fields that pseudo-agent sends.
func project(obj any) any {
	o, _ := obj.(metav1.Object)
	p := projection{Metadata: metav1.ObjectMeta{
		Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(), Labels: o.GetLabels(), Annotations: o.GetAnnotations(),
		OwnerReferences: o.GetOwnerReferences(), CreationTimestamp: o.GetCreationTimestamp(),
	}}
	switch o := obj.(type) {
	case *corev1.Pod:
		s := podStatus{HostIP: o.Status.HostIP, PodIP: o.Status.PodIP}
		for _, c := range o.Status.Conditions {
			if c.Type == corev1.PodReady {
				s.Conditions = []condition{{string(c.Type), string(c.Status)}}
			}
		}
		for _, c := range o.Status.ContainerStatuses {
			s.ContainerStatuses = append(s.ContainerStatuses, containerStatus{c.ContainerID})
		}
		p.Status = s
	case *corev1.Node:
		p.Metadata.Annotations = nil
		p.Spec = map[string]string{"podCIDR": o.Spec.PodCIDR}
		status := map[string]any{"addresses": o.Status.Addresses, "capacity": o.Status.Capacity}
		for _, c := range o.Status.Conditions {
			if c.Type == corev1.NodeReady {
				status["conditions"] = []map[string]string{{"type": string(c.Type), "reason": c.Reason, "status": string(c.Status)}}
			}
		}
		p.Status = status
	case *corev1.Service:
		p.Spec = o.Spec
	case *corev1.ReplicationController:
		p.Spec = o.Spec
	case *appsv1.DaemonSet:
		p.Spec = o.Spec
	case *appsv1.Deployment:
		p.Spec = o.Spec
	case *appsv1.ReplicaSet:
		p.Spec = map[string]any{"replicas": o.Spec.Replicas}
	case *appsv1.StatefulSet:
		p.Spec = o.Spec
	case *networkingv1.Ingress:
		p.Spec = o.Spec
	}
	return p
}
