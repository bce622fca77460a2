package node

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"text/template"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pseudo-agent/pseudo-agent/test/node/sandbox"
)

// Second is the name of the node that AddNode adds.
const Second = "second"

//go:embed files
var files embed.FS

// machine is what a node has for itself; all share the sandbox's network and processes.
type machine struct {
	Name   string
	Dir    string // configurations, images, volumes
	State  string // of containerd
	Cgroup string
	Bridge string // of its Pods, and the name of their network
	Subnet string
	// Ports of the kubelet.
	Port, HealthzPort int
}

func (c *Cluster) first() machine {
	return machine{
		Name: Name, Dir: c.Place.Dir, State: "/run/containerd", Cgroup: c.Place.Cgroup,
		Bridge: "pods", Subnet: "10.244.0.0/16", Port: 10250, HealthzPort: 10248,
	}
}

// log is the name of the log file of a program of this node.
func (m machine) log(program string) string {
	if m.Name == Name {
		return program
	}
	return program + "-" + m.Name
}

// AddNode starts a second node, with a kubelet, a containerd and a bridge of its own, and returns when it is Ready.
// The pseudo-server's volumes are on the first.
func (c *Cluster) AddNode(ctx context.Context) error {
	m := machine{
		Name: Second, Dir: c.file(Second), State: "/run/containerd-second", Cgroup: c.Place.Cgroup + "/" + Second,
		Bridge: "pods2", Subnet: "10.245.0.0/16", Port: 10260, HealthzPort: 10258,
	}
	err := errors.Join(os.Mkdir(m.Dir, 0o755), sandbox.MakeCgroups(m.Cgroup))
	if err != nil {
		return err
	}
	if err := c.writeFiles(m); err != nil {
		return err
	}
	if err := c.startContainerd(ctx, m); err != nil {
		return err
	}
	if err := c.run(m.log("kubelet"), filepath.Join(c.Bins.Kubernetes, "kubelet"), c.kubeletArguments(m)...); err != nil {
		return err
	}
	return c.WaitNode(ctx, m.Name)
}

// RemoveNode ends the second node once its Pods are gone: those that a kubelet leaves behind stay in the apiserver for
// minutes, with addresses that no Node accounts for any more.
func (c *Cluster) RemoveNode(ctx context.Context) error {
	gone := errors.Join(c.Kubectl(ctx, "cordon", Second), c.endPods(ctx, Second))
	c.StopPrograms("kubelet-"+Second, "containerd-"+Second)
	return errors.Join(gone, c.Client.CoreV1().Nodes().Delete(ctx, Second, metav1.DeleteOptions{}))
}

// endPods deletes the Pods of a node and waits, for at most two minutes, until none is left.
func (c *Cluster) endPods(ctx context.Context, node string) error {
	pods, ofNode := c.Client.CoreV1().Pods(metav1.NamespaceAll), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node}
	list, err := pods.List(ctx, ofNode)
	if err != nil {
		return err
	}
	for _, p := range list.Items {
		if err := c.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return Wait(ctx, "end of the Pods of "+node, func(ctx context.Context) error {
		list, err := pods.List(ctx, ofNode)
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left, the first is %s/%s", len(list.Items), list.Items[0].Namespace, list.Items[0].Name)
		}
		return err
	})
}

func (c *Cluster) kubeletArguments(m machine) []string {
	return []string{
		"--kubeconfig=" + c.Kubeconfig, "--config=" + filepath.Join(m.Dir, "kubelet.yaml"), "--root-dir=" + filepath.Join(m.Dir, "kubelet"),
		"--node-ip=" + c.Place.Address, "--hostname-override=" + m.Name,
	}
}

// writeFiles fills the templates in files.
func (c *Cluster) writeFiles(m machine) error {
	all, err := template.ParseFS(files, "files/*")
	if err != nil {
		return err
	}
	for _, t := range all.Templates() {
		var b bytes.Buffer
		err := t.Execute(&b, struct {
			machine
			Plugins, Kubeconfig, PauseImage, CoreDNSImage string
		}{m, c.Bins.Plugins, c.Kubeconfig, PauseImage, corednsImage})
		if err != nil {
			return err
		}
		path := filepath.Join(m.Dir, t.Name())
		if filepath.Ext(path) == ".conflist" {
			path = filepath.Join(m.Dir, "cni", t.Name())
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

// startContainerd starts a node's containerd and brings it the images.
func (c *Cluster) startContainerd(ctx context.Context, m machine) error {
	if err := c.run(m.log("containerd"), "containerd", "--config", filepath.Join(m.Dir, "containerd.toml")); err != nil {
		return err
	}
	socket := filepath.Join(m.Dir, "containerd.sock")
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := c.Process(m.log("containerd")).WaitReady(ready, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
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
	for _, image := range images { // as install.md says
		if _, err := output(ctx, nil, "ctr", "--address", socket, "-n", "k8s.io", "images", "import", image); err != nil {
			return err
		}
	}
	return nil
}
