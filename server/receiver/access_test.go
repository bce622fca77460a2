package receiver_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns certificate and key in PEM for a name, valid until an hour from now plus shift.
func (a *authority) issue(t *testing.T, name string, shift time.Duration) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(time.Hour + shift),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	rawKey, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: rawKey})
}

func (a *authority) pair(t *testing.T, name string, shift time.Duration) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(a.issue(t, name, shift))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func write(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// lockedBuffer is a log that a test reads while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// refusals returns the counter of a rule.
func refusals(t *testing.T, reg *prometheus.Registry, rule string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "pseudo_server_refusals_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == rule {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no counter of rule %s", rule)
	return 0
}

// TestSenders reports with right, wrong, expired and foreign certificates and tokens.
func TestSenders(t *testing.T) {
	dir := t.TempDir()
	ca, foreign := newAuthority(t), newAuthority(t)
	serverCert, serverKey := ca.issue(t, "server", 0)
	log := slog.New(slog.DiscardHandler)
	tokenFor := func(name, secret string) *receiver.Token {
		token, err := receiver.NewToken(log, write(t, dir, name, []byte(secret+"\n")))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	const secretA, secretB, secretUser = "token-of-cluster-a-123", "token-of-cluster-b-456", "token-of-a-user-789"
	var audit lockedBuffer
	reg := prometheus.NewRegistry()
	recv := receiver.New(receiver.Options{
		Store: store.New(store.NewMemory(), store.Options{}), Logger: log, Audit: slog.New(slog.NewTextHandler(&audit, nil)), Registerer: reg,
		Access: receiver.Access{OnlyBound: true, Users: []receiver.APIUser{{Name: "admin", Role: receiver.RoleAdminister, Token: tokenFor("user", secretUser)}}, Clusters: map[string]receiver.Binding{
			"d-a": {CertificateNames: []string{"agent-a"}, Token: tokenFor("a", secretA)},
			"d-b": {CertificateNames: []string{"agent-b"}, Token: tokenFor("b", secretB)},
		}},
	})
	cfg, err := receiver.ServerTLS(log, receiver.TLSFiles{
		CertFile: write(t, dir, "server.pem", serverCert), KeyFile: write(t, dir, "server.key", serverKey),
		ClientCAFile: write(t, dir, "ca.pem", ca.pem),
	}, "h2")
	if err != nil {
		t.Fatal(err)
	}
	address := serveGRPC(t, recv, recv.Credentials(cfg))
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)

	a, b := "Bearer "+secretA, "Bearer "+secretB
	certificate := func(by *authority, name string, shift time.Duration) *tls.Certificate {
		return new(by.pair(t, name, shift))
	}
	own, err := tls.X509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what          string
		cert          *tls.Certificate
		authorization []string
		cluster       string
		code          codes.Code
		rule          string
	}{
		{"right certificate", certificate(ca, "agent-a", 0), nil, "d-a", codes.OK, ""},
		{"right token", nil, []string{b}, "d-b", codes.OK, ""},
		{"right token in lower case", nil, []string{"bearer " + secretB}, "d-b", codes.OK, ""},
		{"right certificate, another cluster's token", certificate(ca, "agent-a", 0), []string{b}, "d-a", codes.OK, ""},
		{"certificate of another cluster", certificate(ca, "agent-a", 0), nil, "d-b", codes.PermissionDenied, "access"},
		{"token of another cluster", nil, []string{a}, "d-b", codes.PermissionDenied, "access"},
		{"unknown token", nil, []string{"Bearer no-such-token-at-all"}, "d-a", codes.PermissionDenied, "access"},
		{"empty token", nil, []string{"Bearer "}, "d-a", codes.Unauthenticated, "access"},
		{"token without a scheme", nil, []string{secretA}, "d-a", codes.Unauthenticated, "access"},
		{"token of a user of the API", nil, []string{"Bearer " + secretUser}, "d-a", codes.PermissionDenied, "access"},
		{"two headers, the second one right", nil, []string{a, b}, "d-b", codes.PermissionDenied, "access"},
		{"two tokens in a header", nil, []string{a + ", " + b}, "d-b", codes.PermissionDenied, "access"},
		{"nothing at all", nil, nil, "d-a", codes.Unauthenticated, "access"},
		{"certificate of a name that is not bound", certificate(ca, "stranger", 0), nil, "d-a", codes.PermissionDenied, "access"},
		{"certificate of the server", &own, nil, "d-a", codes.PermissionDenied, "access"},
		{"cluster that is not bound", certificate(ca, "agent-a", 0), nil, "d-c", codes.PermissionDenied, "access"},
		{"cluster in upper case", certificate(ca, "agent-a", 0), nil, "D-A", codes.PermissionDenied, "access"},
		{"expired certificate", certificate(ca, "agent-a", -2*time.Hour), nil, "d-a", codes.Unavailable, "tls"},
		{"certificate of another CA", certificate(foreign, "agent-a", 0), nil, "d-a", codes.Unavailable, "tls"},
	} {
		before := 0.0
		if c.rule != "" {
			before = refusals(t, reg, c.rule)
		}
		err := reportWith(t, address, credentials.NewTLS(clientTLS(roots, c.cert)), c.authorization, c.cluster)
		if status.Code(err) != c.code {
			t.Errorf("%s: got %v, want %s", c.what, err, c.code)
		}
		if c.rule == "" {
			continue
		}
		// Of a handshake that fails the client may know before the server has counted it.
		for range 3000 {
			if refusals(t, reg, c.rule) > before && strings.Contains(audit.String(), "rule="+c.rule) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := refusals(t, reg, c.rule); got <= before {
			t.Errorf("%s: got %v refusals by rule %s, want more than %v", c.what, got, c.rule, before)
		}
		if !strings.Contains(audit.String(), "rule="+c.rule) {
			t.Errorf("%s: the audit log has no refusal by rule %s:\n%s", c.what, c.rule, audit.String())
		}
	}
	// Who speaks no TLS gets no answer at all.
	if err := reportWith(t, address, insecure.NewCredentials(), []string{a}, "d-a"); status.Code(err) != codes.Unavailable {
		t.Errorf("plain text: got %v, want Unavailable", err)
	}
	for _, secret := range []string{secretA, secretB, secretUser, "no-such-token-at-all"} {
		if strings.Contains(audit.String(), secret) {
			t.Errorf("the audit log contains the token %q", secret)
		}
	}
}

