package relations

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/resources"
)

// fold is what a Fold holds: the entries by source and UID. It counts the calls.
type fold struct {
	mu      sync.Mutex
	sources map[string]map[resources.UID]*resources.Entry
	calls   []string
}

func newFold() *fold { return &fold{sources: map[string]map[resources.UID]*resources.Entry{}} }

func (f *fold) Replace(id string, entries []*resources.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "Replace "+id)
	m := map[resources.UID]*resources.Entry{}
	for _, e := range entries {
		m[e.UID()] = e
	}
	f.sources[id] = m
}

func (f *fold) Upsert(id string, e *resources.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "Upsert "+id)
	if f.sources[id] == nil {
		f.sources[id] = map[resources.UID]*resources.Entry{}
	}
	f.sources[id][e.UID()] = e
}

func (f *fold) Delete(id string, uid resources.UID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "Delete "+id)
	delete(f.sources[id], uid)
}

func (f *fold) Remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, "Remove "+id)
	delete(f.sources, id)
}

// took returns the calls since it was last asked.
func (f *fold) took() []string {
	calls := f.calls
	f.calls = nil
	return calls
}

// content is all JSON documents, sorted.
func (f *fold) content(t *testing.T) []string {
	t.Helper()
	out := []string{}
	for id, m := range f.sources {
		for _, e := range m {
			doc, err := e.JSON()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%s %s %x %s %s", id, e.WireType(), e.Owner(), e.OwnerKind(), doc))
		}
	}
	slices.Sort(out)
	return out
}

// find returns the JSON of the one entry with that name.
func (f *fold) find(t *testing.T, name string) string {
	t.Helper()
	for _, line := range f.content(t) {
		if strings.Contains(line, `"name":"`+name+`"`) && strings.Contains(line, `"uid":"`+name) {
			return line[strings.IndexByte(line, '{'):]
		}
	}
	return ""
}

var enc = resources.NewEncoder()

func entry(wireType, name, owner, spec string) *resources.Entry {
	c := resources.Content{WireType: wireType, UID: resources.ParseUID(name)}
	owners := ""
	if owner != "" {
		c.Owner, c.OwnerKind = resources.ParseUID(owner), "apps/v1/Deployment"
		owners = fmt.Sprintf(`"ownerReferences":[{"uid":%q}],`, owner)
	}
	plain, _, _ := strings.Cut(name, "@") // what follows tells objects of one name apart
	c.JSON = fmt.Appendf(nil, `{"metadata":{"name":%q,"namespace":"shop",%s"uid":%q},"spec":%s}`, plain, owners, name, spec)
	return enc.Encode(c, nil)
}

func serviceOf(name string, ports ...string) *resources.Entry {
	return entry("*v1.Service", name, "", `{"ports":[`+strings.Join(ports, ",")+`]}`)
}

func ingressFor(name, svc, port string) *resources.Entry {
	return entry("*v1.Ingress", name, "",
		fmt.Sprintf(`{"rules":[{"host":"h","http":{"paths":[{"backend":{"service":{"name":%q,"port":{%s}}},"path":"/"}]}}]}`, svc, port))
}

func route(name, spec string) *resources.Entry { return entry("*v1.Ingress", name, "", spec) }

const (
	httpPort  = `{"name":"http","port":80,"protocol":"TCP","targetPort":"web"}`
	adminPort = `{"name":"admin","port":81,"protocol":"TCP","targetPort":9090}`
)

// replicaSetOf has a template, as the projection makes it.
func replicaSetOf(name, owner string) *resources.Entry {
	return entry("*v1.ReplicaSet", name, owner, `{"replicas":1,"template":{"metadata":{"labels":{"app":"web"}}}}`)
}

func workloadOf(wireType, name string) *resources.Entry {
	return entry(wireType, name, "", `{"replicas":1}`)
}

func newPair() (*Relations, *fold) {
	f := newFold()
	return New(Options{Fold: f}), f
}

func mustContain(t *testing.T, f *fold, name, want string) {
	t.Helper()
	if got := f.find(t, name); !strings.Contains(got, want) {
		t.Errorf("got %s for %s, want it to contain %s", got, name, want)
	}
}

