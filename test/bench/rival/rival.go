// Package rival holds the other ways to watch a cluster with client-go that pseudo-agent is measured against.
//
// A rival is a process of its own. It says on its standard output when it has listed everything, and answers the commands
// that come on its standard input, one JSON document a line.
package rival

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Names of the rivals.
const (
	Stock      = "stock"      // a dynamic informer with its defaults
	Trimming   = "trimming"   // a dynamic informer with a transform that keeps only the reported fields
	Compressed = "compressed" // a typed informer over protobuf with a transform to compressed entries; reports
	Keeping    = "keeping"    // a typed informer that keeps objects and serialises one list per kind; reports
)

// Names are all rivals in the order of the table.
var Names = []string{Stock, Trimming, Compressed, Keeping}

// Reports tells whether a rival sends reports; the others only watch.
func Reports(name string) bool { return name == Compressed || name == Keeping }

// Protobuf tells whether a rival asks for protobuf: typed clients do by default, dynamic ones cannot.
func Protobuf(name string) bool { return name == Compressed || name == Keeping }

// Answer is one line of a rival's output.
type Answer struct {
	// Synced is true in the first line only.
	Synced bool `json:"synced,omitempty"`
	// Live is the size of all reachable objects, measured after a garbage collection, for the command "live".
	Live uint64 `json:"live,omitempty"`
	// Allocated is the sum of all allocations so far, for the command "allocated".
	Allocated uint64 `json:"allocated,omitempty"`
	// Pending tells whether there are changes that were not reported yet, for the command "pending".
	Pending bool `json:"pending,omitempty"`
}

// informerSet is what the rivals have in common.
type informerSet interface {
	start(ctx context.Context)
	synced() []cache.InformerSynced
}

// Run runs a rival until in ends.
func Run(ctx context.Context, name, kubeconfig, server string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	set, rep, err := newRival(name, cfg, server)
	if err != nil {
		return err
	}
	set.start(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), set.synced()...) {
		return fmt.Errorf("list everything: %w", context.Cause(ctx))
	}
	if rep != nil {
		go rep.run(ctx)
		rep.change()
	}
	enc := json.NewEncoder(out)
	if err := enc.Encode(Answer{Synced: true}); err != nil {
		return err
	}
	commands := bufio.NewScanner(in)
	for commands.Scan() {
		var a Answer
		var m runtime.MemStats
		switch commands.Text() {
		case "live":
			runtime.GC()
			runtime.GC() // the first one leaves what finalizers and pools still hold
			runtime.ReadMemStats(&m)
			a.Live = m.HeapAlloc
		case "allocated":
			runtime.ReadMemStats(&m)
			a.Allocated = m.TotalAlloc
		case "pending":
			a.Pending = rep != nil && rep.pending()
		default:
			return fmt.Errorf("unknown command %q", commands.Text())
		}
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
	return commands.Err()
}

func newRival(name string, cfg *rest.Config, server string) (informerSet, *reporter, error) {
	switch name {
	case Stock:
		set, err := newDynamic(cfg, false)
		return set, nil, err
	case Trimming:
		set, err := newDynamic(cfg, true)
		return set, nil, err
	case Compressed, Keeping:
		rep, err := newReporter(server)
		if err != nil {
			return nil, nil, err
		}
		set, err := newTyped(cfg, name == Compressed, rep)
		return set, rep, err
	}
	return nil, nil, fmt.Errorf("no rival is called %q", name)
}

// debounce is how long a change waits for others, as pseudo-agent does.
const debounce = time.Second
