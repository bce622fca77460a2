package advisor

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	fakediscovery "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/pseudo-agent/pseudo-agent/check/rbac"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

var encoder = resources.NewEncoder()

// entry makes the entry of an object. Its uid is its name; ownerKind is "apiVersion/Kind", owner the owner's name.
func entry(wireType, name, ownerKind, owner, rest string) *resources.Entry {
	doc := fmt.Sprintf(`{"metadata":{"namespace":"shop","name":%q,"uid":%q%s`, name, name, rest)
	if !strings.Contains(rest, "}") {
		doc += "}}"
	}
	c := resources.Content{WireType: wireType, UID: resources.ParseUID(name), OwnerKind: ownerKind, JSON: []byte(doc)}
	if ownerKind != "" {
		c.Owner = resources.ParseUID(owner)
	}
	return encoder.Encode(c, nil)
}

func pod(name, ownerKind, owner string) *resources.Entry {
	return entry("*v1.Pod", name, ownerKind, owner, "")
}

func podAt(name, ip, hostIP string) *resources.Entry {
	return entry("*v1.Pod", name, "apps/v1/ReplicaSet", "web-1", fmt.Sprintf(`},"status":{"podIP":%q,"hostIP":%q}}`, ip, hostIP))
}

func base() []*resources.Entry {
	return []*resources.Entry{
		entry("*v1.Node", "n1", "", "", `},"spec":{"podCIDR":"10.244.0.0/24"},"status":{"addresses":[{"type":"InternalIP","address":"192.168.0.9"}]}}`),
		entry("*v1.Deployment", "web", "", "", `},"spec":{"template":{"metadata":{"labels":{"app":"web"}}}}}`),
		entry("*v1.ReplicaSet", "web-1", "apps/v1/Deployment", "web", ""),
		pod("web-1-a", "apps/v1/ReplicaSet", "web-1"),
	}
}

type plurale map[string]string

func (p plurale) Resolve(_ context.Context, apiVersion, kind string) (string, bool) {
	r, ok := p[apiVersion+"/"+kind]
	return r, ok
}

func look(t *testing.T, reqs []resources.Request, resolver Resolver, entries ...*resources.Entry) Report {
	t.Helper()
	sel, err := resources.Select(reqs, resources.Namespaces{})
	if err != nil {
		t.Fatal(err)
	}
	a := New(Options{Entries: func() []*resources.Entry { return append(base(), entries...) }, Resolver: resolver, Thorough: true})
	a.Configure(reqs, sel)
	r, ok := a.Look(t.Context())
	if !ok {
		t.Fatal("got no report, want one")
	}
	return r
}

