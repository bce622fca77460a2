package operate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Build says which build of a program runs.
type Build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
}

// NewBuild returns the Build of this process for a version and revision that the linker stamped, or not.
func NewBuild(version, revision string) Build {
	return Build{Version: version, Revision: revision, Go: runtime.Version()}
}

// Status is the whole status page.
type Status struct {
	Program string    `json:"program"`
	Build   Build     `json:"build"`
	Started time.Time `json:"started"`
	Now     time.Time `json:"now"`
	// State is "ok", or the severity of the gravest problem.
	State    string         `json:"state"`
	Summary  string         `json:"summary,omitempty"`
	Problems []Problem      `json:"problems"`
	Parts    map[string]any `json:"parts"`

	overview Overview
}

// Status collects what all parts say now.
func (s *Server) Status() Status {
	st := Status{
		Program:  s.opts.Program,
		Build:    s.opts.Build,
		Started:  s.started,
		Now:      s.opts.Now(),
		State:    "ok",
		Problems: []Problem{},
		Parts:    make(map[string]any, len(s.opts.Parts)),
	}
	if s.opts.Summary != nil {
		st.Summary = s.opts.Summary()
	}
	if s.opts.Overview != nil {
		st.overview = s.opts.Overview()
	}
	for _, p := range s.opts.Parts {
		if p.Status != nil {
			st.Parts[p.Name] = p.Status()
		}
		if p.Problems == nil {
			continue
		}
		for _, problem := range p.Problems() {
			problem.Part = p.Name
			st.Problems = append(st.Problems, problem)
		}
	}
	st.Problems = grouped(st.Problems)
	slices.SortStableFunc(st.Problems, func(a, b Problem) int { return gravity(b.Severity) - gravity(a.Severity) })
	if len(st.Problems) > 0 {
		st.State = string(st.Problems[0].Severity)
	}
	return st
}

// grouped makes one problem of those with one cause, where the first of them stands.
func grouped(problems []Problem) []Problem {
	type cause struct {
		severity                          Severity
		part, what, means, advice, remedy string
	}
	places := map[cause]int{}
	out := make([]Problem, 0, len(problems))
	for _, p := range problems {
		if p.Subject == "" {
			out = append(out, p)
			continue
		}
		c := cause{p.Severity, p.Part, p.What, p.Means, p.Advice, p.Command}
		i, known := places[c]
		if !known {
			i = len(out)
			places[c] = i
			out = append(out, p)
		}
		first := &out[i]
		first.Subjects = append(first.Subjects, p.Subject)
		if first.Since.IsZero() || !p.Since.IsZero() && p.Since.Before(first.Since) {
			first.Since = p.Since
		}
	}
	for _, i := range places {
		slices.Sort(out[i].Subjects)
		out[i].What = some(out[i].Subjects) + ": " + out[i].What
	}
	return out
}

// some names the first three and counts the others.
func some(names []string) string {
	const shown = 3
	if len(names) <= shown+1 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}

func gravity(s Severity) int {
	if s == Failure {
		return 1
	}
	return 0
}

// serveStatus answers in JSON, or with ?format= or to a client that asks for it as text/plain or text/html.
func (s *Server) serveStatus(w http.ResponseWriter, r *http.Request) {
	st := s.Status()
	format := r.URL.Query().Get("format")
	if format == "" && strings.HasPrefix(r.Header.Get("Accept"), "text/plain") {
		format = "text"
	}
	// Browsers name text/html first.
	if format == "" && strings.HasPrefix(r.Header.Get("Accept"), "text/html") {
		format = "html"
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch format {
	case "", "json":
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(st) // the client has gone away; there is nobody to tell
	case "text":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = fmt.Fprint(w, st.Text())
	case "html":
		page, err := st.html(r.URL.Query().Get("details") == "open")
		if err != nil {
			http.Error(w, "the page cannot be made: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", pagePolicy)
		_, _ = w.Write(page) // as above
	default:
		http.Error(w, fmt.Sprintf("format=%q is unknown: use json, text or html", format), http.StatusBadRequest)
	}
}

// textWidth is the width of the status page as text, in characters.
const textWidth = 100

// Text is the status page for people, 100 columns wide: the verdict first, then what is wrong and what to do, the way of
// the data, then every part.
func (st Status) Text() string {
	var b strings.Builder
	verdict := fmt.Sprintf("%s %s: %s", st.Program, st.Build.Version, strings.ToUpper(st.State))
	if st.Summary != "" {
		verdict += " - " + st.Summary
	}
	b.WriteString(wrap(verdict, textWidth, "  "))
	fmt.Fprintf(&b, "\nup %s, since %s\n", Span(st.Now.Sub(st.Started)), showTime(st.Started))
	for _, p := range st.Problems {
		b.WriteString("\n" + wrap(fmt.Sprintf("%s in %s: %s", strings.ToUpper(string(p.Severity)), p.Part, p.What), textWidth, "  ") + "\n")
		if !p.Since.IsZero() {
			fmt.Fprintf(&b, "  since  %s (%s)\n", Ago(st.Now, p.Since), showTime(p.Since))
		}
		for _, line := range [][2]string{{"means", p.Means}, {"do", p.Advice}} {
			if line[1] != "" {
				fmt.Fprintf(&b, "  %-6s %s\n", line[0], wrap(line[1], textWidth-9, "         "))
			}
		}
		if p.Command != "" {
			fmt.Fprintf(&b, "  run    %s\n", p.Command)
		}
	}
	st.overviewText(&b)
	names := make([]string, 0, len(st.Parts))
	for name := range st.Parts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		text, err := yaml.Marshal(st.Parts[name])
		if err != nil {
			text = fmt.Appendf(nil, "cannot be shown: %v\n", err)
		}
		fmt.Fprintf(&b, "\n%s\n", name)
		for line := range strings.Lines(string(text)) {
			b.WriteString("  ")
			b.WriteString(line)
		}
	}
	return b.String()
}

func (st Status) overviewText(b *strings.Builder) {
	o := &st.overview
	var rows [][]string
	for i, s := range o.Way {
		arrow := "→ "
		if i == 0 {
			arrow = "  "
		}
		row := []string{arrow + s.Name, s.State, s.Number, ""}
		if !s.Since.IsZero() {
			row[3] = Ago(st.Now, s.Since)
		}
		if i == st.held() {
			row[1] += " !"
		}
		rows = append(rows, row)
	}
	if len(rows) > 0 {
		b.WriteString("\nthe way of the data\n" + columns(rows))
	}
	if d := o.Lag.draw(st.Now); d != nil {
		b.WriteString("  " + wrap(d.Words, textWidth-2, "  ") + "\n")
	}
	if o.Listing == nil {
		return
	}
	rows = [][]string{o.Listing.Header}
	for _, r := range o.Listing.Rows {
		row := make([]string, len(r.Cells))
		for i, c := range r.Cells {
			row[i] = c.text(st.Now)
		}
		rows = append(rows, row)
	}
	b.WriteString("\n" + o.Listing.Name + "\n" + columns(rows))
}

// held is the place of the stage that holds things up, -1 if none does: the first that is in trouble.
func (st Status) held() int {
	return slices.IndexFunc(st.overview.Way, func(s Stage) bool { return s.Tone == Bad || s.Tone == Warn })
}
