// Package pods keeps the networks of one node's Pods as their annotations say.
//
// It watches the Pods of the node, and puts each that has changed into a queue whose workers reconcile it: one at a time
// for a Pod, Pods side by side. It relies on the apiserver for what is wanted, on the runtime for sandboxes and on a
// Reconciler for the steps. It promises that a Pod stays in the queue, with growing pauses, until it is as wanted, that
// nothing is detached before the Pods have been listed completely, and that an annotation that does not parse changes nothing.
package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/reconcile"
)

// Options of a Controller.
type Options struct {
	Client dynamic.Interface
	// Node is the name of the node whose Pods are watched.
	Node string
	// Namespaces restricts the work to their Pods; empty: all. Others' Pods are left as they are.
	Namespaces  []string
	Annotations attachments.Annotations
	Limits      attachments.Limits
	Reconciler  *reconcile.Reconciler
	// Sandbox returns the running sandbox of a Pod by its UID, nil if none runs.
	Sandbox func(ctx context.Context, uid string) (*reconcile.Sandbox, error)
	// Definition returns the configuration of a NetworkAttachmentDefinition; nil: definitions are not used.
	Definition func(ctx context.Context, namespace, name string) (json.RawMessage, error)
	// TellStatus keeps the status annotation of the Pods true; their patch is then needed.
	TellStatus bool
	// Events tells of steps and failures; nil: no Events are made.
	Events record.EventRecorder
	// Workers is how many Pods are worked on at once.
	Workers int
	// MinRetry and MaxRetry are the first and the longest pause after a failure.
	MinRetry, MaxRetry time.Duration
	// DamagedRecords is how many records could not be read, for the metrics.
	DamagedRecords int
	Log            *slog.Logger
	Registerer     prometheus.Registerer
}

// Problem is a Pod, or one of its networks, that is not as wanted.
type Problem struct {
	Pod     string    `json:"pod"`
	Network string    `json:"network,omitempty"`
	What    string    `json:"what"`
	Since   time.Time `json:"since"`
}

// Controller keeps the networks of a node's Pods.
type Controller struct {
	o       Options
	queue   workqueue.TypedRateLimitingInterface[string]
	metrics *metrics
	synced  func() bool

	// repairs holds the writing of status annotations that somebody writes otherwise again and again.
	repairs workqueue.TypedRateLimiter[string]

	mu       sync.Mutex
	pods     map[string]pod                // by UID
	statuses map[string]status             // by UID
	problems map[string]map[string]Problem // by UID and network
}

// pod is what is kept of a Pod.
type pod struct {
	uid, namespace, name string
	version              string // resource version
	phase                string
	hostNetwork          bool
	annotations          map[string]string
	// marks changes when the Pod may have another sandbox.
	marks string
}

func (p pod) String() string { return p.namespace + "/" + p.name }

func (p pod) ended() bool { return p.phase == "Succeeded" || p.phase == "Failed" }

// New returns a Controller; Run starts it.
func New(o Options) *Controller {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string](o.MinRetry, o.MaxRetry)
	c := &Controller{
		o: o, queue: workqueue.NewTypedRateLimitingQueue(limiter), synced: func() bool { return false },
		repairs: workqueue.NewTypedItemExponentialFailureRateLimiter[string](o.MinRetry, o.MaxRetry),
		pods:    map[string]pod{}, statuses: map[string]status{}, problems: map[string]map[string]Problem{},
	}
	c.metrics = newMetrics(o.Registerer, c)
	return c
}

var podResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	defer c.queue.ShutDown()
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(c.o.Client, 0, metav1.NamespaceAll, func(l *metav1.ListOptions) {
		l.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", c.o.Node).String()
	})
	informer := factory.ForResource(podResource).Informer()
	if err := informer.SetTransform(c.keep); err != nil {
		return fmt.Errorf("watch Pods: %w", err)
	}
	registered, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    c.changed,
		UpdateFunc: func(_, now any) { c.changed(now) },
		DeleteFunc: c.deleted,
	})
	if err != nil {
		return fmt.Errorf("watch Pods: %w", err)
	}
	c.mu.Lock()
	c.synced = registered.HasSynced
	c.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		informer.RunWithContext(ctx)
		return nil
	})
	g.Go(func() error {
		defer c.queue.ShutDown()
		if !cache.WaitForCacheSync(ctx.Done(), registered.HasSynced) {
			return nil
		}
		for _, p := range c.o.Reconciler.Recorded() { // those that vanished while no process ran
			c.queue.Add(p.UID)
		}
		var workers errgroup.Group
		for range c.o.Workers {
			workers.Go(func() error {
				for c.next(ctx) {
				}
				return nil
			})
		}
		<-ctx.Done()
		c.queue.ShutDown()
		return workers.Wait() //nolint:wrapcheck // there is none
	})
	return g.Wait() //nolint:wrapcheck // wrapped above
}

