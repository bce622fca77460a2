package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// What docs/install*.md use for what everybody has of their own.
const (
	bookServer  = "deepflow-server.deepflow:20035"
	bookStatus  = "http://localhost:8080"
	bookCluster = "d-rrcmIdbEph"
	bookImage   = "dist/pseudo-agent-0.1.0-image.tar"
)

// book is docs/install*.md, followed in a copy of the checkout as it is now.
type book struct {
	t        *testing.T
	dir      string
	sections map[string][]string // the blocks of commands of each section
	untried  map[string]bool     // beginnings of commands that cannot be run here, and whether they occurred
	own      map[string]string   // what stands for what the book uses
	env      []string
}

func openBook(t *testing.T) *book {
	t.Helper()
	return openPages(t, "docs/install.md", "docs/install-without-helm.md", "docs/install-tests.md")
}

// openPages opens pages of the documentation.
func openPages(t *testing.T, pages ...string) *book {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	helmBin, err := buildHelm()
	if err != nil {
		t.Fatal(err)
	}
	b := &book{t: t, dir: t.TempDir(), sections: map[string][]string{}, untried: map[string]bool{}, own: map[string]string{
		"linux-amd64": "linux-" + runtime.GOARCH,
	}}
	// Without .git, as in a tarball of the sources.
	shell := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c",
		`git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read | tar --extract --directory="$0"`, b.dir)
	shell.Dir = root
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("copy the checkout: %v\n%s", err, out)
	}
	b.env = append(os.Environ(), "KUBECONFIG="+cluster.Kubeconfig,
		"PATH="+strings.Join([]string{filepath.Dir(bins.Kubectl), filepath.Dir(helmBin), os.Getenv("PATH")}, ":"))
	for _, page := range pages {
		b.read(page)
	}
	return b
}

var untriedRow = regexp.MustCompile("^\\| `([^`]+)` \\| .+ \\| .+ \\|$")

func (b *book) read(page string) {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, page))
	if err != nil {
		b.t.Fatal(err)
	}
	section, open := "", false
	for line := range strings.Lines(string(text)) {
		command, indented := strings.CutPrefix(line, "    ")
		blocks := b.sections[section]
		switch {
		case strings.HasPrefix(line, "## "):
			section = strings.TrimSpace(line[3:])
		case indented && open:
			blocks[len(blocks)-1] += command
		case indented:
			b.sections[section] = append(blocks, command)
		}
		if m := untriedRow.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			b.untried[m[1]] = false
		}
		open = indented
	}
}

// section returns the blocks of commands of a section, which the test has to know the number of.
func (b *book) section(name string, want int) []string {
	b.t.Helper()
	blocks := b.sections[name]
	if len(blocks) != want {
		b.t.Fatalf("the section %q has %d blocks of commands, want %d", name, len(blocks), want)
	}
	return blocks
}

// script is a block without what cannot be tried here, and with what this machine has in place of what the book uses.
func (b *book) script(block string) string {
	var out strings.Builder
lines:
	for line := range strings.Lines(block) {
		for command := range b.untried {
			if strings.HasPrefix(line, command) {
				b.untried[command] = true
				continue lines
			}
		}
		out.WriteString(line)
	}
	text := out.String()
	for theirs, ours := range b.own {
		text = strings.ReplaceAll(text, theirs, ours)
	}
	return text
}

// follow runs a block of commands and returns what it says.
func (b *book) follow(block string) string {
	b.t.Helper()
	script := b.script(block)
	// What a test removes at its end it removes after its context has ended.
	cmd := exec.CommandContext(context.WithoutCancel(b.t.Context()), "bash", "-euxo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = b.dir, b.env
	cmd.WaitDelay = time.Second // not for what runs on in the background
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		b.t.Fatalf("%v\n%s%s", err, &stderr, &stdout)
	}
	b.t.Logf("followed:\n%s%s", &stderr, &stdout)
	return stdout.String()
}

