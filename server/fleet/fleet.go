// Package fleet shows all clusters together: the list of them, searched, filtered and sorted, what is wrong with them by cause, and
// the shape of the whole.
//
// It relies on the receiver for what is stored, on the elector for who watches and on the viewer for what deepflow-server would not
// take over. It promises that an answer has only clusters that its reader may see, and is bounded however many there are.
package fleet

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Options of a Fleet. All are required but Page.
type Options struct {
	// Clusters returns all clusters, ordered by id, and how old that may be.
	Clusters func(ctx context.Context) ([]receiver.ClusterInfo, store.Age, error)
	// Unloaded returns the clusters that there is no room for in memory.
	Unloaded func() []store.Unloaded
	// LastMinute returns how many reports came to this process in the last minute, and their bytes.
	LastMinute func() (reports, bytes int64)
	// Roles returns who watches.
	Roles func() map[string]elector.Role
	// Failures returns, of each cluster of which deepflow-server would take nothing over, why.
	Failures func() map[string][]inventory.Reason
	// Page is the most bytes of a page.
	Page int
}

// Fleet answers for all clusters together. It is safe for concurrent use.
type Fleet struct{ opts Options }

// New returns a Fleet.
func New(opts Options) *Fleet { return &Fleet{opts: opts} }

// Routes returns the routes of the API.
func (f *Fleet) Routes() []receiver.Route {
	return []receiver.Route{
		{
			Method: http.MethodGet, Path: "/clusters", Role: receiver.RoleRead, Filtered: true, Answer: f.apiClusters, Params: params,
			Summary: "Clusters, by whatever is asked for: trouble, age, size, version, watcher, labels.",
		},
		{
			Method: http.MethodGet, Path: "/fleet", Role: receiver.RoleRead, Filtered: true, Answer: f.apiFleet,
			Summary: "All clusters in numbers, and what is wrong with them, by cause, the worst first.",
		},
	}
}

// Cluster is a line of the list.
type Cluster struct {
	receiver.ClusterInfo
	// Trouble are the causes of what is wrong with it, the worst first.
	Trouble []string `json:"trouble,omitempty"`
	// Watcher is its election; absent: no agent of it has ever sent a Sync.
	Watcher *elector.Role `json:"watcher,omitempty"`
}

// watcher is the state of its election, "none" if there is none.
func (c *Cluster) watcher() string {
	if c.Watcher == nil {
		return "none"
	}
	return c.Watcher.State
}

// all returns the clusters that a user may see, ordered by id, with what is wrong with them.
func (f *Fleet) all(ctx context.Context, user receiver.APIUser) ([]Cluster, store.Age, error) {
	infos, age, err := f.opts.Clusters(ctx)
	if err != nil {
		return nil, age, err
	}
	roles, failures := f.opts.Roles(), f.opts.Failures()
	unloaded := map[string]bool{}
	for _, u := range f.opts.Unloaded() {
		unloaded[u.Cluster] = true
	}
	list := make([]Cluster, 0, len(infos))
	for i := range infos {
		if !user.May(infos[i].ID) {
			continue
		}
		c := Cluster{ClusterInfo: infos[i]}
		if role, ok := roles[c.ID]; ok {
			c.Watcher = &role
		}
		c.Trouble = trouble(&c, unloaded[c.ID], failures[c.ID])
		list = append(list, c)
	}
	return list, age, nil
}

// Source tells of clusters that they may be old.
type Source struct {
	// ReadFrom is "standby" if they were read from one, and are at most AgeSeconds old.
	ReadFrom   string  `json:"read_from,omitempty"`
	AgeSeconds float64 `json:"age_seconds,omitempty"`
}

func sourceOf(age store.Age) Source {
	if !age.Standby {
		return Source{}
	}
	return Source{ReadFrom: "standby", AgeSeconds: age.Most.Seconds()}
}

