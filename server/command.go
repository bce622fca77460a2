// Package server is pseudo-server: it wires what receives, keeps, shows and elects into the daemon, and has the command
// line.
//
// It relies on each package below it for its own work, and promises that everything that was started has ended when a
// command returns.
package server

import (
	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/server/cli"
)

// NewCommand returns the command line of pseudo-server.
func NewCommand(build operate.Build) *cobra.Command {
	root := &cobra.Command{
		Use:           "pseudo-server",
		Short:         "Receives, keeps and shows what is reported of Kubernetes clusters",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cli.Args(cobra.NoArgs),
		Version:       build.Version,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(newRunCommand(build))
	root.AddCommand(cli.Commands()...)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.UsageError{Err: err} })
	return root
}
