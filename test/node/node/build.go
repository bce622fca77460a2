// Package node runs a Kubernetes cluster of one real node in a sandbox: etcd and kube-apiserver as the end-to-end tests
// have them, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, containerd with runc, a bridge for the Pods, and
// CoreDNS.
package node

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

const (
	pluginsVersion  = "v1.10.0"
	corednsVersion  = "v1.14.7"
	registryVersion = "v3.1.2"
	policyVersion   = "v0.8.0"
	// Version is the version of the product's images.
	Version = "0.1.0"
)

// Binaries are the paths of the programs of a node.
type Binaries struct {
	harness.Binaries
	Kubernetes string // folder with kubelet, kube-controller-manager, kube-scheduler, kube-proxy
	Plugins    string // folder with CNI's plugins
	CoreDNS    string
	Helm       string
}

// Build builds what does not come from the machine, once into the cache. That takes about 15 minutes on two cores.
func Build(ctx context.Context, progress io.Writer) (Binaries, error) {
	kube, err := harness.BuildKube(ctx, progress)
	if err != nil {
		return Binaries{}, err
	}
	b := Binaries{Binaries: kube}
	if b.Kubernetes, err = harness.BuildNode(ctx, progress); err != nil {
		return b, err
	}
	if b.Plugins, err = buildPlugins(ctx, progress); err != nil {
		return b, err
	}
	coredns, err := harness.BuildTools(ctx, "coredns", corednsVersion, progress, "github.com/coredns/coredns")
	if err != nil {
		return b, err
	}
	b.CoreDNS = filepath.Join(coredns, "coredns")
	b.Helm, err = harness.BuildHelm(ctx, progress)
	return b, err
}

// Services are programs that stand in a cluster beside the node's own; only tests start them.
type Services struct {
	Registry        string // a registry of images
	NetworkPolicies string // decides about the first packet of each connection of a Pod
}

// BuildServices builds them once into the cache. That takes about 4 minutes on two cores.
func BuildServices(ctx context.Context, progress io.Writer) (Services, error) {
	registry, err := harness.BuildTools(ctx, "registry", registryVersion, progress, "github.com/distribution/distribution/v3/cmd/registry")
	if err != nil {
		return Services{}, err
	}
	policies, err := harness.BuildTools(ctx, "kube-network-policies", policyVersion, progress, "sigs.k8s.io/kube-network-policies/cmd")
	return Services{Registry: filepath.Join(registry, "registry"), NetworkPolicies: filepath.Join(policies, "cmd")}, err
}

// BuildImages makes the images that a node has, in dir: the product's by `make image`, as install.md says, and those of
// the cluster itself.
func BuildImages(ctx context.Context, bins Binaries, dir string, progress io.Writer) error {
	root, err := harness.Root()
	if err != nil {
		return err
	}
	out, err := filepath.Rel(root, dir)
	if err != nil {
		return err
	}
	fmt.Fprintln(progress, "make image VERSION="+Version)
	cmd := exec.CommandContext(ctx, "make", "image", "VERSION="+Version)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "OUT="+out, "MAKEFLAGS=")
	if answer, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make image: %w\n%s", err, answer)
	}
	if err := buildPause(ctx, root, dir); err != nil {
		return err
	}
	return WriteImage(corednsImage, bins.CoreDNS, filepath.Join(dir, "coredns-image.tar"))
}

// buildPlugins builds CNI's plugins.
func buildPlugins(ctx context.Context, progress io.Writer) (string, error) {
	const plugins = "github.com/containernetworking/plugins/plugins/"
	return harness.BuildTools(ctx, "cni-plugins", pluginsVersion, progress,
		plugins+"main/bridge", plugins+"main/loopback", plugins+"ipam/host-local", plugins+"meta/portmap")
}

// buildPause makes the image of the first process of each Pod, in dir.
func buildPause(ctx context.Context, root, dir string) error {
	pause := filepath.Join(dir, "pause")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", pause, "./pause")
	cmd.Dir = filepath.Join(root, "test", "node")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if answer, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build pause: %w\n%s", err, answer)
	}
	return WriteImage(PauseImage, pause, filepath.Join(dir, "pause-image.tar"))
}

// BuildRuntime builds what StartRuntime needs, and the programs, into dir.
func BuildRuntime(ctx context.Context, dir string, progress io.Writer) (Binaries, error) {
	kube, err := harness.BuildKube(ctx, progress)
	if err != nil {
		return Binaries{}, err
	}
	b := Binaries{Binaries: kube}
	if b.Plugins, err = buildPlugins(ctx, progress); err != nil {
		return b, err
	}
	root, err := harness.Root()
	if err != nil {
		return b, err
	}
	b.Agent, b.Server = filepath.Join(dir, "pseudo-agent"), filepath.Join(dir, "pseudo-server")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+string(filepath.Separator), "./cmd/...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if answer, err := cmd.CombinedOutput(); err != nil {
		return b, fmt.Errorf("build the programs: %w\n%s", err, answer)
	}
	return b, buildPause(ctx, root, dir)
}
