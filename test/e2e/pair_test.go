package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// pair is an agent that reports the shared cluster to a server, both for one test.
type pair struct {
	t         *testing.T
	ctx       context.Context
	clusterID string
	server    *harness.Server
	agent     *harness.Daemon
	account   *harness.Account
	sources   []expect.Source             // what the server should hold
	within    func(namespace string) bool // the namespaces that it should hold; nil: all
}

// options are what differs between pairs.
type options struct {
	sources []expect.Source // default: expect.Defaults
	within  func(namespace string) bool
	agent   harness.Settings
	server  harness.Settings
	rules   []rbacv1.PolicyRule // default: to list and watch the sources
	noRules bool                // the test grants permissions itself
}

// newPair prepares a server, a service account and an agent. Nothing is started.
func newPair(t *testing.T, o options) *pair {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	dir := t.TempDir()
	p := &pair{t: t, ctx: t.Context(), clusterID: "d-e2e", sources: o.sources, within: o.within}
	if p.sources == nil {
		p.sources = expect.Defaults
	}
	var err error
	if p.account, err = cluster.NewAccount(p.ctx, name); err != nil {
		t.Fatal(err)
	}
	if !o.noRules {
		rules := o.rules
		if rules == nil {
			rules = harness.ReadAll(expect.Names(p.sources)...)
		}
		if err := p.account.Grant(p.ctx, "read", rules...); err != nil {
			t.Fatal(err)
		}
	}
	if p.server, err = harness.NewServer(bins, dir, "pseudo-server", o.server); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hash.key"), []byte(expect.HashKey), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := harness.Settings{
		"report.debounce":           "100ms",
		"report.heartbeat_interval": "1s",
		"projection.hash_key_file":  filepath.Join(dir, "hash.key"),
		"log.level":                 "debug",
		"log.format":                "text",
	}
	maps.Copy(settings, o.agent)
	if p.agent, err = harness.NewAgent(bins, dir, "pseudo-agent", p.account.Kubeconfig, p.server.GRPC, p.clusterID, settings); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.agent.Kill()
		p.server.Kill()
		for _, d := range []*harness.Daemon{p.agent, &p.server.Daemon} {
			// The race detector reports to the log of binaries that were built with it.
			if log := d.Tail(1 << 20); strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") {
				t.Errorf("%s has a data race or has panicked:\n%s", d.Name, log)
			}
		}
		if t.Failed() {
			t.Logf("the agent's last words:\n%s", p.agent.Tail(40))
			t.Logf("the server's last words:\n%s", p.server.Tail(10))
		}
	})
	return p
}

// start starts the server and the agent.
func (p *pair) start() {
	p.t.Helper()
	p.must(p.server.Start(p.ctx))
	p.must(p.agent.Start(p.ctx))
}

func (p *pair) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// eventually repeats f until it returns nil. It fails the test with f's last error when the time is over.
func (p *pair) eventually(within time.Duration, what string, f func() error) {
	p.t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		if p.agent.Ended() {
			p.t.Fatalf("%s: the agent has ended", what)
		}
		select {
		case <-p.ctx.Done():
			p.t.Fatal(p.ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// synced waits until the server holds exactly what the apiserver has, and returns what the server says of the cluster.
func (p *pair) synced(within time.Duration) harness.ClusterInfo {
	p.t.Helper()
	var info harness.ClusterInfo
	p.eventually(within, "the server holds what the apiserver has", func() error {
		want, err := expect.Of(p.ctx, cluster.Dynamic, cluster.Client.Discovery().RESTClient(), p.sources, p.within)
		if err != nil {
			return err
		}
		if info, err = p.server.Cluster(p.ctx, p.clusterID); err != nil {
			return err
		}
		version, got, err := p.server.Snapshot(p.ctx, p.clusterID)
		if err != nil {
			return err
		}
		if d := cmp.Diff(want, got); d != "" {
			return fmt.Errorf("version %d differs (-want +got):\n%s", version, d)
		}
		return nil
	})
	return info
}

// quiet waits until the server has held its version for longer than the agent's push_interval, so that the next change is
// reported at once, and returns what the server says then.
func (p *pair) quiet() harness.ClusterInfo {
	p.t.Helper()
	const pushInterval = 10 * time.Second // the default, which is the least
	last, since := p.synced(time.Minute), time.Now()
	var info harness.ClusterInfo
	p.eventually(2*time.Minute, "the version stands still", func() error {
		var err error
		if info, err = p.server.Cluster(p.ctx, p.clusterID); err != nil {
			return err
		}
		if info.Version != last.Version {
			last, since = info, time.Now()
		}
		if stood := time.Since(since); stood <= pushInterval {
			return fmt.Errorf("version %d stands for %s", info.Version, stood.Round(time.Millisecond))
		}
		return nil
	})
	return info
}

// heartbeats waits until the server has heard from the agent n more times.
func (p *pair) heartbeats(n int) harness.ClusterInfo {
	p.t.Helper()
	var info harness.ClusterInfo
	var last time.Time
	p.eventually(time.Minute, "heartbeats arrive", func() error {
		var err error
		if info, err = p.server.Cluster(p.ctx, p.clusterID); err != nil {
			return err
		}
		if info.LastReport.After(last) {
			last = info.LastReport
			n--
		}
		if n >= 0 {
			return fmt.Errorf("%d more to come", n+1)
		}
		return nil
	})
	return info
}

// snapshot returns what the server holds.
func (p *pair) snapshot() expect.Snapshot {
	p.t.Helper()
	_, s, err := p.server.Snapshot(p.ctx, p.clusterID)
	p.must(err)
	return s
}

// stored is how many reports under a new version the server has taken since its start.
func (p *pair) stored() int {
	p.t.Helper()
	n, err := p.server.Metric(p.ctx, "pseudo_server_reports_total", `outcome="stored"`)
	p.must(err)
	return int(n)
}

// received is how many bytes of requests the server has taken since its start.
func (p *pair) received() int {
	p.t.Helper()
	n, err := p.server.Metric(p.ctx, "pseudo_server_received_bytes_total")
	p.must(err)
	return int(n)
}

// statusSays fails unless the agent's status has both words in it.
func (p *pair) statusSays(words ...string) error {
	status, err := p.agent.Status(p.ctx)
	if err != nil {
		return err
	}
	for _, w := range words {
		if !strings.Contains(status, w) {
			return fmt.Errorf("the status does not say %q:\n%s", w, status)
		}
	}
	return nil
}
