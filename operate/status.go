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

func gravity(s Severity) int {
	if s == Failure {
		return 1
	}
	return 0
}

// serveStatus answers in JSON, or with ?format= or to a client that asks for it as text/plain or text/html.
func (s *Server) serveStatus(w http.ResponseWriter, r *http.Request) {
	st, l := s.Status(), languageOf(r)
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
	w.Header().Add("Vary", "Accept, Accept-Language")
	switch format {
	case "", "json":
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(st) // the client has gone away; there is nobody to tell
	case "text":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = fmt.Fprint(w, st.text(l))
	case "html":
		page, err := st.html(l, r.URL.Query().Get("details") == "open")
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
func (st Status) Text() string { return st.text(english) }

func (st Status) text(l *language) string {
	var b strings.Builder
	verdict := st.Program + " " + st.Build.Version + l.t("colon") + strings.ToUpper(l.t(st.State))
	if st.Summary != "" {
		verdict += " - " + l.say(st.Summary)
	}
	b.WriteString(wrap(verdict, textWidth, "  "))
	b.WriteString("\n" + l.t("upSince", l.span(st.Now.Sub(st.Started)), showTime(st.Started)) + "\n")
	for _, p := range st.Problems {
		b.WriteString("\n" + wrap(l.t("severityIn", strings.ToUpper(l.t(string(p.Severity))), p.Part, l.what(p)), textWidth, "  ") + "\n")
		if !p.Since.IsZero() {
			line(&b, l.t("since"), fmt.Sprintf("%s (%s)", l.ago(st.Now, p.Since), showTime(p.Since)))
		}
		line(&b, l.t("meansShort"), l.say(p.Means))
		line(&b, l.t("doShort"), l.say(p.Advice))
		if p.Command != "" {
			// Not broken: it is to be copied.
			fmt.Fprintf(&b, "  %s%s\n", label(l.t("runShort")), p.Command)
		}
	}
	st.overviewText(l, &b)
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

// label is the name of a line, as wide as all are.
func label(name string) string {
	const wide = 7
	return name + strings.Repeat(" ", max(1, wide-width(name)))
}

// line writes a line with a name; nothing for an empty text. A long one goes on below itself.
func line(b *strings.Builder, name, text string) {
	const indent = "         "
	if text != "" {
		b.WriteString("  " + label(name) + wrap(text, textWidth-len(indent), indent) + "\n")
	}
}

func (st Status) overviewText(l *language, b *strings.Builder) {
	o := &st.overview
	var rows [][]string
	for i, s := range o.Way {
		arrow := "→ "
		if i == 0 {
			arrow = "  "
		}
		row := []string{arrow + l.say(s.Name), l.say(s.State), l.say(s.Number), ""}
		if !s.Since.IsZero() {
			row[3] = l.ago(st.Now, s.Since)
		}
		if i == st.held() {
			row[1] += " !"
		}
		rows = append(rows, row)
	}
	if len(rows) > 0 {
		b.WriteString("\n" + l.t("way") + "\n" + columns(rows))
	}
	if d := o.Lag.draw(l, st.Now); d != nil {
		b.WriteString("  " + wrap(d.Words, textWidth-2, "  ") + "\n")
	}
	if o.Listing == nil {
		return
	}
	titles := make([]string, len(o.Listing.Header))
	for i, h := range o.Listing.Header {
		titles[i] = l.say(h)
	}
	rows = [][]string{titles}
	for _, r := range o.Listing.Rows {
		row := make([]string, len(r.Cells))
		for i, c := range r.Cells {
			row[i] = l.cell(c, st.Now)
		}
		rows = append(rows, row)
	}
	b.WriteString("\n" + l.say(o.Listing.Name) + "\n" + columns(rows))
}

// held is the place of the stage that holds things up, -1 if none does: the first that is in trouble.
func (st Status) held() int {
	return slices.IndexFunc(st.overview.Way, func(s Stage) bool { return s.Tone == Bad || s.Tone == Warn })
}
