package receiver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// bulk returns entries of about a size in MiB that does not compress.
func bulk(t testing.TB, seed uint64, mib int) []*agent.KubernetesAPIInfo {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	entries := []*agent.KubernetesAPIInfo{versionEntry(t)}
	for i := range mib * 8 {
		var b strings.Builder
		for b.Len() < 256<<10 {
			_, _ = fmt.Fprintf(&b, "%016x", rng.Uint64())
		}
		entries = append(entries, entry(t, "*v1.ConfigMap", fmt.Sprintf(`{"metadata":{"uid":"%d","name":"c%d"},"data":{"x":"%s"}}`, i, i, b.String())))
	}
	return entries
}

// fullDisk reports to a server whose disk is full, and again when it no longer is.
func fullDisk(t *testing.T, address string, more func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	client := agent.NewSynchronizerClient(dial(t, address))
	send := func(version uint64, entries []*agent.KubernetesAPIInfo) (uint64, error) {
		resp, err := client.KubernetesAPISync(ctx, report(version, 1, entries...))
		return resp.GetVersion(), err
	}
	big := bulk(t, 2, 24)
	for range 2 {
		if got, err := send(2, big); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "rule storage") {
			t.Fatalf("report to a full disk: got %d, %v, want UNAVAILABLE by rule storage", got, err)
		}
	}
	if got, err := send(2, nil); err != nil || got != 1 {
		t.Errorf("heartbeat of the refused version: got %d, %v, want the stored version 1", got, err)
	}
	more()
	got, err := send(2, big)
	for status.Code(err) == codes.Unavailable && ctx.Err() == nil {
		got, err = send(2, big) // connections to a database that was started again come back by and by
	}
	if err != nil || got != 2 {
		t.Errorf("report when there is room again: got %d, %v, want 2", got, err)
	}
}

func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("writes much")
	}
	first := []*agent.KubernetesAPIInfo{versionEntry(t), pod(t, "a", "1")}
	t.Run("embedded", func(t *testing.T) {
		spec := "embedded " + filepath.Join(t.TempDir(), "test.db")
		p := startVictim(t, spec, "")
		t.Cleanup(p.kill)
		if _, err := agent.NewSynchronizerClient(dial(t, p.address)).KubernetesAPISync(context.Background(), report(1, 1, first...)); err != nil {
			t.Fatal(err)
		}
		p.limit(t, 12<<20)
		fullDisk(t, p.address, func() { p.limit(t, 1<<40) })
		p.kill()
		checkBulk(t, spec)
	})
	t.Run("postgres", func(t *testing.T) {
		server := pgtest.Start(t, "fsync = off")
		spec := "postgres " + server.DSN()
		p := startVictim(t, spec, "")
		t.Cleanup(p.kill)
		if _, err := agent.NewSynchronizerClient(dial(t, p.address)).KubernetesAPISync(context.Background(), report(1, 1, first...)); err != nil {
			t.Fatal(err)
		}
		server.Kill()
		server.MaxFile = 18 << 10
		server.Restart(t)
		fullDisk(t, p.address, func() {
			server.Kill()
			server.MaxFile = 0
			server.Restart(t)
		})
		p.kill()
		checkBulk(t, spec)
	})
}

// checkBulk reopens the store and looks for both versions.
func checkBulk(t *testing.T, spec string) {
	t.Helper()
	s, err := openStore(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Backend().Close(); err != nil {
			t.Error(err)
		}
	}()
	view, err := s.View(context.Background(), "d-test")
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[uint64]int{1: 2, 2: 24*8 + 1} {
		_, entries, err := view.At(version)
		if err != nil || len(entries) != want {
			t.Errorf("version %d: got %d entries, %v, want %d", version, len(entries), err, want)
		}
	}
}

