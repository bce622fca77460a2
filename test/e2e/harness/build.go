package harness

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// Binaries are the paths of the programs that the tests run.
type Binaries struct {
	KubeVersion string // for example v1.35.4
	Etcd        string
	APIServer   string
	Kubectl     string
	Agent       string
	Server      string
}

const rootModule = "module github.com/pseudo-agent/pseudo-agent\n"

// Root returns the repository's top folder: the nearest one above the working directory that holds the main module.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), rootModule) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no folder above the working directory holds the pseudo-agent module")
		}
		dir = parent
	}
}

// cacheDir is where binaries that outlive a checkout are kept: $PSEUDO_CACHE or the user's cache folder.
func cacheDir() (string, error) {
	if dir := os.Getenv("PSEUDO_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder (set PSEUDO_CACHE to one): %w", err)
	}
	return filepath.Join(dir, "pseudo-agent"), nil
}

// Build builds all binaries: those of Kubernetes once per release into the cache (minutes on a cold machine), those of
// this repository into dir. If $E2E_BINARIES names a folder, the pseudo-agent and pseudo-server in it are taken instead,
// for example those of a release or with the race detector. What takes longer than a moment is told on progress.
func Build(ctx context.Context, dir string, progress io.Writer) (Binaries, error) {
	root, err := Root()
	if err != nil {
		return Binaries{}, err
	}
	b, err := BuildKube(ctx, progress)
	if err != nil {
		return Binaries{}, err
	}
	made := os.Getenv("E2E_BINARIES")
	if made != "" {
		dir = made
	}
	b.Agent, b.Server = filepath.Join(dir, "pseudo-agent"), filepath.Join(dir, "pseudo-server")
	if made != "" {
		return b, nil
	}
	args := []string{"build", "-o", dir + string(filepath.Separator), "./cmd/pseudo-agent", "./cmd/pseudo-server"}
	if err := goBuild(ctx, root, nil, args, "pseudo-agent and pseudo-server", progress); err != nil {
		return Binaries{}, err
	}
	return b, nil
}

var kubeRequire = regexp.MustCompile(`(?m)^\s*(?:require )?k8s\.io/kubernetes v(\d+)\.(\d+)\.(\d+)`)

// BuildKube builds etcd, kube-apiserver and kubectl alone, as Build does.
func BuildKube(ctx context.Context, progress io.Writer) (Binaries, error) {
	dir, version, err := buildKube(ctx, "kube", "3 to 6 minutes", progress,
		"k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kubectl", "go.etcd.io/etcd/server/v3")
	return Binaries{
		KubeVersion: version,
		Etcd:        filepath.Join(dir, "server"), // named after the last element of go.etcd.io/etcd/server/v3
		APIServer:   filepath.Join(dir, "kube-apiserver"),
		Kubectl:     filepath.Join(dir, "kubectl"),
	}, err
}

// BuildNode builds kube-controller-manager, kube-scheduler, kube-proxy and kubelet, of the same release and as
// BuildKube does, and returns the folder that holds them.
func BuildNode(ctx context.Context, progress io.Writer) (string, error) {
	dir, _, err := buildKube(ctx, "node", "4 to 8 minutes", progress,
		"k8s.io/kubernetes/cmd/kube-controller-manager", "k8s.io/kubernetes/cmd/kube-proxy",
		"k8s.io/kubernetes/cmd/kube-scheduler", "k8s.io/kubernetes/cmd/kubelet")
	return dir, err
}

// buildKube builds packages of the module test/e2e/kube once into a folder of the cache, and returns it and the release
// of Kubernetes.
func buildKube(ctx context.Context, set, takes string, progress io.Writer, packages ...string) (dir, version string, err error) {
	root, err := Root()
	if err != nil {
		return "", "", err
	}
	moduleDir := filepath.Join(root, "test", "e2e", "kube")
	mod, err := os.ReadFile(filepath.Join(moduleDir, "go.mod"))
	if err != nil {
		return "", "", err
	}
	m := kubeRequire.FindStringSubmatch(string(mod))
	if m == nil {
		return "", "", fmt.Errorf("%s/go.mod does not require k8s.io/kubernetes", moduleDir)
	}
	version = fmt.Sprintf("v%s.%s.%s", m[1], m[2], m[3])
	const stamp = "-X k8s.io/component-base/version."
	ldflags := fmt.Sprintf("-s -w %[1]sgitVersion=%[2]s %[1]sgitMajor=%[3]s %[1]sgitMinor=%[4]s", stamp, version, m[1], m[2])
	// The whole go.mod is part of the key: another etcd or another toolchain is another binary.
	sum := sha256.Sum256(fmt.Appendf(mod, "%s %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH))
	dir, err = once(fmt.Sprintf("%s-%s-%x", set, version, sum[:4]), func(tmp string) error {
		var names []string
		for _, p := range packages {
			names = append(names, strings.TrimPrefix(strings.TrimSuffix(p, "/server/v3"), "k8s.io/kubernetes/cmd/"))
		}
		fmt.Fprintf(progress, "building %s of Kubernetes %s; once, %s on two cores\n", strings.Join(names, ", "), version, takes)
		args := append([]string{"build", "-v", "-o", tmp + string(filepath.Separator), "-ldflags", ldflags}, packages...)
		return goBuild(ctx, moduleDir, []string{"CGO_ENABLED=0"}, args, "Kubernetes "+version, progress)
	})
	return dir, version, err
}

// once returns the folder of that name in the cache. If there is none, build fills it, of which only a success is kept.
func once(name string, build func(tmp string) error) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o750); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // nothing is left in it after success
	if err := build(tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil {
		// Somebody else may have built the same at the same time.
		if _, statErr := os.Stat(dir); statErr != nil {
			return "", err
		}
	}
	return dir, nil
}

// BuildTools builds commands of one version of a module once into the cache and returns the folder that holds them. The
// name is that of the folder.
func BuildTools(ctx context.Context, name, version string, progress io.Writer, packages ...string) (string, error) {
	return once(fmt.Sprintf("%s-%s-%s-%s", name, version, runtime.GOOS, runtime.GOARCH), func(tmp string) error {
		// The working directory is one without a go.mod, so that no other module has a say in the dependencies.
		args := []string{"install", "-ldflags", "-s -w"}
		for _, p := range packages {
			args = append(args, p+"@"+version)
		}
		return goBuild(ctx, tmp, []string{"GOBIN=" + tmp, "GOFLAGS=", "CGO_ENABLED=0"}, args, name, progress)
	})
}

// goBuild runs the go command and tells every ten seconds how far it is.
func goBuild(ctx context.Context, dir string, env, args []string, what string, progress io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GOWORK=off"), env...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build %s: %w", what, err)
	}
	var messages bytes.Buffer
	compiled, downloaded, told := 0, 0, start
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "go: downloading"):
			downloaded++
		case !strings.ContainsAny(line, " :"): // -v: the path of a package that has to be compiled
			compiled++
		default:
			fmt.Fprintln(&messages, line)
		}
		if time.Since(told) >= 10*time.Second {
			told = time.Now()
			fmt.Fprintf(progress, "  %s: %d modules downloaded, %d packages compiled, %s\n",
				what, downloaded, compiled, time.Since(start).Round(time.Second))
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", what, err, messages.String())
	}
	if d := time.Since(start); d > 10*time.Second {
		fmt.Fprintf(progress, "  %s: built in %s\n", what, d.Round(time.Second))
	}
	return nil
}
