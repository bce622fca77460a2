package elector

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"
)

// instant is a reading of a monotonic clock. Readings of different processes have nothing in common.
type instant = time.Duration

// Policy is an agent's own wish about watching.
type Policy string

// The policies of docs/protocol.md, section 7. PolicyForce is the flag that older agents send instead of watch-only.
const (
	PolicyNormal    Policy = "normal"
	PolicyWatchOnly Policy = "watch-only"
	PolicyForce     Policy = "force"
	PolicyDisabled  Policy = "watch-disabled"
)

// Class is a candidate's rank; a higher one goes first.
type Class int

// Classes. Excluded agents are no candidates.
const (
	Excluded Class = iota
	Ordinary
	WatchOnly
	Designated
)

var classNames = [...]string{"excluded", "ordinary", "watch-only", "designated"}

// String returns the class as the API shows it.
func (c Class) String() string {
	if c < 0 || int(c) >= len(classNames) {
		return fmt.Sprintf("class %d", int(c))
	}
	return classNames[c]
}

// MarshalText makes JSON show the name.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (c *Class) UnmarshalText(text []byte) error {
	i := slices.Index(classNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("class %q is unknown", text)
	}
	*c = Class(i)
	return nil
}

// Identity tells agents of one cluster apart. Two agents on one node may share everything but the last fields.
type Identity struct {
	CtrlIP  string `json:"ctrl_ip"`
	CtrlMAC string `json:"ctrl_mac"`
	Host    string `json:"host"`
	Process string `json:"process"`
	Policy  Policy `json:"policy"`
}

func (i Identity) compare(o Identity) int {
	return cmp.Or(cmp.Compare(i.CtrlIP, o.CtrlIP), cmp.Compare(i.CtrlMAC, o.CtrlMAC), cmp.Compare(i.Host, o.Host),
		cmp.Compare(i.Process, o.Process), cmp.Compare(i.Policy, o.Policy))
}

// Agent is what an agent tells of itself.
type Agent struct {
	Identity
	Group    string `json:"agent_group,omitempty"`
	Revision string `json:"revision,omitempty"`
}

// String names the agent for people.
func (a Agent) String() string {
	return fmt.Sprintf("%s (%s-%s %s %s)", a.Host, a.CtrlIP, a.CtrlMAC, a.Process, a.Policy)
}

// clone returns an agent that keeps nothing else in memory.
func (a Agent) clone() Agent {
	for _, s := range []*string{&a.CtrlIP, &a.CtrlMAC, &a.Host, &a.Process, &a.Group, &a.Revision} {
		*s = strings.Clone(*s)
	}
	return a
}

// Record is what is kept of a cluster's election. It is replaced, never changed.
type Record struct {
	// Term counts the leases, Renewals the grants and renewals; by the latter replicas see that a lease lives.
	Term     uint64 `json:"term"`
	Renewals uint64 `json:"renewals"`
	Lease    *Lease `json:"lease,omitempty"`
	// Challenger has to get the role next and may Sync with another replica than the holder does.
	Challenger *Challenger `json:"challenger,omitempty"`
	// Vacated tells how the last lease ended.
	Vacated *Vacated `json:"vacated,omitempty"`
	// Election is set while an operator's wish for a new election is open.
	Election     bool          `json:"election,omitempty"`
	Designations []Designation `json:"designations,omitempty"`
}

// Lease is the watcher role as somebody has it.
type Lease struct {
	Agent   Agent         `json:"agent"`
	Class   Class         `json:"class"`
	Boot    uint32        `json:"boot"`
	AgentID uint32        `json:"agent_id"`
	TTL     time.Duration `json:"ttl"`
	Since   time.Time     `json:"since,omitzero"` // for people
	// Told are the processes of the agent that may take themselves for the watcher.
	Told []Told `json:"told,omitempty"`
}

// Told is a process that was told to watch. Several of one identity can have been within one lease: a container that
// starts again keeps its identity, and Syncs of its predecessor may still be under way. Boot times do not say which of
// them is the later one, because clocks are set back.
type Told struct {
	Boot uint32 `json:"boot"`
	// First and Renewal are the record's Renewals when it was told first and last.
	First   uint64 `json:"first"`
	Renewal uint64 `json:"renewal"`
}

// maxTold bounds the processes kept of a lease: as many restarts, each told to watch, within one TTL.
const maxTold = 16

