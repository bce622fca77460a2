package e2e

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim/contract"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// The simulator, against which the informers are tested with faults that a real apiserver cannot be made to have, passes
// the same test.
func TestApiserverContract(t *testing.T) {
	client, err := rest.HTTPClientFor(cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background() // the test's own has ended
		list, err := cluster.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		for _, ns := range list.Items {
			if !strings.HasPrefix(ns.Name, "contract-") {
				continue
			}
			if err := sample.FinishNamespace(ctx, cluster.Dynamic, ns.Name); err != nil {
				t.Error(err)
			}
		}
	})
	contract.Run(t, cluster.URL, client)
}

// What is expected must not be computed by what is tested.
func TestProductIsNotImported(t *testing.T) {
	const (
		product = "github.com/pseudo-agent/pseudo-agent/"
		own     = product + "test/e2e"
	)
	// The contract is for both; the generated messages compute nothing, and let a test send what no agent would.
	shared := []string{product + "internal/testing/apisim/contract", product + "internal/testing/testport", product + "protocol/agent"}
	out, err := exec.Command("go", "list", "-deps", "-test", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.Lines(string(out)) {
		path, _, _ = strings.Cut(strings.TrimSpace(path), " ")
		if strings.HasPrefix(path, product) && !strings.HasPrefix(path, own) && !slices.Contains(shared, path) {
			t.Errorf("the end-to-end tests import %s", path)
		}
	}
}

// TestWatchOfReplacedCRD: a watch from before a CRD was removed and installed again gets 410, so that a list follows. The
// simulated apiserver of the unit tests does the same.
func TestWatchOfReplacedCRD(t *testing.T) {
	crd := sample.CRDs[slices.IndexFunc(sample.CRDs, func(c sample.CRD) bool { return c.Kind == "CloneSet" })]
	client := cluster.Dynamic.Resource(crd.Resource())
	before, err := client.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(crd.Remove(t.Context(), cluster.Dynamic), crd.Install(t.Context(), cluster.Dynamic)); err != nil {
		t.Fatal(err)
	}
	w, err := client.Watch(t.Context(), metav1.ListOptions{ResourceVersion: before.GetResourceVersion()})
	if err == nil {
		defer w.Stop()
		err = apierrors.FromObject((<-w.ResultChan()).Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("got %v, want that the version is too old", err)
	}
}
