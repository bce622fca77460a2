package cli

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/cli/apiclient"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

// pluginCommand has the flags and columns of deepflow-ctl plugin.
func pluginCommand() *cobra.Command {
	root := &cobra.Command{Use: "plugin", Short: "Manages Lua plugins", Args: Args(cobra.NoArgs)}
	root.AddCommand(createPluginCommand(), listPluginsCommand(), deletePluginCommand(), testPluginCommand())
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return root
}

func noCompletion(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func createPluginCommand() *cobra.Command {
	l := &look{}
	var p viewer.NewPlugin
	var image string
	cmd := l.command(&cobra.Command{
		Use: "create --type lua --image FILE --name NAME --user server", Short: "Creates a plugin, or replaces its script",
		Args: Args(cobra.NoArgs), ValidArgsFunction: noCompletion,
	}, func(cmd *cobra.Command, c *apiclient.Client, out *printer, _ []string) error {
		script, err := os.ReadFile(image) //nolint:gosec // the user names the file
		if err != nil {
			return UsageError{Err: fmt.Errorf("--image: %w", err)}
		}
		p.Script = string(script)
		var created plugin.Status
		if err := c.Do(cmd.Context(), http.MethodPost, []string{"plugins"}, p, &created); err != nil {
			return err
		}
		return out.print(created, pluginTable([]plugin.Status{created}))
	})
	cmd.Flags().StringVar(&p.Type, "type", "", "lua")
	cmd.Flags().StringVar(&image, "image", "", "file that holds the script")
	cmd.Flags().StringVar(&p.Name, "name", "", "name of the plugin")
	cmd.Flags().StringVar(&p.User, "user", plugin.UserServer, "server")
	for _, name := range []string{"type", "image", "name"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

func pluginTable(list []plugin.Status) table {
	t := table{header: []string{"TYPE", "NAME", "USER", "UPDATED_AT"}, colour: -1}
	for _, s := range list {
		t.names = append(t.names, s.Name)
		t.rows = append(t.rows, []string{s.Type, s.Name, s.User, s.UpdatedAt.UTC().Format(time.DateTime)})
	}
	return t
}

type pluginList struct {
	Plugins []plugin.Status `json:"plugins"`
}

func listPluginsCommand() *cobra.Command {
	l := &look{}
	var wide bool
	cmd := l.command(&cobra.Command{
		Use: "list", Short: "Lists the plugins in the order in which they are asked", Args: Args(cobra.NoArgs), ValidArgsFunction: noCompletion,
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, _ []string) error {
		var list pluginList
		if err := c.Get(cmd.Context(), []string{"plugins"}, nil, &list); err != nil {
			return err
		}
		t := pluginTable(list.Plugins)
		if wide {
			t.colour = len(t.header)
			t.header = append(t.header, "STATE", "CALLS", "ANSWERS", "FAILURES", "LINE", "REASON")
			for i, s := range list.Plugins {
				t.rows[i] = append(t.rows[i], string(s.State), strconv.FormatUint(s.Calls, 10), strconv.FormatUint(s.Answers, 10),
					strconv.FormatUint(s.Failures, 10), strconv.Itoa(s.Line), s.Reason)
			}
		}
		return p.print(list, t)
	})
	cmd.Flags().BoolVar(&wide, "wide", false, "how each of them fares, too")
	return cmd
}

func deletePluginCommand() *cobra.Command {
	l := &look{}
	return l.command(&cobra.Command{
		Use: "delete NAME", Short: "Deletes a plugin", Args: Args(cobra.ExactArgs(1)),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			c, err := apiclient.New(l.client)
			var list pluginList
			if err != nil || c.Get(cmd.Context(), []string{"plugins"}, nil, &list) != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			return pluginTable(list.Plugins).names, cobra.ShellCompDirectiveNoFileComp
		},
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, given []string) error {
		answer := map[string]any{}
		if err := c.Do(cmd.Context(), http.MethodDelete, []string{"plugins", given[0]}, nil, &answer); err != nil {
			return err
		}
		return p.print(answer, table{header: []string{"DELETED"}, rows: [][]string{{given[0]}}, names: []string{given[0]}, colour: -1})
	})
}

func testPluginCommand() *cobra.Command {
	l := &look{}
	var cluster, namespace string
	cmd := l.command(&cobra.Command{
		Use: "test FILE --cluster CLUSTER", Short: "Runs a script against the Pods of a cluster and shows what it would change; nothing is created",
		Args: Args(cobra.ExactArgs(1)),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"lua"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, given []string) error {
		script, err := os.ReadFile(given[0])
		if err != nil {
			return UsageError{Err: err}
		}
		var result viewer.PluginResult
		if err := c.Do(cmd.Context(), http.MethodPost, []string{"clusters", cluster, "plugin-test"}, viewer.PluginTest{Script: string(script), Namespace: namespace}, &result); err != nil {
			return err
		}
		t := table{header: []string{"NAMESPACE", "POD", "OWNER", "EFFECT", "WORKLOAD", "ERROR"}, colour: 3}
		for _, o := range result.Outcomes {
			workload := ""
			if o.Name != "" {
				workload = o.Type + "/" + o.Name
			}
			t.names = append(t.names, o.Namespace+"/"+o.Pod)
			t.rows = append(t.rows, []string{o.Namespace, o.Pod, o.OwnerKind + "/" + o.OwnerName, o.Effect, workload, o.Error})
		}
		if err := p.print(result, t); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d Pods asked about: %d mapped, %d refused, %d failed\n", result.Pods, result.Mapped, result.Refused, result.Failed)
		switch {
		case result.Stopped != "":
			return fmt.Errorf("the script was stopped (line %d): %s", result.Line, clean(result.Stopped))
		case result.Refused+result.Failed > 0:
			return fmt.Errorf("the script fails for %d Pods", result.Refused+result.Failed)
		default:
			return nil
		}
	})
	cmd.Flags().StringVar(&cluster, "cluster", "", "the cluster whose Pods are asked about")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only the Pods of this namespace")
	_ = cmd.MarkFlagRequired("cluster")
	_ = cmd.RegisterFlagCompletionFunc("cluster", l.completeCluster)
	return cmd
}
