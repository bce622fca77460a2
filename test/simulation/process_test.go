package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/agent"
	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/reported"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
)

const (
	clusterID = "d-sim"
	apiserver = "10.0.2.1"
	port      = "20035"
	// snapshotsKept is how many snapshots a server keeps.
	snapshotsKept = 3
	// restartAfter is how long a process that has ended waits for its next start.
	restartAfter = 5 * time.Second
)

// process is a program on a node of its own, which is started again when it ends.
type process struct {
	node string
	net  *network
	// run is one life. It ends with ctx; killed says whether that is a kill.
	run func(ctx context.Context, killed func() bool) error
	log *slog.Logger

	cancel context.CancelFunc
	done   chan struct{} // of the present or last row of lives; nil: there was none
	up     bool

	mu   sync.Mutex
	dead bool
}

// start begins a row of lives, after the one before has ended.
func (p *process) start() {
	if p.up {
		return
	}
	p.up = true
	before := p.done
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	p.cancel, p.done = cancel, done
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		p.setDead(false)
		p.net.revive(p.node)
		for ctx.Err() == nil {
			err := p.run(ctx, p.killed)
			p.log.Info("process ends", "node", p.node, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(restartAfter):
			}
		}
	}()
}

func (p *process) setDead(dead bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = dead
}

func (p *process) killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// stop ends it as SIGTERM does, or as a power cut does. It does not wait.
func (p *process) stop(power bool) {
	if !p.up {
		return
	}
	p.up = false
	if power {
		p.setDead(true)
		p.net.kill(p.node)
	}
	p.cancel()
}

// ended tells whether it has ended, after stop.
func (p *process) ended() bool {
	if p.done == nil {
		return true
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// wait waits for its end, after stop.
func (p *process) wait() {
	if p.done != nil {
		<-p.done
	}
}

// agentProcess is a replica of pseudo-agent.
type agentProcess struct {
	process
	number int
	config func() config.Agent
	seed   func() uint64
	offset atomic.Int64 // of its wall clock, in nanoseconds

	mu     sync.Mutex
	daemon *agent.Daemon // of the present life; nil: there is none
}

func newAgent(number int, n *network, log *slog.Logger, seed func() uint64, cfg func() config.Agent) *agentProcess {
	a := &agentProcess{number: number, config: cfg, seed: seed}
	a.process = process{node: fmt.Sprintf("10.0.0.%d", 1+number), net: n, log: log.With("agent", number), run: a.live}
	return a
}

func (a *agentProcess) live(ctx context.Context, _ func() bool) error {
	cfg := a.config()
	cfg.HighAvailability.Identity = fmt.Sprintf("%s-%d", a.name(), time.Now().UnixNano())
	random := rand.New(rand.NewPCG(a.seed(), 1))
	d, err := agent.NewDaemon(&cfg, agent.Surroundings{
		Cluster: func() (*rest.Config, error) {
			return &rest.Config{
				Host: "http://" + apiserver, QPS: 20, Burst: 40,
				ContentConfig: rest.ContentConfig{ContentType: "application/json"}, // all that the simulator reads
				Dial:          func(ctx context.Context, _, _ string) (net.Conn, error) { return a.net.dial(ctx, a.node, apiserver) },
				Proxy:         func(*http.Request) (*url.URL, error) { return nil, nil }, //nolint:nilnil // there is none
			}, nil
		},
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return a.net.dial(ctx, a.node, host)
		},
		Now:    func() time.Time { return time.Now().Add(time.Duration(a.offset.Load())) },
		Random: random.Float64,
	}, a.log, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	a.set(d)
	defer a.set(nil)
	return d.Run(ctx)
}

func (a *agentProcess) name() string { return fmt.Sprintf("agent-%d", a.number) }

func (a *agentProcess) set(d *agent.Daemon) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.daemon = d
}

// present returns the daemon of the present life, nil if there is none.
func (a *agentProcess) present() *agent.Daemon {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.daemon
}

// serverProcess is a pseudo-server: what receives, keeps and elects.
type serverProcess struct {
	process
	db     *database
	behind []string // addresses of deepflow-servers to which it passes calls on; none: it is the server itself

	mu      sync.Mutex
	elector *elector.Elector // of the present life; nil: there is none
	stands  *upstream.Front  // of the present life; nil: there is none
}

// electing returns what elects in the present life, nil if nothing does.
func (s *serverProcess) electing() *elector.Elector {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.elector
}

func (s *serverProcess) elects(e *elector.Elector) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.elector = e
}

func newServer(number int, n *network, log *slog.Logger, db *database) *serverProcess {
	s := &serverProcess{db: db}
	s.process = process{node: fmt.Sprintf("10.0.1.%d", 1+number), net: n, log: log.With("server", number), run: s.live}
	return s
}

func (s *serverProcess) live(ctx context.Context, killed func() bool) error {
	backend := &handle{db: s.db}
	kept := store.New(backend, store.Options{Keep: snapshotsKept})
	if err := kept.Plan(ctx); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	elect := elector.New(elector.Options{Documents: backend, Workloads: reported.New(kept, time.Now), Logger: s.log, Registerer: registry})
	if err := elect.Load(ctx); err != nil {
		return err
	}
	s.elects(elect)
	defer s.elects(nil)
	recv := receiver.New(receiver.Options{Store: kept, Elector: elect, Version: "sim", Logger: s.log, Registerer: registry})
	listener := s.net.listen(s.node)
	var server *grpc.Server
	if len(s.behind) == 0 {
		server = recv.NewGRPCServer(nil)
	} else {
		front, err := s.front(upstream.Options{
			ReportMode: receiver.PassMend, MaxMessageSize: 100 << 20, MaxClusters: 10, Elector: elect, Reports: recv, Version: "sim", Logger: s.log,
		})
		if err != nil {
			return err
		}
		defer func() { _ = front.Close() }()
		s.stand(front)
		defer s.stand(nil)
		server = front.NewGRPCServer(nil)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Serve(recv.LimitConnections(listener)) })
	g.Go(func() error { return recv.Run(ctx) })
	g.Go(func() error { return elect.Run(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		if killed() {
			backend.kill()
			server.Stop()
			return nil
		}
		timer := time.AfterFunc(10*time.Second, server.Stop)
		defer timer.Stop()
		server.GracefulStop()
		return nil
	})
	return g.Wait()
}
