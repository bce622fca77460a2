package receiver

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/protocol/trident"
)

// call answers one request.
type call func(ctx context.Context, p *Peer, service string, m *message) (proto.Message, error)

// NewGRPCServer returns a gRPC server of both services; creds may be nil for plain text.
//
// All methods are unary on the wire. They are registered as streams because only so the server can decide whether to
// take a request before it has received it; an ordinary unary handler is called after up to MaxMessageSize bytes.
func (r *Receiver) NewGRPCServer(creds credentials.TransportCredentials) *grpc.Server {
	l := r.opts.Limits
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(l.MaxMessageSize),
		// A request that waits for its turn holds no more than the first window. Once it is read, gRPC extends the window.
		grpc.InitialWindowSize(64 << 10),
		grpc.InitialConnWindowSize(4 << 20),
		grpc.MaxConcurrentStreams(8),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.ReadBufferSize(8 << 10),
		grpc.WriteBufferSize(8 << 10),
		// A goroutine of its own for each Sync would have to grow its stack each time; beyond these there is one.
		grpc.NumStreamWorkers(uint32(4 * runtime.GOMAXPROCS(0))),
		grpc.ConnectionTimeout(20 * time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Minute, Timeout: 20 * time.Second}),
		grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
			return r.bounded(ctx), nil
		}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			_ = stream.SetHeader(r.greeting)
			return status.Errorf(codes.Unimplemented, "unknown method %s", clip(method))
		}),
	}
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	s := grpc.NewServer(opts...)
	for _, service := range []string{protocol.AgentService, protocol.TridentService} {
		s.RegisterService(&grpc.ServiceDesc{
			ServiceName: service,
			HandlerType: (*any)(nil),
			Streams: []grpc.StreamDesc{
				{StreamName: protocol.MethodKubernetesAPISync, Handler: r.handler(service, protocol.MethodKubernetesAPISync, l.MaxMessageSize, r.kubernetesAPISync)},
				{StreamName: protocol.MethodGetKubernetesClusterID, Handler: r.handler(service, protocol.MethodGetKubernetesClusterID, maxSmallMessage, r.getKubernetesClusterID)},
				{StreamName: protocol.MethodSync, Handler: r.handler(service, protocol.MethodSync, maxSmallMessage, r.sync)},
			},
		}, r)
	}
	return s
}

// maxSmallMessage is the largest Sync and GetKubernetesClusterID, in bytes. Those of deepflow-agents have at most some KiB.
const maxSmallMessage = 64 << 10

func (r *Receiver) handler(service, method string, limit int, answer call) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		start := r.now()
		_ = stream.SetHeader(r.greeting)
		resp, err := r.serve(stream.Context(), service, min(limit, r.opts.Limits.MaxMessageSize), answer)
		if err == nil {
			err = stream.SendMsg(resp)
		}
		r.metrics.requests.WithLabelValues(service, method, status.Code(err).String()).Inc()
		r.metrics.duration.WithLabelValues(method).Observe(r.now().Sub(start).Seconds())
		return err
	}
}

// serve receives and answers a request. Its places and the request's memory are given back before the answer is sent, so
// that a client that does not read holds none.
func (r *Receiver) serve(ctx context.Context, service string, limit int, answer call) (proto.Message, error) {
	p := peerOf(ctx)
	resp, err := func() (proto.Message, error) {
		if err := r.opts.Access.admit(p); err != nil {
			return nil, err
		}
		m := message{peer: p.quotaKey()}
		defer m.free()
		if err := r.take(ctx, &m, limit); err != nil {
			return nil, err
		}
		r.metrics.received.Add(float64(m.data.Len()))
		return answer(ctx, p, service, &m)
	}()
	if err != nil {
		return nil, r.refuse(ctx, p, err)
	}
	return resp, nil
}

