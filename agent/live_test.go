package agent

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/reporter"
)

// outage is longer than every limit of the liveness checks, and than the ten minutes that an apiserver or a server may
// be away.
const outage = 2 * max(reportsLimit, listsLimit)

// patient is a daemon with a simulated apiserver and a server that is away, in a synctest bubble.
type patient struct {
	t     *testing.T
	sim   *apisim.Server
	net   *apisim.Listener
	d     *daemon
	probe http.Handler
	log   *logged

	mu    sync.Mutex
	stuck chan struct{} // not nil: requests to the apiserver block until it is closed, whatever their context says
	wait  chan struct{} // not nil: the reporter's loop blocks until it is closed
}

// logged are the lines of a log.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(line))
	return len(line), nil
}

// take returns the lines since the last time.
func (l *logged) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.lines = nil }()
	return l.lines
}

// RoundTripper that can get stuck.
type sticky struct {
	http.RoundTripper
	p *patient
}

func (s *sticky) RoundTrip(r *http.Request) (*http.Response, error) {
	s.p.mu.Lock()
	stuck := s.p.stuck
	s.p.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	return s.RoundTripper.RoundTrip(r)
}

// waiting is a source that can get stuck.
type waiting struct {
	source
	p *patient
}

func (w waiting) State(now time.Time) (complete bool, problems []string) {
	w.p.mu.Lock()
	wait := w.p.wait
	w.p.mu.Unlock()
	if wait != nil {
		<-wait
	}
	return w.source.State(now)
}

// The second of client-go's error handlers sleeps by a clock that it has set outside of the bubble: for decades.
func init() { utilruntime.ErrorHandlers = utilruntime.ErrorHandlers[:1] }

func withPatient(t *testing.T, f func(*patient)) {
	t.Helper()
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	// Nothing listens on port 1: what does not go to the simulator is refused at once.
	if err := os.WriteFile(kubeconfig, []byte(`
apiVersion: v1
kind: Config
current-context: sim
contexts: [{name: sim, context: {cluster: sim, user: sim}}]
clusters: [{name: sim, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: sim, user: {}}]
`), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		sim := simulator(t)
		p := &patient{t: t, sim: sim, net: sim.Listen(), log: &logged{}}
		cfg := config.DefaultAgent()
		cfg.ClusterID = "d-patient"
		cfg.Server.Addresses = []string{"127.0.0.1:1"}
		cfg.Kubernetes.Kubeconfig = kubeconfig
		log := slog.New(slog.NewTextHandler(p.log, nil))
		d, err := newDaemon(&cfg, operate.NewBuild("dev", ""), log, &slog.LevelVar{}, prometheus.NewRegistry(), Surroundings{})
		if err != nil {
			t.Fatal(err)
		}
		d.access.Dial = p.net.Dial
		d.access.WrapTransport = func(rt http.RoundTripper) http.RoundTripper { return &sticky{rt, p} }
		opts := d.reporterOptions()
		opts.Registerer = nil
		opts.Source = waiting{source{d}, p}
		if d.reporter, err = reporter.New(opts); err != nil {
			t.Fatal(err)
		}
		p.d = d
		p.probe = operate.New(operate.Options{Live: d.liveChecks(), Ready: d.readyChecks()}).Handler()

		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- d.run(ctx) }()
		time.Sleep(time.Minute)
		f(p)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
		if err := p.net.Shutdown(); err != nil {
			t.Error(err)
		}
	})
}