// told returns when a process was told first and last.
func (l *Lease) told(boot uint32) (Told, bool) {
	i := slices.IndexFunc(l.Told, func(t Told) bool { return t.Boot == boot })
	if i < 0 {
		return Told{Boot: boot}, false
	}
	return l.Told[i], true
}

// equal tells whether two leases differ in nothing but when their processes were told last.
func (l *Lease) equal(o *Lease) bool {
	return l.Agent == o.Agent && l.Class == o.Class && l.Boot == o.Boot && l.AgentID == o.AgentID && l.TTL == o.TTL && l.Since.Equal(o.Since) &&
		slices.EqualFunc(l.Told, o.Told, func(a, b Told) bool { return a.Boot == b.Boot })
}

// Challenger is a candidate that has to get the role next.
type Challenger struct {
	Agent Agent  `json:"agent"`
	Class Class  `json:"class"`
	Seen  uint64 `json:"seen"` // rises while it Syncs
}

// Vacated is a lease that ended.
type Vacated struct {
	Agent Agent     `json:"agent"`
	Class Class     `json:"class"`
	How   string    `json:"how"` // goodbye, stopped, expired or operator
	At    time.Time `json:"at,omitzero"`
	// Last makes the agent the last of its class in the next election.
	Last bool `json:"last,omitempty"`
}

// stamp sets the times that people are shown in what is new.
func (r *Record) stamp(before Record, now time.Time) {
	if r.Lease != nil && r.Lease.Since.IsZero() {
		lease := *r.Lease
		lease.Since = now
		r.Lease = &lease
	}
	if r.Vacated != nil && r.Vacated != before.Vacated && r.Vacated.At.IsZero() {
		vacated := *r.Vacated
		vacated.At = now
		r.Vacated = &vacated
	}
}

// How a lease ends.
const (
	byGoodbye  = "goodbye"
	byStop     = "stopped"
	byExpiry   = "expired"
	byOperator = "operator"
)

// rules are the times of an election.
type rules struct {
	ttl time.Duration // of a new lease
	// fresh is how long after its Sync a candidate counts as being there when another one would get or keep the role.
	fresh time.Duration
	// pause is how long the role waits for the next Pod of a designated workload whose holder said goodbye.
	pause time.Duration
}

// syncing is one Sync.
type syncing struct {
	info         Agent
	boot         uint32 // start of the process in Unix seconds, 0 if unknown
	conn         string // identifies the connection among all connections to all replicas
	origin       string // of its peer, for the quotas
	goodbye      bool
	unregistered bool // by docs/protocol.md, section 7, it gets no agent id
	proxied      bool // somebody else answers, and gives the agent id
}

// candidate is an agent that Syncs.
type candidate struct {
	info         Agent
	boot         uint32
	id           uint32
	conn         string
	first, last  instant
	gone         bool // it said goodbye
	unregistered bool
	twins        int      // Syncs of an older process with the same identity
	answered     exchange // the last one
	proven       exchange // the last one whose answer was heard
	match        match
	class        Class
	reason       string
	answer       string // why it was answered as it was
	stopping     bool   // the last decision was that it has to stop
	origin       string // of the peer that it counts for; empty: nobody
	proxied      bool   // somebody else gives it its agent id: given, once that is known
	given        uint32
	undelivered  uint64 // counts the answers that others deliver, see Elector.Decide
}

// agentID is the id that the agent has, 0 if that is not known.
func (a *candidate) agentID() uint32 {
	if a.proxied {
		return a.given
	}
	return a.id
}

// exchange is a Sync that this process answered.
type exchange struct {
	conn     string // empty: nobody can have heard the answer
	boot     uint32
	renewals uint64 // of the record, after the answer
	stop     bool   // it was told to stop although it had the role
}

// heard tells whether s proves that the answer was received: an agent sends the next Sync over a connection only after the
// last one over it was answered.
func (x exchange) heard(s syncing) bool { return x.conn != "" && x.conn == s.conn && x.boot == s.boot }

// election is one cluster's election as one process sees it. It is not safe for concurrent use.
type election struct {
	rules
	rec        Record
	candidates map[Identity]*candidate
	ids        map[uint32]struct{}
	// When this process first saw the record's present renewal, challenge and vacancy.
	renewed, challenged, vacated instant
	asked                        instant // when it first saw the wish for a new election
	// toldAt is when this process first saw what Lease.Told says of a process, by its boot time.
	toldAt map[uint32]instant
	// vacantSince is when the role was seen to be free, or the cluster for the first time.
	vacantSince instant
	known       bool

	tenures []tenure // who had the role, the latest last

	holding Agent  // the agent that is named in held
	held    string // why others are answered no, see heldBy
}

