// Package cri finds the sandbox of a Pod, and its network namespace, by the Container Runtime Interface.
//
// It relies on a runtime's socket and only reads. It promises to answer within a time, whatever the runtime does, and
// that what it returns is a sandbox that the runtime calls ready.
package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pseudo-agent/pseudo-agent/attachments/noderoot"
	"github.com/pseudo-agent/pseudo-agent/attachments/reconcile"
)

// Sockets are where runtimes listen: containerd, that of k3s and RKE2, CRI-O, cri-dockerd.
var Sockets = []string{
	"/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock", "/run/crio/crio.sock", "/run/cri-dockerd.sock",
}

// FindSocket returns the first of Sockets that exists on the node.
func FindSocket(root noderoot.Root) (string, error) {
	for _, s := range Sockets {
		at, err := root.Follow(s)
		if err != nil {
			continue
		}
		info, err := os.Stat(at)
		if err == nil && info.Mode()&fs.ModeSocket != 0 {
			return s, nil
		}
	}
	return "", fmt.Errorf("no container runtime is found at %s: set cri.socket, and mount its folder", strings.Join(Sockets, ", "))
}

const (
	callTimeout = 10 * time.Second
	maxAnswer   = 16 << 20
	// uidLabel is how kubelet marks a sandbox.
	uidLabel = "io.kubernetes.pod.uid"
)

// Client asks one runtime. It connects when it is asked first, and again after a failure.
type Client struct {
	socket string
	conn   *grpc.ClientConn
	api    runtime.RuntimeServiceClient
	// proc is where processes' namespaces are, for runtimes that tell a process only.
	proc string
}

// New returns a Client of the socket, a path of the node with or without unix://.
func New(root noderoot.Root, socket string) (*Client, error) {
	socket = strings.TrimPrefix(socket, "unix://")
	if !filepath.IsAbs(socket) {
		return nil, fmt.Errorf("cri.socket %q is no absolute path", socket)
	}
	at, err := root.Follow(socket)
	if err != nil {
		return nil, fmt.Errorf("cri.socket: %w", err)
	}
	conn, err := grpc.NewClient("unix://"+at, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("cri.socket %s: %w", socket, err)
	}
	return &Client{socket: socket, conn: conn, api: runtime.NewRuntimeServiceClient(conn), proc: "/proc"}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() } //nolint:wrapcheck // the only error is that it was closed before

// Version returns the runtime's name and version.
func (c *Client) Version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := c.api.Version(ctx, &runtime.VersionRequest{})
	if err != nil {
		return "", fmt.Errorf("ask the runtime at cri.socket %s: %w", c.socket, err)
	}
	return v.GetRuntimeName() + " " + v.GetRuntimeVersion(), nil
}

// Sandbox returns the ready sandbox of a Pod, nil if there is none. A sandbox in the host's network is none: it has no
// namespace of its own.
func (c *Client) Sandbox(ctx context.Context, uid string) (*reconcile.Sandbox, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := c.api.ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{Filter: &runtime.PodSandboxFilter{
		LabelSelector: map[string]string{uidLabel: uid},
		State:         &runtime.PodSandboxStateValue{State: runtime.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes at cri.socket %s: %w", c.socket, err)
	}
	var newest *runtime.PodSandbox
	for _, s := range list.GetItems() {
		// The filter is the runtime's; a mistake of its would be another Pod's network.
		if s.GetLabels()[uidLabel] != uid || s.GetState() != runtime.PodSandboxState_SANDBOX_READY {
			continue
		}
		if newest == nil || s.GetCreatedAt() > newest.GetCreatedAt() {
			newest = s
		}
	}
	if newest == nil {
		return nil, nil //nolint:nilnil // there is none, which is no error
	}
	status, err := c.api.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: newest.GetId(), Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("status of sandbox %s at cri.socket %s: %w", newest.GetId(), c.socket, err)
	}
	if status.GetStatus().GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtime.NamespaceMode_NODE {
		return nil, nil //nolint:nilnil // as documented
	}
	netns, err := c.namespace(status.GetInfo())
	if err != nil {
		return nil, fmt.Errorf("network namespace of sandbox %s: %w", newest.GetId(), err)
	}
	return &reconcile.Sandbox{ID: newest.GetId(), NetNS: netns}, nil
}

// details is what containerd and CRI-O add to a sandbox's status when they are asked for more.
type details struct {
	PID         int `json:"pid"`
	RuntimeSpec struct {
		Linux struct {
			Namespaces []struct{ Type, Path string } `json:"namespaces"`
		} `json:"linux"`
	} `json:"runtimeSpec"`
}

// namespace finds the path of the network namespace in the details, else that of the sandbox's process.
func (c *Client) namespace(info map[string]string) (string, error) {
	var d details
	if err := json.Unmarshal([]byte(info["info"]), &d); err != nil {
		return "", fmt.Errorf("the runtime tells no details of its sandbox: %w", err)
	}
	for _, ns := range d.RuntimeSpec.Linux.Namespaces {
		if ns.Type == "network" && filepath.IsAbs(ns.Path) {
			return filepath.Clean(ns.Path), nil
		}
	}
	if d.PID > 0 {
		return filepath.Join(c.proc, fmt.Sprint(d.PID), "ns", "net"), nil
	}
	return "", errors.New("the runtime tells neither its path nor a process")
}
