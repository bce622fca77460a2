package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// formerCharts is the commit whose charts were the last ones before they took what other charts take.
const formerCharts = "a0aefc780a74b8d143195a618726121e3b2c40ad"

// TestChartsUpgradeFromHistory upgrades releases of the charts of an earlier commit, by helm 3, by helm 4, and by helm 4 what
// helm 3 installed. Selectors stay, --reuse-values is
// refused with the way out, and what the upgraded release made goes with it.
func TestChartsUpgradeFromHistory(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	former := t.TempDir()
	archive := exec.CommandContext(t.Context(), "bash", "-eo", "pipefail", "-c", `git archive "$0" charts | tar --extract --directory="$1"`, formerCharts, former)
	archive.Dir = root
	if out, err := archive.CombinedOutput(); err != nil {
		t.Skipf("this checkout does not hold the commit %s: %s", formerCharts, out)
	}
	helm3, err := buildHelm()
	if err != nil {
		t.Fatal(err)
	}
	helm4, err := buildHelm4()
	if err != nil {
		t.Fatal(err)
	}
	for name, by := range map[string]helms{
		"helm 3": {first: helm3, then: helm3}, "helm 4": {first: helm4, then: helm4}, "from helm 3 to helm 4": {first: helm3, then: helm4},
	} {
		t.Run(name, func(t *testing.T) { by.upgrade(t, filepath.Join(former, "charts")) })
	}
}

// helms are what installs a release, and what upgrades it.
type helms struct{ first, then string }

func (h helms) upgrade(t *testing.T, formerCharts string) {
	t.Helper()
	for chart, set := range map[string]string{
		"pseudo-agent":  "config.server.addresses={s:20035},replicas=2,networkPolicy.enabled=true",
		"pseudo-server": "networkPolicy.enabled=true,service.type=NodePort",
		"pod-agent":     "config.network_source=definitions,admissionPolicy.enabled=true",
	} {
		t.Run(chart, func(t *testing.T) {
			makeFreeNamespace(t, sideNamespace)
			bin := h.first
			run := func(command string, args ...string) (string, error) {
				return inCluster(t, "", bin, append([]string{command, chart, "-n", sideNamespace}, args...)...)
			}
			must := func(command string, args ...string) {
				t.Helper()
				if out, err := run(command, args...); err != nil {
					t.Fatalf("helm %s %q: %v\n%s", command, args, err, out)
				}
			}
			now := filepath.Join(chartsDir, chart)
			must("install", filepath.Join(formerCharts, chart), "--set", set)
			bin = h.then
			before := selectorOf(t, chart)
			if out, err := run("upgrade", now, "--reuse-values"); err == nil || !strings.Contains(out, "--reset-then-reuse-values") {
				t.Errorf("upgrade --reuse-values: got %v, want the way out\n%s", err, out)
			}
			must("upgrade", now, "--reset-then-reuse-values")
			if after := selectorOf(t, chart); after != before {
				t.Errorf("the selector was %s and is %s", before, after)
			}
			must("upgrade", now, "--set", set, "--set", "commonAnnotations.a=b")
			must("rollback", "1")
			must("upgrade", now, "--set", set)
			must("uninstall")
			left, err := inCluster(t, "", bins.Kubectl, "get", "-n", sideNamespace, "-o", "name",
				"deployments,daemonsets,services,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets")
			if err != nil || strings.Contains(left, chart) {
				t.Errorf("after it was uninstalled there is (%v)\n%s", err, left)
			}
			if left, err := inCluster(t, "", bins.Kubectl, "get", "-o", "name", "clusterroles,clusterrolebindings,validatingadmissionpolicies"); err != nil || strings.Contains(left, sideNamespace) {
				t.Errorf("after it was uninstalled the cluster has (%v)\n%s", err, left)
			}
		})
	}
}

// selectorOf is the selector of the workload that a release of the chart has.
func selectorOf(t *testing.T, chart string) string {
	t.Helper()
	if chart == "pod-agent" {
		set, err := cluster.Client.AppsV1().DaemonSets(sideNamespace).Get(t.Context(), chart, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return set.Spec.Selector.String()
	}
	deployment, err := cluster.Client.AppsV1().Deployments(sideNamespace).Get(t.Context(), chart, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return deployment.Spec.Selector.String()
}
