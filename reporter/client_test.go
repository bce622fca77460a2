package reporter

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/faultserver"
	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// serve runs a fault server on loopback and returns its address.
func serve(t testing.TB, s *faultserver.Server, options ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(append([]grpc.ServerOption{grpc.MaxRecvMsgSize(256 << 20)}, options...)...)
	s.Register(g)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	t.Cleanup(func() {
		g.Stop()
		<-done
	})
	return l.Addr().String()
}

// connectTo opens a session with the options' first server; it ends with the test.
func connectTo(t testing.TB, opts Options) (session, error) {
	t.Helper()
	opts.Source = newSource(nil)
	opts.Host = "pod-1"
	if opts.ConnectTimeout == 0 {
		opts.ConnectTimeout = 5 * time.Second
	}
	if err := opts.complete(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), opts.ConnectTimeout)
	defer cancel()
	s, err := newClient(&opts).connect(ctx)
	if err == nil {
		t.Cleanup(s.close)
	}
	return s, err
}

func mustConnect(t testing.TB, opts Options) session {
	t.Helper()
	s, err := connectTo(t, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testReport(src *testSource) *report {
	return &report{clusterID: testCluster, teamID: "team", agentID: 7, version: 5, entries: src.Fold.Take()}
}

func TestServiceIsFoundOut(t *testing.T) {
	for _, c := range []struct {
		name               string
		noAgent, noTrident bool
		service            string
		want               string // service, or the cause of the failure
	}{
		{"both", false, false, "auto", protocol.AgentService},
		{"old server", true, false, "auto", protocol.TridentService},
		{"new server", false, true, "auto", protocol.AgentService},
		{"neither", true, true, "auto", causeUnknownCall},
		{"old server, agent wanted", true, false, "agent", causeUnknownCall},
		{"both, trident wanted", false, false, "trident", protocol.TridentService},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &faultserver.Server{NoAgent: c.noAgent, NoTrident: c.noTrident}
			s := mustConnect(t, Options{Addresses: []string{serve(t, f)}, Service: c.service})
			src := newSource(nil)
			seedContent(src)
			version, err := s.report(t.Context(), testReport(src))
			got := s.peer().service
			if err != nil {
				got = causeOf(err)
			}
			if got != c.want {
				t.Fatalf("got %s (%v), want %s", got, err, c.want)
			}
			if err != nil {
				return
			}
			if version != 5 || wireOf(f.Held(testCluster).Entries) != wireOfSnapshot(src.Fold.Take()) {
				t.Errorf("got version %d and %d entries, want 5 and the whole content", version, len(f.Held(testCluster).Entries))
			}
			if _, err := s.sync(t.Context(), claim{clusterID: testCluster}); err != nil {
				t.Errorf("Sync: got %v, want no error", err)
			}
			if id, err := s.clusterID(t.Context(), "0123456789abcdef"); id != "d-0123456789" || err != nil {
				t.Errorf("GetKubernetesClusterID: got %q, %v, want d-0123456789", id, err)
			}
		})
	}
}

func TestAServerThatChangesItsServiceIsFollowed(t *testing.T) {
	f := &faultserver.Server{}
	var mu sync.Mutex
	var calls []string
	gone := ""
	s := mustConnect(t, Options{Addresses: []string{serve(t, f, grpc.UnaryInterceptor(
		func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, strings.Split(info.FullMethod, ".")[0])
			if strings.HasPrefix(info.FullMethod, gone) && gone != "" {
				return nil, status.Error(codes.Unimplemented, "gone")
			}
			return h(ctx, req)
		}))}})
	for _, g := range []string{"/agent", "", "/trident", ""} {
		mu.Lock()
		gone = g
		mu.Unlock()
		if _, err := s.report(t.Context(), &report{clusterID: "c", agentID: 1, version: 1}); err != nil {
			t.Errorf("without %s: %v", g, err)
		}
	}
	want := []string{"/agent", "/trident", "/trident", "/trident", "/agent", "/agent"}
	if !slices.Equal(calls, want) {
		t.Errorf("got calls %v, want %v", calls, want)
	}
}

