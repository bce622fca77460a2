package operate

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// style is what all pages of both programs share.
//
//go:embed style.css
var style []byte

//go:embed status.html
var statusPage string

// script renews the status page; without it a browser loads the page again.
//
//go:embed status.js
var script []byte

// statusTemplates are the page in each language.
var statusTemplates = map[*language]*template.Template{english: statusTemplate(english), chinese: statusTemplate(chinese)}

func statusTemplate(l *language) *template.Template {
	return template.Must(template.New("status").Funcs(template.FuncMap{
		"time": showTime, "ago": l.ago, "span": func(now, t time.Time) string { return l.span(now.Sub(t)) }, "cell": l.cell, "t": l.t, "say": l.say, "what": l.what,
		"x": func(i int) int { return i * stageStep }, "last": func(list []Stage) int { return len(list) - 1 },
	}).Parse(statusPage))
}

// pagePolicy allows the style sheet, the script, and that this one asks the program itself.
const pagePolicy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; " +
	"frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

func serveStyle(w http.ResponseWriter, _ *http.Request) { serveFile(w, "text/css", style) }

func serveScript(w http.ResponseWriter, _ *http.Request) { serveFile(w, "text/javascript", script) }

func serveFile(w http.ResponseWriter, kind string, text []byte) {
	w.Header().Set("Content-Type", kind+"; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(text) // the client has gone away; there is nobody to tell
}

// section is a part of the page: values first, then lists of objects as tables.
type section struct {
	Name   string
	Fields []field
	Tables []grid
}

// field is a value; Exact is shown when one points at it.
type field struct{ Name, Text, Tone, Exact string }

type grid struct {
	Name   string
	Header []string
	Rows   [][]field
}

// tones colour words that states are made of.
var tones = map[string]string{
	"ok": "good", "synced": "good", "reporting": "good", "connected": "good", "active": "good", "warning": "warn", "pending": "warn", "listing": "warn",
	"notserved": "quiet", "failure": "bad", "failing": "bad", "forbidden": "bad", "stopped": "bad", "error": "bad",
}

func tone(text string) string { return tones[strings.ToLower(text)] }

// stageStep is the width of a stage with the arrow that follows it, in the units of the picture.
const stageStep = 195

func showTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// html is the status page for browsers, with the details open or folded. Everything in it is escaped by html/template.
func (st Status) html(l *language, open bool) ([]byte, error) {
	sections := make([]section, 0, len(st.Parts))
	for name, part := range st.Parts {
		sections = append(sections, sectionOf(name, part))
	}
	slices.SortFunc(sections, func(a, b section) int { return strings.Compare(a.Name, b.Name) })
	var out bytes.Buffer
	for i := range sections {
		sections[i].humanise(l, st.Now)
	}
	err := statusTemplates[l].Execute(&out, map[string]any{
		"Status": st, "Sections": sections, "Tone": tone(st.State), "Up": l.span(st.Now.Sub(st.Started)), "Language": l.Tag,
		"Way": st.overview.Way, "Held": st.held(), "WayWidth": len(st.overview.Way) * stageStep, "Lag": st.overview.Lag.draw(l, st.Now), "Listing": st.overview.Listing, "Open": open,
	})
	return out.Bytes(), err
}

// sectionOf turns what a part says, as it looks in JSON, into values and tables.
func sectionOf(name string, part any) section {
	s := section{Name: name}
	text, err := json.Marshal(part)
	var members []member
	if err == nil {
		members, err = ordered(text)
	}
	if err != nil {
		s.Fields = []field{{Name: "error", Text: "cannot be shown: " + err.Error(), Tone: "bad"}}
		return s
	}
	s.add("", members)
	return s
}

// humanise replaces times by how long ago they were, and numbers of bytes by sizes; what they were stays in Exact.
func (s *section) humanise(l *language, now time.Time) {
	for i := range s.Fields {
		s.Fields[i].humanise(l, now)
	}
	for _, g := range s.Tables {
		for _, row := range g.Rows {
			for i := range row {
				row[i].humanise(l, now)
			}
		}
	}
}

func (f *field) humanise(l *language, now time.Time) {
	if t, err := time.Parse(time.RFC3339Nano, f.Text); err == nil {
		f.Text, f.Exact = l.ago(now, t), showTime(t)
		return
	}
	if n, err := strconv.ParseInt(f.Text, 10, 64); err == nil && strings.HasSuffix(f.Name, "bytes") && n >= 0 {
		f.Text, f.Exact = Bytes(n), l.t("exactBytes", f.Text)
	}
}

func (s *section) add(prefix string, members []member) {
	for _, m := range members {
		name := prefix + strings.ReplaceAll(m.key, "_", " ")
		if inner, err := ordered(m.value); err == nil {
			s.add(name+": ", inner)
			continue
		}
		if g, ok := gridOf(name, m.value); ok {
			s.Tables = append(s.Tables, g)
			continue
		}
		text := plain(m.value)
		s.Fields = append(s.Fields, field{Name: name, Text: text, Tone: tone(text)})
	}
}

// member is a member of a JSON object.
type member struct {
	key   string
	value json.RawMessage
}

// ordered returns the members of a JSON object in their order.
func ordered(text []byte) ([]member, error) {
	if text = bytes.TrimSpace(text); len(text) == 0 || text[0] != '{' {
		return nil, errors.New("no object")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return nil, err //nolint:wrapcheck // of JSON that was made here
	}
	var members []member
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err //nolint:wrapcheck // of JSON that was made here
		}
		m := member{}
		m.key, _ = key.(string)
		if err := dec.Decode(&m.value); err != nil {
			return nil, err //nolint:wrapcheck // of JSON that was made here
		}
		members = append(members, m)
	}
	return members, nil
}

// gridOf makes a table of a list of objects.
func gridOf(name string, text []byte) (grid, bool) {
	var list []json.RawMessage
	if json.Unmarshal(text, &list) != nil || len(list) == 0 {
		return grid{}, false
	}
	g := grid{Name: name}
	rows := make([]map[string]field, 0, len(list))
	for _, item := range list {
		members, err := ordered(item)
		if err != nil {
			return grid{}, false
		}
		row := map[string]field{}
		for _, m := range members {
			title := strings.ReplaceAll(m.key, "_", " ")
			if !slices.Contains(g.Header, title) {
				g.Header = append(g.Header, title)
			}
			value := plain(m.value)
			row[title] = field{Name: title, Text: value, Tone: tone(value)}
		}
		rows = append(rows, row)
	}
	for _, row := range rows {
		line := make([]field, len(g.Header))
		for i, title := range g.Header {
			line[i] = row[title]
		}
		g.Rows = append(g.Rows, line)
	}
	return g, true
}

// plain is a value of JSON as people write it: without quotes and braces.
func plain(text json.RawMessage) string {
	var s string
	if json.Unmarshal(text, &s) == nil {
		return s
	}
	var list []json.RawMessage
	if json.Unmarshal(text, &list) == nil && list != nil {
		texts := make([]string, len(list))
		for i, item := range list {
			texts[i] = plain(item)
		}
		return strings.Join(texts, ", ")
	}
	if members, err := ordered(text); err == nil {
		texts := make([]string, len(members))
		for i, m := range members {
			texts[i] = strings.ReplaceAll(m.key, "_", " ") + " " + plain(m.value)
		}
		return strings.Join(texts, ", ")
	}
	return string(text)
}