// live asks the liveness probe.
func (p *patient) live() (status int, body string) {
	rec := httptest.NewRecorder()
	p.probe.ServeHTTP(rec, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/healthz/live", nil))
	return rec.Code, rec.Body.String()
}

func (p *patient) alive(during string) {
	p.t.Helper()
	for end := time.Now().Add(outage); time.Now().Before(end); time.Sleep(20 * time.Second) { // the chart's probe period
		if code, body := p.live(); code != http.StatusOK {
			p.t.Fatalf("%s: got %d %s, want 200", during, code, body)
		}
	}
}

func TestLivenessOutlastsOutages(t *testing.T) {
	withPatient(t, func(p *patient) {
		p.alive("the server is away")
		p.net.SetDown(true)
		p.alive("the apiserver and the server are away")
		p.net.SetDown(false)
		p.sim.SetFaults(func(apisim.Request) apisim.Fault { return apisim.Fault{Hang: true} })
		p.alive("the apiserver hangs and the server is away")
		p.sim.SetFaults(func(apisim.Request) apisim.Fault { return apisim.Fault{Status: http.StatusInternalServerError} })
		p.alive("the apiserver fails and the server is away")
		p.sim.SetFaults(func(apisim.Request) apisim.Fault { return apisim.Fault{Status: http.StatusForbidden} })
		p.alive("everything is forbidden and the server is away")
	})
}

// TestLogIsQuiet: what fails again and again is logged when it starts, when it changes and when it ends, not on every retry.
// All else is a line an hour.
func TestLogIsQuiet(t *testing.T) {
	withPatient(t, func(p *patient) {
		ctx, cancel := context.WithCancel(p.t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { p.d.sayHourly(ctx) })
		const hours = 5
		begun := p.log.take()
		if n := about(begun, "the server cannot be reported to"); n != 1 {
			p.t.Errorf("got %d lines about the server that is away, want one:\n%s", n, strings.Join(begun, ""))
		}
		hourly := func(during string) {
			time.Sleep(hours * quietInterval)
			lines := p.log.take()
			if n := about(lines, "msg=state "); n != hours || len(lines) != hours {
				p.t.Errorf("%s: got %d lines in %d hours, want one each hour:\n%s", during, len(lines), hours, strings.Join(lines, ""))
			}
		}
		time.Sleep(time.Minute) // so that no hour ends when a look does
		hourly("the server is away")

		p.net.SetDown(true)
		time.Sleep(outage)
		p.log.take()
		hourly("the apiserver and the server are away")

		p.net.SetDown(false)
		time.Sleep(outage)
		over := p.log.take()
		if n, want := readAgain(p.t, over), len(p.d.set.Status().Resources); n != want {
			p.t.Errorf("got %d resources that can be read again, want each of %d once:\n%s", n, want, strings.Join(over, ""))
		}
		hourly("the apiserver is back")
	})
}

// readAgain counts the resources that lines say can be read again; several may share a line.
func readAgain(t *testing.T, lines []string) int {
	t.Helper()
	n := 0
	for _, l := range lines {
		if !strings.Contains(l, "state=Synced") {
			continue
		}
		_, count, several := strings.Cut(l, " count=")
		if !several {
			n++
			continue
		}
		count, _, _ = strings.Cut(count, " ")
		k, err := strconv.Atoi(count)
		if err != nil {
			t.Error(err)
		}
		n += k
	}
	return n
}

func about(lines []string, what string) int {
	n := 0
	for _, l := range lines {
		if strings.Contains(l, what) {
			n++
		}
	}
	return n
}

func TestLivenessEndsAStuckLoop(t *testing.T) {
	for _, c := range []struct {
		loop string
		hold func(*patient) (release chan struct{})
	}{
		{"reporter", func(p *patient) chan struct{} {
			p.wait = make(chan struct{})
			return p.wait
		}},
		{"informers", func(p *patient) chan struct{} {
			p.stuck = make(chan struct{})
			return p.stuck
		}},
	} {
		t.Run(c.loop, func(t *testing.T) {
			withPatient(t, func(p *patient) {
				p.mu.Lock()
				release := c.hold(p)
				p.mu.Unlock()
				time.Sleep(outage)
				if code, body := p.live(); code != http.StatusServiceUnavailable || !strings.Contains(body, c.loop) ||
					strings.Count(body, "stuck") != 1 {
					p.t.Errorf("got %d %s, want 503 that names the %s alone", code, body, c.loop)
				}
				p.mu.Lock()
				p.wait, p.stuck = nil, nil
				p.mu.Unlock()
				close(release)
				time.Sleep(time.Minute)
				if code, body := p.live(); code != http.StatusOK {
					p.t.Errorf("the loop turns again: got %d %s, want 200", code, body)
				}
			})
		})
	}
}
