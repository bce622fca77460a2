package reporter

import (
	"time"

	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// What the machine knows, by subject. Each struct changes by its own few methods; what concerns several of them is the
// machine's. All of it belongs to the reporter's goroutine.

// serverLink is the way to the server.
type serverLink struct {
	connected bool
	busy      bool // a request of the reporting lane is under way
	gone      bool // the connection was lost while busy
	session   int  // number of the connection
	proven    bool // something succeeded in this session
	peer      peerInfo
	peerOf    session
	failures  int // in a row
	retryAt   time.Time
	advance   bool // the next connection goes to the next server
	trouble   trouble
}

// opened takes a new connection.
func (l *serverLink) opened(s session) {
	l.session++
	l.connected, l.proven, l.gone = true, false, false
	l.peerOf, l.peer = s, s.peer()
}

// failed drops the connection and keeps the next one off until the backoff is over; random is in [0, 1).
func (l *serverLink) failed(now time.Time, random float64) {
	l.failures++
	limit := backoffCap
	if l.failures <= 6 {
		limit = backoffBase << (l.failures - 1)
	}
	l.retryAt = now.Add(max(backoffFloor, time.Duration(random*float64(limit))))
	l.connected, l.gone, l.advance = false, false, true
}

// closed notes that a connection that had worked is gone.
func (l *serverLink) closed(now time.Time) {
	l.connected = false
	l.retryAt = now.Add(backoffBase)
}

// works ends the backoff.
func (l *serverLink) works() {
	l.proven, l.failures, l.retryAt = true, 0, time.Time{}
}

// takeAdvance tells once after a failure that the next server is to be used.
func (l *serverLink) takeAdvance() bool {
	a := l.advance
	l.advance = false
	return a
}

// clusterName is what the cluster is called towards the server.
type clusterName struct {
	id        string // empty: not derived yet
	agentID   uint32
	derived   bool   // by the server from the CA certificate
	caMD5     string // of the certificate from which id was derived
	changedID string // what the server derives now, if that differs
}

func (c *clusterName) known() bool { return c.id != "" }

// set takes the cluster id; agentID nil means one that is derived from it.
func (c *clusterName) set(id string, agentID *uint32) {
	c.id, c.agentID = id, autoAgentID(id)
	if agentID != nil {
		c.agentID = *agentID
	}
}

// withoutHandshake tells that the server answers nothing about versions and stores nothing but entries: agent id 0.
func (c *clusterName) withoutHandshake() bool { return c.agentID == 0 }

// sourceView is what the source says and what was taken from it.
type sourceView struct {
	complete bool
	problems []string
	errText  string // of the problems, as the server is told them
	logged   string // of errText, last
	loggedAt time.Time
	tooLarge string             // why the latest snapshot may not be sent; empty: it may
	dirtyAt  time.Time          // first signal since the last Take; zero: none
	snapshot *snapshot.Snapshot // the latest that may be sent; nil: none yet
	taken    uint64             // version of the latest taken, sendable or not
	takenAt  time.Time
	// unackedSince is the time of the oldest change in a taken snapshot that is not acknowledged; zero: none.
	unackedSince time.Time
}

func (s *sourceView) hasSnapshot() bool { return s.snapshot != nil }

func (s *sourceView) hasErrors() bool { return s.errText != "" }

func (s *sourceView) hasChanged() bool { return !s.dirtyAt.IsZero() }

// version is that of the snapshot to be held by the server; 0: there is none.
func (s *sourceView) version() uint64 {
	if s.snapshot == nil {
		return 0
	}
	return s.snapshot.Version()
}

// reportable tells whether nothing but the way to the server keeps the current content from being reported.
func (s *sourceView) reportable() bool { return s.complete && !s.hasErrors() }

// takeable tells whether the source would give a snapshot of its current content.
func (s *sourceView) takeable() bool { return s.complete && len(s.problems) == 0 }

func (s *sourceView) changed(now time.Time) {
	if s.dirtyAt.IsZero() {
		s.dirtyAt = now
	}
}

// compose makes the text of all that is wrong, and returns the one before.
func (s *sourceView) compose() (before string) {
	problems := s.problems
	if s.tooLarge != "" {
		problems = append(append([]string(nil), problems...), s.tooLarge)
	}
	before = s.errText
	s.errText = composeErrors(problems)
	return before
}

// took notes that s was taken, and from when its oldest change is that nobody acknowledged. acked is the version
// acknowledged last.
func (s *sourceView) took(now time.Time, snap *snapshot.Snapshot, acked uint64) {
	s.taken, s.takenAt = snap.Version(), now
	at := snap.ChangedAt()
	if !at.IsZero() && s.taken != acked && (s.unackedSince.IsZero() || at.Before(s.unackedSince)) {
		s.unackedSince = at
	}
}

// oldestChange is the time of the oldest change that is not acknowledged; zero if there is none.
func (s *sourceView) oldestChange() time.Time {
	if !s.unackedSince.IsZero() {
		return s.unackedSince
	}
	return s.dirtyAt
}

// forget drops everything but the time of the last Take, which goes on spacing the next.
func (s *sourceView) forget() { *s = sourceView{takenAt: s.takenAt} }

// serverStore is what the server holds of the cluster, as far as it has said so.
type serverStore struct {
	known    bool   // version is what the server answered in this session
	version  uint64 // 0: nothing
	errorMsg string // that the server has acknowledged in this session
	acked    uint64 // own version acknowledged last, by any server
	sent     versions

	toldFull   bool // some server has acknowledged an error with entries since errors began
	toldFullAt time.Time

	newAt       time.Time // last attempt to send entries under a version that is not acknowledged
	mismatchAt  time.Time // last answer of another version to a request without entries
	exchangedAt time.Time // last request that the server answered as it should
	reportedAt  time.Time // last acknowledged report or heartbeat
	resyncAt    time.Time // when a full report is due although nothing changed
}

// forgetSession notes that another server process may answer next.
func (h *serverStore) forgetSession() { h.known, h.errorMsg = false, "" }

// answered takes the version that the server says it holds.
func (h *serverStore) answered(version uint64) { h.known, h.version = true, version }

// disowned notes that the server has lost what it was told, errors included.
func (h *serverStore) disowned(now time.Time) {
	h.errorMsg, h.toldFull = "", false
	h.exchangedAt, h.mismatchAt = now, now
}

// acknowledged notes that the server attests to hold what r says.
func (h *serverStore) acknowledged(now time.Time, r *report) {
	h.errorMsg, h.exchangedAt = r.errorMsg, now
	if r.errorMsg != "" && r.entries != nil {
		h.toldFull, h.toldFullAt = true, now
	}
}

// forgetContent notes that what comes next is not the continuation of what was reported.
func (h *serverStore) forgetContent() {
	h.errorMsg, h.toldFull, h.resyncAt = "", false, time.Time{}
}

// otherReporters is what the server's answers say about others who report the same cluster.
type otherReporters struct {
	firstAck      time.Time       // of an own version
	ackedBy       map[string]bool // addresses of servers that acknowledged an own version since their last foreign one
	answers       int             // foreign versions, since the last quiet
	lastAt        time.Time
	lastVersion   uint64
	conflictSince time.Time // zero: there is no conflict
}

func (o *otherReporters) conflict() bool { return !o.conflictSince.IsZero() }

// maxAckedBy bounds ackedBy: behind a name there may be other addresses each time.
const maxAckedBy = 64

// acknowledged notes that the server at an address took one of ours.
func (o *otherReporters) acknowledged(now time.Time, address string) {
	if o.ackedBy == nil || len(o.ackedBy) >= maxAckedBy {
		o.ackedBy = map[string]bool{}
	}
	o.ackedBy[address] = true
	if o.firstAck.IsZero() {
		o.firstAck = now
	}
}

// answered counts a foreign version that the server at an address holds and tells whether a conflict begins with it. quiet is
// the time after which the count starts over.
func (o *otherReporters) answered(now time.Time, address string, version uint64, quiet time.Duration) (begins bool) {
	if now.Sub(o.lastAt) > quiet {
		o.answers = 0
	}
	delete(o.ackedBy, address)
	o.lastAt, o.lastVersion = now, version
	o.answers++
	if o.answers != 2 || o.conflict() {
		return false
	}
	o.conflictSince = now
	return true
}

// over ends a conflict after quiet without a foreign version, and tells whether there was one to end.
func (o *otherReporters) over(now time.Time, quiet time.Duration) bool {
	if !o.conflict() || now.Sub(o.lastAt) <= quiet {
		return false
	}
	o.conflictSince, o.answers = time.Time{}, 0
	return true
}

// versions remembers the latest versions sent, so that they can be told from those of others.
type versions struct {
	set  map[uint64]bool
	list []uint64
}

func (v *versions) add(version uint64) {
	if v.set[version] {
		return
	}
	if v.set == nil {
		v.set = map[uint64]bool{}
	}
	if len(v.list) == maxSentVersions {
		delete(v.set, v.list[0])
		v.list = v.list[1:]
	}
	v.set[version] = true
	v.list = append(v.list, version)
}

func (v *versions) has(version uint64) bool { return v.set[version] }
