package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/published"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// workloadPlatforms are the platforms of the test, with what makes their Pods find them. Their CRDs are the published
// ones where those come as Go modules, and equivalents elsewhere.
const workloadPlatforms = `
- {name: clonesets, group: apps.kruise.io}
- {name: statefulsets, group: apps}
- {name: statefulsets, group: apps.kruise.io}
- {name: statefulsets, group: platform.stke}
- {name: opengaussclusters, group: opengauss.sig}
- {name: opengaussclusters, group: opengauss.cmbc.com.cn}
- {name: routes}
- {name: rollouts, group: argoproj.io, as: deployments}
- {name: gameserversets, group: game.kruise.io, as: statefulsets}
- {name: jobs, group: batch.volcano.sh, as: statefulsets}
`

// equivalents are CRDs that are not published in a Go module.
var equivalents = []sample.CRD{
	{Group: "platform.stke", Version: "v1alpha1", Kind: "StatefulSetPlus", Plural: "statefulsetpluses"},
	{Group: "opengauss.sig", Version: "v1", Kind: "OpenGaussCluster", Plural: "opengaussclusters"},
	{Group: "opengauss.cmbc.com.cn", Version: "v1", Kind: "OpenGaussCluster", Plural: "opengaussclusters"},
	{Group: "game.kruise.io", Version: "v1alpha1", Kind: "GameServerSet", Plural: "gameserversets"},
	{Group: "batch.volcano.sh", Version: "v1alpha1", Kind: "Job", Plural: "jobs"},
}

// platformCluster is a cluster of its own: the shared one has simpler CRDs under the same names.
type platformCluster struct {
	*harness.Cluster
	t      *testing.T
	ctx    context.Context
	loader *sample.Loader
	dir    string
}

