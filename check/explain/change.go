package explain

import (
	"bytes"
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// Change tells whether a change of an object reaches the server as a new version.
type Change struct {
	At time.Time `json:"at,omitzero"`
	// NewVersion says that it does, because of Fields.
	NewVersion bool                  `json:"new_version"`
	Fields     []resources.FieldNote `json:"fields,omitempty"`
	Why        string                `json:"why"`
}

// Compare compares two states of one object, each in JSON, by what is sent of them. Other objects may have to be sent anew
// with it (an Ingress whose Service changes a port); that is not said.
func Compare(o Options, before, after []byte) (Change, error) {
	n, err := readNames(o.Config)
	if err != nil {
		return Change{}, err
	}
	res, err := n.of(Target{Object: before}, o.all())
	if err != nil {
		return Change{}, err
	}
	later, err := n.of(Target{Object: after}, o.all())
	if err != nil {
		return Change{}, err
	}
	if res.GroupResource() != later.GroupResource() {
		return Change{}, fmt.Errorf("the objects are of different kinds: %s and %s", res.GroupResource(), later.GroupResource())
	}
	sel := selects(o.all(), res)
	if sel == nil {
		return Change{Why: "no entry of api_resources selects " + res.GroupResource().String()}, nil
	}
	old, err := project(*sel, o.Projection, before)
	if err != nil {
		return Change{}, fmt.Errorf("the object before: %w", err)
	}
	cur, err := project(*sel, o.Projection, after)
	if err != nil {
		return Change{}, fmt.Errorf("the object after: %w", err)
	}
	return difference(old, cur)
}

// project returns what is sent of an object, nil if nothing is.
func project(sel resources.Selected, p resources.Options, object []byte) ([]byte, error) {
	obj := &unstructured.Unstructured{}
	if err := obj.UnmarshalJSON(object); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if obj.GetUID() == "" {
		obj.SetUID("00000000-0000-4000-8000-000000000000")
	}
	text, err := obj.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	x, err := resources.Explain(sel, p, text)
	return x.JSON, err
}

func difference(old, cur []byte) (Change, error) {
	switch {
	case old == nil && cur == nil:
		return Change{Why: "the object is not reported, before and after"}, nil
	case old == nil:
		return Change{NewVersion: true, Why: "the object is reported from now on"}, nil
	case cur == nil:
		return Change{NewVersion: true, Why: "the object is no longer reported"}, nil
	case bytes.Equal(old, cur):
		return Change{Why: "what is sent of the object stays the same to the byte"}, nil
	}
	fields, err := resources.Differences(old, cur)
	return Change{NewVersion: true, Fields: fields, Why: fmt.Sprintf("changed fields that are sent: %d", len(fields))}, err
}

// Watch calls tell for each change of an object until the context ends, which is no error, or tell returns one.
func Watch(ctx context.Context, o Options, t Target, tell func(Change) error) error {
	n, err := readNames(o.Config)
	if err != nil {
		return err
	}
	res, err := n.of(t, o.all())
	if err != nil {
		return err
	}
	sel := selects(o.all(), res)
	if sel == nil {
		return fmt.Errorf("no entry of api_resources selects %s", res.GroupResource())
	}
	client, err := dynamic.NewForConfig(o.Config)
	if err != nil {
		return fmt.Errorf("access: %w", err)
	}
	var from dynamic.ResourceInterface = client.Resource(res.GroupVersionResource)
	if res.namespaced {
		from = client.Resource(res.GroupVersionResource).Namespace(cmpOr(t.Namespace, metav1.NamespaceDefault))
	}
	w := watcher{sel: *sel, projection: o.Projection, tell: tell}
	for ctx.Err() == nil {
		events, err := from.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", t.Name).String()})
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the operator ends it
			}
			return fmt.Errorf("watch %s %s: %w", res.GroupResource(), t.Name, err)
		}
		err = w.follow(ctx, events)
		events.Stop()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(reopenAfter):
		}
	}
	return nil
}

// reopenAfter is the time between two watches, so that one that ends at once is not opened again without end.
const reopenAfter = time.Second

// watcher compares each state of an object with the one before.
type watcher struct {
	sel        resources.Selected
	projection resources.Options
	tell       func(Change) error
	seen       bool
	last       []byte
}

// follow reads a watch until it ends; the apiserver ends each after some minutes.
func (w *watcher) follow(ctx context.Context, events watch.Interface) error {
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-events.ResultChan():
			if !ok {
				return nil
			}
			if err := w.event(ev, first); err != nil {
				return err
			}
		}
	}
}

// event takes an event. The first one of a watch has the object as it is, which need not be a change.
func (w *watcher) event(ev watch.Event, first bool) error {
	if ev.Type == watch.Error {
		if err := apierrors.FromObject(ev.Object); !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			return fmt.Errorf("watch: %w", err)
		}
		return nil
	}
	obj, ok := ev.Object.(*unstructured.Unstructured)
	if !ok || ev.Type != watch.Added && ev.Type != watch.Modified && ev.Type != watch.Deleted {
		return nil
	}
	text, err := obj.MarshalJSON()
	if err != nil {
		return fmt.Errorf("encode the object: %w", err)
	}
	var cur []byte
	if ev.Type != watch.Deleted {
		if cur, err = project(w.sel, w.projection, text); err != nil {
			return err
		}
	}
	if !w.seen || first && ev.Type == watch.Added && bytes.Equal(w.last, cur) {
		w.seen, w.last = true, cur
		return nil
	}
	change, err := difference(w.last, cur)
	if err != nil {
		return err
	}
	change.At, w.last = time.Now(), cur
	return w.tell(change)
}