// simple selects what a cluster without any platform has, of objects that come after their owners.
func simple() func(*unstructured.Unstructured) bool {
	left := map[string]bool{}
	return func(obj *unstructured.Unstructured) bool {
		ok := slices.Contains([]string{"v1", "apps/v1", "networking.k8s.io/v1"}, obj.GetAPIVersion())
		for _, o := range obj.GetOwnerReferences() {
			ok = ok && o.APIVersion == "apps/v1" && !left[o.Kind+"/"+o.Name]
		}
		left[obj.GetKind()+"/"+obj.GetName()] = !ok
		return ok
	}
}

// server starts the server that the book speaks of.
func (b *book) server() *harness.Server {
	b.t.Helper()
	server, err := harness.NewServer(bins, b.t.TempDir(), "pseudo-server", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(server.Kill)
	if err := server.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.own[bookServer] = server.GRPC
	return server
}

// finish does what controllers do when the namespace is deleted.
func (b *book) finish() {
	b.t.Helper()
	ctx := context.Background() // the test's own may have ended
	if err := cluster.Dynamic.Resource(namespaces).Delete(ctx, releaseNamespace, metav1.DeleteOptions{}); err != nil && !notFound(err) {
		b.t.Error(err)
	}
	if err := sample.FinishNamespace(ctx, cluster.Dynamic, releaseNamespace); err != nil {
		b.t.Error(err)
	}
}

// TestInstallPage follows docs/install*.md with kubectl and helm on the real apiserver, and is the kubelet: it runs the image
// that was built as the Deployment says.
func TestInstallPage(t *testing.T) {
	b := openBook(t)
	load(t, simple())
	server := b.server()
	kubelet := mounts(t)
	if !kubelet {
		t.Log("this user may not mount anything: the image is not run")
	}

	for _, block := range b.section("Build", 2) {
		b.follow(block)
	}
	for _, block := range b.section("Configure", 2) {
		b.follow(block)
	}
	for _, way := range []struct {
		section string
		blocks  int // the last one removes what the others install
	}{{"With Helm", 2}, {"With plain manifests", 2}, {"Without Helm", 2}} {
		t.Run(way.section, func(t *testing.T) {
			sub := *b
			sub.t, sub.own = t, maps.Clone(b.own)
			t.Cleanup(sub.finish)
			blocks := sub.section(way.section, way.blocks)
			for _, block := range blocks[:way.blocks-1] {
				sub.follow(block)
			}
			if kubelet {
				sub.verify(server)
			}
			sub.follow(blocks[way.blocks-1])
			sub.nothingLeft(releaseName)
		})
	}
	for command, occurred := range b.untried {
		if !occurred {
			t.Errorf("%q is listed as what cannot be tried, but does not occur", command)
		}
	}
}

// mounts tells whether this user may mount file systems.
func mounts(t *testing.T) bool {
	t.Helper()
	return exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "mount", "--bind", "/", t.TempDir()).Run() == nil
}

// verify runs what was installed, follows the page's section about it, and ends it.
func (b *book) verify(server *harness.Server) {
	b.t.Helper()
	stop := b.beKubelet()
	for _, block := range b.section("Verify", 2) {
		said := b.follow(block)
		if strings.Contains(block, "/status") && !strings.HasPrefix(said, "pseudo-agent 0.1.0: OK") {
			b.t.Errorf("the status begins with %.100q, want the verdict OK", said)
		}
	}
	info, err := server.Cluster(b.t.Context(), bookCluster)
	if err != nil || info.Objects == 0 {
		b.t.Errorf("the server has %d objects of the cluster, want those that were loaded: %v", info.Objects, err)
	}
	stop()
}

