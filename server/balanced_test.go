package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zlib"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testport"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// asDaemon makes this test binary pseudo-server itself, to be killed.
const asDaemon = "PSEUDO_TEST_DAEMON"

func daemonMain() {
	if os.Getenv(asDaemon) == "" {
		return
	}
	cmd := NewCommand(operate.NewBuild("test", ""))
	cmd.SetArgs(strings.Split(os.Getenv(asDaemon), " "))
	if err := cmd.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// replica is a pseudo-server process.
type replica struct {
	grpc, http int
	dsn        string
	cmd        *exec.Cmd
	log        string
}

func (r *replica) start(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(r.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	r.cmd = exec.Command(self)
	r.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=run --listen-grpc 127.0.0.1:%d --listen-http 127.0.0.1:%d --store-type postgres --limits-requests-per-minute 60000",
		asDaemon, r.grpc, r.http), "PSEUDO_SERVER_STORE_DSN="+r.dsn)
	r.cmd.Stderr = log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// kill is kill -9.
func (r *replica) kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait() // that it was killed is the point
		r.cmd = nil
	}
}

func (r *replica) ready() bool {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz/ready", r.http))
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// counter is the sum of a metric's series that have a text in their labels.
func (r *replica) counter(t *testing.T, name, labels string) float64 {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", r.http))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	sum := 0.0
	for in := bufio.NewScanner(resp.Body); in.Scan(); {
		if line := in.Text(); strings.HasPrefix(line, name+"{") && strings.Contains(line, labels) {
			v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += v
		}
	}
	return sum
}

// balanced are replicas on one database behind one address.
type balanced struct {
	replicas  []*replica
	grpc, api string
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for range 1200 {
		if condition() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// newFleet starts replicas, and a balancer as docs/replicas-balancers.md has it.
func newFleet(t *testing.T, balancer, dsn string, n int) *balanced {
	t.Helper()
	ports, err := testport.Free(2*n + 2)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := &balanced{grpc: fmt.Sprintf("127.0.0.1:%d", ports[2*n]), api: fmt.Sprintf("http://127.0.0.1:%d", ports[2*n+1])}
	for i := range n {
		r := &replica{grpc: ports[2*i], http: ports[2*i+1], dsn: dsn, log: filepath.Join(dir, fmt.Sprintf("replica-%d.log", i))}
		f.replicas = append(f.replicas, r)
		r.start(t)
		t.Cleanup(func() {
			r.kill()
			if b, err := os.ReadFile(r.log); err == nil && t.Failed() {
				t.Logf("replica at %d: %s", r.grpc, b[max(0, len(b)-4000):])
			}
		})
	}
	for _, r := range f.replicas {
		until(t, "a replica is ready", r.ready)
	}
	f.balance(t, balancer, dir, ports[2*n], ports[2*n+1])
	return f
}

var (
	backendLine = regexp.MustCompile(`pseudo-server-(\d)\.pseudo-server:(20035|20080)`)
	checkedPort = regexp.MustCompile(`:20035 check-proto h1 port 20080`)
)

// balance starts the balancer with the text of the document: only addresses are others, and where each process leaves its files.
func (f *balanced) balance(t *testing.T, name, dir string, grpcPort, httpPort int) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (apt-get install %s): %v", name, name, err)
	}
	doc, err := os.ReadFile("../docs/replicas-balancers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(doc), "```"+name+"\n")
	text, _, end := strings.Cut(text, "```")
	if !ok || !end {
		t.Fatalf("docs/replicas-balancers.md has no text for %s", name)
	}
	text = checkedPort.ReplaceAllString(text, ":20035 check-proto h1") // each replica here has its own port to be checked
	text = backendLine.ReplaceAllStringFunc(text, func(m string) string {
		part := backendLine.FindStringSubmatch(m)
		n, _ := strconv.Atoi(part[1])
		if n >= len(f.replicas) {
			t.Fatalf("docs/replicas-balancers.md has more than %d replicas", len(f.replicas))
		}
		r := f.replicas[n]
		if part[2] == "20080" {
			return fmt.Sprintf("127.0.0.1:%d", r.http)
		}
		if name == "haproxy" {
			return fmt.Sprintf("127.0.0.1:%d port %d", r.grpc, r.http)
		}
		return fmt.Sprintf("127.0.0.1:%d", r.grpc)
	})
	text = strings.NewReplacer("bind :20035", fmt.Sprintf("bind 127.0.0.1:%d", grpcPort), "bind :20080", fmt.Sprintf("bind 127.0.0.1:%d", httpPort),
		"listen 20035", fmt.Sprintf("listen 127.0.0.1:%d", grpcPort), "listen 20080", fmt.Sprintf("listen 127.0.0.1:%d", httpPort)).Replace(text)
	file := filepath.Join(dir, name+".conf")
	args := []string{"-db", "-f", file}
	if name == "nginx" {
		user := "" // as who started it
		if os.Getuid() == 0 {
			user = "user root;\n"
		}
		text = user + "daemon off;\nmaster_process off;\npid " + dir + "/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n" +
			"client_body_temp_path " + dir + "/body; proxy_temp_path " + dir + "/proxy; fastcgi_temp_path " + dir + "/fcgi; uwsgi_temp_path " + dir +
			"/uwsgi; scgi_temp_path " + dir + "/scgi;\n" + text + "}\n"
		args = []string{"-c", file}
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %.6000s", name, out.String())
		}
	})
	until(t, name+" answers", func() bool {
		resp, err := http.Get(f.api + "/healthz/ready")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (f *balanced) dial(t *testing.T) agent.SynchronizerClient {
	t.Helper()
	conn, err := grpc.NewClient(f.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return agent.NewSynchronizerClient(conn)
}

func ofCluster(ctx context.Context, id string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, protocol.ClusterHeader, id)
}

// balancedReport is a version of a cluster: what it has follows from the version.
func balancedReport(t *testing.T, cluster string, version uint64) *agent.KubernetesAPISyncRequest {
	t.Helper()
	req := &agent.KubernetesAPISyncRequest{ClusterId: new(cluster), Version: new(version), AgentId: proto.Uint32(1), SourceIp: new("10.0.0.1")}
	add := func(wireType, text string) {
		req.Entries = append(req.Entries, &agent.KubernetesAPIInfo{Type: new(wireType), CompressedInfo: deflated(t, text)})
	}
	add("*version.Info", `{"gitVersion":"v1.36.0"}`)
	for i := range 20 {
		v := version
		if uint64(i) != version%20 {
			v = 0
		}
		add("*v1.ConfigMap", fmt.Sprintf(`{"metadata":{"uid":"%s-%d","name":"c-%d","namespace":"shop"},"data":{"version":"%d"}}`, cluster, i, i, v))
	}
	return req
}

// TestBalanced: behind each balancer as docs/replicas-balancers.md has it, all calls of a cluster, reports, Syncs and those of the API,
// go to one replica, clusters are spread over all, and each replica answers for any cluster. With one replica gone everything
// is answered.
func TestBalanced(t *testing.T) {
	for _, balancer := range []string{"haproxy", "nginx"} {
		t.Run(balancer, func(t *testing.T) {
			server := pgtest.Start(t, "fsync = off")
			f := newFleet(t, balancer, server.DSN(), 3)
			client := f.dial(t)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			homes := map[int]int{}
			for c := range 12 {
				id := fmt.Sprintf("d-balanced%d", c)
				before := f.counts(t)
				for range 5 {
					resp, err := client.KubernetesAPISync(ofCluster(ctx, id), balancedReport(t, id, 1))
					if err != nil || resp.GetVersion() != 1 {
						t.Fatalf("report: got %v, %v", resp, err)
					}
					if _, err := client.Sync(ofCluster(ctx, id), &agent.SyncRequest{KubernetesClusterId: new(id), Host: new("h"), CtrlIp: new("10.0.0.1")}); err != nil {
						t.Fatal(err)
					}
					if code, _, body := ask(t, http.MethodGet, f.api+"/api/v1/clusters/"+id, "", nil); code != http.StatusOK {
						t.Fatalf("GET cluster: got %d %s", code, body)
					}
				}
				home := -1
				for i, now := range f.counts(t) {
					switch n := now - before[i]; {
					case n == 15 && home < 0:
						home = i
					case n != 0:
						t.Errorf("cluster %s: replica %d had %v of 15 calls", id, i, n)
					}
				}
				homes[home]++
			}
			if len(homes) != 3 {
				t.Errorf("all clusters are at few replicas: %v", homes)
			}
			for _, r := range f.replicas {
				code, _, body := ask(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/api/v1/clusters/d-balanced7/objects", r.http), "", nil)
				if code != http.StatusOK || !strings.Contains(string(body), `"c-19"`) {
					t.Errorf("a replica that is not the cluster's: got %d %.200s", code, body)
				}
			}
			f.replicas[1].kill()
			for c := range 12 {
				id := fmt.Sprintf("d-balanced%d", c)
				until(t, "a report with one replica gone", func() bool {
					resp, err := client.KubernetesAPISync(ofCluster(ctx, id), balancedReport(t, id, 2))
					return err == nil && resp.GetVersion() == 2
				})
				until(t, "an answer of the API with one replica gone", func() bool {
					code, _, body := ask(t, http.MethodGet, f.api+"/api/v1/clusters/"+id, "", nil)
					return code == http.StatusOK && strings.Contains(string(body), `"version":2`)
				})
			}
			f.replicas[0].kill()
			f.replicas[2].kill()
			until(t, "no replica: an error with advice, and when to try again", func() bool {
				return f.look(t, "/api/v1/clusters") == http.StatusServiceUnavailable
			})
		})
	}
}

// counts is how many calls of the tests each replica had.
func (f *balanced) counts(t *testing.T) []float64 {
	t.Helper()
	n := make([]float64, len(f.replicas))
	for i, r := range f.replicas {
		n[i] = r.counter(t, "pseudo_server_requests_total", "") + r.counter(t, "pseudo_server_api_requests_total", `route="/clusters/{cluster}"`)
	}
	return n
}

// look reads from the API. An error that has no advice, or does not say when to try again, fails the test.
func (f *balanced) look(t *testing.T, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.api+path, nil)
	if err != nil {
		t.Error(err)
		return 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Errorf("GET %s: %v", path, err)
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("GET %s: %v", path, err)
		return 0
	}
	if resp.StatusCode == http.StatusOK {
		return resp.StatusCode
	}
	var refusal struct{ Error, Advice string }
	if err := json.Unmarshal(body, &refusal); err != nil || refusal.Error == "" || refusal.Advice == "" || resp.StatusCode >= 500 && resp.Header.Get("Retry-After") == "" {
		t.Errorf("GET %s: got %d %v %.300s, want an error with advice and Retry-After", path, resp.StatusCode, resp.Header, body)
	}
	return resp.StatusCode
}

// TestInvariantReplicasKilled kills one of three replicas behind HAProxy again and again, with kill -9: no version that was
// acknowledged is lost, no two agents of a cluster watch, and the API has errors with advice and Retry-After only.
//
// PSEUDO_TEST_REPLICAS_MINUTES says for how long, one killed in each minute; without it, it is some kills in a short time.
func TestInvariantReplicasKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("kills replicas for a while")
	}
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	kills, pause, pace := 6, 5*time.Second, 50*time.Millisecond
	if s := os.Getenv("PSEUDO_TEST_REPLICAS_MINUTES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("PSEUDO_TEST_REPLICAS_MINUTES: %v", err)
		}
		kills, pause, pace = n, time.Minute, 500*time.Millisecond
	}
	server := pgtest.Start(t, "fsync = off")
	f := newFleet(t, "haproxy", server.DSN(), 3)
	load := f.load(t, 6, pace)
	for n := range kills {
		r := f.replicas[rng.IntN(len(f.replicas))]
		time.Sleep(pause/2 + time.Duration(rng.Int64N(int64(pause/2))))
		r.kill()
		time.Sleep(time.Duration(rng.Int64N(int64(pause / 2))))
		r.start(t)
		until(t, "a replica is ready again", r.ready)
		if t.Failed() {
			t.Fatalf("after kill %d of %d", n+1, kills)
		}
	}
	load.stop()
	load.verify(t, f)
	t.Logf("%d kills: %s", kills, load)
	if load.acked.Load() < int64(kills) || load.looked.Load() == 0 || load.watching.Load() == 0 {
		t.Errorf("too little was asked: %s", load)
	}
}

