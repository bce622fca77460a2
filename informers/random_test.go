package informers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// TestRandom plays random sequences of changes, faults, outages and reconfigurations. The name of each is its seed,
// which repeats it as far as the scheduler lets it.
func TestRandom(t *testing.T) {
	first := testseed.New(t)
	for i := range testseed.Rounds(t, 12) {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, r *rig) {
				g := newGame(t, r, seed)
				g.slow()
				g.play()
			})
		})
	}
}

// game is one sequence.
type game struct {
	t   *testing.T
	r   *rig
	rng *rand.Rand

	mu      sync.Mutex
	faults  *rand.Rand
	odds    float64
	delays  *rand.Rand                 // nil: answers come at once
	refused map[string]bool            // resources that are forbidden
	live    map[resources.UID]string   // objects that must not be removed
	uids    map[string][]resources.UID // by resource
	age     map[resources.UID]int      // of Pods: the label of the last change that was passed on
	labels  int
}

func newGame(t *testing.T, r *rig, seed uint64) *game {
	t.Helper()
	g := &game{
		t: t, r: r, rng: rand.New(rand.NewPCG(seed, 1)), faults: rand.New(rand.NewPCG(seed, 2)),
		refused: map[string]bool{}, live: map[resources.UID]string{}, uids: map[string][]resources.UID{},
		age: map[resources.UID]int{},
	}
	r.opts.Selected = g.selected()
	r.opts.PageSize = int64(1 + g.rng.IntN(5))
	r.sim.SetFaults(g.fault)
	r.sink.onCall = func(call, _ string, uid resources.UID) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if name, alive := g.live[uid]; call == "delete" && alive {
			t.Errorf("%s was removed although it lives", name)
		}
	}
	r.sink.onEntry = g.passed
	return g
}

// passed looks at an entry that was passed on: no Pod becomes what it was before.
func (g *game) passed(id string, e *resources.Entry) {
	if id != "pods" {
		return
	}
	raw, err := e.JSON()
	var o struct {
		Metadata struct {
			Name   string
			Labels struct{ L string }
		}
	}
	if err == nil {
		err = json.Unmarshal(raw, &o)
	}
	if err != nil {
		g.t.Error(err)
		return
	}
	age, _ := strconv.Atoi(o.Metadata.Labels.L) // that of the first Pod is none
	g.mu.Lock()
	defer g.mu.Unlock()
	if last := g.age[e.UID()]; age < last {
		g.t.Errorf("Pod %s with label %d is passed on after label %d was", o.Metadata.Name, age, last)
	}
	g.age[e.UID()] = age
}

// slow makes some answers come late, by when changes have gone by, and lists be made often.
func (g *game) slow() {
	g.delays = rand.New(rand.NewPCG(uint64(g.rng.Int64()), 3))
	g.r.opts.RelistInterval = time.Duration(1+g.rng.IntN(10)) * time.Minute
}

// delay draws how late the parts of an answer are. It is called with mu held.
func (g *game) delay() apisim.Fault {
	if g.delays == nil || g.odds == 0 || g.delays.IntN(4) > 0 {
		return apisim.Fault{}
	}
	late := time.Duration(g.delays.IntN(12)) * time.Second
	return apisim.Fault{Garble: func(b []byte) []byte {
		time.Sleep(late)
		return b
	}}
}

