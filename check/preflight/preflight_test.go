package preflight

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/protocol/trident"
	"github.com/pseudo-agent/pseudo-agent/reporter"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// apiserverStub answers what a check asks: version, discovery, access reviews and lists of one.
type apiserverStub struct {
	empty     string              // a resource without objects
	groups    map[string][]string // resources by "group/version" ("v1" for core)
	forbidden []string            // "verb resource" or "verb resource namespace"
	remaining map[string]int64    // objects after the first, by resource
	broken    map[string]int      // status by path
	reviews   []authorizationv1.ResourceAttributes
	selectors map[string]string
}

func (a *apiserverStub) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if code := a.broken[req.URL.Path]; code != 0 {
		a.fail(w, code)
		return
	}
	var out any
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	switch {
	case req.URL.Path == "/version":
		out = map[string]string{"gitVersion": "v1.36.3"}
	case req.URL.Path == "/apis":
		list := metav1.APIGroupList{}
		for gv := range a.groups {
			if group, version, ok := strings.Cut(gv, "/"); ok {
				list.Groups = append(list.Groups, metav1.APIGroup{
					Name: group, PreferredVersion: metav1.GroupVersionForDiscovery{GroupVersion: gv, Version: version},
				})
			}
		}
		out = list
	case strings.HasSuffix(req.URL.Path, "/selfsubjectaccessreviews"):
		var review authorizationv1.SelfSubjectAccessReview
		if err := json.NewDecoder(req.Body).Decode(&review); err != nil {
			a.fail(w, http.StatusBadRequest)
			return
		}
		r := review.Spec.ResourceAttributes
		a.reviews = append(a.reviews, *r)
		review.Status.Allowed = !slices.Contains(a.forbidden, r.Verb+" "+r.Resource)
		out = review
	default:
		gv := parts[1]
		if parts[0] == "apis" {
			gv = strings.Join(parts[1:min(3, len(parts))], "/")
		}
		names, ok := a.groups[gv]
		rest := strings.TrimPrefix(strings.TrimPrefix(req.URL.Path, "/api/"), "/apis/")
		rest = strings.Trim(strings.TrimPrefix(rest, gv), "/")
		switch {
		case !ok:
			a.fail(w, http.StatusNotFound)
			return
		case rest == "":
			list := metav1.APIResourceList{GroupVersion: gv}
			for _, n := range names {
				list.APIResources = append(list.APIResources, metav1.APIResource{
					Name: n, Namespaced: n != "nodes" && n != "namespaces", Verbs: metav1.Verbs{"get", "list", "watch"},
				})
			}
			out = list
		default:
			resource := parts[len(parts)-1]
			if a.selectors == nil {
				a.selectors = map[string]string{}
			}
			a.selectors[rest] = req.URL.Query().Get("fieldSelector")
			list := metav1.PartialObjectMetadataList{Items: make([]metav1.PartialObjectMetadata, 1)}
			if resource == a.empty {
				list.Items = nil
			}
			if n, ok := a.remaining[resource]; ok && n < 0 {
				list.Continue = "more"
			} else if ok {
				list.RemainingItemCount = &n
			}
			out = list
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(out); err != nil {
		panic(err)
	}
}

func (a *apiserverStub) fail(w http.ResponseWriter, code int) {
	reasons := map[int]metav1.StatusReason{
		http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusForbidden: metav1.StatusReasonForbidden,
		http.StatusUnauthorized: metav1.StatusReasonUnauthorized, http.StatusBadRequest: metav1.StatusReasonBadRequest,
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	status := metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code),
		Reason: reasons[code], Message: http.StatusText(code),
	}
	if err := json.NewEncoder(w).Encode(status); err != nil {
		panic(err)
	}
}

func newStub() *apiserverStub {
	return &apiserverStub{
		groups: map[string][]string{
			"v1":                   {"nodes", "namespaces", "pods", "services", "replicationcontrollers"},
			"apps/v1":              {"deployments", "daemonsets", "replicasets", "statefulsets"},
			"networking.k8s.io/v1": {"ingresses"},
			"argoproj.io/v1alpha1": {"rollouts"},
		},
		remaining: map[string]int64{"pods": 41},
		broken:    map[string]int{},
	}
}