func serveGRPC(t testing.TB, recv *receiver.Receiver, creds credentials.TransportCredentials) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := recv.NewGRPCServer(creds)
	done := make(chan error, 1)
	go func() { done <- server.Serve(recv.LimitConnections(l)) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

// clientTLS shows the certificate even if it is not signed by one of the authorities that the server asks for.
func clientTLS(roots *x509.CertPool, cert *tls.Certificate) *tls.Config {
	cfg := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return cfg
}

func reportWith(t *testing.T, address string, creds credentials.TransportCredentials, authorization []string, cluster string) error {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ctx = metadata.NewOutgoingContext(ctx, metadata.MD{"authorization": authorization})
	_, err = agent.NewSynchronizerClient(conn).KubernetesAPISync(ctx, &agent.KubernetesAPISyncRequest{
		ClusterId: new(cluster), Version: proto.Uint64(1), AgentId: proto.Uint32(1),
		Entries: []*agent.KubernetesAPIInfo{versionEntry(t)},
	})
	return err
}

// TestAPIAccess asks the API with every kind of authorisation for reading and for administering.
func TestAPIAccess(t *testing.T) {
	dir := t.TempDir()
	var audit lockedBuffer
	log := slog.New(slog.DiscardHandler)
	user := func(name string, role receiver.Role) receiver.APIUser {
		token, err := receiver.NewToken(log, write(t, dir, name, []byte("secret-of-"+name+"-0123")))
		if err != nil {
			t.Fatal(err)
		}
		return receiver.APIUser{Name: name, Role: role, Token: token}
	}
	for _, anonymous := range []receiver.Role{receiver.RoleNone, receiver.RoleRead, receiver.RoleAdminister} {
		recv := receiver.New(receiver.Options{
			Store: store.New(store.NewMemory(), store.Options{}), Logger: log, Audit: slog.New(slog.NewTextHandler(&audit, nil)),
			Access: receiver.Access{Anonymous: anonymous, Hosts: []string{"example.com"}, Users: []receiver.APIUser{user("reader", receiver.RoleRead), user("admin", receiver.RoleAdminister)}},
		})
		api := recv.API()
		for _, c := range []struct {
			who              string
			header           string
			read, administer int
		}{
			{"reader", "Bearer secret-of-reader-0123", 200, 403},
			{"admin", "bearer secret-of-admin-0123", 200, 404},
			{"wrong token", "Bearer secret-of-nobody-0123", 401, 401},
			{"empty token", "Bearer ", 401, 401},
			{"another scheme", "Basic c2VjcmV0", 401, 401},
			{
				"nobody", "",
				map[receiver.Role]int{receiver.RoleNone: 401, receiver.RoleRead: 200, receiver.RoleAdminister: 200}[anonymous],
				map[receiver.Role]int{receiver.RoleNone: 401, receiver.RoleRead: 401, receiver.RoleAdminister: 404}[anonymous],
			},
		} {
			for _, route := range recv.Routes() {
				path := receiver.APIPrefix + strings.ReplaceAll(route.Path, "{cluster}", "d-none")
				req := httptest.NewRequest(route.Method, path, nil)
				if c.header != "" {
					req.Header.Set("Authorization", c.header)
				}
				w := httptest.NewRecorder()
				api.ServeHTTP(w, req)
				want := c.read
				if route.Role == receiver.RoleAdminister {
					want = c.administer
				}
				if want == http.StatusOK && strings.Contains(route.Path, "{cluster}") {
					want = http.StatusNotFound
				}
				if w.Code != want {
					t.Errorf("%s, anonymous %v: %s %s: got %d, want %d: %s", c.who, anonymous, route.Method, path, w.Code, want, w.Body)
				}
			}
		}
	}
	if !strings.Contains(audit.String(), "user=admin") || !strings.Contains(audit.String(), "audit=refusal") {
		t.Errorf("the audit log lacks administration or refusals:\n%s", audit.String())
	}
	// A page of somebody else must not use an anonymous administrator's browser.
	recv := receiver.New(receiver.Options{
		Store: store.New(store.NewMemory(), store.Options{}), Logger: log, Access: receiver.Access{Anonymous: receiver.RoleAdminister, Hosts: []string{"example.com"}},
	})
	req := httptest.NewRequest(http.MethodPost, receiver.APIPrefix+"/clusters/d-a/suspicion/accept", nil)
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	recv.API().ServeHTTP(w, req)
	if w.Code != http.StatusForbidden {
		t.Errorf("cross-site request: got %d, want 403", w.Code)
	}
}
