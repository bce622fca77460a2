package receiver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
)

// TestSmallMessages: what is no report is refused by its announced size before it is received, and by its number of fields
// before it is decoded. A Sync of 99 MiB of empty host_ips once took 1.8 GB.
func TestSmallMessages(t *testing.T) {
	r := newRig(t, receiver.Options{})
	ctx := context.Background()
	hostIPs := func(n int) []byte { return bytes.Repeat([]byte{0xba, 0x01, 0x00}, n) }
	for _, method := range []string{"Sync", "GetKubernetesClusterID"} {
		for _, tt := range []struct {
			body []byte
			code codes.Code
			want string
		}{
			{hostIPs(4096), codes.OK, ""},
			{hostIPs(4097), codes.InvalidArgument, "more than 4096 fields (rule protobuf)"},
			{hostIPs(99 << 20 / 3), codes.ResourceExhausted, "103809024 bytes, at most 65536 are taken (rule message_size)"},
			{bytes.Repeat([]byte{0x0b}, 1000), codes.InvalidArgument, "rule protobuf"},
		} {
			var out []byte
			var err error
			grown := peakOf(func() {
				err = r.conn.Invoke(ctx, "/agent.Synchronizer/"+method, tt.body, &out, grpc.ForceCodecV2(rawCodec{}))
			})
			if status.Code(err) != tt.code || !strings.Contains(fmt.Sprint(err), tt.want) {
				t.Errorf("%s of %d bytes: got %v, want %s %q", method, len(tt.body), err, tt.code, tt.want)
			}
			if grown > 32<<20 {
				t.Errorf("%s of %d bytes: the heap grew by %d bytes", method, len(tt.body), grown)
			}
		}
	}
}

// TestSlowSendersHoldUpNobody: many requests that hardly come in are ended soon, and others are served at once meanwhile.
func TestSlowSendersHoldUpNobody(t *testing.T) {
	r := newRig(t, receiver.Options{Limits: receiver.Limits{MaxConcurrentRequests: 2}})
	const slow = 64
	var ended []<-chan error
	for range slow {
		ended = append(ended, trickle(t, r.conn.Target()))
	}
	served := time.Now()
	for i := range 5 {
		if _, err := r.agent.KubernetesAPISync(context.Background(), report(uint64(10+i), 1, versionEntry(t))); err != nil {
			t.Errorf("a good report meanwhile: %v", err)
		}
	}
	select {
	case err := <-ended[0]:
		t.Errorf("the slow ones ended before the good ones were served: %v", err)
	default:
	}
	for _, e := range ended {
		if err := <-e; err != nil {
			t.Errorf("slow client: %v", err)
		}
	}
	t.Logf("the last slow one ended after %s", time.Since(served))
}

// TestCanceled: a client whose own deadline passes is neither a slow storage nor a slow network.
func TestCanceled(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	r := newRig(t, receiver.Options{Registerer: reg})
	// A message of which a part is missing, so that the deadline passes on both sides.
	body, w := io.Pipe()
	go func() { _, _ = w.Write([]byte{0, 0, 0, 3, 232, 1, 2, 3}) }()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+r.conn.Target()+"/agent.Synchronizer/Sync", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	req.Header.Set("Grpc-Timeout", "50m")
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	_ = w.Close()
	for range 100 {
		if n := refusals(t, reg, "canceled"); n == 1 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if c, s := refusals(t, reg, "canceled"), refusals(t, reg, "timeout"); c != 1 || s != 0 {
		t.Errorf("refused with rule canceled %v times and with rule timeout %v times, want 1 and 0", c, s)
	}
}

// TestRequestMemory: large requests wait for their share of the memory, and one that has more than all is refused before it
// is received.
func TestRequestMemory(t *testing.T) {
	r := newRig(t, receiver.Options{Limits: receiver.Limits{Memory: 4 << 20}})
	var out []byte
	err := r.conn.Invoke(context.Background(), "/agent.Synchronizer/KubernetesAPISync", make([]byte, 2<<20), &out, grpc.ForceCodecV2(rawCodec{}))
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "2097152 bytes, at most 524288 are taken with this server's memory (rule capacity)") {
		t.Errorf("a message larger than all may be: %v", err)
	}
	// Several of 0.4 MiB at once follow each other. They are no reports, which is found out when they have been received.
	refused := make(chan error)
	for range 6 {
		go func() {
			var out []byte
			refused <- r.conn.Invoke(context.Background(), "/agent.Synchronizer/KubernetesAPISync", bytes.Repeat([]byte{0x0b}, 400<<10), &out, grpc.ForceCodecV2(rawCodec{}))
		}()
	}
	for range 6 {
		if err := <-refused; status.Code(err) != codes.InvalidArgument {
			t.Errorf("a message that fits: %v", err)
		}
	}
}
