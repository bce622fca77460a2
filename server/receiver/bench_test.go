package receiver_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zlib"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// realPod returns the JSON of a Pod as pseudo-agent projects it, with as much that does not compress as a real one has.
func realPod(rng *rand.Rand, i int) string {
	hex := func(n int) string {
		var b strings.Builder
		for b.Len() < n {
			_, _ = fmt.Fprintf(&b, "%016x", rng.Uint64())
		}
		return b.String()[:n]
	}
	id := hex(32)
	return fmt.Sprintf(`{"metadata":{"annotations":{"checksum/config":"%s","cni.projectcalico.org/podIP":"10.%d.%d.%d/32","cni.projectcalico.org/containerID":"%s"},`+
		`"creationTimestamp":"2026-01-02T03:04:05Z","labels":{"app.kubernetes.io/instance":"app-%d","app.kubernetes.io/name":"app-%d","pod-template-hash":"%s",`+
		`"app.kubernetes.io/managed-by":"Helm","app.kubernetes.io/version":"1.%d.0"},"name":"app-%d-%s-%s","namespace":"team-%d",`+
		`"ownerReferences":[{"apiVersion":"apps/v1","controller":true,"kind":"ReplicaSet","name":"app-%d-%s","uid":"%s"}],"uid":"%s-%s-%s-%s-%s"},`+
		`"status":{"conditions":[{"status":"True","type":"Ready"}],"containerStatuses":[{"containerID":"containerd://%s"},{"containerID":"containerd://%s"},`+
		`{"containerID":"containerd://%s"}],"hostIP":"10.0.%d.%d","podIP":"10.%d.%d.%d"}}`,
		hex(64), i>>16&255, i>>8&255, i&255, hex(64), i/10, i/10, hex(10), i%50, i/10, hex(10), hex(5), i%40, i/10, hex(10), hex(36),
		id[:8], id[8:12], id[12:16], id[16:20], id[20:], hex(64), hex(64), hex(64), i>>8&255, i&255, i>>16&255, i>>8&255, i&255)
}

// records are the encoded entries of a request, so that making it costs the benchmark nothing.
type records [][]byte

func makeRecord(b *testing.B, zw *zlib.Writer, wireType, json string) []byte {
	b.Helper()
	var z bytes.Buffer
	zw.Reset(&z)
	if _, err := zw.Write([]byte(json)); err != nil {
		b.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		b.Fatal(err)
	}
	inner, err := proto.Marshal(&agent.KubernetesAPIInfo{Type: new(wireType), CompressedInfo: z.Bytes()})
	if err != nil {
		b.Fatal(err)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, 10, protowire.BytesType), inner)
}

func makeRecords(b *testing.B, rng *rand.Rand, pods int) records {
	b.Helper()
	zw := zlib.NewWriter(nil)
	out := records{makeRecord(b, zw, "*version.Info", `{"gitVersion":"v1.36.0"}`)}
	for i := range pods {
		out = append(out, makeRecord(b, zw, "*v1.Pod", realPod(rng, i)))
	}
	return out
}

func (r records) request(cluster string, version uint64) []byte {
	head := (&agent.KubernetesAPISyncRequest{
		ClusterId: new(cluster), Version: new(version), AgentId: proto.Uint32(1),
	})
	out, err := proto.Marshal(head)
	if err != nil {
		panic(err) // these fields can always be encoded
	}
	return append(out, bytes.Join(r, nil)...)
}

// memory returns a line of /proc/PID/status in bytes.
func memory(b *testing.B, pid int, field string) int64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Skipf("no /proc: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n << 10
		}
	}
	b.Fatalf("no %s in /proc/%d/status", field, pid)
	return 0
}

// cpu returns the processor time that a process has used.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skipf("no /proc: %v", err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

func onDurable(b *testing.B, run func(b *testing.B, spec string)) {
	b.Helper()
	b.Run("embedded", func(b *testing.B) { run(b, "embedded "+filepath.Join(b.TempDir(), "test.db")) })
	b.Run("postgres", func(b *testing.B) { run(b, "postgres "+pgtest.Start(b).DSN()) })
}

// BenchmarkSnapshot sends 100,000 Pods to a server that has nothing of them. It reports the time until they are
// acknowledged and the memory of the server's process at its peak beyond what it had before, as a share of the request.
func BenchmarkSnapshot(b *testing.B) {
	all := makeRecords(b, rand.New(rand.NewPCG(1, 2)), 100000)
	onDurable(b, func(b *testing.B, spec string) {
		b.Setenv("GOGC", "15") // as pseudo-server sets it
		p := startVictim(b, spec, "")
		b.Cleanup(p.kill)
		conn := dial(b, p.address)
		var extra, size int64
		for n := range b.N {
			body := all.request(fmt.Sprintf("d-%d", n), 1)
			size = int64(len(body))
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0); err != nil {
				b.Skipf("cannot reset the peak of memory: %v", err)
			}
			before := memory(b, p.cmd.Process.Pid, "VmRSS")
			var resp []byte
			err := conn.Invoke(context.Background(), "/agent.Synchronizer/KubernetesAPISync", body, &resp, grpc.ForceCodecV2(rawCodec{}))
			if err != nil {
				b.Fatal(err)
			}
			extra = max(extra, memory(b, p.cmd.Process.Pid, "VmHWM")-before)
		}
		b.ReportMetric(float64(size)/1e6, "MB")
		b.ReportMetric(float64(extra)/float64(size), "extra/size")
		b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/snapshot")
	})
}

// BenchmarkChurn has 100 clusters of 2,000 Pods report a change of 1 % each. It reports which share of one processor
// the server needs if each does so every 10 s.
func BenchmarkChurn(b *testing.B) {
	const clusters, pods = 100, 2000
	rng := rand.New(rand.NewPCG(3, 4))
	base := makeRecords(b, rng, pods)
	zw := zlib.NewWriter(nil)
	onDurable(b, func(b *testing.B, spec string) {
		b.Setenv("GOGC", "15") // as pseudo-server sets it
		p := startVictim(b, spec, "")
		b.Cleanup(p.kill)
		conn := dial(b, p.address)
		var version atomic.Uint64
		send := func(cluster int) {
			v := version.Add(1)
			mine := append(records{}, base...)
			for i := range pods / 100 {
				n := 1 + (int(v)*20+i)%pods
				mine[n] = makeRecord(b, zw, "*v1.Pod", strings.Replace(realPod(rng, n), `"labels":{`, fmt.Sprintf(`"labels":{"v":"%d",`, v), 1))
			}
			var resp []byte
			body := mine.request(fmt.Sprintf("d-%d", cluster), v)
			if err := conn.Invoke(context.Background(), "/agent.Synchronizer/KubernetesAPISync", body, &resp, grpc.ForceCodecV2(rawCodec{})); err != nil {
				b.Fatal(err)
			}
		}
		for c := range clusters {
			send(c)
		}
		before := cpu(b, p.cmd.Process.Pid)
		b.ResetTimer()
		for n := range b.N {
			send(n % clusters)
		}
		b.StopTimer()
		used := cpu(b, p.cmd.Process.Pid) - before
		b.ReportMetric(100*used.Seconds()/float64(b.N)*clusters/10, "%processor")
		b.ReportMetric(float64(memory(b, p.cmd.Process.Pid, "VmRSS"))/1e6, "MB-RSS")
	})
}
