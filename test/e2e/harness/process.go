package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is a started program whose output goes to a file.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the program has ended and err is set
	err  error
	stop sync.Once
}

// Command is what StartProcess runs.
type Command struct {
	Name string // for messages and for the log file
	Path string
	Args []string
	Env  []string // in addition to the own environment
	Dir  string   // holds the log file and is the working directory
}

// StartProcess starts the program; its output is appended to <Dir>/<Name>.log.
func StartProcess(c Command) (*Process, error) {
	logPath := filepath.Join(c.Dir, c.Name+".log")
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	defer out.Close()

	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	p := &Process{name: c.Name, log: logPath, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Log is the path of the file with the program's output.
func (p *Process) Log() string { return p.log }

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended, for whatever reason.
func (p *Process) Done() <-chan struct{} { return p.done }

// Tail returns the last lines of the program's output, for messages.
func (p *Process) Tail(lines int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	b = bytes.TrimRight(b, "\n")
	all := bytes.Split(b, []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// Kill ends the program at once, as a crash would, and waits for its end.
func (p *Process) Kill() {
	p.stop.Do(func() { _ = p.cmd.Process.Kill() }) // an error says that it has ended already
	<-p.done
}

// Freeze stops the program where it is: it keeps its connections, and answers nothing until Thaw.
func (p *Process) Freeze() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen program go on.
func (p *Process) Thaw() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// Stop asks the program to end (SIGTERM) and returns its error. After 20 seconds it is killed, which is an error.
func (p *Process) Stop() error {
	var late error
	p.stop.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error says that it has ended already
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
			late = fmt.Errorf("%s did not end within 20 s of SIGTERM and was killed", p.name)
			_ = p.cmd.Process.Kill()
		}
	})
	<-p.done
	if late != nil {
		return late
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) && exit.ExitCode() == -1 {
		return nil // ended by our signal without handling it, as etcd does
	}
	return p.err
}

// WaitReady polls ready until it returns nil, the program ends or the context is done.
func (p *Process) WaitReady(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready (%s); its last words:\n%s", p.name, fmt.Sprint(p.err), p.Tail(20))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready in time: %w; its last words:\n%s", p.name, err, p.Tail(20))
		case <-tick.C:
		}
	}
}