// heldBy is why agents are answered no while another one has the lease. All of them have the one text.
func (e *election) heldBy(lease *Lease) string {
	if e.held == "" || e.holding != lease.Agent {
		e.holding, e.held = lease.Agent, heldBy+lease.Agent.String()
	}
	return e.held
}

const heldBy = "the role is held by "

func newElection(r rules) election {
	return election{rules: r, candidates: map[Identity]*candidate{}, ids: map[uint32]struct{}{}}
}

// adopt makes rec the record.
func (e *election) adopt(now instant, rec Record) {
	old := e.rec
	if l := rec.Lease; l != nil && len(l.Told) == 0 { // written by a release that did not keep them
		lease := *l
		lease.Told = []Told{{Boot: l.Boot, First: rec.Renewals, Renewal: rec.Renewals}}
		rec.Lease = &lease
	}
	e.noteTold(now, rec)
	e.noteTenure(rec)
	if !e.known || rec.Renewals != old.Renewals {
		e.renewed = now
	}
	if c := rec.Challenger; c != nil && (!e.known || old.Challenger == nil || old.Challenger.Seen != c.Seen || old.Challenger.Agent != c.Agent) {
		e.challenged = now
	}
	if rec.Lease == nil && (!e.known || old.Lease != nil) {
		e.vacated = now
	}
	if !e.known || rec.Lease == nil && old.Lease != nil {
		e.vacantSince = now
	}
	if rec.Election && (!e.known || !old.Election) {
		e.asked = now
	}
	e.rec, e.known = rec, true
}

// noteTold notes which processes were told to watch since the present record.
func (e *election) noteTold(now instant, rec Record) {
	var before []Told
	if e.known && e.rec.Lease != nil && e.rec.Term == rec.Term {
		before = e.rec.Lease.Told
	}
	at := map[uint32]instant{}
	if rec.Lease != nil {
		for _, t := range rec.Lease.Told {
			at[t.Boot] = now
			if slices.Contains(before, t) {
				at[t.Boot] = e.toldAt[t.Boot]
			}
		}
	}
	e.toldAt = at
}

// watching returns the processes of the lease, but for that of s, that may take themselves for the watcher.
func (e *election) watching(now instant, lease *Lease, a *candidate, s syncing) []Told {
	var others []Told
	for _, t := range lease.Told {
		switch {
		case t.Boot == s.boot:
		case now >= e.toldAt[t.Boot]+lease.TTL:
		case !s.goodbye && a.answered.heard(s) && t.Renewal <= a.answered.renewals:
			// The process of s lived after the other one had been told, and one follows the other. A goodbye does not
			// prove it: it is sent without waiting for an answer.
		default:
			others = append(others, t)
		}
	}
	return others
}

// holder returns the lease if it has not expired.
func (e *election) holder(now instant) *Lease {
	if l := e.rec.Lease; l != nil && now < e.renewed+l.TTL {
		return l
	}
	return nil
}

// join takes in a new agent.
func (e *election) join(now instant, s syncing) *candidate {
	s.info = s.info.clone()
	a := &candidate{info: s.info, boot: s.boot, conn: s.conn, first: now, last: now, unregistered: s.unregistered, proxied: s.proxied}
	if !s.unregistered {
		a.id = e.newID(s.info.Identity)
	}
	e.candidates[s.info.Identity] = a
	return a
}

// seen notes another Sync of an agent. One of a process that was replaced by a later one, or that said goodbye, was
// under way for long and says nothing about now.
func (e *election) seen(now instant, a *candidate, s syncing) {
	returns := now-a.last >= e.ttl
	if a.answered.heard(s) {
		a.proven = a.answered
	}
	if s.boot < a.boot && !returns && !e.holdsAs(a, s) {
		a.twins++
		return
	}
	if s.boot == a.boot && a.gone {
		return
	}
	if a.gone || returns {
		a.first = now
	}
	if a.info != s.info { // equal strings are not kept twice
		a.info = s.info.clone()
	}
	if a.conn != s.conn {
		a.conn = s.conn
	}
	a.boot, a.last, a.gone, a.unregistered = s.boot, now, false, s.unregistered
	a.proxied = s.proxied
}

