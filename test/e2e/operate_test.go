package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// prometheus is a running Prometheus that scrapes one program every second.
type prometheus struct{ url string }

// startPrometheus skips the test if Prometheus is not installed.
func startPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed (Debian's package of that name has it)")
	}
	dir := t.TempDir()
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: pseudo-agent
  static_configs:
  - targets: [%s]
`, target)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	// The context ends with the test, and kills it.
	cmd := exec.CommandContext(t.Context(), bin, "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address="+address)
	cmd.Dir = dir
	log, err := os.Create(filepath.Join(dir, "prometheus.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait() // killed by the context
		_ = log.Close()
	})
	p := &prometheus{url: "http://" + address}
	deadline := time.Now().Add(time.Minute)
	for {
		if v, err := p.query(t.Context(), "up"); err == nil && v == 1 {
			return p
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("Prometheus does not scrape the agent:\n%s", text)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// query returns the only value of the query's result.
func (p *prometheus) query(ctx context.Context, query string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/api/v1/query?"+url.Values{"query": {query}}.Encode(), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct {
			Result []struct {
				Value [2]any `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", query, err, body)
	}
	if len(answer.Data.Result) != 1 {
		return 0, fmt.Errorf("%s has %d values, want one: %s", query, len(answer.Data.Result), body)
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	return strconv.ParseFloat(text, 64)
}

func TestLagFollowsAnInjectedDelay(t *testing.T) {
	const delay = 12 * time.Second
	p := newPair(t, options{})
	loader, objs := load(t, nil)
	p.must(p.server.Start(p.ctx))
	slow := newRelay(t, "agent", p.server.GRPC, &ledger{})
	p.must(p.agent.Configure(harness.Settings{"server.addresses": []string{slow.address}}))
	p.must(p.agent.Start(p.ctx))
	prom := startPrometheus(t, strings.TrimPrefix(p.agent.HTTP, "http://"))
	before := p.quiet()

	lag := func() (sum, count float64) {
		t.Helper()
		var err error
		sum, err = p.agent.Metric(p.ctx, "pseudo_agent_sync_lag_seconds_sum")
		p.must(err)
		count, err = p.agent.Metric(p.ctx, "pseudo_agent_sync_lag_seconds_count")
		p.must(err)
		return sum, count
	}
	sum, count := lag()
	slow.hold()
	changed := time.Now()
	patch(t, loader, pick(t, objs, "Pod", "web-6d5f8b9c4-x7k2p"), labelled("e2e.example.com/slow", "yes"))
	time.Sleep(delay)
	held := time.Since(changed)
	slow.release()
	p.eventually(time.Minute, "the change is reported", func() error {
		if _, n := lag(); n == count {
			return fmt.Errorf("no version has been acknowledged since")
		}
		return nil
	})
	atMost := time.Since(changed).Seconds()

	p.eventually(time.Minute, "Prometheus has the observation", func() error {
		n, err := prom.query(p.ctx, "pseudo_agent_sync_lag_seconds_count")
		if err == nil && n != count+1 {
			err = fmt.Errorf("Prometheus has %v observations, want %v", n, count+1)
		}
		return err
	})
	total, err := prom.query(p.ctx, "pseudo_agent_sync_lag_seconds_sum")
	p.must(err)
	// The watch delivers the change a moment after it was made.
	if got := total - sum; got < held.Seconds()-1 || got > atMost {
		t.Errorf("the lag is %.3f s, want between the injected %s and %.3f s", got, held, atMost)
	}
	// The gauge grew meanwhile, as the scrapes saw it, and is back at 0.
	age, err := prom.query(p.ctx, "max_over_time(pseudo_agent_oldest_unacknowledged_change_age_seconds[2m])")
	p.must(err)
	if age <= delay.Seconds()/2 || age > atMost {
		t.Errorf("the age of the oldest change rose to %.3f s, want more than half of %s and at most %.3f s", age, delay, atMost)
	}
	p.eventually(time.Minute, "the age is 0 again", func() error {
		age, err := prom.query(p.ctx, "pseudo_agent_oldest_unacknowledged_change_age_seconds")
		if err == nil && age != 0 {
			err = fmt.Errorf("it is %v", age)
		}
		return err
	})
	if after := p.synced(time.Minute); after.Version == before.Version {
		t.Error("the server has still the old version")
	}
	for title, query := range firstRow(t) {
		value, err := prom.query(p.ctx, query)
		if err != nil {
			t.Errorf("the dashboard's %q: %v", title, err)
		}
		t.Logf("the dashboard's %q: %g", title, value)
	}
}

func TestLogLevelChangesWhileRunning(t *testing.T) {
	p := newPair(t, options{}) // at debug level
	loader, objs := load(t, nil)
	p.start()
	p.synced(time.Minute)
	pod := pick(t, objs, "Pod", "web-6d5f8b9c4-x7k2p")
	said := func() int { return strings.Count(p.agent.Tail(1<<20), "level=DEBUG") }
	before := said()
	patch(t, loader, pod, labelled("e2e.example.com/turn", "first"))
	p.synced(time.Minute)
	if said() == before {
		t.Fatal("the agent says nothing at debug level about a report")
	}
	p.must(p.agent.Configure(harness.Settings{"log.level": "info"}))
	p.eventually(time.Minute, "the change is taken over", func() error {
		if log := p.agent.Tail(20); !strings.Contains(log, "configuration") {
			return fmt.Errorf("the log does not mention it:\n%s", log)
		}
		return nil
	})
	before = said()
	patch(t, loader, pod, labelled("e2e.example.com/turn", "second"))
	p.synced(time.Minute)
	if after := said(); after != before {
		t.Errorf("%d lines at debug level came after the level was changed to info", after-before)
	}
}

// firstRow are the queries by title of the dashboard's panels that are seen without scrolling.
func firstRow(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(chartsDir, "pseudo-agent/dashboards/pseudo-agent.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{}
	rows := 0
	for _, panel := range dashboard.Panels {
		if panel.Type == "row" {
			rows++
		}
		for _, target := range panel.Targets {
			if rows == 1 {
				queries[panel.Title] = strings.ReplaceAll(target.Expr, "$job", "pseudo-agent")
			}
		}
	}
	if len(queries) < 3 {
		t.Fatalf("the first row answers %d questions, want the three of its title at least", len(queries))
	}
	return queries
}
