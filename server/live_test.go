package server

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zlib"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// moody is a storage in memory that can be away, slow or stuck. It says of itself that others write, too, so that every
// loop asks it on every turn.
type moody struct {
	*store.Memory

	mu   sync.Mutex
	mood func(ctx context.Context, call string) error // nil: it works
}

func (m *moody) set(mood func(context.Context, string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mood = mood
}

func (m *moody) ask(ctx context.Context, call string) error {
	m.mu.Lock()
	mood := m.mood
	m.mu.Unlock()
	if mood == nil {
		return nil
	}
	return mood(ctx, call)
}

func (m *moody) Shared() bool { return true }

func (m *moody) Clusters(ctx context.Context) ([]store.State, error) {
	if err := m.ask(ctx, "Clusters"); err != nil {
		return nil, err
	}
	return m.Memory.Clusters(ctx)
}

func (m *moody) State(ctx context.Context, id string) (store.State, error) {
	if err := m.ask(ctx, "State"); err != nil {
		return store.State{}, err
	}
	return m.Memory.State(ctx, id)
}

func (m *moody) Load(ctx context.Context, id string, since store.Since, yield func(*store.Entry) error) (store.State, []store.Snapshot, error) {
	if err := m.ask(ctx, "Load"); err != nil {
		return store.State{}, nil, err
	}
	return m.Memory.Load(ctx, id, since, yield)
}

func (m *moody) Payloads(ctx context.Context, id string, rows []uint64) ([][]byte, error) {
	if err := m.ask(ctx, "Payloads"); err != nil {
		return nil, err
	}
	return m.Memory.Payloads(ctx, id, rows)
}

func (m *moody) Forget(ctx context.Context, id string, expected uint64) error {
	if err := m.ask(ctx, "Forget"); err != nil {
		return err
	}
	return m.Memory.Forget(ctx, id, expected)
}

func (m *moody) Document(ctx context.Context, kind, key string) (store.Document, error) {
	if err := m.ask(ctx, "Document "+kind); err != nil {
		return store.Document{}, err
	}
	return m.Memory.Document(ctx, kind, key)
}

func (m *moody) Documents(ctx context.Context, kind string) ([]store.Document, error) {
	if err := m.ask(ctx, "Documents "+kind); err != nil {
		return nil, err
	}
	return m.Memory.Documents(ctx, kind)
}

func (m *moody) PutDocument(ctx context.Context, kind string, d store.Document) (uint64, error) {
	if err := m.ask(ctx, "PutDocument "+kind); err != nil {
		return 0, err
	}
	return m.Memory.PutDocument(ctx, kind, d)
}

// patient is a pseudo-server without its network, in a synctest bubble.
type patient struct {
	t       *testing.T
	backend *moody
	parts   *parts
	probe   http.Handler
}

func withPatient(t *testing.T, f func(*patient)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := config.DefaultServer()
		cfg.Retention.GoneAfter = 12 * outage
		d := &daemon{cfg: &cfg, log: slog.New(slog.DiscardHandler)}
		p := &patient{t: t, backend: &moody{Memory: store.NewMemory()}}
		var err error
		if p.parts, err = d.assemble(t.Context(), p.backend, prometheus.NewRegistry(), receiver.Options{}); err != nil {
			t.Fatal(err)
		}
		p.probe = operate.New(operate.Options{Live: p.parts.live()}).Handler()
		ctx, cancel := context.WithCancel(t.Context())
		g, ctx := errgroup.WithContext(ctx)
		p.parts.run(ctx, g)
		for i := range 5 {
			p.report(fmt.Sprintf("d-%d", i), 1)
			_, err := p.parts.elector.Sync(ctx, "10.0.0.1:1", &agent.SyncRequest{KubernetesClusterId: new(fmt.Sprintf("d-%d", i)), CtrlIp: new("10.0.0.1")})
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		f(p)
		cancel()
		if err := g.Wait(); err != nil {
			t.Errorf("the loops ended with %v", err)
		}
		p.parts.close()
	})
}

