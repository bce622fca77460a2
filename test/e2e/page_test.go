package e2e

import (
	"bytes"
	"compress/zlib"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/systeminfo"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// browser is a headless Chromium with one tab.
type browser struct {
	t   testing.TB
	ctx context.Context

	fonts string // of this machine, by how wide some words are

	mu     sync.Mutex
	errors []string
}

// openBrowser starts Debian's Chromium, or skips the test where there is none.
func openBrowser(t testing.TB, more ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("there is no chromium (Debian: apt-get install chromium)")
	}
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU)
	opts = append(opts, more...)
	alloc, endAlloc := chromedp.NewExecAllocator(t.Context(), opts...)
	ctx, endTab := chromedp.NewContext(alloc)
	ctx, endTime := context.WithTimeout(ctx, 15*time.Minute)
	b := &browser{t: t, ctx: ctx}
	t.Cleanup(func() {
		endTime()
		endTab()
		endAlloc()
	})
	chromedp.ListenTarget(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.failed("exception: " + e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError {
				b.failed("log: " + e.Entry.Text + " " + e.Entry.URL)
			}
		case *runtime.EventConsoleAPICalled:
			if e.Type == runtime.APITypeError {
				b.failed(fmt.Sprintf("console: %v", e.Args))
			}
		}
	})
	return b
}

func (b *browser) failed(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errors = append(b.errors, what)
}

// do runs actions.
func (b *browser) do(what string, actions ...chromedp.Action) {
	b.t.Helper()
	if err := chromedp.Run(b.ctx, actions...); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// until waits until an expression of JavaScript is true.
func (b *browser) until(what, expression string) {
	b.t.Helper()
	// Chromedp's own waiting needs eval, which the page's policy forbids.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var held bool
		err := chromedp.Run(b.ctx, chromedp.Evaluate("!!("+expression+")", &held))
		if held {
			return
		}
		if time.Now().After(deadline) || b.ctx.Err() != nil {
			var text string
			_ = chromedp.Run(b.ctx, chromedp.Evaluate("document.body.innerText", &text))
			b.mu.Lock()
			said := slices.Clone(b.errors)
			b.mu.Unlock()
			b.t.Fatalf("%s: %v; the console says %q; the page shows\n%s", what, err, said, text)
		}
	}
}

// screenshot compares what is seen with docs/img/NAME.png, or makes it anew if $E2E_SCREENSHOTS says so.
func (b *browser) screenshot(name string, width, height int64, scheme string) {
	b.t.Helper()
	var picture []byte
	b.do("screenshot "+name,
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
		chromedp.EmulateViewport(width, height), chromedp.Sleep(200*time.Millisecond), chromedp.CaptureScreenshot(&picture))
	b.compare(filepath.Join(pictures(b.t), name+".png"), picture)
}

// quiet fails the test if the console has errors.
func (b *browser) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.errors {
		b.t.Errorf("the console has an error: %s", e)
	}
}

// hostile would run if any string of it became markup.
const hostile = `"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>`

