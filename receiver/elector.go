package receiver

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// Elector answers Sync.
type Elector interface {
	// Sync answers an agent's request, in the shape of the package agent; peer is the address of its connection.
	Sync(ctx context.Context, peer string, req *agent.SyncRequest) (*agent.SyncResponse, error)
	// Reported is told of each KubernetesAPISync request; an error refuses it, with the error's text as the reason.
	Reported(ctx context.Context, cluster string, agentID uint32, sourceIP, peer string) error
}

// firstHolder gives each cluster's role to the first agent that asks, until that one is silent for the TTL.
type firstHolder struct {
	mu      sync.Mutex
	holders map[string]holder
}

type holder struct {
	identity string
	last     time.Time
}

// maxHolders bounds the clusters that a firstHolder knows.
const maxHolders = 10000

// NewFirstHolder returns an Elector that keeps nothing beyond the process and ranks nobody.
func NewFirstHolder() Elector { return &firstHolder{holders: map[string]holder{}} }

func (f *firstHolder) Reported(context.Context, string, uint32, string, string) error { return nil }

func (f *firstHolder) Sync(_ context.Context, _ string, req *agent.SyncRequest) (*agent.SyncResponse, error) {
	const ttl = 600 * time.Second
	id := req.GetKubernetesClusterId()
	candidate := holder{
		identity: req.GetCtrlIp() + "|" + req.GetCtrlMac() + "|" + req.GetHost() + "|" + req.GetProcessName(),
		last:     time.Now(),
	}
	enabled := false
	if id != "" && req.GetKubernetesWatchPolicy() != agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED {
		f.mu.Lock()
		held, ok := f.holders[id]
		enabled = !ok && len(f.holders) < maxHolders || ok && (held.identity == candidate.identity || time.Since(held.last) > ttl)
		if enabled {
			f.holders[id] = candidate
		}
		f.mu.Unlock()
	}
	return &agent.SyncResponse{
		Status:        agent.Status_SUCCESS.Enum(),
		DynamicConfig: &agent.DynamicConfig{KubernetesApiEnabled: proto.Bool(enabled), Enabled: proto.Bool(true)},
	}, nil
}
