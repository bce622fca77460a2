package informers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
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

	"k8s.io/client-go/rest"
)

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{}
	a.pem, _, a.cert, a.key = issue(t, name, nil)
	return a
}

// issue makes a certificate for 127.0.0.1 and its key, signed by the authority or, without one, by itself.
func issue(t *testing.T, name string, by *authority) (certPEM, keyPEM string, cert *x509.Certificate, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        by == nil, BasicConstraintsValid: true,
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	keyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
	return certPEM, keyPEM, cert, key
}

// guarded is an HTTPS server that lets one token and one client in.
type guarded struct {
	*httptest.Server
	mu     sync.Mutex
	cert   tls.Certificate
	token  string
	client string // common name of the client's certificate
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer "+g.token || len(r.TLS.PeerCertificates) != 1 || r.TLS.PeerCertificates[0].Subject.CommonName != g.client {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	g.EnableHTTP2 = true
	g.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	g.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		return &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
			Certificates: []tls.Certificate{g.cert}, ClientAuth: tls.RequestClientCert,
		}, nil
	}}
	t.Cleanup(g.Close)
	return g
}

// accept makes the server show a certificate of the authority and let in only this token and client.
func (g *guarded) accept(t *testing.T, by *authority, token, client string) {
	t.Helper()
	certPEM, keyPEM, _, _ := issue(t, "server", by)
	cert, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cert, g.token, g.client = cert, token, client
}

// TestReplacedFiles: whatever file of the configuration is replaced while the old one has abruptly become invalid, the
// very next request succeeds.
func TestReplacedFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	server := newGuarded(t)
	server.accept(t, first, "t1", "one")
	server.StartTLS()
	clientCert := func(name string) {
		certPEM, keyPEM, _, _ := issue(t, name, first)
		write(t, file("client.crt"), certPEM)
		write(t, file("client.key"), keyPEM)
	}
	write(t, file("ca.crt"), first.pem)
	write(t, file("token"), "t1\n")
	clientCert("one")

	logged := &strings.Builder{}
	cfg := &rest.Config{Host: server.URL, BearerTokenFile: file("token"), TLSClientConfig: rest.TLSClientConfig{
		CAFile: file("ca.crt"), CertFile: file("client.crt"), KeyFile: file("client.key"),
	}}
	c, err := newClient(cfg, nil, newMetrics(nil), slog.New(slog.NewTextHandler(logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	get := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := c.get(ctx, "pods", "/version", "", "application/json", "")
		return err
	}
	want := func(what string, wanted class) {
		t.Helper()
		if err := get(); classify(err) != wanted {
			t.Errorf("%s: got %v, want class %q", what, err, wanted)
		}
	}
	want("at first", classNone)

	server.accept(t, first, "t2", "one")
	want("token revoked", classUnauthorized)
	write(t, file("token"), "t2\n")
	want("token replaced", classNone)

	server.accept(t, first, "t2", "two")
	want("client certificate revoked", classUnauthorized)
	next, nextKey, _, _ := issue(t, "two", first)
	write(t, file("client.crt"), next)
	want("client certificate replaced, its key not yet", classUnauthorized)
	write(t, file("client.key"), nextKey)
	want("client certificate and key replaced", classNone)

	server.accept(t, second, "t2", "two")
	server.CloseClientConnections()
	_ = get() // may still be made on a connection that is being closed
	want("server of another authority", classCertificate)
	if f := failureOf("cannot list", get()); !strings.Contains(f.reason, "unknown authority") || !strings.Contains(f.advice, "certificate-authority") {
		t.Errorf("got reason %q, advice %q, want what is wrong and where to look", f.reason, f.advice)
	}
	write(t, file("ca.crt"), "")
	want("authority truncated", classCertificate) // and not taken for that of the system
	write(t, file("ca.crt"), second.pem)
	want("authority replaced", classNone)

	if n := strings.Count(logged.String(), "have been read again"); n != 3 {
		t.Errorf("got %d lines about replaced credentials, want 3:\n%s", n, logged)
	}
	if strings.Contains(logged.String(), "t2") {
		t.Errorf("the token is in the log:\n%s", logged)
	}
	if err := os.Remove(file("token")); err != nil {
		t.Fatal(err)
	}
	if c, err := HTTPClient(cfg, nil, slog.New(slog.DiscardHandler)); err == nil {
		t.Errorf("a token that is not there: got %v, want an error", c)
	}
}

// TestReplacedKubeconfig: the same for what stands in the kubeconfig itself.
func TestReplacedKubeconfig(t *testing.T) {
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	server := newGuarded(t)
	server.accept(t, first, "t1", "one")
	server.StartTLS()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	kubeconfig := func(host string, ca *authority, token, client string) {
		t.Helper()
		certPEM, keyPEM, _, _ := issue(t, client, first)
		encode := base64.StdEncoding.EncodeToString
		write(t, path, `{"apiVersion":"v1","kind":"Config","current-context":"c",
			"clusters":[{"name":"c","cluster":{"server":"`+host+`","certificate-authority-data":"`+encode([]byte(ca.pem))+`"}}],
			"users":[{"name":"u","user":{"token":"`+token+`","client-certificate-data":"`+encode([]byte(certPEM))+`","client-key-data":"`+encode([]byte(keyPEM))+`"}}],
			"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}`)
	}
	kubeconfig(server.URL, first, "t1", "one")
	reload := func() (*rest.Config, error) { return RESTConfig(path, "", "test") }
	cfg, err := reload()
	if err != nil {
		t.Fatal(err)
	}
	logged := &strings.Builder{}
	c, err := newClient(cfg, reload, newMetrics(nil), slog.New(slog.NewTextHandler(logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	want := func(what string, wanted class) {
		t.Helper()
		if _, err := c.get(t.Context(), "pods", "/version", "", "application/json", ""); classify(err) != wanted {
			t.Errorf("%s: got %v, want class %q", what, err, wanted)
		}
	}
	want("at first", classNone)
	server.accept(t, first, "t2", "two")
	want("revoked", classUnauthorized)
	kubeconfig(server.URL, first, "t2", "two")
	want("replaced", classNone)
	server.accept(t, second, "t2", "two")
	server.CloseClientConnections()
	kubeconfig(server.URL, second, "t2", "two")
	_, _ = c.get(t.Context(), "pods", "/version", "", "application/json", "") // perhaps on a connection that is being closed
	want("authority replaced", classNone)

	server.accept(t, second, "t3", "two")
	kubeconfig("https://other.example:6443", second, "t3", "two")
	want("another apiserver", classUnauthorized)
	write(t, path, "{")
	want("broken", classUnauthorized)
	kubeconfig(server.URL, second, "t3", "two")
	want("fixed", classNone)
	if !strings.Contains(logged.String(), "other.example:6443") {
		t.Errorf("got the log\n%s\nwant a line about the other apiserver", logged)
	}
}

// TestRedirection: a token goes to the configured apiserver only.
func TestRedirection(t *testing.T) {
	asked := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer elsewhere.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	c, err := newClient(&rest.Config{Host: server.URL, BearerToken: "t"}, nil, newMetrics(nil), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, err := c.get(t.Context(), "pods", "/version", "", "application/json", ""); classify(err) != classRedirected {
		t.Errorf("get: got %v, want an error of a redirection", err)
	}
	if body, _, err := c.stream(t.Context(), "list", "pods", "/api/v1/pods", nil, acceptJSON); classify(err) != classRedirected {
		if body != nil {
			_ = body.Close()
		}
		t.Errorf("list: got %v, want an error of a redirection", err)
	}
	if asked {
		t.Error("the other server was asked")
	}
}
