package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// keyed is what the keyboard does with a control that has the focus.
type keyed struct {
	keys  []string
	first string // is evaluated before; what it gives is then was
	want  string // holds afterwards; it is the control
}

// enter is a control that Enter acts on.
func enter(want string) keyed { return keyed{keys: []string{kb.Enter}, want: want} }

// chosen is a list of which another item is taken.
func chosen(want string) keyed {
	return keyed{keys: []string{kb.ArrowDown}, first: `it.value`, want: want}
}

const saved = `(() => { const make = URL.createObjectURL; URL.createObjectURL = (b) => { window.saved = b; return make.call(URL, b); }; return 0; })()`

// controls are all that the pages have, as controlsOf names them.
var controls = map[string]keyed{
	"input#everywhere": {keys: []string{"w", "x", kb.Enter}, want: `location.hash.endsWith("/find/wx")`},
	"button#language":  enter(`document.documentElement.lang.startsWith("zh")`),
	"button#login":     enter(`document.activeElement.id === "token"`),
	"input#token":      {keys: []string{"t", kb.Enter}, want: `sessionStorage.getItem("token") === "t" && !document.querySelector("dialog[open]")`},
	"button#auth-ok":   {keys: []string{kb.Enter}, first: `document.querySelector("#token").value = "u"`, want: `sessionStorage.getItem("token") === "u"`},
	"button#auth-none": {keys: []string{kb.Enter}, first: `sessionStorage.setItem("token", "v")`, want: `sessionStorage.getItem("token") === null`},

	// Links are followed: see press.
	"link": {}, "tab": {}, "bar of a version": {}, "box": {},
	"title":   enter(`document.querySelector("main th[aria-sort]")`),
	"summary": {keys: []string{kb.Enter}, first: `it.parentElement.open`, want: `it.parentElement.open !== was`},
	"CSV":     {keys: []string{kb.Enter}, first: saved, want: `window.saved?.type === "text/csv"`},
	"JSON":    {keys: []string{kb.Enter}, first: saved, want: `window.saved?.type === "application/json"`},
	"copy":    enter(`document.querySelector("#live").textContent.startsWith("Copied")`),
	"region":  {keys: []string{kb.End}, want: `it.scrollTop > 0 || it.scrollHeight - it.clientHeight < 2`},

	"tree": {keys: []string{kb.Home, kb.ArrowDown}, want: `document.querySelector("[role=treeitem][aria-selected=true]").id === "row-1"`},
	// Rows, and what opens one, belong to the tree, which has their keys: TestPage presses all of them.
	"treeitem": {keys: []string{kb.Home, "c"}, want: `document.querySelector("#live").textContent.startsWith("Copied")`},

	"clusters: input search":   {keys: []string{"k", "e", "y"}, want: `document.querySelectorAll("main tbody tr").length === 1`},
	"clusters: select":         chosen(`location.hash.startsWith("#/trouble/")`),
	"clusters: button More":    {keys: []string{kb.Enter}, want: `document.querySelectorAll("main tbody tr").length > 100`},
	"tree: input search":       {keys: []string{"0", "1"}, want: `document.querySelector("main [role=status]").textContent.includes("contain it")`},
	"tree: select":             chosen(`it.value !== was`),
	"tree: button Open all":    enter(`document.querySelector("[role=treeitem][aria-level='3']")`),
	"map: input search":        {keys: []string{"a", kb.Enter}, want: `document.activeElement.matches(".picture .hit")`},
	"map: select":              {keys: []string{kb.ArrowUp}, first: `it.value`, want: `location.hash.includes("/map/") && document.querySelector("main select").value !== was`},
	"services: input search":   {keys: []string{"0", "2", "0", "4"}, want: `document.querySelectorAll("main tbody tr:not(.gap)").length === 1`},
	"nodes: input search":      {keys: []string{"x", "y"}, want: `document.querySelectorAll("main tbody tr:not(.gap)").length === 0`},
	"versions: select":         chosen(`it.value !== was`),
	"versions: button Compare": enter(`/versions\/\d+\/\d+/.test(location.hash)`),
	"compare: select":          chosen(`it.value !== was`),
	"compare: button Compare":  enter(`/versions\/\d+\/\d+/.test(location.hash)`),
	"compare: button More":     {keys: []string{kb.Enter}, first: `document.querySelectorAll("main details").length`, want: `document.querySelectorAll("main details").length > was`},
	"versions: button More":    {keys: []string{kb.Enter}, first: `document.querySelectorAll("main details").length`, want: `document.querySelectorAll("main details").length > was`},
	"dropped: button More":     {keys: []string{kb.Enter}, first: `document.querySelectorAll("main td").length`, want: `document.querySelectorAll("main td").length > was`},
	"status: button Copy":      enter(`document.querySelector("button.copy-it").textContent === "Copied"`),
}

