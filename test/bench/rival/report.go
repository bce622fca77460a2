package rival

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zlib"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"k8s.io/client-go/tools/cache"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
)

// reporter sends everything whenever something has changed.
type reporter struct {
	client  agent.SynchronizerClient
	sources []func() ([]*agent.KubernetesAPIInfo, error)

	changes, reported atomic.Int64
	dirty             chan struct{}
}

func newReporter(server string) (*reporter, error) {
	conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &reporter{client: agent.NewSynchronizerClient(conn), dirty: make(chan struct{}, 1)}, nil
}

// add names one resource that is reported.
func (r *reporter) add(k cluster.Kind, objects cache.Store, compressed bool) {
	wireType := "*v1." + k.Kind
	if !compressed {
		r.sources = append(r.sources, func() ([]*agent.KubernetesAPIInfo, error) { return wholeList(wireType, k, objects) })
		return
	}
	r.sources = append(r.sources, func() ([]*agent.KubernetesAPIInfo, error) {
		all := objects.List()
		out := make([]*agent.KubernetesAPIInfo, 0, len(all))
		for _, o := range all {
			if e, ok := o.(*entry); ok {
				out = append(out, &agent.KubernetesAPIInfo{Type: &wireType, CompressedInfo: e.compressed})
			}
		}
		return out, nil
	})
}

// wholeList makes one entry of all objects of a resource.
func wholeList(wireType string, k cluster.Kind, objects cache.Store) ([]*agent.KubernetesAPIInfo, error) {
	doc, err := json.Marshal(map[string]any{"kind": k.Kind + "List", "apiVersion": k.APIVersion(), "items": objects.List()})
	if err != nil {
		return nil, fmt.Errorf("serialise %s: %w", k.Resource, err)
	}
	var z bytes.Buffer
	zw, err := zlib.NewWriterLevel(&z, 6)
	if err != nil {
		return nil, err
	}
	if _, err := zw.Write(doc); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return []*agent.KubernetesAPIInfo{{Type: &wireType, CompressedInfo: z.Bytes()}}, nil
}

// change notes that there is something to report.
func (r *reporter) change() {
	r.changes.Add(1)
	select {
	case r.dirty <- struct{}{}:
	default:
	}
}

func (r *reporter) pending() bool { return r.changes.Load() != r.reported.Load() }

func (r *reporter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.dirty:
		}
		time.Sleep(debounce)
		n := r.changes.Load()
		if err := r.send(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "report:", err)
		}
		r.reported.Store(n)
	}
}

func (r *reporter) send(ctx context.Context) error {
	req := &agent.KubernetesAPISyncRequest{
		ClusterId: new("bench"), AgentId: proto.Uint32(1), Version: new(uint64(time.Now().UnixMicro())),
	}
	for _, entries := range r.sources {
		e, err := entries()
		if err != nil {
			return err
		}
		req.Entries = append(req.Entries, e...)
	}
	_, err := r.client.KubernetesAPISync(ctx, req, grpc.MaxCallSendMsgSize(math.MaxInt32))
	return err
}
