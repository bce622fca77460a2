package receiver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zlib"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/protocol/trident"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// rig is a receiver behind a real gRPC server, and what a test needs to talk to it.
type rig struct {
	recv    *receiver.Receiver
	store   *store.Store
	conn    *grpc.ClientConn
	agent   agent.SynchronizerClient
	trident trident.SynchronizerClient
}

// newRig starts a receiver with a memory store unless opts has one.
func newRig(t testing.TB, opts receiver.Options) *rig {
	t.Helper()
	if opts.Store == nil {
		opts.Store = store.New(store.NewMemory(), store.Options{Keep: 3, Now: opts.Now})
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	opts.Version = "v-test"
	if opts.Limits.RequestsPerMinute == 0 {
		opts.Limits.RequestsPerMinute = 60000
	}
	r := &rig{recv: receiver.New(opts), store: opts.Store}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := r.recv.NewGRPCServer(nil)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	r.conn = dial(t, l.Addr().String())
	r.agent, r.trident = agent.NewSynchronizerClient(r.conn), trident.NewSynchronizerClient(r.conn)
	return r
}

func dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// writers are used again: a new one costs more than what it compresses here.
var writers = sync.Pool{New: func() any { return zlib.NewWriter(nil) }}

func compressed(t testing.TB, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, ok := writers.Get().(*zlib.Writer)
	if !ok {
		t.Fatal("no writer")
	}
	defer writers.Put(w)
	w.Reset(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func entry(t testing.TB, wireType, json string) *agent.KubernetesAPIInfo {
	t.Helper()
	return &agent.KubernetesAPIInfo{Type: new(wireType), CompressedInfo: compressed(t, json)}
}

func versionEntry(t testing.TB) *agent.KubernetesAPIInfo {
	t.Helper()
	return entry(t, "*version.Info", `{"gitVersion":"v1.36.0"}`)
}

func pod(t testing.TB, name, label string) *agent.KubernetesAPIInfo {
	t.Helper()
	return entry(t, "*v1.Pod", fmt.Sprintf(`{"metadata":{"uid":"uid-%s","name":%q,"namespace":"default","labels":{"l":%q}}}`, name, name, label))
}

func report(version uint64, agentID uint32, entries ...*agent.KubernetesAPIInfo) *agent.KubernetesAPISyncRequest {
	return &agent.KubernetesAPISyncRequest{
		ClusterId: new("d-test"), Version: new(version), AgentId: new(agentID), SourceIp: new("10.0.0.1"),
		Entries: entries,
	}
}

// names returns the names of the stored Pods with their label.
func (r *rig) names(t testing.TB) string {
	t.Helper()
	v, err := r.store.View(context.Background(), "d-test")
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, e := range v.Entries {
		if e.Name != "" {
			out = append(out, e.Name)
		}
	}
	return strings.Join(out, " ")
}

// TestRules goes through the table of docs/protocol.md, section 3.
func TestRules(t *testing.T) {
	ctx := context.Background()
	v, a, b := versionEntry(t), pod(t, "a", "1"), pod(t, "b", "1")
	withError := func(r *agent.KubernetesAPISyncRequest, msg string) *agent.KubernetesAPISyncRequest {
		r.ErrorMsg = new(msg)
		return r
	}
	r := newRig(t, receiver.Options{})
	unset := (*uint64)(nil)
	for _, step := range []struct {
		what     string
		req      *agent.KubernetesAPISyncRequest
		code     codes.Code
		version  *uint64
		stored   string
		errorMsg string
	}{
		{"probe of an unknown cluster", report(7, 1), codes.OK, proto.Uint64(0), "", ""},
		{"version 0 without anything", report(0, 1), codes.OK, unset, "", ""},
		{"version 0 with entries", report(0, 1, v, a), codes.InvalidArgument, nil, "", ""},
		{"first report", report(10, 1, v, a, b), codes.OK, proto.Uint64(10), "a b", ""},
		{"heartbeat", report(10, 1), codes.OK, proto.Uint64(10), "a b", ""},
		{"error under the stored version", withError(report(10, 1), "apiserver away"), codes.OK, proto.Uint64(10), "a b", "apiserver away"},
		{"error cleared", report(10, 1), codes.OK, proto.Uint64(10), "a b", ""},
		{"new version without entries", report(11, 1), codes.OK, proto.Uint64(10), "a b", ""},
		{"new version with error and no entries", withError(report(11, 1), "lost"), codes.OK, proto.Uint64(10), "a b", ""},
		{"same version, same content in another order", report(10, 1, b, v, a), codes.OK, proto.Uint64(10), "a b", ""},
		{"same version, other content", report(10, 1, v, a), codes.AlreadyExists, nil, "a b", ""},
		{"removal", report(12, 1, v, b), codes.OK, proto.Uint64(12), "b", ""},
		{"lower version", report(11, 1, v, a), codes.OK, proto.Uint64(11), "a", ""},
		{"an older version with other content", report(12, 1, v, a), codes.AlreadyExists, nil, "a", ""},
		{"an older version with its content", report(12, 1, v, b), codes.OK, proto.Uint64(12), "b", ""},
		{"agent 0 with entries", report(20, 0, v, a, b), codes.OK, unset, "a b", ""},
		{"agent 0 without entries", withError(report(20, 0), "lost"), codes.OK, unset, "a b", ""},
		{"error with entries under a new version", withError(report(21, 1, v, a), "half"), codes.OK, proto.Uint64(21), "a", "half"},
	} {
		resp, err := r.agent.KubernetesAPISync(ctx, step.req)
		if status.Code(err) != step.code {
			t.Errorf("%s: got %v, want %s", step.what, err, step.code)
			continue
		}
		if err == nil && (resp.Version == nil) != (step.version == nil) || step.version != nil && resp.GetVersion() != *step.version {
			t.Errorf("%s: got response %v, want version %v", step.what, resp, step.version)
		}
		view, err := r.store.View(ctx, "d-test")
		if step.stored == "" {
			if err == nil {
				t.Errorf("%s: got %q stored, want nothing", step.what, r.names(t))
			}
			continue
		}
		if got := r.names(t); got != step.stored {
			t.Errorf("%s: got %q stored, want %q", step.what, got, step.stored)
		}
		if err == nil && view.State.ErrorMsg != step.errorMsg {
			t.Errorf("%s: got error_msg %q, want %q", step.what, view.State.ErrorMsg, step.errorMsg)
		}
	}
}

// TestBothServices sends to both service names and looks for the header that tells a pseudo-server.
func TestBothServices(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, receiver.Options{})
	var header metadata.MD
	if _, err := r.agent.KubernetesAPISync(ctx, report(1, 1, versionEntry(t)), grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	if got := header.Get(protocol.ServerHeader); len(got) != 1 || got[0] != "v-test" {
		t.Errorf("got header %v, want v-test", got)
	}
	old, err := r.trident.KubernetesAPISync(ctx, &trident.KubernetesAPISyncRequest{
		ClusterId: new("d-test"), Version: proto.Uint64(2), VtapId: proto.Uint32(1),
	})
	if err != nil || old.GetVersion() != 1 {
		t.Errorf("trident: got %v, %v, want version 1", old, err)
	}
	id, err := r.agent.GetKubernetesClusterID(ctx, &agent.KubernetesClusterIDRequest{CaMd5: new("d41d8cd98f00b204e9800998ecf8427e")})
	if err != nil || id.GetClusterId() != "d-rrADNwzpt5" {
		t.Errorf("cluster id of the empty file: got %v, %v, want d-rrADNwzpt5", id, err)
	}
	id, err = r.agent.GetKubernetesClusterID(ctx, &agent.KubernetesClusterIDRequest{CaMd5: new("D41D")})
	if err != nil || id.GetErrorMsg() == "" || id.GetClusterId() != "" {
		t.Errorf("cluster id of a malformed MD5: got %v, %v, want an error_msg", id, err)
	}
	header = nil
	if err := r.conn.Invoke(ctx, "/agent.Synchronizer/Nothing", &agent.SyncRequest{}, &agent.SyncResponse{}, grpc.Header(&header)); status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: got %v, want Unimplemented", err)
	}
}

// elected gives everybody the role and the id 7, and refuses the reports of agent 13.
type elected struct{}

func (elected) Sync(context.Context, string, *agent.SyncRequest) (*agent.SyncResponse, error) {
	return &agent.SyncResponse{
		Status:        agent.Status_SUCCESS.Enum(),
		DynamicConfig: &agent.DynamicConfig{Enabled: new(true), KubernetesApiEnabled: new(true), AgentId: proto.Uint32(7)},
	}, nil
}

func (elected) Reported(_ context.Context, _ string, agentID uint32, _, _ string) error {
	if agentID == 13 {
		return errors.New("agent 7 is the watcher")
	}
	return nil
}

// TestElector has Sync answered in the shape of each package, and a report refused.
func TestElector(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, receiver.Options{Elector: elected{}})
	a, err := r.agent.Sync(ctx, &agent.SyncRequest{KubernetesClusterId: new("d-test")})
	if c := a.GetDynamicConfig(); err != nil || a.GetStatus() != agent.Status_SUCCESS || !c.GetKubernetesApiEnabled() || c.GetAgentId() != 7 {
		t.Errorf("agent.Sync: got %v, %v, want the role and id 7", a, err)
	}
	b, err := r.trident.Sync(ctx, &trident.SyncRequest{KubernetesClusterId: new("d-test")})
	if c := b.GetConfig(); err != nil || b.GetStatus() != trident.Status_SUCCESS || !c.GetKubernetesApiEnabled() || !c.GetEnabled() || c.GetVtapId() != 7 {
		t.Errorf("trident.Sync: got %v, %v, want the role and id 7", b, err)
	}
	if _, err := r.agent.KubernetesAPISync(ctx, report(1, 13, versionEntry(t))); status.Code(err) != codes.PermissionDenied ||
		!strings.Contains(err.Error(), "agent 7 is the watcher (rule election)") {
		t.Errorf("report of another agent: got %v, want a refusal by rule election", err)
	}
	if _, err := r.agent.KubernetesAPISync(ctx, report(1, 7, versionEntry(t))); err != nil {
		t.Errorf("report of the watcher: %v", err)
	}
}

// TestTeams: a team that is not known gets neither reports stored, nor the role of watcher, nor a cluster id, and each is told
// as deepflow-server tells it, or better.
func TestTeams(t *testing.T) {
	ctx := context.Background()
	reg := prometheus.NewRegistry()
	var audit lockedBuffer
	r := newRig(t, receiver.Options{
		Elector: elected{}, Access: receiver.Access{Teams: []string{"t-ours", "t-theirs"}}, Registerer: reg,
		Audit: slog.New(slog.NewTextHandler(&audit, nil)),
	})
	md5 := new("d41d8cd98f00b204e9800998ecf8427e")
	for team, known := range map[string]bool{"t-ours": true, "t-theirs": true, "t-other": false, "": false} {
		rep := report(1, 1, versionEntry(t))
		rep.TeamId = new(team)
		_, err := r.agent.KubernetesAPISync(ctx, rep)
		if want := map[bool]codes.Code{true: codes.OK, false: codes.PermissionDenied}[known]; status.Code(err) != want {
			t.Errorf("report of team %q: got %v, want %v", team, err, want)
		}
		a, err := r.agent.Sync(ctx, &agent.SyncRequest{KubernetesClusterId: new("d-test"), TeamId: new(team)})
		if err != nil || a.GetDynamicConfig().GetKubernetesApiEnabled() != known || (a.GetStatus() == agent.Status_FAILED) == known {
			t.Errorf("agent.Sync of team %q: got %v, %v, want the role %v", team, a, err, known)
		}
		b, err := r.trident.Sync(ctx, &trident.SyncRequest{KubernetesClusterId: new("d-test"), TeamId: new(team)})
		if err != nil || b.GetConfig().GetKubernetesApiEnabled() != known || (b.GetStatus() == trident.Status_FAILED) == known {
			t.Errorf("trident.Sync of team %q: got %v, %v, want the role %v", team, b, err, known)
		}
		id, err := r.agent.GetKubernetesClusterID(ctx, &agent.KubernetesClusterIDRequest{CaMd5: md5, TeamId: new(team)})
		if err != nil || (id.GetClusterId() != "") != known || strings.Contains(id.GetErrorMsg(), "access.team_ids") == known {
			t.Errorf("cluster id for team %q: got %v, %v, want one: %v", team, id, err, known)
		}
	}
	if n := refusals(t, reg, "team_id"); n != 8 {
		t.Errorf("got %v refusals by rule team_id, want 8", n)
	}
	if !strings.Contains(audit.String(), "rule=team_id") {
		t.Errorf("the audit log does not name the rule:\n%s", audit.String())
	}
}
