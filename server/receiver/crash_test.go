package receiver_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// The victim is this test binary, run again as a server that can be killed. It prints its address and serves until
// its standard input ends.
const (
	victimStore  = "PSEUDO_TEST_VICTIM_STORE" // "embedded PATH" or "postgres DSN"
	victimListen = "PSEUDO_TEST_VICTIM_LISTEN"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimStore) != "" {
		if err := victim(); err != nil {
			fmt.Fprintln(os.Stderr, "victim:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const victimKeep = 3

func openStore(spec string) (*store.Store, error) {
	kind, where, _ := strings.Cut(spec, " ")
	var b store.Backend
	var err error
	if kind == "embedded" {
		b, err = store.OpenEmbedded(where)
	} else {
		b, err = store.OpenPostgres(context.Background(), where, 8)
	}
	if err != nil {
		return nil, err
	}
	return store.New(b, store.Options{Keep: victimKeep}), nil
}

func victim() error {
	s, err := openStore(os.Getenv(victimStore))
	if err != nil {
		return err
	}
	address := os.Getenv(victimListen)
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	recv := receiver.New(receiver.Options{
		Store: s, Version: "victim", Logger: slog.New(slog.DiscardHandler),
		Limits: receiver.Limits{RequestsPerMinute: 600000},
	})
	server := recv.NewGRPCServer(nil)
	fmt.Println(l.Addr())
	// Otherwise the signal of a file that became too large ends the process before the write has failed.
	signal.Ignore(syscall.SIGXFSZ)
	go func() {
		defer server.GracefulStop()
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			if err := limitFiles(in.Text()); err != nil {
				fmt.Fprintln(os.Stderr, "victim:", err)
				return
			}
			fmt.Println("limited")
		}
	}()
	return errors.Join(server.Serve(l), s.Backend().Close())
}

// limitFiles sets the size in bytes beyond which no file can be written: a full disk.
func limitFiles(size string) error {
	n, err := strconv.ParseUint(size, 10, 64)
	if err != nil {
		return err
	}
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l); err != nil {
		return err
	}
	l.Cur = min(n, l.Max)
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l)
}

// process is a running victim.
type process struct {
	cmd     *exec.Cmd
	stdin   io.Writer
	stdout  *bufio.Reader
	address string
}

// limit has the victim call limitFiles.
func (p *process) limit(t testing.TB, size int64) {
	t.Helper()
	if _, err := fmt.Fprintln(p.stdin, size); err != nil {
		t.Fatal(err)
	}
	if line, err := p.stdout.ReadString('\n'); err != nil {
		t.Fatalf("limit the victim's files: got %q, %v", line, err)
	}
}

func startVictim(t testing.TB, spec, listen string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), victimStore+"="+spec, victimListen+"="+listen)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, stdin: stdin, stdout: bufio.NewReader(stdout)}
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
	p.address = strings.TrimSpace(line)
	return p
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	// It was killed: that its end is no success is the point.
	_ = p.cmd.Wait()
}

// kills is how many crashes a test provokes: PSEUDO_TEST_KILLS, or a few.
func kills(t testing.TB) int {
	t.Helper()
	s := os.Getenv("PSEUDO_TEST_KILLS")
	if s == "" {
		return 10
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("PSEUDO_TEST_KILLS: %v", err)
	}
	return n
}

const shownPods = 200

// shown is the content of a version: name and label of each Pod. It depends on cluster and version only, so that what
// is stored can be told right from wrong without remembering it.
func shown(cluster string, version uint64) map[string]string {
	rng := rand.New(rand.NewPCG(version/5, uint64(len(cluster))))
	pods := map[string]string{}
	for i := range shownPods {
		pods[fmt.Sprintf("pod-%d", i)] = fmt.Sprint(rng.IntN(5))
	}
	// Within five versions most stays as it is.
	for i := range 10 {
		n := (int(version)*10 + i) % shownPods
		pods[fmt.Sprintf("pod-%d", n)] = fmt.Sprint("v", version)
		delete(pods, fmt.Sprintf("pod-%d", (n+shownPods/2)%shownPods))
	}
	return pods
}

func shownEntries(t testing.TB, cluster string, version uint64) []*agent.KubernetesAPIInfo {
	t.Helper()
	entries := []*agent.KubernetesAPIInfo{versionEntry(t)}
	for name, label := range shown(cluster, version) {
		entries = append(entries, pod(t, name, label))
	}
	return entries
}

// ledger is what the clients know: for each cluster the versions acknowledged in order, and the one under way.
type ledger struct {
	mu       sync.Mutex
	acked    map[string][]uint64
	underway map[string]uint64
	first    chan struct{} // has something once a version was acknowledged
}

