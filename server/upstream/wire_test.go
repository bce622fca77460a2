package upstream

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/protocol/trident"
)

var ours = address{ip: "10.9.8.7", port: 31000}

const groupYAML = `# agent group
global:
  communication:
    proxy_controller_port: 30035   # the port
    proxy_controller_ip: "192.0.2.1" # ü comment
    ingester_ip: 192.0.2.2
  other: [1, 2]
# end
`

func TestRewriteUserConfig(t *testing.T) {
	want := strings.NewReplacer("30035", "31000", "192.0.2.1", "10.9.8.7").Replace(groupYAML)
	for name, c := range map[string]struct{ in, want, leads string }{
		"both values":   {groupYAML, want, ""},
		"in one line":   {"global: {communication: {proxy_controller_ip: 192.0.2.1, proxy_controller_port: 1}} # ü", "global: {communication: {proxy_controller_ip: 10.9.8.7, proxy_controller_port: 31000}} # ü", ""},
		"characters":    {"global: {ü: ä, communication: {proxy_controller_ip: '192.0.2.1'}}", "global: {ü: ä, communication: {proxy_controller_ip: '10.9.8.7'}}", ""},
		"line endings":  {"global:\r\n  communication:\r\n    proxy_controller_ip: 192.0.2.1\r\n", "global:\r\n  communication:\r\n    proxy_controller_ip: 10.9.8.7\r\n", ""},
		"elsewhere":     {"other:\n  proxy_controller_ip: 192.0.2.1\n", "other:\n  proxy_controller_ip: 192.0.2.1\n", ""},
		"no YAML":       {"proxy_controller_ip: [", "proxy_controller_ip: [", ""},
		"empty":         {"global:\n  communication:\n    proxy_controller_ip: ''\n", "global:\n  communication:\n    proxy_controller_ip: ''\n", ""},
		"an anchor":     {"a: &x 192.0.2.1\nglobal: {communication: {proxy_controller_ip: *x}}", "a: &x 192.0.2.1\nglobal: {communication: {proxy_controller_ip: *x}}", ""},
		"escaped value": {`global: {communication: {proxy_controller_ip: "192.0.2.\x31"}}`, `global: {communication: {proxy_controller_ip: "192.0.2.\x31"}}`, "192.0.2.1"},
	} {
		got, leads := rewriteUserConfig([]byte(c.in), ours)
		if string(got) != c.want || leads != c.leads {
			t.Errorf("%s: got %q leading to %q, want %q and %q", name, got, leads, c.want, c.leads)
		}
	}
	if got, leads := rewriteUserConfig([]byte(groupYAML), address{}); string(got) != groupYAML || leads != "192.0.2.1:30035" {
		t.Errorf("without upstream.advertise: %q, leads to %q", got, leads)
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unknown appends fields that we do not know.
func unknown(rng *rand.Rand, b []byte) []byte {
	for range rng.IntN(5) {
		num := protowire.Number(100 + rng.IntN(1000))
		switch rng.IntN(3) {
		case 0:
			b = protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), rng.Uint64())
		case 1:
			b = protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), strings.Repeat("x", rng.IntN(300)))
		default:
			b = protowire.AppendFixed64(protowire.AppendTag(b, num, protowire.Fixed64Type), rng.Uint64())
		}
	}
	return b
}

