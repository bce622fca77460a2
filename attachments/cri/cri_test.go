package cri

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// answers is a runtime that ignores filters, to see that answers are checked.
type answers struct {
	runtime.UnimplementedRuntimeServiceServer
	sandboxes []*runtime.PodSandbox
	status    map[string]*runtime.PodSandboxStatusResponse
}

func (a *answers) ListPodSandbox(context.Context, *runtime.ListPodSandboxRequest) (*runtime.ListPodSandboxResponse, error) {
	return &runtime.ListPodSandboxResponse{Items: a.sandboxes}, nil
}

func (a *answers) PodSandboxStatus(_ context.Context, r *runtime.PodSandboxStatusRequest) (*runtime.PodSandboxStatusResponse, error) {
	return a.status[r.GetPodSandboxId()], nil
}

func client(t *testing.T, a *answers) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtime.RegisterRuntimeServiceServer(server, a)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	c, err := New("", "unix://"+socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

// Only the newest ready sandbox of the very Pod counts, whatever the runtime answers.
func TestSandbox(t *testing.T) {
	sandbox := func(id, uid string, ready bool, at int64) *runtime.PodSandbox {
		s := &runtime.PodSandbox{Id: id, CreatedAt: at, Labels: map[string]string{uidLabel: uid}, State: runtime.PodSandboxState_SANDBOX_NOTREADY}
		if ready {
			s.State = runtime.PodSandboxState_SANDBOX_READY
		}
		return s
	}
	status := func(info string, mode runtime.NamespaceMode) *runtime.PodSandboxStatusResponse {
		return &runtime.PodSandboxStatusResponse{Info: map[string]string{"info": info}, Status: &runtime.PodSandboxStatus{Linux: &runtime.LinuxPodSandboxStatus{
			Namespaces: &runtime.Namespace{Options: &runtime.NamespaceOption{Network: mode}},
		}}}
	}
	c := client(t, &answers{
		sandboxes: []*runtime.PodSandbox{
			sandbox("old", "a", true, 1), sandbox("new", "a", true, 3), sandbox("ended", "a", false, 4), sandbox("other", "b", true, 5),
			sandbox("host", "c", true, 1), sandbox("mute", "d", true, 1), sandbox("process", "e", true, 1),
		},
		status: map[string]*runtime.PodSandboxStatusResponse{
			"new":     status(`{"pid":7,"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/var/run/netns/cni-1"}]}}}`, runtime.NamespaceMode_POD),
			"host":    status(`{"pid":7}`, runtime.NamespaceMode_NODE),
			"mute":    {Status: &runtime.PodSandboxStatus{}},
			"process": status(`{"pid":7}`, runtime.NamespaceMode_POD),
		},
	})
	for uid, want := range map[string]string{"a": "new /var/run/netns/cni-1", "c": "", "x": "", "e": "process /proc/7/ns/net"} {
		s, err := c.Sandbox(t.Context(), uid)
		got := ""
		if s != nil {
			got = s.ID + " " + s.NetNS
		}
		if err != nil || got != want {
			t.Errorf("Pod %s: got %q, %v, want %q", uid, got, err, want)
		}
	}
	if _, err := c.Sandbox(t.Context(), "d"); err == nil || !strings.Contains(err.Error(), "tells no details") {
		t.Errorf("a runtime without details: got %v", err)
	}
}

func FuzzNamespace(f *testing.F) {
	f.Add(`{"pid":1,"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"/a"}]}}}`)
	f.Fuzz(func(t *testing.T, info string) {
		c := &Client{proc: "/proc"}
		if path, err := c.namespace(map[string]string{"info": info}); err == nil && !filepath.IsAbs(path) {
			t.Fatalf("got %q", path)
		}
	})
}
