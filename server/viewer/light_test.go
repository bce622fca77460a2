package viewer_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

// TestInventoriesWhereWanted: beyond Options.Memory clusters have no inventory until somebody looks, then the least used gives way;
// what would crash a server is told all the same.
func TestInventoriesWhereWanted(t *testing.T) {
	const clusters, pods, memory = 6, 300, 500 << 10
	backend := store.NewMemory()
	kept := store.New(backend, store.Options{Keep: 1})
	log := slog.New(slog.DiscardHandler)
	plugins, err := plugin.Open(t.Context(), plugin.Options{Store: viewer.PluginStore(backend)})
	if err != nil {
		t.Fatal(err)
	}
	defer plugins.Close()
	reg := prometheus.NewRegistry()
	view := viewer.New(viewer.Options{Store: kept, Plugins: plugins, Logger: log, Poll: 10 * time.Millisecond, Memory: memory, Registerer: reg})
	recv := receiver.New(receiver.Options{Store: kept, Logger: log, Access: receiver.Access{Anonymous: receiver.RoleRead}})
	r := &rig{store: kept, view: view, api: httptest.NewServer(recv.API(view.Routes()...))}
	defer r.api.Close()
	report := func(cluster int, version uint64, podIP string) {
		objects := []string{
			"*version.Info", `{"gitVersion":"v1.36.1"}`, "*v1.Namespace", `{"metadata":{"uid":"ns","name":"ns"}}`,
			"*v1.Node", `{"metadata":{"uid":"no","name":"no"},"status":{"addresses":[{"type":"InternalIP","address":"1.0.0.1"}]}}`,
			"*v1.Deployment", `{"metadata":{"uid":"d","name":"d","namespace":"ns"},"spec":{"template":{"metadata":{"labels":{"a":"b"}}}}}`,
		}
		for p := range pods {
			ip := fmt.Sprintf("10.0.%d.%d", p/200, p%200+1)
			if p == 0 {
				ip = podIP
			}
			objects = append(objects, "*v1.Pod", fmt.Sprintf(
				`{"metadata":{"uid":"p%d","name":"p%d","namespace":"ns","labels":{"a":"b"},"ownerReferences":[{"kind":"Deployment","uid":"d"}]},"status":{"podIP":%q,"hostIP":"1.0.0.1"}}`, p, p, ip))
		}
		r.save(t, fmt.Sprintf("d-%d", cluster), version, objects...)
	}
	for c := range clusters {
		report(c, 1, "10.0.9.9")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- view.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	until := func(what string, ok func(viewer.Status) bool) viewer.Status {
		t.Helper()
		for range 3000 {
			if ok(view.Status()) {
				return view.Status()
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%s: got %+v", what, view.Status())
		return viewer.Status{}
	}
	all := func(s viewer.Status) bool { return s.Clusters+s.Checked == clusters }
	s := until("every cluster is looked at", all)
	if s.Clusters == 0 || s.Checked == 0 || s.Bytes > memory || len(s.Refused) > 0 {
		t.Errorf("got %+v, want some inventories within %d bytes, and checks of the others", s, memory)
	}

	// Whoever looks gets the inventory of any of them, complete.
	for c := range clusters {
		var sum viewer.Summary
		r.call(t, http.MethodGet, fmt.Sprintf("/clusters/d-%d/inventory", c), "", http.StatusOK, &sum)
		if sum.Counts.Pods != pods || len(sum.Failures) > 0 {
			t.Errorf("cluster %d: got %d Pods and failures %v, want %d and none", c, sum.Counts.Pods, sum.Failures, pods)
		}
	}
	until("those that were looked at first gave way", func(s viewer.Status) bool { return all(s) && s.Checked > 0 && s.Bytes <= 2*memory })

	// A Pod that would crash the server is told of a cluster that nobody looks at, and no longer when it is gone.
	last := view.Status()
	for c := range clusters {
		report(c, 2, "no address")
	}
	s = until("crashes are told", func(s viewer.Status) bool { return len(s.Refused) == clusters })
	if !strings.Contains(s.Refused[0].Detail, "p0") || string(s.Refused[0].Reason) != "CrashPodIP" {
		t.Errorf("got %+v after %+v, want the Pod by its name", s.Refused[0], last)
	}
	for c := range clusters {
		report(c, 3, "10.0.9.9")
	}
	until("no longer", func(s viewer.Status) bool { return len(s.Refused) == 0 && all(s) })
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "pseudo_server_inventory_evictions_total" && f.GetMetric()[0].GetCounter().GetValue() == 0 {
			t.Error("no eviction is counted")
		}
	}
}
