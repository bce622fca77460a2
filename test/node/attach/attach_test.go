// Package attach runs pod-agent with a real containerd, with sandboxes and containers made by CRI, and a real
// kube-apiserver, to which the Pods are bound. There is no kubelet.
package attach

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
	"github.com/pseudo-agent/pseudo-agent/test/node/node"
	"github.com/pseudo-agent/pseudo-agent/test/node/sandbox"
)

var (
	cluster *node.Cluster
	place   sandbox.Place
)

func TestMain(m *testing.M) {
	if missing := sandbox.Missing(); len(missing) > 0 {
		fmt.Println("SKIP: no test was run, because this machine cannot run a node; missing:", strings.Join(missing, ", "))
		os.Exit(0)
	}
	os.Exit(sandbox.Main(func(dir string) error {
		_, err := node.BuildRuntime(context.Background(), dir, os.Stderr)
		return err
	}, func(at sandbox.Place) int {
		flag.Parse()
		place = at
		ctx := context.Background()
		bins, err := node.BuildRuntime(ctx, place.Dir, os.Stderr)
		if err == nil {
			cluster, err = node.StartRuntime(ctx, bins, place)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer cluster.Close()
		return m.Run()
	}))
}

var definitions = schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions"}

// config is a network of a bridge of its own.
func config(number int) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","type":"bridge","bridge":"br%d","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.%d.0.0/24"}]]}}`,
		number, filepath.Join(place.Dir, "addresses"), number)
}

// define makes a network of a bridge of its own.
func define(ctx context.Context, t *testing.T, name string, number int) {
	t.Helper()
	_, err := cluster.Dynamic.Resource(definitions).Namespace("default").Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"name": name, "namespace": "default"}, "spec": map[string]any{"config": config(number)},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func redefine(ctx context.Context, t *testing.T, name string, number int) {
	t.Helper()
	api := cluster.Dynamic.Resource(definitions).Namespace("default")
	object, err := api.Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		err = unstructured.SetNestedField(object.Object, config(number), "spec", "config")
	}
	if err == nil {
		_, err = api.Update(ctx, object, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// happened waits for Events of the Pod web.
func happened(ctx context.Context, t *testing.T, agent *harness.Process, want ...string) {
	t.Helper()
	eventually(t, agent, "Events", func() bool {
		list, err := cluster.Client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=web"})
		if err != nil {
			t.Fatal(err)
		}
		all := ""
		for _, e := range list.Items {
			all += e.Type + " " + e.Reason + " " + e.Message + "\n"
		}
		return !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(all, w) })
	})
}

// show gives the Pod web what deepflow-server needs of a Pod: a Node, a workload and addresses, which kubelet and the
// controllers would have given it.
func show(ctx context.Context, t *testing.T) {
	t.Helper()
	const host = "10.9.9.9"
	made, err := cluster.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name}}, metav1.CreateOptions{})
	if err == nil {
		made.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}}
		_, err = cluster.Client.CoreV1().Nodes().UpdateStatus(ctx, made, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app": "web"}
	set, err := cluster.Client.AppsV1().DaemonSets("default").Create(ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: node.PauseImage}}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for what, patch := range map[string]string{
		"":       fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","kind":"DaemonSet","name":"web","uid":%q}]}}`, set.UID),
		"status": fmt.Sprintf(`{"status":{"phase":"Running","hostIP":%[1]q,"hostIPs":[{"ip":%[1]q}],"podIP":"10.8.0.2","podIPs":[{"ip":"10.8.0.2"}]}}`, host),
	} {
		var sub []string
		if what != "" {
			sub = []string{what}
		}
		if _, err := cluster.Client.CoreV1().Pods("default").Patch(ctx, "web", types.MergePatchType, []byte(patch), metav1.PatchOptions{}, sub...); err != nil {
			t.Fatal(err)
		}
	}
}