// Overview is the shape of the fleet.
type Overview struct {
	Clusters int `json:"clusters"`
	// Fine are those without any trouble.
	Fine int `json:"fine"`
	// What follows counts clusters by a cause of trouble; one may have several.
	Late           int   `json:"late"`
	Stale          int   `json:"stale"`
	Frozen         int   `json:"frozen"` // an error is reported: objects stay as they are
	WithoutWatcher int   `json:"without_watcher"`
	Objects        int   `json:"objects"`
	Bytes          int64 `json:"bytes"`     // compressed, of the latest versions
	RawBytes       int64 `json:"raw_bytes"` // the same as JSON
	// What this process, of several replicas, took in the last minute; absent for those who may not see all clusters.
	ReportsPerMinute *int64 `json:"reports_per_minute,omitempty"`
	BytesPerMinute   *int64 `json:"bytes_per_minute,omitempty"`
	// Troubles are all causes that there are, the worst first.
	Troubles []Group `json:"troubles"`
	// Ages and Sizes count clusters by the time since the last report, and by objects.
	Ages  []Bucket `json:"ages"`
	Sizes []Bucket `json:"sizes"`
	Source
}

// Group are the clusters that have one kind of trouble.
type Group struct {
	Cause    string `json:"cause"`
	Sentence string `json:"sentence"`
	Advice   string `json:"advice"`
	Count    int    `json:"count"`
	// Clusters are the first ones by id, ten at most.
	Clusters []string `json:"clusters"`
}

// named is how many clusters a Group names.
const named = 10

// Bucket counts clusters up to a bound that have not been counted in the one before.
type Bucket struct {
	UpTo     float64 `json:"up_to,omitempty"` // absent in the last one, which has no bound
	Clusters int     `json:"clusters"`
}

// The bounds, in seconds and in objects.
var (
	ageBounds  = []float64{60, 120, 300, 3600, 24 * 3600}
	sizeBounds = []float64{100, 1000, 10_000, 100_000}
)

func (f *Fleet) apiFleet(req *http.Request) (any, error) {
	user := receiver.User(req)
	list, age, err := f.all(req.Context(), user)
	if err != nil {
		return nil, err
	}
	o := shape(list)
	o.Source = sourceOf(age)
	if len(user.Clusters) == 0 {
		reports, bytes := f.opts.LastMinute()
		o.ReportsPerMinute, o.BytesPerMinute = &reports, &bytes
	}
	return o, nil
}

// shape describes clusters, which are ordered by id.
func shape(list []Cluster) Overview {
	o := Overview{Clusters: len(list), Troubles: []Group{}, Ages: buckets(ageBounds), Sizes: buckets(sizeBounds)}
	groups := map[string]*Group{}
	for i := range list {
		c := &list[i]
		o.Objects += c.Objects
		o.Bytes += c.Bytes
		o.RawBytes += c.RawBytes
		count(o.Ages, c.AgeSeconds)
		count(o.Sizes, float64(c.Objects))
		if len(c.Trouble) == 0 {
			o.Fine++
		}
		for _, name := range c.Trouble {
			g := groups[name]
			if g == nil {
				of := causes[severity[name]]
				g = &Group{Cause: name, Sentence: of.sentence, Advice: of.advice}
				groups[name] = g
			}
			if g.Count++; g.Count <= named {
				g.Clusters = append(g.Clusters, c.ID)
			}
		}
	}
	for _, g := range slices.SortedFunc(maps.Values(groups), func(a, b *Group) int { return cmp.Compare(severity[a.Cause], severity[b.Cause]) }) {
		o.Troubles = append(o.Troubles, *g)
	}
	of := func(name string) int {
		if g := groups[name]; g != nil {
			return g.Count
		}
		return 0
	}
	o.Late, o.Stale, o.Frozen, o.WithoutWatcher = of(Late), of(Stale), of(Frozen), of(WithoutWatcher)
	return o
}

func buckets(bounds []float64) []Bucket {
	out := make([]Bucket, len(bounds)+1)
	for i, bound := range bounds {
		out[i].UpTo = bound
	}
	return out
}

func count(in []Bucket, value float64) {
	for i := range in {
		if i == len(in)-1 || value <= in[i].UpTo {
			in[i].Clusters++
			return
		}
	}
}

// contains tells whether a text, in small letters, is in what people know a cluster by.
func (c *Cluster) contains(text string) bool {
	has := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	if has(c.ID) || has(c.Reporter.SourceIP) || has(c.ErrorMsg) || c.Watcher != nil && has(c.Watcher.Holder) {
		return true
	}
	for key, value := range c.Labels {
		if has(key + "=" + value) {
			return true
		}
	}
	return false
}
