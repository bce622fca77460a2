// Package faultserver is a deepflow-server for tests: it treats requests as docs/protocol.md (section 3) says that the
// real server does, flaws included, and does on demand what networks and servers do at their worst.
//
// It relies on nothing but the generated messages. It promises that what Held returns is what the real server's consumer
// would work with, and that every request is shown to Seen before any fault is applied.
package faultserver

import (
	"bytes"
	"compress/zlib"
	"context"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/protocol/trident"
)

// Fault is what happens to one request. The zero value is none.
type Fault struct {
	// Delay passes before anything else.
	Delay time.Duration
	// DropRequest leaves the request without effect and answer until the caller gives up.
	DropRequest bool
	// DropResponse has the effect, but leaves the caller without answer.
	DropResponse bool
	// Late has the effect of DropRequest, but the request is treated this long after it came.
	Late time.Duration
	// Code fails the request without effect; CodeAfter fails it after it was stored.
	Code, CodeAfter codes.Code
	// Answer replaces the answered version.
	Answer *uint64
	// Overwrite loses the request between the handshake and the store: acknowledged is not stored.
	Overwrite bool
}

// Held is what the store has of one cluster.
type Held struct {
	Version  uint64
	Entries  []*agent.KubernetesAPIInfo
	ErrorMsg string
	At       time.Time
}

// Server holds clusters. All methods may be called concurrently. The exported fields are set before it is used.
type Server struct {
	// Seen, if set, is shown every KubernetesAPISync as it comes.
	Seen func(*agent.KubernetesAPISyncRequest)
	// SeenContext, if set, is given the context of every KubernetesAPISync, which has its headers.
	SeenContext func(context.Context)
	// OnSync answers Sync; nil answers SUCCESS and "watch".
	OnSync func(context.Context, *agent.SyncRequest) (*agent.SyncResponse, error)
	// OnClusterID answers GetKubernetesClusterID; nil answers "d-" and the first ten digits of the MD5.
	OnClusterID func(*agent.KubernetesClusterIDRequest) (*agent.KubernetesClusterIDResponse, error)
	// TeamID, if set, is the only one that is known.
	TeamID string
	// NoAgent and NoTrident leave the service of that name out.
	NoAgent, NoTrident bool

	mu        sync.Mutex
	fault     func(*agent.KubernetesAPISyncRequest) Fault
	handshake map[string]uint64
	store     map[string]*Held
	wg        sync.WaitGroup
}

