package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/pprof/profile"
)

// ListCost compares a relist with nothing changed to a list without compression.
type ListCost struct {
	// FirstCPU is the CPU of the first list, from the moment when the apiserver answers, in seconds.
	FirstCPU float64 `json:"first_list_cpu_seconds"`
	// ZlibCPU is the part of it that the CPU profile saw inside the compressor.
	ZlibCPU float64 `json:"first_list_zlib_cpu_seconds"`
	// RelistCPU is the CPU of a relist with nothing changed, under the same profiler.
	RelistCPU float64 `json:"relist_cpu_seconds"`
	// RelistZlibCPU is the part of that inside the compressor.
	RelistZlibCPU float64 `json:"relist_zlib_cpu_seconds"`
	// RelistReports is how many reports the relist caused, beyond the first one.
	RelistReports int `json:"relist_reports"`
}

// compressor is where the time goes that an unchanged object saves.
const compressor = "github.com/klauspost/compress/"

// listCost measures a process of its own, with the CPU profiler on: the first list is held back until it runs.
func listCost(ctx context.Context, o options, e *environment, l *load, took time.Duration) (*ListCost, error) {
	s := e.sink
	if err := l.set("hold", true); err != nil {
		return nil, err
	}
	defer l.set("hold", false) //nolint:errcheck // the next request would fail too
	s.Forget()
	a, err := startAgent(o.Agent, l.Kubeconfig, e.dir, s, pseudoAgent)
	if err != nil {
		return nil, err
	}
	defer a.Stop()
	m := &meter{subject: a, source: l, sink: s}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if err := a.waitHTTP(ctx); err != nil {
		return nil, err
	}
	seconds := int(3*took.Seconds()) + 5
	var c ListCost
	if c.FirstCPU, c.ZlibCPU, err = m.profiled(ctx, a, seconds, func() error {
		if err := l.set("hold", false); err != nil {
			return err
		}
		return a.Synced(ctx)
	}); err != nil {
		return nil, err
	}
	reports := len(s.Reports())
	if c.RelistCPU, c.RelistZlibCPU, err = m.profiled(ctx, a, seconds, func() error {
		if err := l.expire(); err != nil {
			return err
		}
		return l.waitWatches(ctx)
	}); err != nil {
		return nil, err
	}
	c.RelistReports = len(s.Reports()) - reports
	return &c, nil
}

// profiled measures what do sets off under the CPU profiler, and how much of it was compression.
func (m *meter) profiled(ctx context.Context, a *agentSubject, seconds int, do func() error) (cpu, zlib float64, err error) {
	type result struct {
		body []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		body, err := a.get(fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds))
		done <- result{body, err}
	}()
	time.Sleep(500 * time.Millisecond) // the profiler starts
	if cpu, err = m.cost(ctx, do); err != nil {
		return 0, 0, err
	}
	r := <-done
	if r.err != nil {
		return 0, 0, r.err
	}
	p, err := profile.Parse(bytes.NewReader(r.body))
	if err != nil {
		return 0, 0, fmt.Errorf("CPU profile: %w", err)
	}
	nanos := len(p.SampleType) - 1 // samples, then nanoseconds
	for _, sample := range p.Sample {
		if inside(sample, compressor) {
			zlib += time.Duration(sample.Value[nanos]).Seconds()
		}
	}
	return cpu, zlib, nil
}

// inside tells whether a function of the package, or below it, is on the sample's stack.
func inside(s *profile.Sample, prefix string) bool {
	for _, loc := range s.Location {
		for _, line := range loc.Line {
			if line.Function != nil && strings.HasPrefix(line.Function.Name, prefix) {
				return true
			}
		}
	}
	return false
}
