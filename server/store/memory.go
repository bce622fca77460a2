package store

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Memory is a Backend that keeps everything in the process, and nothing beyond it.
type Memory struct {
	mu       sync.RWMutex
	clusters map[string]*memoryCluster
	docs     map[string]map[string]Document
}

type memoryCluster struct {
	state     State
	snapshots []Snapshot
	entries   map[uint64]*Entry
	payloads  map[uint64][]byte
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory {
	return &Memory{clusters: map[string]*memoryCluster{}, docs: map[string]map[string]Document{}}
}

// Clusters implements Backend.
func (m *Memory) Clusters(context.Context) ([]State, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var states []State
	for _, c := range m.clusters {
		states = append(states, c.state)
	}
	return states, nil
}

// State implements Backend.
func (m *Memory) State(_ context.Context, id string) (State, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := m.clusters[id]
	if c == nil {
		return State{}, ErrNotFound
	}
	return c.state, nil
}

// Load implements Backend.
func (m *Memory) Load(_ context.Context, id string, since Since, yield func(*Entry) error) (State, []Snapshot, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := m.clusters[id]
	if c == nil {
		return State{}, nil, ErrNotFound
	}
	for _, stored := range c.entries {
		if since.has(stored) {
			continue
		}
		e := *stored
		if err := yield(&e); err != nil {
			return State{}, nil, err
		}
	}
	return c.state, slices.Clone(c.snapshots), nil
}

// Payloads implements Backend.
func (m *Memory) Payloads(_ context.Context, id string, rows []uint64) ([][]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([][]byte, len(rows))
	c := m.clusters[id]
	if c == nil {
		return out, nil
	}
	for i, row := range rows {
		out[i] = bytes.Clone(c.payloads[row])
	}
	return out, nil
}

// Commit implements Backend.
func (m *Memory) Commit(_ context.Context, ch *Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.clusters[ch.State.ID]
	if c == nil {
		c = &memoryCluster{entries: map[uint64]*Entry{}, payloads: map[uint64][]byte{}}
	}
	if c.state.Revision != ch.Expected {
		return ErrConflict
	}
	m.clusters[ch.State.ID] = c
	c.state = ch.State
	if ch.Snapshot != nil {
		c.snapshots = append(c.snapshots, *ch.Snapshot)
	}
	for _, a := range ch.Added {
		c.entries[a.Entry.Row] = a.Entry
		c.payloads[a.Entry.Row] = bytes.Clone(a.Payload)
	}
	for _, e := range ch.Ended {
		c.entries[e.Row] = e
	}
	for _, row := range ch.DroppedRows {
		delete(c.entries, row)
		delete(c.payloads, row)
	}
	c.snapshots = slices.DeleteFunc(c.snapshots, func(s Snapshot) bool { return slices.Contains(ch.DroppedSeqs, s.Seq) })
	return nil
}

// Forget implements Backend.
func (m *Memory) Forget(_ context.Context, id string, expected uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.clusters[id]
	if c == nil || c.state.Revision != expected {
		return ErrConflict
	}
	delete(m.clusters, id)
	return nil
}

// Document implements Backend.
func (m *Memory) Document(_ context.Context, kind, key string) (Document, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	d, ok := m.docs[kind][key]
	if !ok {
		return Document{}, ErrNotFound
	}
	return d, nil
}

// Documents implements Backend.
func (m *Memory) Documents(_ context.Context, kind string) ([]Document, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.SortedFunc(maps.Values(m.docs[kind]), func(a, b Document) int { return strings.Compare(a.Key, b.Key) }), nil
}

// PutDocument implements Backend.
func (m *Memory) PutDocument(_ context.Context, kind string, d Document) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.docs[kind][d.Key].Revision != d.Revision {
		return 0, ErrConflict
	}
	if d.Value == nil {
		delete(m.docs[kind], d.Key)
		return 0, nil
	}
	if m.docs[kind] == nil {
		m.docs[kind] = map[string]Document{}
	}
	d.Revision++
	d.Value = bytes.Clone(d.Value)
	m.docs[kind][d.Key] = d
	return d.Revision, nil
}

// Check implements Backend.
func (m *Memory) Check(context.Context) error { return nil }

// Shared implements Backend.
func (m *Memory) Shared() bool { return false }

// Close implements Backend.
func (m *Memory) Close() error { return nil }
