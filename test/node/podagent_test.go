package nodetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
	"github.com/pseudo-agent/pseudo-agent/test/node/node"
)

// networksNamespace is pod-agent's: it enforces no Pod security standard.
const networksNamespace = "networks"

// capabilities are what the chart's document gives reasons for: CAP_DAC_OVERRIDE 1, NET_ADMIN 12, NET_RAW 13, SYS_CHROOT 18,
// SYS_PTRACE 19, SYS_ADMIN 21.
const capabilities = 1<<1 | 1<<12 | 1<<13 | 1<<18 | 1<<19 | 1<<21

// TestPodAgent installs pod-agent's chart, and has it attach a network to a Pod that a kubelet runs.
func TestPodAgent(t *testing.T) {
	ctx := t.Context()
	addresses := filepath.Join(cluster.Place.Dir, "network-addresses")
	definePodNetwork(t, addresses)
	helm(t, "install", "pod-agent", "charts/pod-agent", "-n", networksNamespace, "--set", "image.tag="+node.Version,
		"--set", "config.network_source=definitions", "--set", "config.cri.socket="+cluster.Socket(), "--set", "config.work.max_retry=1s",
		"--set", "config.cni.bin_dirs={"+cluster.Bins.Plugins+"}", "--set", "writablePaths={/var/lib/cni,"+addresses+"}", "--set", "admissionPolicy.enabled=true")
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		if t.Failed() {
			logs, _ := cluster.KubectlOutput(ctx, "logs", "-n", networksNamespace, "daemonset/pod-agent", "--tail=20")
			t.Logf("%s\n%s", cluster.Describe(ctx, networksNamespace), logs)
		}
		if err := cluster.Helm(ctx, "uninstall", "pod-agent", "-n", networksNamespace, "--wait"); err != nil {
			t.Error(err)
		}
	})
	kubectl(t, "-n", networksNamespace, "rollout", "status", "daemonset/pod-agent", "--timeout=2m")
	checkOwnCapabilities(t, pod(t, networksNamespace, "pod-agent"))
	if out := kubectl(t, "-n", networksNamespace, "exec", "daemonset/pod-agent", "--", "/pod-agent", "check", "--config", "/etc/pod-agent/config.yaml"); strings.Contains(out, "LACKING") || strings.Count(out, "ok ") != 6 {
		t.Errorf("check says\n%s", out)
	}

	kubectl(t, "-n", networksNamespace, "run", "web", "--image="+node.PauseImage, "--image-pull-policy=Never")
	kubectl(t, "-n", networksNamespace, "wait", "--for=condition=Ready", "pod/web", "--timeout=1m")
	before := webPod(t)
	interfaces := func() string {
		text, err := os.ReadFile("/proc/" + process(t, before) + "/net/dev")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	has := func(want bool) {
		t.Helper()
		eventually(t, time.Minute, fmt.Sprint("the interface is there: ", want), func(context.Context) error {
			if strings.Contains(interfaces(), "net9f27410725ab:") != want {
				return fmt.Errorf("got %s", interfaces())
			}
			return nil
		})
	}
	kubectl(t, "-n", networksNamespace, "annotate", "pod", "web", "k8s.v1.cni.cncf.io/networks=green")
	has(true)
	eventually(t, time.Minute, "the Pod's annotation tells of it", func(context.Context) error {
		out := kubectl(t, "-n", networksNamespace, "exec", "daemonset/pod-agent", "--", "/pod-agent", "list", networksNamespace+"/web")
		if !strings.Contains(out, " attached ") || !strings.Contains(out, "10.77.0.2") {
			return fmt.Errorf("list says\n%s", out)
		}
		return nil
	})
	if out := kubectl(t, "-n", networksNamespace, "exec", "daemonset/pod-agent", "--", "/pod-agent", "check", "--config", "/etc/pod-agent/config.yaml"); !strings.Contains(out, "1 networks are as they were attached") {
		t.Errorf("check says\n%s", out)
	}
	if out := kubectl(t, "-n", networksNamespace, "get", "events", "--field-selector=involvedObject.name=web,reason=Attached"); !strings.Contains(out, "networks/green") {
		t.Errorf("got Events\n%s", out)
	}
	// A new pod-agent finds what is there.
	kubectl(t, "-n", networksNamespace, "rollout", "restart", "daemonset/pod-agent")
	kubectl(t, "-n", networksNamespace, "rollout", "status", "daemonset/pod-agent", "--timeout=2m")
	has(true)
	kubectl(t, "-n", networksNamespace, "annotate", "pod", "web", "k8s.v1.cni.cncf.io/networks-")
	has(false)
	if now := webPod(t); now.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID || now.Status.ContainerStatuses[0].RestartCount > 0 {
		t.Error("the container was started again")
	}
	kubectl(t, "-n", networksNamespace, "annotate", "pod", "web", "k8s.v1.cni.cncf.io/networks=green")
	has(true)
	kubectl(t, "-n", networksNamespace, "delete", "pod", "web", "--grace-period=1")
	eventually(t, time.Minute, "addresses and records are given back", func(context.Context) error {
		left, err := filepath.Glob(filepath.Join(addresses, "*", "10.*"))
		if err != nil {
			return err
		}
		records, err := filepath.Glob("/var/lib/pod-agent/records/*.json")
		if err == nil && len(left)+len(records) > 0 {
			err = fmt.Errorf("left are %v and %v", left, records)
		}
		return err
	})
}

func webPod(t *testing.T) corev1.Pod {
	t.Helper()
	p, err := cluster.Client.CoreV1().Pods(networksNamespace).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return *p
}

// definePodNetwork makes the namespace, and the network green in it.
func definePodNetwork(t *testing.T, addresses string) {
	t.Helper()
	ctx := t.Context()
	definitions := schema.GroupVersionResource{Group: "k8s.cni.cncf.io", Version: "v1", Resource: "network-attachment-definitions"}
	crd := sample.CRD{Group: definitions.Group, Version: definitions.Version, Plural: definitions.Resource, Kind: "NetworkAttachmentDefinition"}
	if err := crd.Install(ctx, cluster.Dynamic); err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: networksNamespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := cluster.Dynamic.Resource(definitions).Namespace(networksNamespace).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": map[string]any{"name": "green"},
		"spec": map[string]any{"config": fmt.Sprintf(
			`{"cniVersion":"1.0.0","type":"bridge","bridge":"br77","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.77.0.0/24"}]]}}`, addresses)},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// checkOwnCapabilities checks that the program has what the chart's document says, and not more.
func checkOwnCapabilities(t *testing.T, p corev1.Pod) {
	t.Helper()
	text, err := os.ReadFile("/proc/" + process(t, p) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("CapBnd:\t%016x\n", uint64(capabilities)), "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
}
