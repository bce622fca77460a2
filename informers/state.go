package informers

import (
	"fmt"
	"strings"
	"time"
)

// State is what an operator is told about one selected resource.
type State string

// The states of a resource.
const (
	// Pending: not tried yet, or waiting for its turn.
	Pending State = "Pending"
	// Listing: the first list, or the first list after the resource appeared, is under way.
	Listing State = "Listing"
	// Synced: listed completely and watched.
	Synced State = "Synced"
	// Polling: listed completely, but watches are of no use; changes are seen by further lists only.
	Polling State = "Polling"
	// NotServed: the apiserver says that it does not have this resource.
	NotServed State = "NotServed"
	// Forbidden: the apiserver refuses list or watch, and nothing was ever listed.
	Forbidden State = "Forbidden"
	// Failing: cannot be listed or watched for any other reason, or was taken away after it had been listed. What was
	// listed before is kept.
	Failing State = "Failing"
)

// States are all states, in the order of a resource's usual life.
var States = []State{Pending, Listing, Synced, Polling, NotServed, Forbidden, Failing}

// The times of invariant 4 (docs/informers.md).
const (
	// errorAfter is how long a resource must fail without interruption before the server is told.
	errorAfter = 30 * time.Second
	// firstReportWait is how long the first report waits for an optional resource that cannot be listed.
	firstReportWait = 5 * time.Minute
	// optionalErrorFor is how long the server is told that an optional resource fails; afterwards it is an alert only.
	optionalErrorFor = 10 * time.Minute
	// watchProof is how long a new watch must stay open without a word to count as working.
	watchProof = 5 * time.Second
	// reasonHolds is how long the reason of a failure stays when others follow that come no nearer to a cause. The text that
	// the server is told does not alternate between what a list and what a watch says of one cause.
	reasonHolds = 2 * time.Minute
)

// failure is why a resource cannot be read. The reason of the first error of a class is kept, and a class that alternates
// with others too, so that the text does not change with every retry.
type failure struct {
	class  class
	reason string
	advice string
	// away: no connection to the apiserver was made, or it was not kept.
	away bool
	// dialled: not even made. That tells more than how a connection broke.
	dialled bool
}

// tellsMore orders what is said of an apiserver that is away: that it refuses tells more than silence, and both more than how a
// connection broke.
func (f failure) tellsMore(than failure) bool {
	switch refuses, others := f.class == classConnection, than.class == classConnection; {
	case f.dialled != than.dialled:
		return f.dialled
	case refuses != others:
		return refuses
	}
	return f.reason < than.reason
}

// oneOutage gives one reason to all that fail because the apiserver is away, the one that tells most: each connection breaks in
// its own way, is refused, or is not made in time, but all lead to the same apiserver.
func oneOutage(failures []*failure) {
	var most *failure
	for _, f := range failures {
		if f.away && (most == nil || f.tellsMore(*most)) {
			most = f
		}
	}
	for _, f := range failures {
		if f.away {
			*f = *most
		}
	}
}

// record holds everything that is known about the course of one resource. Its methods take the time from outside and
// touch nothing else, so that state and verdict are functions of what was recorded.
type record struct {
	id       string
	required bool
	added    time.Time

	phase   State // Pending, Listing, Synced or NotServed: what would hold if nothing failed
	synced  bool  // a complete list is in hand
	settled bool  // never again holds back a report

	failing      failure
	failingSince time.Time // zero: does not fail
	failingSeen  time.Time // when it last failed in that way
	watchOpened  time.Time // since the failure began
	polling      failure   // why watches are of no use, while lists take their place

	lastError    string
	lastErrorAt  time.Time
	lastList     time.Time
	lastEvent    time.Time
	lastBookmark time.Time

	state State // as last shown
	class class
	since time.Time
}

func newRecord(id string, required bool, now time.Time) *record {
	return &record{id: id, required: required, added: now, phase: Pending, state: Pending, since: now}
}

// listing: a list begins.
func (r *record) listing() {
	if !r.synced {
		r.phase = Listing
	}
}

// listed: a complete list is in hand.
func (r *record) listed(now time.Time) {
	r.phase, r.synced, r.settled = Synced, true, true
	r.lastList = now
	r.recovered()
}

