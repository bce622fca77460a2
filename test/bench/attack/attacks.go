package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// attack is one way to exhaust the server. Its loop is called until the context ends; the pause is between two rounds.
type attack struct {
	name  string
	pause time.Duration
	make  func(t target) func(ctx context.Context, round int)
}

// attacks come from three networks: 127.0.1.0/24 to 127.0.3.0/24.
var attacks = []attack{
	{"large Syncs", time.Second, func(t target) func(context.Context, int) {
		body := bytes.Repeat([]byte{0xba, 0x01, 0x00}, 99<<20/3) // an empty host_ips after the other
		return parallel(4, dial(t.grpc, "127.0.1.1"), methodSync, func(int, int) []byte { return body })
	}},
	{"long names", time.Second, func(t target) func(context.Context, int) {
		pods := named(60000, 480)
		return parallel(2, dial(t.grpc, "127.0.1.2"), methodReport, func(round, i int) []byte { return reportOf(fmt.Sprintf("d-names-%d", (2*round+i)%8), pods) })
	}},
	{"many labels", time.Second, func(t target) func(context.Context, int) {
		workloads := labelled(40, 50000)
		return parallel(2, dial(t.grpc, "127.0.2.1"), methodReport, func(round, i int) []byte { return reportOf(fmt.Sprintf("d-labels-%d", (2*round+i)%8), workloads) })
	}},
	{"tiny entries", time.Second, func(t target) func(context.Context, int) {
		list := [2][]byte{tiny(200000, 0), tiny(200000, 1)} // all of them change each time
		return parallel(2, dial(t.grpc, "127.0.2.2"), methodReport, func(round, i int) []byte { return reportOf(fmt.Sprintf("d-tiny-%d", i), list[round%2]) })
	}},
	{"large reports", time.Second, func(t target) func(context.Context, int) {
		body := junk(60)
		return parallel(8, dial(t.grpc, "127.0.1.3"), methodReport, func(_, i int) []byte { return reportOf(fmt.Sprintf("d-junk-%d", i), body) })
	}},
	{"zlib bombs", time.Second, func(t target) func(context.Context, int) {
		one, many := entries(versionEntry(), bomb(1024)), entries(slices.Repeat([]*agent.KubernetesAPIInfo{bomb(15)}, 700)...)
		return parallel(8, dial(t.grpc, "127.0.2.3"), methodReport, func(_, i int) []byte { return reportOf(fmt.Sprintf("d-bomb-%d", i), [][]byte{one, many}[i%2]) })
	}},
	{"made-up clusters", 0, func(t target) func(context.Context, int) {
		conns := []*grpc.ClientConn{dial(t.grpc, "127.0.1.4"), dial(t.grpc, "127.0.2.4"), dial(t.grpc, "127.0.3.4")}
		body := entries(versionEntry())
		return func(ctx context.Context, round int) {
			_ = raw(ctx, conns[round%3], methodReport, reportOf(fmt.Sprintf("d-made-up-%d", round), body))
			_ = raw(ctx, conns[round%3], methodSync, syncOf(fmt.Sprintf("s-%d", round), "h"))
		}
	}},
	{"made-up agents", 0, func(t target) func(context.Context, int) {
		conn := dial(t.grpc, "127.0.3.5")
		return func(ctx context.Context, round int) {
			_ = raw(ctx, conn, methodSync, syncOf(fmt.Sprintf("d-agents-%d", round%16), fmt.Sprintf("%d-%s", round, strings.Repeat("h", 110))))
		}
	}},
	{"one byte a second", time.Second, func(t target) func(context.Context, int) { return trickle(t.grpc) }},
	{"connections", 10 * time.Second, func(t target) func(context.Context, int) { return connections(t.grpc) }},
	{"resets", 0, func(t target) func(context.Context, int) { return resets(t.grpc) }},
	{"clients that give up", 100 * time.Millisecond, func(t target) func(context.Context, int) {
		conn, body := dial(t.grpc, "127.0.3.6"), named(5000, 10)
		return func(ctx context.Context, round int) {
			ctx, cancel := context.WithTimeout(ctx, time.Duration(round%40)*time.Millisecond)
			defer cancel()
			_ = raw(ctx, conn, methodReport, reportOf("d-gives-up", body))
		}
	}},
	{"noise", 50 * time.Millisecond, func(t target) func(context.Context, int) {
		conn := dial(t.grpc, "127.0.3.7")
		rng := rand.New(rand.NewPCG(1, 1))
		return func(ctx context.Context, round int) {
			b := make([]byte, 1+rng.IntN(100000))
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			_ = raw(ctx, conn, []string{methodReport, methodSync}[round%2], b)
		}
	}},
	{"the API", 100 * time.Millisecond, func(t target) func(context.Context, int) { return readers(t.http) }},
}