// controlsOf finds all that can be operated, by the keyboard or by the mouse, and names it.
const controlsOf = `(view) => {
	const named = (e) => {
		const tag = e.tagName.toLowerCase(), label = e.getAttribute("aria-label") || e.textContent;
		if (e.matches("[role=treeitem]")) return "treeitem";
		if (e.matches("[role=tree]")) return "tree";
		if (e.matches(".picture .box")) return "box";
		if (e.closest("svg.strip")) return "bar of a version";
		if (e.matches("nav a")) return "tab";
		if (tag === "a") return "link";
		if (tag === "summary") return "summary";
		if (e.closest("th") && tag === "button") return "title";
		if (e.matches(".copy-name")) return "copy";
		if (e.matches("button.small")) return e.textContent;
		if (e.id && e.id !== "object") return tag + "#" + e.id;
		if (tag === "button") return view + ": button " + e.textContent;
		if (tag === "input") return view + ": input " + e.type;
		if (tag === "select") return view + ": select";
		return e.tabIndex >= 0 ? "region" : "nothing for the keyboard: " + tag + " " + label;
	};
	const root = document.querySelector("dialog[open]") || document;
	const can = "a[href], button, input, select, textarea, summary, [contenteditable], [tabindex='0'], [role=treeitem], [role=button], [role=link], [onclick]";
	// Whatever has a pointer of its own is meant to be clicked.
	const pointed = (e) => getComputedStyle(e).cursor === "pointer" && getComputedStyle(e.parentElement).cursor !== "pointer";
	return [...root.querySelectorAll("body *, *")].filter((e) => (e.matches(can) || e.closest("body") && e !== document.body && pointed(e)) && e.checkVisibility({ visibilityProperty: true }) && !e.disabled)
		.filter((e) => e.matches(can) || !e.closest(can))
		.map((e) => ({ name: named(e), e, tabbed: e.tabIndex >= 0 && (e.matches("a[href], button, input, select, summary, [tabindex]")) }));
}`

// place is where the keyboard is tried.
type place struct {
	name, url, ready string
	open             string // is evaluated when it is ready
	opened           string // holds then
}

// visit opens a place as if it had never been seen.
func (b *browser) visit(p place) {
	b.t.Helper()
	b.do("open "+p.name, chromedp.Navigate("about:blank"), chromedp.Navigate(p.url))
	b.until(p.name, p.ready)
	if p.open != "" {
		b.do("open what can be opened", chromedp.Evaluate(p.open+";0", nil))
		b.until(p.name+", opened", p.opened)
	}
	b.do("find the controls", chromedp.Evaluate(`window.controlsOf = `+controlsOf+`; 0`, nil))
}

// named are the names of a place's controls.
func (b *browser) named(p place) []string {
	b.t.Helper()
	var names []string
	b.do("the controls of "+p.name, chromedp.Evaluate(fmt.Sprintf(`controlsOf(%q).map((c) => c.name)`, p.name), &names))
	slices.Sort(names)
	return slices.Compact(names)
}

// reachable presses Tab until it has gone around a place, and tells what it did not come to.
func (b *browser) reachable(p place) {
	b.t.Helper()
	// An element that is drawn again is another one with the same text.
	const key = `(e) => [e.tagName, e.className?.baseVal ?? e.className, e.getAttribute("href"), e.getAttribute("aria-label"), e.tagName === "SELECT" ? "" : e.textContent.slice(0, 60)].join(" ")`
	var n int
	b.do("what Tab should come to", chromedp.Evaluate(fmt.Sprintf(`window.keyOf = %s; window.seen = new Set(); addEventListener("focusin", (e) => seen.add(keyOf(e.target)), true);
		window.tabbed = controlsOf(%q).filter((c) => c.tabbed).map((c) => c.e); window.wanted = tabbed.map(keyOf); wanted.length`, key, p.name), &n))
	tab := func(times int) {
		for range times {
			b.do("Tab", chromedp.KeyEvent(kb.Tab))
		}
	}
	const end = 40 // of a long list only what is at both ends
	if n <= 2*end {
		tab(n + n/4 + 10)
	} else {
		tab(end + 10)
		b.do("to the end", chromedp.Evaluate(fmt.Sprintf(`tabbed[tabbed.length - %d].focus(); wanted = [...wanted.slice(0, %d), ...wanted.slice(-%d)]; 0`, end, end, end), nil))
		tab(end + 10)
	}
	var missing []string
	b.do("what Tab came to", chromedp.Evaluate(`wanted.filter((k) => !seen.has(k))`, &missing))
	if len(missing) > 0 {
		b.t.Errorf("%s: Tab does not come to %q", p.name, missing)
	}
}

