package inventory

import (
	"slices"
	"strings"
	"time"
)

var linkReasons = func() mask {
	var m mask
	m.add(ConfigMapEnv)
	m.add(ConfigMapUnknown)
	return m
}()

type configMapRef struct {
	name string
	env  bool // by configMapKeyRef.name, which the server does not read
}

type configMap struct {
	object
	created int64
	size    int
	kept    bool
	queued  bool
}

// ConfigMap is a reported ConfigMap. Its data is not kept.
type ConfigMap struct {
	UID       string     `json:"uid"`
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	DataBytes int        `json:"data_bytes"` // length of the JSON of data
	Created   *time.Time `json:"created,omitempty"`
	Workloads []string   `json:"workloads"` // Type/namespace/name of those that mount it
}

// envRef reads valueFrom.configMapKeyRef. The server asks for its key Name; the one that Kubernetes writes is name.
func (d *decoder) envRef() (ref configMapRef, ok bool) {
	var read, written string
	d.scanner.object(func(key []byte) {
		if string(key) != "valueFrom" {
			d.skip()
			return
		}
		d.scanner.object(func(key []byte) {
			if string(key) != "configMapKeyRef" {
				d.skip()
				return
			}
			d.scanner.object(func(key []byte) {
				switch string(key) {
				case "Name":
					read = d.text()
				case "name":
					written = d.text()
				default:
					d.skip()
				}
			})
		})
	})
	if read != "" {
		return configMapRef{name: read}, true
	}
	return configMapRef{name: written, env: true}, written != ""
}

func (d *decoder) configMap() entity {
	c := &configMap{}
	if bad := d.top(true, func(key []byte) {
		if string(key) == "data" {
			c.size = len(d.raw())
			return
		}
		d.skip()
	}); bad != nil {
		return bad
	}
	c.object = d.object
	c.created = d.meta.created
	return c
}

func (inv *Inventory) queueConfigMap(c *configMap) {
	if !c.queued {
		c.queued = true
		inv.queue.configMaps = append(inv.queue.configMaps, c)
	}
}

func (inv *Inventory) settleConfigMap(c *configMap) {
	c.queued = false
	if c.dead {
		return
	}
	var m mask
	if !c.ns.reported {
		m.add(NamespaceUnknown)
	}
	inv.setMask(&c.object, m)
	inv.keepConfigMap(c, c.ns.reported)
}

func (inv *Inventory) removeConfigMap(c *configMap) {
	inv.keepConfigMap(c, false)
	delete(c.ns.configMaps, c)
}

func (inv *Inventory) keepConfigMap(c *configMap, keep bool) {
	if c.kept == keep {
		return
	}
	c.kept = keep
	key := nameKey{c.ns.name, c.name}
	before := len(inv.configMaps[key])
	if keep {
		inv.counts.configMaps++
		inv.configMaps[key] = insertSorted(inv.configMaps[key], c, func(a, b *configMap) int { return compareObjects(&a.object, &b.object) })
	} else {
		inv.counts.configMaps--
		inv.configMaps[key] = removeSorted(inv.configMaps[key], c)
		if len(inv.configMaps[key]) == 0 {
			delete(inv.configMaps, key)
		}
	}
	if now := len(inv.configMaps[key]); (before == 0) == (now == 0) {
		return // a link is one to the name, however many there are of it
	}
	for g := range inv.links[key] {
		if !g.relinking {
			g.relinking = true
			inv.queue.links = append(inv.queue.links, g)
		}
	}
}

// relink finds the ConfigMaps of a live group again.
func (inv *Inventory) relink(g *group) {
	g.relinking = false
	var m mask
	inv.counts.links -= len(g.links)
	g.links = g.links[:0]
	if g.live {
		for _, ref := range g.template.refs {
			switch {
			case ref.env:
				m.add(ConfigMapEnv)
			case len(inv.configMaps[nameKey{g.ns.name, ref.name}]) == 0:
				m.add(ConfigMapUnknown)
			default: // each name is there once
				g.links = append(g.links, ref.name)
			}
		}
	}
	inv.counts.links += len(g.links)
	if g.owner != nil {
		kept := g.owner.mask &^ linkReasons
		inv.setMask(g.owner, kept|m)
	}
}

// ConfigMaps returns the kept ConfigMaps.
func (inv *Inventory) ConfigMaps(f Filter) []ConfigMap {
	return list(inv, f, []string{wireConfigMap}, func(c *configMap) (ConfigMap, bool) {
		if !c.kept {
			return ConfigMap{}, false
		}
		out := ConfigMap{UID: c.uid, Namespace: c.ns.name, Name: c.name, DataBytes: c.size, Created: moment(c.created), Workloads: []string{}}
		for g := range inv.links[nameKey{c.ns.name, c.name}] {
			if slices.Contains(g.links, c.name) {
				out.Workloads = append(out.Workloads, g.ref())
			}
		}
		slices.Sort(out.Workloads)
		return out, true
	})
}

func refDetail(g *group, r Reason) string {
	var names []string
	for _, ref := range g.template.refs {
		switch {
		case r == ConfigMapEnv && ref.env, r == ConfigMapUnknown && !ref.env && !slices.Contains(g.links, ref.name):
			names = append(names, ref.name)
		}
	}
	if names == nil {
		return ""
	}
	return "ConfigMap " + strings.Join(names, ", ")
}
