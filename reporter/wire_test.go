package reporter

import (
	"context"
	"encoding/hex"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	encproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// independent is the request as docs/protocol.md (section 1) describes it, written down by hand and not generated from our
// own .proto files.
func independent(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	type typ = descriptorpb.FieldDescriptorProto_Type
	field := func(name string, number int32, of typ, repeated bool, message string) *descriptorpb.FieldDescriptorProto {
		label := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		if repeated {
			label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
		}
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Type: &of, Label: &label}
		if message != "" {
			f.TypeName = &message
		}
		return f
	}
	const (
		str = descriptorpb.FieldDescriptorProto_TYPE_STRING
		u32 = descriptorpb.FieldDescriptorProto_TYPE_UINT32
		u64 = descriptorpb.FieldDescriptorProto_TYPE_UINT64
		raw = descriptorpb.FieldDescriptorProto_TYPE_BYTES
		msg = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("independent.proto"), Package: new("independent"), Syntax: new("proto2"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: new("Request"), Field: []*descriptorpb.FieldDescriptorProto{
				field("cluster_id", 1, str, false, ""), field("version", 2, u64, false, ""), field("error_msg", 3, str, false, ""),
				field("agent_id", 4, u32, false, ""), field("source_ip", 5, str, false, ""), field("team_id", 6, str, false, ""),
				field("entries", 10, msg, true, ".independent.Info"),
			}},
			{Name: new("Info"), Field: []*descriptorpb.FieldDescriptorProto{
				field("type", 1, str, false, ""), field("info", 2, str, false, ""), field("compressed_info", 3, raw, false, ""),
			}},
		},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().ByName("Request")
}

// rawCodec hands a request's bytes to the test as they came.
type rawCodec struct{ encoding.CodecV2 }

func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if p, ok := v.(*[]byte); ok {
		*p = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// TestPacketsDecodeIndependently reads what really went over the connection with the independent definition.
func TestPacketsDecodeIndependently(t *testing.T) {
	var mu sync.Mutex
	var packets [][]byte
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{encoding.GetCodecV2(encproto.Name)}), grpc.UnknownServiceHandler(
		func(_ any, s grpc.ServerStream) error {
			var b []byte
			if err := s.RecvMsg(&b); err != nil {
				return err
			}
			mu.Lock()
			packets = append(packets, b)
			mu.Unlock()
			return s.SendMsg(&agent.KubernetesAPISyncResponse{Version: proto.Uint64(5)})
		}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	defer func() {
		g.Stop()
		<-done
	}()
	s := mustConnect(t, Options{Addresses: []string{l.Addr().String()}})
	src := newSource(nil)
	seedContent(src)
	snap := src.Fold.Take()
	for _, r := range []*report{
		{clusterID: testCluster, teamID: "team", agentID: 7, version: 5, entries: snap},
		{clusterID: testCluster, version: 5, errorMsg: "boom"},
	} {
		if _, err := s.report(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	var got []map[string]any
	for _, p := range packets {
		m := dynamicpb.NewMessage(independent(t))
		if err := (proto.UnmarshalOptions{}).Unmarshal(p, m); err != nil {
			t.Fatal(err)
		}
		got = append(got, plain(t, m))
	}
	want := []map[string]any{
		{"cluster_id": testCluster, "version": uint64(5), "agent_id": uint32(7), "source_ip": "127.0.0.1", "team_id": "team"},
		{"cluster_id": testCluster, "version": uint64(5), "agent_id": uint32(0), "source_ip": "127.0.0.1", "error_msg": "boom"},
	}
	for i := range want {
		entries, _ := got[i]["entries"].([]map[string]any)
		delete(got[i], "entries")
		if len(got[i]) != len(want[i]) {
			t.Errorf("request %d: got fields %v, want %v", i, got[i], want[i])
		}
		for k, v := range want[i] {
			if got[i][k] != v {
				t.Errorf("request %d: got %s %v, want %v", i, k, got[i][k], v)
			}
		}
		if i == 1 {
			if len(entries) != 0 {
				t.Errorf("got %d entries in an error, want none", len(entries))
			}
			continue
		}
		n := 0
		for e := range snap.All() {
			if entries[n]["type"] != e.WireType() || len(entries[n]) != 2 {
				t.Errorf("entry %d: got %v, want type %s and compressed_info only", n, entries[n], e.WireType())
			}
			n++
		}
		if n != len(entries) {
			t.Errorf("got %d entries, want %d", len(entries), n)
		}
	}
}

// plain turns a message into maps, and fails on unknown fields.
func plain(t *testing.T, m protoreflect.Message) map[string]any {
	t.Helper()
	if u := m.GetUnknown(); len(u) > 0 {
		t.Errorf("unknown fields in %s: %s", m.Descriptor().Name(), hex.EncodeToString(u[:min(len(u), 40)]))
	}
	out := map[string]any{}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if !f.IsList() {
			out[string(f.Name())] = v.Interface()
			return true
		}
		var list []map[string]any
		for i := range v.List().Len() {
			list = append(list, plain(t, v.List().Get(i).Message()))
		}
		out[string(f.Name())] = list
		return true
	})
	return out
}

// BenchmarkSend sends a snapshot of about 100 MB in 100,000 entries to a peer in another process that reads and forgets
// it. The figures of one report are the sender's CPU time and the largest growth of its heap, garbage included, sampled.
func BenchmarkSend(b *testing.B) {
	address := startPeer(b)

	const count, payload = 100_000, 1250
	src := newSource(nil)
	list := make([]*resources.Entry, 0, count)
	for n := range count {
		list = append(list, testEntry("*v1.Pod", n, incompressible(n, payload)))
	}
	src.Replace("pods", list)
	snap := src.Fold.Take()
	s := mustConnect(b, Options{Addresses: []string{address}})
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	runtime.GC()
	var cpu time.Duration
	var extra uint64
	b.ReportAllocs()
	b.SetBytes(int64(snap.Size()))
	for b.Loop() {
		stop := make(chan struct{})
		grown := make(chan uint64)
		go func() { grown <- watchHeap(stop) }()
		before := cpuTime(b)
		if _, err := s.report(ctx, &report{clusterID: "c", agentID: 1, version: snap.Version(), entries: snap}); err != nil {
			b.Fatal(err)
		}
		cpu += cpuTime(b) - before
		close(stop)
		extra = max(extra, <-grown)
	}
	b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N), "cpu-ms/op")
	b.ReportMetric(float64(extra)/1e6, "extra-MB")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// watchHeap returns by how much the heap grew at most, garbage included, until stop.
func watchHeap(stop <-chan struct{}) uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	begin, most := m.HeapAlloc, uint64(0)
	for {
		select {
		case <-stop:
			return most
		case <-time.After(2 * time.Millisecond):
		}
		runtime.ReadMemStats(&m)
		if m.HeapAlloc > begin {
			most = max(most, m.HeapAlloc-begin)
		}
	}
}