func TestHeaderAndSync(t *testing.T) {
	var header *agent.KubernetesAPISyncRequest
	var sync *agent.SyncRequest
	var goodbye, clusters []string
	f := &faultserver.Server{
		Seen: func(r *agent.KubernetesAPISyncRequest) { header = r },
		SeenContext: func(ctx context.Context) {
			md, _ := metadata.FromIncomingContext(ctx)
			clusters = append(clusters, md.Get(protocol.ClusterHeader)...)
		},
		OnSync: func(ctx context.Context, r *agent.SyncRequest) (*agent.SyncResponse, error) {
			sync = r
			md, _ := metadata.FromIncomingContext(ctx)
			goodbye = md.Get(protocol.GoodbyeHeader)
			clusters = append(clusters, md.Get(protocol.ClusterHeader)...)
			_ = grpc.SetHeader(ctx, metadata.Pairs(protocol.ServerHeader, "1.0"))
			a := syncAnswerOf(true)
			a.UserConfig = new("inputs: {}")
			return a, nil
		},
	}
	s := mustConnect(t, Options{
		Addresses: []string{serve(t, f)}, TeamID: "team", ClusterName: "name", AgentGroupID: "g-1", Revision: "v1",
	})
	if _, err := s.report(t.Context(), &report{clusterID: "c", teamID: "team", agentID: 7, version: 3, errorMsg: "boom"}); err != nil {
		t.Fatal(err)
	}
	want := &agent.KubernetesAPISyncRequest{
		ClusterId: new("c"), TeamId: new("team"), AgentId: proto.Uint32(7), Version: proto.Uint64(3),
		ErrorMsg: new("boom"), SourceIp: new("127.0.0.1"),
	}
	if !proto.Equal(header, want) {
		t.Errorf("got request %v, want %v", header, want)
	}
	if s.pseudoServer() {
		t.Error("got a pseudo-server before it said so")
	}
	answer, err := s.sync(t.Context(), claim{
		clusterID: "c", ctrlMAC: "02:00:00:00:00:01", policy: agent.KubernetesWatchPolicy_KWP_WATCH_ONLY, force: true, goodbye: true,
	})
	if err != nil || !answer.watch || answer.userConfig == nil || *answer.userConfig != "inputs: {}" {
		t.Errorf("got answer %+v, %v, want watch and the group's configuration", answer, err)
	}
	wantSync := &agent.SyncRequest{
		BootTime: sync.BootTime, Revision: new("v1"), ProcessName: new("pseudo-agent"),
		CtrlIp: new("127.0.0.1"), Host: new("pod-1"), HostIps: []string{"127.0.0.1"},
		CtrlMac: new("02:00:00:00:00:01"), AgentGroupIdRequest: new("g-1"), KubernetesForceWatch: new(true),
		TeamId: new("team"), KubernetesWatchPolicy: agent.KubernetesWatchPolicy_KWP_WATCH_ONLY.Enum(),
		KubernetesClusterId: new("c"), KubernetesClusterName: new("name"),
	}
	if !proto.Equal(sync, wantSync) {
		t.Errorf("got Sync %v, want %v", sync, wantSync)
	}
	if len(goodbye) != 1 || !s.pseudoServer() {
		t.Errorf("got goodbye %v, pseudo-server %v, want both", goodbye, s.pseudoServer())
	}
	if !slices.Equal(clusters, []string{"c", "c"}) {
		t.Errorf("got the clusters %q told to load balancers, want c by the report and by the Sync", clusters)
	}
}

func TestSourceIPCanBeConfigured(t *testing.T) {
	s := mustConnect(t, Options{Addresses: []string{serve(t, &faultserver.Server{})}, SourceIP: "192.0.2.1"})
	if got := s.peer().sourceIP; got != "192.0.2.1" {
		t.Errorf("got source IP %s, want 192.0.2.1", got)
	}
}

func TestALostConnectionIsNoticed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	(&faultserver.Server{}).Register(g)
	go func() { _ = g.Serve(l) }()
	s := mustConnect(t, Options{Addresses: []string{l.Addr().String()}})
	g.Stop()
	<-s.lost()
	if _, err := s.report(t.Context(), &report{clusterID: "c", version: 1, agentID: 1}); causeOf(err) != causeUnavailable {
		t.Errorf("got %v, want unavailable: a session does not reconnect", err)
	}
}

