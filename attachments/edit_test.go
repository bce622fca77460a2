package attachments

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

var bothAnnotations = Annotations{Networks: DefaultNetworksAnnotation, List: DefaultListAnnotation}

func TestAdd(t *testing.T) {
	for _, c := range []struct{ text, network, mac, want string }{
		{"", "green", "", "green"},
		{"", "green@a0", "02:00:00:00:00:01", `[{"interface":"a0","mac":"02:00:00:00:00:01","name":"green"}]`},
		{" red ", "db/green@a0", "", "red,db/green@a0"},
		{"red, db/blue@b0", "green", "02:00:00:00:00:01", `[{"name":"red"},{"interface":"b0","name":"blue","namespace":"db"},{"mac":"02:00:00:00:00:01","name":"green"}]`},
		{`[{"name":"red","bandwidth":{"ingressRate":1}}]`, "green", "", `[{"name":"red","bandwidth":{"ingressRate":1}},{"name":"green"}]`},
		{"green", "green", "", ""},
	} {
		n, err := ParseNetwork(c.network, "shop")
		if err != nil {
			t.Fatal(err)
		}
		n.MAC = c.mac
		annotation, value, changed, err := Add(map[string]string{DefaultNetworksAnnotation: c.text, "x": "y"}, bothAnnotations, "shop", DefaultLimits(), n)
		if err != nil || value != c.want || changed != (c.want != "") || changed && annotation != DefaultNetworksAnnotation {
			t.Errorf("%q and %s: got %s (%v, %v), want %s", c.text, c.network, value, changed, err, c.want)
		}
	}
	green := Network{Namespace: "shop", Name: "green", Interface: InterfaceName("green"), MAC: "02:00:00:00:00:01"}
	_, value, _, err := Add(nil, Annotations{List: DefaultListAnnotation}, "shop", DefaultLimits(), green)
	if want := `[{"ifMAC":"02:00:00:00:00:01","name":"green"}]`; err != nil || value != want {
		t.Errorf("got %s (%v), want %s", value, err, want)
	}
	for text, want := range map[string]string{"green": "detach it first", "a,,b": "correct them first", "red@" + green.Interface: "cannot be added"} {
		if _, _, _, err := Add(map[string]string{DefaultNetworksAnnotation: text}, bothAnnotations, "shop", DefaultLimits(), green); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	for _, text := range []string{"", "a,b", "Green", "[]", "green@eth0"} {
		if n, err := ParseNetwork(text, "shop"); err == nil {
			t.Errorf("%q: got %v", text, n)
		}
	}
}

func TestRemove(t *testing.T) {
	for _, c := range []struct{ networks, list, network, want string }{
		{"red, green@a0", "", "green", "networks=red"},
		{"red,green@a0,green@b0", "", "green@b0", "networks=red,green@a0"},
		{"green", `[{"name":"green"},{"name":"blue","ifMAC":"02:00:00:00:00:01"}]`, "green", `list=[{"name":"blue","ifMAC":"02:00:00:00:00:01"}] networks=`},
		{"", `[{"name":"green","isPrimary":true}]`, "green", ""},
		{"db/green", "", "green", ""},
		{"red", "", "green", ""},
	} {
		n, err := ParseNetwork(c.network, "shop")
		if err != nil {
			t.Fatal(err)
		}
		values, err := Remove(map[string]string{DefaultNetworksAnnotation: c.networks, DefaultListAnnotation: c.list}, bothAnnotations, "shop", DefaultLimits(), n)
		var got []string
		for name, short := range map[string]string{DefaultNetworksAnnotation: "networks", DefaultListAnnotation: "list"} {
			if v, ok := values[name]; ok {
				got = append(got, short+"="+v)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want || err != nil {
			t.Errorf("%v: got %q (%v)", c, got, err)
		}
	}
	if _, err := Remove(map[string]string{DefaultNetworksAnnotation: ",,"}, bothAnnotations, "shop", DefaultLimits(), Network{}); err == nil {
		t.Error("got no error of an annotation that does not parse")
	}
}

// FuzzEdit: adding a network adds that one only, and removing it gives what was asked for before.
func FuzzEdit(f *testing.F) {
	f.Add("red, db/blue@b0", "", "green", "")
	f.Add(`[{"name":"red","mac":"02:00:00:00:00:02"}]`, `[{"name":"green","podagentSkip":true}]`, "db/green@a0", "02:00:00:00:00:01")
	f.Fuzz(func(t *testing.T, networks, list, network, mac string) {
		n, err := ParseNetwork(network, "shop")
		if err != nil {
			return
		}
		n.MAC = mac
		annotations := map[string]string{DefaultNetworksAnnotation: networks, DefaultListAnnotation: list}
		annotation, value, changed, err := Add(annotations, bothAnnotations, "shop", DefaultLimits(), n)
		if err != nil || !changed {
			return
		}
		before, err := Parse(annotations, bothAnnotations, "shop", DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		with := withValue(annotations, annotation, value)
		after, err := Parse(with, bothAnnotations, "shop", DefaultLimits())
		rest := slices.DeleteFunc(slices.Clone(after), func(o Network) bool { return o.Key() == n.Key() })
		if err != nil || len(after) != len(before)+1 || fmt.Sprint(rest) != fmt.Sprint(before) {
			t.Fatalf("from %q to %q: got %v (%v), want %v and %v", networks, value, after, err, before, n)
		}
		values, err := Remove(with, bothAnnotations, "shop", DefaultLimits(), n)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(with, values)
		left, err := Parse(with, bothAnnotations, "shop", DefaultLimits())
		same := slices.DeleteFunc(before, func(o Network) bool { return !n.Requested && o.Path() == n.Path() })
		if err != nil || fmt.Sprint(left) != fmt.Sprint(same) {
			t.Fatalf("removed: got %v (%v), want %v", left, err, same)
		}
	})
}
