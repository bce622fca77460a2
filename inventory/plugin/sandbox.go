package plugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"time"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"
)

// entryPoint is the function that a script must define.
const entryPoint = "GetWorkloadTypeAndName"

// longestString is what string.rep may return, in bytes, and longestAnswer what a script may answer.
const (
	longestString = 4 << 20
	longestAnswer = 253
)

// What ends a call besides an error of the script itself.
var (
	errInstructions = errors.New("instruction limit reached, does the script loop for ever?")
	errMemory       = errors.New("memory limit reached, does the script allocate for ever?")
)

// sandbox is a compiled script. Each call runs in a fresh state, as on the official server, so that neither what a
// script keeps in globals nor the order of the Pods changes an answer.
type sandbox struct {
	proto        *lua.FunctionProto
	name         string
	instructions int
	memory       uint64
}

// meter is the context of a call. The interpreter asks for Done before every instruction, which makes it the place to
// count them: unlike a deadline, a count does not depend on how busy the machine is.
type meter struct {
	left int
	done chan struct{}
	once sync.Once
	err  error // set before done is closed
}

var _ context.Context = (*meter)(nil)

func newMeter(instructions int) *meter {
	return &meter{left: instructions, done: make(chan struct{})}
}

func (m *meter) stop(err error) {
	m.once.Do(func() {
		m.err = err
		close(m.done)
	})
}

// Deadline implements context.Context.
func (m *meter) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }

// Done implements context.Context and counts one instruction.
func (m *meter) Done() <-chan struct{} {
	if m.left--; m.left == 0 {
		m.stop(errInstructions)
	}
	return m.done
}

// Err implements context.Context.
func (m *meter) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// Value implements context.Context.
func (m *meter) Value(any) any { return nil }

// scriptError is an error with its place in the script.
type scriptError struct {
	Message string `json:"message"`
	Line    int    `json:"line"`  // 0: unknown
	Limit   bool   `json:"limit"` // the script reached a limit, its process is of no use any more

	died bool // the process ended for a reason that is not known to be the script's
}

// Error implements error.
func (e *scriptError) Error() string { return e.Message }

// compile checks the script: syntax, what it does when loaded, and that it defines the entry point.
func compile(name string, script []byte, instructions int, memory uint64) (*sandbox, *scriptError) {
	chunk, err := parse.Parse(strings.NewReader(string(script)), name)
	if err != nil {
		failure := located(name, err)
		if failure.Line < 0 { // at the end of the script
			failure.Line = 1 + bytes.Count(bytes.TrimSpace(script), []byte("\n")) + leadingLines(script)
			failure.Message = fmt.Sprintf("%s:%d: unexpected end of the script", name, failure.Line)
		}
		return nil, failure
	}
	proto, err := lua.Compile(chunk, name)
	if err != nil {
		return nil, located(name, err)
	}
	s := &sandbox{proto: proto, name: name, instructions: instructions, memory: memory}
	return s, s.run(func(l *lua.LState) error {
		if got := l.GetGlobal(entryPoint).Type(); got != lua.LTFunction {
			return fmt.Errorf("the script must define the function %s(metaJsonStr), got %s", entryPoint, got)
		}
		return nil
	})
}

// leadingLines counts the empty lines before the first text.
func leadingLines(script []byte) int {
	text := bytes.TrimLeft(script, " \t\r\n")
	return bytes.Count(script[:len(script)-len(text)], []byte("\n"))
}

// call asks the script for the workload of one Pod.
func (s *sandbox) call(metadata string) (typ, name string, failure *scriptError) {
	failure = s.run(func(l *lua.LState) error {
		if err := l.CallByParam(lua.P{Fn: l.GetGlobal(entryPoint), NRet: 2, Protect: true}, lua.LString(metadata)); err != nil {
			return err
		}
		t, okType := l.Get(-2).(lua.LString)
		n, okName := l.Get(-1).(lua.LString)
		if !okType || !okName {
			return fmt.Errorf("%s must return two strings, got %s and %s", entryPoint, l.Get(-2).Type(), l.Get(-1).Type())
		}
		if len(t) > longestAnswer || len(n) > longestAnswer {
			return fmt.Errorf("%s must return at most %d bytes each, got %d and %d", entryPoint, longestAnswer, len(t), len(n))
		}
		typ, name = string(t), string(n)
		return nil
	})
	if failure != nil {
		return "", "", failure
	}
	return typ, name, nil
}

