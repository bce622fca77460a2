package receiver

import (
	"sync"
	"time"
)

// meter counts what came in the last minute, second by second.
type meter struct {
	mu      sync.Mutex
	seconds [60]metered
}

type metered struct{ second, reports, bytes int64 }

// add counts a report of so many bytes.
func (m *meter) add(now time.Time, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.seconds[now.Unix()%int64(len(m.seconds))]
	if s.second != now.Unix() {
		*s = metered{second: now.Unix()}
	}
	s.reports++
	s.bytes += int64(bytes)
}

// minute returns what came in the sixty seconds that end now.
func (m *meter) minute(now time.Time) (reports, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.seconds {
		if age := now.Unix() - s.second; age >= 0 && age < int64(len(m.seconds)) {
			reports += s.reports
			bytes += s.bytes
		}
	}
	return reports, bytes
}

// LastMinute returns how many reports this process took in the last minute, heartbeats among them, and their bytes as they came.
func (r *Receiver) LastMinute() (reports, bytes int64) { return r.taken.minute(r.now()) }
