package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// restartAPIServer ends the apiserver as a crash would, does something while it is away, and starts it again.
func (p *pair) restartAPIServer(meanwhile func()) {
	p.t.Helper()
	cluster.KillAPIServer()
	if meanwhile != nil {
		meanwhile()
	}
	p.must(cluster.StartAPIServer(p.ctx))
}

// grantExcept grants list and watch of everything but the named resource, which has a grant of its own that can be revoked.
func (p *pair) grantExcept(resource string) {
	p.t.Helper()
	names := slices.DeleteFunc(expect.Names(p.sources), func(n string) bool { return n == resource })
	p.must(p.account.Grant(p.ctx, "others", harness.ReadAll(names...)...))
}

func TestPermissionGrantedWhileRunning(t *testing.T) {
	for _, resource := range []string{"pods", "ingresses.networking.k8s.io"} {
		t.Run(resource, func(t *testing.T) {
			p := newPair(t, options{noRules: true})
			load(t, nil)
			p.grantExcept(resource)
			p.start()
			name, _, _ := strings.Cut(resource, ".")
			p.eventually(30*time.Second, "the agent says what is forbidden", func() error { return p.statusSays(name, "Forbidden") })
			if _, err := p.server.Cluster(p.ctx, p.clusterID); err == nil {
				t.Error("the server knows the cluster although a resource is forbidden from the start")
			}
			p.must(p.account.Grant(p.ctx, "late", harness.ReadAll(resource)...))
			info := p.synced(2 * time.Minute)
			if info.ErrorMsg != "" {
				t.Errorf("error_msg is %q after the permission was granted, want none", info.ErrorMsg)
			}
		})
	}
}

func TestPermissionRevokedWhileRunning(t *testing.T) {
	p := newPair(t, options{noRules: true})
	load(t, nil)
	p.grantExcept("pods")
	p.must(p.account.Grant(p.ctx, "pods", harness.ReadAll("pods")...))
	p.start()
	before := p.quiet()
	held := p.snapshot()

	p.must(p.account.Revoke(p.ctx, "pods"))
	// An open watch outlives the permission; the next one is refused.
	p.restartAPIServer(nil)
	p.eventually(2*time.Minute, "error_msg names the forbidden resource", func() error { return p.errorSays("pods") })
	p.heartbeats(2)
	p.unchanged(before, held)

	p.must(p.account.Grant(p.ctx, "pods", harness.ReadAll("pods")...))
	p.eventually(2*time.Minute, "error_msg is cleared", func() error { return p.errorSays("") })
	p.heartbeats(2)
	p.unchanged(before, held)
	p.synced(time.Minute)
}

func TestCRDInstalledAndRemovedWhileRunning(t *testing.T) {
	crd := sample.CRDs[slices.IndexFunc(sample.CRDs, func(c sample.CRD) bool { return c.Kind == "CloneSet" })]
	p := newPair(t, options{
		sources: append(slices.Clone(expect.Defaults), expect.CloneSets),
		agent:   harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, `[{name: clonesets}]`)},
	})
	load(t, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Namespace" })
	p.must(crd.Remove(p.ctx, cluster.Dynamic))
	p.start()
	p.synced(time.Minute)

	p.must(crd.Install(p.ctx, cluster.Dynamic))
	installed := time.Now()
	load(t, func(o *unstructured.Unstructured) bool { return o.GetKind() == "CloneSet" })
	info := p.synced(time.Minute)
	t.Logf("the objects of a new CRD arrived %s after it", time.Since(installed).Round(100*time.Millisecond))
	if n := counts(p.snapshot())["*v1.CloneSet"]; n != 1 {
		t.Fatalf("the server holds %d CloneSets, want 1", n)
	}

	p.must(crd.Remove(p.ctx, cluster.Dynamic))
	p.synced(time.Minute)
	if n := counts(p.snapshot())["*v1.CloneSet"]; n != 0 {
		t.Errorf("the server holds %d CloneSets after their CRD was removed, want 0", n)
	}
	if info.ErrorMsg != "" {
		t.Errorf("error_msg is %q, want none: an API that is not served is no failure", info.ErrorMsg)
	}
	p.must(crd.Install(p.ctx, cluster.Dynamic))
}