// TestLostDatabase takes PostgreSQL away and gives it back, without restarting the server.
func TestLostDatabase(t *testing.T) {
	server := pgtest.Start(t)
	backend, err := store.OpenPostgres(context.Background(), server.DSN(), 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := backend.Close(); err != nil {
			t.Error(err)
		}
	})
	var logged lockedBuffer
	r := newRig(t, receiver.Options{
		Store: store.New(backend, store.Options{Keep: 2}), Logger: slog.New(slog.NewTextHandler(&logged, nil)),
		Audit: slog.New(slog.DiscardHandler),
	})
	ctx := context.Background()
	v, a := versionEntry(t), pod(t, "a", "1")
	if _, err := r.agent.KubernetesAPISync(ctx, report(1, 1, v, a)); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	for range 5 {
		if _, err := r.agent.KubernetesAPISync(ctx, report(2, 1, v)); status.Code(err) != codes.Unavailable {
			t.Errorf("report without a database: got %v, want UNAVAILABLE", err)
		}
	}
	if err := r.recv.Check(ctx); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("readiness without a database: got %v, want ErrUnavailable", err)
	}
	if st := r.recv.Status(); st.State != "storage fails" || st.Reason == "" || st.Advice == "" {
		t.Errorf("status without a database: got %+v", st)
	}
	server.Restart(t)
	if err := r.recv.Check(ctx); err != nil {
		t.Errorf("readiness with the database back: %v", err)
	}
	if got, err := r.agent.KubernetesAPISync(ctx, report(1, 1)); err != nil || got.GetVersion() != 1 {
		t.Errorf("heartbeat with the database back: got %v, %v, want version 1", got, err)
	}
	if got := r.names(t); got != "a" {
		t.Errorf("got %q stored, want a", got)
	}
	if st := r.recv.Status(); st.State != "ok" {
		t.Errorf("status with the database back: got %+v", st)
	}
	if n := strings.Count(logged.String(), "storage fails: "); n != 1 {
		t.Errorf("got %d messages that the storage fails, want one:\n%s", n, logged.String())
	}
	if !strings.Contains(logged.String(), "storage works again") {
		t.Error("nothing was logged when the database came back")
	}
}

// TestRemovedFile removes the embedded database while it is open.
func TestRemovedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	backend, err := store.OpenEmbedded(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := backend.Close(); err != nil {
			t.Error(err)
		}
	})
	r := newRig(t, receiver.Options{Store: store.New(backend, store.Options{}), Logger: slog.New(slog.DiscardHandler)})
	ctx := context.Background()
	if _, err := r.agent.KubernetesAPISync(ctx, report(1, 1, versionEntry(t))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.agent.KubernetesAPISync(ctx, report(2, 1, versionEntry(t))); status.Code(err) != codes.Unavailable {
		t.Errorf("report to a removed file: got %v, want UNAVAILABLE", err)
	}
	if err := r.recv.Check(ctx); err == nil || !strings.Contains(err.Error(), "removed") {
		t.Errorf("readiness: got %v, want an error that says the file was removed", err)
	}
}

// gate is a backend whose commits wait to be let through.
type gate struct {
	store.Backend
	open chan struct{}
}

func (g *gate) Commit(ctx context.Context, c *store.Change) error {
	select {
	case <-g.open:
	case <-ctx.Done():
		return ctx.Err()
	}
	return g.Backend.Commit(ctx, c)
}

