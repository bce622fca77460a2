package viewer_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zlib"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

// bench is a whole pseudo-server with an embedded store in this process, and a client of it.
type bench struct {
	b       *testing.B
	rng     *rand.Rand
	zip     *zlib.Writer
	reports agent.SynchronizerClient
	api     string
}

func newBench(b *testing.B) *bench {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	backend, err := store.OpenEmbedded(filepath.Join(b.TempDir(), "bench.db"))
	if err != nil {
		b.Fatal(err)
	}
	kept := store.New(backend, store.Options{Keep: 10})
	log := slog.New(slog.DiscardHandler)
	plugins, err := plugin.Open(ctx, plugin.Options{Store: viewer.PluginStore(backend)})
	if err != nil {
		b.Fatal(err)
	}
	view := viewer.New(viewer.Options{Store: kept, Plugins: plugins, Logger: log})
	recv := receiver.New(receiver.Options{
		Store: kept, Logger: log, Access: receiver.Access{Anonymous: receiver.RoleRead}, Limits: receiver.Limits{RequestsPerMinute: 60000},
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := recv.NewGRPCServer(nil)
	api := httptest.NewServer(recv.API(view.Routes()...))
	done := make(chan error, 2)
	go func() { done <- view.Run(ctx) }()
	go func() { done <- server.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = conn.Close()
		cancel()
		server.Stop()
		for range 2 {
			if err := <-done; err != nil {
				b.Error(err)
			}
		}
		api.CloseClientConnections()
		api.Close()
		plugins.Close()
		if err := backend.Close(); err != nil {
			b.Error(err)
		}
	})
	return &bench{b: b, rng: rand.New(rand.NewPCG(1, 2)), zip: zlib.NewWriter(nil), reports: agent.NewSynchronizerClient(conn), api: api.URL + receiver.APIPrefix}
}

func (x *bench) entry(wireType, text string) *agent.KubernetesAPIInfo {
	var z bytes.Buffer
	x.zip.Reset(&z)
	_, _ = x.zip.Write([]byte(text))
	_ = x.zip.Close()
	return &agent.KubernetesAPIInfo{Type: new(wireType), CompressedInfo: z.Bytes()}
}

// pod is the i-th Pod with an address; most of it does not compress, as in real ones.
func (x *bench) pod(i int, address string) *agent.KubernetesAPIInfo {
	hex := func() string {
		return fmt.Sprintf("%016x%016x%016x%016x", x.rng.Uint64(), x.rng.Uint64(), x.rng.Uint64(), x.rng.Uint64())
	}
	return x.entry("*v1.Pod", fmt.Sprintf(`{"metadata":{"annotations":{"checksum/config":"%s","cni/containerID":"%s"},"labels":{"app":"app-%d","hash":"%s"},`+
		`"name":"app-%d-%d","namespace":"team-%d","ownerReferences":[{"apiVersion":"apps/v1","controller":true,"kind":"StatefulSet","name":"app-%d","uid":"w%d"}],"uid":"p%d"},`+
		`"status":{"conditions":[{"status":"True","type":"Ready"}],"containerStatuses":[{"containerID":"containerd://%s"},{"containerID":"containerd://%s"},{"containerID":"containerd://%s"}],`+
		`"hostIP":"10.255.0.1","podIP":"%s"}}`, hex(), hex(), i/100, hex(), i/100, i, i/2000, i/100, i/100, i, hex(), hex(), hex(), address))
}

func (x *bench) cluster(pods int) []*agent.KubernetesAPIInfo {
	list := []*agent.KubernetesAPIInfo{
		x.entry("*version.Info", `{"gitVersion":"v1.36.0"}`),
		x.entry("*v1.Node", `{"metadata":{"uid":"n","name":"node"},"spec":{"podCIDR":"10.0.0.0/12"},"status":{"addresses":[{"type":"InternalIP","address":"10.255.0.1"}]}}`),
	}
	for i := range pods {
		if i%2000 == 0 {
			list = append(list, x.entry("*v1.Namespace", fmt.Sprintf(`{"metadata":{"uid":"ns%d","name":"team-%d"}}`, i/2000, i/2000)))
		}
		if i%100 == 0 {
			list = append(list, x.entry("*v1.StatefulSet", fmt.Sprintf(
				`{"metadata":{"uid":"w%d","name":"app-%d","namespace":"team-%d"},"spec":{"replicas":100,"template":{"metadata":{"labels":{"app":"app-%d"}}}}}`, i/100, i/100, i/2000, i/100)))
		}
	}
	for i := range pods {
		list = append(list, x.pod(i, fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255)))
	}
	return list
}