func selection(t *testing.T, namespace string, reqs ...resources.Request) []resources.Selected {
	t.Helper()
	sel, err := resources.Select(reqs, resources.Namespaces{One: namespace})
	if err != nil {
		t.Fatal(err)
	}
	return sel
}

func run(t *testing.T, stub http.Handler, o Options) *Report {
	t.Helper()
	srv := httptest.NewServer(stub)
	t.Cleanup(srv.Close)
	if o.REST == nil {
		o.REST = &rest.Config{Host: srv.URL}
	}
	if o.Selected == nil {
		o.Selected = selection(t, o.Namespaces.One, o.Requests...)
	}
	return Run(t.Context(), o)
}

func (r *Report) resource(t *testing.T, id string) Resource {
	t.Helper()
	for _, res := range r.Resources {
		if res.ID == id {
			return res
		}
	}
	t.Fatalf("got no resource %s in %+v", id, r.Resources)
	return Resource{}
}

func TestResources(t *testing.T) {
	rollouts := resources.Request{Name: "rollouts", Group: "argoproj.io", As: "deployments"}
	clonesets := resources.Request{Name: "clonesets", Group: "apps.kruise.io"}
	for _, tt := range []struct {
		name    string
		change  func(*apiserverStub)
		reqs    []resources.Request
		id      string
		verdict Verdict
		served  string
		objects int
		what    string
		advice  string
	}{
		{name: "all is well", id: "pods", verdict: OK, served: "v1", objects: 42, what: "can be watched"},
		{name: "a CRD by its preferred version", reqs: []resources.Request{rollouts}, id: "rollouts.argoproj.io", verdict: OK, served: "argoproj.io/v1alpha1", objects: 1},
		{
			name: "required and forbidden", change: func(a *apiserverStub) { a.forbidden = []string{"list pods", "watch pods"} },
			id: "pods", verdict: Problem, served: "v1", objects: -1, what: "forbidden: list, watch",
			advice: `nothing is reported without it; add to the ClusterRole: {"verbs":["get","list","watch"],"apiGroups":[""],"resources":["pods"]}`,
		},
		{
			name: "optional and forbidden", change: func(a *apiserverStub) { a.forbidden = []string{"watch services"} },
			id: "services", verdict: Problem, served: "v1", objects: -1, advice: "5 minutes",
		},
		{
			name: "a CRD that does not exist", reqs: []resources.Request{clonesets},
			id: "clonesets.apps.kruise.io", verdict: Problem, objects: -1,
			what: "the apiserver has no clonesets.apps.kruise.io/v1alpha1", advice: "install the CRD",
		},
		{
			name: "a CRD that does not exist, as something", reqs: []resources.Request{{Name: "rollout", Group: "argoproj.io", As: "deployments"}},
			id: "rollout.argoproj.io", verdict: Problem, objects: -1, advice: "kubectl api-resources | grep -i rollout",
		},
		{
			name: "a default that this cluster does not have", change: func(a *apiserverStub) { delete(a.groups, "networking.k8s.io/v1") },
			id: "ingresses", verdict: Note, advice: "nothing to do",
		},
		{
			name: "a required one that is not served", change: func(a *apiserverStub) { delete(a.groups, "apps/v1") },
			id: "deployments", verdict: Problem, objects: -1, advice: "nothing is reported without it",
		},
		{
			name: "discovery of one group fails", change: func(a *apiserverStub) { a.broken["/apis/apps/v1"] = http.StatusServiceUnavailable },
			id: "deployments", verdict: Unknown, objects: -1, advice: "kubectl get apiservices",
		},
		{
			name: "a field selector that is refused", change: func(a *apiserverStub) { a.broken["/api/v1/pods"] = http.StatusBadRequest },
			reqs: []resources.Request{{Name: "pods", FieldSelector: "spec.x=y"}},
			id:   "pods", verdict: Problem, served: "v1", objects: -1, what: `refuses field_selector "spec.x=y"`,
		},
		{
			name: "a field selector", change: func(a *apiserverStub) { a.remaining["pods"] = -1 },
			reqs: []resources.Request{{Name: "pods", FieldSelector: "spec.nodeName=n1"}},
			id:   "pods", verdict: OK, served: "v1", objects: 1,
		},
		{
			name: "a list that fails", change: func(a *apiserverStub) { a.broken["/api/v1/pods"] = http.StatusInternalServerError },
			id: "pods", verdict: Problem, served: "v1", objects: -1, advice: "kubectl get --raw '/api/v1/pods?limit=1'",
		},
		{
			name: "reviews are refused", change: func(a *apiserverStub) {
				a.broken["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = http.StatusForbidden
			},
			id: "pods", verdict: Unknown, served: "v1", objects: 42, advice: "system:basic-user",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stub := newStub()
			if tt.change != nil {
				tt.change(stub)
			}
			r := run(t, stub, Options{Requests: tt.reqs})
			got := r.resource(t, tt.id)
			if got.Verdict != tt.verdict || got.Served != tt.served || got.Objects != tt.objects {
				t.Errorf("got verdict %q, served %q, %d objects, want %q, %q, %d", got.Verdict, got.Served, got.Objects, tt.verdict, tt.served, tt.objects)
			}
			if !strings.Contains(got.What, tt.what) {
				t.Errorf("got %q, want it to contain %q", got.What, tt.what)
			}
			if !strings.Contains(got.Advice, tt.advice) {
				t.Errorf("got advice %q, want it to contain %q", got.Advice, tt.advice)
			}
			if tt.verdict != OK && got.Advice == "" {
				t.Error("got no advice, want some")
			}
		})
	}
}

