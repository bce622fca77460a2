package receiver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// APIPrefix is the path below which API is served.
const APIPrefix = "/api/v1"

// Route is one line of the API.
type Route struct {
	Method  string
	Path    string // below APIPrefix, with wildcards as in http.ServeMux
	Role    Role
	Summary string
	// Filtered says that Answer leaves out clusters that User may not see. Otherwise a route without {cluster} is refused to
	// those who may not see all.
	Filtered bool
	// Params are the parameters of the query that there are; a request with another one is refused.
	Params []string
	// Answer returns what is sent as JSON, or a Stream, or an error; an *APIError says which status.
	Answer func(req *http.Request) (any, error)
}

// Routes returns the routes of the receiver itself; API may be given more.
func (r *Receiver) Routes() []Route {
	get := func(path, summary string, answer func(*http.Request) (any, error), params ...string) Route {
		return Route{Method: http.MethodGet, Path: path, Role: RoleRead, Summary: summary, Params: params, Answer: answer}
	}
	return []Route{
		get("/clusters/{cluster}", "One cluster.", r.apiCluster),
		{
			Method: http.MethodDelete, Path: "/clusters/{cluster}", Role: RoleAdminister,
			Summary: "Forget a cluster and all that is stored of it.", Answer: r.apiForget,
		},
		{
			Method: http.MethodPost, Path: "/clusters/{cluster}/labels", Role: RoleAdminister,
			Summary: "Set and remove labels of a cluster, which the list of clusters is filtered and sorted by.", Answer: r.apiLabel,
		},
		get("/clusters/{cluster}/versions", "The versions of a cluster that can be read, oldest first.", r.apiVersions),
		get("/clusters/{cluster}/objects", "Objects of a cluster, decoded.", r.apiObjects,
			"type", "namespace", "name", "label", "version", "limit", "continue"),
		{
			Method: http.MethodPost, Path: "/clusters/{cluster}/suspicion/accept", Role: RoleAdminister,
			Summary: "Let the next report of a cluster remove what it removes.", Answer: r.apiAccept,
		},
		{Method: http.MethodGet, Path: "/events", Role: RoleRead, Summary: "What was forgotten, newest first.", Filtered: true, Answer: r.apiEvents},
	}
}

// Query returns the parameters of a request, or an error if there is one that is not allowed, or one twice.
func Query(req *http.Request, allowed []string) (url.Values, error) {
	q, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return nil, badParam("the query is not valid: %v", err)
	}
	for name, values := range q {
		switch {
		case !slices.Contains(allowed, name) && len(allowed) == 0:
			return nil, badParam("parameter %q is unknown; there are none", clip(name))
		case !slices.Contains(allowed, name):
			return nil, badParam("parameter %q is unknown; there are: %s", clip(name), strings.Join(allowed, ", "))
		case len(values) > 1:
			return nil, badParam("parameter %s is given %d times, once is allowed", name, len(values))
		}
	}
	return q, nil
}

// APIError is an error that the client of the API caused, or can do something about.
type APIError struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
	Advice  string `json:"advice,omitempty"`
}

func (e *APIError) Error() string { return e.Message }

