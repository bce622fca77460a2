package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"os"
	"strings"
)

// Pictures are as wide as a phone's page, so that their texts can be read there; colours follow the reader's choice of light or dark.
const (
	pictureWidth = 360
	pictureStyle = `<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.name { font-weight: 600; text-anchor: middle }
.soft { fill: #57606a }
.box { fill: #f6f8fa; stroke: #57606a }
.held { fill: #b6e3ff; stroke: #0969da }
.line { stroke: #57606a; fill: none; stroke-width: 1.5 }
.head { fill: #57606a }
.page { fill: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.soft { fill: #9da7b3 }
.box { fill: #21262d; stroke: #9da7b3 }
.held { fill: #0c2d6b; stroke: #58a6ff }
.line { stroke: #9da7b3 }
.head { fill: #9da7b3 }
.page { fill: #0d1117 }
}
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="head" d="M0,0 L8,4 L0,8 z"/></marker></defs>
`
)

// picture collects the shapes of one drawing.
type picture struct {
	title string
	body  strings.Builder
}

func (p *picture) text(x, y int, class, text string) {
	fmt.Fprintf(&p.body, "<text x=\"%d\" y=\"%d\" class=%q>%s</text>\n", x, y, class, html.EscapeString(text))
}

// box draws a rectangle 30 high with its name in the middle.
func (p *picture) box(x, y, width int, class, name string) {
	fmt.Fprintf(&p.body, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"30\" rx=\"5\" class=%q/>\n", x, y, width, class)
	p.text(x+width/2, y+20, "name", name)
}

func (p *picture) arrow(points ...int) {
	var at []string
	for i := 0; i < len(points); i += 2 {
		at = append(at, fmt.Sprintf("%d,%d", points[i], points[i+1]))
	}
	fmt.Fprintf(&p.body, "<polyline class=\"line\" marker-end=\"url(#head)\" points=%q/>\n", strings.Join(at, " "))
}

func (p *picture) svg(height int) []byte {
	return fmt.Appendf(nil, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" aria-label=%q>\n%s<rect class=\"page\" width=\"%d\" height=\"%d\"/>\n%s</svg>\n",
		pictureWidth, height, pictureWidth, height, p.title, pictureStyle, pictureWidth, height, p.body.String())
}

// architecturePicture draws who talks to whom.
func architecturePicture() ([]byte, error) {
	p := &picture{title: "The apiserver is watched by pseudo-agent alone, which reports to deepflow-server, or to a pseudo-server in front of it"}
	p.box(20, 12, 320, "box", "kube-apiserver")
	p.arrow(180, 42, 180, 96)
	p.text(190, 74, "soft", "list, watch: once")
	p.box(20, 98, 320, "held", "pseudo-agent, one per cluster")
	p.arrow(100, 128, 100, 182)
	p.text(110, 150, "soft", "whole snapshots, Sync")
	p.box(20, 184, 240, "held", "pseudo-server (if you want)")
	p.arrow(300, 128, 300, 268)
	p.text(268, 234, "soft", "or")
	p.arrow(100, 214, 100, 268)
	p.text(110, 246, "soft", "mended, elected")
	p.box(20, 270, 320, "box", "deepflow-server")
	p.arrow(180, 356, 180, 302)
	p.text(190, 334, "soft", "Sync, data")
	p.box(20, 358, 320, "box", "deepflow-agents of the nodes")
	p.text(20, 410, "soft", "They need no access to the apiserver. With")
	p.text(20, 428, "soft", "pseudo-server they Sync through it, too.")
	return p.svg(440), nil
}

// reporterStates are the states of reporter.table, in its order, and when the machine is in each.
var reporterStates = []struct{ name, when string }{
	{"disabled", "the policy is watch-disabled"},
	{"standby", "another replica leads"},
	{"connecting", "no connection"},
	{"naming", "the cluster id is not known"},
	{"idle", "the server wants no report"},
	{"probing", "what does the server hold?"},
	{"telling", "an error, content kept back"},
	{"waiting", "not everything is listed"},
	{"reporting", "the server is behind"},
	{"synced", "heartbeats; a change: up one"},
}

