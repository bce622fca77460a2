package receiver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zlib"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("cannot receive %T", v)
	}
	*b = data.Materialize()
	return nil
}

// raw sends a KubernetesAPISync request of any bytes.
func (r *rig) raw(ctx context.Context, body []byte) error {
	var resp []byte
	return r.conn.Invoke(ctx, "/agent.Synchronizer/KubernetesAPISync", body, &resp, grpc.ForceCodecV2(rawCodec{}))
}

func encode(t testing.TB, req *agent.KubernetesAPISyncRequest) []byte {
	t.Helper()
	b, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// hostile is one malformed request and what is answered.
type hostile struct {
	name string
	body func(t testing.TB) []byte
	code codes.Code
	want []string // parts of the message
}

// hostileLimits are small, so that the corpus is.
var hostileLimits = receiver.Limits{
	MaxMessageSize: 1 << 20, MaxEntrySize: 64 << 10, MaxSnapshotSize: 256 << 10, MaxEntries: 1000, RequestsPerMinute: 600000,
}

// corpus returns the hostile requests. All are for the cluster d-test under a version that is not stored.
func corpus() []hostile {
	bad := func(entries ...func(t testing.TB) *agent.KubernetesAPIInfo) func(t testing.TB) []byte {
		return func(t testing.TB) []byte {
			t.Helper()
			req := report(99, 1, versionEntry(t), pod(t, "a", "new"))
			for _, e := range entries {
				req.Entries = append(req.Entries, e(t))
			}
			return encode(t, req)
		}
	}
	raw := func(wireType string, payload []byte) func(testing.TB) *agent.KubernetesAPIInfo {
		return func(testing.TB) *agent.KubernetesAPIInfo {
			return &agent.KubernetesAPIInfo{Type: new(wireType), CompressedInfo: payload}
		}
	}
	json := func(wireType, text string) func(testing.TB) *agent.KubernetesAPIInfo {
		return func(t testing.TB) *agent.KubernetesAPIInfo { t.Helper(); return entry(t, wireType, text) }
	}
	const okPod = `{"metadata":{"uid":"u","name":"n"}}`
	header := func(change func(*agent.KubernetesAPISyncRequest)) func(t testing.TB) []byte {
		return func(t testing.TB) []byte {
			t.Helper()
			req := report(99, 1, versionEntry(t))
			change(req)
			return encode(t, req)
		}
	}
	const in, too = codes.InvalidArgument, codes.ResourceExhausted
	return []hostile{
		{"no zlib", bad(raw("*v1.Pod", []byte("{}"))), in, []string{"entry 2", "*v1.Pod", "rule zlib", "compress"}},
		{"empty payload", bad(raw("*v1.Pod", nil)), in, []string{"entry 2", "rule zlib", "empty"}},
		{"half a zlib stream", func(t testing.TB) []byte {
			t.Helper()
			return bad(raw("*v1.Pod", compressed(t, okPod)[:12]))(t)
		}, in, []string{"entry 2", "rule zlib"}},
		{"wrong checksum", func(t testing.TB) []byte {
			t.Helper()
			b := compressed(t, okPod)
			b[len(b)-1]++
			return bad(raw("*v1.Pod", b))(t)
		}, in, []string{"entry 2", "rule zlib"}},
		{"gzip", bad(raw("*v1.Pod", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"))), in, []string{"rule zlib"}},
		{"zlib with a dictionary", bad(raw("*v1.Pod", []byte("\x78\xbb\x00\x00\x00\x01\x00"))), in, []string{"rule zlib"}},
		{"bomb", bad(json("*v1.Pod", strings.Repeat(" ", 1<<20))), in, []string{"entry 2", "rule entry_size", "65536"}},
		{"many large entries", func(t testing.TB) []byte {
			t.Helper()
			var all []func(testing.TB) *agent.KubernetesAPIInfo
			for i := range 8 {
				all = append(all, json("*v1.Pod", fmt.Sprintf(`{"metadata":{"uid":"%d","name":"n"},"x":"%s"}`, i, strings.Repeat("x", 60<<10))))
			}
			return bad(all...)(t)
		}, in, []string{"rule snapshot_size", "262144"}},
		{"empty JSON", bad(json("*v1.Pod", "")), in, []string{"entry 2", "rule json"}},
		{"half an object", bad(json("*v1.Pod", okPod[:20])), in, []string{"entry 2", "rule json", "ends too early"}},
		{"two objects", bad(json("*v1.Pod", okPod+okPod)), in, []string{"rule json", "follows"}},
		{"a word", bad(json("*v1.Pod", "hello")), in, []string{"rule json"}},
		{"deep nesting", bad(json("*v1.Pod", strings.Repeat("[", 30000))), in, []string{"rule json"}},
		{"deep nesting in a field", bad(json("*v1.Pod", `{"metadata":{"uid":"u","name":"n"},"x":`+strings.Repeat(`{"a":`, 9000))), in, []string{"rule json"}},
		{"null", bad(json("*v1.Pod", "null")), in, []string{"entry 2", "rule object", "null"}},
		{"array", bad(json("*v1.Pod", "["+okPod+"]")), in, []string{"rule object", "an array", "lenient"}},
		{"List", bad(json("*v1.Pod", `{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[`+okPod+`]}`)), in, []string{"rule object", "a List", "lenient"}},
		{"number", bad(json("*v1.Pod", "1")), in, []string{"rule object", "a scalar"}},
		{"not UTF-8", bad(json("*v1.Pod", "{\"metadata\":{\"uid\":\"u\",\"name\":\"\xff\"}}")), in, []string{"entry 2", "rule utf8"}},
		{"no uid", bad(json("*v1.Pod", `{"metadata":{"name":"n"}}`)), in, []string{"entry 2", "rule metadata", "uid"}},
		{"no name", bad(json("*v1.Pod", `{"metadata":{"uid":"u"}}`)), in, []string{"rule metadata", "name"}},
		{"no metadata", bad(json("*v1.Pod", `{}`)), in, []string{"rule metadata"}},
		{"metadata null", bad(json("*v1.Pod", `{"metadata":null}`)), in, []string{"rule metadata"}},
		{"keys in other case", bad(json("*v1.Pod", `{"Metadata":{"UID":"u","Name":"n"}}`)), in, []string{"rule metadata"}},
		{"control characters", bad(json("*v1.Pod", `{"metadata":{"uid":"u","name":"a\u0000b"}}`)), in, []string{"rule metadata"}},
		{"control characters of eight bits", bad(json("*v1.Pod", `{"metadata":{"uid":"u","name":"a\u009b31m"}}`)), in, []string{"rule metadata"}},
		{"endless name", bad(json("*v1.Pod", `{"metadata":{"uid":"u","name":"`+strings.Repeat("n", 5000)+`"}}`)), in, []string{"rule metadata"}},
		{"twice", bad(json("*v1.Pod", okPod), json("*v1.Pod", okPod)), in, []string{"rule duplicate", "*v1.Pod n"}},
		{"twice with other content", bad(json("*v1.Pod", okPod), json("*v1.Pod", `{"metadata":{"uid":"u","name":"m"}}`)), in, []string{"rule duplicate"}},
		{"no type", bad(json("", okPod)), in, []string{"entry 2", "rule type"}},
		{"strange type", bad(json("Pod", okPod)), in, []string{"rule type", `"*v1.Pod"`}},
		{"endless type", bad(json("*v1."+strings.Repeat("P", 500), okPod)), in, []string{"entry 2", "rule protobuf"}},
		{"many types", func(t testing.TB) []byte {
			t.Helper()
			var all []func(testing.TB) *agent.KubernetesAPIInfo
			for i := range 300 {
				all = append(all, json(fmt.Sprintf("*v1.T%d", i), okPod))
			}
			return bad(all...)(t)
		}, in, []string{"rule type", "256"}},
		{"no version.Info", func(t testing.TB) []byte {
			t.Helper()
			return encode(t, report(99, 1, pod(t, "a", "new")))
		}, in, []string{"rule version_info", "/version"}},
		{"version.Info without gitVersion", func(t testing.TB) []byte {
			t.Helper()
			return encode(t, report(99, 1, entry(t, "*version.Info", `{"major":"1"}`)))
		}, in, []string{"entry 0", "rule version_info", "gitVersion"}},
		{"too many entries", func(t testing.TB) []byte {
			t.Helper()
			return append(encode(t, report(99, 1)), bytes.Repeat([]byte{10<<3 | 2, 0}, 1001)...)
		}, in, []string{"rule entries", "1000"}},
		{"too large", func(testing.TB) []byte { return make([]byte, 2<<20) }, too, []string{"has 2097152 bytes", "message_size"}},
		{"no cluster_id", header(func(r *agent.KubernetesAPISyncRequest) { r.ClusterId = nil }), in, []string{"rule cluster_id"}},
		{"strange cluster_id", header(func(r *agent.KubernetesAPISyncRequest) { r.ClusterId = new("../x") }), in, []string{"rule cluster_id"}},
		{"version 0", header(func(r *agent.KubernetesAPISyncRequest) { r.Version = nil }), in, []string{"rule version"}},
		{"noise", func(testing.TB) []byte { return []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") }, in, []string{"rule protobuf"}},
		{"length beyond the end", func(testing.TB) []byte { return []byte{10<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0x7f} }, in, []string{"rule protobuf"}},
		{"a group", func(testing.TB) []byte { return []byte{10<<3 | 3} }, in, []string{"rule protobuf"}},
		{"field 0", func(testing.TB) []byte { return []byte{2, 0} }, in, []string{"rule protobuf"}},
	}
}

// TestHostile sends the corpus: each is refused with the right status, and what was stored before stays.
func TestHostile(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, receiver.Options{Limits: hostileLimits})
	if _, err := r.agent.KubernetesAPISync(ctx, report(10, 1, versionEntry(t), pod(t, "a", "1"), pod(t, "b", "1"))); err != nil {
		t.Fatal(err)
	}
	before, err := r.store.View(ctx, "d-test")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range corpus() {
		err := r.raw(ctx, h.body(t))
		if status.Code(err) != h.code {
			t.Errorf("%s: got %v, want %s", h.name, err, h.code)
			continue
		}
		for _, part := range h.want {
			if !strings.Contains(status.Convert(err).Message(), part) {
				t.Errorf("%s: got message %q, want %q in it", h.name, status.Convert(err).Message(), part)
			}
		}
		if after, err := r.store.View(ctx, "d-test"); err != nil || after != before {
			t.Fatalf("%s: the stored data was touched", h.name)
		}
	}
}

// TestErrorText keeps an error_msg of arbitrary bytes fit for storage and screen.
func TestErrorText(t *testing.T) {
	r := newRig(t, receiver.Options{})
	req := encode(t, report(10, 1, versionEntry(t)))
	req = protowire.AppendTag(req, 3, protowire.BytesType)
	req = protowire.AppendString(req, "bad \xff\x00\x1b[31m "+strings.Repeat("ä", 20000))
	if err := r.raw(context.Background(), req); err != nil {
		t.Fatal(err)
	}
	v, err := r.store.View(context.Background(), "d-test")
	if err != nil {
		t.Fatal(err)
	}
	got := v.State.ErrorMsg
	if !strings.HasPrefix(got, "bad \uFFFD  [31m ää") || len(got) > 17<<10 {
		t.Errorf("got error_msg %q… of %d bytes", got[:20], len(got))
	}
}

// TestTinyEntries sends a full message of entries that hold nothing: they must be counted, not collected.
func TestTinyEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("100 MiB")
	}
	r := newRig(t, receiver.Options{})
	body := append(encode(t, report(99, 1)), bytes.Repeat([]byte{10<<3 | 2, 0}, 50<<20-100)...)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if err := r.raw(context.Background(), body); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "rule entries") {
		t.Errorf("got %v, want a refusal by rule entries", err)
	}
	// gRPC's pools give a buffer back in the second collection, and only after its writer has noticed the refusal.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		runtime.GC()
		runtime.ReadMemStats(&after)
		grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
		if grown <= 50<<20 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d bytes more heap after the request, want it gone", grown)
		}
	}
}