// inventory waits until pseudo-agent has reported to pseudo-server that the Pod web has an attached network with an address.
func inventory(t *testing.T, address string) {
	t.Helper()
	ctx := t.Context()
	show(ctx, t)
	server, err := harness.NewServer(cluster.Bins.Binaries, place.Dir, "server", nil)
	if err != nil {
		t.Fatal(err)
	}
	const id = "d-attached"
	agent, err := harness.NewAgent(cluster.Bins.Binaries, place.Dir, "agent", cluster.Kubeconfig, server.GRPC, id, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []*harness.Daemon{&server.Daemon, agent} {
		if err := d.Start(ctx); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Kill)
	}
	var pods []struct {
		Name     string
		Networks []struct {
			Network   string
			Addresses []string
		}
	}
	var last error
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		last = server.Inventory(ctx, id, "pods", &pods)
		for _, p := range pods {
			for _, n := range p.Networks {
				if p.Name == "web" && n.Network == "default/green" && slices.Contains(n.Addresses, address) {
					return
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the inventory has %v (%v); pseudo-agent says:\n%s", pods, last, agent.Tail(20))
		}
	}
}

// pod is a Pod that runs: what kubelet would have made by CRI.
type pod struct {
	*corev1.Pod
	sandbox, container string
	pid                int
}

func run(ctx context.Context, t *testing.T, api runtime.RuntimeServiceClient, name string) pod {
	t.Helper()
	created, err := cluster.Client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{NodeName: node.Name, Containers: []corev1.Container{{Name: "c", Image: node.PauseImage}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := pod{Pod: created}
	labels := map[string]string{"io.kubernetes.pod.uid": string(created.UID)}
	config := &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: name, Uid: string(created.UID), Namespace: "default"}, Labels: labels, LogDirectory: place.Dir,
		Linux: &runtime.LinuxPodSandboxConfig{CgroupParent: filepath.Join("/", place.Cgroup, name)},
	}
	made, err := api.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	p.sandbox = made.GetPodSandboxId()
	container, err := api.CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: p.sandbox, SandboxConfig: config,
		Config: &runtime.ContainerConfig{Metadata: &runtime.ContainerMetadata{Name: "c"}, Image: &runtime.ImageSpec{Image: node.PauseImage}, Linux: &runtime.LinuxContainerConfig{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.container = container.GetContainerId()
	if _, err := api.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: p.container}); err != nil {
		t.Fatal(err)
	}
	p.pid, _ = p.process(ctx, t, api)
	return p
}

// process is the container's process and when it was started.
func (p pod) process(ctx context.Context, t *testing.T, api runtime.RuntimeServiceClient) (int, int64) {
	t.Helper()
	status, err := api.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: p.container, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ PID int }
	if err := json.Unmarshal([]byte(status.GetInfo()["info"]), &info); err != nil || info.PID == 0 {
		t.Fatalf("the container has no process: %v", err)
	}
	return info.PID, status.GetStatus().GetStartedAt()
}

