// Package reported finds Pods, and the workloads that they belong to, in the latest report of a cluster.
//
// It relies on store for the entries and on the order in which store.View lists them. It promises to read at most the
// Pod and one object for each owner above it, whatever the size of the cluster.
package reported

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Workloads is an elector.Workloads over a store.
type Workloads struct {
	store *store.Store
	now   func() time.Time
}

// New returns a Workloads; now tells the time by which reports were stamped.
func New(s *store.Store, now func() time.Time) *Workloads { return &Workloads{store: s, now: now} }

// maxOwners bounds how far owners are followed: Pod, ReplicaSet, Deployment, and one more.
const maxOwners = 4

const podType = "*v1.Pod"

// ownerTypes are the wire types of the owners that have owners themselves.
var ownerTypes = map[string]string{"ReplicaSet": "*v1.ReplicaSet"}

// Pod implements elector.Workloads.
func (w *Workloads) Pod(ctx context.Context, cluster, namespace, name string) (elector.Pod, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the view is no longer used
	view, err := w.store.View(ctx, cluster)
	if errors.Is(err, store.ErrNotFound) || err == nil && view.State.Latest.Seq == 0 {
		return elector.Pod{Age: -1}, nil
	}
	if err != nil {
		return elector.Pod{}, fmt.Errorf("find Pod %s/%s: %w", namespace, name, err)
	}
	pod := elector.Pod{Age: max(w.now().Sub(view.State.LastReport), 0)}
	first := find(view.Entries, podType, namespace, "")
	pod.Namespace = first < len(view.Entries) && view.Entries[first].Type == podType && view.Entries[first].Namespace == namespace
	wireType := podType
	for range maxOwners {
		i := find(view.Entries, wireType, namespace, name)
		if i == len(view.Entries) {
			break
		}
		e := view.Entries[i]
		if e.Type != wireType || e.Namespace != namespace || e.Name != name {
			break
		}
		pod.Found = true
		var kind string
		if kind, name, err = w.owner(ctx, cluster, e); err != nil {
			return elector.Pod{}, err
		}
		if kind == "" {
			break
		}
		pod.Owners = append(pod.Owners, kind+"/"+name)
		if wireType = ownerTypes[kind]; wireType == "" {
			break
		}
	}
	return pod, nil
}

// find returns the index of the first entry that is not before the given one.
func find(entries []*store.Entry, wireType, namespace, name string) int {
	return sort.Search(len(entries), func(i int) bool {
		e := entries[i]
		if e.Type != wireType {
			return e.Type > wireType
		}
		if e.Namespace != namespace {
			return e.Namespace > namespace
		}
		return e.Name >= name
	})
}

// owner returns the kind and name of an object's controlling owner, or else of its first one.
func (w *Workloads) owner(ctx context.Context, cluster string, e *store.Entry) (kind, name string, err error) {
	payloads, err := w.store.Payloads(ctx, cluster, []*store.Entry{e})
	if err != nil {
		return "", "", fmt.Errorf("read %s %s/%s: %w", e.Type, e.Namespace, e.Name, err)
	}
	if payloads[0] == nil { // replaced by a newer report meanwhile
		return "", "", nil
	}
	data, err := e.JSON(payloads[0])
	if err != nil {
		return "", "", fmt.Errorf("read %s %s/%s: %w", e.Type, e.Namespace, e.Name, err)
	}
	var object struct {
		Metadata struct {
			OwnerReferences []struct {
				Kind       string `json:"kind"`
				Name       string `json:"name"`
				Controller bool   `json:"controller"`
			} `json:"ownerReferences"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(data, &object); err != nil {
		return "", "", fmt.Errorf("read %s %s/%s: %w", e.Type, e.Namespace, e.Name, err)
	}
	for i, o := range object.Metadata.OwnerReferences {
		if i == 0 || o.Controller {
			kind, name = o.Kind, o.Name
		}
		if o.Controller {
			break
		}
	}
	return kind, name, nil
}
