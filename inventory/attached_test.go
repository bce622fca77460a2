package inventory

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestPodNetworks(t *testing.T) {
	for text, want := range map[string]string{
		"": "null", "{}": "null", "[": "null", "[null,1]": "null",
		`[{"name":"cbr0","interface":"eth0","ips":["10.0.0.2"],"default":true}]`:                                                                                              "null",
		`[{"name":"cbr0","default":true},{"name":"shop/green","interface":"net1","mac":"02:00:00:00:00:01","ips":["10.2.0.5"]},{"name":7},{"name":"red","interface":"net2"}]`: `[{"network":"shop/green","interface":"net1","mac":"02:00:00:00:00:01","addresses":["10.2.0.5"]},{"network":"red","interface":"net2","addresses":[]}]`,
	} {
		got, err := json.Marshal(podNetworks(text))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s (%v), want %s", text, got, err, want)
		}
	}
	many := podNetworks("[" + strings.TrimSuffix(strings.Repeat(`{"name":"a","interface":"b"},`, 2*maxNetworks), ",") + "]")
	if len(*many) != maxNetworks {
		t.Errorf("got %d networks, want %d", len(*many), maxNetworks)
	}
}

func FuzzPodNetworks(f *testing.F) {
	f.Add(`[{"name":"shop/green","interface":"net1","ips":["10.2.0.5"]}]`)
	f.Fuzz(func(t *testing.T, text string) {
		if all := podNetworks(text); all != nil && (len(*all) == 0 || len(*all) > maxNetworks) {
			t.Fatalf("got %d networks", len(*all))
		}
	})
}
