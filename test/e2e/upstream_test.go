package e2e

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

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

// TestUpstreamPage follows docs/upstream.md: it installs the chart, runs what the chart says in front of a server that has
// been there before, and takes it out again.
func TestUpstreamPage(t *testing.T) {
	b := openPages(t, "docs/upstream.md")
	makeNamespaces(t, releaseNamespace)
	b.untried["kubectl -n deepflow rollout status"], b.untried["kubectl -n deepflow port-forward"] = false, false // there are no kubelets
	behind := b.server()
	blocks := b.section("Install in front of an existing DeepFlow", 4)
	b.follow(blocks[0])

	service, err := cluster.Client.CoreV1().Services(releaseNamespace).Get(t.Context(), "pseudo-server", metav1.GetOptions{})
	if err != nil || service.Spec.LoadBalancerIP != "192.0.2.10" || service.Spec.Ports[0].Port != 30035 {
		t.Errorf("got Service %+v, %v, want that of the address that agents are given", service, err)
	}
	front := b.runServer("pseudo-server")
	b.own["http://localhost:20080"] = front.HTTP
	b.own["bin/pseudo-server watchers"] = bins.Server + " --server " + front.HTTP + " watchers"
	if said := b.follow(blocks[1]); !strings.Contains(said, `"address":"`+behind.GRPC+`","healthy":true`) || !strings.Contains(said, `"advertise":"192.0.2.10:30035"`) {
		t.Errorf("the server behind is not shown as healthy: %s", said)
	}

	// One agent has the new address, another one still the old.
	agents := map[string]*grpc.ClientConn{}
	for host, address := range map[string]string{"node-1": front.GRPC, "node-2": behind.GRPC} {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		agents[host] = conn
	}
	sync := func(host string) bool {
		resp, err := agent.NewSynchronizerClient(agents[host]).Sync(t.Context(), &agent.SyncRequest{
			CtrlIp: new("10.0.0.1"), CtrlMac: new("52:54:00:00:00:01"), Host: &host, ProcessName: new("deepflow-agent"), BootTime: new(uint32(1)),
			KubernetesClusterId: new(bookCluster),
		})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetDynamicConfig().GetKubernetesApiEnabled()
	}
	report := func(host string, version uint64, entries ...*agent.KubernetesAPIInfo) {
		req := &agent.KubernetesAPISyncRequest{ClusterId: new(bookCluster), Version: &version, AgentId: new(uint32(1)), Entries: entries}
		if _, err := agent.NewSynchronizerClient(agents[host]).KubernetesAPISync(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if !sync("node-1") {
		t.Error("the agent with the new address is not elected")
	}
	report("node-1", 1, versionEntry(t))
	if said := b.follow(blocks[2]); !strings.Contains(said, `"cluster":"`+bookCluster+`","server":"`+behind.GRPC+`"`) || strings.Contains(said, `"why"`) || !strings.Contains(said, "node-1") {
		t.Errorf("the cluster is shown as %s", said)
	}
	report("node-2", 2, versionEntry(t))
	report("node-1", 1)
	if said := b.follow(blocks[2]); !strings.Contains(said, `"why":"version"`) {
		t.Errorf("that somebody reports past it is not shown: %s", said)
	}

	b.follow(blocks[3])
	// Nobody here ends what protects a volume in use.
	claims := cluster.Client.CoreV1().PersistentVolumeClaims(releaseNamespace)
	if _, err := claims.Patch(t.Context(), "pseudo-server", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil && !notFound(err) {
		t.Error(err)
	}
	b.nothingLeft("pseudo-server")
	front.Kill()
	_ = agents["node-1"].Close()
	if agents["node-1"], err = grpc.NewClient(behind.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agents["node-1"].Close() }()
	sync("node-1")
	for command, occurred := range b.untried {
		if !occurred {
			t.Errorf("%q does not occur any more", command)
		}
	}
}

func versionEntry(t *testing.T) *agent.KubernetesAPIInfo {
	t.Helper()
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	if _, err := io.WriteString(w, `{"gitVersion":"v1.36.0"}`); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &agent.KubernetesAPIInfo{Type: new("*version.Info"), CompressedInfo: b.Bytes()}
}

// runServer runs a pseudo-server with the configuration that a release of its chart has in the cluster, on ports of this
// machine.
func (b *book) runServer(release string) *harness.Server {
	b.t.Helper()
	m, err := cluster.Client.CoreV1().ConfigMaps(releaseNamespace).Get(b.t.Context(), release, metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	dir := b.t.TempDir()
	secret, err := cluster.Client.CoreV1().Secrets(releaseNamespace).Get(b.t.Context(), release+"-tokens", metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	for key, token := range secret.Data {
		if err := os.WriteFile(filepath.Join(dir, key), token, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	text := strings.NewReplacer("/var/lib/pseudo-server", dir, "/etc/pseudo-server-tokens", dir).Replace(m.Data["config.yaml"])
	var config map[string]map[string]any
	if err := yaml.Unmarshal([]byte(text), &config); err != nil {
		b.t.Fatal(err)
	}
	settings := harness.Settings{}
	for section, keys := range config {
		for key, value := range keys {
			settings[section+"."+key] = value
		}
	}
	server, err := harness.NewServer(bins, dir, release, settings)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(server.Kill)
	if err := server.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return server
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
