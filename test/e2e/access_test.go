package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// TestAccessible looks with axe-core at every view of both programs: in both languages, in light and dark, on a phone and on a
// desk. $E2E_LOOKS is a folder that gets a picture of each.
func TestAccessible(t *testing.T) {
	b := &views{browser: openBrowser(t), axe: axeCore(t)}
	if b.axe == "" {
		t.Skip("there is no npm, which brings axe-core")
	}
	p := newPair(t, options{})
	load(t, nil)
	p.start()
	p.synced(time.Minute)
	of := p.server.HTTP + "/#/c/" + p.clusterID
	for _, v := range []struct{ name, url, ready string }{
		{"the agent's status", p.agent.HTTP + "/status?format=html&details=open", `document.querySelector("svg.way")`},
		{"the server's status", p.server.HTTP + "/status?format=html&details=open", `document.querySelector("details")`},
		{"clusters", p.server.HTTP + "/", `document.querySelector("main td a")`},
		{"overview", of + "/overview", `document.querySelector(".panels")`},
		{"search", of + "/find/web", `document.querySelector(".found")`},
		{"tree", of + "/tree", `document.querySelector("[role=treeitem]")`},
		{"map", of + "/map/shop", `document.querySelector(".picture .box")`},
		{"object", of + "/object/*v1.Deployment/shop/web", `document.querySelector(".picture .box.focus")`},
		{"dropped", of + "/dropped", `document.querySelector("main details")`},
		{"watcher", of + "/watcher", `document.querySelector("main table td")`},
		{"versions", of + "/versions", `document.querySelector("ol.time li")`},
		{"changes", of + "/changes", `document.querySelector("main h2")`},
		{"services", of + "/services", `document.querySelector("tbody a")`},
		{"nodes", of + "/nodes", `document.querySelector("tbody a")`},
	} {
		for _, language := range []string{"en", "zh"} {
			b.open(v.name+" in "+language, v.url, language, v.ready)
			for _, l := range []look{{scheme: "light", width: 375}, {scheme: "light", width: 1400}, {scheme: "dark", width: 375}, {scheme: "dark", width: 1400}} {
				what := fmt.Sprintf("%s, %s, %s, %d pixels", v.name, language, l.scheme, l.width)
				b.do("look at "+what, emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}}),
					chromedp.EmulateViewport(l.width, 900), chromedp.Evaluate(`document.querySelectorAll("details").forEach((d) => d.open = true)`, nil),
					chromedp.Sleep(200*time.Millisecond))
				b.accessible(b.axe, what)
				b.inside(what)
				b.keep(what)
			}
		}
	}
}

// keep writes a picture of what is shown to the folder that $E2E_LOOKS names.
func (v *views) keep(what string) {
	v.t.Helper()
	folder := os.Getenv("E2E_LOOKS")
	if folder == "" {
		return
	}
	var picture []byte
	v.do("picture of "+what, chromedp.CaptureScreenshot(&picture))
	name := strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(what) + ".png"
	if err := errors.Join(os.MkdirAll(folder, 0o755), os.WriteFile(filepath.Join(folder, name), picture, 0o644)); err != nil {
		v.t.Fatal(err)
	}
}

// axeCore is the source of axe-core, empty without npm.
func axeCore(t *testing.T) string {
	t.Helper()
	axe, err := harness.Axe(t.Context())
	if err != nil && !errors.Is(err, harness.ErrNoNPM) {
		t.Fatal(err)
	}
	return axe
}

// accessible looks with axe-core at what is shown. The page was opened without its policy, which forbids how axe-core makes
// functions.
func (b *browser) accessible(axe, what string) {
	b.t.Helper()
	var result string
	b.do("axe-core", chromedp.Evaluate(axe+";0", nil), chromedp.Evaluate(
		`axe.run(document, {resultTypes: ["violations"]}).then((r) => JSON.stringify(r.violations.map((v) => ({id: v.id, help: v.help, nodes: v.nodes.slice(0, 3).map((n) => n.html.slice(0, 300) + " " + (n.any[0]?.message || ""))}))))`,
		&result, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	var found []struct {
		ID, Help string
		Nodes    []string
	}
	if err := json.Unmarshal([]byte(result), &found); err != nil {
		b.t.Fatalf("%v: %s", err, result)
	}
	for _, f := range found {
		text := fmt.Sprintf("%s: %s: %s", what, f.ID, f.Help)
		for _, n := range f.Nodes {
			text += "\n    " + n
		}
		b.t.Error(text)
	}
}
