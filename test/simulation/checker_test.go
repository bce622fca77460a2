package simulation

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// versionType is that of the apiserver's version, which never changes here.
const versionType = "*version.Info"

var versionCell = cell{versionType, ""}

// checker knows the truth and looks at all that is sent and stored.
type checker struct {
	truth   *truth
	ordered bool // versions come in the order of what they hold, because the clocks are right
	entries reader

	mu       sync.Mutex
	begun    time.Time
	versions []*version   // by number
	reached  map[cell]int // how far the truth had come in what the versions so far have
	broken   []string
	met      map[string]int             // situations
	texts    map[[sha256.Size]byte]bool // all that agents have sent
}

// version is a content that was sent.
type version struct {
	number uint64
	content
	by    string
	at    time.Time
	reach map[cell]int // how far the truth had come when it was sent first
}

func newChecker(w *truth, ordered bool) *checker {
	return &checker{
		truth: w, ordered: ordered, entries: reader{lines: map[string]line{}}, begun: time.Now(), met: map[string]int{}, reached: map[cell]int{},
		texts: map[[sha256.Size]byte]bool{},
	}
}

// fail notes that a rule is broken.
func (c *checker) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed(format, args...)
}

// failed is fail with mu held.
func (c *checker) failed(format string, args ...any) {
	if len(c.broken) < 10 {
		c.broken = append(c.broken, fmt.Sprintf("%v: ", time.Since(c.begun).Round(time.Millisecond))+fmt.Sprintf(format, args...))
	}
}

// complaints are what has been broken so far.
func (c *checker) complaints() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.broken)
}

// meet counts a situation.
func (c *checker) meet(situation string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.met[situation]++
}

func (c *checker) find(number uint64) (int, bool) {
	return slices.BinarySearchFunc(c.versions, number, func(v *version, n uint64) int {
		switch {
		case v.number < n:
			return -1
		case v.number > n:
			return 1
		default:
			return 0
		}
	})
}

