package receiver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	"google.golang.org/grpc/credentials"
)

// TLSFiles are the files of one side of TLS connections, all in PEM.
type TLSFiles struct {
	CertFile, KeyFile string
	// ClientCAFile holds the certificates that sign those of clients; empty: clients are not asked for one.
	ClientCAFile string
	// RequireClientCert refuses clients without a certificate.
	RequireClientCert bool
}

// ServerTLS returns a configuration that follows changes of the files. Protocols are those of ALPN, "h2" for gRPC.
func ServerTLS(log *slog.Logger, f TLSFiles, protocols ...string) (*tls.Config, error) {
	current, err := reloadTLS(log, f, protocols)
	if err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.get(), nil },
	}, nil
}

func reloadTLS(log *slog.Logger, f TLSFiles, protocols []string) (*reloaded[*tls.Config], error) {
	files := []string{f.CertFile, f.KeyFile}
	if f.ClientCAFile != "" {
		files = append(files, f.ClientCAFile)
	}
	return newReloaded(log, files, func(contents [][]byte) (*tls.Config, error) {
		cert, err := tls.X509KeyPair(contents[0], contents[1])
		if err != nil {
			return nil, fmt.Errorf("certificate %s and key %s: %w", f.CertFile, f.KeyFile, err)
		}
		cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: protocols}
		if len(contents) == 3 {
			cfg.ClientCAs = x509.NewCertPool()
			if !cfg.ClientCAs.AppendCertsFromPEM(contents[2]) {
				return nil, fmt.Errorf("client CA %s: %w", f.ClientCAFile, errNoCertificate)
			}
			cfg.ClientAuth = tls.VerifyClientCertIfGiven
			if f.RequireClientCert {
				cfg.ClientAuth = tls.RequireAndVerifyClientCert
			}
		}
		return cfg, nil
	})
}

// Credentials returns gRPC credentials that count and record handshakes that fail.
func (r *Receiver) Credentials(cfg *tls.Config) credentials.TransportCredentials {
	return &recordedTLS{TransportCredentials: credentials.NewTLS(cfg), r: r}
}

type recordedTLS struct {
	credentials.TransportCredentials
	r *Receiver
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *recordedTLS) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil && !errors.Is(err, io.EOF) { // a port scan or a TCP probe says nothing at all
		c.r.metrics.refusals.WithLabelValues(string(ruleTLS)).Inc()
		c.r.audit.refused(&Peer{Address: conn.RemoteAddr().String()}, &refusal{
			rule: ruleTLS, what: "TLS handshake: " + err.Error(),
			advice: "see the certificate of the sender, its validity and who signed it",
		})
	}
	return secured, info, err
}

// Clone implements credentials.TransportCredentials.
func (c *recordedTLS) Clone() credentials.TransportCredentials {
	return &recordedTLS{TransportCredentials: c.TransportCredentials.Clone(), r: c.r}
}

// certificateNames returns the names of the verified certificate of a connection: its common name and DNS names.
func certificateNames(info credentials.AuthInfo) []string {
	t, ok := info.(credentials.TLSInfo)
	if !ok || len(t.State.VerifiedChains) == 0 {
		return nil
	}
	leaf := t.State.VerifiedChains[0][0]
	names := leaf.DNSNames
	if leaf.Subject.CommonName != "" {
		names = append([]string{leaf.Subject.CommonName}, names...)
	}
	return names
}
