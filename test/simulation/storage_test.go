package simulation

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// database is a storage that outlives the servers upon it. It fails as databases do: it is away, it is full, it stores and does
// not say so, and a standby takes over without the last writes.
type database struct {
	mu          sync.Mutex
	memory      *store.Memory
	log         []func(*store.Memory) error // what was written, in order
	shared      bool
	away, full  bool
	unconfirmed int                                    // writes that will be done without being confirmed
	written     func(m *store.Memory, id string) error // looks at a cluster after each write
}

func newDatabase(shared bool) *database { return &database{memory: store.NewMemory(), shared: shared} }

func (d *database) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// failOver makes a standby the database, which lacks the last n writes.
func (d *database) failOver(n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = d.log[:max(0, len(d.log)-n)]
	d.memory = store.NewMemory()
	for _, write := range d.log {
		if err := write(d.memory); err != nil {
			return fmt.Errorf("the standby could not write what was written: %w", err)
		}
	}
	return nil
}

// handle is the database as one process of a server reaches it.
type handle struct {
	db *database

	mu   sync.Mutex
	dead bool
}

func (h *handle) kill() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dead = true
}

// read returns the storage to read from.
func (h *handle) read() (*store.Memory, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.db.mu.Lock()
	defer h.db.mu.Unlock()
	if h.dead || h.db.away {
		return nil, fmt.Errorf("%w: simulated", store.ErrUnavailable)
	}
	return h.db.memory, nil
}

// write does one write, which must not refer to what its caller changes later.
func (h *handle) write(id string, do func(*store.Memory) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.db
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.dead || d.away || d.full {
		return fmt.Errorf("%w: simulated", store.ErrUnavailable)
	}
	if err := do(d.memory); err != nil {
		return err
	}
	d.log = append(d.log, do)
	if d.written != nil && id != "" {
		if err := d.written(d.memory, id); err != nil {
			return err
		}
	}
	if d.unconfirmed > 0 {
		d.unconfirmed--
		return fmt.Errorf("%w: simulated, after the write was done", store.ErrUnavailable)
	}
	return nil
}

// Clusters implements store.Backend.
func (h *handle) Clusters(ctx context.Context) ([]store.State, error) {
	m, err := h.read()
	if err != nil {
		return nil, err
	}
	return m.Clusters(ctx)
}

// State implements store.Backend.
func (h *handle) State(ctx context.Context, id string) (store.State, error) {
	m, err := h.read()
	if err != nil {
		return store.State{}, err
	}
	return m.State(ctx, id)
}

// Load implements store.Backend.
func (h *handle) Load(ctx context.Context, id string, since store.Since, yield func(*store.Entry) error) (store.State, []store.Snapshot, error) {
	m, err := h.read()
	if err != nil {
		return store.State{}, nil, err
	}
	return m.Load(ctx, id, since, yield)
}

// Payloads implements store.Backend.
func (h *handle) Payloads(ctx context.Context, id string, rows []uint64) ([][]byte, error) {
	m, err := h.read()
	if err != nil {
		return nil, err
	}
	return m.Payloads(ctx, id, rows)
}

// Commit implements store.Backend.
func (h *handle) Commit(ctx context.Context, c *store.Change) error {
	kept := *c
	kept.Added = slices.Clone(c.Added)
	for i, a := range kept.Added {
		e := *a.Entry
		kept.Added[i] = store.Added{Entry: &e, Payload: bytes.Clone(a.Payload)}
	}
	kept.Ended = make([]*store.Entry, len(c.Ended))
	for i, e := range c.Ended {
		kept.Ended[i] = new(*e)
	}
	ctx = context.WithoutCancel(ctx)
	return h.write(c.State.ID, func(m *store.Memory) error { return m.Commit(ctx, &kept) })
}

// Forget implements store.Backend.
func (h *handle) Forget(ctx context.Context, id string, expected uint64) error {
	ctx = context.WithoutCancel(ctx)
	return h.write("", func(m *store.Memory) error { return m.Forget(ctx, id, expected) })
}

// Document implements store.Backend.
func (h *handle) Document(ctx context.Context, kind, key string) (store.Document, error) {
	m, err := h.read()
	if err != nil {
		return store.Document{}, err
	}
	return m.Document(ctx, kind, key)
}

// Documents implements store.Backend.
func (h *handle) Documents(ctx context.Context, kind string) ([]store.Document, error) {
	m, err := h.read()
	if err != nil {
		return nil, err
	}
	return m.Documents(ctx, kind)
}

// PutDocument implements store.Backend.
func (h *handle) PutDocument(ctx context.Context, kind string, doc store.Document) (uint64, error) {
	doc.Value = bytes.Clone(doc.Value)
	ctx = context.WithoutCancel(ctx)
	var revision uint64
	err := h.write("", func(m *store.Memory) (err error) {
		revision, err = m.PutDocument(ctx, kind, doc)
		return err
	})
	return revision, err
}

// Check implements store.Backend.
func (h *handle) Check(context.Context) error {
	_, err := h.read()
	return err
}

// Shared implements store.Backend.
func (h *handle) Shared() bool { return h.db.shared }

// Close implements store.Backend.
func (h *handle) Close() error { return nil }
