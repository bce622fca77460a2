package plugin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
)

func TestMain(m *testing.M) {
	plugin.WorkerMain()
	goleak.VerifyTestMain(m)
}

// documented is the script of DeepFlow's documentation, unchanged in form.
const documented = `package.path = package.path..";/bin/?.lua"
local dkjson = require("dkjson")

function GetWorkloadTypeAndName(metaJsonStr)
    local metaData = dkjson.decode(metaJsonStr,1,nil)
    local ownerReferencesData = metaData["ownerReferences"] or {}
    local meteTable  = ownerReferencesData[1] or {}
    local workloadType = ""
    local workloadName = ""
    workloadType = tostring(meteTable["kind"] or "")
    if workloadType ~= "OpenGaussCluster" then
        return "", ""
    else
        workloadType = "StatefulSet"
    end
    local workloadName = tostring(meteTable["name"] or "")
    return workloadType, workloadName
end
`

func answering(typ, name string) string {
	return fmt.Sprintf("function GetWorkloadTypeAndName(s) return %q, %q end", typ, name)
}

// files is a Store in memory.
type files struct {
	mu      sync.Mutex
	plugins []plugin.Plugin
	fail    error
}

func (f *files) Load(context.Context) ([]plugin.Plugin, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]plugin.Plugin(nil), f.plugins...), f.fail
}

func (f *files) Save(ctx context.Context, p plugin.Plugin) error {
	if err := f.Delete(ctx, p.Name); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plugins = append(f.plugins, p)
	return nil
}

func (f *files) Delete(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		f.plugins = slices.DeleteFunc(slices.Clone(f.plugins), func(p plugin.Plugin) bool { return p.Name == name })
	}
	return f.fail
}