// holdsAs tells whether the very process of s was told to watch, and no later one is known to have lived since. One with
// an earlier boot time may be the later one: the clock of its node was set back, and another replica gave it the role.
func (e *election) holdsAs(a *candidate, s syncing) bool {
	l := e.rec.Lease
	if l == nil || l.Agent.Identity != s.info.Identity {
		return false
	}
	t, ok := l.told(s.boot)
	return ok && (a.proven.boot <= s.boot || a.proven.renewals < t.First)
}

// newID returns an id that no other agent of the cluster has. It follows from the identity alone unless that of another
// agent leads to the same one, so that it is stable without being stored. A deepflow-agent keeps it in 16 bits.
func (e *election) newID(i Identity) uint32 {
	h := fnv.New64a()
	for _, s := range []string{i.CtrlIP, i.CtrlMAC, i.Host, i.Process, string(i.Policy)} {
		_, _ = h.Write(append([]byte(s), 0)) // cannot fail
	}
	id := uint32(h.Sum64() % maxAgentsPerCluster)
	for {
		if _, taken := e.ids[id+1]; !taken {
			e.ids[id+1] = struct{}{}
			return id + 1
		}
		id = (id + 1) % maxAgentsPerCluster
	}
}

// leave forgets an agent.
func (e *election) leave(a *candidate) {
	delete(e.candidates, a.info.Identity)
	delete(e.ids, a.id)
}

// decision is the answer to a Sync.
type decision struct {
	watch  bool
	reason string
	// next is the record from now on, unless unchanged. If renewed is set, nothing else has changed.
	next      Record
	unchanged bool
	renewed   bool
	// For the log.
	granted  bool
	stopping bool
	vacated  string // how a lease ended
	rival    string
}

// decide answers a Sync of a, which has been seen and classified. It changes nothing but a: the caller adopts the next
// record once it is stored. With shared set, others may know candidates that this process does not.
func (e *election) decide(now instant, a *candidate, s syncing, shared bool) decision {
	d := decision{next: e.rec, unchanged: true}
	lease := e.holder(now)
	if lease == nil && e.rec.Lease != nil {
		d.vacate(byExpiry)
	}
	holds := lease != nil && lease.Agent.Identity == s.info.Identity
	switch {
	case s.boot < a.boot:
		d.reason = "a later process has the same identity"
	case s.goodbye:
		if holds {
			e.release(now, &d, a, lease, s)
		}
		e.goodbye(&d, a, s)
	case a.gone:
		d.reason = "it said goodbye"
	case a.class == Excluded:
		d.reason = a.reason
	case holds:
		e.renew(now, &d, a, lease, s)
	case lease != nil:
		d.reason = e.heldBy(lease)
		if shared && (a.class > lease.Class || a.class == lease.Class && e.rec.Election) {
			e.challenge(now, &d, a)
		}
	default:
		e.grant(now, &d, a, s, shared)
	}
	return d
}

// vacate ends the lease.
func (d *decision) vacate(how string) {
	l := d.next.Lease
	d.next.Vacated = &Vacated{Agent: l.Agent, Class: l.Class, How: how, Last: d.next.Election && how != byExpiry}
	d.next.Lease, d.next.Election = nil, false
	d.unchanged, d.vacated = false, how
}

// release gives the role back for a process that ends, unless another one of its identity may be watching: the goodbye
// may have been under way for long.
func (e *election) release(now instant, d *decision, a *candidate, lease *Lease, s syncing) {
	if _, told := lease.told(s.boot); !told {
		return
	}
	others := e.watching(now, lease, a, s)
	if len(others) == 0 {
		d.vacate(byGoodbye)
		return
	}
	next := *lease
	next.Told = others
	d.next.Lease, d.unchanged = &next, false
}

func (e *election) goodbye(d *decision, a *candidate, s syncing) {
	d.reason = "it says goodbye"
	a.gone = true
	if c := d.next.Challenger; c != nil && c.Agent.Identity == s.info.Identity {
		d.next.Challenger = nil
		d.unchanged = false
	}
}

