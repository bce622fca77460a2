package viewer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/paging"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// Bounds of a page.
const (
	defaultPage = 100
	maxPage     = 5000
)

// Routes returns the viewer's part of the API; docs/openapi.yaml describes it.
func (v *Viewer) Routes() []receiver.Route {
	read := func(path, summary string, answer func(*http.Request) (any, error), params ...string) receiver.Route {
		return receiver.Route{Method: http.MethodGet, Path: path, Role: receiver.RoleRead, Summary: summary, Params: params, Answer: answer}
	}
	change := func(method, path, summary string, answer func(*http.Request) (any, error)) receiver.Route {
		return receiver.Route{Method: method, Path: path, Role: receiver.RoleAdminister, Summary: summary, Answer: answer}
	}
	return []receiver.Route{
		read("/clusters/{cluster}/inventory", "What deepflow-server would make of the latest version, in numbers.", v.apiSummary),
		read("/clusters/{cluster}/inventory/{kind}", "Resources of one kind as deepflow-server would show them.", v.apiInventory,
			"namespace", "name", "contains", "workload", "node", "limit", "continue"),
		read("/clusters/{cluster}/dropped", "What deepflow-server would drop, each with its reason.", v.apiDropped,
			"reason", "scope", "type", "namespace", "name", "contains", "limit", "continue"),
		read("/clusters/{cluster}/dropped/reasons", "What deepflow-server would drop, counted by reason.", v.apiReasons),
		read("/clusters/{cluster}/object", "One object: as stored, what deepflow-server makes of it, its neighbours, its versions.", v.apiObject, "type", "namespace", "name", "uid"),
		read("/clusters/{cluster}/graph", "The picture of a namespace: Ingresses, Services, workloads, Pods, Nodes and what breaks between them.", v.apiGraph,
			"namespace", "limit"),
		read("/clusters/{cluster}/differences", "What differs between two versions.", v.apiDifferences,
			"from", "to", "type", "namespace", "name", "content", "limit", "continue"),
		read("/clusters/{cluster}/changes", "A stream of changes (server-sent events).", v.apiChanges, "since"),
		read("/plugins", "All plugins in the order in which they are asked.", v.apiPlugins),
		change(http.MethodPost, "/plugins", "Create a plugin, or replace its script.", v.apiCreatePlugin),
		change(http.MethodDelete, "/plugins/{name}", "Delete a plugin.", v.apiDeletePlugin),
		change(http.MethodPost, "/clusters/{cluster}/plugin-test", "Run a script against the Pods of a cluster and tell what it would change.", v.apiTestPlugin),
	}
}

func bad(format string, args ...any) *receiver.APIError {
	return &receiver.APIError{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...), Advice: "docs/api.md describes the request"}
}

// clip shortens a client's text for a message.
func clip(s string) string {
	const most = 100
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func limitOf(q url.Values) (int, error) { return bounded(q, defaultPage, maxPage) }

// bounded reads the parameter limit, a number from 1 to most.
func bounded(q url.Values, otherwise, most int) (int, error) {
	text := q.Get("limit")
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, bad("limit is %q, a number from 1 to %d is allowed", clip(text), most)
	}
	return n, nil
}

func oneOf(q url.Values, name string, allowed ...string) (string, error) {
	s := q.Get(name)
	if s != "" && !slices.Contains(allowed, s) {
		return "", bad("%s is %q; there are: %s", name, clip(s), strings.Join(allowed, ", "))
	}
	return s, nil
}

// listing is the list that was asked for last. To make that of 100,000 Pods takes a second, and it is read in 20 pages.
type listing struct {
	cluster *cluster
	version version
	asked   uint64 // as cluster.asked
	query   string // without what tells the page
	rows    []paging.Row
	used    time.Time
}

// keepListing is how long a listing is kept after it was used.
const keepListing = 10 * time.Second

