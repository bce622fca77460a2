// Command pod-agent attaches networks to the running Pods of a node, and detaches them, as annotations say.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/podagent"
)

// version and revision are stamped by the linker.
var (
	version  = "dev"
	revision = ""
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := podagent.NewCommand(operate.NewBuild(version, revision)).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pod-agent:", err)
		os.Exit(1)
	}
}