func TestOwners(t *testing.T) {
	resolver := plurale{
		"argoproj.io/v1alpha1/Rollout": "rollouts", "game.example/v1/GameServerSet": "gameserversets", "batch.volcano.sh/v1alpha1/Job": "jobs",
	}
	kruise := resources.Request{Name: "statefulsets", Group: "apps.kruise.io"}
	for _, tt := range []struct {
		name    string
		reqs    []resources.Request
		entries []*resources.Entry
		pods    Pods
		problem Problem // of the only finding; empty: none
		want    []resources.Request
		rule    rbacv1.PolicyRule
		advice  string
	}{
		{name: "all bound", pods: Pods{Total: 1, Bound: 1}},
		{
			name: "static, bare, jobs and in-place sets",
			entries: []*resources.Entry{
				pod("etcd-n1", "v1/Node", "n1"), pod("bare", "", ""), pod("backup-x", "batch/v1/Job", "backup"),
				pod("cron-x", "batch/v1/CronJob", "cron"), pod("inplace-x", "apps.example/v1/InPlaceSet", "inplace"),
			},
			pods: Pods{Total: 6, Bound: 2, Static: 1, Bare: 1, Job: 2},
		},
		{
			name:    "CloneSet as documented",
			entries: []*resources.Entry{pod("clone-x", "apps.kruise.io/v1alpha1/CloneSet", "clone")},
			pods:    Pods{Total: 2, Bound: 1, Dropped: 1},
			problem: OwnerNotReported,
			want:    []resources.Request{{Name: "clonesets", Group: "apps.kruise.io"}},
			rule:    rbac.Rule("apps.kruise.io", "clonesets"),
		},
		{
			name:    "Advanced StatefulSet: the default of that name must be kept",
			entries: []*resources.Entry{pod("adv-0", "apps.kruise.io/v1beta1/StatefulSet", "adv")},
			pods:    Pods{Total: 2, Bound: 1, Dropped: 1},
			problem: OwnerNotReported,
			want:    []resources.Request{{Name: "statefulsets", Group: "apps"}, kruise},
			rule:    rbac.Rule("apps.kruise.io", "statefulsets"),
		},
		{
			name:    "StatefulSetPlus beside an Advanced StatefulSet",
			reqs:    []resources.Request{{Name: "statefulsets", Group: "apps"}, kruise},
			entries: []*resources.Entry{pod("plus-0", "platform.stke/v1alpha1/StatefulSetPlus", "plus")},
			pods:    Pods{Total: 2, Bound: 1, Dropped: 1},
			problem: OwnerNotReported,
			want:    []resources.Request{{Name: "statefulsets", Group: "platform.stke"}},
			rule:    rbac.Rule("platform.stke", "statefulsetpluses"),
		},
		{
			name:    "OpenGauss in its second group",
			entries: []*resources.Entry{pod("og-0", "opengauss.cmbc.com.cn/v1/OpenGaussCluster", "og")},
			pods:    Pods{Total: 2, Bound: 1, Dropped: 1},
			problem: OwnerNotReported,
			want:    []resources.Request{{Name: "opengaussclusters", Group: "opengauss.cmbc.com.cn"}},
			rule:    rbac.Rule("opengauss.cmbc.com.cn", "opengaussclusters"),
		},
		{
			name:    "numbered Pods of another CRD",
			entries: []*resources.Entry{pod("gs-0", "game.example/v1/GameServerSet", "gs"), pod("gs-1", "game.example/v1/GameServerSet", "gs")},
			pods:    Pods{Total: 3, Bound: 1, Dropped: 2},
			problem: OwnerNotReported,
			want:    []resources.Request{{Name: "gameserversets", Group: "game.example", As: "statefulsets"}},
			rule:    rbac.Rule("game.example", "gameserversets"),
			advice:  "is a guess",
		},
		{
			name:    "a Volcano Job is no batch Job",
			entries: []*resources.Entry{pod("train-worker-0", "batch.volcano.sh/v1alpha1/Job", "train")},
			pods:    Pods{Total: 2, Bound: 1, Dropped: 1},
			problem: OwnerNotReported,
			want:    []resources.Request{{Name: "jobs", Group: "batch.volcano.sh", As: "statefulsets"}},
			rule:    rbac.Rule("batch.volcano.sh", "jobs"),
		},
		{
			name:    "an owner that the apiserver does not serve",
			entries: []*resources.Entry{pod("p-x7k2f", "old.example/v1/Policy", "p")},
			pods:    Pods{Total: 2, Bound: 1, Dropped: 1},
			problem: OwnerNotReported,
			want:    []resources.Request{{Name: "policies", Group: "old.example", As: "deployments"}},
			rule:    rbac.Rule("old.example", "policies"),
			advice:  "kubectl api-resources",
		},
		{
			name:    "a Rollout's ReplicaSet is a workload of its own",
			entries: []*resources.Entry{entry("*v1.ReplicaSet", "ro-1", "argoproj.io/v1alpha1/Rollout", "ro", ""), pod("ro-1-x", "apps/v1/ReplicaSet", "ro-1")},
			pods:    Pods{Total: 2, Bound: 2},
			problem: WorkloadSplit,
			want:    []resources.Request{{Name: "rollouts", Group: "argoproj.io", As: "deployments"}},
			rule:    rbac.Rule("argoproj.io", "rollouts"),
		},
		{
			name:    "a Rollout that is reported",
			reqs:    []resources.Request{{Name: "rollouts", Group: "argoproj.io", As: "deployments"}},
			entries: []*resources.Entry{entry("*v1.Deployment", "ro", "", "", ""), entry("*v1.ReplicaSet", "ro-1", "argoproj.io/v1alpha1/Rollout", "ro", ""), pod("ro-1-x", "apps/v1/ReplicaSet", "ro-1")},
			pods:    Pods{Total: 2, Bound: 2},
		},
		{
			name:    "a ReplicaSet without an owner is not reported, because the server skips it",
			entries: []*resources.Entry{pod("lone-x", "apps/v1/ReplicaSet", "lone")},
			pods:    Pods{Total: 2, Bound: 1, Dropped: 1},
			problem: OwnerMissing,
			advice:  "create it through a Deployment",
		},
		{
			name:    "a default that was disabled",
			reqs:    []resources.Request{{Name: "daemonsets", Disabled: true}},
			entries: []*resources.Entry{pod("log-x", "apps/v1/DaemonSet", "log")},
			pods:    Pods{Total: 2, Bound: 1, Dropped: 1},
			problem: OwnerNotReported,
			want:    []resources.Request{{Name: "daemonsets", Group: "apps"}},
			rule:    rbac.Rule("apps", "daemonsets"),
		},
		{
			name:    "selected, and still missing",
			entries: []*resources.Entry{pod("log-x", "apps/v1/DaemonSet", "log")},
			pods:    Pods{Total: 2, Bound: 1, Dropped: 1},
			problem: OwnerMissing,
			advice:  "daemonsets.apps",
		},
		{
			name:    "an owner in the core group",
			entries: []*resources.Entry{pod("child", "v1/Pod", "parent")},
			pods:    Pods{Total: 2, Bound: 1, Dropped: 1},
			problem: OwnerUnreportable,
			advice:  "plugin",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := look(t, tt.reqs, resolver, tt.entries...)
			if r.Pods != tt.pods {
				t.Errorf("got Pods %+v, want %+v", r.Pods, tt.pods)
			}
			if tt.problem == "" {
				if len(r.Findings) > 0 {
					t.Errorf("got findings %+v, want none", r.Findings)
				}
				return
			}
			if len(r.Findings) != 1 || r.Findings[0].Problem != tt.problem {
				t.Fatalf("got findings %+v, want one of %s", r.Findings, tt.problem)
			}
			f := r.Findings[0]
			if diff := cmp.Diff(tt.want, f.APIResources); diff != "" {
				t.Errorf("got other entries than wanted (-want +got):\n%s", diff)
			}
			if len(f.Rules) > 0 {
				if diff := cmp.Diff(tt.rule, f.Rules[0]); diff != "" {
					t.Errorf("got another rule than wanted (-want +got):\n%s", diff)
				}
			}
			if len(f.Rules) == 0 && tt.want != nil {
				t.Error("got no rule, want one")
			}
			if !strings.Contains(f.Advice, tt.advice) {
				t.Errorf("got advice %q, want it to contain %q", f.Advice, tt.advice)
			}
			if len(f.Examples) == 0 || !strings.HasPrefix(f.Examples[0], "shop/") {
				t.Errorf("got examples %q, want names in namespace shop", f.Examples)
			}
		})
	}
}

