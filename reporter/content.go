package reporter

import "time"

// poll asks the source how it is.
func (m *machine) poll(now time.Time) {
	if m.opts.Policy == Normal && m.wanted && !now.Before(m.claims.wantedUntil) {
		m.log.Warn("stop watching: the server has not repeated its wish in time", "lease", m.opts.WatcherLease)
		m.setWanted(false)
	}
	if m.others.over(now, m.conflictQuiet()) {
		m.log.Info("nobody else reports this cluster any more", "cluster_id", m.cluster.id, "since", m.others.lastAt)
	}
	if m.opts.Source == nil || !m.wanted {
		return
	}
	m.source.complete, m.source.problems = m.opts.Source.State(now)
	m.compose(now)
}

// errorLogEvery is how often a text that goes on changing is logged: in one outage resources fail, and come back, one by one.
const errorLogEvery = 30 * time.Second

// compose makes the text that the server is told, and logs when it changes.
func (m *machine) compose(now time.Time) {
	s := &m.source
	if before := s.compose(); before != "" && !s.hasErrors() {
		m.stored.toldFull = false
	}
	switch {
	case s.errText == s.logged:
		return
	case !s.hasErrors():
		m.log.Info("errors are over", "were", s.logged)
	case s.logged != "" && now.Sub(s.loggedAt) < errorLogEvery:
		return
	default:
		m.log.Warn("the server will be told errors and keep the cluster's old data", "error_msg", s.errText)
	}
	s.logged, s.loggedAt = s.errText, now
}

// refresh takes a new snapshot if one is due, and returns when the next may be; zero: not before the next poll.
func (m *machine) refresh(now time.Time) time.Time {
	if !m.wanted || !m.readyForSnapshot() || !m.source.takeable() {
		return time.Time{}
	}
	switch {
	case m.stopping:
		if !m.source.hasSnapshot() || m.source.hasChanged() {
			m.take(now)
		}
	case !m.source.hasSnapshot() && m.source.tooLarge == "":
		m.take(now)
	case m.source.hasChanged():
		due := m.changeDue()
		if due.After(now) {
			return due
		}
		m.take(now)
	case m.resyncs():
		due := later(m.stored.resyncAt, m.nextTake())
		if due.After(now) {
			return due
		}
		m.opts.Source.Renew()
		m.take(now)
	}
	return time.Time{}
}

// readyForSnapshot tells whether a snapshot could be sent soon: what is taken earlier than that only grows old.
func (m *machine) readyForSnapshot() bool {
	return m.server.connected && m.stored.known || m.stopping && m.source.hasSnapshot()
}

// resyncs tells whether nothing but the next full resync is ahead.
func (m *machine) resyncs() bool {
	return m.source.hasSnapshot() && !m.source.hasErrors() && !m.serverBehind() && !m.stored.resyncAt.IsZero()
}

// changeDue is when a change may be taken: after the debounce, and not sooner than push_interval after the snapshot before
// it was taken or, if that took several attempts, was last sent.
func (m *machine) changeDue() time.Time {
	return later(m.source.dirtyAt.Add(m.opts.Debounce), m.nextTake())
}

func (m *machine) nextTake() time.Time {
	last := later(m.source.takenAt, m.stored.newAt)
	if last.IsZero() {
		return last
	}
	return last.Add(m.opts.PushInterval)
}

// headerRoom is more than the request's header can take: error_msg, and a few short strings.
const headerRoom = maxErrorMsg + 1024

func (m *machine) take(now time.Time) {
	s := m.opts.Source.Take()
	if s == nil {
		m.source.complete = false
		return
	}
	// What changed between the signal and now is in s, or will be signalled again.
	m.source.dirtyAt = time.Time{}
	if s.Version() == m.source.taken {
		return
	}
	m.source.took(now, s, m.stored.acked)
	if size := s.Size() + headerRoom; size > m.opts.MaxMessageSize {
		m.source.tooLarge = oversize(s, size, m.opts.MaxMessageSize)
		m.stats.tooLarge.Inc()
		if m.opts.OnTooLarge != nil {
			m.opts.OnTooLarge()
		}
		m.compose(now)
		return
	}
	m.source.tooLarge = ""
	m.compose(now)
	m.source.snapshot = s
}
