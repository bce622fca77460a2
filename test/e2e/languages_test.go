package e2e

import (
	"testing"

	"github.com/chromedp/chromedp"
)

// TestLanguages opens the page in a Chinese browser, and switches it to English and back: the choice is kept.
func TestLanguages(t *testing.T) {
	b := openBrowser(t, chromedp.Flag("lang", "zh-CN"), chromedp.Flag("accept-lang", "zh-CN,zh"))
	s := startServer(t)
	reportObjects(t, s, "d-words", 1, "", workloads(3, ""))
	b.do("open the page", chromedp.Navigate(s.HTTP+"/"))
	b.until("the clusters in Chinese", `document.documentElement.lang === "zh-CN" && document.querySelector("main h2")?.textContent === "容器集群" && document.querySelector("main td a")`)
	b.do("open the cluster", chromedp.Click("main td a", chromedp.ByQuery))
	b.until("the verdict in Chinese", `document.querySelector(".verdict")?.textContent.startsWith("工作正常：8 个对象")`)
	b.do("switch", chromedp.Click("#language", chromedp.ByQuery))
	b.until("the verdict in English", `document.documentElement.lang === "en" && document.querySelector(".verdict")?.textContent.startsWith("It works: 8 objects")`)
	b.do("come again", chromedp.Navigate("about:blank"), chromedp.Navigate(s.HTTP+"/"))
	b.until("the choice is kept", `document.querySelector("main h2")?.textContent === "Clusters"`)
	b.do("switch back", chromedp.Focus("#language", chromedp.ByQuery), chromedp.KeyEvent("\r"))
	b.until("Chinese again", `document.querySelector("main h2")?.textContent === "容器集群"`)
	b.quiet()
}
