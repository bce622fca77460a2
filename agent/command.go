// Package agent is pseudo-agent: its commands, and the daemon that watches a cluster and reports it.
//
// It wires the chain from informers to reporter, holds the selection in force and follows the configuration. It relies
// on each package for its own work, and promises that everything that was started has ended when a command returns.
package agent

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/operate"
)

// Exit returns the status with which the process ends after an error of NewCommand's command, and what is left to say
// of it; empty: everything has been said.
func Exit(err error) (status int, message string) {
	var exit *exitError
	switch {
	case err == nil:
		return 0, ""
	case !errors.As(err, &exit):
		return 1, err.Error()
	case exit.err == nil:
		return exit.code, ""
	default:
		return exit.code, exit.err.Error()
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

// NewCommand returns the command line of pseudo-agent.
func NewCommand(build operate.Build) *cobra.Command {
	root := &cobra.Command{
		Use:   "pseudo-agent",
		Short: "Watches a Kubernetes cluster and reports it to deepflow-server",
		Long: `pseudo-agent list-watches the configured Kubernetes resources and reports them to deepflow-server,
in place of the deepflow-agents that may not reach the apiserver. Without a command it runs the daemon.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		Version:       build.Version,
		RunE:          func(cmd *cobra.Command, _ []string) error { return runDaemon(cmd.Context(), cmd.Flags(), build) },
	}
	config.AgentFlags(root.Flags())
	root.AddCommand(newRunCommand(build), newCheckCommand(build), newRBACCommand(build), newSnapshotCommand(build), newExplainCommand(build), newSupportCommand(build), newVersionCommand(build))
	return root
}

func newVersionCommand(build operate.Build) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Prints which build this is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "pseudo-agent %s %s %s\n", build.Version, build.Revision, build.Go)
			return err
		},
	}
}
