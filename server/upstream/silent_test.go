package upstream_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
)

// clock is the wall's clock, which a test sets forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// ask Syncs, with a deadline unless that is 0; without one the agent gives up when the server has left the call for long enough. It tells
// whether there was an answer.
func (a *standIn) ask(deadline time.Duration, c *clock) bool {
	a.r.t.Helper()
	ctx, cancel := context.WithCancel(a.r.t.Context())
	defer cancel()
	if deadline > 0 {
		ctx, cancel = context.WithTimeout(ctx, deadline)
		defer cancel()
	} else {
		before := a.r.unanswered()
		go func() {
			for a.r.unanswered() == before && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			c.forward(10 * time.Second)
			cancel()
		}()
	}
	return a.conn.Invoke(ctx, "/agent.Synchronizer/Sync", a.req, &agent.SyncResponse{}) == nil
}

// unanswered is how many calls the servers have left without an answer.
func (r *rig) unanswered() (n int64) {
	for _, d := range r.servers {
		n += d.left.Load()
	}
	return n
}

// fallsSilent has a server leave three calls of an agent without an answer, until the front sees it.
func (a *standIn) fallsSilent(d *deepflow, deadline time.Duration, c *clock) {
	a.r.t.Helper()
	d.silent.Store(true)
	for range 3 {
		if a.ask(deadline, c) {
			a.r.t.Fatal("a server that answers nothing has answered")
		}
	}
	a.r.sees(d.address)
}

// sees waits until the front passes a server over.
func (r *rig) sees(address string) {
	r.t.Helper()
	for begun := time.Now(); time.Since(begun) < 20*time.Second; time.Sleep(5 * time.Millisecond) {
		for _, s := range r.front.Status().Servers {
			if s.Address == address && !s.Healthy {
				return
			}
		}
	}
	r.t.Fatalf("%s is taken for healthy", address)
}

func (d *deepflow) asked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.syncs)
}

// on returns the server that the agent's calls go to, and the other one.
func (a *standIn) on() (used, other *deepflow) {
	a.r.t.Helper()
	before := a.r.servers[0].asked()
	if !a.ask(20*time.Second, nil) {
		a.r.t.Fatal("no answer")
	}
	if a.r.servers[0].asked() > before {
		return a.r.servers[0], a.r.servers[1]
	}
	return a.r.servers[1], a.r.servers[0]
}

// TestServerThatAnswersNothing: three calls that a server leaves without an answer are enough, whether the deadline ends them here, or the
// agent gives them up, with a deadline or without.
func TestServerThatAnswersNothing(t *testing.T) {
	for name, deadline := range map[string]time.Duration{"deadline": 100 * time.Millisecond, "none": 0} {
		t.Run(name, func(t *testing.T) {
			c := &clock{}
			r := newRig(t, 2, upstream.Options{Now: c.now}, elector.Options{})
			a := r.agent("node-1", "10.0.0.1", normal)
			used, other := a.on()
			a.fallsSilent(used, deadline, c)
			if next, _ := a.on(); next != other {
				t.Error("calls still go to the server that answers nothing")
			}
		})
	}
}

// TestSilentServerAndRareCalls: a server that answers nothing is not tried again first because the next call comes minutes later. When it is
// well again, the cluster stays where it is.
func TestSilentServerAndRareCalls(t *testing.T) {
	c := &clock{}
	r := newRig(t, 2, upstream.Options{Now: c.now}, elector.Options{})
	a := r.agent("node-1", "10.0.0.1", normal)
	used, other := a.on()
	a.fallsSilent(used, 100*time.Millisecond, c)
	c.forward(2 * time.Minute)
	if !a.ask(5*time.Second, c) || other.asked() == 0 {
		t.Error("the call went to the server that answers nothing")
	}
	used.silent.Store(false)
	c.forward(time.Hour)
	if next, _ := a.on(); next != other {
		t.Error("the cluster went back to a server that is well again")
	}
}

// TestOneSilentAfterTheOther: if all have fallen silent, the one is tried first for which that is longest ago.
func TestOneSilentAfterTheOther(t *testing.T) {
	c := &clock{}
	r := newRig(t, 2, upstream.Options{Now: c.now}, elector.Options{})
	a := r.agent("node-1", "10.0.0.1", normal)
	for range 3 { // whichever is first by its rank
		used, other := a.on()
		a.fallsSilent(used, 100*time.Millisecond, c)
		other.silent.Store(false)
		if next, _ := a.on(); next != other {
			t.Fatal("calls still go to the server that answers nothing")
		}
	}
}

// TestUnreachableServer: the call that finds its server unreachable goes on to the next one.
func TestUnreachableServer(t *testing.T) {
	r := newRig(t, 2, upstream.Options{}, elector.Options{})
	a := r.agent("node-1", "10.0.0.1", normal)
	used, other := a.on()
	r.stop()
	begun := make(chan struct{})
	r.opts.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		if address == used.address {
			<-begun
			return nil, errors.New("unreachable")
		}
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	r.start(elector.Options{})
	a.conn = dial(t, r.address)
	before := other.asked()
	time.AfterFunc(300*time.Millisecond, func() { close(begun) }) // by then the call waits for the connection; if not, it goes to the other at once
	if !a.ask(20*time.Second, nil) || other.asked() == before {
		t.Error("the call was not answered by the other server")
	}
}

// fading is a connection that carries nothing any more once it is forgotten on the way, and does not say so.
type fading struct {
	net.Conn
	gone   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (f *fading) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if f.gone.Load() {
		<-f.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (f *fading) Write(b []byte) (int, error) {
	if f.gone.Load() {
		return len(b), nil
	}
	return f.Conn.Write(b)
}

func (f *fading) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Conn.Close()
}

// TestConnectionForgottenOnTheWay: a connection over which nothing arrives any more is replaced, although nobody has ended it.
func TestConnectionForgottenOnTheWay(t *testing.T) {
	c := &clock{}
	var mu sync.Mutex
	var made []*fading
	r := newRig(t, 1, upstream.Options{Now: c.now, Dial: func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		made = append(made, &fading{Conn: conn, closed: make(chan struct{})})
		return made[len(made)-1], nil
	}}, elector.Options{})
	a := r.agent("node-1", "10.0.0.1", normal)
	if !a.ask(20*time.Second, c) {
		t.Fatal("no answer")
	}
	mu.Lock()
	for _, f := range made {
		f.gone.Store(true)
	}
	mu.Unlock()
	for range 3 {
		a.ask(100*time.Millisecond, c)
	}
	r.sees(r.servers[0].address)
	if !a.ask(20*time.Second, c) {
		t.Error("calls still go over the connection that carries nothing")
	}
}
