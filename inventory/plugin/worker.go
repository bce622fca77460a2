package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"
)

// WorkerMain runs a script and ends the process, if this process was started for that; otherwise it returns at once.
// Every main that opens a Registry must call it first, as must TestMain of its tests.
func WorkerMain() {
	if len(os.Args) != 2 || os.Args[1] != workerArgument {
		return
	}
	if err := work(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// work answers messages until its input ends.
func work(in io.Reader, out io.Writer) error {
	message, err := readFrame(in)
	if err != nil {
		return err
	}
	var o order
	if err := json.Unmarshal(message, &o); err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	debug.SetMaxStack(64 << 20)
	if err := limitMemory(o.Memory); err != nil {
		return fmt.Errorf("limit memory: %w", err)
	}
	// The server kills this process when a call takes too long. Should the server be gone by then, it ends itself.
	guard := time.AfterFunc(2*(o.CallTime+startTime), func() { os.Exit(3) })
	s, failure := compile(o.Name, []byte(o.Script), o.Instructions, uint64(max(o.Memory, 0)))
	guard.Stop()
	if err := send(out, answer{Failure: failure}); err != nil || failure != nil {
		return err
	}
	for {
		metadata, err := readFrame(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		guard.Reset(2 * o.CallTime)
		var a answer
		a.Type, a.Name, a.Failure = s.call(string(metadata))
		guard.Stop()
		if err := send(out, a); err != nil {
			return err
		}
	}
}

func send(out io.Writer, a answer) error {
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	return writeFrame(out, b)
}
