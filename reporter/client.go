package reporter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/protocol/trident"
)

// client is the transport over gRPC. It keeps to one address of one server until next is called.
type client struct {
	opts    *Options
	codec   codec
	boot    uint32
	lookup  func(ctx context.Context, host string) ([]string, error)
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	index   int             // of opts.Addresses
	failed  map[string]bool // addresses of the current one that failed
	current string          // address in use, kept as long as the name still has it
}

func newClient(opts *Options) *client {
	return &client{
		opts: opts, codec: newCodec(), boot: uint32(time.Now().Unix()),
		lookup: net.DefaultResolver.LookupHost, dial: opts.Dial, failed: map[string]bool{},
	}
}

// next implements transport.
func (c *client) next() {
	if c.current == "" { // the name itself could not be resolved
		c.nextName()
		return
	}
	c.failed[c.current] = true
	c.current = ""
}

func (c *client) nextName() {
	c.index = (c.index + 1) % len(c.opts.Addresses)
	c.failed = map[string]bool{}
}

// target finds the address to connect to: the one in use, else the first of the current name that did not fail, else the
// first of the next name.
func (c *client) target(ctx context.Context) (host, address string, err error) {
	for range 2 {
		host, port, err := net.SplitHostPort(c.opts.Addresses[c.index])
		if err != nil {
			return "", "", fmt.Errorf("address %q: %w", c.opts.Addresses[c.index], err)
		}
		ips := []string{host}
		if net.ParseIP(host) == nil {
			if ips, err = c.lookup(ctx, host); err != nil {
				c.current = ""
				return "", "", &stageError{causeResolve, fmt.Errorf("resolve %s: %w", host, err)}
			}
		}
		// One server holds a cluster's data, so a name's order, which may change with each query, does not matter.
		slices.Sort(ips)
		if i := slices.IndexFunc(ips, func(ip string) bool { return net.JoinHostPort(ip, port) == c.current }); i >= 0 {
			return host, c.current, nil
		}
		for _, ip := range ips {
			if a := net.JoinHostPort(ip, port); !c.failed[a] {
				c.current = a
				return host, a, nil
			}
		}
		c.nextName()
	}
	return "", "", &stageError{causeResolve, fmt.Errorf("%s has no addresses", c.opts.Addresses[c.index])}
}

// connect implements transport. It returns after the HTTP/2 connection stands, so that its errors are those of
// connecting, and the local address is known before the first request.
func (c *client) connect(ctx context.Context) (session, error) {
	host, address, err := c.target(ctx)
	if err != nil {
		return nil, err
	}
	s := &grpcSession{
		client: c, services: map[string]string{}, gone: make(chan struct{}),
		info: peerInfo{server: c.opts.Addresses[c.index], address: address},
	}
	secure := &handshake{TransportCredentials: insecure.NewCredentials()}
	if c.opts.TLS != nil {
		cfg, err := c.opts.TLS.Config(host)
		if err != nil {
			return nil, &stageError{causeTLS, err}
		}
		secure.TransportCredentials = credentials.NewTLS(cfg)
	}
	var once oneDial
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(secure),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return once.do(func() (net.Conn, error) { return c.dial(ctx, "tcp", address) })
		}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: c.opts.ConnectTimeout}),
		// Longer than the 5 minutes below which servers punish pings; short of that, deadlines and TCP keepalive serve.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 310 * time.Second, Timeout: 20 * time.Second}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithUserAgent(c.opts.ProcessName + "/" + c.opts.Revision),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(c.codec), grpc.MaxCallSendMsgSize(1<<31-1)),
	}
	if c.opts.TokenFile != "" {
		options = append(options, grpc.WithPerRPCCredentials(Token(c.opts.TokenFile)))
	}
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		return nil, fmt.Errorf("set up the connection to %s: %w", address, err)
	}
	s.conn = conn
	conn.Connect()
	for {
		st := conn.GetState()
		if st == connectivity.Ready {
			break
		}
		if st == connectivity.TransientFailure || !conn.WaitForStateChange(ctx, st) {
			err := connectError(ctx, once.err(), secure.err(), c.opts.TLS != nil)
			_ = conn.Close()
			return nil, fmt.Errorf("%s (%s): %w", s.info.server, address, err)
		}
	}
	s.info.sourceIP = c.opts.SourceIP
	if s.info.sourceIP == "" {
		s.info.sourceIP = once.localIP()
	}
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.stopWatch = cancel
	s.watcher.Go(func() {
		if conn.WaitForStateChange(watch, connectivity.Ready) {
			close(s.gone)
		}
	})
	return s, nil
}

