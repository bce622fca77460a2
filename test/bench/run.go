package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
	"github.com/pseudo-agent/pseudo-agent/test/bench/rival"
	"github.com/pseudo-agent/pseudo-agent/test/bench/sink"
)

// pseudoAgent is the name of the subject that all of this is about; the other one is the same with JSON only.
const (
	pseudoAgent     = "pseudo-agent"
	pseudoAgentJSON = "pseudo-agent-json"
)

func isAgent(name string) bool { return name == pseudoAgent || name == pseudoAgentJSON }

// options come from the environment.
type options struct {
	Pods     int
	Runs     int
	Events   int
	Seed     uint64
	Subjects []string
	Curve    []int // numbers of Pods of the curve; empty: none is drawn
	Out      string
	Doc      string // the document whose generated parts are renewed; empty: none
	Agent    string // the binary; empty: it is built
	Kube     bool   // against a real kube-apiserver
	Timeout  time.Duration
}

// environment is what all measurements share.
type environment struct {
	dir  string
	sink *sink.Sink
}

// stockLimit is the largest cluster for which the curve has the stock informer beside pseudo-agent.
const stockLimit = 30000

func optionsFromEnv() (o options, err error) {
	number := func(name string, fallback int) int {
		v := os.Getenv(name)
		if v == "" {
			return fallback
		}
		n, parseErr := strconv.Atoi(v)
		if parseErr != nil || n < 0 {
			err = errors.Join(err, fmt.Errorf("%s=%q: want a number", name, v))
		}
		return n
	}
	o = options{
		Pods: number("PODS", 100000), Runs: number("RUNS", 3), Seed: uint64(number("SEED", 1)),
		Subjects: append(slices.Clone(rival.Names), pseudoAgent, pseudoAgentJSON),
		Curve:    []int{1000, 3000, 10000, 30000, 50000, 100000, 300000},
		Out:      os.Getenv("OUT"), Doc: os.Getenv("DOC"), Agent: os.Getenv("AGENT"),
		Timeout: 30 * time.Minute,
	}
	o.Events = number("EVENTS", o.Pods/2)
	if v := os.Getenv("SUBJECTS"); v != "" {
		o.Subjects = strings.Split(v, ",")
	}
	if v, ok := os.LookupEnv("CURVE"); ok {
		o.Curve = nil
		for _, part := range strings.FieldsFunc(v, func(r rune) bool { return r == ',' }) {
			n, parseErr := strconv.Atoi(part)
			if parseErr != nil {
				err = errors.Join(err, fmt.Errorf("CURVE=%q: want numbers of Pods, separated by commas", v))
			}
			o.Curve = append(o.Curve, n)
		}
	}
	kubeMode, kubeErr := apiserver(os.Getenv("APISERVER"))
	err = errors.Join(err, kubeErr)
	if o.Kube = kubeMode; kubeMode {
		// Its events come one request at a time.
		o.Pods, o.Events, o.Curve = number("PODS", 20000), number("EVENTS", 2000), nil
	}
	if o.Pods < 100 {
		err = errors.Join(err, errors.New("PODS must be at least 100"))
	}
	if o.Out == "" {
		o.Out = "out"
	}
	return o, err
}

// Result is everything that one benchmark gave.
type Result struct {
	When      time.Time           `json:"when"`
	Machine   string              `json:"machine"`
	Command   string              `json:"command"`
	Apiserver string              `json:"apiserver"`
	Revision  string              `json:"revision"`
	Pods      int                 `json:"pods"`
	Others    int                 `json:"others"`
	Events    int                 `json:"events"`
	Seed      uint64              `json:"seed"`
	Sizes     PodSizes            `json:"pod_sizes"`
	Samples   map[string][]Sample `json:"samples"`
	Paged     map[string]Sample   `json:"paged"` // initial sync with an apiserver that has no streaming lists
	List      *ListCost           `json:"list,omitempty"`
	Apicosts  []Apicost           `json:"apiserver_costs,omitempty"`
	Curve     []Point             `json:"curve"`
}

// Point is one point of the curve.
type Point struct {
	Pods   int    `json:"pods"`
	Others int    `json:"others"`
	Name   string `json:"name"`
	Sample Sample `json:"sample"`
}

func run(ctx context.Context, o options) error {
	if from := os.Getenv("FROM"); from != "" {
		return show(o, from)
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	if err := os.MkdirAll(o.Out, 0o750); err != nil {
		return err
	}
	if o.Agent == "" {
		o.Agent = filepath.Join(dir, pseudoAgent)
		build := exec.CommandContext(ctx, "go", "build", "-o", o.Agent, "./cmd/pseudo-agent")
		build.Dir = filepath.Join("..", "..")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build pseudo-agent: %w\n%s", err, out)
		}
	}
	s, err := sink.Start()
	if err != nil {
		return err
	}
	defer s.Stop()
	r := &Result{
		When: time.Now().UTC().Truncate(time.Second), Machine: machine(), Command: commandLine(), Revision: revision(ctx),
		Pods: o.Pods, Events: o.Events, Seed: o.Seed, Samples: map[string][]Sample{}, Paged: map[string]Sample{},
	}
	if r.Sizes, err = podSizes(cluster.New(o.Pods, o.Seed)); err != nil {
		return err
	}
	e := &environment{dir: dir, sink: s}
	switch {
	case o.Kube:
		r.Apiserver = "kube-apiserver"
		err = benchKube(ctx, o, e, r)
	case o.Runs > 0:
		r.Apiserver = "load server"
		err = table(ctx, o, e, r)
	}
	if err != nil {
		return err
	}
	for _, pods := range o.Curve {
		if err := point(ctx, o, e, pods, r); err != nil {
			return err
		}
	}
	return publish(o, r)
}