// statesPicture draws the reporter: the first state whose condition holds, from above, is the one it is in.
func statesPicture() ([]byte, error) {
	p := &picture{title: "States of the reporter: from above, the first whose condition holds; any failure leads to connecting"}
	const step = 48
	for i, s := range reporterStates {
		y := 12 + i*step
		class := "box"
		if s.name == "synced" {
			class = "held"
		}
		p.box(44, y, 104, class, s.name)
		p.text(158, y+20, "soft", s.when)
		if i+1 < len(reporterStates) {
			p.arrow(96, y+30, 96, y+step-1)
		}
	}
	bottom := 12 + (len(reporterStates)-1)*step + 15
	p.arrow(44, bottom, 18, bottom, 18, 12+2*step+15, 42, 12+2*step+15)
	p.text(18, bottom+36, "soft", "Left: any failure drops the connection.")
	return p.svg(bottom + 48), nil
}

// electionPicture draws the three ways in which the role of the watcher is handed over, minutes from left to right.
func electionPicture() ([]byte, error) {
	p := &picture{title: "Time line of the election: the next watcher begins only when the one before it has certainly stopped"}
	bar := func(x, y, width int, class, name string) {
		p.box(x, y, width, class, name)
	}
	p.text(20, 24, "", "It says goodbye")
	bar(20, 34, 120, "held", "A watches")
	bar(144, 34, 196, "held", "B watches")
	p.text(20, 82, "soft", "The role is free at once.")

	p.text(20, 122, "", "It is told to stop: B has a higher rank")
	bar(20, 132, 120, "held", "A watches")
	bar(144, 132, 70, "box", "told")
	bar(218, 132, 122, "held", "B watches")
	p.text(20, 180, "soft", "Free at A's next Sync, one minute later.")

	p.text(20, 220, "", "It falls silent")
	bar(20, 230, 80, "held", "A watches")
	bar(104, 230, 150, "box", "elector.ttl, 10 min")
	bar(258, 230, 82, "held", "B")
	p.text(20, 278, "soft", "Nobody else watches before the lease ends;")
	p.text(20, 296, "soft", "the server keeps what it has.")
	p.arrow(20, 316, 340, 316)
	p.text(20, 336, "soft", "time (not to scale)")
	return p.svg(348), nil
}

// panel is what the picture shows of a panel of a Grafana dashboard.
type panel struct {
	Title string
	Type  string // "row" begins a section
}

func dashboardPanels() ([]panel, error) {
	data, err := os.ReadFile("charts/pseudo-agent/dashboards/pseudo-agent.json")
	if err != nil {
		return nil, fmt.Errorf("read the dashboard: %w", err)
	}
	var dashboard struct{ Panels []panel }
	if err := json.Unmarshal(data, &dashboard); err != nil {
		return nil, fmt.Errorf("dashboard: %w", err)
	}
	if len(dashboard.Panels) == 0 {
		return nil, errors.New("the dashboard has no panels")
	}
	return dashboard.Panels, nil
}

// dashboardPicture draws which panels the dashboard of pseudo-agent has, two side by side: numbers as they are now in another
// colour than curves.
func dashboardPicture() ([]byte, error) {
	panels, err := dashboardPanels()
	if err != nil {
		return nil, err
	}
	const (
		width, height, gap = 156, 66, 8
		letters            = 20 // of a title's line
	)
	p := &picture{title: "The panels of pseudo-agent's dashboard, by section; coloured ones are numbers as they are now, the others curves"}
	y, column := 12, 0
	for _, panel := range panels {
		if panel.Type == "row" {
			y += column * (height + gap)
			column = 0
			p.text(20, y+18, "", panel.Title)
			y += 28
			continue
		}
		x, class := 20+column*(width+gap), "box"
		if panel.Type == "stat" {
			class = "held"
		}
		fmt.Fprintf(&p.body, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"5\" class=%q/>\n", x, y, width, height, class)
		for i, line := range wrapped(panel.Title, letters) {
			p.text(x+8, y+20+17*i, "soft", line)
		}
		if column++; column == 2 {
			y, column = y+height+gap, 0
		}
	}
	return p.svg(y + column*(height+gap) + 4), nil
}

// wrapped divides a text into lines of at most so many letters, as far as its words allow.
func wrapped(text string, letters int) []string {
	var lines []string
	for word := range strings.FieldsSeq(text) {
		if n := len(lines); n > 0 && len(lines[n-1])+1+len(word) <= letters {
			lines[n-1] += " " + word
			continue
		}
		lines = append(lines, word)
	}
	return lines
}