// TestPage clicks through the page with a live cluster, and sees a change arrive.
func TestPage(t *testing.T) {
	b := openBrowser(t)
	p := newPair(t, options{agent: harness.Settings{"projection.annotation_limit": 1000}})
	load(t, nil)
	p.start()
	p.synced(time.Minute)
	tree := "#/c/" + p.clusterID + "/"

	b.do("open the page", chromedp.Navigate(p.server.HTTP+"/"))
	b.until("the list of clusters", `document.querySelector('main td a')?.textContent === "d-e2e"`)
	b.screenshot("clusters", 1100, 420, "light")
	b.do("click the cluster", chromedp.Click("main td a", chromedp.ByQuery))
	b.until("the overview", `document.querySelector(".verdict .good")?.textContent.startsWith("It works") && document.querySelectorAll(".panels .bars li").length > 1`)
	b.screenshot("overview-light", 1250, 900, "light")
	b.screenshot("overview-dark", 1250, 900, "dark")
	for _, width := range []int64{375, 1250, 2560} {
		b.do("width", chromedp.EmulateViewport(width, 900))
		b.inside(fmt.Sprintf("the overview at %d pixels", width))
	}
	b.do("click the tree", chromedp.Click(`#tabs a[href$="/tree"]`, chromedp.ByQuery))
	b.until("the tree", `document.querySelectorAll('[role=treeitem]').length > 0`)
	b.until("it is opened where objects are lost", `document.querySelector('[role=treeitem][aria-level="1"][aria-expanded=true] .state.bad') !== null`)
	b.do("go through it by the keyboard", chromedp.Focus("[role=tree]", chromedp.ByQuery), chromedp.KeyEvent(kb.End), chromedp.KeyEvent(kb.Home))
	b.until("the first row selected", `document.querySelector('[role=treeitem][aria-selected=true]')?.id === "row-0"`)
	b.do("open everything", chromedp.Click(`//button[text()="Open all"]`, chromedp.BySearch))
	b.until("Pods in the tree", `document.querySelectorAll('[role=treeitem][aria-level="3"]').length > 0`)
	for _, s := range []struct {
		name          string
		width, height int64
		scheme        string
	}{{"tree-light", 1100, 720, "light"}, {"tree-dark", 1100, 720, "dark"}, {"tree-phone-light", 390, 780, "light"}, {"tree-phone-dark", 390, 780, "dark"}} {
		b.screenshot(s.name, s.width, s.height, s.scheme)
	}
	var wide bool
	b.do("measure", chromedp.Evaluate(`document.documentElement.scrollWidth > innerWidth`, &wide))
	if wide {
		t.Error("the page is wider than the screen of a phone")
	}
	b.do("back to a desktop", chromedp.EmulateViewport(1100, 720))

	p.keyboard(b)

	var pod string
	b.do("name of a Pod", chromedp.Text(`[role=treeitem][aria-level="3"] .name`, &pod, chromedp.ByQuery))
	b.do("search it", chromedp.SendKeys("main input[type=search]", pod, chromedp.ByQuery))
	b.until("the Pod is found", fmt.Sprintf(`[...document.querySelectorAll('[role=treeitem][aria-level="3"] .name')].some((e) => e.textContent === %q) && document.body.textContent.includes("contain it")`, pod))
	b.do("look at the Pod", chromedp.Click(`[role=treeitem][aria-level="3"]`, chromedp.ByQuery))
	b.until("the Pod's JSON", fmt.Sprintf(`document.activeElement.id === "object" && [...document.querySelectorAll('main pre')].some((e) => e.textContent.includes('"name": "%s"'))`, pod))
	b.do("go back", chromedp.KeyEvent(kb.Escape))
	b.until("the tree with the search", fmt.Sprintf(`document.querySelector('main input[type=search]')?.value === %q && document.querySelector('[role=treeitem][aria-level="3"]') !== null`, pod))

	b.do("live changes", chromedp.Evaluate(fmt.Sprintf("location.hash=%q", tree+"changes"), nil))
	b.until("the stream", `document.getElementById("live").textContent.startsWith("live")`)
	services := cluster.Client.CoreV1().Services(metav1.NamespaceDefault)
	_, err := services.Create(p.ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "arrives-live", Annotations: map[string]string{"note": hostile}},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "none"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	p.must(err)
	t.Cleanup(func() { _ = services.Delete(context.Background(), "arrives-live", metav1.DeleteOptions{}) })
	b.until("the change arrives", `document.querySelector("main").textContent.includes("arrives-live")`)
	b.do("open the change", chromedp.Evaluate(`[...document.querySelectorAll("main details")].find((d) => d.textContent.includes("arrives-live")).open = true`, nil))
	b.until("its content", `document.querySelector("main pre.diff")?.textContent.includes("arrives-live")`)
	b.until("nothing else", `![...document.querySelector("main").childNodes].some((n) => n.nodeType === Node.TEXT_NODE)`)
	b.screenshot("live", 1100, 720, "light")

	b.do("services", chromedp.Evaluate(fmt.Sprintf("location.hash=%q", tree+"services"), nil))
	b.until("the services", `document.querySelector("main table[aria-label=Services] tbody a") !== null`)
	shop := cluster.Client.CoreV1().Services("shop")
	web, err := shop.Get(p.ctx, "web", metav1.GetOptions{})
	p.must(err)
	_, err = shop.Create(p.ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "comes-live"}, Spec: corev1.ServiceSpec{Selector: web.Spec.Selector, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	p.must(err)
	t.Cleanup(func() { _ = shop.Delete(context.Background(), "comes-live", metav1.DeleteOptions{}) })
	b.until("the service comes while it is looked at", `document.querySelector("main table").textContent.includes("comes-live")`)
	b.do("search it", chromedp.SendKeys("main input[type=search]", "comes-", chromedp.ByQuery))
	b.until("what is found", `document.querySelectorAll("main tbody tr:not(.gap)").length === 1`)
	p.must(shop.Delete(p.ctx, "comes-live", metav1.DeleteOptions{}))
	b.until("the service goes while it is looked at", `document.querySelectorAll("main tbody tr:not(.gap)").length === 0 && document.querySelector("main [role=status]").textContent.startsWith("0 of")`)
	b.do("nodes", chromedp.Evaluate(fmt.Sprintf("location.hash=%q", tree+"nodes"), nil))
	b.until("the nodes", `document.querySelector("main table")?.getAttribute("aria-rowcount") > 1`)
	first := `document.querySelector("main tbody tr:not(.gap) a").textContent`
	b.do("sort by name", chromedp.Click("main th button", chromedp.ByQuery))
	b.until("the first first", `document.querySelector("main th").getAttribute("aria-sort") === "ascending" && `+first+` === "control-plane-1"`)
	b.do("sort the other way", chromedp.Click("main th button", chromedp.ByQuery))
	b.until("the last first", first+` === "worker-2"`)
	var exported string
	b.do("export", chromedp.Evaluate(`(async () => {
		let blob;
		const make = URL.createObjectURL;
		URL.createObjectURL = (b) => { blob = b; return make.call(URL, b); };
		[...document.querySelectorAll("main button")].find((e) => e.textContent === "CSV").click();
		return blob.text();
	})()`, &exported, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	if !strings.HasPrefix(exported, `"Name","State","Role"`) || !strings.Contains(exported, `"worker-2"`) {
		t.Errorf("the exported table is\n%s", exported)
	}
	nodes := cluster.Client.CoreV1().Nodes()
	node, err := nodes.Create(p.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-live"}}, metav1.CreateOptions{})
	p.must(err)
	t.Cleanup(func() { _ = nodes.Delete(context.Background(), "node-live", metav1.DeleteOptions{}) })
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "172.18.0.99"}}
	_, err = nodes.UpdateStatus(p.ctx, node, metav1.UpdateOptions{})
	p.must(err)
	b.until("the node comes while it is looked at", `document.querySelector("main table").textContent.includes("node-live")`)

	for tab, want := range map[string]string{"dropped": "Service", "watcher": "Candidates", "versions": "oldest that can be read", "services": "Namespace", "nodes": "InternalIP"} {
		b.do("view "+tab, chromedp.Evaluate(fmt.Sprintf("location.hash=%q", tree+tab), nil))
		switch tab {
		case "watcher":
			b.until(tab, `document.querySelector('table[aria-label=Candidates] td') !== null`)
		case "nodes":
			b.until(tab, `document.querySelector('table[aria-label=Nodes] td') !== null`)
		case "dropped":
			b.until(tab, `document.querySelector("main details") !== null`)
			b.do("open a reason", chromedp.Click("main details summary", chromedp.ByQuery))
			b.until("dropped objects", `document.querySelector("main details[open] td") !== null`)
			b.screenshot("dropped", 1100, 720, "light")
		default:
			b.until(tab, fmt.Sprintf(`document.querySelector("main").textContent.includes(%q)`, want))
		}
	}
	var hacked bool
	b.do("look for injected code", chromedp.Evaluate(`window.hacked !== undefined`, &hacked))
	if hacked {
		t.Error("a string of the cluster became code")
	}
	b.quiet()
}

// tabTo presses Tab until an element has the focus, a few times at most.
func (b *browser) tabTo(what, selector string) {
	b.t.Helper()
	const most = 12
	for range most {
		b.do(what, chromedp.KeyEvent(kb.Tab))
		var there bool
		b.do(what, chromedp.Evaluate(fmt.Sprintf(`document.activeElement.matches(%q)`, selector), &there))
		if there {
			return
		}
	}
	b.t.Fatalf("%s: %d times Tab did not lead to %s", what, most, selector)
}

// press presses keys.
func (b *browser) press(what string, keys ...string) {
	b.t.Helper()
	// In one event, so that the page can prevent what follows; KeyEvent sends the character separately.
	whole := func(key, code, text string, number int64) {
		send := func(kind input.KeyType, text string) chromedp.Action {
			return input.DispatchKeyEvent(kind).WithKey(key).WithCode(code).WithText(text).WithWindowsVirtualKeyCode(number)
		}
		b.do(what, send(input.KeyDown, text), send(input.KeyUp, ""))
	}
	for _, k := range keys {
		switch k {
		case kb.Enter:
			whole("Enter", "Enter", "\r", 13)
		case "/":
			whole("/", "Slash", "/", 191)
		default:
			b.do(what, chromedp.KeyEvent(k))
		}
	}
}

// keyboard goes through the tree, a list and the tabs without a mouse.
func (p *pair) keyboard(b *browser) {
	b.t.Helper()
	press := func(what, want string, keys ...string) {
		b.t.Helper()
		b.press(what, keys...)
		b.until(what, want)
	}
	const selected = `document.querySelector('[role=treeitem][aria-selected=true]')`
	b.do("open the tree again", chromedp.Evaluate(`location.hash="#/"`, nil))
	b.until("the list of clusters", `document.querySelector('main td a') !== null`)
	b.do("focus the cluster", chromedp.Focus("main td a", chromedp.ByQuery))
	press("Enter opens the cluster", `document.querySelector(".panels") !== null`, kb.Enter)
	press("/ goes to the search", `document.activeElement.id === "everywhere"`, "/")
	press("Enter searches everything", `[...document.querySelectorAll(".found a")].some((e) => e.textContent === "shop/web")`, "w", "e", "b", kb.Enter)
	b.do("focus what is found", chromedp.Focus(".found a", chromedp.ByQuery))
	press("Enter opens it", `document.activeElement.id === "object"`, kb.Enter)
	press("Escape goes back to what was found", `document.querySelector(".found a") !== null`, kb.Escape)
	b.do("focus the tab of the tree", chromedp.Focus(`#tabs a[href$="/tree"]`, chromedp.ByQuery))
	press("Enter opens the tree", `document.querySelector('[role=treeitem]') !== null`, kb.Enter)
	b.until("it is opened where objects are lost", `document.querySelector('[role=treeitem][aria-level="1"][aria-expanded=true] .state.bad') !== null`)
	b.do("focus the tree", chromedp.Focus("[role=tree]", chromedp.ByQuery))
	press("← closes the first namespace", selected+`?.getAttribute("aria-expanded") === "false"`, kb.Home, kb.ArrowLeft)
	press("→ opens the first namespace with workloads", selected+`?.getAttribute("aria-level") === "2"`, kb.Home, kb.ArrowRight, kb.ArrowRight)
	press("→ opens a workload", selected+`?.nextElementSibling?.getAttribute("aria-level") === "3"`, kb.ArrowRight)
	press("→ goes to its first Pod", selected+`?.getAttribute("aria-level") === "3"`, kb.ArrowRight)
	press("Enter opens the Pod", `document.activeElement.id === "object" && document.querySelector("main pre")?.textContent.includes('"metadata"')`, kb.Enter)
	press("Escape goes back, and the tree has the focus", `document.activeElement.getAttribute("role") === "tree" && `+selected+`?.getAttribute("aria-level") === "3"`, kb.Escape)
	press("← goes to the workload and closes it", selected+`?.getAttribute("aria-expanded") === "false" && `+selected+`.getAttribute("aria-level") === "2"`, kb.ArrowLeft, kb.ArrowLeft)
	press("← goes to the namespace and closes it", selected+`?.getAttribute("aria-expanded") === "false" && `+selected+`.getAttribute("aria-level") === "1"`, kb.ArrowLeft, kb.ArrowLeft)
	press("End selects the last row", selected+`?.getAttribute("aria-posinset") === `+selected+`?.getAttribute("aria-setsize")`, kb.End)
	b.do("focus the tab of the nodes", chromedp.Focus(`#tabs a[href$="/nodes"]`, chromedp.ByQuery))
	press("Enter opens the nodes", `document.querySelector("main table[aria-label=Nodes] tbody a") !== null`, kb.Enter)
	b.do("focus the search", chromedp.Focus("main input[type=search]", chromedp.ByQuery))
	press("Tab goes past the exports to the list", `document.activeElement.className === "long"`, kb.Tab, kb.Tab, kb.Tab)
	b.tabTo("Tab goes past the titles to the first node", "main tbody tr:not(.gap) a")
	press("Enter opens the node", `document.activeElement.id === "object" && document.querySelector(".picture .box.focus") !== null`, kb.Enter)
	b.tabTo("Tab goes on to its picture", ".picture .box.focus")
	press("Escape goes back to the nodes", `document.querySelector("main table[aria-label=Nodes] tbody a") !== null`, kb.Escape)
	b.do("focus the tab of the map", chromedp.Focus(`#tabs a[href$="/map"]`, chromedp.ByQuery))
	press("Enter opens the map", `document.querySelector(".picture .box") !== null`, kb.Enter)
	b.do("focus the search", chromedp.Focus("main input[type=search]", chromedp.ByQuery))
	press("what is typed is found", `document.querySelectorAll(".picture .hit").length > 0`, "e")
	press("Enter goes to it", `document.activeElement.matches(".picture .hit")`, kb.Enter)
	b.do("focus the button of the token", chromedp.Focus("#login", chromedp.ByQuery))
	press("Enter asks for the token", `document.activeElement.id === "token"`, kb.Enter)
	press("Escape closes it", `!document.querySelector("dialog[open]")`, kb.Escape)
	b.do("back to the tree", chromedp.Focus(`#tabs a[href$="/tree"]`, chromedp.ByQuery))
	press("Enter opens the tree", `document.querySelector('[role=treeitem]') !== null`, kb.Enter)
	b.do("open everything", chromedp.Click(`//button[text()="Open all"]`, chromedp.BySearch))
	b.until("Pods in the tree", `document.querySelectorAll('[role=treeitem][aria-level="3"]').length > 0`)
}

// TestHostilePage reports strings that try to become markup, past every check that an apiserver would make.
func TestHostilePage(t *testing.T) {
	b := openBrowser(t)
	s := startServer(t)
	reportObjects(t, s, "d-hostile", 1, hostile, workloads(3, hostile))
	control := fmt.Sprintf(`{"metadata":{"uid":"control","name":"control","namespace":%q,"annotations":{"large":%q,"control":"\u0000\u0007\u001b[31m\u202e"},"ownerReferences":[{"kind":"StatefulSet","name":"a","uid":"w0"}]}}`,
		"team-00"+hostile, strings.Repeat("x", 1<<20))
	reportObjects(t, s, "d-hostile", 2, hostile, append(workloads(4, hostile), entry("*v1.Pod", control)))
	syncAs(t, s, "d-hostile", "node-1"+hostile, 1)
	b.do("open an address that is none", chromedp.Navigate(s.HTTP+"/#/%"))
	b.until("the error message as text", `document.querySelector("main").textContent.includes("<script>window.hacked=1</script>")`)
	for _, tab := range []string{"overview", "tree", "dropped", "watcher", "versions", "versions/1/2", "services", "nodes", "changes", "find/img"} {
		b.do("view "+tab, chromedp.Evaluate(fmt.Sprintf(`location.hash="#/c/d-hostile/%s"`, tab), nil))
		b.until(tab, `document.querySelector("main h2") !== null`)
		if tab == "tree" {
			b.do("open everything", chromedp.Click(`//button[text()="Open all"]`, chromedp.BySearch))
			b.until("names as text", `[...document.querySelectorAll("[role=treeitem]")].some((e) => e.textContent.includes("<img src=x"))`)
		}
		b.do("open what can be opened", chromedp.Evaluate(`document.querySelectorAll("details").forEach((d) => d.open = true)`, nil), chromedp.Sleep(300*time.Millisecond))
	}
	for _, o := range [][3]string{{"*v1.Pod", "team-00" + hostile, "app-0000-00" + hostile}, {"*v1.Pod", "team-00" + hostile, "lost" + hostile}, {"*v1.Node", "", "node" + hostile}, {"*v1.Pod", "team-00" + hostile, "control"}} {
		b.do("open an object", chromedp.Evaluate(fmt.Sprintf(`location.hash = "#/c/d-hostile/object/" + [%q, %q, %q].map(encodeURIComponent).join("/")`, o[0], o[1], o[2]), nil))
		b.until("object "+o[2], fmt.Sprintf(`document.querySelector("#object")?.textContent.includes(%q) && document.querySelector(".picture .box.focus") !== null`, o[2]))
		b.do("open what can be opened", chromedp.Evaluate(`document.querySelectorAll("details").forEach((d) => d.open = true)`, nil), chromedp.Sleep(200*time.Millisecond))
		b.inside("object " + o[2])
	}
	b.do("upstream", chromedp.Evaluate(`location.hash = "#/upstream"`, nil))
	b.until("upstream", `document.querySelector("main table") !== null`)
	b.do("map", chromedp.Evaluate(fmt.Sprintf(`location.hash = "#/c/d-hostile/map/" + encodeURIComponent(%q)`, "team-00"+hostile), nil))
	b.until("the map", `document.querySelectorAll(".picture .box").length > 3`)
	b.inside("map")
	var hacked bool
	b.do("look for injected code", chromedp.Evaluate(`window.hacked !== undefined || document.querySelector("main img, main script") !== null`, &hacked))
	if hacked {
		t.Error("a string of the cluster became markup")
	}
	b.quiet()
}

// TestRebindingPage: a page whose own name was made to lead to the server gets nothing from it, in a real browser. By localhost
// the same browser gets everything.
func TestRebindingPage(t *testing.T) {
	b := openBrowser(t, chromedp.Flag("host-resolver-rules", "MAP rebind.example.com 127.0.0.1"))
	s := startServer(t)
	reportObjects(t, s, "d-secret", 1, "", workloads(1, ""))
	_, port, _ := strings.Cut(strings.TrimPrefix(s.HTTP, "http://"), ":")
	for host, want := range map[string]string{"rebind.example.com": "421 421 421", "localhost": "200 401 200"} {
		b.do("open "+host, chromedp.Navigate("http://"+host+":"+port+"/"))
		var got string
		b.do("ask as "+host, chromedp.Evaluate(`(async () => {
			const ask = async (path, method) => (await fetch(path, {method})).status;
			return [await ask("/api/v1/clusters", "GET"), await ask("/api/v1/clusters/d-secret", "DELETE"), await ask("/status", "GET")].join(" ");
		})()`, &got, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
		if got != want {
			t.Errorf("a page of %s gets %s, want %s", host, got, want)
		}
	}
}

// inside fails the test if the page is wider than the screen.
func (b *browser) inside(what string) {
	b.t.Helper()
	var wide int
	b.do("measure", chromedp.Evaluate(`document.documentElement.scrollWidth - innerWidth`, &wide))
	if wide > 0 {
		b.t.Errorf("%s: the page is %d pixels wider than the screen", what, wide)
	}
}

// TestPictures looks at objects of the sample cluster and at its namespaces, and takes the pictures of docs/page.md.
func TestPictures(t *testing.T) {
	b := openBrowser(t)
	p := newPair(t, options{})
	load(t, nil)
	p.start()
	p.synced(time.Minute)
	open := func(what, hash, want string) {
		t.Helper()
		b.do(what, chromedp.Navigate(p.server.HTTP+"/#/c/"+p.clusterID+hash))
		b.until(what, want)
	}
	const focus = `document.querySelector(".picture .box.focus")`
	open("a workload", "/object/*v1.Deployment/shop/web", focus+` && document.querySelectorAll(".picture .box").length > 3`)
	b.until("its findings", `[...document.querySelectorAll("main section.card")].some((e) => e.textContent.includes("What to do"))`)
	b.until("what is understood", `document.querySelector("table[aria-label=Understood]")?.textContent.includes("spec.replicas")`)
	b.until("the picture as text", `[...document.querySelectorAll("main details li")].some((e) => e.textContent.startsWith("Service shop/web") && e.textContent.includes("leads to Deployment shop/web"))`)
	b.tabTo("to the picture", ".picture .box.focus")
	for key, kind := range map[string]string{kb.ArrowRight: "Pod ", kb.ArrowLeft: "Service "} {
		b.do("back to the middle", chromedp.Focus(".picture .box.focus", chromedp.ByQuery), chromedp.KeyEvent(key))
		b.until("the arrow leads to a "+kind, fmt.Sprintf(`document.activeElement.getAttribute("aria-label")?.startsWith(%q)`, kind))
	}
	b.screenshot("object-light", 1250, 900, "light")
	b.screenshot("object-dark", 1250, 900, "dark")
	b.do("phone", chromedp.EmulateViewport(375, 780))
	b.inside("an object on a phone")
	b.do("desktop", chromedp.EmulateViewport(1250, 900))
	web, err := cluster.Client.AppsV1().Deployments("shop").Get(p.ctx, "web", metav1.GetOptions{})
	p.must(err)
	web.Labels = map[string]string{"changed": "while-it-is-looked-at"}
	_, err = cluster.Client.AppsV1().Deployments("shop").Update(p.ctx, web, metav1.UpdateOptions{})
	p.must(err)
	b.until("the change arrives", `document.querySelector("main pre")?.textContent.includes("while-it-is-looked-at") && document.querySelector("ol.time details") !== null`)
	b.do("open its history", chromedp.Click("ol.time details summary", chromedp.ByQuery))
	b.until("the difference", `document.querySelector("ol.time pre.diff .plus")?.textContent.includes("while-it-is-looked-at")`)

	open("the map", "/map/shop", `document.querySelectorAll(".picture .box").length > 5 && document.querySelector(".picture .box.dropped") !== null`)
	b.until("no reason stands under a box", `!(() => {
		const at = [...document.querySelectorAll(".picture .ground")].map((e) => e.getBoundingClientRect());
		return [...document.querySelectorAll(".picture .reason")].some((e) => {
			const r = e.getBoundingClientRect();
			return at.some((box) => r.right > box.left + 2 && r.left < box.right - 2 && r.bottom > box.top + 2 && r.top < box.bottom - 2);
		});
	})()`)
	b.until("no name is wider than its box", `[...document.querySelectorAll(".picture .box")].every((e) => e.querySelector(".name").getBoundingClientRect().right <= e.querySelector(".ground").getBoundingClientRect().right)`)
	b.screenshot("map-light", 1700, 900, "light")
	b.screenshot("map-dark", 1700, 900, "dark")
	b.do("follow a box", chromedp.Evaluate(`location.hash = document.querySelector(".picture .box.dropped").getAttribute("href")`, nil))
	b.until("what is dropped", `document.querySelector("#object .chip")?.textContent === "is dropped" && document.querySelector("main section.card")?.textContent.includes("What to do")`)
	b.quiet()
}

// question is what a newcomer asks, and the way from the cluster's overview to the answer.
type question struct {
	asked string
	steps []step
}

// step is a click, with what is typed after it, and what is to be seen then. The first step of a way needs no click.
type step struct {
	click, typed string
	seen         string // an expression of JavaScript
}

// TestQuestions answers five questions, each within two clicks from the overview.
func TestQuestions(t *testing.T) {
	const mostClicks = 2
	b := openBrowser(t)
	s := startServer(t)
	says := func(selector, text string) string {
		return fmt.Sprintf(`[...document.querySelectorAll(%q)].some((e) => e.textContent.includes(%q))`, selector, text)
	}
	ask := func(q question) {
		t.Helper()
		b.do("overview", chromedp.Navigate("about:blank"), chromedp.Navigate(s.HTTP+"/#/c/d-ask/overview"))
		b.until("overview", `document.querySelector(".panels .bars li") !== null`)
		clicks, path := 0, []string{"overview"}
		for _, step := range q.steps {
			if step.click != "" {
				clicks++
				path = append(path, "click "+step.click)
				b.until(q.asked, fmt.Sprintf(`document.querySelector(%q)?.checkVisibility()`, step.click))
				b.do(q.asked, chromedp.Click(step.click, chromedp.ByQuery))
			}
			if step.typed != "" {
				path = append(path, "type "+strings.TrimSpace(step.typed)+" and Enter")
				b.do(q.asked, chromedp.KeyEvent(step.typed))
			}
			b.until(q.asked, step.seen)
		}
		t.Logf("%s %s: %d clicks", q.asked, strings.Join(path, " → "), clicks)
		if clicks > mostClicks {
			t.Errorf("%s %d clicks, want %d at most", q.asked, clicks, mostClicks)
		}
	}
	reportObjects(t, s, "d-ask", 1, "", workloads(3, ""))
	reportObjects(t, s, "d-ask", 2, "", workloads(4, ""))
	ask(question{"Is it working?", []step{{seen: says(".verdict", "It works: 9 objects, reported")}}})
	ask(question{"Why is this Pod missing?", []step{
		{click: "#everywhere", typed: "lost\r", seen: says(".found", "PodOrphan")},
		{click: ".found a", seen: says("main section.card", "What to do: Create it by a workload")},
	}})
	ask(question{"Who watches, and why?", []step{{seen: says(`[aria-label="Who watches"]`, "No agent asks to watch. Reports come from 10.0.0.1")}}})
	for range 2 {
		syncAs(t, s, "d-ask", "node-1", 1)
		syncAs(t, s, "d-ask", "node-2", 2)
	}
	ask(question{"Who watches, and why?", []step{
		{seen: says(`[aria-label="Who watches"]`, "node-1")},
		{click: `[aria-label="Who watches"] a`, seen: `(() => {
			const rows = [...document.querySelectorAll("table[aria-label=Candidates] tbody tr")];
			return rows.length === 2 && rows.every((r) => r.cells[4].textContent.trim() !== "");
		})()`},
	}})
	ask(question{"What changed in the last ten minutes?", []step{
		{seen: says(`[aria-label="Latest changes"] li`, "+1")},
		{click: `[aria-label="Latest changes"] a[href$="/versions"]`, seen: `document.querySelector("ol.time details summary")`},
		{click: "ol.time details summary", seen: says("ol.time details", "app-0000-03")},
	}})
	const errorMsg = "pods: cannot list: forbidden; grant list and watch on it"
	reportObjects(t, s, "d-ask", 3, errorMsg, workloads(4, ""))
	ask(question{"Since when not, and what do I do?", []step{
		{seen: says(".verdict", "The agent reports an error since ") + " && " + says(".verdict", time.Now().Format("2006")) + " && " + says(".verdict", "grant list and watch on it") + " && " + says(".verdict", "the agent's /status")},
	}})
	b.quiet()
}

// TestAgentPage looks at the status page of an agent to which all is well, and of one that may not read Pods.
func TestAgentPage(t *testing.T) {
	b := openBrowser(t)
	p := newPair(t, options{noRules: true, agent: harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, "- {name: configmaps}\n")}})
	load(t, func(o *unstructured.Unstructured) bool {
		switch o.GetKind() {
		case "Node", "Namespace", "ConfigMap", "Deployment":
			return true
		case "ReplicaSet", "Service", "Pod":
			return strings.HasPrefix(o.GetName(), "web-6d") || o.GetName() == "web"
		default:
			return false
		}
	})
	without := slices.DeleteFunc(expect.Names(p.sources), func(s string) bool { return strings.HasPrefix(s, "pods") })
	p.must(p.account.Grant(p.ctx, "most", harness.ReadAll(append(without, "configmaps")...)...))
	p.start()
	stage := func(name, tone string) string {
		return fmt.Sprintf(`[...document.querySelectorAll("svg.way .stage.%s")].some((e) => e.getAttribute("aria-label").startsWith(%q))`, tone, name)
	}
	look := func(what string, want ...string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(500 * time.Millisecond) {
			b.do(what, chromedp.Navigate(p.agent.HTTP+"/status?format=html"))
			var held bool
			b.do(what, chromedp.Evaluate("!!("+strings.Join(want, " && ")+")", &held))
			if held {
				return
			}
			if time.Now().After(deadline) {
				var text string
				b.do(what, chromedp.Evaluate("document.body.innerText", &text))
				t.Fatalf("%s: the page shows\n%s", what, text)
			}
		}
	}
	look("a resource that may not be read", stage("resources", "bad"), `document.querySelector("main table.fit tbody tr").textContent.includes("pods")`,
		`document.querySelector("section.card .copy")?.textContent.includes("pseudo-agent rbac")`, `document.querySelector("section.card")?.textContent.includes("What it means")`)
	b.screenshot("agent-forbidden", 1100, 900, "light")
	p.must(p.account.Grant(p.ctx, "pods", harness.ReadAll("pods")...))
	look("all is well", stage("apiserver", "good"), stage("resources", "good"), stage("snapshot", "good"), stage("reporter", "good"), stage("server", "good"),
		`document.querySelector("svg.lag") !== null`)
	b.do("a desktop", chromedp.EmulateViewport(1100, 900))
	var over int
	b.do("measure", chromedp.Evaluate(`document.documentElement.scrollHeight - innerHeight`, &over))
	if over > 0 {
		t.Errorf("the page is %d pixels higher than one screen", over)
	}
	for _, width := range []int64{375, 1100, 2560} {
		b.do("width", chromedp.EmulateViewport(width, 900))
		b.inside(fmt.Sprintf("%d pixels", width))
	}
	b.screenshot("agent-status-light", 1100, 900, "light")
	b.screenshot("agent-status-dark", 1100, 900, "dark")
	b.quiet()
}

// TestLargePage opens a cluster of 100,000 Pods and scrolls through all of them.
func TestLargePage(t *testing.T) {
	const pods = 100000
	b := openBrowser(t)
	s := startServer(t)
	reportObjects(t, s, "d-large", 1, "", workloads(pods, ""))
	b.do("open the page", chromedp.Navigate(s.HTTP+"/"))
	b.until("the list of clusters", `document.querySelector('main td a') !== null`)
	// The inventory is computed once after the report; that is not the page's time.
	for range 60 {
		if _, err := s.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ready, err := s.Metric(t.Context(), "pseudo_server_inventory_update_seconds_count"); err == nil && ready > 0 {
			break
		}
		time.Sleep(time.Second)
	}
	var whole, heap float64
	overview := b.timed("first screen", `document.querySelector("main td a").click()`, ".panels")
	first := b.timed("the tree", `document.querySelector("#tabs a[href$='/tree']").click()`, "[role=treeitem]")
	b.do("open everything", chromedp.Evaluate(`performance.mark("all")`, nil), chromedp.Click(`//button[text()="Open all"]`, chromedp.BySearch))
	b.until("all rows", fmt.Sprintf(`document.querySelector("[role=tree] .space").offsetHeight > %d`, pods*28))
	b.do("all rows", chromedp.Evaluate(`performance.measure("all", "all").duration`, &whole))
	frame, _ := b.scrolled()
	b.do("memory", chromedp.Evaluate(`performance.memory.usedJSHeapSize / 1048576`, &heap))
	resident, own := b.memory()
	var rows int
	b.do("rows", chromedp.Evaluate(`document.querySelectorAll('[role=treeitem]').length`, &rows))
	t.Logf("100,000 Pods: overview %.0f ms after the click, tree %.0f ms, all rows read after %.0f ms, slowest of 60 scrolls %.0f ms, heap of the tab %.0f MiB, its process %d MiB resident, %d MiB of them its own, %d rows exist",
		overview, first, whole, frame, heap, resident>>20, own>>20, rows)
	if rows == 0 || rows > 200 {
		t.Errorf("got %d rows as elements, want only those on the screen", rows)
	}
	var kept string
	b.do("scroll by a row, back and forth", chromedp.Evaluate(`(async () => {
		const tree = document.querySelector("[role=tree]"), list = () => [...document.querySelectorAll("[role=treeitem]")];
		const painted = () => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));
		tree.scrollTop = 28 * 5000;
		await painted();
		const before = new Map(list().map((e) => [e.id, e]));
		for (const by of [28, -56]) {
			tree.scrollTop += by;
			await painted();
			const now = list(), same = now.filter((e) => before.get(e.id) === e).length;
			if (same < now.length - 3) return "of " + now.length + " rows " + same + " are those of before";
			if (now.some((e, i) => i && Number(e.getAttribute("aria-posinset")) !== Number(now[i - 1].getAttribute("aria-posinset")) + 1)) return "the rows do not stand in their order";
		}
		return "";
	})()`, &kept, awaited))
	if kept != "" {
		t.Errorf("after a scroll by one row %s", kept)
	}
	b.do("map", chromedp.Evaluate(`performance.mark("map"); location.hash="#/c/d-large/map/team-00"`, nil))
	b.until("the map, its Pods grouped", `document.querySelectorAll(".picture .box").length > 20`)
	b.do("map", chromedp.Evaluate(`performance.measure("map", "map").duration`, &first), chromedp.Evaluate(`document.querySelectorAll(".picture .box").length`, &rows))
	t.Logf("map of 2,000 Pods: %.0f ms, %d boxes", first, rows)
	if rows > 500 {
		t.Errorf("got %d boxes, want not more than 500", rows)
	}
	b.do("a Pod", chromedp.Evaluate(`performance.mark("pod"); location.hash="#/c/d-large/object/*v1.Pod/team-00/app-0000-00"`, nil))
	b.until("the Pod", `document.querySelector(".picture .box.focus") !== null`)
	b.do("a Pod", chromedp.Evaluate(`performance.measure("pod", "pod").duration`, &first))
	t.Logf("a Pod of 100,000: %.0f ms", first)
	b.do("the node with all Pods", chromedp.Evaluate(`performance.mark("node"); location.hash="#/c/d-large/object/*v1.Node//node"`, nil))
	b.until("the node", `document.querySelector("#object")?.textContent.startsWith("Node") && document.querySelector(".picture .box.focus") !== null`)
	b.do("the node", chromedp.Evaluate(`performance.measure("node", "node").duration`, &first))
	t.Logf("a node with 100,000 Pods: %.0f ms", first)
	const many = 20000
	reportObjects(t, s, "d-services", 1, "", manyServices(many))
	b.do("services", chromedp.Evaluate(`location.hash="#/c/d-services/services"`, nil))
	b.until("all services read", fmt.Sprintf(`document.querySelector("main table")?.getAttribute("aria-rowcount") === "%d"`, many+1))
	b.do("the last one", chromedp.Evaluate(`document.querySelector(".long").scrollTop = 1e9`, nil))
	b.until("the last one", fmt.Sprintf(`document.querySelector("main tbody tr[aria-rowindex='%d']")?.textContent.includes("service-%05d")`, many+1, many-1))
	b.do("rows", chromedp.Evaluate(`document.querySelectorAll('tbody tr').length`, &rows))
	if rows == 0 || rows > 200 {
		t.Errorf("got %d rows of services as elements, want only those on the screen", rows)
	}
	b.quiet()
}

// memory returns the bytes of memory that the processes of the tabs have, and those that they share with nobody.
func (b *browser) memory() (resident, own int64) {
	b.t.Helper()
	var processes []*systeminfo.ProcessInfo
	b.do("processes", chromedp.ActionFunc(func(ctx context.Context) (err error) {
		processes, err = systeminfo.GetProcessInfo().Do(cdp.WithExecutor(ctx, chromedp.FromContext(ctx).Browser))
		return err
	}))
	for _, p := range processes {
		if p.Type != "renderer" {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.ID))
		if err != nil {
			b.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var key string
			var kib int64
			if _, err := fmt.Sscanf(line, "%s %d kB", &key, &kib); err != nil {
				continue
			}
			switch key {
			case "Rss:":
				resident += kib << 10
			case "Private_Clean:", "Private_Dirty:":
				own += kib << 10
			}
		}
	}
	return resident, own
}

// manyServices are the entries of a cluster that has n Services.
func manyServices(n int) []*agent.KubernetesAPIInfo {
	list := []*agent.KubernetesAPIInfo{
		entry("*version.Info", `{"gitVersion":"v1.36.0"}`), entry("*v1.Namespace", `{"metadata":{"uid":"ns","name":"shop"}}`),
		entry("*v1.StatefulSet", `{"metadata":{"uid":"w","name":"a","namespace":"shop"},"spec":{"template":{"metadata":{"labels":{"app":"a"}}}}}`),
		entry("*v1.Node", `{"metadata":{"uid":"n","name":"node"},"status":{"addresses":[{"type":"InternalIP","address":"10.255.0.1"}]}}`),
	}
	for i := range n {
		list = append(list, entry("*v1.Service", fmt.Sprintf(
			`{"metadata":{"uid":"s%d","name":"service-%05d","namespace":"shop"},"spec":{"type":"ClusterIP","clusterIP":"10.%d.%d.%d","selector":{"app":"a"},"ports":[{"port":80,"targetPort":8080,"protocol":"TCP","name":"http"}]}}`,
			i, i, i/62500, i/250%250, i%250)))
	}
	return list
}

// TestPageToken opens a cluster without the token that the server wants, and gives it then: the page shows the cluster, live
// changes included.
func TestPageToken(t *testing.T) {
	b := openBrowser(t)
	const token = "a-token-for-the-page"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServerWith(t, harness.Settings{
		"store.type": "memory", "access.anonymous": "none",
		"access.tokens": []map[string]any{{"name": "me", "role": "read", "token_file": file}},
	})
	reportObjects(t, s, "d-closed", 1, "", workloads(3, ""))
	b.do("open the page", chromedp.Navigate(s.HTTP+"/#/c/d-closed/changes"))
	b.until("the question for the token", `document.querySelector("#auth[open]") && document.querySelector("#live").textContent !== ""`)
	b.do("give it", chromedp.SetValue("#token", token, chromedp.ByQuery), chromedp.Click("#auth-ok", chromedp.ByQuery))
	b.until("live changes", `document.querySelector("#live").textContent.startsWith("live")`)
	reportObjects(t, s, "d-closed", 2, "", workloads(4, ""))
	b.until("the change", `document.querySelector("main").textContent.includes("version 2")`)
}

// TestPageNobodySees: a page that was left holds no connection, of which a browser has six to a server for all of its tabs. Who comes back
// sees what came meanwhile.
func TestPageNobodySees(t *testing.T) {
	b := openBrowser(t)
	s := startServer(t)
	reportObjects(t, s, "d-left", 1, "", workloads(3, ""))
	streams := func(what string, want int) {
		t.Helper()
		text := ""
		for range 100 {
			var err error
			if text, err = s.Status(t.Context()); err == nil && strings.Contains(text, fmt.Sprintf("\"streams\": %d\n", want)) {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatalf("%s: want %d streams that are read:\n%s", what, want, text)
	}
	for range 6 {
		b.do("open the page", chromedp.Navigate("about:blank"), chromedp.Navigate(s.HTTP+"/#/c/d-left/changes"))
		b.until("live changes", `document.querySelector("#live").textContent.startsWith("live")`)
	}
	streams("one page is looked at", 1)
	b.do("leave it", chromedp.Navigate("about:blank"))
	streams("none is", 0)
	reportObjects(t, s, "d-left", 2, "", workloads(4, ""))
	b.do("come back", chromedp.Evaluate(`history.back()`, nil)) // from what the browser keeps, where nothing is loaded
	b.until("what came meanwhile", `document.querySelector("main").textContent.includes("version 2")`)
	streams("one page is looked at again", 1)
}

// startServer runs a pseudo-server without an agent.
func startServer(t testing.TB) *harness.Server {
	t.Helper()
	return startServerWith(t, harness.Settings{"store.type": "memory"})
}

func startServerWith(t testing.TB, settings harness.Settings) *harness.Server {
	t.Helper()
	s, err := harness.NewServer(bins, t.TempDir(), "pseudo-server", settings)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	return s
}

// workloads are the entries of a cluster of n Pods, 100 to a Deployment, 20 of these to a namespace; suffix is appended
// to what a cluster can choose.
func workloads(n int, suffix string) []*agent.KubernetesAPIInfo {
	list := []*agent.KubernetesAPIInfo{
		entry("*version.Info", `{"gitVersion":"v1.36.0"}`),
		entry("*v1.Node", fmt.Sprintf(`{"metadata":{"uid":"n","name":%q},"status":{"addresses":[{"type":"InternalIP","address":"10.255.0.1"}]}}`, "node"+suffix)),
	}
	for i := range n {
		group := i / 100
		ns, name := fmt.Sprintf("team-%02d", group/20)+suffix, fmt.Sprintf("app-%04d", group)+suffix
		if i%2000 == 0 {
			list = append(list, entry("*v1.Namespace", fmt.Sprintf(`{"metadata":{"uid":"ns%d","name":%q}}`, group/20, ns)))
		}
		if i%100 == 0 {
			list = append(list, entry("*v1.StatefulSet", fmt.Sprintf(
				`{"metadata":{"uid":"w%d","name":%q,"namespace":%q,"labels":{"app":%q}},"spec":{"replicas":100,"template":{"metadata":{"labels":{"app":%q}}}}}`, group, name, ns, name, name)))
		}
		list = append(list, entry("*v1.Pod", fmt.Sprintf(
			`{"metadata":{"uid":"p%d","name":%q,"namespace":%q,"labels":{"app":%q},"annotations":{"note":%q},"ownerReferences":[{"kind":"StatefulSet","name":%q,"uid":"w%d"}]},"status":{"hostIP":"10.255.0.1","podIP":"10.%d.%d.%d","conditions":[{"type":"Ready","status":"True"}]}}`,
			i, fmt.Sprintf("app-%04d-%02d", group, i%100)+suffix, ns, name, suffix, name, group, i/62500, i/250%250, i%250)))
	}
	return append(list, entry("*v1.Pod", fmt.Sprintf(`{"metadata":{"uid":"lost","name":%q,"namespace":%q}}`, "lost"+suffix, "team-00"+suffix)))
}

// zippers are used again, because to make one costs more than to compress a small object.
var zippers = sync.Pool{New: func() any {
	w, _ := zlib.NewWriterLevel(nil, zlib.BestSpeed)
	return w
}}

func entry(wireType, text string) *agent.KubernetesAPIInfo {
	var b bytes.Buffer
	w := zippers.Get().(*zlib.Writer) //nolint:forcetypeassert // nothing else is in it
	defer zippers.Put(w)
	w.Reset(&b)
	_, _ = w.Write([]byte(strings.ReplaceAll(text, `\x`, `\u00`)))
	_ = w.Close()
	return &agent.KubernetesAPIInfo{Type: new(wireType), CompressedInfo: b.Bytes()}
}

func reportObjects(t testing.TB, s *harness.Server, id string, version uint64, errorMsg string, entries []*agent.KubernetesAPIInfo) {
	t.Helper()
	if err := tryReport(t, s, id, "10.0.0.1"+errorMsg, version, errorMsg, entries); err != nil {
		t.Fatal(err)
	}
}

// tryReport reports as the agent with an address, and returns why that is refused.
func tryReport(t testing.TB, s *harness.Server, id, from string, version uint64, errorMsg string, entries []*agent.KubernetesAPIInfo) error {
	t.Helper()
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = agent.NewSynchronizerClient(conn).KubernetesAPISync(t.Context(), &agent.KubernetesAPISyncRequest{
		ClusterId: new(id), Version: new(version), AgentId: proto.Uint32(1), SourceIp: new(from), ErrorMsg: new(errorMsg), Entries: entries,
	})
	return err
}
