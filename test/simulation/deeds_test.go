package simulation

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
)

// subject is what a deed concerns.
type subject int

const (
	faults subject = iota
	objects
	elections
	behind // in front of a deepflow-server
)

// deed is a kind of event.
type deed struct {
	name   string
	weight int
	about  subject
	// say names what the numbers mean.
	say func(n [3]int) string
	do  func(s *system, n [3]int)
	// recent ones happen in histories of new seeds only: those of make test stay what they were.
	recent bool
}

func (d deed) tell(n [3]int) string {
	if d.say == nil {
		return d.name
	}
	return d.name + " " + d.say(n)
}

// requests are those that an apiserver can fail, and which.
var requests = []struct {
	name  string
	match func(apisim.Request) bool
}{
	{"any request", func(apisim.Request) bool { return true }},
	{"lists and watches of Pods", resource("pods")},
	{"lists and watches of Nodes", resource("nodes")},
	{"lists and watches of CloneSets", resource("clonesets")},
	{"all watches", func(r apisim.Request) bool { return r.Verb == "watch" && !r.Streaming }},
	{"all lists", func(r apisim.Request) bool { return r.Verb == "list" || r.Streaming }},
	{"the lease", resource("leases")},
	{"discovery", func(r apisim.Request) bool { return r.Verb == "discovery" || r.Verb == "version" }},
}

func resource(name string) func(apisim.Request) bool {
	return func(r apisim.Request) bool { return r.Resource.Resource == name }
}

// failures are how requests fail; size is for those that fail after some bytes.
var failures = []struct {
	name  string
	fault func(size int) apisim.Fault
}{
	{"answered 500", func(int) apisim.Fault { return apisim.Fault{Status: http.StatusInternalServerError} }},
	{"answered 429", func(int) apisim.Fault { return apisim.Fault{Status: http.StatusTooManyRequests, RetryAfter: 3} }},
	{"answered 410", func(int) apisim.Fault { return apisim.Fault{Status: http.StatusGone} }},
	{"forbidden", func(int) apisim.Fault { return apisim.Fault{Status: http.StatusForbidden} }},
	{"not authorized", func(int) apisim.Fault { return apisim.Fault{Status: http.StatusUnauthorized} }},
	{"not answered", func(int) apisim.Fault { return apisim.Fault{Hang: true} }},
	{"cut off", func(size int) apisim.Fault { return apisim.Fault{Cut: 1 + size%2000} }},
	{"frozen", func(size int) apisim.Fault { return apisim.Fault{Freeze: 1 + size%2000} }},
	{"without the end of a streaming list", func(int) apisim.Fault { return apisim.Fault{NoFinalBookmark: true} }},
}

func pick[T any](list []T, n int) T { return list[n%len(list)] }

// deeds are what can happen.
var deeds = slices.Concat(systemDeeds, behindDeeds)

