package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// syncs has all agents Sync once a minute, with pseudo-server and then with a gRPC server that does nothing.
func (f *fleetRun) syncs(ctx context.Context) error {
	if f.o.agents == 0 {
		return nil
	}
	if err := f.server.quiet(ctx); err != nil {
		return err
	}
	f.add("agents that Sync every minute", "%d in %d clusters, over %d connections", f.o.clusters*f.o.agents, f.o.clusters, f.o.connections)
	ours, err := f.syncsWith(ctx, "pseudo-server", f.server.PID(), f.server.grpc)
	if err != nil {
		return err
	}
	floor, address, err := startFloor(ctx, f.o)
	if err != nil {
		return err
	}
	defer floor.Stop()
	least, err := f.syncsWith(ctx, "a grpc-go server that answers the same and does nothing", floor.PID(), address)
	if err != nil {
		return floor.fail(err)
	}
	f.add("pseudo-server takes", "%.2f times that CPU", float64(ours)/float64(least))
	return nil
}

// syncsWith measures a server and returns how much CPU a Sync took.
func (f *fleetRun) syncsWith(ctx context.Context, who string, pid int, address string) (each time.Duration, err error) {
	before, _, err := residentSize(pid)
	if err != nil {
		return 0, err
	}
	var conns []*fleetClient
	defer func() {
		for _, c := range conns {
			_ = c.conn.Close() // nothing is under way
		}
	}()
	for i := range f.o.connections {
		c, err := newFleetClient(address, i)
		if err != nil {
			return 0, err
		}
		conns = append(conns, c)
	}
	all := f.o.clusters * f.o.agents
	var took []time.Duration
	var rate, cores float64
	for minute := range 1 + max(1, int(f.o.minutes)) { // in the first one all are new
		start := time.Now()
		used, err := cpuTime(pid)
		if err != nil {
			return 0, err
		}
		took, err = f.each(ctx, time.Minute, func(ctx context.Context, _ *fleetClient, i int) error {
			for n := range f.o.agents {
				if err := conns[(i*f.o.agents+n)%len(conns)].sync(ctx, i, n); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		now, err := cpuTime(pid)
		if err != nil {
			return 0, err
		}
		lasted := time.Since(start).Seconds() // longer than a minute if the machine has not the CPU
		each, rate, cores = (now-used)/time.Duration(all), float64(all)/lasted, (now-used).Seconds()/lasted
		if minute == 0 {
			f.add(who+": the first minute", "%.2f cores", cores)
		}
	}
	after, _, err := residentSize(pid)
	if err != nil {
		return 0, err
	}
	f.add(who+": the last minute", "%.2f cores, %.0f Syncs a second, %.0f µs of CPU each; %s more memory than before, %d bytes an agent", cores, rate,
		float64(each.Nanoseconds())/1000, mega(max(0, after-before)), max(0, after-before)/int64(all))
	f.add(fmt.Sprintf("%s: all %d Syncs of a cluster, one after the other", who, f.o.agents), "half within %s, 99 %% within %s", quantile(took, 50), quantile(took, 99))
	return each, nil
}

// startFloor starts this program again as a gRPC server that answers every call with the same bytes.
func startFloor(ctx context.Context, o fleetOptions) (*child, string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	c := &child{name: "floor", cmd: exec.Command(self, "floor", "-listen", address)}
	if err := startChild(c, o.dir, nil); err != nil {
		return nil, "", err
	}
	for begun := time.Now(); ; {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return c, address, conn.Close()
		}
		if ctx.Err() != nil || time.Since(begun) > time.Minute {
			return nil, "", errors.Join(c.fail(err), c.cmd.Process.Kill())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// runFloor is that server.
func runFloor(ctx context.Context, listen string) error {
	answer, err := proto.Marshal(&agent.SyncResponse{
		Status: agent.Status_SUCCESS.Enum(), DynamicConfig: &agent.DynamicConfig{KubernetesApiEnabled: new(false), Enabled: new(true), AgentId: new(uint32(12345))},
	})
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}))
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "agent.Synchronizer", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Sync", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			return answer, decode(nil)
		}}},
	}, nil)
	context.AfterFunc(ctx, s.Stop)
	return s.Serve(l)
}

// rawCodec sends bytes as they are and does not look at what comes.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