// ClusterInfo is a cluster as the API shows it.
type ClusterInfo struct {
	ID      string `json:"id"`
	Version uint64 `json:"version"`
	// State is "ok", "error" (error_msg is set) or "stale" (no report for longer than Retention.StaleAfter).
	State       string                 `json:"state"`
	Stale       bool                   `json:"stale"`
	FirstReport time.Time              `json:"first_report,omitzero"`
	LastReport  time.Time              `json:"last_report,omitzero"`
	AgeSeconds  float64                `json:"age_seconds"` // since LastReport
	ChangedAt   time.Time              `json:"changed_at,omitzero"`
	ErrorMsg    string                 `json:"error_msg"`
	ErrorSince  time.Time              `json:"error_since,omitzero"`
	Reporter    store.Reporter         `json:"reporter"`
	Objects     int                    `json:"objects"`
	Bytes       int64                  `json:"bytes"`     // compressed
	RawBytes    int64                  `json:"raw_bytes"` // JSON
	Types       map[string]store.Count `json:"types"`
	// UnknownTypes are those among Types that no deepflow-server reads.
	UnknownTypes []string         `json:"unknown_types,omitempty"`
	Retained     store.Count      `json:"retained"` // entries of all kept versions
	Suspicion    *store.Suspicion `json:"suspicion,omitempty"`
	// Enrolled is the enrolment token whose holders the cluster is bound to.
	Enrolled *store.Enrolled `json:"enrolled,omitempty"`
	// Labels are those that an operator gave it.
	Labels map[string]string `json:"labels,omitempty"`
}

func (r *Receiver) info(st store.State) ClusterInfo {
	age := r.now().Sub(st.LastReport)
	info := ClusterInfo{
		ID: st.ID, Version: st.Latest.Version, State: "ok", Stale: age > r.opts.Retention.StaleAfter,
		FirstReport: st.FirstReport, LastReport: st.LastReport, AgeSeconds: age.Seconds(), ChangedAt: st.Latest.ReceivedAt,
		ErrorMsg: st.ErrorMsg, ErrorSince: st.ErrorSince, Reporter: st.Reporter, Objects: st.Latest.Objects,
		Bytes: st.Latest.Bytes, RawBytes: st.Latest.RawBytes, Types: st.Latest.Types, UnknownTypes: unknownTypes(st.Latest.Types), Retained: st.Retained, Suspicion: st.Suspicion, Enrolled: st.Enrolled,
		Labels: st.Labels,
	}
	switch {
	case info.Stale:
		info.State = "stale"
	case st.ErrorMsg != "":
		info.State = "error"
	}
	return info
}

// All returns all clusters, ordered by id, and how old that may be.
func (r *Receiver) All(ctx context.Context) ([]ClusterInfo, store.Age, error) {
	states, age, err := r.store.Look(ctx)
	if err != nil {
		return nil, age, err
	}
	infos := make([]ClusterInfo, len(states))
	for i, st := range states {
		infos[i] = r.info(st)
	}
	return infos, age, nil
}

func (r *Receiver) apiCluster(req *http.Request) (any, error) {
	id := req.PathValue("cluster")
	st, err := r.store.State(req.Context(), id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noCluster(id)
	}
	if err != nil {
		return nil, err
	}
	return r.info(st), nil
}

func (r *Receiver) view(req *http.Request) (*store.View, error) {
	id := req.PathValue("cluster")
	view, err := r.store.View(req.Context(), id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noCluster(id)
	}
	return view, err
}

func noCluster(id string) *APIError {
	return &APIError{
		Status: http.StatusNotFound, Message: fmt.Sprintf("no cluster %q is stored", clip(id)),
		Advice: "GET " + APIPrefix + "/clusters lists all",
	}
}

func (r *Receiver) apiVersions(req *http.Request) (any, error) {
	view, err := r.view(req)
	if err != nil {
		return nil, err
	}
	versions := make([]Version, len(view.Snapshots))
	for i, s := range view.Snapshots {
		versions[i] = Version{Snapshot: s, LagSeconds: lagOf(s)}
	}
	return map[string]any{"cluster": view.State.ID, "versions": versions}, nil
}

// Version is a version that can be read.
type Version struct {
	store.Snapshot
	// LagSeconds is how long after the moment that the version names, in Unix microseconds, the report was received; absent if the
	// version is no such moment.
	LagSeconds *float64 `json:"lag_seconds,omitempty"`
}

// lagOf is how long a report was under way, by the two clocks; nil if the version is not a time within a day of its arrival.
func lagOf(s store.Snapshot) *float64 {
	if s.Version > math.MaxInt64 {
		return nil
	}
	lag := s.ReceivedAt.Sub(time.UnixMicro(int64(s.Version)))
	if lag.Abs() > 24*time.Hour {
		return nil
	}
	seconds := max(lag, 0).Seconds()
	return &seconds
}

