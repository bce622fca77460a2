package nodetest

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/node/node"
)

// long has the tests that mostly wait take the times that real clusters have.
var long = flag.Bool("long", false, "wait as long as in real clusters: with -parallel 30 about 30 minutes more")

// signalProgram sends the program of a Pod a signal.
func signalProgram(t *testing.T, p corev1.Pod, s syscall.Signal) {
	t.Helper()
	pid, err := strconv.Atoi(process(t, p))
	if err == nil {
		err = syscall.Kill(pid, s)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// current returns the Pod as it is now.
func current(ctx context.Context, p corev1.Pod) (*corev1.Pod, error) {
	return cluster.Client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// restarted waits until the Pod's container was restarted once and is Ready, and returns how the first one ended.
func restarted(t *testing.T, p corev1.Pod) *corev1.ContainerStateTerminated {
	t.Helper()
	var last *corev1.ContainerStateTerminated
	eventually(t, 4*time.Minute, "restart of "+p.Name, func(ctx context.Context) error {
		now, err := current(ctx, p)
		if err != nil {
			return err
		}
		s := now.Status.ContainerStatuses[0]
		last = s.LastTerminationState.Terminated
		if s.RestartCount != 1 || last == nil || !isReady(now) {
			return fmt.Errorf("%d restarts, ready %v, last state %v", s.RestartCount, isReady(now), last)
		}
		return nil
	})
	return last
}

// neverInError looks at the server's word on a cluster until stopped, and fails the test if it ever was an error.
func neverInError(t *testing.T, id string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		version := int64(0)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			all, err := reports(ctx)
			if r := all[id]; err == nil {
				if r.ErrorMsg != "" || r.Version < version {
					t.Errorf("the server has version %d after %d and the error %q", r.Version, version, r.ErrorMsg)
					return
				}
				version = r.Version
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}()
	return func() { cancel(); <-done }
}

// makeChange creates an object that is reported, and returns its name.
func makeChange(t *testing.T) string {
	t.Helper()
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "change-", Namespace: "shop"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	s, err := cluster.Client.CoreV1().Services("shop").Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Name
}

// holds returns an error unless the server holds the Service of that name.
func holds(ctx context.Context, id, name string) error { return holdsAt(ctx, namespace, id, name) }

func holdsAt(ctx context.Context, namespace, id, name string) error {
	text, err := askServer(ctx, namespace, servicesOf(id))
	return names(text, err, name)
}

// servicesOf is where the API lists the Services of a cluster that makeChange has made, on one page.
func servicesOf(id string) string {
	return "/clusters/" + id + "/objects?type=*v1.Service&namespace=shop&limit=500"
}

// names returns an error unless an answer of the API names an object.
func names(text string, err error, name string) error {
	if err == nil && !strings.Contains(text, `"`+name+`"`) {
		err = fmt.Errorf("the server does not hold %s", name)
	}
	return err
}

// changeArrives makes a change and waits until the server holds it.
func changeArrives(t *testing.T, id string) {
	t.Helper()
	name := makeChange(t)
	eventually(t, 2*time.Minute, "change", func(ctx context.Context) error { return holds(ctx, id, name) })
}

// leader waits until a Pod of the release holds its Lease, and returns it and the others.
func leader(t *testing.T, release string, not string) (first corev1.Pod, others []corev1.Pod) {
	t.Helper()
	eventually(t, 2*time.Minute, "leader of "+release, func(ctx context.Context) error {
		lease, err := cluster.Client.CoordinationV1().Leases(namespace).Get(ctx, fullname(release), metav1.GetOptions{})
		if err != nil {
			return err
		}
		others = nil
		found := false
		for _, p := range pods(t, namespace, release) {
			if lease.Spec.HolderIdentity != nil && strings.HasPrefix(*lease.Spec.HolderIdentity, p.Name) && p.Name != not {
				first, found = p, true
			} else {
				others = append(others, p)
			}
		}
		if !found {
			return fmt.Errorf("the Lease is held by %v", lease.Spec.HolderIdentity)
		}
		return nil
	})
	return first, others
}

// TestLifecycle is what happens to Pods in their lives; all at once, since most of it is waiting.
func TestLifecycle(t *testing.T) { //nolint:tparallel // the other tests need the node for themselves
	serverRelease(t)
	t.Run("rolling update", func(t *testing.T) {
		t.Parallel()
		const release, id = "rolling-pseudo-agent", "d-nodrolling"
		agentRelease(t, release, id, "--set", "replicas=2")
		arrived(t, id)
		stop := neverInError(t, id)
		helm(t, "upgrade", release, "charts/pseudo-agent", "-n", namespace, "--reuse-values", "--set", "podAnnotations.changed=yes")
		installed(t, namespace, release)
		changeArrives(t, id)
		stop()
	})
	t.Run("kill -9", func(t *testing.T) {
		t.Parallel()
		const release, id = "killed-pseudo-agent", "d-nodekilled"
		agentRelease(t, release, id)
		p := pod(t, namespace, release)
		arrived(t, id)
		stop := neverInError(t, id)
		signalProgram(t, p, syscall.SIGKILL)
		if last := restarted(t, p); last.ExitCode != 137 {
			t.Errorf("it ended with %d, want 137", last.ExitCode)
		}
		changeArrives(t, id)
		stop()
	})
	t.Run("stuck leader", func(t *testing.T) {
		t.Parallel()
		const release, id = "stuck-pseudo-agent", "d-nodestuck1"
		agentRelease(t, release, id, "--set", "replicas=2", "--set", "terminationGracePeriodSeconds=5")
		arrived(t, id)
		stop := neverInError(t, id)
		first, _ := leader(t, release, "")
		signalProgram(t, first, syscall.SIGSTOP)
		leader(t, release, first.Name)
		changeArrives(t, id)
		restarted(t, first) // by its liveness probe
		stop()
	})
	t.Run("ConfigMap", func(t *testing.T) {
		t.Parallel()
		const release, id = "config-pseudo-agent", "d-nodeconfig"
		agentRelease(t, release, id, "--set", "restartOnConfigChange=false")
		p := pod(t, namespace, release)
		arrived(t, id)
		helm(t, "upgrade", release, "charts/pseudo-agent", "-n", namespace, "--reuse-values", "--set", "config.log.level=debug")
		eventually(t, 3*time.Minute, "the configuration to be taken over", func(ctx context.Context) error {
			logs, err := cluster.KubectlOutput(ctx, "logs", "-n", namespace, p.Name)
			if err == nil && !strings.Contains(logs, `"configuration changed","change":"log.level`) {
				err = fmt.Errorf("the log does not name the changed key:\n%s", logs)
			}
			return err
		})
		if now := pod(t, namespace, release); now.UID != p.UID || now.Status.ContainerStatuses[0].RestartCount > 0 {
			t.Errorf("the Pod was replaced or restarted")
		}
	})
	t.Run("TLS", func(t *testing.T) { t.Parallel(); rotatesCertificates(t) })
	t.Run("token", func(t *testing.T) { t.Parallel(); rotatesToken(t) })
}

// A Pod that is deleted sends what has just changed, and ends by itself within its grace period.
func TestTermination(t *testing.T) {
	const release, id = "ended-pseudo-agent", "d-nodeended1"
	agentRelease(t, release, id)
	p := pod(t, namespace, release)
	changeArrives(t, id) // the next report is not due for a while
	name := makeChange(t)
	events, err := cluster.Client.CoreV1().Pods(namespace).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + p.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	eventually(t, 10*time.Second, "the change to be seen by the agent", func(ctx context.Context) error {
		if holds(ctx, id, name) == nil {
			return nil // reported at once
		}
		text, err := fetch(ctx, "http://"+p.Status.PodIP+":8080/metrics")
		if err == nil && strings.Contains(text, "\npseudo_agent_oldest_unacknowledged_change_age_seconds 0\n") {
			err = errors.New("no change is pending")
		}
		return err
	})
	followed := make(chan string, 1) // the last words, which are gone with the Pod
	go func() {
		logs, _ := cluster.KubectlOutput(t.Context(), "logs", "-f", "-n", namespace, p.Name, "--tail=20")
		followed <- logs
	}()
	kubectl(t, "-n", namespace, "scale", "deployment", release, "--replicas=0")
	var end *corev1.ContainerStateTerminated
	for e := range events.ResultChan() {
		if now, ok := e.Object.(*corev1.Pod); ok && len(now.Status.ContainerStatuses) > 0 && now.Status.ContainerStatuses[0].State.Terminated != nil {
			end = now.Status.ContainerStatuses[0].State.Terminated
		}
		if e.Type == watch.Deleted {
			break
		}
	}
	if end == nil || end.ExitCode != 0 {
		t.Errorf("the container ended with %+v, want status 0: it was not killed after its grace period", end)
	}
	logs := <-followed
	if err := holds(t.Context(), id, name); err != nil {
		t.Errorf("%v\n%s", err, logs)
	}
}

// certificates makes or replaces the Secrets of server and agent, all signed by a new authority.
func certificates(t *testing.T, update bool) {
	t.Helper()
	ca, err := harness.NewAuthority("authority")
	if err != nil {
		t.Fatal(err)
	}
	for secret, name := range map[string]string{"pseudo-server-tls": "deepflow-server", "deepflow-server-tls": "pseudo-agent"} {
		cert, key, err := ca.Issue(name, 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		s := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: secret, Namespace: "tls"},
			Data:       map[string][]byte{"ca.crt": ca.PEM, "tls.crt": cert, "tls.key": key},
		}
		if update {
			_, err = cluster.Client.CoreV1().Secrets("tls").Update(t.Context(), s, metav1.UpdateOptions{})
		} else {
			_, err = cluster.Client.CoreV1().Secrets("tls").Create(t.Context(), s, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// rotatesCertificates installs both charts with their examples for TLS, replaces the authority and every certificate, and
// has the agent connect again: it must use what the kubelet has put into its mount since it was started.
func rotatesCertificates(t *testing.T) {
	t.Helper()
	const release, id = "tls-pseudo-agent", "d-nodetlstls"
	if err := errors.Join(makeNamespace(t.Context(), "tls"), makeVolume(t.Context(), "tls", "pseudo-server")); err != nil {
		t.Fatal(err)
	}
	certificates(t, false)
	helm(t, "install", "pseudo-server", "charts/pseudo-server", "-n", "tls", "-f", "charts/pseudo-server/ci/tls-values.yaml",
		"--set", "image.tag="+node.Version)
	helm(t, "install", release, "charts/pseudo-agent", "-n", "tls", "-f", "charts/pseudo-agent/ci/tls-values.yaml",
		"--set", "image.tag="+node.Version, "--set", "config.cluster_id="+id, "--set", "config.server.addresses={pseudo-server.tls:20035}")
	installed(t, "tls", "pseudo-server")
	installed(t, "tls", release)
	agent, server := pod(t, "tls", release), pod(t, "tls", "pseudo-server")
	isOK(t, agent)

	before := serial(t, server)
	certificates(t, true)
	eventually(t, 3*time.Minute, "the server's new certificate", func(context.Context) error {
		if serial(t, server) == before {
			return errors.New("the server shows its old certificate")
		}
		return nil
	})
	if now := pod(t, "tls", "pseudo-server"); now.UID != server.UID || now.Status.ContainerStatuses[0].RestartCount > 0 {
		t.Error("the server was replaced or restarted")
	}
	// Without a connection left, the agent has to make one with the new authority and its new certificate.
	kubectl(t, "-n", "tls", "delete", "pod", server.Name)
	installed(t, "tls", "pseudo-server")
	change := makeChange(t)
	eventually(t, 2*time.Minute, "a new connection", func(ctx context.Context) error { return holdsAt(ctx, "tls", id, change) })
	isOK(t, agent)
	if now := pod(t, "tls", release); now.UID != agent.UID || now.Status.ContainerStatuses[0].RestartCount > 0 {
		t.Error("the agent was replaced or restarted")
	}
}

// serial is the number of the certificate that a server shows, which it does before it asks for the client's.
func serial(t *testing.T, p corev1.Pod) string {
	t.Helper()
	var seen string
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", p.Status.PodIP+":20035", &tls.Config{
		InsecureSkipVerify: true,
		NextProtos:         []string{"h2"},
		VerifyConnection: func(s tls.ConnectionState) error {
			seen = s.PeerCertificates[0].SerialNumber.String()
			return nil
		},
	})
	if err == nil {
		_ = conn.Close()
	}
	if seen == "" {
		t.Fatalf("no certificate: %v", err)
	}
	return seen
}

// rotatesToken gives the agent a service account token of the shortest lifetime, 10 minutes, which the kubelet replaces after 8.
func rotatesToken(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("takes 11 minutes: make node-test TESTFLAGS=-long")
	}
	const release, id = "token-pseudo-agent", "d-nodetokens"
	values := filepath.Join(cluster.Place.Dir, "token-values.yaml")
	err := os.WriteFile(values, []byte(`
extraVolumes:
- name: token
  projected:
    sources:
    - serviceAccountToken: {path: token, expirationSeconds: 600}
    - configMap: {name: kube-root-ca.crt}
    - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
extraVolumeMounts:
- {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	agentRelease(t, release, id, "-f", values)
	p := pod(t, namespace, release)
	arrived(t, id)
	stop := neverInError(t, id)
	defer stop()
	token := func() string {
		b, err := os.ReadFile("/proc/" + process(t, p) + "/root/var/run/secrets/kubernetes.io/serviceaccount/token")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first, start := token(), time.Now()
	eventually(t, 11*time.Minute, "rotation of the token and the end of the first", func(context.Context) error {
		if token() == first || time.Since(start) < 10*time.Minute+15*time.Second {
			return fmt.Errorf("%s old, replaced: %v", time.Since(start).Round(time.Second), token() != first)
		}
		return nil
	})
	changeArrives(t, id)
	isOK(t, p)
	if n := pod(t, namespace, release).Status.ContainerStatuses[0].RestartCount; n > 0 {
		t.Errorf("%d restarts", n)
	}
}

// A drain takes one of two replicas. The other one stays for as long as there is no place for a new one; once there is one, on
// another node, the drain goes through, and the server never hears of it.
func TestDrain(t *testing.T) {
	const release, id = "drained-pseudo-agent", "d-nodedrain1"
	if err := cluster.AddNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(cluster.RemoveNode(ctx), cluster.Kubectl(ctx, "uncordon", node.Name)); err != nil {
			t.Error(err)
		}
	})
	kubectl(t, "cordon", node.Second)
	agentRelease(t, release, id, "--set", "replicas=2")
	arrived(t, id)
	stop := neverInError(t, id)
	defer stop()
	drain := []string{"drain", node.Name, "--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app.kubernetes.io/instance=" + release}
	if out, err := cluster.KubectlOutput(t.Context(), append(drain, "--timeout=15s")...); err == nil {
		t.Errorf("the drain went through, though the last replica has nowhere to go:\n%s", out)
	}
	ready := 0
	for _, p := range pods(t, namespace, release) {
		if isReady(&p) {
			ready++
		}
	}
	if ready != 1 {
		t.Errorf("got %d Ready Pods of a drained node, want 1\n%s", ready, cluster.Describe(t.Context(), namespace))
	}
	changeArrives(t, id)
	kubectl(t, "uncordon", node.Second)
	kubectl(t, append(drain, "--timeout=2m")...)
	installed(t, namespace, release)
	for _, p := range pods(t, namespace, release) {
		if p.Spec.NodeName != node.Second {
			t.Errorf("%s is on %s", p.Name, p.Spec.NodeName)
		}
	}
	changeArrives(t, id)
}

// Probes say nothing of the apiserver: while it is away nothing is restarted, and after that reporting goes on.
func TestAPIServerAway(t *testing.T) {
	const release, id = "alone-pseudo-agent", "d-nodealone1"
	agentRelease(t, release, id)
	arrived(t, id)
	before := append(pods(t, namespace, release), pod(t, namespace, "pseudo-server"))
	away := 90 * time.Second // the liveness probes would restart after 60
	if *long {
		away = 5 * time.Minute
	}
	cluster.KillAPIServer()
	time.Sleep(away)
	if err := cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cluster.WaitNode(t.Context(), node.Name); err != nil {
		t.Fatal(err)
	}
	changeArrives(t, id)
	for _, p := range before {
		now, err := current(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if n := now.Status.ContainerStatuses[0].RestartCount; n > p.Status.ContainerStatuses[0].RestartCount {
			t.Errorf("%s was restarted: %v", p.Name, now.Status.ContainerStatuses[0].LastTerminationState)
		}
		if p.Labels["app.kubernetes.io/name"] == "pseudo-agent" {
			isOK(t, p)
		}
	}
}