// opened: a watch was accepted. That alone does not end a failure: it may break at once.
func (r *record) opened(now time.Time) { r.watchOpened = now }

// closed: the watch has ended. One that was open for less than watchProof has proved nothing.
func (r *record) closed(now time.Time) {
	if now.Sub(r.watchOpened) < watchProof {
		r.watchOpened = time.Time{}
	}
}

// heard: a watch delivered something.
func (r *record) heard(now time.Time, bookmark bool) {
	r.noted(now, bookmark)
	r.polling = failure{}
	if r.synced {
		r.recovered()
	}
}

// noted: a watch that goes on until a list is complete delivered something. That says nothing of the list.
func (r *record) noted(now time.Time, bookmark bool) {
	r.lastEvent = now
	if bookmark {
		r.lastBookmark = now
	}
}

// polled: lists take the place of watches, for the reason f. That is a failure of watches only.
func (r *record) polled(f failure) {
	r.watchOpened = time.Time{}
	if r.polling.class != f.class {
		r.polling = f
	}
	if r.synced {
		r.recovered()
	}
}

// isPolling tells whether lists still take the place of watches: a watch that has been open for watchProof ends it, unless
// it is silence that is the matter.
func (r *record) isPolling(now time.Time) bool {
	switch {
	case r.polling.class == classNone:
		return false
	case r.polling.class == classSilent || r.watchOpened.IsZero():
		return true
	}
	return now.Sub(r.watchOpened) < watchProof
}

func (r *record) recovered() {
	r.failing, r.failingSince = failure{}, time.Time{}
}

// failed: a list or watch could not be made, or a watch broke before it proved to work.
func (r *record) failed(now time.Time, f failure) {
	if !r.isFailing(now) {
		r.failingSince = now
		r.failing = failure{}
	}
	if is := r.failing.class; is == classNone || f.class.rank() > is.rank() || f.class != is && now.Sub(r.failingSeen) >= reasonHolds ||
		f.class == is && f.dialled && !r.failing.dialled {
		r.failing = f
	}
	if f.class == r.failing.class {
		r.failingSeen = now
	}
	r.watchOpened = time.Time{}
	r.lastError, r.lastErrorAt = f.reason, now
}

// gone: the apiserver does not serve the resource. It reports whether the entries are to be removed: those of a
// required resource are kept, since its disappearance is an error that an operator has to resolve.
func (r *record) gone(now time.Time) (remove bool) {
	if r.required {
		r.failed(now, failure{
			class:  classNotServed,
			reason: "the apiserver does not serve this required resource",
			advice: "install its CRD, or take `required: true` from its api_resources entry",
		})
		return false
	}
	r.phase, r.synced, r.settled = NotServed, false, true
	r.watchOpened, r.polling = time.Time{}, failure{}
	r.recovered()
	return true
}

// reselected: other objects are wanted of the resource than those that were listed. It starts over, but for its entries.
func (r *record) reselected(now time.Time) {
	r.phase, r.synced, r.settled, r.added = Pending, false, false, now
	r.watchOpened, r.polling = time.Time{}, failure{}
	r.recovered()
}

// isFailing tells whether the failure goes on: a watch that has been open for watchProof ends it.
func (r *record) isFailing(now time.Time) bool {
	if r.failingSince.IsZero() {
		return false
	}
	return !r.synced || r.watchOpened.IsZero() || now.Sub(r.watchOpened) < watchProof
}

func (r *record) current(now time.Time) State {
	switch {
	case !r.isFailing(now) && r.phase == Synced && r.isPolling(now):
		return Polling
	case !r.isFailing(now):
		return r.phase
	case !r.synced && r.failing.class == classForbidden:
		return Forbidden
	case !r.synced && r.failing.class == classNotServed:
		return NotServed
	default:
		return Failing
	}
}

// refresh settles what time has decided and reports whether state or kind of failure differ from what was last shown.
func (r *record) refresh(now time.Time) bool {
	if !r.failingSince.IsZero() && !r.isFailing(now) {
		r.recovered()
	}
	if !r.isPolling(now) {
		r.polling = failure{}
	}
	if r.givenUp(now) {
		r.settled = true
	}
	state, class := r.current(now), r.trouble(now).class
	if state == r.state && class == r.class {
		return false
	}
	if state != r.state {
		r.since = now
	}
	r.state, r.class = state, class
	return true
}