// interfaces are those that the container's own process sees.
func (p pod) interfaces(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func annotate(ctx context.Context, t *testing.T, name, value string) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{"k8s.v1.cni.cncf.io/networks":%q}}}`, value)
	if _, err := cluster.Client.CoreV1().Pods("default").Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, agent *harness.Process, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute; pod-agent says:\n%s", what, agent.Tail(20))
		}
	}
}

// TestRunningPod: annotate, and the interface is there while the container runs on; remove it, and it is gone; delete the
// Pod, and everything is released.
func TestRunningPod(t *testing.T) {
	ctx := t.Context()
	if err := (sample.CRD{Group: definitions.Group, Version: definitions.Version, Plural: definitions.Resource, Kind: "NetworkAttachmentDefinition"}).Install(ctx, cluster.Dynamic); err != nil {
		t.Fatal(err)
	}
	define(ctx, t, "green", 2)
	define(ctx, t, "red", 3)
	conn, err := grpc.NewClient("unix://"+cluster.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // the only error is that it was closed before
	api := runtime.NewRuntimeServiceClient(conn)
	p, other := run(ctx, t, api, "web"), run(ctx, t, api, "other")
	_, started := p.process(ctx, t, api)

	args := []string{
		"--node-name", node.Name, "--kubernetes-kubeconfig", cluster.Kubeconfig, "--cri-socket", cluster.Socket(), "--cni-bin-dirs", cluster.Bins.Plugins,
		"--network-source", "definitions", "--state-dir", filepath.Join(place.Dir, "pod-agent-state"), "--http-address", "127.0.0.1:18090", "--work-max-retry", "1s",
	}
	start := func() *harness.Process {
		agent, err := harness.StartProcess(harness.Command{Name: "pod-agent", Path: filepath.Join(place.Dir, "pod-agent"), Args: append([]string{"run"}, args...), Dir: place.Dir})
		if err != nil {
			t.Fatal(err)
		}
		return agent
	}
	agent := start()
	defer func() { agent.Kill() }()

	command := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, filepath.Join(place.Dir, "pod-agent"), append(args, "--kubernetes-kubeconfig", cluster.Kubeconfig)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	begun := time.Now()
	annotate(ctx, t, "web", "green,red@store0")
	eventually(t, agent, "attached", func() bool {
		all := p.interfaces(t)
		return strings.Contains(all, "net9f27410725ab:") && strings.Contains(all, "store0:")
	})
	t.Logf("attached two networks in %s, from the start of pod-agent", time.Since(begun).Round(10*time.Millisecond))
	if all := other.interfaces(t); strings.Contains(all, "net9f27410725ab") || !strings.Contains(all, "eth0:") {
		t.Errorf("the other Pod has\n%s", all)
	}
	told := func(want ...string) func() bool {
		return func() bool {
			now, err := cluster.Client.CoreV1().Pods("default").Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			text := now.Annotations["k8s.v1.cni.cncf.io/network-status"]
			var list []struct{ Interface string }
			return json.Unmarshal([]byte(text), &list) == nil && len(list) == len(want) && !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(text, w) })
		}
	}
	eventually(t, agent, "the status annotation tells it", told(`"interface":"net9f27410725ab"`, `"ips":["10.3.0.2"]`))
	if out := command("list", "default/web"); strings.Count(out, " attached ") != 2 || !strings.Contains(out, "10.2.0.2") {
		t.Errorf("list prints\n%s", out)
	}
	inventory(t, "10.2.0.2")
	redefine(ctx, t, "green", 4)
	eventually(t, agent, "attached by the new definition", told("10.4.0.2", "10.3.0.2"))
	if out := command("detach", "default/web", "green"); !strings.Contains(out, `is now "red@store0"`) {
		t.Errorf("detach prints %s", out)
	}
	eventually(t, agent, "detached", func() bool { return !strings.Contains(p.interfaces(t), "net9f27410725ab:") })
	eventually(t, agent, "the status annotation tells it", told("store0"))
	command("attach", "default/web", "green@a0", "--mac", "02:00:00:00:00:77")
	eventually(t, agent, "attached by hand", told("store0", `"mac":"02:00:00:00:00:77"`))
	command("attach", "default/web", "unknown")
	happened(ctx, t, agent, "Normal Attached network default/green", "Normal Detached network default/green", "Warning AttachFailed network default/unknown: NetworkAttachmentDefinition default/unknown: there is none")
	if pid, at := p.process(ctx, t, api); pid != p.pid || at != started {
		t.Errorf("the container was restarted: process %d, %d, was %d, %d", pid, at, p.pid, started)
	}

	// The Pod goes while pod-agent is away.
	agent.Kill()
	if err := cluster.Client.CoreV1().Pods("default").Delete(ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		t.Fatal(err)
	}
	agent = start()
	eventually(t, agent, "all released", func() bool {
		addresses, err := filepath.Glob(filepath.Join(place.Dir, "addresses", "*", "10.*"))
		records, errRecords := filepath.Glob(filepath.Join(place.Dir, "pod-agent-state", "records", "*.json"))
		return err == nil && errRecords == nil && len(addresses) == 0 && len(records) == 0
	})
}
