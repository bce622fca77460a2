package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/klauspost/compress/zlib"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/resources"
	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
)

// storeFile is the name of the store's file, beside the configuration.
const storeFile = "pseudo-server.db"

// fleetServer is the real pseudo-server.
type fleetServer struct {
	child
	binary, config string
	grpc, http     string
}

func startFleetServer(ctx context.Context, o fleetOptions) (*fleetServer, error) {
	s := &fleetServer{binary: o.server, config: filepath.Join(o.dir, "pseudo-server.yaml")}
	for _, address := range []*string{&s.grpc, &s.http} {
		var err error
		if *address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	// Defaults, but for what depends on the size of the fleet.
	config := fmt.Sprintf("listen: {grpc: %q, http: %q}\nstore: {path: %q}\nhttp: {pprof: true}\nlimits: {max_clusters: %d}\n",
		s.grpc, s.http, filepath.Join(o.dir, storeFile), max(20000, 2*o.clusters))
	if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
		return nil, err
	}
	_, err := s.start(ctx, o.dir)
	return s, err
}

// start starts the process and tells how long it took until it was ready.
func (s *fleetServer) start(ctx context.Context, dir string) (time.Duration, error) {
	begun := time.Now()
	s.child = child{name: "pseudo-server", cmd: exec.Command(s.binary, "run", "--config", s.config)}
	if err := startChild(&s.child, dir, nil); err != nil {
		return 0, err
	}
	for {
		_, err := s.get("/healthz/ready")
		if err == nil {
			return time.Since(begun), nil
		}
		if ctx.Err() != nil || time.Since(begun) > 5*time.Minute {
			return 0, s.fail(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// restart ends the process by a signal, SIGTERM as systemd and Kubernetes do or SIGKILL, and starts it again.
func (s *fleetServer) restart(ctx context.Context, by syscall.Signal) (time.Duration, error) {
	if err := s.cmd.Process.Signal(by); err != nil {
		return 0, err
	}
	if err := s.cmd.Wait(); err != nil && by == syscall.SIGTERM {
		return 0, s.fail(err)
	}
	return s.start(ctx, filepath.Dir(s.config))
}

// quiet waits until the process has done what there was to do.
func (s *fleetServer) quiet(ctx context.Context) error {
	for range 600 {
		before, err := cpuTime(s.PID())
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Second):
		}
		after, err := cpuTime(s.PID())
		if err != nil {
			return err
		}
		if after-before < 300*time.Millisecond {
			return nil
		}
	}
	return errors.New("it is busy still twenty minutes after the last report")
}

// fleetClient is a connection from a network of its own: the server counts peers by their networks.
type fleetClient struct {
	conn *grpc.ClientConn
	stub agent.SynchronizerClient
}

func newFleetClient(address string, network int) (*fleetClient, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(network%workers+1), 1)}}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) { return d.DialContext(ctx, "tcp", to) }))
	if err != nil {
		return nil, err
	}
	return &fleetClient{conn: conn, stub: agent.NewSynchronizerClient(conn)}, nil
}

// report sends the content as it is now as the report of a cluster.
func (c *fleetClient) report(ctx context.Context, cluster int, content *fleetContent) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	head, err := proto.Marshal(&agent.KubernetesAPISyncRequest{
		ClusterId: new(clusterID(cluster)), Version: new(content.version), AgentId: new(uint32(1)), SourceIp: new("10.0.0.1"),
	})
	if err != nil {
		return err
	}
	var answer agent.KubernetesAPISyncResponse
	err = c.conn.Invoke(ctx, "/agent.Synchronizer/KubernetesAPISync", [][]byte{head, content.body}, &answer, grpc.ForceCodecV2(partsCodec{}))
	if err == nil && answer.GetVersion() != content.version {
		err = fmt.Errorf("version %d was answered, %d was sent", answer.GetVersion(), content.version)
	}
	return err
}

