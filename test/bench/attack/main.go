// Command attack plays attacks on a pseudo-server, all at once, in a container's memory, and looks whether good clients go on
// being served. Run it by `make attack`; docs/security.md says which attacks there are, docs/performance.md has its results.
//
// It starts pseudo-server in a cgroup of the given memory (that needs root; without, GOMEMLIMIT stands in for it) and the
// attackers as a process of their own with a low priority, because in earnest they have CPUs of their own. It ends with status 1
// if the server ended or was killed, if a good client waited longer than it may, or if what was acknowledged to it is not there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	minutes  float64
	server   string
	slowest  time.Duration
	only     string
	profiles string
	postgres bool
}

func command(ctx context.Context) error {
	var o options
	memory := flag.String("memory", "512,2048", "memory limits in MiB, one run after the other")
	flag.Float64Var(&o.minutes, "minutes", 10, "how long each run takes")
	flag.StringVar(&o.server, "server", "", "pseudo-server to attack; by default it is built")
	flag.DurationVar(&o.slowest, "slowest", time.Second, "what 99 % of the good clients' requests may take")
	flag.StringVar(&o.only, "only", "", "the only attacks to play, by their names with commas between")
	flag.StringVar(&o.profiles, "profiles", "", "a folder for heap profiles of the moments with the most memory")
	flag.BoolVar(&o.postgres, "postgres", false, "keep the clusters in a PostgreSQL that is killed once, and once replaced by its standby")
	attackers := flag.String("attackers", "", "used by the program itself: play the attackers of the server at these addresses (grpc,http)")
	flag.Parse()
	if *attackers != "" {
		grpc, http, _ := strings.Cut(*attackers, ",")
		return play(ctx, target{grpc: grpc, http: "http://" + http}, o.only)
	}
	dir, err := os.MkdirTemp("", "attack-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if o.server == "" {
		o.server = filepath.Join(dir, "pseudo-server")
		root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/pseudo-agent/pseudo-agent").Output()
		if err != nil {
			return fmt.Errorf("find the module of pseudo-server: %w", err)
		}
		build := exec.CommandContext(ctx, "go", "build", "-o", o.server, "./cmd/pseudo-server")
		build.Dir = strings.TrimSpace(string(root)) // by its own go.sum, which this module's lacks a part of
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build pseudo-server: %w\n%s", err, out)
		}
	}
	var errs []error
	for text := range strings.SplitSeq(*memory, ",") {
		mib, err := strconv.ParseInt(text, 10, 64)
		if err != nil || mib < 64 {
			return fmt.Errorf("-memory: %q is no number of MiB from 64", text)
		}
		if err := run(ctx, o, filepath.Join(dir, text), mib<<20); err != nil {
			errs = append(errs, fmt.Errorf("%d MiB: %w", mib, err))
		}
	}
	return errors.Join(errs...)
}

// run attacks one server.
func run(ctx context.Context, o options, dir string, limit int64) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	var db *database
	if o.postgres {
		var err error
		if db, err = openDatabase(); err != nil {
			return err
		}
		defer func() {
			if err := db.close(); err != nil {
				fmt.Println("remove the database:", err)
			}
		}()
	}
	s, err := startServer(ctx, o.server, dir, limit, db)
	if err != nil {
		return err
	}
	defer s.stop()
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, time.Duration(o.minutes*float64(time.Minute)))
	defer cancel()
	good := []*client{
		newClient(s.target, "d-bound", "127.0.9.1", token), newClient(s.target, "d-plain", "127.0.8.1", ""),
	}
	for _, c := range good { // they were there before
		c.database = db
		if err := c.begin(ctx); err != nil {
			return fmt.Errorf("before the attack: %w", err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	attackers := exec.CommandContext(ctx, "nice", "-n", "19", self, "-attackers", s.target.grpc+","+strings.TrimPrefix(s.target.http, "http://"), "-only", o.only)
	attackers.Stdout, attackers.Stderr = os.Stdout, os.Stderr
	attackers.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	attackers.Cancel = func() error { return attackers.Process.Signal(os.Interrupt) }
	attackers.WaitDelay = 10 * time.Second
	if err := attackers.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer func() { done <- struct{}{} }()
		s.watch(ctx, o.profiles)
	}()
	for _, c := range good {
		go func() {
			defer func() { done <- struct{}{} }()
			c.run(ctx)
		}()
	}
	disturbed := make(chan error, 1)
	go func() {
		if db == nil {
			disturbed <- nil
			return
		}
		disturbed <- db.disturb(ctx, o.minutes)
	}()
	var ended error
	select {
	case <-ctx.Done():
	case err := <-s.ended:
		ended = fmt.Errorf("the server ended: %w", errors.Join(err, errors.New("see "+s.log)))
		cancel()
	}
	for range len(good) + 1 {
		<-done
	}
	_ = attackers.Wait() // it ends because we end it
	return errors.Join(report(s, good, limit, o, ended), <-disturbed, kept(outer, s, good))
}

// kept looks whether the server has what it has acknowledged to the good clients, or what came after it.
func kept(ctx context.Context, s *server, good []*client) error {
	var errs []error
	for _, c := range good {
		version, err := s.stored(ctx, c.cluster)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("read %s: %w", c.cluster, err))
		case version < c.acked:
			errs = append(errs, fmt.Errorf("%s: the server has version %d, but it acknowledged %d", c.cluster, version, c.acked))
		default:
			fmt.Printf("%s: the last version that was acknowledged, %d, is there\n", c.cluster, c.acked)
		}
	}
	return errors.Join(errs...)
}

// report prints what was seen, and returns what must not be.
func report(s *server, good []*client, limit int64, o options, ended error) error {
	errs := []error{ended}
	fmt.Printf("\n%d MiB, %.1f minutes: %s\n", limit>>20, o.minutes, s.memory())
	if n := s.kills(); n > 0 {
		errs = append(errs, fmt.Errorf("%d OOM kills", n))
	}
	for _, c := range good {
		line, slow := c.summary()
		fmt.Println(line)
		if slow > o.slowest {
			errs = append(errs, fmt.Errorf("%s: 99 %% of its requests took up to %v, %v is allowed", c.cluster, slow.Round(time.Millisecond), o.slowest))
		}
		if c.failed > 0 {
			errs = append(errs, fmt.Errorf("%s: %d of its requests failed, the last one: %s", c.cluster, c.failed, c.why))
		}
	}
	return errors.Join(errs...)
}
