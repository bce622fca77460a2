package plugin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// workerArgument is the first argument of a worker process.
const workerArgument = "internal-lua-worker"

// startTime is what a worker may take, beyond the limit of a call, to start and to load its script.
const startTime = 10 * time.Second

// largestFrame bounds a message between the two processes, in bytes.
const largestFrame = 8 << 20

// order is the first message to a worker.
type order struct {
	Name         string        `json:"name"`
	Script       string        `json:"script"`
	Instructions int           `json:"instructions"`
	Memory       int64         `json:"memory"`
	CallTime     time.Duration `json:"call_time"`
}

// answer is every message of a worker.
type answer struct {
	Type    string       `json:"type,omitempty"`
	Name    string       `json:"name,omitempty"`
	Failure *scriptError `json:"failure,omitempty"`
}

// process is the server's side of a worker.
type process struct {
	name    string
	limit   time.Duration
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	said    *tail
	expired atomic.Bool
	once    sync.Once
}

// startProcess starts a worker for a script. A failure is the script's; an error is not.
func startProcess(ctx context.Context, name, script string, limits Limits) (*process, *scriptError, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("start Lua worker: %w", err)
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("find own executable: %w", err)
	}
	p := &process{name: name, limit: limits.CallTime, said: &tail{}}
	p.cmd = exec.Command(executable, workerArgument) //nolint:gosec,noctx // our own binary, ended by close
	p.cmd.Env = []string{"GOTRACEBACK=none", "GOMAXPROCS=2"}
	p.cmd.Dir = "/"
	p.cmd.Stderr = p.said
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, nil, fmt.Errorf("start Lua worker: %w", err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start Lua worker: %w", err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start Lua worker: %w", err)
	}
	first, err := json.Marshal(order{
		Name: name, Script: script, Instructions: limits.Instructions, Memory: limits.Memory, CallTime: limits.CallTime,
	})
	if err != nil {
		p.close()
		return nil, nil, fmt.Errorf("start Lua worker: %w", err)
	}
	a := p.exchange(first, limits.CallTime+startTime)
	if a.Failure != nil {
		p.close()
		return nil, a.Failure, nil
	}
	return p, nil, nil
}

// call asks the script about one Pod. After a failure with Limit the process is of no use any more.
func (p *process) call(metadata []byte) (typ, name string, failure *scriptError) {
	if len(metadata) > largestFrame {
		return "", "", &scriptError{Message: fmt.Sprintf("the Pod's metadata has %d bytes, more than %d", len(metadata), largestFrame)}
	}
	a := p.exchange(metadata, p.limit)
	return a.Type, a.Name, a.Failure
}

// exchange sends one message and reads the answer; a worker that does not answer in time is killed.
func (p *process) exchange(message []byte, limit time.Duration) answer {
	timer := time.AfterFunc(limit, func() {
		p.expired.Store(true)
		p.kill()
	})
	defer timer.Stop()
	var a answer
	err := writeFrame(p.in, message)
	if err == nil {
		var reply []byte
		if reply, err = readFrame(p.out); err == nil {
			err = json.Unmarshal(reply, &a)
		}
	}
	if err == nil {
		return a
	}
	p.close()
	failure := &scriptError{Limit: true}
	said := p.said.String()
	switch {
	case p.expired.Load():
		failure.Message = fmt.Sprintf("%s: no answer within %s", p.name, limit)
	case strings.Contains(said, "out of memory"), strings.Contains(said, "allocate"):
		failure.Message = fmt.Sprintf("%s: %v", p.name, errMemory)
	default:
		failure.died = true
		failure.Message = fmt.Sprintf("%s: the script's process ended: %v: %s", p.name, err, firstLine(said))
	}
	return answer{Failure: failure}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

func (p *process) kill() {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.said.add("kill: " + err.Error())
	}
}

// close ends the process and waits for its end.
func (p *process) close() {
	p.once.Do(func() {
		if err := p.in.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			p.said.add("close: " + err.Error())
		}
		p.kill()
		if err := p.cmd.Wait(); err != nil {
			p.said.add("wait: " + err.Error())
		}
	})
}

// tail keeps the beginning of what a worker writes to its standard error, where a Go program says why it dies.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if room := 4096 - t.buf.Len(); room > 0 {
		t.buf.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

func (t *tail) add(text string) {
	_, _ = t.Write([]byte("\n" + text)) // cannot fail
}

// String returns what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

func writeFrame(w io.Writer, message []byte) error {
	frame := make([]byte, 4, 4+len(message))
	binary.BigEndian.PutUint32(frame, uint32(len(message)))
	if _, err := w.Write(append(frame, message...)); err != nil {
		return fmt.Errorf("write to the Lua worker: %w", err)
	}
	return nil
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read from the Lua worker: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > largestFrame {
		return nil, fmt.Errorf("read from the Lua worker: a message of %d bytes", n)
	}
	message := make([]byte, n)
	if _, err := io.ReadFull(r, message); err != nil {
		return nil, fmt.Errorf("read from the Lua worker: %w", err)
	}
	return message, nil
}
