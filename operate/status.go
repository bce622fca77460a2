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
	slices.SortStableFunc(st.Problems, func(a, b Problem) int { return gravity(b.Severity) - gravity(a.Severity) })
	if len(st.Problems) > 0 {
		st.State = string(st.Problems[0].Severity)
	}
	return st
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
		page, err := st.html()
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

// Text is the status page for people: the verdict first, then what is wrong and what to do, then every part.
func (st Status) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %s", st.Program, st.Build.Version, strings.ToUpper(st.State))
	if st.Summary != "" {
		fmt.Fprintf(&b, " - %s", st.Summary)
	}
	fmt.Fprintf(&b, "\nup %s, since %s\n", st.Now.Sub(st.Started).Round(time.Second), st.Started.UTC().Format(time.RFC3339))
	for _, p := range st.Problems {
		fmt.Fprintf(&b, "\n%s in %s: %s\n", strings.ToUpper(string(p.Severity)), p.Part, p.What)
		if !p.Since.IsZero() {
			fmt.Fprintf(&b, "  since  %s (%s)\n", p.Since.UTC().Format(time.RFC3339), st.Now.Sub(p.Since).Round(time.Second))
		}
		if p.Advice != "" {
			fmt.Fprintf(&b, "  do     %s\n", p.Advice)
		}
	}
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
