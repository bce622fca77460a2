// Package loadserver serves a made-up cluster as a kube-apiserver would, for benchmarks: discovery, /version, lists (paged
// or in one piece, compressed as apiservers do), watches with bookmarks and streaming lists, in JSON and protobuf, over TLS
// and HTTP/2.
//
// It relies on cluster for the objects, which it keeps encoded, so that serving costs little beside the client's work. A
// second, plain HTTP port controls it: events on command, watches that expire, lists that are held back. It promises what
// a reflector relies on: one order of resourceVersions, no event lost or repeated after the one a client asked from.
package loadserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
)

// Ready is what a load server says of itself when it serves.
type Ready struct {
	URL        string `json:"url"`
	Kubeconfig string `json:"kubeconfig"`
	Control    string `json:"control"` // base URL
	Pods       int    `json:"pods"`
	Others     int    `json:"others"`
}

// Stats is what clients have asked for since the last reset.
type Stats struct {
	// Requests by what they ask for: list, watch, discovery, version or other.
	Requests map[string]int `json:"requests"`
	// Bytes sent to them, TLS and framing included.
	Bytes int64 `json:"bytes"`
	// Watches that are open and past their initial events.
	Watches int `json:"watches"`
}

// Churn is what one burst of events was.
type Churn struct {
	Published time.Time `json:"published"` // when the first event could be sent
	Events    int       `json:"events"`
}

// Server is one load server.
type Server struct {
	store     *store
	streaming atomic.Bool
	watches   atomic.Int64
	bytes     atomic.Int64

	mu       sync.Mutex
	requests map[string]int
	held     chan struct{} // closed when lists may be answered
}

// New encodes the whole cluster.
func New(c *cluster.Cluster) (*Server, error) {
	st, err := newStore(c)
	if err != nil {
		return nil, err
	}
	open := make(chan struct{})
	close(open)
	s := &Server{store: st, requests: map[string]int{}, held: open}
	s.streaming.Store(true)
	return s, nil
}

// Run serves until ctx ends. It writes a kubeconfig to dir and calls ready when clients can come.
func (s *Server) Run(ctx context.Context, dir string, ready func(Ready) error) error {
	cert, ca, err := selfSigned()
	if err != nil {
		return err
	}
	api, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r := Ready{
		URL: "https://" + api.Addr().String(), Kubeconfig: filepath.Join(dir, "kubeconfig"), Control: "http://" + control.Addr().String(),
		Pods: len(s.store.find("", "v1", "pods").objects),
	}
	for _, c := range s.store.collections {
		r.Others += len(c.objects)
	}
	r.Others -= r.Pods
	if err := writeKubeconfig(r.Kubeconfig, r.URL, ca); err != nil {
		return err
	}
	apiServer := &http.Server{
		Handler: http.HandlerFunc(s.serveAPI), ReadHeaderTimeout: time.Minute,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}},
	}
	controlServer := &http.Server{Handler: s.control(), ReadHeaderTimeout: time.Minute}
	failed := make(chan error, 2)
	go func() { failed <- apiServer.ServeTLS(&countingListener{api, &s.bytes}, "", "") }()
	go func() { failed <- controlServer.Serve(control) }()
	err = ready(r)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	return errors.Join(err, apiServer.Close(), controlServer.Close())
}

// control is the API by which the benchmark steers the server.
func (s *Server) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /churn", s.churn)
	mux.HandleFunc("POST /expire", func(w http.ResponseWriter, _ *http.Request) {
		for _, c := range s.store.collections {
			c.expire()
		}
		writeJSON(w, struct{}{})
	})
	mux.HandleFunc("POST /hold", func(w http.ResponseWriter, r *http.Request) {
		s.hold(r.FormValue("on") == "true")
		writeJSON(w, struct{}{})
	})
	mux.HandleFunc("POST /streaming", func(w http.ResponseWriter, r *http.Request) {
		s.streaming.Store(r.FormValue("on") == "true")
		writeJSON(w, struct{}{})
	})
	mux.HandleFunc("POST /protobuf", func(w http.ResponseWriter, r *http.Request) {
		if err := s.store.serveProtobuf(r.FormValue("on") == "true"); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, struct{}{})
	})
	mux.HandleFunc("POST /reset", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		s.requests = map[string]int{}
		s.mu.Unlock()
		s.bytes.Store(0)
		writeJSON(w, struct{}{})
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		writeJSON(w, Stats{Requests: s.requests, Bytes: s.bytes.Load(), Watches: int(s.watches.Load())})
	})
	return mux
}

// churn publishes count modifications of Pods at once; with touch=true such as need not be reported.
func (s *Server) churn(w http.ResponseWriter, r *http.Request) {
	count, err := strconv.Atoi(r.FormValue("count"))
	if err != nil || count < 1 {
		http.Error(w, "count must be a positive number", http.StatusBadRequest)
		return
	}
	c := s.store.find("", "v1", "pods")
	next, places, err := s.store.prepare(c, count, r.FormValue("touch") == "true")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	done := Churn{Published: time.Now(), Events: count}
	c.publish(next, places)
	writeJSON(w, done)
}

// hold keeps all lists waiting, or lets them go.
func (s *Server) hold(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.held:
		if on {
			s.held = make(chan struct{})
		}
	default:
		if !on {
			close(s.held)
		}
	}
}

// wait returns true when lists may be answered, false if ctx ends before.
func (s *Server) wait(ctx context.Context) bool {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	select {
	case <-held:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Server) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[what]++
}

func emptyObject(k cluster.Kind) (cluster.Object, error) {
	objects := map[string]cluster.Object{
		"Node": &corev1.Node{}, "Namespace": &corev1.Namespace{}, "Pod": &corev1.Pod{}, "Service": &corev1.Service{},
		"ReplicationController": &corev1.ReplicationController{}, "DaemonSet": &appsv1.DaemonSet{}, "Deployment": &appsv1.Deployment{},
		"ReplicaSet": &appsv1.ReplicaSet{}, "StatefulSet": &appsv1.StatefulSet{}, "Ingress": &networkingv1.Ingress{},
	}
	if o := objects[k.Kind]; o != nil {
		return o, nil
	}
	return nil, fmt.Errorf("no type for %s", k.Kind)
}

// selfSigned makes the server's certificate and its PEM form.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "loadserver"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, ca, nil
}

func writeKubeconfig(path, url string, ca []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"bench": {Server: url, CertificateAuthorityData: ca}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"bench": {Token: "bench"}},
		Contexts:       map[string]*clientcmdapi.Context{"bench": {Cluster: "bench", AuthInfo: "bench"}},
		CurrentContext: "bench",
	}, path)
}

// countingListener counts what is sent.
type countingListener struct {
	net.Listener
	sent *atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countingConn{c, l.sent}, nil
}

type countingConn struct {
	net.Conn
	sent *atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}