// load reports one cluster until the server dies.
func (l *ledger) load(ctx context.Context, t testing.TB, address, cluster string) {
	t.Helper()
	client := agent.NewSynchronizerClient(dial(t, address))
	l.mu.Lock()
	version := l.underway[cluster]
	l.mu.Unlock()
	for {
		version++
		entries := shownEntries(t, cluster, version)
		l.mu.Lock()
		l.underway[cluster] = version
		l.mu.Unlock()
		resp, err := client.KubernetesAPISync(ctx, &agent.KubernetesAPISyncRequest{
			ClusterId: new(cluster), Version: new(version), AgentId: proto.Uint32(1), Entries: entries,
		})
		if err != nil {
			return
		}
		l.mu.Lock()
		if resp.GetVersion() == version {
			l.acked[cluster] = append(l.acked[cluster], version)
			select {
			case l.first <- struct{}{}:
			default:
			}
		} else {
			t.Errorf("cluster %s: got answer %d, want %d", cluster, resp.GetVersion(), version)
		}
		l.mu.Unlock()
	}
}

// check opens the store after a crash: the latest version is the last acknowledged one, or a later one whose answer
// was lost, and every version that is kept is whole.
func (l *ledger) check(t testing.TB, spec string) {
	t.Helper()
	ctx := context.Background()
	s, err := openStore(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Backend().Close(); err != nil {
			t.Error(err)
		}
	}()
	for cluster, acked := range l.acked {
		if len(acked) == 0 {
			continue
		}
		// What a killed server had begun, the database may finish while it is read here, and so drop the oldest version.
		for tries := 1; !l.checkCluster(ctx, t, s, cluster, acked); tries++ {
			if tries == 5 {
				t.Fatalf("cluster %s: entries of a kept version have no payload", cluster)
			}
		}
	}
}

// checkCluster returns false if a payload was missing.
func (l *ledger) checkCluster(ctx context.Context, t testing.TB, s *store.Store, cluster string, acked []uint64) bool {
	t.Helper()
	view, err := s.View(ctx, cluster)
	if err != nil {
		t.Fatalf("cluster %s with acknowledged versions: %v", cluster, err)
	}
	latest, last := view.State.Latest.Version, acked[len(acked)-1]
	if latest < last || latest > l.underway[cluster] {
		t.Fatalf("cluster %s: got version %d, want the acknowledged %d or one of those up to %d whose answer was lost", cluster, latest, last, l.underway[cluster])
	}
	var kept []uint64
	for _, snap := range view.Snapshots {
		kept = append(kept, snap.Version)
		if !whole(ctx, t, s, view, cluster, snap.Version) {
			return false
		}
	}
	for _, version := range acked {
		// Any version between may have been stored without its acknowledgement having arrived.
		if version+victimKeep > latest && !slices.Contains(kept, version) {
			t.Fatalf("cluster %s: got versions %v, want the acknowledged %d among them", cluster, kept, version)
		}
	}
	return true
}

// whole compares a stored version with what was reported. It returns false if a payload is missing.
func whole(ctx context.Context, t testing.TB, s *store.Store, view *store.View, cluster string, version uint64) bool {
	t.Helper()
	_, entries, err := view.At(version)
	if err != nil {
		t.Fatal(err)
	}
	payloads, err := s.Payloads(ctx, cluster, entries)
	if err != nil {
		t.Fatal(err)
	}
	want := shown(cluster, version)
	if len(entries) != len(want)+1 {
		t.Fatalf("cluster %s version %d: got %d entries, want %d", cluster, version, len(entries), len(want)+1)
	}
	for i, e := range entries {
		if payloads[i] == nil {
			return false
		}
		if e.Type == "*version.Info" {
			continue
		}
		if got, expected := payloads[i], pod(t, e.Name, want[e.Name]).GetCompressedInfo(); !bytes.Equal(got, expected) {
			t.Fatalf("cluster %s version %d: %s has other content than was reported", cluster, version, e.Name)
		}
	}
	return true
}

// TestKill kills the server at random moments under load. With PostgreSQL, every second time the database is killed
// too.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("crashes take a while")
	}
	run := func(t *testing.T, spec string, alsoKill func()) {
		t.Helper()
		rng := rand.New(rand.NewPCG(testseed.New(t), 0))
		l := &ledger{acked: map[string][]uint64{}, underway: map[string]uint64{}, first: make(chan struct{}, 1)}
		n := kills(t)
		for i := range n {
			p := startVictim(t, spec, "")
			ctx, cancel := context.WithCancel(context.Background())
			var clients sync.WaitGroup
			for c := range 3 {
				clients.Go(func() { l.load(ctx, t, p.address, fmt.Sprintf("d-%d", c)) })
			}
			<-l.first
			time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
			if i%2 == 1 {
				alsoKill()
			}
			p.kill()
			cancel()
			clients.Wait()
			if i%2 == 1 {
				alsoKill() // now it starts it again
			}
			l.check(t, spec)
			l.first = make(chan struct{}, 1)
			if t.Failed() {
				t.Fatalf("after crash %d of %d", i+1, n)
			}
		}
		total := 0
		for _, acked := range l.acked {
			total += len(acked)
		}
		if total < n {
			t.Errorf("got %d versions acknowledged in %d rounds: too few to show anything", total, n)
		}
		t.Logf("%d crashes, %d versions acknowledged", n, total)
	}
	t.Run("embedded", func(t *testing.T) {
		run(t, "embedded "+filepath.Join(t.TempDir(), "test.db"), func() {})
	})
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.Start(t)
		dead := false
		run(t, "postgres "+server.DSN(), func() {
			if dead {
				server.Restart(t)
			} else {
				server.Kill()
			}
			dead = !dead
		})
	})
}
