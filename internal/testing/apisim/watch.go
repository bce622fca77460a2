package apisim

import (
	"encoding/json"
	"net/http"
	"net/url"
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
	from, ok := watchFrom(w, q, req, at, streaming, mode)
	if !ok {
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
	if w.protobuf {
		w.Header().Set("Content-Type", inProtobuf+";stream=watch")
	}
	w.WriteHeader(http.StatusOK)
	w.flush()

	f := &feed{s: s, w: w, c: c, match: selects(req.Namespace, q.Get("fieldSelector")), from: from}
	switch {
	case streaming || from == 0:
		f.present()
		f.late = streaming && w.fault.LateBookmark
		if streaming && !w.fault.NoFinalBookmark && !f.late {
			w.event("BOOKMARK", c.kind(), c.bookmark(f.from, true))
		}
	case from < max(compacted, c.born):
		f.tooOld()
		return
	}
	for mark := false; f.changes(); {
		if mark {
			w.event("BOOKMARK", c.kind(), c.bookmark(f.from, false))
		}
		mark = false
		select {
		case <-f.changed:
		case <-marks.C:
			mark = true
		case <-timeout.C:
			return
		case <-r.Context().Done():
			return
		case <-w.fault.Stop:
			return
		}
	}
}

// watchFrom returns the resourceVersion from which a watch is asked for, 0 for any. It answers requests that are refused,
// and returns false.
func watchFrom(w *writer, q url.Values, req Request, at uint64, streaming bool, mode Streaming) (from uint64, ok bool) {
	if streaming && mode == StreamingRefused {
		writeStatus(w, http.StatusUnprocessableEntity, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled", 0)
		return 0, false
	}
	if streaming && (q.Get("resourceVersionMatch") != "NotOlderThan" || q.Get("allowWatchBookmarks") != "true") {
		writeStatus(w, http.StatusUnprocessableEntity, "sendInitialEvents requires resourceVersionMatch=NotOlderThan and allowWatchBookmarks", 0)
		return 0, false
	}
	if req.ResourceVersion == "" {
		return 0, true
	}
	from, err := strconv.ParseUint(req.ResourceVersion, 10, 64)
	if err != nil {
		writeStatus(w, http.StatusBadRequest, "Invalid value: "+strconv.Quote(req.ResourceVersion), 0)
		return 0, false
	}
	if from > at {
		writeTooLarge(w, req.ResourceVersion, at)
		return 0, false
	}
	return from, true
}

// feed is what one watch has delivered so far.
type feed struct {
	s       *Server
	w       *writer
	c       *collection
	match   func(key string) bool
	from    uint64        // up to where it has delivered
	late    bool          // the bookmark that ends the streaming list follows the next change
	changed chan struct{} // closed by the next change
}

// present delivers all objects as they are now.
func (f *feed) present() {
	f.s.mu.Lock()
	objects := f.c.objects(f.s.rv, f.match)
	f.from = f.s.rv
	f.s.mu.Unlock()
	for _, o := range objects {
		f.w.event("ADDED", f.c.kind(), o.raw)
	}
}

// changes delivers what has changed since. It returns false if the watch is over.
func (f *feed) changes() bool {
	f.s.mu.Lock()
	changed, now, removed, lost := f.c.changed, f.s.rv, f.c.removed, f.from < f.c.lost
	due := f.c.since(f.from)
	f.s.mu.Unlock()
	if lost {
		f.tooOld()
		return false
	}
	for _, ch := range due {
		if f.match(ch.key) {
			f.w.event(ch.kind, f.c.kind(), ch.raw)
		}
	}
	f.from, f.changed = now, changed
	if f.late && len(due) > 0 {
		f.late = false
		f.w.event("BOOKMARK", f.c.kind(), f.c.bookmark(f.from, true))
	}
	return !removed
}

func (f *feed) tooOld() {
	f.w.event("ERROR", statusKind, mustMarshal(status(http.StatusGone, "too old resource version", 0)))
}

func (c *collection) bookmark(rv uint64, final bool) json.RawMessage {
	meta := map[string]any{"resourceVersion": strconv.FormatUint(rv, 10), "creationTimestamp": nil}
	if final {
		meta["annotations"] = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	return mustMarshal(map[string]any{"kind": c.Kind, "apiVersion": c.GroupVersion().String(), "metadata": meta})
}
