// Package podagent is pod-agent: its commands, and the daemon that keeps the networks of a node's Pods.
//
// It wires the packages of attachments and follows the configuration. It relies on each for its own work, and promises that
// everything that was started has ended when a command returns.
package podagent

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/operate"
)

// NewCommand returns the command line of pod-agent.
func NewCommand(build operate.Build) *cobra.Command {
	root := &cobra.Command{
		Use:   "pod-agent",
		Short: "Attaches networks to the running Pods of a node as their annotations say",
		Long: `pod-agent watches the Pods of its node. When an annotation names a network, it attaches that to the running Pod by the
node's CNI plugins, and detaches it when the annotation no longer does. Without a command it runs the daemon.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		Version:       build.Version,
		RunE:          func(cmd *cobra.Command, _ []string) error { return runDaemon(cmd.Context(), cmd.Flags(), build) },
	}
	config.PodAgentFlags(root.Flags())
	run := &cobra.Command{
		Use: "run", Short: "Runs the daemon (the default command)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDaemon(cmd.Context(), cmd.Flags(), build) },
	}
	looking := &cobra.Command{
		Use: "check", Short: "Tells what the daemon would lack on this node", Args: cobra.NoArgs,
		Long: `check looks, before pod-agent is installed or when it does not work, at what it needs on this node: the container
runtime's socket, the plugins and the network configuration, and the permission to list the node's Pods. It changes nothing.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := config.LoadPodAgent(cmd.Flags())
			if err != nil {
				return err //nolint:wrapcheck // it names every mistake with its place
			}
			return check(cmd.Context(), &loaded.Config, build, cmd.OutOrStdout())
		},
	}
	for _, c := range []*cobra.Command{run, looking} {
		config.PodAgentFlags(c.Flags())
	}
	version := &cobra.Command{
		Use: "version", Short: "Prints which build this is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "pod-agent %s %s %s\n", build.Version, build.Revision, build.Go)
			return err
		},
	}
	root.AddCommand(run, looking, attachCommand(build), detachCommand(build), listCommand(build), version)
	return root
}
