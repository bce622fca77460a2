package e2e

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

// only tells namespaces by their names.
func only(names ...string) func(string) bool {
	return func(namespace string) bool { return slices.Contains(names, namespace) }
}

func except(names ...string) func(string) bool {
	return func(namespace string) bool { return !slices.Contains(names, namespace) }
}

// newNamespace makes a namespace of a team that holds a Service and a workload.
func newNamespace(t *testing.T, loader *sample.Loader, name, team string) {
	t.Helper()
	create(t, loader, objectsOf(t, strings.NewReplacer("NAME", name, "TEAM", team).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: NAME, labels: {e2e.example.com/team: TEAM}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NAME, labels: {app: web}}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: web, namespace: NAME}
spec: {selector: {app: web}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: web}]}}}
`)))
}

// granted lets the account do what `pseudo-agent rbac` prints for its configuration, and nothing else.
func (p *pair) granted(loader *sample.Loader) {
	p.t.Helper()
	out := command(p.t, "rbac", "--config", p.agent.ConfigFile, "--name", p.account.Name, "--namespace", "kube-system")
	if out.code != 0 {
		p.t.Fatalf("rbac: got status %d\n%s", out.code, out.stderr)
	}
	create(p.t, loader, objectsOf(p.t, out.stdout))
}

// TestSelectedNamespaces: whichever way namespaces are chosen, the server holds exactly theirs, with exactly the permissions
// that rbac prints, also when the choice changes while the agent runs.
func TestSelectedNamespaces(t *testing.T) {
	loader, _ := load(t, nil)
	newNamespace(t, loader, "sel-a", "blue")
	newNamespace(t, loader, "sel-b", "red")

	t.Run("several", func(t *testing.T) {
		p := newPair(t, options{noRules: true, within: only("shop", "sel-a"), agent: harness.Settings{"selection.namespaces": []string{"shop", "sel-a"}}})
		p.granted(loader)
		p.start()
		p.synced(time.Minute)
		if r := command(t, "check", "--config", p.agent.ConfigFile); !strings.Contains(r.stdout, "pods@sel-a") || strings.Contains(r.stdout, "forbidden") {
			t.Errorf("check: got status %d\n%s%s", r.code, r.stdout, r.stderr)
		}
	})
	t.Run("all but some", func(t *testing.T) {
		p := newPair(t, options{within: except("shop", "sel-a"), agent: harness.Settings{"selection.exclude_namespaces": []string{"shop", "sel-a"}}})
		p.start()
		p.synced(time.Minute)
		p.must(p.agent.Configure(harness.Settings{"selection.exclude_namespaces": []string{"sel-b"}}))
		p.within = except("sel-b")
		p.synced(time.Minute)
	})
	t.Run("by labels", func(t *testing.T) {
		p := newPair(t, options{noRules: true, within: only("sel-a"), agent: harness.Settings{"selection.namespace_selector": "e2e.example.com/team=blue"}})
		p.granted(loader)
		p.start()
		p.synced(time.Minute)
		// A namespace that is full already gets the labels, another is made, the first loses them.
		p.label("sel-b", `"blue"`)
		p.within = only("sel-a", "sel-b")
		p.synced(time.Minute)
		newNamespace(t, loader, "sel-c", "blue")
		p.within = only("sel-a", "sel-b", "sel-c")
		p.synced(time.Minute)
		p.label("sel-a", "null")
		p.within = only("sel-b", "sel-c")
		p.synced(time.Minute)
		out := command(t, "explain", "service", "web", "-n", "sel-a", "--config", p.agent.ConfigFile)
		if !strings.Contains(out.stdout, "does not match namespace sel-a") {
			t.Errorf("explain: got status %d, want the selector named:\n%s%s", out.code, out.stdout, out.stderr)
		}
		p.must(p.agent.Configure(harness.Settings{"selection.namespace_selector": ""}))
		p.within = nil
		p.synced(time.Minute)
		p.must(p.agent.Configure(harness.Settings{"selection.namespace_selector": "e2e.example.com/team=none"}))
		p.within = only()
		p.synced(time.Minute)
	})
	t.Run("objects by labels", func(t *testing.T) {
		sources := slices.Clone(expect.Defaults)
		for i := range sources {
			if sources[i].Resource.Resource == "services" {
				sources[i].Labels = "app=web"
			}
		}
		p := newPair(t, options{sources: sources, agent: harness.Settings{
			"inputs.resources.kubernetes.api_resources": []map[string]any{{"name": "services", "label_selector": "app=web"}},
		}})
		p.start()
		p.synced(time.Minute)
	})
}

// label gives a namespace the label e2e.example.com/team, a JSON text, or takes it away.
func (p *pair) label(namespace, value string) {
	p.t.Helper()
	_, err := cluster.Client.CoreV1().Namespaces().Patch(p.ctx, namespace, types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"e2e.example.com/team":`+value+`}}}`), metav1.PatchOptions{})
	p.must(err)
}

// TestTooLargeWithoutAnnotations: a snapshot that exceeds the limit arrives without annotations, but for what is parsed, where
// that is configured; otherwise error_msg says what each choice would save.
func TestTooLargeWithoutAnnotations(t *testing.T) {
	const services = 60
	loader, err := sample.NewLoader(cluster.Dynamic, cluster.Client.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	newNamespace(t, loader, "large", "blue")
	random := rand.New(rand.NewPCG(1, 2))
	var objs []*unstructured.Unstructured
	for i := range services {
		noise := make([]byte, 2500)
		for j := range noise {
			noise[j] = byte(random.IntN(256))
		}
		objs = append(objs, objectsOf(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: s%d, namespace: large, annotations: {noise: %s, field.cattle.io/targetWorkloadIds: '["replicationcontroller:large:web"]'}}
spec: {ports: [{port: 80}]}
`, i, hex.EncodeToString(noise)[:4000]))...)
	}
	create(t, loader, objs)
	limit := harness.Settings{"server.max_message_size": 65536}

	t.Run("refused", func(t *testing.T) {
		p := newPair(t, options{agent: limit})
		p.start()
		p.eventually(time.Minute, "the status says what would suffice", func() error { return p.statusSays("bytes, which suffices") })
	})
	t.Run("without annotations", func(t *testing.T) {
		settings := harness.Settings{"projection.when_too_large": "drop_annotations"}
		maps.Copy(settings, limit)
		p := newPair(t, options{agent: settings})
		p.start()
		p.eventually(time.Minute, "the server holds all Services", func() error {
			_, held, err := p.server.Snapshot(p.ctx, p.clusterID)
			if err != nil {
				return err
			}
			n := 0
			for id, doc := range held {
				meta, _ := doc["metadata"].(map[string]any)
				if id.Type != "*v1.Service" || meta["namespace"] != "large" || meta["name"] == "web" {
					continue
				}
				notes, _ := meta["annotations"].(map[string]any)
				if len(notes) != 1 || notes["field.cattle.io/targetWorkloadIds"] == nil {
					return fmt.Errorf("%s has annotations %v, want the parsed one", meta["name"], notes)
				}
				n++
			}
			if n != services {
				return fmt.Errorf("got %d Services, want %d", n, services)
			}
			return p.errorSays("")
		})
		p.must(p.statusSays("without annotations", "projection.when_too_large"))
		if n, err := p.agent.Metric(p.ctx, "pseudo_agent_annotations_dropped", ""); err != nil || n != 1 {
			t.Errorf("got the metric %v, %v, want 1", n, err)
		}
	})
}