func mustNotContain(t *testing.T, f *fold, name, want string) {
	t.Helper()
	if got := f.find(t, name); got == "" || strings.Contains(got, want) {
		t.Errorf("got %s for %s, want it not to contain %s", got, name, want)
	}
}

func TestIngressFollowsService(t *testing.T) {
	r, f := newPair()
	r.Replace("ingresses", []*resources.Entry{ingressFor("in", "web", `"name":"admin"`)})
	mustContain(t, f, "in", `"port":{"name":"admin"}`)
	r.Replace("services", []*resources.Entry{serviceOf("web", httpPort, adminPort)})
	mustContain(t, f, "in", `"port":{"number":81}`)
	r.Upsert("services", serviceOf("web", httpPort, strings.Replace(adminPort, "81", "82", 1)))
	mustContain(t, f, "in", `"port":{"number":82}`)
	f.took()
	r.Upsert("services", entry("*v1.Service", "web", "", `{"ports":[`+httpPort+`,{"name":"admin","port":82}],"selector":{"a":"b"}}`))
	if diff := cmp.Diff([]string{"Upsert services"}, f.took()); diff != "" {
		t.Errorf("got other calls than wanted after a change that no Ingress sees (-want +got):\n%s", diff)
	}
	r.Delete("services", resources.ParseUID("web"))
	mustContain(t, f, "in", `"port":{"name":"admin"}`)
	r.Upsert("services", serviceOf("web@2", httpPort, adminPort))
	mustContain(t, f, "in", `"port":{"number":81}`)
	r.Remove("services")
	mustContain(t, f, "in", `"port":{"name":"admin"}`)
}

func TestServiceReplacedUnderItsName(t *testing.T) {
	// A Service is deleted and made again at once; the informer tells the new one before the old one's end, or after.
	for _, newFirst := range []bool{true, false} {
		r, f := newPair()
		r.Replace("ingresses", []*resources.Entry{ingressFor("in", "web", `"name":"admin"`)})
		r.Replace("services", []*resources.Entry{serviceOf("web@1", adminPort)})
		next := serviceOf("web@2", strings.Replace(adminPort, "81", "82", 1))
		if newFirst {
			r.Upsert("services", next)
			r.Delete("services", resources.ParseUID("web@1"))
		} else {
			r.Delete("services", resources.ParseUID("web@1"))
			r.Upsert("services", next)
		}
		mustContain(t, f, "in", `"port":{"number":82}`)
	}
}

