package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	lua "github.com/yuin/gopher-lua"
)

// reachable are all names that a script can reach, tables by tables. Whoever adds one must be sure that it leads to no
// file, process, environment or loader of code.
var reachable = []string{
	"_G", "_GOPHER_LUA_VERSION", "_VERSION", "assert", "error", "getmetatable", "ipairs", "math", "next", "package", "pairs", "pcall", "print",
	"rawequal", "rawget", "rawset", "require", "select", "setmetatable", "string", "table", "tonumber", "tostring", "type", "unpack", "xpcall",
	"math.abs", "math.acos", "math.asin", "math.atan", "math.atan2", "math.ceil", "math.cos", "math.cosh", "math.deg", "math.exp", "math.floor",
	"math.fmod", "math.frexp", "math.huge", "math.ldexp", "math.log", "math.log10", "math.max", "math.min", "math.mod", "math.modf", "math.pi",
	"math.pow", "math.rad", "math.random", "math.randomseed", "math.sin", "math.sinh", "math.sqrt", "math.tan", "math.tanh",
	"package.cpath", "package.loaded", "package.path",
	"string.__index", "string.byte", "string.char", "string.find", "string.format", "string.gfind", "string.gmatch", "string.gsub", "string.len",
	"string.lower", "string.match", "string.rep", "string.reverse", "string.sub", "string.upper",
	"table.concat", "table.getn", "table.insert", "table.maxn", "table.remove", "table.sort",
}

func newState(tb testing.TB) *lua.LState {
	tb.Helper()
	l := lua.NewState(lua.Options{SkipOpenLibs: true})
	tb.Cleanup(l.Close)
	if err := openLibraries(l); err != nil {
		tb.Fatal(err)
	}
	return l
}

func TestReachableFromScript(t *testing.T) {
	l := newState(t)
	var got []string
	seen := map[*lua.LTable]bool{}
	var walk func(prefix string, table *lua.LTable)
	walk = func(prefix string, table *lua.LTable) {
		if seen[table] {
			return
		}
		seen[table] = true
		table.ForEach(func(k, v lua.LValue) {
			got = append(got, prefix+k.String())
			if inner, ok := v.(*lua.LTable); ok {
				walk(prefix+k.String()+".", inner)
			}
		})
	}
	globals, ok := l.GetGlobal("_G").(*lua.LTable)
	if !ok {
		t.Fatal("got no globals")
	}
	walk("", globals)
	slices.Sort(got)
	want := slices.Sorted(slices.Values(reachable))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("a script reaches other names (-want +got):\n%s", d)
	}
}

// TestDKJSON runs Lua expressions; each want is what dkjson 2.5 answers.
func TestDKJSON(t *testing.T) {
	l := newState(t)
	if err := l.DoString(`json = require("dkjson")
function show(...)
  local out = {}
  for i = 1, select("#", ...) do
    local v = select(i, ...)
    out[#out+1] = type(v) == "table" and json.encode(v) or tostring(v)
  end
  return table.concat(out, "|")
end`); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ expression, want string }{
		{`json.decode('{"a":[1,2,{"b":null}],"c":"d"}')`, `{"a":[1,2,{}],"c":"d"}|31`},
		{`json.decode('[1,2]  x')`, `[1,2]|6`},
		{`json.decode('x[1]', 2)`, `[1]|5`},
		{`json.decode('null')`, `nil|5`},
		{`json.decode('null', 1, 'gone')`, `gone|5`},
		{`json.decode('[null]', 1, json.null)`, `[null]|7`},
		{`json.decode('true') , json.decode('false'), json.decode('-1.5e2')`, `true|false|-150|7`},
		{`json.decode('/* c */ [1, // d\n 2]')`, `[1,2]|21`},
		{`json.decode('[1 2,,3]')`, `nil|6|no valid JSON value at line 1, column 6`},
		{`json.decode('')`, `nil|1|no valid JSON value (reached the end)`},
		{`json.decode('{"a"')`, `nil|5|unterminated object at line 1, column 1`},
		{`json.decode('[1,')`, `nil|4|unterminated array at line 1, column 1`},
		{`json.decode('"abc')`, `nil|5|unterminated string at line 1, column 1`},
		{`json.decode('{"a":\n nope}')`, `nil|8|no valid JSON value at line 2, column 2`},
		{`json.decode('"\\u00e4\\ud83d\\ude00\\n\\/\\q"')`, "ä😀\n/q|27"},
		{`getmetatable(json.decode('{}')).__jsontype, getmetatable(json.decode('[]')).__jsontype`, `object|array`},
		{`getmetatable(json.decode('{}', 1, nil, nil))`, `nil`},
		{`json.encode(json.decode('{}'))`, `{}`},
		{`json.encode({})`, `[]`},
		{`json.encode({1, nil, 3})`, `[1,null,3]`},
		{`json.encode({n = 3, 1})`, `[1,null,null]`},
		{`json.encode({[1] = 1, [100] = 2})`, `{"1":1,"100":2}`},
		{`json.encode({a = 1, b = {c = "x"}}, {indent = true})`, "{\n  \"a\":1,\n  \"b\":{\n    \"c\":\"x\"\n  }\n}"},
		{`json.encode({a = 1, b = 2, c = 3}, {keyorder = {"c", "a"}})`, `{"c":3,"a":1,"b":2}`},
		{`json.encode(setmetatable({a = 1, b = 2}, {__jsonorder = {"b"}}))`, `{"b":2,"a":1}`},
		{`json.encode(setmetatable({}, {__tojson = function() return "raw" end}))`, `raw`},
		{`json.encode({1.5, 1e20, 0/0, 1/0, -3, true})`, `[1.5,1e+20,null,null,-3,true]`},
		{`json.encode('a"\\\b\f\n\r\t\1\127/\226\128\168')`, `"a\"\\\b\f\n\r\t\u0001\u007f/\u2028"`},
		{`json.quotestring('x"y')`, `"x\"y"`},
		{`pcall(json.encode, print)`, `false|<string>:1: type 'function' is not supported by JSON.`},
		{`json.encode({print}, {exception = json.encodeexception})`, `["<type 'function' is not supported by JSON.>"]`},
		{`(function() local t = {}; t.t = t; return pcall(json.encode, t) end)()`, `false|<string>:1: reference cycle`},
		{`(function() local s = {buffer = {}}; local ok = json.encode({1}, s); return ok, s.buffer[1], s.bufferlen end)()`, `true|[1]|1`},
		{`json.encode(json.null), json.version, json.use_lpeg() == json`, `null|dkjson 2.5|true`},
	} {
		if err := l.DoString("return show(" + c.expression + ")"); err != nil {
			t.Errorf("%s: %v", c.expression, err)
			continue
		}
		if got := l.Get(-1).String(); got != c.want {
			t.Errorf("%s: got %q, want %q", c.expression, got, c.want)
		}
		l.Pop(1)
	}
}

