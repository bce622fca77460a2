package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// podAgentNamespace is where pod-agent's chart is installed: no namespace that enforces a Pod security standard would do.
const podAgentNamespace = "networks"

func podAgentObjects(t *testing.T, values string) []*unstructured.Unstructured {
	t.Helper()
	out, err := helm(t, "template", "pod-agent", filepath.Join(chartsDir, "pod-agent"), "--namespace", podAgentNamespace, "--values", values)
	if err != nil {
		t.Fatal(err)
	}
	objs := documents(t, out)
	for _, o := range objs {
		if o.GetNamespace() == "" && !strings.HasPrefix(o.GetKind(), "ClusterRole") && !strings.HasPrefix(o.GetKind(), "ValidatingAdmission") {
			o.SetNamespace(podAgentNamespace)
		}
	}
	return objs
}

func makePodAgentNamespace(t *testing.T) {
	t.Helper()
	makeFreeNamespace(t, podAgentNamespace)
}

// makeFreeNamespace makes a namespace that enforces no Pod security standard, until the test ends.
func makeFreeNamespace(t *testing.T, name string) {
	t.Helper()
	api := cluster.Client.CoreV1().Namespaces()
	if _, err := api.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background() // the test's own has ended
		if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		if err := sample.FinishNamespace(ctx, cluster.Dynamic, name); err != nil {
			t.Error(err)
		}
	})
}

// TestPodAgentChart: the apiserver takes the chart with all documented values, strictly, and what each container has is no
// more than the chart's document says.
func TestPodAgentChart(t *testing.T) {
	for _, crd := range []sample.CRD{
		{Group: "monitoring.coreos.com", Version: "v1", Kind: "PodMonitor", Plural: "podmonitors"},
		{Group: "monitoring.coreos.com", Version: "v1", Kind: "PrometheusRule", Plural: "prometheusrules"},
	} {
		if err := crd.Install(t.Context(), cluster.Dynamic); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := crd.Remove(context.Background(), cluster.Dynamic); err != nil {
				t.Error(err)
			}
		})
	}
	makePodAgentNamespace(t)
	loader := newLoader(t)
	for _, values := range documented(t, "pod-agent") {
		t.Run(strings.TrimSuffix(filepath.Base(values), "-values.yaml"), func(t *testing.T) {
			if _, err := helm(t, "lint", "--strict", filepath.Join(chartsDir, "pod-agent"), "--values", values); err != nil {
				t.Error(err)
			}
			objs := podAgentObjects(t, values)
			apply(t, loader, objs, metav1.DryRunAll)
			for _, o := range objs {
				if o.GetKind() != "DaemonSet" {
					continue
				}
				apply(t, loader, []*unstructured.Unstructured{podOf(o)}, metav1.DryRunAll)
				container := nested[[]any](o.Object, "spec", "template", "spec", "containers")[0].(map[string]any)
				if nested[bool](container, "securityContext", "privileged") || !nested[bool](container, "securityContext", "readOnlyRootFilesystem") ||
					fmt.Sprint(nested[[]any](container, "securityContext", "capabilities", "drop")) != "[ALL]" {
					t.Errorf("the container has %v", container["securityContext"])
				}
				for _, m := range nested[[]any](container, "volumeMounts") {
					if mount := m.(map[string]any); mount["mountPath"] == "/host" && mount["readOnly"] != true {
						t.Error("the node's root is mounted to be written to")
					}
				}
			}
		})
	}
	for _, wrong := range []string{"config.node_root=/x", "config.http.address=:1", "metrics.podMonitor.enabled=true", "writablePaths={var}", "hostNetwok=true", "config.network_source=multus"} {
		if _, err := helm(t, "template", "x", filepath.Join(chartsDir, "pod-agent"), "--set", wrong); err == nil {
			t.Errorf("--set %s: got no error", wrong)
		}
	}
}

// TestPodAgentChartPermissions: the chart's account may do what pod-agent does and, with the admission policy, nothing else
// to Pods.
func TestPodAgentChartPermissions(t *testing.T) {
	makePodAgentNamespace(t)
	ctx := t.Context()
	values := filepath.Join(chartsDir, "pod-agent", "ci", "definitions-values.yaml")
	out, err := helm(t, "template", "pod-agent", filepath.Join(chartsDir, "pod-agent"), "--namespace", podAgentNamespace, "--values", values, "--set", "admissionPolicy.enabled=true")
	if err != nil {
		t.Fatal(err)
	}
	var objs []*unstructured.Unstructured
	for _, o := range documents(t, out) {
		switch o.GetKind() {
		case "ServiceAccount":
			o.SetNamespace(podAgentNamespace)
			objs = append(objs, o)
		case "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding":
			objs = append(objs, o)
		}
	}
	apply(t, newLoader(t), objs)
	pods := cluster.Client.CoreV1().Pods(podAgentNamespace)
	if _, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{"a": "b"}},
		Spec:       corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := cluster.Client.CoreV1().ServiceAccounts(podAgentNamespace).CreateToken(ctx, "pod-agent", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := cluster.WriteKubeconfig(kubeconfig, &clientcmdapi.AuthInfo{Token: token.Status.Token}); err != nil {
		t.Fatal(err)
	}
	access, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	patch := func(patch string) error {
		client, err := kubernetes.NewForConfig(rest.CopyConfig(access))
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.CoreV1().Pods(podAgentNamespace).Patch(ctx, "web", types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	// The apiserver takes a policy over after a moment.
	begun := time.Now()
	for patch(fmt.Sprintf(`{"metadata":{"labels":{"at":"%d"}}}`, time.Now().UnixNano())) == nil {
		time.Sleep(100 * time.Millisecond)
		if time.Since(begun) > time.Minute {
			t.Fatal("the policy has no effect")
		}
	}
	for _, c := range []struct{ patch, refusal string }{
		{`{"metadata":{"annotations":{"k8s.v1.cni.cncf.io/network-status":"[]"}}}`, ""},
		{`{"metadata":{"annotations":{"k8s.v1.cni.cncf.io/network-status":null}}}`, ""},
		{`{"metadata":{"labels":{"at":"never"}}}`, "no labels"},
		{`{"metadata":{"annotations":{"k8s.v1.cni.cncf.io/network-status":"[]","a":"c"}}}`, "network-status only"},
		{`{"metadata":{"annotations":{"a":null}}}`, "network-status only"},
		{`{"metadata":{"annotations":{"k8s.v1.cni.cncf.io/networks":"green"}}}`, "network-status only"},
		{`{"metadata":{"finalizers":["example.com/x"]}}`, "finalizers"},
		{`{"spec":{"containers":[{"name":"c","image":"other"}]}}`, "no spec"},
	} {
		if err := patch(c.patch); (err == nil) != (c.refusal == "") || err != nil && !strings.Contains(err.Error(), c.refusal) {
			t.Errorf("%s: got %v, want %q", c.patch, err, c.refusal)
		}
	}
}
