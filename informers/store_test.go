package informers

import (
	"slices"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// TestStore follows the calls that lists and events lead to. An object is written name:uid:content, perhaps with :resourceVersion.
func TestStore(t *testing.T) {
	tests := []struct {
		name  string
		do    func(s *storeRig)
		calls string
	}{
		{"first list", func(s *storeRig) { s.list("a:1:x b:2:x") }, "replace(1 2)"},
		{"first list without objects", func(s *storeRig) { s.list("") }, "replace()"},
		{"the same list", func(s *storeRig) { s.list("a:1:x b:2:x"); s.list("a:1:x b:2:x") }, "replace(1 2)"},
		{"list with one more", func(s *storeRig) { s.list("a:1:x"); s.list("a:1:x b:2:x") }, "replace(1) upsert(2)"},
		{"list with one less", func(s *storeRig) { s.list("a:1:x b:2:x"); s.list("b:2:x") }, "replace(1 2) delete(1)"},
		{"list with a change", func(s *storeRig) { s.list("a:1:x"); s.list("a:1:y") }, "replace(1) upsert(1)"},
		{"list without objects", func(s *storeRig) { s.list("a:1:x"); s.list("") }, "replace(1) delete(1)"},
		{"recreated between lists", func(s *storeRig) { s.list("a:1:x"); s.list("a:3:x") }, "replace(1) upsert(3) delete(1)"},
		{"the same uid under another name", func(s *storeRig) { s.list("a:1:x"); s.list("b:1:y") }, "replace(1) upsert(1)"},
		{"abandoned list", func(s *storeRig) { s.list("a:1:x"); s.begin("b:2:x"); s.pending.abandon(); s.event("Update", "a:1:y") }, "replace(1) upsert(1)"},
		{"list begun again", func(s *storeRig) { s.begin("a:1:x"); s.list("b:2:x") }, "replace(2)"},
		{"a list that starts over without what is gone by then", func(s *storeRig) {
			s.begin("a:1:x b:2:x")
			s.pending.restart()
			s.collect("b:2:x")
			s.end("")
		}, "replace(2)"},
		{"no longer reported during the list", func(s *storeRig) { s.begin("a:1:x a:1:"); s.end("") }, "replace()"},
		{"events", func(s *storeRig) {
			s.list("")
			s.event("Add", "a:1:x")
			s.event("Update", "a:1:x")
			s.event("Update", "a:1:y")
			s.event("Delete", "a:1:z")
			s.event("Delete", "a:1:z")
		}, "replace() upsert(1) upsert(1) delete(1)"},
		{"recreated under a watch", func(s *storeRig) { s.list("a:1:x"); s.event("Add", "a:2:x") }, "replace(1) upsert(2) delete(1)"},
		{"no longer reported, and again", func(s *storeRig) { s.list("a:1:x"); s.event("Update", "a:1:"); s.event("Update", "a:1:x") }, "replace(1) delete(1) upsert(1)"},
		{"never reported", func(s *storeRig) { s.list("a:1:"); s.event("Update", "a:1:"); s.event("Delete", "a:1:") }, "replace()"},
		{"an event newer than the list that is under way", func(s *storeRig) {
			s.list("a:1:x b:2:x c:3:x")
			s.begin("a:1:x b:2:x c:3:x")
			s.event("Update", "a:1:y:11")
			s.event("Delete", "b:2:x:12")
			s.event("Update", "c:3:y:9")
			s.event("Add", "d:4:x:13")
			s.end("10")
		}, "replace(1 2 3) upsert(1) delete(2) upsert(3) upsert(4) upsert(3)"},
		{"a watch that begins at a list and brings what is known to be older", func(s *storeRig) {
			s.list("a:1:x b:2:x")
			s.begin("a:1:x b:2:x")
			s.event("Update", "a:1:z:12")
			s.event("Delete", "b:2:x:13")
			s.end("10")
			s.event("Update", "a:1:y:11")
			s.event("Update", "a:1:z:12")
			s.event("Update", "b:2:y:11")
			s.event("Delete", "b:2:x:13")
			s.event("Update", "a:1:x:14")
			s.event("Add", "b:5:x:15")
		}, "replace(1 2) upsert(1) delete(2) upsert(1) upsert(5)"},
		{"events of a watch whose place was taken", func(s *storeRig) {
			s.list("a:1:x")
			old := s.feed
			s.list("a:1:x")
			old.change(s.object("a:1:y:20"), false)
			old.change(s.object("a:1:y:20"), true)
		}, "replace(1)"},
		{"events before a list count for no later one", func(s *storeRig) {
			s.list("a:1:x")
			s.event("Update", "a:1:y:50")
			s.begin("a:1:x")
			s.end("10")
		}, "replace(1) upsert(1) upsert(1)"},
		{"resourceVersions that are no numbers", func(s *storeRig) {
			s.list("a:1:x")
			s.begin("a:1:x")
			s.event("Update", "a:1:y:m")
			s.end("k")
		}, "replace(1) upsert(1) upsert(1)"},
		{"cleared", func(s *storeRig) { s.list("a:1:x"); s.clear(); s.clear(); s.list("a:1:x") }, "replace(1) remove replace(1)"},
		{"cleared before anything was listed", func(s *storeRig) { s.begin("a:1:x"); s.clear() }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &storeRig{t: t, enc: resources.NewEncoder()}
			s.store = newStore("x", s, &room{objects: 1000})
			tt.do(s)
			if got := strings.Join(s.calls, " "); got != tt.calls {
				t.Errorf("calls: got %q, want %q", got, tt.calls)
			}
		})
	}
}

// storeRig drives a store and writes down what it passes on.
type storeRig struct {
	*store
	feed, pending *feed
	t             *testing.T
	enc           *resources.Encoder
	calls         []string
}

func (s *storeRig) object(text string) resources.Object {
	p := strings.Split(text, ":")
	o := resources.Object{Key: resources.KeyOf("", p[0])}
	if len(p) > 3 {
		o.ResourceVersion = p[3]
	}
	if p[2] != "" {
		o.Entry = s.enc.Encode(resources.Content{WireType: "*v1.Pod", UID: resources.UID{p[1][0]}, JSON: []byte(p[2])}, nil)
	}
	return o
}

func (s *storeRig) begin(objects string) {
	s.pending = s.store.begin("")
	s.collect(objects)
}

func (s *storeRig) collect(objects string) {
	for o := range strings.FieldsSeq(objects) {
		if err := s.pending.collect(s.object(o)); err != nil {
			s.t.Error(err)
		}
	}
}

func (s *storeRig) end(resourceVersion string) {
	s.feed = s.pending
	if err := s.feed.replace(resourceVersion); err != nil {
		s.t.Error(err)
	}
}

func (s *storeRig) list(objects string) {
	s.begin(objects)
	s.end("")
}

func (s *storeRig) event(kind, text string) {
	s.feed.change(s.object(text), kind == "Delete")
}

func (s *storeRig) Replace(_ string, entries []*resources.Entry) {
	var uids []string
	for _, e := range entries {
		uids = append(uids, initial(e.UID()))
	}
	slices.Sort(uids)
	s.calls = append(s.calls, "replace("+strings.Join(uids, " ")+")")
}

func (s *storeRig) Upsert(_ string, e *resources.Entry) {
	s.calls = append(s.calls, "upsert("+initial(e.UID())+")")
}

func (s *storeRig) Delete(_ string, uid resources.UID) {
	s.calls = append(s.calls, "delete("+initial(uid)+")")
}

func (s *storeRig) Remove(string) { s.calls = append(s.calls, "remove") }

func initial(uid resources.UID) string { return string(uid[:1]) }
