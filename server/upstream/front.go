// Package upstream stands between agents and deepflow-servers: it is the address that agents are given, and passes their
// calls on.
//
// It holds the connections to the servers, which of them each cluster is on, and what was seen per cluster. It relies on an
// Elector for who watches and on Reports for the validation and storage of reports. It promises that every call of every
// service passes byte for byte, without being decoded, but for the fields that docs/upstream.md names; what it does not
// understand passes as it is. Its memory follows the messages that are under way, never the length of a stream.
package upstream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // messages compressed by gzip pass, too
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
)

// Elector decides who watches.
type Elector interface {
	// Decide answers a Sync. Once the agent is about to be told, answered is called with the agent id that the server gives
	// it, 0 for none.
	Decide(ctx context.Context, peer string, req *agent.SyncRequest) (watch bool, answered func(agentID uint32), err error)
	// Watches tells whether the sender was told to watch and not to stop since.
	Watches(ctx context.Context, req *agent.SyncRequest) bool
}

// Reports validates and keeps reports; receiver.Receiver is one.
type Reports interface {
	// Admit refuses agents that may not speak for their cluster.
	Admit(ctx context.Context, req *agent.SyncRequest) error
	// Acquire waits until a report may be received.
	Acquire(ctx context.Context) (release func(), err error)
	// Pass returns what is to be forwarded, or an error that refuses the report.
	Pass(ctx context.Context, data mem.BufferSlice, mode string) (receiver.Passed, error)
}

// Options of a Front. All but Advertise, TLS, Registerer, Now and Dial are required.
type Options struct {
	// Addresses of the deepflow-servers, host:port.
	Addresses []string
	TLS       TLS
	// Advertise is where agents reach this server, host:port; empty: the servers' answers keep their address.
	Advertise string
	// ReportMode is one of receiver.PassForward, PassRefuse and PassMend.
	ReportMode     string
	MaxMessageSize int
	// MaxClusters bounds the clusters of which anything is remembered.
	MaxClusters int
	Elector     Elector
	Reports     Reports
	Version     string
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
	Now         func() time.Time // nil: time.Now
	// Dial connects to an address of a deepflow-server; nil: by TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Sizes of gRPC's buffers, in bytes. With a fixed window a message is held only by who reads it.
const (
	window           = 64 << 10
	connectionWindow = 1 << 20
	maxHeader        = 1 << 20
)

// forwardedFor is the metadata that tells the server the sender's address.
const forwardedFor = "x-forwarded-for"

// Front is the proxy. It is safe for concurrent use.
type Front struct {
	opts    Options
	own     address
	yaml    yamlCache
	log     *slog.Logger
	now     func() time.Time
	choice  choice
	metrics *metrics
	seen    seen
	bulk    chan struct{}
}

// New returns a Front that connects to the servers at once. Close ends it.
func New(opts Options) (*Front, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	own, err := parseAddress(opts.Advertise)
	if err != nil {
		return nil, err
	}
	creds, err := opts.TLS.credentials()
	if err != nil {
		return nil, err
	}
	f := &Front{opts: opts, own: own, log: opts.Logger, now: opts.Now, bulk: make(chan struct{}, bulkStreams)}
	f.choice = choice{sticky: map[string]*backend{}, limit: opts.MaxClusters}
	f.seen = seen{clusters: map[string]*cluster{}, limit: opts.MaxClusters}
	for _, a := range opts.Addresses {
		b, err := newBackend(a, creds, &f.opts)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.choice.backends = append(f.choice.backends, b)
	}
	f.metrics = newMetrics(opts.Registerer, f)
	return f, nil
}

// Close closes the connections to the servers.
func (f *Front) Close() error {
	var errs []error
	for _, b := range f.choice.backends {
		errs = append(errs, b.close())
	}
	return errors.Join(errs...)
}

// NewGRPCServer returns the gRPC server for the agents; creds may be nil for plain text.
func (f *Front) NewGRPCServer(creds credentials.TransportCredentials) *grpc.Server {
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}), grpc.UnknownServiceHandler(f.handle),
		grpc.StatsHandler(connections{encodingHandler{begins: true}}),
		grpc.MaxRecvMsgSize(f.opts.MaxMessageSize), grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(connectionWindow),
		grpc.MaxHeaderListSize(maxHeader), grpc.ReadBufferSize(8 << 10), grpc.WriteBufferSize(32 << 10),
		grpc.ConnectionTimeout(20 * time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Minute, Timeout: 20 * time.Second}),
	}
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	return grpc.NewServer(opts...)
}