func connectError(ctx context.Context, dialErr, tlsErr error, encrypted bool) error {
	switch {
	case tlsErr != nil:
		return &stageError{causeTLS, fmt.Errorf("TLS handshake: %w", tlsErr)}
	case dialErr != nil:
		return &stageError{causeConnect, dialErr}
	case ctx.Err() != nil:
		return &stageError{causeConnect, fmt.Errorf("no HTTP/2 server answered: %w", ctx.Err())}
	case encrypted:
		return &stageError{causeTLS, errors.New("the server closed the connection after the TLS handshake; perhaps it does not accept " +
			"the client certificate, or asks for one")}
	default:
		return &stageError{causeConnect, errors.New("no HTTP/2 server answered; perhaps the server wants TLS")}
	}
}

// handshake keeps the error of a failed handshake, which gRPC itself does not hand out.
type handshake struct {
	credentials.TransportCredentials
	mu   sync.Mutex
	last error
}

// ClientHandshake implements credentials.TransportCredentials.
func (h *handshake) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, conn)
	err = protocol.ExplainHandshake(err)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = err
	return c, info, err
}

func (h *handshake) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// oneDial permits one dial: a session is one TCP connection, because a new one may lead to another server process, about
// which nothing is known.
type oneDial struct {
	mu   sync.Mutex
	done bool
	conn net.Conn
	last error
}

func (d *oneDial) do(dial func() (net.Conn, error)) (net.Conn, error) {
	d.mu.Lock()
	if d.done {
		d.mu.Unlock()
		return nil, errors.New("the connection is gone")
	}
	d.done = true
	d.mu.Unlock()
	conn, err := dial()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn, d.last = conn, err
	return conn, err
}

func (d *oneDial) err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

func (d *oneDial) localIP() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(d.conn.LocalAddr().String())
	if err != nil {
		return ""
	}
	return host
}

// grpcSession is a session over one gRPC connection.
type grpcSession struct {
	client    *client
	conn      *grpc.ClientConn
	gone      chan struct{}
	stopWatch context.CancelFunc
	watcher   sync.WaitGroup

	mu       sync.Mutex
	services map[string]string // method → service that answered it
	info     peerInfo
	pseudo   bool
}

func (s *grpcSession) lost() <-chan struct{} { return s.gone }

func (s *grpcSession) pseudoServer() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pseudo
}

func (s *grpcSession) peer() peerInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.info
}

func (s *grpcSession) close() {
	s.stopWatch()
	_ = s.conn.Close() // it fails only if it is closed already
	s.watcher.Wait()
}

// candidates are the services to try for method: the one that answered, else the newer before the older.
func (s *grpcSession) candidates(method string) []string {
	switch s.client.opts.Service {
	case "agent":
		return []string{protocol.AgentService}
	case "trident":
		return []string{protocol.TridentService}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.services[method] == protocol.TridentService {
		return []string{protocol.TridentService, protocol.AgentService}
	}
	return []string{protocol.AgentService, protocol.TridentService}
}

// invoke calls method of the first service that knows it; response makes the service's own response message.
func (s *grpcSession) invoke(ctx context.Context, method string, request any, response func(service string) any) error {
	var unknown error
	for _, service := range s.candidates(method) {
		var header metadata.MD
		err := s.conn.Invoke(ctx, "/"+service+"/"+method, request, response(service), grpc.Header(&header))
		s.mu.Lock()
		s.pseudo = s.pseudo || len(header.Get(protocol.ServerHeader)) > 0
		if status.Code(err) != codes.Unimplemented {
			if err == nil {
				s.services[method] = service
				if method == protocol.MethodKubernetesAPISync {
					s.info.service = service
				}
			}
			s.mu.Unlock()
			return err
		}
		s.mu.Unlock()
		unknown = err
	}
	return unknown
}

// ofCluster tells load balancers which cluster a call is of.
func ofCluster(ctx context.Context, id string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, protocol.ClusterHeader, id)
}

