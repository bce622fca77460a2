package viewer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Bounds of pictures, in boxes.
const (
	maxNeighbours = 60  // of one object
	maxBoxes      = 500 // of a namespace
)

// ObjectView is all that is known of one object.
type ObjectView struct {
	Cluster   string `json:"cluster"`
	Version   uint64 `json:"version"` // the latest report's
	Type      string `json:"type"`    // wire type
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
	// Reported tells whether the latest version has the object. If not, what follows is of the last version that had it.
	Reported bool `json:"reported"`
	// Others is how many other objects of the same name are kept, such as one that was deleted before this was created.
	Others int `json:"others,omitempty"`

	Object     json.RawMessage     `json:"object"`     // as stored
	Bytes      uint32              `json:"bytes"`      // of it, compressed
	RawBytes   uint32              `json:"raw_bytes"`  // of its JSON
	Understood []inventory.Fact    `json:"understood"` // what deepflow-server gets out of it; empty if it drops it
	Findings   []inventory.Finding `json:"findings"`
	Graph      inventory.Graph     `json:"graph"`   // its neighbours
	History    []ObjectVersion     `json:"history"` // newest first, within the kept versions
}

// ObjectVersion is a version that changed an object.
type ObjectVersion struct {
	Version    uint64    `json:"version"`
	Before     uint64    `json:"before,omitempty"` // the version before, whose difference to this can be asked for; 0: none is kept
	ReceivedAt time.Time `json:"received_at"`
	// Change is added, changed, removed, or "oldest" for what the oldest kept version has already.
	Change string `json:"change"`
}

// oldest is the Change of what was there before anything that is kept.
const oldest = "oldest"

// GraphView is the picture of a namespace.
type GraphView struct {
	Cluster   string          `json:"cluster"`
	Version   uint64          `json:"version"`
	Namespace string          `json:"namespace"`
	Graph     inventory.Graph `json:"graph"`
}

func (v *Viewer) apiGraph(req *http.Request) (any, error) {
	q := req.URL.Query()
	limit, err := bounded(q, maxBoxes, maxBoxes)
	if err != nil {
		return nil, err
	}
	out := GraphView{Namespace: q.Get("namespace")}
	if out.Namespace == "" {
		return nil, bad("namespace is missing: a picture shows one namespace")
	}
	err = v.reading(req.Context(), req.PathValue("cluster"), func(c *cluster) error {
		out.Cluster, out.Version = c.id, c.state.Latest.Version
		var ok bool
		if out.Graph, ok = c.inv.NamespaceGraph(out.Namespace, limit); !ok {
			return &receiver.APIError{
				Status: http.StatusNotFound, Message: fmt.Sprintf("no object of cluster %s names the namespace %q", c.id, clip(out.Namespace)),
				Advice: "GET " + receiver.APIPrefix + "/clusters/" + c.id + "/inventory/namespaces lists all",
			}
		}
		return nil
	})
	return out, err
}

func (v *Viewer) apiObject(req *http.Request) (any, error) {
	q := req.URL.Query()
	if q.Get("type") == "" || q.Get("name") == "" && q.Get("uid") == "" {
		return nil, bad("type and name are needed, and the namespace of an object that is in one; or type and uid")
	}
	const tries = 3 // the cluster may change between two looks at it
	for range tries {
		view, err := v.view(req.Context(), req.PathValue("cluster"))
		if err != nil {
			return nil, err
		}
		out, err := v.object(req.Context(), view, q)
		if err != nil {
			return nil, err
		}
		err = v.reading(req.Context(), view.State.ID, func(c *cluster) error {
			if versionOf(c.state) != versionOf(view.State) {
				return errMoved
			}
			return out.judge(c.inv)
		})
		if !errors.Is(err, errMoved) {
			return out, err
		}
	}
	return nil, &receiver.APIError{Status: http.StatusServiceUnavailable, Message: "the cluster changes just now", Advice: "try again"}
}

var errMoved = errors.New("there is a newer version")