func TestAPIServerRestarted(t *testing.T) {
	p := newPair(t, options{})
	loader, objs := load(t, nil)
	p.start()
	before := p.quiet()
	held := p.snapshot()
	p.restartAPIServer(func() { p.heartbeats(2) })
	p.heartbeats(2)
	p.unchanged(before, held)

	patch(t, loader, pick(t, objs, "Deployment", "web"), labelled("e2e.example.com/after", "restart"))
	if info := p.synced(time.Minute); info.ErrorMsg != "" {
		t.Errorf("error_msg is %q, want none", info.ErrorMsg)
	}
}

// The agent is frozen while its resourceVersions vanish from etcd, so that each of its watches gets a 410 Gone.
func TestCompactedUnderWatch(t *testing.T) {
	p := newPair(t, options{})
	loader, objs := load(t, nil)
	p.start()
	p.quiet()

	p.must(syscall.Kill(p.agent.Process().PID(), syscall.SIGSTOP))
	patch(t, loader, pick(t, objs, "Pod", "web-6d5f8b9c4-x7k2p"), labelled("e2e.example.com/compacted", "yes"))
	p.must(loader.Delete(p.ctx, pick(t, objs, "Pod", "waiting")))
	p.must(cluster.Compact(p.ctx))
	p.restartAPIServer(nil)
	p.must(syscall.Kill(p.agent.Process().PID(), syscall.SIGCONT))
	p.synced(2 * time.Minute)
	expired, err := p.agent.Metric(p.ctx, "pseudo_agent_resource_errors_total", `reason="expired"`)
	p.must(err)
	if expired == 0 {
		t.Error("no watch got a 410 Gone: the test has tested nothing")
	}
	t.Logf("%v answers were 410 Gone", expired)
}

func TestTokenRotated(t *testing.T) {
	p := newPair(t, options{})
	loader, objs := load(t, nil)
	p.start()
	before := p.quiet()
	held := p.snapshot()

	p.must(p.account.RevokeTokens(p.ctx))
	p.must(p.account.RotateToken(p.ctx))
	p.restartAPIServer(nil) // open watches would outlive their token
	p.heartbeats(2)
	p.unchanged(before, held)
	patch(t, loader, pick(t, objs, "Deployment", "web"), labelled("e2e.example.com/after", "rotation"))
	if info := p.synced(2 * time.Minute); info.ErrorMsg != "" {
		t.Errorf("error_msg is %q, want none", info.ErrorMsg)
	}
}

// A token of the shortest lifetime that an apiserver grants is renewed as a kubelet does it, and ends. The agent reads the
// new one in time: nothing is ever told, and reports go on.
func TestShortestToken(t *testing.T) {
	p := newPair(t, options{})
	p.must(p.account.IssueToken(p.ctx, harness.ShortestToken))
	first, err := p.account.Token()
	p.must(err)
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(p.ctx)
	defer wg.Wait()
	defer stop()
	wg.Go(func() { p.account.KeepToken(ctx) })
	loader, objs := load(t, nil)
	p.start()
	p.quiet()

	p.eventually(harness.ShortestToken+5*time.Minute, "the end of the first token", func() error {
		info, err := p.server.Cluster(p.ctx, p.clusterID)
		if err != nil {
			return err
		}
		if info.ErrorMsg != "" {
			t.Errorf("error_msg is %q, want none", info.ErrorMsg)
		}
		if err := cluster.Authenticates(p.ctx, first); err == nil {
			time.Sleep(2 * time.Second)
			return errors.New("it is still good")
		}
		current, err := p.account.Token()
		if err != nil || current == first {
			return fmt.Errorf("the token was not renewed: %w", err)
		}
		return cluster.Authenticates(p.ctx, current)
	})
	p.restartAPIServer(nil) // open watches outlive their token
	patch(t, loader, pick(t, objs, "Deployment", "web"), labelled("e2e.example.com/after", "expiry"))
	if info := p.synced(2 * time.Minute); info.ErrorMsg != "" {
		t.Errorf("error_msg is %q, want none", info.ErrorMsg)
	}
}

