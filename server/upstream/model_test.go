package upstream_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
	"github.com/pseudo-agent/pseudo-agent/protocol"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
)

// model is a history of agents behind a real front: what they take themselves for, by what they heard.
type model struct {
	*rig
	rng    *rand.Rand
	agents []*modelAgent
	trace  []string
	calm   bool
}

// modelAgent believes that it watches until its lease ends or it hears otherwise.
type modelAgent struct {
	*standIn
	alive bool
	until time.Duration
}

// modelLease is how long an agent watches without an answer: less than elector.ttl.
const modelLease = 9 * time.Minute

func (m *model) now() time.Duration { return time.Duration(m.elapsed.Load()) }

func (m *model) note(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf("%v: ", m.now())+fmt.Sprintf(format, args...))
}

func (m *model) join() {
	i := len(m.agents)
	policy := []agent.KubernetesWatchPolicy{normal, normal, watchOnly, disabled}[m.rng.IntN(4)]
	a := &modelAgent{standIn: m.agent(fmt.Sprint("agent-", i), fmt.Sprint("10.0.0.", i%3), policy), alive: true}
	a.old = m.rng.IntN(3) == 0
	m.agents = append(m.agents, a)
	m.note("agent-%d joins, %v", i, policy)
}

// ask lets an agent Sync, and looks whether two take themselves for the watcher.
func (m *model) ask(a *modelAgent) {
	m.t.Helper()
	if !m.calm && m.rng.IntN(4) == 0 { // for this one call
		m.hinder(a.sync)
	} else {
		a.sync()
	}
	if !a.told {
		return // it goes on as before
	}
	was := a.until > m.now()
	if a.until = 0; a.watch {
		a.until = m.now() + modelLease
	}
	if was != a.watch {
		m.note("%s watches: %v", a.req.GetHost(), a.watch)
	}
	if a.watch && a.req.GetKubernetesWatchPolicy() == disabled {
		m.t.Errorf("%s is told to watch although it is watch-disabled", a.req.GetHost())
	}
	for _, o := range m.agents {
		if o != a && o.alive && a.until > m.now() && o.until > m.now() {
			m.t.Errorf("%v: %s and %s watch", m.now(), a.req.GetHost(), o.req.GetHost())
		}
	}
}

// hinder makes the servers fail, or answer without a decision, during one call.
func (m *model) hinder(call func(...string) bool) {
	st := []agent.Status{agent.Status_SUCCESS, agent.Status_HEARTBEAT, agent.Status_FAILED}[m.rng.IntN(3)]
	before := make([]agent.Status, len(m.servers))
	broken := make([]bool, len(m.servers))
	for i, d := range m.servers {
		broken[i] = d.broken.Load()
		d.broken.Store(broken[i] || st == agent.Status_SUCCESS)
		d.mu.Lock()
		before[i], d.status = d.status, st
		d.mu.Unlock()
	}
	call()
	for i, d := range m.servers {
		d.broken.Store(broken[i])
		d.mu.Lock()
		d.status = before[i]
		d.mu.Unlock()
	}
}

// trouble is one thing that happens.
func (m *model) trouble() {
	a, d := m.agents[m.rng.IntN(len(m.agents))], m.servers[m.rng.IntN(len(m.servers))]
	switch m.rng.IntN(10) {
	case 0:
		if len(m.agents) < 8 {
			m.join()
		}
	case 1: // a crash, or an end with a goodbye
		if a.alive {
			a.alive, a.until = false, 0
			if m.rng.IntN(2) == 0 {
				a.sync(protocol.GoodbyeHeader, "1")
			}
			m.note("%s ends", a.req.GetHost())
		}
	case 2:
		if !a.alive {
			a.alive, a.req.BootTime = true, new(a.req.GetBootTime()+uint32(m.now().Seconds())+1)
			_ = a.conn.Close()
			a.conn = dial(m.t, m.address)
			m.note("%s is back", a.req.GetHost())
		}
	case 3:
		d.broken.Store(!d.broken.Load())
		m.note("server broken: %v", d.broken.Load())
	case 4:
		d.mu.Lock()
		d.status = []agent.Status{agent.Status_SUCCESS, agent.Status_HEARTBEAT, agent.Status_FAILED}[m.rng.IntN(3)]
		d.mu.Unlock()
		m.note("server answers %v", d.status)
	case 5:
		d.forget()
		m.note("server restarts")
	case 6:
		d.stubborn.Store(!d.stubborn.Load())
	case 7:
		m.stop()
		m.start(elector.Options{})
		m.note("front restarts")
		for _, a := range m.agents {
			_ = a.conn.Close()
			a.conn = dial(m.t, m.address)
		}
	case 8: // somebody sends a request once more, on another connection
		conn := a.conn
		a.conn = dial(m.t, m.address)
		watch := a.watch
		a.sync()
		a.watch = watch
		_ = a.conn.Close()
		a.conn = conn
	}
}

// minute lets all agents Sync, in any order.
func (m *model) minute() {
	for _, i := range m.rng.Perm(len(m.agents)) {
		if a := m.agents[i]; a.alive {
			m.ask(a)
			m.pass(time.Duration(m.rng.Int64N(int64(5 * time.Second))))
		}
	}
	m.pass(time.Minute - m.now()%time.Minute)
}

func (m *model) watcher() *modelAgent {
	for _, a := range m.agents {
		if a.alive && a.until > m.now() {
			return a
		}
	}
	return nil
}

// TestModelThroughFront plays random histories of agents, servers and fronts. At no moment two agents watch; once all is quiet
// one of the best does, and goes on.
func TestModelThroughFront(t *testing.T) {
	first := testseed.New(t)
	for i := range testseed.Rounds(t, 30) {
		seed := first + uint64(i)
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &model{rig: newRig(t, 2, upstream.Options{}, elector.Options{}), rng: rand.New(rand.NewPCG(seed, 5))}
			for range 2 + m.rng.IntN(3) {
				m.join()
			}
			for range 40 {
				if m.rng.IntN(2) == 0 {
					m.trouble()
				}
				m.minute()
			}
			m.settle()
			if t.Failed() {
				t.Logf("PSEUDO_TEST_SEED=%d PSEUDO_TEST_ROUNDS=1\n%s", seed, strings.Join(m.trace, "\n"))
			}
		})
		if !ok {
			break
		}
	}
}

// settle ends all trouble and looks at what comes of it.
func (m *model) settle() {
	m.note("quiet")
	m.calm = true
	for _, d := range m.servers {
		d.broken.Store(false)
		d.stubborn.Store(false)
		d.mu.Lock()
		d.status = agent.Status_SUCCESS
		d.mu.Unlock()
	}
	rank := map[agent.KubernetesWatchPolicy]int{disabled: 0, normal: 1, watchOnly: 2}
	best := 0
	for _, a := range m.agents {
		if a.alive {
			best = max(best, rank[a.req.GetKubernetesWatchPolicy()])
		}
	}
	for range 20 { // elector.ttl, and a stop that has to be heard
		m.minute()
	}
	holder := m.watcher()
	switch {
	case best == 0 && holder != nil:
		m.t.Errorf("%s watches although nobody may", holder.req.GetHost())
	case best > 0 && (holder == nil || rank[holder.req.GetKubernetesWatchPolicy()] != best):
		m.t.Errorf("%v watches in the end, want one of the best", holder)
	}
	for range 5 {
		m.minute()
		if m.watcher() != holder {
			m.t.Error("the watcher changed although nothing happened")
		}
	}
}
