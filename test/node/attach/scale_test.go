package attach

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/node/node"
)

var scale = flag.Int("scale", 0, "how many Pods TestScale makes; 0: it is skipped")

const (
	networksOfEach = 4
	idle           = 30 * time.Second
)

// TestScale measures what a node full of Pods costs: all interfaces are there when pod-agent starts, and are adopted. It
// prints the figures of docs/pod-agent.md: `go test ./attach -run Scale -scale 250 -v`.
func TestScale(t *testing.T) {
	if *scale == 0 {
		t.Skip("-scale is not given")
	}
	ctx := t.Context()
	conn, err := grpc.NewClient("unix://"+cluster.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // the only error is that it was closed before
	api := runtime.NewRuntimeServiceClient(conn)
	for i := range *scale {
		fill(ctx, t, api, fmt.Sprintf("scale-%d", i))
	}
	const address = "127.0.0.1:18091"
	agent, err := harness.StartProcess(harness.Command{Name: "pod-agent", Path: filepath.Join(place.Dir, "pod-agent"), Dir: place.Dir, Args: []string{
		"run", "--node-name", "crowded", "--kubernetes-kubeconfig", cluster.Kubeconfig, "--cri-socket", cluster.Socket(), "--cni-bin-dirs", cluster.Bins.Plugins,
		"--cni-config-dir", filepath.Join(place.Dir, "cni"), "--state-dir", filepath.Join(place.Dir, "crowded-state"), "--http-address", address,
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Kill()
	begun := time.Now()
	want := fmt.Sprintf(`pod_agent_attachments{state="attached"} %d`, *scale*networksOfEach)
	for deadline := begun.Add(5 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if text := metrics(ctx, address); strings.Contains(text, want) && strings.Contains(text, "pod_agent_not_as_wanted 0") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not all are adopted; pod-agent says:\n%s", agent.Tail(20))
		}
	}
	time.Sleep(2 * time.Second) // the last status annotations
	started := time.Since(begun)
	cpu, memory := cpuTime(t, agent.PID()), agent.PeakMemory()
	t.Logf("%d Pods with %d networks: start %.1f s, CPU %.2f s, peak memory %d MiB", *scale, networksOfEach, started.Seconds(), cpu, memory>>20)
	time.Sleep(idle)
	t.Logf("idle: %.0f ms of CPU in %s", 1000*(cpuTime(t, agent.PID())-cpu), idle)
	if const64 := int64(64 << 20); memory > const64 {
		t.Errorf("peak memory is %d bytes, want at most %d", memory, const64)
	}
}

// fill runs a sandbox, as kubelet and a meta plugin would have made it, and the Pod of it.
func fill(ctx context.Context, t *testing.T, api runtime.RuntimeServiceClient, name string) {
	t.Helper()
	created, err := cluster.Client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"k8s.v1.cni.cncf.io/networks": "a@i0,b@i1,c@i2,d@i3"}},
		Spec:       corev1.PodSpec{NodeName: "crowded", Containers: []corev1.Container{{Name: "c", Image: node.PauseImage}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made, err := api.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: &runtime.PodSandboxConfig{
		Metadata: &runtime.PodSandboxMetadata{Name: name, Uid: string(created.UID), Namespace: "default"},
		Labels:   map[string]string{"io.kubernetes.pod.uid": string(created.UID)}, LogDirectory: place.Dir,
		Linux: &runtime.LinuxPodSandboxConfig{CgroupParent: filepath.Join("/", place.Cgroup, name)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	status, err := api.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: made.GetPodSandboxId(), Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(status.GetInfo()["info"], "/run/netns/")
	netns, _, _ := strings.Cut(rest, `"`)
	commands := ""
	for i := 0; i < networksOfEach; i += 2 { // the ends of pairs, which every kernel with Pods has
		commands += fmt.Sprintf("link add i%d type veth peer name i%d\n", i, i+1)
	}
	cmd := exec.CommandContext(ctx, "ip", "-n", netns, "-batch", "-")
	cmd.Stdin = strings.NewReader(commands)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip -n %s: %v\n%s", netns, err, out)
	}
}

func metrics(ctx context.Context, address string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return ""
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return ""
	}
	return string(text)
}

// cpuTime is how many seconds of CPU a process has used.
func cpuTime(t *testing.T, pid int) (cpu float64) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const userTime, systemTime, ticks = 11, 12, 100
	for _, i := range []int{userTime, systemTime} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		cpu += float64(n) / ticks
	}
	return cpu
}