func TestNamespace(t *testing.T) {
	stub := newStub()
	r := run(t, stub, Options{Namespaces: resources.Namespaces{One: "shop"}, LeaseName: "pseudo-agent", LeaseNamespace: "mon"})
	for _, res := range r.Resources {
		if res.Verdict != OK {
			t.Errorf("got %+v, want ok", res)
		}
	}
	for _, a := range stub.reviews {
		switch a.Resource {
		case "nodes":
			if a.Namespace != "" || a.Name != "" {
				t.Errorf("got nodes reviewed for %+v, want all of them", a)
			}
		case "namespaces":
			if a.Name != "shop" {
				t.Errorf("got namespaces reviewed for %+v, want the one", a)
			}
		case "leases":
			if a.Namespace != "mon" || (a.Name == "") != (a.Verb == "create") {
				t.Errorf("got leases reviewed for %+v, want the one in mon, and create without a name", a)
			}
		default:
			if a.Namespace != "shop" {
				t.Errorf("got %s reviewed for %+v, want namespace shop", a.Resource, a)
			}
		}
	}
	if got := stub.selectors["namespaces"]; got != "metadata.name=shop" {
		t.Errorf("got field selector %q for namespaces, want the one that resourceNames permits", got)
	}
	if r.Lease == nil || r.Lease.Verdict != OK {
		t.Errorf("got lease %+v, want ok", r.Lease)
	}
	stub.forbidden = []string{"update leases"}
	if r := run(t, stub, Options{LeaseName: "pseudo-agent", LeaseNamespace: "mon"}); r.Lease.Verdict != Problem || r.Lease.Advice == "" {
		t.Errorf("got lease %+v without permission, want a problem with advice", r.Lease)
	}
}

func TestApiserver(t *testing.T) {
	closed := freeAddress(t)
	secure := httptest.NewTLSServer(newStub())
	defer secure.Close()
	failing := newStub()
	for _, tt := range []struct {
		name   string
		o      Options
		status int
		want   string
		exit   int
	}{
		{"no access at all", Options{RESTErr: errors.New("no kubeconfig")}, 0, "kubernetes.kubeconfig", 2},
		{"nothing listens", Options{REST: &rest.Config{Host: "http://" + closed}}, 0, "nothing listens there", 2},
		{"no such name", Options{REST: &rest.Config{Host: "http://no-such-host.invalid"}}, 0, "does not resolve", 2},
		{"another CA", Options{REST: &rest.Config{Host: secure.URL}}, 0, "signed by another CA", 2},
		{"credentials refused", Options{}, http.StatusUnauthorized, "credentials are not accepted", 2},
		{"version forbidden", Options{}, http.StatusForbidden, "system:public-info-viewer", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			failing.broken["/version"] = tt.status
			tt.o.ConnectTimeout, tt.o.RequestTimeout = 5*time.Second, 5*time.Second
			r := run(t, failing, tt.o)
			if r.Apiserver.Verdict != Unknown || !strings.Contains(r.Apiserver.Advice, tt.want) {
				t.Errorf("got %+v, want unknown with advice %q", r.Apiserver, tt.want)
			}
			if got := r.ExitCode(); got != tt.exit {
				t.Errorf("got exit status %d, want %d", got, tt.exit)
			}
		})
	}
}

