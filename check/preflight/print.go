package preflight

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/pseudo-agent/pseudo-agent/check/advisor"
	"github.com/pseudo-agent/pseudo-agent/check/rbac"
	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// The lines before what is to be pasted.
const (
	pasteResources = "# append to inputs.resources.kubernetes.api_resources:"
	pasteRules     = "# append to the rules of the ClusterRole:"
)

// Print writes the report as tables for people.
func (r *Report) Print(w io.Writer) error {
	var b bytes.Buffer
	t := table{header: []string{"APISERVER", "VERDICT", "WHAT"}}
	t.add(r.Apiserver.Advice, r.Apiserver.Subject, string(r.Apiserver.Verdict), r.Apiserver.What)
	for _, f := range []*Finding{r.Identity, r.Namespaces, r.Lease} {
		if f != nil {
			t.add(f.Advice, f.Subject, string(f.Verdict), f.What)
		}
	}
	t.print(&b)

	t = table{header: []string{"RESOURCE", "TYPE", "REQUIRED", "SERVED", "OBJECTS", "VERDICT", "WHAT"}}
	for _, res := range r.Resources {
		t.add(res.Advice, res.ID, res.WireType, yesNo(res.Required), dash(res.Served), res.count(), string(res.Verdict), res.What)
	}
	t.print(&b)

	t = table{header: []string{"SERVER", "IP", "TLS", "SERVICE", "VERDICT", "WHAT"}}
	for _, s := range r.Servers {
		t.add(s.Advice, dash(s.Address), dash(strings.Join(s.IPs, ",")), dash(s.TLS), dash(s.Service), string(s.Verdict), s.What)
	}
	t.print(&b)

	t = table{header: []string{"OTHER WATCHER", "CONTAINER", "POLICY", "VERDICT", "WHAT"}}
	for _, o := range r.Watchers {
		t.add(o.Advice, fmt.Sprintf("%s %s/%s", o.Kind, o.Namespace, o.Name), o.Container, dash(o.Policy), string(o.Verdict), o.What)
	}
	t.print(&b)

	t = table{header: []string{"OBJECTS", "VERDICT", "WHAT"}}
	t.add(r.Objects.Advice, "all", string(r.Objects.Verdict), r.Objects.What)
	if r.Pods != nil {
		p := r.Pods.Pods
		verdict := OK
		if slices.ContainsFunc(r.Pods.Findings, func(f advisor.Finding) bool { return f.Severity == advisor.Failure }) {
			verdict = Problem
		}
		t.add("", "pods", string(verdict), fmt.Sprintf("%d: %d bound to a workload, %d dropped; left out by design: %d static, %d bare, %d of Jobs",
			p.Total, p.Bound, p.Dropped, p.Static, p.Bare, p.Job))
		for _, f := range r.Pods.Findings {
			verdict := Note
			if f.Severity == advisor.Failure {
				verdict = Problem
			}
			what := f.What
			if len(f.Examples) > 0 {
				what += " (for example " + strings.Join(f.Examples, ", ") + ")"
			}
			t.add(f.Advice, string(f.Problem), string(verdict), what)
		}
	}
	if c := r.Kept; c != nil {
		t.add("", "server keeps", string(OK), fmt.Sprintf("%d nodes, %d namespaces, %d workloads, %d Pods, %d Services with %d ports, %d ingress backends",
			c.Nodes, c.Namespaces, c.Workloads, c.Pods, c.Services, c.ServicePorts, c.IngressBackends))
	}
	if len(r.Dropped) > 0 {
		t.add("", "server drops", string(Note), droppedText(r.Dropped)+"; docs/inventory.md has what each means")
	}
	for _, f := range r.Failures {
		t.add(f.Advice, "server fails", string(Problem), strings.TrimSpace(f.Sentence+" "+f.Name))
	}
	t.print(&b)

	if r.Pods != nil {
		if err := printPaste(&b, r.Pods.Findings); err != nil {
			return err
		}
	}
	fmt.Fprintf(&b, "verdict: %s\n", r.Verdict)
	_, err := w.Write(b.Bytes())
	return err
}

// droppedText names the reasons by their counts, the most frequent first.
func droppedText(dropped map[inventory.Reason]int) string {
	reasons := slices.SortedFunc(maps.Keys(dropped), func(a, b inventory.Reason) int {
		return cmp.Or(cmp.Compare(dropped[b], dropped[a]), cmp.Compare(a, b))
	})
	const shown = 6
	texts := make([]string, 0, shown+1)
	for _, r := range reasons[:min(len(reasons), shown)] {
		texts = append(texts, fmt.Sprintf("%s %d", r, dropped[r]))
	}
	if len(reasons) > shown {
		texts = append(texts, "…")
	}
	return strings.Join(texts, ", ")
}

func printPaste(b *bytes.Buffer, findings []advisor.Finding) error {
	reqs, rules := advisor.Merge(findings)
	if len(reqs) == 0 {
		return nil
	}
	entries, err := EntriesYAML(reqs)
	if err != nil {
		return err
	}
	text, err := rbac.RulesYAML(rules)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "%s\n%s\n%s\n%s\n", pasteResources, entries, pasteRules, text)
	return nil
}

// EntriesYAML returns entries as they stand under api_resources.
func EntriesYAML(reqs []resources.Request) (string, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(reqs); err != nil {
		return "", fmt.Errorf("write api_resources: %w", err)
	}
	return b.String(), nil
}

func (r *Resource) count() string {
	switch {
	case r.Objects < 0:
		return "?"
	case r.AtLeast:
		return strconv.Itoa(r.Objects) + "+"
	}
	return strconv.Itoa(r.Objects)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// table is aligned text in which a row may be followed by a line of advice.
type table struct {
	header []string
	rows   [][]string
	advice []string
}

func (t *table) add(advice string, cells ...string) {
	for i, cell := range cells {
		cells[i] = strings.ReplaceAll(cell, "\n", "; ") // a joined error has several lines
	}
	t.rows = append(t.rows, cells)
	t.advice = append(t.advice, advice)
}

func (t *table) print(b *bytes.Buffer) {
	if len(t.rows) == 0 {
		return
	}
	width := make([]int, len(t.header))
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(cells []string) {
		for i, cell := range cells {
			b.WriteString(cell)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	line(t.header)
	for i, row := range t.rows {
		line(row)
		if t.advice[i] != "" {
			fmt.Fprintf(b, "    → %s\n", t.advice[i])
		}
	}
	b.WriteByte('\n')
}
