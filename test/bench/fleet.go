package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// fleetOptions are the flags of the fleet benchmark.
type fleetOptions struct {
	clusters, pods, agents int
	connections            int
	minutes                float64
	server, dir            string
	phases                 []string
}

func parseFleet(flags *flag.FlagSet, args []string) (fleetOptions, error) {
	var o fleetOptions
	flags.IntVar(&o.clusters, "clusters", 1000, "how many clusters report")
	flags.IntVar(&o.pods, "pods", 1000, "Pods of each")
	flags.IntVar(&o.agents, "agents", 20, "agents of each that Sync every minute")
	flags.IntVar(&o.connections, "connections", workers, "connections that the agents have, all together")
	flags.Func("phases", "comma-separated, in this order: "+strings.Join(allPhases, ",")+" (default all)", func(v string) error {
		o.phases = strings.Split(v, ",")
		return nil
	})
	flags.Float64Var(&o.minutes, "minutes", 2, "how long one percent of the Pods changes every minute, and how long all agents Sync")
	flags.StringVar(&o.server, "server", "", "pseudo-server to measure; by default it is built")
	flags.StringVar(&o.dir, "dir", "", "an empty folder for the store; by default a temporary one")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for _, phase := range o.phases {
		if !slices.Contains(allPhases, phase) {
			return o, fmt.Errorf("phase %q is unknown, want some of %s", phase, strings.Join(allPhases, ","))
		}
	}
	if o.clusters < 1 || o.clusters > 100_000 || o.pods < 1 || o.agents < 0 || o.connections < 1 || o.minutes <= 0 {
		return o, errors.New("want 1 to 100000 clusters with at least one Pod each, for more than 0 minutes")
	}
	return o, nil
}

// allPhases are the parts of a run, in their order.
var allPhases = []string{"load", "steady", "click", "lists", "restart", "syncs"}

// figure is one line of the results.
type figure struct{ what, value string }

// fleetRun is one run of the benchmark.
type fleetRun struct {
	o       fleetOptions
	server  *fleetServer
	content *fleetContent
	figures []figure
}

func (f *fleetRun) add(what, format string, args ...any) {
	f.figures = append(f.figures, figure{what, fmt.Sprintf(format, args...)})
	progress("%s: %s", what, f.figures[len(f.figures)-1].value)
}

// runFleet measures a pseudo-server with the embedded store that keeps many clusters: the real program, real connections.
func runFleet(ctx context.Context, o fleetOptions) error {
	work, err := os.MkdirTemp("", "fleet-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work) //nolint:errcheck // a temporary folder
	if o.dir == "" {
		o.dir = work
	}
	if o.server == "" {
		o.server = filepath.Join(work, "pseudo-server")
		build := exec.CommandContext(ctx, "go", "build", "-o", o.server, "./cmd/pseudo-server")
		build.Dir = filepath.Join("..", "..")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build pseudo-server: %w\n%s", err, out)
		}
	}
	f := &fleetRun{o: o}
	if f.content, err = newFleetContent(o.pods); err != nil {
		return err
	}
	if err := f.room(); err != nil {
		return err
	}
	if f.server, err = startFleetServer(ctx, o); err != nil {
		return err
	}
	defer func() { f.server.Stop() }()
	for i, phase := range []func(context.Context) error{f.load, f.steady, f.click, f.lists, f.restart, f.syncs} {
		if len(o.phases) > 0 && !slices.Contains(o.phases, allPhases[i]) {
			continue
		}
		if err := phase(ctx); err != nil {
			return f.server.fail(err)
		}
	}
	fmt.Printf("`make fleet CLUSTERS=%d PODS=%d` at %s, %s, %s. A cluster has %d objects; a report %s.\n\n| what | measured |\n|---|---|\n",
		o.clusters, o.pods, revision(ctx), time.Now().UTC().Format(time.DateOnly), machine(), f.content.objects, mega(int64(len(f.content.body))))
	for _, line := range f.figures {
		fmt.Printf("| %s | %s |\n", line.what, line.value)
	}
	return nil
}

// room looks whether the store will find room on the disk.
func (f *fleetRun) room() error {
	const object, cluster = 1200, 20_000 // bytes that they take in the file, with room to spare
	need := int64(f.o.clusters) * (int64(f.content.objects)*object + cluster)
	free, err := diskFree(f.o.dir)
	if err != nil {
		return err
	}
	progress("the store takes about %s in %s, where %s are free", mega(need), f.o.dir, mega(free))
	if free < need {
		return fmt.Errorf("%s has too little room: name another folder with -dir", f.o.dir)
	}
	return nil
}

// load reports every cluster once, as fast as the server takes it.
func (f *fleetRun) load(ctx context.Context) error {
	before, err := cpuTime(f.server.PID())
	if err != nil {
		return err
	}
	start := time.Now()
	took, err := f.each(ctx, 0, func(ctx context.Context, c *fleetClient, i int) error { return c.report(ctx, i, f.content) })
	if err != nil {
		return err
	}
	after, err := cpuTime(f.server.PID())
	if err != nil {
		return err
	}
	f.add("all clusters reported and acknowledged", "%.0f s, %.0f s of CPU, half of the reports within %s", time.Since(start).Seconds(), (after - before).Seconds(), quantile(took, 50))
	return f.server.quiet(ctx)
}

