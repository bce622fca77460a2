package simulation

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// versionType is that of the apiserver's version, which never changes here.
const versionType = "*version.Info"

// checker knows the truth and looks at all that is sent and stored.
type checker struct {
	truth   *truth
	ordered bool // versions come in the order of what they hold, because the clocks are right

	mu       sync.Mutex
	begun    time.Time
	versions []*version // by number
	broken   []string
	met      map[string]int // situations
}

// version is a content that was sent.
type version struct {
	number uint64
	content
	by    string
	at    time.Time
	reach map[string]int // how far the truth had come when it was sent first
}

func newChecker(w *truth, ordered bool) *checker {
	return &checker{truth: w, ordered: ordered, begun: time.Now(), met: map[string]int{}}
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
	if len(r.GetEntries()) == 0 {
		return
	}
	reach := c.truth.reach()
	got, err := contentOf(func(yield func(string, []byte) bool) {
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
	if got[versionType] == "" {
		c.failed("%s sends version %d without the apiserver's version", from, r.GetVersion())
	}
	delete(got, versionType)
	i, known := c.find(r.GetVersion())
	if known {
		if v := c.versions[i]; !maps.Equal(v.content, got) {
			c.failed("version %d has two contents: %s sent\n%v\nand %s sent\n%v", v.number, v.by, v.content, from, got)
		}
		return
	}
	c.versions = slices.Insert(c.versions, i, &version{r.GetVersion(), got, from, time.Now(), reach})
	c.inOrder()
}

// inOrder looks whether each version is what the cluster was, type by type, and none goes back. mu is held.
func (c *checker) inOrder() {
	reached := map[string]int{}
	for _, v := range c.versions {
		for wireType := range v.content {
			if v.reach[wireType] == 0 {
				c.failed("%s sends version %d with %s, which the cluster never had", v.by, v.number, wireType)
			}
		}
		for _, k := range kinds {
			text := v.content[k.wireType]
			if k.optional && text == "" {
				continue // given up
			}
			from := reached[k.wireType]
			if !c.ordered {
				from = 0
			}
			at, found := c.truth.find(k.wireType, text, from, v.reach[k.wireType])
			if !found {
				what := "was never so"
				if _, ever := c.truth.find(k.wireType, text, 0, v.reach[k.wireType]); ever {
					what = "was so only before what an earlier version has"
				}
				c.failed("%s sends version %d at %v in which %s %s:\n%s", v.by, v.number, v.at.Sub(c.begun), k.id, what, text)
				return
			}
			reached[k.wireType] = at
		}
	}
}

// stored looks at what a database has of a cluster after a write.
func (c *checker) stored(m *store.Memory, _ string) error {
	state, got, err := latest(m)
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

// latest returns what a database has of the cluster now, but for the apiserver's version.
func latest(m *store.Memory) (store.State, content, error) {
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
	got, err := contentOf(func(yield func(string, []byte) bool) {
		for i, p := range payloads {
			if !yield(types[i], p) {
				return
			}
		}
	})
	delete(got, versionType)
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
