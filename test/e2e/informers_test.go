package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// Objects that begin or cease to match a field selector appear and disappear.
func TestFieldSelectors(t *testing.T) {
	sources := slices.Clone(expect.Defaults)
	for i, s := range sources {
		switch s.Resource.Resource {
		case "pods":
			sources[i].Selector = "status.phase=Running,spec.nodeName!=worker-2"
		case "services":
			sources[i].Selector = "metadata.name=web"
		}
	}
	p := newPair(t, options{sources: sources, agent: harness.Settings{
		"inputs.resources.kubernetes.api_resources": yamlList(t, `
- {name: pods, field_selector: "status.phase=Running,spec.nodeName!=worker-2"}
- {name: services, field_selector: metadata.name=web}
`),
	}})
	loader, objs := load(t, nil)
	p.start()
	p.synced(time.Minute)
	holds := func(kind, name string) bool {
		t.Helper()
		_, held := p.snapshot()[expect.ID{Type: "*v1." + kind, UID: string(loader.UID(pick(t, objs, kind, name)))}]
		return held
	}
	const matching, waiting = "web-6d5f8b9c4-x7k2p", "waiting"
	if !holds("Pod", matching) || holds("Pod", "web-6d5f8b9c4-z9w4q") || holds("Pod", waiting) {
		t.Error("the Pods do not follow their selector")
	}
	if n := counts(p.snapshot())["*v1.Service"]; !holds("Service", "web") || n != 1 {
		t.Errorf("the server holds %d Services, want web alone", n)
	}

	phase := func(name, phase string) {
		t.Helper()
		patch(t, loader, pick(t, objs, "Pod", name), map[string]any{"status": map[string]any{"phase": phase}}, "status")
	}
	phase(waiting, "Running")
	p.synced(time.Minute)
	if !holds("Pod", waiting) {
		t.Error("a Pod that matches by now is not reported")
	}
	phase(matching, "Failed")
	p.synced(time.Minute)
	if holds("Pod", matching) {
		t.Error("a Pod that does not match any more is still reported")
	}
	p.must(loader.Delete(p.ctx, pick(t, objs, "Pod", waiting)))
	if info := p.synced(time.Minute); info.ErrorMsg != "" {
		t.Errorf("error_msg is %q, want none", info.ErrorMsg)
	}
}

// The client certificate expires while the connection is open, and is replaced only when the apiserver refuses it.
func TestClientCertificateRotated(t *testing.T) {
	p := newPair(t, options{rules: harness.ReadAll(expect.Names(append(slices.Clone(expect.Defaults), expect.ConfigMaps))...)})
	const validFor = 30 * time.Second
	issued := time.Now()
	cert, key, err := p.account.IssueCertificate(validFor)
	p.must(err)
	p.must(p.account.Rewrite(func(_ *clientcmdapi.Cluster, user *clientcmdapi.AuthInfo) {
		*user = clientcmdapi.AuthInfo{ClientCertificate: cert, ClientKey: key}
	}))
	loader, objs := load(t, nil)
	p.start()
	pid := p.agent.Process().PID()
	before := p.quiet()
	held := p.snapshot()

	time.Sleep(time.Until(issued.Add(validFor + time.Second)))
	// One more resource: a new request on the connection that was opened with the old certificate.
	p.must(p.agent.Configure(harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, `[{name: configmaps}]`)}))
	p.eventually(time.Minute, "error_msg says that the certificate is refused", func() error { return p.errorSays("configmaps: cannot") })
	p.must(p.statusSays("Unauthorized"))
	p.heartbeats(2)
	p.unchanged(before, held)

	_, _, err = p.account.IssueCertificate(time.Hour)
	p.must(err)
	replaced := time.Now()
	p.sources = append(slices.Clone(p.sources), expect.ConfigMaps)
	p.synced(time.Minute)
	p.eventually(time.Minute, "error_msg is cleared", func() error { return p.errorSays("") })
	t.Logf("back %s after the certificate was replaced", time.Since(replaced).Round(100*time.Millisecond))
	patch(t, loader, pick(t, objs, "Deployment", "web"), labelled("e2e.example.com/after", "rotation"))
	p.synced(time.Minute)
	if p.agent.Process().PID() != pid {
		t.Error("the agent was restarted")
	}
}

