package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pseudo-agent/pseudo-agent/test/bench/sink"
)

// Sample is what one run of one subject gave. Sizes are bytes, times seconds; what a subject does not do is 0.
type Sample struct {
	SyncCPU   float64 `json:"sync_cpu_seconds"`
	SyncTime  float64 `json:"sync_seconds"`
	PeakRSS   int64   `json:"peak_rss_bytes"` // of the initial sync
	LaterRSS  int64   `json:"later_peak_rss_bytes"`
	RSS       int64   `json:"rss_bytes"` // after the initial sync
	LiveHeap  int64   `json:"live_heap_bytes"`
	Requests  int     `json:"requests"`
	BytesRead int64   `json:"bytes_read"`

	Entries    int   `json:"entries"`
	Payload    int64 `json:"payload_bytes"`
	Pods       int   `json:"pods"`
	PodPayload int64 `json:"pod_payload_bytes"`

	UnchangedCPU float64 `json:"unchanged_event_cpu_seconds"`
	ChangedCPU   float64 `json:"changed_event_cpu_seconds"`

	Lag             float64 `json:"event_to_acknowledged_seconds"`
	ReportCPU       float64 `json:"report_cpu_seconds"`
	ReportExtra     int64   `json:"report_extra_rss_bytes"`
	ReportAllocated int64   `json:"report_allocated_bytes"`

	Relist *Relist `json:"relist,omitempty"`

	// ApiserverCPU is that of a real apiserver during the initial sync.
	ApiserverCPU float64 `json:"apiserver_cpu_seconds,omitempty"`
}

// Relist is what a list costs when nothing has changed.
type Relist struct {
	CPU     float64 `json:"cpu_seconds"`
	Reports int     `json:"reports"` // that it caused
	PeakRSS int64   `json:"peak_rss_bytes"`
}

// source is an apiserver that a subject watches.
type source interface {
	// churn modifies that many Pods, and returns when the first event could be sent.
	churn(count int, touch bool) (time.Time, error)
	// traffic is how much was asked for and sent since the subject started.
	traffic() (requests int, bytes int64, err error)
	// cpu is the CPU time that the apiserver has used so far, 0 if it is none.
	cpu() (time.Duration, error)
}

// meter measures one process.
type meter struct {
	subject
	source source
	sink   *sink.Sink
}

// quietShare is how much CPU a process may use in a second and be called quiet: background work of Go's runtime is below.
const quietShare = 20 * time.Millisecond

// quiet waits until the process has done what there was to do, and has reported it.
func (m *meter) quiet(ctx context.Context) error {
	before, err := cpuTime(m.PID())
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
		now, err := cpuTime(m.PID())
		if err != nil {
			return err
		}
		if now-before > quietShare {
			before = now
			continue
		}
		pending, err := m.Pending()
		if err != nil {
			return err
		}
		if !pending {
			return nil
		}
		if before, err = cpuTime(m.PID()); err != nil {
			return err
		}
	}
}

// cost is the CPU time of what do sets off.
func (m *meter) cost(ctx context.Context, do func() error) (float64, error) {
	before, err := cpuTime(m.PID())
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	if err := m.quiet(ctx); err != nil {
		return 0, err
	}
	after, err := cpuTime(m.PID())
	return (after - before).Seconds(), err
}

// full measures everything, from the start of the process on.
func (m *meter) full(ctx context.Context, started time.Time, events int) (Sample, error) {
	s, err := m.sync(ctx, started)
	if err != nil {
		return s, fmt.Errorf("initial sync: %w", err)
	}
	if events > 0 {
		if err := resetPeak(m.PID()); err != nil {
			return s, err
		}
		if err := m.events(ctx, &s, events); err != nil {
			return s, fmt.Errorf("events: %w", err)
		}
		if s.LaterRSS, err = m.peak(); err != nil {
			return s, err
		}
		if m.Reports() {
			if err := m.reports(ctx, &s); err != nil {
				return s, fmt.Errorf("reports: %w", err)
			}
		}
	}
	return s, nil
}

func (m *meter) peak() (int64, error) {
	_, peak, err := residentSize(m.PID())
	return peak, err
}

