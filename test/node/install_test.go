package nodetest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pseudo-agent/pseudo-agent/test/node/node"
)

// serverRelease installs a pseudo-server with the chart's defaults, unless it is there already.
func serverRelease(t *testing.T) {
	t.Helper()
	if len(pods(t, namespace, "pseudo-server")) == 0 {
		helm(t, "install", "pseudo-server", "charts/pseudo-server", "-n", namespace, "--set", "image.tag="+node.Version)
	}
	installed(t, namespace, "pseudo-server")
}

// agentRelease installs a pseudo-agent as install.md says, for a cluster id of its own, and removes it when the test ends.
func agentRelease(t *testing.T, name, id string, args ...string) {
	t.Helper()
	serverRelease(t)
	all := append([]string{
		"install", name, "charts/pseudo-agent", "-n", namespace, "--set", "image.tag=" + node.Version,
		"--set", "config.server.addresses={deepflow-server.deepflow:20035}", "--set", "config.cluster_id=" + id,
	}, args...)
	helm(t, all...)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			logs, _ := cluster.KubectlOutput(ctx, "logs", "-n", namespace, "-l", "app.kubernetes.io/instance="+name, "--tail=20")
			t.Logf("%s\n%s", cluster.Describe(ctx, namespace), logs)
		}
		if err := cluster.Helm(ctx, "uninstall", name, "-n", namespace, "--wait"); err != nil {
			t.Error(err)
		}
	})
	installed(t, namespace, fullname(name))
}

// fullname is the name that the chart gives the objects of a release.
func fullname(release string) string {
	if strings.Contains(release, "pseudo-agent") {
		return release
	}
	return release + "-pseudo-agent"
}

// Both charts with their defaults, in a namespace that enforces the restricted Pod security standard: Pods are Ready, the
// report arrives through the cluster's Service and DNS, and the commands of the documents that need a kubelet work.
func TestInstall(t *testing.T) {
	const id = "d-nodeinstal"
	agentRelease(t, "pseudo-agent", id)
	agent, server := pod(t, namespace, "pseudo-agent"), pod(t, namespace, "pseudo-server")
	isOK(t, agent)
	if r := arrived(t, id); r.Reporter.SourceIP != agent.Status.PodIP {
		t.Errorf("the report came from %s, want the Pod's address %s", r.Reporter.SourceIP, agent.Status.PodIP)
	}
	for _, p := range []corev1.Pod{agent, server} {
		confined(t, p)
	}
	out := kubectl(t, "-n", namespace, "exec", "deployment/pseudo-agent", "--", "/pseudo-agent", "check", "--config", "/etc/pseudo-agent/config.yaml")
	if !strings.Contains(out, "server keeps") {
		t.Errorf("pseudo-agent check in the Pod says:\n%s", out)
	}
	if logs := kubectl(t, "-n", namespace, "logs", "deployment/pseudo-agent"); !strings.Contains(logs, id) {
		t.Errorf("the log does not name the cluster:\n%s", logs)
	}
	stays(t, namespace, "pseudo-agent")
	isOK(t, agent)
	stays(t, namespace, "pseudo-server")
	port := forward(t, "deployment/pseudo-agent", "8080")
	text, err := fetch(t.Context(), "http://localhost:"+port+"/status?format=text")
	if err != nil || !strings.Contains(text, ": OK - cluster "+id) {
		t.Errorf("status through port-forward: %v\n%s", err, text)
	}
}

