package harness

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testport"
)

const adminToken = "admin-of-a-throw-away-cluster"

// Cluster is a control plane without controllers, scheduler and kubelets: etcd and kube-apiserver on loopback.
//
// Objects stay as they are created: there is nobody who makes Pods for a Deployment, sets a status, collects garbage or
// finishes the deletion of a Namespace. Tests do that themselves, so that nothing happens that they did not cause.
type Cluster struct {
	Dir        string // data, logs, kubeconfigs
	URL        string
	CAFile     string // certificate of the apiserver, which is its own authority
	Kubeconfig string // of a cluster administrator

	// Config, Client and Dynamic act as the administrator, without client-side rate limits.
	Config  *rest.Config
	Client  kubernetes.Interface
	Dynamic dynamic.Interface

	bins      Binaries
	etcdURL   string
	peerURL   string
	port      int
	flags     []string   // of the apiserver, besides those that all clusters have
	clients   *Authority // of client certificates
	mu        sync.Mutex
	etcd      *Process
	apiserver *Process
}

// noControllers are the flags of an apiserver whose cluster has neither controllers nor nodes.
var noControllers = []string{
	"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
	// Without controllers nobody makes the objects that these plugins insist on.
	"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,Priority",
}

// StartCluster starts etcd and kube-apiserver with their data in dir and returns when the apiserver is ready.
func StartCluster(ctx context.Context, bins Binaries, dir string) (*Cluster, error) {
	return startCluster(ctx, bins, dir, "127.0.0.1", noControllers)
}

// StartDualStackCluster is StartCluster for a cluster whose Services have addresses of IPv4, by default, and of IPv6.
func StartDualStackCluster(ctx context.Context, bins Binaries, dir string) (*Cluster, error) {
	flags := append(slices.Clone(noControllers), "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/108") // the last one counts
	return startCluster(ctx, bins, dir, "127.0.0.1", flags)
}

// StartNodeCluster is StartCluster for a cluster with controllers and nodes. The apiserver is reached at the address,
// from Pods too, which must not be one of loopback.
func StartNodeCluster(ctx context.Context, bins Binaries, dir, address string) (*Cluster, error) {
	return startCluster(ctx, bins, dir, address, []string{"--bind-address=0.0.0.0", "--advertise-address=" + address, "--kubelet-preferred-address-types=InternalIP"})
}

func startCluster(ctx context.Context, bins Binaries, dir, address string, flags []string) (*Cluster, error) {
	ports, err := testport.Free(3)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		Dir:        dir,
		URL:        fmt.Sprintf("https://%s:%d", address, ports[2]),
		CAFile:     filepath.Join(dir, "pki", "apiserver.crt"),
		Kubeconfig: filepath.Join(dir, "admin.kubeconfig"),
		bins:       bins,
		etcdURL:    fmt.Sprintf("http://127.0.0.1:%d", ports[0]),
		peerURL:    fmt.Sprintf("http://127.0.0.1:%d", ports[1]),
		port:       ports[2],
		flags:      flags,
	}
	if err := c.prepare(); err != nil {
		return nil, err
	}
	if err := c.startEtcd(ctx); err != nil {
		return nil, err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		c.Close()
		return nil, err
	}
	if err := c.connect(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// prepare writes the files that the apiserver is started with.
func (c *Cluster) prepare() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if c.clients, err = NewAuthority("clients"); err != nil {
		return err
	}
	files := map[string][]byte{
		"client-ca.crt": c.clients.PEM,
		"sa.key":        pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"sa.pub":        pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"tokens.csv":    []byte(adminToken + `,admin,admin-uid,"system:masters"` + "\n"),
		"audit.yaml":    []byte(auditPolicy),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(c.Dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startEtcd(ctx context.Context) error {
	p, err := StartProcess(Command{Name: "etcd", Path: c.bins.Etcd, Dir: c.Dir, Args: []string{
		"--name=e2e", "--data-dir=etcd", "--unsafe-no-fsync", "--quota-backend-bytes=8589934592",
		"--listen-client-urls=" + c.etcdURL, "--advertise-client-urls=" + c.etcdURL,
		"--listen-peer-urls=" + c.peerURL, "--initial-advertise-peer-urls=" + c.peerURL, "--initial-cluster=e2e=" + c.peerURL,
	}})
	if err != nil {
		return err
	}
	c.etcd = p
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return p.WaitReady(ctx, func(ctx context.Context) error { return get(ctx, http.DefaultClient, c.etcdURL+"/health", "") })
}

// StartAPIServer starts the apiserver, at first or again on its old address after StopAPIServer, and waits until it is
// ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	p, err := StartProcess(Command{Name: "kube-apiserver", Path: c.bins.APIServer, Dir: c.Dir, Args: append([]string{
		"--etcd-servers=" + c.etcdURL, "--etcd-compaction-interval=1h",
		"--secure-port=" + strconv.Itoa(c.port), "--cert-dir=pki", "--service-cluster-ip-range=10.96.0.0/16",
		"--allow-privileged=true", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=sa.pub", "--service-account-signing-key-file=sa.key",
		"--authorization-mode=RBAC", "--anonymous-auth=true", "--token-auth-file=tokens.csv", "--client-ca-file=client-ca.crt",
		"--audit-policy-file=audit.yaml", "--audit-log-path=" + auditLog,
		// Ends at once when told to, instead of waiting for watches that tests leave open.
		"--shutdown-send-retry-after=false",
	}, c.flags...)})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.apiserver = p
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return p.WaitReady(ctx, func(ctx context.Context) error {
		cfg, err := c.restConfig()
		if err != nil {
			return err
		}
		transport, err := rest.TransportFor(cfg)
		if err != nil {
			return err
		}
		return get(ctx, &http.Client{Transport: transport, Timeout: 5 * time.Second}, c.URL+"/readyz", adminToken)
	})
}