// renew answers the holder.
func (e *election) renew(now instant, d *decision, a *candidate, lease *Lease, s syncing) {
	rival, ok := e.rival(now, a)
	others := e.watching(now, lease, a, s)
	switch {
	case !ok:
		d.next.Renewals++
		told, again := lease.told(s.boot)
		if told.Renewal = d.next.Renewals; !again {
			told.First = told.Renewal
		}
		others = others[max(0, len(others)-maxTold+1):]
		next := Lease{Agent: a.info, Class: a.class, Boot: s.boot, AgentID: a.agentID(), TTL: e.ttl, Since: lease.Since, Told: append(others, told)}
		open := d.next.Election && now-e.asked < e.fresh
		d.renewed = next.equal(lease) && d.next.Election == open && d.next.Challenger == nil
		d.next.Lease, d.next.Election, d.next.Challenger = &next, open, nil
		d.unchanged, d.watch, d.reason = false, true, "it holds the role"
	case a.answered.stop && a.answered.heard(s) && len(others) == 0:
		d.vacate(byStop)
		d.rival, d.reason = rival, "the role goes to "+rival
	default:
		d.stopping, d.rival, d.reason = true, rival, "the role goes to "+rival
	}
}

// rival returns who has to get the role instead of the holder.
func (e *election) rival(now instant, holder *candidate) (string, bool) {
	least := holder.class + 1
	if e.rec.Election {
		least = holder.class
	}
	var best *candidate
	for _, c := range e.candidates {
		if c != holder && c.class >= least && c.class != Excluded && e.isFresh(now, c) && (best == nil || before(c, best, nil)) {
			best = c
		}
	}
	if best != nil {
		return best.info.String(), true
	}
	if c := e.challenger(now); c != nil && c.Class >= least && c.Agent.Identity != holder.info.Identity {
		return c.Agent.String(), true
	}
	return "", false
}

func (e *election) isFresh(now instant, c *candidate) bool { return !c.gone && now-c.last < e.fresh }

func (e *election) challenger(now instant) *Challenger {
	if c := e.rec.Challenger; c != nil && now-e.challenged < e.fresh {
		return c
	}
	return nil
}

// before tells whether a goes before b in an election after v.
func before(a, b *candidate, v *Vacated) bool {
	last := func(c *candidate) int {
		switch {
		case v == nil || v.Agent.Identity != c.info.Identity:
			return 0
		case v.Last:
			return 1
		default: // it stays before its equals if whoever it was stopped for does not come
			return -1
		}
	}
	return cmp.Or(cmp.Compare(b.class, a.class), cmp.Compare(last(a), last(b)), cmp.Compare(a.first, b.first),
		a.info.compare(b.info.Identity)) < 0
}

// challenge tells other replicas of a candidate that has to get the role.
func (e *election) challenge(now instant, d *decision, a *candidate) {
	next := Challenger{Agent: a.info, Class: a.class, Seen: 1}
	if c := e.challenger(now); c != nil {
		same := c.Agent.Identity == a.info.Identity
		if !same && c.Class >= a.class || same && c.Class == a.class && now-e.challenged < e.fresh/5 {
			return
		}
		next.Seen = c.Seen + 1
	}
	d.next.Challenger = &next
	d.unchanged = false
}

// grant answers a candidate while nobody holds the role.
func (e *election) grant(now instant, d *decision, a *candidate, s syncing, shared bool) {
	v := d.next.Vacated
	for _, c := range e.candidates {
		if c != a && c.class != Excluded && e.isFresh(now, c) && before(c, a, v) {
			d.reason = "the role waits for " + c.info.String()
			return
		}
	}
	if c := e.challenger(now); c != nil && c.Class > a.class {
		d.reason = "the role waits for " + c.Agent.String()
		return
	}
	if v != nil && v.How == byGoodbye && v.Class == Designated && a.class < Designated && now-e.vacated < e.pause {
		d.reason = "the role waits for the next agent of the designation that " + v.Agent.String() + " fulfilled"
		if shared {
			e.challenge(now, d, a)
		}
		return
	}
	d.next.Term++
	d.next.Renewals++
	d.next.Lease = &Lease{
		Agent: a.info, Class: a.class, Boot: s.boot, AgentID: a.agentID(), TTL: e.ttl,
		Told: []Told{{Boot: s.boot, First: d.next.Renewals, Renewal: d.next.Renewals}},
	}
	d.next.Challenger, d.next.Election = nil, false
	if v != nil && v.Last {
		served := *v
		served.Last = false
		d.next.Vacated = &served
	}
	d.unchanged, d.granted, d.watch, d.reason = false, true, true, a.reason
}
