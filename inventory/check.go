package inventory

import (
	"encoding/json"
	"fmt"
)

// Check looks for what could crash, freeze or empty the server, at each entry by itself. It takes next to no memory beside an
// Inventory, and errs on one side only: where Inventory finds a failure of the scopes crash or cluster, it is suspicious.
type Check struct {
	versions map[string]struct{} // IDs of *version.Info
	nodes    map[string]struct{} // IDs of Nodes that count
	suspects map[string]struct{} // of one type and ID each
	bare     map[string]struct{} // IDs of Pods without labels
	virtual  map[string]struct{} // IDs of Namespaces of a virtual kubelet
}

// grave are the reasons that cost more than an object.
var grave = func() mask {
	var m mask
	for _, r := range catalogue {
		if r.Scope == ScopeCluster || r.Scope == ScopeCrash {
			m.add(r.Reason)
		}
	}
	return m
}()

// NewCheck returns the Check of a cluster without entries, which is suspicious.
func NewCheck() *Check {
	return &Check{
		versions: map[string]struct{}{}, nodes: map[string]struct{}{}, suspects: map[string]struct{}{},
		bare: map[string]struct{}{}, virtual: map[string]struct{}{},
	}
}

// Apply takes changes over. Their IDs may be any that tell the objects of a type apart.
func (c *Check) Apply(changes []Change) {
	options := Options{}
	for i := range changes {
		ch := &changes[i]
		key := ch.Type + "\x00" + ch.ID
		delete(c.suspects, key)
		for _, m := range []map[string]struct{}{c.versions, c.nodes, c.bare, c.virtual} {
			delete(m, key)
		}
		if ch.JSON == nil {
			continue
		}
		e, _ := decode(ch.Type, ch.ID, ch.JSON, &options)
		if c.look(e, key)&grave != 0 {
			c.suspects[key] = struct{}{}
		}
	}
}

// look notes what an entity counts as, and returns its own reasons.
func (c *Check) look(e entity, key string) mask {
	m := e.base().mask
	switch e := e.(type) {
	case *versionInfo:
		c.versions[key] = struct{}{}
		if e.gitVersion == "" {
			m.add(GitVersionMissing)
		}
	case *node:
		c.nodes[key] = struct{}{}
		m |= e.decoding
	case *service:
		m |= e.decoding
	case *pod:
		m |= e.decoding
		if e.bare {
			c.bare[key] = struct{}{}
		}
	case *namespaceObject:
		if e.native != "" {
			c.virtual[key] = struct{}{}
		}
	}
	return m
}

// Suspicious tells whether the server could crash, or take nothing over. Only an Inventory can tell for certain.
func (c *Check) Suspicious() bool {
	return len(c.versions) == 0 || len(c.nodes) == 0 || len(c.suspects) > 0 || len(c.bare) > 0 && len(c.virtual) > 0
}

// savedCheck is what Save writes.
type savedCheck struct {
	Versions, Nodes, Suspects, Bare, Virtual [][]byte `json:",omitempty"`
}

// Save returns the check as text from which LoadCheck makes it again.
func (c *Check) Save() ([]byte, error) {
	keys := func(set map[string]struct{}) (list [][]byte) {
		for key := range set {
			list = append(list, []byte(key))
		}
		return list
	}
	b, err := json.Marshal(savedCheck{
		Versions: keys(c.versions), Nodes: keys(c.nodes), Suspects: keys(c.suspects), Bare: keys(c.bare), Virtual: keys(c.virtual),
	})
	if err != nil {
		return nil, fmt.Errorf("save a check: %w", err)
	}
	return b, nil
}

// LoadCheck returns the check that was saved.
func LoadCheck(b []byte) (*Check, error) {
	var saved savedCheck
	if err := json.Unmarshal(b, &saved); err != nil {
		return nil, fmt.Errorf("load a check: %w", err)
	}
	c := NewCheck()
	for _, of := range []struct {
		set  map[string]struct{}
		keys [][]byte
	}{{c.versions, saved.Versions}, {c.nodes, saved.Nodes}, {c.suspects, saved.Suspects}, {c.bare, saved.Bare}, {c.virtual, saved.Virtual}} {
		for _, key := range of.keys {
			of.set[string(key)] = struct{}{}
		}
	}
	return c, nil
}