// synchronizer answers like a deepflow-server that holds a version; it remembers the requests.
type synchronizer struct {
	agent.UnimplementedSynchronizerServer
	version  uint64
	requests []*agent.KubernetesAPISyncRequest
}

func (s *synchronizer) KubernetesAPISync(_ context.Context, req *agent.KubernetesAPISyncRequest) (*agent.KubernetesAPISyncResponse, error) {
	s.requests = append(s.requests, req)
	return &agent.KubernetesAPISyncResponse{Version: &s.version}, nil
}

type tridentSynchronizer struct {
	trident.UnimplementedSynchronizerServer
}

func (tridentSynchronizer) KubernetesAPISync(context.Context, *trident.KubernetesAPISyncRequest) (*trident.KubernetesAPISyncResponse, error) {
	return &trident.KubernetesAPISyncResponse{}, nil
}

func serve(t *testing.T, register func(*grpc.Server), opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(opts...)
	register(s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"server.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func wantToken(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if got := metadata.ValueFromIncomingContext(ctx, "authorization"); !slices.Equal(got, []string{"Bearer secret"}) {
		return nil, status.Error(codes.Unauthenticated, "no token")
	}
	return handler(ctx, req)
}

func TestServers(t *testing.T) {
	cert, pool := certificate(t)
	empty, holding := &synchronizer{}, &synchronizer{version: 77}
	newAgent := serve(t, func(s *grpc.Server) { agent.RegisterSynchronizerServer(s, empty) })
	withVersion := serve(t, func(s *grpc.Server) { agent.RegisterSynchronizerServer(s, holding) })
	old := serve(t, func(s *grpc.Server) { trident.RegisterSynchronizerServer(s, tridentSynchronizer{}) })
	other := serve(t, func(*grpc.Server) {})
	secure := serve(t, func(s *grpc.Server) { agent.RegisterSynchronizerServer(s, empty) }, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	bound := serve(t, func(s *grpc.Server) { agent.RegisterSynchronizerServer(s, empty) },
		grpc.Creds(credentials.NewServerTLSFromCert(&cert)), grpc.UnaryInterceptor(wantToken))
	trusted := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, ServerName: "server.example"}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	for _, tt := range []struct {
		name, address string
		service       string
		tls           *tls.Config
		token         credentials.PerRPCCredentials
		clusterID     string
		verdict       Verdict
		answers       string
		want          string
	}{
		{name: "agent", address: newAgent, clusterID: "d-x", verdict: OK, answers: "agent.Synchronizer", want: "holds no report"},
		{name: "holds a version", address: withVersion, clusterID: "d-x", verdict: OK, answers: "agent.Synchronizer", want: "holds version 77"},
		{name: "without a cluster id", address: newAgent, verdict: OK, answers: "agent.Synchronizer", want: "cluster_id is not set"},
		{name: "trident", address: old, clusterID: "d-x", verdict: OK, answers: "trident.Synchronizer"},
		{name: "the wrong service is configured", address: old, service: "agent", verdict: Problem, want: "set server.service to auto"},
		{name: "another gRPC server", address: other, verdict: Problem, want: "deepflow-server's gRPC port"},
		{name: "no gRPC server", address: web.Listener.Addr().String(), verdict: Problem, want: "something else than gRPC"},
		{name: "nothing listens", address: freeAddress(t), verdict: Problem, want: "nothing listens on that port"},
		{name: "no such name", address: "no-such-host.invalid:30035", verdict: Problem, want: "does not resolve"},
		{name: "no port", address: "127.0.0.1", verdict: Problem, want: "host:port"},
		{name: "TLS", address: secure, tls: trusted, verdict: OK, answers: "agent.Synchronizer"},
		{name: "TLS with an unknown CA", address: secure, tls: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: "server.example"}, verdict: Problem, want: "server.tls.ca_file"},
		{name: "TLS with another name", address: secure, tls: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, verdict: Problem, want: "server.tls.server_name"},
		{name: "TLS with a server that has none", address: newAgent, tls: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, verdict: Problem, want: "TLS"},
		{name: "no TLS with a server that has", address: secure, verdict: Problem, want: "server.tls"},
		{name: "TLS without ALPN", address: withoutALPN(t, cert), tls: trusted, verdict: Problem, want: "GRPC_ENFORCE_ALPN_ENABLED=false"},
		{name: "token", address: bound, tls: trusted, token: reporter.Token(token), verdict: OK, answers: "agent.Synchronizer"},
		{name: "no token", address: bound, tls: trusted, verdict: Problem, want: "server.token_file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := run(t, newStub(), Options{
				Servers: []string{tt.address}, Service: tt.service, TLS: tt.tls, Token: tt.token, ClusterID: tt.clusterID,
				ConnectTimeout: 5 * time.Second, RequestTimeout: 5 * time.Second,
			})
			got := r.Servers[0]
			if got.Verdict != tt.verdict || got.Service != tt.answers {
				t.Errorf("got %+v, want verdict %q and service %q", got, tt.verdict, tt.answers)
			}
			if text := got.What + "; " + got.Advice; !strings.Contains(text, tt.want) {
				t.Errorf("got %q, want it to contain %q", text, tt.want)
			}
			if want := map[Verdict]int{OK: 0, Problem: 1}[tt.verdict]; r.ExitCode() != want {
				t.Errorf("got exit status %d, want %d", r.ExitCode(), want)
			}
		})
	}
	for _, req := range slices.Concat(empty.requests, holding.requests) {
		// What the protocol document says is ignored, or answered without being stored.
		ignored := req.GetVersion() == 0 && req.GetClusterId() == ""
		probe := req.GetVersion() == probeVersion && req.GetAgentId() != 0
		if !ignored && !probe || len(req.GetEntries()) > 0 || req.GetErrorMsg() != "" {
			t.Errorf("got request %v, want one that changes nothing", req)
		}
	}
}

