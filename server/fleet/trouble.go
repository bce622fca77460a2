package fleet

import (
	"cmp"
	"slices"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
)

// The causes of trouble that are not a reason of the inventory's.
const (
	Unloaded       = "unloaded"
	TwoClusters    = "two_clusters"
	Suspicion      = "suspicion"
	Frozen         = "frozen"
	Stale          = "stale"
	WithoutWatcher = "without_watcher"
	Late           = "late"
)

// lateAfter is how many seconds after its last report a cluster is late: agents send a heartbeat every minute.
const lateAfter = 300

// cause is why a cluster is in trouble.
type cause struct{ name, sentence, advice string }

// causes are all, the worst first: what harms other clusters, what loses what is reported now, what keeps old objects, and what
// may become one of these.
var causes = func() []cause {
	list := ofScope(inventory.ScopeCrash)
	list = append(list, []cause{
		{Unloaded, "It is not in memory, because there is no room: what is stored stays, but can neither be reported nor looked at.", "Delete clusters that are gone, or give pseudo-server more memory (limits.memory, by default the container's limit)."},
		{TwoClusters, "A second cluster tries to report under this id, and is refused.", "Give each cluster a cluster_id of its own, or accept the second one."},
		{Suspicion, "A report that would remove too much was refused.", "Look at the cluster, then accept it or fix its sender."},
	}...)
	list = append(list, ofScope(inventory.ScopeCluster)...)
	return append(list, []cause{
		{Frozen, "An error is reported; the objects stay as they are.", "Read error_msg of the cluster and the log of its pseudo-agent."},
		{Stale, "It has not been heard from for longer than retention.stale_after.", "See whether its pseudo-agent runs and reaches this server; delete the cluster if it is gone."},
		{WithoutWatcher, "Its agents Sync, and none of them can watch.", "Run a pseudo-agent or an agent in the cluster whose policy is not watch-disabled."},
		{Late, "Nothing has come from it for more than five minutes.", "See whether its pseudo-agent runs and reaches this server."},
	}...)
}()

// ofScope are the reasons that lose so much.
func ofScope(scope inventory.Scope) []cause {
	var list []cause
	for _, r := range inventory.Reasons() {
		if r.Scope == scope {
			list = append(list, cause{string(r.Reason), r.Sentence, r.Advice})
		}
	}
	return list
}

// severity is the place of a cause among causes.
var severity = func() map[string]int {
	places := make(map[string]int, len(causes))
	for i, c := range causes {
		places[c.name] = i
	}
	return places
}()

// Causes returns the names of all causes of trouble, the worst first.
func Causes() []string {
	names := make([]string, len(causes))
	for i, c := range causes {
		names[i] = c.name
	}
	return names
}

// trouble returns the causes of what is wrong with a cluster, the worst first. failures are of the inventory.
func trouble(c *Cluster, unloaded bool, failures []inventory.Reason) []string {
	var list []string
	for _, is := range []struct {
		name string
		so   bool
	}{
		{Unloaded, unloaded},
		{TwoClusters, c.Suspicion != nil && c.Suspicion.Other},
		{Suspicion, c.Suspicion != nil && !c.Suspicion.Other},
		{Frozen, c.ErrorMsg != ""},
		{Stale, c.Stale},
		{WithoutWatcher, c.Watcher != nil && c.Watcher.State == elector.RoleWithout},
		{Late, !c.Stale && c.AgeSeconds > lateAfter},
	} {
		if is.so {
			list = append(list, is.name)
		}
	}
	for _, reason := range failures {
		if _, known := severity[string(reason)]; known {
			list = append(list, string(reason))
		}
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Compare(severity[a], severity[b]) })
	return list
}
