package receiver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// selfSigned returns a certificate that signs itself, with its key, both in PEM.
func selfSigned(t *testing.T, name string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	rawKey, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: rawKey})
}

// handshake connects to a server with the configuration and returns the name in the server's certificate, and whether
// the server takes the client's.
func handshake(t *testing.T, cfg *tls.Config, client tls.Certificate) (name string, taken bool) {
	t.Helper()
	a, b := net.Pipe()
	server := tls.Server(a, cfg)
	conn := tls.Client(b, &tls.Config{
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &client, nil
		},
	})
	done := make(chan error, 1)
	go func() {
		err := server.Handshake()
		done <- errors.Join(err, a.Close())
	}()
	err := conn.Handshake()
	if err == nil {
		// In TLS 1.3 the client learns only by reading that it was refused.
		_, _ = conn.Read(make([]byte, 1))
	}
	if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 {
		name = certs[0].Subject.CommonName
	}
	_ = b.Close()
	return name, <-done == nil
}

// TestTLSReload changes certificate and client CA of a server that runs.
func TestTLSReload(t *testing.T) {
	dir := t.TempDir()
	files := TLSFiles{
		CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key"), ClientCAFile: filepath.Join(dir, "ca"), RequireClientCert: true,
	}
	put := func(file string, content []byte) {
		t.Helper()
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newClient := func(name string) (tls.Certificate, []byte) {
		t.Helper()
		cert, key := selfSigned(t, name)
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return pair, cert
	}
	oldClient, oldCA := newClient("old client")
	newerClient, newCA := newClient("new client")
	cert, key := selfSigned(t, "one")
	put(files.CertFile, cert)
	put(files.KeyFile, key)
	put(files.ClientCAFile, oldCA)
	current, err := reloadTLS(slog.New(slog.DiscardHandler), files, []string{"h2"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	current.now = func() time.Time { return now }
	expect := func(what, name string, old, newer bool) {
		t.Helper()
		for _, c := range []struct {
			client tls.Certificate
			taken  bool
		}{{oldClient, old}, {newerClient, newer}} {
			got, taken := handshake(t, current.get(), c.client)
			if got != name || taken != c.taken {
				t.Errorf("%s: got server %q, client taken %v, want %q, %v", what, got, taken, name, c.taken)
			}
		}
	}
	expect("at first", "one", true, false)
	second, secondKey := selfSigned(t, "two")
	put(files.CertFile, second)
	now = now.Add(reloadEvery)
	expect("the certificate without its key", "one", true, false)
	put(files.KeyFile, secondKey)
	put(files.ClientCAFile, newCA)
	now = now.Add(reloadEvery)
	expect("all files changed", "two", false, true)
	put(files.ClientCAFile, []byte("nothing"))
	now = now.Add(reloadEvery)
	expect("a client CA that is none", "two", false, true)
}
