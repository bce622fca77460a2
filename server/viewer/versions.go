package viewer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// ObjectChange is what happened to one object.
type ObjectChange struct {
	Change    string `json:"change"` // added, changed or removed
	Type      string `json:"type"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Before and After are the object's JSON, only if asked for.
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
}

func change(d Difference) ObjectChange {
	e := d.Entry()
	return ObjectChange{Change: d.Kind(), Type: e.Type, Namespace: e.Namespace, Name: e.Name}
}

// DifferenceList is a page of what differs between two versions.
type DifferenceList struct {
	Cluster string `json:"cluster"`
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
	counts
	Total   int            `json:"total"` // of all pages
	Objects []ObjectChange `json:"objects"`
	// Continue is given as ?continue= to get the next page; empty on the last one.
	Continue string `json:"continue,omitempty"`
}

func (v *Viewer) apiDifferences(req *http.Request) (any, error) {
	q := req.URL.Query()
	limit, err := limitOf(q)
	if err != nil {
		return nil, err
	}
	content, err := oneOf(q, "content", "true", "false")
	if err != nil {
		return nil, err
	}
	view, err := v.view(req.Context(), req.PathValue("cluster"))
	if err != nil {
		return nil, err
	}
	from, to, offset, err := span(view, q)
	if err != nil {
		return nil, err
	}
	list, err := between(view, from, to)
	if err != nil {
		return nil, err
	}
	list = selected(list, q)
	out := &DifferenceList{Cluster: view.State.ID, From: from, To: to, counts: countOf(list), Total: len(list), Objects: []ObjectChange{}}
	at, size := min(offset, len(list)), 0
	for ; at < len(list) && len(out.Objects) < limit && (size == 0 || size < v.opts.Store.Budget().Page()); at++ {
		c := change(list[at])
		if content == "true" {
			if err := v.fill(req, view.State.ID, list[at], &c); err != nil {
				return nil, err
			}
			size += len(c.Before) + len(c.After)
		}
		out.Objects = append(out.Objects, c)
	}
	if at < len(list) {
		out.Continue = fmt.Sprintf("%d.%d.%d", from, to, at)
	}
	return out, nil
}

// fill adds the JSON of an object.
func (v *Viewer) fill(req *http.Request, id string, d Difference, c *ObjectChange) error {
	for _, side := range []struct {
		entry *store.Entry
		json  *json.RawMessage
	}{{d.Before, &c.Before}, {d.After, &c.After}} {
		if side.entry == nil {
			continue
		}
		changes, err := v.read(req.Context(), id, []*store.Entry{side.entry})
		if errors.Is(err, store.ErrNotFound) {
			return &receiver.APIError{Status: http.StatusGone, Message: "the version was dropped while it was read", Advice: "begin again without continue"}
		}
		if err != nil {
			return err
		}
		*side.json = changes[0].JSON
	}
	return nil
}

// span reads the parameters from, to and continue (FROM.TO.OFFSET). Without them it is the last step.
func span(view *store.View, q url.Values) (from, to uint64, offset int, err error) {
	fromText, toText := q.Get("from"), q.Get("to")
	if token := q.Get("continue"); token != "" {
		parts := strings.Split(token, ".")
		if len(parts) != 3 {
			return 0, 0, 0, bad("continue is %q, which no answer contained", clip(token))
		}
		if offset, err = strconv.Atoi(parts[2]); err != nil || offset < 0 {
			return 0, 0, 0, bad("continue is %q, which no answer contained", clip(token))
		}
		fromText, toText = parts[0], parts[1]
	}
	if to, err = number("to", toText, view.State.Latest.Version); err != nil {
		return 0, 0, 0, err
	}
	before := to
	for i, s := range view.Snapshots {
		if s.Version == to && i > 0 {
			before = view.Snapshots[i-1].Version
		}
	}
	if from, err = number("from", fromText, before); err != nil {
		return 0, 0, 0, err
	}
	return from, to, offset, nil
}

func number(name, text string, otherwise uint64) (uint64, error) {
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return 0, bad("%s is %q, the number of a version is needed", name, clip(text))
	}
	return n, nil
}

// between compares two versions.
func between(view *store.View, from, to uint64) ([]Difference, error) {
	var lists [2][]*store.Entry
	for i, version := range []uint64{from, to} {
		if view.State.Latest.Seq == 0 {
			continue
		}
		_, entries, err := view.At(version)
		if errors.Is(err, store.ErrNotFound) {
			return nil, &receiver.APIError{
				Status: http.StatusGone, Message: fmt.Sprintf("version %d of cluster %s is not stored", version, view.State.ID),
				Advice: "GET " + receiver.APIPrefix + "/clusters/" + view.State.ID + "/versions lists those that are",
			}
		}
		if err != nil {
			return nil, err
		}
		lists[i] = entries
	}
	return Compare(lists[0], lists[1]), nil
}

// selected returns the differences of a type, namespace and name. A type may be written without its star and package.
func selected(list []Difference, q url.Values) []Difference {
	wire, namespace, name := q.Get("type"), q.Get("namespace"), q.Get("name")
	if wire == "" && namespace == "" && name == "" {
		return list
	}
	var out []Difference
	for _, d := range list {
		e := d.Entry()
		short := e.Type[strings.LastIndexByte(e.Type, '.')+1:]
		if (wire == "" || wire == e.Type || wire == short || "*"+wire == e.Type) && (namespace == "" || namespace == e.Namespace) && (name == "" || name == e.Name) {
			out = append(out, d)
		}
	}
	return out
}

// The bounds of a stream.
const (
	maxNamed     = 500              // objects that one event names
	keepalive    = 15 * time.Second // between two lines
	writeTimeout = 30 * time.Second // of one event
)

// VersionEvent is the event "version" of a stream: one new version and what it changed.
type VersionEvent struct {
	Cluster    string    `json:"cluster"`
	Version    uint64    `json:"version"`
	Before     uint64    `json:"before"` // the version before, 0 for the first one
	ReceivedAt time.Time `json:"received_at"`
	Total      int       `json:"objects_total"`
	counts
	Objects   []ObjectChange `json:"objects"`
	Truncated bool           `json:"truncated,omitempty"` // there are more objects than are named; ask for the differences
}

// StateEvent is the event "cluster" of a stream: a sign of life.
type StateEvent struct {
	Cluster    string    `json:"cluster"`
	Version    uint64    `json:"version"`
	LastReport time.Time `json:"last_report"`
	ErrorMsg   string    `json:"error_msg"`
}

// ResetEvent is the event "reset" of a stream: what happened since the version asked for cannot be told; read the
// cluster anew.
type ResetEvent struct {
	Cluster string `json:"cluster"`
	Version uint64 `json:"version"`
	Reason  string `json:"reason"`
}

func (v *Viewer) apiChanges(req *http.Request) (any, error) {
	view, err := v.view(req.Context(), req.PathValue("cluster"))
	if err != nil {
		return nil, err
	}
	since := req.URL.Query().Get("since")
	// A browser that connects again tells the last event that it got.
	if last := req.Header.Get("Last-Event-ID"); last != "" {
		since = last
	}
	version, err := number("since", since, 0)
	if err != nil {
		return nil, err
	}
	s := &stream{v: v, id: view.State.ID, born: view.State.Born, seq: view.State.Latest.Seq}
	if version != 0 {
		s.resume(view, version)
	}
	return receiver.Stream(s.serve), nil
}

// stream is one reader of a cluster's changes.
type stream struct {
	v     *Viewer
	id    string
	born  string
	seq   uint64 // told last
	reset bool
	told  StateEvent
	w     http.ResponseWriter
	rc    *http.ResponseController
}

// resume begins after a version, if it is still stored.
func (s *stream) resume(view *store.View, version uint64) {
	for _, snap := range slices.Backward(view.Snapshots) {
		if snap.Version == version {
			s.seq = snap.Seq
			return
		}
	}
	s.reset = true
}

func (s *stream) serve(w http.ResponseWriter, req *http.Request) {
	select {
	case s.v.streams <- struct{}{}:
		defer func() { <-s.v.streams }()
	default:
		w.Header().Set("Retry-After", "10")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(`{"error":"too many streams are being read","advice":"try again later, or read the differences"}` + "\n"))
		return
	}
	s.w, s.rc = w, http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no")
	// The server's limit for a whole request must not end the stream.
	_ = s.rc.SetReadDeadline(time.Time{})
	if s.write(": changes of cluster "+s.id+"\nretry: 2000\n\n") != nil {
		return
	}
	alive := time.NewTicker(keepalive)
	defer alive.Stop()
	for {
		news := s.v.news()
		if !s.tell(req) {
			return
		}
		select {
		case <-news:
		case <-alive.C:
			if s.write(": alive\n\n") != nil {
				return
			}
		case <-req.Context().Done():
			return
		case <-s.v.ending.Done():
			return
		}
	}
}

// tell sends what has happened and tells whether to go on.
func (s *stream) tell(req *http.Request) bool {
	// Reports of the cluster wait while it is read, so a storage that hangs must not take long here.
	ctx, cancel := context.WithTimeout(req.Context(), readPatience)
	defer cancel()
	view, err := s.v.opts.Store.View(ctx, s.id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		_ = s.event("gone", "", ResetEvent{Cluster: s.id, Reason: "the cluster was forgotten"})
		return false
	case err != nil:
		// The storage fails, which others tell; the stream goes on when it works again.
		return req.Context().Err() == nil
	}
	latest := view.State.Latest
	// A database that lost its last versions is behind.
	behind := latest.Seq < s.seq
	if s.reset || behind || view.State.Born != s.born || len(view.Snapshots) > 0 && s.seq != 0 && s.seq < view.Snapshots[0].Seq {
		reason := "the version is not stored any more"
		if view.State.Born != s.born {
			reason = "the cluster was forgotten and reported again"
		}
		s.reset, s.born, s.seq = false, view.State.Born, latest.Seq
		if s.event("reset", strconv.FormatUint(latest.Version, 10), ResetEvent{Cluster: s.id, Version: latest.Version, Reason: reason}) != nil {
			return false
		}
	}
	for i, snap := range view.Snapshots {
		if snap.Seq <= s.seq {
			continue
		}
		var before uint64
		if i > 0 {
			before = view.Snapshots[i-1].Version
		}
		if s.version(view, snap, before) != nil {
			return false
		}
		s.seq = snap.Seq
	}
	now := StateEvent{Cluster: s.id, Version: latest.Version, LastReport: view.State.LastReport, ErrorMsg: view.State.ErrorMsg}
	if now == s.told {
		return true
	}
	s.told = now
	id := ""
	if latest.Seq != 0 {
		id = strconv.FormatUint(latest.Version, 10) // all up to it has been told
	}
	return s.event("cluster", id, now) == nil
}

// version tells of one version.
func (s *stream) version(view *store.View, snap store.Snapshot, before uint64) error {
	e := VersionEvent{Cluster: s.id, Version: snap.Version, Before: before, ReceivedAt: snap.ReceivedAt, Total: snap.Objects, Objects: []ObjectChange{}}
	e.counts = counts{Added: snap.Added, Changed: snap.Changed, Removed: snap.Removed}
	if before == 0 {
		// Everything is new.
		e.Truncated = true
		return s.event("version", strconv.FormatUint(snap.Version, 10), e)
	}
	list, err := between(view, before, snap.Version)
	if err != nil {
		return err
	}
	for _, d := range list[:min(len(list), maxNamed)] {
		e.Objects = append(e.Objects, change(d))
	}
	e.Truncated = len(list) > maxNamed
	return s.event("version", strconv.FormatUint(snap.Version, 10), e)
}

func (s *stream) event(name, id string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("make event: %w", err)
	}
	if id != "" {
		id = "id: " + id + "\n"
	}
	return s.write(id + "event: " + name + "\ndata: " + string(text) + "\n\n")
}

func (s *stream) write(text string) error {
	// Not every writer has deadlines; those of the daemon have.
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := s.w.Write([]byte(text)); err != nil {
		return fmt.Errorf("send event: %w", err)
	}
	if err := s.rc.Flush(); err != nil {
		return fmt.Errorf("send event: %w", err)
	}
	return nil
}
