package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

func TestConfigurationChangedWhileRunning(t *testing.T) {
	p := newPair(t, options{rules: harness.ReadAll(expect.Names(expect.All)...)})
	loader, objs := load(t, nil)
	p.start()
	p.synced(time.Minute)
	pid := p.agent.Process().PID()

	p.must(p.agent.Configure(harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, sample.APIResources)}))
	p.sources = expect.All
	p.synced(time.Minute)

	good, err := os.ReadFile(p.agent.ConfigFile)
	p.must(err)
	p.must(os.WriteFile(p.agent.ConfigFile, []byte(strings.ReplaceAll(string(good), "clonesets", "clonesetz")), 0o600))
	p.eventually(time.Minute, "the log names the mistake and the nearest valid name", func() error {
		if log := p.agent.Tail(200); !strings.Contains(log, "clonesetz") || !strings.Contains(log, "clonesets") {
			return fmt.Errorf("the log does not name clonesetz")
		}
		return nil
	})
	patch(t, loader, pick(t, objs, "CloneSet", "checkout"), labelled("e2e.example.com/changed", "yes"))
	p.synced(time.Minute) // by the old configuration

	p.must(p.agent.Configure(harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, `[{name: routes}]`)}))
	p.sources = append(slices.Clone(expect.Defaults), expect.Routes)
	p.synced(time.Minute)
	if p.agent.Process().PID() != pid {
		t.Error("the agent was restarted")
	}
}

// rollouts is a workload CRD of which the agent is told that it is like a Deployment.
func rollouts(version string) expect.Source {
	return expect.Source{
		Resource: schema.GroupVersionResource{Group: "e2e.example.com", Version: version, Resource: "rollouts"},
		Type:     "*v1.Deployment",
	}
}

func TestServedVersionChangesWhileRunning(t *testing.T) {
	crd := sample.CRD{Group: "e2e.example.com", Version: "v1alpha1", Kind: "Rollout", Plural: "rollouts"}
	if err := crd.Install(t.Context(), cluster.Dynamic); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		crd.Version = "v1"
		if err := crd.Remove(context.Background(), cluster.Dynamic); err != nil {
			t.Error(err)
		}
	})
	p := newPair(t, options{
		sources: append(slices.Clone(expect.Defaults), rollouts("v1alpha1")),
		agent: harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, `
- {name: rollouts, group: e2e.example.com, as: deployments}
`)},
	})
	load(t, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Namespace" })
	rollout := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "e2e.example.com/v1alpha1", "kind": "Rollout",
		"metadata": map[string]any{"name": "canary", "namespace": "shop"},
		"spec":     map[string]any{"replicas": 1},
	}}
	rollout, err := cluster.Dynamic.Resource(crd.Resource()).Namespace("shop").Create(p.ctx, rollout, metav1.CreateOptions{})
	p.must(err)
	p.start()
	p.synced(time.Minute)

	// An upgrade: the new version is served too, then instead. Nothing else changes, hence nothing is to be reported.
	id := expect.ID{Type: "*v1.Deployment", UID: string(rollout.GetUID())}
	before := p.quiet()
	p.must(crd.Serve(p.ctx, cluster.Dynamic, "v1alpha1", "v1"))
	p.must(crd.Serve(p.ctx, cluster.Dynamic, "v1"))
	p.sources[len(p.sources)-1] = rollouts("v1")
	deadline := time.Now().Add(40 * time.Second) // more than the time after which an installed CRD is seen
	for time.Now().Before(deadline) {
		info := p.heartbeats(1)
		if _, held := p.snapshot()[id]; !held {
			t.Fatalf("version %d lacks the object of a resource whose served version changed", info.Version)
		}
		if info.Version != before.Version {
			t.Fatalf("the version is %d, want still %d", info.Version, before.Version)
		}
	}
	resource := crd.Resource()
	resource.Version = "v1"
	rollout.SetAPIVersion("e2e.example.com/v1")
	rollout.SetLabels(map[string]string{"e2e.example.com/after": "upgrade"})
	_, err = cluster.Dynamic.Resource(resource).Namespace("shop").Update(p.ctx, rollout, metav1.UpdateOptions{})
	p.must(err)
	if info := p.synced(time.Minute); info.ErrorMsg != "" {
		t.Errorf("error_msg is %q, want none", info.ErrorMsg)
	}
}

var apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

func TestBrokenAggregatedAPIHarmsNothingElse(t *testing.T) {
	p := newPair(t, options{
		sources: expect.All,
		agent:   harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, sample.APIResources)},
	})
	loader, objs := load(t, nil)
	broken := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
		"metadata": map[string]any{"name": "v1.broken.e2e.example.com"},
		"spec": map[string]any{
			"group": "broken.e2e.example.com", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
			"insecureSkipTLSVerify": true,
			"service":               map[string]any{"namespace": "default", "name": "nobody", "port": 443},
		},
	}}
	_, err := cluster.Dynamic.Resource(apiServices).Create(p.ctx, broken, metav1.CreateOptions{})
	p.must(err)
	t.Cleanup(func() {
		if err := cluster.Dynamic.Resource(apiServices).Delete(context.Background(), broken.GetName(), metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	p.start()
	p.synced(time.Minute)
	p.agent.Kill()
	p.must(p.agent.Start(p.ctx))
	patch(t, loader, pick(t, objs, "CloneSet", "checkout"), labelled("e2e.example.com/changed", "yes"))
	if info := p.synced(time.Minute); info.ErrorMsg != "" {
		t.Errorf("error_msg is %q, want none", info.ErrorMsg)
	}
}