// steady changes one percent of the Pods every minute, in a report of each cluster, evenly spread.
func (f *fleetRun) steady(ctx context.Context) error {
	if err := resetPeak(f.server.PID()); err != nil {
		return err
	}
	before, err := cpuTime(f.server.PID())
	if err != nil {
		return err
	}
	start := time.Now()
	var took []time.Duration
	for range max(1, int(f.o.minutes)) {
		if err := f.content.change(); err != nil {
			return err
		}
		acknowledged, err := f.each(ctx, time.Minute, func(ctx context.Context, c *fleetClient, i int) error { return c.report(ctx, i, f.content) })
		if err != nil {
			return err
		}
		took = append(took, acknowledged...)
	}
	after, err := cpuTime(f.server.PID())
	if err != nil {
		return err
	}
	now, peak, err := residentSize(f.server.PID())
	if err != nil {
		return err
	}
	f.add("1 % of the Pods changing every minute: memory", "%s, at most %s, of which %s are pages of the file", mega(now), mega(peak), mega(f.server.mapped()))
	f.add("CPU", "%.2f cores", (after-before).Seconds()/time.Since(start).Seconds())
	f.add("acknowledged, from the moment it was due", "half within %s, 99 %% within %s, all within %s", quantile(took, 50), quantile(took, 99), quantile(took, 100))
	return nil
}

// click asks for the inventories of clusters that nobody looked at.
func (f *fleetRun) click(ctx context.Context) error {
	var took []time.Duration
	for range 20 {
		id := clusterID(rand.IntN(f.o.clusters))
		start := time.Now()
		for {
			_, err := f.server.get("/api/v1/clusters/" + id + "/inventory/pods?limit=100")
			if err == nil {
				break
			}
			if ctx.Err() != nil || time.Since(start) > time.Minute {
				return err
			}
		}
		took = append(took, time.Since(start))
	}
	f.add("inventory at the first click", "half within %s, all within %s", quantile(took, 50), quantile(took, 100))
	return nil
}

// lists asks for pages of the list of clusters.
func (f *fleetRun) lists(context.Context) error {
	for _, list := range []struct{ what, path string }{
		{"first page of the list of clusters", "/api/v1/clusters"},
		{"the same, the worst first", "/api/v1/clusters?sort=trouble"},
		{"the same, searched", "/api/v1/clusters?contains=" + url.QueryEscape(clusterID(f.o.clusters/2))},
		{"the fleet in numbers", "/api/v1/fleet"},
		{"/metrics", "/metrics"},
	} {
		var took []time.Duration
		size := 0
		for range 20 {
			start := time.Now()
			b, err := f.server.get(list.path)
			if err != nil {
				return err
			}
			took, size = append(took, time.Since(start)), len(b)
		}
		f.add(list.what, "half within %s, all within %s; %d KB", quantile(took, 50), quantile(took, 100), size/1000)
	}
	return nil
}

// restart ends the server and starts it again, as it should be and by kill -9.
func (f *fleetRun) restart(ctx context.Context) error {
	for _, end := range []struct {
		what string
		by   syscall.Signal
	}{{"restart to ready", syscall.SIGTERM}, {"the same after kill -9", syscall.SIGKILL}} {
		took, err := f.server.restart(ctx, end.by)
		if err != nil {
			return err
		}
		start := time.Now()
		if _, err := f.server.get("/api/v1/clusters"); err != nil {
			return err
		}
		f.add(end.what, "%s, the list of clusters %s later; a file of %s", round(took), round(time.Since(start)), mega(f.server.fileSize()))
	}
	return nil
}

// fileSize is how large the store's file is, in bytes.
func (s *fleetServer) fileSize() int64 {
	info, err := os.Stat(filepath.Join(filepath.Dir(s.config), storeFile))
	if err != nil {
		return 0
	}
	return info.Size()
}

// workers is how many clusters are dealt with at once.
const workers = 16

// each calls do for every cluster, evenly spread over a time; 0: as fast as possible. It returns how long after it was due each one was
// done.
func (f *fleetRun) each(ctx context.Context, over time.Duration, do func(context.Context, *fleetClient, int) error) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	start := time.Now()
	due := func(i int) time.Time { return start.Add(over * time.Duration(i) / time.Duration(f.o.clusters)) }
	todo := make(chan int)
	took := make([]time.Duration, f.o.clusters)
	var working sync.WaitGroup
	for w := range workers {
		c, err := newFleetClient(f.server.grpc, w)
		if err != nil {
			return nil, err
		}
		working.Go(func() {
			defer c.conn.Close() //nolint:errcheck // nothing is under way
			for i := range todo {
				from := due(i)
				if over == 0 {
					from = time.Now()
				}
				if err := do(ctx, c, i); err != nil {
					cancel(fmt.Errorf("cluster %s: %w", clusterID(i), err))
				}
				took[i] = time.Since(from)
			}
		})
	}
	for i := range f.o.clusters {
		if wait := time.Until(due(i)); over > 0 && wait > 0 {
			time.Sleep(wait)
		}
		if ctx.Err() != nil {
			break
		}
		todo <- i
	}
	close(todo)
	working.Wait()
	return took, context.Cause(ctx)
}

// quantile is the value below which so many percent of the times are.
func quantile(times []time.Duration, percent int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return round(sorted[(len(sorted)-1)*percent/100])
}

func round(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

func clusterID(i int) string { return fmt.Sprintf("d-fleet-%05d", i) }

// mapped is how much of the server's memory are pages of its file, which the kernel can take back, in bytes.
func (s *fleetServer) mapped() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID()))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "RssFile:"); ok {
			var kb int64
			_, _ = fmt.Sscan(text, &kb)
			return kb << 10
		}
	}
	return 0
}

func (s *fleetServer) get(path string) ([]byte, error) {
	return httpDo(http.MethodGet, "http://"+s.http+path)
}