// smallest is the smallest entry that is accepted.
func smallest(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, zlib.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, `{"metadata":{"uid":"u","name":"u"}}`)
	_ = w.Close()
	return encode(t, &agent.KubernetesAPISyncRequest{Entries: []*agent.KubernetesAPIInfo{{Type: new("*v.P"), CompressedInfo: b.Bytes()}}})
}

// TestDuplicates fills a message of the default size with the same entry: more than two million. It is refused, or in a
// lenient cluster stored as one; what was stored before stays, and the memory is that which docs/receiver-limits.md states.
func TestDuplicates(t *testing.T) {
	const cluster = "d-test"
	one := smallest(t)
	n := 2050000
	if testing.Short() {
		n = 20000
	}
	// As the daemon has it.
	defer debug.SetGCPercent(debug.SetGCPercent(15))
	r := newRig(t, receiver.Options{
		Limits: receiver.Limits{MaxEntries: 3000000, RequestTimeout: 10 * time.Minute}, Lenient: []string{"d-lenient"},
	})
	ctx := context.Background()
	if err := r.raw(ctx, append(encode(t, report(10, 1, versionEntry(t))), one...)); err != nil {
		t.Fatal(err)
	}
	before, err := r.store.View(ctx, cluster)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, cluster, refused string }{
		{"of a stored object", cluster, "rule duplicate"},
		{"of a new object", "d-new", "rule duplicate"},
		{"in a lenient cluster", "d-lenient", ""},
	} {
		req := report(99, 1, versionEntry(t))
		req.ClusterId = new(c.cluster)
		head := encode(t, req)
		body := append(make([]byte, 0, len(head)+n*len(one)), head...)
		for range n {
			body = append(body, one...)
		}
		if len(body) > 100<<20 {
			t.Fatalf("the request has %d bytes, want no more than the default limit", len(body))
		}
		peak := peakOf(func() { err = r.raw(ctx, body) })
		if c.refused == "" && err != nil || c.refused != "" && (status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%d duplicates %s: got %v, want %q", n, c.name, err, c.refused)
		}
		// The client, which is the same process, holds the request twice more on its way.
		bound := int64(3*len(body) + n*(40+200))
		t.Logf("%d duplicates %s, %d MB: %d MB of memory at the peak, at most %d", n, c.name, len(body)/1000000, peak/1000000, bound/1000000)
		if peak > bound+64<<20 {
			t.Errorf("%d duplicates %s: got %d bytes of memory at the peak, want at most %d", n, c.name, peak, bound)
		}
	}
	if after, err := r.store.View(ctx, cluster); err != nil || after != before {
		t.Errorf("the stored data was touched: %v", err)
	}
	view, err := r.store.View(ctx, "d-lenient")
	if err != nil || view.State.Latest.Objects != 2 {
		t.Errorf("lenient: got %+v, %v, want two objects stored", view, err)
	}
	if _, err := r.store.View(ctx, "d-new"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a cluster whose only report was refused: got %v, want none", err)
	}
}

