package attachments

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var usual = Annotations{Networks: DefaultNetworksAnnotation, List: DefaultListAnnotation}

func TestParse(t *testing.T) {
	network := func(ns, name, iface string, requested bool) Network {
		return Network{Namespace: ns, Name: name, Interface: iface, Requested: requested}
	}
	green, red, data := network("shop", "green", "net9f27410725ab", false), network("shop", "red", "netbda9643ac660", false), network("shop", "data", "net8d777f385d3d", false)
	withMAC := green
	withMAC.MAC = "02:00:00:00:00:0a"
	withIPs := red
	withIPs.IPs = []string{"10.1.2.3/24", "fd00::1"}
	for _, c := range []struct {
		networks, list string
		want           []Network
	}{
		{"", "", nil},
		{" \n", "[]", nil},
		{"green,red", "", []Network{green, red}},
		{" green ,\n other/red@store0", "", []Network{green, network("other", "red", "store0", true)}},
		{`[{"name":"green"},{"name":"red","namespace":"other","interface":"store0"}]`, "", []Network{green, network("other", "red", "store0", true)}},
		{"", `[{"name":"green","ifMAC":"02:00:00:00:00:0A"},{"name":"data"}]`, []Network{withMAC, data}},
		{"", `[{"name":"green","isPrimary":true},{"name":"red","podagentSkip":true},{"name":"data"}]`, []Network{data}},
		{"green", `[{"name":"green"},{"name":"red"}]`, []Network{green, red}},
		{`[{"name":"red","ips":["10.1.2.3/24","fd00::1"],"default-route":["10.1.2.1"],"cni-args":{"a":1}}]`, "", []Network{withIPs}},
		{"green@a0,green@b0", "", []Network{network("shop", "green", "a0", true), network("shop", "green", "b0", true)}},
	} {
		got, err := Parse(map[string]string{usual.Networks: c.networks, usual.List: c.list}, usual, "shop", DefaultLimits())
		if d := cmp.Diff(c.want, got); d != "" || err != nil {
			t.Errorf("%q and %q: %v (-want +got):\n%s", c.networks, c.list, err, d)
		}
	}
}

// A text that is not right gives no network at all, and an error that names annotation, place and what was expected.
func TestParseRefuses(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat("a@i,", 40), ",")
	for i, c := range []struct{ networks, list, want string }{
		{"green,,red", "", "annotation k8s.v1.cni.cncf.io/networks, byte 7: nothing stands between"},
		{"green, ", "", "byte 8: nothing stands between"},
		{"green,re d", "", `byte 7: "re d"; expected a network's name`},
		{"green,/red", "", "byte 7: no namespace before /"},
		{"../../etc/passwd", "", `byte 1: "../etc/passwd"`},
		{"Green", "", `byte 1: "Green"`},
		{"green@", "", "no interface after @"},
		{"green@eth0", "", `"eth0"; expected an interface name`},
		{"green@a/b", "", `"a/b"`},
		{"green@..", "", `".."`},
		{"green@abcdefghijklmnop", "", `"abcdefghijklmnop"`},
		{"green@x;IgnoreUnknown=0", "", `"x;IgnoreUnknown=0"`},
		{"a/red,b/red", "", "byte 7: netbda9643ac660 is that of a/red, too"},
		{"red,red", "", "byte 5: shop/red is asked for twice"},
		{many, "", "is asked for twice"},
		{`{"name":"green"}`, "", "byte 1: begins with {"},
		{`[{"name":"green"}`, "", "not JSON"},
		{`[{"name":"green"}] x`, "", "more text after the list"},
		{`[{"name":7}]`, "", "element 1, name: a JSON number; expected a string"},
		{`[{"name":"green"},null]`, "", "element 2: is not an object"},
		{`[{"name":"green","mac":"01:00:00:00:00:01"}]`, "", `element 1, mac: "01:00:00:00:00:01"`},
		{`[{"name":"green","ips":["10.1.2.300"]}]`, "", "element 1, ips"},
		{"", "green", `annotation networks, byte 1: begins with "g"`},
		{"", `[{"name":"green","ifMAC":"xx"}]`, `annotation networks, element 1, ifMAC: "xx"`},
		{"green", `[{"name":"green","ifMAC":"02:00:00:00:00:01"}]`, "asked for otherwise in annotation k8s.v1.cni.cncf.io/networks"},
		{strings.Repeat("a", 70000), "", "has 70000 bytes; expected 65536 at most"},
	} {
		got, err := Parse(map[string]string{usual.Networks: c.networks, usual.List: c.list}, usual, "shop", DefaultLimits())
		_, syntax := errors.AsType[*SyntaxError](err)
		if !syntax || !strings.Contains(err.Error(), c.want) || got != nil {
			t.Errorf("case %d: got %v, %v, want no networks and %q", i, got, err, c.want)
		}
	}
	if _, err := Parse(map[string]string{usual.Networks: "a,b,c"}, usual, "shop", Limits{Bytes: 100, Networks: 2}); err == nil || !strings.Contains(err.Error(), "byte 5: more than 2 networks") {
		t.Errorf("three networks with a limit of two: got %v", err)
	}
}

// Whatever is written, what comes out is harmless as an interface's name and as a plugin's argument.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"green,other/red@x0", `[{"name":"green","mac":"02:00:00:00:00:01","ips":["10.0.0.1/8"]}]`, "[", "[null]", "a@b@c", "a/b/c", "\x00", `[{"Name":"x"}]`} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, networks, list string) {
		got, err := Parse(map[string]string{usual.Networks: networks, usual.List: list}, usual, "shop", Limits{Bytes: 4096, Networks: 5})
		if err != nil {
			if _, ok := errors.AsType[*SyntaxError](err); !ok || got != nil {
				t.Fatalf("got %v with an error of type %T", got, err)
			}
			return
		}
		seen := map[string]bool{}
		for _, n := range got {
			if !interfaceName.MatchString(n.Interface) || !isName(n.Name) || !label.MatchString(n.Namespace) || seen[n.Interface] || seen[n.Key()] {
				t.Fatalf("got %+v", got)
			}
			if strings.ContainsAny(n.MAC+strings.Join(n.IPs, ""), ";=\n\x00 ") {
				t.Fatalf("got %+v", n)
			}
			seen[n.Interface], seen[n.Key()] = true, true
		}
		if len(got) > 5 {
			t.Fatalf("got %d networks", len(got))
		}
	})
}
