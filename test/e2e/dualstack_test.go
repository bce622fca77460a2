package e2e

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// TestChartsDualStack installs the charts that have Services on an apiserver whose Services have addresses of both families.
// The apiserver gives addresses of the families that the values ask for, in their order, to a Service of a cluster
// address, and notes them of a headless one.
func TestChartsDualStack(t *testing.T) {
	bin, err := buildHelm()
	if err != nil {
		t.Fatal(err)
	}
	dual, err := harness.StartDualStackCluster(t.Context(), bins, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dual.Close)
	for _, crd := range monitoring {
		if err := crd.Install(t.Context(), dual.Dynamic); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, policy, families string // as values
		want                   []corev1.IPFamily
	}{
		{"default", "", "", []corev1.IPFamily{corev1.IPv4Protocol}},
		{"both", "RequireDualStack", "", []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}},
		{"ipv6-first", "PreferDualStack", "{IPv6,IPv4}", []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}},
		{"ipv6-only", "SingleStack", "{IPv6}", []corev1.IPFamily{corev1.IPv6Protocol}},
	} {
		for chart, path := range map[string]string{"pseudo-agent": "metrics.service", "pseudo-server": "service"} {
			t.Run(c.name+"/"+chart, func(t *testing.T) {
				namespace := c.name + "-" + chart
				args := []string{"install", chart, filepath.Join(chartsDir, chart), "-n", namespace, "--create-namespace", "--set", "metrics.serviceMonitor.enabled=true"}
				if chart == "pseudo-agent" {
					args = append(args, "--set", "config.server.addresses={s:20035}")
				}
				if c.policy != "" {
					args = append(args, "--set", path+".ipFamilyPolicy="+c.policy)
				}
				if c.families != "" {
					args = append(args, "--set", path+".ipFamilies="+c.families)
				}
				cmd := exec.CommandContext(t.Context(), bin, args...)
				cmd.Env = append(os.Environ(), "KUBECONFIG="+dual.Kubeconfig)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
				}
				services, err := dual.Client.CoreV1().Services(namespace).List(t.Context(), metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if len(services.Items) == 0 {
					t.Error("the release has no Service")
				}
				for _, s := range services.Items {
					addresses(t, s, c.want)
				}
			})
		}
	}
}

// addresses holds the families of a Service, and of its addresses, against what is wanted.
func addresses(t *testing.T, s corev1.Service, want []corev1.IPFamily) {
	t.Helper()
	if !slices.Equal(s.Spec.IPFamilies, want) {
		t.Errorf("%s has the families %v, want %v", s.Name, s.Spec.IPFamilies, want)
	}
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		return
	}
	var got []corev1.IPFamily
	for _, text := range s.Spec.ClusterIPs {
		address, err := netip.ParseAddr(text)
		switch {
		case err != nil:
			t.Errorf("%s: %v", s.Name, err)
		case address.Is4():
			got = append(got, corev1.IPv4Protocol)
		default:
			got = append(got, corev1.IPv6Protocol)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s has the addresses %v, want one of each of %v", s.Name, s.Spec.ClusterIPs, want)
	}
	t.Logf("%s: %v", s.Name, s.Spec.ClusterIPs)
}