// The apiserver gets a certificate of another authority; the agent's own file follows later.
func TestServingAuthorityRotated(t *testing.T) {
	p := newPair(t, options{})
	file := filepath.Join(t.TempDir(), "ca.crt")
	follow := func() {
		t.Helper()
		ca, err := os.ReadFile(cluster.CAFile)
		p.must(err)
		p.must(os.WriteFile(file, ca, 0o600))
	}
	follow()
	p.must(p.account.Rewrite(func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.CertificateAuthority = file }))
	loader, objs := load(t, nil)
	p.start()
	pid := p.agent.Process().PID()
	before := p.quiet()
	held := p.snapshot()

	p.must(cluster.ReplaceServingCertificate(p.ctx))
	p.eventually(2*time.Minute, "error_msg says that the apiserver cannot be trusted", func() error {
		return p.errorSays("certificate signed by unknown authority")
	})
	p.must(p.statusSays("certificate-authority"))
	p.heartbeats(2)
	p.unchanged(before, held)

	follow()
	followed := time.Now()
	p.eventually(time.Minute, "error_msg is cleared", func() error { return p.errorSays("") })
	t.Logf("back %s after the authority's file was replaced", time.Since(followed).Round(100*time.Millisecond))
	p.heartbeats(2)
	p.unchanged(before, held)
	loader.SetClient(cluster.Dynamic)
	patch(t, loader, pick(t, objs, "Deployment", "web"), labelled("e2e.example.com/after", "rotation"))
	p.synced(time.Minute)
	if p.agent.Process().PID() != pid {
		t.Error("the agent was restarted")
	}
}

// A token ends abruptly, when the agent has just read its file, and the next one is in the file: nothing fails.
func TestTokenRevoked(t *testing.T) {
	p := newPair(t, options{rules: harness.ReadAll(expect.Names(append(slices.Clone(expect.Defaults), expect.Routes, expect.ConfigMaps))...)})
	load(t, nil)
	p.start()
	p.synced(time.Minute)
	p.must(p.agent.Configure(harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, `[{name: routes}]`)}))
	p.eventually(time.Minute, "the agent has made requests with the first token", func() error {
		n, err := p.agent.Metric(p.ctx, "pseudo_agent_resource_lists_total", `resource="routes"`)
		if err == nil && n == 0 {
			err = errors.New("routes are not listed yet")
		}
		return err
	})
	p.must(p.account.RevokeTokens(p.ctx))
	p.must(p.account.RotateToken(p.ctx))
	time.Sleep(11 * time.Second) // an apiserver goes on accepting a token that it has accepted for ten seconds

	p.must(p.agent.Configure(harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, `[{name: routes}, {name: configmaps}]`)}))
	p.sources = append(slices.Clone(p.sources), expect.Routes, expect.ConfigMaps)
	if info := p.synced(time.Minute); info.ErrorMsg != "" {
		t.Errorf("error_msg is %q, want none", info.ErrorMsg)
	}
	refused, err := p.agent.Metric(p.ctx, "pseudo_agent_apiserver_requests_total", `code="401"`)
	p.must(err)
	failed, err := p.agent.Metric(p.ctx, "pseudo_agent_resource_errors_total", `reason="unauthorized"`)
	p.must(err)
	if refused == 0 || failed != 0 {
		t.Errorf("%v requests were refused and %v failed, want some refused and none failed", refused, failed)
	}
}

