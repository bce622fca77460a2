package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/protocol"
)

// TLS is our side of the connections to the deepflow-servers. The files are read at each connection.
type TLS struct {
	Enabled bool
	// CAFile holds the certificates that sign the servers'; empty: the system's.
	CAFile string
	// CertFile and KeyFile are our own certificate, for mTLS.
	CertFile, KeyFile string
	// ServerName is the name that the server's certificate must have; empty: that of the address.
	ServerName string
}

// config reads the files.
func (t TLS) config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("upstream.tls.ca_file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("upstream.tls.ca_file %s has no certificate in PEM", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("upstream.tls.cert_file %s and key_file %s: %w", t.CertFile, t.KeyFile, err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// credentials returns what connects by the present content of the files.
func (t TLS) credentials() (credentials.TransportCredentials, error) {
	if !t.Enabled {
		return insecure.NewCredentials(), nil
	}
	cfg, err := t.config()
	if err != nil {
		return nil, err
	}
	return &freshTLS{TransportCredentials: credentials.NewTLS(cfg), files: t}, nil
}

// freshTLS reads the files at each handshake, so that renewed certificates need no restart.
type freshTLS struct {
	credentials.TransportCredentials
	files TLS
}

// ClientHandshake implements credentials.TransportCredentials.
func (f *freshTLS) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg, err := f.files.config()
	if err != nil {
		return nil, nil, err
	}
	c, info, err := credentials.NewTLS(cfg).ClientHandshake(ctx, authority, conn)
	return c, info, protocol.ExplainHandshake(err)
}

// Clone implements credentials.TransportCredentials.
func (f *freshTLS) Clone() credentials.TransportCredentials {
	return &freshTLS{TransportCredentials: f.TransportCredentials.Clone(), files: f.files}
}

// streamsPerConnection is how many calls share a connection to a server before another one is opened: what is between
// us and the server may allow 100 streams (the least that HTTP/2 recommends), and Push streams stay open.
const streamsPerConnection = 90

// Bounds of a server that takes connections but answers nothing. It rests for much longer than the time between two calls of an agent that
// tries one server after the other: otherwise each of its calls would find this one well again.
const (
	maxUnanswered = 3                // calls in a row that ended by their deadline without any answer
	restAfter     = 10 * time.Minute // how long it gets no calls then, if there is another server
)

// backend is one deepflow-server.
type backend struct {
	address string
	dial    func() (*grpc.ClientConn, error)
	now     func() time.Time

	mu         sync.Mutex
	conns      []*pooled
	unanswered int
	resting    time.Time // until then
	lastError  string
}

type pooled struct {
	conn *grpc.ClientConn
	open int
	// retired: no call is sent over it any more.
	retired bool
}

func newBackend(address string, creds credentials.TransportCredentials, opts *Options) (*backend, error) {
	b := &backend{address: address, now: opts.Now}
	var dial []grpc.DialOption
	if opts.Dial != nil {
		dial = append(dial, grpc.WithContextDialer(opts.Dial))
	}
	b.dial = func() (*grpc.ClientConn, error) {
		return grpc.NewClient("dns:///"+address, append(slices.Clip(dial),
			grpc.WithTransportCredentials(creds), grpc.WithStatsHandler(encodingHandler{}), grpc.WithUserAgent("pseudo-server"),
			grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(connectionWindow),
			grpc.WithReadBufferSize(16<<10), grpc.WithWriteBufferSize(16<<10), grpc.WithMaxHeaderListSize(maxHeader),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff: backoff.Config{BaseDelay: 500 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 10 * time.Second}, MinConnectTimeout: 5 * time.Second,
			}),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(opts.MaxMessageSize), grpc.MaxCallSendMsgSize(opts.MaxMessageSize)),
		)...)
	}
	first, err := b.dial()
	if err != nil {
		return nil, fmt.Errorf("upstream address %q: %w", address, err)
	}
	first.Connect()
	b.conns = []*pooled{{conn: first}}
	return b, nil
}

// take returns a connection with room for one more call; the caller gives it back.
func (b *backend) take() (*pooled, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.conns {
		if p.open < streamsPerConnection && !p.retired {
			p.open++
			return p, nil
		}
	}
	conn, err := b.dial()
	if err != nil {
		return nil, err
	}
	p := &pooled{conn: conn, open: 1}
	b.conns = append(b.conns, p)
	return p, nil
}