// Synced reports whether all Pods of the node have been seen.
func (c *Controller) Synced() bool {
	c.mu.Lock()
	synced := c.synced
	c.mu.Unlock()
	return synced()
}

// keep drops what is not needed of a Pod, before it is kept.
func (c *Controller) keep(object any) (any, error) {
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		return object, nil
	}
	annotations := map[string]string{}
	for _, name := range []string{c.o.Annotations.Networks, c.o.Annotations.List, attachments.StatusAnnotation} {
		if value, has := u.GetAnnotations()[name]; has && name != "" {
			annotations[name] = strings.Clone(value)
		}
	}
	kept := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Pod"}}
	kept.SetNamespace(u.GetNamespace())
	kept.SetName(u.GetName())
	kept.SetUID(u.GetUID())
	kept.SetResourceVersion(u.GetResourceVersion())
	kept.SetAnnotations(annotations)
	for _, path := range [][]string{{"spec", "hostNetwork"}, {"status", "phase"}, {"marks"}} {
		if value, has, err := unstructured.NestedFieldCopy(u.Object, path...); err == nil && has {
			if err := unstructured.SetNestedField(kept.Object, value, path...); err != nil {
				return nil, fmt.Errorf("keep Pod %s/%s: %w", u.GetNamespace(), u.GetName(), err)
			}
		}
	}
	if _, done := kept.Object["marks"]; !done { // a transform may see its own work again
		kept.Object["marks"] = marks(u)
	}
	return kept, nil
}

// marks are the Pod's address and containers, which change with its sandbox.
func marks(u *unstructured.Unstructured) string {
	ip, _, _ := unstructured.NestedString(u.Object, "status", "podIP")
	all := []string{ip}
	statuses, _, _ := unstructured.NestedSlice(u.Object, "status", "containerStatuses")
	for _, s := range statuses {
		if m, ok := s.(map[string]any); ok {
			id, _, _ := unstructured.NestedString(m, "containerID")
			all = append(all, id)
		}
	}
	return strings.Join(all, " ")
}

func (c *Controller) changed(object any) {
	u, ok := object.(*unstructured.Unstructured)
	if !ok || len(c.o.Namespaces) > 0 && !slices.Contains(c.o.Namespaces, u.GetNamespace()) {
		return
	}
	p := pod{uid: string(u.GetUID()), namespace: u.GetNamespace(), name: u.GetName(), version: u.GetResourceVersion(), annotations: u.GetAnnotations()}
	p.phase, _, _ = unstructured.NestedString(u.Object, "status", "phase")
	p.marks, _ = u.Object["marks"].(string)
	p.hostNetwork, _, _ = unstructured.NestedBool(u.Object, "spec", "hostNetwork")
	c.mu.Lock()
	old, known := c.pods[p.uid]
	c.pods[p.uid] = p
	c.mu.Unlock()
	switch {
	case !known || !p.same(old):
		c.queue.Forget(p.uid) // what failed before may succeed now
		c.repairs.Forget(p.uid)
		c.queue.Add(p.uid)
	case c.statusWrong(old, p):
		c.queue.AddAfter(p.uid, c.repairs.When(p.uid))
	}
}

// Redefined looks anew at the Pods that ask for a network whose definition has changed.
func (c *Controller) Redefined(namespace, name string) {
	c.mu.Lock()
	all := slices.Collect(maps.Values(c.pods))
	c.mu.Unlock()
	for _, p := range all {
		networks, err := attachments.Parse(p.annotations, c.o.Annotations, p.namespace, c.o.Limits)
		if err == nil && slices.ContainsFunc(networks, func(n attachments.Network) bool { return n.Namespace == namespace && n.Name == name }) {
			c.queue.Forget(p.uid)
			c.queue.Add(p.uid)
		}
	}
}

// same reports whether two states of a Pod ask for the same. The status annotation counts at first sight only.
func (p pod) same(o pod) bool {
	if p.phase != o.phase || p.marks != o.marks {
		return false
	}
	for _, both := range []map[string]string{p.annotations, o.annotations} {
		for name := range both {
			if name != attachments.StatusAnnotation && p.annotations[name] != o.annotations[name] {
				return false
			}
		}
	}
	return true
}

func (c *Controller) deleted(object any) {
	if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = unknown.Obj
	}
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		return
	}
	c.mu.Lock()
	delete(c.pods, string(u.GetUID()))
	delete(c.statuses, string(u.GetUID()))
	c.mu.Unlock()
	c.repairs.Forget(string(u.GetUID()))
	c.queue.Add(string(u.GetUID()))
}

