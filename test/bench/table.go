package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/test/bench/rival"
)

// titles are the rivals as the table names them.
var titles = map[string]string{
	rival.Stock:      "(a) stock dynamic informer",
	rival.Trimming:   "(b) dynamic informer, trimming transform",
	rival.Compressed: "(c) typed informer, protobuf, compressed entries",
	rival.Keeping:    "(d) typed informer, one list per kind and report",
	pseudoAgent:      "(e) pseudo-agent",
	pseudoAgentJSON:  "(f) pseudo-agent, JSON only",
}

var order = []string{rival.Stock, rival.Trimming, rival.Compressed, rival.Keeping, pseudoAgent, pseudoAgentJSON}

// middle is the median of one figure over all runs.
func (r *Result) middle(name string, figure func(Sample) float64) float64 {
	var values []float64
	for _, s := range r.Samples[name] {
		values = append(values, figure(s))
	}
	return median(values)
}

// text is everything as Markdown.
func (r *Result) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "`%s` at %s, %s, %s.\n\n", r.Command, r.Revision, r.When.Format("2006-01-02"), r.Machine)
	if len(r.Samples) > 0 {
		runs := len(r.Samples[pseudoAgent])
		fmt.Fprintf(&b, "%d Pods and %d other objects in a %s, median of %d runs, bursts of %d events.\n", r.Pods, r.Others, r.Apiserver, runs, r.Events)
		fmt.Fprintf(&b, "A Pod has %d bytes of JSON, projected %d, compressed %d (%.2f : 1); with deepflow-agent's selection of fields %d, compressed %d.\n\n",
			r.Sizes.JSON, r.Sizes.Projected, r.Sizes.Compressed, r.Sizes.Ratio(), r.Sizes.AgentProjected, r.Sizes.AgentCompressed)
		r.syncTable(&b)
		r.steadyTable(&b)
		if r.ofKube() {
			r.apicostTable(&b)
		} else {
			r.targets(&b)
		}
	}
	if len(r.Curve) > 0 {
		r.curveTable(&b)
	}
	return b.String()
}

// ofKube tells whether this is about a real apiserver. Its traffic is not counted, it has streaming lists always, and the
// targets are not meant for its size.
func (r *Result) ofKube() bool { return r.Apiserver == "kube-apiserver" }

// column is one figure of every subject. Tables are for phones, too: of one subject at most five figures stand side by side.
type column struct {
	title string
	value func(name string) string
}

