package nodetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/node/node"
)

// Who may push and pull, with the hash of the password as htpasswd writes it.
const (
	registryUser     = "founder"
	registryPassword = "only-for-this-test"
	registryHash     = "$2a$05$l77ZtpoNt7uwL6hqZt3/LuxGC7oehqH3UD3P6ZoFw0JtfqcwMmFtW"
)

// startRegistry starts a registry that wants a password, until the test ends, and returns its host and port. It is at the
// Pods' gateway, an address of a private network, which needs no TLS for those who push.
func startRegistry(t *testing.T) string {
	t.Helper()
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("10.244.0.1:%d", port)
	dir := filepath.Join(cluster.Place.Dir, "registry")
	hosts := filepath.Join(cluster.Place.Dir, "registries", address)
	config := fmt.Sprintf(`version: 0.1
log: {level: info}
storage:
  filesystem: {rootdirectory: %[1]s/data}
http: {addr: "%[2]s", secret: not-one}
auth:
  htpasswd: {realm: test, path: %[1]s/htpasswd}
`, dir, address)
	err = errors.Join(os.MkdirAll(dir, 0o700), os.MkdirAll(hosts, 0o700),
		os.WriteFile(filepath.Join(dir, "htpasswd"), []byte(registryUser+":"+registryHash+"\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600),
		os.WriteFile(filepath.Join(hosts, "hosts.toml"), fmt.Appendf(nil, "server = %[1]q\n[host.%[1]q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+address), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	p, err := harness.StartProcess(harness.Command{
		Name: "registry", Path: services.Registry, Dir: cluster.Place.Dir, Args: []string{"serve", filepath.Join(dir, "config.yml")},
		Env: []string{"OTEL_TRACES_EXPORTER=none"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Log(p.Tail(10))
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = p.WaitReady(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			return fmt.Errorf("without a password it answers %s", resp.Status)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return address
}

var pushed = regexp.MustCompile(`(?m)^pushed  (\S+)@(sha256:[0-9a-f]{64})$`)

// pushImages runs `make image PUSH=` with the password that `docker login` would have saved, and returns the digest of each
// program's image.
func pushImages(t *testing.T, prefix, host string) map[string]string {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	login, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"username": registryUser, "password": registryPassword}}})
	if err != nil {
		t.Fatal(err)
	}
	docker := t.TempDir()
	if err := os.WriteFile(filepath.Join(docker, "config.json"), login, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := filepath.Rel(root, filepath.Join(cluster.Place.Dir, "pushed"))
	if err != nil {
		t.Fatal(err)
	}
	// Another version than that of the images on the node, so that these cannot be what is run.
	cmd := exec.CommandContext(t.Context(), "make", "image", "VERSION="+node.Version+"-pushed", "PUSH="+prefix)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "OUT="+out, "MAKEFLAGS=", "DOCKER_CONFIG="+docker)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("make image: %v\n%s%s", err, &stdout, &stderr)
	}
	digests := map[string]string{}
	for _, m := range pushed.FindAllStringSubmatch(stdout.String(), -1) {
		name, _, _ := strings.Cut(strings.TrimPrefix(m[1], prefix), ":")
		digests[name] = m[2]
	}
	if digests["pseudo-agent"] == "" || digests["pseudo-server"] == "" {
		t.Fatalf("make image says:\n%s", &stdout)
	}
	return digests
}

// `make image PUSH=` pushes to a registry with a password, and the kubelet pulls from it by digest with a Secret; without the
// Secret it says why it does not.
func TestRegistry(t *testing.T) {
	const release, id = "pulled-pseudo-agent", "d-nodepulled"
	serverRelease(t)
	host := startRegistry(t)
	prefix := host + "/observability/"
	digest := pushImages(t, prefix, host)["pseudo-agent"]

	kubectl(t, "create", "secret", "docker-registry", "pull", "-n", namespace,
		"--docker-server="+host, "--docker-username="+registryUser, "--docker-password="+registryPassword)
	install := func(verb string, more ...string) {
		helm(t, append([]string{
			verb, release, "charts/pseudo-agent", "-n", namespace,
			"--set", "image.registry=" + prefix, "--set", "image.digest=" + digest,
			"--set", "config.server.addresses={deepflow-server.deepflow:20035}", "--set", "config.cluster_id=" + id,
		}, more...)...)
	}
	install("install")
	t.Cleanup(func() {
		if err := cluster.Helm(context.WithoutCancel(t.Context()), "uninstall", release, "-n", namespace, "--wait"); err != nil {
			t.Error(err)
		}
	})
	eventually(t, time.Minute, "a refused pull", func(context.Context) error {
		for _, p := range pods(t, namespace, release) {
			for _, s := range p.Status.ContainerStatuses {
				if w := s.State.Waiting; w != nil && strings.Contains(w.Message, "401 Unauthorized") {
					return nil
				}
			}
		}
		return errors.New(cluster.Describe(t.Context(), namespace))
	})
	install("upgrade", "--set", "imagePullSecrets[0].name=pull")
	installed(t, namespace, release)
	p := pod(t, namespace, release)
	if got := p.Status.ContainerStatuses[0].ImageID; !strings.HasSuffix(got, digest) {
		t.Errorf("the image is %s, want digest %s", got, digest)
	}
	isOK(t, p)
	arrived(t, id)
	confined(t, p)
}
