package e2e

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// TestUpstream lets a pseudo-agent report through a pseudo-server that stands in front of another one, which is strict as
// no deepflow-server is: it refuses what would crash one.
func TestUpstream(t *testing.T) {
	for _, policy := range []string{"watch-only", "normal"} {
		t.Run(policy, func(t *testing.T) {
			behind, err := harness.NewServer(bins, t.TempDir(), "behind", nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := behind.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(behind.Kill)
			p := newPair(t, options{
				server: harness.Settings{"upstream.addresses": []string{behind.GRPC}, "upstream.advertise": "192.0.2.1:30035"},
				agent:  harness.Settings{"watch_policy": policy, "register_as_agent": policy == "normal"},
			})
			p.start()
			p.synced(time.Minute)
			p.eventually(time.Minute, "both hold the same", func() error {
				front, here, err := p.server.Snapshot(p.ctx, p.clusterID)
				if err != nil {
					return err
				}
				back, there, err := behind.Snapshot(p.ctx, p.clusterID)
				if err != nil {
					return err
				}
				if front != back || !reflect.DeepEqual(here, there) {
					return fmt.Errorf("version %d with %d objects, behind it version %d with %d", front, len(here), back, len(there))
				}
				return nil
			})
			watchers, err := p.server.Watchers(p.ctx, p.clusterID)
			if err != nil || watchers.Holder == nil {
				t.Errorf("the front elected %+v, %v", watchers, err)
			}
			p.hostile(behind)
			p.upstreamPage(behind)
		})
	}
}

// hostile sends a report that would crash a deepflow-server: it arrives fixed, and the status names what was fixed.
func (p *pair) hostile(behind *harness.Server) {
	p.t.Helper()
	conn, err := grpc.NewClient(p.server.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	p.must(err)
	defer func() { _ = conn.Close() }()
	req := &agent.KubernetesAPISyncRequest{ClusterId: new("d-hostile"), Version: new(uint64(1)), AgentId: new(uint32(1))}
	req.Entries = append(req.Entries, &agent.KubernetesAPIInfo{Type: new("*v1.Pod"), CompressedInfo: []byte("no zlib")})
	for kind, json := range maps.All(map[string]string{
		"*version.Info": `{"gitVersion":"v1.36.0"}`,
		"*v1.Pod":       `{"metadata":{"uid":"1","name":"evil","namespace":"default"},"status":{"podIP":"10.0.0.999"}}`,
	}) {
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		_, err := io.WriteString(w, json)
		p.must(err)
		p.must(w.Close())
		req.Entries = append(req.Entries, &agent.KubernetesAPIInfo{Type: &kind, CompressedInfo: b.Bytes()})
	}
	resp, err := agent.NewSynchronizerClient(conn).KubernetesAPISync(p.ctx, req)
	p.must(err)
	version, objects, err := behind.Snapshot(p.ctx, "d-hostile")
	p.must(err)
	if resp.GetVersion() != 1 || version != 1 || len(objects) != 2 || strings.Contains(fmt.Sprint(objects), "999") {
		p.t.Errorf("answered %d; the server behind holds version %d: %v", resp.GetVersion(), version, objects)
	}
	status, err := http.Get(p.server.HTTP + "/status?format=text")
	p.must(err)
	defer func() { _ = status.Body.Close() }()
	text, err := io.ReadAll(status.Body)
	p.must(err)
	if !strings.Contains(string(text), "d-hostile were fixed") || !strings.Contains(string(text), "10.0.0.999") || !strings.Contains(string(text), "default/evil") {
		p.t.Errorf("the status does not name what was fixed:\n%s", text)
	}
}

// upstreamPage looks at the page in a real browser: the server behind, who was elected, what was fixed.
func (p *pair) upstreamPage(behind *harness.Server) {
	p.t.Helper()
	b := openBrowser(p.t)
	b.do("open the page", chromedp.Navigate(p.server.HTTP+"/"))
	b.until("the first page leads there", `[...document.querySelectorAll("a")].some((a) => a.hash === "#/upstream")`)
	b.do("follow the link", chromedp.Evaluate(`location.hash = "#/upstream"`, nil))
	for _, text := range []string{behind.GRPC, "healthy", "192.0.2.1:30035", p.clusterID, "d-hostile", "10.0.0.999", "default/evil", "pseudo-agent"} {
		b.until("the page shows "+text, fmt.Sprintf("document.body.innerText.includes(%q)", text))
	}
	b.quiet()
}
