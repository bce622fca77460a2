package upstream_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/protocol/trident"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
)

// bytesCodec takes and gives messages as []byte.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		m, ok := v.(proto.Message)
		if !ok {
			return nil, fmt.Errorf("%T", v)
		}
		encoded, err := proto.Marshal(m)
		return mem.BufferSlice{mem.SliceBuffer(encoded)}, err
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if b, ok := v.(*[]byte); ok {
		*b = data.Materialize()
		return nil
	}
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("%T", v)
	}
	return proto.Unmarshal(data.Materialize(), m)
}

// deepflow is a stand-in for deepflow-server: its election is the one that docs/protocol.md, section 7, tells of.
type deepflow struct {
	mu      sync.Mutex
	holder  map[string]string // cluster: ip-mac
	heard   map[string]time.Duration
	version map[string]uint64
	reports [][]byte
	// registered are the agents that were registered, by ip-mac.
	registered map[string]bool
	syncs      []*agent.SyncRequest
	now        func() time.Duration
	yaml       string
	ids        map[string]uint32 // by host: the ids that agents are given
	status     agent.Status
	broken     atomic.Bool
	// silent leaves calls without an answer; left counts them.
	silent atomic.Bool
	left   atomic.Int64
	// stubborn tells everybody to watch, as servers do that do not know watch-disabled.
	stubborn atomic.Bool
	// pushes makes a Push stream send another message for each value; nil: it ends after the first.
	pushes  chan struct{}
	other   func(method string, stream grpc.ServerStream) error
	server  *grpc.Server
	address string
}

func newDeepflow(t testing.TB, address string) *deepflow {
	t.Helper()
	d := &deepflow{now: func() time.Duration { return 0 }}
	d.forget()
	d.registered = map[string]bool{}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	d.address = l.Addr().String()
	d.server = grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}), grpc.UnknownServiceHandler(d.handle), grpc.MaxRecvMsgSize(100<<20))
	done := make(chan struct{})
	go func() { defer close(done); _ = d.server.Serve(l) }()
	t.Cleanup(func() { d.server.Stop(); <-done })
	return d
}

// forget is a restart.
func (d *deepflow) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.holder, d.heard, d.version = map[string]string{}, map[string]time.Duration{}, map[string]uint64{}
}

// onlyMessage receives the message of a call that has one. Real servers wait for the end behind it.
func onlyMessage(stream grpc.ServerStream, b *[]byte) error {
	if err := stream.RecvMsg(b); err != nil {
		return err
	}
	var more []byte
	if err := stream.RecvMsg(&more); !errors.Is(err, io.EOF) {
		return status.Errorf(codes.Internal, "after the only message came %d bytes and %v, want the end", len(more), err)
	}
	return nil
}