// take receives a message. While it has only its first portion it is one of MaxWaitingRequests; those that come slowly
// stay there until they are ended, and hold up nobody. It then waits for its place among MaxConcurrentRequests: a message
// that is complete by then among others of that kind, a larger one among those that are received and worked on.
func (r *Receiver) take(ctx context.Context, m *message, limit int) error {
	leave, err := r.line(m.peer)
	if err != nil {
		return err
	}
	defer leave()
	w, err := wireOf(ctx)
	if err != nil {
		return err
	}
	length, err := r.messageLength(ctx, w, limit)
	if err != nil {
		return err
	}
	first := min(length, firstPortion)
	if err := r.receive(ctx, w, m, first, firstPortion); err != nil {
		return err
	}
	gate := r.gate(length, first)
	if gate.bytes > 0 && weight(length) > gate.bytes {
		return &refusal{
			code: codes.ResourceExhausted, rule: ruleCapacity,
			what:   fmt.Sprintf("the message has %d bytes, at most %d are taken with this server's memory", length, gate.bytes/3*2),
			advice: "report fewer types, or give pseudo-server more memory (limits.memory, by default the container's memory limit)",
		}
	}
	if !gate.enter(ctx, m.peer, weight(length)) {
		if errors.Is(context.Cause(ctx), errTimeout) {
			return r.busy()
		}
		return context.Cause(ctx)
	}
	leave()
	r.metrics.working.Inc()
	m.gate, m.held = gate, weight(length)
	m.left = r.metrics.working.Dec
	return r.receive(ctx, w, m, length-first, 2*firstPortion)
}

// line makes a request of the peer one of MaxWaitingRequests. It leaves the line once, however often leave is called.
func (r *Receiver) line(peer string) (leave func(), err error) {
	if !r.waiting.tryEnter(peer, 0) {
		return nil, r.busy()
	}
	r.metrics.waiting.Inc()
	return sync.OnceFunc(func() {
		r.metrics.waiting.Dec()
		r.waiting.leave(peer, 0)
	}), nil
}

func (r *Receiver) busy() *refusal {
	return &refusal{
		code: codes.ResourceExhausted, rule: ruleBusy,
		what:   fmt.Sprintf("%d requests are being worked on and others wait", r.opts.Limits.MaxConcurrentRequests),
		advice: "send it again later, or raise limits.max_concurrent_requests or limits.max_waiting_requests of pseudo-server",
	}
}

func (r *Receiver) timeout(what, advice string) *refusal {
	return &refusal{
		code: codes.DeadlineExceeded, rule: ruleTimeout,
		what:   fmt.Sprintf("%s within %s", what, r.opts.Limits.RequestTimeout),
		advice: advice + ", or raise limits.request_timeout of pseudo-server",
	}
}

// ended turns err into a refusal if it comes from the end of the request's context, which then says why; nil if it does not.
func (r *Receiver) ended(ctx context.Context, err error) *refusal {
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) &&
		!errors.Is(err, errTimeout) && !errors.Is(err, errSlow) && status.Code(err) != codes.DeadlineExceeded && status.Code(err) != codes.Canceled {
		return nil
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errSlow):
		return &refusal{
			code: codes.DeadlineExceeded, rule: ruleTimeout,
			what:   fmt.Sprintf("the request came in with less than %d bytes per second", r.opts.Limits.MinReceiveRate),
			advice: "look at the network between sender and server, or lower limits.min_receive_rate of pseudo-server",
		}
	case errors.Is(cause, errTimeout):
		return r.timeout("the request was not received and answered",
			"look at the network between sender and server, and whether the storage of pseudo-server hangs (/status)")
	case errors.Is(cause, context.DeadlineExceeded):
		return &refusal{
			code: codes.Canceled, rule: ruleCanceled, what: "the client's own deadline passed before the answer",
			advice: "give the client more time; this server would have taken more",
		}
	case errors.Is(cause, context.Canceled):
		return &refusal{code: codes.Canceled, rule: ruleCanceled, what: "the client gave up", advice: "nothing"}
	default:
		return nil
	}
}

