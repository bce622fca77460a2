package e2e

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// rawCodec passes messages on as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// answer is what a lying server makes of the answer to a report or heartbeat.
type answer func(s grpc.ServerStream, truth []byte) ([]byte, error)

func versionOf(version uint64) []byte {
	b, err := proto.Marshal(&agent.KubernetesAPISyncResponse{Version: &version})
	if err != nil {
		panic(err) // it is a number
	}
	return b
}

// lyingServer stands between an agent and a pseudo-server.
type lyingServer struct {
	address string
	lie     atomic.Pointer[answer]
	told    atomic.Int64
}

func newLyingServer(t *testing.T, behind string, options ...grpc.ServerOption) *lyingServer {
	t.Helper()
	conn, err := grpc.NewClient(behind, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &lyingServer{address: listener.Addr().String()}
	server := grpc.NewServer(append(options, grpc.ForceServerCodec(rawCodec{}), grpc.MaxRecvMsgSize(math.MaxInt32),
		grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error { return l.pass(conn, s) }))...)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = conn.Close()
	})
	return l
}

func (l *lyingServer) pass(conn *grpc.ClientConn, s grpc.ServerStream) error {
	var request, truth []byte
	if err := s.RecvMsg(&request); err != nil {
		return err
	}
	method, _ := grpc.MethodFromServerStream(s)
	if err := conn.Invoke(s.Context(), method, &request, &truth, grpc.ForceCodec(rawCodec{})); err != nil {
		return err
	}
	if lie := l.lie.Load(); lie != nil && strings.HasSuffix(method, "/KubernetesAPISync") {
		l.told.Add(1)
		said, err := (*lie)(s, truth)
		if err != nil {
			return err
		}
		truth = said
	}
	return s.SendMsg(&truth)
}

func (l *lyingServer) tell(lie answer) {
	l.told.Store(0)
	if lie == nil {
		l.lie.Store(nil)
		return
	}
	l.lie.Store(&lie)
}

// TestLyingServer: whatever a server answers, it is sent nothing that is false, the agent says that something is wrong, stays
// within its memory, and goes on as soon as the answers are right.
//
//nolint:tparallel // the cluster is the same for all tests
func TestLyingServer(t *testing.T) {
	loader, objs := load(t, nil)
	web := pick(t, objs, "Pod", "web-6d5f8b9c4-x7k2p")
	for i, c := range []struct {
		name string
		lie  answer
		says string // of the agent's status; empty: nothing is wrong
	}{
		{"a version by chance", func(grpc.ServerStream, []byte) ([]byte, error) {
			var b [8]byte
			_, err := rand.Read(b[:])
			return versionOf(binary.LittleEndian.Uint64(b[:])), err
		}, "version"},
		{"the last version there is", func(grpc.ServerStream, []byte) ([]byte, error) { return versionOf(math.MaxUint64), nil }, "version"},
		{"no version", func(grpc.ServerStream, []byte) ([]byte, error) { return nil, nil }, "version"},
		{"a huge answer", func(grpc.ServerStream, []byte) ([]byte, error) { return make([]byte, 300<<20), nil }, "larger than max"},
		{"no answer", func(s grpc.ServerStream, _ []byte) ([]byte, error) {
			<-s.Context().Done()
			return nil, s.Context().Err()
		}, "DeadlineExceeded"},
		{"garbage", func(grpc.ServerStream, []byte) ([]byte, error) { return []byte{0xff, 0xff, 0xff}, nil }, "unmarshal"},
		{"an endless error", func(grpc.ServerStream, []byte) ([]byte, error) {
			return nil, status.Error(codes.Internal, strings.Repeat("why? ", 1<<20))
		}, "why?"},
		{"the end of the stream", func(grpc.ServerStream, []byte) ([]byte, error) { return nil, io.EOF }, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, l := newLiedTo(t)
			p.agent.Env = memoryOfAgent
			p.start()
			p.synced(time.Minute)
			looked := p.neverPartial()
			l.tell(c.lie)
			patch(t, loader, web, labelled("e2e.example.com/server-lie", fmt.Sprint(i)))
			p.eventually(2*time.Minute, "the lie is told twice", func() error {
				if n := l.told.Load(); n < 2 {
					return fmt.Errorf("%d times", n)
				}
				return nil
			})
			p.eventually(2*time.Minute, "the agent says what is wrong", func() error { return p.statusSays(c.says) })
			l.tell(nil)
			if info := p.synced(2 * time.Minute); info.ErrorMsg != "" {
				t.Errorf("error_msg is %q after the truth was told", info.ErrorMsg)
			}
			looked()
			p.bounded()
		})
	}
}

// newLiedTo returns an agent that a liar keeps apart from its server.
func newLiedTo(t *testing.T, serverOptions ...grpc.ServerOption) (*pair, *lyingServer) {
	t.Helper()
	p := newPair(t, options{})
	l := newLyingServer(t, p.server.GRPC, serverOptions...)
	p.must(p.agent.Configure(harness.Settings{"server.addresses": []string{l.address}, "server.request_timeout": "3s"}))
	return p, l
}

// TestServerThatGoesAwayAllTheTime ends each connection after a moment (GOAWAY): reports arrive all the same.
func TestServerThatGoesAwayAllTheTime(t *testing.T) {
	p, _ := newLiedTo(t, grpc.KeepaliveParams(keepalive.ServerParameters{
		MaxConnectionAge: 200 * time.Millisecond, MaxConnectionAgeGrace: time.Millisecond,
	}))
	loader, objs := load(t, nil)
	web := pick(t, objs, "Pod", "web-6d5f8b9c4-x7k2p")
	p.start()
	for i := range 3 {
		p.synced(time.Minute)
		patch(t, loader, web, labelled("e2e.example.com/goaway", fmt.Sprint(i)))
	}
	if info := p.synced(time.Minute); info.ErrorMsg != "" {
		t.Errorf("error_msg is %q, want none", info.ErrorMsg)
	}
}