func (d *deepflow) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	if d.broken.Load() {
		return status.Error(codes.Unavailable, "broken")
	}
	if d.silent.Load() {
		d.left.Add(1)
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	var b []byte
	switch method {
	case "/agent.Synchronizer/Sync", "/trident.Synchronizer/Sync", "/agent.Synchronizer/Push", "/trident.Synchronizer/Push":
		if err := onlyMessage(stream, &b); err != nil {
			return err
		}
		var req agent.SyncRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			return err
		}
		for {
			if err := stream.SendMsg(d.sync(&req, method)); err != nil || d.pushes == nil || strings.HasSuffix(method, "/Sync") {
				return err
			}
			select {
			case <-d.pushes:
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
	case "/agent.Synchronizer/KubernetesAPISync":
		if err := onlyMessage(stream, &b); err != nil {
			return err
		}
		var req agent.KubernetesAPISyncRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.reports = append(d.reports, b)
		if len(req.GetEntries()) > 0 {
			d.version[req.GetClusterId()] = req.GetVersion()
		}
		return stream.SendMsg(&agent.KubernetesAPISyncResponse{Version: new(d.version[req.GetClusterId()])})
	}
	return d.other(method, stream)
}

func (d *deepflow) idOf(req *agent.SyncRequest) *uint32 {
	if id, ok := d.ids[req.GetHost()]; ok {
		return &id
	}
	return nil
}

// sync answers by the server's own mind.
func (d *deepflow) sync(req *agent.SyncRequest, method string) proto.Message {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs = append(d.syncs, req)
	key, id := req.GetCtrlIp()+"-"+req.GetCtrlMac(), req.GetKubernetesClusterId()
	watchOnly := req.GetKubernetesWatchPolicy() == agent.KubernetesWatchPolicy_KWP_WATCH_ONLY
	if !watchOnly || !req.GetKubernetesForceWatch() {
		d.registered[key] = true
	}
	enabled := false
	if id != "" && req.GetKubernetesWatchPolicy() != agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED {
		if d.holder[id] == "" || watchOnly || d.now()-d.heard[id] > 600*time.Second {
			d.holder[id] = key
		}
		if enabled = d.holder[id] == key; enabled {
			d.heard[id] = d.now()
		}
	}
	enabled = enabled || d.stubborn.Load()
	if strings.HasPrefix(method, "/trident.") {
		return &trident.SyncResponse{Status: trident.Status(d.status).Enum(), Config: &trident.Config{Enabled: new(true), KubernetesApiEnabled: &enabled, VtapId: d.idOf(req)}}
	}
	resp := &agent.SyncResponse{Status: d.status.Enum(), DynamicConfig: &agent.DynamicConfig{Enabled: new(true), KubernetesApiEnabled: &enabled, AgentId: d.idOf(req)}}
	if d.yaml != "" {
		resp.UserConfig = &d.yaml
	}
	return resp
}

// rig is a front before stand-in servers.
type rig struct {
	t       testing.TB
	servers []*deepflow
	front   *upstream.Front
	elapsed *atomic.Int64
	address string
	backend store.Backend
	elector *elector.Elector
	opts    upstream.Options
	stop    func()
}

func newRig(t testing.TB, servers int, opts upstream.Options, elect elector.Options) *rig {
	t.Helper()
	r := &rig{t: t, backend: store.NewMemory(), opts: opts, elapsed: &atomic.Int64{}}
	r.serve(servers)
	r.start(elect)
	return r
}

// serve starts the servers behind.
func (r *rig) serve(servers int) {
	r.t.Helper()
	for range servers {
		d := newDeepflow(r.t, "127.0.0.1:0")
		d.now = func() time.Duration { return time.Duration(r.elapsed.Load()) }
		r.servers = append(r.servers, d)
		r.opts.Addresses = append(r.opts.Addresses, d.address)
	}
}

// start starts a front; it is called again for a restart.
func (r *rig) start(elect elector.Options) {
	r.t.Helper()
	log := slog.New(slog.DiscardHandler)
	began := time.Now()
	now := func() time.Time { return began.Add(time.Duration(r.elapsed.Load())) }
	elect.Documents, elect.Logger, elect.Elapsed, elect.Now = r.backend, log, func() time.Duration { return time.Duration(r.elapsed.Load()) }, now
	r.elector = elector.New(elect)
	if err := r.elector.Load(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.startWith(receiver.New(receiver.Options{Store: store.New(r.backend, store.Options{Keep: 2}), Elector: r.elector, Logger: log}))
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (r *rig) startWith(recv *receiver.Receiver) {
	r.t.Helper()
	opts := r.opts
	opts.Elector, opts.Reports, opts.Logger, opts.Version, opts.MaxClusters, opts.MaxMessageSize = r.elector, recv, discard(), "test", 100, 100<<20
	if opts.ReportMode == "" {
		opts.ReportMode = receiver.PassMend
	}
	var err error
	if r.front, err = upstream.New(opts); err != nil {
		r.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.address = l.Addr().String()
	server := r.front.NewGRPCServer(nil)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	var once sync.Once
	front := r.front
	r.stop = func() { once.Do(func() { server.Stop(); <-done; _ = front.Close() }) }
	r.t.Cleanup(r.stop)
}

func (r *rig) pass(d time.Duration) { r.elapsed.Add(int64(d)) }

func dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{}), grpc.MaxCallRecvMsgSize(100<<20), grpc.MaxCallSendMsgSize(100<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// standIn is an agent that does what it is told.
type standIn struct {
	r     *rig
	conn  *grpc.ClientConn
	req   *agent.SyncRequest
	old   bool
	watch bool
	told  bool // the last Sync was answered with a decision
	err   error
	resp  *agent.SyncResponse
}

func (r *rig) agent(host, ip string, policy agent.KubernetesWatchPolicy) *standIn {
	r.t.Helper()
	return &standIn{r: r, conn: dial(r.t, r.address), req: &agent.SyncRequest{
		BootTime: proto.Uint32(1000), ProcessName: new("deepflow-agent"), CtrlIp: &ip, CtrlMac: new("52:54:00:00:00:01"),
		Host: &host, KubernetesClusterId: new("d-test"), KubernetesWatchPolicy: policy.Enum(),
	}}
}

func (a *standIn) sync(md ...string) bool {
	a.r.t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(a.r.t.Context(), md...), 20*time.Second)
	defer cancel()
	var st int32
	var watch bool
	if a.old {
		var resp trident.SyncResponse
		a.err = a.conn.Invoke(ctx, "/trident.Synchronizer/Sync", a.req, &resp)
		st, watch = int32(resp.GetStatus()), resp.GetConfig().GetKubernetesApiEnabled()
	} else {
		a.resp = &agent.SyncResponse{}
		a.err = a.conn.Invoke(ctx, "/agent.Synchronizer/Sync", a.req, a.resp)
		st, watch = int32(a.resp.GetStatus()), a.resp.GetDynamicConfig().GetKubernetesApiEnabled()
	}
	if a.told = a.err == nil && st == int32(agent.Status_SUCCESS); a.told { // else it goes on as before
		a.watch = watch
	}
	return a.watch
}

const (
	normal    = agent.KubernetesWatchPolicy_KWP_NORMAL
	watchOnly = agent.KubernetesWatchPolicy_KWP_WATCH_ONLY
	disabled  = agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED
)

func (r *rig) atMostOne(agents ...*standIn) *standIn {
	r.t.Helper()
	var holder *standIn
	for _, a := range agents {
		if !a.watch {
			continue
		}
		if holder != nil {
			r.t.Fatalf("%s and %s watch", holder.req.GetHost(), a.req.GetHost())
		}
		holder = a
	}
	return holder
}

// Invariant: what passes is equal to the byte, with its metadata, trailers and the details of its status.
func TestPassesUnchanged(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	seed := testseed.New(t)
	var got atomic.Pointer[metadata.MD]
	r.servers[0].other = func(method string, stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		got.Store(&md)
		if err := stream.SendHeader(metadata.Pairs("x-header", method, "x-bin-bin", "\x00\xff")); err != nil {
			return err
		}
		stream.SetTrailer(metadata.Pairs("x-trailer", method))
		for {
			var b []byte
			if err := stream.RecvMsg(&b); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return err
			}
			if err := stream.SendMsg(&b); err != nil {
				return err
			}
		}
		st, err := status.New(codes.FailedPrecondition, "as it is").WithDetails(&agent.KubernetesClusterIDResponse{ErrorMsg: &method})
		if err != nil {
			return err
		}
		return st.Err()
	}
	methods := []string{"/some.Other/Thing"}
	for _, p := range []string{protocol.AgentService, protocol.TridentService} {
		for _, m := range []string{
			"Upgrade", "Query", "GenesisSync", "GetKubernetesClusterID", "GPIDSync", "ProcessGPIDSync", "ShareGPIDLocalData", "Plugin",
			"RemoteExecute", "AnalyzerSync", "GetPrometheusLabelIDs", "GetPrometheusTargets", "GetUniversalTagNameMaps", "GetOrgIDs",
		} {
			methods = append(methods, "/"+p+"/"+m)
		}
	}
	conn := dial(t, r.address)
	for i, method := range methods {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		var opts []grpc.CallOption
		if i%3 == 1 {
			opts = append(opts, grpc.UseCompressor(gzip.Name))
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-sent", method, "x-sent", "twice", "y-bin", "\x00\x01")
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, opts...)
		if err != nil {
			t.Fatal(err)
		}
		for range 1 + rng.IntN(20) {
			sent := make([]byte, rng.IntN(1<<uint(rng.IntN(20))+1))
			for j := range sent {
				sent[j] = byte(rng.Uint32())
			}
			if err := s.SendMsg(&sent); err != nil {
				t.Fatal(err)
			}
			var back []byte
			if err := s.RecvMsg(&back); err != nil || !bytes.Equal(sent, back) {
				t.Fatalf("%s: %d bytes came back as %d, %v", method, len(sent), len(back), err)
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		var b []byte
		err = s.RecvMsg(&b)
		st := status.Convert(err)
		if st.Code() != codes.FailedPrecondition || st.Message() != "as it is" || len(st.Details()) != 1 {
			t.Fatalf("%s ended with %v, details %v", method, err, st.Details())
		}
		if h, _ := s.Header(); h.Get("x-header")[0] != method || h.Get("x-bin-bin")[0] != "\x00\xff" || s.Trailer().Get("x-trailer")[0] != method {
			t.Fatalf("%s: header %v, trailer %v", method, h, s.Trailer())
		}
		if md := *got.Load(); len(md.Get("x-sent")) != 2 || md.Get("y-bin")[0] != "\x00\x01" || len(md.Get("x-forwarded-for")) != 1 {
			t.Fatalf("%s: the server got %v", method, md)
		}
	}
}

// TestLargeMessage passes a message of nearly 100 MiB both ways.
func TestLargeMessage(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	r.servers[0].other = func(_ string, stream grpc.ServerStream) error {
		var b []byte
		if err := stream.RecvMsg(&b); err != nil {
			return err
		}
		return stream.SendMsg(&b)
	}
	sent := make([]byte, 100<<20)
	for i := range sent {
		sent[i] = byte(i * 7 >> 3)
	}
	var back []byte
	if err := dial(t, r.address).Invoke(t.Context(), "/agent.Synchronizer/GPIDSync", &sent, &back); err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(sent) != sha256.Sum256(back) {
		t.Error("it came back otherwise")
	}
}

// TestBreaks: a call that ends on one side ends on the other, and deadlines pass.
func TestBreaks(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	ended, deadline := make(chan error, 1), make(chan bool, 1)
	r.servers[0].other = func(_ string, stream grpc.ServerStream) error {
		_, ok := stream.Context().Deadline()
		deadline <- ok
		if err := stream.SendMsg(new([]byte)); err != nil {
			return err
		}
		<-stream.Context().Done()
		ended <- stream.Context().Err()
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	s, err := dial(t, r.address).NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/agent.Synchronizer/RemoteExecute")
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	if err := s.RecvMsg(&b); err != nil {
		t.Fatal(err)
	}
	if !<-deadline {
		t.Error("the deadline did not pass")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the server's side ended with %v", err)
	}
	r.servers[0].server.Stop()
	if err := dial(t, r.address).Invoke(t.Context(), "/agent.Synchronizer/Query", new([]byte), &b); status.Code(err) != codes.Unavailable {
		t.Errorf("with the server away: %v, want Unavailable", err)
	}
}

// TestFailover: calls go to the other server when one ends, and stay there.
func TestFailover(t *testing.T) {
	r := newRig(t, 2, upstream.Options{}, elector.Options{})
	a := r.agent("node-1", "10.0.0.1", normal)
	for range 3 {
		a.sync()
	}
	first, second := r.servers[0], r.servers[1]
	if len(first.syncs) == 0 {
		first, second = second, first
	}
	if len(first.syncs) != 3 || len(second.syncs) != 0 {
		t.Fatalf("one cluster is on two servers: %d and %d Syncs", len(first.syncs), len(second.syncs))
	}
	first.server.Stop()
	for range 20 {
		if a.sync(); a.err == nil {
			break
		}
	}
	if a.err != nil || len(second.syncs) == 0 || !a.watch {
		t.Fatalf("after the first server's end: %v, %d Syncs at the second, watches %v", a.err, len(second.syncs), a.watch)
	}
}

// TestElection: the elector decides, in both packages, and the server's choice follows.
func TestElection(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	d := r.servers[0]
	first, twin, better := r.agent("node-1", "10.0.0.1", normal), r.agent("sidecar", "10.0.0.1", disabled), r.agent("watcher", "10.0.0.1", watchOnly)
	better.old = true
	if !first.sync() || twin.sync() {
		t.Fatal("the ordinary agent has to watch and the disabled one of the same node not")
	}
	better.sync()
	all := []*standIn{first, twin, better}
	for range 4 { // the role moves to the better one
		for _, a := range all {
			a.sync()
			if a.err != nil {
				t.Fatal(a.err)
			}
			r.atMostOne(all...)
		}
		r.pass(time.Minute)
	}
	if !better.watch {
		t.Error("watch-only does not watch")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.syncs[len(d.syncs)-3:] {
		want := disabled
		if s.GetHost() == "watcher" {
			want = watchOnly
		}
		if s.GetKubernetesWatchPolicy() != want {
			t.Errorf("the server got policy %v from %s, want %v", s.GetKubernetesWatchPolicy(), s.GetHost(), want)
		}
	}
}

// TestUnheardStop: a stop whose answer the agent never got does not free the role.
func TestUnheardStop(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	old, better := r.agent("node-1", "10.0.0.1", normal), r.agent("watcher", "10.0.0.2", watchOnly)
	old.sync()
	better.sync()
	for i := range 4 {
		// Broken in turn: the server is away, and it answers HEARTBEAT.
		if i%2 == 0 {
			r.servers[0].broken.Store(true)
		} else {
			r.servers[0].status = agent.Status_HEARTBEAT
		}
		old.sync()
		r.servers[0].broken.Store(false)
		r.servers[0].status = agent.Status_SUCCESS
		better.sync()
		if r.atMostOne(old, better) != old {
			t.Fatal("the holder does not watch any more")
		}
	}
	old.sync()
	better.sync()
	old.sync()
	better.sync()
	if r.atMostOne(old, better) != better {
		t.Error("the role does not move although its end was heard")
	}
}

// TestClaims: a pseudo-agent that is not elected is not registered with the server, and does not take the server's role.
func TestClaims(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	holder, other := r.agent("a", "10.0.0.1", watchOnly), r.agent("b", "10.0.0.2", watchOnly)
	holder.req.KubernetesForceWatch, other.req.KubernetesForceWatch = new(true), new(true)
	for range 3 {
		holder.sync()
		other.sync()
	}
	if r.atMostOne(holder, other) != holder {
		t.Error("the first claim does not hold")
	}
	d := r.servers[0]
	if len(d.registered) > 0 || d.holder["d-test"] != "10.0.0.1-52:54:00:00:00:01" {
		t.Errorf("registered %v, the server's watcher is %v", d.registered, d.holder)
	}
	holder.sync(protocol.GoodbyeHeader, "1")
	if holder.watch = false; !other.sync() {
		t.Error("nobody follows after a goodbye")
	}
}

// TestRestarts: neither the server's nor the front's restart makes two agents watch.
func TestRestarts(t *testing.T) {
	r := newRig(t, 1, upstream.Options{}, elector.Options{})
	first, second := r.agent("a", "10.0.0.1", normal), r.agent("b", "10.0.0.2", normal)
	first.sync()
	r.servers[0].forget()
	second.sync()
	if r.atMostOne(first, second) != first {
		t.Error("after the server's restart")
	}
	r.stop()
	r.start(elector.Options{})
	for _, a := range []*standIn{second, first, second} {
		a.conn = dial(t, r.address)
		a.sync()
	}
	if r.atMostOne(first, second) != first {
		t.Error("after the front's restart")
	}
}
