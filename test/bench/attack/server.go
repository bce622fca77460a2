package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// target is where a server is.
type target struct{ grpc, http string }

// token of the bound cluster.
const token = "token-of-the-bound-cluster"

// server is the pseudo-server that is attacked.
type server struct {
	target target
	cmd    *exec.Cmd
	cgroup string // empty: none
	v1     bool
	log    string
	ended  chan error

	most           usage // the moment with the most memory of its own
	cgroupAnonPeak int64
}

const config = `
listen: {grpc: "127.0.0.1:0", http: "127.0.0.1:0"}
store: %[1]s
http: {pprof: true}
access:
  clusters:
  - {cluster_id: d-bound, token_file: %[2]q}
`

// startServer starts pseudo-server with so much memory, in bytes, and waits until it is ready.
// What it has goes to the database, or to a file if that is nil.
func startServer(ctx context.Context, binary, dir string, limit int64, db *database) (*server, error) {
	tokenFile, configFile := filepath.Join(dir, "token"), filepath.Join(dir, "config.yaml")
	store := fmt.Sprintf("{path: %q}", filepath.Join(dir, "db"))
	if db != nil {
		store = fmt.Sprintf("{type: postgres, dsn: %q}", db.dsn())
	}
	for name, text := range map[string]string{tokenFile: token, configFile: fmt.Sprintf(config, store, tokenFile)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	s := &server{log: filepath.Join(os.TempDir(), fmt.Sprintf("attack-%dMiB.log", limit>>20)), ended: make(chan error, 1)}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	// The shell goes into the cgroup before it becomes the server, so that all of it counts.
	enter, env := s.makeCgroup(limit)
	s.cmd = exec.Command("sh", "-c", enter+`exec "$0" "$@"`, binary, "run", "--config", configFile)
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.ended <- s.cmd.Wait() }()
	for range 100 {
		if s.findAddresses() && s.ready(ctx) {
			return s, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.stop()
	return nil, fmt.Errorf("the server does not become ready, see %s", s.log)
}

// makeCgroup makes a cgroup if that is possible. It returns the shell command that enters it, and what the environment needs.
func (s *server) makeCgroup(limit int64) (enter string, env []string) {
	name := fmt.Sprintf("attack-%d-%d", os.Getpid(), limit>>20)
	for _, c := range []struct {
		root, limit string
		v1          bool
	}{{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", true}, {"/sys/fs/cgroup", "memory.max", false}} {
		dir := filepath.Join(c.root, name)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		if os.WriteFile(filepath.Join(dir, c.limit), []byte(strconv.FormatInt(limit, 10)), 0o600) != nil {
			_ = os.Remove(dir)
			continue
		}
		s.cgroup, s.v1 = dir, c.v1
		return "echo $$ > " + dir + "/cgroup.procs && ", nil
	}
	fmt.Println("no cgroup can be made (that needs root): GOMEMLIMIT stands in for it")
	return "", []string{fmt.Sprintf("GOMEMLIMIT=%d", limit/10*9)}
}

// findAddresses reads the addresses from the log.
func (s *server) findAddresses() bool {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		var l struct{ Msg, GRPC, HTTP string }
		if json.Unmarshal(line, &l) == nil && l.Msg == "pseudo-server runs" {
			s.target = target{grpc: l.GRPC, http: "http://" + l.HTTP}
			return true
		}
	}
	return false
}

func (s *server) ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.target.http+"/healthz/ready", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// stop ends the server and removes its cgroup.
func (s *server) stop() {
	_ = s.cmd.Process.Kill() // if it has not ended already
	select {
	case <-s.ended: //nolint:errcheck // whatever it ended with
	case <-time.After(10 * time.Second):
	}
	if s.cgroup != "" {
		_ = os.Remove(s.cgroup) // an empty one that is left disturbs nobody
	}
}

// memory tells how much memory the server took at most.
func (s *server) memory() string {
	text := "peak of the process " + s.field("/proc/"+strconv.Itoa(s.cmd.Process.Pid)+"/status", "VmHWM:")
	if s.cgroup == "" {
		return text
	}
	name := "memory.peak"
	if s.v1 {
		name = "memory.max_usage_in_bytes"
	}
	if b, err := os.ReadFile(filepath.Join(s.cgroup, name)); err == nil {
		text += ", of the cgroup with the file's cache " + strings.TrimSpace(string(b)) + " bytes"
	}
	return fmt.Sprintf("%s, of it at most %d MiB that can not be taken back; OOM kills %d\nat its most: %v", text, s.cgroupAnonPeak>>20, s.kills(), s.most)
}

// kills is how many processes of the cgroup the kernel has ended.
func (s *server) kills() int {
	name := "memory.events"
	if s.v1 {
		name = "memory.oom_control"
	}
	n, _ := strconv.Atoi(s.field(filepath.Join(s.cgroup, name), "oom_kill "))
	return n
}

func (s *server) field(file, key string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, key); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
