package receiver_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// TestSeriesAreBounded: however many clusters there are, /metrics stays small, names those in trouble, and its sums are right.
func TestSeriesAreBounded(t *testing.T) {
	const clusters, silent = 10_000, 7
	ctx := context.Background()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := store.New(store.NewMemory(), store.Options{Keep: 2, Now: func() time.Time { return now }})
	registry := prometheus.NewRegistry()
	receiver.New(receiver.Options{
		Store: s, Now: func() time.Time { return now }, Logger: slog.New(slog.DiscardHandler), Registerer: registry,
		Limits: receiver.Limits{MaxClusters: 2 * clusters}, Retention: receiver.Retention{StaleAfter: time.Hour},
	})
	save := func(id, errorMsg string) {
		t.Helper()
		tx, err := s.Begin(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Close()
		if err := tx.Save(ctx, 1, store.Touch{ErrorMsg: errorMsg}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range silent {
		save(fmt.Sprint("d-zz-silent-", i), "")
	}
	now = now.Add(2 * time.Hour)
	for i := range clusters {
		save(fmt.Sprintf("d-%05d", i), "")
	}
	save("d-zz-wrong", "etcd is away")

	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series, named := 0, map[string]bool{}
	states := map[string]float64{}
	values := map[string]float64{}
	for _, f := range families {
		series += len(f.GetMetric())
		for _, m := range f.GetMetric() {
			switch cluster := label(m, "cluster"); {
			case cluster != "":
				named[cluster] = true
			case f.GetName() == "pseudo_server_clusters":
				states[label(m, "state")] = m.GetGauge().GetValue()
			case f.GetType() == dto.MetricType_GAUGE:
				values[f.GetName()] = m.GetGauge().GetValue()
			case f.GetName() == "pseudo_server_clusters_silence_seconds":
				if n := m.GetHistogram().GetSampleCount(); n != clusters+silent+1 {
					t.Errorf("got %d clusters in the histogram, want %d", n, clusters+silent+1)
				}
			}
		}
	}
	if series > 2000 {
		t.Errorf("got %d series for %d clusters, want at most 2000", series, clusters)
	}
	for _, want := range []string{"d-zz-wrong", "d-zz-silent-0", "d-zz-silent-6"} {
		if !named[want] {
			t.Errorf("got no series of %s", want)
		}
	}
	if states["ok"] != clusters || states["stale"] != silent || states["error"] != 1 {
		t.Errorf("got states %v, want %d ok, %d stale, 1 error", states, clusters, silent)
	}
	if got, want := values["pseudo_server_clusters_without_series"], float64(clusters+silent+1-len(named)); got != want || len(named) != silent+1 {
		t.Errorf("got %d clusters named and %v not, want the %d in trouble and %v", len(named), got, silent+1, want)
	}
	// More are in trouble than have series: the worst have.
	for i := range 250 {
		save(fmt.Sprintf("d-%05d", i), "etcd is away")
	}
	count, err := testutil.GatherAndCount(registry, "pseudo_server_cluster_error")
	if err != nil || count != 200 {
		t.Errorf("got series of %d clusters, %v, want 200", count, err)
	}
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}
