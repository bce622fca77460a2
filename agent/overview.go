package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/informers"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/reporter"
)

const (
	lagKept  = time.Hour
	lagEvery = 5 * time.Second
)

// traceLag notes how long changes wait for the server, for the status page, until the context ends.
func (d *daemon) traceLag(ctx context.Context) {
	tick := time.NewTicker(lagEvery)
	defer tick.Stop()
	var reported time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if d.standsBy() {
				continue
			}
			st := d.reporter.Status()
			lag := time.Duration(0)
			if st.Pending && st.OldestChange != nil {
				lag = now.Sub(*st.OldestChange)
			}
			news := st.LastReport != nil && st.LastReport.After(reported)
			if news {
				reported = *st.LastReport
			}
			d.lag.Add(now, lag, news, st.ErrorFrom != nil)
		}
	}
}

// overview is what the status page shows before the details.
func (d *daemon) overview() operate.Overview {
	o := operate.Overview{Lag: d.lag}
	st := d.reporter.Status()
	if d.access == nil {
		o.Way = wayTo(st)
		return o
	}
	seen, ok := d.informersStatus().(informers.Status)
	if !ok {
		return o
	}
	o.Way = append(wayFrom(seen, st, d.standsBy() || d.mayIdle()), wayTo(st)...)
	o.Listing = resourceListing(seen.Resources)
	return o
}

// meaning is how a state of a resource is meant.
type meaning struct {
	state informers.State
	tone  operate.Tone
}

// troubles order the states of resources, and tell how they are meant.
var troubles = []meaning{
	{informers.Forbidden, operate.Bad},
	{informers.Failing, operate.Bad},
	{informers.NotServed, operate.Warn},
	{informers.Polling, operate.Warn},
	{informers.Pending, operate.Warn},
	{informers.Listing, operate.Warn},
	{informers.Synced, operate.Good},
}

// trouble is the place of a resource in the order: required ones go before those that may be absent.
func trouble(r informers.ResourceStatus) int {
	if !r.Required && r.State == informers.NotServed {
		return len(troubles)
	}
	return slices.IndexFunc(troubles, func(m meaning) bool { return m.state == r.State })
}

func toneOf(r informers.ResourceStatus) operate.Tone {
	if at := trouble(r); at >= 0 && at < len(troubles) {
		return troubles[at].tone
	}
	return operate.Quiet
}

func resourceListing(list []informers.ResourceStatus) *operate.Listing {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b informers.ResourceStatus) int { return trouble(a) - trouble(b) })
	out := &operate.Listing{Name: "Resources", Header: []string{"resource", "state", "objects", "last change", "in this state since", "remark"}}
	for _, r := range list {
		row := operate.ListingRow{Tone: toneOf(r), Cells: []operate.ListingCell{
			{Text: r.Resource}, {Text: string(r.State)}, {Text: fmt.Sprint(r.Entries)}, {Text: "–"}, {At: r.Since}, {},
		}}
		if r.LastEvent != nil {
			row.Cells[3] = operate.ListingCell{At: *r.LastEvent}
		}
		if r.State != informers.Synced {
			row.Cells[5].Text = firstOf(r.Reason, r.LastError)
		}
		out.Rows = append(out.Rows, row)
	}
	return out
}

// wayFrom are the stages of the way on this side: apiserver, resources, snapshot.
func wayFrom(seen informers.Status, st reporter.Status, idle bool) []operate.Stage {
	apiserver := operate.Stage{Name: "apiserver", State: "not asked yet", Tone: operate.Warn}
	listed := operate.Stage{Name: "resources", Tone: operate.Good}
	snapshot := operate.Stage{Name: "snapshot", State: "not complete", Tone: operate.Warn}
	if idle {
		apiserver.State, apiserver.Tone = "not watched", operate.Quiet
		listed.State, listed.Tone = "not watched", operate.Quiet
		snapshot.State, snapshot.Tone = "none", operate.Quiet
		return []operate.Stage{apiserver, listed, snapshot}
	}
	synced, objects := 0, 0
	var answered, changed time.Time
	for _, r := range seen.Resources {
		for _, at := range []*time.Time{r.LastList, r.LastEvent, r.LastBookmark} {
			if at != nil {
				answered = later(answered, *at)
			}
		}
		if r.LastEvent != nil {
			changed = later(changed, *r.LastEvent)
		}
		objects += r.Entries
		if t := toneOf(r); t == operate.Good || t == operate.Quiet {
			synced++
		} else if t == operate.Bad || listed.Tone == operate.Good {
			listed.Tone = t
		}
	}
	in := func(states ...informers.State) bool {
		return slices.ContainsFunc(seen.Resources, func(r informers.ResourceStatus) bool {
			return r.Resource != informers.VersionID && slices.Contains(states, r.State) // the version is asked for now and then only
		})
	}
	switch {
	// What is not served stays so while nobody can be asked.
	case in(informers.Failing) && !in(informers.Synced, informers.Listing, informers.Polling, informers.Forbidden):
		apiserver.State, apiserver.Tone, apiserver.Since = "does not answer", operate.Bad, answered
	case !answered.IsZero():
		apiserver.State, apiserver.Tone, apiserver.Since = "answers", operate.Good, answered
	}
	listed.State = fmt.Sprintf("%d of %d in order", synced, len(seen.Resources))
	listed.Number, listed.Since = fmt.Sprintf("%d objects", objects), changed
	if seen.Verdict.Complete && st.Version != 0 {
		snapshot.State, snapshot.Tone = "complete", operate.Good
		snapshot.Number = fmt.Sprintf("%d entries, %s", st.Entries, operate.Bytes(int64(st.Bytes)))
		snapshot.Since = time.UnixMicro(int64(st.Version))
	}
	return []operate.Stage{apiserver, listed, snapshot}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// wayTo are the stages of the way on the other side: reporter, server.
func wayTo(st reporter.Status) []operate.Stage {
	r := operate.Stage{Name: "reporter", State: st.State, Tone: operate.Good, Since: st.Since, Number: "nothing waits"}
	if st.Pending {
		r.Number = "a change waits"
	}
	server := operate.Stage{Name: "server", State: "nothing acknowledged", Tone: operate.Warn, Number: firstOf(st.Server, st.Address)}
	if st.LastReport != nil {
		server.State, server.Tone, server.Since = "acknowledged", operate.Good, *st.LastReport
	}
	switch {
	case st.Conflict.Active, st.ErrorMsg != "", st.ChangedID != "":
		r.Tone = operate.Bad
	case st.ErrorFrom != nil:
		server.State, server.Tone = "does not acknowledge", operate.Warn
		if time.Since(*st.ErrorFrom) > troubleAfter {
			server.Tone = operate.Bad
		}
	case strings.EqualFold(st.State, "idle"), !st.Watcher.Watching:
		r.Tone, r.Number = operate.Quiet, ""
		server.Tone = operate.Quiet
	}
	return []operate.Stage{r, server}
}
