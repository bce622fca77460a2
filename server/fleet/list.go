package fleet

import (
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/paging"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
)

// List is a page of clusters.
type List struct {
	// Total is how many clusters match, on all pages.
	Total    int       `json:"total"`
	Clusters []Cluster `json:"clusters"`
	Continue string    `json:"continue,omitempty"`
	Source
}

// page is a List with what is encoded already.
type page struct {
	Total    int    `json:"total"`
	Clusters []any  `json:"clusters"`
	Continue string `json:"continue,omitempty"`
	Source
}

// params are those of the list.
var params = []string{
	"contains", "trouble", "watcher", "label", "min_age", "max_age", "min_objects", "max_objects", "version", "sort", "limit", "continue",
}

// Bounds of a page.
const (
	defaultPage = 100
	maxPage     = 5000
)

// Troubles returns what the parameter trouble may be.
func Troubles() []string { return append([]string{"any", "none"}, Causes()...) }

// Watchers returns what the parameter watcher may be.
func Watchers() []string {
	return []string{elector.RoleHeld, elector.RoleStopping, elector.RoleWaiting, elector.RoleWithout, "none"}
}

// orders are what the list can be sorted by: the rank of a cluster, which is not negative, or nil for a text.
var orders = map[string]func(*Cluster) (uint64, string){
	"cluster": func(*Cluster) (uint64, string) { return 0, "" }, // the id comes last in every order
	"trouble": func(c *Cluster) (uint64, string) {
		if len(c.Trouble) == 0 {
			return math.MaxUint64, ""
		}
		return uint64(severity[c.Trouble[0]]), ""
	},
	// By the time of the last report, which does not change while pages are read, the youngest first.
	"age":     func(c *Cluster) (uint64, string) { return math.MaxInt64 - uint64(max(0, c.LastReport.UnixMilli())), "" },
	"objects": func(c *Cluster) (uint64, string) { return uint64(max(0, c.Objects)), "" },
	"bytes":   func(c *Cluster) (uint64, string) { return uint64(max(0, c.Bytes)), "" },
	"version": func(c *Cluster) (uint64, string) { return c.Version, "" },
	"watcher": func(c *Cluster) (uint64, string) {
		if c.Watcher == nil {
			return uint64(len(Watchers())), ""
		}
		return uint64(slices.Index(Watchers(), c.Watcher.State)), c.Watcher.Holder
	},
}

// Orders returns what the list can be sorted by, beside label.KEY; a minus before it turns the order around.
func Orders() []string {
	return []string{"cluster", "trouble", "age", "objects", "bytes", "version", "watcher"}
}

// labelOrder begins an order by a label.
const labelOrder = "label."

// query is what a list is asked for.
type query struct {
	contains, trouble, watcher string
	labels                     receiver.Labels
	age, objects               span
	version                    uint64 // 0: any
	order                      func(*Cluster) (uint64, string)
	falling                    bool
	limit                      int
	token                      string
}

// span is what a number must be in.
type span struct{ least, most float64 }

func (s span) has(v float64) bool { return v >= s.least && v <= s.most }

func bad(format string, args ...any) *receiver.APIError {
	return &receiver.APIError{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...), Advice: "docs/api.md describes the parameters"}
}

// clip shortens a client's text for a message.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.ToValidUTF8(s[:min(len(s), 100)], "")
}

