package e2e

import (
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestStatusPageRenewsItself: without loading the page again, and so that what was opened and focused stays; a program that ends is told.
func TestStatusPageRenewsItself(t *testing.T) {
	b := openBrowser(t)
	s := startServer(t)
	b.do("open the status", chromedp.Navigate(s.HTTP+"/status?format=html"), chromedp.Evaluate(`window.still = true`, nil))
	b.until("the details", `document.querySelector("details summary")`)
	const second = `document.querySelectorAll("details")[1]`
	b.do("open a part by the keyboard", chromedp.Evaluate(second+`.querySelector("summary").focus()`, nil), chromedp.KeyEvent(kb.Enter))
	b.until("it is open", second+`.open`)
	b.do("mark what is shown", chromedp.Evaluate(`document.querySelector("main").dataset.old = "yes"`, nil))
	reportObjects(t, s, "d-new", 1, "pods: forbidden", workloads(1, ""))
	const renewed = `document.querySelector("main").dataset.old === undefined && document.querySelector("section.card")?.textContent.includes("d-new")`
	b.until("it is renewed in its place", renewed+` && window.still`)
	b.until("what was open is open, and has the focus", second+`.open && document.activeElement === `+second+`.querySelector("summary") && document.querySelectorAll("details[open]").length === 1`)
	s.Kill()
	b.until("that nobody answers is told", `!document.querySelector("#away").hidden && document.querySelector("#away").textContent.startsWith("No answer now")`)
}
