package nodetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"

	benchcluster "github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
)

// storedAs is the place of a resource in etcd, where it is not called like the resource.
var storedAs = map[string]string{
	"nodes": "minions", "services": "services/specs", "replicationcontrollers": "controllers", "ingresses": "ingress",
}

// crowd writes a made-up cluster of that many Pods, on nodes that do not exist, straight into etcd, and removes it when
// the test ends. The controllers, which would remove such Pods, rest meanwhile. It returns the number of objects that are
// reported: all but ReplicaSets without replicas.
func crowd(t *testing.T, size int) int {
	t.Helper()
	made := benchcluster.New(size, 1)
	objects, reported := map[string][]byte{}, 0
	serializer := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	for _, kind := range benchcluster.Kinds {
		encoder := scheme.Codecs.EncoderForVersion(serializer, schema.GroupVersion{Group: kind.Group, Version: kind.Version})
		for _, item := range made.Items(kind.Resource) {
			o := item.Make(benchcluster.State{})
			o.SetResourceVersion("")
			if set, ok := o.(*appsv1.ReplicaSet); !ok || *set.Spec.Replicas > 0 {
				reported++
			}
			b, err := runtime.Encode(encoder, o)
			if err != nil {
				t.Fatal(err)
			}
			place := kind.Resource
			if other, ok := storedAs[place]; ok {
				place = other
			}
			objects["/registry/"+filepath.Join(place, item.Namespace, item.Name)] = b
		}
	}
	resting := []string{"kube-controller-manager", "kube-scheduler", "kube-proxy"}
	cluster.StopPrograms(resting...)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		var keys []string
		for key := range objects {
			keys = append(keys, key)
		}
		if err := cluster.DeleteStored(ctx, keys); err != nil {
			t.Error(err)
		}
		if err := cluster.StartPrograms(resting...); err != nil {
			t.Error(err)
		}
	})
	if err := cluster.PutStored(t.Context(), objects); err != nil {
		t.Fatal(err)
	}
	return reported
}

// cgroupFile reads the first of these files that the cgroup of the Pod's program has: "controller/file", of version 1 or 2.
func cgroupFile(t *testing.T, p corev1.Pod, names ...string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + process(t, p) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		for _, name := range names {
			controller, file := filepath.Split(name)
			controller = strings.TrimSuffix(controller, "/")
			if controllers != "" && !slices.Contains(strings.Split(controllers, ","), controller) {
				continue
			}
			for _, root := range []string{controller, controllers, ""} {
				if b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", root, path, file)); err == nil {
					return strings.TrimSpace(string(b))
				}
			}
		}
	}
	t.Fatalf("no cgroup of %s has one of %v:\n%s", p.Name, names, text)
	return ""
}

// started waits until a restarted container has reported that many objects, and returns how long that took, to a second:
// the kubelet tells no finer.
func started(t *testing.T, p corev1.Pod, id string, objects int) time.Duration {
	t.Helper()
	var took time.Duration
	eventually(t, 5*time.Minute, "report of "+id, func(ctx context.Context) error {
		now, err := current(ctx, p)
		if err != nil {
			return err
		}
		all, err := reports(ctx)
		if err != nil {
			return err
		}
		s := now.Status.ContainerStatuses[0]
		if r := all[id]; r.State != "ok" || r.ErrorMsg != "" || r.Objects < objects || s.RestartCount != 1 || s.State.Running == nil || !isReady(now) {
			return fmt.Errorf("%d objects, error %q, state %s, last state %s", r.Objects, r.ErrorMsg, &s.State, &s.LastTerminationState)
		}
		took = time.Since(s.State.Running.StartedAt.Time)
		return nil
	})
	return took
}

// The limits that docs/performance.md gives for clusters of 1,000, 10,000 and 50,000 Pods, with a tenth of a processor,
// suffice for a start with all objects there, and for the time after: nothing is ended by the kernel or by a probe.
func TestLimits(t *testing.T) {
	for _, size := range []struct {
		pods  int
		limit string
		long  bool
	}{{1000, "128Mi", false}, {10000, "160Mi", false}, {50000, "256Mi", true}} {
		t.Run(strconv.Itoa(size.pods), func(t *testing.T) {
			if size.long && !*long {
				t.Skip("takes 4 minutes: make node-test TESTFLAGS=-long")
			}
			release, id := fmt.Sprintf("limit%d-pseudo-agent", size.pods), fmt.Sprintf("d-limit%05d", size.pods)
			agentRelease(t, release, id, "--set", "resources.limits.memory="+size.limit, "--set", "resources.limits.cpu=100m")
			p := pod(t, namespace, release)
			arrived(t, id)
			objects := crowd(t, size.pods)
			signalProgram(t, p, syscall.SIGKILL) // what comes now is a start in a full cluster
			took := started(t, p, id, objects)
			now, err := current(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			settled(t, *now, id)
			t.Logf("%d Pods, %d objects reported after %s; peak of the cgroup %s bytes of %s, failures to allocate %s; %s", size.pods, objects,
				took.Round(time.Second), cgroupFile(t, *now, "memory/memory.max_usage_in_bytes", "memory/memory.peak"), size.limit,
				cgroupFile(t, *now, "memory/memory.failcnt", "memory/memory.events"),
				strings.Join(strings.Fields(cgroupFile(t, *now, "cpu/cpu.stat")), " "))
		})
	}
}

// settled looks for 40 seconds, longer than a liveness probe is patient, whether the Pod stays as it is and goes on reporting.
func settled(t *testing.T, p corev1.Pod, id string) {
	t.Helper()
	end := time.Now().Add(40 * time.Second)
	for time.Now().Before(end) {
		time.Sleep(time.Second)
		now, err := current(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if s := now.Status.ContainerStatuses[0]; s.RestartCount != 1 || !isReady(now) {
			t.Fatalf("%d restarts, ready %v, last state %s", s.RestartCount, isReady(now), &s.LastTerminationState)
		}
	}
	changeArrives(t, id)
}

// A limit that is far too small ends where a person looks: kubectl says OOMKilled, or the status says that the memory is too
// little. The cluster's entries take three quarters of this limit by themselves.
func TestLimitFarTooSmall(t *testing.T) {
	const release, id = "tiny-pseudo-agent", "d-nodetiny01"
	agentRelease(t, release, id, "--set", "resources.limits.memory=20Mi", "--set", "resources.requests.memory=10Mi")
	p := pod(t, namespace, release)
	arrived(t, id)
	crowd(t, 20000)
	eventually(t, 4*time.Minute, "word of too little memory", func(ctx context.Context) error {
		now, err := current(ctx, p)
		if err != nil {
			return err
		}
		s := now.Status.ContainerStatuses[0]
		if end := s.LastTerminationState.Terminated; end != nil && end.Reason == "OOMKilled" {
			t.Logf("kubectl describe: %s, exit status %d, %d restarts", end.Reason, end.ExitCode, s.RestartCount)
			return nil
		}
		text, err := fetch(ctx, "http://"+now.Status.PodIP+":8080/status?format=text")
		if err == nil && strings.Contains(text, "give the agent more memory (the container's limit)") {
			t.Logf("status: %s", text)
			return nil
		}
		return fmt.Errorf("%w: state %s, last state %s, status %s", err, &s.State, &s.LastTerminationState, text)
	})
}
