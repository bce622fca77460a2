package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pseudo-agent/pseudo-agent/check/oneshot"
	"github.com/pseudo-agent/pseudo-agent/check/preflight"
	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

func newSnapshotCommand(build operate.Build) *cobra.Command {
	var output, object, diff string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Shows what would be reported now",
		Long: `snapshot lists everything once and shows it as deepflow-server would get it: a summary by type, one JSON object per
line (-o ndjson), one object (--object Pod/NAMESPACE/NAME), or what differs from an earlier -o ndjson (--diff FILE).
Nothing is sent.

Exit status: 0; with --diff 1 if there are differences; 2 if the cluster could not be listed.`,
		Example: `  pseudo-agent snapshot --config agent.yaml
  pseudo-agent snapshot --config agent.yaml -o ndjson > before.ndjson
  pseudo-agent snapshot --config agent.yaml --diff before.ndjson
  pseudo-agent snapshot --config agent.yaml --object Deployment/shop/web`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := showSnapshot(cmd, build, output, object, diff, timeout)
			var exit *exitError
			if err == nil || errors.As(err, &exit) {
				return err
			}
			return &exitError{code: couldNotCheck, err: err}
		},
	}
	config.AgentFlags(cmd.Flags())
	cmd.Flags().StringVarP(&output, "output", "o", "table", "what to show (table or ndjson)")
	cmd.Flags().StringVar(&object, "object", "", "show this object only: TYPE/NAMESPACE/NAME or TYPE/NAME, such as Pod/shop/web-0")
	cmd.Flags().StringVar(&diff, "diff", "", "show what differs from this file, an earlier -o ndjson")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "longest time to list all objects")
	return cmd
}

func showSnapshot(cmd *cobra.Command, build operate.Build, output, object, diff string, timeout time.Duration) error {
	if err := oneOf("output", output, "table", "ndjson"); err != nil {
		return err
	}
	if object != "" && diff != "" {
		return errors.New("--object and --diff cannot be used together")
	}
	if strings.Count(object, "/") > 2 {
		return fmt.Errorf("--object: %q is not TYPE/NAMESPACE/NAME or TYPE/NAME, such as Pod/shop/web-0 or Node/n1", object)
	}
	var before map[string]line
	if diff != "" {
		var err error
		if before, err = readDump(diff); err != nil {
			return err
		}
	}
	if err := withoutServer(cmd); err != nil {
		return err
	}
	loaded, err := config.LoadAgent(cmd.Flags())
	if err != nil {
		return err
	}
	result, err := collect(cmd.Context(), &loaded.Config, build, timeout)
	if err != nil {
		return err
	}
	for _, m := range result.Missing {
		fmt.Fprintln(cmd.ErrOrStderr(), "not in the snapshot:", m)
	}
	switch w := cmd.OutOrStdout(); {
	case object != "":
		return printObject(w, result, object)
	case diff != "":
		return printDiff(w, before, result)
	case output == "ndjson":
		return printLines(w, result)
	default:
		return printSummary(w, result)
	}
}

// reachTimeout is how long an apiserver may take to tell its version.
const reachTimeout = 10 * time.Second

func collect(ctx context.Context, cfg *config.Agent, build operate.Build, timeout time.Duration) (*oneshot.Result, error) {
	k := cfg.Inputs.Resources.Kubernetes
	rest, err := informers.RESTConfig(cfg.Kubernetes.Kubeconfig, cfg.Kubernetes.Context, userAgent(build))
	if err != nil {
		return nil, err
	}
	if err := preflight.Reach(ctx, rest, reachTimeout); err != nil {
		return nil, err
	}
	selected, _, err := selectOnce(ctx, cfg, rest)
	if err != nil {
		return nil, err
	}
	projection, err := projectionOptions(cfg.Projection, rest)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, oneshot.ErrTimeout)
	defer cancel()
	return oneshot.Collect(ctx, oneshot.Options{
		Config: rest, Selected: selected, Projection: projection, PageSize: k.APIListPageSize, ContentType: cfg.Kubernetes.ContentType,
	})
}

// line is one object of a dump. Type is the server's name for it, for example "*v1.Pod".
type line struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// identity is what an operator calls an object.
type identity struct {
	Metadata struct{ Namespace, Name, UID string }
}

func (l line) name() (string, error) {
	var id identity
	if err := json.Unmarshal(l.Object, &id); err != nil {
		return "", fmt.Errorf("read object of type %s: %w", l.Type, err)
	}
	return objectName(l.Type, id.Metadata.Namespace, id.Metadata.Name), nil
}

func objectName(wireType, namespace, name string) string {
	return strings.Join(slices.DeleteFunc([]string{kindOf(wireType), namespace, name}, func(s string) bool { return s == "" }), "/")
}

// kindOf is a wire type as people write it: "*v1.Pod" is Pod.
func kindOf(wireType string) string {
	return strings.TrimPrefix(strings.TrimPrefix(wireType, "*"), "v1.")
}

func lineOf(e *resources.Entry) (line, error) {
	doc, err := e.JSON()
	return line{Type: e.WireType(), Object: doc}, err
}

func printSummary(w io.Writer, r *oneshot.Result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "TYPE\tOBJECTS\tBYTES") // Flush tells of errors
	for _, t := range r.Snapshot.Types() {
		_, _ = fmt.Fprintf(tw, "%s\t%d\t%d\n", t.WireType, t.Entries, t.Bytes)
	}
	_, _ = fmt.Fprintf(tw, "all\t%d\t%d\n", r.Snapshot.Len(), r.Snapshot.Size())
	return tw.Flush()
}

