package upstream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
)

// TestHistories plays random histories through real sockets: agents come, end without a word and come back, both servers
// forget, fail and answer HEARTBEAT, the front restarts, time passes. At times a server tells everybody to watch.
//
// Invariant: at no moment two agents watch.
func TestHistories(t *testing.T) {
	for range testseed.Rounds(t, 20) {
		rng := rand.New(rand.NewPCG(testseed.New(t), 3))
		opts := elector.Options{Designations: map[string][]elector.Designation{"d-test": {{Workload: "deepflow/Deployment/watcher"}}}}
		r := newRig(t, 2, upstream.Options{}, opts)
		pods := 0
		pod := func() string {
			pods++
			return fmt.Sprintf("watcher-6d5f8b9c4-x7k2%c", "bcdfghjklmnpqrstvwxz"[pods%20])
		}
		agents := []*standIn{
			r.agent("node-1", "10.0.0.1", normal), r.agent("node-2", "10.0.0.2", normal), r.agent("sidecar", "10.0.0.1", disabled),
			r.agent("deployment", "10.0.0.1", watchOnly), r.agent(pod(), "10.0.0.2", watchOnly),
		}
		agents[1].old = true
		until := map[*standIn]time.Duration{}
		for range 150 {
			a := agents[rng.IntN(len(agents))]
			switch rng.IntN(12) {
			case 0:
				d := r.servers[rng.IntN(2)]
				d.forget()
				d.stubborn.Store(rng.IntN(2) == 0)
			case 1:
				d := r.servers[rng.IntN(2)]
				d.broken.Store(!d.broken.Load())
			case 2:
				d := r.servers[rng.IntN(2)]
				d.mu.Lock()
				d.status = []agent.Status{agent.Status_SUCCESS, agent.Status_SUCCESS, agent.Status_HEARTBEAT, agent.Status_FAILED}[rng.IntN(4)]
				d.mu.Unlock()
			case 3:
				if rng.IntN(5) > 0 {
					break
				}
				r.stop()
				r.start(opts)
				for _, o := range agents {
					o.conn = dial(t, r.address)
				}
			case 4: // the designated Pod is replaced; the former one ends without a word
				if rng.IntN(3) == 0 {
					next := r.agent(pod(), "10.0.0.2", watchOnly)
					agents[4].watch = false
					agents[4] = next
				}
			case 5:
				r.pass(time.Duration(rng.IntN(60)) * time.Second)
			default:
				before := a.watch
				a.sync()
				if a.watch && a.told {
					until[a] = time.Duration(r.elapsed.Load()) + 9*time.Minute
				}
				if a.watch && !before && a.req.GetKubernetesWatchPolicy() == disabled {
					t.Fatal("a disabled agent is told to watch")
				}
			}
			// An agent that hears nothing stops by itself.
			for _, o := range agents {
				if o.watch && time.Duration(r.elapsed.Load()) > until[o] {
					o.watch = false
				}
			}
			r.atMostOne(agents...)
		}
		r.stop()
	}
}

// certificate writes a self-signed certificate, which is its own CA.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = t.TempDir()+"/tls.crt", t.TempDir()+"/tls.key"
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: kder}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestMutualTLS: the server wants a certificate of ours, and we know its.
func TestMutualTLS(t *testing.T) {
	serverCert, serverKey := certificate(t, "server")
	clientCert, clientKey := certificate(t, "front")
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(clientCert)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &deepflow{now: func() time.Duration { return 0 }, registered: map[string]bool{}}
	d.forget()
	server := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}), grpc.UnknownServiceHandler(d.handle), grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	})))
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	for name, c := range map[string]struct {
		tls upstream.TLS
		ok  bool
	}{
		"both know each other": {upstream.TLS{Enabled: true, CAFile: serverCert, CertFile: clientCert, KeyFile: clientKey}, true},
		"no certificate":       {upstream.TLS{Enabled: true, CAFile: serverCert}, false},
		"unknown server":       {upstream.TLS{Enabled: true, CAFile: clientCert, CertFile: clientCert, KeyFile: clientKey}, false},
		"plain text":           {upstream.TLS{}, false},
	} {
		r := newRig(t, 0, upstream.Options{Addresses: []string{l.Addr().String()}, TLS: c.tls}, elector.Options{})
		a := r.agent("a", "10.0.0.1", normal)
		if a.sync(); (a.err == nil) != c.ok || a.watch != c.ok {
			t.Errorf("%s: watches %v, %v", name, a.watch, a.err)
		}
		// The state of the connection is noted beside the call. Who is refused for its certificate learns that from the first
		// call only (TLS 1.3), and has a connection until then.
		wrong := func() bool { return r.front.Status().Servers[0].Healthy && !c.ok && name != "no certificate" }
		for end := time.Now().Add(10 * time.Second); wrong() && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if wrong() {
			t.Errorf("%s: the server counts as healthy", name)
		}
		r.stop()
	}
}

// TestNoALPN: what ends TLS before the server knows nothing of HTTP/2. The problem that is shown has the way out.
func TestNoALPN(t *testing.T) {
	cert, key := certificate(t, "balancer")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { _, _ = io.Copy(io.Discard, conn); _ = conn.Close() })
		}
	})
	t.Cleanup(func() { _ = l.Close(); served.Wait() })
	r := newRig(t, 0, upstream.Options{Addresses: []string{l.Addr().String()}, TLS: upstream.TLS{Enabled: true, CAFile: cert}}, elector.Options{})
	defer r.stop()
	a := r.agent("a", "10.0.0.1", normal)
	a.sync()
	if text := fmt.Sprint(a.err, r.front.Status().Servers); !strings.Contains(text, protocol.NoALPNAdvice) {
		t.Errorf("got %s, want the way out in it", text)
	}
}