// Object is an object as the API shows it.
type Object struct {
	Type      string          `json:"type"`
	Namespace string          `json:"namespace,omitempty"`
	Name      string          `json:"name"`
	Object    json.RawMessage `json:"object"`
}

// ObjectList is a page of objects.
type ObjectList struct {
	Cluster string   `json:"cluster"`
	Version uint64   `json:"version"`
	Total   int      `json:"total"` // objects that match, on all pages; with label those that match but for their labels
	Objects []Object `json:"objects"`
	// Continue is given as ?continue= to get the next page; empty on the last one.
	Continue string `json:"continue,omitempty"`
}

// Bounds of a page.
const (
	defaultPage = 100
	maxPage     = 5000
	maxLooked   = 20000 // objects whose labels are looked at for one page
)

func (r *Receiver) apiObjects(req *http.Request) (any, error) {
	view, err := r.view(req)
	if err != nil {
		return nil, err
	}
	q := req.URL.Query()
	limit, err := intParam(q.Get("limit"), "limit", defaultPage, 1, maxPage)
	if err != nil {
		return nil, err
	}
	version, offset, err := page(q.Get("version"), q.Get("continue"))
	if err != nil {
		return nil, err
	}
	snap, entries, err := view.At(version)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &APIError{
			Status: http.StatusGone, Message: fmt.Sprintf("version %d of cluster %s is not stored", version, view.State.ID),
			Advice: "GET " + APIPrefix + "/clusters/" + view.State.ID + "/versions lists those that are; begin again without continue",
		}
	}
	if err != nil {
		return nil, err
	}
	labels, err := ParseLabels(q.Get("label"))
	if err != nil {
		return nil, err
	}
	matching := filter(entries, q)
	list := &ObjectList{Cluster: view.State.ID, Version: snap.Version, Total: len(matching), Objects: []Object{}}
	to := min(offset, len(matching))
	for size, looked := 0, 0; to < len(matching) && len(list.Objects) < limit && looked < maxLooked; {
		batch := portion(matching[to:], max(limit-len(list.Objects), len(labels)*100), r.store.Budget().Page()-size, len(list.Objects) == 0)
		if len(batch) == 0 {
			break
		}
		objects, err := r.decoded(req, view.State.ID, batch)
		if err != nil {
			return nil, err
		}
		looked += len(batch)
		for _, o := range objects {
			if len(list.Objects) == limit {
				break
			}
			to++
			if labels.matchObject(o.Object) {
				list.Objects = append(list.Objects, o)
				size += len(o.Object)
			}
		}
	}
	if to < len(matching) {
		list.Continue = fmt.Sprintf("%d.%d", snap.Version, to)
	}
	return list, nil
}

// portion returns the first entries, not more than most and not larger than size, or at least one if there must be one.
func portion(entries []*store.Entry, most, size int, one bool) []*store.Entry {
	n := 0
	for n < min(most, len(entries)) {
		if size -= int(entries[n].RawSize); size < 0 && (n > 0 || !one) {
			break
		}
		n++
	}
	return entries[:n]
}

func (r *Receiver) decoded(req *http.Request, id string, entries []*store.Entry) ([]Object, error) {
	payloads, err := r.store.Payloads(req.Context(), id, entries)
	if err != nil {
		return nil, err
	}
	objects := make([]Object, 0, len(entries))
	for i, e := range entries {
		if payloads[i] == nil {
			return nil, &APIError{
				Status: http.StatusGone, Message: "the version was dropped while it was read", Advice: "begin again without continue",
			}
		}
		data, err := e.JSON(payloads[i])
		if err != nil {
			return nil, fmt.Errorf("cluster %s, %s: %w", id, describe(e), err)
		}
		objects = append(objects, Object{Type: e.Type, Namespace: e.Namespace, Name: e.Name, Object: data})
	}
	return objects, nil
}