// peakOf returns how much the heap had grown at most while f ran, in bytes.
func peakOf(f func()) int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	start, peak := int64(m.HeapAlloc), int64(0)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, int64(m.HeapAlloc)-start)
			}
		}
	}()
	f()
	close(done)
	<-ended
	return peak
}

// TestSlowClients opens requests that are never completed: each ends by the time limit, and meanwhile others wait
// and are then served.
func TestSlowClients(t *testing.T) {
	r := newRig(t, receiver.Options{Limits: receiver.Limits{RequestTimeout: 300 * time.Millisecond, MaxConcurrentRequests: 2, MaxWaitingRequests: 8}})
	var ended []<-chan error
	for range 2 {
		ended = append(ended, trickle(t, r.conn.Target()))
	}
	for _, e := range ended {
		if err := <-e; err != nil {
			t.Errorf("slow client: %v", err)
		}
	}
	if _, err := r.agent.KubernetesAPISync(context.Background(), report(10, 1, versionEntry(t))); err != nil {
		t.Errorf("after the slow ones: %v", err)
	}
}

// trickle sends the headers and a part of a request over HTTP/2 and nothing more. It reports an error unless the
// server answers with DEADLINE_EXCEEDED.
func trickle(t *testing.T, address string) <-chan error {
	t.Helper()
	out := make(chan error, 1)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	body, w := io.Pipe()
	go func() {
		// A message of 1000 bytes is announced; ten come.
		_, _ = w.Write(append([]byte{0, 0, 0, 3, 232}, make([]byte, 10)...))
	}()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+address+"/agent.Synchronizer/KubernetesAPISync", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	go func() {
		resp, err := transport.RoundTrip(req)
		if err != nil {
			out <- err
			return
		}
		_, err = io.Copy(io.Discard, resp.Body)
		code := resp.Trailer.Get("Grpc-Status")
		if code == "" {
			code = resp.Header.Get("Grpc-Status")
		}
		_ = resp.Body.Close()
		_ = w.Close()
		if code != fmt.Sprint(int(codes.DeadlineExceeded)) {
			out <- fmt.Errorf("got grpc-status %q (%w), want DEADLINE_EXCEEDED", code, err)
			return
		}
		out <- nil
	}()
	return out
}

