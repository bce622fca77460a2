package reporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/faultserver"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// proxy is a TCP proxy that cuts, delays and halves connections while it is bad.
type proxy struct {
	t        *testing.T
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex
	rnd   *rand.Rand
	bad   bool
	conns map[net.Conn]bool
	cuts  int
}

func newProxy(t *testing.T, target string, seed uint64) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: l, target: target, rnd: rand.New(rand.NewPCG(seed, 9)), bad: true, conns: map[net.Conn]bool{}}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.cutAll()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) draw(n int) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rnd.IntN(n), p.bad
}

func (p *proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[server] = true, true
	p.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(client, server) })
	wg.Go(func() { p.pump(server, client) })
	wg.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

// pump copies from one side to the other; while the proxy is bad, some pieces are late, cut short, or swallowed together
// with everything behind them in this direction.
func (p *proxy) pump(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		what, bad := p.draw(25)
		switch {
		case !bad:
		case what == 0:
			p.mu.Lock()
			p.cuts++
			p.mu.Unlock()
			_, _ = to.Write(buf[:n/2])
			return
		case what == 1:
			p.mu.Lock()
			p.cuts++
			p.mu.Unlock()
			_, _ = io.Copy(io.Discard, from) // the other direction goes on, until somebody gives up
			return
		case what < 6:
			time.Sleep(time.Duration(what) * 40 * time.Millisecond)
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// backend is a server behind the proxy.
type backend struct {
	address string
	// held returns version, content as by wireOf, and error_msg of the test's cluster.
	held func() (uint64, string, string)
}

func faultBackend(t *testing.T, seen func(*agent.KubernetesAPISyncRequest)) backend {
	t.Helper()
	f := &faultserver.Server{Seen: seen}
	return backend{serve(t, f), func() (uint64, string, string) {
		h := f.Held(testCluster)
		if h == nil {
			return 0, "", ""
		}
		return h.Version, wireOf(h.Entries), h.ErrorMsg
	}}
}

func receiverBackend(t *testing.T, _ func(*agent.KubernetesAPISyncRequest)) backend {
	t.Helper()
	st := store.New(store.NewMemory(), store.Options{Keep: 1})
	r := receiver.New(receiver.Options{Store: st, Version: "test", Logger: quiet(), Limits: receiver.Limits{RequestsPerMinute: 60000}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := r.NewGRPCServer(nil)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return backend{l.Addr().String(), func() (uint64, string, string) {
		v, err := st.View(context.Background(), testCluster)
		if err != nil {
			return 0, err.Error(), ""
		}
		payloads, err := st.Payloads(context.Background(), testCluster, v.Entries)
		if err != nil {
			return 0, err.Error(), ""
		}
		var lines []string
		for i, e := range v.Entries {
			lines = append(lines, fmt.Sprintf("%s %d %x\n", e.Type, len(payloads[i]), payloads[i]))
		}
		return v.State.Latest.Version, sorted(lines), v.State.ErrorMsg
	}}
}

// sorted makes contents comparable between servers that keep entries in different orders.
func sorted(lines []string) string {
	out := strings.Join(lines, "")
	parts := strings.SplitAfter(out, "\n")
	for i := 1; i < len(parts); i++ {
		for j := i; j > 0 && parts[j] < parts[j-1]; j-- {
			parts[j], parts[j-1] = parts[j-1], parts[j]
		}
	}
	return strings.Join(parts, "")
}

// TestBadConnections reports over real sockets through a proxy that cuts, delays and halves connections, while the
// content changes; afterwards the server ends with exactly the current content. No time is asserted: the test waits as
// long as it is let.
func TestBadConnections(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes ten seconds of real time")
	}
	for name, start := range map[string]func(*testing.T, func(*agent.KubernetesAPISyncRequest)) backend{
		"fault server": faultBackend, "receiver": receiverBackend,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := testseed.New(t)
			rnd := rand.New(rand.NewPCG(seed, 8))
			var mu sync.Mutex
			contents := map[uint64]string{}
			b := start(t, func(r *agent.KubernetesAPISyncRequest) {
				mu.Lock()
				defer mu.Unlock()
				if len(r.GetEntries()) > 0 && contents[r.GetVersion()] != wireOf(r.GetEntries()) {
					t.Errorf("version %d came with other content than it was taken with", r.GetVersion())
				}
			})
			p := newProxy(t, b.address, seed)
			src := newSource(nil)
			src.onTake = func(s *snapshot.Snapshot) {
				mu.Lock()
				defer mu.Unlock()
				contents[s.Version()] = wireOfSnapshot(s)
			}
			seedContent(src)
			for n := range 200 {
				src.Upsert("pods", testEntry("*v1.Pod", n, incompressible(n, 500)))
			}
			opts := Options{
				Source: src, Logger: quiet(), Addresses: []string{p.listener.Addr().String()}, ClusterID: testCluster,
				Debounce: time.Millisecond, PushInterval: time.Second, HeartbeatInterval: time.Second, ClaimWatcher: true,
				ConnectTimeout: time.Second, RequestTimeout: time.Second, ShutdownTimeout: 10 * time.Second, Host: "h",
			}
			if err := opts.complete(); err != nil {
				t.Fatal(err)
			}
			r := newReporter(opts, newClient(&opts), func() float64 { return .02 }) // short backoffs, many attempts
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			for range 100 {
				time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
				src.Upsert("pods", testEntry("*v1.Pod", rnd.IntN(200), incompressible(rnd.Int(), 500)))
			}
			p.mu.Lock()
			p.bad = false
			cuts := p.cuts
			p.mu.Unlock()
			p.cutAll() // what was swallowed stays swallowed
			if cuts == 0 {
				t.Error("the proxy has harmed nothing")
			}
			for begin := time.Now(); ; {
				time.Sleep(50 * time.Millisecond)
				st := r.Status()
				if time.Since(begin) > time.Minute {
					t.Fatalf("not synced a minute after the faults ended: %+v", st)
				}
				if st.State == string(stateSynced) && !st.Pending && st.Acknowledged == src.Fold.Take().Version() {
					break
				}
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			cur := src.Fold.Take()
			version, content, errMsg := b.held()
			if version != cur.Version() || sorted([]string{content}) != sorted([]string{wireOfSnapshot(cur)}) || errMsg != "" {
				t.Errorf("got version %d, %d bytes, error %q, want version %d, %d bytes", version, len(content), errMsg, cur.Version(), len(wireOfSnapshot(cur)))
			}
			if os.Getenv("PSEUDO_TEST_VERBOSE") != "" {
				t.Logf("cuts %d, status %+v", cuts, r.Status())
			}
		})
	}
}
