// Command demo brings up a sample cluster, a pseudo-server and a pseudo-agent, shows what the server holds, changes the
// cluster and shows each change arrive.
//
// With DEMO_ONESHOT=1 it ends by itself, with status 0 only if the server held exactly what it should after each step.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

const (
	clusterID = "d-demo"
	// pushInterval is the agent's default: two changed reports are never closer.
	pushInterval = 10 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Getenv("DEMO_ONESHOT") != "")
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err == nil:
	case interrupted && errors.Is(err, context.Canceled):
		fmt.Println("interrupted")
	default:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, oneshot bool) error {
	d := &demo{start: time.Now()}
	dir, err := os.MkdirTemp("", "pseudo-agent-demo-")
	if err != nil {
		return err
	}
	if err := d.show(ctx, dir, oneshot); err != nil {
		d.stop()
		return fmt.Errorf("%w\nlogs of all processes are in %s", err, dir)
	}
	d.stop()
	return os.RemoveAll(dir)
}

type demo struct {
	start   time.Time
	cluster *harness.Cluster
	server  *harness.Server
	agent   *harness.Daemon
	loader  *sample.Loader
	// tokens ends when the agent's token is no longer renewed, which endTokens makes happen; nil before it begins.
	tokens    chan struct{}
	endTokens context.CancelFunc
}

// say prints a line of progress.
func (d *demo) say(format string, args ...any) {
	fmt.Printf("[%5.1fs] %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) stop() {
	if d.tokens != nil {
		d.endTokens()
		<-d.tokens
	}
	if d.agent != nil {
		d.agent.Kill()
	}
	if d.server != nil {
		d.server.Kill()
	}
	if d.cluster != nil {
		d.cluster.Close()
	}
}

func (d *demo) show(ctx context.Context, dir string, oneshot bool) error {
	d.say("building etcd, kube-apiserver, pseudo-server and pseudo-agent")
	bins, err := harness.Build(ctx, dir, os.Stdout)
	if err != nil {
		return err
	}
	d.say("starting etcd and kube-apiserver %s", bins.KubeVersion)
	if d.cluster, err = harness.StartCluster(ctx, bins, dir); err != nil {
		return err
	}
	d.say("loading the sample cluster")
	if d.loader, err = sample.Load(ctx, d.cluster.Dynamic, d.cluster.Client.Discovery()); err != nil {
		return err
	}
	d.say("starting pseudo-server and pseudo-agent")
	if err := d.startPrograms(ctx, bins, dir); err != nil {
		return err
	}
	if _, err := d.arrived(ctx); err != nil {
		return err
	}
	if err := d.table(ctx); err != nil {
		return err
	}
	if err := d.changes(ctx); err != nil {
		return err
	}
	d.say("the server holds every object of the sample cluster with the expected content")
	if oneshot {
		return nil
	}
	fmt.Printf(`
Try next, in another terminal (Ctrl-C here ends everything):

  # change the cluster (as its administrator; any kubectl will do)
  export KUBECONFIG=%[1]s
  kubectl -n shop label pod web-6d5f8b9c4-x7k2p release=canary

  # what the server holds: clusters with version, last report and error_msg; then objects
  curl -s %[2]s/api/v1/clusters
  curl -s '%[2]s/api/v1/clusters/%[3]s/objects?type=Pod&namespace=shop'

  # what the agent says of itself
  curl -s %[4]s/status
  curl -s %[4]s/metrics | grep ^pseudo_agent

  # logs and configurations of all processes
  ls %[5]s
`, d.cluster.Kubeconfig, d.server.HTTP, clusterID, d.agent.HTTP, dir)
	select {
	case <-ctx.Done():
		return nil
	case <-d.agent.Process().Done():
		return fmt.Errorf("pseudo-agent has ended:\n%s", d.agent.Tail(10))
	case <-d.server.Process().Done():
		return fmt.Errorf("pseudo-server has ended:\n%s", d.server.Tail(10))
	}
}

func (d *demo) startPrograms(ctx context.Context, bins harness.Binaries, dir string) error {
	var resources []any
	if err := yaml.Unmarshal([]byte(sample.APIResources), &resources); err != nil {
		return err
	}
	keyFile := filepath.Join(dir, "hash.key")
	if err := os.WriteFile(keyFile, []byte(expect.HashKey), 0o600); err != nil {
		return err
	}
	account, err := d.cluster.NewAccount(ctx, "pseudo-agent")
	if err != nil {
		return err
	}
	if err := account.Grant(ctx, "read", harness.ReadAll(expect.Names(expect.All)...)...); err != nil {
		return err
	}
	d.tokens = make(chan struct{})
	var renewing context.Context
	renewing, d.endTokens = context.WithCancel(ctx)
	go func() {
		defer close(d.tokens)
		account.KeepToken(renewing)
	}()
	if d.server, err = harness.NewServer(bins, dir, "pseudo-server", nil); err != nil {
		return err
	}
	if err := d.server.Start(ctx); err != nil {
		return err
	}
	d.agent, err = harness.NewAgent(bins, dir, "pseudo-agent", account.Kubeconfig, d.server.GRPC, clusterID, harness.Settings{
		"projection.hash_key_file":                  keyFile,
		"inputs.resources.kubernetes.api_resources": resources,
	})
	if err != nil {
		return err
	}
	return d.agent.Start(ctx)
}

// arrived waits until the server holds exactly what it should and returns how long that took.
func (d *demo) arrived(ctx context.Context) (time.Duration, error) {
	changed := time.Now()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		diff, err := d.compare(ctx)
		if err == nil && diff == "" {
			return time.Since(changed), nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("the server does not hold what it should (-want +got):\n%s", diff)
			}
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return 0, context.Canceled
			}
			return 0, err
		case <-d.agent.Process().Done():
			return 0, fmt.Errorf("pseudo-agent has ended:\n%s", d.agent.Tail(10))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// compare returns the differences between what the server should hold and what it holds.
func (d *demo) compare(ctx context.Context) (string, error) {
	want, err := expect.Of(ctx, d.cluster.Dynamic, d.cluster.Client.Discovery().RESTClient(), expect.All, nil)
	if err != nil {
		return "", err
	}
	_, got, err := d.server.Snapshot(ctx, clusterID)
	if err != nil {
		return "", err
	}
	return cmp.Diff(want, got), nil
}

// table prints what the server holds.
func (d *demo) table(ctx context.Context) error {
	info, err := d.server.Cluster(ctx, clusterID)
	if err != nil {
		return err
	}
	_, snapshot, err := d.server.Snapshot(ctx, clusterID)
	if err != nil {
		return err
	}
	names := map[string][]string{}
	for id, doc := range snapshot {
		o := unstructured.Unstructured{Object: doc}
		name := o.GetName()
		if o.GetNamespace() != "" {
			name = o.GetNamespace() + "/" + name
		}
		names[id.Type] = append(names[id.Type], name)
	}
	d.say("the server holds version %d of cluster %s: %d objects, %d bytes compressed", info.Version, clusterID, info.Objects, info.Bytes)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nTYPE\tOBJECTS\tNAMES")
	kinds := make([]string, 0, len(names))
	for kind := range names {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		list := names[kind]
		slices.Sort(list)
		const most = 3
		text := strings.Join(list[:min(most, len(list))], ", ")
		if more := len(list) - most; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\n", kind, len(list), text)
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	return d.unreported(snapshot)
}

// unreported prints which objects of the sample cluster are left out on purpose.
func (d *demo) unreported(snapshot expect.Snapshot) error {
	held := map[string]bool{}
	for id := range snapshot {
		held[id.UID] = true
	}
	objs, err := sample.Objects()
	if err != nil {
		return err
	}
	var left []string
	for _, o := range objs {
		if !held[string(d.loader.UID(o))] {
			left = append(left, fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName()))
		}
	}
	fmt.Printf("Left out on purpose (scaled to zero, bookkeeping): %s\n\n", strings.Join(left, ", "))
	return nil
}

// changes alters the cluster and shows how long each change takes to the server.
func (d *demo) changes(ctx context.Context) error {
	d.say("changing the cluster; a change after quiet is sent after 1 s, others not more often than every %s", pushInterval)
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"scale Deployment shop/web from 2 to 3: the Deployment, its ReplicaSet and a new Pod", d.scale},
		{"delete Service shop/checkout: the port of its Route has no number any more", d.deleteService},
		{"relabel Pod data/cache-0", func(ctx context.Context) error {
			return d.patch(ctx, "v1", "Pod", "data", "cache-0", `{"metadata":{"labels":{"role":"primary"}}}`)
		}},
		{"attach an interface to Pod shop/web-6d5f8b9c4-x7k2p (its annotation k8s.v1.cni.cncf.io/networks)", func(ctx context.Context) error {
			return d.patch(ctx, "v1", "Pod", "shop", "web-6d5f8b9c4-x7k2p", `{"metadata":{"annotations":{"k8s.v1.cni.cncf.io/networks":"macvlan"}}}`)
		}},
	}
	for _, step := range steps {
		// So that the lag shown is that of a change after quiet.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pushInterval + time.Second):
		}
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		lag, err := d.arrived(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		d.say("%-100s arrived after %.1f s", step.what, lag.Seconds())
	}
	return nil
}

