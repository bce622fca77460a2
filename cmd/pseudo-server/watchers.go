package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/elector"
	"github.com/pseudo-agent/pseudo-agent/internal/apiclient"
)

// newWatchersCommand makes the commands that show and change the watcher election of a running pseudo-server.
func newWatchersCommand() *cobra.Command {
	var opts apiclient.Options
	var output string
	root := &cobra.Command{
		Use:   "watchers",
		Short: "Shows and changes which agent watches each cluster",
		Args:  cobra.NoArgs,
	}
	opts.Flags(root.PersistentFlags())
	root.PersistentFlags().StringVarP(&output, "output", "o", "table", strings.Join(formats, ", "))
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))

	// ask sends a request about one cluster, or about all of them, and shows the answer.
	ask := func(cmd *cobra.Command, method string, path []string, in any) error {
		p, err := newPrinter(cmd, output)
		if err != nil {
			return err
		}
		client, err := apiclient.New(opts)
		if err != nil {
			return err //nolint:wrapcheck // it names the flag
		}
		var raw json.RawMessage
		if err := client.Do(cmd.Context(), method, append([]string{"watchers"}, path...), in, &raw); err != nil {
			return err //nolint:wrapcheck // it names the server
		}
		if output == "table" {
			return showWatchers(cmd.OutOrStdout(), raw, len(path) == 0)
		}
		names, err := watcherNames(raw, len(path) == 0)
		if err != nil {
			return err
		}
		return p.print(raw, table{names: names})
	}

	list := &cobra.Command{
		Use:   "list [CLUSTER]",
		Short: "Shows all clusters with their watchers, or one with all candidates, their ranks and the reasons",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask(cmd, http.MethodGet, args, nil)
		},
	}
	root.RunE = func(cmd *cobra.Command, _ []string) error { return ask(cmd, http.MethodGet, nil, nil) }

	var d elector.Designation
	designation := func(cmd *cobra.Command) *cobra.Command {
		cmd.Flags().StringVar(&d.Workload, "workload", "", "namespace/kind/name, for example deepflow/Deployment/pseudo-agent")
		cmd.Flags().StringVar(&d.AgentGroup, "agent-group", "", "agent group id")
		cmd.Flags().StringVar(&d.HostPattern, "host", "", "pattern of host names, in which * stands for any characters")
		cmd.Flags().StringVar(&d.Agent, "agent", "", "ip-mac, for example 192.168.4.46-52:54:00:d5:d0:8e")
		return cmd
	}
	designate := designation(&cobra.Command{
		Use:   "designate CLUSTER",
		Short: "Prefers the candidates that match one of the flags",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.Check(); err != nil {
				return err //nolint:wrapcheck // it says what is wrong
			}
			return ask(cmd, http.MethodPost, []string{args[0], "designations"}, d)
		},
	})
	undesignate := designation(&cobra.Command{
		Use:   "undesignate CLUSTER",
		Short: "Undoes a designation given by designate; without a flag, all of the cluster",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask(cmd, http.MethodDelete, []string{args[0], "designations"}, d)
		},
	})
	var gone bool
	elect := &cobra.Command{
		Use:   "elect CLUSTER",
		Short: "Begins a new election, in which the present watcher comes last of its rank",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask(cmd, http.MethodPost, []string{args[0], "elect"}, map[string]bool{"holder_is_gone": gone})
		},
	}
	elect.Flags().BoolVar(&gone, "holder-is-gone", false, "the present watcher has ended for certain: do not wait for it")
	root.AddCommand(list, designate, undesignate, elect)
	return root
}

// watcherNames are the clusters of a list, or the candidates of one cluster.
func watcherNames(raw []byte, many bool) ([]string, error) {
	var answer struct {
		Clusters []struct {
			Cluster string `json:"cluster"`
		} `json:"clusters"`
		Candidates []struct {
			Name string `json:"name"`
		} `json:"candidates"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("the answer is not what is expected: %w", err)
	}
	var names []string
	if many {
		for _, c := range answer.Clusters {
			names = append(names, c.Cluster)
		}
		return names, nil
	}
	for _, c := range answer.Candidates {
		names = append(names, c.Name)
	}
	return names, nil
}

// showWatchers writes the answer of the API for people.
func showWatchers(w io.Writer, raw []byte, many bool) error {
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if many {
		var list struct {
			Clusters []elector.ClusterInfo `json:"clusters"`
		}
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("the answer is not what is expected: %w", err)
		}
		fmt.Fprintln(out, "CLUSTER\tSTATE\tWATCHER\tRANK\tSINCE\tCANDIDATES\tREMARK")
		for _, c := range list.Clusters {
			name, class, since := "-", "-", "-"
			if h := c.Holder; h != nil {
				name, class, since = h.Name, h.Class.String(), h.Since.UTC().Format(time.RFC3339)
			}
			fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", c.Cluster, c.State, name, class, since, electable(c), remark(c))
		}
		return out.Flush() //nolint:wrapcheck // of the terminal
	}
	var c elector.ClusterInfo
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("the answer is not what is expected: %w", err)
	}
	fmt.Fprintf(out, "cluster:\t%s\nstate:\t%s\n", c.Cluster, c.State)
	if h := c.Holder; h != nil {
		fmt.Fprintf(out, "watcher:\t%s, since %s, expires in %.0f s unless it Syncs\n", h.Name, h.Since.UTC().Format(time.RFC3339), h.ExpiresInSeconds)
	}
	if c.Last != nil {
		fmt.Fprintf(out, "before:\t%s, until %s (%s)\n", c.Last.Agent.String(), c.Last.At.UTC().Format(time.RFC3339), c.Last.How)
	}
	if r := remark(c); r != "" {
		fmt.Fprintf(out, "remark:\t%s\n", r)
	}
	for _, d := range c.Designations {
		fmt.Fprintf(out, "designation:\t%s (%s), fulfilled by %d\n", d.String(), d.Source, d.FulfilledBy)
	}
	fmt.Fprintln(out, "\nRANK\tAGENT\tCLASS\tSTATE\tSEEN\tREASON\tLAST ANSWER")
	for _, a := range c.Candidates {
		rank := "-"
		if a.Rank > 0 {
			rank = fmt.Sprint(a.Rank)
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%.0f s ago\t%s\t%s\n", rank, a.Name, a.Class, a.State, a.SeenSecondsAgo, a.Reason, a.Answer)
	}
	return out.Flush() //nolint:wrapcheck // of the terminal
}

func electable(c elector.ClusterInfo) int {
	n := 0
	for _, a := range c.Candidates {
		if a.Rank > 0 {
			n++
		}
	}
	return n
}

func remark(c elector.ClusterInfo) string {
	switch {
	case c.Reason != "":
		return c.Reason
	case c.Unfulfilled:
		return "nobody fulfils the designation"
	case c.Foreign != nil:
		return fmt.Sprintf("reported by another agent, id %d of %s", c.Foreign.AgentID, c.Foreign.SourceIP)
	case c.ElectionOpen:
		return "a new election was asked for"
	default:
		return ""
	}
}
