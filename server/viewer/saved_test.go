package viewer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

// TestRestartReadsNothing: after a restart the checks of clusters that nobody looks at are those of before, without a look at any
// object; what changes later is checked.
func TestRestartReadsNothing(t *testing.T) {
	const clusters = 5
	path := filepath.Join(t.TempDir(), "test.db")
	pod := func(ip string) []string {
		objects := []string{
			"*version.Info", `{"gitVersion":"v1.36.1"}`, "*v1.Namespace", `{"metadata":{"uid":"ns","name":"ns"}}`,
			"*v1.Node", `{"metadata":{"uid":"no","name":"no"},"status":{"addresses":[{"type":"InternalIP","address":"1.0.0.1"}]}}`,
			"*v1.Deployment", `{"metadata":{"uid":"d","name":"d","namespace":"ns"},"spec":{"template":{"metadata":{"labels":{"a":"b"}}}}}`,
		}
		return append(objects, "*v1.Pod", fmt.Sprintf(
			`{"metadata":{"uid":"p","name":"p","namespace":"ns","labels":{"a":"b"},"ownerReferences":[{"kind":"Deployment","uid":"d"}]},"status":{"podIP":%q,"hostIP":"1.0.0.1"}}`, ip))
	}
	running := func(use func(r *rig, until func(what string, ok func(viewer.Status) bool))) {
		t.Helper()
		backend, err := store.OpenEmbedded(path)
		if err != nil {
			t.Fatal(err)
		}
		kept := store.New(backend, store.Options{Keep: 1})
		plugins, err := plugin.Open(t.Context(), plugin.Options{Store: viewer.PluginStore(backend)})
		if err != nil {
			t.Fatal(err)
		}
		view := viewer.New(viewer.Options{Store: kept, Plugins: plugins, Logger: slog.New(slog.DiscardHandler), Poll: 10 * time.Millisecond, Memory: 1})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- view.Run(ctx) }()
		use(&rig{store: kept, view: view}, func(what string, ok func(viewer.Status) bool) {
			t.Helper()
			for range 1000 {
				if ok(view.Status()) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Fatalf("%s: got %+v", what, view.Status())
		})
		cancel()
		err = <-done
		plugins.Close()
		if err := errors.Join(err, backend.Close()); err != nil {
			t.Fatal(err)
		}
	}
	sound := func(s viewer.Status) bool {
		return s.Clusters == 0 && s.Checked == clusters && len(s.Refused) == 0 && s.State == "ok"
	}
	running(func(r *rig, until func(string, func(viewer.Status) bool)) {
		for c := range clusters {
			r.save(t, fmt.Sprintf("d-%d", c), 1, pod("10.0.0.1")...)
		}
		until("all are checked", sound)
	})
	// What objects hold cannot be read any more.
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for c := range clusters {
			if err := tx.Bucket([]byte("payloads")).DeleteBucket(fmt.Appendf(nil, "d-%d", c)); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	running(func(r *rig, until func(string, func(viewer.Status) bool)) {
		until("all are checked still", sound)
		time.Sleep(100 * time.Millisecond)
		until("nothing is read", sound)
		if n := r.store.Indexes(); n.Reads > 0 {
			t.Errorf("%d indexes were read", n.Reads)
		}
	})
	running(func(r *rig, until func(string, func(viewer.Status) bool)) {
		// Reported anew, with all that is there: one is known to crash the server.
		for c := range clusters {
			tx, err := r.store.BeginState(t.Context(), fmt.Sprintf("d-%d", c))
			if err != nil {
				t.Fatal(err)
			}
			if err := tx.Forget(t.Context()); err != nil {
				t.Fatal(err)
			}
			tx.Close()
			ip := "10.0.0.1"
			if c == 2 {
				ip = "no address"
			}
			r.save(t, fmt.Sprintf("d-%d", c), 2, pod(ip)...)
		}
		until("what changed is checked", func(s viewer.Status) bool {
			return s.Checked+s.Clusters == clusters && len(s.Refused) == 1 && s.Refused[0].Cluster == "d-2"
		})
	})
	running(func(r *rig, until func(string, func(viewer.Status) bool)) {
		until("what was suspicious is looked at again", func(s viewer.Status) bool {
			return s.Checked+s.Clusters == clusters && len(s.Refused) == 1 && s.Refused[0].Cluster == "d-2"
		})
		r.save(t, "d-2", 3, pod("10.0.0.2")...)
		r.save(t, "d-3", 3, pod("none")...)
		until("by what changed only", func(s viewer.Status) bool {
			return s.Checked+s.Clusters == clusters && len(s.Refused) == 1 && s.Refused[0].Cluster == "d-3"
		})
	})
}

// TestEndsSoon: Run ends with the cluster that it looks at, however many are left.
func TestEndsSoon(t *testing.T) {
	const clusters = 20
	kept := store.New(store.NewMemory(), store.Options{Keep: 1})
	plugins, err := plugin.Open(t.Context(), plugin.Options{Store: viewer.PluginStore(kept.Backend())})
	if err != nil {
		t.Fatal(err)
	}
	defer plugins.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	beats := 0
	view := viewer.New(viewer.Options{Store: kept, Plugins: plugins, Logger: slog.New(slog.DiscardHandler), Memory: 1, Beat: func() {
		if beats++; beats == 8 {
			cancel()
		}
	}})
	r := &rig{store: kept, view: view}
	for c := range clusters {
		r.save(t, fmt.Sprintf("d-%d", c), 1, "*version.Info", `{"gitVersion":"v1.36.1"}`,
			"*v1.Node", `{"metadata":{"uid":"no","name":"no"},"status":{"addresses":[{"type":"InternalIP","address":"1.0.0.1"}]}}`)
	}
	if err := view.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if s := view.Status(); s.Checked == 0 || s.Checked > clusters/2 {
		t.Errorf("%d clusters were checked although it was to end after a few", s.Checked)
	}
}

// TestDamagedChecks: what is damaged of the saved checks is told in one line, for what it is, and made anew; the others are taken over.
func TestDamagedChecks(t *testing.T) {
	const clusters = 5
	backend, err := store.OpenEmbedded(filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := backend.Close(); err != nil {
			t.Error(err)
		}
	}()
	run := func() (log string, reads int64) {
		t.Helper()
		kept := store.New(backend, store.Options{Keep: 1})
		plugins, err := plugin.Open(t.Context(), plugin.Options{Store: viewer.PluginStore(backend)})
		if err != nil {
			t.Fatal(err)
		}
		defer plugins.Close()
		var told bytes.Buffer // slog writes to it under its own lock; it is read when Run has ended
		view := viewer.New(viewer.Options{
			Store: kept, Plugins: plugins, Logger: slog.New(slog.NewTextHandler(&told, nil)), Poll: 10 * time.Millisecond, Memory: 1,
		})
		r := &rig{store: kept, view: view}
		if list, err := backend.Clusters(t.Context()); err != nil || len(list) == 0 {
			for c := range clusters {
				r.save(t, fmt.Sprintf("d-%d", c), 1, "*version.Info", `{"gitVersion":"v1.36.1"}`, "*v1.Namespace", `{"metadata":{"uid":"ns","name":"ns"}}`,
					"*v1.Node", `{"metadata":{"uid":"no","name":"no"},"status":{"addresses":[{"type":"InternalIP","address":"1.0.0.1"}]}}`)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- view.Run(ctx) }()
		for range 1000 {
			if s := view.Status(); s.Checked == clusters && s.State == "ok" && len(s.Refused) == 0 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if s := view.Status(); s.Checked != clusters || s.State != "ok" || s.Reason != "" {
			t.Errorf("got %+v, want all checked", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		return told.String(), kept.Indexes().Reads
	}
	run()
	docs, err := backend.Documents(t.Context(), "check")
	if err != nil || len(docs) != 1 {
		t.Fatalf("got %d documents, %v, want 1", len(docs), err)
	}
	var list []map[string]any
	if err := json.Unmarshal(docs[0].Value, &list); err != nil || len(list) != clusters {
		t.Fatalf("got %d checks, %v, want %d", len(list), err, clusters)
	}
	list[0]["check"], list[3]["check"] = 7, "nothing"
	one, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what        string
		value, more string
		reads       int64
	}{
		{"checks in a list", string(one), "", 2},
		{"a list", "[{", "", clusters},
		{"no list", `{"a":1}`, "", clusters},
		{"a list beside a sound one", string(docs[0].Value), "\x00", 0},
	} {
		docs, err := backend.Documents(t.Context(), "check")
		if err != nil || len(docs) == 0 {
			t.Fatal(err)
		}
		docs[0].Value = []byte(c.value)
		if _, err := backend.PutDocument(t.Context(), "check", docs[0]); err != nil {
			t.Fatal(err)
		}
		if c.more != "" {
			if _, err := backend.PutDocument(t.Context(), "check", store.Document{Key: "damaged", Value: []byte(c.more)}); err != nil {
				t.Fatal(err)
			}
		}
		log, reads := run()
		if lines := strings.Count(log, "level=WARN") + strings.Count(log, "level=ERROR"); lines != 1 || !strings.Contains(log, "saved") || strings.Contains(log, "cannot be followed") {
			t.Errorf("%s: the log has\n%s, want one warning, of what was saved", c.what, log)
		}
		if reads != c.reads {
			t.Errorf("%s: %d indexes were read, want %d", c.what, reads, c.reads)
		}
	}
}