// fault draws what goes wrong with one request.
func (g *game) fault(req apisim.Request) apisim.Fault {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refused[req.Resource.Resource] {
		return apisim.Fault{Status: http.StatusForbidden}
	}
	if g.faults.Float64() >= g.odds {
		return g.delay()
	}
	size := 1 + g.faults.IntN(3000)
	switch g.faults.IntN(14) {
	case 0:
		return apisim.Fault{Status: http.StatusTooManyRequests, RetryAfter: 1 + g.faults.IntN(20)}
	case 1:
		return apisim.Fault{Status: http.StatusInternalServerError}
	case 2:
		return apisim.Fault{Status: http.StatusGone}
	case 3:
		return apisim.Fault{Status: http.StatusUnauthorized}
	case 4:
		return apisim.Fault{Hang: true}
	case 5, 6:
		return apisim.Fault{Cut: size}
	case 7:
		return apisim.Fault{Freeze: size}
	case 8:
		return apisim.Fault{NoFinalBookmark: true}
	case 9:
		return apisim.Fault{ResourceVersion: []string{"999999999", "abc", "0"}[g.faults.IntN(3)]}
	case 10:
		return apisim.Fault{Garble: func(b []byte) []byte { return b[:len(b)/2] }}
	case 11:
		return apisim.Fault{Garble: func(b []byte) []byte { return bytes.Replace(b, []byte(`"uid":`), []byte(`"uix":`), 1) }}
	case 12:
		return apisim.Fault{Garble: func(b []byte) []byte { return bytes.Replace(b, []byte(`"name":`), []byte(`"nome":`), 1) }}
	default:
		return apisim.Fault{Garble: func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"metadata"`), []byte(`"metadata",`)) }}
	}
}

func (g *game) play() {
	g.r.start()
	g.r.pass(time.Duration(g.rng.IntN(5)) * time.Second)
	for range 80 {
		g.step()
		if g.rng.IntN(2) == 0 {
			g.r.pass(time.Duration(g.rng.ExpFloat64() * float64(20*time.Second)))
		}
	}
	g.calm()
	g.r.pass(25 * time.Minute) // two relists, for faults that only those can fix
	for _, id := range []string{"pods", "nodes", "namespaces", "replicasets", "clonesets"} {
		g.compare(id)
	}
	g.r.wantComplete(true)
	if v := g.r.set.Verdict(time.Now()); len(v.Errors)+len(v.Standing) != 0 {
		g.t.Errorf("in the end: got errors %v and standing %v, want none", v.Errors, v.Standing)
	}
}

// calm ends everything that goes wrong.
func (g *game) calm() {
	g.mu.Lock()
	g.odds = 0
	clear(g.refused)
	g.mu.Unlock()
	g.r.net.SetDown(true) // ends what still hangs
	g.r.net.SetDown(false)
	g.r.sim.SetStarting(false)
	g.r.sim.SetBroken("apps.kruise.io", false)
}

func (g *game) step() {
	sim := g.r.sim
	switch g.rng.IntN(24) {
	default:
		g.change()
	case 0:
		g.mu.Lock()
		g.odds = []float64{0, 0, 0.2, 0.7, 1}[g.rng.IntN(5)]
		g.mu.Unlock()
	case 1:
		g.r.net.SetDown(true)
		g.r.pass(time.Duration(g.rng.IntN(60)) * time.Second)
		g.r.net.SetDown(false)
	case 2:
		sim.Compact()
	case 3:
		sim.SetStreaming(apisim.Streaming(g.rng.IntN(3)))
	case 4:
		sim.SetAggregated(g.rng.IntN(2) == 0)
	case 5:
		sim.SetStarting(g.rng.IntN(3) == 0)
	case 6:
		sim.SetBroken("apps.kruise.io", g.rng.IntN(2) == 0)
	case 7, 8:
		sim.Serve(cloneSets)
	case 9:
		g.mu.Lock()
		for _, uid := range g.uids["clonesets"] {
			delete(g.live, uid)
		}
		g.mu.Unlock()
		sim.Remove(cloneSetsGVR)
	case 10:
		id := []string{"pods", "clonesets", "nodes"}[g.rng.IntN(3)]
		g.mu.Lock()
		g.refused[id] = !g.refused[id]
		g.mu.Unlock()
	case 11:
		var more []resources.Request
		if g.rng.IntN(2) == 0 {
			more = append(more, resources.Request{Name: "configmaps"})
		}
		g.r.set.Apply(g.selected(more...))
	case 12:
		if g.rng.IntN(2) == 0 {
			sim.Serve(rollouts)
		} else {
			sim.Remove(rolloutsGVR)
		}
	case 13:
		workflows := gvr(rolloutsGVR.Group, "v1", "workflows")
		if g.rng.IntN(2) == 0 {
			sim.Serve(apisim.Resource{GroupVersionResource: workflows, Kind: "Workflow", Namespaced: true})
		} else {
			sim.Remove(workflows)
		}
	}
}

// selected is the default, a CRD, and one of which no version is given.
func (g *game) selected(more ...resources.Request) []resources.Selected {
	g.t.Helper()
	return selected(g.t, "", append(more, resources.Request{Name: "clonesets"},
		resources.Request{Name: "rollouts", Group: rolloutsGVR.Group, As: "deployments"})...)
}

// change creates, updates or deletes an object.
func (g *game) change() {
	name := fmt.Sprint("x", g.rng.IntN(12))
	label := fmt.Sprint(g.rng.IntN(3))
	g.labels++
	type kind struct {
		id, object string
		res        apisim.Resource
		namespace  string
	}
	kinds := []kind{
		{"pods", pod("default", name, fmt.Sprint(g.labels)), builtin[2], "default"},
		{"nodes", node(name), builtin[0], ""},
		{"replicasets", fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"default"},"spec":{"replicas":%s}}`, name, label), builtin[8], "default"},
		{"clonesets", workload("CloneSet", "default", name), cloneSets, "default"},
	}
	k := kinds[g.rng.IntN(len(kinds))]
	gvr := k.res.GroupVersionResource
	if k.id == "clonesets" {
		g.r.sim.Serve(cloneSets)
	}
	if g.rng.IntN(3) == 0 {
		g.mu.Lock()
		for uid, alive := range g.live {
			if alive == k.id+" "+name {
				delete(g.live, uid)
			}
		}
		g.mu.Unlock()
		g.r.sim.Delete(gvr, k.namespace, name)
		return
	}
	g.r.sim.Put(gvr, k.object)
	for _, raw := range g.r.sim.Objects(gvr) {
		// A ReplicaSet may leave the report alive, when it has no replicas.
		if o := nameOf(g.t, raw); strings.TrimPrefix(o, "default/") == name && k.id != "replicasets" {
			uid := uidOf(g.t, raw)
			g.mu.Lock()
			g.live[uid] = k.id + " " + name
			g.uids[k.id] = append(g.uids[k.id], uid)
			g.mu.Unlock()
		}
	}
}

// compare holds the entries of id against the simulator's objects, projected here and now.
func (g *game) compare(id string) {
	g.t.Helper()
	want := map[resources.UID]string{}
	for _, sel := range g.r.opts.Selected {
		if sel.ID != id {
			continue
		}
		p := resources.NewProjector(sel, resources.Options{})
		for _, raw := range g.r.sim.Objects(sel.Candidates[0]) {
			obj, _, err := p.Project(raw, nil)
			if err != nil {
				g.t.Fatal(err)
			}
			if obj.Entry == nil {
				continue
			}
			b, err := obj.Entry.JSON()
			if err != nil {
				g.t.Fatal(err)
			}
			want[obj.UID] = string(b)
		}
	}
	if got := g.r.sink.contents(g.t, id); !maps.Equal(got, want) {
		g.t.Errorf("entries of %s (%s):\ngot  %v\nwant %v", id, g.r.state(id).State, got, want)
	}
}