// connections notes of each connection which cluster speaks over it, so that calls that do not tell follow it.
type connections struct{ encodingHandler }

type connectionKey struct{}

// TagConn implements stats.Handler.
func (connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, connectionKey{}, &atomic.Pointer[string]{})
}

// keyOf returns what decides on the server: the cluster that spoke last over the connection, or the sender's host.
func keyOf(ctx context.Context) string {
	if p, ok := ctx.Value(connectionKey{}).(*atomic.Pointer[string]); ok {
		if id := p.Load(); id != nil {
			return *id
		}
	}
	from := peerAddress(ctx)
	if i := strings.LastIndexByte(from, ':'); i >= 0 {
		from = from[:i]
	}
	return "host " + from
}

func noteCluster(ctx context.Context, id string) {
	if p, ok := ctx.Value(connectionKey{}).(*atomic.Pointer[string]); ok && id != "" {
		if before := p.Load(); before == nil || *before != id {
			p.Store(&id)
		}
	}
}

func peerAddress(ctx context.Context) string {
	if from, ok := peer.FromContext(ctx); ok {
		return from.Addr.String()
	}
	return ""
}

// call is one call that passes.
type call struct {
	f       *Front
	stream  grpc.ServerStream
	method  string
	backend *backend
	// response changes each message of the server. Nil: they pass as they are.
	response func(m *frame)
	// bulk says that large messages are expected.
	bulk bool
	// unary says that first is all that the agent sends: it goes in one frame with its end, and nothing waits for more.
	unary bool
	// first is the first message of the agent if it was received already.
	first *frame
	began time.Time
	// server is how long the server took from the end of the request to the first message.
	server time.Duration
}

// handle is the handler of every call.
func (f *Front) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	c := &call{f: f, stream: stream, method: method, began: f.now()}
	_ = stream.SetHeader(metadata.Pairs(protocol.ServerHeader, f.opts.Version))
	l, synchronizer := layouts[service]
	kind := "other"
	var err error
	switch {
	case synchronizer && name == protocol.MethodSync:
		c.unary = true
		kind, err = name, f.sync(c, l)
	case synchronizer && name == "Push":
		kind, err = name, f.push(c, l)
	case synchronizer && name == protocol.MethodKubernetesAPISync:
		c.unary = true
		kind, err = name, f.report(c)
	default:
		c.bulk = synchronizer && (name == "Upgrade" || name == "Plugin")
		err = c.pass()
	}
	f.metrics.calls.WithLabelValues(kind, status.Code(err).String()).Inc()
	return err
}

// receive receives the first message of the agent.
func (c *call) receive() error {
	c.first = &frame{}
	if err := c.stream.RecvMsg(c.first); err != nil {
		c.first = nil
		if errors.Is(err, io.EOF) {
			return status.Error(codes.Internal, "the call ended without a request")
		}
		return err
	}
	return nil
}

// outgoing is the context of the call to the server: deadline and cancellation are those of the agent's.
func (c *call) outgoing(ctx context.Context) context.Context {
	in, _ := metadata.FromIncomingContext(ctx)
	out := make(metadata.MD, len(in)+1)
	for k, v := range in {
		// These belong to each connection and are set by gRPC itself.
		if strings.HasPrefix(k, ":") || slices.Contains([]string{"content-type", "user-agent", "te", "grpc-accept-encoding"}, k) {
			continue
		}
		out[k] = v
	}
	host := peerAddress(ctx)
	out[forwardedFor] = append(slices.Clone(out[forwardedFor]), host)
	return metadata.NewOutgoingContext(ctx, out)
}

// open opens the call to a server: the next one if a server cannot be reached.
func (c *call) open(ctx context.Context) (grpc.ClientStream, *pooled, error) {
	key := keyOf(c.stream.Context()) //nolint:contextcheck // ctx is the outgoing one; the connection is known to the agent's
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: !c.unary}
	var opts []grpc.CallOption
	if e := encodingsOf(ctx); e != nil && load(&e.agent) != "" {
		opts = append(opts, grpc.UseCompressor(load(&e.agent)))
	}
	var last error
	for _, b := range c.f.choice.order(key) {
		p, err := b.take()
		if err != nil {
			return nil, nil, err
		}
		s, err := p.conn.NewStream(ctx, desc, c.method, opts...)
		if err == nil {
			c.backend = b
			if before := c.f.choice.stay(key, b); before != nil {
				c.f.log.Warn("another deepflow-server takes the calls", "of", key, "server", b.address, "before", before.address, "because", before.problem())
				c.f.metrics.failovers.Inc()
			}
			return s, p, nil
		}
		b.give(p)
		b.note(err, false)
		last = err
		if status.Code(err) != codes.Unavailable {
			break
		}
	}
	return nil, nil, last
}