// sync measures from the start of the process until everything is listed, reported and quiet.
func (m *meter) sync(ctx context.Context, started time.Time) (s Sample, err error) {
	before, err := m.source.cpu()
	if err != nil {
		return s, err
	}
	if err := m.Synced(ctx); err != nil {
		return s, err
	}
	after, err := m.source.cpu()
	if err != nil {
		return s, err
	}
	s.ApiserverCPU = (after - before).Seconds()
	s.SyncTime = time.Since(started).Seconds()
	if err := m.quiet(ctx); err != nil {
		return s, err
	}
	cpu, err := cpuTime(m.PID())
	if err != nil {
		return s, err
	}
	s.SyncCPU = cpu.Seconds()
	if s.RSS, s.PeakRSS, err = residentSize(m.PID()); err != nil {
		return s, err
	}
	if s.Requests, s.BytesRead, err = m.source.traffic(); err != nil {
		return s, err
	}
	if s.LiveHeap, err = m.Live(); err != nil {
		return s, err
	}
	if reports := m.sink.Reports(); len(reports) > 0 {
		r := reports[len(reports)-1]
		s.Entries, s.Payload, s.Pods, s.PodPayload = r.Entries, r.Payload, r.Pods, r.PodPayload
	}
	return s, nil
}

// events measures bursts of modifications that need not, and that must be reported. The reports are part of the cost.
func (m *meter) events(ctx context.Context, s *Sample, count int) error {
	for _, touch := range []bool{true, false} {
		cpu, err := m.cost(ctx, func() error {
			_, err := m.source.churn(count, touch)
			return err
		})
		if err != nil {
			return err
		}
		if touch {
			s.UnchangedCPU = cpu / float64(count)
		} else {
			s.ChangedCPU = cpu / float64(count)
		}
	}
	return nil
}

// reports measures reports of one changed Pod each: the median of three.
func (m *meter) reports(ctx context.Context, s *Sample) error {
	var lags, cpus []float64
	var extras, allocs []int64
	for range 3 {
		all := m.sink.Reports()
		select {
		case <-time.After(time.Until(all[len(all)-1].Acknowledged.Add(m.Quiescence()))):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if _, err := m.Live(); err != nil { // the collector shall not run within the measurement
			return err
		}
		allocated, err := m.Allocated()
		if err != nil {
			return err
		}
		if err := resetPeak(m.PID()); err != nil {
			return err
		}
		before, _, err := residentSize(m.PID())
		if err != nil {
			return err
		}
		var lag float64
		cpu, err := m.cost(ctx, func() error {
			published, err := m.source.churn(1, false)
			if err != nil {
				return err
			}
			r, err := m.sink.Next(ctx, published)
			lag = r.Acknowledged.Sub(published).Seconds()
			return err
		})
		if err != nil {
			return err
		}
		peak, err := m.peak()
		if err != nil {
			return err
		}
		s.LaterRSS = max(s.LaterRSS, peak)
		after, err := m.Allocated()
		if err != nil {
			return err
		}
		lags, cpus = append(lags, lag), append(cpus, cpu)
		extras, allocs = append(extras, max(0, peak-before)), append(allocs, after-allocated)
	}
	s.Lag, s.ReportCPU, s.ReportExtra, s.ReportAllocated = median(lags), median(cpus), median(extras), median(allocs)
	return nil
}

// relist makes every watch expire, so that everything is listed again, with nothing changed.
func (m *meter) relist(ctx context.Context, l *load) (*Relist, error) {
	if err := m.quiet(ctx); err != nil {
		return nil, err
	}
	if err := resetPeak(m.PID()); err != nil {
		return nil, err
	}
	before := len(m.sink.Reports())
	cpu, err := m.cost(ctx, func() error {
		if err := l.expire(); err != nil {
			return err
		}
		return l.waitWatches(ctx)
	})
	if err != nil {
		return nil, err
	}
	peak, err := m.peak()
	return &Relist{CPU: cpu, Reports: len(m.sink.Reports()) - before, PeakRSS: peak}, err
}

func median[T int64 | float64 | int](values []T) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
