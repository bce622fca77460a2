package server

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// bothDSN names two servers, of which the one that can be written to is to be used.
func bothDSN(a, b *pgtest.Server) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable&target_session_attrs=read-write&connect_timeout=2", a.Port(), b.Port())
}

// value asks a server for one value; empty: it does not answer.
func value(t *testing.T, s *pgtest.Server, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN())
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close(ctx) }()
	var v string
	if err := conn.QueryRow(ctx, sql).Scan(&v); err != nil {
		return ""
	}
	return v
}

// synchronous waits until a standby follows, and has the primary wait for it with each commit.
func synchronous(t *testing.T, primary *pgtest.Server) {
	t.Helper()
	primary.Args = []string{"-c", "synchronous_standby_names=*"}
	primary.Kill()
	primary.Restart(t)
	until(t, "a standby follows synchronously", func() bool {
		return value(t, primary, "SELECT coalesce(max(sync_state), 'none') FROM pg_stat_replication WHERE state = 'streaming'") == "sync"
	})
}

// TestFailOver takes PostgreSQL's primary away, kill -9, under the load of replicas behind HAProxy; a synchronous standby takes
// over, promoted by hand. Nothing that was acknowledged is lost and no two agents watch; then the same the other way round.
func TestFailOver(t *testing.T) {
	if testing.Short() {
		t.Skip("starts databases")
	}
	primary := pgtest.Start(t)
	standby := primary.Standby(t)
	synchronous(t, primary)
	f := newFleet(t, "haproxy", bothDSN(primary, standby), 3)
	load := f.load(t, 4, 50*time.Millisecond)
	busy := func() {
		t.Helper()
		before := load.acked.Load()
		until(t, "versions are acknowledged", func() bool { return load.acked.Load() > before+40 })
	}
	busy()
	primary.Kill()
	standby.Promote(t)
	busy()
	for _, r := range f.replicas {
		until(t, "a replica is ready with the new primary", r.ready)
	}
	load.stop()
	load.verify(t, f)
	t.Log(load)
}

// TestFailOverByRepmgr is TestFailOver with Debian's repmgr, which notices that the primary is gone and promotes by itself.
func TestFailOverByRepmgr(t *testing.T) {
	if testing.Short() {
		t.Skip("starts databases")
	}
	primary := pgtest.Start(t, "shared_preload_libraries = 'repmgr'", "wal_log_hints = on")
	if _, err := os.Stat(filepath.Join(primary.Bin(), "repmgrd")); err != nil {
		t.Skipf("repmgr is not installed (apt-get install postgresql-15-repmgr): %v", err)
	}
	standby := primary.Standby(t)
	config := func(s *pgtest.Server, n int) string {
		file := filepath.Join(filepath.Dir(s.Data()), "repmgr.conf")
		lines := []string{
			fmt.Sprintf("node_id=%d", n), fmt.Sprintf("node_name='node%d'", n), fmt.Sprintf("data_directory='%s'", s.Data()),
			fmt.Sprintf("conninfo='host=127.0.0.1 port=%d user=postgres dbname=postgres connect_timeout=2'", s.Port()),
			fmt.Sprintf("pg_bindir='%s'", s.Bin()), "failover=automatic", "monitor_interval_secs=1", "reconnect_attempts=2", "reconnect_interval=1",
			fmt.Sprintf("promote_command='%s/repmgr standby promote -f %s'", s.Bin(), file),
			fmt.Sprintf("follow_command='%s/repmgr standby follow -f %s'", s.Bin(), file),
		}
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	first, second := config(primary, 1), config(standby, 2)
	primary.Run(t, "repmgr", "-f", first, "primary", "register")
	until(t, "the standby has what repmgr registered", func() bool { return value(t, standby, "SELECT count(*)::text FROM repmgr.nodes") == "1" })
	standby.Run(t, "repmgr", "-f", second, "standby", "register", "--upstream-node-id=1", "--force")
	synchronous(t, primary)
	daemon := standby.Command("repmgrd", "-f", second, "--daemonize=false", "--no-pid-file")
	var log strings.Builder
	daemon.Stdout, daemon.Stderr = &log, &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
		if t.Failed() {
			t.Logf("repmgrd: %s", log.String())
		}
	})
	f := newFleet(t, "haproxy", bothDSN(primary, standby), 3)
	load := f.load(t, 4, 50*time.Millisecond)
	until(t, "versions are acknowledged", func() bool { return load.acked.Load() > 40 })
	primary.Kill()
	before := load.acked.Load()
	until(t, "repmgr promotes the standby", func() bool { return value(t, standby, "SELECT pg_is_in_recovery()::text") == "false" })
	until(t, "versions are acknowledged again", func() bool { return load.acked.Load() > before+40 })
	load.stop()
	load.verify(t, f)
	t.Log(load)
}