var systemDeeds = []deed{
	{"an object is written:", 24, objects, func(n [3]int) string {
		return fmt.Sprintf("%s x%d, content %d", pick(kinds, n[0]).id, n[1]%8, n[2])
	}, func(s *system, n [3]int) { s.write(n[0], n[1], n[2]) }, false},
	{"an object is deleted:", 8, objects, func(n [3]int) string {
		return fmt.Sprintf("%s x%d", pick(kinds, n[0]).id, n[1]%8)
	}, func(s *system, n [3]int) {
		k := pick(kinds, n[0])
		s.truth.do(func() {
			if s.truth.served[k.id] {
				s.truth.sim.Delete(k.GroupVersionResource, k.namespaceOf(n[1]), fmt.Sprint("x", n[1]%8))
			}
		}, k)
	}, false},
	{"thirty objects are written", 2, objects, nil, func(s *system, n [3]int) {
		for i := range 30 {
			s.write(n[0]+i, n[1]+i/3, n[2]+i)
		}
	}, false},
	{"etcd is compacted", 2, faults, nil, func(s *system, _ [3]int) { s.truth.sim.Compact() }, false},
	{"the CRD of CloneSets is removed, or installed again", 1, faults, nil, func(s *system, _ [3]int) { s.toggleCRD() }, false},
	{"requests fail:", 8, faults, func(n [3]int) string {
		return fmt.Sprintf("%s: %s, for %v", pick(requests, n[0]).name, pick(failures, n[1]).name, length(n[2]))
	}, func(s *system, n [3]int) {
		s.failRequests(pick(requests, n[0]).match, pick(failures, n[1]).name, pick(failures, n[1]).fault(n[2]), length(n[2]))
		s.check.meet("apiserver: " + pick(requests, n[0]).name + ": " + pick(failures, n[1]).name)
	}, false},
	{"the apiserver cuts all connections", 2, faults, nil, func(s *system, _ [3]int) {
		s.net.cut(func(l link) bool { return l.server == apiserver })
	}, false},
	{"the apiserver is away", 2, faults, func(n [3]int) string { return "for " + length(n[0]).String() }, func(s *system, n [3]int) {
		s.net.kill(apiserver)
		s.later(length(n[0]), func() { s.net.revive(apiserver) })
	}, false},
	{"streaming lists are answered", 1, faults, func(n [3]int) string {
		return []string{"", "with an error", "as watches"}[n[0]%3]
	}, func(s *system, n [3]int) { s.truth.sim.SetStreaming(apisim.Streaming(n[0] % 3)) }, false},
	{"connections are cut", 4, faults, linkOf, func(s *system, n [3]int) {
		of := s.link(n)
		s.net.cut(func(l link) bool { return l == of })
	}, false},
	{"nothing arrives", 5, faults, linkFor, func(s *system, n [3]int) {
		s.spoil(n, func(c *condition) { c.hole = true }, func(c *condition) { c.hole = false })
	}, false},
	{"everything is late", 4, faults, linkFor, func(s *system, n [3]int) {
		s.spoil(n, func(c *condition) { c.delay = length(n[0] % 6) }, func(c *condition) { c.delay = 0 })
	}, false},
	{"connections are refused and cut", 4, faults, linkFor, func(s *system, n [3]int) {
		of := s.link(n)
		s.spoil(n, func(c *condition) { c.refused = true }, func(c *condition) { c.refused = false })
		s.net.cut(func(l link) bool { return l == of })
	}, false},
	{"an agent is stopped", 3, faults, procFor, func(s *system, n [3]int) { s.restart(&pick(s.agents, n[0]).process, false, length(n[1])) }, false},
	{"an agent is killed", 3, faults, procFor, func(s *system, n [3]int) { s.restart(&pick(s.agents, n[0]).process, true, length(n[1])) }, false},
	{"an agent's clock is set:", 2, faults, func(n [3]int) string {
		return fmt.Sprintf("(%d), %v", n[0], offset(n[1]))
	}, func(s *system, n [3]int) {
		if s.plan.clocks {
			pick(s.agents, n[0]).offset.Store(int64(offset(n[1])))
		}
	}, false},
	{"a server is stopped", 3, elections, procFor, func(s *system, n [3]int) { s.restart(&pick(s.servers, n[0]).process, false, length(n[1])) }, false},
	{"a server is killed", 3, elections, procFor, func(s *system, n [3]int) { s.restart(&pick(s.servers, n[0]).process, true, length(n[1])) }, false},
	{"a stand-in is killed", 3, elections, procFor, func(s *system, n [3]int) {
		if len(s.standIns) > 0 {
			s.restart(&pick(s.standIns, n[0]).process, true, length(n[1]))
		}
	}, false},
	{"nothing arrives of a stand-in", 4, elections, func(n [3]int) string {
		return fmt.Sprintf("(%d), for %v", n[0], long(n[1]))
	}, func(s *system, n [3]int) {
		if len(s.standIns) == 0 {
			return
		}
		for _, server := range s.servers {
			l := link{pick(s.standIns, n[0]).node, server.node}
			s.net.change(l, func(c *condition) { c.hole = true })
			s.later(long(n[1]), func() { s.net.change(l, func(c *condition) { c.hole = false }) })
		}
	}, false},
	{"the operator selects ConfigMaps, or no longer", 2, faults, nil, func(s *system, _ [3]int) { s.toggleSelection() }, false},
	{"the operator selects namespaces:", 3, faults, func(n [3]int) string { return pick(choices, n[0]).name }, func(s *system, n [3]int) {
		s.chooseNamespaces(pick(choices, n[0]).AgentSelection)
	}, false},
	{"a database is away", 3, elections, dbFor, func(s *system, n [3]int) {
		db := pick(s.databases, n[0])
		s.lies["version"] = true
		db.set(func() { db.away = true })
		s.later(length(n[1]), func() { db.set(func() { db.away = false }) })
	}, false},
	{"a database is full", 3, elections, dbFor, func(s *system, n [3]int) {
		db := pick(s.databases, n[0])
		s.lies["version"] = true
		db.set(func() { db.full = true })
		s.later(length(n[1]), func() { db.set(func() { db.full = false }) })
	}, false},
	{"a database does not confirm its next writes:", 3, elections, func(n [3]int) string {
		return fmt.Sprintf("%d, of database %d", 1+n[1]%3, n[0])
	}, func(s *system, n [3]int) {
		db := pick(s.databases, n[0])
		s.lies["version"] = true
		db.set(func() { db.unconfirmed = 1 + n[1]%3 })
	}, false},
	{"requests of one agent fail:", 4, faults, func(n [3]int) string {
		return fmt.Sprintf("agent %d, %s: %s, for %v", n[0]>>8, pick(requests, n[0]).name, pick(failures, n[1]).name, length(n[2]))
	}, func(s *system, n [3]int) {
		node, match := pick(s.agents, n[0]>>8).node, pick(requests, n[0]).match
		s.failRequests(func(r apisim.Request) bool { return r.Client == node && match(r) }, pick(failures, n[1]).name, pick(failures, n[1]).fault(n[2]), length(n[2]))
	}, true},
	{"an agent can read the lease and not write it:", 4, elections, func(n [3]int) string {
		return fmt.Sprintf("agent %d: %s, for %v", n[0], pick(failures, n[1]).name, length(n[2]))
	}, func(s *system, n [3]int) {
		node := pick(s.agents, n[0]).node
		s.failRequests(func(r apisim.Request) bool { return r.Client == node && writesLease(r) }, pick(failures, n[1]).name, pick(failures, n[1]).fault(n[2]), length(n[2]))
		s.check.meet("apiserver: writing the lease: " + pick(failures, n[1]).name)
	}, true},
	{"a permission is missing for long:", 2, faults, func(n [3]int) string {
		return fmt.Sprintf("%s, for %v", pick(kinds, n[0]).id, long(n[1]))
	}, func(s *system, n [3]int) {
		s.failRequests(resource(pick(kinds, n[0]).id), "forbidden", apisim.Fault{Status: http.StatusForbidden}, long(n[1]))
		s.net.cut(func(l link) bool { return l.server == apiserver })
	}, true},
	{"the operator designates", 4, elections, func(n [3]int) string {
		return fmt.Sprintf("%v, at server %d", designation(n), n[0])
	}, func(s *system, n [3]int) { s.designate(n) }, true},
	{"the operator wants another watcher", 3, elections, func(n [3]int) string {
		return fmt.Sprintf("at server %d, vouches for the end of the present one: %v", n[0], n[1]%4 == 0)
	}, func(s *system, n [3]int) { s.elect(pick(s.servers, n[0]), n[1]%4 == 0) }, true},
	{"a standby without the last writes becomes the database:", 2, faults, func(n [3]int) string {
		return fmt.Sprintf("%d, of database %d", 1+n[1]%5, n[0])
	}, func(s *system, n [3]int) { s.failOver(pick(s.databases, n[0]), 1+n[1]%5, length(n[2]%5)) }, false},
}

func writesLease(r apisim.Request) bool {
	return r.Resource.Resource == "leases" && (r.Verb == "update" || r.Verb == "create")
}

// offset is by how much a clock is wrong, at most half an hour.
func offset(n int) time.Duration { return time.Duration(n%3600-1800) * time.Second }

func linkOf(n [3]int) string {
	return fmt.Sprintf("between agent %d and %s", n[1], []string{"the apiserver", "a server", "a server"}[n[2]%3])
}

func linkFor(n [3]int) string { return linkOf(n) + ", for " + length(n[0]).String() }

func procFor(n [3]int) string { return fmt.Sprintf("(%d), for %v", n[0], length(n[1])) }

func dbFor(n [3]int) string { return fmt.Sprintf("(%d), for %v", n[0], length(n[1])) }
