package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/check/explain"
	"github.com/pseudo-agent/pseudo-agent/check/oneshot"
	"github.com/pseudo-agent/pseudo-agent/check/preflight"
	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// explainFlags are those of the command beside the configuration's.
type explainFlags struct {
	output, namespace, file, change string
	watch                           bool
	timeout                         time.Duration
}

func newExplainCommand(build operate.Build) *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain TYPE NAME | TYPE/NAME | -f FILE | --change OLD NEW",
		Short: "Follows one object to what deepflow-server makes of it",
		Long: `explain reads one object, and the objects of its namespace that it depends on, and shows: which entry of
api_resources selects it and whether the account may read it; field by field what is sent, changed, replaced by a hash or
left out, and why; its size; and what deepflow-server makes of it, with what to do if it is dropped. Nothing is sent.
TYPE is a name as kubectl takes it. With -f the object need not exist ("-" reads standard input).

With --change OLD NEW, two files, it tells whether the change reaches the server as a new version, and because of which fields.
With --watch it tells that of each change of the object while it runs.

Exit status: 0 if the object arrives whole (with --change: if there is no new version), 1 if not, 2 if that could not be
found out.`,
		Example: `  pseudo-agent explain --config agent.yaml pod web-0 -n shop
  pseudo-agent explain --config agent.yaml -o diff deployment/web -n shop
  pseudo-agent explain --config agent.yaml -f new.yaml
  pseudo-agent explain --config agent.yaml --watch node/node-1`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := runExplain(cmd, build, f, args)
			var exit *exitError
			if err == nil || errors.As(err, &exit) {
				return err
			}
			return &exitError{code: couldNotCheck, err: err}
		},
	}
	config.AgentFlags(cmd.Flags())
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "what to show (table, json, yaml or diff)")
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "default", "namespace of the object")
	cmd.Flags().StringVarP(&f.file, "filename", "f", "", "file with the object, in YAML or JSON; - reads standard input")
	cmd.Flags().StringVar(&f.change, "change", "", "file with the object as it was; the file with the object as it is now follows, or is --filename")
	cmd.Flags().BoolVar(&f.watch, "watch", false, "tell of each change of the object whether it makes a new version")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "longest time to read the objects")
	return cmd
}

func runExplain(cmd *cobra.Command, build operate.Build, f explainFlags, args []string) error {
	if err := oneOf("output", f.output, "table", "json", "yaml", "diff"); err != nil {
		return err
	}
	target, err := f.target(cmd.InOrStdin(), args)
	if err != nil {
		return err
	}
	if err := withoutServer(cmd); err != nil {
		return err
	}
	loaded, err := config.LoadAgent(cmd.Flags())
	if err != nil {
		return err
	}
	o, err := explainOptions(cmd.Context(), &loaded.Config, build)
	if err != nil {
		return err
	}
	switch w := cmd.OutOrStdout(); {
	case f.watch:
		return explain.Watch(cmd.Context(), o, target, func(c explain.Change) error { return printChange(w, f.output, c) })
	case f.change != "":
		before, err := readObject(cmd.InOrStdin(), f.change)
		if err != nil {
			return fmt.Errorf("--change: %w", err)
		}
		change, err := explain.Compare(o, before, target.Object)
		if err != nil {
			return err
		}
		if err := printChange(w, f.output, change); err != nil {
			return err
		}
		if change.NewVersion {
			return &exitError{code: 1}
		}
		return nil
	default:
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), f.timeout, oneshot.ErrTimeout)
		defer cancel()
		report, err := explain.Run(ctx, o, target)
		if err != nil {
			return err
		}
		if err := printExplanation(w, f.output, report); err != nil {
			return err
		}
		if !report.Arrives {
			return &exitError{code: 1}
		}
		return nil
	}
}

// target is what the arguments name.
func (f *explainFlags) target(stdin io.Reader, args []string) (explain.Target, error) {
	t := explain.Target{Namespace: f.namespace}
	if f.change != "" && f.file == "" && len(args) == 1 {
		f.file, args = args[0], nil
	}
	switch {
	case f.change != "" && f.file == "":
		return t, errors.New("--change needs the file with the object as it is now: explain --change OLD NEW")
	case f.file != "" && len(args) > 0:
		return t, errors.New("give either TYPE and NAME or --filename")
	case f.file != "" && f.watch:
		return t, errors.New("--watch needs an object that exists: give TYPE and NAME instead of --filename")
	case f.file != "":
		var err error
		if t.Object, err = readObject(stdin, f.file); err != nil {
			err = fmt.Errorf("--filename: %w", err)
		}
		return t, err
	case len(args) == 2:
		t.Resource, t.Name = args[0], args[1]
	case len(args) == 1 && strings.Count(args[0], "/") == 1:
		t.Resource, t.Name, _ = strings.Cut(args[0], "/")
	}
	if t.Resource == "" || t.Name == "" {
		return t, errors.New("give TYPE and NAME, for example pod web-0 or pod/web-0, or --filename")
	}
	return t, nil
}

