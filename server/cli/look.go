// Package cli has the commands that ask a running pseudo-server: what it holds, who watches, its plugins.
//
// It relies on the HTTP API alone, through apiclient; only the store commands, for a server that does not run, read its file.
// It promises that what a cluster or a server chose cannot control the
// terminal, in any format, and that a mistake in the command line is a UsageError.
package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/server/cli/apiclient"
	"github.com/pseudo-agent/pseudo-agent/server/fleet"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

// look is what the commands have in common that ask a running pseudo-server.
type look struct {
	client apiclient.Options
	format string
}

// command adds the common flags to a command. ask gets a client and a printer.
func (l *look) command(cmd *cobra.Command, ask func(cmd *cobra.Command, c *apiclient.Client, p *printer, args []string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := newPrinter(cmd, l.format)
		if err != nil {
			return err
		}
		c, err := apiclient.New(l.client)
		if err != nil {
			return UsageError{Err: err}
		}
		return ask(cmd, c, p, args)
	}
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = l.completeCluster
	}
	l.flags(cmd, cmd.Flags())
	return cmd
}

// flags adds those that all these commands have, to the flags of cmd or those that its subcommands inherit.
func (l *look) flags(cmd *cobra.Command, flags *pflag.FlagSet) {
	l.client.Flags(flags)
	flags.StringVarP(&l.format, "output", "o", "table", strings.Join(formats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

// completeCluster completes the first argument by the clusters that there are.
func (l *look) completeCluster(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, err := apiclient.New(l.client)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	var list fleet.List
	if err := c.Get(ctx, []string{"clusters"}, url.Values{"limit": {"5000"}}, &list); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var ids []string
	for _, cluster := range list.Clusters {
		ids = append(ids, cluster.ID)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// Commands returns the commands that ask a running pseudo-server.
func Commands() []*cobra.Command {
	return []*cobra.Command{
		newWatchersCommand(), clustersCommand(), fleetCommand(), objectsCommand(), versionsCommand(), diffCommand(), followCommand(), inventoryCommand(), droppedCommand(), pluginCommand(), storeCommand(),
	}
}

// ago tells how long something is past.
func ago(seconds float64) string {
	return (time.Duration(seconds) * time.Second).String() + " ago"
}

// pager reads the pages of a list.
type pager struct {
	limit int
	all   bool
}

func (g *pager) flags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&g.limit, "limit", 100, "most lines to show, 1 to 5000")
	cmd.Flags().BoolVar(&g.all, "all", false, "show everything, page by page")
}

// read asks until everything is read that is wanted. page reads one answer and tells its length, the length of the whole
// list and how it goes on.
func (g *pager) read(cmd *cobra.Command, query url.Values, page func(url.Values) (n, total int, next string, err error)) error {
	const whole = 5000
	query.Set("limit", strconv.Itoa(g.limit))
	if g.all {
		query.Set("limit", strconv.Itoa(whole))
	}
	bar := newProgress(cmd)
	defer bar.end()
	read := 0
	for {
		n, total, next, err := page(query)
		if err != nil {
			return err
		}
		read += n
		if next == "" {
			return nil
		}
		if !g.all {
			bar.end()
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d are shown; --all shows the rest\n", read, total)
			return nil
		}
		bar.at(read, total)
		query.Set("continue", next)
	}
}

// filter sets those parameters that the user gave.
func filter(pairs ...string) url.Values {
	q := url.Values{}
	for pair := range slices.Chunk(pairs, 2) {
		if key, value := pair[0], pair[1]; value != "" {
			q.Set(key, value)
		}
	}
	return q
}

func objectsCommand() *cobra.Command {
	l, g := &look{}, &pager{}
	var wire, namespace, name, label, version string
	cmd := l.command(&cobra.Command{
		Use: "objects CLUSTER", Short: "Shows the objects that a cluster reported", Args: Args(cobra.ExactArgs(1)),
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, given []string) error {
		var all receiver.ObjectList
		q := filter("type", wire, "namespace", namespace, "name", name, "label", label, "version", version)
		err := g.read(cmd, q, func(q url.Values) (int, int, string, error) {
			var page receiver.ObjectList
			err := c.Get(cmd.Context(), []string{"clusters", given[0], "objects"}, q, &page)
			n := len(page.Objects)
			page.Objects = append(all.Objects, page.Objects...)
			all = page
			return n, page.Total, page.Continue, err
		})
		if err != nil {
			return err
		}
		t := table{header: []string{"TYPE", "NAMESPACE", "NAME", "BYTES"}, colour: -1}
		for _, o := range all.Objects {
			t.names = append(t.names, fullName(o.Type, o.Namespace, o.Name))
			t.rows = append(t.rows, []string{o.Type, o.Namespace, o.Name, strconv.Itoa(len(o.Object))})
		}
		return p.print(all, t)
	})
	cmd.Flags().StringVar(&wire, "type", "", "only this type, for example Pod or *v1.Pod")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only this namespace")
	cmd.Flags().StringVar(&name, "name", "", "only this name")
	cmd.Flags().StringVarP(&label, "label", "l", "", "only with these labels, for example app=cart,tier=web")
	cmd.Flags().StringVar(&version, "version", "", "this version instead of the latest")
	g.flags(cmd)
	return cmd
}

// fullName names an object in one word.
func fullName(wire, namespace, name string) string {
	parts := []string{strings.TrimPrefix(wire, "*"), namespace, name}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "/")
}

type versionList struct {
	Cluster  string `json:"cluster"`
	Versions []struct {
		Version    uint64    `json:"version"`
		ReceivedAt time.Time `json:"received_at"`
		Objects    int       `json:"objects"`
		Added      int       `json:"added"`
		Changed    int       `json:"changed"`
		Removed    int       `json:"removed"`
	} `json:"versions"`
}

func versionsCommand() *cobra.Command {
	l := &look{}
	return l.command(&cobra.Command{
		Use: "versions CLUSTER", Short: "Lists the versions of a cluster that can be read, oldest first", Args: Args(cobra.ExactArgs(1)),
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, given []string) error {
		var list versionList
		if err := c.Get(cmd.Context(), []string{"clusters", given[0], "versions"}, nil, &list); err != nil {
			return err
		}
		t := table{header: []string{"VERSION", "RECEIVED", "OBJECTS", "ADDED", "CHANGED", "REMOVED"}, colour: -1}
		for _, v := range list.Versions {
			version := strconv.FormatUint(v.Version, 10)
			t.names = append(t.names, version)
			t.rows = append(t.rows, []string{
				version, v.ReceivedAt.UTC().Format(time.RFC3339), strconv.Itoa(v.Objects), strconv.Itoa(v.Added), strconv.Itoa(v.Changed), strconv.Itoa(v.Removed),
			})
		}
		return p.print(list, t)
	})
}

func changesTable(list []viewer.ObjectChange) table {
	t := table{header: []string{"CHANGE", "TYPE", "NAMESPACE", "NAME"}, colour: 0}
	for _, o := range list {
		t.names = append(t.names, fullName(o.Type, o.Namespace, o.Name))
		t.rows = append(t.rows, []string{o.Change, o.Type, o.Namespace, o.Name})
	}
	return t
}

func diffCommand() *cobra.Command {
	l, g := &look{}, &pager{}
	var wire, namespace, name string
	var content bool
	cmd := l.command(&cobra.Command{
		Use: "diff CLUSTER [FROM [TO]]", Short: "Shows what differs between two versions, by default the last two", Args: Args(cobra.RangeArgs(1, 3)),
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, given []string) error {
		q := filter("type", wire, "namespace", namespace, "name", name)
		for i, key := range []string{"from", "to"} {
			if len(given) > i+1 {
				q.Set(key, given[i+1])
			}
		}
		if content {
			q.Set("content", "true")
		}
		var all viewer.DifferenceList
		err := g.read(cmd, q, func(q url.Values) (int, int, string, error) {
			var page viewer.DifferenceList
			err := c.Get(cmd.Context(), []string{"clusters", given[0], "differences"}, q, &page)
			n := len(page.Objects)
			page.Objects = append(all.Objects, page.Objects...)
			all = page
			return n, page.Total, page.Continue, err
		})
		if err != nil {
			return err
		}
		return p.print(all, changesTable(all.Objects))
	})
	cmd.Flags().StringVar(&wire, "type", "", "only this type, for example Pod or *v1.Pod")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only this namespace")
	cmd.Flags().StringVar(&name, "name", "", "only this name")
	cmd.Flags().BoolVar(&content, "content", false, "with -o json or yaml: the objects before and after")
	g.flags(cmd)
	return cmd
}

func followCommand() *cobra.Command {
	l := &look{}
	var since string
	cmd := l.command(&cobra.Command{
		Use: "follow CLUSTER", Short: "Shows changes of a cluster as they come, until interrupted", Args: Args(cobra.ExactArgs(1)),
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, given []string) error {
		f := follower{p: p, since: since}
		for {
			err := f.read(cmd.Context(), c, given[0])
			if cmd.Context().Err() != nil {
				return nil //nolint:nilerr // the user has ended it
			}
			var refusal *apiclient.Error
			if errors.As(err, &refusal) && refusal.Status/100 == 4 || errors.Is(err, errGone) {
				return err
			}
			_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "pseudo-server: the stream ended, connecting again:", err)
			select {
			case <-time.After(2 * time.Second):
			case <-cmd.Context().Done():
				return nil
			}
		}
	})
	cmd.Flags().StringVar(&since, "since", "", "begin after this version (default: with the next one)")
	return cmd
}

// follower prints a stream and remembers how far it is.
type follower struct {
	p     *printer
	since string
}

// errGone ends a stream for good.
var errGone = errors.New("the cluster was forgotten")

// maxLine bounds one line of a stream in bytes.
const maxLine = 4 << 20

func (f *follower) read(ctx context.Context, c *apiclient.Client, cluster string) error {
	stream, err := c.Open(ctx, []string{"clusters", cluster, "changes"}, filter("since", f.since))
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // it was only read
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxLine)
	id, event := "", ""
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch key {
		case "id":
			id = value
		case "event":
			event = value
		case "data":
			if err := f.show(event, []byte(value)); err != nil {
				return err
			}
			if id != "" {
				f.since = id
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the stream: %w", err)
	}
	return io.EOF
}

func (f *follower) show(event string, data []byte) error {
	if f.p.format == "json" {
		_, err := fmt.Fprintf(f.p.out, `{"event":%q,"data":%s}`+"\n", event, escaped(data))
		return err //nolint:wrapcheck // of the terminal
	}
	switch event {
	case "gone":
		return errGone
	case "reset":
		var e viewer.ResetEvent
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		_, err := fmt.Fprintf(f.p.out, "# %s; version is now %d, changes before it are not shown\n", clean(e.Reason), e.Version)
		return err //nolint:wrapcheck // of the terminal
	case "version":
		var e viewer.VersionEvent
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		return f.version(&e)
	default:
		return nil
	}
}

func (f *follower) version(e *viewer.VersionEvent) error {
	if f.p.format == "yaml" {
		if _, err := fmt.Fprintln(f.p.out, "---"); err != nil {
			return err //nolint:wrapcheck // of the terminal
		}
		return f.p.print(e, table{})
	}
	if f.p.format == "table" {
		_, err := fmt.Fprintf(f.p.out, "# version %d, received %s: %d added, %d changed, %d removed, %d objects in all\n",
			e.Version, e.ReceivedAt.UTC().Format(time.RFC3339), e.Added, e.Changed, e.Removed, e.Total)
		if err != nil {
			return err //nolint:wrapcheck // of the terminal
		}
	}
	if len(e.Objects) > 0 {
		t := changesTable(e.Objects)
		t.header = nil
		if err := f.p.print(e, t); err != nil {
			return err
		}
	}
	if e.Truncated && f.p.format == "table" {
		_, err := fmt.Fprintf(f.p.out, "# more: pseudo-server diff %s %d %d --all\n", e.Cluster, e.Before, e.Version)
		return err //nolint:wrapcheck // of the terminal
	}
	return nil
}

// listAnswer is viewer.List with the items undecoded.
type listAnswer struct {
	Cluster  string            `json:"cluster"`
	Version  uint64            `json:"version"`
	Total    int               `json:"total"`
	Items    []json.RawMessage `json:"items"`
	Continue string            `json:"continue,omitempty"`
}

// readList reads the pages of a list.
func readList(cmd *cobra.Command, c *apiclient.Client, g *pager, path []string, q url.Values) (listAnswer, error) {
	var all listAnswer
	err := g.read(cmd, q, func(q url.Values) (int, int, string, error) {
		var page listAnswer
		err := c.Get(cmd.Context(), path, q, &page)
		n := len(page.Items)
		page.Items = append(all.Items, page.Items...)
		all = page
		return n, page.Total, page.Continue, err
	})
	return all, err
}

// column is a column of an inventory's table.
type column struct{ title, key string }

// inventoryColumns are the tables of the inventory.
var inventoryColumns = map[string][]column{
	"nodes": {
		{"NAME", "name"}, {"STATE", "state"}, {"ROLE", "role"}, {"ADDRESS", "address"}, {"POD CIDR", "pod_cidr"}, {"CPUS", "cpus"}, {"MIB", "memory_mib"}, {"PODS", "pods"},
	},
	"namespaces": {{"NAME", "name"}, {"UID", "uid"}},
	"workloads": {
		{"NAMESPACE", "namespace"}, {"NAME", "name"}, {"TYPE", "type"}, {"REPLICAS", "replicas"}, {"PODS", "pods"}, {"SERVICES", "services"},
	},
	"replicasets": {{"NAMESPACE", "namespace"}, {"NAME", "name"}, {"REPLICAS", "replicas"}, {"PODS", "pods"}, {"WORKLOAD", "workload"}},
	"pods": {
		{"NAMESPACE", "namespace"}, {"NAME", "name"}, {"STATE", "state"}, {"NODE", "node"}, {"WORKLOAD", "workload"}, {"ADDRESS", "addresses"},
	},
	"services": {
		{"NAMESPACE", "namespace"}, {"NAME", "name"}, {"TYPE", "type"}, {"CLUSTER IP", "cluster_ip"}, {"WORKLOADS", "workloads"}, {"INGRESS", "ingress"},
	},
	"ingresses":  {{"NAMESPACE", "namespace"}, {"NAME", "name"}, {"RULES", "rules"}},
	"configmaps": {{"NAMESPACE", "namespace"}, {"NAME", "name"}, {"BYTES", "data_bytes"}, {"WORKLOADS", "workloads"}},
}

// cell writes a value of JSON into a table.
func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case []any:
		texts := make([]string, 0, len(v))
		for _, x := range v {
			if s, ok := x.(string); ok {
				texts = append(texts, s)
			}
		}
		if len(texts) < len(v) {
			return strconv.Itoa(len(v))
		}
		return strings.Join(texts, ",")
	default:
		return fmt.Sprint(v)
	}
}

