// Command bench measures pseudo-agent and other ways to watch a cluster side by side, against a load server that serves a
// made-up cluster of any size. Run it by `make bench`; docs/performance.md says what it measures and has its results.
//
// It starts itself again as the load server and as each rival: what is measured is always a process of its own.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
	"github.com/pseudo-agent/pseudo-agent/test/bench/loadserver"
	"github.com/pseudo-agent/pseudo-agent/test/bench/rival"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	switch name {
	case "":
		o, err := optionsFromEnv()
		if err != nil {
			return err
		}
		return run(ctx, o)
	case "loadserver":
		pods := flags.Int("pods", 1000, "number of Pods")
		seed := flags.Uint64("seed", 1, "seed of the made-up cluster")
		dir := flags.String("dir", ".", "where the kubeconfig is written")
		if err := flags.Parse(args); err != nil {
			return err
		}
		s, err := loadserver.New(cluster.New(*pods, *seed))
		if err != nil {
			return err
		}
		return s.Run(ctx, *dir, func(r loadserver.Ready) error { return json.NewEncoder(os.Stdout).Encode(r) })
	case "rival":
		which := flags.String("name", rival.Stock, "which rival")
		kubeconfig := flags.String("kubeconfig", "", "access to the load server")
		server := flags.String("server", "", "host:port that takes reports")
		if err := flags.Parse(args); err != nil {
			return err
		}
		return rival.Run(ctx, *which, *kubeconfig, *server, os.Stdin, os.Stdout)
	case "fleet":
		o, err := parseFleet(flags, args)
		if err != nil {
			return err
		}
		return runFleet(ctx, o)
	case "floor":
		listen := flags.String("listen", "127.0.0.1:0", "where it listens")
		if err := flags.Parse(args); err != nil {
			return err
		}
		return runFloor(ctx, *listen)
	default:
		return fmt.Errorf("unknown command %q: want loadserver, rival, fleet, floor or none", name)
	}
}