// TestBusy fills the place to work and the place to wait; the next request is refused at once, and those that were
// there are answered.
func TestBusy(t *testing.T) {
	g := &gate{Backend: store.NewMemory(), open: make(chan struct{})}
	r := newRig(t, receiver.Options{
		Store: store.New(g, store.Options{}), Limits: receiver.Limits{MaxConcurrentRequests: 1, MaxWaitingRequests: 1},
	})
	ctx := context.Background()
	results := make(chan error, 2)
	send := func(version uint64) {
		_, err := r.agent.KubernetesAPISync(ctx, report(version, 1, versionEntry(t)))
		results <- err
	}
	until := func(what string, condition func(receiver.Status) bool) {
		t.Helper()
		for range 3000 {
			if condition(r.recv.Status()) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("never: %s", what)
	}
	go send(1)
	until("one works", func(s receiver.Status) bool { return s.Working == 1 })
	go send(2)
	until("one waits", func(s receiver.Status) bool { return s.Waiting == 1 })
	if _, err := r.agent.KubernetesAPISync(ctx, report(3, 1, versionEntry(t))); status.Code(err) != codes.ResourceExhausted ||
		!strings.Contains(err.Error(), "rule busy") {
		t.Errorf("third request: got %v, want a refusal by rule busy", err)
	}
	close(g.open)
	for range 2 {
		if err := <-results; err != nil {
			t.Errorf("a request that had its place: %v", err)
		}
	}
}

// unwritable is a storage that can be read, and written unless full is set: a full disk.
type unwritable struct {
	*store.Memory

	full atomic.Bool
}

// Commit implements store.Backend.
func (u *unwritable) Commit(ctx context.Context, c *store.Change) error {
	if u.full.Load() {
		return fmt.Errorf("%w: no space left on device", store.ErrUnavailable)
	}
	return u.Memory.Commit(ctx, c)
}

// TestToldOnce: a full disk is told once and ends with the first report that is stored, not with a probe that only reads.
func TestToldOnce(t *testing.T) {
	ctx := context.Background()
	backend := &unwritable{Memory: store.NewMemory()}
	var log lockedBuffer
	r := newRig(t, receiver.Options{Store: store.New(backend, store.Options{Keep: 3}), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	const began, ended = "storage fails", "storage works again"
	backend.full.Store(true)
	for version := range uint64(3) {
		if _, err := r.agent.KubernetesAPISync(ctx, report(version+1, 1, versionEntry(t))); status.Code(err) != codes.Unavailable {
			t.Errorf("got %v, want Unavailable", err)
		}
		if err := r.recv.Check(ctx); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Check: got %v, want ErrUnavailable: it can be read, but not written", err)
		}
	}
	if s := r.recv.Status(); s.State != began {
		t.Errorf("got state %q, want %q", s.State, began)
	}
	if n, m := strings.Count(log.String(), began), strings.Count(log.String(), ended); n != 1 || m != 0 {
		t.Errorf("while it is full: got it told %d times, and its end %d times:\n%s", n, m, log.String())
	}
	backend.full.Store(false)
	if _, err := r.agent.KubernetesAPISync(ctx, report(9, 1, versionEntry(t))); err != nil {
		t.Error(err)
	}
	if s := r.recv.Status(); s.State != "ok" || strings.Count(log.String(), ended) != 1 {
		t.Errorf("got state %q and the log\n%s, want the end told once", s.State, log.String())
	}
}

// restarting is a database that comes up again: each attempt to read from it fails in a way of its own.
type restarting struct {
	*store.Memory

	down atomic.Bool
	n    atomic.Int64
}

func (r *restarting) State(ctx context.Context, id string) (store.State, error) {
	if r.down.Load() {
		return store.State{}, fmt.Errorf("%w: PostgreSQL: way %d", store.ErrUnavailable, r.n.Add(1)%3)
	}
	return r.Memory.State(ctx, id)
}

func (r *restarting) Shared() bool { return true }

// TestToldOnceForAllClusters: one database that is away is one line, however many clusters ask for it and in however many ways it fails;
// which way that is now stands in the status.
func TestToldOnceForAllClusters(t *testing.T) {
	backend := &restarting{Memory: store.NewMemory()}
	var log lockedBuffer
	r := newRig(t, receiver.Options{Store: store.New(backend, store.Options{Keep: 3}), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	backend.down.Store(true)
	for i := range 20 {
		req := report(1, 1, versionEntry(t))
		req.ClusterId = new(fmt.Sprintf("d-%d", i%7))
		if _, err := r.agent.KubernetesAPISync(t.Context(), req); status.Code(err) != codes.Unavailable {
			t.Fatalf("got %v, want Unavailable", err)
		}
	}
	if n := strings.Count(log.String(), "storage fails"); n != 1 {
		t.Errorf("got %d lines, want 1:\n%s", n, log.String())
	}
	if got, want := r.recv.Status().Reason, "storage is not available: PostgreSQL: way 2"; got != want {
		t.Errorf("status: got %q, want %q", got, want)
	}
}

// sealed is a backend that can be read, and whose documents cannot be written, or only after a while.
type sealed struct {
	*store.Memory
	shut atomic.Bool
	hang atomic.Bool
}

func (s *sealed) PutDocument(ctx context.Context, kind string, d store.Document) (uint64, error) {
	if s.hang.Load() {
		time.Sleep(time.Minute)
	}
	if s.shut.Load() {
		return 0, fmt.Errorf("%w: read-only file system", store.ErrUnavailable)
	}
	return s.Memory.PutDocument(ctx, kind, d)
}

// TestWriteProbe: readiness and status tell within a quarter of a minute that the storage can only be read, or hangs, though
// nobody reports; and that it works again.
func TestWriteProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := &sealed{Memory: store.NewMemory()}
		recv := receiver.New(receiver.Options{Store: store.New(backend, store.Options{}), Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- recv.Run(ctx) }()
		after := func(d time.Duration, want, state string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if err := recv.Check(ctx); want == "" && err != nil || want != "" && (!errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), want)) {
				t.Errorf("readiness: got %v, want %q", err, want)
			}
			if s := recv.Status(); s.State != state {
				t.Errorf("status: got %q, want %q", s.State, state)
			}
		}
		after(time.Second, "", "ok")
		backend.shut.Store(true)
		after(15*time.Second, "read-only file system", "storage fails")
		backend.shut.Store(false)
		after(15*time.Second, "", "ok")
		backend.hang.Store(true)
		after(26*time.Second, "a write has been under way for", "storage fails")
		backend.hang.Store(false)
		after(65*time.Second, "", "ok")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
