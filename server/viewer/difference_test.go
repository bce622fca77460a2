package viewer_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

func stored(uid, name, content string) *store.Entry {
	return &store.Entry{Key: store.KeyOf("*v1.Pod", []byte(uid)), Sum: store.SumOf("*v1.Pod", []byte(content)), Type: "*v1.Pod", Name: name}
}

// random returns a source of random numbers whose seed it prints.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(testseed.New(t), 1))
}

// TestCompare compares random lists with what a comparison by key says, renamed objects included.
func TestCompare(t *testing.T) {
	r := random(t)
	pick := func() (list []*store.Entry, byUID map[string]string) {
		byUID = map[string]string{}
		for range r.IntN(8) {
			uid := fmt.Sprint(r.IntN(8))
			if _, ok := byUID[uid]; ok {
				continue
			}
			name, content := fmt.Sprint(r.IntN(6)), fmt.Sprint(r.IntN(2))
			byUID[uid] = name + content
			list = append(list, stored(uid, name, name+content))
		}
		slices.SortFunc(list, func(a, b *store.Entry) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), slices.Compare(a.Key[:], b.Key[:]))
		})
		return list, byUID
	}
	for range 5000 {
		before, was := pick()
		after, is := pick()
		want := map[string]int{}
		for uid, text := range is {
			old, ok := was[uid]
			switch {
			case !ok:
				want[viewer.Added]++
			case old != text:
				want[viewer.Changed]++
			}
		}
		for uid := range was {
			if _, ok := is[uid]; !ok {
				want[viewer.Removed]++
			}
		}
		got := map[string]int{}
		for _, d := range viewer.Compare(before, after) {
			got[d.Kind()]++
			if d.Before != nil && d.After != nil && d.Before.Key != d.After.Key {
				t.Errorf("got a difference of two objects: %+v, %+v", d.Before, d.After)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%v to %v: got %v, want %v", was, is, got, want)
		}
	}
}

// TestFollowingEqualsFromScratch follows a cluster over random versions. What is shown then is what a viewer shows that
// sees the last version only.
func TestFollowingEqualsFromScratch(t *testing.T) {
	r := newRig(t)
	n := random(t)
	plugins, err := plugin.Open(context.Background(), plugin.Options{Store: viewer.PluginStore(r.store.Backend())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plugins.Close)
	log := slog.New(slog.DiscardHandler)
	pool := base()
	for i := range 6 {
		for _, label := range []string{"cart", "other"} {
			pool = append(pool, "*v1.Pod", pod(fmt.Sprint("p", i), fmt.Sprint("cart-", i, label), "ReplicaSet", "cart-1", "r1", label))
		}
	}
	for version := range uint64(60) {
		report := pool[:2:2] // the version of Kubernetes
		seen := map[string]bool{}
		for i := 2; i < len(pool); i += 2 {
			uid := pool[i+1][:len(`{"metadata":{"uid":"p0"`)]
			if n.IntN(4) > 0 && !seen[uid] {
				seen[uid] = true
				report = append(report, pool[i], pool[i+1])
			}
		}
		r.save(t, "d-one", version+1, report...)
		if n.IntN(3) == 0 {
			continue // several versions at once
		}
		scratch := viewer.New(viewer.Options{Store: r.store, Plugins: plugins, Logger: log})
		recv := receiver.New(receiver.Options{Store: r.store, Logger: log, Access: receiver.Access{Anonymous: receiver.RoleRead, Hosts: []string{"example.com"}}})
		api := recv.API(scratch.Routes()...)
		for _, path := range []string{"/inventory", "/inventory/pods", "/inventory/workloads", "/inventory/replicasets", "/inventory/nodes", "/dropped", "/dropped/reasons"} {
			w := httptest.NewRecorder()
			api.ServeHTTP(w, httptest.NewRequest(http.MethodGet, receiver.APIPrefix+"/clusters/d-one"+path, nil))
			if got, want := r.call(t, http.MethodGet, "/clusters/d-one"+path, "", http.StatusOK, nil), w.Body.String(); got != want {
				t.Fatalf("version %d, %s: got\n%s\nwant\n%s", version+1, path, got, want)
			}
		}
	}
}