func (x *bench) report(version uint64, entries []*agent.KubernetesAPIInfo) (size int) {
	x.b.Helper()
	req := &agent.KubernetesAPISyncRequest{ClusterId: new("d-bench"), Version: new(version), AgentId: proto.Uint32(1), Entries: entries}
	if _, err := x.reports.KubernetesAPISync(x.b.Context(), req, grpc.MaxCallSendMsgSize(1<<30)); err != nil {
		x.b.Fatal(err)
	}
	return proto.Size(req)
}

func (x *bench) get(path string, into any) {
	x.b.Helper()
	req, err := http.NewRequestWithContext(x.b.Context(), http.MethodGet, x.api+"/clusters/d-bench"+path, nil)
	if err != nil {
		x.b.Fatal(err)
	}
	for {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			x.b.Fatal(err)
		}
		err = json.NewDecoder(resp.Body).Decode(into)
		_ = resp.Body.Close()
		if err != nil {
			x.b.Fatal(err)
		}
		if resp.StatusCode == http.StatusOK {
			return
		}
		if resp.StatusCode != http.StatusServiceUnavailable {
			x.b.Fatalf("GET %s: %s", path, resp.Status)
		}
	}
}

// follow tells when each version comes over the stream of changes.
func (x *bench) follow() <-chan time.Time {
	x.b.Helper()
	req, err := http.NewRequestWithContext(x.b.Context(), http.MethodGet, x.api+"/clusters/d-bench/changes", nil)
	if err != nil {
		x.b.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req) //nolint:bodyclose // by the goroutine below
	if err != nil {
		x.b.Fatal(err)
	}
	came := make(chan time.Time, 1)
	go func() {
		defer func() { _ = resp.Body.Close() }()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "event: version") {
				came <- time.Now()
			}
		}
	}()
	return came
}

// BenchmarkOneChange has a cluster of 100,000 Pods report that one of them has another address. It reports the time from
// the beginning of the request to its acknowledgement, until the API answers with that Pod as deepflow-server would have
// it, and until the stream of changes tells it.
func BenchmarkOneChange(b *testing.B) {
	const pods = 100000
	defer debug.SetGCPercent(debug.SetGCPercent(15)) // as pseudo-server sets it
	x := newBench(b)
	entries := x.cluster(pods)
	x.report(1, entries)
	var summary viewer.Summary
	x.get("/inventory", &summary)
	if summary.Counts.Pods != pods {
		b.Fatalf("got %d Pods, want %d", summary.Counts.Pods, pods)
	}
	came := x.follow()
	var acknowledged, shown, told time.Duration
	var size int
	b.ResetTimer()
	for n := range b.N {
		i := x.rng.IntN(pods)
		address := fmt.Sprintf("10.1.%d.%d", 200+n>>8, n&255)
		entries[len(entries)-pods+i] = x.pod(i, address)
		begun := time.Now()
		size = x.report(uint64(n+2), entries)
		acknowledged += time.Since(begun)
		var list struct {
			Items []struct {
				Addresses []string `json:"addresses"`
			} `json:"items"`
		}
		x.get(fmt.Sprintf("/inventory/pods?name=app-%d-%d", i/100, i), &list)
		shown += time.Since(begun)
		if len(list.Items) != 1 || len(list.Items[0].Addresses) != 1 || list.Items[0].Addresses[0] != address {
			b.Fatalf("got %+v after the acknowledgement, want the Pod with %s", list, address)
		}
		told += (<-came).Sub(begun)
	}
	per := func(d time.Duration) float64 { return float64(d.Milliseconds()) / float64(b.N) }
	b.ReportMetric(float64(size)/1e6, "MB")
	b.ReportMetric(per(acknowledged), "ms-acknowledged")
	b.ReportMetric(per(shown), "ms-shown")
	b.ReportMetric(per(told), "ms-streamed")
}