func inventoryTable(kind string, items []json.RawMessage) (table, error) {
	t := table{colour: -1}
	for i, c := range inventoryColumns[kind] {
		t.header = append(t.header, c.title)
		if c.key == "state" {
			t.colour = i
		}
	}
	for _, item := range items {
		var values map[string]any
		if err := json.Unmarshal(item, &values); err != nil {
			return t, fmt.Errorf("the answer is not what is expected: %w", err)
		}
		var row []string
		for _, c := range inventoryColumns[kind] {
			row = append(row, cell(values[c.key]))
		}
		t.rows = append(t.rows, row)
		t.names = append(t.names, fullName("", cell(values["namespace"]), cell(values["name"])))
	}
	return t, nil
}

func inventoryCommand() *cobra.Command {
	l, g := &look{}, &pager{}
	var namespace, name, contains, workload, node string
	cmd := l.command(&cobra.Command{
		Use:   "inventory CLUSTER [KIND]",
		Short: "Shows what deepflow-server would make of a cluster, in numbers or one kind of resources",
		Long:  "Shows what deepflow-server would make of a cluster: in numbers, or the resources of one KIND: " + strings.Join(viewer.KindNames(), ", ") + ".",
		Args:  Args(cobra.RangeArgs(1, 2)),
		ValidArgsFunction: func(cmd *cobra.Command, given []string, text string) ([]string, cobra.ShellCompDirective) {
			if len(given) == 1 {
				return viewer.KindNames(), cobra.ShellCompDirectiveNoFileComp
			}
			return l.completeCluster(cmd, given, text)
		},
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, given []string) error {
		if len(given) == 1 {
			return showSummary(cmd, c, p, given[0])
		}
		if !slices.Contains(viewer.KindNames(), given[1]) {
			return UsageError{Err: fmt.Errorf("kind %q is unknown: use %s", given[1], strings.Join(viewer.KindNames(), ", "))}
		}
		q := filter("namespace", namespace, "name", name, "contains", contains, "workload", workload, "node", node)
		all, err := readList(cmd, c, g, []string{"clusters", given[0], "inventory", given[1]}, q)
		if err != nil {
			return err
		}
		t, err := inventoryTable(given[1], all.Items)
		if err != nil {
			return err
		}
		return p.print(all, t)
	})
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only this namespace")
	cmd.Flags().StringVar(&name, "name", "", "only this name")
	cmd.Flags().StringVar(&contains, "contains", "", "only names and addresses that contain this text")
	cmd.Flags().StringVar(&workload, "workload", "", "only Pods of this workload, as Type/namespace/name")
	cmd.Flags().StringVar(&node, "node", "", "only Pods of this node")
	g.flags(cmd)
	return cmd
}

