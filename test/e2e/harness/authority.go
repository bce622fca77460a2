package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Authority signs certificates.
type Authority struct {
	// PEM is its own certificate.
	PEM []byte

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority.
func NewAuthority(name string) (*Authority, error) {
	a := &Authority{}
	var err error
	a.PEM, _, a.cert, a.key, err = issue(name, 24*time.Hour, nil)
	return a, err
}

// Issue makes a certificate for a client of that name, which is also good for a server of that name and on loopback, and
// its key, in PEM.
func (a *Authority) Issue(name string, validFor time.Duration) (cert, key []byte, err error) {
	cert, key, _, _, err = issue(name, validFor, a)
	return cert, key, err
}

func issue(name string, validFor time.Duration, by *Authority) (certPEM, keyPEM []byte, cert *x509.Certificate, key *ecdsa.PrivateKey, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(validFor),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		BasicConstraintsValid: true,
	}
	if !strings.Contains(name, ":") {
		template.DNSNames = append(template.DNSNames, name)
	}
	parent, signer := template, key
	if by == nil {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
	} else {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		return nil, nil, nil, nil, err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
	return certPEM, keyPEM, cert, key, nil
}

// Rewrite changes the account's kubeconfig, which an agent reads when it starts.
func (a *Account) Rewrite(change func(*clientcmdapi.Cluster, *clientcmdapi.AuthInfo)) error {
	cfg, err := clientcmd.LoadFromFile(a.Kubeconfig)
	if err != nil {
		return err
	}
	change(cfg.Clusters["e2e"], cfg.AuthInfos["user"])
	return clientcmd.WriteToFile(*cfg, a.Kubeconfig)
}

// IssueCertificate puts a fresh client certificate of the account, and its key, into files next to its token.
func (a *Account) IssueCertificate(validFor time.Duration) (certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(a.cluster.Dir, a.Name+".crt"), filepath.Join(a.cluster.Dir, a.Name+".key")
	cert, key, err := a.cluster.clients.Issue(fmt.Sprintf("system:serviceaccount:%s:%s", accountNamespace, a.Name), validFor)
	if err != nil {
		return "", "", err
	}
	if err := os.WriteFile(certFile, cert, 0o600); err != nil {
		return "", "", err
	}
	return certFile, keyFile, os.WriteFile(keyFile, key, 0o600)
}