// Harm has f decide from now on what happens to each KubernetesAPISync; nil ends all faults.
func (s *Server) Harm(f func(*agent.KubernetesAPISyncRequest) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// forgetAfter is the age at which the real server gives up a cluster that is not reported.
const forgetAfter = 86_400 * time.Second

// KubernetesAPISync treats a request with whatever fault is due.
func (s *Server) KubernetesAPISync(ctx context.Context, r *agent.KubernetesAPISyncRequest) (*agent.KubernetesAPISyncResponse, error) {
	if s.Seen != nil {
		s.Seen(r)
	}
	if s.SeenContext != nil {
		s.SeenContext(ctx)
	}
	var f Fault
	s.mu.Lock()
	fault := s.fault
	s.mu.Unlock()
	if fault != nil {
		f = fault(r)
	}
	if !sleep(ctx, f.Delay) {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if f.Late > 0 {
		s.wg.Go(func() {
			time.Sleep(f.Late)
			s.Treat(r, false)
		})
	}
	if f.DropRequest || f.Late > 0 {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if f.Code != codes.OK {
		return nil, status.Error(f.Code, "injected fault")
	}
	answer := s.Treat(r, f.Overwrite)
	if f.DropResponse {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if f.CodeAfter != codes.OK {
		return nil, status.Error(f.CodeAfter, "injected fault after the request was stored")
	}
	if f.Answer != nil {
		answer = &agent.KubernetesAPISyncResponse{Version: f.Answer}
	}
	return answer, nil
}

// Treat does what the real server does with a request; lost drops it between handshake and store.
func (s *Server) Treat(r *agent.KubernetesAPISyncRequest, lost bool) *agent.KubernetesAPISyncResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prepare()
	answer := &agent.KubernetesAPISyncResponse{}
	id, version := r.GetClusterId(), r.GetVersion()
	if version == 0 || id == "" || s.TeamID != "" && r.GetTeamId() != s.TeamID {
		return answer
	}
	if r.GetAgentId() != 0 {
		if held := s.handshake[id]; held != version && len(r.GetEntries()) == 0 {
			answer.Version = new(held)
			return answer
		}
		s.handshake[id] = version
		answer.Version = new(version)
	} else if len(r.GetEntries()) == 0 {
		return answer
	}
	if lost {
		return answer
	}
	h := s.store[id]
	if h == nil || h.Version != version || time.Since(h.At) > forgetAfter {
		h = &Held{Version: version, Entries: usable(r.GetEntries())}
		s.store[id] = h
	}
	h.ErrorMsg, h.At = r.GetErrorMsg(), time.Now()
	return answer
}

// usable is what the store keeps of a new version: nothing at all if one entry cannot be decompressed.
func usable(entries []*agent.KubernetesAPIInfo) []*agent.KubernetesAPIInfo {
	for _, e := range entries {
		zr, err := zlib.NewReader(bytes.NewReader(e.GetCompressedInfo()))
		if err != nil {
			return nil
		}
		if _, err := io.Copy(io.Discard, zr); err != nil {
			return nil
		}
	}
	return entries
}

// Held returns what the store has of a cluster; nil if nothing, or if it was not reported for a day.
func (s *Server) Held(clusterID string) *Held {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.store[clusterID]
	if h == nil || time.Since(h.At) > forgetAfter {
		return nil
	}
	c := *h
	return &c
}

// Handshake returns the version that the handshake answers.
func (s *Server) Handshake(clusterID string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handshake[clusterID]
}

// Restart forgets everything, as a real server does that is restarted.
func (s *Server) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handshake, s.store = nil, nil
}

// Wait waits for late requests to be treated.
func (s *Server) Wait() { s.wg.Wait() }

func (s *Server) prepare() {
	if s.handshake == nil {
		s.handshake, s.store = map[string]uint64{}, map[string]*Held{}
	}
}

// Sync treats a Sync.
func (s *Server) Sync(ctx context.Context, r *agent.SyncRequest) (*agent.SyncResponse, error) {
	if s.OnSync != nil {
		return s.OnSync(ctx, r)
	}
	return &agent.SyncResponse{
		Status:        agent.Status_SUCCESS.Enum(),
		DynamicConfig: &agent.DynamicConfig{KubernetesApiEnabled: new(true)},
	}, nil
}

// GetKubernetesClusterID treats a request for a cluster id.
func (s *Server) GetKubernetesClusterID(_ context.Context, r *agent.KubernetesClusterIDRequest) (*agent.KubernetesClusterIDResponse, error) {
	if s.OnClusterID != nil {
		return s.OnClusterID(r)
	}
	md5 := r.GetCaMd5()
	return &agent.KubernetesClusterIDResponse{ClusterId: new("d-" + md5[:min(10, len(md5))])}, nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Register serves both services on g, but for those that were left out.
func (s *Server) Register(g *grpc.Server) {
	if !s.NoAgent {
		agent.RegisterSynchronizerServer(g, agentService{s: s})
	}
	if !s.NoTrident {
		trident.RegisterSynchronizerServer(g, tridentService{s: s})
	}
}

type agentService struct {
	agent.UnimplementedSynchronizerServer
	s *Server
}

func (a agentService) KubernetesAPISync(ctx context.Context, r *agent.KubernetesAPISyncRequest) (*agent.KubernetesAPISyncResponse, error) {
	return a.s.KubernetesAPISync(ctx, r)
}

func (a agentService) Sync(ctx context.Context, r *agent.SyncRequest) (*agent.SyncResponse, error) {
	return a.s.Sync(ctx, r)
}

func (a agentService) GetKubernetesClusterID(ctx context.Context, r *agent.KubernetesClusterIDRequest) (*agent.KubernetesClusterIDResponse, error) {
	return a.s.GetKubernetesClusterID(ctx, r)
}

// tridentService translates between the packages.
type tridentService struct {
	trident.UnimplementedSynchronizerServer
	s *Server
}

func translate(from, to proto.Message) error {
	b, err := proto.Marshal(from)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	if err := proto.Unmarshal(b, to); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

func (t tridentService) KubernetesAPISync(ctx context.Context, r *trident.KubernetesAPISyncRequest) (*trident.KubernetesAPISyncResponse, error) {
	var req agent.KubernetesAPISyncRequest
	if err := translate(r, &req); err != nil {
		return nil, err
	}
	answer, err := t.s.KubernetesAPISync(ctx, &req)
	if err != nil {
		return nil, err
	}
	return &trident.KubernetesAPISyncResponse{Version: answer.Version}, nil
}

func (t tridentService) Sync(ctx context.Context, r *trident.SyncRequest) (*trident.SyncResponse, error) {
	var req agent.SyncRequest
	if err := translate(r, &req); err != nil {
		return nil, err
	}
	answer, err := t.s.Sync(ctx, &req)
	if err != nil {
		return nil, err
	}
	return &trident.SyncResponse{
		Status: trident.Status(answer.GetStatus()).Enum(),
		Config: &trident.Config{
			KubernetesApiEnabled: new(answer.GetDynamicConfig().GetKubernetesApiEnabled()),
			VtapId:               answer.GetDynamicConfig().AgentId,
		},
	}, nil
}

func (t tridentService) GetKubernetesClusterID(ctx context.Context, r *trident.KubernetesClusterIDRequest) (*trident.KubernetesClusterIDResponse, error) {
	var req agent.KubernetesClusterIDRequest
	if err := translate(r, &req); err != nil {
		return nil, err
	}
	answer, err := t.s.GetKubernetesClusterID(ctx, &req)
	if err != nil {
		return nil, err
	}
	return &trident.KubernetesClusterIDResponse{ErrorMsg: answer.ErrorMsg, ClusterId: answer.ClusterId}, nil
}
