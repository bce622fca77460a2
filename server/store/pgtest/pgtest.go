// Package pgtest starts real PostgreSQL servers for tests and benchmarks.
//
// It relies on the binaries of Debian's package postgresql, found in PATH or below /usr/lib/postgresql, and skips the
// test with a clear message where they are not installed. It promises that nothing of a server survives its test, or Close.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testport"
)

// Server is a PostgreSQL server of its own, with an empty database.
type Server struct {
	// MaxFile, if not 0, is the largest file in KiB that the server can write after the next Restart: a full disk. The
	// write-ahead log needs files of 16 MiB.
	MaxFile int
	// Args are more arguments of the server at the next Restart, such as "-c", "name=value". A standby does not inherit them.
	Args []string

	bin, dir, data string
	port           int
	cmd            *exec.Cmd
	done           chan error
}

// ErrMissing is that of a machine that cannot run PostgreSQL.
var ErrMissing = errors.New("PostgreSQL cannot run here")

// Start starts a server that is stopped when the test ends. Extra are lines of postgresql.conf.
func Start(t testing.TB, extra ...string) *Server {
	t.Helper()
	s, err := Open(extra...)
	if errors.Is(err, ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, s)
	return s
}

func cleanUp(t testing.TB, s *Server) {
	t.Helper()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("remove the database: %v", err)
		}
	})
}

// Open is Start outside of a test: Close is to be called. The error wraps ErrMissing if PostgreSQL is not installed, or would run as root.
func Open(extra ...string) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, fmt.Errorf("%w: it is not installed (apt-get install postgresql): %w", ErrMissing, err)
	}
	s, err := newServer(bin)
	if err != nil {
		return nil, err
	}
	if err := s.create(extra); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// newServer makes the folder of a server, and finds its port.
func newServer(bin string) (*Server, error) {
	// Not t.TempDir, which a user that PostgreSQL accepts could not enter.
	dir, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, dir: dir, data: filepath.Join(dir, "data")}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) prepare() error {
	if os.Getuid() == 0 {
		uid, gid, err := lookup()
		if err != nil {
			return fmt.Errorf("%w: not as root, and there is no user postgres or nobody: %w", ErrMissing, err)
		}
		if err := os.Chown(s.dir, uid, gid); err != nil {
			return err
		}
	}
	ports, err := testport.Free(1)
	if err != nil {
		return err
	}
	s.port = ports[0]
	return nil
}

// create makes the database and starts the server.
func (s *Server) create(extra []string) error {
	if err := s.run("initdb", "-D", s.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"); err != nil {
		return err
	}
	conf, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for _, line := range extra {
		if _, err := fmt.Fprintln(conf, line); err != nil {
			return errors.Join(err, conf.Close())
		}
	}
	if err := conf.Close(); err != nil {
		return err
	}
	return s.StartAgain()
}

// Close ends the server and removes its database.
func (s *Server) Close() error {
	s.Kill()
	return os.RemoveAll(s.dir)
}

// Standby starts a standby that follows the server by streaming replication.
func (s *Server) Standby(t testing.TB) *Server {
	t.Helper()
	b, err := s.OpenStandby()
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, b)
	return b
}

// OpenStandby is Standby outside of a test: Close is to be called.
func (s *Server) OpenStandby() (*Server, error) {
	b, err := newServer(s.bin)
	if err != nil {
		return nil, err
	}
	err = b.run("pg_basebackup", "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-U", "postgres", "-D", b.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
	if err == nil {
		err = b.StartAgain()
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// Promote makes a standby a server that can be written to.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	if err := s.TakeOver(); err != nil {
		t.Fatal(err)
	}
}

// TakeOver is Promote outside of a test.
func (s *Server) TakeOver() error { return s.run("pg_ctl", "promote", "-D", s.data, "-w") }

// Run runs a program of PostgreSQL as the server's user, in its folder.
func (s *Server) Run(t testing.TB, name string, args ...string) {
	t.Helper()
	if err := s.run(name, args...); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) run(name string, args ...string) error {
	if out, err := s.command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// Command is a program of PostgreSQL to be run as the server's user, in its folder.
func (s *Server) Command(name string, args ...string) *exec.Cmd { return s.command(name, args...) }

// Port is the server's.
func (s *Server) Port() int { return s.port }

// Data is the folder with the database, and Bin that with PostgreSQL's programs.
func (s *Server) Data() string { return s.data }

// Bin is the folder with PostgreSQL's programs.
func (s *Server) Bin() string { return s.bin }

// DSN is the connection string of the database.
func (s *Server) DSN() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", s.port)
}

// Kill ends the server as a crash would, with all its processes. It does nothing if the server does not run.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	pid := s.cmd.Process.Pid
	// Stopped first, so that it starts no more processes. Those that it has would serve their clients to the end of the
	// transaction if only their parent were killed. A process that has ended meanwhile is as good as killed.
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	children := childrenOf(pid)
	for _, child := range children {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	_ = s.cmd.Process.Kill()
	<-s.done //nolint:errcheck // that it was killed
	s.cmd = nil
	for _, child := range children {
		for alive(child) {
			time.Sleep(time.Millisecond)
		}
	}
}

// childrenOf returns the processes whose parent is pid.
func childrenOf(pid int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var children []int
	for _, path := range stats {
		if fields := statFields(path); len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// alive tells whether a process exists and is no zombie.
func alive(pid int) bool {
	fields := statFields(fmt.Sprintf("/proc/%d/stat", pid))
	return len(fields) > 0 && fields[0] != "Z"
}

// statFields returns the fields of a /proc/PID/stat behind the name: state, parent, …; none if there is no such process.
func statFields(path string) []string {
	stat, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
}

// Restart starts the server, which must not run, and waits until it answers.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := s.StartAgain(); err != nil {
		t.Fatal(err)
	}
}

// StartAgain is Restart outside of a test.
func (s *Server) StartAgain() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	for {
		cmd := s.command("postgres", append([]string{"-D", s.data, "-p", strconv.Itoa(s.port), "-h", "127.0.0.1", "-k", s.dir, "-c", "log_min_messages=fatal"}, s.Args...)...)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start postgres: %w", err)
		}
		s.cmd, s.done = cmd, make(chan error, 1)
		go func(done chan error) { done <- cmd.Wait() }(s.done)
		for s.running() {
			if s.answers(ctx) {
				return nil
			}
			if ctx.Err() != nil {
				out, _ := os.ReadFile(log.Name())
				return fmt.Errorf("PostgreSQL does not answer: %s", out)
			}
		}
		// After a crash the processes of the one before may hold its shared memory for a moment.
	}
}

// running tells whether the server has not ended by itself within a moment.
func (s *Server) running() bool {
	select {
	case err := <-s.done:
		s.done <- err
		return false
	case <-time.After(20 * time.Millisecond):
		return true
	}
}

func (s *Server) answers(ctx context.Context) bool {
	conn, err := pgx.Connect(ctx, s.DSN())
	if err != nil {
		return false
	}
	return conn.Close(ctx) == nil
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	if s.MaxFile > 0 {
		script := fmt.Sprintf(`ulimit -f %d; exec "$0" "$@"`, s.MaxFile)
		cmd = exec.Command("/bin/bash", append([]string{"-c", script, filepath.Join(s.bin, name)}, args...)...)
	}
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		uid, gid, err := lookup()
		if err == nil {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return cmd
}

// lookup finds a user for PostgreSQL, which refuses to run as root.
func lookup() (uid, gid int, err error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return 0, 0, err
		}
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

// binaries returns the folder that holds postgres and initdb.
func binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err == nil && len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}
