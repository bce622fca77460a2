package config

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/goleak"
)

// patience is how long a test waits for what must happen. It is no measure: nothing waits that long unless it fails.
const patience = 30 * time.Second

type told struct {
	loaded *Loaded[Agent]
	err    error
}

// watching follows the file until the test ends and returns what is told.
func watching(t *testing.T, fs *pflag.FlagSet, poll time.Duration) <-chan told {
	t.Helper()
	current, err := LoadAgent(fs)
	if err != nil {
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(t.Context())
	out, done := make(chan told, 16), make(chan struct{})
	go func() {
		defer close(done)
		watch(ctx, agentProgram, fs, current, poll, func(l *Loaded[Agent], err error) { out <- told{l, err} })
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		goleak.VerifyNone(t, before)
		if len(out) > 0 {
			t.Errorf("told once more: %v", <-out)
		}
	})
	return out
}

func (x told) debounce(t *testing.T, want time.Duration) {
	t.Helper()
	if x.err != nil {
		t.Fatalf("refused: %v", x.err)
	}
	if got := x.loaded.Config.Report.Debounce; got != want {
		t.Errorf("got debounce %s, want %s", got, want)
	}
}

func (x told) refused(t *testing.T, part string) {
	t.Helper()
	if x.err == nil || !strings.Contains(x.err.Error(), part) {
		t.Fatalf("got error %v, want one about %q", x.err, part)
	}
}

func next(t *testing.T, ch <-chan told) told {
	t.Helper()
	select {
	case x := <-ch:
		return x
	case <-time.After(patience):
		t.Fatal("nothing is told")
		return told{}
	}
}

func replace(t *testing.T, file, content string) {
	t.Helper()
	put(t, file+".new", content)
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func TestWatchFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "own.yaml")
	const server = "server: {addresses: [a:1]}\n"
	put(t, file, server)
	ch := watching(t, flagsOf(t, agentProgram, "--config", file), time.Hour)

	replace(t, file, server+"report: {debounce: 2s}\n")
	next(t, ch).debounce(t, 2*time.Second)
	replace(t, file, server+"report: {debounce: 3s}\n")
	next(t, ch).debounce(t, 3*time.Second)

	replace(t, file, server+"report: {debounce: 3h}\n")
	next(t, ch).refused(t, "report.debounce")
	// The content in force is told again when it follows a refused one.
	replace(t, file, server+"report: {debounce: 3s}\n")
	next(t, ch).debounce(t, 3*time.Second)

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	next(t, ch).refused(t, "cannot be read")
	replace(t, file, server+"report: {debounce: 4s}\n")
	next(t, ch).debounce(t, 4*time.Second)
	// A comment changes nothing and is not told.
	replace(t, file, server+"report: {debounce: 4s} # seconds\n")
}

// A change between loading and watching is found although no event tells of it.
func TestWatchFindsWhatChangedBefore(t *testing.T) {
	file := filepath.Join(t.TempDir(), "own.yaml")
	put(t, file, "server: {addresses: [a:1]}\n")
	fs := flagsOf(t, agentProgram, "--config", file)
	current, err := LoadAgent(fs)
	if err != nil {
		t.Fatal(err)
	}
	put(t, file, "server: {addresses: [a:1]}\nreport: {debounce: 2s}\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch := make(chan told, 1)
	WatchAgent(ctx, fs, current, func(l *Loaded[Agent], err error) {
		ch <- told{l, err}
		cancel()
	})
	next(t, ch).debounce(t, 2*time.Second)
}

// The kubelet writes a ConfigMap into a new folder and then turns a link to it.
func TestWatchConfigMap(t *testing.T) {
	dir := t.TempDir()
	version := func(name, content string) {
		t.Helper()
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		put(t, filepath.Join(dir, name, "own.yaml"), content)
		must(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	version("..1", "server: {addresses: [a:1]}\n")
	must(t, os.Symlink(filepath.Join("..data", "own.yaml"), filepath.Join(dir, "own.yaml")))
	ch := watching(t, flagsOf(t, agentProgram, "--config", filepath.Join(dir, "own.yaml")), time.Hour)
	for i, want := range []string{"2s", "3s", "4s"} {
		version("..new"+want, "server: {addresses: [a:1]}\nreport: {debounce: "+want+"}\n")
		must(t, os.RemoveAll(filepath.Join(dir, []string{"..1", "..new2s", "..new3s"}[i])))
		next(t, ch).debounce(t, time.Duration(i+2)*time.Second)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// DeepFlow's files are followed too, those that a new own file names included.
func TestWatchDeepFlowFiles(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	own, group := filepath.Join(dir, "own.yaml"), filepath.Join(other, "group.yaml")
	put(t, own, "server: {addresses: [a:1]}\n")
	ch := watching(t, flagsOf(t, agentProgram, "--config", own), time.Hour)

	replace(t, own, "server: {addresses: [a:1]}\ndeepflow_files: ["+group+"]\n")
	next(t, ch).refused(t, group)
	replace(t, group, "inputs: {resources: {push_interval: 20s}}\n")
	if got := next(t, ch); got.err != nil || got.loaded.Config.Inputs.Resources.PushInterval != 20*time.Second {
		t.Errorf("got %v, want a push interval of 20 s", got)
	}
	replace(t, group, "inputs: {resources: {push_interval: 25s}}\n")
	if got := next(t, ch); got.err != nil || got.loaded.Config.Inputs.Resources.PushInterval != 25*time.Second {
		t.Errorf("got %v, want a push interval of 25 s", got)
	}
}

// Where no event comes, as after the whole folder was replaced, polling finds the change.
func TestWatchPolls(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	must(t, os.Mkdir(dir, 0o700))
	file := filepath.Join(dir, "own.yaml")
	put(t, file, "server: {addresses: [a:1]}\n")
	ch := watching(t, flagsOf(t, agentProgram, "--config", file), 50*time.Millisecond)
	must(t, os.RemoveAll(dir))
	next(t, ch).refused(t, "cannot be read")
	must(t, os.Mkdir(dir, 0o700))
	replace(t, file, "server: {addresses: [a:1]}\nreport: {debounce: 2s}\n")
	next(t, ch).debounce(t, 2*time.Second)
}