// run loads the script into a fresh state and then calls f.
func (s *sandbox) run(f func(l *lua.LState) error) *scriptError {
	l := lua.NewState(lua.Options{
		SkipOpenLibs: true, CallStackSize: 200, RegistrySize: 1024, RegistryMaxSize: 256 << 10, RegistryGrowStep: 4 << 10,
	})
	defer l.Close()
	if err := openLibraries(l); err != nil {
		return &scriptError{Message: err.Error()}
	}
	m := newMeter(s.instructions)
	l.SetContext(m)
	release := watchMemory(m, s.memory)
	defer release()
	l.Push(l.NewFunctionFromProto(s.proto))
	err := l.PCall(0, 0, nil)
	if err == nil {
		err = f(l)
	}
	if err == nil {
		return nil
	}
	out := located(s.name, err)
	out.Limit = m.Err() != nil
	return out
}

// watchMemory stops the meter when the heap outgrows the limit. The result ends the watch and waits for its end.
//
// The interpreter cannot limit memory: one instruction can double a string. So this looks every few milliseconds, and
// what grows faster is ended by the limit of the whole process (limitMemory).
func watchMemory(m *meter, limit uint64) (release func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(2 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ticker.C:
			}
			if heapBytes() < limit {
				continue
			}
			runtime.GC() // what is garbage does not count
			if heapBytes() >= limit {
				m.stop(errMemory)
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}

func heapBytes() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}

// located finds message and line of an error of the interpreter.
func located(name string, err error) *scriptError {
	out := &scriptError{Message: err.Error()}
	var syntax *parse.Error
	var api *lua.ApiError
	switch {
	case errors.As(err, &syntax):
		out.Line = syntax.Pos.Line
		out.Message = fmt.Sprintf("%s:%d: %s near %q", name, out.Line, syntax.Message, syntax.Token)
		return out
	case errors.As(err, &api):
		switch object := api.Object.(type) {
		case lua.LString:
			out.Message = string(object)
		default:
			out.Message = fmt.Sprintf("the script raised a %s as error", object.Type())
		}
	}
	if m := regexp.MustCompile(`(?:^|\s)` + regexp.QuoteMeta(name) + `:(\d+):`).FindStringSubmatch(out.Message); m != nil {
		if line, convErr := strconv.Atoi(m[1]); convErr == nil {
			out.Line = line
		}
	}
	if len(out.Message) > 1000 {
		out.Message = strings.ToValidUTF8(out.Message[:1000], "") + "…"
	}
	return out
}

// removed are the functions of the base library that reach files or processes, load code, or slow the interpreter
// down in a way that no count of instructions sees.
var removed = []string{
	"dofile", "loadfile", "load", "loadstring", "module", "collectgarbage", "newproxy", "_printregs", "getfenv", "setfenv",
}

// openLibraries opens base, string, table and math, without what reaches outside; os, io, debug, coroutine and
// channel are not there at all.
func openLibraries(l *lua.LState) error {
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{
		{lua.BaseLibName, lua.OpenBase},
		{lua.TabLibName, lua.OpenTable},
		{lua.StringLibName, lua.OpenString},
		{lua.MathLibName, lua.OpenMath},
	} {
		if err := l.CallByParam(lua.P{Fn: l.NewFunction(library.open), NRet: 0, Protect: true}, lua.LString(library.name)); err != nil {
			return fmt.Errorf("open library %q: %w", library.name, err)
		}
	}
	for _, name := range removed {
		l.SetGlobal(name, lua.LNil)
	}
	l.SetGlobal("print", l.NewFunction(func(*lua.LState) int { return 0 }))
	if text, ok := l.GetGlobal("string").(*lua.LTable); ok {
		text.RawSetString("rep", l.NewFunction(limitedRep))
		text.RawSetString("dump", lua.LNil)
	}
	pack := l.NewTable()
	pack.RawSetString("path", lua.LString("./?.lua"))
	pack.RawSetString("cpath", lua.LString(""))
	loaded := l.NewTable()
	pack.RawSetString("loaded", loaded)
	l.SetGlobal("package", pack)
	l.SetGlobal("require", l.NewFunction(func(l *lua.LState) int {
		name := l.CheckString(1)
		if name != "dkjson" {
			l.RaiseError("module %q is not available, only dkjson is", name)
			return 0
		}
		module := loaded.RawGetString(name)
		if module == lua.LNil {
			module = newDKJSON(l)
			loaded.RawSetString(name, module)
		}
		l.Push(module)
		return 1
	}))
	return nil
}

// limitedRep is string.rep with a bound on the result.
func limitedRep(l *lua.LState) int {
	text, n := l.CheckString(1), l.CheckInt(2)
	if n <= 0 || text == "" {
		l.Push(lua.LString(""))
		return 1
	}
	if n > longestString/len(text) {
		l.RaiseError("string.rep would make more than %d bytes", longestString)
		return 0
	}
	l.Push(lua.LString(strings.Repeat(text, n)))
	return 1
}