func printLines(w io.Writer, r *oneshot.Result) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	for e := range r.Snapshot.All() {
		l, err := lineOf(e)
		if err != nil {
			return err
		}
		if err := enc.Encode(l); err != nil {
			return err
		}
	}
	return b.Flush()
}

// printObject shows the one object that is meant. Its kind is compared as people write it.
func printObject(w io.Writer, r *oneshot.Result, object string) error {
	object = kindOf(object)
	kind, _, _ := strings.Cut(object, "/")
	var near []string
	for e := range r.Snapshot.All() {
		if !strings.EqualFold(kindOf(e.WireType()), kind) {
			continue
		}
		l, err := lineOf(e)
		if err != nil {
			return err
		}
		name, err := l.name()
		if err != nil {
			return err
		}
		if strings.EqualFold(name, object) {
			out, err := json.MarshalIndent(l, "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(w, string(out))
			return err
		}
		if len(near) < 3 {
			near = append(near, name)
		}
	}
	if near == nil {
		return fmt.Errorf("%s is not reported, nor anything of type %q; types are %s", object, kind, strings.Join(typesOf(r), ", "))
	}
	return fmt.Errorf("%s is not reported; of that type are for example %s. A ReplicaSet with 0 replicas or without an owner never is; "+
		"for anything else see `pseudo-agent check`", object, strings.Join(near, ", "))
}

func typesOf(r *oneshot.Result) []string {
	var out []string
	for _, t := range r.Snapshot.Types() {
		out = append(out, kindOf(t.WireType))
	}
	return out
}

// maxLine bounds one line of a dump; the apiserver's own limit of an object is far below.
const maxLine = 16 << 20

// readDump reads an earlier -o ndjson by name and UID.
func readDump(file string) (map[string]line, error) {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("--diff: %w; make it with `pseudo-agent snapshot -o ndjson`", err)
	}
	defer func() { _ = f.Close() }() // only read
	out := map[string]line{}
	s := bufio.NewScanner(f)
	s.Buffer(nil, maxLine)
	for n := 1; s.Scan(); n++ {
		var l line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil || l.Type == "" || l.Object == nil {
			return nil, fmt.Errorf("--diff: line %d of %s is not a line of `pseudo-agent snapshot -o ndjson`", n, file)
		}
		key, err := l.key()
		if err != nil {
			return nil, fmt.Errorf("--diff: line %d of %s: %w", n, file, err)
		}
		out[key] = l
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("--diff: read %s: %w", file, err)
	}
	return out, nil
}

// key tells apart objects that were deleted and made again under one name.
func (l line) key() (string, error) {
	var id identity
	if err := json.Unmarshal(l.Object, &id); err != nil {
		return "", fmt.Errorf("read object of type %s: %w", l.Type, err)
	}
	return objectName(l.Type, id.Metadata.Namespace, id.Metadata.Name) + " " + id.Metadata.UID, nil
}

// printDiff shows what was added (+), removed (-) and changed (~), and of a changed object the fields.
func printDiff(w io.Writer, before map[string]line, r *oneshot.Result) error {
	after := map[string]line{}
	for e := range r.Snapshot.All() {
		l, err := lineOf(e)
		if err != nil {
			return err
		}
		key, err := l.key()
		if err != nil {
			return err
		}
		after[key] = l
	}
	out, err := differences(before, after)
	if err != nil {
		return err
	}
	if len(out) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w, strings.Join(out, "\n")); err != nil {
		return err
	}
	return &exitError{code: 1}
}

func differences(before, after map[string]line) ([]string, error) {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(before)), maps.Keys(after))
	slices.Sort(keys)
	var out []string
	for _, k := range slices.Compact(keys) {
		name, _, _ := strings.Cut(k, " ")
		old, was := before[k]
		cur, is := after[k]
		switch {
		case !was:
			out = append(out, "+ "+name)
		case !is:
			out = append(out, "- "+name)
		default:
			fields, err := fieldChanges(old.Object, cur.Object)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if len(fields) > 0 {
				out = append(append(out, "~ "+name), fields...)
			}
		}
	}
	return out, nil
}

func fieldChanges(before, after json.RawMessage) ([]string, error) {
	a, b := map[string]string{}, map[string]string{}
	for doc, into := range map[*json.RawMessage]map[string]string{&before: a, &after: b} {
		var v any
		if err := json.Unmarshal(*doc, &v); err != nil {
			return nil, err
		}
		flatten("", v, into)
	}
	var out []string
	for path, old := range a {
		switch cur, ok := b[path]; {
		case !ok:
			out = append(out, fmt.Sprintf("    %s: %s → (none)", path, old))
		case cur != old:
			out = append(out, fmt.Sprintf("    %s: %s → %s", path, old, cur))
		}
	}
	for path, cur := range b {
		if _, ok := a[path]; !ok {
			out = append(out, fmt.Sprintf("    %s: (none) → %s", path, cur))
		}
	}
	slices.Sort(out)
	return out, nil
}

func flatten(path string, v any, into map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		if len(v) > 0 {
			for k, e := range v {
				flatten(strings.TrimPrefix(path+"."+k, "."), e, into)
			}
			return
		}
	case []any:
		if len(v) > 0 {
			for i, e := range v {
				flatten(fmt.Sprintf("%s[%d]", path, i), e, into)
			}
			return
		}
	}
	text, err := json.Marshal(v)
	if err != nil {
		text = []byte("?") // what came from JSON can be written as JSON
	}
	into[path] = string(text)
}