// load are agents of clusters, and people who look at them.
type load struct {
	stop                                                  func()
	acked, refused, syncs, syncFailed, looked, lookFailed atomic.Int64
	watching                                              atomic.Int64
	mu                                                    sync.Mutex
	last, begun                                           map[string]uint64
	watchers                                              map[string]map[string]bool
}

func (l *load) String() string {
	return fmt.Sprintf("%d versions acknowledged and %d attempts failed; %d Syncs answered and %d failed; the API answered %d times and had %d errors with advice and Retry-After",
		l.acked.Load(), l.refused.Load(), l.syncs.Load(), l.syncFailed.Load(), l.looked.Load(), l.lookFailed.Load())
}

// load begins the load: of each cluster, and of each of two people, something new after each pace.
func (f *balanced) load(t *testing.T, clusters int, pace time.Duration) *load {
	t.Helper()
	l := &load{last: map[string]uint64{}, begun: map[string]uint64{}, watchers: map[string]map[string]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for c := range clusters {
		id := fmt.Sprintf("d-killed%d", c)
		l.watchers[id] = map[string]bool{}
		client := f.dial(t)
		running.Go(func() { l.report(ctx, t, client, id, pace) })
		for n := range 4 {
			client := f.dial(t)
			running.Go(func() { l.sync(ctx, t, client, id, fmt.Sprintf("node-%d", n), pace) })
		}
	}
	for n := range 2 {
		running.Go(func() {
			for i := n; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("d-killed%d", i%clusters)
				path := []string{"/api/v1/clusters", "/api/v1/clusters/" + id + "/versions", "/api/v1/clusters/" + id + "/objects", "/api/v1/watchers/" + id}[i%4]
				switch f.look(t, path) {
				case http.StatusOK:
					l.looked.Add(1)
				case http.StatusNotFound: // before the first report
				default:
					l.lookFailed.Add(1)
				}
				time.Sleep(pace)
			}
		})
	}
	l.stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(l.stop)
	return l
}

