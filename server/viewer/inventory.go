package viewer

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/server/paging"
)

// Summary is the inventory of a cluster in numbers.
type Summary struct {
	Cluster string `json:"cluster"`
	// ReportVersion is the version whose inventory it is.
	ReportVersion uint64    `json:"report_version"`
	ReceivedAt    time.Time `json:"received_at"`
	inventory.Summary
}

func (v *Viewer) apiSummary(req *http.Request) (any, error) {
	var out Summary
	err := v.reading(req.Context(), req.PathValue("cluster"), func(c *cluster) error {
		st := c.state
		out = Summary{Cluster: st.ID, ReportVersion: st.Latest.Version, ReceivedAt: st.Latest.ReceivedAt, Summary: c.inv.Summary()}
		return nil
	})
	return out, err
}

// List is a page of resources or findings.
type List struct {
	Cluster string `json:"cluster"`
	Version uint64 `json:"version"` // the report's
	Total   int    `json:"total"`   // of all pages
	Items   []any  `json:"items"`
	// Continue is given as ?continue= to get the next page; empty on the last one.
	Continue string `json:"continue,omitempty"`
}

// kinds are the lists of an inventory by the name that they have in the path. What a row is searched by follows its key.
var kinds = map[string]func(*inventory.Inventory, inventory.Filter, url.Values) []paging.Row{
	"nodes": func(inv *inventory.Inventory, f inventory.Filter, q url.Values) []paging.Row {
		return rows(inv.Nodes(f), q, func(n inventory.Node) []string { return []string{"", n.Name, n.UID, n.Address} }, nil)
	},
	"namespaces": func(inv *inventory.Inventory, f inventory.Filter, q url.Values) []paging.Row {
		return rows(inv.Namespaces(f), q, func(n inventory.Namespace) []string { return []string{"", n.Name, n.UID} }, nil)
	},
	"workloads": func(inv *inventory.Inventory, f inventory.Filter, q url.Values) []paging.Row {
		return rows(inv.Workloads(f), q, func(w inventory.Workload) []string { return []string{w.Namespace, w.Name, w.UID, w.Type} }, nil)
	},
	"replicasets": func(inv *inventory.Inventory, f inventory.Filter, q url.Values) []paging.Row {
		return rows(inv.ReplicaSets(f), q, func(r inventory.ReplicaSet) []string { return []string{r.Namespace, r.Name, r.UID} }, nil)
	},
	"pods": func(inv *inventory.Inventory, f inventory.Filter, q url.Values) []paging.Row {
		workload, node := q.Get("workload"), q.Get("node")
		return rows(inv.Pods(f), q, func(p inventory.Pod) []string {
			return append([]string{p.Namespace, p.Name, p.UID}, p.Addresses...)
		}, func(p inventory.Pod) bool {
			return (workload == "" || p.Workload == workload) && (node == "" || p.Node == node)
		})
	},
	"services": func(inv *inventory.Inventory, f inventory.Filter, q url.Values) []paging.Row {
		return rows(inv.Services(f), q, func(s inventory.Service) []string { return []string{s.Namespace, s.Name, s.UID, s.ClusterIP} }, nil)
	},
	"ingresses": func(inv *inventory.Inventory, f inventory.Filter, q url.Values) []paging.Row {
		return rows(inv.Ingresses(f), q, func(i inventory.Ingress) []string { return []string{i.Namespace, i.Name, i.UID} }, nil)
	},
	"configmaps": func(inv *inventory.Inventory, f inventory.Filter, q url.Values) []paging.Row {
		return rows(inv.ConfigMaps(f), q, func(c inventory.ConfigMap) []string { return []string{c.Namespace, c.Name, c.UID} }, nil)
	},
}

// keyParts is how many of the texts of a row are its key: namespace, name, uid.
const keyParts = 3

// rows makes lines of those items that contain what is searched for, in their name or the texts after the key.
func rows[T any](items []T, q url.Values, texts func(T) []string, takes func(T) bool) []paging.Row {
	contains := strings.ToLower(q.Get("contains"))
	out := make([]paging.Row, 0, len(items))
	for _, item := range items {
		if takes != nil && !takes(item) {
			continue
		}
		t := texts(item)
		found := contains == "" || strings.Contains(strings.ToLower(t[1]), contains) ||
			slices.ContainsFunc(t[keyParts:], func(s string) bool { return strings.Contains(strings.ToLower(s), contains) })
		if found {
			out = append(out, paging.Row{Key: t[:keyParts:keyParts], Value: item})
		}
	}
	return out
}

