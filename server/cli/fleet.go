package cli

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/server/cli/apiclient"
	"github.com/pseudo-agent/pseudo-agent/server/fleet"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
)

func clustersCommand() *cobra.Command {
	l, g := &look{}, &pager{}
	asked := map[string]*string{}
	cmd := l.command(&cobra.Command{
		Use: "clusters [CLUSTER]", Aliases: []string{"cluster"}, Short: "Lists clusters, those in trouble, or whichever are asked for", Args: Args(cobra.MaximumNArgs(1)),
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, given []string) error {
		if len(given) == 1 {
			var one fleet.Cluster
			if err := c.Get(cmd.Context(), []string{"clusters", given[0]}, nil, &one.ClusterInfo); err != nil {
				return err //nolint:wrapcheck // it names the server
			}
			return p.print(one.ClusterInfo, clusterTable(one))
		}
		q := url.Values{}
		for name, value := range asked {
			if *value != "" {
				q.Set(name, *value)
			}
		}
		all := fleet.List{Clusters: []fleet.Cluster{}}
		err := g.read(cmd, q, func(q url.Values) (int, int, string, error) {
			var page fleet.List
			err := c.Get(cmd.Context(), []string{"clusters"}, q, &page)
			n := len(page.Clusters)
			page.Clusters = append(all.Clusters, page.Clusters...)
			all = page
			return n, page.Total, page.Continue, err
		})
		if err != nil {
			return err
		}
		return p.print(all, clusterTable(all.Clusters...))
	})
	for _, f := range []struct{ flag, param, usage string }{
		{"search", "contains", "only those whose id, reporter, watcher, error or label contains this text"},
		{"trouble", "trouble", "only with this cause of trouble: any, none, " + strings.Join(fleet.Causes(), ", ")},
		{"watcher", "watcher", "only with this state of the election: " + strings.Join(fleet.Watchers(), ", ")},
		{"min-age", "min_age", "only with at least so many seconds since the last report"},
		{"max-age", "max_age", "only with at most so many seconds since the last report"},
		{"min-objects", "min_objects", "only with at least so many objects"},
		{"max-objects", "max_objects", "only with at most so many objects"},
		{"version", "version", "only those whose latest version is this one"},
		{"sort", "sort", "order: " + strings.Join(fleet.Orders(), ", ") + " or label.KEY; a minus before it turns it around"},
	} {
		asked[f.param] = cmd.Flags().String(f.flag, "", f.usage)
	}
	asked["label"] = cmd.Flags().StringP("label", "l", "", "only with these labels, for example region=eu,team=payments")
	for flag, values := range map[string][]string{"trouble": fleet.Troubles(), "watcher": fleet.Watchers(), "sort": fleet.Orders()} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	g.flags(cmd)
	cmd.AddCommand(labelsCommand())
	return cmd
}

func clusterTable(list ...fleet.Cluster) table {
	t := table{header: []string{"CLUSTER", "STATE", "VERSION", "OBJECTS", "LAST REPORT", "REPORTER", "LABELS", "TROUBLE", "ERROR"}, colour: 1}
	for _, x := range list {
		t.names = append(t.names, x.ID)
		t.rows = append(t.rows, []string{
			x.ID, x.State, strconv.FormatUint(x.Version, 10), strconv.Itoa(x.Objects), ago(x.AgeSeconds), x.Reporter.SourceIP,
			labelText(x.Labels), strings.Join(x.Trouble, ", "), x.ErrorMsg,
		})
	}
	return t
}

func labelText(labels map[string]string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, key+"="+labels[key])
	}
	return strings.Join(parts, ",")
}

