package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/test/bench/rival"
	"github.com/pseudo-agent/pseudo-agent/test/bench/sink"
)

// subject is a process that is measured.
type subject interface {
	PID() int
	// Synced waits until everything is listed and, by those that report, reported.
	Synced(ctx context.Context) error
	// Live is the size of the reachable heap in bytes, after a garbage collection.
	Live() (int64, error)
	// Allocated is the sum of all allocations so far in bytes.
	Allocated() (int64, error)
	// Pending tells whether changes have not been reported yet.
	Pending() (bool, error)
	// Reports tells whether it reports at all.
	Reports() bool
	// Quiescence is how long it must have been since the last report so that the next change is sent after the debounce.
	Quiescence() time.Duration
	Stop()
	// kill ends the process without waiting for its end.
	kill()
}

// child is a process of ours.
type child struct {
	cmd  *exec.Cmd
	name string
	log  string
}

func startChild(c *child, dir string, stdout io.Writer) error {
	c.log = filepath.Join(dir, c.name+".log")
	f, err := os.Create(c.log)
	if err != nil {
		return err
	}
	defer f.Close()
	c.cmd.Stderr = f
	if c.cmd.Stdout == nil && stdout == nil {
		c.cmd.Stdout = f
	}
	dieWithParent(c.cmd)
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	return nil
}

func (c *child) PID() int { return c.cmd.Process.Pid }

// Stop kills the process: nothing is measured at its end.
func (c *child) Stop() {
	c.kill()
	_ = c.cmd.Wait()
}

func (c *child) kill() { _ = c.cmd.Process.Kill() } // an error says that it has ended

// fail adds the last words of the process to an error.
func (c *child) fail(err error) error {
	b, readErr := os.ReadFile(c.log)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	return fmt.Errorf("%s: %w; its last words:\n%s", c.name, err, b[max(0, len(b)-2000):])
}

// rivalSubject is this program again, as a rival.
type rivalSubject struct {
	child
	in   io.WriteCloser
	out  *bufio.Scanner
	sink *sink.Sink
	born time.Time
}

func startRival(name, kubeconfig, dir string, s *sink.Sink) (*rivalSubject, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &rivalSubject{sink: s, born: time.Now()}
	r.name = name
	r.cmd = exec.Command(self, "rival", "-name", name, "-kubeconfig", kubeconfig, "-server", s.Address)
	if r.in, err = r.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.out = bufio.NewScanner(out)
	return r, startChild(&r.child, dir, io.Discard)
}

func (r *rivalSubject) answer() (rival.Answer, error) {
	var a rival.Answer
	if !r.out.Scan() {
		return a, r.fail(errors.Join(errors.New("no answer"), r.out.Err()))
	}
	return a, json.Unmarshal(r.out.Bytes(), &a)
}

func (r *rivalSubject) ask(command string) (rival.Answer, error) {
	if _, err := fmt.Fprintln(r.in, command); err != nil {
		return rival.Answer{}, r.fail(err)
	}
	return r.answer()
}

func (r *rivalSubject) Synced(ctx context.Context) error {
	if _, err := r.answer(); err != nil {
		return err
	}
	if !r.Reports() {
		return nil
	}
	_, err := r.sink.Next(ctx, r.born)
	return err
}

func (r *rivalSubject) Live() (int64, error) {
	a, err := r.ask("live")
	return int64(a.Live), err
}

func (r *rivalSubject) Allocated() (int64, error) {
	a, err := r.ask("allocated")
	return int64(a.Allocated), err
}

func (r *rivalSubject) Pending() (bool, error) {
	a, err := r.ask("pending")
	return a.Pending, err
}

func (r *rivalSubject) Reports() bool           { return rival.Reports(r.name) }
func (*rivalSubject) Quiescence() time.Duration { return 0 }

// agentSubject is the real pseudo-agent.
type agentSubject struct {
	child
	http string
	sink *sink.Sink
	born time.Time
}

// pushInterval is pseudo-agent's least time between two changed reports.
const pushInterval = 10 * time.Second

func startAgent(binary, kubeconfig, dir string, s *sink.Sink, name string) (*agentSubject, error) {
	contentType := "auto"
	if name == pseudoAgentJSON {
		contentType = "json"
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	// Defaults, but for the access. The server's limit of 100 MiB is lifted so that the largest clusters can be measured.
	config := fmt.Sprintf("cluster_id: bench\nclaim_watcher: false\nserver: {addresses: [%q], max_message_size: 2147483647}\n"+
		"kubernetes: {kubeconfig: %q, content_type: %s}\nhttp: {address: %q, pprof: true}\n", s.Address, kubeconfig, contentType, address)
	file := filepath.Join(dir, "pseudo-agent.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	a := &agentSubject{http: "http://" + address, sink: s, born: time.Now()}
	a.name = name
	a.cmd = exec.Command(binary, "run", "--config", file)
	return a, startChild(&a.child, dir, nil)
}

func (a *agentSubject) Synced(ctx context.Context) error {
	if _, err := a.sink.Next(ctx, a.born); err != nil {
		return a.fail(err)
	}
	return nil
}

// Live reads the heap profile, which ends with the runtime's own figures as of a collection that was just made.
func (a *agentSubject) Live() (int64, error) {
	if _, err := a.get("/debug/pprof/heap?gc=1&debug=1"); err != nil {
		return 0, err
	}
	body, err := a.get("/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(body, []byte("# HeapAlloc = "))
	if !ok {
		return 0, errors.New("the heap profile does not tell HeapAlloc")
	}
	value, _, _ := bytes.Cut(rest, []byte("\n"))
	return strconv.ParseInt(string(value), 10, 64)
}

func (a *agentSubject) Allocated() (int64, error) {
	v, err := a.metric("go_memstats_alloc_bytes_total")
	return int64(v), err
}

func (a *agentSubject) Pending() (bool, error) {
	v, err := a.metric("pseudo_agent_oldest_unacknowledged_change_age_seconds")
	return v > 0, err
}

func (*agentSubject) Reports() bool             { return true }
func (*agentSubject) Quiescence() time.Duration { return pushInterval + time.Second }

// metric reads a metric without labels.
func (a *agentSubject) metric(name string) (float64, error) {
	body, err := a.get("/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("pseudo-agent has no metric %s", name)
}

func (a *agentSubject) get(path string) ([]byte, error) {
	b, err := httpDo(http.MethodGet, a.http+path)
	if err != nil {
		return nil, a.fail(err)
	}
	return b, nil
}

// waitHTTP waits until the process serves its profiles.
func (a *agentSubject) waitHTTP(ctx context.Context) error {
	for {
		_, err := httpDo(http.MethodGet, a.http+"/metrics")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return a.fail(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func httpDo(method, url string) ([]byte, error) {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return body, nil
}
