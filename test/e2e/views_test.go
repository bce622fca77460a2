package e2e

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// look is how a view is looked at.
type look struct {
	scheme        string
	width, height int64
	// language is the one in which it is kept as a picture in docs/img/views; empty: in none.
	language string
}

// looks are both schemes at three widths, and those of the pictures.
var looks = []look{
	{"light", 375, 900, ""},
	{"light", 1250, 900, ""},
	{"light", 2560, 900, ""},
	{"light", 1100, 700, "en"},
	{"dark", 375, 900, ""},
	{"dark", 1250, 900, ""},
	{"dark", 2560, 900, ""},
	{"dark", 390, 780, "zh"},
}

// views looks at views, and compares them with their pictures.
type views struct {
	*browser

	axe string // axe-core; empty: it is not there
}

// pictures is the folder of the pictures of the documentation.
func pictures(t testing.TB) string {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "docs", "img")
}

func newViews(t *testing.T) *views {
	t.Helper()
	return &views{browser: openBrowser(t), axe: axeCore(t)}
}

// hasFonts tells whether this machine has the fonts that the pictures of the documentation were made with.
func (b *browser) hasFonts() bool {
	b.t.Helper()
	file := filepath.Join(pictures(b.t), "views", "fonts.txt")
	if b.fonts == "" {
		b.do("fonts", chromedp.Evaluate(`["system-ui", "ui-monospace"].flatMap((f) => ["The way of the data 0123", "容器集群"].map((s) => {
			const c = document.createElement("canvas").getContext("2d");
			c.font = "100px " + f;
			return Math.round(c.measureText(s).width);
		})).join(" ")`, &b.fonts))
		if remakes(file) {
			if err := os.WriteFile(file, []byte(b.fonts+"\n"), 0o644); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		b.t.Fatal(err)
	}
	if strings.TrimSpace(string(want)) == b.fonts {
		return true
	}
	b.t.Logf("pictures are not compared: the widths of this machine's fonts are %s, those of docs/img/views %s", b.fonts, want)
	return false
}

// remakes tells whether a file is to be made anew: with E2E_SCREENSHOTS=missing only if it is not there.
func remakes(file string) bool {
	mode := os.Getenv("E2E_SCREENSHOTS")
	_, err := os.Stat(file)
	return mode != "" && (mode != "missing" || err != nil)
}

// open opens an address in a language and waits until an expression holds.
func (v *views) open(what, url, language, ready string) {
	v.t.Helper()
	if strings.Contains(url, "/status?") {
		v.do("open "+what, page.SetBypassCSP(true), chromedp.Navigate(url+"&lang="+language))
	} else {
		v.do("open "+what, page.SetBypassCSP(true), chromedp.Navigate(url), chromedp.Evaluate(fmt.Sprintf(`localStorage.setItem("language", %q)`, language), nil),
			chromedp.Navigate("about:blank"), chromedp.Navigate(url))
	}
	v.until(what, ready)
}

// view looks at a view in every way: it is no wider than the screen, is accessible, speaks the language, and looks like its
// picture.
func (v *views) view(name, url, ready string) {
	v.t.Helper()
	for _, language := range []string{"en", "zh"} {
		v.open(name+" in "+language, url, language, ready)
		scheme := ""
		for _, l := range looks {
			if language != "en" && l.language != language {
				continue // the words are others, not how they are laid out
			}
			what := fmt.Sprintf("%s (%s, %s, %d pixels)", name, language, l.scheme, l.width)
			v.do("look at "+what, emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}}),
				chromedp.EmulateViewport(l.width, l.height), chromedp.Sleep(200*time.Millisecond))
			v.inside(what)
			if l.scheme != scheme && v.axe != "" {
				v.accessible(v.axe, what)
			}
			scheme = l.scheme
			if l.language == language {
				var picture []byte
				v.do("picture of "+what, chromedp.CaptureScreenshot(&picture))
				v.compare(filepath.Join(pictures(v.t), "views", name+strings.TrimPrefix("-"+language, "-en")+".png"), picture)
			}
		}
		var text string
		v.do("text of "+name, chromedp.Evaluate(`document.querySelector("main").innerText`, &text))
		if han := strings.ContainsFunc(text, func(r rune) bool { return unicode.Is(unicode.Han, r) }); han != (language == "zh") {
			v.t.Errorf("%s in %s: the page says\n%s", name, language, text)
		}
	}
}