// refuse counts and records an error and turns it into what the client gets.
func (r *Receiver) refuse(ctx context.Context, p *Peer, err error) error {
	var ref *refusal
	if err = orFull(err); !errors.As(err, &ref) {
		ref = r.ended(ctx, err)
	}
	switch {
	case ref != nil:
		r.metrics.refusals.WithLabelValues(string(ref.rule)).Inc()
		if ref.rule != ruleCanceled {
			r.audit.refused(p, ref)
		}
		return ref
	default:
		if _, ok := status.FromError(err); ok {
			return err
		}
		r.noteStorage(err)
		r.noteUnstored()
		r.metrics.refusals.WithLabelValues(string(ruleStorage)).Inc()
		r.log.Debug("request failed", "peer", p.Address, "error", err)
		return &refusal{
			code: codes.Unavailable, rule: ruleStorage,
			what:   "the report could not be stored",
			advice: "nothing was acknowledged; send it again later; the log of pseudo-server has the reason",
		}
	}
}

// getKubernetesClusterID tells mistakes as deepflow-server does: in the answer.
func (r *Receiver) getKubernetesClusterID(ctx context.Context, p *Peer, _ string, m *message) (proto.Message, error) {
	var req agent.KubernetesClusterIDRequest
	if err := m.countFields(); err != nil {
		return nil, invalidMessage(err)
	}
	if err := m.decode(&req); err != nil {
		return nil, invalidMessage(err)
	}
	if ref := r.opts.Access.team(req.GetTeamId()); ref != nil {
		return &agent.KubernetesClusterIDResponse{ErrorMsg: new(r.refuse(ctx, p, ref).Error())}, nil
	}
	id, ok := clusterID(req.GetCaMd5())
	if !ok {
		return &agent.KubernetesClusterIDResponse{ErrorMsg: new(fmt.Sprintf(
			"ca_md5 %q is not the lower-case hexadecimal MD5 of the CA file", clip(req.GetCaMd5())))}, nil
	}
	return &agent.KubernetesClusterIDResponse{ClusterId: new(id)}, nil
}

func (r *Receiver) sync(ctx context.Context, p *Peer, service string, m *message) (proto.Message, error) {
	var req agent.SyncRequest
	if err := m.countFields(); err != nil {
		return nil, invalidMessage(err)
	}
	if err := m.decode(&req); err != nil {
		return nil, invalidMessage(err)
	}
	if id := req.GetKubernetesClusterId(); id != "" {
		if err := r.mayReport(ctx, p, id); err != nil {
			return nil, err
		}
	}
	resp, err := r.elect(ctx, p, &req)
	if err != nil || service == protocol.AgentService {
		return resp, err
	}
	old := &trident.SyncResponse{Status: trident.Status(resp.GetStatus()).Enum()}
	if c := resp.GetDynamicConfig(); c != nil {
		old.Config = &trident.Config{Enabled: c.Enabled, KubernetesApiEnabled: c.KubernetesApiEnabled, VtapId: c.AgentId} //nolint:protogetter // unset stays unset
	}
	return old, nil
}

// elect asks the elector, unless the agent's team is not known: then the answer is FAILED without a decision, as from
// deepflow-server. Such an agent must not get a role in which its reports would be refused.
func (r *Receiver) elect(ctx context.Context, p *Peer, req *agent.SyncRequest) (*agent.SyncResponse, error) {
	if ref := r.opts.Access.team(req.GetTeamId()); ref != nil {
		p.cluster = clip(req.GetKubernetesClusterId())
		_ = r.refuse(ctx, p, ref) // which only counts and records it here
		return &agent.SyncResponse{Status: agent.Status_FAILED.Enum()}, nil
	}
	return r.opts.Elector.Sync(ctx, p.Address, req)
}

func invalidMessage(err error) *refusal {
	return invalid(ruleProtobuf, "send the messages of docs/protocol.md, section 1", "the request is not a valid message: %v", err)
}
