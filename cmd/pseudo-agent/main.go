// Command pseudo-agent watches a Kubernetes cluster and reports it to deepflow-server.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/pseudo-agent/pseudo-agent/agent"
	"github.com/pseudo-agent/pseudo-agent/operate"
)

// version and revision are stamped by the linker.
var (
	version  = "dev"
	revision = ""
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := agent.NewCommand(operate.NewBuild(version, revision)).ExecuteContext(ctx)
	stop()
	status, message := agent.Exit(err)
	if message != "" {
		fmt.Fprintln(os.Stderr, "pseudo-agent:", message)
	}
	os.Exit(status)
}
