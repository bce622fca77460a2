// Command pseudo-server receives what pseudo-agents and deepflow-agents report of Kubernetes clusters, keeps it and
// shows it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
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
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pseudo-server:", harmless(err.Error()))
		os.Exit(exitStatus(err))
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "pseudo-server",
		Short:         "Receives, keeps and shows what is reported of Kubernetes clusters",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          args(cobra.NoArgs),
		Version:       version,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(newRunCommand(), newWatchersCommand())
	root.AddCommand(newLookCommands()...)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	return root
}
