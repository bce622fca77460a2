package receiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
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
		grpc.MaxConcurrentStreams(32),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.ReadBufferSize(8 << 10),
		grpc.WriteBufferSize(8 << 10),
		grpc.ConnectionTimeout(20 * time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Minute, Timeout: 20 * time.Second}),
		grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
			ctx, cancel := context.WithTimeout(ctx, l.RequestTimeout)
			context.AfterFunc(ctx, cancel)
			return ctx, nil
		}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(stream)
			_ = stream.SetHeader(metadata.Pairs(protocol.ServerHeader, r.opts.Version))
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
				{StreamName: protocol.MethodKubernetesAPISync, Handler: r.handler(service, protocol.MethodKubernetesAPISync, r.kubernetesAPISync)},
				{StreamName: protocol.MethodGetKubernetesClusterID, Handler: r.handler(service, protocol.MethodGetKubernetesClusterID, r.getKubernetesClusterID)},
				{StreamName: protocol.MethodSync, Handler: r.handler(service, protocol.MethodSync, r.sync)},
			},
		}, r)
	}
	return s
}

func (r *Receiver) handler(service, method string, answer call) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		start := r.now()
		_ = stream.SetHeader(metadata.Pairs(protocol.ServerHeader, r.opts.Version))
		resp, err := r.serve(stream, service, answer)
		if err == nil {
			err = stream.SendMsg(resp)
		}
		r.metrics.requests.WithLabelValues(service, method, status.Code(err).String()).Inc()
		r.metrics.duration.WithLabelValues(method).Observe(r.now().Sub(start).Seconds())
		return err
	}
}

// serve receives and answers a request. The slot and the request's memory are given back before the answer is sent, so
// that a client that does not read holds neither.
func (r *Receiver) serve(stream grpc.ServerStream, service string, answer call) (proto.Message, error) {
	ctx := stream.Context()
	p := peerOf(ctx)
	resp, err := func() (proto.Message, error) {
		if err := r.opts.Access.admit(p); err != nil {
			return nil, err
		}
		if err := r.acquire(ctx); err != nil {
			return nil, err
		}
		defer r.release()
		var m message
		if err := stream.RecvMsg(&m); err != nil {
			return nil, r.receiveError(err)
		}
		defer m.free()
		r.metrics.received.Add(float64(m.data.Len()))
		return answer(ctx, p, service, &m)
	}()
	if err != nil {
		return nil, r.refuse(p, err)
	}
	return resp, nil
}

// receiveError turns what gRPC says about a request that could not be received into a refusal.
func (r *Receiver) receiveError(err error) error {
	switch status.Code(err) {
	case codes.ResourceExhausted:
		return &refusal{
			code: codes.ResourceExhausted, rule: ruleMessageSize, what: status.Convert(err).Message(),
			advice: "report fewer types or raise limits.max_message_size of pseudo-server",
		}
	case codes.DeadlineExceeded:
		return r.timeout("the request was not received", "look at the network between sender and server")
	default:
		return err
	}
}

func (r *Receiver) timeout(what, advice string) *refusal {
	return &refusal{
		code: codes.DeadlineExceeded, rule: ruleTimeout,
		what:   fmt.Sprintf("%s within %s", what, r.opts.Limits.RequestTimeout),
		advice: advice + ", or raise limits.request_timeout of pseudo-server",
	}
}

// acquire waits until the request may be received.
func (r *Receiver) acquire(ctx context.Context) error {
	select {
	case r.slots <- struct{}{}:
		r.metrics.working.Inc()
		return nil
	default:
	}
	r.mu.Lock()
	full := r.waiting >= r.opts.Limits.MaxWaitingRequests
	if !full {
		r.waiting++
	}
	r.mu.Unlock()
	busy := &refusal{
		code: codes.ResourceExhausted, rule: ruleBusy,
		what:   fmt.Sprintf("%d requests are being worked on and others wait", r.opts.Limits.MaxConcurrentRequests),
		advice: "send it again later, or raise limits.max_concurrent_requests or limits.max_waiting_requests of pseudo-server",
	}
	if full {
		return busy
	}
	r.metrics.waiting.Inc()
	defer func() {
		r.metrics.waiting.Dec()
		r.mu.Lock()
		r.waiting--
		r.mu.Unlock()
	}()
	select {
	case r.slots <- struct{}{}:
		r.metrics.working.Inc()
		return nil
	case <-ctx.Done():
		return busy
	}
}

func (r *Receiver) release() {
	r.metrics.working.Dec()
	<-r.slots
}

// refuse counts and records an error and turns it into what the client gets.
func (r *Receiver) refuse(p *Peer, err error) error {
	var ref *refusal
	switch {
	case errors.As(err, &ref):
		r.metrics.refusals.WithLabelValues(string(ref.rule)).Inc()
		r.audit.refused(p, ref)
		return ref
	case errors.Is(err, context.DeadlineExceeded):
		ref = r.timeout("the request was not answered", "send it again later; see whether the storage of pseudo-server hangs (/status)")
		r.metrics.refusals.WithLabelValues(string(ref.rule)).Inc()
		r.audit.refused(p, ref)
		return ref
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the client gave up")
	default:
		if _, ok := status.FromError(err); ok {
			return err
		}
		r.noteStorage(err)
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
func (r *Receiver) getKubernetesClusterID(_ context.Context, p *Peer, _ string, m *message) (proto.Message, error) {
	var req agent.KubernetesClusterIDRequest
	if err := m.decode(&req); err != nil {
		return nil, invalidMessage(err)
	}
	if ref := r.opts.Access.team(req.GetTeamId()); ref != nil {
		return &agent.KubernetesClusterIDResponse{ErrorMsg: new(r.refuse(p, ref).Error())}, nil
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
	if err := m.decode(&req); err != nil {
		return nil, invalidMessage(err)
	}
	if id := req.GetKubernetesClusterId(); id != "" {
		if err := r.mayReport(p, id); err != nil {
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
		_ = r.refuse(p, ref) // which only counts and records it here
		return &agent.SyncResponse{Status: agent.Status_FAILED.Enum()}, nil
	}
	return r.opts.Elector.Sync(ctx, p.Address, req)
}

func invalidMessage(err error) *refusal {
	return invalid(ruleProtobuf, "send the messages of docs/protocol.md, section 1", "the request is not a valid message: %v", err)
}