var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+) `)

// forward runs `kubectl port-forward` until the test ends and returns the local port.
func forward(t *testing.T, target, port string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), cluster.Bins.Kubectl, "-n", namespace, "port-forward", target, ":"+port)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.Kubeconfig)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if m := forwarding.FindStringSubmatch(lines.Text()); m != nil {
			return m[1]
		}
	}
	t.Fatalf("kubectl port-forward %s %s ended without a port", target, port)
	return ""
}

// process returns the id of the program of the Pod's container, as the sandbox sees it.
func process(t *testing.T, p corev1.Pod) string {
	t.Helper()
	_, container, ok := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	if !ok {
		t.Fatalf("Pod %s has no container:\n%s", p.Name, cluster.Describe(t.Context(), p.Namespace))
	}
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		// A process may have ended since.
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), container) {
			return filepath.Base(filepath.Dir(f))
		}
	}
	t.Fatalf("no process is in the cgroup of %s", container)
	return ""
}

// confined checks that the kernel holds the Pod's program to what the restricted standard wants, and more.
func confined(t *testing.T, p corev1.Pod) {
	t.Helper()
	confinedAs(t, p, "65532", "65532")
}

func confinedAs(t *testing.T, p corev1.Pod, user, group string) {
	t.Helper()
	dir := "/proc/" + process(t, p)
	text, err := os.ReadFile(dir + "/status")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		got[key] = strings.Join(strings.Fields(value), " ")
	}
	none := strings.Repeat("0", 16)
	for key, want := range map[string]string{
		"Uid": strings.TrimSpace(strings.Repeat(user+" ", 4)), "Gid": strings.TrimSpace(strings.Repeat(group+" ", 4)), "CapEff": none, "CapPrm": none, "CapBnd": none,
		"NoNewPrivs": "1", "Seccomp": "2",
	} {
		if got[key] != want {
			t.Errorf("%s: %s is %q, want %q", p.Name, key, got[key], want)
		}
	}
	mounts, err := os.ReadFile(dir + "/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	root, _, _ := strings.Cut(string(mounts), "\n")
	if fields := strings.Fields(root); len(fields) < 6 || fields[4] != "/" || !strings.HasPrefix(fields[5], "ro") {
		t.Errorf("%s: the root file system is not read-only: %s", p.Name, root)
	}
}

// Every example of pseudo-agent's chart, all at the same time, each as a cluster of its own.
func TestAgentExamples(t *testing.T) { //nolint:tparallel // the other tests need the node for themselves
	serverRelease(t)
	prepareExamples(t)
	constrain(t, namespace, "openshift")
	for i, file := range examples(t, "pseudo-agent") {
		name := strings.TrimSuffix(filepath.Base(file), "-values.yaml")
		if name == "tls" {
			continue // needs a server with TLS: TestLifecycle
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := fmt.Sprintf("d-example%03d", i)
			args := []string{
				"install", name, "charts/pseudo-agent", "-n", namespace, "-f", file,
				"--set", "image.repository=pseudo-agent", "--set", "image.tag=" + node.Version, "--set", "image.pullPolicy=IfNotPresent",
			}
			args = append(args, onNode(name)...)
			if name == "deepflow-files" {
				id = "d-rrcmIdbEph" // the file's
			} else {
				args = append(args, "--set", "config.cluster_id="+id)
			}
			helm(t, args...)
			t.Cleanup(func() {
				if err := cluster.Helm(context.WithoutCancel(t.Context()), "uninstall", name, "-n", namespace); err != nil {
					t.Error(err)
				}
			})
			installed(t, namespace, fullname(name))
			for _, p := range pods(t, namespace, name) {
				if name == "openshift" {
					confinedAs(t, p, sccUser, "0")
				} else {
					confined(t, p)
				}
				if name != "replicas" && name != "standing-by" {
					isOK(t, p)
				}
			}
			if name != "standing-by" { // it reports nothing
				arrived(t, id)
			}
			stays(t, namespace, name)
		})
	}
}

// stays checks that no container of a release was restarted; with -long, in the first ten minutes of its Pods.
func stays(t *testing.T, ns, release string) {
	t.Helper()
	all := pods(t, ns, release)
	if *long {
		for _, p := range all {
			time.Sleep(time.Until(p.CreationTimestamp.Add(10 * time.Minute)))
		}
		all = pods(t, ns, release)
	}
	for _, p := range all {
		for _, s := range p.Status.ContainerStatuses {
			if s.RestartCount > 0 || !s.Ready {
				t.Errorf("%s, %s: %d restarts, ready %v:\n%s", p.Name, s.Name, s.RestartCount, s.Ready, cluster.Describe(t.Context(), ns))
			}
		}
		if *long {
			t.Logf("%s: no restart in %s", p.Name, time.Since(p.CreationTimestamp.Time).Round(time.Second))
		}
	}
}

// onNode takes out of an example what the node cannot have: images of registries that do not exist.
func onNode(example string) []string {
	if example != "conventions" {
		return nil
	}
	return []string{
		"--set", "global.imageRegistry=", "--set", "image.digest=", "--set", "initContainers=null", "--set", "extraContainers=null",
	}
}

func examples(t *testing.T, chart string) []string {
	t.Helper()
	files, err := filepath.Glob("../../charts/" + chart + "/ci/*-values.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("got %d examples (%v), want more", len(files), err)
	}
	for i, f := range files {
		files[i] = strings.TrimPrefix(f, "../../")
	}
	return files
}

// prepareExamples makes what the examples say that the administrator has made.
func prepareExamples(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	key := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "pseudo-agent-hash-key"}, StringData: map[string]string{"key": "sixteen bytes ok"},
	}
	if _, err := cluster.Client.CoreV1().Secrets(namespace).Create(ctx, key, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "reporter"}}
	if _, err := cluster.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "create", "clusterrolebinding", "reporter", "--clusterrole=cluster-admin", "--serviceaccount="+namespace+":reporter")
}

// The address of the apiserver that Pods get is that of its Service, which is reached through kube-proxy.
func TestServiceOfTheAPIServer(t *testing.T) {
	conn, err := net.DialTimeout("tcp", "10.96.0.1:443", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