func open(t *testing.T, store plugin.Store, limits plugin.Limits) *plugin.Registry {
	t.Helper()
	r, err := plugin.Open(t.Context(), plugin.Options{Store: store, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func create(t *testing.T, r *plugin.Registry, name, script string) {
	t.Helper()
	if err := r.Create(t.Context(), plugin.Plugin{Name: name, Script: script}); err != nil {
		t.Fatal(err)
	}
}

func statusOf(t *testing.T, r *plugin.Registry, name string) plugin.Status {
	t.Helper()
	for _, s := range r.Status() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no plugin %q in %+v", name, r.Status())
	return plugin.Status{}
}

func TestDocumentedScript(t *testing.T) {
	r := open(t, &files{}, plugin.Limits{})
	create(t, r, "hello", documented)
	for _, c := range []struct {
		metadata string
		want     inventory.Mapping
	}{
		{`{"name":"og-0","ownerReferences":[{"kind":"OpenGaussCluster","name":"ogtest","controller":true}]}`, inventory.Mapping{Plugin: "hello", Type: "StatefulSet", Name: "ogtest"}},
		{`{"name":"web-0","ownerReferences":[{"kind":"ReplicaSet","name":"web"}]}`, inventory.Mapping{}},
		{`{"name":"bare"}`, inventory.Mapping{}},
		{`{"name":"null","ownerReferences":null,"labels":{}}`, inventory.Mapping{}},
	} {
		for range 2 { // the second answer is kept from the first
			got, ok := r.Map([]byte(c.metadata))
			if got != c.want || ok != (c.want.Name != "") {
				t.Errorf("%s: got %+v, %v, want %+v", c.metadata, got, ok, c.want)
			}
		}
	}
	if s := statusOf(t, r, "hello"); s.Calls != 4 || s.Answers != 1 || s.State != plugin.StateActive {
		t.Errorf("got status %+v, want 4 calls, 1 answer, active", s)
	}
}

// TestHostileScripts proves that each kind of bad script is stopped and shown, and that the next plugin answers.
func TestHostileScripts(t *testing.T) {
	t.Parallel()
	const head = "local n = 0\nfunction GetWorkloadTypeAndName(s)\n" // the body begins at line 3
	for _, c := range []struct {
		name, body string
		reason     string
		line       int
	}{
		{"loop", "while true do end", "instruction limit", 3},
		{"loop in pcall", "while true do\npcall(function() while true do end end)\nend", "instruction limit", 0},
		{"tail recursion", "local function f() return f() end\nreturn f()", "instruction limit", 3},
		{"recursion", "local function f() return 1 + f() end\nreturn f()", "stack overflow", 3},
		{"doubling string", "local t = 'x'\nwhile true do t = t .. t end", "memory limit", 0},
		{"growing table", "local t = {}\nwhile true do t[#t+1] = {} end", "limit", 4},
		{"tables of tables", "local t = {}\nfor i = 1, 1e9 do t = {t, t, t, t, t, t, t, t} end", "limit", 4},
		{"string.rep", "return string.rep('x', 1e9), 'x'", "string.rep would make more", 3},
		{"string.rep method", "return ('x'):rep(2^40), 'x'", "string.rep would make more", 3},
		{"concat", "local t = {}\nfor i = 1, 1000 do t[i] = string.rep('x', 4194304) end\nreturn table.concat(t), 'x'", "memory limit", 0},
		{"wide format", "return {}, string.format('%999999999d', 1)", "two strings", 0},
		{"gsub", "local s = string.rep('a', 4000000)\nreturn string.gsub(s, 'a', string.rep('b', 4000)), 'x'", "limit", 0},
		{"unpack", "return unpack({}, 1, 1e8)", "registry overflow", 3},
		{"sparse table", "local t = {}\nt[67108863] = 1\nfor i = 1, 40 do t[2^i] = 1 end\nreturn {}, 'x'", "memory limit", 0},
		{"sort that never agrees", "local t = {}\nfor i = 1, 50000 do t[i] = i end\ntable.sort(t, function() return true end)\nreturn {}, 'x'", "", 0},
		{"metatable that calls itself", "local t = setmetatable({}, {__index = function(t, k) return t[k..k] end})\nreturn t.x, 'x'", "", 0},
		{"metatable of strings", "getmetatable('').__index = function() error('poisoned') end\nreturn ('x'):upper(), 'x'", "", 0},
		{"byte code", "return load('\\27Lua'), 'x'", "", 0},
		{"pattern", "local a = string.rep('a', 40)\nreturn string.match(a, string.rep('a?', 40) .. a .. 'b'), 'x'", "no answer within", 0},
		{"throws", "error('not today')", "not today", 3},
		{"throws a table", "error({})", "raised a table", 0},
		{"nil index", "local t = nil\nreturn t.x, 'x'", "attempt to index", 4},
		{"returns a number", "return 1, 'x'", "two strings, got number and string", 0},
		{"returns nothing", "return", "two strings, got nil and nil", 0},
		{"returns a table", "return {}, {}", "two strings, got table and table", 0},
		{"returns much", "return string.rep('x', 300), 'x'", "at most 253 bytes", 0},
		{"os.execute", "return os.execute('touch /tmp/x'), 'x'", "attempt to index", 3},
		{"os.getenv", "return os.getenv('HOME'), 'x'", "attempt to index", 3},
		{"io.open", "return io.open('/etc/passwd'):read('*a'), 'x'", "attempt to index", 3},
		{"dofile", "return dofile('/etc/passwd'), 'x'", "attempt to call", 3},
		{"loadfile", "return loadfile('/etc/passwd'), 'x'", "attempt to call", 3},
		{"loadstring", "return loadstring('return 1'), 'x'", "attempt to call", 3},
		{"require", "return require('socket'), 'x'", `module "socket" is not available`, 3},
		{"debug", "return debug.getregistry(), 'x'", "attempt to index", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			limits := plugin.Limits{CallTime: time.Minute, Failures: 2}
			if c.name == "pattern" { // the only one that nothing but the clock stops
				limits.CallTime = time.Second
			}
			r := open(t, &files{}, limits)
			create(t, r, "a", head+c.body+"\nend")
			create(t, r, "b", answering("Deployment", "good"))
			want := inventory.Mapping{Plugin: "b", Type: "Deployment", Name: "good"}
			for i := range 4 {
				if got, _ := r.Map(fmt.Appendf(nil, `{"name":"pod-%d"}`, i)); got != want {
					t.Fatalf("got %+v, want %+v from the plugin behind", got, want)
				}
			}
			s := statusOf(t, r, "a")
			if s.State != plugin.StateStopped || !strings.Contains(s.Reason, c.reason) || s.Line != c.line && c.line != 0 {
				t.Errorf("got %s, line %d, %q, want stopped, line %d, a reason with %q", s.State, s.Line, s.Reason, c.line, c.reason)
			}
			if s := statusOf(t, r, "b"); s.State != plugin.StateActive {
				t.Errorf("got the other plugin %+v, want it active", s)
			}
		})
	}
}

func TestStateIsIsolated(t *testing.T) {
	r := open(t, &files{}, plugin.Limits{})
	create(t, r, "a", "shared = 'a'; string.upper = nil; calls = (calls or 0)\nfunction GetWorkloadTypeAndName(s) calls = calls + 1; return '', '' end")
	create(t, r, "b", "calls = (calls or 0)\nfunction GetWorkloadTypeAndName(s) calls = calls + 1; return 'Deployment', string.upper(tostring(shared)) .. calls end")
	for i := range 3 {
		got, _ := r.Map(fmt.Appendf(nil, `{"name":"pod-%d"}`, i))
		if want := (inventory.Mapping{Plugin: "b", Type: "Deployment", Name: "NIL1"}); got != want {
			t.Errorf("got %+v, want %+v: neither plugins nor calls may see each other", got, want)
		}
	}
}

func TestOrderReplaceDelete(t *testing.T) {
	store := &files{}
	now := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	r, err := plugin.Open(t.Context(), plugin.Options{Store: store, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	create(t, r, "20-late", answering("Deployment", "late"))
	pod := []byte(`{"name":"x"}`)
	check := func(r *plugin.Registry, want string) {
		t.Helper()
		if got, _ := r.Map(pod); got.Name != want {
			t.Errorf("got %+v, want the answer %q", got, want)
		}
	}
	check(r, "late")
	create(t, r, "10-early", answering("", "early")) // no type: not an answer
	check(r, "late")
	create(t, r, "10-early", answering("daemonset", "early"))
	check(r, "early")
	select {
	case <-r.Changed():
	default:
		t.Error("Changed tells nothing, want a signal after Create")
	}
	again := open(t, store, plugin.Limits{})
	check(again, "early")
	if err := r.Delete(t.Context(), "10-early"); err != nil {
		t.Fatal(err)
	}
	check(r, "late")
	if err := r.Delete(t.Context(), "10-early"); !errors.Is(err, plugin.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	want := []plugin.Status{{
		Type: "lua", Name: "20-late", User: "server", UpdatedAt: now, State: plugin.StateActive, Since: now, Calls: 2, Answers: 2,
	}}
	got := r.Status()
	got[0].Calls, got[0].Answers = 2, 2 // the cache decides
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("status differs (-want +got):\n%s", d)
	}
	store.fail = errors.New("disk full")
	if err := r.Create(t.Context(), plugin.Plugin{Name: "new", Script: answering("Deployment", "new")}); err == nil {
		t.Error("got nil, want the store's error")
	}
	if err := r.Delete(t.Context(), "20-late"); err == nil {
		t.Error("got nil, want the store's error")
	}
	check(r, "late")
}

// TestRefresh has two servers on one store.
func TestRefresh(t *testing.T) {
	store := &files{}
	a, b := open(t, store, plugin.Limits{}), open(t, store, plugin.Limits{})
	pod := []byte(`{"name":"x"}`)
	for _, step := range []struct {
		script, want string
	}{
		{answering("Deployment", "first"), "first"},
		{answering("Deployment", "second"), "second"},
		{"", ""},
	} {
		if step.script != "" {
			create(t, a, "p", step.script)
		} else if err := a.Delete(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if err := b.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			told := false
			select {
			case <-b.Changed():
				told = true
			default:
			}
			if told != (i == 0) {
				t.Errorf("%q, refresh %d: got a signal %v, want one for the first only", step.want, i, told)
			}
		}
		if got, _ := b.Map(pod); got.Name != step.want {
			t.Errorf("got %+v, want the answer %q", got, step.want)
		}
	}
	store.fail = errors.New("database gone")
	if err := b.Refresh(t.Context()); err == nil {
		t.Error("got nil, want the store's error")
	}
}

func TestRefused(t *testing.T) {
	r := open(t, &files{}, plugin.Limits{Plugins: 1})
	for _, c := range []struct {
		plugin plugin.Plugin
		want   string
	}{
		{plugin.Plugin{Name: "", Script: "x"}, "name"},
		{plugin.Plugin{Name: "../x", Script: "x"}, "name"},
		{plugin.Plugin{Name: "a", Type: "wasm"}, `type "wasm"`},
		{plugin.Plugin{Name: "a", User: "agent"}, `user "agent"`},
		{plugin.Plugin{Name: "a", Script: strings.Repeat(" ", 1<<20)}, "bytes"},
		{plugin.Plugin{Name: "a", Script: "function x("}, "a:1:"},
		{plugin.Plugin{Name: "a", Script: "\n\nlocal x = = 1"}, "a:3:"},
		{plugin.Plugin{Name: "a", Script: "x = 1"}, "must define the function GetWorkloadTypeAndName"},
		{plugin.Plugin{Name: "a", Script: "error('at load')"}, "at load"},
		{plugin.Plugin{Name: "a", Script: "while true do end"}, "instruction limit"},
		{plugin.Plugin{Name: "a", Script: "local x = " + strings.Repeat("(", 100_000)}, "a:"},
	} {
		err := r.Create(t.Context(), c.plugin)
		if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+.60v: got %v, want ErrInvalid with %q", c.plugin, err, c.want)
		}
	}
	create(t, r, "a", answering("Deployment", "a"))
	if err := r.Create(t.Context(), plugin.Plugin{Name: "b", Script: answering("Deployment", "b")}); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid for one plugin too many", err)
	}
}

func TestStoredScriptThatNoLongerLoads(t *testing.T) {
	var log bytes.Buffer
	r, err := plugin.Open(t.Context(), plugin.Options{
		Store:  &files{plugins: []plugin.Plugin{{Name: "old", Type: "lua", User: "server", Script: "\nnonsense"}}},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range 3 {
		r.Map(fmt.Appendf(nil, `{"name":"pod-%d"}`, i))
	}
	if s := statusOf(t, r, "old"); s.State != plugin.StateStopped || s.Line != 2 {
		t.Errorf("got %+v, want stopped at line 2", s)
	}
	if n := strings.Count(log.String(), "plugin stopped"); n != 1 {
		t.Errorf("got %d log lines, want 1:\n%s", n, log.String())
	}
}

func TestTry(t *testing.T) {
	r := open(t, &files{}, plugin.Limits{Failures: 2})
	script := `local dkjson = require("dkjson")
function GetWorkloadTypeAndName(s)
  local m = dkjson.decode(s, 1, nil)
  if m.name == "bad" then error("bad name") end
  if m.name == "job" then return "Job", "j" end
  if m.name == "gs" then return "STATEFULSET", "game" end
  return "", ""
end`
	pod := func(name string) []byte {
		return fmt.Appendf(nil, `{"metadata":{"name":%q,"namespace":"n","ownerReferences":[{"kind":"K","name":"o"}]},"status":{}}`, name)
	}
	got, err := r.Test(t.Context(), script, [][]byte{pod("gs"), pod("web"), pod("job"), pod("bad"), pod("web"), []byte("null"), pod("bad"), pod("bad"), pod("gs")})
	if err != nil {
		t.Fatal(err)
	}
	o := func(pod, typ, name, effect, message string, line int) plugin.Outcome {
		return plugin.Outcome{
			Namespace: "n", Pod: pod, OwnerKind: "K", OwnerName: "o", Type: typ, Name: name, Effect: effect, Error: message, Line: line,
		}
	}
	want := plugin.Result{Outcomes: []plugin.Outcome{
		o("gs", "STATEFULSET", "game", plugin.EffectMapped, "", 0),
		o("web", "", "", plugin.EffectNone, "", 0),
		o("job", "Job", "j", plugin.EffectRefused,
			`workload type "Job" is none of cloneset, daemonset, deployment, replicaset, replicationcontroller, statefulset`, 0),
		o("bad", "", "", plugin.EffectFailed, "test:4: bad name", 4),
		o("web", "", "", plugin.EffectNone, "", 0),
		o("bad", "", "", plugin.EffectFailed, "test:4: bad name", 4),
		o("bad", "", "", plugin.EffectFailed, "test:4: bad name", 4),
	}, Mapped: 1, Refused: 1, Failed: 3, Stopped: "test:4: bad name", Line: 4}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("result differs (-want +got):\n%s", d)
	}
	if len(r.Status()) != 0 {
		t.Errorf("got plugins %+v, want none: a test creates nothing", r.Status())
	}
}

// TestInventoryWithPlugin takes a GameServerSet's Pods into the inventory by a script.
func TestInventoryWithPlugin(t *testing.T) {
	r := open(t, &files{}, plugin.Limits{})
	create(t, r, "games", `local dkjson = require("dkjson")
function GetWorkloadTypeAndName(s)
  local owner = (dkjson.decode(s, 1, nil).ownerReferences or {})[1] or {}
  if owner.kind ~= "GameServerSet" then return "", "" end
  return "statefulset", owner.name
end`)
	entries := []inventory.Change{
		{Type: "*version.Info", ID: "v", JSON: []byte(`{"gitVersion":"v1.36.0"}`)},
		{Type: "*v1.Namespace", ID: "n", JSON: []byte(`{"metadata":{"uid":"n","name":"n"}}`)},
		{Type: "*v1.Pod", ID: "p", JSON: []byte(`{"metadata":{"uid":"p","name":"gs-0","namespace":"n","labels":{"app":"gs"},` +
			`"ownerReferences":[{"kind":"GameServerSet","name":"gs","uid":"g"}]}}`)},
		{Type: "*v1.Service", ID: "s", JSON: []byte(`{"metadata":{"uid":"s","name":"gs","namespace":"n"},"spec":{"type":"ClusterIP",` +
			`"selector":{"app":"gs"},"ports":[{"port":80,"targetPort":8080}]}}`)},
	}
	inv := inventory.Build(inventory.Options{Mapper: r}, entries)
	pods := inv.Pods(inventory.Filter{})
	if len(pods) != 1 || pods[0].Workload != "StatefulSet/n/gs" || pods[0].Plugin != "games" || pods[0].Service != "n/gs" {
		t.Errorf("got Pods %+v, want gs-0 of StatefulSet/n/gs by games, with Service n/gs", pods)
	}
	if err := r.Delete(t.Context(), "games"); err != nil {
		t.Fatal(err)
	}
	inv.Apply(entries[2:3])
	if pods := inv.Pods(inventory.Filter{}); len(pods) != 0 {
		t.Errorf("got Pods %+v after the plugin went, want none", pods)
	}
}

func BenchmarkMap(b *testing.B) {
	r, err := plugin.Open(b.Context(), plugin.Options{Store: &files{}})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	if err := r.Create(b.Context(), plugin.Plugin{Name: "a", Script: documented}); err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i++
		r.Map(fmt.Appendf(nil, `{"uid":"%d","name":"web-5d9c7b8f6-%d","namespace":"team","labels":{"app":"web","pod-template-hash":"5d9c7b8f6"},`+
			`"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-5d9c7b8f6","uid":"x","controller":true}]}`, i, i))
	}
}

// TestDocument runs the script of docs/plugins.md and holds the table of limits against the defaults.
func TestDocument(t *testing.T) {
	b, err := os.ReadFile("../../docs/plugins.md")
	if err != nil {
		t.Fatal(err)
	}
	document := string(b)
	_, rest, _ := strings.Cut(document, "```lua\n")
	script, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the document has no script")
	}
	r := open(t, &files{}, plugin.Limits{})
	create(t, r, "games", script)
	want := inventory.Mapping{Plugin: "games", Type: "StatefulSet", Name: "gs"}
	if got, _ := r.Map([]byte(`{"ownerReferences":[{"kind":"GameServerSet","name":"gs"}]}`)); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, ok := r.Map([]byte(`{"ownerReferences":[{"kind":"ReplicaSet","name":"gs"}]}`)); ok {
		t.Errorf("got %+v, want no answer", got)
	}
	l := plugin.DefaultLimits()
	for _, row := range []string{
		fmt.Sprintf("| instructions of one call, loading included | %d |", l.Instructions),
		fmt.Sprintf("| heap of the script's process | %d MiB |", l.Memory>>20),
		fmt.Sprintf("| wall clock of one call | %s |", l.CallTime),
		fmt.Sprintf("| wall clock of all calls together, beyond 50 ms each | %s |", l.Overtime),
		fmt.Sprintf("| size of a script | %d KiB |", l.ScriptBytes>>10),
		fmt.Sprintf("| number of plugins | %d |", l.Plugins),
		fmt.Sprintf("| failed calls in a row | %d |", l.Failures),
	} {
		if !strings.Contains(document, row) {
			t.Errorf("the document lacks the row %s", row)
		}
	}
	for _, typ := range inventory.WorkloadTypes() {
		if !strings.Contains(document, "`"+typ+"`") {
			t.Errorf("the document does not name the workload type %s", typ)
		}
	}
}
