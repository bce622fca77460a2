package reporter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc/credentials"
)

// TLS says how to speak to the server encrypted. The files are reread for each connection, so that rotated ones are
// used without a restart.
type TLS struct {
	// CAFile holds the certificates that may have signed the server's; empty: the system's.
	CAFile string
	// CertFile and KeyFile are the client's own, for servers that ask for one; both or none.
	CertFile, KeyFile string
	// ServerName is what the server's certificate has to be for; empty: the host of the address.
	ServerName string
}

// Config reads the files. host is the server's, without port; it is what its certificate has to be for unless ServerName
// says otherwise. The errors name the key of the configuration.
func (t *TLS) Config(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if t.ServerName != "" {
		c.ServerName = t.ServerName
	}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("server.tls.ca_file: %w; give the PEM file of the CA that signed the server's certificate", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("server.tls.ca_file: %s holds no PEM certificate", t.CAFile)
		}
	}
	switch {
	case t.CertFile != "" && t.KeyFile != "":
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("server.tls.cert_file and key_file: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	case t.CertFile != "" || t.KeyFile != "":
		return nil, errors.New("server.tls: cert_file and key_file go together")
	}
	return c, nil
}

// Token authenticates each request by the token that the file has then. It is sent over TLS only.
func Token(file string) credentials.PerRPCCredentials { return fileToken(file) }

type fileToken string

func (f fileToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := os.ReadFile(string(f))
	if err != nil {
		return nil, fmt.Errorf("server.token_file: %w", err)
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(token))}, nil
}

func (fileToken) RequireTransportSecurity() bool { return true }
