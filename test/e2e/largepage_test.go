package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// timed does something and returns after how many milliseconds the first element that a selector matches was painted.
func (b *browser) timed(what, act, selector string) float64 {
	b.t.Helper()
	var took float64
	b.do(what, chromedp.Evaluate(fmt.Sprintf(`new Promise((done, failed) => {
		const begun = performance.now(), watch = new MutationObserver(() => {
			if (!document.querySelector(%[1]q)) return;
			watch.disconnect();
			requestAnimationFrame(() => {
				const painted = new MessageChannel();
				painted.port1.onmessage = () => done(performance.now() - begun);
				painted.port2.postMessage(0);
			});
		});
		watch.observe(document.body, { childList: true, subtree: true });
		setTimeout(() => failed(new Error("nothing came")), 60000);
		%[2]s;
	})`, selector, act), &took, awaited))
	return took
}

func awaited(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }

// scrolled jumps through the whole tree in 60 steps and returns how many milliseconds the slowest took until it was painted, and
// the mean of all.
func (b *browser) scrolled() (slowest, mean float64) {
	b.t.Helper()
	var took []float64
	b.do("scroll", chromedp.Evaluate(`(async () => {
		const tree = document.querySelector("[role=tree]"), took = [];
		for (let i = 1; i <= 60; i++) {
			const begun = performance.now();
			tree.scrollTop = tree.scrollHeight * i / 60;
			await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));
			took.push(performance.now() - begun);
		}
		return took;
	})()`, &took, awaited))
	for _, ms := range took {
		slowest, mean = max(slowest, ms), mean+ms/float64(len(took))
	}
	return slowest, mean
}

// openedClusters shows the list of clusters as if it had never been seen.
func (b *browser) openedClusters(s *harness.Server) {
	b.t.Helper()
	b.do("open the page", chromedp.Navigate("about:blank"), chromedp.Navigate(s.HTTP+"/"))
	b.until("the list of clusters", `document.querySelectorAll("main td a").length > 1`)
}

// BenchmarkLargePage has how long the first screen of a cluster of 100,000 Pods takes, its tree, and the slowest of 60 jumps through all
// of them; and the same of a cluster of 300 Pods, in turn, as the baseline: what a browser on this machine takes anyway.
func BenchmarkLargePage(bench *testing.B) {
	b := openBrowser(bench)
	s := startServer(bench)
	sizes := map[string]int{"d-large": 100000, "d-small": 300}
	for id, pods := range sizes {
		reportObjects(bench, s, id, 1, "", workloads(pods, ""))
	}
	b.do("open the page", chromedp.Navigate(s.HTTP+"/"))
	// The inventory is computed once after the report; that is not the page's time.
	for id := range sizes {
		b.do("the inventory", chromedp.Navigate(s.HTTP+"/#/c/"+id+"/tree"))
		b.until("the inventory", `document.querySelector('[role=treeitem]')`)
	}
	sum, most := map[string]float64{}, map[string]float64{}
	n := 0
	for bench.Loop() {
		n++
		for id, pods := range sizes {
			note := func(what string, ms float64) { sum[what+id] += ms; most[what+id] = max(most[what+id], ms) }
			b.openedClusters(s)
			note("screen", b.timed("first screen", fmt.Sprintf(`[...document.querySelectorAll("main td a")].find((e) => e.textContent === %q).click()`, id), ".panels"))
			note("tree", b.timed("the tree", `document.querySelector("#tabs a[href$='/tree']").click()`, "[role=treeitem]"))
			b.do("open everything", chromedp.Click(`//button[text()="Open all"]`, chromedp.BySearch))
			b.until("all rows", fmt.Sprintf(`document.querySelector("[role=tree] .space").offsetHeight > %d`, pods*28))
			time.Sleep(200 * time.Millisecond)
			slowest, mean := b.scrolled()
			note("scroll", slowest)
			note("scrolls", mean)
		}
	}
	for _, what := range []string{"screen", "tree", "scroll", "scrolls"} {
		large, small := sum[what+"d-large"]/float64(n), sum[what+"d-small"]/float64(n)
		bench.ReportMetric(large, what+"-ms")
		bench.ReportMetric(large/small, what+"/small")
	}
	bench.ReportMetric(most["scroll"+"d-large"], "slowest-scroll-ms")
	bench.ReportMetric(0, "ns/op")
}