// KindNames are the kinds of resources that can be listed.
func KindNames() []string {
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (v *Viewer) apiInventory(req *http.Request) (any, error) {
	list := kinds[req.PathValue("kind")]
	if list == nil {
		return nil, bad("kind %q is unknown; there are: %s", clip(req.PathValue("kind")), strings.Join(KindNames(), ", "))
	}
	q := req.URL.Query()
	if req.PathValue("kind") != "pods" && (q.Has("workload") || q.Has("node")) {
		return nil, bad("the parameters workload and node are known of pods only")
	}
	return v.list(req, func(inv *inventory.Inventory, q url.Values) []paging.Row {
		return list(inv, inventory.Filter{Namespace: q.Get("namespace"), Name: q.Get("name")}, q)
	})
}

// list answers with a page of what collect returns.
func (v *Viewer) list(req *http.Request, collect func(*inventory.Inventory, url.Values) []paging.Row) (any, error) {
	q := req.URL.Query()
	limit, err := limitOf(q)
	if err != nil {
		return nil, err
	}
	token := q.Get("continue")
	q.Del("continue")
	q.Del("limit")
	query := req.URL.Path + "?" + q.Encode()
	var all []paging.Row
	out := List{}
	ctx := req.Context()
	err = v.reading(ctx, req.PathValue("cluster"), func(c *cluster) error {
		out.Cluster, out.Version = c.id, c.state.Latest.Version
		all, err = v.listed(ctx, c, query, func() []paging.Row { return collect(c.inv, q) })
		return err
	})
	if err != nil {
		return nil, err
	}
	p, err := paging.Of(all, token, limit, v.opts.Store.Budget().Page())
	out.Total, out.Items, out.Continue = p.Total, p.Items, p.Next
	return out, err
}

// scopes orders the scopes of reasons, the gravest first.
var scopes = []inventory.Scope{inventory.ScopeCrash, inventory.ScopeCluster, inventory.ScopeObject, inventory.ScopeRelation}

func (v *Viewer) apiDropped(req *http.Request) (any, error) {
	q := req.URL.Query()
	if _, err := oneOf(q, "scope", texts(scopes)...); err != nil {
		return nil, err
	}
	var reasons []string
	for _, r := range inventory.Reasons() {
		reasons = append(reasons, string(r.Reason))
	}
	if _, err := oneOf(q, "reason", reasons...); err != nil {
		return nil, err
	}
	return v.list(req, func(inv *inventory.Inventory, q url.Values) []paging.Row {
		f := inventory.Filter{Namespace: q.Get("namespace"), Name: q.Get("name"), Reason: inventory.Reason(q.Get("reason")), Type: q.Get("type")}
		scope, contains := q.Get("scope"), strings.ToLower(q.Get("contains"))
		var out []paging.Row
		for _, x := range inv.Findings(f) {
			if scope != "" && string(x.Scope) != scope || contains != "" && !strings.Contains(strings.ToLower(x.Name), contains) {
				continue
			}
			out = append(out, paging.Row{Key: []string{x.Type, x.Namespace, x.Name, x.ID, string(x.Reason), x.Detail}, Value: x})
		}
		return out
	})
}

func texts[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return out
}

// ReasonCount is a reason and how often it occurs.
type ReasonCount struct {
	inventory.ReasonInfo
	Count int `json:"count"`
}

// ReasonList is what a cluster loses, by reason: the gravest first, then the most frequent.
type ReasonList struct {
	Cluster string        `json:"cluster"`
	Version uint64        `json:"version"`
	Reasons []ReasonCount `json:"reasons"`
}

func (v *Viewer) apiReasons(req *http.Request) (any, error) {
	out := ReasonList{Reasons: []ReasonCount{}}
	err := v.reading(req.Context(), req.PathValue("cluster"), func(c *cluster) error {
		out.Cluster, out.Version = c.id, c.state.Latest.Version
		dropped := c.inv.Summary().Dropped
		for _, r := range inventory.Reasons() {
			if n := dropped[r.Reason]; n > 0 {
				out.Reasons = append(out.Reasons, ReasonCount{ReasonInfo: r, Count: n})
			}
		}
		return nil
	})
	slices.SortStableFunc(out.Reasons, func(a, b ReasonCount) int {
		return cmp.Or(slices.Index(scopes, a.Scope)-slices.Index(scopes, b.Scope), b.Count-a.Count)
	})
	return out, err
}