// Invariant: nothing but the named fields of a Sync's answer changes.
func TestRewriteResponseRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 1))
	for range testseed.Rounds(t, 3000) {
		st, enabled, watch := []int32{0, 0, 0, 1, 2, 10}[rng.IntN(6)], rng.IntN(2) == 0, rng.IntN(2) == 0
		isAgent := rng.IntN(2) == 0
		encode := func(enabled bool, address string, port uint32, yaml string) []byte {
			if isAgent {
				return marshal(t, &agent.SyncResponse{Status: new(agent.Status(st)), UserConfig: &yaml, DynamicConfig: &agent.DynamicConfig{KubernetesApiEnabled: &enabled, AgentId: new(uint32(7))}})
			}
			inner := marshal(t, &trident.Config{Enabled: new(true), KubernetesApiEnabled: &enabled, VtapId: new(uint32(9))})
			inner = protowire.AppendString(protowire.AppendTag(inner, 34, protowire.BytesType), address)
			inner = protowire.AppendVarint(protowire.AppendTag(inner, 39, protowire.VarintType), uint64(port))
			b := marshal(t, &trident.SyncResponse{Status: new(trident.Status(st))})
			return protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), inner)
		}
		l := layouts[protocol.TridentService]
		if isAgent {
			l = layouts[protocol.AgentService]
		}
		tail := unknown(rng, nil)
		in := append(encode(enabled, "192.0.2.1", 30035, groupYAML), tail...)
		want := in
		if st == 0 {
			want = append(encode(watch, ours.ip, uint32(ours.port), strings.NewReplacer("30035", "31000", "192.0.2.1", "10.9.8.7").Replace(groupYAML)), tail...)
		}
		got, a := rewriteResponse(bytes.Clone(in), l, watch, ours, &yamlCache{})
		if !bytes.Equal(got, want) {
			t.Fatalf("agent %v, status %d, watch %v: got %x, want %x", isAgent, st, watch, got, want)
		}
		if a.told != (st == 0) || st == 0 && a.enabled != enabled {
			t.Fatalf("status %d: %+v", st, a)
		}
	}
	without := marshal(t, &agent.SyncResponse{Status: agent.Status_SUCCESS.Enum()})
	if got, a := rewriteResponse(without, layouts[protocol.AgentService], true, ours, &yamlCache{}); !bytes.Equal(got, without) || a.told {
		t.Error("an answer without a configuration is not passed as it is")
	}
	absent := marshal(t, &agent.SyncResponse{DynamicConfig: &agent.DynamicConfig{AgentId: new(uint32(1))}})
	got, _ := rewriteResponse(absent, layouts[protocol.AgentService], true, address{}, &yamlCache{})
	var resp agent.SyncResponse
	if err := proto.Unmarshal(got, &resp); err != nil || !resp.GetDynamicConfig().GetKubernetesApiEnabled() || resp.GetDynamicConfig().GetAgentId() != 1 {
		t.Errorf("a decision that the server does not name: %v, %v", &resp, err)
	}
}

// Invariant: of a request only the policy changes, or, of a claim that was not granted, the cluster id goes.
func TestRewriteRequestRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 2))
	for range testseed.Rounds(t, 3000) {
		policy, force, elected := agent.KubernetesWatchPolicy(rng.IntN(3)), rng.IntN(2) == 0, rng.IntN(2) == 0
		in := marshal(t, &agent.SyncRequest{CtrlIp: new("10.0.0.1"), KubernetesForceWatch: &force, KubernetesWatchPolicy: &policy, KubernetesClusterId: new("d-test")})
		in = unknown(rng, in)
		var want, got agent.SyncRequest
		if err := proto.Unmarshal(in, &want); err != nil {
			t.Fatal(err)
		}
		switch {
		case elected:
			want.KubernetesWatchPolicy = agent.KubernetesWatchPolicy_KWP_WATCH_ONLY.Enum()
		case force && policy == agent.KubernetesWatchPolicy_KWP_WATCH_ONLY:
			want.KubernetesClusterId = nil
		default:
			want.KubernetesWatchPolicy = agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED.Enum()
		}
		if err := proto.Unmarshal(rewriteRequest(in, elected), &got); err != nil || !proto.Equal(&got, &want) {
			t.Fatalf("elected %v: %v became %v, want %v, %v", elected, in, &got, &want, err)
		}
	}
}

func FuzzRewrite(f *testing.F) {
	f.Add(marshal(f, &agent.SyncResponse{UserConfig: new(groupYAML), DynamicConfig: &agent.DynamicConfig{}}), true)
	f.Add(marshal(f, &trident.SyncResponse{Config: &trident.Config{KubernetesApiEnabled: new(true)}}), false)
	f.Add([]byte{0x0b, 0x0c}, true)
	f.Fuzz(func(t *testing.T, b []byte, watch bool) {
		before := bytes.Clone(b)
		_, understood := fields(b)
		for _, l := range layouts {
			got, _ := rewriteResponse(b, l, watch, ours, &yamlCache{})
			if !understood && !bytes.Equal(got, before) {
				t.Errorf("%x is not understood but became %x", before, got)
			}
			if _, ok := fields(got); understood && !ok {
				t.Errorf("%x became %x, which is no message", before, got)
			}
			if got := rewriteAddressOnly(b, l, ours, &yamlCache{}); !understood && !bytes.Equal(got, before) {
				t.Errorf("%x is not understood but became %x", before, got)
			}
		}
		if got := rewriteRequest(b, watch); !understood && !bytes.Equal(got, before) {
			t.Errorf("%x is not understood but became %x", before, got)
		}
		_, _ = rewriteUserConfig(b, ours)
		if !bytes.Equal(b, before) {
			t.Error("the message was changed in place")
		}
	})
}