// maxObject bounds a file with one object, in bytes; an apiserver takes less.
const maxObject = 8 << 20

func readObject(stdin io.Reader, name string) ([]byte, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // the operator names the file
		if err != nil {
			return nil, fmt.Errorf("open the object: %w", err)
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxObject+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", name, err)
	case len(text) > maxObject:
		return nil, fmt.Errorf("%s is larger than %d bytes; an apiserver would not take such an object", name, maxObject)
	}
	docs := yamlutil.NewYAMLReader(newLines(text))
	first, err := docs.Read()
	if err != nil {
		return nil, fmt.Errorf("%s holds no object: %w", name, err)
	}
	if second, err := docs.Read(); err == nil && len(bytes.TrimSpace(second)) > 0 {
		return nil, fmt.Errorf("%s holds several objects; give one", name)
	}
	out, err := yaml.YAMLToJSON(first)
	if err != nil {
		return nil, fmt.Errorf("%s is neither YAML nor JSON: %w", name, err)
	}
	return out, nil
}

func explainOptions(ctx context.Context, cfg *config.Agent, build operate.Build) (explain.Options, error) {
	k := cfg.Inputs.Resources.Kubernetes
	o := explain.Options{PageSize: k.APIListPageSize, ContentType: cfg.Kubernetes.ContentType}
	var err error
	if o.Config, err = informers.RESTConfig(cfg.Kubernetes.Kubeconfig, cfg.Kubernetes.Context, userAgent(build)); err != nil {
		return o, err
	}
	if err := preflight.Reach(ctx, o.Config, reachTimeout); err != nil {
		return o, err
	}
	if o.Selected, o.Namespaces, err = selectOnce(ctx, cfg, o.Config); err != nil {
		return o, err
	}
	if o.All, err = resources.Select(k.APIResources, resources.Namespaces{}); err != nil {
		return o, err
	}
	o.Projection, err = projectionOptions(cfg.Projection, o.Config)
	return o, err
}