// show publishes the results of an earlier run again.
func show(o options, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var r Result
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if err := os.MkdirAll(o.Out, 0o750); err != nil {
		return err
	}
	return publish(o, &r)
}

// table measures all subjects as often as asked for, with one load server for all.
func table(ctx context.Context, o options, e *environment, r *Result) error {
	l, err := startLoad(o.Pods, o.Seed, e.dir)
	if err != nil {
		return err
	}
	defer l.Stop()
	r.Others = l.Others
	progress("load server: %d Pods, %d other objects", l.Pods, l.Others)
	for n := range o.Runs {
		for _, name := range o.Subjects {
			sample, err := e.measureLoad(ctx, o, l, name, o.Events)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			r.Samples[name] = append(r.Samples[name], sample)
			progress("run %d of %d, %s: %.2f s CPU, %s peak, %s live", n+1, o.Runs, name, sample.SyncCPU, mega(sample.PeakRSS), mega(sample.LiveHeap))
		}
	}
	if err := l.set("streaming", false); err != nil {
		return err
	}
	for _, name := range o.Subjects {
		sample, err := e.measureLoad(ctx, o, l, name, 0)
		if err != nil {
			return fmt.Errorf("%s without streaming lists: %w", name, err)
		}
		r.Paged[name] = sample
		progress("without streaming lists, %s: %.2f s CPU, %s peak", name, sample.SyncCPU, mega(sample.PeakRSS))
	}
	if err := l.set("streaming", true); err != nil {
		return err
	}
	if err := l.set("protobuf", true); err != nil {
		return err
	}
	if ours := r.Samples[pseudoAgent]; len(ours) > 0 {
		took := time.Duration(ours[0].SyncTime * float64(time.Second))
		if r.List, err = listCost(ctx, o, e, l, took); err != nil {
			return fmt.Errorf("relist: %w", err)
		}
	}
	return nil
}

// measureLoad measures a subject against the load server.
func (e *environment) measureLoad(ctx context.Context, o options, l *load, name string, events int) (Sample, error) {
	if err := l.set("protobuf", name == pseudoAgent || rival.Protobuf(name)); err != nil {
		return Sample{}, err
	}
	if err := l.reset(); err != nil {
		return Sample{}, err
	}
	return e.measure(ctx, o, l, l.Kubeconfig, name, events)
}

// measure starts a subject, measures it and ends it. Without events only the initial sync is measured.
func (e *environment) measure(ctx context.Context, o options, from source, kubeconfig, name string, events int) (Sample, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, errors.New("it took longer than a run may take"))
	defer cancel()
	e.sink.Forget()
	m := &meter{source: from, sink: e.sink}
	started := time.Now()
	if isAgent(name) {
		a, err := startAgent(o.Agent, kubeconfig, e.dir, e.sink, name)
		if err != nil {
			return Sample{}, err
		}
		m.subject = a
	} else {
		r, err := startRival(name, kubeconfig, e.dir, e.sink)
		if err != nil {
			return Sample{}, err
		}
		m.subject = r
	}
	defer m.Stop()
	stop := context.AfterFunc(ctx, m.kill)
	defer stop()
	sample, err := m.full(ctx, started, events)
	if l, ok := from.(*load); ok && err == nil && isAgent(name) && events > 0 {
		sample.Relist, err = m.relist(ctx, l)
	}
	return sample, err
}

// point measures the initial sync of one size: of pseudo-agent, and of the stock informer as long as it fits.
func point(ctx context.Context, o options, e *environment, pods int, r *Result) error {
	l, err := startLoad(pods, o.Seed, e.dir)
	if err != nil {
		return err
	}
	defer l.Stop()
	names := []string{pseudoAgent}
	if pods <= stockLimit {
		names = append(names, rival.Stock)
	}
	for _, name := range names {
		sample, err := e.measureLoad(ctx, o, l, name, 0)
		if err != nil {
			return fmt.Errorf("%s with %d Pods: %w", name, pods, err)
		}
		r.Curve = append(r.Curve, Point{Pods: l.Pods, Others: l.Others, Name: name, Sample: sample})
		progress("%d Pods, %s: %.2f s CPU, %s peak, %s live", pods, name, sample.SyncCPU, mega(sample.PeakRSS), mega(sample.LiveHeap))
	}
	return nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

func machine() string {
	model := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d CPUs, %s", model, runtime.NumCPU(), runtime.Version())
}

// commandLine is how this run can be repeated.
func commandLine() string {
	var line strings.Builder
	line.WriteString("make bench")
	for _, name := range []string{"APISERVER", "PODS", "RUNS", "EVENTS", "SEED", "SUBJECTS", "CURVE"} {
		if v, ok := os.LookupEnv(name); ok {
			line.WriteString(" " + name + "=" + v)
		}
	}
	return line.String()
}

func revision(ctx context.Context) string {
	b, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// publish writes the results and renews the document.
func publish(o options, r *Result) error {
	doc, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.Out, "results.json"), append(doc, '\n'), 0o600); err != nil {
		return err
	}
	text := r.text()
	fmt.Println(text)
	if err := os.WriteFile(filepath.Join(o.Out, "results.md"), []byte(text), 0o600); err != nil {
		return err
	}
	plot := filepath.Join(o.Out, "performance.svg")
	if len(r.Curve) > 0 {
		if err := os.WriteFile(plot, r.svg(), 0o600); err != nil {
			return err
		}
	}
	if o.Doc == "" {
		return nil
	}
	return r.renew(o.Doc)
}