// listed returns the rows of a list in order, made by collect unless they are those that were asked for last. Only one list is
// made at a time: that of a large cluster takes much memory. The caller reads the cluster.
func (v *Viewer) listed(ctx context.Context, c *cluster, query string, collect func() []paging.Row) ([]paging.Row, error) {
	if err := wait(ctx, v.collecting, "lists that are being made"); err != nil {
		return nil, err
	}
	defer func() { <-v.collecting }()
	wanted := listing{cluster: c, version: versionOf(c.state), asked: c.asked, query: query}
	v.mu.Lock()
	last := v.last
	same := last != nil && last.cluster == c && last.version == wanted.version && last.asked == wanted.asked && last.query == query
	if !same {
		v.last = nil // so that no two are held
	}
	v.mu.Unlock()
	if same {
		wanted.rows = last.rows
	} else {
		wanted.rows = collect()
		paging.Sort(wanted.rows)
	}
	wanted.used = time.Now()
	v.mu.Lock()
	v.last = &wanted
	v.mu.Unlock()
	return wanted.rows, nil
}

// forgetListing gives the memory of a listing back that nobody reads any more.
func (v *Viewer) forgetListing() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.last != nil && time.Since(v.last.used) > keepListing {
		v.last = nil
	}
}

// readPatience is how long a reader waits for an inventory that is being computed, or for the storage.
const readPatience = 10 * time.Second

// reading calls f with a cluster that has the inventory of the latest version and does not change meanwhile.
func (v *Viewer) reading(ctx context.Context, id string, f func(c *cluster) error) error {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	err := v.upToDate(ctx, id, f)
	if err != nil && ctx.Err() != nil {
		return &receiver.APIError{
			Status: http.StatusServiceUnavailable, Message: fmt.Sprintf("the inventory of cluster %s is being computed%s, or the storage does not answer", clip(id), v.progress(id)),
			Advice: "try again in some seconds; /status says whether the storage works",
		}
	}
	return err
}

// progress says how far an inventory is that is being made, as " (30 %)"; empty if none is.
func (v *Viewer) progress(id string) string {
	v.mu.Lock()
	c := v.clusters[id]
	v.mu.Unlock()
	if c == nil {
		return ""
	}
	todo := c.todo.Load()
	if todo == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d %% of %d objects)", min(100, 100*c.ready.Load()/todo), todo)
}

func (v *Viewer) upToDate(ctx context.Context, id string, f func(c *cluster) error) error {
	st, err := v.opts.Store.State(ctx, id)
	if err != nil {
		return notStored(id, err)
	}
	if st.Latest.Seq == 0 {
		return &receiver.APIError{Status: http.StatusNotFound, Message: fmt.Sprintf("cluster %s has not reported any objects yet", id)}
	}
	c := v.cluster(id)
	c.used.Store(time.Now().UnixNano())
	if !c.isAt(st) || !c.hasAsked(v.answers.Load()) {
		if err := v.refresh(ctx, c); err != nil {
			return err
		}
	}
	if err := c.use.Acquire(ctx, 1); err != nil {
		return err //nolint:wrapcheck // of the context
	}
	defer c.use.Release(1)
	if c.inv == nil {
		return &receiver.APIError{Status: http.StatusServiceUnavailable, Message: fmt.Sprintf("cluster %s changes just now", id), Advice: "try again"}
	}
	return f(c)
}

// refresh brings the inventory up to date. If that takes longer than ctx allows it goes on for those who ask later, until
// it is done or the Viewer ends; of those who only wait for their turn none stays.
func (v *Viewer) refresh(ctx context.Context, c *cluster) error {
	v.mu.Lock()
	if v.ending.Err() != nil {
		v.mu.Unlock()
		return context.Cause(v.ending) //nolint:contextcheck // the Viewer's own end, not the reader's
	}
	v.working.Add(1)
	v.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		defer v.working.Done()
		err := v.catchUp(ctx, c, unheard)
		if err == nil {
			err = v.again(ctx, c, unheard)
		}
		v.evict(v.ending, c) //nolint:contextcheck // it is no longer the reader's work
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (v *Viewer) view(ctx context.Context, id string) (*store.View, error) {
	view, err := v.opts.Store.View(ctx, id)
	return view, notStored(id, err)
}

// notStored is the answer for a cluster that is not there, and err if there is another reason.
func notStored(id string, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return &receiver.APIError{
			Status: http.StatusNotFound, Message: fmt.Sprintf("no cluster %q is stored", clip(id)), Advice: "GET " + receiver.APIPrefix + "/clusters lists all",
		}
	}
	return err
}
