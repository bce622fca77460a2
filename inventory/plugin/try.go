package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/inventory"
)

// Outcome is what a script would do to one Pod.
type Outcome struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	OwnerKind string `json:"owner_kind"` // of the first ownerReference, "" if there is none
	OwnerName string `json:"owner_name"`
	Type      string `json:"type"` // the script's answer
	Name      string `json:"name"`
	Effect    string `json:"effect"` // none, mapped, refused or failed
	Error     string `json:"error,omitempty"`
	Line      int    `json:"line,omitempty"`
}

// The effects of a script on a Pod.
const (
	EffectNone    = "none"    // not mine, or the Pod of an InPlaceSet, which the server does not ask about
	EffectMapped  = "mapped"  // the Pod gets this workload instead of its owner
	EffectRefused = "refused" // the server does not know the workload type
	EffectFailed  = "failed"  // the script raised an error
)

// Result is what a script would do to a cluster.
type Result struct {
	Outcomes []Outcome `json:"outcomes"` // of every Pod that was asked about
	Mapped   int       `json:"mapped"`
	Refused  int       `json:"refused"`
	Failed   int       `json:"failed"`
	Stopped  string    `json:"stopped,omitempty"` // the limit at which the script was stopped; later Pods were not asked about
	Line     int       `json:"line,omitempty"`
}

// Test runs a script, which need not be created, against Pods (the JSON of their entries) and tells what it would
// change. The error wraps ErrInvalid if the script does not load. Bound ctx
// when there are many Pods.
func (r *Registry) Test(ctx context.Context, script string, pods [][]byte) (Result, error) {
	const name = "test"
	if err := r.validate(Plugin{Name: name, Type: TypeLua, User: UserServer, Script: script}); err != nil {
		return Result{}, err
	}
	proc, failure, err := startProcess(ctx, name, script, r.limits)
	if err != nil {
		return Result{}, fmt.Errorf("test plugin: %w", err)
	}
	if failure != nil {
		return Result{}, fmt.Errorf("%w: %s", ErrInvalid, failure.Message)
	}
	defer proc.close()
	out := Result{Outcomes: []Outcome{}}
	inARow := 0
	for _, pod := range pods {
		if err := ctx.Err(); err != nil {
			return out, fmt.Errorf("test plugin: %w", err)
		}
		o, failure := try(proc, pod)
		if o == nil {
			continue
		}
		out.Outcomes = append(out.Outcomes, *o)
		switch o.Effect {
		case EffectMapped:
			out.Mapped++
		case EffectRefused:
			out.Refused++
		case EffectFailed:
			out.Failed++
		}
		if failure == nil {
			inARow = 0
			continue
		}
		inARow++
		if failure.Limit || inARow >= r.limits.Failures {
			out.Stopped, out.Line = failure.Message, failure.Line
			return out, nil
		}
	}
	return out, nil
}

// try asks about one Pod; nil if the entry is no Pod with metadata.
func try(proc *process, pod []byte) (*Outcome, *scriptError) {
	var entry struct {
		Metadata json.RawMessage `json:"metadata"`
	}
	if json.Unmarshal(pod, &entry) != nil || len(entry.Metadata) == 0 {
		return nil, nil //nolint:nilerr // no Pod, no answer
	}
	var meta struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
		Owners    []struct {
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"ownerReferences"`
	}
	if json.Unmarshal(entry.Metadata, &meta) != nil {
		return nil, nil //nolint:nilerr // no Pod, no answer
	}
	o := &Outcome{Namespace: meta.Namespace, Pod: meta.Name, Effect: EffectNone}
	if len(meta.Owners) > 0 {
		o.OwnerKind, o.OwnerName = meta.Owners[0].Kind, meta.Owners[0].Name
	}
	if o.OwnerKind == "InPlaceSet" {
		return o, nil
	}
	typ, name, failure := proc.call(entry.Metadata)
	switch {
	case failure != nil:
		o.Effect, o.Error, o.Line = EffectFailed, failure.Message, failure.Line
	case typ == "" || name == "":
	case !inventory.KnownWorkloadType(typ):
		o.Type, o.Name, o.Effect = typ, name, EffectRefused
		o.Error = fmt.Sprintf("workload type %q is none of %s", typ, strings.Join(inventory.WorkloadTypes(), ", "))
	default:
		o.Type, o.Name, o.Effect = typ, name, EffectMapped
	}
	return o, failure
}
