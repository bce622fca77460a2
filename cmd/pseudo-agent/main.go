// Command pseudo-agent watches a Kubernetes cluster and reports it to deepflow-server.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/operate"
)

// version and revision are stamped by the linker.
var (
	version  = "dev"
	revision = ""
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	var exit *exitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		if exit.err != nil {
			fmt.Fprintln(os.Stderr, "pseudo-agent:", exit.err)
		}
		os.Exit(exit.code)
	default:
		fmt.Fprintln(os.Stderr, "pseudo-agent:", err)
		os.Exit(1)
	}
}

// exitError ends the process with a status of its own; err may be nil when everything has been said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "pseudo-agent",
		Short: "Watches a Kubernetes cluster and reports it to deepflow-server",
		Long: `pseudo-agent list-watches the configured Kubernetes resources and reports them to deepflow-server,
in place of the deepflow-agents that may not reach the apiserver. Without a command it runs the daemon.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		Version:       version,
		RunE:          func(cmd *cobra.Command, _ []string) error { return runDaemon(cmd.Context(), cmd.Flags()) },
	}
	config.AgentFlags(root.Flags())
	root.AddCommand(newRunCommand(), newCheckCommand(), newRBACCommand(), newSnapshotCommand(), newVersionCommand())
	return root
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints which build this is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			build := operate.NewBuild(version, revision)
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "pseudo-agent %s %s %s\n", build.Version, build.Revision, build.Go)
			return err
		},
	}
}
