package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// reportFleet reports n small clusters; every hundredth with an error_msg.
func reportFleet(t *testing.T, s *harness.Server, n int) {
	t.Helper()
	conn, err := grpc.NewClient(s.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	entries := workloads(3, "")
	todo := make(chan int)
	var working sync.WaitGroup
	for range 4 {
		working.Go(func() {
			for i := range todo {
				id, errorMsg := fmt.Sprintf("d-fleet-%05d", i), ""
				if i%100 == 99 {
					errorMsg = "pods: Forbidden: list and watch are not allowed"
				}
				_, err := agent.NewSynchronizerClient(conn).KubernetesAPISync(t.Context(), &agent.KubernetesAPISyncRequest{
					ClusterId: new(id), Version: new(uint64(i + 1)), AgentId: proto.Uint32(1), SourceIp: new("10.0.0.1"), ErrorMsg: new(errorMsg), Entries: entries,
				})
				if err != nil {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
	for i := range n {
		todo <- i
	}
	close(todo)
	working.Wait()
}

// TestFleetPage looks at ten thousand clusters: the first screen, search as one types, trouble by cause, order, and more.
func TestFleetPage(t *testing.T) {
	const clusters = 10_000
	b := openBrowser(t)
	s := startServerWith(t, harness.Settings{"store.type": "memory", "access.anonymous": "administer"})
	reportFleet(t, s, clusters)
	resp, err := http.Post(s.HTTP+"/api/v1/clusters/d-fleet-04711/labels", "application/json", strings.NewReader(`{"set":{"region":"<b>eu</b>","team":"平台"}}`))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("label: %v, %v", resp, err)
	}
	_ = resp.Body.Close()

	// The page itself notes when rows stand there that were not there before.
	b.do("watch the rows", chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(`
			window.rows = () => [...document.querySelectorAll("main td a[href^='#/c/']")].map((a) => a.textContent);
			let before = "";
			new MutationObserver(() => {
				const now = window.rows().join();
				if (now !== before) requestAnimationFrame(() => { window.drawn = performance.now(); });
				before = now;
			}).observe(document, { childList: true, subtree: true });`).Do(ctx)
		return err
	}))
	b.do("open the page", chromedp.Navigate(s.HTTP+"/"))
	b.until("the first hundred clusters", `window.drawn > 0 && window.rows().length === 100 && window.rows()[0] === "d-fleet-00000"`)
	var first, whole, typed float64
	b.do("times", chromedp.Evaluate(`window.drawn - performance.getEntriesByType("resource").filter((e) => e.name.includes("/clusters?")).at(0).responseEnd`, &first),
		chromedp.Evaluate(`window.drawn`, &whole))
	b.until("the number of all", `document.querySelector("main [role=status]").textContent === "100 of 10,000"`)
	b.until("the fleet in numbers", `document.querySelector("ul.numbers li").textContent === "9,900 fine"`)

	b.do("type", chromedp.Focus("main input[type=search]", chromedp.ByQuery), chromedp.Evaluate(`performance.mark("typed")`, nil),
		chromedp.SendKeys("main input[type=search]", "fleet-0471", chromedp.ByQuery))
	b.until("ten clusters", `window.rows().length === 10 && window.rows()[0] === "d-fleet-04710"`)
	b.do("time", chromedp.Evaluate(`window.drawn - performance.getEntriesByName("typed")[0].startTime`, &typed))
	b.do("type on", chromedp.SendKeys("main input[type=search]", "1", chromedp.ByQuery))
	b.until("one cluster with its labels as text", `window.rows().join() === "d-fleet-04711" && document.querySelector("main tbody").textContent.includes("region=<b>eu</b> team=平台")`)
	b.until("the focus stays", `document.activeElement === document.querySelector("main input[type=search]")`)
	b.do("search a label", chromedp.Evaluate(`document.activeElement.value = ""`, nil), chromedp.SendKeys("main input[type=search]", "TEAM=平台", chromedp.ByQuery))
	b.until("the cluster of the label", `window.rows().join() === "d-fleet-04711"`)
	b.do("search no more", chromedp.Evaluate(`document.activeElement.value = ""`, nil), chromedp.SendKeys("main input[type=search]", " ", chromedp.ByQuery))
	b.until("all again", `window.rows().length === 100`)

	b.do("what is wrong", chromedp.Click(`main .bars a[href="#/trouble/frozen"]`, chromedp.ByQuery))
	b.until("the frozen ones", `window.rows().length === 100 && window.rows()[0] === "d-fleet-00099" && window.rows()[99] === "d-fleet-09999"`)
	b.do("turn the order around", chromedp.Click(`main thead th:first-child button`, chromedp.ByQuery), chromedp.Click(`main thead th:first-child button`, chromedp.ByQuery))
	b.until("the last one first", `window.rows().length === 100 && window.rows()[0] === "d-fleet-09999"`)
	b.do("all clusters", chromedp.Evaluate(`location.hash = "#/"`, nil))
	b.until("all", `document.querySelector("main [role=status]").textContent === "100 of 10,000"`)
	b.do("more", chromedp.Evaluate(`[...document.querySelectorAll("main button")].at(-1).click()`, nil))
	b.until("five hundred", `window.rows().length === 500`)
	b.quiet()
	t.Logf("10,000 clusters: the first screen %.0f ms after the answer, %.0f ms after the page was asked for; ten of them %.0f ms after the first key", first, whole, typed)
}
