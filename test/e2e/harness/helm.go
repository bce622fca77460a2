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
	helm3Module  = "helm.sh/helm/v3/cmd/helm"
	helm3Version = "v3.22.0"
	// helm3Kube is the minor release of Kubernetes that helm 3 takes for the cluster's when it renders without one: that of
	// its client-go, as helm's own releases are stamped. Without the stamp it is one that the charts refuse.
	helm3Kube = "37"

	// Helm 4 finds the release of its client-go by itself.
	helm4Module  = "helm.sh/helm/v4/cmd/helm"
	helm4Version = "v4.3.1"
)

// BuildHelm builds helm 3 from its module once into the cache and returns its path.
func BuildHelm(ctx context.Context, progress io.Writer) (string, error) {
	stamp := "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=" + helm3Kube + " -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=" + helm3Kube
	return buildHelm(ctx, helm3Version+"-1."+helm3Kube, helm3Module+"@"+helm3Version, stamp, progress)
}

// BuildHelm4 is BuildHelm for helm 4.
func BuildHelm4(ctx context.Context, progress io.Writer) (string, error) {
	return buildHelm(ctx, helm4Version, helm4Module+"@"+helm4Version, "", progress)
}

func buildHelm(ctx context.Context, version, module, stamp string, progress io.Writer) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, fmt.Sprintf("helm-%s-%s-%s", version, runtime.GOOS, runtime.GOARCH))
	bin := filepath.Join(dir, "helm")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	// The working directory is one without a go.mod, so that no other module has a say in helm's dependencies. The go
	// command puts the finished file in its place at once.
	args := []string{"install", "-ldflags", "-s -w " + stamp, module}
	err = goBuild(ctx, dir, []string{"GOBIN=" + dir, "GOFLAGS="}, args, "helm "+version, progress)
	return bin, err
}
