package reporter

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/faultserver"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/resources"
	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

const testCluster = "d-test"

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// testSource is a Source over a real fold, whose completeness and errors the test sets.
type testSource struct {
	*snapshot.Fold

	mu       sync.Mutex
	complete bool
	problems []string
	onTake   func(*snapshot.Snapshot)
}

func newSource(now func() time.Time) *testSource {
	return &testSource{Fold: snapshot.New(now), complete: true}
}

func (s *testSource) State(time.Time) (bool, []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.complete, s.problems
}

func (s *testSource) set(complete bool, problems ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complete, s.problems = complete, problems
}

func (s *testSource) Take() *snapshot.Snapshot {
	snap := s.Fold.Take()
	if s.onTake != nil {
		s.onTake(snap)
	}
	return snap
}

var testEncoder = struct {
	sync.Mutex
	*resources.Encoder
}{Encoder: resources.NewEncoder()}

func testUID(n int) resources.UID {
	var u resources.UID
	binary.BigEndian.PutUint64(u[:8], uint64(n)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(u[8:], uint64(n))
	return u
}

func testEntry(wireType string, n int, content string) *resources.Entry {
	testEncoder.Lock()
	defer testEncoder.Unlock()
	return testEncoder.Encode(resources.Content{
		WireType: wireType, UID: testUID(n), JSON: fmt.Appendf(nil, `{"gitVersion":"v1","metadata":{"uid":"%d","name":"n%d","namespace":"ns"},"c":%q}`, n, n, content),
	}, nil)
}

// seedContent gives the source the least that a report holds.
func seedContent(s *testSource) {
	s.Replace("version", []*resources.Entry{testEntry("*version.Info", 1_000_000, "v1.35.0")})
	s.Replace("pods", []*resources.Entry{testEntry("*v1.Pod", 1, "a"), testEntry("*v1.Pod", 2, "a")})
}

// wireOf is the content of entries as one comparable string.
func wireOf(entries []*agent.KubernetesAPIInfo) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%s %d %x\n", e.GetType(), len(e.GetCompressedInfo()), e.GetCompressedInfo())
	}
	return b.String()
}

func wireOfSnapshot(s *snapshot.Snapshot) string {
	var raw bytes.Buffer
	for e := range s.All() {
		raw.WriteString(e.Wire())
	}
	var r agent.KubernetesAPISyncRequest
	if err := proto.Unmarshal(raw.Bytes(), &r); err != nil {
		return "undecodable: " + err.Error()
	}
	return wireOf(r.GetEntries())
}

// memNet is the network between a reporter and some servers, without sockets.
type memNet struct {
	servers  []*memServer
	opts     *Options
	index    int
	connects atomic.Int64
	under    atomic.Int64 // connects under way
}

// memServer is one server as the network sees it.
type memServer struct {
	*faultserver.Server

	mu       sync.Mutex
	down     bool // connections are refused
	hole     bool // connections and requests get no answer
	late     bool // with hole, a connection stands at the moment it is given up
	pseudo   bool
	answered func(version uint64) // if set, is told what is answered to reports
	syncErr  error
	claims   []claim
	sessions map[*memSession]bool
	requests int
	bytes    int
}

func newMemServer() *memServer {
	return &memServer{Server: &faultserver.Server{}, sessions: map[*memSession]bool{}}
}

func (s *memServer) set(f func(*memServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// cut closes every connection.
func (s *memServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.sessions {
		c.end()
	}
	s.sessions = map[*memSession]bool{}
}

func (n *memNet) next() { n.index = (n.index + 1) % len(n.servers) }

func (n *memNet) connect(ctx context.Context) (session, error) {
	n.connects.Add(1)
	if n.under.Add(1) > 1 {
		panic("two connects at a time")
	}
	defer n.under.Add(-1)
	s := n.servers[n.index]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hole {
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		if !s.late {
			return nil, &stageError{causeConnect, ctx.Err()}
		}
	}
	if s.down {
		return nil, &stageError{causeConnect, errors.New("connection refused")}
	}
	c := &memSession{server: s, opts: n.opts, gone: make(chan struct{}), name: fmt.Sprintf("server-%d", n.index)}
	s.sessions[c] = true
	return c, nil
}

type memSession struct {
	server *memServer
	opts   *Options
	name   string
	once   sync.Once
	gone   chan struct{}
}

func (c *memSession) end() { c.once.Do(func() { close(c.gone) }) }

func (c *memSession) lost() <-chan struct{} { return c.gone }

func (c *memSession) pseudoServer() bool { return c.server.pseudo }

func (c *memSession) peer() peerInfo {
	return peerInfo{server: c.name, address: c.name, service: "agent.Synchronizer", sourceIP: "10.0.0.1"}
}

func (c *memSession) close() {
	c.end()
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	delete(c.server.sessions, c)
}

// call runs f unless or until the connection is cut.
func (c *memSession) call(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-c.gone:
		return status.Error(codes.Unavailable, "connection is gone")
	default:
	}
	c.server.mu.Lock()
	hole := c.server.hole
	c.server.mu.Unlock()
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		if hole {
			<-ctx.Done()
			err = status.FromContextError(ctx.Err()).Err()
			return
		}
		err = f(ctx)
	}()
	select {
	case <-done:
		return err
	case <-c.gone:
		cancel()
		<-done
		return status.Error(codes.Unavailable, "connection reset")
	}
}

