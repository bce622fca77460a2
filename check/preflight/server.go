package preflight

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// probeAgentID is any nonzero id: servers do not validate it, and answer a probe only to nonzero ones.
const probeAgentID = 0x70000000

// probeVersion is a version that no sender uses for content, so that a server answers with its own and stores nothing
// (docs/protocol.md, section 3).
const probeVersion = 1

// checkServer looks at one server step by step, and stops at the first that fails.
func checkServer(ctx context.Context, o *Options, address string) Server {
	s := Server{Address: address, Verdict: Problem}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		s.What, s.Advice = err.Error(), "write the server as host:port, usually port 30035 from outside its cluster and 20035 inside"
		return s
	}
	if s.IPs, err = resolve(ctx, o.ConnectTimeout, host); err != nil {
		s.What = "the name does not resolve: " + err.Error()
		s.Advice = "check the spelling of server.addresses and the DNS of this host; an IP address works too"
		return s
	}
	ip, err := dial(ctx, o.ConnectTimeout, s.IPs, port)
	if err != nil {
		s.What, s.Advice = explainDial(err)
		return s
	}
	opts := []grpc.DialOption{grpc.WithNoProxy(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(address)}
	if o.TLS != nil {
		cfg := o.TLS.Clone()
		if cfg.ServerName == "" {
			cfg.ServerName = host
		}
		if s.TLS, err = handshake(ctx, o.ConnectTimeout, net.JoinHostPort(ip, port), cfg); err != nil {
			s.What, s.Advice = explainTLS(err, cfg.ServerName)
			return s
		}
		opts = []grpc.DialOption{grpc.WithNoProxy(), grpc.WithTransportCredentials(credentials.NewTLS(cfg))}
		if o.Token != nil {
			opts = append(opts, grpc.WithPerRPCCredentials(o.Token))
		}
	}
	call(ctx, o, net.JoinHostPort(ip, port), opts, &s)
	return s
}

func resolve(ctx context.Context, timeout time.Duration, host string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return net.DefaultResolver.LookupHost(ctx, host)
}

// dial returns the first of the addresses that can be connected to.
func dial(ctx context.Context, timeout time.Duration, ips []string, port string) (string, error) {
	var errs []error
	for _, ip := range ips {
		d := net.Dialer{Timeout: timeout}
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(ip, port))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		_ = conn.Close() // nothing was written
		return ip, nil
	}
	return "", errors.Join(errs...)
}

func explainDial(err error) (what, advice string) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		advice = "the host answers, but nothing listens on that port: 30035 is the NodePort of deepflow-server, 20035 its port inside the cluster"
	case isTimeout(err):
		advice = "no answer: check firewalls, security groups and NetworkPolicies between here and the server"
	default:
		advice = "check that the server's host can be reached from here"
	}
	return "cannot connect: " + strings.ReplaceAll(err.Error(), "\n", "; "), advice
}

func handshake(ctx context.Context, timeout time.Duration, address string, cfg *tls.Config) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	d := tls.Dialer{Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // nothing was written
	tc, ok := conn.(*tls.Conn)
	if !ok {
		return "", errors.New("not a TLS connection")
	}
	st := tc.ConnectionState()
	if st.NegotiatedProtocol != "h2" && protocol.ALPNEnforced() {
		return "", protocol.ErrNoALPN
	}
	name := ""
	if len(st.PeerCertificates) > 0 {
		name = ", " + st.PeerCertificates[0].Subject.String()
	}
	return tls.VersionName(st.Version) + name, nil
}

func explainTLS(err error, serverName string) (what, advice string) {
	var unknownCA x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.Is(err, protocol.ErrNoALPN):
		return protocol.NoALPN, protocol.NoALPNAdvice
	case errors.As(err, &unknownCA):
		advice = "set server.tls.ca_file to the CA that signed the server's certificate"
	case errors.As(err, &host):
		advice = fmt.Sprintf("the certificate is not for %q: set server.tls.server_name to a name in it", serverName)
	case errors.As(err, &invalid):
		advice = "renew the server's certificate, or check this host's clock"
	case errors.As(err, &record):
		advice = "the server does not speak TLS on this port: set server.tls.enabled to false, or use its TLS port"
	case errors.As(err, &alert):
		advice = "the server refuses this client: it may ask for a certificate, set server.tls.cert_file and key_file"
	default:
		advice = "the server may speak no TLS, or another version of it: compare with `openssl s_client -connect`"
	}
	return "TLS fails: " + err.Error(), advice
}

// call asks each service in turn what version it holds of the cluster.
func call(ctx context.Context, o *Options, target string, opts []grpc.DialOption, s *Server) {
	conn, err := grpc.NewClient("passthrough:///"+target, opts...)
	if err != nil {
		s.What, s.Advice = err.Error(), "report this as a bug of pseudo-agent"
		return
	}
	defer func() { _ = conn.Close() }() // nothing is under way
	services := map[string][]string{"agent": {protocol.AgentService}, "trident": {protocol.TridentService}}[o.Service]
	if services == nil {
		services = []string{protocol.AgentService, protocol.TridentService}
	}
	for _, service := range services {
		version, err := probe(ctx, o, conn, service)
		switch {
		case status.Code(err) == codes.Unimplemented:
			continue
		case err != nil:
			s.What, s.Advice = explainCall(err, o.TLS != nil)
			return
		}
		s.Service, s.Version = service, version
		s.Verdict, s.What = OK, "answers as "+service
		switch {
		case o.ClusterID == "":
			s.What += "; it will be asked for the cluster id, because cluster_id is not set"
		case version == 0:
			s.What += fmt.Sprintf("; it holds no report of cluster %s", o.ClusterID)
			s.Advice = "normal before the first report and after a restart of the server"
		default:
			s.What += fmt.Sprintf("; it holds version %d of cluster %s", version, o.ClusterID)
		}
		return
	}
	s.What = "does not know " + strings.Join(services, " nor ")
	s.Advice = "check that this is deepflow-server's gRPC port"
	if len(services) == 1 {
		s.Advice = "set server.service to auto: releases before 6.6.8 know trident.Synchronizer only, those since 7.0.2 agent.Synchronizer only"
	}
}

// probe returns the version that the server holds, 0 if none or without a cluster id. Nothing of it is stored by any
// server.
func probe(ctx context.Context, o *Options, conn *grpc.ClientConn, service string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, o.RequestTimeout)
	defer cancel()
	req := &agent.KubernetesAPISyncRequest{Version: proto.Uint64(0)}
	if o.ClusterID != "" {
		req.ClusterId, req.Version, req.AgentId = &o.ClusterID, proto.Uint64(probeVersion), proto.Uint32(probeAgentID)
		if o.TeamID != "" {
			req.TeamId = &o.TeamID
		}
	}
	var resp agent.KubernetesAPISyncResponse
	err := conn.Invoke(ctx, "/"+service+"/"+protocol.MethodKubernetesAPISync, req, &resp)
	return resp.GetVersion(), err
}

func explainCall(err error, overTLS bool) (what, advice string) {
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		advice = "it accepts connections but does not answer: check that it is a deepflow-server and not overloaded"
	case codes.Unavailable:
		advice = "something else than gRPC answers there: check the port (30035 or 20035)"
		if !overTLS {
			advice += "; a server that wants TLS looks like this too, see server.tls"
		}
	case codes.Unauthenticated, codes.PermissionDenied:
		advice = "the server, or a proxy before it, asks for credentials: see server.tls.cert_file and server.token_file"
	default:
		advice = "see the server's log"
	}
	return "gRPC fails: " + status.Convert(err).Message(), advice
}