// operate goes to the first control with a name by Tab and presses its keys.
func (b *browser) operate(p place, name string, c keyed) {
	b.t.Helper()
	what := p.name + ": " + name
	b.visit(p)
	var n int
	b.do(what, chromedp.Evaluate(fmt.Sprintf(`(() => {
		const all = controlsOf(%q), one = all.find((c) => c.name === %q);
		// A row of the tree is operated where the focus is: in the tree. The focus in a picture is that of its current box.
		window.it = one.e.closest("[role=tree]") || (one.e.tabIndex < 0 && one.e.closest(".picture")?.querySelector("[tabindex='0']")) || one.e;
		const tabbed = all.filter((c) => c.tabbed).map((c) => c.e), at = tabbed.indexOf(it);
		if (at > 0) tabbed[at - 1].focus(); // from the one before, to which reachable has come
		return at;
	})()`, p.name, name), &n))
	there := false
	for range 8 {
		b.do(what, chromedp.KeyEvent(kb.Tab), chromedp.Evaluate(`document.activeElement === it`, &there))
		if there {
			break
		}
	}
	if !there {
		b.t.Errorf("%s: Tab does not come to it", what)
		return
	}
	if c.keys == nil { // a link
		var to string
		b.do(what, chromedp.Evaluate(`new URL(it.getAttribute("href"), location).href`, &to))
		b.press(what, kb.Enter)
		b.until(what, fmt.Sprintf(`location.href === %q`, to))
		return
	}
	if c.first != "" {
		b.do(what, chromedp.Evaluate(`window.was = `+c.first+`; 0`, nil))
	}
	b.press(what, c.keys...)
	b.until(what, c.want)
}

// byKeyboard tries every control of every place that has not been tried yet.
func (b *browser) byKeyboard(places []place) (tried map[string]bool) {
	b.t.Helper()
	tried = map[string]bool{}
	for _, p := range places {
		b.visit(p)
		names := b.named(p)
		b.reachable(p)
		for _, name := range names {
			c, known := controls[name]
			if !known {
				b.t.Errorf("%s has the control %q: say in controls what the keyboard does with it", p.name, name)
				continue
			}
			if !tried[name] {
				b.operate(p, name, c)
			}
			tried[name] = true
			b.do("English", chromedp.Evaluate(`(() => { try { localStorage.clear(); sessionStorage.clear(); } catch { /* elsewhere */ } })()`, nil))
		}
	}
	return tried
}