// scale does what a user, the deployment controller, the replicaset controller and a kubelet would.
func (d *demo) scale(ctx context.Context) error {
	const three = `{"spec":{"replicas":3}}`
	if err := d.patch(ctx, "apps/v1", "Deployment", "shop", "web", three); err != nil {
		return err
	}
	if err := d.patch(ctx, "apps/v1", "ReplicaSet", "shop", "web-6d5f8b9c4", three); err != nil {
		return err
	}
	objs, err := sample.Objects()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetName() == "web-6d5f8b9c4-x7k2p" })
	pod := objs[i]
	pod.SetName("web-6d5f8b9c4-n3w0d")
	pod.SetAnnotations(nil)
	for _, field := range [][]string{{"status", "podIPs"}, {"status", "podIP"}} {
		unstructured.RemoveNestedField(pod.Object, field...)
	}
	_, err = d.loader.Create(ctx, pod)
	return err
}

func (d *demo) deleteService(ctx context.Context) error {
	return d.loader.Delete(ctx, object("v1", "Service", "shop", "checkout"))
}

func (d *demo) patch(ctx context.Context, apiVersion, kind, namespace, name, patch string) error {
	res, err := d.loader.Resource(object(apiVersion, kind, namespace, name))
	if err != nil {
		return err
	}
	_, err = res.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// object names an object.
func object(apiVersion, kind, namespace, name string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(namespace)
	o.SetName(name)
	return o
}