// FuzzDKJSON proves that decode takes every valid JSON text, that what it makes of it survives encode and decode, and
// that nothing panics.
func FuzzDKJSON(f *testing.F) {
	for _, seed := range []string{`{"a":[1,2.5,null,true,"x\u00e4\n"],"b":{}}`, `[[[]]]`, `"\ud83d"`, `/**/1`, `{1:2}`, `[1e999]`, "\xff", `{"n":1}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := newState(t)
		l.SetGlobal("text", lua.LString(text))
		err := l.DoString(`json = require("dkjson")
local v, pos, message = json.decode(text, 1, json.null)
if message then return message, "" end
local first = json.encode(v)
local again = json.encode(json.decode(first, 1, json.null))
return "", first == again and "same" or first .. " <> " .. again`)
		if err != nil {
			if strings.Contains(err.Error(), "key") || strings.Contains(err.Error(), "levels") || strings.Contains(err.Error(), "table index") {
				return
			}
			t.Fatalf("%q: %v", text, err)
		}
		message, same := l.Get(-2).String(), l.Get(-1).String()
		if depth := strings.Count(text, "[") + strings.Count(text, "{"); depth >= deepest || !json.Valid([]byte(text)) {
			return
		}
		if message != "" {
			t.Errorf("%q: got %q for valid JSON", text, message)
		}
		if message == "" && same != "same" {
			t.Errorf("%q: encode and decode differ: %s", text, same)
		}
	})
}

// noStore keeps nothing.
type noStore struct{}

func (noStore) Load(context.Context) ([]Plugin, error) { return nil, nil }
func (noStore) Save(context.Context, Plugin) error     { return nil }
func (noStore) Delete(context.Context, string) error   { return nil }

// TestProcessKilledFromOutside kills the script's process as the kernel would: the next call is answered by a new one.
func TestProcessKilledFromOutside(t *testing.T) {
	r, err := Open(t.Context(), Options{Store: noStore{}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	script := "function GetWorkloadTypeAndName(s) return 'Deployment', 'd' end"
	if err := r.Create(t.Context(), Plugin{Name: "a", Script: script}); err != nil {
		t.Fatal(err)
	}
	first := r.active[0].process
	first.kill()
	if got, ok := r.Map([]byte(`{"name":"x"}`)); !ok || got.Name != "d" {
		t.Errorf("got %+v, %v, want the answer d", got, ok)
	}
	if s := r.Status()[0]; s.State != StateActive || s.Failures != 0 {
		t.Errorf("got %+v, want it active without failures", s)
	}
	if r.active[0].process == first {
		t.Error("got the killed process, want a new one")
	}
}

func BenchmarkSandbox(b *testing.B) {
	script, err := os.ReadFile("testdata/opengauss.lua")
	if err != nil {
		b.Fatal(err)
	}
	s, failure := compile("a", script, 1_000_000, 1<<30)
	if failure != nil {
		b.Fatal(failure)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, failure := s.call(fmt.Sprintf(`{"uid":"%d","name":"web-1","namespace":"team","labels":{"app":"web"},`+
			`"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web","uid":"x","controller":true}]}`, 1)); failure != nil {
			b.Fatal(failure)
		}
	}
}