// transient are the codes with which an agent tries again.
var transient = []codes.Code{codes.Unavailable, codes.Aborted, codes.ResourceExhausted, codes.Internal, codes.DeadlineExceeded, codes.Canceled, codes.Unknown}

func (l *load) report(ctx context.Context, t *testing.T, client agent.SynchronizerClient, id string, pace time.Duration) {
	t.Helper()
	for version := uint64(1); ctx.Err() == nil; {
		l.mu.Lock()
		l.begun[id] = version
		l.mu.Unlock()
		resp, err := func() (*agent.KubernetesAPISyncResponse, error) {
			call, cancel := context.WithTimeout(ofCluster(ctx, id), 20*time.Second)
			defer cancel()
			return client.KubernetesAPISync(call, balancedReport(t, id, version))
		}()
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if l.refused.Add(1); !slices.Contains(transient, status.Code(err)) {
				t.Errorf("report of version %d of %s: %v", version, id, err)
			}
			time.Sleep(100 * time.Millisecond)
		case resp.GetVersion() != version:
			t.Errorf("report of version %d of %s: got %d", version, id, resp.GetVersion())
			return
		default:
			l.acked.Add(1)
			l.mu.Lock()
			l.last[id] = version
			l.mu.Unlock()
			version++
			time.Sleep(pace)
		}
	}
}

