package snapshot

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

var enc = resources.NewEncoder()

func uid(n int) resources.UID {
	var u resources.UID
	// Spread over the whole range, so that neighbours in number are not neighbours in order.
	binary.BigEndian.PutUint64(u[:8], uint64(n)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(u[8:], uint64(n))
	return u
}

func entry(wireType string, n int, content string) *resources.Entry {
	return enc.Encode(resources.Content{
		WireType: wireType, UID: uid(n),
		JSON: fmt.Appendf(nil, `{"metadata":{"uid":"%d"},"c":%q}`, n, content),
	}, nil)
}

// content is the snapshot as it goes over the wire.
func content(s *Snapshot) string {
	var b strings.Builder
	for e := range s.All() {
		b.WriteString(e.Wire())
	}
	return b.String()
}

func TestTakeOrdersByTypeThenUID(t *testing.T) {
	f := New(nil)
	f.Upsert("pods", entry("*v1.Pod", 3, "a"))
	f.Upsert("nodes", entry("*v1.Node", 9, "a"))
	f.Upsert("pods", entry("*v1.Pod", 1, "a"))
	f.Replace("version", []*resources.Entry{entry("*version.Info", 0, "1.35")})
	s := f.Take()
	var prev *resources.Entry
	for e := range s.All() {
		if prev != nil && (prev.WireType() > e.WireType() || prev.WireType() == e.WireType() && compareEntries(prev, e) >= 0) {
			t.Errorf("got %s %x after %s %x, want order by type, then uid", e.WireType(), e.UID(), prev.WireType(), prev.UID())
		}
		prev = e
	}
	if s.Len() != 4 || s.Size() != len(content(s)) {
		t.Errorf("got %d entries of %d bytes, want 4 of %d", s.Len(), s.Size(), len(content(s)))
	}
	types := s.Types()
	if len(types) != 3 || types[0].WireType != "*v1.Node" || types[1] != (TypeStat{"*v1.Pod", 2, types[1].Bytes}) {
		t.Errorf("got types %+v, want nodes, two pods, version", types)
	}
}

func TestSameContentKeepsItsVersion(t *testing.T) {
	f := New(nil)
	a, b := entry("*v1.Pod", 1, "a"), entry("*v1.Pod", 1, "b")
	f.Replace("pods", []*resources.Entry{a})
	first := f.Take()
	for name, change := range map[string]func(){
		"nothing":             func() {},
		"same entry again":    func() { f.Upsert("pods", a) },
		"equal entry":         func() { f.Upsert("pods", entry("*v1.Pod", 1, "a")) },
		"equal relist":        func() { f.Replace("pods", []*resources.Entry{entry("*v1.Pod", 1, "a")}) },
		"changed and back":    func() { f.Upsert("pods", b); f.Upsert("pods", entry("*v1.Pod", 1, "a")) },
		"added and deleted":   func() { f.Upsert("pods", entry("*v1.Pod", 2, "x")); f.Delete("pods", uid(2)) },
		"unknown deleted":     func() { f.Delete("pods", uid(7)); f.Delete("nodes", uid(1)) },
		"unknown removed":     func() { f.Remove("routes") },
		"relisted twice":      func() { f.Replace("pods", nil); f.Replace("pods", []*resources.Entry{a}) },
		"second source of it": func() { f.Upsert("pods2", b); f.Delete("pods2", uid(1)) },
		"shadowed source":     func() { f.Upsert("pods3", b) },
	} {
		change()
		if s := f.Take(); s != first {
			t.Errorf("%s: got version %d, want %d again", name, s.Version(), first.Version())
		}
	}
}

func TestOneUIDOfTwoSourcesIsReportedOnce(t *testing.T) {
	f := New(nil)
	f.Replace("b", []*resources.Entry{entry("*v1.Ingress", 1, "from b"), entry("*v1.Ingress", 2, "b")})
	f.Replace("a", []*resources.Entry{entry("*v1.Ingress", 1, "from a")})
	want := content1(t, f)
	if strings.Join(want, ",") != "b,from a" {
		t.Errorf("got %q, want [b, from a]", want)
	}
	f.Remove("a")
	if got := content1(t, f); strings.Join(got, ",") != "b,from b" {
		t.Errorf("after the first source went: got %q, want [b, from b]", got)
	}
}

// content1 lists the "c" of each entry, sorted.
func content1(t *testing.T, f *Fold) []string {
	t.Helper()
	var out []string
	for e := range f.Take().All() {
		j, err := e.JSON()
		if err != nil {
			t.Fatal(err)
		}
		_, c, _ := strings.Cut(string(j), `"c":"`)
		out = append(out, strings.TrimSuffix(c, `"}`))
	}
	slices.Sort(out)
	return out
}

func TestAnEntryThatChangesItsTypeMoves(t *testing.T) {
	f := New(nil)
	f.Upsert("rollouts", entry("*v1.CloneSet", 1, "a"))
	f.Take()
	f.Upsert("rollouts", entry("*v1.Deployment", 1, "a"))
	if types := f.Take().Types(); len(types) != 1 || types[0].WireType != "*v1.Deployment" {
		t.Errorf("got %+v, want one *v1.Deployment", types)
	}
}

func TestVersions(t *testing.T) {
	now := time.UnixMicro(1_000_000)
	f := New(func() time.Time { return now })
	change := 0
	take := func() uint64 {
		change++
		f.Upsert("pods", entry("*v1.Pod", 1, strconv.Itoa(change)))
		return f.Take().Version()
	}
	for _, c := range []struct {
		name string
		do   func()
		want uint64
	}{
		{"the clock", func() {}, 1_000_000},
		{"standing clock", func() {}, 1_000_001},
		{"clock goes back", func() { now = time.UnixMicro(5) }, 1_000_002},
		{"clock before 1970", func() { now = time.UnixMicro(-5) }, 1_000_003},
		{"a smaller observed version", func() { f.Observe(7) }, 1_000_004},
		{"an impossible one", func() { f.Observe(1<<64 - 1) }, 1_000_005},
		{"clock goes on", func() { now = time.UnixMicro(3_000_000) }, 3_000_000},
	} {
		c.do()
		if got := take(); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
	f.Observe(9_000_000)
	observed := take()
	if observed <= 9_000_000 || observed > 9_000_001+observedGap {
		t.Errorf("after 9000000 was observed: got %d, want at most %d more", observed, observedGap)
	}
	if got := take(); got != observed+1 {
		t.Errorf("after that: got %d, want %d", got, observed+1)
	}
	before := f.Take()
	f.Renew()
	after := f.Take()
	if after.Version() != before.Version()+1 || content(after) != content(before) || !after.ChangedAt().IsZero() {
		t.Errorf("renewed: got version %d, changed at %v, want %d with the same content and no change", after.Version(), after.ChangedAt(), before.Version()+1)
	}
}

func TestChangedAtIsTheOldestNewChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(nil)
		f.Upsert("pods", entry("*v1.Pod", 1, "a"))
		f.Take()
		time.Sleep(time.Second)
		f.Upsert("pods", entry("*v1.Pod", 1, "b")) // goes back below: not a change
		time.Sleep(time.Second)
		want := time.Now()
		f.Upsert("pods", entry("*v1.Pod", 2, "a"))
		time.Sleep(time.Second)
		f.Upsert("pods", entry("*v1.Pod", 3, "a"))
		f.Upsert("pods", entry("*v1.Pod", 1, "a"))
		if got := f.Take().ChangedAt(); !got.Equal(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestChangedFires(t *testing.T) {
	f := New(nil)
	fired := func() bool {
		select {
		case <-f.Changed():
			return true
		default:
			return false
		}
	}
	a := entry("*v1.Pod", 1, "a")
	for _, c := range []struct {
		name string
		do   func()
		want bool
	}{
		{"add", func() { f.Upsert("pods", a) }, true},
		{"nothing", func() { f.Upsert("pods", a) }, false},
		{"equal list", func() { f.Replace("pods", []*resources.Entry{a}) }, false},
		{"two changes", func() { f.Upsert("pods", entry("*v1.Pod", 2, "a")); f.Delete("pods", uid(1)) }, true},
		{"fired once", func() {}, false},
		{"empty list", func() { f.Replace("pods", nil) }, true},
	} {
		c.do()
		if got := fired(); got != c.want {
			t.Errorf("%s: got fired %v, want %v", c.name, got, c.want)
		}
	}
}

// TestRandomHistories holds the fold against a plain map of maps: whole content, one content per version, no needless
// version, and older snapshots that never change.
func TestRandomHistories(t *testing.T) {
	rnd := rand.New(rand.NewPCG(testseed.New(t), 1))
	sources := []struct{ id, wireType string }{{"a", "*v1.A"}, {"b1", "*v1.B"}, {"b2", "*v1.B"}, {"c", "*v1.C"}, {"c2", "*v1.C"}, {"c3", "*v1.C"}}
	cache := map[string]*resources.Entry{}
	random := func(wireType string) *resources.Entry {
		n, c := rnd.IntN(40), strconv.Itoa(rnd.IntN(3))
		key := fmt.Sprint(wireType, n, c)
		if cache[key] == nil || rnd.IntN(4) == 0 {
			cache[key] = entry(wireType, n, c)
		}
		return cache[key]
	}
	for history := range 200 {
		now := time.UnixMicro(1_700_000_000_000_000)
		f := New(func() time.Time { return now })
		model := map[string]map[resources.UID]*resources.Entry{}
		for _, s := range sources {
			model[s.id] = map[resources.UID]*resources.Entry{}
		}
		expected := func() string {
			merged := map[string]map[resources.UID]*resources.Entry{}
			for _, s := range sources {
				for u, e := range model[s.id] {
					if merged[e.WireType()] == nil {
						merged[e.WireType()] = map[resources.UID]*resources.Entry{}
					}
					if merged[e.WireType()][u] == nil {
						merged[e.WireType()][u] = e
					}
				}
			}
			var all []*resources.Entry
			for _, m := range merged {
				for _, e := range m {
					all = append(all, e)
				}
			}
			slices.SortFunc(all, func(a, b *resources.Entry) int {
				if c := strings.Compare(a.WireType(), b.WireType()); c != 0 {
					return c
				}
				return compareEntries(a, b)
			})
			var b strings.Builder
			for _, e := range all {
				b.WriteString(e.Wire())
			}
			return b.String()
		}
		type taken struct {
			s       *Snapshot
			content string
		}
		var all []taken
		versions := map[uint64]string{}
		observed := map[uint64]bool{}
		renewed := false
		for range 120 {
			src := sources[rnd.IntN(len(sources))]
			wireType := src.wireType
			if rnd.IntN(20) == 0 {
				wireType = "*v1.A" // a source that changes its type
			}
			switch rnd.IntN(12) {
			case 0:
				n := rnd.IntN(12)
				if rnd.IntN(10) == 0 {
					n = 2000 // enough to make everything dirty
				}
				var list []*resources.Entry
				model[src.id] = map[resources.UID]*resources.Entry{}
				for range n {
					e := random(wireType)
					list = append(list, e)
					model[src.id][e.UID()] = e
				}
				f.Replace(src.id, list)
			case 1:
				f.Remove(src.id)
				model[src.id] = map[resources.UID]*resources.Entry{}
			case 2, 3, 4:
				u := uid(rnd.IntN(40))
				f.Delete(src.id, u)
				delete(model[src.id], u)
			case 5:
				f.Renew()
				renewed = true
			case 6:
				now = now.Add(time.Duration(rnd.IntN(3_000_000)-1_500_000) * time.Microsecond)
				v := uint64(now.UnixMicro()) + uint64(rnd.IntN(1000))
				f.Observe(v)
				if versions[v] == "" {
					observed[v] = true
				}
			default:
				e := random(wireType)
				f.Upsert(src.id, e)
				model[src.id][e.UID()] = e
			}
			if rnd.IntN(3) > 0 {
				continue
			}
			s, want := f.Take(), expected()
			if got := content(s); got != want {
				t.Fatalf("history %d: got content of %d bytes, want %d bytes", history, len(got), len(want))
			}
			if s.Size() != len(want) {
				t.Fatalf("history %d: got size %d, want %d", history, s.Size(), len(want))
			}
			if observed[s.Version()] {
				t.Fatalf("history %d: version %d is one that a server answered", history, s.Version())
			}
			if old, ok := versions[s.Version()]; ok && old != want {
				t.Fatalf("history %d: version %d has two contents", history, s.Version())
			}
			versions[s.Version()] = want
			if len(all) > 0 {
				last := all[len(all)-1]
				if last.content == want && !renewed && s != last.s {
					t.Fatalf("history %d: version %d is needless, content as in %d", history, s.Version(), last.s.Version())
				}
				if s != last.s && s.Version() <= last.s.Version() {
					t.Fatalf("history %d: version %d follows %d", history, s.Version(), last.s.Version())
				}
			}
			renewed = false
			all = append(all, taken{s, want})
		}
		for _, old := range all {
			if content(old.s) != old.content {
				t.Fatalf("history %d: version %d changed after it was taken", history, old.s.Version())
			}
		}
	}
}

// TestNoHalfReplace takes while lists are replaced by others of different content: every snapshot holds one list whole.
func TestNoHalfReplace(t *testing.T) {
	f := New(nil)
	lists := map[string][]*resources.Entry{}
	of := map[*resources.Entry]string{}
	var names []string
	for i := range 4 {
		name := strconv.Itoa(i)
		names = append(names, name)
		for n := range 300 {
			e := entry("*v1.Pod", n+i*100, name)
			lists[name], of[e] = append(lists[name], e), name
		}
	}
	f.Replace("pods", lists["0"])
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 500 {
			f.Replace("pods", lists[names[i%4]])
		}
	}()
	for {
		seen := map[string]int{}
		for _, e := range f.Take().groups[0].entries {
			seen[of[e]]++
		}
		if len(seen) != 1 {
			t.Fatalf("got a mixture %v, want one list", seen)
		}
		for name, n := range seen {
			if n != 300 {
				t.Fatalf("got %d entries of list %s, want 300", n, name)
			}
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func BenchmarkTakeFewChanges(b *testing.B) {
	f := New(nil)
	list := make([]*resources.Entry, 0, 120_000)
	for n := range 120_000 {
		list = append(list, entry("*v1.Pod", n, "a"))
	}
	f.Replace("pods", list)
	f.Take()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		for range 20 {
			i++
			f.Upsert("pods", entry("*v1.Pod", i*31%120_000, strconv.Itoa(i)))
		}
		f.Take()
	}
}
