package informers

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// RESTConfig returns the access to the apiserver: by kubeconfig (and the context of it, empty for its current one), or,
// with both empty, by the service account of the Pod that this process runs in, or else by $KUBECONFIG or
// ~/.kube/config as kubectl finds it. Tokens and certificates that are given as files are read again when they change.
//
// The apiserver's certificate is always verified: insecure-skip-tls-verify and http to another machine are refused.
// userAgent identifies the program in the apiserver's audit log; names of browsers and curl get answers of twice the size.
func RESTConfig(kubeconfig, context, userAgent string) (*rest.Config, error) {
	cfg, err := loadConfig(kubeconfig, context)
	if err != nil {
		return nil, err
	}
	if cfg.Insecure {
		return nil, fmt.Errorf("access to the apiserver %s: insecure-skip-tls-verify is refused; give certificate-authority or certificate-authority-data", cfg.Host)
	}
	if err := checkHost(cfg.Host); err != nil {
		return nil, fmt.Errorf("access to the apiserver: %w", err)
	}
	cfg.UserAgent = userAgent
	cfg.QPS, cfg.Burst = 20, 60
	return cfg, nil
}

func loadConfig(kubeconfig, context string) (*rest.Config, error) {
	if kubeconfig == "" && context == "" {
		cfg, err := rest.InClusterConfig()
		if err == nil {
			return cfg, nil
		}
		if !errors.Is(err, rest.ErrNotInCluster) {
			return nil, fmt.Errorf("access to the apiserver by the service account: %w", err)
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: context}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("access to the apiserver by kubeconfig %q, context %q: %w", kubeconfig, context, err)
	}
	return cfg, nil
}

// checkHost allows http for a proxy on this machine (kubectl proxy) only.
func checkHost(host string) error {
	u, err := url.Parse(host)
	if err != nil || u.Scheme != "http" {
		return nil //nolint:nilerr // client-go judges the host, and takes one without a scheme for https
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%s is refused because nothing can be verified over http; use https", host)
}

// CAData returns the certificate authority that the apiserver is verified with, byte for byte as it was given; nil if
// the system's authorities are used. The server derives the id of a cluster from it (docs/protocol.md, section 3).
func CAData(cfg *rest.Config) ([]byte, error) {
	if len(cfg.CAData) > 0 || cfg.CAFile == "" {
		return cfg.CAData, nil
	}
	data, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the apiserver's certificate authority: %w", err)
	}
	return data, nil
}