// object finds an object of a view, reads it and its history.
func (v *Viewer) object(ctx context.Context, view *store.View, q url.Values) (*ObjectView, error) {
	wire, namespace, name := fullType(view, q.Get("type")), q.Get("namespace"), q.Get("name")
	match := func(e *store.Entry) bool { return e.Name == name && e.Namespace == namespace && e.Type == wire }
	if uid := q.Get("uid"); uid != "" {
		key := store.KeyOf(wire, []byte(uid))
		match = func(e *store.Entry) bool { return e.Key == key && e.Type == wire }
	}
	kept := view.Kept(match)
	if len(kept) == 0 {
		return nil, &receiver.APIError{
			Status: http.StatusNotFound, Message: fmt.Sprintf("no kept version of cluster %s has %s %s/%s", view.State.ID, clip(wire), clip(namespace), clip(name)),
			Advice: "look for it in the apiserver, then in `pseudo-agent explain`, which says whether it is reported",
		}
	}
	// The one that is reported, or was last.
	last := slices.MaxFunc(kept, func(a, b *store.Entry) int {
		switch {
		case (a.To == 0) != (b.To == 0):
			return map[bool]int{true: 1, false: -1}[a.To == 0]
		default:
			return cmp.Compare(a.From, b.From)
		}
	})
	changes, err := v.read(ctx, view.State.ID, []*store.Entry{last})
	if errors.Is(err, store.ErrNotFound) {
		return nil, &receiver.APIError{Status: http.StatusGone, Message: "the version was dropped while it was read", Advice: "try again"}
	}
	if err != nil {
		return nil, err
	}
	out := &ObjectView{
		Cluster: view.State.ID, Version: view.State.Latest.Version, Type: last.Type, Namespace: last.Namespace, Name: last.Name, UID: changes[0].ID,
		Reported: last.To == 0, Object: changes[0].JSON, Bytes: last.Size, RawBytes: last.RawSize,
		Understood: []inventory.Fact{}, Findings: []inventory.Finding{}, Graph: inventory.Graph{Boxes: []inventory.Box{}, Lines: []inventory.Line{}},
	}
	seen := map[store.Key]bool{}
	var own []*store.Entry
	for _, e := range kept {
		seen[e.Key] = true
		if e.Key == last.Key {
			own = append(own, e)
		}
	}
	out.Others = len(seen) - 1
	out.History = history(view.Snapshots, own)
	if !json.Valid(out.Object) {
		// It is shown as the text that it is.
		if out.Object, err = json.Marshal(string(out.Object)); err != nil {
			return nil, fmt.Errorf("encode the object: %w", err)
		}
	}
	return out, nil
}

// fullType is the wire type that a short name such as Pod stands for.
func fullType(view *store.View, wire string) string {
	if strings.HasPrefix(wire, "*") {
		return wire
	}
	if strings.Contains(wire, ".") {
		return "*" + wire
	}
	for _, full := range slices.Sorted(maps.Keys(view.State.Latest.Types)) {
		if strings.HasSuffix(full, "."+wire) {
			return full
		}
	}
	return "*v1." + wire
}

// history tells what the kept versions did to an object, whose entries are given with the oldest first.
func history(kept []store.Snapshot, entries []*store.Entry) []ObjectVersion {
	out := []ObjectVersion{}
	for i, snap := range kept {
		var before uint64
		if i > 0 {
			before = kept[i-1].Version
		}
		came := slices.ContainsFunc(entries, func(e *store.Entry) bool {
			return e.From == snap.Seq || i == 0 && e.From < snap.Seq && (e.To == 0 || e.To > snap.Seq)
		})
		went := slices.ContainsFunc(entries, func(e *store.Entry) bool { return e.To == snap.Seq })
		change := map[[2]bool]string{{true, false}: Added, {true, true}: Changed, {false, true}: Removed}[[2]bool{came, went}]
		switch {
		case change == "" || i == 0 && change == Removed:
			continue
		case i == 0:
			change = oldest
		}
		out = append(out, ObjectVersion{Version: snap.Version, Before: before, ReceivedAt: snap.ReceivedAt, Change: change})
	}
	slices.Reverse(out)
	return out
}

// judge adds what the inventory says of the object.
func (o *ObjectView) judge(inv *inventory.Inventory) error {
	if !o.Reported {
		return nil
	}
	var err error
	if o.Understood, err = inv.Facts(o.Type, o.Namespace, o.Name, o.UID); err != nil {
		return fmt.Errorf("what is understood: %w", err)
	}
	for _, f := range inv.Findings(inventory.Filter{Type: o.Type, Namespace: o.Namespace, Name: o.Name}) {
		if f.ID == o.UID {
			o.Findings = append(o.Findings, f)
		}
	}
	if g, ok := inv.ObjectGraph(o.Type, o.UID, maxNeighbours); ok {
		o.Graph = g
	}
	return nil
}