// table has one row for each subject that was measured.
func (r *Result) table(b *strings.Builder, title string, columns ...column) {
	fmt.Fprintf(b, "| %s |", title)
	for _, c := range columns {
		fmt.Fprintf(b, " %s |", c.title)
	}
	fmt.Fprintf(b, "\n|---|%s\n", strings.Repeat("---:|", len(columns)))
	for _, name := range order {
		if len(r.Samples[name]) == 0 {
			continue
		}
		fmt.Fprintf(b, "| %s |", titles[name])
		for _, c := range columns {
			fmt.Fprintf(b, " %s |", c.value(name))
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
}

// shown is the median of a figure in a format.
func (r *Result) shown(format func(float64) string, figure func(Sample) float64) func(string) string {
	return func(name string) string { return format(r.middle(name, figure)) }
}

func (r *Result) syncTable(b *strings.Builder) {
	columns := []column{
		{"CPU", r.shown(seconds, func(s Sample) float64 { return s.SyncCPU })},
		{"time", r.shown(tenths, func(s Sample) float64 { return s.SyncTime })},
		{"peak RSS", r.shown(megaFloat, func(s Sample) float64 { return float64(s.PeakRSS) })},
		{"live heap", r.shown(megaFloat, func(s Sample) float64 { return float64(s.LiveHeap) })},
	}
	if r.ofKube() {
		r.table(b, "initial sync", append(columns, column{"CPU of the apiserver", r.shown(seconds, func(s Sample) float64 { return s.ApiserverCPU })})...)
		return
	}
	r.table(b, "initial sync", columns...)
	r.table(
		b, "initial sync, read", column{"bytes per object", r.perObject}, column{"requests", r.shown(whole, func(s Sample) float64 { return float64(s.Requests) })},
		column{"read", r.shown(megaFloat, func(s Sample) float64 { return float64(s.BytesRead) })},
		column{"CPU, paged", func(name string) string { return seconds(r.Paged[name].SyncCPU) }},
		column{"peak RSS, paged", func(name string) string { return mega(r.Paged[name].PeakRSS) }},
	)
}

// perObject are the compressed bytes of a report by its objects, of those that report all in one.
func (r *Result) perObject(name string) string {
	n := r.middle(name, func(s Sample) float64 { return float64(s.Entries) })
	if n <= 100 {
		return "–"
	}
	return whole(r.middle(name, func(s Sample) float64 { return float64(s.Payload) }) / n)
}

func (r *Result) steadyTable(b *strings.Builder) {
	reported := func(value func(string) string) func(string) string {
		return func(name string) string {
			if !isAgent(name) && !rival.Reports(name) {
				return "–"
			}
			return value(name)
		}
	}
	r.table(
		b, "events afterwards", column{"CPU per unchanged event", r.shown(micros, func(s Sample) float64 { return s.UnchangedCPU })},
		column{"CPU per changed event", r.shown(micros, func(s Sample) float64 { return s.ChangedCPU })},
		column{"event to acknowledged report", reported(r.shown(seconds, func(s Sample) float64 { return s.Lag }))},
		column{"peak RSS", r.shown(megaFloat, func(s Sample) float64 { return float64(s.LaterRSS) })},
	)
	r.table(
		b, "a report afterwards", column{"CPU", reported(r.shown(millis, func(s Sample) float64 { return s.ReportCPU }))},
		column{"extra RSS", reported(r.shown(megaFloat, func(s Sample) float64 { return float64(s.ReportExtra) }))},
		column{"allocated", reported(r.shown(megaFloat, func(s Sample) float64 { return float64(s.ReportAllocated) }))},
	)
}

// target is one line of what is to be reached.
type target struct {
	what      string
	got, want float64
	format    string
}

// targets holds the results against what was set as the goal.
func (r *Result) targets(b *strings.Builder) {
	ours := func(f func(Sample) float64) float64 { return r.middle(pseudoAgent, f) }
	// Ratios are of one run, then the median of them.
	ratioTo := func(other string, f func(Sample) float64) float64 {
		var values []float64
		for i, s := range r.Samples[other] {
			if i < len(r.Samples[pseudoAgent]) {
				values = append(values, f(r.Samples[pseudoAgent][i])/f(s))
			}
		}
		return median(values)
	}
	ratio := func(f func(Sample) float64) float64 { return ratioTo(rival.Stock, f) }
	if len(r.Samples[pseudoAgent]) == 0 {
		return
	}
	payload := ours(func(s Sample) float64 { return float64(s.Payload) }) / 1e6
	all := []target{
		{"live heap", ours(func(s Sample) float64 { return float64(s.LiveHeap) }) / 1e6, 1.2*payload + 10, "%.0f MB"},
		{"peak RSS of the initial sync", ours(func(s Sample) float64 { return float64(s.PeakRSS) }) / 1e6, 1.6*payload + 60, "%.0f MB"},
		{"extra RSS of a report", ours(func(s Sample) float64 { return float64(s.ReportExtra) }) / 1e6, 10, "%.1f MB"},
		{"allocated by a report", ours(func(s Sample) float64 { return float64(s.ReportAllocated) }) / 1e6, 10, "%.1f MB"},
		{"CPU of a report", 1e3 * ours(func(s Sample) float64 { return s.ReportCPU }), 150, "%.0f ms"},
		{"size of a Pod to that of deepflow-agent's selection", float64(r.Sizes.Compressed) / float64(r.Sizes.AgentCompressed), 0.6, "%.2f"},
		{"zlib ratio of a projected Pod", r.Sizes.Ratio(), 3.5, "%.2f"},
	}
	if len(r.Samples[rival.Stock]) > 0 {
		all = append([]target{
			{"CPU of the initial sync to (a)", ratio(func(s Sample) float64 { return s.SyncCPU }), 1. / 10, "1/%.1f"},
			{"peak RSS of the initial sync to (a)", ratio(func(s Sample) float64 { return float64(s.PeakRSS) }), 1. / 25, "1/%.1f"},
			{"CPU per changed event to (a)", ratio(func(s Sample) float64 { return s.ChangedCPU }), 1. / 7, "1/%.1f"},
			{"CPU per unchanged event to (a)", ratio(func(s Sample) float64 { return s.UnchangedCPU }), 1. / 20, "1/%.1f"},
		}, all...)
	}
	if len(r.Samples[pseudoAgentJSON]) > 0 {
		all = append(
			all, target{"CPU of the initial sync to (f)", ratioTo(pseudoAgentJSON, func(s Sample) float64 { return s.SyncCPU }), 1 / 1.45, "1/%.2f"},
			target{"peak RSS of the initial sync to (f)", ratioTo(pseudoAgentJSON, func(s Sample) float64 { return float64(s.PeakRSS) }), 1, "%.2f"},
			target{"bytes read to (f)", ratioTo(pseudoAgentJSON, func(s Sample) float64 { return float64(s.BytesRead) }), 0.75, "%.2f"},
			target{"CPU per unchanged event", 1e6 * ours(func(s Sample) float64 { return s.UnchangedCPU }), 6, "%.1f µs"},
			target{"CPU per changed event", 1e6 * ours(func(s Sample) float64 { return s.ChangedCPU }), 40, "%.1f µs"},
		)
	}
	if r.List != nil {
		base := r.List.FirstCPU - r.List.ZlibCPU - ours(func(s Sample) float64 { return s.ReportCPU })
		reports := r.List.RelistReports
		for _, s := range r.Samples[pseudoAgent] {
			if s.Relist != nil { // without events there is none
				reports += s.Relist.Reports
			}
		}
		all = append(
			all, target{"CPU of a relist to a list without zlib", r.List.RelistCPU / base, 1.3, "%.2f"},
			target{"reports caused by relists", float64(reports), 0, "%.0f"},
			target{"compression in a relist", 1e3 * r.List.RelistZlibCPU, 0, "%.0f ms"},
		)
	}
	b.WriteString("| target | measured | at most | |\n|---|---:|---:|---|\n")
	for _, t := range all {
		verdict := "reached"
		if t.got > t.want {
			verdict = "**missed**"
		}
		got, want := t.got, t.want
		if strings.HasPrefix(t.format, "1/") {
			got, want = 1/got, 1/want
		}
		fmt.Fprintf(b, "| %s | "+t.format+" | "+t.format+" | %s |\n", t.what, got, want, verdict)
	}
	b.WriteByte('\n')
}

func (r *Result) curveTable(b *strings.Builder) {
	var costs, reports strings.Builder
	for _, p := range r.Curve {
		if p.Name == pseudoAgent {
			s := p.Sample
			fmt.Fprintf(&costs, "| %d | %s | %s | %s |\n", p.Pods, seconds(s.SyncCPU), mega(s.PeakRSS), mega(s.LiveHeap))
			fmt.Fprintf(&reports, "| %d | %d | %s | %d | %s |\n", p.Pods, p.Others, mega(s.Payload), s.Requests, mega(s.BytesRead))
		}
	}
	fmt.Fprintf(b, "| Pods | CPU of the initial sync | peak RSS | live heap |\n|---:|---:|---:|---:|\n%s\n", &costs)
	fmt.Fprintf(b, "| Pods | other objects | one report | requests | read |\n|---:|---:|---:|---:|---:|\n%s", &reports)
}

func whole(v float64) string   { return fmt.Sprintf("%.0f", v) }
func tenths(v float64) string  { return fmt.Sprintf("%.1f s", v) }
func seconds(v float64) string { return fmt.Sprintf("%.2f s", v) }
func millis(v float64) string  { return fmt.Sprintf("%.0f ms", 1e3*v) }
func micros(v float64) string  { return fmt.Sprintf("%.1f µs", 1e6*v) }

func megaFloat(v float64) string { return mega(int64(v)) }

func mega(n int64) string {
	switch v := float64(n) / 1e6; {
	case v >= 9.95:
		return fmt.Sprintf("%.0f MB", v)
	default:
		return fmt.Sprintf("%.1f MB", v)
	}
}

// renew puts the results into the document, and the plot and the JSON beside it.
func (r *Result) renew(doc string) error {
	b, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	begin, end := "<!-- begin "+r.Apiserver+" -->\n", "<!-- end "+r.Apiserver+" -->"
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return errors.New(doc + " has no place for results")
	}
	if len(r.Curve) > 0 {
		if err := os.WriteFile(filepath.Join(filepath.Dir(doc), "performance.svg"), r.svg(), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(doc, []byte(before+begin+r.text()+end+after), 0o644)
}