// report stores a version of a cluster, as another replica would.
func (p *patient) report(id string, version uint64) {
	p.t.Helper()
	kept := store.New(p.backend.Memory, store.Options{Keep: 3})
	tx, err := kept.Begin(p.t.Context(), id)
	if err != nil {
		p.t.Fatal(err)
	}
	defer tx.Close()
	data := fmt.Appendf(nil, `{"gitVersion":"v1.36.%d"}`, version)
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	e := &store.Entry{
		Key: store.KeyOf("*version.Info", nil), Sum: store.SumOf("*version.Info", b.Bytes()), Type: "*version.Info",
		Size: uint32(b.Len()), RawSize: uint32(len(data)),
	}
	if err := tx.Save(p.t.Context(), version, store.Touch{}, []store.Incoming{{Entry: e, Payload: b.Bytes()}}); err != nil {
		p.t.Fatal(err)
	}
}

// live asks the liveness probe.
func (p *patient) live() (status int, body string) {
	rec := httptest.NewRecorder()
	p.probe.ServeHTTP(rec, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/healthz/live", nil))
	return rec.Code, rec.Body.String()
}

// outage is longer than every loop may be silent.
const outage = 2 * loopLimit

func (p *patient) alive(during string, mood func(context.Context, string) error) {
	p.t.Helper()
	p.report("d-0", uint64(time.Now().UnixNano())) // something to look at
	p.backend.set(mood)
	for end := time.Now().Add(outage); time.Now().Before(end); time.Sleep(10 * time.Second) {
		if code, body := p.live(); code != http.StatusOK {
			p.t.Fatalf("%s: got %d %s, want 200", during, code, body)
		}
	}
}

func TestLivenessOutlastsOutages(t *testing.T) {
	withPatient(t, func(p *patient) {
		p.alive("all is well", nil)
		p.alive("the database refuses", func(context.Context, string) error {
			return fmt.Errorf("%w: connection refused", store.ErrUnavailable)
		})
		p.alive("the database does not answer", func(ctx context.Context, _ string) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
		p.alive("the database does not answer with entries", func(ctx context.Context, call string) error {
			if call == "Payloads" {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return nil
		})
		p.alive("the database is slow", func(ctx context.Context, _ string) error {
			select {
			case <-time.After(store.Patience - time.Second):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		hangs := time.Now().Add(10 * time.Minute)
		p.alive("the disk hangs for ten minutes", func(context.Context, string) error {
			time.Sleep(time.Until(hangs))
			return nil
		})
		p.backend.set(nil)
		p.report("d-0", 7)
		time.Sleep(2 * time.Minute)
		if s := p.parts.viewer.Status(); s.State != "ok" || s.Clusters != 5 {
			p.t.Errorf("after the outages: got %+v, want 5 clusters followed", s)
		}
		if s := p.parts.elector.Status(); s.State != "ok" || s.Clusters != 5 {
			p.t.Errorf("after the outages: got %+v, want 5 clusters", s)
		}
	})
}

func TestLivenessEndsAStuckLoop(t *testing.T) {
	for loop, c := range map[string]struct {
		call    string // that gets stuck, whatever its context says
		provoke func(*patient)
	}{
		"receiver": {"Forget", func(*patient) { time.Sleep(12 * outage) }},
		"elector":  {"Documents elector", func(*patient) {}},
		"viewer":   {"Payloads", func(p *patient) { p.report("d-1", 2) }},
	} {
		t.Run(loop, func(t *testing.T) {
			withPatient(t, func(p *patient) {
				release := make(chan struct{})
				p.backend.set(func(_ context.Context, call string) error {
					if call == c.call {
						<-release
					}
					return nil
				})
				c.provoke(p)
				time.Sleep(outage)
				if code, body := p.live(); code != http.StatusServiceUnavailable || !strings.Contains(body, loop) || strings.Count(body, "stuck") != 1 {
					p.t.Errorf("got %d %s, want 503 that names the %s alone", code, body, loop)
				}
				p.backend.set(nil)
				close(release)
				time.Sleep(time.Minute)
				if code, body := p.live(); code != http.StatusOK {
					p.t.Errorf("the loop turns again: got %d %s, want 200", code, body)
				}
			})
		})
	}
}