// pass passes the call on until one side ends it.
func (c *call) pass() error {
	ctx, cancel := context.WithCancel(c.outgoing(c.stream.Context()))
	defer cancel()
	server, p, err := c.open(ctx)
	if err != nil {
		c.first.drop()
		return err
	}
	defer c.backend.give(p)
	if c.unary {
		_ = server.SendMsg(c.first) // the answer has the error
		c.first.free()
	} else {
		// It ends at the latest when the handler returns, which ends the agent's stream: nothing else ends its RecvMsg.
		go func() {
			if c.send(server) != nil {
				cancel() // the agent broke off
			}
		}()
	}
	answered, err := c.answer(ctx, server)
	c.backend.note(c.blame(err), answered)
	c.stream.SetTrailer(server.Trailer())
	return err
}

// patience is how long a server may leave a call without an answer before it counts against the server that the agent gives up. Where the
// call has a deadline, the agent may give up that much earlier.
const (
	patience = 10 * time.Second
	early    = time.Second
)

// blame returns an error for what it says about the server. An agent whose deadline has come gives the call up, which arrives here before
// the deadline does: all the same the server has not answered in time.
func (c *call) blame(err error) error {
	if !c.unary || status.Code(err) != codes.Canceled {
		return err
	}
	end, limited := c.stream.Context().Deadline()
	if limited && time.Until(end) > early || !limited && c.f.now().Sub(c.began) < patience {
		return err
	}
	return status.FromContextError(context.DeadlineExceeded).Err()
}

func (f *frame) drop() {
	if f != nil {
		f.free()
	}
}

// send passes the agent's messages on. An error means that the agent's side is broken; one of the server's side shows in
// its answer.
func (c *call) send(server grpc.ClientStream) error {
	m := c.first
	for {
		if m == nil {
			m = &frame{}
			if err := c.stream.RecvMsg(m); errors.Is(err, io.EOF) {
				return server.CloseSend()
			} else if err != nil {
				return err
			}
		}
		err := server.SendMsg(m)
		m.free()
		m = nil
		if err != nil {
			return nil //nolint:nilerr // the answer has the reason
		}
	}
}

// Bulk transfers, such as Upgrade: streams of large messages take turns, so that the memory of all of them together is
// that of bulkStreams messages. One that has waited longer than bulkTurn for its message, or for its agent to take it, gives
// its turn up.
const (
	bulkStreams = 8
	bulkMessage = 128 << 10
	bulkTurn    = time.Second
)

// answer passes the server's side on and returns the status of the call; answered says that the server sent anything.
func (c *call) answer(ctx context.Context, server grpc.ClientStream) (answered bool, err error) {
	header, err := server.Header()
	if err == nil && header != nil {
		answered = true
		if e := encodingsOf(ctx); e != nil && load(&e.server) != "" {
			_ = grpc.SetSendCompressor(c.stream.Context(), load(&e.server)) //nolint:contextcheck // towards the agent; an agent that cannot read it gets it plain
		}
		if err := c.stream.SendHeader(clean(header)); err != nil {
			return answered, err
		}
	}
	opened := c.f.now()
	large := c.bulk
	for first := true; ; first = false {
		var m frame
		release := func() {}
		if large {
			release = c.turn(ctx)
		}
		err := server.RecvMsg(&m)
		if err != nil {
			release()
			if errors.Is(err, io.EOF) {
				return true, nil
			}
			return answered || fromServer(server, err), err
		}
		answered = true
		if first {
			c.server += c.f.now().Sub(opened)
		}
		large = c.bulk || m.data.Len() >= bulkMessage
		if c.response != nil {
			c.response(&m)
		}
		m.whenSent(release)
		err = c.stream.SendMsg(&m)
		m.free()
		if err != nil {
			return answered, err
		}
	}
}

// fromServer tells whether an error is the server's answer, and not that of the connection to it.
func fromServer(server grpc.ClientStream, err error) bool {
	code := status.Code(err)
	return len(server.Trailer()) > 0 || code != codes.Unavailable && code != codes.DeadlineExceeded && code != codes.Canceled
}

// turn waits for a bulk transfer's turn. What it returns gives it back; time does so, too.
func (c *call) turn(ctx context.Context) func() {
	select {
	case c.f.bulk <- struct{}{}:
	case <-ctx.Done():
		return func() {}
	}
	var once sync.Once
	back := func() { once.Do(func() { <-c.f.bulk }) }
	late := time.AfterFunc(bulkTurn, back)
	return func() {
		late.Stop()
		back()
	}
}