func (c *memSession) report(ctx context.Context, r *report) (uint64, error) {
	h := r.header()
	ip := c.peer().sourceIP
	h.SourceIp = &ip
	buffers, err := newCodec().Marshal(&message{header: h, entries: r.entries})
	if err != nil {
		return 0, err
	}
	raw := buffers.Materialize()
	var req agent.KubernetesAPISyncRequest
	if err := proto.Unmarshal(raw, &req); err != nil {
		return 0, err
	}
	c.server.mu.Lock()
	c.server.requests++
	c.server.bytes += len(raw)
	c.server.mu.Unlock()
	var version uint64
	err = c.call(ctx, func(ctx context.Context) error {
		answer, err := c.server.KubernetesAPISync(ctx, &req)
		version = answer.GetVersion()
		return err
	})
	if err == nil && c.server.answered != nil {
		c.server.answered(version)
	}
	return version, err
}

func (c *memSession) sync(ctx context.Context, cl claim) (syncAnswer, error) {
	var a syncAnswer
	err := c.call(ctx, func(ctx context.Context) error {
		c.server.mu.Lock()
		c.server.claims = append(c.server.claims, cl)
		err := c.server.syncErr
		c.server.mu.Unlock()
		if err != nil {
			return err
		}
		answer, err := c.server.Sync(ctx, &agent.SyncRequest{
			KubernetesWatchPolicy: &cl.policy, KubernetesForceWatch: &cl.force, KubernetesClusterId: &cl.clusterID, CtrlMac: &cl.ctrlMAC,
		})
		if err != nil {
			return err
		}
		a = syncAnswer{
			status: answer.GetStatus(), decided: answer.GetDynamicConfig() != nil,
			watch: answer.GetDynamicConfig().GetKubernetesApiEnabled(), userConfig: answer.UserConfig,
		}
		return nil
	})
	return a, err
}

func (c *memSession) clusterID(ctx context.Context, md5 string) (string, error) {
	var id string
	err := c.call(ctx, func(ctx context.Context) error {
		answer, err := c.server.GetKubernetesClusterID(ctx, &agent.KubernetesClusterIDRequest{CaMd5: &md5})
		id = answer.GetClusterId()
		return err
	})
	return id, err
}

// pass lets synthetic time pass, and then everybody come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// run is a reporter that runs in the background of a test.
type run struct {
	*Reporter
	cancel context.CancelFunc
	done   chan struct{}
}

func (r *run) stop() {
	r.cancel()
	<-r.done
}

// start runs a reporter against servers; it ends with the test.
func start(t *testing.T, opts Options, random func() float64, servers ...*memServer) *run {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = quiet()
	}
	if opts.ClusterID == "" && opts.CAFile == "" {
		opts.ClusterID = testCluster
	}
	opts.Addresses = []string{"model:1"}
	opts.Host = "host"
	if err := opts.complete(); err != nil {
		t.Fatal(err)
	}
	if random == nil {
		random = func() float64 { return 1 }
	}
	r := newReporter(opts, nil, random)
	r.net = &memNet{servers: servers, opts: &r.opts}
	ctx, cancel := context.WithCancel(t.Context())
	out := &run{Reporter: r, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(out.done)
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run: got error %v, want nil", err)
		}
	}()
	return out
}

// recorder keeps the requests that a server has seen.
type recorder struct {
	mu   sync.Mutex
	list []seen
}

type seen struct {
	at      time.Time
	version uint64
	errMsg  string
	entries int
	agentID uint32
	wire    string
}

func (r *recorder) see(req *agent.KubernetesAPISyncRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, seen{
		at: time.Now(), version: req.GetVersion(), errMsg: req.GetErrorMsg(), entries: len(req.GetEntries()),
		agentID: req.GetAgentId(), wire: wireOf(req.GetEntries()),
	})
}

// take returns what was seen since the last take.
func (r *recorder) take() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.list
	r.list = nil
	return l
}

// kinds writes requests as "probe full heartbeat error+ error", error+ being one with entries.
func kinds(l []seen) string {
	var out []string
	for _, s := range l {
		switch {
		case s.errMsg != "" && s.entries > 0:
			out = append(out, "error+")
		case s.errMsg != "":
			out = append(out, "error")
		case s.entries > 0:
			out = append(out, "full")
		case s.version == probeVersion:
			out = append(out, "probe")
		default:
			out = append(out, "empty")
		}
	}
	return strings.Join(out, " ")
}
