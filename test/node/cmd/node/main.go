// Command node brings up a cluster of one real node, prints the path of its kubeconfig and ends on an interrupt, after
// which nothing of the cluster is left on the machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/pseudo-agent/pseudo-agent/test/node/node"
	"github.com/pseudo-agent/pseudo-agent/test/node/sandbox"
)

func main() {
	if missing := sandbox.Missing(); len(missing) > 0 {
		fmt.Fprintln(os.Stderr, "node: this machine cannot run a node; missing:", strings.Join(missing, ", "))
		os.Exit(1)
	}
	os.Exit(sandbox.Main(prepare, work))
}

func prepare(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	bins, err := node.Build(ctx, os.Stdout)
	if err != nil {
		return err
	}
	return node.BuildImages(ctx, bins, dir, os.Stdout)
}

func work(place sandbox.Place) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, place); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, place sandbox.Place) error {
	bins, err := node.Build(ctx, os.Stdout)
	if err != nil {
		return err
	}
	fmt.Println("starting the cluster")
	c, err := node.Start(ctx, bins, place)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer c.Close()
	fmt.Printf(`
Try next, in another terminal (Ctrl-C here ends everything):

  export KUBECONFIG=%[1]s
  kubectl get pods -A

  # docs/install.md, with the images that the node has: pseudo-agent:%[2]s and pseudo-server:%[2]s
  kubectl create namespace deepflow
  helm install pseudo-server charts/pseudo-server -n deepflow --set image.tag=%[2]s --set storage.embedded.existingClaim=…
  helm install pseudo-agent charts/pseudo-agent -n deepflow --set image.tag=%[2]s \
    --set 'config.server.addresses={pseudo-server.deepflow:20035}'

  # logs and configurations of all processes
  ls %[3]s
`, c.Kubeconfig, node.Version, place.Dir)
	select {
	case <-ctx.Done():
		return nil
	case <-c.Process("kubelet").Done():
		return fmt.Errorf("kubelet has ended:\n%s", c.Process("kubelet").Tail(20))
	}
}
