package nodetest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/node/node"
)

// TestServerExamples installs the examples of pseudo-server's chart, each in a namespace of its own with what it needs beside
// it, and has an agent report to those that no other test reports to. The example for TLS is part of TestLifecycle.
func TestServerExamples(t *testing.T) { //nolint:tparallel // the other tests need the node for themselves
	beside := map[string]func(t *testing.T, ns string) []string{
		"all-options": existingClaim, "postgres": postgres, "upstream": serversBehind,
		"openshift": func(t *testing.T, ns string) []string {
			t.Helper()
			constrain(t, ns, "pseudo-server")
			return nil
		},
	}
	for _, file := range examples(t, "pseudo-server") {
		name := strings.TrimSuffix(filepath.Base(file), "-values.yaml")
		if name == "tls" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := "server-" + name
			if err := errors.Join(makeNamespace(t.Context(), ns), makeVolume(t.Context(), ns, "pseudo-server")); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				ctx := context.WithoutCancel(t.Context())
				if t.Failed() {
					logs, _ := cluster.KubectlOutput(ctx, "logs", "-n", ns, "-l", "app.kubernetes.io/name=pseudo-server", "--tail=20")
					t.Logf("%s\n%s", cluster.Describe(ctx, ns), logs)
				}
				if err := cluster.Kubectl(ctx, "delete", "namespace", ns, "--wait=false"); err != nil {
					t.Error(err)
				}
			})
			args := onNode(name)
			if prepare := beside[name]; prepare != nil {
				args = append(args, prepare(t, ns)...)
			}
			helm(t, append([]string{
				"install", "pseudo-server", "charts/pseudo-server", "-n", ns, "-f", file,
				"--set", "image.repository=pseudo-server", "--set", "image.tag=" + node.Version, "--set", "image.pullPolicy=IfNotPresent",
			}, args...)...)
			installed(t, ns, "pseudo-server")
			for _, p := range pods(t, ns, "pseudo-server") {
				if name == "openshift" {
					confinedAs(t, p, sccUser, "0")
				} else {
					confined(t, p)
				}
				eventually(t, time.Minute, "status", func(ctx context.Context) error {
					text, err := fetch(ctx, "http://"+p.Status.PodIP+":"+strconv.Itoa(serverPort)+"/healthz/ready")
					if err != nil {
						err = fmt.Errorf("%w %s", err, text)
					}
					return err
				})
			}
			switch name {
			case "postgres", "openshift":
				guestReports(t, ns)
			case "upstream":
				behindHolds(t, ns, guestReports(t, ns))
			}
			stays(t, ns, "pseudo-server")
		})
	}
}

// guest is the cluster id of the agent that reports to an example of pseudo-server.
const guest = "d-nodeguest1"

// guestReports has an agent report to the pseudo-server of a namespace until each replica holds a change, whose name it returns.
func guestReports(t *testing.T, ns string) string {
	t.Helper()
	helm(t, "install", "guest-pseudo-agent", "charts/pseudo-agent", "-n", ns, "--set", "image.tag="+node.Version,
		"--set", "config.server.addresses={pseudo-server:20035}", "--set", "config.cluster_id="+guest)
	t.Cleanup(func() {
		if err := cluster.Helm(context.WithoutCancel(t.Context()), "uninstall", "guest-pseudo-agent", "-n", ns); err != nil {
			t.Error(err)
		}
	})
	installed(t, ns, "guest-pseudo-agent")
	change := makeChange(t)
	for _, p := range pods(t, ns, "pseudo-server") {
		eventually(t, time.Minute, "change in "+p.Name, func(ctx context.Context) error {
			text, err := askAddress(ctx, ns, "pseudo-server", p.Status.PodIP, servicesOf(guest))
			return names(text, err, change)
		})
	}
	return change
}

// existingClaim makes the claim that the example names.
func existingClaim(t *testing.T, ns string) []string {
	t.Helper()
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "pseudo-server"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Gi")}},
		},
	}
	if _, err := cluster.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return nil
}