// sync Syncs as the n-th agent of a cluster.
func (c *fleetClient) sync(ctx context.Context, cluster, n int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := c.stub.Sync(ctx, &agent.SyncRequest{
		KubernetesClusterId: new(clusterID(cluster)), KubernetesWatchPolicy: agent.KubernetesWatchPolicy_KWP_NORMAL.Enum(), BootTime: new(uint32(1)),
		CtrlIp: new(fmt.Sprintf("10.%d.%d.%d", cluster>>8, cluster&0xff, n)), CtrlMac: new(fmt.Sprintf("02:00:%02x:%02x:00:%02x", cluster>>8, cluster&0xff, n)),
		Host: new(fmt.Sprintf("node-%d", n)), ProcessName: new("deepflow-agent"), Revision: new("v6.6.9"),
	})
	return err
}

// partsCodec sends parts of a message from where they lie.
type partsCodec struct{}

func (partsCodec) Name() string { return "proto" }

func (partsCodec) Marshal(v any) (mem.BufferSlice, error) {
	parts, ok := v.([][]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send %T", v)
	}
	var out mem.BufferSlice
	for _, p := range parts {
		out = append(out, mem.SliceBuffer(p))
	}
	return out, nil
}

func (partsCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("cannot receive %T", v)
	}
	return proto.Unmarshal(data.Materialize(), m)
}

// fleetContent is what every cluster reports: pseudo-agent's projection of a made-up cluster. That all report the same saves the
// benchmark work, not the server: it keeps each cluster by itself.
type fleetContent struct {
	version uint64
	objects int
	body    []byte // the entries of a report

	pods      []cluster.Item
	projector *resources.Projector
	others    []byte
	entries   []string // of the Pods
	rounds    int
}

func newFleetContent(pods int) (*fleetContent, error) {
	made := cluster.New(pods, 1)
	selected, err := resources.Select(nil, resources.Namespaces{})
	if err != nil {
		return nil, err
	}
	c := &fleetContent{version: uint64(time.Now().UnixMicro()), pods: made.Items("pods"), others: versionRecord()}
	c.objects = 1
	for _, sel := range selected {
		projector := resources.NewProjector(sel, resources.Options{})
		if sel.Kind.Name == "pods" {
			c.projector = projector
			continue
		}
		for _, item := range made.Items(sel.Kind.Name) {
			record, err := recordOf(projector, item, cluster.State{})
			if err != nil {
				return nil, err
			}
			c.others = append(c.others, record...)
			if record != "" {
				c.objects++
			}
		}
	}
	for _, item := range c.pods {
		record, err := recordOf(c.projector, item, cluster.State{})
		if err != nil {
			return nil, err
		}
		c.entries = append(c.entries, record)
	}
	c.objects += len(c.pods)
	c.join()
	return c, nil
}

// recordOf is an object as a record of a report; empty: it is not reported.
func recordOf(p *resources.Projector, item cluster.Item, state cluster.State) (string, error) {
	doc, err := json.Marshal(item.Make(state))
	if err != nil {
		return "", err
	}
	obj, _, err := p.Project(doc, nil)
	if err != nil || obj.Entry == nil {
		return "", err
	}
	return obj.Entry.Wire(), nil
}

// change changes one percent of the Pods.
func (c *fleetContent) change() error {
	n := max(1, len(c.pods)/100)
	c.rounds++
	for i := range n {
		at := (c.rounds*n + i) % len(c.pods)
		record, err := recordOf(c.projector, c.pods[at], cluster.State{Changes: c.rounds})
		if err != nil {
			return err
		}
		c.entries[at] = record
	}
	c.version = uint64(time.Now().UnixMicro())
	c.join()
	return nil
}

func (c *fleetContent) join() {
	body := bytes.Clone(c.others)
	for _, record := range c.entries {
		body = append(body, record...)
	}
	c.body = body
}

// versionRecord is the entry of the apiserver's version.
func versionRecord() []byte {
	var compressed bytes.Buffer
	w := zlib.NewWriter(&compressed)
	_, _ = w.Write([]byte(`{"major":"1","minor":"36","gitVersion":"v1.36.0"}`)) // to a buffer
	_ = w.Close()
	b, err := proto.Marshal(&agent.KubernetesAPISyncRequest{Entries: []*agent.KubernetesAPIInfo{{Type: new("*version.Info"), CompressedInfo: compressed.Bytes()}}})
	if err != nil {
		panic(err) // only of a message that cannot be
	}
	return b
}
