package nodetest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/node/node"
)

// accountDir is where a program in a Pod finds its account; kube-network-policies reads no kubeconfig.
const accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// divert hands the first packet of each connection from or to a Pod to the queue: on its way to another Pod or to the
// outside before its source is translated, and on its way to the node itself, where the apiserver is. What root on the node
// sends is left out, as kube-network-policies does it: the kubelet's probes always pass. kube-network-policies makes rules by itself,
// for nftables, where the kernel has their queue expression (CONFIG_NFT_QUEUE); iptables' target NFQUEUE is in more kernels.
var divert = []string{
	"-N PODS",
	"-A PODS -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN",
	"-A PODS -s 10.244.0.0/16 -j NFQUEUE --queue-num 100",
	"-A PODS -d 10.244.0.0/16 -j NFQUEUE --queue-num 100",
	"-A POSTROUTING -m owner --uid-owner 0 -j RETURN",
	"-A POSTROUTING -j PODS",
	"-A INPUT -j PODS",
}

// enforce has kube-network-policies, of Kubernetes' own network group, decide about connections until the test ends.
func enforce(t *testing.T) {
	t.Helper()
	kubectl(t, "create", "serviceaccount", "network-policies", "-n", "kube-system")
	kubectl(t, "create", "clusterrole", "network-policies", "--verb=list,watch",
		"--resource=pods,namespaces,nodes,networkpolicies.networking.k8s.io")
	kubectl(t, "create", "clusterrolebinding", "network-policies", "--clusterrole=network-policies",
		"--serviceaccount=kube-system:network-policies")
	ca, err := os.ReadFile(cluster.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	token := kubectl(t, "create", "token", "network-policies", "-n", "kube-system")
	err = errors.Join(os.MkdirAll(accountDir, 0o700),
		os.WriteFile(filepath.Join(accountDir, "ca.crt"), ca, 0o600),
		os.WriteFile(filepath.Join(accountDir, "token"), []byte(strings.TrimSpace(token)), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	p, err := harness.StartProcess(harness.Command{
		Name: "kube-network-policies", Path: services.NetworkPolicies, Dir: cluster.Place.Dir,
		Args: []string{"-hostname-override=" + node.Name, "-v=2"},
		Env:  []string{"KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Log(p.Tail(20))
		}
	})
	// Without a listener the queue drops everything.
	eventually(t, time.Minute, "a listener of the queue", func(context.Context) error {
		queues, err := os.ReadFile("/proc/net/netfilter/nfnetlink_queue")
		if err == nil && !strings.HasPrefix(strings.TrimSpace(string(queues)), "100 ") {
			err = fmt.Errorf("queues %q; the log ends with:\n%s", queues, p.Tail(20))
		}
		return err
	})
	rules(t, divert...)
	t.Cleanup(func() {
		rules(t, "-D INPUT -j PODS", "-D POSTROUTING -j PODS", "-D POSTROUTING -m owner --uid-owner 0 -j RETURN", "-F PODS", "-X PODS")
	})
}

func rules(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		args := append([]string{"-w", "10", "-t", "mangle"}, strings.Fields(line)...)
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "iptables", args...).CombinedOutput(); err != nil {
			t.Fatalf("iptables %s: %v\n%s", line, err, out)
		}
	}
}

// bystander starts a Pod that does nothing by itself.
func bystander(t *testing.T, namespace, name string) {
	t.Helper()
	yes, no, user := true, false, int64(65532)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"role": name}},
		Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "pause", Image: node.PauseImage, ImagePullPolicy: corev1.PullNever,
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
	if _, err := cluster.Client.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "Pod "+name, func(ctx context.Context) error {
		now, err := cluster.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && !isReady(now) {
			err = errors.New(cluster.Describe(ctx, namespace))
		}
		return err
	})
}

// reaches says whether a Pod's program can connect.
func reaches(t *testing.T, namespace, from, address string) bool {
	t.Helper()
	_, err := cluster.KubectlOutput(t.Context(), "exec", "-n", namespace, from, "--", "/pause", "dial", address)
	if err != nil && !strings.Contains(err.Error(), "i/o timeout") && !strings.Contains(err.Error(), "refused") {
		t.Fatal(err)
	}
	return err == nil
}

