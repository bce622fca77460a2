package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zlib"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// logLines is a log that can be waited for.
type logLines struct {
	mu    sync.Mutex
	lines []map[string]any
	all   []map[string]any
	came  chan struct{}
}

func (l *logLines) Write(p []byte) (int, error) {
	var line map[string]any
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines, l.all = append(l.lines, line), append(l.all, line)
	close(l.came)
	l.came = make(chan struct{})
	return len(p), nil
}

// wait returns the first line with a message that has not been waited for before.
func (l *logLines) wait(t *testing.T, msg string) map[string]any {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		l.mu.Lock()
		for i, line := range l.lines {
			if line["msg"] == msg {
				l.lines = l.lines[i+1:]
				l.mu.Unlock()
				return line
			}
		}
		came := l.came
		l.mu.Unlock()
		select {
		case <-came:
		case <-deadline:
			t.Fatalf("no log line %q", msg)
		}
	}
}

// find returns the first line with a message that there has been, nil if there is none.
func (l *logLines) find(msg string) map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(l.all, func(line map[string]any) bool { return line["msg"] == msg }); i >= 0 {
		return l.all[i]
	}
	return nil
}

// start runs the daemon with a configuration; stop ends it and waits.
func start(t *testing.T, cfg *config.Server, watch func(context.Context)) (log *logLines, d *daemon, stop func()) {
	t.Helper()
	log = &logLines{came: make(chan struct{})}
	d = &daemon{cfg: cfg, log: slog.New(slog.NewJSONHandler(log, nil)), level: new(slog.LevelVar)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	running := d
	go func() { done <- running.run(ctx, watch) }()
	return log, d, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: got %v, want nil", err)
		}
	}
}

func testConfig(t *testing.T) *config.Server {
	t.Helper()
	cfg := config.DefaultServer()
	cfg.Listen.GRPC, cfg.Listen.HTTP = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Store.Path = filepath.Join(t.TempDir(), "below", "test.db")
	return &cfg
}