func labelsCommand() *cobra.Command {
	l := &look{}
	return l.command(&cobra.Command{
		Use: "labels CLUSTER [KEY=VALUE | KEY-]...", Short: "Shows the labels of a cluster, sets some (KEY=VALUE) and removes some (KEY-)",
		Args: Args(cobra.MinimumNArgs(1)),
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, given []string) error {
		path := []string{"clusters", given[0]}
		var info receiver.ClusterInfo
		if len(given) == 1 {
			if err := c.Get(cmd.Context(), path, nil, &info); err != nil {
				return err //nolint:wrapcheck // it names the server
			}
		} else {
			change, err := labelChange(given[1:])
			if err != nil {
				return UsageError{Err: err}
			}
			if err := c.Do(cmd.Context(), http.MethodPost, append(path, "labels"), change, &info); err != nil {
				return err //nolint:wrapcheck // it names the server
			}
		}
		t := table{header: []string{"LABEL", "VALUE"}, colour: -1}
		for _, key := range slices.Sorted(maps.Keys(info.Labels)) {
			t.names = append(t.names, key)
			t.rows = append(t.rows, []string{key, info.Labels[key]})
		}
		labels := info.Labels
		if labels == nil {
			labels = map[string]string{}
		}
		return p.print(labels, t)
	})
}

// labelChange reads KEY=VALUE and KEY-.
func labelChange(given []string) (*receiver.LabelChange, error) {
	change := &receiver.LabelChange{Set: map[string]string{}}
	for _, text := range given {
		key, value, set := strings.Cut(text, "=")
		removed, remove := strings.CutSuffix(text, "-")
		switch {
		case set:
			if _, twice := change.Set[key]; twice {
				return nil, fmt.Errorf("label %s is given twice", key)
			}
			change.Set[key] = value
		case remove:
			change.Remove = append(change.Remove, removed)
		default:
			return nil, fmt.Errorf("%q is neither KEY=VALUE nor KEY-", text)
		}
	}
	return change, change.Check() //nolint:wrapcheck // it says everything
}

func fleetCommand() *cobra.Command {
	l := &look{}
	cmd := l.command(&cobra.Command{
		Use: "fleet", Short: "Shows all clusters in numbers, and what is wrong with them, the worst first", Args: Args(cobra.NoArgs),
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, _ []string) error {
		var o fleet.Overview
		if err := c.Get(cmd.Context(), []string{"fleet"}, nil, &o); err != nil {
			return err //nolint:wrapcheck // it names the server
		}
		if p.format == "table" {
			if err := p.print(nil, table{rows: fleetFacts(&o), colour: -1}); err != nil {
				return err
			}
			if len(o.Troubles) == 0 {
				return nil
			}
			if _, err := fmt.Fprintln(p.out); err != nil {
				return err //nolint:wrapcheck // of the terminal
			}
		}
		t := table{header: []string{"TROUBLE", "CLUSTERS", "FOR EXAMPLE", "WHAT TO DO"}, colour: -1}
		for _, g := range o.Troubles {
			t.names = append(t.names, g.Cause)
			t.rows = append(t.rows, []string{g.Cause, strconv.Itoa(g.Count), strings.Join(g.Clusters[:min(3, len(g.Clusters))], ", "), g.Advice})
		}
		return p.print(o, t)
	})
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// fleetFacts are the numbers of all clusters.
func fleetFacts(o *fleet.Overview) [][]string {
	list := [][]string{
		{"clusters:", strconv.Itoa(o.Clusters)},
		{"fine:", strconv.Itoa(o.Fine)},
		{"late:", strconv.Itoa(o.Late)},
		{"stale:", strconv.Itoa(o.Stale)},
		{"frozen:", strconv.Itoa(o.Frozen)},
		{"without watcher:", strconv.Itoa(o.WithoutWatcher)},
		{"objects:", strconv.Itoa(o.Objects)},
		{"bytes:", fmt.Sprintf("%d, as JSON %d", o.Bytes, o.RawBytes)},
	}
	if o.ReportsPerMinute != nil && o.BytesPerMinute != nil {
		list = append(list, []string{"last minute:", fmt.Sprintf("%d reports, %d bytes", *o.ReportsPerMinute, *o.BytesPerMinute)})
	}
	if o.ReadFrom != "" {
		list = append(list, []string{"read from:", fmt.Sprintf("%s, at most %.0f s old", o.ReadFrom, o.AgeSeconds)})
	}
	return list
}