// KillAPIServer ends the apiserver as a crash would. etcd goes on.
func (c *Cluster) KillAPIServer() {
	c.mu.Lock()
	p := c.apiserver
	c.mu.Unlock()
	if p != nil {
		p.Kill()
	}
}

// APIServerPID is the process id of the running apiserver.
func (c *Cluster) APIServerPID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.apiserver.PID()
}

// SignalAPIServer sends the running apiserver a signal, for example to stop it where it is.
func (c *Cluster) SignalAPIServer(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return syscall.Kill(c.apiserver.PID(), sig)
}

// Close ends both processes.
func (c *Cluster) Close() {
	c.KillAPIServer()
	if c.etcd != nil {
		c.etcd.Kill()
	}
}

// EtcdURL is where etcd answers, without credentials.
func (c *Cluster) EtcdURL() string { return c.etcdURL }

// Compact drops etcd's history up to now. The apiserver's watch cache hides that from clients until it is restarted.
func (c *Cluster) Compact(ctx context.Context) error {
	var status struct {
		Header struct {
			Revision string `json:"revision"`
		} `json:"header"`
	}
	if err := c.etcdCall(ctx, "/v3/maintenance/status", struct{}{}, &status); err != nil {
		return err
	}
	return c.etcdCall(ctx, "/v3/kv/compaction", map[string]any{"revision": status.Header.Revision, "physical": true}, nil)
}

// etcdBatch is how many changes are in one transaction; etcd takes 128.
const etcdBatch = 100

// PutStored writes objects, as the apiserver stores them, into etcd behind the apiserver's back: without admission, defaults
// and the time these take. The keys are etcd's, for example /registry/pods/NAMESPACE/NAME.
func (c *Cluster) PutStored(ctx context.Context, objects map[string][]byte) error {
	return c.etcdChange(ctx, slices.Collect(maps.Keys(objects)), func(key string) map[string]any {
		return map[string]any{"requestPut": map[string]any{"key": []byte(key), "value": objects[key]}}
	})
}

// DeleteStored removes objects in the same way: no finalizer holds them.
func (c *Cluster) DeleteStored(ctx context.Context, keys []string) error {
	return c.etcdChange(ctx, keys, func(key string) map[string]any {
		return map[string]any{"requestDeleteRange": map[string]any{"key": []byte(key)}}
	})
}

func (c *Cluster) etcdChange(ctx context.Context, keys []string, change func(key string) map[string]any) error {
	for batch := range slices.Chunk(keys, etcdBatch) {
		var changes []map[string]any
		for _, key := range batch {
			changes = append(changes, change(key))
		}
		if err := c.etcdCall(ctx, "/v3/kv/txn", map[string]any{"success": changes}, nil); err != nil {
			return err
		}
	}
	return nil
}

// etcdCall makes one call of etcd's JSON gateway.
func (c *Cluster) etcdCall(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.etcdURL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("etcd %s: %s: %s", path, resp.Status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// ReplaceServingCertificate restarts the apiserver with a certificate of another authority, and puts that into CAFile.
func (c *Cluster) ReplaceServingCertificate(ctx context.Context) error {
	c.KillAPIServer()
	for _, name := range []string{"apiserver.crt", "apiserver.key"} { // it makes new ones
		if err := os.Remove(filepath.Join(c.Dir, "pki", name)); err != nil {
			return err
		}
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	return c.connect()
}

func (c *Cluster) restConfig() (*rest.Config, error) {
	ca, err := os.ReadFile(c.CAFile) // client-go would take minutes to see that it is another one
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            c.URL,
		BearerToken:     adminToken,
		TLSClientConfig: rest.TLSClientConfig{CAData: ca},
		QPS:             -1,
		UserAgent:       "pseudo-agent-e2e",
	}, nil
}

// connect makes the administrator's clients.
func (c *Cluster) connect() error {
	var err error
	if c.Config, err = c.restConfig(); err != nil {
		return err
	}
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	if c.Dynamic, err = dynamic.NewForConfig(c.Config); err != nil {
		return err
	}
	return c.WriteKubeconfig(c.Kubeconfig, &clientcmdapi.AuthInfo{Token: adminToken})
}

// WriteKubeconfig writes a kubeconfig for this cluster with the given credentials.
func (c *Cluster) WriteKubeconfig(path string, auth *clientcmdapi.AuthInfo) error {
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"e2e": {Server: c.URL, CertificateAuthority: c.CAFile}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"user": auth},
		Contexts:       map[string]*clientcmdapi.Context{"e2e": {Cluster: "e2e", AuthInfo: "user"}},
		CurrentContext: "e2e",
	}, path)
}

// Authenticates fails unless the apiserver knows whose token it is.
func (c *Cluster) Authenticates(ctx context.Context, token string) error {
	ca, err := os.ReadFile(c.CAFile)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	return get(ctx, &http.Client{Transport: transport, Timeout: 5 * time.Second}, c.URL+"/api", token)
}

// get fails unless the address answers 200.
func get(ctx context.Context, client *http.Client, url, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return nil
}

// FreePort returns a loopback port that no other test gets.
func FreePort() (int, error) {
	ports, err := testport.Free(1)
	if err != nil {
		return 0, err
	}
	return ports[0], nil
}