// give takes a connection back. All but the first are closed once nobody uses them.
func (b *backend) give(p *pooled) {
	b.mu.Lock()
	p.open--
	idle := p.open == 0 && p != b.conns[0]
	if idle {
		b.conns = slices.DeleteFunc(b.conns, func(o *pooled) bool { return o == p })
	}
	b.mu.Unlock()
	if idle {
		_ = p.conn.Close() // it carries no call
	}
}

// healthy tells whether calls may be sent to it: a connection is there or is being made, and calls are answered.
func (b *backend) healthy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.now().Before(b.resting) {
		return false
	}
	switch b.conns[0].conn.GetState() {
	case connectivity.TransientFailure, connectivity.Shutdown:
		return false
	case connectivity.Idle:
		b.conns[0].conn.Connect()
		return b.lastError == ""
	default:
		return true
	}
}

// note learns from the end of a call; answered says that the server sent anything.
func (b *backend) note(err error, answered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	code := status.Code(err)
	switch {
	case answered:
		b.unanswered, b.lastError, b.resting = 0, "", time.Time{}
	case code == codes.DeadlineExceeded:
		if b.unanswered++; b.unanswered >= maxUnanswered {
			b.resting, b.unanswered = b.now().Add(restAfter), maxUnanswered-1 // one more is enough next time
			b.lastError = "calls end by their deadline without an answer"
			b.renew()
		}
	case code == codes.Unavailable:
		b.lastError = status.Convert(err).Message()
	}
}

// renew begins new connections and leaves the present ones to the calls that are under way: a firewall or a load balancer on the way may have
// forgotten them, so that nothing arrives any more and nobody says so. b is locked.
func (b *backend) renew() {
	fresh, err := b.dial()
	if err != nil {
		return // the present ones go on
	}
	fresh.Connect()
	before := b.conns
	b.conns = []*pooled{{conn: fresh}}
	for _, p := range before {
		if p.open == 0 {
			_ = p.conn.Close() // it carries no call
			continue
		}
		p.retired = true
		b.conns = append(b.conns, p)
	}
}

// rests returns until when it rests; a time in the past, or none: it does not.
func (b *backend) rests() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.resting
}

func (b *backend) problem() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lastError == "" {
		return "no connection"
	}
	return b.lastError
}

func (b *backend) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, p := range b.conns {
		errs = append(errs, p.conn.Close())
	}
	return errors.Join(errs...)
}

// choice keeps each cluster on one server.
type choice struct {
	backends []*backend
	limit    int

	mu     sync.Mutex
	sticky map[string]*backend
}

// unhealthy is the health of a server that is tried after all others.
const unhealthy = 2

// order returns the servers in the order in which a call of a cluster tries them: the one that it is on while that is
// healthy, then the healthy ones in an order that each replica finds alike, then the others, of which the one that has answered nothing
// for the longest time comes first: it may be well again.
func (c *choice) order(key string) []*backend {
	c.mu.Lock()
	defer c.mu.Unlock()
	rank := func(b *backend) uint64 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(key + "\x00" + b.address)) // cannot fail
		return h.Sum64()
	}
	list := slices.Clone(c.backends)
	stays := c.sticky[key]
	health, rests := make(map[*backend]int, len(list)), make(map[*backend]time.Time, len(list))
	for _, b := range list {
		rests[b] = b.rests()
		switch {
		case !b.healthy():
			health[b] = unhealthy
		case b != stays:
			health[b] = 1
		}
	}
	slices.SortStableFunc(list, func(a, b *backend) int {
		if health[a] != health[b] {
			return health[a] - health[b]
		}
		if until := rests[a].Compare(rests[b]); until != 0 && health[a] == unhealthy {
			return until
		}
		if rank(a) < rank(b) {
			return -1
		}
		return 1
	})
	return list
}

// stay notes that a cluster's calls are taken by a server. It returns the one before if that is another.
func (c *choice) stay(key string, b *backend) *backend {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.sticky[key]
	if before == b {
		return nil
	}
	if before == nil && len(c.sticky) >= c.limit {
		clear(c.sticky) // they are found again by their rank
	}
	c.sticky[key] = b
	return before
}