// TestAdviceIsAccepted takes the advice of every finding at once, and the owners as reported then: nothing is left.
func TestAdviceIsAccepted(t *testing.T) {
	pods := []*resources.Entry{
		pod("clone-x", "apps.kruise.io/v1alpha1/CloneSet", "clone"), pod("adv-0", "apps.kruise.io/v1beta1/StatefulSet", "adv"),
		pod("plus-0", "platform.stke/v1alpha1/StatefulSetPlus", "plus"), pod("gs-0", "game.example/v1/GameServerSet", "gs"),
		pod("log-x", "apps/v1/DaemonSet", "log"), pod("rc-x", "v1/ReplicationController", "rc"),
	}
	reqs := []resources.Request{{Name: "daemonsets", Disabled: true}, {Name: "replicationcontrollers", Disabled: true}}
	r := look(t, reqs, nil, pods...)
	add, rules := Merge(r.Findings)
	reqs = append(reqs, add...)
	sel, err := resources.Select(reqs, resources.Namespaces{})
	if err != nil {
		t.Fatalf("got an advice that is not accepted: %v", err)
	}
	for _, f := range r.Findings {
		for _, rule := range f.Rules {
			if !slices.ContainsFunc(sel, func(s resources.Selected) bool {
				return slices.ContainsFunc(s.Candidates, func(c schema.GroupVersionResource) bool {
					return rule.APIGroups[0] == c.Group && rule.Resources[0] == c.Resource
				})
			}) {
				t.Errorf("got rule %v for a resource that the advised entries do not select", rule)
			}
		}
	}
	if len(rules) != len(pods) {
		t.Errorf("got %d rules, want %d", len(rules), len(pods))
	}
	again := look(t, reqs, nil, pods...)
	for _, f := range again.Findings {
		if f.Problem != OwnerMissing {
			t.Errorf("got %s of %s %s after the advice was taken, want the kind to be selected", f.Problem, f.APIVersion, f.Kind)
		}
	}
	for _, name := range []string{"statefulsets.apps", "statefulsets.apps.kruise.io", "statefulsets.platform.stke"} {
		if !slices.ContainsFunc(sel, func(s resources.Selected) bool { return s.ID == name }) {
			t.Errorf("got no %s after the advice was taken", name)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, tt := range []struct {
		name string
		ips  []string
		want string // in the advice; empty: no finding
	}{
		{name: "in the podCIDR", ips: []string{"10.244.0.5", "10.244.0.6"}},
		{name: "outside, with one common /16", ips: []string{"10.77.0.5", "10.77.200.6"}},
		{name: "of the Node", ips: []string{"192.168.0.9", "10.77.0.1"}},
		{name: "IPv6", ips: []string{"fd00::1", "10.77.0.1"}},
		{name: "none", ips: []string{"", "10.77.0.1"}},
		{name: "in two networks", ips: []string{"10.244.9.5", "10.77.0.6"}, want: "pod_net_ipv4_cidr_max_mask to 8 or less"},
		{name: "in two neighbours", ips: []string{"10.76.9.5", "10.77.0.6"}, want: "pod_net_ipv4_cidr_max_mask to 15 or less"},
		{name: "all over the longest private range", ips: []string{"10.0.9.5", "10.255.0.6"}, want: "pod_net_ipv4_cidr_max_mask to 8 or less"},
		{name: "in two private ranges", ips: []string{"10.0.9.5", "172.31.0.6"}, want: "give the Nodes a spec.podCIDR"},
		{name: "at both ends", ips: []string{"1.0.0.1", "223.255.0.1"}, want: "give the Nodes a spec.podCIDR"},
		{name: "in two halves of what a /7 holds", ips: []string{"10.0.0.1", "11.0.0.1"}, want: "give the Nodes a spec.podCIDR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var entries []*resources.Entry
			for i, ip := range tt.ips {
				entries = append(entries, podAt(fmt.Sprint("p", i), ip, "192.168.0.9"))
			}
			r := look(t, nil, nil, entries...)
			if tt.want == "" {
				if len(r.Findings) > 0 {
					t.Errorf("got findings %+v, want none", r.Findings)
				}
				return
			}
			if len(r.Findings) != 1 || r.Findings[0].Problem != AddressesLost || !strings.Contains(r.Findings[0].Advice, tt.want) {
				t.Errorf("got findings %+v, want one with %q", r.Findings, tt.want)
			}
		})
	}
}

func nodeAt(name, addresses string) *resources.Entry {
	return entry("*v1.Node", name, "", "", `},"spec":{"podCIDR":"10.244.0.0/24"},"status":{"addresses":[`+addresses+`]}}`)
}

// TestNodes: what the server drops for want of an address is told, with the Pods on it.
func TestNodes(t *testing.T) {
	const external = `{"type":"InternalIP","address":"203.0.113.7"},{"type":"ExternalIP","address":"203.0.113.7"}`
	for _, tt := range []struct {
		name    string
		entries []*resources.Entry
		want    []Finding // Problem, Severity, Count and Examples only
		what    string    // in the first
	}{
		{name: "known", entries: []*resources.Entry{podAt("p", "10.244.0.5", "192.168.0.9")}},
		{name: "a Pod without Node yet", entries: []*resources.Entry{podAt("p", "", "")}},
		{
			name:    "no address",
			entries: []*resources.Entry{nodeAt("n2", ""), nodeAt("n3", ""), podAt("p", "10.244.0.5", "192.168.0.10"), podAt("q", "10.244.0.6", "192.168.0.9")},
			want:    []Finding{{Problem: NodeWithoutAddress, Severity: Failure, Count: 2, Examples: []string{"shop/n2", "shop/n3"}}},
			what:    "2 Nodes without an InternalIP that is an address: the server drops them, and Pods on them have no node (1 found so far: shop/p)",
		},
		{
			name: "no address, no Pod", entries: []*resources.Entry{nodeAt("n2", "")},
			want: []Finding{{Problem: NodeWithoutAddress, Severity: Failure, Count: 1, Examples: []string{"shop/n2"}}},
			what: "(none was found so far)",
		},
		{
			name:    "many Pods",
			entries: []*resources.Entry{nodeAt("n2", ""), podAt("p", "", "192.168.0.10"), podAt("q", "", "192.168.0.10"), podAt("r", "", "192.168.0.10"), podAt("s", "", "192.168.0.10")},
			want:    []Finding{{Problem: NodeWithoutAddress, Severity: Failure, Count: 1, Examples: []string{"shop/n2"}}},
			what:    "(4 found so far: shop/p, shop/q, shop/r, …)",
		},
		{
			name: "ExternalIP", entries: []*resources.Entry{nodeAt("n2", external), podAt("p", "10.244.0.5", "203.0.113.7")},
			want: []Finding{{Problem: NodeExternalAddress, Severity: Hint, Count: 1, Examples: []string{"shop/n2"}}},
		},
		{
			name: "another family", entries: []*resources.Entry{podAt("p", "", "fd00::9")},
			want: []Finding{{Problem: PodNodeUnknown, Severity: Hint, Count: 1, Examples: []string{"shop/p"}}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := look(t, nil, nil, tt.entries...)
			var got []Finding
			for _, f := range r.Findings {
				got = append(got, Finding{Problem: f.Problem, Severity: f.Severity, Count: f.Count, Examples: f.Examples})
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("got findings other than wanted (-want +got):\n%s", diff)
			}
			if len(r.Findings) > 0 && !strings.Contains(r.Findings[0].What, tt.what) {
				t.Errorf("got %q, want %q in it", r.Findings[0].What, tt.what)
			}
		})
	}
}

// TestNodesInTurn: the Pods of Nodes without address are counted over a whole round, and are forgotten once they are gone.
func TestNodesInTurn(t *testing.T) {
	entries := append(base(), nodeAt("n2", ""))
	for i := range 4 * addressSample {
		entries = append(entries, podAt(fmt.Sprint("p", i), "10.244.0.1", []string{"192.168.0.9", "192.168.0.10"}[i%2]))
	}
	a := New(Options{Entries: func() []*resources.Entry { return entries }})
	what := func(looks int) string {
		for range looks - 1 {
			a.Look(t.Context())
		}
		r, _ := a.Look(t.Context())
		return r.Findings[0].What
	}
	for _, looks := range []int{6, 1, 1, 4} { // whatever the place in a round
		// A look may begin in one round and end in the next.
		if got := what(looks); !strings.Contains(got, "500 found") && !strings.Contains(got, "499 found") {
			t.Errorf("got %q, want 500 Pods", got)
		}
	}
	entries = entries[:len(entries)-4*addressSample]
	if got := what(3); !strings.Contains(got, "none was found") {
		t.Errorf("got %q after the Pods went, want none", got)
	}
}

// TestAddressesInTurn: a look reads a sample only, but each Pod has its turn, and what is gone is forgotten.
func TestAddressesInTurn(t *testing.T) {
	entries := base()
	for i := range 4 * addressSample {
		entries = append(entries, podAt(fmt.Sprint("p", i), "10.77.0.1", "192.168.0.9"))
	}
	odd := podAt("odd", "10.78.0.1", "192.168.0.9")
	now := append(slices.Clone(entries), odd)
	a := New(Options{Entries: func() []*resources.Entry { return now }})
	found := func(looks int) bool {
		for range looks {
			r, _ := a.Look(t.Context())
			if len(r.Findings) > 0 && r.Findings[0].Problem == AddressesLost {
				return true
			}
		}
		return false
	}
	if !found(6) {
		t.Error("got no finding after every Pod had its turn, want one")
	}
	now = entries
	for range 20 {
		a.Look(t.Context())
	}
	if found(1) {
		t.Error("got the finding after its Pod was gone for several rounds, want none")
	}
}

func TestServices(t *testing.T) {
	service := func(spec string) *resources.Entry {
		return entry("*v1.Service", "svc", "", "", `},"spec":`+spec+`}`)
	}
	for _, tt := range []struct {
		name  string
		entry *resources.Entry
		want  Problem
	}{
		{"bound", service(`{"type":"ClusterIP","selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080}]}`), ""},
		{"named port", service(`{"selector":{"app":"web"},"ports":[{"port":80,"targetPort":"http"}]}`), ""},
		{"nothing selected", service(`{"selector":{"app":"db"},"ports":[{"port":80,"targetPort":8080}]}`), ServiceUnbound},
		{"one label too many", service(`{"selector":{"app":"web","tier":"x"},"ports":[{"port":80,"targetPort":8080}]}`), ServiceUnbound},
		{"without selector", service(`{"ports":[{"port":80,"targetPort":8080}]}`), ""},
		{"external name", service(`{"type":"ExternalName","selector":{"app":"db"},"ports":[{"port":80,"targetPort":8080}]}`), ""},
		{"quoted port", service(`{"selector":{"app":"web"},"ports":[{"port":80,"targetPort":"8080"}]}`), ServicePorts},
		{"no target port", service(`{"selector":{"app":"web"},"ports":[{"port":80}]}`), ServicePorts},
		{"one port of two", service(`{"selector":{"app":"web"},"ports":[{"port":80},{"port":81,"targetPort":81}]}`), ""},
		{
			"Rancher's annotation",
			entry("*v1.Service", "svc", "", "", `,"annotations":{"field.cattle.io/targetWorkloadIds":"[]"}},"spec":{"ports":[{"port":80}]}}`), "",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := look(t, nil, nil, tt.entry)
			switch {
			case tt.want == "" && len(r.Findings) > 0:
				t.Errorf("got findings %+v, want none", r.Findings)
			case tt.want != "" && (len(r.Findings) != 1 || r.Findings[0].Problem != tt.want || r.Findings[0].Examples[0] != "shop/svc"):
				t.Errorf("got findings %+v, want one of %s", r.Findings, tt.want)
			}
		})
	}
}

