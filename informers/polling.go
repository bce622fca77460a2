package informers

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// polling is what becomes of a resource whose lists are complete and whose watches are of no use: they end at once, deliver
// nothing, or are refused as too old, each of them. Its changes are seen by lists. After each list one watch is tried.
type polling struct {
	class     class     // why watches are of no use; classNone: they are, as far as is known
	wastes    int       // watches in a row that were of no use
	refused   bool      // one of them with 410
	tried     bool      // the watch after the last list was one of them
	listBegan time.Time // the last one
	every     time.Duration
	due       time.Time // the next list, while watches are of no use
}

const (
	// pollInterval is the least time between two lists of a resource whose watches are of no use. Apiservers send a bookmark
	// about every minute, so that a watch that works again shows it in that time.
	pollInterval = 90 * time.Second
	// pollShare is how many times as long as a list the pause between two of them is, at most the ordinary interval.
	pollShare = 20
	// Watches in a row that are of no use before lists take their place.
	silentWatches  = 2
	uselessWatches = 3
)

// polls tells whether lists take the place of watches.
func (p *polling) polls() bool { return p.class != classNone }

// listed: a list is complete.
func (p *polling) listed(now time.Time, most time.Duration) {
	p.tried = false
	p.every = max(pollInterval, min(pollShare*now.Sub(p.listBegan), most)).Round(time.Second)
	p.due = now.Add(p.every)
}

// lasted: a watch stayed open for watchProof. If no more was missing, watches are of use again.
func (p *polling) lasted() {
	if p.class != classSilent {
		p.works()
	}
}

// works: watches are of use.
func (p *polling) works() { p.class, p.wastes, p.refused = classNone, 0, false }

// complete: everything of a list, streaming or not, has come; the store takes it over next.
func (lw *listWatch) complete(now time.Time) {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	lw.polling.listed(now, lw.set.opts.RelistInterval)
}

// wasted counts a watch that was of no use. It reports whether lists are to take the place of watches.
func (lw *listWatch) wasted(now time.Time, why class) bool {
	lw.mu.Lock()
	p := &lw.polling
	p.wastes++
	p.tried = true
	if p.refused = p.refused || why == classExpired; p.refused {
		why = classExpired // comes nearer to a cause
	}
	limit := uselessWatches
	if why == classSilent {
		limit = silentWatches
	}
	if p.wastes >= limit || p.polls() {
		p.class = why
	}
	polls, every := p.polls(), p.every
	lw.mu.Unlock()
	if polls {
		lw.tell(now, func(r *record) { r.polled(uselessWatch(why, every)) })
	}
	return polls
}

// useful: a watch has delivered something.
func (lw *listWatch) useful() {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	lw.polling.works()
}

// untilPoll is the time for which a watch that begins may go on before the next list; false: for ever.
func (lw *listWatch) untilPoll(now time.Time) (time.Duration, bool) {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	return max(lw.polling.due.Sub(now), 0), lw.polling.polls()
}

// watchable is an error, which makes the reflector list, if watches are of no use and the one after the last list has been tried.
func (lw *listWatch) watchable(now time.Time) error {
	lw.mu.Lock()
	defer lw.mu.Unlock()
	if p := &lw.polling; p.polls() && (p.tried || !now.Before(p.due)) {
		return apierrors.NewResourceExpired(errPoll.Error())
	}
	return nil
}

// awaitPoll waits for the time of the next list, if lists take the place of watches and no other reason makes it due.
func (lw *listWatch) awaitPoll(ctx context.Context) error {
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	lw.mu.Lock()
	wait := time.Until(lw.polling.due)
	if !lw.polling.polls() || lw.relistDue || wait <= 0 {
		lw.mu.Unlock()
		return nil
	}
	lw.cancelWait = cancel
	lw.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-within.Done():
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
