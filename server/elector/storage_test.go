package elector_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// full is a storage on a disk that can be full: then it can only be read.
type full struct {
	*store.Memory

	is bool
}

// PutDocument implements elector.Documents.
func (f *full) PutDocument(ctx context.Context, kind string, d store.Document) (uint64, error) {
	if f.is {
		return 0, fmt.Errorf("%w: no space left", store.ErrUnavailable)
	}
	return f.Memory.PutDocument(ctx, kind, d)
}

// TestFullDiskIsToldOnce: that the storage can be read, as the elector does all the time, does not end a failure to write;
// a decision that is stored does, or that none fails any more.
func TestFullDiskIsToldOnce(t *testing.T) {
	for name, agentStays := range map[string]bool{"the agent stays": true, "the agent leaves": false} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			var now time.Duration
			disk := &full{Memory: store.NewMemory(), is: true}
			e := elector.New(elector.Options{
				Documents: disk, Logger: slog.New(slog.NewTextHandler(&log, nil)), Elapsed: func() time.Duration { return now },
			})
			minute := func(syncs bool) (err error) {
				if syncs {
					_, err = e.Sync(t.Context(), "10.0.0.1:1", &agent.SyncRequest{KubernetesClusterId: new("d-a"), Host: new("h")})
				}
				for range 12 {
					now += 5 * time.Second
					e.Sweep(t.Context())
				}
				return err
			}
			for range 10 {
				if minute(true) == nil {
					t.Fatal("Sync: got an answer, want an error, because no decision can be stored")
				}
				// Without the cluster whose Sync met it first: all suffer from it.
				if s := e.Status(); !strings.HasPrefix(s.Reason, store.ErrUnavailable.Error()) {
					t.Errorf("got status %+v, want that the storage fails", s)
				}
			}
			if n := strings.Count(log.String(), "the elector's storage"); n != 1 {
				t.Errorf("the log tells of the storage %d times, want once:\n%s", n, &log)
			}
			disk.is = false
			for range 10 {
				if err := minute(agentStays); err != nil {
					t.Fatal(err)
				}
			}
			if s := e.Status(); s.Reason != "" || strings.Count(log.String(), "msg=\"the elector's storage works again") != 1 {
				t.Errorf("got status %+v, want that the storage works, told once:\n%s", s, &log)
			}
		})
	}
}

// contested is a storage to which another replica has written in between, the first time.
type contested struct {
	*store.Memory

	writes int
}

// PutDocument implements elector.Documents.
func (c *contested) PutDocument(ctx context.Context, kind string, d store.Document) (uint64, error) {
	if c.writes++; c.writes == 1 {
		return 0, store.ErrConflict
	}
	return c.Memory.PutDocument(ctx, kind, d)
}

// TestConflictIsDecidedAnew: who Syncs while another replica writes is answered upon what that has written.
func TestConflictIsDecidedAnew(t *testing.T) {
	documents := &contested{Memory: store.NewMemory()}
	e := elector.New(elector.Options{Documents: documents, Logger: slog.New(slog.DiscardHandler)})
	answer, err := e.Sync(t.Context(), "10.0.0.1:1", &agent.SyncRequest{KubernetesClusterId: new("d-a"), Host: new("h")})
	if err != nil || !answer.GetDynamicConfig().GetKubernetesApiEnabled() || documents.writes != 2 {
		t.Errorf("got %v, %v after %d writes, want the role with the second one", answer, err, documents.writes)
	}
}
