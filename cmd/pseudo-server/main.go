// Command pseudo-server receives what pseudo-agents and deepflow-agents report of Kubernetes clusters, keeps it and
// shows it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/server"
	"github.com/pseudo-agent/pseudo-agent/server/cli"
)

// version and revision are stamped by the linker.
var (
	version  = "dev"
	revision = ""
)

func main() {
	// Lua plugins run in processes of this program.
	plugin.WorkerMain()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := server.NewCommand(operate.NewBuild(version, revision)).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pseudo-server:", cli.Harmless(err.Error()))
		os.Exit(cli.ExitStatus(err))
	}
}