func showSummary(cmd *cobra.Command, c *apiclient.Client, p *printer, cluster string) error {
	var s viewer.Summary
	if err := c.Get(cmd.Context(), []string{"clusters", cluster, "inventory"}, nil, &s); err != nil {
		return err
	}
	state := "ok"
	if !s.OK {
		state = "error"
	}
	n := s.Counts
	t := table{header: []string{"WHAT", "COUNT"}, colour: 1, names: []string{s.Cluster}, rows: [][]string{{"state", state}}}
	for _, f := range s.Failures {
		t.rows = append(t.rows, []string{string(f.Reason), fullName(f.Type, f.Namespace, f.Name) + " " + f.Sentence})
	}
	for _, x := range []struct {
		what  string
		count int
	}{
		{"nodes", n.Nodes},
		{"namespaces", n.Namespaces},
		{"workloads", n.Workloads},
		{"replicasets", n.ReplicaSets},
		{"pods", n.Pods},
		{"pod addresses", n.PodAddresses},
		{"services", n.Services},
		{"service ports", n.ServicePorts},
		{"ingresses", n.Ingresses},
		{"ingress backends", n.IngressBackends},
		{"configmaps", n.ConfigMaps},
	} {
		t.rows = append(t.rows, []string{x.what, strconv.Itoa(x.count)})
	}
	lost := 0
	for _, count := range s.Dropped {
		lost += count
	}
	t.rows = append(t.rows, []string{"dropped (pseudo-server dropped " + s.Cluster + ")", strconv.Itoa(lost)})
	return p.print(s, t)
}