func TestNamespacedPermissionsSuffice(t *testing.T) {
	const namespace = "shop"
	p := newPair(t, options{noRules: true, within: only(namespace), agent: harness.Settings{
		"inputs.resources.kubernetes.kubernetes_namespace": namespace,
	}})
	loader, objs := load(t, nil)
	var namespaced []string
	for _, name := range expect.Names(p.sources) {
		if name != "nodes" && name != "namespaces" {
			namespaced = append(namespaced, name)
		}
	}
	p.must(p.account.GrantIn(p.ctx, namespace, "read", harness.ReadAll(namespaced...)...))
	one := harness.ReadAll("namespaces")[0]
	one.ResourceNames = []string{namespace}
	p.must(p.account.Grant(p.ctx, "read", append([]rbacv1.PolicyRule{one}, harness.ReadAll("nodes")...)...))
	p.start()
	p.synced(time.Minute)
	patch(t, loader, pick(t, objs, "Namespace", namespace), labelled("e2e.example.com/changed", "yes"))
	patch(t, loader, pick(t, objs, "Deployment", "web"), labelled("e2e.example.com/changed", "yes"))
	if info := p.synced(time.Minute); info.ErrorMsg != "" {
		t.Errorf("error_msg is %q, want none", info.ErrorMsg)
	}
}

func TestAPIServerAwayForAMinute(t *testing.T) {
	p := newPair(t, options{})
	load(t, nil)
	p.start()
	before := p.quiet()
	held := p.snapshot()

	gone := time.Now()
	p.restartAPIServer(func() {
		p.eventually(50*time.Second, "error_msg says that the apiserver is away", func() error {
			info, err := p.server.Cluster(p.ctx, p.clusterID)
			if err != nil {
				return err
			}
			if info.ErrorMsg == "" {
				return fmt.Errorf("no error_msg after %s", time.Since(gone).Round(time.Second))
			}
			return nil
		})
		told := time.Since(gone)
		t.Logf("error_msg came %s after the apiserver had gone", told.Round(100*time.Millisecond))
		if told < 30*time.Second {
			t.Errorf("error_msg came after %s, want 30 s at least: it freezes the cluster", told)
		}
		p.unchanged(before, held)
		for time.Since(gone) < time.Minute {
			p.heartbeats(5)
		}
		p.unchanged(before, held)
	})
	p.eventually(time.Minute, "error_msg is cleared", func() error { return p.errorSays("") })
	p.heartbeats(2)
	p.unchanged(before, held)
	p.synced(time.Minute)
}

// errorSays fails unless error_msg contains the text; with an empty text, unless there is no error_msg.
func (p *pair) errorSays(text string) error {
	info, err := p.server.Cluster(p.ctx, p.clusterID)
	if err != nil {
		return err
	}
	if (text == "") != (info.ErrorMsg == "") || !strings.Contains(info.ErrorMsg, text) {
		return fmt.Errorf("error_msg is %q", info.ErrorMsg)
	}
	return nil
}

// unchanged fails the test unless the server still holds the content under the version.
func (p *pair) unchanged(before harness.ClusterInfo, held expect.Snapshot) {
	p.t.Helper()
	info, err := p.server.Cluster(p.ctx, p.clusterID)
	p.must(err)
	if info.Version != before.Version {
		p.t.Errorf("the version is %d, want still %d", info.Version, before.Version)
	}
	if d := cmp.Diff(held, p.snapshot()); d != "" {
		p.t.Errorf("the content has changed (-before +after):\n%s", d)
	}
}