// TestConnectionLimit opens more connections than are allowed.
func TestConnectionLimit(t *testing.T) {
	r := newRig(t, receiver.Options{Limits: receiver.Limits{MaxConnections: 3}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limited := r.recv.LimitConnections(l)
	t.Cleanup(func() { _ = limited.Close() })
	accepted := make(chan net.Conn, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := limited.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	open := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	var served []net.Conn
	for range 3 {
		open()
		served = append(served, <-accepted)
	}
	if _, err := open().Read(make([]byte, 1)); err == nil {
		t.Error("a fourth connection was served")
	}
	if err := served[0].Close(); err != nil {
		t.Fatal(err)
	}
	open()
	served[0] = <-accepted
	for _, c := range served {
		_ = c.Close()
	}
	_ = limited.Close()
	<-done
}

// FuzzRequest gives arbitrary bytes to the whole way of a request: whatever is answered, the latest stored snapshot
// can be read completely afterwards, and a refused request leaves it as it was.
func FuzzRequest(f *testing.F) {
	for _, h := range corpus() {
		if b := h.body(f); len(b) < 64<<10 {
			f.Add(b)
		}
	}
	f.Add(encode(f, report(20, 1, versionEntry(f), pod(f, "a", "2"))))
	f.Add(encode(f, report(10, 1)))
	lenient := report(20, 1, versionEntry(f), entry(f, "*v1.Pod", `[{"metadata":{"uid":"a","name":"a"}}]`))
	lenient.ClusterId = new("d-lenient")
	f.Add(encode(f, lenient))
	ctx := context.Background()
	r := newRig(f, receiver.Options{Limits: hostileLimits, Lenient: []string{"d-lenient"}})
	if _, err := r.agent.KubernetesAPISync(ctx, report(10, 1, versionEntry(f), pod(f, "a", "1"))); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before, err := r.store.View(ctx, "d-test")
		if err != nil {
			t.Fatal(err)
		}
		err = r.raw(ctx, body)
		switch code := status.Code(err); code {
		case codes.OK, codes.InvalidArgument, codes.ResourceExhausted, codes.AlreadyExists:
		default:
			t.Errorf("got %v, want OK or a refusal for the sender's fault", err)
		}
		after, verr := r.store.View(ctx, "d-test")
		if verr != nil {
			t.Fatal(verr)
		}
		if err != nil && after != before {
			t.Errorf("refused with %v, but the stored data was touched", err)
		}
		payloads, perr := r.store.Payloads(ctx, "d-test", after.Entries)
		if perr != nil {
			t.Fatal(perr)
		}
		for i, p := range payloads {
			if len(p) == 0 {
				t.Errorf("entry %d of version %d has no payload", i, after.State.Latest.Version)
			}
		}
	})
}