// trouble is what is the matter, in whole or with watches only.
func (r *record) trouble(now time.Time) failure {
	switch {
	case r.isFailing(now):
		return r.failing
	case r.current(now) == Polling:
		return r.polling
	default:
		return failure{}
	}
}

// givenUp: an optional resource that has failed from the start has been waited for long enough.
func (r *record) givenUp(now time.Time) bool {
	return !r.required && !r.synced && r.isFailing(now) && now.Sub(r.added) >= firstReportWait
}

// Verdict says whether a report may go out and what is wrong, by invariant 4 (docs/informers.md).
type Verdict struct {
	// Complete: every selected resource is listed completely, not served, or optional and given up.
	Complete bool `json:"complete"`
	// Waiting are the ids of the resources for which Complete waits.
	Waiting []string `json:"waiting,omitempty"`
	// Errors are to be told to the server as error_msg: one text per cause, which does not change while the same resources
	// fail for it.
	Errors []string `json:"errors,omitempty"`
	// Standing are failures that are no longer, or never, told to the server: for logs, metrics and alerts only.
	Standing []string `json:"standing,omitempty"`

	told, standing []complaint
}

// complaint is what one resource has to say.
type complaint struct {
	id string
	failure
}

// compose makes the texts of what the resources have said; all is how many there are.
func (v *Verdict) compose(all int) {
	failures := make([]*failure, 0, len(v.told)+len(v.standing))
	for _, list := range [][]complaint{v.told, v.standing} {
		for i := range list {
			failures = append(failures, &list[i].failure)
		}
	}
	oneOutage(failures)
	v.Errors, v.Standing = byCause(v.told, all), byCause(v.standing, all)
}

// byCause makes one text of all that have the same cause: up to three resources by name and the number of the others.
func byCause(complaints []complaint, all int) []string {
	type cause struct{ reason, advice string }
	var causes []cause
	ids := map[cause][]string{}
	for _, c := range complaints {
		k := cause{c.reason, c.advice}
		if ids[k] == nil {
			causes = append(causes, k)
		}
		ids[k] = append(ids[k], c.id)
	}
	var out []string
	for _, k := range causes {
		text := someOf(ids[k], all) + ": " + k.reason
		if k.advice != "" {
			text += "; " + k.advice
		}
		out = append(out, text)
	}
	return out
}

// someOf names at most three of the ids, of all that there are.
func someOf(ids []string, all int) string {
	const shown = 3
	switch {
	case len(ids) <= shown:
		return strings.Join(ids, ", ")
	case len(ids) == all:
		return fmt.Sprintf("all %d resources", all)
	}
	return fmt.Sprintf("%s and %d more of %d resources", strings.Join(ids[:shown], ", "), len(ids)-shown, all)
}

// judge adds what r has to say to v. With behind, the list in hand does not fit the other resources any more, and is
// waited for again, unless the resource is optional and has failed for so long that reports go on without it.
func (r *record) judge(now time.Time, behind bool, v *Verdict) {
	failing := r.isFailing(now)
	if behind && r.synced && (!failing || r.required || now.Sub(r.failingSince) < optionalErrorFor) {
		v.Complete = false
		v.Waiting = append(v.Waiting, r.id)
	}
	ripe := failing && (now.Sub(r.failingSince) >= errorAfter || !r.synced && r.failing.class.definite())
	waiting := !r.synced && !r.settled && !r.givenUp(now)
	if waiting {
		v.Complete = false
		v.Waiting = append(v.Waiting, r.id)
	}
	if r.current(now) == Polling {
		v.standing = append(v.standing, complaint{r.id, r.polling})
	}
	if !ripe {
		return
	}
	told := waiting || r.synced && (r.required || now.Sub(r.failingSince) < optionalErrorFor)
	if told {
		v.told = append(v.told, complaint{r.id, r.failing})
	} else {
		v.standing = append(v.standing, complaint{r.id, r.failing})
	}
}
