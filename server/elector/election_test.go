package elector

import (
	"cmp"
	"fmt"
	"testing"
	"time"
)

// step is one Sync and what it has to be answered.
type step struct {
	after   time.Duration
	who     string // name, with ! for goodbye, and +N for a process started N seconds later
	watch   bool
	grant   bool
	vacated string
	conn    string // empty: the usual one of the agent
}

// play runs an election of these agents, whose classes are given, in a process of its own.
func play(t *testing.T, shared bool, classes map[string]Class, steps []step) {
	t.Helper()
	e := newElection(rules{ttl: 10 * time.Minute, fresh: 150 * time.Second, pause: 90 * time.Second})
	e.adopt(0, Record{})
	now := instant(0)
	for i, st := range steps {
		now += st.after
		name, later, goodbye := st.who, 0, false
		if n := len(name) - 1; name[n] == '!' {
			name, goodbye = name[:n], true
		}
		if n, _ := fmt.Sscanf(name, "%1s+%d", &name, &later); n == 0 {
			t.Fatalf("step %d: who is %q?", i, st.who)
		}
		s := syncing{info: Agent{Identity: Identity{Host: name}}, boot: uint32(1000 + later), conn: cmp.Or(st.conn, name), goodbye: goodbye}
		a := e.candidates[s.info.Identity]
		if a == nil {
			a = e.join(now, s)
		} else {
			e.seen(now, a, s)
		}
		a.class = classes[name]
		d := e.decide(now, a, s, shared)
		if d.watch != st.watch || d.granted != st.grant || d.vacated != st.vacated {
			t.Fatalf("step %d, %s at %v: got watch %v, grant %v, vacated %q (%s), want %+v", i, st.who, now, d.watch, d.granted, d.vacated, d.reason, st)
		}
		if !d.unchanged {
			e.adopt(now, d.next)
		}
		a.answered = exchange{conn: s.conn, boot: s.boot, renewals: e.rec.Renewals, stop: d.stopping}
	}
}

func TestElection(t *testing.T) {
	const minute = time.Minute
	classes := map[string]Class{"x": Excluded, "a": Ordinary, "b": Ordinary, "c": Ordinary, "w": WatchOnly, "v": WatchOnly, "d": Designated, "e": Designated}
	for _, tt := range []struct {
		name   string
		shared bool
		steps  []step
	}{
		{name: "the first of equals has it and keeps it", steps: []step{
			{who: "b", watch: true, grant: true}, {who: "a"}, {after: minute, who: "a"}, {who: "b", watch: true},
		}},
		{name: "an excluded one never has it", steps: []step{{who: "x"}, {after: time.Hour, who: "x"}}},
		{name: "a better one takes over after the holder has heard", steps: []step{
			{who: "a", watch: true, grant: true},
			{after: minute, who: "w"},
			{who: "a"},
			{after: minute, who: "w"},
			{who: "a", vacated: byStop},
			{after: minute, who: "w", watch: true, grant: true},
		}},
		{name: "the holder goes on if the better one does not come", steps: []step{
			{who: "a", watch: true, grant: true}, {who: "w"}, {after: minute, who: "a"}, {after: 2 * minute, who: "a", watch: true},
		}},
		{name: "a stop that may not have been heard is told again, and renews nothing", steps: []step{
			{who: "a", watch: true, grant: true},
			{after: 2 * minute, who: "w"},
			{who: "a", conn: "1"},
			{after: 2 * minute, who: "w"},
			{who: "a", conn: "2"},
			{after: 2 * minute, who: "w"},
			{who: "a", conn: "3"},
			{after: 2 * minute, who: "w"},
			{who: "a", conn: "4"},
			{after: 2*minute - 1, who: "w"},
			{after: 1, who: "w", watch: true, grant: true, vacated: byExpiry},
		}},
		{name: "after a stop the old holder goes before its equals", steps: []step{
			{who: "b", watch: true, grant: true},
			{who: "a"},
			{who: "w"},
			{who: "b"},
			{after: minute, who: "b", vacated: byStop},
			{after: minute, who: "a"},
			{who: "b"},
			{after: minute, who: "a"},
			{who: "b", watch: true, grant: true},
		}},
		{name: "silence ends the lease", steps: []step{
			{who: "a", watch: true, grant: true}, {after: 10*minute - 1, who: "b"}, {after: 1, who: "b", watch: true, grant: true, vacated: byExpiry},
		}},
		{name: "a goodbye ends it at once", steps: []step{
			{who: "w", watch: true, grant: true}, {who: "a"}, {after: 1, who: "w!", vacated: byGoodbye}, {after: 1, who: "a", watch: true, grant: true},
		}},
		{name: "after the goodbye of a designated one lower ones wait", steps: []step{
			{who: "d", watch: true, grant: true},
			{who: "w"},
			{who: "d!", vacated: byGoodbye},
			{after: 90*time.Second - 1, who: "w"},
			{after: 1, who: "w", watch: true, grant: true},
		}},
		{name: "equal designated ones do not", steps: []step{
			{who: "d", watch: true, grant: true}, {who: "e"}, {who: "d!", vacated: byGoodbye}, {who: "w"}, {who: "e", watch: true, grant: true},
		}},
		{name: "a Sync that was under way during the goodbye changes nothing", steps: []step{
			{who: "a", watch: true, grant: true}, {who: "a!", vacated: byGoodbye}, {who: "a"}, {who: "b", watch: true, grant: true}, {after: minute, who: "a"},
		}},
		{name: "a holder that restarts has the role again", steps: []step{
			{who: "a+1", watch: true, grant: true},
			{after: minute, who: "b"},
			{who: "a+9", watch: true, conn: "1"},
			{after: minute, who: "a+9", watch: true, conn: "1"},
			{who: "a+1"},
		}},
		{name: "a holder that restarts gives way after it has heard", steps: []step{
			{who: "a+1", watch: true, grant: true},
			{who: "w"},
			{who: "a+9", conn: "1"},
			{after: minute, who: "w"},
			{who: "a+9", conn: "1", vacated: byStop},
			{who: "w", watch: true, grant: true},
		}},
		{name: "a process that restarted can give the role back once it has Synced twice", steps: []step{
			{who: "a+1", watch: true, grant: true},
			{who: "a+9", watch: true, conn: "1"},
			{after: minute, who: "a+9", watch: true, conn: "1"},
			{who: "a+9!", conn: "1", vacated: byGoodbye},
			{who: "b", watch: true, grant: true},
		}},
		{name: "a goodbye soon after a restart may be that of the former process", steps: []step{
			{who: "a+1", watch: true, grant: true},
			{who: "a+9", watch: true, conn: "1"},
			{who: "a+9!", conn: "1"},
			{who: "b"},
			{after: 10*minute - 1, who: "b"},
			{after: 1, who: "b", watch: true, grant: true, vacated: byExpiry},
		}},
		{name: "a free role waits for the better one that is there", steps: []step{
			{who: "v", watch: true, grant: true},
			{who: "a"},
			{who: "w"},
			{who: "v!", vacated: byGoodbye},
			{who: "a"},
			{after: 149 * time.Second, who: "a"},
			{after: time.Second, who: "a", watch: true, grant: true},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { play(t, tt.shared, classes, tt.steps) })
	}
}
