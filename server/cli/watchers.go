package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/server/cli/apiclient"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
)

// newWatchersCommand makes the commands that show and change the watcher election of a running pseudo-server.
func newWatchersCommand() *cobra.Command {
	l := &look{}
	root := &cobra.Command{
		Use:   "watchers",
		Short: "Shows and changes which agent watches each cluster",
		Args:  Args(cobra.NoArgs),
	}
	l.flags(root, root.PersistentFlags())

	// ask sends a request about one cluster, or about all of them, and shows the answer.
	ask := func(cmd *cobra.Command, method string, path []string, in any) error {
		p, err := newPrinter(cmd, l.format)
		if err != nil {
			return err
		}
		client, err := apiclient.New(l.client)
		if err != nil {
			return UsageError{Err: err}
		}
		var raw json.RawMessage
		if err := client.Do(cmd.Context(), method, append([]string{"watchers"}, path...), in, &raw); err != nil {
			return err //nolint:wrapcheck // it names the server
		}
		if len(path) == 0 {
			return showWatchers(p, raw)
		}
		return showCandidates(p, raw)
	}

	list := &cobra.Command{
		Use:   "list [CLUSTER]",
		Short: "Shows all clusters with their watchers, or one with all candidates, their ranks and the reasons",
		Args:  Args(cobra.MaximumNArgs(1)),
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
		Args:  Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := d.Check(); err != nil {
				return UsageError{Err: err}
			}
			return ask(cmd, http.MethodPost, []string{args[0], "designations"}, d)
		},
	})
	undesignate := designation(&cobra.Command{
		Use:   "undesignate CLUSTER",
		Short: "Undoes a designation given by designate; without a flag, all of the cluster",
		Args:  Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask(cmd, http.MethodDelete, []string{args[0], "designations"}, d)
		},
	})
	var gone bool
	elect := &cobra.Command{
		Use:   "elect CLUSTER",
		Short: "Begins a new election, in which the present watcher comes last of its rank",
		Args:  Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ask(cmd, http.MethodPost, []string{args[0], "elect"}, map[string]bool{"holder_is_gone": gone})
		},
	}
	elect.Flags().BoolVar(&gone, "holder-is-gone", false, "the present watcher has ended for certain: do not wait for it")
	for _, cmd := range []*cobra.Command{list, designate, undesignate, elect} {
		cmd.ValidArgsFunction = l.completeCluster
	}
	root.AddCommand(list, designate, undesignate, elect)
	return root
}

// showWatchers writes all clusters with their watchers.
func showWatchers(p *printer, raw json.RawMessage) error {
	var list struct {
		Clusters []elector.ClusterInfo `json:"clusters"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("the answer is not what is expected: %w", err)
	}
	t := table{header: []string{"CLUSTER", "STATE", "WATCHER", "RANK", "SINCE", "CANDIDATES", "REMARK"}, colour: 1}
	for _, c := range list.Clusters {
		var name, class, since string
		if h := c.Holder; h != nil {
			name, class, since = h.Name, h.Class.String(), h.Since.UTC().Format(time.RFC3339)
		}
		t.names = append(t.names, c.Cluster)
		t.rows = append(t.rows, []string{c.Cluster, c.State, name, class, since, strconv.Itoa(electable(c)), remark(c)})
	}
	return p.print(raw, t)
}

// showCandidates writes the election of one cluster with all who Sync for it.
func showCandidates(p *printer, raw json.RawMessage) error {
	var c elector.ClusterInfo
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("the answer is not what is expected: %w", err)
	}
	if p.format == "table" {
		if err := p.print(raw, table{rows: facts(c), colour: -1}); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(p.out); err != nil {
			return err //nolint:wrapcheck // of the terminal
		}
	}
	t := table{header: []string{"RANK", "AGENT", "CLASS", "STATE", "SEEN", "REASON", "LAST ANSWER"}, colour: 3}
	for _, a := range c.Candidates {
		rank := ""
		if a.Rank > 0 {
			rank = strconv.Itoa(a.Rank)
		}
		t.names = append(t.names, a.Name)
		t.rows = append(t.rows, []string{rank, a.Name, a.Class.String(), a.State, ago(a.SeenSecondsAgo), a.Reason, a.Answer})
	}
	return p.print(raw, t)
}

// facts are what is said of a cluster above its candidates.
func facts(c elector.ClusterInfo) [][]string {
	list := [][]string{{"cluster:", c.Cluster}, {"state:", c.State}}
	if h := c.Holder; h != nil {
		list = append(list, []string{"watcher:", fmt.Sprintf("%s, since %s, expires in %.0f s unless it Syncs", h.Name, h.Since.UTC().Format(time.RFC3339), h.ExpiresInSeconds)})
	}
	if c.Last != nil {
		list = append(list, []string{"before:", fmt.Sprintf("%s, until %s (%s)", c.Last.Agent.String(), c.Last.At.UTC().Format(time.RFC3339), c.Last.How)})
	}
	if r := remark(c); r != "" {
		list = append(list, []string{"remark:", r})
	}
	for _, d := range c.Designations {
		list = append(list, []string{"designation:", fmt.Sprintf("%s (%s), fulfilled by %d", d.String(), d.Source, d.FulfilledBy)})
	}
	return list
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
