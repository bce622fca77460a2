package receiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Writing is tried now and then, so that a storage that can only be read is told before the next report comes.
const (
	probeEvery   = 15 * time.Second
	probeKey     = "probe"
	probePatient = 10 * time.Second // after that a write that is under way counts as failed
	// writeForgiven is how long after the last report that could not be stored a small write shows that the storage works
	// again: on a full disk small ones may still find room.
	writeForgiven = time.Minute
)

// probe tries to write until the context ends.
func (r *Receiver) probe(ctx context.Context) {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		r.tryWrite(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// tryWrite writes a document of a few bytes. A backend that only this process uses does not look at the context; Check then
// sees for how long it has been under way.
func (r *Receiver) tryWrite(ctx context.Context) {
	begun := r.now()
	r.mu.Lock()
	r.storage.writing = begun
	r.mu.Unlock()
	limited, cancel := context.WithTimeoutCause(ctx, probePatient, fmt.Errorf("%w: no answer within %s", store.ErrUnavailable, probePatient))
	defer cancel()
	err := r.writeProbe(limited)
	r.mu.Lock()
	r.storage.writing = time.Time{}
	recent := !r.storage.failed.IsZero() && begun.Sub(r.storage.failed) < writeForgiven
	r.mu.Unlock()
	if ctx.Err() == nil && (err != nil || !recent) {
		r.noteStorage(err)
	}
}

func (r *Receiver) writeProbe(ctx context.Context) error {
	b := r.store.Backend()
	d, err := b.Document(ctx, eventsKind, probeKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	d.Key, d.Value = probeKey, []byte(r.now().UTC().Format(time.RFC3339))
	if _, err = b.PutDocument(ctx, eventsKind, d); errors.Is(err, store.ErrConflict) {
		return nil // another replica has just written
	}
	return err
}

// Check returns an error if reports cannot be stored now. It is the readiness check.
func (r *Receiver) Check(ctx context.Context) error {
	err := r.store.Backend().Check(ctx)
	r.mu.Lock()
	failed := r.storage.checked
	r.storage.checked = err != nil
	if writing := r.storage.writing; err == nil && !writing.IsZero() && r.now().Sub(writing) > probePatient {
		err = fmt.Errorf("%w: a write has been under way for more than %s", store.ErrUnavailable, probePatient)
	}
	r.mu.Unlock()
	if err != nil {
		r.noteStorage(err)
		return err
	}
	if failed {
		// Otherwise it is a failure that only a write can find, such as a full disk.
		r.noteStorage(nil)
	}
	return r.storageError()
}

// noteUnstored remembers that a report could not be stored.
func (r *Receiver) noteUnstored() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.storage.err != nil {
		r.storage.failed = r.now()
	}
}