func TestConnectFailures(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	plain := serve(t, &faultserver.Server{})
	ca := newCA(t)
	encrypted := serve(t, &faultserver.Server{}, grpc.Creds(ca.server(t, "deepflow", nil)))
	for _, c := range []struct {
		name, address string
		tls           *TLS
		cause, text   string
	}{
		{"TLS without ALPN", ca.withoutALPN(t), &TLS{CAFile: ca.file, ServerName: "deepflow"}, causeTLS, "GRPC_ENFORCE_ALPN_ENABLED=false"},
		{"refused", closed.Addr().String(), nil, causeConnect, "connection refused"},
		{"silent", silent.Addr().String(), nil, causeConnect, "no HTTP/2 server"},
		{"unknown name", "no-such-host.invalid:1", nil, causeResolve, "no-such-host.invalid"},
		{"TLS to a plain server", plain, &TLS{CAFile: ca.file}, causeTLS, "TLS handshake"},
		{"plain to a TLS server", encrypted, nil, causeConnect, "no HTTP/2 server"},
		{"unknown CA", encrypted, &TLS{ServerName: "deepflow"}, causeTLS, "certificate"},
		{"other name", encrypted, &TLS{CAFile: ca.file}, causeTLS, "127.0.0.1"},
		{"no CA file", encrypted, &TLS{CAFile: "/nonexistent"}, causeTLS, "server.tls.ca_file"},
		{"CA file without certificate", encrypted, &TLS{CAFile: ca.keyFile}, causeTLS, "no PEM certificate"},
		{"certificate without key", encrypted, &TLS{CAFile: ca.file, CertFile: "x"}, causeTLS, "go together"},
	} {
		t.Run(c.name, func(t *testing.T) {
			timeout := time.Minute
			if c.name == "silent" {
				timeout = 300 * time.Millisecond
			}
			_, err := connectTo(t, Options{Addresses: []string{c.address}, TLS: c.tls, ConnectTimeout: timeout})
			if err == nil {
				t.Fatal("got a connection, want an error")
			}
			if got := causeOf(err); got != c.cause || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %s: %v, want %s with %q", got, err, c.cause, c.text)
			}
		})
	}
	if _, err := connectTo(t, Options{Addresses: []string{encrypted}, TLS: &TLS{CAFile: ca.file, ServerName: "deepflow"}}); err != nil {
		t.Errorf("right CA and name: got %v, want a connection", err)
	}
}

// TestRotatedFilesAreUsed connects with a client certificate, rotates all files to those of another CA, and connects to
// a server of that one.
func TestRotatedFilesAreUsed(t *testing.T) {
	old, next := newCA(t), newCA(t)
	one := serve(t, &faultserver.Server{}, grpc.Creds(old.server(t, "deepflow", old)))
	two := serve(t, &faultserver.Server{}, grpc.Creds(next.server(t, "deepflow", next)))
	dir := t.TempDir()
	files := &TLS{
		CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), ServerName: "deepflow",
	}
	rotate := func(ca *testCA) {
		cert, key := ca.issue(t, "agent")
		for file, content := range map[string][]byte{files.CAFile: ca.pem, files.CertFile: cert, files.KeyFile: key} {
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	opts := Options{Addresses: []string{one, two}, TLS: files, Source: newSource(nil), Host: "h"}
	if err := opts.complete(); err != nil {
		t.Fatal(err)
	}
	c := newClient(&opts)
	use := func(what string, want bool) {
		t.Helper()
		s, err := c.connect(t.Context())
		if err == nil {
			defer s.close()
			_, err = s.report(t.Context(), &report{clusterID: "c", version: 1, agentID: 1})
		}
		if (err == nil) != want {
			t.Errorf("%s: got %v, want success %v", what, err, want)
		}
	}
	rotate(old)
	use("old files, old server", true)
	rotate(next)
	use("new files, old server", false)
	c.next()
	use("new files, new server", true)
	rotate(old)
	use("old files, new server", false)
}

// TestTokenIsReadForEachRequest rotates the token between two requests of one connection.
func TestTokenIsReadForEachRequest(t *testing.T) {
	ca := newCA(t)
	var got []string
	note := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		got = append(got, md.Get("authorization")...)
		return handler(ctx, req)
	}
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	cert, key := ca.issue(t, "agent")
	s := mustConnect(t, Options{
		Addresses: []string{serve(t, &faultserver.Server{}, grpc.Creds(ca.server(t, "deepflow", ca)), grpc.UnaryInterceptor(note))},
		TLS: &TLS{
			CAFile: write("ca.pem", ca.pem), CertFile: write("tls.crt", cert), KeyFile: write("tls.key", key), ServerName: "deepflow",
		},
		TokenFile: write("token", []byte("one\n")),
	})
	for _, next := range []string{"two", "three"} {
		if _, err := s.report(t.Context(), &report{clusterID: "c", version: 1, agentID: 1}); err != nil {
			t.Fatal(err)
		}
		write("token", []byte(next))
	}
	if want := []string{"Bearer one", "Bearer two"}; !slices.Equal(got, want) {
		t.Errorf("got authorizations %q, want %q", got, want)
	}
	opts := Options{Addresses: []string{"h:1"}, TokenFile: "token", Source: newSource(nil), Host: "h"}
	if err := opts.complete(); err == nil {
		t.Error("a token without TLS: got no error, want one")
	}
}