func (s *grpcSession) report(ctx context.Context, r *report) (uint64, error) {
	h := r.header()
	if ip := s.peer().sourceIP; ip != "" {
		h.SourceIp = &ip
	}
	ctx = ofCluster(ctx, h.GetClusterId())
	var answer agent.KubernetesAPISyncResponse // the same in both services
	err := s.invoke(ctx, protocol.MethodKubernetesAPISync, &message{header: h, entries: r.entries}, func(string) any { return &answer })
	return answer.GetVersion(), err
}

func (s *grpcSession) clusterID(ctx context.Context, caMD5 string) (string, error) {
	o := s.client.opts
	request := &agent.KubernetesClusterIDRequest{CaMd5: &caMD5}
	if o.TeamID != "" {
		request.TeamId = &o.TeamID
	}
	if o.ClusterName != "" {
		request.KubernetesClusterName = &o.ClusterName
	}
	var answer agent.KubernetesClusterIDResponse // the same in both services
	if err := s.invoke(ctx, protocol.MethodGetKubernetesClusterID, request, func(string) any { return &answer }); err != nil {
		return "", err
	}
	if msg := answer.GetErrorMsg(); msg != "" {
		return "", &stageError{causeClusterID, fmt.Errorf("the server refused to derive a cluster id: %s", truncate(msg, 256))}
	}
	return answer.GetClusterId(), nil
}

func (s *grpcSession) sync(ctx context.Context, c claim) (syncAnswer, error) {
	o := s.client.opts
	ip := s.peer().sourceIP
	request := &agent.SyncRequest{ // encodes the same in both services
		BootTime: &s.client.boot, ProcessName: &o.ProcessName, Host: &o.Host, CtrlIp: &ip, CtrlMac: &c.ctrlMAC,
		HostIps: []string{ip}, KubernetesWatchPolicy: &c.policy, KubernetesForceWatch: &c.force, KubernetesClusterId: &c.clusterID,
	}
	for to, v := range map[**string]string{
		&request.Revision: o.Revision, &request.TeamId: o.TeamID, &request.KubernetesClusterName: o.ClusterName,
		&request.AgentGroupIdRequest: o.AgentGroupID,
	} {
		if v != "" {
			*to = &v
		}
	}
	ctx = ofCluster(ctx, c.clusterID)
	if c.goodbye {
		ctx = metadata.AppendToOutgoingContext(ctx, protocol.GoodbyeHeader, "1")
	}
	var a *agent.SyncResponse
	var t *trident.SyncResponse
	err := s.invoke(ctx, protocol.MethodSync, request, func(service string) any {
		if service == protocol.TridentService {
			a, t = nil, &trident.SyncResponse{}
			return t
		}
		a, t = &agent.SyncResponse{}, nil
		return a
	})
	if err != nil {
		return syncAnswer{}, err
	}
	if t != nil {
		return syncAnswer{
			status:  agent.Status(t.GetStatus()),
			decided: t.GetConfig() != nil && t.GetConfig().KubernetesApiEnabled != nil, watch: t.GetConfig().GetKubernetesApiEnabled(),
		}, nil
	}
	return syncAnswer{
		status:  a.GetStatus(),
		decided: a.GetDynamicConfig() != nil && a.GetDynamicConfig().KubernetesApiEnabled != nil,
		watch:   a.GetDynamicConfig().GetKubernetesApiEnabled(), userConfig: a.UserConfig,
	}, nil
}
