package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/reporter"
)

func TestResourcesAreSortedByTrouble(t *testing.T) {
	list := resourceListing([]informers.ResourceStatus{
		{Resource: "pods", State: informers.Synced, Required: true},
		{Resource: "routes", State: informers.NotServed},
		{Resource: "services", State: informers.Listing, Required: true},
		{Resource: "nodes", State: informers.Forbidden, Required: true, Reason: "no list"},
		{Resource: "clonesets", State: informers.NotServed, Required: true},
	})
	var got []string
	for _, r := range list.Rows {
		got = append(got, r.Cells[0].Text+" "+string(r.Tone)+" "+r.Cells[5].Text)
		if len(r.Cells) != len(list.Header) {
			t.Errorf("got %d cells for %d columns", len(r.Cells), len(list.Header))
		}
	}
	if want := "nodes bad no list, clonesets warn , services warn , pods good , routes quiet "; strings.Join(got, ", ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, ", "), want)
	}
}

// TestWay looks at where the way of the data is held up.
func TestWay(t *testing.T) {
	now := time.Now()
	synced := informers.ResourceStatus{Resource: "pods", State: informers.Synced, Required: true, Entries: 3, LastList: &now, LastEvent: &now}
	failing := informers.ResourceStatus{Resource: "pods", State: informers.Failing, Required: true}
	version := informers.ResourceStatus{Resource: informers.VersionID, State: informers.Synced, Required: true}
	absent := informers.ResourceStatus{Resource: "routes", State: informers.NotServed}
	forbidden := informers.ResourceStatus{Resource: "nodes", State: informers.Forbidden, Required: true}
	whole := informers.Verdict{Complete: true}
	good := reporter.Status{State: "synced", Version: 1, Entries: 3, LastReport: &now, Watcher: reporter.WatcherStatus{Watching: true}}
	since := now.Add(-time.Hour)
	away := good
	away.ErrorFrom = &since
	frozen := good
	frozen.ErrorMsg = "pods: forbidden"
	for name, tt := range map[string]struct {
		seen informers.Status
		st   reporter.Status
		idle bool
		want string
	}{
		"all is well":             {informers.Status{Resources: []informers.ResourceStatus{synced}, Verdict: whole}, good, false, "apiserver good, resources good, snapshot good, reporter good, server good"},
		"the apiserver is away":   {informers.Status{Resources: []informers.ResourceStatus{failing}}, reporter.Status{State: "waiting", Watcher: good.Watcher}, false, "apiserver bad, resources bad, snapshot warn, reporter good, server warn"},
		"the apiserver went away": {informers.Status{Resources: []informers.ResourceStatus{failing, absent, version}, Verdict: whole}, good, false, "apiserver bad, resources bad, snapshot good, reporter good, server good"},
		"a resource is forbidden": {informers.Status{Resources: []informers.ResourceStatus{synced, forbidden}}, frozen, false, "apiserver good, resources bad, snapshot warn, reporter bad, server good"},
		"the server is away":      {informers.Status{Resources: []informers.ResourceStatus{synced}, Verdict: whole}, away, false, "apiserver good, resources good, snapshot good, reporter good, server bad"},
		"it stands by":            {informers.Status{}, reporter.Status{State: "standby"}, true, "apiserver quiet, resources quiet, snapshot quiet, reporter quiet, server quiet"},
	} {
		var got []string
		for _, s := range append(wayFrom(tt.seen, tt.st, tt.idle), wayTo(tt.st)...) {
			got = append(got, fmt.Sprint(s.Name, " ", s.Tone))
		}
		if strings.Join(got, ", ") != tt.want {
			t.Errorf("%s: got %s, want %s", name, strings.Join(got, ", "), tt.want)
		}
	}
}
