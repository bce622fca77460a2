// Package nodetest runs what we ship as Pods on a real node, installed as docs/install.md says.
//
// All tests share one cluster of one node, with a pseudo-server that the agents report to. They need root on Linux and
// the programs that sandbox.Missing names; on other machines they say so and pass.
package nodetest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/test/node/node"
	"github.com/pseudo-agent/pseudo-agent/test/node/sandbox"
)

// What all tests share; set by TestMain.
var (
	cluster  *node.Cluster
	services node.Services
)

func TestMain(m *testing.M) {
	if missing := sandbox.Missing(); len(missing) > 0 {
		fmt.Println("SKIP: no test was run, because this machine cannot run a node; missing:", strings.Join(missing, ", "))
		os.Exit(0)
	}
	var done atomic.Bool
	os.Exit(sandbox.Main(prepare, func(place sandbox.Place) int {
		flag.Parse()
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		// Tests do not look at a signal. With us ends all that is in the sandbox.
		context.AfterFunc(ctx, func() {
			if !done.Load() {
				os.Exit(130)
			}
		})
		code, err := run(ctx, m, place)
		done.Store(true)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		return code
	}))
}

func prepare(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	bins, err := node.Build(ctx, os.Stderr)
	if err != nil {
		return err
	}
	if _, err := node.BuildServices(ctx, os.Stderr); err != nil {
		return err
	}
	return node.BuildImages(ctx, bins, dir, os.Stderr)
}

func run(ctx context.Context, m *testing.M, place sandbox.Place) (int, error) {
	bins, err := node.Build(ctx, os.Stderr)
	if err != nil {
		return 1, err
	}
	if services, err = node.BuildServices(ctx, os.Stderr); err != nil {
		return 1, err
	}
	if cluster, err = node.Start(ctx, bins, place); err != nil {
		return 1, err
	}
	defer cluster.Close()
	if err := furnish(ctx); err != nil {
		return 1, err
	}
	return m.Run(), nil
}
