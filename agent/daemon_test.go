package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/reporter"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// newTestDaemon returns a daemon for the simulated cluster with a changed configuration.
func newTestDaemon(t *testing.T, change func(*config.Agent)) *daemon {
	t.Helper()
	_, file := simulated(t)
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.AgentFlags(flags)
	if err := flags.Set("config", file); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PSEUDO_AGENT_SERVER_ADDRESSES", "127.0.0.1:1")
	loaded, err := config.LoadAgent(flags)
	if err != nil {
		t.Fatal(err)
	}
	change(&loaded.Config)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	registry := operate.NewRegistry("pseudo_agent", operate.NewBuild("test", ""))
	d, err := newDaemon(&loaded.Config, operate.NewBuild("dev", ""), log, &slog.LevelVar{}, registry, Surroundings{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// listed runs the informers until everything is listed, and returns what stops them.
func listed(t *testing.T, d *daemon) (stop func() error) {
	t.Helper()
	stop = start(t.Context(), d.runInformers).stop
	for {
		if v, ok := d.verdict(time.Now()); ok && v.Complete {
			return stop
		}
		select {
		case <-t.Context().Done():
			t.Fatal("not listed")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestForget: nothing that was watched before may be reported when watching begins again, even if the selection changed
// while it ended.
func TestForget(t *testing.T) {
	d := newTestDaemon(t, func(*config.Agent) {})
	stop := listed(t, d)
	if n := d.fold.Take().Len(); n != 3 {
		t.Errorf("got %d entries, want version, node and deployment", n)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n := d.fold.Take().Len(); n != 3 {
		t.Errorf("after the stop: got %d entries, want all, to be flushed", n)
	}
	d.local.APIResources = []resources.Request{{Name: "deployments", Disabled: true}}
	d.applySelection("test")
	d.forget()
	if n := d.fold.Take().Len(); n != 0 {
		t.Errorf("when forgotten: got %d entries, want none", n)
	}
	if _, ok := d.verdict(time.Now()); ok {
		t.Error("got a verdict without informers")
	}
}

// TestGroupPatience: a replica that begins to work after long standing by waits for the agent group's configuration too.
func TestGroupPatience(t *testing.T) {
	d := newTestDaemon(t, func(c *config.Agent) { c.ConfigFromServer = true })
	d.working = time.Now().Add(time.Hour)
	defer func(informing *task) { _ = informing.stop() }(start(t.Context(), d.runInformers))
	const waited = "the agent group's configuration"
	for after, want := range map[time.Duration]bool{groupPatience / 2: true, groupPatience: false} {
		for {
			v, ok := d.verdict(d.working.Add(after))
			if !ok {
				runtime.Gosched() // the informers are being made
				continue
			}
			if got := slices.Contains(v.Waiting, waited); got != want || got && v.Complete {
				t.Errorf("%v after the start of work: got %v waiting for %v, want %v", after, v.Complete, v.Waiting, want)
			}
			break
		}
	}
	d.mu.Lock()
	d.grouped = true
	d.mu.Unlock()
	if v, _ := d.verdict(d.working); slices.Contains(v.Waiting, waited) {
		t.Errorf("got %v, want no more waiting for what has been heard", v.Waiting)
	}
}

// TestInformersThatCannotBeMade: what cannot watch must end with the reason, whether it watches always, on the server's
// wish or without annotations.
func TestInformersThatCannotBeMade(t *testing.T) {
	for _, policy := range []reporter.Policy{reporter.WatchOnly, reporter.Normal} {
		for _, lean := range []bool{false, true} {
			d := newTestDaemon(t, func(c *config.Agent) { c.WatchPolicy, c.RegisterAsAgent = string(policy), true })
			d.access = rest.CopyConfig(d.access)
			d.access.CAFile, d.access.CAData = filepath.Join(t.TempDir(), "missing"), nil
			if lean {
				d.tooLarge <- struct{}{}
			}
			d.watchWanted <- true
			if err := d.watch(t.Context()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s, too large %v: got %v, want the missing file", policy, lean, err)
			}
		}
	}
}

// TestRefusals: a good configuration of one source says nothing about a bad one of another.
func TestRefusals(t *testing.T) {
	d := newTestDaemon(t, func(*config.Agent) {})
	d.refuse("the agent group's configuration", errors.New("bad"))
	d.reload(&config.Loaded[config.Agent]{Config: *d.cfg}, nil)
	if got := d.configurationProblems(); len(got) != 1 {
		t.Errorf("after a good file: got %v, want the agent group's problem", got)
	}
	d.reload(nil, errors.New("worse"))
	d.reload(&config.Loaded[config.Agent]{Config: *d.cfg}, nil)
	if got := d.configurationProblems(); len(got) != 0 {
		t.Errorf("after a bad and a good file: got %v, want none", got)
	}
}
