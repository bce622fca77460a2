package attachments

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestMergeStatus(t *testing.T) {
	green := StatusKey{"shop/green", "net1"}
	status := func(k StatusKey, mac string, ips ...string) Status { return Status{k, Interface{MAC: mac, IPs: ips}} }
	const (
		others = `[{"name":"cbr0","ips":["10.0.0.2"],"default":true,"dns":{}}]`
		both   = `[{"name":"cbr0","ips":["10.0.0.2"],"default":true,"dns":{}},{"dns":{},"interface":"net1","ips":["10.2.0.5"],"mac":"02:00:00:00:00:01","name":"shop/green"}]`
	)
	for name, c := range map[string]struct {
		text     string
		told     []StatusKey
		attached []Status
		want     string
	}{
		"first":                      {"", nil, []Status{status(green, "02:00:00:00:00:01", "10.2.0.5")}, `[{"dns":{},"interface":"net1","ips":["10.2.0.5"],"mac":"02:00:00:00:00:01","name":"shop/green"}]`},
		"beside others":              {others, nil, []Status{status(green, "02:00:00:00:00:01", "10.2.0.5")}, both},
		"nothing to change":          {both, []StatusKey{green}, []Status{status(green, "02:00:00:00:00:01", "10.2.0.5")}, both},
		"detached":                   {both, []StatusKey{green}, nil, others},
		"never told":                 {both, nil, nil, both},
		"the last one":               {`[{"name":"shop/green","interface":"net1"}]`, []StatusKey{green}, nil, ""},
		"another interface":          {`[{"name":"shop/green","interface":"net2"}]`, []StatusKey{green}, nil, `[{"name":"shop/green","interface":"net2"}]`},
		"another address":            {`[{"name":"green","interface":"net1","ips":["10.2.0.9"],"gateway":["10.2.0.1"]}]`, nil, []Status{status(green, "", "10.2.0.5")}, `[{"gateway":["10.2.0.1"],"interface":"net1","ips":["10.2.0.5"],"name":"shop/green"}]`},
		"without an address":         {`[{"name":"green","Interface":"net1","IPs":["10.2.0.9"]}]`, nil, []Status{status(green, "")}, `[{"interface":"net1","name":"shop/green"}]`},
		"told twice":                 {`[{"name":"shop/green","interface":"net1"},{"name":"green","interface":"net1"}]`, []StatusKey{green}, []Status{status(green, "")}, `[{"name":"shop/green","interface":"net1"}]`},
		"nothing and nothing":        {"", nil, nil, ""},
		"others' empty list":         {"[]", nil, nil, "[]"},
		"elements that say nothing":  {`[null,7,{"name":""}]`, []StatusKey{{}}, nil, `[null,7,{"name":""}]`},
		"an element of other kind":   {`[{"name":7}]`, []StatusKey{{}}, []Status{status(green, "")}, `[{"name":7},{"dns":{},"interface":"net1","name":"shop/green"}]`},
		"the default network's name": {`[{"name":"shop/green","default":true}]`, []StatusKey{{"shop/green", ""}}, nil, `[{"name":"shop/green","default":true}]`},
	} {
		got, err := MergeStatus(c.text, "shop", c.told, c.attached)
		if err != nil || got != c.want {
			t.Errorf("%s: got %s (%v)\nwant %s", name, got, err, c.want)
		}
		if again, err := MergeStatus(got, "shop", keys(c.attached), c.attached); err != nil || again != got {
			t.Errorf("%s: a second merge gives %s (%v)", name, again, err)
		}
	}
	for text, want := range map[string]string{
		"{}": "is no JSON list", "[": "is no JSON list", strings.Repeat(" ", MaxStatus) + "[]": "bytes",
		`["` + strings.Repeat("x", MaxStatus-4) + `"]`: "with what is attached",
	} {
		if got, err := MergeStatus(text, "shop", nil, []Status{status(green, "")}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: got %.40q, %v, want %q", text, got, err, want)
		}
	}
}

func keys(all []Status) []StatusKey {
	var out []StatusKey
	for _, s := range all {
		out = append(out, s.StatusKey)
	}
	return out
}

// FuzzMergeStatus: whatever others wrote, their elements stay, what is attached stands there once, and a second merge
// changes nothing.
func FuzzMergeStatus(f *testing.F) {
	f.Add(`[{"name":"cbr0","default":true},{"name":"green","interface":"net1","ips":["10.2.0.9"]}]`)
	f.Add(`[{"name":"shop/green","interface":"net1","Interface":"x"},null,[]]`)
	f.Fuzz(func(t *testing.T, text string) {
		ours := Status{StatusKey{"shop/green", "net1"}, Interface{MAC: "02:00:00:00:00:01", IPs: []string{"10.2.0.5"}}}
		merged, err := MergeStatus(text, "shop", nil, []Status{ours})
		if err != nil {
			return
		}
		if again, err := MergeStatus(merged, "shop", []StatusKey{ours.StatusKey}, []Status{ours}); err != nil || again != merged {
			t.Fatalf("merged %q, then %q (%v)", merged, again, err)
		}
		if got := elementsBut(t, merged, ours.StatusKey); !reflect.DeepEqual(got, elementsBut(t, text, ours.StatusKey)) {
			t.Fatalf("others' elements of %q are %v after a merge", text, got)
		}
		without, err := MergeStatus(merged, "shop", []StatusKey{ours.StatusKey}, nil)
		if err != nil || !reflect.DeepEqual(elementsBut(t, without, ours.StatusKey), elementsBut(t, text, ours.StatusKey)) || strings.Contains(without, "net1") && !strings.Contains(text, "net1") {
			t.Fatalf("got %q after the detach from %q (%v)", without, merged, err)
		}
	})
}

func elementsBut(t *testing.T, text string, key StatusKey) []any {
	t.Helper()
	elements, err := statusElements(text)
	if err != nil {
		t.Fatal(err)
	}
	var out []any
	for _, raw := range elements {
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		if statusKey(raw, "shop") != key {
			out = append(out, v)
		}
	}
	return out
}
