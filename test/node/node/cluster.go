package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/node/sandbox"
)

// Name is the node's.
const Name = "node"

// Cluster is a cluster of one node.
type Cluster struct {
	*harness.Cluster
	Bins  Binaries
	Place sandbox.Place

	args map[string][]string // of the Kubernetes programs, by their names

	mu    sync.Mutex
	procs []*harness.Process // in the order of their start
}

// Start brings the cluster up, with the images that BuildImages has put into the sandbox's folder, and returns when the
// node is Ready and names are resolved.
func Start(ctx context.Context, bins Binaries, place sandbox.Place) (c *Cluster, err error) {
	c = &Cluster{Bins: bins, Place: place}
	if c.Cluster, err = harness.StartNodeCluster(ctx, bins.Binaries, place.Dir, place.Address); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	first := c.first()
	if err := c.writeFiles(first); err != nil {
		return nil, err
	}
	if err := c.startContainerd(ctx, first); err != nil {
		return nil, err
	}
	c.args = c.arguments(first)
	if err := c.StartPrograms("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"); err != nil {
		return nil, err
	}
	if err := c.Kubectl(ctx, "apply", "-f", c.file("coredns.yaml")); err != nil {
		return nil, err
	}
	if err := c.WaitNode(ctx, Name); err != nil {
		return nil, err
	}
	return c, c.WaitDeployment(ctx, "kube-system", "coredns")
}

// arguments are those of the Kubernetes programs, by their names.
func (c *Cluster) arguments(first machine) map[string][]string {
	return map[string][]string{
		"kube-controller-manager": {
			"--kubeconfig=" + c.Kubeconfig, "--use-service-account-credentials", "--leader-elect=false",
			"--service-account-private-key-file=" + c.file("sa.key"), "--root-ca-file=" + c.CAFile,
			"--cluster-cidr=10.244.0.0/16", "--service-cluster-ip-range=10.96.0.0/16",
			"--node-monitor-grace-period=20s",
		},
		"kube-scheduler": {"--kubeconfig=" + c.Kubeconfig, "--leader-elect=false"},
		"kubelet":        c.kubeletArguments(first),
		"kube-proxy":     {"--config=" + c.file("kube-proxy.yaml")},
	}
}

// StartPrograms starts Kubernetes programs of the node by their names, for example kube-proxy, at first or again.
func (c *Cluster) StartPrograms(names ...string) error {
	for _, name := range names {
		if err := c.run(name, filepath.Join(c.Bins.Kubernetes, name), c.args[name]...); err != nil {
			return err
		}
	}
	return nil
}

// StopPrograms ends Kubernetes programs of the node by their names, as a crash would.
func (c *Cluster) StopPrograms(names ...string) {
	for _, name := range names {
		c.Process(name).Kill()
	}
}

// StartRuntime brings up an apiserver and containerd alone, with what BuildRuntime has made: no kubelet and no controllers.
func StartRuntime(ctx context.Context, bins Binaries, place sandbox.Place) (c *Cluster, err error) {
	c = &Cluster{Bins: bins, Place: place}
	if c.Cluster, err = harness.StartCluster(ctx, bins.Binaries, place.Dir); err != nil {
		return nil, err
	}
	first := c.first()
	if err = c.writeFiles(first); err == nil {
		err = c.startContainerd(ctx, first)
	}
	if err != nil {
		c.Close()
	}
	return c, err
}

// Socket is where containerd listens.
func (c *Cluster) Socket() string { return c.file("containerd.sock") }

func (c *Cluster) file(name string) string { return filepath.Join(c.Place.Dir, name) }

func (c *Cluster) run(name, path string, args ...string) error {
	p, err := harness.StartProcess(harness.Command{Name: name, Path: path, Args: args, Dir: c.Place.Dir})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.procs = append(c.procs, p)
	return nil
}

// Kubectl runs kubectl as the administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) error {
	_, err := c.KubectlOutput(ctx, args...)
	return err
}