// postgres starts a PostgreSQL on the node, at the Pods' gateway, and makes the Secret that names it.
func postgres(t *testing.T, ns string) []string {
	t.Helper()
	const gateway = "10.244.0.1"
	db := pgtest.Start(t)
	hba, err := os.OpenFile(filepath.Join(db.Data(), "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintln(hba, "host all all 10.244.0.0/16 trust")
	if err := errors.Join(err, hba.Close()); err != nil {
		t.Fatal(err)
	}
	db.Args = []string{"-h", "127.0.0.1," + gateway}
	db.Kill()
	db.Restart(t)
	makeSecret(t, ns, "pseudo-server-store", map[string][]byte{
		"dsn": fmt.Appendf(nil, "postgres://postgres@%s:%d/postgres?sslmode=disable", gateway, db.Port()),
	})
	return nil
}

func makeSecret(t *testing.T, ns, name string, data map[string][]byte) {
	t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	if _, err := cluster.Client.CoreV1().Secrets(ns).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// behind are two pseudo-servers that take the places of the deepflow-servers behind the example upstream.
var behind = []string{"a-pseudo-server", "b-pseudo-server"}

// serversBehind installs them, with the certificates that the example wants.
func serversBehind(t *testing.T, ns string) []string {
	t.Helper()
	ca, err := harness.NewAuthority("authority")
	if err != nil {
		t.Fatal(err)
	}
	for secret, name := range map[string]string{"pseudo-server-tls": "deepflow-server.example", "deepflow-client": "pseudo-server"} {
		cert, key, err := ca.Issue(name, 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		makeSecret(t, ns, secret, map[string][]byte{"ca.crt": ca.PEM, "tls.crt": cert, "tls.key": key})
	}
	var addresses []string
	for _, name := range behind {
		if err := makeVolume(t.Context(), ns, name); err != nil {
			t.Fatal(err)
		}
		helm(t, "install", name, "charts/pseudo-server", "-n", ns, "-f", "charts/pseudo-server/ci/tls-values.yaml", "--set", "image.tag="+node.Version)
		addresses = append(addresses, name+"."+ns+":20035")
	}
	for _, name := range behind {
		installed(t, ns, name)
	}
	return []string{"--set", "upstream.addresses={" + strings.Join(addresses, ",") + "}"}
}

// behindHolds waits until a server behind holds what the guest has reported to the one in front, which is reached at a port of
// the node, too.
func behindHolds(t *testing.T, ns, change string) {
	t.Helper()
	eventually(t, time.Minute, "change behind", func(ctx context.Context) error {
		var missing error
		for _, name := range behind {
			text, err := askRelease(ctx, ns, name, servicesOf(guest))
			if err = names(text, err, change); err == nil {
				return nil
			}
			missing = errors.Join(missing, err)
		}
		return missing
	})
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(cluster.Place.Address, "30036"), 10*time.Second)
	if err != nil {
		t.Fatalf("the example's node port: %v", err)
	}
	conn.Close()
}

// sccUser is a user that OpenShift gives the Pods of a namespace; no image knows it.
const sccUser = "1000650000"

// constrain does to the Pods of a release, when they are created, what OpenShift's restricted-v2 does, its default security
// context constraint: their containers run as the namespace's user, and its group may write to their volumes.
func constrain(t *testing.T, ns, release string) {
	t.Helper()
	ca, err := harness.NewAuthority("constraints")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := ca.Issue("constraints", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(admit), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	name, url, fail, none := "constraints-"+ns, "https://"+listener.Addr().String()+"/", admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone
	webhooks := cluster.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	t.Cleanup(func() {
		if err := webhooks.Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	_, err = webhooks.Create(t.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "constraints.node.local", FailurePolicy: &fail, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			ClientConfig:      admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: ca.PEM},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: ns}},
			ObjectSelector:    &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/instance": release}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// admit is the constraint: a Pod that asks for a user or a group by itself is refused.
func admit(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	var pod corev1.Pod
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&review)
	if err == nil && review.Request == nil {
		err = errors.New("no request")
	}
	if err == nil {
		err = json.Unmarshal(review.Request.Object.Raw, &pod)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	jsonPatch := admissionv1.PatchTypeJSONPatch
	response := &admissionv1.AdmissionResponse{
		UID: review.Request.UID, Allowed: true, PatchType: &jsonPatch, Patch: []byte(`[
			{"op": "add", "path": "/spec/securityContext/fsGroup", "value": ` + sccUser + `},
			{"op": "add", "path": "/spec/containers/0/securityContext/runAsUser", "value": ` + sccUser + `}
		]`),
	}
	for _, asked := range []*int64{pod.Spec.SecurityContext.RunAsUser, pod.Spec.SecurityContext.FSGroup, pod.Spec.Containers[0].SecurityContext.RunAsUser} {
		if asked != nil {
			response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Result: &metav1.Status{Message: fmt.Sprintf("%d is not of this namespace", *asked)}}
		}
	}
	review.Response = response
	if err := json.NewEncoder(w).Encode(review); err != nil {
		panic(http.ErrAbortHandler)
	}
}