func TestAddressesOfANameAreTriedInTurn(t *testing.T) {
	names := map[string][]string{"a": {"10.0.0.2", "10.0.0.1"}, "b": {"10.0.1.1"}}
	opts := Options{Addresses: []string{"a:1", "b:2", "[::1]:3"}, Source: newSource(nil), Host: "h"}
	if err := opts.complete(); err != nil {
		t.Fatal(err)
	}
	c := newClient(&opts)
	broken := map[string]bool{}
	c.lookup = func(_ context.Context, host string) ([]string, error) {
		if broken[host] {
			return nil, fmt.Errorf("no such host %s", host)
		}
		return slices.Clone(names[host]), nil
	}
	target := func() string {
		_, a, err := c.target(t.Context())
		if err != nil {
			return "error"
		}
		return a
	}
	for i, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, "10.0.0.1:1"},
		{func() {}, "10.0.0.1:1"},
		{func() { names["a"] = []string{"10.0.0.3", "10.0.0.1", "10.0.0.2"} }, "10.0.0.1:1"},
		{c.next, "10.0.0.2:1"},
		{func() { names["a"] = []string{"10.0.0.3"} }, "10.0.0.3:1"},
		{c.next, "10.0.1.1:2"},
		{func() { broken["b"] = true }, "error"},
		{c.next, "[::1]:3"},
		{c.next, "10.0.0.3:1"},
		{func() { names["a"] = nil; c.next() }, "error"},
	} {
		step.do()
		if got := target(); got != step.want {
			t.Errorf("step %d: got %s, want %s", i, got, step.want)
		}
	}
}

// testCA signs certificates for tests.
type testCA struct {
	cert          *x509.Certificate
	key           *ecdsa.PrivateKey
	pem           []byte
	file, keyFile string
}

var serial int64

func newCA(t *testing.T) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: fmt.Sprint("ca ", serial)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	ca.file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca.file, ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	_, keyPEM := ca.issue(t, "x")
	ca.keyFile = ca.file + ".key"
	if err := os.WriteFile(ca.keyFile, keyPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	return ca
}

// issue returns a certificate and its key as PEM.
func (c *testCA) issue(t *testing.T, name string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, &key.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// server returns credentials for name; clients, if given, must have signed the client's certificate.
func (c *testCA) server(t *testing.T, name string, clients *testCA) credentials.TransportCredentials {
	t.Helper()
	certPEM, keyPEM := c.issue(t, name)
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if clients != nil {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
		cfg.ClientCAs = x509.NewCertPool()
		cfg.ClientCAs.AddCert(clients.cert)
	}
	return credentials.NewTLS(cfg)
}

// withoutALPN is a server whose TLS ends in something that knows nothing of HTTP/2, as a balancer of type TCP.
func (c *testCA) withoutALPN(t *testing.T) string {
	t.Helper()
	certPEM, keyPEM := c.issue(t, "deepflow")
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			served.Go(func() { _, _ = io.Copy(io.Discard, conn); _ = conn.Close() })
		}
	})
	t.Cleanup(func() { _ = lis.Close(); served.Wait() })
	return lis.Addr().String()
}
