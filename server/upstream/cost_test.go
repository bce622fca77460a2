package upstream_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
)

// behind makes the test binary a front before the server at this address, so that TestCost measures a process of its own.
const behind = "PSEUDO_TEST_COST_BEHIND"

func TestMain(m *testing.M) {
	if address := os.Getenv(behind); address != "" {
		if err := serveFront(address); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveFront(server string) error {
	backend := store.NewMemory()
	elect := elector.New(elector.Options{Documents: backend, Logger: discard()})
	recv := receiver.New(receiver.Options{Store: store.New(backend, store.Options{}), Elector: elect, Logger: discard()})
	front, err := upstream.New(upstream.Options{
		Addresses: []string{server}, Advertise: "192.0.2.1:30035", ReportMode: receiver.PassMend, MaxMessageSize: 100 << 20, MaxClusters: 1000,
		Elector: elect, Reports: recv, Logger: discard(),
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	g := front.NewGRPCServer(nil)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
		g.Stop()
	}()
	return g.Serve(l)
}

// process is a front in a process of its own.
type process struct {
	t       testing.TB
	address string
	pid     int
}

func startFront(t testing.TB, server string) *process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	// As pseudo-server sets it.
	cmd.Env = append(os.Environ(), behind+"="+server, "GOGC=100")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return &process{t: t, address: strings.TrimSpace(line), pid: cmd.Process.Pid}
}

// cpu is the processor time used so far.
func (p *process) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		p.t.Skip(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// memory is a line of /proc/PID/status, in MiB: VmRSS or VmHWM, its peak.
func (p *process) memory(key string) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		p.t.Skip(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return float64(n) / 1024
		}
	}
	return 0
}

// TestCost shows what the front costs, with direct connections as the baseline in the same run. It says nothing about
// times that a busy machine could falsify; set PSEUDO_TEST_COST=1 to run it.
func TestCost(t *testing.T) {
	if os.Getenv("PSEUDO_TEST_COST") == "" {
		t.Skip("PSEUDO_TEST_COST is not set")
	}
	const agents, rounds, syncs, streams, chunks = 10000, 5, 10000, 100, 100
	d := newDeepflow(t, "127.0.0.1:0")
	d.yaml = "global:\n  communication:\n    proxy_controller_ip: 192.0.2.9\n    proxy_controller_port: 30035\n" + strings.Repeat("# "+strings.Repeat("x", 77)+"\n", 256)
	chunk := make([]byte, 1<<20)
	answer := make([]byte, len(d.yaml))
	d.other = func(method string, stream grpc.ServerStream) error {
		var b []byte
		if err := stream.RecvMsg(&b); err != nil {
			return err
		}
		if strings.HasSuffix(method, "/Query") {
			return stream.SendMsg(&answer)
		}
		for range chunks {
			if err := stream.SendMsg(&chunk); err != nil {
				return err
			}
		}
		return nil
	}
	front := startFront(t, d.address)
	idle := front.memory("VmRSS")
	// The ways take turns, so that what else the machine does falls on all of them alike. A Query of the same sizes passes
	// without being looked at: what two connections of gRPC cost.
	ways := []*syncWay{
		{name: "Sync, direct", address: d.address, method: "Sync"},
		{name: "Sync, through the front", address: front.address, method: "Sync"},
		{name: "a call that only passes", address: front.address, method: "Query"},
	}
	for range rounds {
		for _, w := range ways {
			before := front.cpu()
			median, p99 := manySyncs(t, w.address, w.method, agents, syncs)
			w.cpu, w.median, w.p99 = append(w.cpu, (front.cpu()-before)/syncs), append(w.median, median), append(w.p99, p99)
		}
	}
	for _, w := range ways {
		t.Logf("%d agents, %d times %d calls, %s: median %v, 99th percentile %v, CPU of the front per call %v", agents, rounds, syncs, w.name,
			middle(w.median), middle(w.p99), middle(w.cpu))
	}
	t.Logf("memory of the front: idle %.0f MiB, with %d agents %.0f MiB", idle, agents, front.memory("VmHWM"))
	if os.Getenv("PSEUDO_TEST_COST") == "syncs" {
		return
	}
	second := startFront(t, d.address)
	idle = second.memory("VmRSS")
	for _, way := range []struct{ name, address string }{{"direct", d.address}, {"through the front", second.address}} {
		start, before := time.Now(), second.cpu()
		manyStreams(t, way.address, streams, chunks<<20)
		t.Logf("%d streams of %d MiB, %s: %v, CPU of the front %v", streams, chunks, way.name, time.Since(start).Round(time.Millisecond), second.cpu()-before)
	}
	t.Logf("memory of the front: idle %.0f MiB, at the peak of %d streams %.0f MiB", idle, streams, second.memory("VmHWM"))
}

func plain(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// syncWay is one way that calls take, and what was measured in each round.
type syncWay struct {
	name, address, method string
	median, p99, cpu      []time.Duration
}

func middle(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func manySyncs(t testing.TB, address, method string, agents, syncs int) (median, p99 time.Duration) {
	t.Helper()
	const connections = 200
	conns := make([]*grpc.ClientConn, connections)
	for i := range conns {
		conns[i] = plain(t, address)
	}
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	took := make([]time.Duration, syncs)
	var wg sync.WaitGroup
	const workers = 2
	for w := range workers {
		wg.Go(func() {
			for i := w; i < syncs; i += workers {
				n := i % agents
				req := &agent.SyncRequest{
					BootTime: proto.Uint32(1), CtrlIp: new(fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255)), CtrlMac: new("52:54:00:00:00:01"),
					Host: new(fmt.Sprintf("node-%d", n)), ProcessName: new("deepflow-agent"), KubernetesClusterId: new(fmt.Sprintf("d-%d", n%200)),
				}
				var resp []byte
				start := time.Now()
				if err := conns[n%connections].Invoke(context.Background(), "/agent.Synchronizer/"+method, req, &resp); err != nil {
					t.Error(err)
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took[syncs/2], took[syncs*99/100]
}

func manyStreams(t testing.TB, address string, streams, size int) {
	t.Helper()
	var wg sync.WaitGroup
	for range streams {
		wg.Go(func() {
			conn := plain(t, address)
			defer func() { _ = conn.Close() }()
			s, err := conn.NewStream(context.Background(), &grpc.StreamDesc{ServerStreams: true}, "/agent.Synchronizer/Upgrade")
			if err == nil {
				err = s.SendMsg(new([]byte))
			}
			if err == nil {
				err = s.CloseSend()
			}
			got := 0
			for err == nil {
				var b []byte
				if err = s.RecvMsg(&b); err == nil {
					got += len(b)
				}
			}
			if got != size {
				t.Errorf("%d bytes came, %v", got, err)
			}
		})
	}
	wg.Wait()
}