// sent looks at a report that goes out.
func (c *checker) sent(from string, r *agent.KubernetesAPISyncRequest) {
	switch {
	case len(r.GetEntries()) == 0 && r.GetErrorMsg() != "":
		c.meet("sent: an error alone")
	case len(r.GetEntries()) == 0:
		c.meet("sent: a heartbeat or probe")
	case r.GetErrorMsg() != "":
		c.meet("sent: an error with entries")
	default:
		c.meet("sent: a full report")
	}
	c.said(r)
	if len(r.GetEntries()) == 0 {
		return
	}
	reach := c.truth.reach()
	got, err := c.entries.contentOf(func(yield func(string, []byte) bool) {
		for _, e := range r.GetEntries() {
			if !yield(e.GetType(), e.GetCompressedInfo()) {
				return
			}
		}
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed("%s sends version %d with an entry that cannot be read: %v", from, r.GetVersion(), err)
		return
	}
	if got[versionCell] == "" {
		c.failed("%s sends version %d without the apiserver's version", from, r.GetVersion())
	}
	delete(got, versionCell)
	i, known := c.find(r.GetVersion())
	if known {
		if v := c.versions[i]; !maps.Equal(v.content, got) {
			c.failed("version %d has two contents: %s sent\n%v\nand %s sent\n%v", v.number, v.by, v.content, from, got)
		}
		return
	}
	c.versions = slices.Insert(c.versions, i, &version{r.GetVersion(), got, from, time.Now(), reach})
	if i < len(c.versions)-1 {
		i = 0 // all from the beginning, since this one has to be followed by others
		clear(c.reached)
	}
	c.inOrder(c.versions[i:])
}

// said notes a report that an agent sends.
func (c *checker) said(r *agent.KubernetesAPISyncRequest) {
	text := textOf(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.texts[text] = true
}

// forwarded looks at a report that goes on to a deepflow-server: an agent has sent it, to the byte. Nothing has to be mended in those of
// this cluster.
func (c *checker) forwarded(from string, r *agent.KubernetesAPISyncRequest) {
	what := "a heartbeat or probe"
	switch {
	case r.GetErrorMsg() != "":
		what = "an error"
	case len(r.GetEntries()) > 0:
		what = "a full report"
	}
	text := textOf(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.met["passed on: "+what]++
	if !c.texts[text] {
		c.failed("%s passes on version %d with %d entries and the error %q, which no agent has sent", from, r.GetVersion(), len(r.GetEntries()), r.GetErrorMsg())
	}
}

func textOf(r *agent.KubernetesAPISyncRequest) [sha256.Size]byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		panic(err) // it was read from bytes
	}
	return sha256.Sum256(b)
}

// inOrder looks whether each version is what the cluster was, cell by cell, and none goes back behind what was reached. mu is held.
func (c *checker) inOrder(versions []*version) {
	for _, v := range versions {
		for at := range v.content {
			if v.reach[at] == 0 {
				c.failed("%s sends version %d with %v, which the cluster never had", v.by, v.number, at)
			}
		}
		for _, k := range kinds {
			for _, ns := range k.namespaces() {
				at := cell{k.wireType, ns}
				text := v.content[at]
				if k.optional && text == "" {
					continue // given up
				}
				if !c.follows(v, at, text) {
					return
				}
			}
		}
	}
}

// follows looks whether what a version has in a cell was so, not before what an earlier version had. mu is held.
func (c *checker) follows(v *version, at cell, text string) bool {
	from := c.reached[at]
	if !c.ordered {
		from = 0
	}
	i, found := c.truth.find(at, text, from, v.reach[at])
	if found {
		c.reached[at] = i
		return true
	}
	what := "was never so"
	if _, ever := c.truth.find(at, text, 0, v.reach[at]); ever {
		what = "was so only before what an earlier version has"
	}
	c.failed("%s sends version %d at %v in which %v %s:\n%s", v.by, v.number, v.at.Sub(c.begun), at, what, text)
	return false
}

// stored looks at what a database has of a cluster after a write.
func (c *checker) stored(m *store.Memory, _ string) error {
	state, got, err := c.latest(m)
	if err != nil {
		return err
	}
	if state.ErrorMsg != "" {
		c.meet("stored: an error")
	}
	if state.Latest.Seq > 0 {
		c.holds("a server stores", state.Latest.Version, got)
	}
	return nil
}

// room looks whether a database has more than it needs: no more snapshots than are to be kept, no row that none of them has.
func (c *checker) room(b *bounds, m store.Backend) error {
	var ended []uint64
	_, snapshots, err := m.Load(context.Background(), clusterID, store.Since{}, func(e *store.Entry) error {
		if e.To != 0 {
			ended = append(ended, e.To)
		}
		return nil
	})
	if err != nil || len(snapshots) == 0 {
		return err
	}
	idle := 0
	for _, to := range ended {
		if to <= snapshots[0].Seq {
			idle++
		}
	}
	b.counted("snapshots in a database", "any", len(snapshots))
	b.counted("rows in a database that no snapshot has", "any", idle)
	return nil
}

// latest returns what a database has of the cluster now, but for the apiserver's version.
func (c *checker) latest(m store.Backend) (store.State, content, error) {
	ctx := context.Background()
	var rows []uint64
	var types []string
	state, _, err := m.Load(ctx, clusterID, store.Since{}, func(e *store.Entry) error {
		if e.To == 0 {
			rows, types = append(rows, e.Row), append(types, e.Type)
		}
		return nil
	})
	if err != nil {
		return state, nil, err
	}
	payloads, err := m.Payloads(ctx, clusterID, rows)
	if err != nil {
		return state, nil, err
	}
	got, err := c.entries.contentOf(func(yield func(string, []byte) bool) {
		for i, p := range payloads {
			if !yield(types[i], p) {
				return
			}
		}
	})
	delete(got, versionCell)
	return state, got, err
}

// holds looks at what somebody holds under a version: it is what was sent under it.
func (c *checker) holds(who string, number uint64, got content) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, known := c.find(number)
	switch {
	case !known:
		c.failed("%s version %d, which nobody sent", who, number)
	case !maps.Equal(c.versions[i].content, got):
		c.failed("%s version %d with\n%v\nand it was sent with\n%v", who, number, got, c.versions[i].content)
	}
}
