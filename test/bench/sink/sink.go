// Package sink is a server that takes reports and counts them, as deepflow-server would answer them.
package sink

import (
	"context"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// Report is one request with entries.
type Report struct {
	Acknowledged time.Time
	Version      uint64
	Entries      int
	// Payload is the size of all compressed objects in bytes.
	Payload int64
	// Pods and PodPayload are the same for Pods alone.
	Pods       int
	PodPayload int64
}

// Sink is a running server. It keeps no entries.
type Sink struct {
	agent.UnimplementedSynchronizerServer

	// Address is its host:port.
	Address string

	server *grpc.Server

	mu      sync.Mutex
	held    map[string]uint64 // version by cluster
	reports []Report
	news    chan struct{} // closed with each report
}

// Start listens on a loopback port.
func Start() (*Sink, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for reports: %w", err)
	}
	s := &Sink{
		Address: l.Addr().String(), held: map[string]uint64{}, news: make(chan struct{}),
		server: grpc.NewServer(grpc.MaxRecvMsgSize(math.MaxInt32)), // the limit of deepflow-server is not the subject here
	}
	agent.RegisterSynchronizerServer(s.server, s)
	go func() { _ = s.server.Serve(l) }() // it fails when it is stopped
	return s, nil
}

// Stop ends the server.
func (s *Sink) Stop() { s.server.Stop() }

// KubernetesAPISync answers as docs/protocol.md, section 3, says of requests with an agent id.
func (s *Sink) KubernetesAPISync(_ context.Context, req *agent.KubernetesAPISyncRequest) (*agent.KubernetesAPISyncResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	version := req.GetVersion()
	if len(req.GetEntries()) == 0 {
		version = s.held[req.GetClusterId()]
		return &agent.KubernetesAPISyncResponse{Version: &version}, nil
	}
	r := Report{Version: version, Entries: len(req.GetEntries())}
	for _, e := range req.GetEntries() {
		n := int64(len(e.GetCompressedInfo()))
		r.Payload += n
		if e.GetType() == "*v1.Pod" {
			r.Pods++
			r.PodPayload += n
		}
	}
	r.Acknowledged = time.Now()
	s.held[req.GetClusterId()] = version
	s.reports = append(s.reports, r)
	close(s.news)
	s.news = make(chan struct{})
	return &agent.KubernetesAPISyncResponse{Version: &version}, nil
}

// Reports are all so far.
func (s *Sink) Reports() []Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reports)
}

// Next waits for the first report that is acknowledged after t.
func (s *Sink) Next(ctx context.Context, t time.Time) (Report, error) {
	for {
		s.mu.Lock()
		news := s.news
		for _, r := range s.reports {
			if r.Acknowledged.After(t) {
				s.mu.Unlock()
				return r, nil
			}
		}
		s.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return Report{}, fmt.Errorf("wait for a report: %w", context.Cause(ctx))
		}
	}
}

// Forget drops all that was reported.
func (s *Sink) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports, s.held = nil, map[string]uint64{}
}
