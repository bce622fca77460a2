package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// TestAgentViews looks at the status of an agent that may not read Pods, to which all is well, whose apiserver is away, whose server
// is late or away, and whose cluster another agent reports, too.
func TestAgentViews(t *testing.T) {
	v := newViews(t)
	p := newPair(t, options{noRules: true, agent: harness.Settings{"server.request_timeout": "2s", "inputs.resources.kubernetes.api_resources": yamlList(t, "- {name: configmaps}\n")}})
	load(t, func(o *unstructured.Unstructured) bool { return o.GetKind() == "Node" || o.GetKind() == "Namespace" })
	rest := make([]string, 0, len(p.sources))
	for _, s := range expect.Names(p.sources) {
		if !strings.HasPrefix(s, "pods") {
			rest = append(rest, s)
		}
	}
	p.must(p.account.Grant(p.ctx, "most", harness.ReadAll(append(rest, "configmaps")...)...))
	p.start()
	stage := func(tone string, n int) string {
		return fmt.Sprintf(`document.querySelectorAll("svg.way .stage")[%d]?.matches(".%s")`, n, tone)
	}
	url := p.agent.HTTP + "/status?format=html"
	wait := func(what, ready string) {
		t.Helper()
		for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(time.Second) {
			var held bool
			v.do(what, chromedp.Navigate(url), chromedp.Evaluate("!!("+ready+")", &held))
			if held {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: it has not come", what)
			}
		}
	}
	look := func(name, ready string) {
		t.Helper()
		wait(name, ready)
		v.view(name, url, ready)
	}
	look("agent-forbidden", stage("bad", 1)+` && document.querySelector("section.card .copy")`)
	p.must(p.account.Grant(p.ctx, "pods", harness.ReadAll("pods")...))
	look("agent-good", stage("good", 1)+" && "+stage("good", 4)+` && document.querySelector("svg.lag")`)
	// However connections break, one outage is one card.
	p.restartAPIServer(func() {
		look("agent-apiserver-away", stage("bad", 0)+` && document.querySelectorAll("section.card").length === 1 && document.querySelector("section.card").textContent.includes("refused")`)
	})
	const inTrouble = `document.querySelectorAll("svg.way .stage.warn, svg.way .stage.bad").length > 0 && document.querySelectorAll("section.card").length === 1`
	well := stage("good", 0) + " && " + stage("good", 1) + " && " + stage("good", 4)
	wait("the apiserver is back", well)
	p.must(p.server.Process().Freeze())
	look("agent-server-late", inTrouble+` && document.querySelector("section.card").textContent.includes("eadline")`)
	p.must(p.server.Process().Thaw())
	wait("the server answers again", well)
	p.server.Kill()
	look("agent-server-away", inTrouble)
	v.until("on a phone, too, the stage that holds things up is in sight", `innerWidth < 400 && (() => {
		const e = document.querySelector(".way [fill]").getBoundingClientRect();
		return e.left >= 0 && e.right <= innerWidth;
	})()`)
	p.must(p.server.Start(p.ctx))
	wait("the server is back", well)
	rival := func() {
		time.Sleep(time.Second)
		if err := tryReport(t, p.server, p.clusterID, "10.0.0.2", uint64(time.Now().UnixMicro()), "", workloads(3, "")); err != nil {
			t.Log(err)
		}
	}
	// What happens in the first minutes is taken for a hand-over.
	problem := false
	for deadline := time.Now().Add(5 * time.Minute); !problem && time.Now().Before(deadline); {
		rival()
		v.do("conflict", chromedp.Navigate(url), chromedp.Evaluate(`!!document.querySelector("section.card")`, &problem))
	}
	wait("the conflict", inTrouble+` && document.querySelector("section.card").textContent.includes("another agent reports this cluster too")`)
	look("agent-conflict", inTrouble)
}