func droppedCommand() *cobra.Command {
	l, g := &look{}, &pager{}
	var reason, scope, wire, namespace, name string
	var byReason bool
	cmd := l.command(&cobra.Command{
		Use: "dropped CLUSTER", Short: "Shows what deepflow-server would drop, and why", Args: Args(cobra.ExactArgs(1)),
	}, func(cmd *cobra.Command, c *apiclient.Client, p *printer, given []string) error {
		if byReason {
			var list viewer.ReasonList
			if err := c.Get(cmd.Context(), []string{"clusters", given[0], "dropped", "reasons"}, nil, &list); err != nil {
				return err
			}
			t := table{header: []string{"COUNT", "SCOPE", "REASON", "WHAT HAPPENED", "WHAT TO DO"}, colour: 1}
			for _, r := range list.Reasons {
				t.names = append(t.names, string(r.Reason))
				t.rows = append(t.rows, []string{strconv.Itoa(r.Count), string(r.Scope), string(r.Reason), r.Sentence, r.Advice})
			}
			return p.print(list, t)
		}
		q := filter("reason", reason, "scope", scope, "type", wire, "namespace", namespace, "name", name)
		all, err := readList(cmd, c, g, []string{"clusters", given[0], "dropped"}, q)
		if err != nil {
			return err
		}
		t := table{header: []string{"SCOPE", "TYPE", "NAMESPACE", "NAME", "REASON", "DETAIL"}, colour: 0}
		for _, item := range all.Items {
			var f inventory.Finding
			if err := json.Unmarshal(item, &f); err != nil {
				return fmt.Errorf("the answer is not what is expected: %w", err)
			}
			t.names = append(t.names, fullName(f.Type, f.Namespace, f.Name))
			t.rows = append(t.rows, []string{string(f.Scope), f.Type, f.Namespace, f.Name, string(f.Reason), f.Detail})
		}
		return p.print(all, t)
	})
	cmd.Flags().BoolVar(&byReason, "by-reason", false, "count by reason, with what to do")
	cmd.Flags().StringVar(&reason, "reason", "", "only this reason, for example PodOwnerUnknown")
	cmd.Flags().StringVar(&scope, "scope", "", "only this scope: crash, cluster, object or relation")
	cmd.Flags().StringVar(&wire, "type", "", "only this wire type, for example *v1.Pod")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only this namespace")
	cmd.Flags().StringVar(&name, "name", "", "only this name")
	g.flags(cmd)
	return cmd
}
