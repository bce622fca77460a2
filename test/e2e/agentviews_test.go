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

// TestAgentViews looks at the status of an agent that may not read Pods, to which all is well, whose apiserver and whose server
// is away.
func TestAgentViews(t *testing.T) {
	v := newViews(t)
	p := newPair(t, options{noRules: true, agent: harness.Settings{"inputs.resources.kubernetes.api_resources": yamlList(t, "- {name: configmaps}\n")}})
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
	same := v.same
	v.same = false // connections break in several ways, each of which is told
	p.restartAPIServer(func() { look("agent-apiserver-away", stage("bad", 0)+` && document.querySelector("section.card")`) })
	v.same = same
	wait("the apiserver is back", stage("good", 0)+" && "+stage("good", 1))
	p.server.Kill()
	look("agent-server-away", `document.querySelectorAll("svg.way .stage.warn, svg.way .stage.bad").length > 0 && document.querySelector("section.card")`)
}