func syncOf(cluster, host string) []byte {
	b, err := proto.Marshal(&agent.SyncRequest{KubernetesClusterId: new(cluster), CtrlIp: new("10.0.0.1"), CtrlMac: new("aa:bb:cc:dd:ee:ff"), Host: new(host)})
	if err != nil {
		panic(err) // only of a message that cannot be
	}
	return b
}

// play plays the attacks at once until the context ends, and tells how many rounds each had.
func play(ctx context.Context, t target, only string) error {
	var wg sync.WaitGroup
	for _, a := range attacks {
		if only != "" && !slices.Contains(strings.Split(only, ","), a.name) {
			continue
		}
		wg.Go(func() {
			round := 0
			for one := a.make(t); ctx.Err() == nil; round++ {
				one(ctx, round)
				select {
				case <-time.After(a.pause):
				case <-ctx.Done():
				}
			}
			fmt.Printf("%s: %d rounds\n", a.name, round)
		})
	}
	wg.Wait()
	return nil
}

// parallel sends n requests at once in each round.
func parallel(n int, conn *grpc.ClientConn, method string, body func(round, i int) []byte) func(context.Context, int) {
	return func(ctx context.Context, round int) {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { _ = raw(ctx, conn, method, body(round, i)) })
		}
		wg.Wait()
	}
}

// headers are those of a report.
func headers() []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", methodReport}, {":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}) // to a buffer
	}
	return b.Bytes()
}

// open opens an HTTP/2 connection and throws away what the server says. It is closed by the caller.
func open(ctx context.Context, address, from string) (net.Conn, *http2.Framer, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // nobody is told
	}
	f := http2.NewFramer(conn, conn)
	if _, err = io.WriteString(conn, http2.ClientPreface); err == nil {
		err = f.WriteSettings()
	}
	if err != nil {
		_ = conn.Close()
		return nil, nil, err //nolint:wrapcheck // nobody is told
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }() // until it is closed
	return conn, f, nil
}

// trickle announces reports of 50 MiB on 64 connections and sends a byte of each in each round.
func trickle(address string) func(context.Context, int) {
	conns := make([]net.Conn, 64)
	framers := make([]*http2.Framer, len(conns))
	return func(ctx context.Context, _ int) {
		for i := range conns {
			if conns[i] != nil && framers[i].WriteData(1, false, []byte{1}) == nil {
				continue
			}
			if conns[i] != nil {
				_ = conns[i].Close()
			}
			var err error
			if conns[i], framers[i], err = open(ctx, address, "127.0.1.8"); err != nil {
				conns[i] = nil
				continue
			}
			_ = framers[i].WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers(), EndHeaders: true})
			_ = framers[i].WriteData(1, false, []byte{0, 3, 0, 0, 0, 0x0a})
		}
	}
}

// connections opens 3,000 connections in each round, holds them for ten seconds and closes them.
func connections(address string) func(context.Context, int) {
	return func(ctx context.Context, _ int) {
		var conns []net.Conn
		for range 3000 {
			conn, _, err := open(ctx, address, "127.0.2.9")
			if err == nil {
				conns = append(conns, conn)
			}
		}
		select {
		case <-time.After(10 * time.Second):
		case <-ctx.Done():
		}
		for _, c := range conns {
			_ = c.Close()
		}
	}
}

// resets opens streams and ends them at once, for ten seconds on one connection.
func resets(address string) func(context.Context, int) {
	return func(ctx context.Context, _ int) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		conn, f, err := open(ctx, address, "127.0.3.10")
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		h := headers()
		for id := uint32(1); id < 1<<30 && ctx.Err() == nil; id += 2 {
			if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h, EndHeaders: true}) != nil || f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				return
			}
		}
	}
}

// readers ask the API for the largest pages of everything, ten at once.
func readers(address string) func(context.Context, int) {
	var asked atomic.Int64
	paths := []string{
		"/clusters", "/clusters/%s/objects?limit=5000", "/clusters/%s/inventory/pods?limit=5000", "/clusters/%s/inventory/workloads?limit=5000",
		"/clusters/%s/dropped?limit=5000", "/clusters/%s/graph?namespace=ns", "/clusters/%s/versions", "/watchers", "/events",
	}
	clusters := []string{"d-names-0", "d-labels-0", "d-tiny-0", "d-plain", "d-names-1", "d-labels-1"}
	return func(ctx context.Context, _ int) {
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				n := int(asked.Add(1))
				path := paths[n%len(paths)]
				if strings.Contains(path, "%s") {
					path = fmt.Sprintf(path, clusters[n%len(clusters)])
				}
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/api/v1"+path, nil)
				if err != nil {
					return
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			})
		}
		wg.Wait()
	}
}
