package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// kube is a real kube-apiserver with etcd that holds the made-up cluster.
type kube struct {
	ctx     context.Context
	cluster *harness.Cluster
	client  *kubernetes.Clientset
	plan    *cluster.Cluster
	changes int
	touches int
	next    int
}

// kubeWorkers is how many requests are under way at once: two CPUs are busy with fewer already.
const kubeWorkers = 8

func startKube(ctx context.Context, pods int, seed uint64, dir string) (*kube, error) {
	bins, err := harness.BuildKube(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	c, err := harness.StartCluster(ctx, bins, dir)
	if err != nil {
		return nil, err
	}
	k := &kube{ctx: ctx, cluster: c, plan: cluster.New(pods, seed)}
	cfg := rest.CopyConfig(c.Config)
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.WarningHandler = rest.NoWarnings{}
	if k.client, err = kubernetes.NewForConfig(cfg); err == nil {
		err = k.fill(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return k, nil
}

func (k *kube) Stop() { k.cluster.Close() }

// fill creates all objects. Their uids and managedFields are those that the apiserver makes.
func (k *kube) fill(ctx context.Context) error {
	for _, kind := range cluster.Kinds {
		items := k.plan.Items(kind.Resource)
		progress("creating %d %s", len(items), kind.Resource)
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(kubeWorkers)
		for _, item := range items {
			g.Go(func() error {
				if err := k.create(ctx, kind, item); err != nil {
					return fmt.Errorf("create %s %s/%s: %w", kind.Resource, item.Namespace, item.Name, err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

func (k *kube) create(ctx context.Context, kind cluster.Kind, item cluster.Item) error {
	obj := bare(item.Make(cluster.State{}))
	if err := k.rest(kind).Post().NamespaceIfScoped(item.Namespace, kind.Namespaced).Resource(kind.Resource).Body(obj).Do(ctx).Error(); err != nil {
		return err
	}
	if kind.Resource != "pods" && kind.Resource != "nodes" {
		return nil
	}
	return k.putStatus(ctx, kind, item, cluster.State{})
}

func (k *kube) putStatus(ctx context.Context, kind cluster.Kind, item cluster.Item, s cluster.State) error {
	return k.rest(kind).Put().NamespaceIfScoped(item.Namespace, kind.Namespaced).Resource(kind.Resource).Name(item.Name).
		SubResource("status").Body(bare(item.Make(s))).Do(ctx).Error()
}

func (k *kube) rest(kind cluster.Kind) rest.Interface {
	switch kind.Group {
	case "apps":
		return k.client.AppsV1().RESTClient()
	case "networking.k8s.io":
		return k.client.NetworkingV1().RESTClient()
	default:
		return k.client.CoreV1().RESTClient()
	}
}

// bare takes away what only the apiserver may set.
func bare(obj cluster.Object) cluster.Object {
	obj.SetUID("")
	obj.SetManagedFields(nil)
	if s, ok := obj.(*corev1.Service); ok && s.Spec.ClusterIP != corev1.ClusterIPNone {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
	}
	return obj
}

// churn writes the status of that many Pods, one after the other from where the last call ended.
func (k *kube) churn(count int, touch bool) (time.Time, error) {
	if touch {
		k.touches++
	} else {
		k.changes++
	}
	state := cluster.State{Changes: k.changes, Touches: k.touches}
	pods := k.plan.Items("pods")
	var kind cluster.Kind
	for _, kd := range cluster.Kinds {
		if kd.Resource == "pods" {
			kind = kd
		}
	}
	var first atomic.Int64
	g, ctx := errgroup.WithContext(k.ctx)
	g.SetLimit(kubeWorkers)
	for i := range count {
		item := pods[(k.next+i)%len(pods)]
		g.Go(func() error {
			err := k.putStatus(ctx, kind, item, state)
			first.CompareAndSwap(0, time.Now().UnixNano())
			return err
		})
	}
	k.next += count
	err := g.Wait()
	return time.Unix(0, first.Load()), err
}

// traffic is not known of a real apiserver.
func (*kube) traffic() (requests int, bytes int64, err error) { return 0, 0, nil }

func (k *kube) cpu() (time.Duration, error) { return cpuTime(k.cluster.APIServerPID()) }

// benchKube measures the initial sync and the cost of events against the real kube-apiserver.
func benchKube(ctx context.Context, o options, e *environment, r *Result) error {
	k, err := startKube(ctx, o.Pods, o.Seed, e.dir)
	if err != nil {
		return err
	}
	defer k.Stop()
	r.Others = k.plan.Others()
	if r.Apicosts, err = k.costs(ctx, o.Runs); err != nil {
		return fmt.Errorf("what a watcher costs the apiserver: %w", err)
	}
	for n := range o.Runs {
		for _, name := range o.Subjects {
			sample, err := e.measure(ctx, o, k, k.cluster.Kubeconfig, name, o.Events)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			r.Samples[name] = append(r.Samples[name], sample)
			progress("run %d of %d, %s: %.2f s CPU, %s peak, %s live", n+1, o.Runs, name, sample.SyncCPU, mega(sample.PeakRSS), mega(sample.LiveHeap))
		}
	}
	return nil
}

// errNotKube is told for what a real apiserver cannot be asked to do.
var errNotKube = errors.New("APISERVER must be loadserver or kube")

func apiserver(name string) (kubeMode bool, err error) {
	switch strings.ToLower(name) {
	case "", "loadserver":
		return false, nil
	case "kube":
		return true, nil
	}
	return false, errNotKube
}
