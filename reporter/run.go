package reporter

import (
	"context"
	"sync"
	"time"
)

// outcome is the result of one request of the reporting lane or the claiming lane.
type outcome struct {
	action  action
	session session // of a connect
	version uint64
	id      string
	caMD5   string
	sync    syncAnswer
	err     error
	took    time.Duration
}

// pollInterval is how often the Source's state is asked without a signal.
const pollInterval = time.Second

// Run reports until ctx ends, then flushes a pending change, gives the watcher role back where the server understands
// that, and returns nil. It must be called once.
func (r *Reporter) Run(ctx context.Context) error {
	r.log.Info("reporter starts", "servers", r.opts.Addresses, "policy", r.opts.Policy, "cluster_id", r.opts.ClusterID)
	l := r.newLoop(ctx)
	defer l.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.await(timer.C)
		if r.opts.Beat != nil {
			r.opts.Beat()
		}
		wake, finished := l.step()
		if finished {
			l.goodbye() //nolint:contextcheck // ctx has ended; what is said after it has a deadline of its own
			r.log.Info("reporter ends", "unreported_changes", r.Status().Pending)
			return nil
		}
		timer.Reset(time.Until(wake))
	}
}

// loop is what Run needs between two steps of the machine: the connection, and the requests under way.
type loop struct {
	*Reporter
	ctx    context.Context //nolint:containedctx // of the requests; a loop lives as long as one call of Run
	cancel context.CancelFunc
	wg     sync.WaitGroup

	stop    <-chan struct{} // nil once it was seen
	changed <-chan struct{}
	results chan outcome

	session  session // nil: none
	lostSeen bool    // of session
	pseudo   bool    // the session closed last was with a pseudo-server
}

func (r *Reporter) newLoop(ctx context.Context) *loop {
	l := &loop{
		Reporter: r, stop: ctx.Done(),
		results: make(chan outcome, 2), // one per lane, so that no request ever waits to deliver
	}
	// Requests outlive ctx, so that the one in flight can end and a pending change can be flushed.
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if r.opts.Source != nil {
		l.changed = r.opts.Source.Changed()
	}
	return l
}

// settle cuts off and joins the requests. It keeps the session that a connect made meanwhile.
func (l *loop) settle() {
	l.cancel()
	l.wg.Wait()
	for {
		select {
		case o := <-l.results:
			if o.session != nil {
				l.session = o.session
			}
		default:
			return
		}
	}
}

// end cuts off and joins the requests, and closes the connection.
func (l *loop) end() {
	l.settle()
	if l.session != nil {
		l.session.close()
	}
}

// await waits for the timer or for whatever else changes the facts, and tells the machine.
func (l *loop) await(timer <-chan time.Time) {
	var lost <-chan struct{}
	if l.session != nil && !l.lostSeen {
		lost = l.session.lost()
	}
	select {
	case <-timer:
	case <-l.changed:
		l.locked(func(now time.Time) { l.m.source.changed(now) })
	case <-lost:
		l.lostSeen = true
		l.locked(func(now time.Time) { l.m.lost(now) })
	case o := <-l.results:
		if o.session != nil {
			l.session, l.lostSeen = o.session, false
		}
		l.locked(func(now time.Time) { l.m.done(now, o) })
	case <-l.stop:
		l.stop = nil
		l.locked(func(now time.Time) { l.m.stop(now) })
	}
}

// step asks the machine what to do next and begins it. It returns when to step again at the latest, and whether nothing is
// left to be done.
func (l *loop) step() (wake time.Time, finished bool) {
	var actions []action
	var advance bool
	l.locked(func(now time.Time) {
		if l.session != nil && !l.m.server.connected && !l.m.server.busy {
			// A Sync that is still under way is cut off by this; its result is for a session that is gone.
			l.pseudo = l.session.pseudoServer()
			l.session.close()
			l.session = nil
		}
		actions, wake = l.m.step(now)
		finished, advance = l.m.finished(now), l.m.server.takeAdvance()
	})
	if advance {
		l.net.next()
	}
	if finished {
		return wake, true
	}
	for _, a := range actions {
		s := l.session
		l.wg.Go(func() { l.results <- l.do(l.ctx, s, a) })
	}
	return wake, false
}

// goodbye gives the watcher role back to a pseudo-server; others would take it for one more claim.
func (l *loop) goodbye() {
	if l.session != nil {
		l.pseudo = l.session.pseudoServer()
	}
	if l.pseudo {
		l.settle() // the deadline of stopping may have left a connect under way, and the transport makes one at a time
		l.session = l.giveBack(context.WithoutCancel(l.ctx), l.session)
	}
}

func (r *Reporter) locked(f func(now time.Time)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(time.Now())
}

// do carries out one action. It runs in a goroutine of its own.
func (r *Reporter) do(ctx context.Context, s session, a action) outcome {
	o := outcome{action: a}
	begin := time.Now()
	timeout := r.opts.RequestTimeout
	if a.kind == doConnect {
		timeout = r.opts.ConnectTimeout
	}
	deadline := begin.Add(timeout)
	if !a.deadline.IsZero() && a.deadline.Before(deadline) {
		deadline = a.deadline
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	switch a.kind {
	case doConnect:
		o.session, o.err = r.net.connect(ctx)
	case doName, doRename:
		o.caMD5, o.err = caMD5(ctx, r.opts.CA)
		switch {
		case o.err != nil:
			o.err = &stageError{causeClusterID, o.err}
		case a.kind == doRename && o.caMD5 == a.caMD5:
			o.id = a.known
		default:
			o.id, o.err = s.clusterID(ctx, o.caMD5)
		}
	case doSync:
		o.sync, o.err = s.sync(ctx, a.claim)
	default:
		o.version, o.err = s.report(ctx, a.report)
	}
	o.took = time.Since(begin)
	return o
}

// goodbyeTimeout bounds giving the role back, connection included.
const goodbyeTimeout = 2 * time.Second

// giveBack gives the watcher role back, over s or a new session, which it returns.
func (r *Reporter) giveBack(ctx context.Context, s session) session {
	r.mu.Lock()
	claim, leaseEnd, ok := r.m.goodbye()
	r.mu.Unlock()
	if !ok {
		return s
	}
	deadline := time.Now().Add(goodbyeTimeout)
	if !leaseEnd.IsZero() && leaseEnd.Before(deadline) {
		deadline = leaseEnd
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var err error
	if s == nil {
		s, err = r.net.connect(ctx)
	}
	if err == nil {
		_, err = s.sync(ctx, claim)
	}
	if err != nil {
		r.log.Warn("could not give the watcher role back; it expires by itself", "error", err)
		return s
	}
	r.log.Info("watcher role given back")
	return s
}