func TestNoServers(t *testing.T) {
	r := run(t, newStub(), Options{})
	if r.Servers[0].Verdict != Problem || r.ExitCode() != 1 {
		t.Errorf("got %+v without servers, want a problem", r.Servers)
	}
}

var encoder = resources.NewEncoder()

func entry(wireType, name, ownerKind, doc string) *resources.Entry {
	c := resources.Content{WireType: wireType, UID: resources.ParseUID(name), OwnerKind: ownerKind, JSON: []byte(doc)}
	if ownerKind != "" {
		c.Owner = resources.ParseUID("owner of " + name)
	}
	return encoder.Encode(c, nil)
}

func workload(wireType, name, image, env string) *resources.Entry {
	return entry(wireType, name, "", fmt.Sprintf(
		`{"metadata":{"namespace":"df","name":%q},"spec":{"template":{"spec":{"containers":[{"name":"c","image":%q,"env":[%s]}]}}}}`, name, image, env))
}

func TestWatchers(t *testing.T) {
	policy := func(value string) string { return fmt.Sprintf(`{"name":"K8S_WATCH_POLICY","value":%q}`, value) }
	for _, tt := range []struct {
		name, image, env string
		claim            bool
		want             Verdict // empty: not named
	}{
		{name: "an agent while we claim the role", image: "deepflowce/deepflow-agent:v7.0", claim: true, want: Note},
		{name: "an agent while we do not", image: "deepflowce/deepflow-agent:v7.0", want: Problem},
		{name: "an agent that watches only", image: "deepflowce/deepflow-agent:v7.0", env: policy("watch-only"), claim: true, want: Problem},
		{name: "its other spelling", image: "x", env: policy("only-watch"), claim: true, want: Problem},
		{name: "its legacy", image: "x", env: `{"name":"ONLY_WATCH_K8S_RESOURCE"}`, claim: true, want: Problem},
		{name: "one that never watches", image: "deepflowce/deepflow-agent:v7.0", env: policy("watch-disabled"), want: OK},
		{name: "pseudo-agent itself", image: "pseudo-agent:v1", env: policy("watch-only")},
		{name: "anything else", image: "nginx"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := watchers([]*resources.Entry{workload("*v1.DaemonSet", "w", tt.image, tt.env)}, tt.claim)
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("got %+v, want none", got)
			case tt.want != "" && (len(got) != 1 || got[0].Verdict != tt.want || got[0].Name != "w" || got[0].Namespace != "df"):
				t.Errorf("got %+v, want w with verdict %q", got, tt.want)
			}
		})
	}
}