// nothingLeft looks for what was not removed of a release.
func (b *book) nothingLeft(release string) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), bins.Kubectl, "-n", releaseNamespace, "get", "--ignore-not-found", "-o", "name",
		"deployments,services,serviceaccounts,configmaps,secrets,roles,rolebindings,clusterroles,clusterrolebindings")
	cmd.Env = b.env
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatal(err)
	}
	for name := range strings.Lines(string(out)) {
		if strings.HasSuffix(strings.TrimSpace(name), "/"+release) {
			b.t.Errorf("%s was not removed", strings.TrimSpace(name))
		}
	}
}

// podUser is the user and group of a Pod, which are those of the image unless the Pod names others.
func podUser(pod *corev1.PodSecurityContext) string {
	user, group := int64(65532), int64(65532)
	if pod.RunAsUser != nil {
		user = *pod.RunAsUser
	}
	if pod.RunAsGroup != nil {
		group = *pod.RunAsGroup
	}
	return fmt.Sprintf("%d:%d", user, group)
}

// beKubelet runs the container of the release's Deployment from the image that was built: on a read-only root, as the
// user that the Deployment names, without capabilities, with the mounts and the environment of a Pod. It returns when the
// container is ready, after which the Deployment's status says so, and a function that ends it.
func (b *book) beKubelet() (stop func()) {
	b.t.Helper()
	ctx := b.t.Context()
	deployments := cluster.Client.AppsV1().Deployments(releaseNamespace)
	deployment, err := deployments.Get(ctx, releaseName, metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	spec := deployment.Spec.Template.Spec
	container := spec.Containers[0]
	secure, pod := container.SecurityContext, spec.SecurityContext
	if !*secure.ReadOnlyRootFilesystem || *secure.AllowPrivilegeEscalation || !*pod.RunAsNonRoot {
		b.t.Errorf("got %+v, want a read-only root and no way to more rights", secure)
	}
	if want := "registry.example/observability/pseudo-agent:0.1.0"; container.Image != want {
		b.t.Errorf("the Deployment runs %s, want %s", container.Image, want)
	}
	dir := b.t.TempDir()
	// A Pod's volumes are reachable for its user, whose way leads through the test's folders.
	for at := dir; at != os.TempDir(); at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	root := filepath.Join(dir, "root")
	entrypoint := unpack(b.t, filepath.Join(b.dir, bookImage), root)
	mounts := map[string]string{"/var/run/secrets/kubernetes.io/serviceaccount": b.serviceAccount(spec.ServiceAccountName)}
	for _, m := range container.VolumeMounts {
		mounts[m.MountPath] = b.volume(spec.Volumes, m.Name)
	}
	port, err := harness.FreePort()
	if err != nil {
		b.t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	b.own[bookStatus] = "http://" + address

	script := `mount --bind "$ROOT" "$ROOT"` + "\n"
	for at, from := range mounts {
		if err := os.MkdirAll(filepath.Join(root, at), 0o755); err != nil {
			b.t.Fatal(err)
		}
		script += fmt.Sprintf("mount --bind %q \"$ROOT\"%q\nmount -o remount,ro,bind \"$ROOT\"%q\n", from, at, at)
	}
	script += `mount -o remount,ro,bind "$ROOT"; exec setpriv --no-new-privs chroot --userspec="$POD_USER" --groups= "$ROOT" "$@"`
	args := slices.Concat([]string{"--mount", "--propagation", "private", "bash", "-euo", "pipefail", "-c", script, "kubelet"},
		entrypoint, container.Args)
	cmd := exec.CommandContext(ctx, "unshare", args...)
	host, hostPort, err := net.SplitHostPort(strings.TrimPrefix(cluster.URL, "https://"))
	if err != nil {
		b.t.Fatal(err)
	}
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "ROOT=" + root, "POD_USER=" + podUser(pod),
		"KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + hostPort,
		// The Pod's own network, in which nobody else has this port.
		"PSEUDO_AGENT_HTTP_ADDRESS=" + address,
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.After(time.Minute)
	for !answers(ctx, "http://"+address+container.ReadinessProbe.HTTPGet.Path) {
		select {
		case err := <-ended:
			b.t.Fatalf("the container has ended: %v\n%s", err, &log)
		case <-deadline:
			b.t.Fatalf("the container is not ready: %v\n%s", errors.Join(cmd.Process.Kill(), <-ended), &log)
		case <-time.After(100 * time.Millisecond):
		}
	}
	b.confined(cmd.Process.Pid, strings.Split(podUser(pod), ":")[0])

	deployment.Status = appsv1.DeploymentStatus{
		ObservedGeneration: deployment.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1,
	}
	if _, err := deployments.UpdateStatus(ctx, deployment, metav1.UpdateOptions{}); err != nil {
		b.t.Error(err)
	}
	return func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			b.t.Error(err)
		}
		if err := <-ended; err != nil {
			b.t.Errorf("the container ends with %v\n%s", err, &log)
		}
	}
}