// parse reads the parameters of a list.
func parse(q url.Values) (*query, error) {
	out := &query{contains: strings.ToLower(q.Get("contains")), trouble: q.Get("trouble"), watcher: q.Get("watcher"), limit: defaultPage, token: q.Get("continue")}
	for name, allowed := range map[string][]string{"trouble": Troubles(), "watcher": Watchers()} {
		if v := q.Get(name); v != "" && !slices.Contains(allowed, v) {
			return nil, bad("%s is %q; there are: %s", name, clip(v), strings.Join(allowed, ", "))
		}
	}
	var err error
	if out.labels, err = receiver.ParseLabels(q.Get("label")); err != nil {
		return nil, err //nolint:wrapcheck // it is of the API already
	}
	if out.age, err = spanOf(q, "age"); err != nil {
		return nil, err
	}
	if out.objects, err = spanOf(q, "objects"); err != nil {
		return nil, err
	}
	if text := q.Get("version"); text != "" {
		if out.version, err = strconv.ParseUint(text, 10, 64); err != nil || out.version == 0 {
			return nil, bad("version is %q, a number from 1 is allowed", clip(text))
		}
	}
	if text := q.Get("limit"); text != "" {
		if out.limit, err = strconv.Atoi(text); err != nil || out.limit < 1 || out.limit > maxPage {
			return nil, bad("limit is %q, a number from 1 to %d is allowed", clip(text), maxPage)
		}
	}
	return out, out.sortBy(q.Get("sort"))
}

// spanOf reads min_NAME and max_NAME, whole numbers.
func spanOf(q url.Values, name string) (span, error) {
	s := span{most: math.Inf(1)}
	for prefix, bound := range map[string]*float64{"min_": &s.least, "max_": &s.most} {
		text := q.Get(prefix + name)
		if text == "" {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 53)
		if err != nil {
			return s, bad("%s%s is %q, a whole number is needed", prefix, name, clip(text))
		}
		*bound = float64(n)
	}
	return s, nil
}

func (q *query) sortBy(text string) error {
	name, falling := strings.CutPrefix(text, "-")
	if name == "" && !falling {
		name = "cluster"
	}
	q.falling, q.order = falling, orders[name]
	if key, ok := strings.CutPrefix(name, labelOrder); ok && key != "" {
		q.order = func(c *Cluster) (uint64, string) {
			value, ok := c.Labels[key]
			if !ok {
				return 1, "" // after those that have it
			}
			return 0, value
		}
	}
	if q.order == nil {
		return bad("sort is %q; there are: %s and %sKEY, each with a minus before it for the other direction", clip(text), strings.Join(Orders(), ", "), labelOrder)
	}
	return nil
}

// takes tells whether a cluster is asked for.
func (q *query) takes(c *Cluster) bool {
	switch {
	case q.contains != "" && !c.contains(q.contains),
		q.trouble == "any" && len(c.Trouble) == 0, q.trouble == "none" && len(c.Trouble) > 0,
		q.trouble != "" && q.trouble != "any" && q.trouble != "none" && !slices.Contains(c.Trouble, q.trouble),
		q.watcher != "" && c.watcher() != q.watcher,
		!q.labels.Match(c.Labels), !q.age.has(c.AgeSeconds), !q.objects.has(float64(c.Objects)),
		q.version != 0 && c.Version != q.version:
		return false
	}
	return true
}

// key is a cluster's place in the order. The id makes it the only one of its key.
func (q *query) key(c *Cluster) []string {
	rank, text := q.order(c)
	if q.falling {
		return []string{fmt.Sprintf("%016x", ^rank), reversed(text), reversed(c.ID)}
	}
	return []string{fmt.Sprintf("%016x", rank), text, c.ID}
}

// reversed returns a text that comes before another one's exactly if s comes after the other one.
func reversed(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] = ^b[i]
	}
	return hex.EncodeToString(b) + "g" // after every digit, because what is longer comes first
}

func (f *Fleet) apiClusters(req *http.Request) (any, error) {
	q, err := parse(req.URL.Query())
	if err != nil {
		return nil, err
	}
	list, age, err := f.all(req.Context(), receiver.User(req))
	if err != nil {
		return nil, err
	}
	rows := make([]paging.Row, 0, len(list))
	for i := range list {
		if q.takes(&list[i]) {
			rows = append(rows, paging.Row{Key: q.key(&list[i]), Value: &list[i]})
		}
	}
	paging.Sort(rows)
	p, err := paging.Of(rows, q.token, q.limit, f.opts.Page)
	return page{Total: p.Total, Clusters: p.Items, Continue: p.Next, Source: sourceOf(age)}, err
}
