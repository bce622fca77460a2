package simulation

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
)

// nothingFails is the state of an informer's way to the apiserver in which nothing does.
const nothingFails = "nothing fails"

// ways are how the way to the apiserver can be, besides its answers.
var ways = []struct {
	name string
	is   func(condition) bool
}{
	{"nothing arrives", func(c condition) bool { return c.hole }},
	{"everything is late", func(c condition) bool { return c.delay > 0 }},
	{"connections are refused", func(c condition) bool { return c.refused }},
}

// situations counts the states of the parts now, and what fails for each.
func (s *system) situations() {
	for _, a := range s.agents {
		d := a.present()
		if d == nil {
			continue
		}
		if st := d.Status(); st.Address != "" { // one that works, or has worked
			s.check.meet("reporter: " + st.State)
		}
		way := s.failing(link{a.node, apiserver}, "the apiserver is away")
		for _, r := range d.Resources() {
			fails := append(s.rules.of(ofResource(r, "list", a.node), ofResource(r, "watch", a.node)), way...)
			if len(fails) == 0 {
				fails = []string{nothingFails}
			}
			for _, f := range fails {
				s.check.meet(informerWhile(r.State, f))
			}
		}
	}
	s.behindNow()
	s.bypassed()
	s.net.mu.Lock()
	open := map[link]int{}
	for c := range s.net.conns {
		open[c.link]++
	}
	s.net.mu.Unlock()
	for l, n := range open {
		s.bounds.counted("connections of a node to another at once", l.client+" to "+l.server, (n+1)/2) // both ends
	}
}

// failing is what fails on a link; away is that the other end is.
func (s *system) failing(l link, away string) []string {
	var names []string
	c, _ := s.net.condition(l)
	for _, w := range ways {
		if w.is(c) {
			names = append(names, w.name)
		}
	}
	if s.net.isDead(l.server) {
		names = append(names, away)
	}
	return names
}

func ofResource(r informers.ResourceStatus, verb, node string) apisim.Request {
	gv, err := schema.ParseGroupVersion(r.GroupVersion)
	if err != nil {
		gv = schema.GroupVersion{} // not known yet
	}
	return apisim.Request{Verb: verb, Resource: gv.WithResource(r.Resource), Client: node}
}

func informerWhile(state informers.State, fails string) string {
	return fmt.Sprintf("informer: %s while %s", state, fails)
}

// informersWhile are the situations of informers that the usual histories have to come to.
func informersWhile() []string {
	fails := []string{nothingFails, "the apiserver is away"}
	for _, f := range failures {
		fails = append(fails, f.name)
	}
	for _, w := range ways {
		fails = append(fails, w.name)
	}
	var list []string
	for _, f := range fails {
		list = append(list, informerWhile(informers.Synced, f), informerWhile(informers.Failing, f))
	}
	return list
}