// confined reads from the kernel what the process may do.
func (b *book) confined(pid int, user string) {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		got[key] = strings.Join(strings.Fields(value), " ")
	}
	const none = "0000000000000000"
	ids := strings.Join([]string{user, user, user, user}, " ")
	for key, want := range map[string]string{"Uid": ids, "Gid": ids, "Groups": "", "NoNewPrivs": "1", "CapEff": none, "CapPrm": none, "CapAmb": none} {
		if got[key] != want {
			b.t.Errorf("%s of the process is %q, want %q", key, got[key], want)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", pid))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); !slices.Contains(strings.Split(fields[3], ","), "ro") {
			b.t.Errorf("%s is writable for the process", fields[1])
		}
	}
}

func answers(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// serviceAccount makes the folder that a kubelet mounts into each container.
func (b *book) serviceAccount(name string) string {
	b.t.Helper()
	token, err := cluster.Client.CoreV1().ServiceAccounts(releaseNamespace).
		CreateToken(b.t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	ca, err := os.ReadFile(cluster.CAFile)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.folder(map[string]string{"token": token.Status.Token, "ca.crt": string(ca), "namespace": releaseNamespace})
}

// volume makes the folder of a ConfigMap.
func (b *book) volume(volumes []corev1.Volume, name string) string {
	b.t.Helper()
	i := slices.IndexFunc(volumes, func(v corev1.Volume) bool { return v.Name == name })
	if i < 0 || volumes[i].ConfigMap == nil {
		b.t.Fatalf("there is no ConfigMap volume %s", name)
	}
	m, err := cluster.Client.CoreV1().ConfigMaps(releaseNamespace).Get(b.t.Context(), volumes[i].ConfigMap.Name, metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	return b.folder(m.Data)
}

func (b *book) folder(files map[string]string) string {
	b.t.Helper()
	dir := b.t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	return dir
}

// unpack makes a root file system of this machine's image in the file, and returns its entrypoint.
func unpack(t *testing.T, file, root string) []string {
	t.Helper()
	blobs := map[string][]byte{}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	eachFile(t, f, func(h *tar.Header, content []byte) { blobs[h.Name] = content })
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(blobs["manifest.json"], &images); err != nil {
		t.Fatal(err)
	}
	for _, image := range images {
		var config struct {
			Architecture string
			Config       struct {
				User       string
				Entrypoint []string
			}
		}
		if err := json.Unmarshal(blobs[image.Config], &config); err != nil {
			t.Fatal(err)
		}
		if config.Architecture != runtime.GOARCH {
			continue
		}
		if config.Config.User != "65532:65532" {
			t.Errorf("the image's user is %q, want nobody's", config.Config.User)
		}
		for _, layer := range image.Layers {
			content, err := gzip.NewReader(bytes.NewReader(blobs[layer]))
			if err != nil {
				t.Fatal(err)
			}
			eachFile(t, content, func(h *tar.Header, content []byte) {
				path := filepath.Join(root, h.Name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if h.Typeflag == tar.TypeReg {
					if err := os.WriteFile(path, content, h.FileInfo().Mode()); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
		return config.Config.Entrypoint
	}
	t.Fatalf("%s has no image for %s", file, runtime.GOARCH)
	return nil
}

func eachFile(t *testing.T, from io.Reader, f func(*tar.Header, []byte)) {
	t.Helper()
	for in := tar.NewReader(from); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		f(h, content)
	}
}

// TestPlainManifestIsTheCharts compares packaging/pseudo-agent.yaml with what the chart makes of its default values.
func TestPlainManifestIsTheCharts(t *testing.T) {
	text, err := os.ReadFile("../../packaging/pseudo-agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	bare := func(objs []*unstructured.Unstructured) map[string]map[string]any {
		out := map[string]map[string]any{}
		for _, o := range objs {
			o.SetLabels(nil)
			unstructured.RemoveNestedField(o.Object, "metadata", "namespace")
			unstructured.RemoveNestedField(o.Object, "spec", "selector")
			unstructured.RemoveNestedField(o.Object, "spec", "template", "metadata")
			for _, id := range []string{"runAsUser", "runAsGroup", "fsGroup"} { // the plain one runs on OpenShift, too
				unstructured.RemoveNestedField(o.Object, "spec", "template", "spec", "securityContext", id)
			}
			out[o.GetKind()] = o.Object
		}
		return out
	}
	plain := bare(documents(t, string(text)))
	chart := bare(render(t, "pseudo-agent", filepath.Join(chartsDir, "pseudo-agent/ci/minimal-values.yaml")))
	for _, kind := range []string{"ConfigMap", "ClusterRole", "ClusterRoleBinding"} {
		delete(chart, kind) // made on the spot
	}
	if d := cmp.Diff(chart, plain); d != "" {
		t.Errorf("the plain manifest differs from the chart (-chart +plain):\n%s", d)
	}
}

// The machine that TestInstallPageWithSystemd boots has its services from these files, and the host's files otherwise.
const (
	bookTarget = `[Unit]
Requires=basic.target
After=basic.target
Wants=book.service
`
	bookUnit = `[Unit]
After=basic.target
[Service]
Type=oneshot
WorkingDirectory=/book
ExecStart=/usr/bin/bash -euxo pipefail /book/follow.sh
ExecStopPost=/usr/bin/systemctl poweroff --no-block
StandardOutput=file:/book/said
StandardError=file:/book/said
`
	// bookAfterwards is what the page promises: the program is ready, is started again after it was killed, and the secret
	// is readable for nobody but root and the program.
	bookAfterwards = `
set +x
ready() {
	for _ in {1..300}; do curl -fso /dev/null "$1/healthz/ready" && return; sleep 0.2; done
	journalctl --no-pager -u pseudo-agent
	return 1
}
ready "$1"
systemctl show pseudo-agent -p MainPID --value >first
systemctl kill --signal=SIGKILL --kill-whom=main pseudo-agent
for _ in {1..300}; do [[ $(systemctl show pseudo-agent -p NRestarts --value) = 1 ]] && break; sleep 0.2; done
ready "$1"
pid=$(systemctl show pseudo-agent -p MainPID --value)
echo "$pid" >second
cat "/proc/$pid/status" >status
ls -l /etc/pseudo-agent
systemctl show pseudo-agent -p NRestarts -p ActiveState -p DynamicUser -p MemoryMax
curl -fs "$1/status?format=text" >page
systemctl stop pseudo-agent
systemctl show pseudo-agent -p Result -p ExecMainStatus >stopped
touch done
`
)

// TestInstallPageWithSystemd follows the section for machines outside of the cluster on a real systemd, which is the first
// process of a container with the host's files, none of which it can change.
func TestInstallPageWithSystemd(t *testing.T) {
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		t.Skip("systemd-nspawn is not installed (Debian's package systemd-container)")
	}
	if out, err := nspawn(t.Context(), t.TempDir(), "/usr/bin/true").CombinedOutput(); err != nil {
		t.Skipf("a container cannot be started here: %v\n%s", err, out)
	}
	b := openBook(t)
	load(t, simple())
	b.server()
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	status := fmt.Sprintf("http://127.0.0.1:%d", port)
	t.Cleanup(b.finish)
	onlyPrograms, _, _ := strings.Cut(b.section("Build", 2)[0], "\n")
	b.follow(onlyPrograms)
	b.follow(b.section("Configure", 2)[0])
	blocks := b.section("Without permission to deploy", 3)
	b.follow(blocks[0])
	b.follow(blocks[1])
	t.Cleanup(func() {
		b.follow("bin/pseudo-agent rbac --config config.yaml -n deepflow | kubectl delete -f -")
	})

	// The machine shares the test's network, where the page's port may be somebody else's.
	config := filepath.Join(b.dir, "config.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text = fmt.Appendf(text, "http: {address: 127.0.0.1:%d}\n", port)
	dist := filepath.Join(b.dir, "dist")
	kubeconfig, err := os.ReadFile(filepath.Join(b.dir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"config.yaml": string(text), "kubeconfig": string(kubeconfig),
		"follow.sh": "set -- " + status + "\n" + b.script(blocks[2]) + bookAfterwards, "book.target": bookTarget, "book.service": bookUnit,
	} {
		if err := os.WriteFile(filepath.Join(dist, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.boot(dist)
	said, err := os.ReadFile(filepath.Join(dist, "said"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dist, "done")); err != nil {
		t.Fatalf("the machine did not come to the end:\n%s", said)
	}
	t.Logf("the machine said:\n%s", said)
	got := map[string]string{}
	for _, name := range []string{"first", "second", "status", "page", "stopped"} {
		content, err := os.ReadFile(filepath.Join(dist, name))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = string(content)
	}
	if got["first"] == got["second"] {
		t.Errorf("the killed program has still the process id %s", got["first"])
	}
	if !strings.HasPrefix(got["page"], "pseudo-agent 0.1.0: OK") {
		t.Errorf("the status begins with %.100q, want the verdict OK", got["page"])
	}
	if want := "Result=success\nExecMainStatus=0\n"; got["stopped"] != want {
		t.Errorf("stopping ends with %q, want %q", got["stopped"], want)
	}
	for _, want := range []string{"NoNewPrivs:\t1\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "Seccomp:\t2\n"} {
		if !strings.Contains(got["status"], want) {
			t.Errorf("the program's process does not have %q:\n%s", want, got["status"])
		}
	}
	if strings.Contains(got["status"], "Uid:\t0") {
		t.Error("the program runs as root")
	}
}

// nspawn is a container with a copy of the host's files in memory. The folder becomes its root.
func nspawn(ctx context.Context, root string, args ...string) *exec.Cmd {
	const script = `mount --bind / "$1"; exec systemd-nspawn --quiet --directory="$1" --volatile=overlay --register=no --keep-unit --machine=book "${@:2}"`
	cmd := exec.CommandContext(ctx, "unshare", slices.Concat(
		[]string{"--mount", "--propagation", "private", "bash", "-euc", script, "nspawn", root}, args)...)
	// In order, so that what it mounted goes with it.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

// boot starts a systemd that sees the folder as /book, and waits until it has powered itself off.
func (b *book) boot(dir string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 3*time.Minute)
	defer cancel()
	const units = "/etc/systemd/system/"
	out, err := nspawn(ctx, b.t.TempDir(), "--bind="+dir+":/book", "--bind-ro="+dir+"/book.target:"+units+"book.target",
		"--bind-ro="+dir+"/book.service:"+units+"book.service", "--boot", "systemd.unit=book.target").CombinedOutput()
	if err != nil {
		said, _ := os.ReadFile(filepath.Join(dir, "said"))
		b.t.Fatalf("%v\n%s\n%s", err, out, said)
	}
}
