// Package oneshot collects what would be reported now, once.
//
// It runs the same informers and relations as the daemon until the cluster is listed completely, and ends them. It relies
// on their verdict, and promises that what it returns is what the daemon's first report would hold; what is missing from
// it because it cannot be read is named.
package oneshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/relations"
	"github.com/pseudo-agent/pseudo-agent/resources"
	"github.com/pseudo-agent/pseudo-agent/snapshot"
)

// Options say what to collect.
type Options struct {
	Config     *rest.Config
	Selected   []resources.Selected
	Projection resources.Options
	PageSize   int64
	// ContentType is that of informers.Options.
	ContentType string
	// Patience is how long a resource may fail, other than by being refused, before it is given up; 0 means 5 s. A resource
	// that is still being listed is waited for until the context ends.
	Patience time.Duration
	Log      *slog.Logger // nil: discarded
	// Over is put in the place of the listed object of the same name; nil: nothing is.
	Over *Object
}

// Object is an object that need not exist.
type Object struct {
	ID    string // of the selected resource
	Key   resources.Key
	Entry *resources.Entry
}

// overlay puts one object over what is listed.
type overlay struct {
	informers.Sink
	over *Object
}

// Replace passes on the list with the object in the place of the one of its name. A list is all that is ever seen: the
// informers end with it.
func (o overlay) Replace(id string, entries []*resources.Entry) {
	if id == o.over.ID {
		entries = append(slices.DeleteFunc(slices.Clone(entries), o.same), o.over.Entry)
	}
	o.Sink.Replace(id, entries)
}

func (o overlay) same(e *resources.Entry) bool {
	if e.UID() == o.over.Entry.UID() {
		return true
	}
	doc, err := e.JSON()
	var id struct {
		Metadata struct{ Namespace, Name string }
	}
	return err == nil && json.Unmarshal(doc, &id) == nil && resources.KeyOf(id.Metadata.Namespace, id.Metadata.Name) == o.over.Key
}

// Result is what was collected.
type Result struct {
	// Snapshot holds the entries as they would be reported.
	Snapshot *snapshot.Snapshot
	// Missing names the optional resources that could not be read, each with its reason.
	Missing []string
}

// Entries are those of the snapshot, ordered by wire type and UID.
func (r *Result) Entries() []*resources.Entry { return slices.Collect(r.Snapshot.All()) }

const pollInterval = 50 * time.Millisecond

// Collect lists everything once. The error names the required resources that cannot be read.
func Collect(ctx context.Context, o Options) (*Result, error) {
	if o.Patience == 0 {
		o.Patience = 5 * time.Second
	}
	fold := snapshot.New(nil)
	var sink informers.Sink = relations.New(relations.Options{Fold: fold, Log: o.Log})
	if o.Over != nil {
		sink = overlay{sink, o.Over}
	}
	set, err := informers.New(informers.Options{
		Config:     o.Config,
		Selected:   o.Selected,
		Projection: o.Projection,
		PageSize:   o.PageSize, ContentType: o.ContentType,
		Logger: o.Log,
		Sink:   sink,
	})
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- set.Run(run) }()
	missing, err := wait(ctx, set, o.Patience)
	stop()
	if ended := <-done; err == nil {
		err = ended
	}
	if err != nil {
		return nil, err
	}
	return &Result{Snapshot: fold.Take(), Missing: missing}, nil
}

// wait returns when all is listed, or only such resources are missing as have failed for long enough.
func wait(ctx context.Context, set *informers.Set, patience time.Duration) (missing []string, err error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		st := set.Status()
		if st.Verdict.Complete {
			return absent(st), nil
		}
		if failed, final := given(st, time.Now().Add(-patience)); final {
			if len(failed) > 0 {
				return nil, fmt.Errorf("required resources cannot be read: %s", strings.Join(failed, "; "))
			}
			return absent(st), nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %s: %w", strings.Join(waiting(st), ", "), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// given tells whether everything that is waited for has failed since before the limit, and which of it is required.
func given(st informers.Status, limit time.Time) (required []string, final bool) {
	for _, r := range st.Resources {
		if !slices.Contains(st.Verdict.Waiting, r.Resource) {
			continue
		}
		switch r.State {
		case informers.Forbidden, informers.NotServed: // the apiserver has said so; asking again would not change it
		case informers.Failing:
			if r.Since.After(limit) {
				return nil, false
			}
		case informers.Pending, informers.Listing, informers.Synced, informers.Polling:
			return nil, false
		}
		if r.Required {
			required = append(required, describe(r))
		}
	}
	return required, true
}

// waiting names what is waited for, with the reason where there is one.
func waiting(st informers.Status) []string {
	var out []string
	for _, r := range st.Resources {
		switch {
		case !slices.Contains(st.Verdict.Waiting, r.Resource):
		case r.Reason != "" || r.LastError != "":
			out = append(out, describe(r))
		default:
			out = append(out, r.Resource)
		}
	}
	return out
}

func absent(st informers.Status) []string {
	var out []string
	for _, r := range st.Resources {
		if r.State == informers.Forbidden || r.State == informers.Failing {
			out = append(out, describe(r))
		}
	}
	return out
}

func describe(r informers.ResourceStatus) string {
	reason := r.Reason
	if reason == "" {
		reason = r.LastError
	}
	return fmt.Sprintf("%s %s (%s)", r.Resource, strings.ToLower(string(r.State)), reason)
}

// ErrTimeout is the cause to end the context with when a command has waited long enough.
var ErrTimeout = errors.New("not listed in time; the apiserver may be slow, see --timeout")