// filter returns the entries that match the parameters type, namespace and name. A type may be written without its
// star, and without its package too.
func filter(entries []*store.Entry, q map[string][]string) []*store.Entry {
	get := func(key string) (string, bool) {
		v, ok := q[key]
		return strings.Join(v, ","), ok && strings.Join(v, "") != ""
	}
	wireType, byType := get("type")
	namespace, byNamespace := get("namespace")
	name, byName := get("name")
	if !byType && !byNamespace && !byName {
		return entries
	}
	var out []*store.Entry
	for _, e := range entries {
		if byType && e.Type != wireType && strings.TrimPrefix(e.Type, "*") != wireType && e.Type[strings.LastIndexByte(e.Type, '.')+1:] != wireType ||
			byNamespace && e.Namespace != namespace || byName && e.Name != name {
			continue
		}
		out = append(out, e)
	}
	return out
}

func intParam(s, name string, def, least, most int) (int, error) {
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return 0, badParam("%s is %q, a number from %d to %d is allowed", name, clip(s), least, most)
	}
	return n, nil
}

func badParam(format string, args ...any) *APIError {
	return &APIError{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...), Advice: "docs/api.md describes the parameters"}
}

// page reads the parameters version and continue; the latter is VERSION.OFFSET.
func page(version, token string) (uint64, int, error) {
	offset := 0
	if token != "" {
		v, o, ok := strings.Cut(token, ".")
		n, err := strconv.Atoi(o)
		if !ok || err != nil || n < 0 {
			return 0, 0, badParam("continue is %q, which no answer contained", clip(token))
		}
		version, offset = v, n
	}
	if version == "" {
		return 0, offset, nil
	}
	v, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0, 0, badParam("version is %q, a number is needed", clip(version))
	}
	return v, offset, nil
}

func (r *Receiver) apiForget(req *http.Request) (any, error) {
	id := req.PathValue("cluster")
	tx, err := r.store.BeginState(req.Context(), id)
	if err != nil {
		return nil, err
	}
	defer tx.Close()
	st := tx.View().State
	if st.Revision == 0 {
		return nil, noCluster(id)
	}
	if err := tx.Forget(req.Context()); err != nil {
		return nil, err
	}
	r.forgot(req.Context(), st, "operator", "deleted by "+User(req).Name)
	return map[string]any{"forgotten": id}, nil
}

// begin takes the right to change a stored cluster, that of the path.
func (r *Receiver) begin(req *http.Request) (*store.Tx, error) {
	id := req.PathValue("cluster")
	tx, err := r.store.BeginState(req.Context(), id)
	if err != nil {
		return nil, err
	}
	if tx.View().State.Revision == 0 {
		tx.Close()
		return nil, noCluster(id)
	}
	return tx, nil
}

func (r *Receiver) apiAccept(req *http.Request) (any, error) {
	tx, err := r.begin(req)
	if err != nil {
		return nil, err
	}
	defer tx.Close()
	st := tx.View().State
	if st.Suspicion == nil {
		return nil, &APIError{Status: http.StatusConflict, Message: fmt.Sprintf("no report of cluster %s is under suspicion", st.ID)}
	}
	accepted := *st.Suspicion
	accepted.AcceptedUntil = r.now().Add(acceptance)
	accepted.AcceptedBy = User(req).Name
	if err := tx.Suspect(req.Context(), &accepted); err != nil {
		return nil, err
	}
	return r.info(tx.View().State), nil
}

func (r *Receiver) apiEvents(req *http.Request) (any, error) {
	events, err := r.events(req.Context())
	if err != nil {
		return nil, err
	}
	user := User(req)
	events = slices.DeleteFunc(events, func(e Event) bool { return !user.May(e.Cluster) })
	return map[string]any{"events": events}, nil
}