// next works on one Pod; it returns false at the end.
func (c *Controller) next(ctx context.Context) bool {
	uid, end := c.queue.Get()
	if end {
		return false
	}
	defer c.queue.Done(uid)
	if again := c.work(ctx, uid); again && ctx.Err() == nil {
		c.queue.AddRateLimited(uid)
	} else {
		c.queue.Forget(uid)
	}
	return true
}

// work brings one Pod to what is wanted, and returns whether that has to be tried again.
func (c *Controller) work(ctx context.Context, uid string) (again bool) {
	c.mu.Lock()
	p, lives := c.pods[uid]
	c.mu.Unlock()
	have := c.o.Reconciler.Attachments(uid)
	if !lives || p.ended() {
		return c.release(ctx, uid, p, lives)
	}
	networks, err := attachments.Parse(p.annotations, c.o.Annotations, p.namespace, c.o.Limits)
	if err != nil {
		c.fail(p, "annotation", "InvalidAnnotation", err)
		return false // until it changes
	}
	if p.hostNetwork {
		if len(networks) > 0 {
			c.fail(p, "host_network", "HostNetwork", errors.New("the Pod uses the node's network, to which no network can be attached; remove the annotation or hostNetwork"))
		}
		return false
	}
	if len(networks) == 0 && len(have) == 0 {
		failures := c.addStatus(ctx, p, nil, nil)
		c.settle(p, failures)
		return len(failures) > 0
	}
	sandbox, err := c.o.Sandbox(ctx, uid)
	if err != nil {
		c.fail(p, "runtime", "RuntimeUnavailable", err)
		return true
	}
	wanted, missing := c.define(ctx, networks)
	outcomes, err := c.o.Reconciler.Reconcile(ctx, reconcile.Pod{
		UID: uid, Namespace: p.namespace, Name: p.name, Wanted: wanted, Made: made(p.annotations[attachments.StatusAnnotation], p.namespace), Sandbox: sandbox,
	})
	failures := c.tell(p, outcomes)
	if err != nil {
		c.fail(p, "namespace", "NamespaceUnavailable", err)
		return true
	}
	for network, err := range missing {
		// Why it cannot be read says more than the step that needed it.
		if f, told := failures[network]; !told || errors.Is(f.err, reconcile.ErrNoDefinition) {
			failures[network] = failure{attachFailed, err}
		}
	}
	failures = c.addStatus(ctx, p, sandbox, failures)
	c.settle(p, failures)
	// Where no sandbox runs yet, the Pod's next status comes by the watch only if an address or a container changes.
	return len(failures) > 0 || sandbox == nil
}

// release detaches all of a Pod that has ended or, unless it lives, vanished.
func (c *Controller) release(ctx context.Context, uid string, p pod, lives bool) (again bool) {
	if len(c.o.Reconciler.Attachments(uid)) == 0 && len(c.o.Reconciler.Told(uid)) == 0 {
		c.clear(uid)
		return false
	}
	for _, r := range c.o.Reconciler.Recorded() {
		if r.UID == uid {
			p.uid, p.namespace, p.name = uid, r.Namespace, r.Name
		}
	}
	if len(c.o.Namespaces) > 0 && !slices.Contains(c.o.Namespaces, p.namespace) {
		return false
	}
	of := reconcile.Pod{UID: uid, Namespace: p.namespace, Name: p.name}
	outcomes, err := c.o.Reconciler.Reconcile(ctx, of)
	failures := c.tell(p, outcomes)
	if err != nil {
		failures[""] = failure{detachFailed, err}
	}
	switch {
	case lives:
		failures = c.addStatus(ctx, p, nil, failures)
	case len(failures) == 0: // the annotation is gone with the Pod
		if err := c.o.Reconciler.SetTold(of, nil); err != nil {
			failures[""] = failure{detachFailed, err}
		}
	}
	c.settle(p, failures)
	return len(failures) > 0
}

// define adds the definitions to the networks, and returns why some have none.
func (c *Controller) define(ctx context.Context, networks []attachments.Network) ([]attachments.Wanted, map[string]error) {
	wanted := make([]attachments.Wanted, 0, len(networks))
	missing := map[string]error{}
	for _, n := range networks {
		w := attachments.Wanted{Network: n}
		if c.o.Definition != nil {
			config, err := c.o.Definition(ctx, n.Namespace, n.Name)
			if err != nil {
				missing[n.Key()] = err
			}
			w.Config = config
		}
		wanted = append(wanted, w)
	}
	return wanted, missing
}

// made reads from the status annotation which interface the meta plugin made for each network. What cannot be read says
// nothing.
func made(status, namespace string) map[string]string {
	interfaces := map[string]string{}
	for _, s := range attachments.ReadStatus(status, namespace) {
		if _, twice := interfaces[s.Network]; !twice && s.Interface != "" {
			interfaces[s.Network] = s.Interface
		}
	}
	return interfaces
}
