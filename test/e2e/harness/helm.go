package harness

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

const (
	helmModule  = "helm.sh/helm/v3/cmd/helm"
	helmVersion = "v3.22.0"
	// helmKube is the minor release of Kubernetes that helm takes for the cluster's when it renders without one: that of
	// its client-go, as helm's own releases are stamped. Without the stamp it is one that the charts refuse.
	helmKube = "37"
)

// BuildHelm builds helm from its module once into the cache and returns its path.
func BuildHelm(ctx context.Context, progress io.Writer) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, fmt.Sprintf("helm-%s-1.%s-%s-%s", helmVersion, helmKube, runtime.GOOS, runtime.GOARCH))
	bin := filepath.Join(dir, "helm")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	// The working directory is one without a go.mod, so that no other module has a say in helm's dependencies. The go
	// command puts the finished file in its place at once.
	stamp := "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=" + helmKube + " -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=" + helmKube
	args := []string{"install", "-ldflags", "-s -w " + stamp, helmModule + "@" + helmVersion}
	err = goBuild(ctx, dir, []string{"GOBIN=" + dir, "GOFLAGS="}, args, "helm", progress)
	return bin, err
}
