package simulation

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// limits are what must never be exceeded, by what it is: by one process at once, or in one minute. Where nothing gives the number it
// is at least twice the most that was seen in hundreds of histories.
var limits = map[string]int{
	"requests of an agent to the apiserver at once":        60,           // a list and a watch of each resource, lease, discovery
	"requests of an agent to the apiserver in a minute":    20*60 + 2*40, // what client-go's rate limit allows two lives
	"reports of an agent in a minute":                      60,
	"reports of a server to a deepflow-server in a minute": 120,
	"log lines in a minute":                                1500, // of all processes
	"connections of a node to another at once":             64,
	"snapshots in a database":                              snapshotsKept,
	"rows in a database that no snapshot has":              0,
}

// bounds counts what must stay bounded, whatever fails.
type bounds struct {
	check *checker

	mu    sync.Mutex
	now   map[[2]string]int // by what and who
	since map[[2]string]time.Time
	most  map[string]int // by what
}

func newBounds(c *checker) *bounds {
	return &bounds{check: c, now: map[[2]string]int{}, since: map[[2]string]time.Time{}, most: map[string]int{}}
}

// begins notes that one more is there, and ends that it has gone.
func (b *bounds) begins(what, who string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	what += " at once"
	b.now[[2]string{what, who}]++
	b.is(what, who, b.now[[2]string{what, who}])
}

func (b *bounds) ends(what, who string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now[[2]string{what + " at once", who}]--
}

// often notes that something has happened once more in this minute.
func (b *bounds) often(what, who string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	what += " in a minute"
	key, minute := [2]string{what, who}, time.Now().Truncate(time.Minute)
	if b.since[key] != minute {
		b.since[key], b.now[key] = minute, 0
	}
	b.now[key]++
	b.is(what, who, b.now[key])
}

// counted notes how many there are.
func (b *bounds) counted(what, who string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.is(what, who, n)
}

// is notes a number. mu is held.
func (b *bounds) is(what, who string, n int) {
	b.most[what] = max(b.most[what], n)
	if limit := limits[what]; n == limit+1 {
		b.check.fail("%d %s (%s), want at most %d", n, what, who, limit)
	}
}

// requests counts those to the apiserver.
func (b *bounds) requests(to http.Handler) http.Handler {
	const what = "requests of an agent to the apiserver"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, _, _ := net.SplitHostPort(r.RemoteAddr) // always host:port
		b.often(what, who)
		b.begins(what, who)
		defer b.ends(what, who)
		to.ServeHTTP(w, r)
	})
}