// TestRun checks what a daemon sees over time: an owner that is late is no alarm, one line per change, metrics.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lines
		reg := prometheus.NewPedanticRegistry()
		var mu sync.Mutex
		var entries []*resources.Entry
		set := func(es []*resources.Entry) {
			mu.Lock()
			defer mu.Unlock()
			entries = es
		}
		a := New(Options{
			Entries: func() []*resources.Entry {
				mu.Lock()
				defer mu.Unlock()
				return entries
			},
			Log:        slog.New(slog.NewTextHandler(&log, nil)),
			Registerer: reg,
		})
		sel, err := resources.Select(nil, resources.Namespaces{})
		if err != nil {
			t.Fatal(err)
		}
		a.Configure(nil, sel)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		check := func(what, state string, pods Pods, logged int) {
			t.Helper()
			synctest.Wait()
			st := a.Status()
			if st.State != state || st.Pods != pods {
				t.Errorf("%s: got state %q and Pods %+v, want %q and %+v", what, st.State, st.Pods, state, pods)
			}
			if got := strings.Count(log.String(), "\n"); got != logged {
				t.Errorf("%s: got %d log lines, want %d:\n%s", what, got, logged, log.String())
			}
		}
		check("nothing listed yet", "waiting", Pods{}, 0)
		set(append(base(), pod("log-x", "apps/v1/DaemonSet", "log")))
		time.Sleep(time.Second)
		check("owner late", "ok", Pods{Total: 2, Bound: 1, Settling: 1}, 0)
		time.Sleep(time.Minute)
		check("owner missing", "failure", Pods{Total: 2, Bound: 1, Dropped: 1}, 1)
		time.Sleep(time.Hour)
		check("owner still missing", "failure", Pods{Total: 2, Bound: 1, Dropped: 1}, 1)
		want := `
			# HELP pseudo_agent_advisor_objects Objects that the server will leave out or show incompletely, by the problem that the status page explains.
			# TYPE pseudo_agent_advisor_objects gauge
			pseudo_agent_advisor_objects{problem="node_external_address"} 0
			pseudo_agent_advisor_objects{problem="node_without_address"} 0
			pseudo_agent_advisor_objects{problem="owner_missing"} 1
			pseudo_agent_advisor_objects{problem="owner_not_reported"} 0
			pseudo_agent_advisor_objects{problem="owner_unreportable"} 0
			pseudo_agent_advisor_objects{problem="pod_addresses_lost"} 0
			pseudo_agent_advisor_objects{problem="pod_node_unknown"} 0
			pseudo_agent_advisor_objects{problem="replicaset_owner_not_reported"} 0
			pseudo_agent_advisor_objects{problem="service_ports"} 0
			pseudo_agent_advisor_objects{problem="service_unbound"} 0
		`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "pseudo_agent_advisor_objects"); err != nil {
			t.Error(err)
		}
		set(append(base(), pod("log-x", "apps/v1/DaemonSet", "log"), entry("*v1.DaemonSet", "log", "", "", "")))
		time.Sleep(time.Minute)
		check("owner came", "ok", Pods{Total: 2, Bound: 2}, 2)
		set(append(base(), pod("web-0-z", "apps/v1/ReplicaSet", "web-0")))
		time.Sleep(5 * time.Minute)
		check("a Pod that takes its time to end", "hint", Pods{Total: 2, Bound: 1, Settling: 1}, 3)
		stop()
		if err := <-done; err != nil {
			t.Errorf("got %v from Run, want nil", err)
		}
	})
}

