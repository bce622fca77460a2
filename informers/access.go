package informers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	_ "k8s.io/client-go/plugin/pkg/client/auth/oidc" // kubeconfigs that kubectl takes have it
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
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
	if err := checkCredentials(cfg); err != nil {
		return nil, fmt.Errorf("access to the apiserver %s: %w", cfg.Host, err)
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

// checkCredentials tells what client-go would say late and in words of its own: that a kubeconfig's way to get credentials
// does not work here. exec plugins and the auth provider oidc do.
func checkCredentials(cfg *rest.Config) error {
	if p := cfg.AuthProvider; p != nil && p.Name != "oidc" {
		instead := "an exec plugin (user.exec), or a service account's token (user.tokenFile)"
		if plugin := execPlugins[p.Name]; plugin != "" {
			instead = "the exec plugin " + plugin
		}
		return fmt.Errorf("the kubeconfig's auth-provider %q exists no more in Kubernetes clients since 1.26; use %s", p.Name, instead)
	}
	if p := cfg.ExecProvider; p != nil {
		if _, err := exec.LookPath(p.Command); err != nil {
			return missingPlugin(p)
		}
	}
	return nil
}

// execPlugins are the successors of client-go's former auth providers.
var execPlugins = map[string]string{"gcp": "gke-gcloud-auth-plugin", "azure": "kubelogin"}

func missingPlugin(p *api.ExecConfig) error {
	hint := strings.TrimSpace(shorten(p.InstallHint))
	if hint != "" {
		hint = "; its kubeconfig says: " + hint
	}
	return fmt.Errorf("the kubeconfig's exec plugin (user.exec.command) %q is not a program that can be found and executed here: "+
		"install it, or give its whole path; in a container use a service account's token instead%s", p.Command, hint)
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
// the system's authorities are used.
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

const (
	// RootCANamespace is where every cluster since Kubernetes 1.20 has its own certificate authority.
	// The kubelet mounts it into Pods as the ca.crt of the service account.
	RootCANamespace = "kube-system"
	// RootCAConfigMap is its name.
	RootCAConfigMap = "kube-root-ca.crt"

	serviceAccountCA = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
	maxRootCA        = 2 << 20 // bytes of the ConfigMap; the apiserver takes 1 MiB of data
)

// ClusterCA returns the cluster's own certificate authority, byte for byte, from which the server derives the id of a
// cluster (docs/protocol.md, section 3): that of the service account or, with a kubeconfig, of the ConfigMap that it is
// made of. The kubeconfig's authority is not asked: it may be that of a proxy, which all clusters behind it have.
func ClusterCA(ctx context.Context, cfg *rest.Config) ([]byte, error) {
	if cfg.CAFile == serviceAccountCA {
		return CAData(cfg)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("access to the apiserver: %w", err)
	}
	const what = "the ConfigMap " + RootCANamespace + "/" + RootCAConfigMap
	body, err := client.CoreV1().RESTClient().Get().Namespace(RootCANamespace).Resource("configmaps").Name(RootCAConfigMap).
		SetHeader("Accept", runtime.ContentTypeJSON).Stream(ctx)
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("the cluster has no certificate authority in %s (Kubernetes before 1.20 has none): set cluster_id", what)
	case apierrors.IsForbidden(err):
		return nil, fmt.Errorf("%s may not be read: set cluster_id, or let this account get it (`pseudo-agent rbac` prints the rule): %w", what, err)
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	defer func() { _ = body.Close() }()
	var m struct {
		Data map[string]string `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(body, maxRootCA)).Decode(&m); err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return []byte(m.Data["ca.crt"]), nil
}
