package reporter

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/faultserver"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// traffic is what one situation costs in an hour.
type traffic struct {
	connects, empty, full int
	emptyBytes            int
}

// measure counts an hour of a situation, from ten minutes after the start. Backoffs are at their mean.
func measure(t *testing.T, opts Options, begin, everySecond func(s *memServer, src *testSource)) traffic {
	t.Helper()
	var out traffic
	synctest.Test(t, func(t *testing.T) {
		server, src := newMemServer(), newSource(nil)
		seedContent(src)
		var counting atomic.Bool
		server.Seen = func(r *agent.KubernetesAPISyncRequest) {
			switch {
			case !counting.Load():
			case len(r.GetEntries()) > 0:
				out.full++
			default:
				out.empty++
				out.emptyBytes += proto.Size(r)
			}
		}
		opts.Source, opts.ClaimWatcher = src, true
		r := start(t, opts, func() float64 { return .5 }, server)
		time.Sleep(10*time.Minute + time.Second/2)
		synctest.Wait()
		begin(server, src)
		counting.Store(true)
		net := r.net.(*memNet)
		connects := net.connects.Load()
		for range 3600 {
			everySecond(server, src)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		counting.Store(false)
		out.connects = int(net.connects.Load() - connects)
		r.stop()
	})
	return out
}

func protocolDocument(t *testing.T) []byte {
	t.Helper()
	doc, err := os.ReadFile("../docs/protocol-reporter.md")
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestTrafficTable holds the table of requests per hour in docs/protocol-reporter.md against what the reporter does with its
// default settings.
func TestTrafficTable(t *testing.T) {
	nothing := func(*memServer, *testSource) {}
	n := 0
	churn := func(_ *memServer, src *testSource) {
		n++
		src.Upsert("pods", testEntry("*v1.Pod", 1, fmt.Sprint(n)))
	}
	down := func(s *memServer, _ *testSource) {
		s.set(func(s *memServer) { s.down = true })
		s.cut()
	}
	hole := func(s *memServer, _ *testSource) { s.set(func(s *memServer) { s.hole = true }) }
	forgets := func(s *memServer, _ *testSource) {
		s.Harm(func(r *agent.KubernetesAPISyncRequest) faultserver.Fault {
			if len(r.GetEntries()) == 0 {
				s.Restart()
			}
			return faultserver.Fault{}
		})
	}
	lies := func(s *memServer, _ *testSource) {
		s.Harm(func(*agent.KubernetesAPISyncRequest) faultserver.Fault {
			return faultserver.Fault{Answer: proto.Uint64(7)}
		})
	}
	zero := Options{AgentID: proto.Uint32(0)}
	rows := []string{
		"| situation | connections | without entries | full reports | bytes of the reports |",
		"|---|---|---|---|---|",
	}
	for _, c := range []struct {
		name        string
		opts        Options
		begin, tick func(*memServer, *testSource)
	}{
		{"quiet", Options{}, nothing, nothing},
		{"constant churn", Options{}, nothing, churn},
		{"server refuses connections", Options{}, down, nothing},
		{"server refuses connections, constant churn", Options{}, down, churn},
		{"server takes connections, answers nothing", Options{}, hole, nothing},
		{"server forgets before each heartbeat", Options{}, forgets, nothing},
		{"server answers every request with a wrong version", Options{}, lies, nothing},
		{"agent_id 0, quiet", zero, nothing, nothing},
		{"agent_id 0, constant churn", zero, nothing, churn},
	} {
		m := measure(t, c.opts, c.begin, c.tick)
		rows = append(rows, fmt.Sprintf("| %s | %d | %d | %d | %d + %d S |", c.name, m.connects, m.empty, m.full, m.emptyBytes, m.full))
	}
	var list []string
	for _, r := range table {
		list = append(list, "`"+string(r.state)+"`")
	}
	if states := strings.Join(list, ", "); !strings.Contains(string(protocolDocument(t)), states) {
		t.Errorf("docs/protocol-reporter.md does not name the states in the order of the machine's table: %s", states)
	}
	costs := strings.Join(rows, "\n")
	if !strings.Contains(string(protocolDocument(t)), costs) {
		t.Errorf("docs/protocol-reporter.md does not have this table:\n%s", costs)
	}
}
