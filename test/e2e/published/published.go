// Package published installs CustomResourceDefinitions as their projects publish them.
//
// It relies on the go command: the projects' releases are pinned with their checksums in the module ../crds, and read
// from the module cache, where the go command puts them after it has verified them. Nothing of them is copied here.
package published

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// CRD is a definition in a file of a module.
type CRD struct {
	Module, File string
}

// The definitions of the platforms that publish them in Go modules.
var (
	CloneSets = CRD{"github.com/openkruise/kruise", "config/crd/bases/apps.kruise.io_clonesets.yaml"}
	// AdvancedStatefulSets are served as v1alpha1 and v1beta1.
	AdvancedStatefulSets = CRD{"github.com/openkruise/kruise", "config/crd/bases/apps.kruise.io_statefulsets.yaml"}
	Routes               = CRD{"github.com/openshift/api", "route/v1/zz_generated.crd-manifests/routes-Default.crd.yaml"}
	Rollouts             = CRD{"github.com/argoproj/argo-rollouts", "manifests/crds/rollout-crd.yaml"}
)

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// Install creates the definition and waits until it is established.
func (c CRD) Install(ctx context.Context, client dynamic.Interface) error {
	dir, err := moduleDir(ctx, c.Module)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(c.File)))
	if err != nil {
		return fmt.Errorf("read the CRD that %s publishes: %w", c.Module, err)
	}
	obj := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(text, &obj.Object); err != nil {
		return fmt.Errorf("read the CRD that %s publishes: %w", c.Module, err)
	}
	// Some generators leave a status without conditions, which the apiserver refuses.
	unstructured.RemoveNestedField(obj.Object, "status")
	if _, err := client.Resource(crdResource).Create(ctx, obj, v1.CreateOptions{}); err != nil {
		return fmt.Errorf("install %s: %w", c.File, err)
	}
	return established(ctx, client, obj.GetName())
}

func established(ctx context.Context, client dynamic.Interface, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		obj, err := client.Resource(crdResource).Get(ctx, name, v1.GetOptions{})
		if err != nil {
			return fmt.Errorf("wait for CRD %s: %w", name, err)
		}
		status, _ := obj.Object["status"].(map[string]any)
		conditions, _ := status["conditions"].([]any)
		for _, c := range conditions {
			if m, ok := c.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for CRD %s: %w", name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// moduleDir returns where the pinned release of a module is, after downloading and verifying it if need be.
func moduleDir(ctx context.Context, module string) (string, error) {
	root, err := harness.Root()
	if err != nil {
		return "", err
	}
	pins := filepath.Join(root, "test", "e2e", "crds")
	var mod struct {
		Require []struct{ Path, Version string }
	}
	if err := goJSON(ctx, pins, &mod, "mod", "edit", "-json"); err != nil {
		return "", err
	}
	for _, r := range mod.Require {
		if r.Path != module {
			continue
		}
		var found struct{ Dir string }
		err := goJSON(ctx, pins, &found, "mod", "download", "-json", r.Path+"@"+r.Version)
		return found.Dir, err
	}
	return "", fmt.Errorf("%s/go.mod does not require %s", pins, module)
}

func goJSON(ctx context.Context, dir string, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go %v: %w: %s%s", args, err, out, stderr.Bytes())
	}
	return json.Unmarshal(out, into)
}