// The connection to the apiserver dies without a word: its socket stays open and nothing comes any more.
func TestHalfOpenConnection(t *testing.T) {
	proxy, err := harness.NewProxy(strings.TrimPrefix(cluster.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	p := newPair(t, options{})
	p.must(p.account.Rewrite(func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.Server = "https://" + proxy.Address() }))
	loader, objs := load(t, nil)
	p.start()
	p.quiet()

	proxy.Freeze(false)
	frozen := time.Now()
	patch(t, loader, pick(t, objs, "Deployment", "web"), labelled("e2e.example.com/after", "freezing"))
	// A ping after 30 s without a word, 15 s for its answer; a silent watch is given up only after 3 minutes.
	info := p.synced(80 * time.Second)
	t.Logf("a change arrived %s after the connection had died", time.Since(frozen).Round(100*time.Millisecond))
	if info.ErrorMsg != "" {
		t.Errorf("error_msg is %q, want none", info.ErrorMsg)
	}

	before := p.quiet()
	held := p.snapshot()
	proxy.Freeze(true) // the way to the apiserver as a whole
	frozen = time.Now()
	p.eventually(3*time.Minute, "error_msg says that the apiserver does not answer", func() error { return p.errorSays("cannot") })
	t.Logf("error_msg came %s after the network had died", time.Since(frozen).Round(100*time.Millisecond))
	p.unchanged(before, held)
	proxy.Thaw()
	p.eventually(time.Minute, "error_msg is cleared", func() error { return p.errorSays("") })
	p.heartbeats(2)
	p.unchanged(before, held)
}

// An apiserver that hangs accepts connections, by its kernel, and answers nothing.
func TestAPIServerHangs(t *testing.T) {
	p := newPair(t, options{})
	loader, objs := load(t, nil)
	p.start()
	before := p.quiet()
	held := p.snapshot()
	p.must(cluster.SignalAPIServer(syscall.SIGSTOP))
	t.Cleanup(func() { _ = cluster.SignalAPIServer(syscall.SIGCONT) }) // a second time does nothing
	hung := time.Now()
	p.eventually(3*time.Minute, "error_msg says that the apiserver does not answer", func() error { return p.errorSays("cannot") })
	t.Logf("error_msg came %s after the apiserver had hung up", time.Since(hung).Round(100*time.Millisecond))
	p.unchanged(before, held)
	p.must(cluster.SignalAPIServer(syscall.SIGCONT))
	p.eventually(time.Minute, "error_msg is cleared", func() error { return p.errorSays("") })
	p.heartbeats(2)
	p.unchanged(before, held)
	patch(t, loader, pick(t, objs, "Deployment", "web"), labelled("e2e.example.com/after", "hanging"))
	p.synced(time.Minute)
}

// aggregate serves a resource under another group until the test ends.
func aggregate(t *testing.T, served, backing schema.GroupVersionResource, kind string) *harness.Aggregated {
	t.Helper()
	a, err := cluster.Aggregate(t.Context(), served, backing, kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

// As Ingresses once were, the same objects are served by two groups, and both are selected.
func TestSameObjectInTwoGroups(t *testing.T) {
	old := schema.GroupVersionResource{Group: "extensions", Version: "v1beta1", Resource: "ingresses"}
	aggregate(t, old, schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}, "Ingress")
	p := newPair(t, options{
		rules: harness.ReadAll(append(expect.Names(expect.Defaults), "ingresses.extensions")...),
		agent: harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, `
- {name: ingresses, group: networking.k8s.io}
- {name: ingresses, group: extensions}
`)},
	})
	loader, objs := load(t, nil)
	p.start()
	p.synced(time.Minute)
	entries := func(id string) float64 {
		t.Helper()
		n, err := p.agent.Metric(p.ctx, "pseudo_agent_resource_entries", fmt.Sprintf("resource=%q", id))
		p.must(err)
		return n
	}
	held := counts(p.snapshot())["*v1.Ingress"]
	if a, b := entries("ingresses.networking.k8s.io"), entries("ingresses.extensions"); held == 0 || a != float64(held) || b != a {
		t.Errorf("the groups have %v and %v Ingresses and the server holds %d, want the same number", a, b, held)
	}
	ingress := objs[slices.IndexFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Ingress" })]
	update(t, loader, ingress)
	p.synced(time.Minute)
	p.must(loader.Delete(p.ctx, ingress))
	p.synced(time.Minute)
	if n := counts(p.snapshot())["*v1.Ingress"]; n != held-1 {
		t.Errorf("the server holds %d Ingresses after one was deleted, want %d", n, held-1)
	}
}

// The API server of a selected group goes away: its discovery fails, its resource cannot be read, and nothing else changes.
func TestSelectedAggregatedAPIAway(t *testing.T) {
	crd := sample.CRD{Group: "backing.e2e.example.com", Version: "v1", Kind: "Rollout", Plural: "rollouts"}
	if err := crd.Install(t.Context(), cluster.Dynamic); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := crd.Remove(context.Background(), cluster.Dynamic); err != nil {
			t.Error(err)
		}
	})
	served := schema.GroupVersionResource{Group: "aggregated.e2e.example.com", Version: "v1", Resource: "rollouts"}
	api := aggregate(t, served, crd.Resource(), "Rollout")
	p := newPair(t, options{
		sources: append(slices.Clone(expect.Defaults), expect.Source{Resource: served, Type: "*v1.Deployment"}),
		agent: harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, `
- {name: rollouts, group: aggregated.e2e.example.com, as: deployments}
`)},
	})
	load(t, nil)
	create := func(name string) expect.ID {
		t.Helper()
		obj, err := cluster.Dynamic.Resource(crd.Resource()).Namespace("shop").Create(p.ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "backing.e2e.example.com/v1", "kind": "Rollout",
			"metadata": map[string]any{"name": name}, "spec": map[string]any{"replicas": 1},
		}}, metav1.CreateOptions{})
		p.must(err)
		return expect.ID{Type: "*v1.Deployment", UID: string(obj.GetUID())}
	}
	first := create("first")
	p.start()
	before := p.quiet()
	held := p.snapshot()
	if held[first] == nil {
		t.Fatal("the server does not hold the object of the aggregated API")
	}

	api.SetAway(true)
	p.eventually(2*time.Minute, "error_msg names the resource", func() error { return p.errorSays("rollouts.aggregated.e2e.example.com") })
	failing, err := p.agent.Metric(p.ctx, "pseudo_agent_resource_state", `state="Failing"`)
	p.must(err)
	synced, err := p.agent.Metric(p.ctx, "pseudo_agent_resource_state", `state="Synced"`)
	p.must(err)
	if failing != 1 || int(synced) != len(expect.Defaults)+1 { // and version.Info
		t.Errorf("%v resources are Failing and %v Synced, want 1 and %d", failing, synced, len(expect.Defaults)+1)
	}
	for gone := time.Now(); time.Since(gone) < 45*time.Second; { // two looks at discovery
		p.heartbeats(5)
	}
	p.unchanged(before, held)

	second := create("second")
	api.SetAway(false)
	p.eventually(2*time.Minute, "error_msg is cleared", func() error { return p.errorSays("") })
	p.synced(time.Minute)
	if s := p.snapshot(); s[first] == nil || s[second] == nil {
		t.Error("the server does not hold both objects of the aggregated API")
	}
}
