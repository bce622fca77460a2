package server

import (
	"bytes"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

func TestWatchersCommand(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	backend := store.NewMemory()
	elect := elector.New(elector.Options{Documents: backend, Logger: log})
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("a token of enough bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	token, err := receiver.NewToken(log, tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	recv := receiver.New(receiver.Options{
		Store: store.New(backend, store.Options{Keep: 1}), Elector: elect, Logger: log,
		Access: receiver.Access{Anonymous: receiver.RoleRead, Users: []receiver.APIUser{{Name: "ops", Role: receiver.RoleAdminister, Token: token}}},
	})
	api := httptest.NewServer(recv.API(elect.Routes()...))
	defer api.Close()
	for host, policy := range map[string]agent.KubernetesWatchPolicy{
		"node-1": agent.KubernetesWatchPolicy_KWP_NORMAL, "sidecar-1": agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED,
	} {
		_, err := elect.Sync(t.Context(), "10.0.0.1:1", &agent.SyncRequest{
			KubernetesClusterId: new("d-test"), Host: new(host), CtrlIp: new("10.0.0.1"), KubernetesWatchPolicy: policy.Enum(),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		args string
		want []string // in the output, or in the error if the first is "error"
	}{
		{"", []string{"CLUSTER", "d-test", "held", "node-1", "ordinary"}},
		{"list", []string{"d-test"}},
		{"list d-test", []string{"sidecar-1", "excluded", "its policy is watch-disabled", "its policy is normal"}},
		{"list d-test -o json", []string{`"state": "held"`}},
		{"list -o yaml", []string{"- candidates:", "cluster: d-test"}},
		{"list -o name", []string{"d-test\n"}},
		{"list d-test -o name", []string{"node-1 (10.0.0.1- normal)\n", "sidecar-1 (10.0.0.1- watch-disabled)\n"}},
		{"list -o xml", []string{"error", "table, json, yaml, name"}},
		{"list d-other", []string{"error", "404", "has ever sent a Sync"}},
		{"designate d-test --host node-*", []string{"error", "401", "needs a token"}},
		{"designate d-test", []string{"error", "exactly one"}},
		{"designate d-test --workload agent", []string{"error", "namespace/kind/name"}},
		{"designate d-test --host node-* --token-file " + tokenFile, []string{"host_pattern node-* (api), fulfilled by 1"}},
		{"undesignate d-test --host node-* --token-file " + tokenFile, []string{"d-test"}},
		{"undesignate d-test --token-file " + tokenFile, []string{"error", "no such designation"}},
		{"elect d-test --token-file " + tokenFile, []string{"a new election was asked for"}},
		{"elect d-test --holder-is-gone --token-file " + tokenFile, []string{"waiting", "(operator)"}},
	} {
		var out bytes.Buffer
		root := NewCommand(operate.NewBuild("dev", ""))
		root.SetArgs(append([]string{"watchers", "--server", api.URL}, strings.Fields(tt.args)...))
		root.SetOut(&out)
		err := root.ExecuteContext(t.Context())
		got, want := out.String(), tt.want
		if want[0] == "error" {
			want = want[1:]
			if err == nil {
				t.Errorf("watchers %s: got no error and %s", tt.args, got)
				continue
			}
			got = err.Error()
		} else if err != nil {
			t.Errorf("watchers %s: %v", tt.args, err)
		}
		for _, s := range want {
			if !strings.Contains(got, s) {
				t.Errorf("watchers %s: got\n%s\nwant %q in it", tt.args, got, s)
			}
		}
	}
}