// compare compares a picture with the one that is kept, by how light it is in the cells of a grid: numbers and times differ.
func (b *browser) compare(file string, picture []byte) {
	b.t.Helper()
	same := b.hasFonts()
	if remakes(file) {
		if err := os.WriteFile(file, picture, 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		b.t.Errorf("%v: make it with E2E_SCREENSHOTS=1", err)
		return
	}
	if !same {
		return
	}
	share, err := difference(kept, picture)
	if err != nil {
		b.t.Errorf("%s: %v", file, err)
		return
	}
	const most = 0.1
	b.t.Logf("%s: %.1f %% differ", filepath.Base(file), 100*share)
	if share > most {
		b.t.Errorf("%.0f %% of what is seen differ from %s, want %.0f %% at most; if that is meant, make it anew with E2E_SCREENSHOTS=1", 100*share, file, 100*most)
	}
}

// difference is the share of the cells of a grid in which two pictures are not equally light.
func difference(a, b []byte) (float64, error) {
	var cells [2][]float64
	var size [2]image.Point
	for i, text := range [][]byte{a, b} {
		picture, err := png.Decode(bytes.NewReader(text))
		if err != nil {
			return 0, fmt.Errorf("decode the picture: %w", err)
		}
		cells[i], size[i] = lightness(picture), picture.Bounds().Size()
	}
	if size[0] != size[1] {
		return 1, nil
	}
	different := 0
	for i := range cells[0] {
		const visible = 12
		if d := cells[0][i] - cells[1][i]; d > visible || d < -visible {
			different++
		}
	}
	return float64(different) / float64(len(cells[0])), nil
}

// lightness is the mean grey of the cells of a grid.
func lightness(picture image.Image) []float64 {
	const columns, rows = 40, 30
	sum, count := make([]float64, columns*rows), make([]float64, columns*rows)
	box := picture.Bounds()
	for y := range box.Dy() {
		for x := range box.Dx() {
			r, g, b, _ := picture.At(box.Min.X+x, box.Min.Y+y).RGBA()
			i := y*rows/box.Dy()*columns + x*columns/box.Dx()
			sum[i] += float64(r+g+b) / 3 / 257
			count[i]++
		}
	}
	for i := range sum {
		sum[i] /= max(count[i], 1)
	}
	return sum
}

// TestDifference: a picture is like itself, and not like another one.
func TestDifference(t *testing.T) {
	draw := func(from, to int) []byte {
		picture := image.NewGray(image.Rect(0, 0, 400, 300))
		for y := from; y < to; y++ {
			for x := range 400 {
				picture.Pix[y*picture.Stride+x] = 200
			}
		}
		var out bytes.Buffer
		if err := png.Encode(&out, picture); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	for _, c := range []struct {
		a, b []byte
		want float64
	}{{draw(0, 150), draw(0, 150), 0}, {draw(0, 150), draw(0, 153), 1. / 30}, {draw(0, 150), draw(150, 300), 1}} {
		if got, err := difference(c.a, c.b); err != nil || got < c.want-0.001 || got > c.want+0.001 {
			t.Errorf("got %v, %v, want %v", got, err, c.want)
		}
	}
}

// TestServerViews looks at the page of the server in every state.
func TestServerViews(t *testing.T) {
	v := newViews(t)
	empty, s := startServer(t), startServer(t)
	v.view("server-empty", empty.HTTP+"/#/", `document.querySelector("main h2")?.nextSibling?.tagName === "P"`)
	for version := range uint64(3) {
		reportObjects(t, s, "d-good", version+1, "", workloads(300+int(version), ""))
	}
	reportObjects(t, s, "d-frozen", 1, "", workloads(30, ""))
	reportObjects(t, s, "d-frozen", 2, "pods: Forbidden: list and watch are not allowed", workloads(30, ""))
	reportObjects(t, s, "d-hostile", 1, hostile, workloads(3, hostile))
	reportObjects(t, s, "d-large", 1, "", workloads(100000, ""))
	// Two processes report different clusters under one id: the second is refused.
	kubeSystem := func(uid string) *agent.KubernetesAPIInfo {
		return entry("*v1.Namespace", fmt.Sprintf(`{"metadata":{"uid":%q,"name":"kube-system"}}`, uid))
	}
	reportObjects(t, s, "d-conflict", 1, "", append(workloads(30, ""), kubeSystem("first")))
	for version := range uint64(3) {
		if err := tryReport(t, s, "d-conflict", "10.0.0.2", version+2, "", append(workloads(20, ""), kubeSystem("second"))); err == nil {
			t.Error("the second cluster under one id is not refused")
		}
	}
	for range 2 {
		syncAs(t, s, "d-good", "node-1", 1)
		syncAs(t, s, "d-good", "node-2", 2)
	}
	const panels = `document.querySelectorAll(".panels .bars li").length > 1`
	// The list is some seconds old at times: without the watcher its columns are others.
	v.view("server-clusters", s.HTTP+"/#/", `document.querySelectorAll("main td a").length === 5 && [...document.querySelectorAll("main td")].some(td => td.textContent.includes("node-1"))`)
	v.view("server-good", s.HTTP+"/#/c/d-good/overview", panels+` && document.querySelector(".verdict .good")`)
	v.view("server-frozen", s.HTTP+"/#/c/d-frozen/overview", panels+` && document.querySelector(".verdict .bad")`)
	v.view("server-watchers", s.HTTP+"/#/c/d-good/watcher", `document.querySelectorAll("main tbody tr").length === 2 && document.querySelector("svg.role")`)
	v.view("server-conflict", s.HTTP+"/#/c/d-conflict/overview", panels+` && document.querySelector(".verdict .bad")?.textContent.includes("10.0.0.2")`)
	v.view("server-compare", s.HTTP+"/#/c/d-good/versions/1/3", `document.querySelector("table.sides td.plus")`)
	v.view("server-hostile", s.HTTP+"/#/c/d-hostile/tree", `document.querySelector("[role=treeitem] .state.bad")`)
	v.view("server-large", s.HTTP+"/#/c/d-large/tree", `document.querySelector("[role=treeitem] .state.bad")`)
	v.quiet()
}

// syncAs Syncs as a node's agent that would watch.
func syncAs(t *testing.T, s *harness.Server, id, host string, n int) {
	t.Helper()
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = agent.NewSynchronizerClient(conn).Sync(t.Context(), &agent.SyncRequest{
		KubernetesClusterId: new(id), KubernetesWatchPolicy: agent.KubernetesWatchPolicy_KWP_NORMAL.Enum(), Host: new(host), CtrlIp: new(fmt.Sprintf("10.0.0.%d", n)),
		CtrlMac: new(fmt.Sprintf("00:00:00:00:00:%02x", n)), ProcessName: new("trident"), Revision: new("v6.6"), BootTime: new(uint32(1)),
	})
	if err != nil {
		t.Fatal(err)
	}
}
