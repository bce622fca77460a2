package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
	"github.com/pseudo-agent/pseudo-agent/test/bench/loadserver"
)

// load is a running load server.
type load struct {
	child
	loadserver.Ready
}

func startLoad(pods int, seed uint64, dir string) (*load, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l := &load{}
	l.name = "loadserver"
	l.cmd = exec.Command(self, "loadserver", "-pods", fmt.Sprint(pods), "-seed", fmt.Sprint(seed), "-dir", dir)
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := startChild(&l.child, dir, io.Discard); err != nil {
		return nil, err
	}
	line := bufio.NewScanner(out)
	if !line.Scan() {
		l.Stop()
		return nil, l.fail(errors.New("did not become ready"))
	}
	if err := json.Unmarshal(line.Bytes(), &l.Ready); err != nil {
		l.Stop()
		return nil, err
	}
	return l, nil
}

func (l *load) post(path string) ([]byte, error) { return httpDo(http.MethodPost, l.Control+path) }

func (l *load) reset() error {
	_, err := l.post("/reset")
	return err
}

func (l *load) set(what string, on bool) error {
	_, err := l.post(fmt.Sprintf("/%s?on=%t", what, on))
	return err
}

func (l *load) expire() error {
	_, err := l.post("/expire")
	return err
}

// churn modifies that many Pods and returns when the first event could be sent.
func (l *load) churn(count int, touch bool) (time.Time, error) {
	b, err := l.post(fmt.Sprintf("/churn?count=%d&touch=%t", count, touch))
	if err != nil {
		return time.Time{}, err
	}
	var c loadserver.Churn
	err = json.Unmarshal(b, &c)
	return c.Published, err
}

func (l *load) stats() (s loadserver.Stats, err error) {
	b, err := httpDo(http.MethodGet, l.Control+"/stats")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

// traffic is what was asked for and sent since the last reset.
func (l *load) traffic() (requests int, bytes int64, err error) {
	s, err := l.stats()
	for _, n := range s.Requests {
		requests += n
	}
	return requests, s.Bytes, err
}

// cpu would be that of the load server, which is none of an apiserver.
func (*load) cpu() (time.Duration, error) { return 0, nil }

// waitWatches waits until there is a watch of every resource.
func (l *load) waitWatches(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
		s, err := l.stats()
		if err != nil {
			return err
		}
		if s.Watches >= len(cluster.Kinds) {
			return nil
		}
	}
}