func (l *load) sync(ctx context.Context, t *testing.T, client agent.SynchronizerClient, id, host string, pace time.Duration) {
	t.Helper()
	req := &agent.SyncRequest{
		BootTime: proto.Uint32(1), ProcessName: new("deepflow-agent"), Host: new(host), CtrlIp: new("10.0.0." + host[5:]), CtrlMac: new("52:54:00:00:00:0" + host[5:]),
		KubernetesClusterId: new(id), KubernetesWatchPolicy: agent.KubernetesWatchPolicy_KWP_NORMAL.Enum(),
	}
	for ctx.Err() == nil {
		call, cancel := context.WithTimeout(ofCluster(ctx, id), 10*time.Second)
		resp, err := client.Sync(call, req)
		cancel()
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if l.syncFailed.Add(1); !slices.Contains(transient, status.Code(err)) {
				t.Errorf("Sync of %s in %s: %v", host, id, err)
			}
		default:
			l.syncs.Add(1)
			if d := resp.GetDynamicConfig(); d != nil && d.KubernetesApiEnabled != nil {
				l.told(t, id, host, d.GetKubernetesApiEnabled())
			}
		}
		time.Sleep(6 * pace)
	}
}

// told is what the agent does with the answer: one that hears nothing goes on as it was told last.
func (l *load) told(t *testing.T, id, host string, watch bool) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watchers[id][host] = watch; !watch {
		return
	}
	l.watching.Add(1)
	for other, watches := range l.watchers[id] {
		if watches && other != host {
			t.Errorf("cluster %s: %s and %s watch", id, host, other)
		}
	}
}

// verify looks for each cluster's last acknowledged version, or the next one whose answer was lost, whole, at each replica.
func (l *load) verify(t *testing.T, f *balanced) {
	t.Helper()
	for _, r := range f.replicas {
		for id, last := range l.last {
			code, _, body := ask(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/api/v1/clusters/%s/objects?limit=1000", r.http, id), "", nil)
			var list struct {
				Version uint64
				Objects []struct {
					Name   string
					Object struct{ Data struct{ Version string } }
				}
			}
			if err := json.Unmarshal(body, &list); err != nil || code != http.StatusOK {
				t.Fatalf("cluster %s: got %d, %v", id, code, err)
			}
			if list.Version < last || list.Version > l.begun[id] {
				t.Errorf("cluster %s: got version %d, want the acknowledged %d or the one under way, %d", id, list.Version, last, l.begun[id])
			}
			want := map[string]string{"": ""} // *version.Info has no name
			for i := range 20 {
				v := list.Version
				if uint64(i) != v%20 {
					v = 0
				}
				want[fmt.Sprint("c-", i)] = fmt.Sprint(v)
			}
			for _, o := range list.Objects {
				if want[o.Name] != o.Object.Data.Version {
					t.Errorf("cluster %s version %d: %s has %q, want %q", id, list.Version, o.Name, o.Object.Data.Version, want[o.Name])
				}
				delete(want, o.Name)
			}
			if len(want) > 0 {
				t.Errorf("cluster %s version %d: %v are missing", id, list.Version, want)
			}
		}
	}
}

func deflated(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