// KubectlOutput runs kubectl as the administrator and returns what it prints.
func (c *Cluster) KubectlOutput(ctx context.Context, args ...string) (string, error) {
	return output(ctx, []string{"KUBECONFIG=" + c.Kubeconfig}, c.Bins.Kubectl, args...)
}

// Helm runs helm as the administrator, in the repository's top folder.
func (c *Cluster) Helm(ctx context.Context, args ...string) error {
	_, err := output(ctx, []string{"KUBECONFIG=" + c.Kubeconfig, "HELM_CACHE_HOME=" + c.file("helm")}, c.Bins.Helm, args...)
	return err
}

// output runs a program in the repository's top folder, and returns what it prints.
func output(ctx context.Context, env []string, program string, args ...string) (string, error) {
	root, err := harness.Root()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(program), strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// Wait asks ok until it agrees. Its error, or what it says is still missing, is told when the context ends. An error of a call
// that this end has cut off is not told, unless it is the only one.
func Wait(ctx context.Context, what string, ok func(context.Context) error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var missing error
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		if missing == nil || ctx.Err() == nil {
			missing = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not in time: %w", what, missing)
		case <-tick.C:
		}
	}
}

// WaitNode waits until a node is Ready.
func (c *Cluster) WaitNode(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return Wait(ctx, "node "+name, func(ctx context.Context) error {
		n, err := c.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range n.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
				return errors.New(condition.Message)
			}
		}
		return nil
	})
}

// WaitDeployment waits until all replicas of a Deployment are those of its latest template, and Ready.
func (c *Cluster) WaitDeployment(ctx context.Context, namespace, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	return Wait(ctx, "deployment "+namespace+"/"+name, func(ctx context.Context) error {
		d, err := c.Client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !rolledOut(d) {
			return fmt.Errorf("%d of %d replicas are ready, %d updated, %d in all\n%s",
				d.Status.ReadyReplicas, *d.Spec.Replicas, d.Status.UpdatedReplicas, d.Status.Replicas, c.Describe(ctx, namespace))
		}
		return nil
	})
}

func rolledOut(d *appsv1.Deployment) bool {
	want := *d.Spec.Replicas
	s := d.Status
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == want && s.ReadyReplicas == want && s.Replicas == want
}

// Describe tells how the containers of a namespace's Pods are, for messages.
func (c *Cluster) Describe(ctx context.Context, namespace string) string {
	pods, err := c.Client.CoreV1().Pods(namespace).List(context.WithoutCancel(ctx), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, p := range pods.Items {
		fmt.Fprintf(&b, "  Pod %s: %s %s\n", p.Name, p.Status.Phase, p.Status.Message)
		for _, condition := range p.Status.Conditions {
			if condition.Status != corev1.ConditionTrue {
				fmt.Fprintf(&b, "    %s: %s\n", condition.Type, condition.Message)
			}
		}
		for _, s := range p.Status.ContainerStatuses {
			fmt.Fprintf(&b, "    %s: ready %v, %d restarts, state %s, last state %s\n", s.Name, s.Ready, s.RestartCount, &s.State, &s.LastTerminationState)
		}
	}
	events, err := c.Client.CoreV1().Events(namespace).List(context.WithoutCancel(ctx), metav1.ListOptions{FieldSelector: "type=Warning"})
	if err == nil {
		for _, e := range events.Items {
			fmt.Fprintf(&b, "  %s %s: %s\n", e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
	return b.String()
}

// Process returns a program of the node by its name, for example kubelet, as it was started last.
func (c *Cluster) Process(name string) *harness.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range slices.Backward(c.procs) {
		if filepath.Base(p.Log()) == name+".log" {
			return p
		}
	}
	return nil
}

// Close ends all programs. Containers end with the sandbox.
func (c *Cluster) Close() {
	c.mu.Lock()
	procs := c.procs
	c.mu.Unlock()
	for i := range procs {
		procs[len(procs)-1-i].Kill()
	}
	c.Cluster.Close()
}
