package attachments

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

func summary(steps []Step) []string {
	out := []string{}
	for _, s := range steps {
		n := s.Wanted.Network
		if s.Action == Detach {
			n = s.Attachment.Network
		}
		out = append(out, fmt.Sprintf("%s %s %s", s.Action, n.Name, n.Interface))
	}
	return out
}

func TestPlan(t *testing.T) {
	want := func(name, mac, config string) Wanted {
		w := Wanted{Network: Network{Namespace: "shop", Name: name, Interface: "i-" + name, MAC: mac}}
		if config != "" {
			w.Config = json.RawMessage(config)
		}
		return w
	}
	have := func(name, mac string, state State) Attachment {
		return Attachment{Network: want(name, mac, "").Network, State: state, Sandbox: "s1", Config: json.RawMessage("{\n \"a\": 1\n}")}
	}
	seen := func(interfaces ...string) Seen {
		s := Seen{Sandbox: "s1", Interfaces: map[string]Interface{"lo": {}, "eth0": {MAC: "02:00:00:00:00:01"}}}
		for _, i := range interfaces {
			s.Interfaces[i] = Interface{MAC: "02:00:00:00:00:02"}
		}
		return s
	}
	made := seen("net1")
	made.Made = map[string]string{"shop/a": "net1", "shop/b": "eth0"}
	other := seen("i-a")
	other.Sandbox = "s2"
	for name, c := range map[string]struct {
		wanted []Wanted
		have   []Attachment
		seen   Seen
		want   []string
	}{
		"attach in order":             {[]Wanted{want("b", "", ""), want("a", "", "")}, nil, seen(), []string{"attach b i-b", "attach a i-a"}},
		"detach in reverse":           {nil, []Attachment{have("a", "", Attached), have("b", "", Attached)}, seen("i-a", "i-b"), []string{"detach b i-b", "detach a i-a"}},
		"nothing to do":               {[]Wanted{want("a", "", `{"a":1}`)}, []Attachment{have("a", "", Attached)}, seen("i-a"), []string{}},
		"definition cannot be read":   {[]Wanted{want("a", "", "")}, []Attachment{have("a", "", Attached)}, seen("i-a"), []string{}},
		"definition changed":          {[]Wanted{want("a", "", `{"a":2}`)}, []Attachment{have("a", "", Attached)}, seen("i-a"), []string{"detach a i-a", "attach a i-a"}},
		"MAC changed":                 {[]Wanted{want("a", "02:00:00:00:00:09", "")}, []Attachment{have("a", "", Attached)}, seen("i-a"), []string{"detach a i-a", "attach a i-a"}},
		"interface lost":              {[]Wanted{want("a", "", "")}, []Attachment{have("a", "", Attached)}, seen(), []string{"detach a i-a", "attach a i-a"}},
		"ADD begun":                   {[]Wanted{want("a", "", "")}, []Attachment{have("a", "", Attaching)}, seen("i-a"), []string{"detach a i-a", "attach a i-a"}},
		"ADD begun, no longer wanted": {nil, []Attachment{have("a", "", Attaching)}, seen(), []string{"detach a i-a"}},
		"DEL begun":                   {[]Wanted{want("a", "", "")}, []Attachment{have("a", "", Detaching)}, seen(), []string{"detach a i-a", "attach a i-a"}},
		"adopted by name":             {[]Wanted{want("a", "", "")}, nil, seen("i-a"), []string{"adopt a i-a"}},
		"adopted by the plugin's word, but never eth0": {[]Wanted{want("a", "", ""), want("b", "", "")}, nil, made, []string{"adopt a net1", "attach b i-b"}},
		"another sandbox":                 {[]Wanted{want("a", "", "")}, []Attachment{have("a", "", Attached)}, other, []string{"detach a i-a", "attach a i-a"}},
		"no sandbox":                      {[]Wanted{want("a", "", ""), want("b", "", "")}, []Attachment{have("a", "", Attached)}, Seen{}, []string{}},
		"no sandbox, no longer wanted":    {nil, []Attachment{have("a", "", Attached)}, Seen{}, []string{"detach a i-a"}},
		"a namespace that cannot be seen": {[]Wanted{want("a", "", ""), want("b", "", "")}, []Attachment{have("a", "", Attached)}, Seen{Sandbox: "s1"}, []string{}},
	} {
		if got := summary(Plan(c.wanted, c.have, c.seen)); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// Invariant: whatever is recorded and seen, carrying out the steps, of which any may fail half-way, ends with what is
// wanted and nothing else, and then there is no step.
func TestPlanRandom(t *testing.T) {
	seed := testseed.New(t)
	for round := range testseed.Rounds(t, 2000) {
		rnd := rand.New(rand.NewPCG(seed+uint64(round), 0))
		node := map[string]string{"lo": "", "eth0": "02:00:00:00:00:ff"}
		record := &Record{}
		macs := []string{"", "02:00:00:00:00:01", "02:00:00:00:00:02"}
		var wanted []Wanted
		for range 8 {
			wanted = nil
			for _, i := range rnd.Perm(5)[:rnd.IntN(6)] {
				wanted = append(wanted, Wanted{
					Network: Network{Namespace: "shop", Name: fmt.Sprint(i), Interface: fmt.Sprint("i", i), MAC: macs[rnd.IntN(3)]}, Config: json.RawMessage(fmt.Sprint(rnd.IntN(2))),
				})
			}
			if rnd.IntN(4) == 0 { // somebody removed one
				delete(node, fmt.Sprint("i", rnd.IntN(5)))
			}
			// Somebody else made an interface; one that replaces a recorded one under its name is not noticed.
			recorded := func(i string) bool {
				return slices.ContainsFunc(record.Attachments, func(a Attachment) bool { return a.Interface == i })
			}
			if i := fmt.Sprint("i", rnd.IntN(5)); !recorded(i) && rnd.IntN(4) == 0 {
				node[i] = "02:00:00:00:00:01"
			}
			carryOut(Plan(wanted, record.Attachments, Seen{Sandbox: "s", Interfaces: shown(node)}), record, node, func() bool { return rnd.IntN(3) == 0 })
		}
		for range 3 {
			carryOut(Plan(wanted, record.Attachments, Seen{Sandbox: "s", Interfaces: shown(node)}), record, node, func() bool { return false })
		}
		if steps := Plan(wanted, record.Attachments, Seen{Sandbox: "s", Interfaces: shown(node)}); len(steps) > 0 {
			t.Fatalf("round %d: steps are left: %q", round, summary(steps))
		}
		for _, w := range wanted {
			if mac, ok := node[w.Interface]; !ok || w.MAC != "" && mac != w.MAC {
				t.Fatalf("round %d: want %+v, the node has %v", round, w, node)
			}
		}
		if len(record.Attachments) != len(wanted) {
			t.Fatalf("round %d: got %d records of %d networks", round, len(record.Attachments), len(wanted))
		}
	}
}

// shown are the interfaces of a node that keeps their addresses only.
func shown(node map[string]string) map[string]Interface {
	all := map[string]Interface{}
	for name, mac := range node {
		all[name] = Interface{MAC: mac}
	}
	return all
}

// carryOut does on a map what CNI does on a node. A step that fails has done its work, or has not.
func carryOut(steps []Step, record *Record, node map[string]string, fails func() bool) {
	failed := map[string]bool{}
	for _, s := range steps {
		w := s.Wanted
		a := Attachment{Network: w.Network, Sandbox: "s", Config: w.Config, State: Attached}
		switch s.Action {
		case Detach:
			a = s.Attachment
			a.State = Detaching
			record.Put(a)
			if !fails() {
				delete(node, a.Interface)
			}
			if fails() || node[a.Interface] != "" {
				failed[a.Key()] = true
				continue
			}
			record.Drop(a.Key())
		case Adopt:
			record.Put(a)
		case Attach:
			if failed[w.Key()] {
				continue
			}
			a.State = Attaching
			record.Put(a)
			if !fails() {
				node[w.Interface] = w.MAC
				if w.MAC == "" {
					node[w.Interface] = "02:00:00:00:00:aa"
				}
			}
			if fails() || node[w.Interface] == "" {
				continue
			}
			a.State = Attached
			record.Put(a)
		}
	}
}