// The charts' NetworkPolicies, enforced: who is named gets in and out, nobody else does, and what both programs need passes.
func TestNetworkPolicy(t *testing.T) {
	const ns, release, id = "policy", "guarded-pseudo-agent", "d-nodepolicy"
	if err := errors.Join(makeNamespace(t.Context(), ns), makeVolume(t.Context(), ns, "pseudo-server")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if t.Failed() {
			t.Log(cluster.Describe(ctx, ns))
		}
		if err := cluster.Kubectl(ctx, "delete", "namespace", ns, "--wait=false"); err != nil {
			t.Error(err)
		}
	})
	helm(t, "install", "pseudo-server", "charts/pseudo-server", "-n", ns, "--set", "image.tag="+node.Version, "-f", valuesFile(t, serverPolicy))
	agentPolicy := agentPolicy(t)
	install := func(verb, values string) {
		helm(t, verb, release, "charts/pseudo-agent", "-n", ns, "--set", "image.tag="+node.Version, "-f", valuesFile(t, values),
			"--set", "config.server.addresses={pseudo-server:20035}", "--set", "config.cluster_id="+id)
	}
	install("install", agentPolicy)
	bystander(t, ns, "monitor")
	bystander(t, ns, "stranger")
	installed(t, ns, "pseudo-server")
	installed(t, ns, release)
	server, agent := pod(t, ns, "pseudo-server").Status.PodIP, pod(t, ns, release)
	ways := []struct {
		from, address string
		allowed       bool
	}{
		{"monitor", agent.Status.PodIP + ":8080", true},
		{"stranger", agent.Status.PodIP + ":8080", false},
		{"monitor", server + ":20080", true},
		{"stranger", server + ":20080", false},
		{"monitor", server + ":20035", false},
		{"stranger", server + ":20035", false},
	}
	for _, w := range ways { // policies alone change nothing: what follows is the enforcement's doing
		if !reaches(t, ns, w.from, w.address) {
			t.Errorf("%s cannot reach %s without enforcement", w.from, w.address)
		}
	}
	enforce(t)
	for _, w := range ways {
		if got := reaches(t, ns, w.from, w.address); got != w.allowed {
			t.Errorf("%s reaches %s: %v, want %v", w.from, w.address, got, w.allowed)
		}
	}

	// A program that starts now connects to DNS, to the apiserver and to the server. It starts in the same Pod: connections
	// of a Pod whose address is not published yet pass.
	signalProgram(t, agent, syscall.SIGKILL)
	restarted(t, agent)
	isOK(t, agent)
	change := makeChange(t)
	eventually(t, 2*time.Minute, "change", func(ctx context.Context) error { return holdsAt(ctx, ns, id, change) })

	// With a policy that forgets the apiserver it says what it cannot reach, and is not restarted for it.
	without, _, _ := strings.Cut(agentPolicy, apiserverEgress)
	install("upgrade", without)
	signalProgram(t, pod(t, ns, release), syscall.SIGKILL)
	eventually(t, 2*time.Minute, "word of the apiserver that cannot be reached", func(ctx context.Context) error {
		s := pod(t, ns, release).Status.ContainerStatuses[0]
		if s.RestartCount != 2 || s.State.Running == nil {
			return fmt.Errorf("%d restarts, state %s", s.RestartCount, &s.State)
		}
		logs, err := cluster.KubectlOutput(ctx, "logs", "-n", ns, agent.Name)
		if err == nil && !strings.Contains(logs, "check the network to the apiserver, NetworkPolicies on the way") {
			err = fmt.Errorf("the log does not say it:\n%s", logs)
		}
		return err
	})
}

const serverPolicy = `
networkPolicy:
  enabled: true
  httpFrom:
  - podSelector: {matchLabels: {role: monitor}}
  grpcFrom:
  - podSelector: {matchLabels: {app.kubernetes.io/name: pseudo-agent}}
`

// apiserverEgress begins the part of the agent's policy that lets it to the apiserver; it is the last one.
const apiserverEgress = "\n  - to:\n    - ipBlock: "

// agentPolicy are values by which the agent reaches DNS, the server and the apiserver, and nothing else. The apiserver has the
// address behind its Service.
func agentPolicy(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(cluster.URL)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`
networkPolicy:
  enabled: true
  ingressFrom:
  - podSelector: {matchLabels: {role: monitor}}
  egress:
  - to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
    ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
  - to:
    - podSelector: {matchLabels: {app.kubernetes.io/name: pseudo-server}}
    ports:
    - {port: 20035, protocol: TCP}%s{cidr: %s/32}
    ports:
    - {port: %s, protocol: TCP}
`, apiserverEgress, u.Hostname(), u.Port())
}

func valuesFile(t *testing.T, values string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(path, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
