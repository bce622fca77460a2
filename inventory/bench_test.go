package inventory_test

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// large makes the entries of a cluster as pseudo-agent reports it: 100 Pods on a Node, 10 Pods in a ReplicaSet of a
// Deployment with a Service, 500 Deployments in a namespace.
func large(pods int) []inventory.Change {
	var out []inventory.Change
	add := func(wire, uid, format string, args ...any) {
		out = append(out, inventory.Change{Type: wire, ID: uid, JSON: fmt.Appendf(nil, format, args...)})
	}
	uid := func(kind, i int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", kind, i) }
	add("*version.Info", "version", `{"gitVersion":"v1.36.0"}`)
	for n := range (pods + 99) / 100 {
		add("*v1.Node", uid(1, n), `{"metadata":{"uid":%q,"name":"node-%d","labels":{"kubernetes.io/os":"linux"}},"spec":{"podCIDR":"10.%d.%d.0/24"},`+
			`"status":{"addresses":[{"type":"InternalIP","address":"192.168.%d.%d"}],"capacity":{"cpu":"64","memory":"263856412Ki"},`+
			`"conditions":[{"type":"Ready","reason":"KubeletReady","status":"True"}]}}`, uid(1, n), n, 64+n/256, n%256, n/256, n%256)
	}
	for d := range (pods + 9) / 10 {
		ns := fmt.Sprintf("team-%d", d/500)
		if d%500 == 0 {
			add("*v1.Namespace", uid(2, d), `{"metadata":{"uid":%q,"name":%q}}`, uid(2, d), ns)
		}
		add("*v1.Deployment", uid(3, d), `{"metadata":{"uid":%q,"name":"app-%d","namespace":%q,"labels":{"app":"app-%d","team":"payments"}},`+
			`"spec":{"replicas":10,"selector":{"matchLabels":{"app":"app-%d"}},"template":{"metadata":{"labels":{"app":"app-%d","team":"payments"}},`+
			`"spec":{"containers":[{"name":"main","image":"registry/app:1","ports":[{"name":"http","containerPort":8080}]}]}}}}`, uid(3, d), d, ns, d, d, d)
		add("*v1.ReplicaSet", uid(4, d), `{"metadata":{"uid":%q,"name":"app-%d-5d9c7b8f6","namespace":%q,"labels":{"app":"app-%d"},`+
			`"ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":"app-%d","uid":%q,"controller":true}]},"spec":{"replicas":10}}`,
			uid(4, d), d, ns, d, d, uid(3, d))
		add("*v1.Service", uid(5, d), `{"metadata":{"uid":%q,"name":"app-%d","namespace":%q},"spec":{"type":"ClusterIP","clusterIP":"10.32.%d.%d",`+
			`"selector":{"app":"app-%d"},"ports":[{"name":"http","port":80,"protocol":"TCP","targetPort":"http"}]}}`, uid(5, d), d, ns, d/256, d%256, d)
	}
	for p := range pods {
		out = append(out, largePod(p, "True"))
	}
	return out
}

func largePod(p int, ready string) inventory.Change {
	n, d := p%1000, p/10
	uid := fmt.Sprintf("%08x-0000-4000-8000-%012x", 6, p)
	return inventory.Change{Type: "*v1.Pod", ID: uid, JSON: fmt.Appendf(nil,
		`{"metadata":{"uid":%q,"name":"app-%d-5d9c7b8f6-%05d","namespace":"team-%d","creationTimestamp":"2026-01-02T03:04:05Z",`+
			`"labels":{"app":"app-%d","pod-template-hash":"5d9c7b8f6","team":"payments"},"annotations":{"cni.projectcalico.org/podIP":"10.%d.%d.%d/32"},`+
			`"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"app-%d-5d9c7b8f6","uid":"%08x-0000-4000-8000-%012x","controller":true}]},`+
			`"status":{"phase":"Running","hostIP":"192.168.%d.%d","podIP":"10.%d.%d.%d","conditions":[{"type":"Ready","status":%q}],`+
			`"containerStatuses":[{"containerID":"containerd://%064x"}]}}`,
		uid, d, p, d/500, d, 64+n/256, n%256, p/1000+1, d, 4, d, n/256, n%256, 64+n/256, n%256, p/1000+1, ready, p)}
}

// cpuTime is what the process has used, which other processes on the machine do not lengthen.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func BenchmarkBuild100kPods(b *testing.B) {
	entries := large(100_000)
	b.ReportAllocs()
	for b.Loop() {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := cpuTime(b)
		inv := inventory.Build(inventory.Options{}, entries)
		b.ReportMetric((cpuTime(b) - start).Seconds(), "cpu-s/build")
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-kept")
		if got := inv.Summary().Counts.PodAddresses; got != 100_000 {
			b.Fatalf("got %d Pod addresses, want 100000", got)
		}
	}
}

func BenchmarkChangedPodOf100k(b *testing.B) {
	inv := inventory.Build(inventory.Options{}, large(100_000))
	states := [2][]inventory.Change{{largePod(51_234, "False")}, {largePod(51_234, "True")}}
	b.ReportAllocs()
	i, start := 0, cpuTime(b)
	for b.Loop() {
		inv.Apply(states[i%2])
		i++
	}
	b.ReportMetric(float64(cpuTime(b)-start)/float64(i), "cpu-ns/op")
}

func BenchmarkChangedDeploymentOf100k(b *testing.B) {
	entries := large(100_000)
	inv := inventory.Build(inventory.Options{}, entries)
	var one []inventory.Change
	for _, e := range entries {
		if e.Type == "*v1.Deployment" {
			one = []inventory.Change{e}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		inv.Apply(one)
	}
}

func BenchmarkSummaryOf100k(b *testing.B) {
	inv := inventory.Build(inventory.Options{}, large(100_000))
	for b.Loop() {
		inv.Summary()
	}
}
