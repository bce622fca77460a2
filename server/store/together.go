package store

import (
	"errors"

	bolt "go.etcd.io/bbolt"
)

// write is one that waits for its turn, or has been done.
type write struct {
	do      func(tx *bolt.Tx) error
	touched []touched
	bytes   int // of payloads

	// The holder of Embedded.writing uses these.
	done bool
	err  error
}

// maxTogether is how many writes are flushed to the disk together, at most; as many as wait while the ones before are flushed.
const maxTogether = 64

// write does w, together with others that wait, and returns its own error.
func (e *Embedded) write(w *write) error {
	e.queueing.Lock()
	e.queue = append(e.queue, w)
	e.queueing.Unlock()
	e.writing.Lock()
	defer e.writing.Unlock()
	for !w.done {
		e.together(e.next())
	}
	return w.err
}

// next takes the writes that come next: one, and more as long as their payloads stay below stageBytes.
func (e *Embedded) next() []*write {
	e.queueing.Lock()
	defer e.queueing.Unlock()
	n, size := 0, 0
	for n < len(e.queue) && n < maxTogether && (n == 0 || size+e.queue[n].bytes <= stageBytes) {
		size += e.queue[n].bytes
		n++
	}
	batch := e.queue[:n:n]
	if e.queue = e.queue[n:]; len(e.queue) == 0 {
		e.queue = nil // what was done must not stay in its memory
	}
	return batch
}

// refused tells of an error that a write returns before it has changed anything.
func refused(err error) bool { return errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict) }

// together does writes in one transaction. If one of them fails in another way than by being refused, each is done by itself, so that
// the others do not suffer. e.writing is held.
func (e *Embedded) together(batch []*write) {
	results := make([]error, len(batch))
	err := e.writable()
	if err == nil {
		err = guarded(func() error {
			return e.db.Load().Update(func(tx *bolt.Tx) error { return doAll(tx, batch, results) })
		})
		if err != nil && !refused(err) && !errors.Is(err, ErrDamaged) && len(batch) > 1 {
			for _, w := range batch {
				e.together([]*write{w})
			}
			return
		}
		e.wrote(batch, err)
	}
	for i, w := range batch {
		if w.err = results[i]; err != nil && !refused(err) {
			w.err = err
		}
		w.err, w.done = e.classify(w.err), true
	}
}

// doAll does writes one after the other. Its error takes all of them back: that of one which failed, or if all were refused.
func doAll(tx *bolt.Tx, batch []*write, results []error) error {
	done := 0
	for i, w := range batch {
		switch results[i] = w.do(tx); {
		case results[i] == nil:
			done++
		case !refused(results[i]):
			return results[i]
		}
	}
	if done == 0 {
		return results[0]
	}
	return nil
}

// writable returns why nothing can be written. e.writing is held.
func (e *Embedded) writable() error {
	if e.broken != nil {
		return e.broken
	}
	return e.sameFile()
}

// wrote tells those who must know of what was written, or may have been: also after an error it may have reached the file.
func (e *Embedded) wrote(batch []*write, err error) {
	if errors.Is(err, ErrDamaged) {
		e.broken = err
	}
	for c := range e.copies {
		for _, w := range batch {
			c.note(w.touched)
		}
	}
	if err != nil && !refused(err) {
		e.states.forget()
	}
}