func TestRoutes(t *testing.T) {
	for _, tt := range []struct {
		name, spec string
		want, not  string
	}{
		{name: "by port name", spec: `{"host":"h","port":{"targetPort":"admin"},"to":{"kind":"Service","name":"web"}}`, want: `"number":81`},
		{name: "by the Pod's port number", spec: `{"host":"h","port":{"targetPort":9090},"to":{"kind":"Service","name":"web"}}`, want: `"number":81`},
		{name: "without a port", spec: `{"host":"h","to":{"kind":"Service","name":"web"}}`, want: `"number":80`},
		{name: "with a weight", spec: `{"host":"h","to":{"kind":"Service","name":"web","weight":100},"wildcardPolicy":"None"}`, want: `"number":80`, not: "weight"},
		{
			name: "alternate backends",
			spec: `{"host":"h","to":{"kind":"Service","name":"web"},"alternateBackends":[{"kind":"Service","name":"db","weight":50}]}`,
			want: `"name":"db","port":{"number":5432}`,
		},
		{name: "without to", spec: `{"host":"h"}`, want: `"rules":[{"host":"h"}]`, not: "backend"},
		{name: "to something that is no Service", spec: `{"host":"h","to":{"kind":"Bucket","name":"web"}}`, want: `"rules":[{"host":"h"}]`, not: "backend"},
		{name: "to a Service that does not exist", spec: `{"host":"h","to":{"kind":"Service","name":"none"}}`, want: `"rules":[{"host":"h"}]`, not: "backend"},
		{name: "with a path", spec: `{"host":"h","path":"/x","to":{"kind":"Service","name":"web"}}`, want: `"path":"/x"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, f := newPair()
			r.Replace("routes", []*resources.Entry{route("rt", tt.spec)})
			r.Replace("services", []*resources.Entry{serviceOf("web", httpPort, adminPort), serviceOf("db", `{"port":5432}`)})
			mustContain(t, f, "rt", tt.want)
			if tt.not != "" {
				mustNotContain(t, f, "rt", tt.not)
			}
		})
	}
}

func TestReplicaSetTemplate(t *testing.T) {
	r, f := newPair()
	r.Replace("replicasets", []*resources.Entry{replicaSetOf("rs", "web")})
	mustContain(t, f, "rs", "template")
	if r.Reported(resources.ParseUID("web")) {
		t.Error("got the owner reported before it was, want not")
	}
	r.Replace("deployments", []*resources.Entry{workloadOf("*v1.Deployment", "web")})
	mustNotContain(t, f, "rs", "template")
	if !r.Reported(resources.ParseUID("web")) {
		t.Error("got the owner not reported, want it reported")
	}
	// A CRD that is reported as Deployment may come in by two sources.
	r.Replace("rollouts.argoproj.io", []*resources.Entry{workloadOf("*v1.Deployment", "web")})
	r.Delete("deployments", resources.ParseUID("web"))
	mustNotContain(t, f, "rs", "template")
	r.Remove("rollouts.argoproj.io")
	mustContain(t, f, "rs", "template")
	doc, err := replicaSetOf("rs", "web").JSON()
	if err != nil {
		t.Fatal(err)
	}
	if got := f.find(t, "rs"); got != string(doc) {
		t.Errorf("got %s after the owner was gone, want the projection's %s", got, doc)
	}
}

func TestCalls(t *testing.T) {
	pod := workloadOf("*v1.Pod", "p")
	svc, in := serviceOf("web", httpPort), ingressFor("in", "web", `"name":"http"`)
	r, f := newPair()
	for _, step := range []struct {
		name string
		do   func()
		want []string
	}{
		{"first list, empty", func() { r.Replace("ingresses", nil) }, []string{"Replace ingresses"}},
		{"Pods pass", func() { r.Replace("pods", []*resources.Entry{pod}) }, []string{"Replace pods"}},
		{"Pods pass each time", func() { r.Upsert("pods", pod); r.Delete("pods", pod.UID()) }, []string{"Upsert pods", "Delete pods"}},
		{"first list", func() { r.Replace("ingresses", []*resources.Entry{in}) }, []string{"Replace ingresses"}},
		{"the same list", func() { r.Replace("ingresses", []*resources.Entry{in}) }, nil},
		{"the same object", func() { r.Upsert("ingresses", ingressFor("in", "web", `"name":"http"`)) }, nil},
		{"a Service", func() { r.Upsert("services", svc) }, []string{"Upsert services", "Upsert ingresses"}},
		{"the same Service", func() { r.Upsert("services", svc) }, nil},
		{"an unknown object's end", func() { r.Delete("services", pod.UID()) }, nil},
		{"several that depend", func() {
			r.Upsert("ingresses", ingressFor("in2", "web", `"name":"http"`))
			r.Replace("services", nil)
		}, []string{"Upsert ingresses", "Replace services", "Replace ingresses"}},
		{"a source's end", func() { r.Remove("ingresses") }, []string{"Remove ingresses"}},
		{"an unknown source's end", func() { r.Remove("nothing") }, []string{"Remove nothing"}},
		{"a source with another wire type", func() {
			r.Replace("x", []*resources.Entry{svc})
			r.Upsert("x", in)
			r.Replace("x", []*resources.Entry{pod})
		}, []string{"Replace x", "Remove x", "Upsert x", "Replace x"}},
	} {
		step.do()
		if diff := cmp.Diff(step.want, f.took()); diff != "" {
			t.Errorf("%s: got other calls than wanted (-want +got):\n%s", step.name, diff)
		}
	}
	if got := f.content(t); len(got) != 1 {
		t.Errorf("got %q in the end, want the Pod only", got)
	}
}

// TestSharing: what needs no completion is the projection's own entry, so that nothing is held twice.
func TestSharing(t *testing.T) {
	r, f := newPair()
	in, rs := ingressFor("in", "web", `"number":80`), replicaSetOf("rs", "web")
	r.Replace("ingresses", []*resources.Entry{in})
	r.Replace("replicasets", []*resources.Entry{rs})
	r.Upsert("deployments", workloadOf("*v1.Deployment", "web"))
	r.Delete("deployments", resources.ParseUID("web"))
	if got := f.sources["ingresses"][in.UID()]; got != in {
		t.Error("got another entry for an Ingress that needs no completion, want the same")
	}
	if got := f.sources["replicasets"][rs.UID()]; got != rs {
		t.Error("got another entry for a ReplicaSet without a reported owner, want the same")
	}
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		f := newFold()
		var log strings.Builder
		r := New(Options{Fold: f, Registerer: reg, Log: slog.New(slog.NewTextHandler(&log, nil))})
		start := time.Now()
		r.Replace("services", []*resources.Entry{serviceOf("web", httpPort)})
		r.Replace("ingresses", []*resources.Entry{ingressFor("in", "web", `"name":"http"`)})
		r.Replace("deployments", []*resources.Entry{workloadOf("*v1.Deployment", "web")})
		want := Status{State: "ok", Since: start, Services: 1, Dependent: 1, Workloads: 1}
		if diff := cmp.Diff(want, r.Status()); diff != "" {
			t.Errorf("got another status than wanted (-want +got):\n%s", diff)
		}
		broken := enc.Encode(resources.Content{WireType: "*v1.Ingress", UID: resources.ParseUID("bad"), JSON: []byte(`{"metadata":`)}, nil)
		time.Sleep(time.Second)
		r.Upsert("ingresses", broken)
		r.Upsert("services", serviceOf("web", adminPort))
		if st := r.Status(); st.State != "degraded" || !st.Since.Equal(start.Add(time.Second)) || st.Advice == "" {
			t.Errorf("got %+v with an entry that cannot be read, want it degraded, since when, and advice", st)
		}
		if got := f.sources["ingresses"][broken.UID()]; got != broken {
			t.Error("got another entry, or none, for one that cannot be read, want it passed on")
		}
		if got := strings.Count(log.String(), "\n"); got != 1 {
			t.Errorf("got %d log lines, want 1:\n%s", got, log.String())
		}
		r.Delete("ingresses", broken.UID())
		if st := r.Status(); st.State != "ok" {
			t.Errorf("got %+v after the broken entry was gone, want ok", st)
		}
	})
}

// model is what a cluster holds, by source and UID.
type model map[string]map[resources.UID]*resources.Entry

func (m model) list(id string) []*resources.Entry { return slices.Collect(maps.Values(m[id])) }

var sourceTypes = map[string]string{
	"services": "*v1.Service", "ingresses": "*v1.Ingress", "ingresses.extensions": "*v1.Ingress", "routes": "*v1.Ingress",
	"replicasets": "*v1.ReplicaSet", "deployments": "*v1.Deployment", "rollouts.argoproj.io": "*v1.Deployment", "pods": "*v1.Pod",
}

func randomEntry(rnd *rand.Rand, id string) *resources.Entry {
	n := func(kind string, of int) string { return fmt.Sprint(kind, rnd.IntN(of)) }
	switch id {
	case "services":
		ports := []string{httpPort, adminPort, strings.Replace(adminPort, "81", "8"+fmt.Sprint(rnd.IntN(3)), 1)}
		return serviceOf(fmt.Sprintf("svc%d@%d", rnd.IntN(4), rnd.IntN(2)), ports[:rnd.IntN(4)]...)
	case "ingresses", "ingresses.extensions":
		return ingressFor(n("in", 5), n("svc", 5), `"name":"`+[]string{"http", "admin", "none"}[rnd.IntN(3)]+`"`)
	case "routes":
		return route(n("rt", 5), fmt.Sprintf(`{"host":"h","to":{"kind":"Service","name":%q},"alternateBackends":[{"kind":"Service","name":%q}]}`,
			n("svc", 5), n("svc", 5)))
	case "replicasets":
		return replicaSetOf(n("rs", 5), n("wl", 4))
	case "deployments", "rollouts.argoproj.io":
		return workloadOf("*v1.Deployment", n("wl", 4))
	default:
		return workloadOf("*v1.Pod", n("pod", 5))
	}
}

// TestAnyOrder: after any sequence of events the fold holds exactly what it would hold had everything been listed just
// now, in whatever order.
func TestAnyOrder(t *testing.T) {
	seed := testseed.New(t)
	rnd := rand.New(rand.NewPCG(seed, 0))
	ids := slices.Sorted(maps.Keys(sourceTypes))
	for range 30 {
		r, f := newPair()
		cluster := model{}
		for range 80 {
			id := ids[rnd.IntN(len(ids))]
			switch rnd.IntN(10) {
			case 0:
				list := map[resources.UID]*resources.Entry{}
				for range rnd.IntN(6) {
					e := randomEntry(rnd, id)
					list[e.UID()] = e
				}
				cluster[id] = list
				r.Replace(id, cluster.list(id))
			case 1:
				delete(cluster, id)
				r.Remove(id)
			case 2, 3, 4:
				for _, e := range cluster.list(id) {
					delete(cluster[id], e.UID())
					r.Delete(id, e.UID())
					break
				}
			default:
				e := randomEntry(rnd, id)
				if cluster[id] == nil {
					cluster[id] = map[resources.UID]*resources.Entry{}
				}
				cluster[id][e.UID()] = e
				r.Upsert(id, e)
			}
			if rnd.IntN(4) > 0 {
				continue
			}
			fresh, want := newPair()
			for _, i := range rnd.Perm(len(ids)) {
				if rnd.IntN(2) == 0 {
					fresh.Replace(ids[i], cluster.list(ids[i]))
					continue
				}
				for _, e := range cluster.list(ids[i]) {
					fresh.Upsert(ids[i], e)
				}
			}
			if diff := cmp.Diff(want.content(t), f.content(t)); diff != "" {
				t.Fatalf("seed %d: got other entries than from a fresh list (-want +got):\n%s", seed, diff)
			}
		}
		for _, id := range ids {
			r.Remove(id)
		}
		if len(r.services)+len(r.backends)+len(r.owned)+len(r.sources)+len(r.broken) > 0 {
			t.Fatalf("seed %d: got something left in the indexes after every source was removed", seed)
		}
	}
}

func TestConcurrentSources(t *testing.T) {
	seed := testseed.New(t)
	r, f := newPair()
	final := model{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, id := range slices.Sorted(maps.Keys(sourceTypes)) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			mine := map[resources.UID]*resources.Entry{}
			for range 300 {
				// The encoder is for one goroutine.
				mu.Lock()
				e := randomEntry(rnd, id)
				mu.Unlock()
				if mine[e.UID()] != nil && rnd.IntN(3) == 0 {
					delete(mine, e.UID())
					r.Delete(id, e.UID())
					continue
				}
				mine[e.UID()] = e
				r.Upsert(id, e)
				r.Status()
			}
			mu.Lock()
			final[id] = mine
			mu.Unlock()
		})
	}
	wg.Wait()
	fresh, want := newPair()
	for id := range sourceTypes {
		fresh.Replace(id, final.list(id))
	}
	if diff := cmp.Diff(want.content(t), f.content(t)); diff != "" {
		t.Errorf("seed %d: got other entries than from a fresh list (-want +got):\n%s", seed, diff)
	}
}

// BenchmarkPod is what one Pod's event costs here.
func BenchmarkPod(b *testing.B) {
	r, _ := newPair()
	r.fold = discard{}
	pod := workloadOf("*v1.Pod", "p")
	b.ReportAllocs()
	for b.Loop() {
		r.Upsert("pods", pod)
	}
}

type discard struct{}

func (discard) Replace(string, []*resources.Entry) {}
func (discard) Upsert(string, *resources.Entry)    {}
func (discard) Delete(string, resources.UID)       {}
func (discard) Remove(string)                      {}
