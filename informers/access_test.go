package informers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestRESTConfig(t *testing.T) {
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.crt")
	write(t, ca, "the authority\n")
	config := func(cluster string) string {
		path := filepath.Join(dir, "kubeconfig")
		write(t, path, `{"apiVersion":"v1","kind":"Config","current-context":"a",
			"clusters":[{"name":"a","cluster":`+cluster+`},{"name":"b","cluster":{"server":"https://b:6443"}}],
			"users":[{"name":"u","user":{"token":"t"}}],
			"contexts":[{"name":"a","context":{"cluster":"a","user":"u"}},{"name":"b","context":{"cluster":"b","user":"u"}}]}`)
		return path
	}
	tests := []struct {
		name, cluster, context, host, fails string
	}{
		{name: "https", cluster: `{"server":"https://a:6443","certificate-authority":"ca.crt"}`, host: "https://a:6443"},
		{name: "other context", cluster: `{"server":"https://a:6443"}`, context: "b", host: "https://b:6443"},
		{name: "proxy on this machine", cluster: `{"server":"http://127.0.0.1:8001"}`, host: "http://127.0.0.1:8001"},
		{name: "not verified", cluster: `{"server":"https://a:6443","insecure-skip-tls-verify":true}`, fails: "insecure-skip-tls-verify is refused"},
		{name: "http elsewhere", cluster: `{"server":"http://a:8080"}`, fails: "use https"},
		{name: "no such context", cluster: `{"server":"https://a:6443"}`, context: "c", fails: `"c"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := RESTConfig(config(tt.cluster), tt.context, "pseudo-agent/test")
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Fatalf("error: got %v, want %q in it", err, tt.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Host != tt.host || cfg.UserAgent != "pseudo-agent/test" {
				t.Errorf("got host %q and user agent %q, want %q and pseudo-agent/test", cfg.Host, cfg.UserAgent, tt.host)
			}
		})
	}
	cfg, err := RESTConfig(config(tests[0].cluster), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := CAData(cfg); err != nil || string(data) != "the authority\n" {
		t.Errorf("certificate authority: got %q (%v), want the file's bytes", data, err)
	}
	if err := os.Remove(ca); err != nil {
		t.Fatal(err)
	}
	if data, err := CAData(cfg); err == nil {
		t.Errorf("certificate authority whose file is gone: got %q, want an error", data)
	}
	if _, err := RESTConfig(filepath.Join(dir, "none"), "", ""); err == nil {
		t.Error("a kubeconfig that is not there: got no error")
	}
}

// TestRotatedToken: the token's file is read again, in time for the next request, whether the old token ends at once or not.
func TestRotatedToken(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		file := filepath.Join(t.TempDir(), "token")
		write(t, file, "first")
		r.opts.Config.BearerTokenFile = file
		r.sim.SetToken("first")
		r.start()
		r.pass(10 * time.Second)
		r.wantComplete(true)
		write(t, file, "second")
		r.sim.SetToken("second")
		r.net.SetDown(true) // all watches are reopened
		r.net.SetDown(false)
		r.pass(20 * time.Second)
		r.wantState("pods", Synced)
		if n := testutil.ToFloat64(r.set.metrics.errors.WithLabelValues("pods", "watch", string(classUnauthorized))); n != 0 {
			t.Errorf("refused watches: got %v, want none", n)
		}
		write(t, file, "third")
		r.pass(time.Minute)
		r.sim.SetToken("third")
		before := testutil.ToFloat64(r.set.metrics.requests.WithLabelValues("watch", "pods", "401"))
		r.pass(20 * time.Minute)
		if after := testutil.ToFloat64(r.set.metrics.requests.WithLabelValues("watch", "pods", "401")); after != before {
			t.Errorf("requests with the old token: got %v, want none", after-before)
		}
		r.wantState("pods", Synced)
		r.wantState(VersionID, Synced)
		if v := r.set.Verdict(time.Now()); len(v.Errors) != 0 {
			t.Errorf("errors: got %v, want none", v.Errors)
		}
	})
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