// encodeTo writes v as JSON or YAML.
func encodeTo(w io.Writer, format string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err == nil && format == "yaml" {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	_, err = fmt.Fprintln(w, strings.TrimSuffix(string(text), "\n"))
	return err
}

func printExplanation(w io.Writer, format string, r *explain.Report) error {
	switch format {
	case "json", "yaml":
		return encodeTo(w, format, r)
	case "diff":
		return printObjectDiff(w, r)
	}
	p := &explainPrinter{w: w, colour: colours(w), width: width()}
	p.report(r)
	return p.err
}

// printChange tells of one change in a line, and its fields in more.
func printChange(w io.Writer, format string, c explain.Change) error {
	if format == "json" || format == "yaml" {
		return encodeTo(w, format, c)
	}
	p := &explainPrinter{w: w, colour: colours(w), width: width()}
	verdict := "no new version"
	if c.NewVersion {
		verdict = p.paint("changed", "new version")
	}
	if c.At.IsZero() {
		p.line("%s: %s", verdict, c.Why)
	} else {
		p.line("%s  %s: %s", c.At.Format(time.TimeOnly), verdict, c.Why)
	}
	p.fields(c.Fields)
	return p.err
}

// explainPrinter prints for people. It keeps the first error.
type explainPrinter struct {
	w      io.Writer
	colour bool
	width  int // in characters; 0: unbounded
	err    error
}

func (p *explainPrinter) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// paint colours a word on a terminal.
func (p *explainPrinter) paint(what, text string) string {
	codes := map[string]string{"sent": "32", "good": "32", "changed": "33", "hashed": "35", "left out": "90", "bad": "31"}
	if !p.colour || codes[what] == "" {
		return text
	}
	return "\x1b[" + codes[what] + "m" + text + "\x1b[0m"
}

func (p *explainPrinter) report(r *explain.Report) {
	p.line("%s", strings.Join(strings.Fields(r.Kind+" "+strings.TrimPrefix(r.Namespace+"/"+r.Name, "/")+" ("+r.APIVersion+", "+r.Resource+")"), " "))
	p.line("\nThe way")
	switch {
	case r.Way.SelectedBy != "":
		p.line("  selected by   %s", r.Way.SelectedBy)
	case r.Way.Add != nil:
		entry, err := json.Marshal(r.Way.Add)
		if err != nil {
			entry = []byte(err.Error())
		}
		p.line("  selected by   nothing; add to inputs.resources.kubernetes.api_resources: %s", entry)
	default:
		p.line("  selected by   nothing")
	}
	if r.Way.Rule != nil {
		p.line("  permitted     %s; the rule that is missing: %s", p.paint("bad", "no"), ruleText(r))
	} else if r.Way.Permitted {
		p.line("  permitted     get, list and watch")
	}
	if len(r.Fields) > 0 {
		p.line("\nField by field")
		p.fields(r.Fields)
	}
	if len(r.Completed) > 0 {
		p.line("\nCompleted from other objects")
		p.fields(r.Completed)
	}
	if r.Size.JSON > 0 {
		p.line("\nSize")
		p.line("  %d bytes of JSON, %d projected, %d as sent; all objects looked at are %d as sent", r.Size.JSON, r.Size.Projected, r.Size.Compressed, r.Size.Snapshot)
	}
	p.server(r)
}

func ruleText(r *explain.Report) string {
	text, err := json.Marshal(r.Way.Rule)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (p *explainPrinter) server(r *explain.Report) {
	p.line("\ndeepflow-server")
	for _, m := range r.Missing {
		p.line("  could not be read: %s", clipText(m, p.width-21))
	}
	if r.Server.Shown != nil {
		p.shown(r.Server.Shown)
	}
	for _, list := range [][]inventory.Finding{r.Server.Failures, r.Server.Findings} {
		for _, f := range list {
			detail := ""
			if f.Detail != "" {
				detail = " (" + clipText(f.Detail, p.width) + ")"
			}
			p.line("  %s: %s%s", p.paint("bad", string(f.Reason)), f.Sentence, detail)
			p.line("      to do: %s", f.Advice)
		}
	}
	switch {
	case r.Arrives:
		p.line("  %s", p.paint("good", "arrives whole"))
	case r.Why != "":
		p.line("  %s: %s", p.paint("bad", "does not arrive"), r.Why)
	case r.Server.Shown != nil:
		p.line("  %s", p.paint("changed", "arrives, but not whole"))
	default:
		p.line("  %s", p.paint("bad", "does not arrive"))
	}
}

// shown prints the row of the inventory, but for what is empty.
func (p *explainPrinter) shown(row any) {
	v := reflect.ValueOf(row)
	tw := tabwriter.NewWriter(p.w, 0, 0, 3, ' ', 0)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			continue
		}
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		text, err := json.Marshal(v.Field(i).Interface())
		if err != nil {
			text = []byte(err.Error())
		}
		fmt.Fprintf(tw, "  %s\t%s\n", strings.ReplaceAll(name, "_", " "), clipText(strings.Trim(string(text), `"`), p.width-20))
	}
	if err := tw.Flush(); p.err == nil {
		p.err = err
	}
}

func (p *explainPrinter) fields(list []resources.FieldNote) {
	var sent []string
	for _, f := range list {
		if f.Verdict == resources.Sent {
			sent = append(sent, f.Path)
		}
	}
	if len(sent) > 0 {
		p.line("  %s as they are: %s", p.paint(string(resources.Sent), fmt.Sprintf("%-9s", resources.Sent)), clipText(strings.Join(sent, ", "), p.width*4))
	}
	for _, f := range list {
		value := ""
		if f.Verdict == resources.Sent {
			continue
		}
		switch {
		case f.Verdict == resources.Changed && f.Before == nil:
			value = "added " + string(f.After)
		case f.Verdict == resources.Omitted && f.Note == "":
			value = string(f.Before) + " → (none)"
		case f.Verdict == resources.Changed, f.Verdict == resources.Hashed && f.After != nil:
			value = string(f.Before) + " → " + string(f.After)
			if f.Verdict == resources.Hashed {
				value = "→ " + string(f.After)
			}
		}
		p.line("  %s %s%s", p.paint(string(f.Verdict), fmt.Sprintf("%-9s", f.Verdict)), clipText(f.Path, p.width), clipText(prefixed("  ", value), p.width))
		if f.Note != "" {
			p.line("            %s", f.Note)
		}
	}
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// clipText makes a text of a cluster harmless for terminals and cuts it to a width.
func clipText(s string, width int) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || unicode.Is(unicode.Cf, c) {
			return utf8.RuneError
		}
		return c
	}, s)
	if width > 20 && utf8.RuneCountInString(s) > width {
		return string([]rune(s)[:width-1]) + "…"
	}
	return s
}

// colours tells whether w is a terminal that wants them (NO_COLOR, no-color.org).
func colours(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// width returns the terminal's, as the shell tells it; 0 if it does not.
func width() int {
	n, err := strconv.Atoi(os.Getenv("COLUMNS"))
	if err != nil || n < 40 {
		return 0
	}
	return n
}
