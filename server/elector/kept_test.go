package elector

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// TestRequestsAreNotKept: what is kept of an agent is as long as maxField says, and holds no request in memory.
func TestRequestsAreNotKept(t *testing.T) {
	const agents, size = 500, 60 << 10
	e := newElection(rules{ttl: 10 * time.Minute, fresh: 150 * time.Second, pause: 90 * time.Second})
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range agents {
		for _, long := range []string{strings.Repeat("h", size), strings.Repeat("主", size/3)} {
			s := syncOf(&agent.SyncRequest{Host: &long, Revision: new(strings.Repeat("r", size)), ProcessName: new(strings.Repeat("p", i+1))})
			for _, text := range []string{s.info.Host, s.info.Process, s.info.Revision} {
				if len(text) > maxField {
					t.Fatalf("a field of %d bytes is kept, want %d at most", len(text), maxField)
				}
			}
			if a := e.candidates[s.info.Identity]; a != nil {
				e.seen(0, a, s)
			} else {
				e.join(0, s)
			}
		}
	}
	if more := heap() - before; more > agents*size/8 {
		t.Errorf("%d agents take %d bytes each", len(e.candidates), more/agents)
	}
	runtime.KeepAlive(&e)
}

// TestNoNamesThePresentHolder: an agent that is answered no is told who has the role now, not who had it before.
func TestNoNamesThePresentHolder(t *testing.T) {
	e := newElection(rules{ttl: 10 * time.Minute, fresh: 150 * time.Second, pause: 90 * time.Second})
	e.adopt(0, Record{})
	now := instant(0)
	ask := func(name string, goodbye bool) decision {
		s := syncing{info: Agent{Identity: Identity{Host: name}}, boot: 1, conn: name, goodbye: goodbye}
		a := e.candidates[s.info.Identity]
		if a == nil {
			a = e.join(now, s)
		} else {
			e.seen(now, a, s)
		}
		a.class = Ordinary
		d := e.decide(now, a, s, false)
		if !d.unchanged {
			e.adopt(now, d.next)
		}
		return d
	}
	ask("a", false)
	ask("b", false)
	if d := ask("c", false); !strings.Contains(d.reason, "held by a ") {
		t.Errorf("got %q, want that a has it", d.reason)
	}
	ask("a", true)
	now++
	ask("b", false)
	if d := ask("c", false); !strings.Contains(d.reason, "held by b ") {
		t.Errorf("got %q, want that b has it", d.reason)
	}
	if r := e.role(now); !strings.HasPrefix(r.Holder, "b ") {
		t.Errorf("got holder %q, want b", r.Holder)
	}
}

func TestIsClusterID(t *testing.T) {
	for id, want := range map[string]bool{
		"d-a": true, "A0": true, strings.Repeat("x", 32): true,
		"": false, "-a": false, "a_b": false, "a b": false, "é": false, strings.Repeat("x", 33): false,
	} {
		if got := isClusterID(id); got != want {
			t.Errorf("%q: got %v, want %v", id, got, want)
		}
	}
}
