package podagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/cni"
	"github.com/pseudo-agent/pseudo-agent/attachments/noderoot"
	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/operate"
)

// errLacking is the error of check; what is lacking has been printed.
var errLacking = errors.New("check: something is lacking")

const checkTimeout = 15 * time.Second

// check prints a line for each thing that the daemon needs.
func check(ctx context.Context, c *config.PodAgent, build operate.Build, out io.Writer) error {
	lacking := false
	for _, look := range []struct {
		what string
		at   func(context.Context, *config.PodAgent, operate.Build) (string, error)
	}{
		{"container runtime", checkRuntime},
		{"plugins", checkPlugins},
		{"network configuration", checkConfiguration},
		{"state_dir", checkState},
		{"apiserver", checkPods},
		{"attached", checkAttached},
	} {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		found, err := look.at(ctx, c, build)
		cancel()
		if err != nil {
			lacking = true
			fmt.Fprintf(out, "LACKING  %s: %v\n", look.what, err)
			continue
		}
		fmt.Fprintf(out, "ok       %s: %s\n", look.what, found)
	}
	if lacking {
		return errLacking
	}
	return nil
}

func checkRuntime(ctx context.Context, c *config.PodAgent, _ operate.Build) (string, error) {
	client, err := openRuntime(c)
	if err != nil {
		return "", err
	}
	version, err := client.Version(ctx)
	return version, errors.Join(err, client.Close())
}

func checkPlugins(_ context.Context, c *config.PodAgent, _ operate.Build) (string, error) {
	count := 0
	for _, dir := range c.CNI.BinDirs {
		at, err := noderoot.Root(c.NodeRoot).Follow(dir)
		if err != nil {
			return "", fmt.Errorf("cni.bin_dirs: %w", err)
		}
		entries, err := os.ReadDir(at)
		if err != nil {
			return "", fmt.Errorf("cni.bin_dirs: %w", err)
		}
		count += len(entries)
	}
	if count == 0 {
		return "", fmt.Errorf("cni.bin_dirs %s: hold no plugin", strings.Join(c.CNI.BinDirs, ", "))
	}
	return fmt.Sprintf("%d files in %s", count, strings.Join(c.CNI.BinDirs, ", ")), nil
}

func checkConfiguration(_ context.Context, c *config.PodAgent, _ operate.Build) (string, error) {
	if c.NetworkSource != sourceCNI {
		return "each network's definition is used", nil
	}
	if _, err := cni.NodeConfig(noderoot.Root(c.NodeRoot), c.CNI.ConfigDir); err != nil {
		return "", err //nolint:wrapcheck // it names key and folder
	}
	return "the node's default network in " + c.CNI.ConfigDir, nil
}

// checkState looks whether the folder, or the one in which it would be made, can be used.
func checkState(_ context.Context, c *config.PodAgent, _ operate.Build) (string, error) {
	if os.Getuid() != 0 {
		return "", errors.New("pod-agent needs root, to enter network namespaces and to run plugins")
	}
	dir := c.StateDir
	for dir != filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && info.IsDir() {
			return dir, nil
		}
		if err == nil {
			return "", fmt.Errorf("%s is no folder", dir)
		}
		dir = filepath.Dir(dir)
	}
	return dir, nil
}

// checkAttached asks the plugins whether what they have attached is still as they made it (CNI CHECK). Of a meta plugin it
// looks for the interfaces: kactus has no CHECK.
func checkAttached(ctx context.Context, c *config.PodAgent, _ operate.Build) (string, error) {
	records, wrong, err := attachments.Peek(recordsDir(c)).Load()
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing yet", nil
	}
	if err != nil {
		return "", err //nolint:wrapcheck // it names the folder
	}
	plugins := newPlugins(c)
	checked := 0
	for _, r := range records {
		for _, a := range r.Attachments {
			if a.State != attachments.Attached {
				continue // under way
			}
			checked++
			look := plugins.Look
			if c.NetworkSource != sourceCNI && len(a.Result) > 0 {
				look = plugins.Check
			}
			if err := look(ctx, a); err != nil {
				wrong = append(wrong, fmt.Errorf("Pod %s/%s, network %s: %w", r.Namespace, r.Name, a.Path(), err)) //nolint:staticcheck // a Pod is called so
			}
		}
	}
	if len(wrong) > 0 {
		return "", errors.Join(wrong...)
	}
	return fmt.Sprintf("%d networks are as they were attached", checked), nil
}

func checkPods(ctx context.Context, c *config.PodAgent, build operate.Build) (string, error) {
	access, err := restConfig(c.Kubernetes, build)
	if err != nil {
		return "", err
	}
	client, err := dynamic.NewForConfig(access)
	if err != nil {
		return "", fmt.Errorf("access to the apiserver: %w", err)
	}
	list, err := client.Resource(podResource).List(ctx, metav1.ListOptions{
		FieldSelector: "spec.nodeName=" + c.NodeName, Limit: 500,
	})
	if err != nil {
		return "", fmt.Errorf("list the Pods of node %s (get, list and watch of pods are needed): %w", c.NodeName, err)
	}
	return fmt.Sprintf("%d Pods on node %s", len(list.Items), c.NodeName), nil
}
