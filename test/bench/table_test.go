package main

import (
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/test/bench/rival"
)

// TestTablesAreNarrow: the pages that the results are written into take tables of six columns, and a row has what its head has.
func TestTablesAreNarrow(t *testing.T) {
	sample := Sample{
		SyncCPU: 1.5, SyncTime: 2.5, PeakRSS: 51e6, LaterRSS: 61e6, LiveHeap: 3.8e6, Requests: 13, BytesRead: 921e6, Entries: 1000, Payload: 620000,
		UnchangedCPU: 15.3e-6, ChangedCPU: 48.7e-6, Lag: 1.11, ReportCPU: 0.052, ReportExtra: 0.6e6, ReportAllocated: 8e6, ApiserverCPU: 0.85,
	}
	samples := map[string][]Sample{pseudoAgent: {sample}, rival.Stock: {sample}}
	for name, r := range map[string]*Result{
		"load server": {
			Apiserver: "load server", Samples: samples, Paged: map[string]Sample{pseudoAgent: sample},
			Curve: []Point{{Pods: 1000, Others: 219, Name: pseudoAgent, Sample: sample}},
		},
		"kube-apiserver": {
			Apiserver: "kube-apiserver", Samples: samples, Pods: 10000,
			Apicosts: []Apicost{{Form: "json", List: 2, Stream: 2, Events: 2, ListBytes: 2, StreamBytes: 2, Bytes: 2, Count: 10}, {Form: "protobuf", List: 1, Stream: 1, Events: 1, ListBytes: 1, StreamBytes: 1, Bytes: 1, Count: 10}},
		},
	} {
		text := r.text()
		head, rows := 0, 0
		for line := range strings.Lines(text) {
			n := strings.Count(line, "|") - 1
			switch {
			case n < 0:
				head = 0
			case head == 0:
				head = n
				if n > 6 {
					t.Errorf("%s: the table has %d columns: %s", name, n, line)
				}
			case n != head:
				t.Errorf("%s: the row has %d columns, its table %d: %s", name, n, head, line)
			default:
				rows++
			}
		}
		if rows < 10 {
			t.Errorf("%s: got %d rows:\n%s", name, rows, text)
		}
		for _, want := range []string{
			"| (e) pseudo-agent | 1.50 s | 2.5 s | 51 MB | 3.8 MB |", "| (e) pseudo-agent | 15.3 µs | 48.7 µs | 1.11 s | 61 MB |",
			"| (e) pseudo-agent | 52 ms | 0.6 MB | 8.0 MB |", "| (a) stock dynamic informer | – | – | – |",
			map[bool]string{true: "| protobuf to JSON | 0.50 | 0.50 | 0.50 |", false: "| (e) pseudo-agent | 620 | 13 | 921 MB | 1.50 s | 51 MB |"}[r.ofKube()],
		} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", name, want, text)
			}
		}
	}
}
