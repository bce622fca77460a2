package loadserver

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	apiruntime "k8s.io/apimachinery/pkg/runtime"

	"github.com/pseudo-agent/pseudo-agent/test/bench/cluster"
)

// object is one object in one of its states. It never changes.
type object struct {
	item  cluster.Item
	state cluster.State
	rv    uint64
	json  []byte // without kind and apiVersion, as in a list
	proto []byte // likewise; nil unless protobuf is served
}

// collection holds all objects of one resource.
type collection struct {
	kind cluster.Kind

	mu      sync.RWMutex
	objects []*object // sorted by namespace and name
	events  []*object // modifications after the resourceVersion since, oldest first
	since   uint64
	version uint64        // the resourceVersion of the last event that was published
	epoch   int           // a watch that was opened in an earlier one has expired
	news    chan struct{} // closed when events or epoch change
	cursor  int           // the next object to be changed
}

// store holds the whole cluster, encoded.
type store struct {
	rv          atomic.Uint64
	protobuf    atomic.Bool
	collections []*collection
}

// firstVersion is the resourceVersion of the first object.
const firstVersion = 1000

func newStore(c *cluster.Cluster) (*store, error) {
	s := &store{}
	s.rv.Store(firstVersion)
	for _, kind := range cluster.Kinds {
		items := slices.Clone(c.Items(kind.Resource))
		slices.SortFunc(items, func(a, b cluster.Item) int {
			if n := strings.Compare(a.Namespace, b.Namespace); n != 0 {
				return n
			}
			return strings.Compare(a.Name, b.Name)
		})
		coll := &collection{kind: kind, news: make(chan struct{}), objects: make([]*object, len(items))}
		for i, item := range items {
			coll.objects[i] = &object{item: item, rv: s.rv.Add(1)}
		}
		if err := s.encodeAll(coll.objects); err != nil {
			return nil, fmt.Errorf("encode %s: %w", kind.Resource, err)
		}
		s.collections = append(s.collections, coll)
	}
	for _, coll := range s.collections {
		coll.since, coll.version = s.rv.Load(), s.rv.Load()
	}
	return s, nil
}

// encodeAll fills in the encodings, on all CPUs.
func (s *store) encodeAll(objects []*object) error {
	var g errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		g.Go(func() error {
			for i := w; i < len(objects); i += workers {
				if err := s.encode(objects[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (s *store) encode(o *object) error {
	obj := o.item.Make(o.state)
	obj.SetResourceVersion(strconv.FormatUint(o.rv, 10))
	var err error
	if o.json, err = json.Marshal(obj); err != nil {
		return err
	}
	if s.protobuf.Load() {
		o.proto, err = obj.Marshal()
	}
	return err
}

// serveProtobuf makes or drops the protobuf encodings, which are half as large again as the JSON.
func (s *store) serveProtobuf(on bool) error {
	if s.protobuf.Swap(on) == on {
		return nil
	}
	for _, c := range s.collections {
		c.mu.RLock()
		next := make([]*object, len(c.objects))
		for i, o := range c.objects {
			next[i] = &object{item: o.item, state: o.state, rv: o.rv, json: o.json}
		}
		c.mu.RUnlock()
		if on {
			if err := s.encodeAll(next); err != nil {
				return err
			}
		}
		c.mu.Lock()
		c.objects, c.events, c.since = next, nil, c.version
		c.mu.Unlock()
	}
	return nil
}

// find returns the collection of a group, version and resource.
func (s *store) find(group, version, resource string) *collection {
	for _, c := range s.collections {
		if k := c.kind; k.Group == group && k.Version == version && k.Resource == resource {
			return c
		}
	}
	return nil
}

// prepare makes the next states of count objects, one after the other from where the last call ended.
func (s *store) prepare(c *collection, count int, touch bool) ([]*object, []int, error) {
	c.mu.RLock()
	next, places := make([]*object, count), make([]int, count)
	for i := range next {
		at := (c.cursor + i) % len(c.objects)
		places[i] = at
		o := &object{item: c.objects[at].item, state: c.objects[at].state}
		if i >= len(c.objects) {
			o.state = next[i-len(c.objects)].state
		}
		if touch {
			o.state.Touches++
		} else {
			o.state.Changes++
		}
		o.rv = s.rv.Add(1)
		next[i] = o
	}
	c.mu.RUnlock()
	return next, places, s.encodeAll(next)
}

// publish puts prepared states in force and tells all watches. What was published before can no longer be watched from.
func (c *collection) publish(next []*object, places []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, o := range next {
		c.objects[places[i]] = o
	}
	c.cursor = (c.cursor + len(next)) % len(c.objects)
	c.since = c.version
	c.events, c.version = next, next[len(next)-1].rv
	c.tell()
}

// expire ends all watches with 410 Gone.
func (c *collection) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	c.tell()
}

func (c *collection) tell() {
	close(c.news)
	c.news = make(chan struct{})
}

// after returns the events after rv; ok is false if they are no longer known.
func (c *collection) after(rv uint64) (events []*object, epoch int, news <-chan struct{}, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	i, _ := slices.BinarySearchFunc(c.events, rv+1, func(o *object, rv uint64) int {
		switch {
		case o.rv < rv:
			return -1
		case o.rv > rv:
			return 1
		}
		return 0
	})
	return c.events[i:], c.epoch, c.news, rv >= c.since
}

// all returns every object and the resourceVersion at which they are so.
func (c *collection) all() ([]*object, uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.objects), c.version
}

// typeMeta are the first members of an object outside a list.
func (c *collection) typeMeta() string {
	return fmt.Sprintf(`{"kind":%q,"apiVersion":%q,`, c.kind.Kind, c.kind.APIVersion())
}

// envelope is the protobuf form of an object outside a list.
func envelope(apiVersion, kind string, raw []byte) ([]byte, error) {
	u := apiruntime.Unknown{TypeMeta: apiruntime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: raw}
	b, err := u.Marshal()
	if err != nil {
		return nil, err
	}
	return append([]byte("k8s\x00"), b...), nil
}