// lines is a log that may be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func TestDiscovery(t *testing.T) {
	fake := &fakediscovery.FakeDiscovery{Fake: &clienttesting.Fake{Resources: []*metav1.APIResourceList{{
		GroupVersion: "argoproj.io/v1alpha1",
		APIResources: []metav1.APIResource{{Name: "rollouts", Kind: "Rollout"}, {Name: "rollouts/scale", Kind: "Scale"}},
	}}}}
	var _ discovery.ServerResourcesInterface = fake
	d := NewDiscovery(fake)
	for _, tt := range []struct {
		apiVersion, kind, want string
		ok                     bool
	}{
		{"argoproj.io/v1alpha1", "Rollout", "rollouts", true},
		{"argoproj.io/v1alpha1", "Scale", "", false},
		{"gone.example/v1", "Rollout", "", false},
		{"a/b/c", "Rollout", "", false},
	} {
		got, ok := d.Resolve(t.Context(), tt.apiVersion, tt.kind)
		if got != tt.want || ok != tt.ok {
			t.Errorf("Resolve(%q, %q): got %q, %v, want %q, %v", tt.apiVersion, tt.kind, got, ok, tt.want, tt.ok)
		}
	}
	calls := len(fake.Actions())
	d.Resolve(t.Context(), "argoproj.io/v1alpha1", "Rollout")
	if got := len(fake.Actions()); got != calls {
		t.Errorf("got %d requests after asking again, want %d", got, calls)
	}
}

// BenchmarkLook is a daemon's look at 100,000 bound Pods.
func BenchmarkLook(b *testing.B) {
	entries := base()
	for i := range 100_000 {
		entries = append(entries, pod(fmt.Sprint("p", i), "apps/v1/ReplicaSet", "web-1"))
	}
	for i := range 2_000 {
		name := fmt.Sprint("d", i)
		entries = append(entries,
			entry("*v1.Deployment", name, "", "", `},"spec":{"template":{"metadata":{"labels":{"app":"`+name+`"}}}}}`),
			entry("*v1.Service", "s"+name, "", "", `},"spec":{"selector":{"app":"`+name+`"},"ports":[{"port":1,"targetPort":1}]}}`))
	}
	a := New(Options{Entries: func() []*resources.Entry { return entries }})
	a.Look(b.Context())
	for b.Loop() {
		a.Look(b.Context())
	}
}