// clean leaves out of the server's headers what gRPC sets itself.
func clean(md metadata.MD) metadata.MD {
	out := md.Copy()
	for _, k := range []string{"content-type", "grpc-encoding", "grpc-accept-encoding"} {
		delete(out, k)
	}
	return out
}

// decode reads the fields of a Sync that concern the election. Only what is understood is of a cluster.
func decode(m *frame) (*agent.SyncRequest, []byte) {
	b := m.data.Materialize()
	req := &agent.SyncRequest{}
	if _, ok := fields(b); !ok || proto.Unmarshal(b, req) != nil {
		return nil, b
	}
	return req, b
}

// sync passes a Sync on with the elector's decision.
func (f *Front) sync(c *call, l layout) error {
	if err := c.receive(); err != nil {
		return err
	}
	req, b := decode(c.first)
	id := req.GetKubernetesClusterId()
	ctx := c.stream.Context()
	if id == "" || !clusterID(id) {
		c.response = f.addressOnly(l)
		return c.pass()
	}
	noteCluster(ctx, id)
	if err := f.opts.Reports.Admit(ctx, req); err != nil {
		c.first.drop()
		return err
	}
	watch, answered, err := f.opts.Elector.Decide(ctx, peerAddress(ctx), req)
	if err != nil {
		c.first.drop()
		return err
	}
	claim := req.GetKubernetesForceWatch() && req.GetKubernetesWatchPolicy() == agent.KubernetesWatchPolicy_KWP_WATCH_ONLY
	c.first.replace(rewriteRequest(b, watch))
	c.response = func(m *frame) {
		got := m.data.Materialize()
		next, a := rewriteResponse(got, l, watch, f.own, &f.yaml)
		if a.told {
			answered(a.agentID)
		}
		f.seen.answered(f, id, a, watch || claim)
		if !same(next, got) {
			m.replace(next)
		}
	}
	err = c.pass()
	if err == nil && c.backend != nil {
		added := max(f.now().Sub(c.began)-c.server, 0)
		f.seen.synced(id, c.backend.address, added)
		f.metrics.added.Observe(added.Seconds())
	}
	return err
}

// addressOnly rewrites nothing but the controller's address, for agents that are no candidates.
func (f *Front) addressOnly(l layout) func(*frame) {
	if f.own.ip == "" {
		return nil
	}
	return func(m *frame) {
		got := m.data.Materialize()
		if next := rewriteAddressOnly(got, l, f.own, &f.yaml); !same(next, got) {
			m.replace(next)
		}
	}
}

// push passes a Push stream on: each message has the decision of its time.
func (f *Front) push(c *call, l layout) error {
	if err := c.receive(); err != nil {
		return err
	}
	req, b := decode(c.first)
	id := req.GetKubernetesClusterId()
	ctx := c.stream.Context()
	if id == "" || !clusterID(id) {
		c.response = f.addressOnly(l)
		return c.pass()
	}
	noteCluster(ctx, id)
	if err := f.opts.Reports.Admit(ctx, req); err != nil {
		c.first.drop()
		return err
	}
	c.first.replace(rewriteRequest(b, f.opts.Elector.Watches(ctx, req)))
	c.response = func(m *frame) {
		got := m.data.Materialize()
		if next, _ := rewriteResponse(got, l, f.opts.Elector.Watches(ctx, req), f.own, &f.yaml); !same(next, got) {
			m.replace(next)
		}
	}
	return c.pass()
}

// report validates, keeps and passes on a report.
func (f *Front) report(c *call) error {
	ctx := c.stream.Context()
	release, err := f.opts.Reports.Acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := c.receive(); err != nil {
		return err
	}
	passed, err := f.opts.Reports.Pass(ctx, c.first.data, f.opts.ReportMode)
	if err != nil {
		c.first.drop()
		f.metrics.reports.WithLabelValues("refused").Inc()
		f.seen.refused(keyOf(ctx), err)
		return err
	}
	noteCluster(ctx, passed.Cluster)
	if passed.Data != nil {
		c.first.replace(passed.Data)
	}
	c.response = func(m *frame) {
		var resp agent.KubernetesAPISyncResponse
		if proto.Unmarshal(m.data.Materialize(), &resp) == nil {
			f.seen.version(f, passed, resp.GetVersion())
		}
	}
	err = c.pass()
	f.seen.reported(f, passed, c.backend, err)
	return err
}
