package node

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"text/template"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/node/sandbox"
)

// Name is the node's.
const Name = "node"

//go:embed files
var files embed.FS

// Cluster is a cluster of one node.
type Cluster struct {
	*harness.Cluster
	Bins  Binaries
	Place sandbox.Place

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
	if err := c.writeFiles(); err != nil {
		return nil, err
	}
	if err := c.startContainerd(ctx); err != nil {
		return nil, err
	}
	for _, p := range [][]string{
		{
			"kube-controller-manager", "--kubeconfig=" + c.Kubeconfig, "--use-service-account-credentials", "--leader-elect=false",
			"--service-account-private-key-file=" + c.file("sa.key"), "--root-ca-file=" + c.CAFile,
			"--cluster-cidr=10.244.0.0/16", "--service-cluster-ip-range=10.96.0.0/16",
			"--node-monitor-grace-period=20s",
		},
		{"kube-scheduler", "--kubeconfig=" + c.Kubeconfig, "--leader-elect=false"},
		{
			"kubelet", "--kubeconfig=" + c.Kubeconfig, "--config=" + c.file("kubelet.yaml"), "--root-dir=" + c.file("kubelet"),
			"--node-ip=" + place.Address, "--hostname-override=" + Name,
		},
		{"kube-proxy", "--config=" + c.file("kube-proxy.yaml")},
	} {
		if err := c.run(p[0], filepath.Join(bins.Kubernetes, p[0]), p[1:]...); err != nil {
			return nil, err
		}
	}
	if err := c.Kubectl(ctx, "apply", "-f", c.file("coredns.yaml")); err != nil {
		return nil, err
	}
	if err := c.WaitNode(ctx); err != nil {
		return nil, err
	}
	return c, c.WaitDeployment(ctx, "kube-system", "coredns")
}

// StartRuntime brings up an apiserver and containerd alone, with what BuildRuntime has made: no kubelet and no controllers.
func StartRuntime(ctx context.Context, bins Binaries, place sandbox.Place) (c *Cluster, err error) {
	c = &Cluster{Bins: bins, Place: place}
	if c.Cluster, err = harness.StartCluster(ctx, bins.Binaries, place.Dir); err != nil {
		return nil, err
	}
	if err = c.writeFiles(); err == nil {
		err = c.startContainerd(ctx)
	}
	if err != nil {
		c.Close()
	}
	return c, err
}

// Socket is where containerd listens.
func (c *Cluster) Socket() string { return c.file("containerd.sock") }

func (c *Cluster) file(name string) string { return filepath.Join(c.Place.Dir, name) }

// writeFiles fills the templates in files.
func (c *Cluster) writeFiles() error {
	all, err := template.ParseFS(files, "files/*")
	if err != nil {
		return err
	}
	for _, t := range all.Templates() {
		var b bytes.Buffer
		err := t.Execute(&b, map[string]string{
			"Dir": c.Place.Dir, "Address": c.Place.Address, "Cgroup": c.Place.Cgroup, "Plugins": c.Bins.Plugins, "Kubeconfig": c.Kubeconfig,
			"PauseImage": PauseImage, "CoreDNSImage": corednsImage,
		})
		if err != nil {
			return err
		}
		path := c.file(t.Name())
		if filepath.Ext(path) == ".conflist" {
			path = c.file(filepath.Join("cni", t.Name()))
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			return err
		}
	}
	return nil
}

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

func (c *Cluster) startContainerd(ctx context.Context) error {
	if err := c.run("containerd", "containerd", "--config", c.file("containerd.toml")); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := c.procs[0].WaitReady(ready, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.file("containerd.sock"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		return err
	}
	images, err := filepath.Glob(c.file("*-image.tar"))
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := c.Import(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

// Import brings an image to the node as install.md says.
func (c *Cluster) Import(ctx context.Context, tar string) error {
	_, err := output(ctx, nil, "ctr", "--address", c.file("containerd.sock"), "-n", "k8s.io", "images", "import", tar)
	return err
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

// Wait asks ok until it agrees. Its error, or what it says is still missing, is told when the context ends.
func Wait(ctx context.Context, what string, ok func(context.Context) error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not in time: %w", what, err)
		case <-tick.C:
		}
	}
}

// WaitNode waits until the node is Ready.
func (c *Cluster) WaitNode(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return Wait(ctx, "node", func(ctx context.Context) error {
		n, err := c.Client.CoreV1().Nodes().Get(ctx, Name, metav1.GetOptions{})
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

// Process returns a program of the node by its name, for example kubelet.
func (c *Cluster) Process(name string) *harness.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.procs {
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