func sync1(t *testing.T, address string, version uint64, withEntries bool) uint64 {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	req := &agent.KubernetesAPISyncRequest{ClusterId: new("d-test"), Version: new(version), AgentId: proto.Uint32(1)}
	if withEntries {
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		_, _ = w.Write([]byte(`{"gitVersion":"v1.36.0"}`))
		_ = w.Close()
		req.Entries = []*agent.KubernetesAPIInfo{{Type: new("*version.Info"), CompressedInfo: b.Bytes()}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	resp, err := agent.NewSynchronizerClient(conn).KubernetesAPISync(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetVersion()
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// TestDaemon runs the whole daemon twice on one database: it answers the stored version after a restart, serves its
// API, follows its configuration, and leaves no goroutine behind.
func TestDaemon(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	cfg := testConfig(t)
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("a-token-for-the-test"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Access.Anonymous = "none"
	cfg.Access.Tokens = []config.TokenAccess{{Name: "me", Role: "administer", TokenFile: token}}
	cfg.Access.AuditFile = filepath.Join(dir, "audit.log")
	none := func(ctx context.Context) { <-ctx.Done() }

	log, d, stop := start(t, cfg, none)
	line := log.wait(t, "pseudo-server runs")
	if got := sync1(t, text(line["grpc"]), 7, true); got != 7 {
		t.Errorf("report: got %d, want 7", got)
	}
	changed := *cfg
	changed.Log.Level = "debug"
	changed.Limits.MaxClusters = 5
	d.reload(&config.Loaded[config.Server]{Config: changed}, nil)
	if d.level.Level() != slog.LevelDebug {
		t.Errorf("got log level %v, want debug", d.level.Level())
	}
	for range 2 {
		c := log.wait(t, "configuration changed")
		if atRestart := strings.Contains(text(c["change"]), "max_clusters"); c["from_next_start"] != atRestart {
			t.Errorf("got %v, want from_next_start %v", c, atRestart)
		}
	}
	stop()

	log, _, stop = start(t, cfg, none)
	line = log.wait(t, "pseudo-server runs")
	if got := sync1(t, text(line["grpc"]), 8, false); got != 7 {
		t.Errorf("probe after the restart: got %d, want the stored version 7", got)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ask := func(path, secret string) (int, string) {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+text(line["http"])+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if secret != "" {
			req.Header.Set("Authorization", "Bearer "+secret)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, c := range []struct {
		path, secret string
		code         int
		contains     string
	}{
		{"/api/v1/clusters", "", 401, "token"},
		{"/api/v1/clusters", "a-token-for-the-test", 200, `"version":7`},
		{"/healthz/ready", "", 200, "storage"},
		{"/healthz/live", "", 200, ""},
		{"/metrics", "", 401, "--token-file"},
		{"/metrics", "a-token-for-the-test", 200, "pseudo_server_refusals_total"},
		{"/status", "", 401, "access.anonymous"},
		{"/status", "a-token-for-the-test", 200, `"clusters": 1`},
	} {
		code, body := ask(c.path, c.secret)
		if code != c.code || !strings.Contains(body, c.contains) {
			t.Errorf("GET %s: got %d, want %d with %q in it:\n%.500s", c.path, code, c.code, c.contains, body)
		}
	}
	stop()
	audit, err := os.ReadFile(cfg.Access.AuditFile)
	if err != nil || !strings.Contains(string(audit), `"status":401`) {
		t.Errorf("audit log: got %q, %v, want the refusal", audit, err)
	}
}

// TestAnonymous: whoever has no token gets nothing of a server that listens on other than a loopback address, unless the operator
// says so; the log says what to set.
func TestAnonymous(t *testing.T) {
	none := func(ctx context.Context) { <-ctx.Done() }
	for _, c := range []struct {
		name, listen, anonymous string
		users                   int
		code                    int
		level                   string // of the line in the log; empty: there is none
	}{
		{"loopback", "127.0.0.1:0", "auto", 0, 200, ""},
		{"all addresses", ":0", "auto", 0, 401, "WARN"},
		{"all addresses, with a user", "0.0.0.0:0", "auto", 1, 401, "INFO"},
		{"all addresses, as before", ":0", "read", 0, 200, ""},
		{"loopback, none", "127.0.0.1:0", "none", 0, 401, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig(t)
			cfg.Listen.HTTP, cfg.Access.Anonymous, cfg.HTTP.PProf = c.listen, c.anonymous, true
			file := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(file, []byte("a-token-for-the-test"), 0o600); err != nil {
				t.Fatal(err)
			}
			for range c.users {
				cfg.Access.Tokens = append(cfg.Access.Tokens, config.TokenAccess{Name: "me", Role: "read", TokenFile: file})
			}
			log, _, stop := start(t, cfg, none)
			defer stop()
			line := log.wait(t, "pseudo-server runs")
			_, port, err := net.SplitHostPort(text(line["http"]))
			if err != nil {
				t.Fatal(err)
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			for path, want := range map[string]int{
				"/api/v1/clusters": c.code, "/api/v1/events": c.code, "/metrics": c.code, "/status": c.code, "/debug/pprof/": c.code,
				"/healthz/live": 200, "/healthz/ready": 200, "/": 200,
			} {
				resp, err := client.Get("http://127.0.0.1:" + port + path)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != want {
					t.Errorf("GET %s: got %d, want %d", path, resp.StatusCode, want)
				}
			}
			told := log.find("API, metrics and status need a token, because listen.http is no loopback address and access.anonymous is auto")
			if text(told["level"]) != c.level || c.level != "" && !strings.Contains(text(told["advice"]), "access.anonymous: read") {
				t.Errorf("the log says %v, want level %q", told, c.level)
			}
		})
	}
}

// TestLimits: each key of limits reaches the receiver, and an unconfigured server has the receiver's own limits.
func TestLimits(t *testing.T) {
	if got, want := limits(config.DefaultServer().Limits), receiver.DefaultLimits(); got != want {
		t.Errorf("by default: got %+v, want %+v", got, want)
	}
	var cfg config.ServerLimits
	v := reflect.ValueOf(&cfg).Elem()
	for i := range v.NumField() {
		v.Field(i).SetInt(int64(i + 1))
	}
	got := reflect.ValueOf(limits(cfg))
	seen := map[int64]string{}
	for i := range got.NumField() {
		name, n := got.Type().Field(i).Name, got.Field(i).Int()
		if n == 0 || seen[n] != "" {
			t.Errorf("limit %s has no key of its own (%q has it)", name, seen[n])
		}
		seen[n] = name
	}
	if len(seen) != v.NumField() {
		t.Errorf("got %d limits for %d keys", len(seen), v.NumField())
	}
}

// TestMemoryBoundsRequests: what limits the memory of the process is the receiver's budget.
func TestMemoryBoundsRequests(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	if got := memory(); got != 0 {
		t.Errorf("without a limit: got %d, want 0", got)
	}
	debug.SetMemoryLimit(16 << 20)
	cfg := config.DefaultServer()
	d := &daemon{cfg: &cfg, log: slog.New(slog.DiscardHandler)}
	parts, err := d.assemble(t.Context(), store.NewMemory(), prometheus.NewRegistry(), receiver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer parts.close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := parts.grpcServer(nil)
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(l) })
	defer served.Wait()
	defer server.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = agent.NewSynchronizerClient(conn).KubernetesAPISync(t.Context(), &agent.KubernetesAPISyncRequest{ErrorMsg: new(strings.Repeat("x", 5<<20))})
	if !strings.Contains(fmt.Sprint(err), "at most 2097152 are taken with this server's memory (rule capacity)") {
		t.Errorf("a report of 5 MiB where the process may have 16: got %v, want rule capacity", err)
	}
}

// TestCollectorIsEased: a daemon with a memory limit lets the collector run less often than each few per cent while it runs all the time.
func TestCollectorIsEased(t *testing.T) {
	t.Setenv("GOGC", "") // restored at the end
	if err := os.Unsetenv("GOGC"); err != nil {
		t.Fatal(err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(4 << 30))
	t.Setenv("GOMEMLIMIT", "4GiB") // the container's would take its place
	_, _, stop := start(t, testConfig(t), func(ctx context.Context) { <-ctx.Done() })
	defer stop()
	percent := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	eased := func() bool {
		metrics.Read(percent)
		n := percent[0].Value.Uint64()
		return n > gcPercent && n < 100
	}
	for range 600 { // a minute at most
		runtime.GC()
		if eased() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("the heap grows by %d %% between two collections, want more than %d %%", percent[0].Value.Uint64(), gcPercent)
}

// TestMistakes starts with configurations that cannot work: each error names the key.
func TestMistakes(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*config.Server)
		want   []string
	}{
		"tokens": {func(c *config.Server) {
			c.Access.Tokens = []config.TokenAccess{{Name: "a", Role: "boss", TokenFile: "/none/a"}}
			c.Access.Clusters = []config.ClusterAccess{{ClusterID: "d-a", TokenFile: "/none/b"}}
		}, []string{"access.tokens[0]", `"boss"`, "/none/a", "access.clusters[0]", "/none/b"}},
		"tls":     {func(c *config.Server) { c.TLS.Enabled, c.TLS.CertFile = true, "/none/cert" }, []string{"tls", "/none/cert"}},
		"http":    {func(c *config.Server) { c.HTTP.TLS.Enabled, c.HTTP.TLS.CertFile = true, "/none/cert" }, []string{"http.tls", "/none/cert"}},
		"address": {func(c *config.Server) { c.Listen.GRPC = "256.0.0.1:1" }, []string{"listen.grpc"}},
		"dsn":     {func(c *config.Server) { c.Store.Type, c.Store.DSN = "postgres", "postgres://u:secret@127.0.0.1:1/x" }, []string{"store", "PostgreSQL"}},
		"dsnfile": {func(c *config.Server) { c.Store.Type, c.Store.DSNFile = "postgres", "/none/dsn" }, []string{"store.dsn_file", "/none/dsn"}},
		"audit":   {func(c *config.Server) { c.Access.AuditFile = "/none/audit" }, []string{"access.audit_file"}},
	} {
		cfg := testConfig(t)
		c.change(cfg)
		d := &daemon{cfg: cfg, log: slog.New(slog.DiscardHandler), level: new(slog.LevelVar)}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err := d.run(ctx, func(context.Context) {})
		cancel()
		if err == nil {
			t.Errorf("%s: got no error", name)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: got %q, want %q in it", name, err, part)
			}
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the message %q contains the password", name, err)
		}
	}
}