func newPlatformCluster(t *testing.T) *platformCluster {
	t.Helper()
	c := &platformCluster{t: t, ctx: t.Context(), dir: t.TempDir()}
	var err error
	if c.Cluster, err = harness.StartCluster(c.ctx, bins, c.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for _, crd := range []published.CRD{published.CloneSets, published.AdvancedStatefulSets, published.Routes, published.Rollouts} {
		c.must(crd.Install(c.ctx, c.Dynamic))
	}
	for _, crd := range equivalents {
		c.must(crd.Install(c.ctx, c.Dynamic))
	}
	// Discovery names a CRD a moment after it is established.
	deadline := time.Now().Add(30 * time.Second)
	for {
		c.loader, err = sample.NewLoader(c.Dynamic, c.Client.Discovery())
		c.must(err)
		_, err = c.loader.Resource(object("apps.kruise.io/v1alpha1", "CloneSet", "x", ""))
		_, err2 := c.loader.Resource(object("batch.volcano.sh/v1alpha1", "Job", "x", ""))
		_, err3 := c.loader.Resource(object("argoproj.io/v1alpha1", "Rollout", "x", ""))
		if err = errors.Join(err, err2, err3); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.create(`
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDR: 10.244.0.0/24}
status:
  addresses: [{type: InternalIP, address: 192.168.0.9}]
  capacity: {cpu: "4", memory: 8Gi}
  conditions: [{type: Ready, status: "True", reason: KubeletReady}]
`)
	return c
}

func object(apiVersion, kind, name, spec string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal([]byte(spec), &o.Object); err != nil {
		panic(err)
	}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetName(name)
	o.SetNamespace("shop")
	return o
}

func (c *platformCluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *platformCluster) create(documents string) {
	c.t.Helper()
	for _, o := range objectsOf(c.t, documents) {
		_, err := c.loader.Create(c.ctx, o)
		c.must(err)
	}
}

// objectsOf reads YAML documents.
func objectsOf(t *testing.T, documents string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	docs := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(documents), 4096)
	for {
		o := &unstructured.Unstructured{}
		err := docs.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
}

// template is a Pod template whose Pods have the label app.
func template(app string) string {
	return fmt.Sprintf(`{metadata: {labels: {app: %s}}, spec: {containers: [{name: c, image: x, ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 9090}]}]}}`, app)
}

// workload creates a workload and a Service that selects it.
func (c *platformCluster) workload(apiVersion, kind, name, more string) {
	c.t.Helper()
	spec := fmt.Sprintf("{replicas: 1, selector: {matchLabels: {app: %s}}, template: %s%s}", name, template(name), more)
	_, err := c.loader.Create(c.ctx, object(apiVersion, kind, name, fmt.Sprintf("metadata: {labels: {app: %s}}\nspec: %s", name, spec)))
	c.must(err)
	c.service(name)
}

func (c *platformCluster) service(name string) {
	c.t.Helper()
	_, err := c.loader.Create(c.ctx, object("v1", "Service", name, fmt.Sprintf(
		`spec: {selector: {app: %s}, ports: [{name: http, port: 80, targetPort: http}, {name: admin, port: 81, targetPort: 9090}]}`, name)))
	c.must(err)
}

var podNumber int

// pod creates a running Pod of an owner.
func (c *platformCluster) pod(name, app, ownerAPI, ownerKind, owner string) {
	c.t.Helper()
	podNumber++
	owners := ""
	if ownerKind != "" {
		owners = fmt.Sprintf(", ownerReferences: [{apiVersion: %s, kind: %s, name: %s, controller: true}]", ownerAPI, ownerKind, owner)
	}
	_, err := c.loader.Create(c.ctx, object("v1", "Pod", name, fmt.Sprintf(`
metadata: {labels: {app: %s}%s}
spec: {nodeName: n1, containers: [{name: c, image: x}]}
status: {phase: Running, podIP: 10.244.0.%d, hostIP: 192.168.0.9, conditions: [{type: Ready, status: "True"}]}
`, app, owners, podNumber+10)))
	c.must(err)
}

func (c *platformCluster) replicaSet(name, app, ownerAPI, ownerKind, owner string) {
	c.t.Helper()
	_, err := c.loader.Create(c.ctx, object("apps/v1", "ReplicaSet", name, fmt.Sprintf(`
metadata: {labels: {app: %s}, ownerReferences: [{apiVersion: %s, kind: %s, name: %s, controller: true}]}
spec: {replicas: 1, selector: {matchLabels: {app: %s}}, template: %s}
`, app, ownerAPI, ownerKind, owner, app, template(app))))
	c.must(err)
}

// kruiseAndArgo creates the workloads and Pods of three platforms with published CRDs.
func (c *platformCluster) kruiseAndArgo() {
	c.t.Helper()
	c.workload("apps.kruise.io/v1alpha1", "CloneSet", "clone", "")
	c.pod("clone-x7k2f", "clone", "apps.kruise.io/v1alpha1", "CloneSet", "clone")
	c.workload("apps.kruise.io/v1beta1", "StatefulSet", "advanced", ", serviceName: advanced")
	c.pod("advanced-0", "advanced", "apps.kruise.io/v1beta1", "StatefulSet", "advanced")
	c.workload("argoproj.io/v1alpha1", "Rollout", "rollout", ", strategy: {canary: {}}")
	c.replicaSet("rollout-5d8f", "rollout", "argoproj.io/v1alpha1", "Rollout", "rollout")
	c.pod("rollout-5d8f-abcde", "rollout", "apps/v1", "ReplicaSet", "rollout-5d8f")
}

func (c *platformCluster) everythingElse() {
	c.t.Helper()
	c.workload("platform.stke/v1alpha1", "StatefulSetPlus", "plus", "")
	c.pod("plus-0", "plus", "platform.stke/v1alpha1", "StatefulSetPlus", "plus")
	c.workload("opengauss.sig/v1", "OpenGaussCluster", "gauss", "")
	c.pod("gauss-0", "gauss", "opengauss.sig/v1", "OpenGaussCluster", "gauss")
	c.workload("opengauss.cmbc.com.cn/v1", "OpenGaussCluster", "gauss2", "")
	c.pod("gauss2-0", "gauss2", "opengauss.cmbc.com.cn/v1", "OpenGaussCluster", "gauss2")
	c.workload("game.kruise.io/v1alpha1", "GameServerSet", "game", "")
	c.pod("game-0", "game", "game.kruise.io/v1alpha1", "GameServerSet", "game")
	// Without spec.template there is a workload for the Pods, but nothing that a Service could select.
	_, err := c.loader.Create(c.ctx, object("batch.volcano.sh/v1alpha1", "Job", "train", `spec: {tasks: [{name: worker, replicas: 1}]}`))
	c.must(err)
	c.pod("train-worker-0", "train", "batch.volcano.sh/v1alpha1", "Job", "train")
	c.workload("apps/v1", "Deployment", "web", "")
	c.replicaSet("web-6c9d", "web", "apps/v1", "Deployment", "web")
	c.pod("web-6c9d-vwxyz", "web", "apps/v1", "ReplicaSet", "web-6c9d")
	// What belongs to no workload, and is no loss.
	c.pod("bare", "bare", "", "", "")
	_, err = c.loader.Create(c.ctx, object("batch/v1", "Job", "backup", `spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}}`))
	c.must(err)
	c.pod("backup-12345", "backup", "batch/v1", "Job", "backup")
	c.create(`
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: by-name, namespace: shop}
spec: {rules: [{host: a.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]}
---
apiVersion: route.openshift.io/v1
kind: Route
metadata: {name: route-by-name, namespace: shop}
spec: {host: b.example, to: {kind: Service, name: clone, weight: 100}, port: {targetPort: admin}}
---
apiVersion: route.openshift.io/v1
kind: Route
metadata: {name: route-by-number, namespace: shop}
spec: {host: c.example, to: {kind: Service, name: rollout, weight: 100}, port: {targetPort: 9090}}
---
apiVersion: route.openshift.io/v1
kind: Route
metadata: {name: route-to-two, namespace: shop}
spec: {host: d.example, to: {kind: Service, name: web, weight: 90}, alternateBackends: [{kind: Service, name: advanced, weight: 10}], port: {targetPort: http}}
`)
}

// bindings are what deepflow-server makes of a snapshot, by the rules of docs/protocol.md, section 6, as far as this test
// needs them: Pod → Type/name of its workload, Service → its workloads, Ingress → service:port of its backends.
type bindings struct {
	pods, services, ingresses map[string]string
}

var knownOwnerKinds = []string{
	"CloneSet", "DaemonSet", "Deployment", "InPlaceSet", "ReplicaSet", "StatefulSet", "StatefulSetPlus", "OpenGaussCluster", "ReplicationController",
}

func bind(s expect.Snapshot) bindings {
	b := bindings{pods: map[string]string{}, services: map[string]string{}, ingresses: map[string]string{}}
	workloads, chain := map[string]string{}, map[string]string{} // Type/name by uid; owner's uid by that of a ReplicaSet
	templates := map[string]map[string]any{}                     // template labels by Type/name
	ports := map[string][]any{}
	for id, o := range s {
		kind := strings.TrimPrefix(id.Type, "*v1.")
		switch kind {
		case "Deployment", "StatefulSet", "DaemonSet", "CloneSet", "OpenGaussCluster", "ReplicationController":
			workloads[id.UID] = kind + "/" + nested[string](o, "metadata", "name")
			templates[workloads[id.UID]] = nested[map[string]any](o, "spec", "template", "metadata", "labels")
		case "ReplicaSet":
			chain[id.UID], _ = firstOwner(o)["uid"].(string)
		case "Service":
			ports[nested[string](o, "metadata", "name")] = nested[[]any](o, "spec", "ports")
		}
	}
	for uid, owner := range chain {
		if w, ok := workloads[owner]; ok {
			workloads[uid] = w
		} else {
			o := s[expect.ID{Type: "*v1.ReplicaSet", UID: uid}]
			workloads[uid] = "ReplicaSet/" + nested[string](o, "metadata", "name")
		}
	}
	for id, o := range s {
		name := nested[string](o, "metadata", "name")
		switch id.Type {
		case "*v1.Pod":
			owner := firstOwner(o)
			kind, _ := owner["kind"].(string)
			uid, _ := owner["uid"].(string)
			if slices.Contains(knownOwnerKinds, kind) && workloads[uid] != "" {
				b.pods[name] = workloads[uid]
			}
		case "*v1.Service":
			var bound []string
			selector := nested[map[string]any](o, "spec", "selector")
			for w, labels := range templates {
				if len(selector) > 0 && includes(labels, selector) {
					bound = append(bound, w)
				}
			}
			slices.Sort(bound)
			b.services[name] = strings.Join(bound, " ")
		case "*v1.Ingress":
			b.ingresses[name] = strings.Join(backends(o, ports), " ")
		}
	}
	return b
}

func includes(labels, selector map[string]any) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// backends are those whose Service and port number exist.
func backends(o map[string]any, ports map[string][]any) []string {
	var out []string
	for _, rule := range nested[[]any](o, "spec", "rules") {
		r, _ := rule.(map[string]any)
		for _, path := range nested[[]any](r, "http", "paths") {
			p, _ := path.(map[string]any)
			service := nested[string](p, "backend", "service", "name")
			number := fmt.Sprint(nested[any](p, "backend", "service", "port", "number"))
			for _, port := range ports[service] {
				if m, ok := port.(map[string]any); ok && fmt.Sprint(m["port"]) == number {
					out = append(out, service+":"+number)
				}
			}
		}
	}
	return out
}

func firstOwner(o map[string]any) map[string]any {
	owners := nested[[]any](o, "metadata", "ownerReferences")
	if len(owners) == 0 {
		return nil
	}
	m, _ := owners[0].(map[string]any)
	return m
}

func nested[T any](o map[string]any, path ...string) T {
	var v any = o
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	out, _ := v.(T)
	return out
}

// agentRun is one run of a pseudo-agent command.
type agentRun struct {
	stdout, stderr string
	code           int
}

func command(t *testing.T, args ...string) agentRun {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bins.Agent, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return agentRun{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// deployment is a server, and an agent with the permissions that `pseudo-agent rbac` prints and no others.
type deployment struct {
	c       *platformCluster
	server  *harness.Server
	agent   *harness.Daemon
	account *harness.Account
}

func (c *platformCluster) deploy(name string, settings harness.Settings) *deployment {
	c.t.Helper()
	d := &deployment{c: c}
	dir := c.t.TempDir()
	var err error
	d.account, err = c.NewAccount(c.ctx, name)
	c.must(err)
	d.server, err = harness.NewServer(bins, dir, name+"-server", nil)
	c.must(err)
	all := harness.Settings{"report.debounce": "100ms", "log.format": "text"}
	maps.Copy(all, settings)
	d.agent, err = harness.NewAgent(bins, dir, name, d.account.Kubeconfig, d.server.GRPC, "d-workloads", all)
	c.must(err)
	c.must(d.server.Start(c.ctx))
	c.t.Cleanup(func() {
		d.agent.Kill()
		d.server.Kill()
		if c.t.Failed() {
			c.t.Logf("the agent's last words:\n%s", d.agent.Tail(30))
		}
	})
	return d
}

// grantPrinted applies what `pseudo-agent rbac` prints for the agent's configuration, and returns the ClusterRole's name.
func (d *deployment) grantPrinted() string {
	d.c.t.Helper()
	r := command(d.c.t, "rbac", "--config", d.agent.ConfigFile, "--name", d.account.Name, "--namespace", "kube-system")
	if r.code != 0 {
		d.c.t.Fatalf("pseudo-agent rbac: status %d: %s", r.code, r.stderr)
	}
	d.c.create(r.stdout)
	return "kube-system:" + d.account.Name
}

func (d *deployment) check(more ...string) (agentRun, checkReport) {
	d.c.t.Helper()
	r := command(d.c.t, append([]string{"check", "--config", d.agent.ConfigFile, "-o", "json"}, more...)...)
	var report checkReport
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		d.c.t.Fatalf("check: %v: %s%s", err, r.stdout, r.stderr)
	}
	return r, report
}

// checkReport is what the test reads of `check -o json`.
type checkReport struct {
	Verdict   string
	Resources []struct{ ID, Verdict, What, Advice string }
	Pods      struct {
		Pods struct {
			Total, Bound, Static, Bare, Job, Dropped int
		}
		Findings []struct {
			Problem, Kind string
			APIVersion    string `json:"api_version"`
			Count         int
		}
	}
}

// inventory are the bindings that the server itself works out.
func (d *deployment) inventory() (bindings, error) {
	b := bindings{pods: map[string]string{}, services: map[string]string{}, ingresses: map[string]string{}}
	var pods []struct{ Name, Workload string }
	var services []struct {
		Name      string
		Workloads []string
	}
	var ingresses []struct {
		Name  string
		Rules []struct {
			Backends []struct {
				Service string
				Port    int
			}
		}
	}
	err := errors.Join(
		d.server.Inventory(d.c.ctx, "d-workloads", "pods", &pods),
		d.server.Inventory(d.c.ctx, "d-workloads", "services", &services),
		d.server.Inventory(d.c.ctx, "d-workloads", "ingresses", &ingresses),
	)
	// Type/namespace/name without the namespace, which is the same for all.
	short := func(workload string) string {
		parts := strings.Split(workload, "/")
		return parts[0] + "/" + parts[len(parts)-1]
	}
	for _, p := range pods {
		b.pods[p.Name] = short(p.Workload)
	}
	for _, s := range services {
		var names []string
		for _, w := range s.Workloads {
			names = append(names, short(w))
		}
		b.services[s.Name] = strings.Join(names, " ")
	}
	for _, i := range ingresses {
		var backends []string
		for _, r := range i.Rules {
			for _, be := range r.Backends {
				backends = append(backends, fmt.Sprintf("%s:%d", be.Service[strings.LastIndex(be.Service, "/")+1:], be.Port))
			}
		}
		b.ingresses[i.Name] = strings.Join(backends, " ")
	}
	return b, err
}

// bound waits until the server's objects bind as wanted, by the rules of this test and by the server's own inventory.
func (d *deployment) bound(want func(bindings) error) {
	d.c.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		_, s, err := d.server.Snapshot(d.c.ctx, "d-workloads")
		if err == nil {
			err = want(bind(s))
		}
		if err == nil {
			var b bindings
			if b, err = d.inventory(); err == nil {
				if err = want(b); err != nil {
					err = fmt.Errorf("the server's inventory: %w", err)
				}
			}
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			d.c.t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// dropped waits until the daemon says that so many Pods will be dropped, and why.
func (d *deployment) dropped(n float64, reason string) {
	d.c.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		got, err := d.agent.Metric(d.c.ctx, "pseudo_agent_advisor_pods", `fate="dropped"`)
		status, err2 := d.agent.Status(d.c.ctx)
		if err = errors.Join(err, err2); err == nil && got == n && strings.Contains(status, reason) {
			return
		}
		if time.Now().After(deadline) {
			d.c.t.Fatalf("the daemon says %v Pods will be dropped (%v), want %v and %q in its status:\n%s", got, err, n, reason, status)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func wantAll(what string, got, want map[string]string) error {
	for name, w := range want {
		// deepflow-server shows an OpenGauss cluster as a StatefulSet, and so does the inventory.
		if got[name] != w && got[name] != strings.ReplaceAll(w, "OpenGaussCluster/", "StatefulSet/") {
			return fmt.Errorf("%s %s: got %q, want %q", what, name, got[name], w)
		}
	}
	return nil
}

// TestEveryPodFindsItsWorkload: each Pod is bound to its workload, each Service to its workloads, each Ingress and Route
// to its Service and port; with the printed permissions and no others.
func TestEveryPodFindsItsWorkload(t *testing.T) {
	c := newPlatformCluster(t)
	c.kruiseAndArgo()
	c.everythingElse()
	d := c.deploy("all", harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, workloadPlatforms)})
	role := d.grantPrinted()
	want := func(b bindings) error {
		return errors.Join(
			wantAll("Pod", b.pods, map[string]string{
				"clone-x7k2f": "CloneSet/clone", "advanced-0": "StatefulSet/advanced", "rollout-5d8f-abcde": "Deployment/rollout",
				"plus-0": "StatefulSet/plus", "gauss-0": "OpenGaussCluster/gauss", "gauss2-0": "OpenGaussCluster/gauss2",
				"game-0": "StatefulSet/game", "train-worker-0": "StatefulSet/train", "web-6c9d-vwxyz": "Deployment/web",
				"bare": "", "backup-12345": "",
			}),
			wantAll("Service", b.services, map[string]string{
				"clone": "CloneSet/clone", "advanced": "StatefulSet/advanced", "rollout": "Deployment/rollout", "plus": "StatefulSet/plus",
				"gauss": "OpenGaussCluster/gauss", "gauss2": "OpenGaussCluster/gauss2", "game": "StatefulSet/game", "web": "Deployment/web",
			}),
			wantAll("Ingress", b.ingresses, map[string]string{
				"by-name": "web:80", "route-by-name": "clone:81", "route-by-number": "rollout:81", "route-to-two": "web:80 advanced:80",
			}),
		)
	}
	c.must(d.agent.Start(c.ctx))
	d.bound(want)

	r, report := d.check()
	if p := report.Pods.Pods; r.code != 0 || p.Dropped != 0 || p.Bound != 9 || p.Bare != 1 || p.Job != 1 {
		t.Errorf("check: got status %d and Pods %+v, want 0 and 9 bound, 1 bare, 1 of a Job:\n%s", r.code, p, r.stdout)
	}

	// A Service's port changes: what depends on it follows.
	web := object("v1", "Service", "web", "")
	patch(t, c.loader, web, map[string]any{"spec": map[string]any{"ports": []any{
		map[string]any{"name": "http", "port": 8088, "targetPort": "http"}, map[string]any{"name": "admin", "port": 81, "targetPort": 9090},
	}}})
	d.bound(func(b bindings) error {
		return wantAll("Ingress", b.ingresses, map[string]string{"by-name": "web:8088", "route-to-two": "web:8088 advanced:80"})
	})
	d.agent.Kill()

	t.Run("each rule is needed", func(t *testing.T) {
		roles := c.Client.RbacV1().ClusterRoles()
		whole, err := roles.Get(c.ctx, role, metav1.GetOptions{})
		c.must(err)
		rules := whole.Rules
		for i := range rules {
			whole.Rules = slices.Delete(slices.Clone(rules), i, i+1)
			whole, err = roles.Update(c.ctx, whole, metav1.UpdateOptions{})
			c.must(err)
			r, report := d.check("--quick")
			noticed := slices.ContainsFunc(report.Resources, func(r struct{ ID, Verdict, What, Advice string }) bool {
				return r.Verdict == "problem" && strings.Contains(r.What, "forbidden") && strings.Contains(r.Advice, "ClusterRole")
			})
			if r.code != 1 || !noticed {
				t.Errorf("without rule %v: got status %d, want 1 and the resource named:\n%s", rules[i], r.code, r.stdout)
			}
		}
	})
}

// TestPrintedPermissionsOfOneNamespace: a Role for the namespaced kinds and a ClusterRole for nodes and the one Namespace.
func TestPrintedPermissionsOfOneNamespace(t *testing.T) {
	c := newPlatformCluster(t)
	c.kruiseAndArgo()
	d := c.deploy("one", harness.Settings{
		"inputs.resources.kubernetes.api_resources":        yamlList(t, workloadPlatforms),
		"inputs.resources.kubernetes.kubernetes_namespace": "shop",
	})
	d.grantPrinted()
	if r, _ := d.check(); r.code != 0 {
		t.Fatalf("check: got status %d, want 0:\n%s%s", r.code, r.stdout, r.stderr)
	}
	c.must(d.agent.Start(c.ctx))
	d.bound(func(b bindings) error {
		return wantAll("Pod", b.pods, map[string]string{"clone-x7k2f": "CloneSet/clone", "rollout-5d8f-abcde": "Deployment/rollout"})
	})
}

// TestThreeUnconfiguredPlatforms: check names them, and what it prints, pasted without change, binds every Pod.
func TestThreeUnconfiguredPlatforms(t *testing.T) {
	c := newPlatformCluster(t)
	c.kruiseAndArgo()
	d := c.deploy("three", nil)
	role := d.grantPrinted()
	r := command(t, "check", "--config", d.agent.ConfigFile)
	if r.code != 1 {
		t.Errorf("check: got status %d, want 1:\n%s%s", r.code, r.stdout, r.stderr)
	}
	t.Logf("check says:\n%s", r.stdout)
	for _, want := range []string{"apps.kruise.io/v1alpha1 CloneSet", "apps.kruise.io/v1beta1 StatefulSet", "argoproj.io/v1alpha1 Rollout"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("check does not name %s:\n%s", want, r.stdout)
		}
	}
	// The daemon says the same in its status and metrics.
	c.must(d.agent.Start(c.ctx))
	d.dropped(2, "apps.kruise.io/v1alpha1 CloneSet")
	d.agent.Kill()

	_, paste, ok := strings.Cut(r.stdout, "# append to inputs.resources.kubernetes.api_resources:\n")
	if !ok {
		t.Fatalf("check prints nothing to append:\n%s", r.stdout)
	}
	entries, rules, _ := strings.Cut(paste, "# append to the rules of the ClusterRole:\n")
	rules, _, _ = strings.Cut(rules, "\nverdict:")

	var more []rbacv1.PolicyRule
	c.must(yaml.UnmarshalStrict([]byte(rules), &more))
	roles := c.Client.RbacV1().ClusterRoles()
	whole, err := roles.Get(c.ctx, role, metav1.GetOptions{})
	c.must(err)
	whole.Rules = append(whole.Rules, more...)
	_, err = roles.Update(c.ctx, whole, metav1.UpdateOptions{})
	c.must(err)
	d.agent, err = harness.NewAgent(bins, filepath.Dir(d.agent.ConfigFile), "three-again", d.account.Kubeconfig, d.server.GRPC, "d-workloads",
		harness.Settings{"report.debounce": "100ms", "inputs.resources.kubernetes.api_resources": yamlList(t, entries)})
	c.must(err)
	if r, report := d.check(); r.code != 0 || report.Pods.Pods.Dropped > 0 || len(report.Pods.Findings) > 0 {
		t.Errorf("check after the advice was taken: got status %d, want 0 and no finding:\n%s", r.code, r.stdout)
	}
	c.must(d.agent.Start(c.ctx))
	d.bound(func(b bindings) error {
		return wantAll("Pod", b.pods, map[string]string{
			"clone-x7k2f": "CloneSet/clone", "advanced-0": "StatefulSet/advanced", "rollout-5d8f-abcde": "Deployment/rollout",
		})
	})
	// Nothing is left to be advised.
	out := command(t, "rbac", "--advised", "--config", d.agent.ConfigFile)
	if out.code != 0 || strings.Contains(out.stdout, "# With these") {
		t.Errorf("rbac --advised: got status %d, want 0 and nothing more to append:\n%s%s", out.code, out.stdout, out.stderr)
	}
}

// TestCheckNamesWrongInputs: each mistake is named, with what to do next.
func TestCheckNamesWrongInputs(t *testing.T) {
	c := &platformCluster{Cluster: cluster, t: t, ctx: t.Context()}
	var err error
	c.loader, err = sample.NewLoader(cluster.Dynamic, cluster.Client.Discovery())
	c.must(err)
	d := c.deploy("wrong", nil)
	role := d.grantPrinted()
	t.Cleanup(func() {
		// The shared cluster goes on without them; the test's own context has ended.
		for _, err := range []error{
			cluster.Client.RbacV1().ClusterRoles().Delete(context.Background(), role, metav1.DeleteOptions{}),
			cluster.Client.RbacV1().ClusterRoleBindings().Delete(context.Background(), role, metav1.DeleteOptions{}),
		} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	for _, tt := range []struct {
		name, entries, id, what, advice string
	}{
		{
			"a CRD that does not exist", "[{name: nothings, group: example.com, as: deployments}]",
			"nothings.example.com", "not served", "install the CRD",
		},
		{
			"no permission", "[{name: configmaps}]",
			"configmaps", "forbidden: get, list, watch", `add to the ClusterRole: {"verbs":["get","list","watch"],"apiGroups":[""],"resources":["configmaps"]}`,
		},
		{
			"a field that cannot be selected by", "[{name: deployments, field_selector: spec.replicas=1}]",
			"deployments", `refuses field_selector "spec.replicas=1"`, "metadata.name and metadata.namespace always work",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, report := d.check("--quick", "--inputs-resources-kubernetes-api-resources", tt.entries)
			found := slices.ContainsFunc(report.Resources, func(r struct{ ID, Verdict, What, Advice string }) bool {
				return r.ID == tt.id && r.Verdict == "problem" && strings.Contains(r.What, tt.what) && strings.Contains(r.Advice, tt.advice)
			})
			if r.code != 1 || !found {
				t.Errorf("got status %d, want 1 and %s: %s → %s:\n%s", r.code, tt.id, tt.what, tt.advice, r.stdout)
			}
		})
	}
}