func TestPrint(t *testing.T) {
	stub := newStub()
	stub.forbidden = []string{"list services"}
	address := serve(t, func(s *grpc.Server) { agent.RegisterSynchronizerServer(s, &synchronizer{}) })
	r := run(t, stub, Options{
		Servers: []string{address}, ClusterID: "d-x",
		Collect: func(context.Context) ([]*resources.Entry, error) {
			return []*resources.Entry{
				workload("*v1.DaemonSet", "agents", "deepflow-agent", ""),
				entry("*v1.Pod", "clone-x", "apps.kruise.io/v1alpha1/CloneSet", `{"metadata":{"namespace":"shop","name":"clone-x"}}`),
				entry("*v1.Pod", "adv-0", "apps.kruise.io/v1beta1/StatefulSet", `{"metadata":{"namespace":"shop","name":"adv-0"}}`),
			}, nil
		},
	})
	var b bytes.Buffer
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"pods                    *v1.Pod                    yes       v1                    42       ok       can be watched\n",
		"forbidden: list\n    → the first report waits 5 minutes",
		"DaemonSet df/agents",
		"2: 0 bound to a workload, 2 dropped",
		"The report holds no *version.Info entry",
		pasteResources + "\n- name: clonesets\n  group: apps.kruise.io\n- name: statefulsets\n  group: apps\n- name: statefulsets\n  group: apps.kruise.io\n",
		pasteRules + "\n- apiGroups:\n  - apps.kruise.io\n  resources:\n  - clonesets\n",
		"verdict: problem\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("got no %q in:\n%s", want, b.String())
		}
	}
	doc, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(doc, &back); err != nil || back.Verdict != Problem || back.Pods.Pods.Dropped != 2 {
		t.Errorf("got %+v, %v from the JSON, want the same report", back, err)
	}
}

func TestObjectsThatCannotBeCollected(t *testing.T) {
	r := run(t, newStub(), Options{Collect: func(context.Context) ([]*resources.Entry, error) { return nil, errors.New("pods forbidden") }})
	if r.Objects.Verdict != Unknown || r.ExitCode() != 2 || r.Pods != nil {
		t.Errorf("got %+v and exit status %d, want unknown and 2", r.Objects, r.ExitCode())
	}
}

// withoutALPN is a server whose TLS ends in something that knows nothing of HTTP/2, as a balancer of type TCP.
func withoutALPN(t *testing.T, cert tls.Certificate) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	s.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// TestNamespaceChoice: what a choice of namespaces leaves out is told, and one that does not exist is named.
func TestNamespaceChoice(t *testing.T) {
	for _, tt := range []struct {
		in   resources.Namespaces
		want string
	}{
		{resources.Namespaces{One: "shop"}, "only shop are watched"},
		{resources.Namespaces{Only: []string{"shop", "bank"}}, "only shop, bank are watched"},
		{resources.Namespaces{Exclude: []string{"test"}}, "all but test are watched"},
		{
			resources.Namespaces{Selector: "a=b", Matching: []string{"x", "y"}, Exclude: []string{"y"}},
			`those that "a=b" matches: 2 now, but not y are watched`,
		},
	} {
		r := run(t, newStub(), Options{Namespaces: tt.in})
		if r.Namespaces == nil || r.Namespaces.What != tt.want {
			t.Errorf("got %+v, want %q", r.Namespaces, tt.want)
		}
	}
	if r := run(t, newStub(), Options{}); r.Namespaces != nil {
		t.Errorf("got %+v, want nothing said where all are watched", r.Namespaces)
	}
	stub := newStub()
	stub.empty = "namespaces"
	r := run(t, stub, Options{Namespaces: resources.Namespaces{One: "gone"}})
	if res := r.resource(t, "namespaces"); res.Verdict != Problem || !strings.Contains(res.What, "namespace gone does not exist") {
		t.Errorf("got %+v, want the namespace named", res)
	}
}
