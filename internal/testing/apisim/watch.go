package apisim

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watch serves one watch until its time is over, the client goes away, or the resource is removed.
func (s *Server) watch(w *writer, r *http.Request, c *collection, req Request) {
	q := r.URL.Query()
	s.mu.Lock()
	mode, every, at, compacted := s.streaming, s.bookmarks, s.rv, s.compacted
	s.mu.Unlock()
	streaming := req.Streaming && mode != StreamingIgnored
	if streaming && mode == StreamingRefused {
		writeStatus(w, http.StatusUnprocessableEntity, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled", 0)
		return
	}
	if streaming && (q.Get("resourceVersionMatch") != "NotOlderThan" || q.Get("allowWatchBookmarks") != "true") {
		writeStatus(w, http.StatusUnprocessableEntity, "sendInitialEvents requires resourceVersionMatch=NotOlderThan and allowWatchBookmarks", 0)
		return
	}
	var from uint64
	if req.ResourceVersion != "" {
		var err error
		if from, err = strconv.ParseUint(req.ResourceVersion, 10, 64); err != nil {
			writeStatus(w, http.StatusBadRequest, "Invalid value: "+strconv.Quote(req.ResourceVersion), 0)
			return
		}
	}
	if from > at {
		writeTooLarge(w, req.ResourceVersion, at)
		return
	}
	seconds, err := strconv.Atoi(q.Get("timeoutSeconds"))
	if err != nil {
		seconds = 1800
	}
	timeout := time.NewTimer(time.Duration(seconds) * time.Second)
	defer timeout.Stop()
	marks := &time.Ticker{}
	if q.Get("allowWatchBookmarks") == "true" {
		marks = time.NewTicker(every)
		defer marks.Stop()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.flush()

	match := selects(req.Namespace, q.Get("fieldSelector"))
	switch {
	case streaming || from == 0:
		s.mu.Lock()
		state := c.state(s.rv)
		from = s.rv
		s.mu.Unlock()
		for _, key := range slices.Sorted(maps.Keys(state)) {
			if match(key) {
				w.event("ADDED", state[key].raw)
			}
		}
		if streaming && !w.fault.NoFinalBookmark && !w.fault.LateBookmark {
			w.event("BOOKMARK", c.bookmark(from, true))
		}
	case from < compacted:
		w.event("ERROR", mustMarshal(status(http.StatusGone, "too old resource version", 0)))
		return
	}
	late := streaming && w.fault.LateBookmark
	for {
		s.mu.Lock()
		changed, now, removed, tooOld := s.changed, s.rv, c.removed, from < s.compacted
		var due []change
		for _, ch := range c.log {
			if ch.rv > from {
				due = append(due, ch)
			}
		}
		s.mu.Unlock()
		if tooOld {
			w.event("ERROR", mustMarshal(status(http.StatusGone, "too old resource version", 0)))
			return
		}
		for _, ch := range due {
			if match(ch.key) {
				w.event(ch.kind, ch.raw)
			}
		}
		from = now
		if late && len(due) > 0 {
			late = false
			w.event("BOOKMARK", c.bookmark(from, true))
		}
		if removed {
			return
		}
		select {
		case <-changed:
		case <-marks.C:
			w.event("BOOKMARK", c.bookmark(from, false))
		case <-timeout.C:
			return
		case <-r.Context().Done():
			return
		case <-w.fault.Stop:
			return
		}
	}
}

func (c *collection) bookmark(rv uint64, final bool) json.RawMessage {
	meta := map[string]any{"resourceVersion": strconv.FormatUint(rv, 10), "creationTimestamp": nil}
	if final {
		meta["annotations"] = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	return mustMarshal(map[string]any{"kind": c.Kind, "apiVersion": c.GroupVersion().String(), "metadata": meta})
}
