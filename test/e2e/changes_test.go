package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
)

func notFound(err error) bool { return apierrors.IsNotFound(err) }

func unmarshal(text string, into any) error { return yaml.Unmarshal([]byte(text), into) }

// pick returns the object of that kind and name.
func pick(t *testing.T, objs []*unstructured.Unstructured, kind, name string) *unstructured.Unstructured {
	t.Helper()
	for _, o := range objs {
		if o.GetKind() == kind && o.GetName() == name {
			return o
		}
	}
	t.Fatalf("the sample cluster has no %s %s", kind, name)
	return nil
}

func TestHeartbeatsSendNothing(t *testing.T) {
	p := newPair(t, options{})
	loader, objs := load(t, nil)
	p.start()
	before := p.quiet()
	stored, received := p.stored(), p.received()

	// What a kubelet writes every few seconds.
	node := pick(t, objs, "Node", "worker-1")
	leases := cluster.Client.CoordinationV1().Leases("kube-node-lease")
	lease, err := leases.Create(p.ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: node.GetName()}}, metav1.CreateOptions{})
	p.must(err)
	t.Cleanup(func() {
		if err := leases.Delete(context.Background(), lease.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	pod := pick(t, objs, "Pod", "web-6d5f8b9c4-x7k2p")
	for i := range 5 {
		now := time.Now().UTC().Add(time.Duration(i) * time.Second)
		lease.Spec.RenewTime = &metav1.MicroTime{Time: now}
		lease, err = leases.Update(p.ctx, lease, metav1.UpdateOptions{})
		p.must(err)
		patch(t, loader, node, map[string]any{"status": map[string]any{
			"images": []any{map[string]any{"names": []any{fmt.Sprintf("registry.example/image:%d", i)}, "sizeBytes": i}},
			"conditions": []any{map[string]any{
				"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status",
				"lastHeartbeatTime": now.Format(time.RFC3339), "lastTransitionTime": "2026-04-01T10:00:00Z",
			}},
		}}, "status")
		patch(t, loader, pod, map[string]any{"status": map[string]any{
			"conditions": []any{
				map[string]any{"type": "Ready", "status": "True", "lastProbeTime": now.Format(time.RFC3339)},
				map[string]any{"type": "ContainersReady", "status": "True", "message": fmt.Sprint("probe ", i)},
			},
			"containerStatuses": []any{map[string]any{
				"name": "nginx", "containerID": "containerd://4f1c", "image": "registry.example/web:1.27", "imageID": "sha256:1",
				"ready": true, "restartCount": i, "started": true,
			}},
		}}, "status")
	}
	after := p.heartbeats(3)
	if after.Version != before.Version {
		t.Errorf("after status-only updates the version is %d, want still %d", after.Version, before.Version)
	}
	if n := p.stored() - stored; n != 0 {
		t.Errorf("status-only updates led to %d reports under a new version, want 0", n)
	}
	// A heartbeat without entries has the cluster id, a version, an agent id and an address.
	const heartbeat = 200
	if n := p.received() - received; n > 6*heartbeat {
		t.Errorf("the server received %d bytes during a few heartbeats: they carry entries", n)
	}

	// An interface is attached to a running Pod.
	patch(t, loader, pod, annotated("k8s.v1.cni.cncf.io/networks", `[{"name":"macvlan","interface":"net1"}]`))
	p.synced(30 * time.Second)
	after = p.heartbeats(3)
	if after.Version == before.Version {
		t.Errorf("after a changed annotation the version is still %d", after.Version)
	}
	if n := p.stored() - stored; n != 1 {
		t.Errorf("a changed annotation led to %d reports, want 1", n)
	}
	p.quiet()
	patch(t, loader, pod, labelled("release", "canary"))
	p.synced(30 * time.Second)
	p.heartbeats(3)
	if n := p.stored() - stored; n != 2 {
		t.Errorf("a changed annotation and a changed label led to %d reports, want 2", n)
	}
}

// contents remembers what the server held under each version.
type contents map[uint64]uint64

func digest(t *testing.T, s expect.Snapshot) uint64 {
	t.Helper()
	all := map[string]any{}
	for id, doc := range s {
		all[id.Type+" "+id.UID] = doc
	}
	b, err := json.Marshal(all) // sorted by key
	if err != nil {
		t.Fatal(err)
	}
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}

func TestAgentKilledAndRestarted(t *testing.T) {
	p := newPair(t, options{})
	loader, objs := load(t, nil)
	p.start()
	pod := pick(t, objs, "Pod", "web-6d5f8b9c4-x7k2p")

	seen := contents{}
	record := func() (uint64, expect.Snapshot) {
		version, s, err := p.server.Snapshot(p.ctx, p.clusterID)
		p.must(err)
		sum := digest(t, s)
		if old, ok := seen[version]; ok && old != sum {
			t.Fatalf("two contents under version %d", version)
		}
		seen[version] = sum
		return version, s
	}

	for i := range 3 {
		p.synced(time.Minute)
		oldVersion, oldContent := record()

		p.agent.Kill()
		killed := time.Now()
		patch(t, loader, pod, labelled("e2e.example.com/round", strconv.Itoa(i)))
		deployment := pick(t, objs, "Deployment", "web")
		patch(t, loader, deployment, map[string]any{"spec": map[string]any{"replicas": 5 + i}})
		if err := loader.Delete(p.ctx, pick(t, objs, "Pod", "waiting")); err != nil {
			t.Fatal(err)
		}
		want, err := expect.Of(p.ctx, cluster.Dynamic, cluster.Client.Discovery().RESTClient(), p.sources, nil)
		p.must(err)
		p.must(p.agent.Start(p.ctx))
		if d := time.Since(killed); d > time.Second {
			t.Logf("round %d: the restart took %s, more than the second that was meant", i, d)
		}
		p.eventually(30*time.Second, "the new content arrives", func() error {
			version, s := record()
			if version == oldVersion {
				if d := cmp.Diff(oldContent, s); d != "" {
					t.Fatalf("new content under the old version %d (-old +got):\n%s", version, d)
				}
				return fmt.Errorf("still version %d", version)
			}
			if d := cmp.Diff(want, s); d != "" {
				t.Fatalf("version %d of the new process is not what the apiserver has (-want +got):\n%s", version, d)
			}
			return nil
		})
		if _, err := loader.Create(p.ctx, sampleObject(t, "Pod", "waiting")); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) < 4 {
		t.Errorf("%d versions were seen, want one per round at least", len(seen))
	}
}

func TestServerRestarted(t *testing.T) {
	p := newPair(t, options{}) // it keeps its data in memory
	load(t, nil)
	p.start()
	p.quiet()
	want := p.snapshot()
	p.server.Kill()
	p.must(p.server.Start(p.ctx))
	p.synced(30 * time.Second)
	if d := cmp.Diff(want, p.snapshot()); d != "" {
		t.Errorf("after its restart the server holds something else (-before +after):\n%s", d)
	}
	p.heartbeats(3)
	if n := p.stored(); n != 1 {
		t.Errorf("after its restart the server stored %d reports, want 1", n)
	}
}
