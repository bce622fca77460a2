package harness

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// Aggregated is an API server that the apiserver passes the requests for one group on to. It serves the objects of
// another resource of the same cluster, as they are: the same objects in two groups.
type Aggregated struct {
	cluster *Cluster
	served  schema.GroupVersionResource
	backing schema.GroupVersionResource
	kind    string
	http    *http.Client
	server  *httptest.Server

	mu   sync.Mutex
	away bool
}

var apiServiceResource = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

// Aggregate serves the objects of a namespaced resource under another group, version and name too.
func (c *Cluster) Aggregate(ctx context.Context, served, backing schema.GroupVersionResource, kind string) (*Aggregated, error) {
	client, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return nil, err
	}
	a := &Aggregated{cluster: c, served: served, backing: backing, kind: kind, http: client}
	a.server = httptest.NewUnstartedServer(http.HandlerFunc(a.serve))
	a.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	cert, key, err := c.clients.Issue("aggregated", time.Hour)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	a.server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	a.server.StartTLS()
	return a, a.register(ctx)
}

// register makes the apiserver pass the group's requests on, and waits until it does.
func (a *Aggregated) register(ctx context.Context) error {
	// An apiserver reaches a Service of this type by the name that it stands for.
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: a.name()},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}
	if _, err := a.cluster.Client.CoreV1().Services(accountNamespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return err
	}
	api := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
		"metadata": map[string]any{"name": a.served.Version + "." + a.served.Group},
		"spec": map[string]any{
			"group": a.served.Group, "version": a.served.Version, "groupPriorityMinimum": 1000, "versionPriority": 15,
			"insecureSkipTLSVerify": true,
			"service": map[string]any{
				"namespace": accountNamespace, "name": a.name(), "port": int64(a.server.Listener.Addr().(*net.TCPAddr).Port),
			},
		},
	}}
	if _, err := a.cluster.Dynamic.Resource(apiServiceResource).Create(ctx, api, metav1.CreateOptions{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := a.cluster.Dynamic.Resource(a.served).List(ctx, metav1.ListOptions{Limit: 1})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the aggregated API is not served: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (a *Aggregated) name() string {
	return "aggregated-" + strings.ReplaceAll(a.served.Group, ".", "-")
}

// SetAway cuts all connections and answers 503 from now on, or ends that.
func (a *Aggregated) SetAway(away bool) {
	a.mu.Lock()
	a.away = away
	a.mu.Unlock()
	if away {
		a.server.CloseClientConnections()
	}
}

// Close takes the API out of the cluster.
func (a *Aggregated) Close(ctx context.Context) error {
	a.server.CloseClientConnections()
	a.server.Close()
	err := a.cluster.Dynamic.Resource(apiServiceResource).Delete(ctx, a.served.Version+"."+a.served.Group, metav1.DeleteOptions{})
	if err != nil {
		return err
	}
	return a.cluster.Client.CoreV1().Services(accountNamespace).Delete(ctx, a.name(), metav1.DeleteOptions{})
}

func (a *Aggregated) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	away := a.away
	a.mu.Unlock()
	root := "/apis/" + a.served.GroupVersion().String()
	switch rest, below := strings.CutPrefix(r.URL.Path, root+"/"); {
	case away:
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.URL.Path == root:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(metav1.APIResourceList{ // an error says that the client has gone
			TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
			GroupVersion: a.served.GroupVersion().String(),
			APIResources: []metav1.APIResource{{
				Name: a.served.Resource, Kind: a.kind, Namespaced: true, Verbs: metav1.Verbs{"get", "list", "watch"},
			}},
		})
	case below:
		a.pass(w, r, rest)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// pass answers with what the apiserver says of the backing resource.
func (a *Aggregated) pass(w http.ResponseWriter, r *http.Request, path string) {
	prefix, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		prefix, name = path[:i+1], path[i+1:]
	}
	if name != a.served.Resource {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	target := a.cluster.URL + "/apis/" + a.backing.GroupVersion().String() + "/" + prefix + a.backing.Resource + "?" + r.URL.RawQuery
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, target, nil)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	req.Header.Set("Accept", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	out := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
			if err := out.Flush(); err != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}