// TestKeyboard operates every control of the server's page by the keyboard alone: those that it finds, so that none is forgotten.
func TestKeyboard(t *testing.T) {
	b := openBrowser(t)
	s := startServer(t)
	const many = 205 // more than a list shows at first
	list := workloads(250, "")
	for i := range many {
		list = append(list, entry("*v1.Pod", fmt.Sprintf(`{"metadata":{"uid":"lost%d","name":"lost-%03d","namespace":"team-00"}}`, i, i)))
	}
	reportObjects(t, s, "d-keys", 1, "", list)
	list = append(slices.Clone(list), entry("*v1.Namespace", `{"metadata":{"uid":"ns-shop","name":"shop"}}`))
	for i := range many {
		list = append(list, entry("*v1.Service", fmt.Sprintf(
			`{"metadata":{"uid":"s%d","name":"service-%04d","namespace":"team-00"},"spec":{"type":"ClusterIP","clusterIP":"10.20.1.%d","selector":{"app":"app-%04d"},"ports":[{"port":80,"targetPort":8080,"protocol":"TCP","name":"http"}]}}`, i, i, i, i%3)))
	}
	reportObjects(t, s, "d-keys", 2, "", list)
	for i := range 110 {
		reportObjects(t, s, fmt.Sprintf("d-%03d", i), 1, map[bool]string{true: "pods: forbidden"}[i == 0], []*agent.KubernetesAPIInfo{entry("*version.Info", `{"gitVersion":"v1.36.0"}`)})
	}
	for range 2 {
		syncAs(t, s, "d-keys", "node-1", 1)
		syncAs(t, s, "d-keys", "node-2", 2)
	}
	of := s.HTTP + "/#/c/d-keys/"
	const more = `[...document.querySelectorAll("main button")].some((e) => e.textContent === "More" && e.checkVisibility())`
	tried := b.byKeyboard([]place{
		{name: "overview", url: of + "overview", ready: `document.querySelector(".panels .bars li") && document.querySelector("svg.strip")`},
		{name: "clusters", url: s.HTTP + "/#/", ready: `document.querySelectorAll("main td a").length > 99 && document.querySelectorAll("main select option").length > 3`},
		{name: "search", url: of + "find/service-0001", ready: `document.querySelector(".found a")`},
		{name: "tree", url: of + "tree", ready: `document.querySelector("[role=treeitem][aria-expanded=true]")`},
		{name: "map", url: of + "map/team-00", ready: `document.querySelector(".picture .box")`},
		{name: "object", url: of + "object/*v1.Pod/team-00/app-0000-00", ready: `document.querySelector(".picture .box.focus")`},
		{name: "dropped", url: of + "dropped", ready: `document.querySelector("main details")`, open: `document.querySelector("main details").open = true`, opened: more},
		{name: "watcher", url: of + "watcher", ready: `document.querySelector("table[aria-label=Candidates] td")`},
		{name: "versions", url: of + "versions", ready: `document.querySelector("ol.time details")`, open: `document.querySelector("ol.time details").open = true`, opened: more},
		{name: "compare", url: of + "versions/1/2", ready: `document.querySelector("main details") && ` + more},
		{name: "changes", url: of + "changes", ready: `document.querySelector("main h2")`},
		{name: "services", url: of + "services", ready: `document.querySelector("main tbody a")`},
		{name: "nodes", url: of + "nodes", ready: `document.querySelector("main tbody a")`},
		{name: "upstream", url: s.HTTP + "/#/upstream", ready: `document.querySelector("main h2")`},
		{name: "token", url: of + "overview", ready: `document.querySelector(".panels .bars li")`, open: `document.querySelector("#login").click()`, opened: `document.querySelector("dialog[open]")`},
	})
	for name := range controls {
		if !tried[name] && !strings.HasPrefix(name, "status: ") {
			t.Errorf("no view has the control %q", name)
		}
	}
	b.do("print", chromedp.Navigate("about:blank"), chromedp.Navigate(of+"overview"))
	b.until("overview", `document.querySelector(".panels .bars li")`)
	b.do("print", emulation.SetEmulatedMedia().WithMedia("print"), chromedp.Sleep(100*time.Millisecond))
	b.until("what is for the screen only is not printed", `![...document.querySelectorAll("header button, nav a, #everywhere")].some((e) => e.checkVisibility()) && document.querySelector(".verdict").checkVisibility()`)
}

// TestAgentKeyboard does the same with the status page of an agent that has no server, and so a command to copy.
func TestAgentKeyboard(t *testing.T) {
	b := openBrowser(t)
	p := newPair(t, options{agent: harness.Settings{"server.request_timeout": "2s"}})
	p.must(p.agent.Start(p.ctx))
	p.eventually(time.Minute, "a problem with a command", func() error { return p.statusSays("pseudo-agent check") })
	tried := b.byKeyboard([]place{
		{name: "status", url: p.agent.HTTP + "/status?format=html&lang=en", ready: `document.querySelector("svg.way") && document.querySelector("button.copy-it")?.checkVisibility()`},
		{name: "status", url: p.agent.HTTP + "/status?format=html&lang=en&details=open", ready: `document.querySelector("svg.way") && document.querySelector("button.copy-it")?.checkVisibility()`},
	})
	for _, name := range []string{"link", "summary", "region", "status: button Copy"} {
		if !tried[name] {
			t.Errorf("the page has no %q", name)
		}
	}
}
