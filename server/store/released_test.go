package store_test

import (
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// releasedHistory is what each release wrote into its store in testdata/released: versions of clusters, in order.
var releasedHistory = []struct {
	cluster string
	version uint64
	content content
}{
	{"d-one", 1, content{"*v1.Pod shop web-1": "pod one", "*v1.Node  node-1": "node one"}},
	{"d-one", 2, content{"*v1.Pod shop web-1": "pod one, changed", "*v1.Node  node-1": "node one", "*v1.Service shop web": "service"}},
	{"d-one", 3, content{"*v1.Pod shop web-1": "pod one, changed", "*v1.Service shop web": "service"}},
	{"d-two", 7, content{"*v1.Namespace  shop": "namespace"}},
}

// TestReleasedStores opens the store of every release, reads all of it, writes to it, and opens it again (docs/releases.md).
func TestReleasedStores(t *testing.T) {
	for file, open := range map[string]func(t *testing.T, file string) func() (store.Backend, error){
		"embedded-*.db.gz": releasedEmbedded,
		"postgres-*.sql":   releasedPostgres,
	} {
		files, err := filepath.Glob(filepath.Join("testdata", "released", file))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no store of a release: %v", file, err)
		}
		for _, f := range files {
			t.Run(filepath.Base(f), func(t *testing.T) { readsReleased(t, open(t, f)) })
		}
	}
}

// releasedEmbedded unpacks a file and returns what opens it.
func releasedEmbedded(t *testing.T, file string) func() (store.Backend, error) {
	t.Helper()
	packed, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	in, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "released.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() (store.Backend, error) { return store.OpenEmbedded(path) }
}

// releasedPostgres loads a dump into a server and returns what opens it.
func releasedPostgres(t *testing.T, file string) func() (store.Backend, error) {
	t.Helper()
	server := pgtest.Start(t, "fsync = off")
	dump, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), string(dump)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return func() (store.Backend, error) { return store.OpenPostgres(context.Background(), server.DSN(), 4) }
}

func readsReleased(t *testing.T, open func() (store.Backend, error)) {
	t.Helper()
	more := content{"*v1.Pod shop web-2": "another pod"}
	for again := range 2 {
		b, err := open()
		if err != nil {
			t.Fatal(err)
		}
		s := store.New(b, store.Options{Keep: 10})
		for _, h := range releasedHistory {
			if d := cmp.Diff(h.content, read(t, s, h.cluster, h.version)); d != "" {
				t.Errorf("opened %d times before, version %d of %s (-want +got):\n%s", again, h.version, h.cluster, d)
			}
		}
		doc, err := b.Document(t.Context(), "watchers", "d-one")
		if err != nil || string(doc.Value) != `{"a":1}` {
			t.Errorf("the document is %q (%v)", doc.Value, err)
		}
		if again == 0 {
			save(t, s, "d-two", 8, more)
		} else if d := cmp.Diff(more, read(t, s, "d-two", 8)); d != "" {
			t.Errorf("what was written to it (-want +got):\n%s", d)
		}
		if got := versions(t, s, "d-two"); !slices.Equal(got, []uint64{7, 8}) {
			t.Errorf("got the versions %v of d-two, want 7 and 8", got)
		}
		closeBackend(t, b)
	}
}
