package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// database is a PostgreSQL with a synchronous standby, on which the server that is attacked keeps what it has. Neither counts into the
// server's memory. While the attack goes on the primary is ended by kill -9 and started again, and then ended for good: its standby
// takes over.
type database struct {
	primary, standby *pgtest.Server

	mu   sync.Mutex
	away []outage
}

// outage is a time in which the database is not expected to answer.
type outage struct {
	what       string
	begin, end time.Time // end is zero while it lasts
}

// recovery is how long the server may take to notice that the database is back: its connections are made again after a pause.
const recovery = 5 * time.Second

func openDatabase() (*database, error) {
	d := &database{}
	err := d.open()
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *database) open() (err error) {
	if d.primary, err = pgtest.Open("max_connections = 60"); err != nil {
		return err
	}
	if d.standby, err = d.primary.OpenStandby(); err != nil {
		return err
	}
	d.primary.Args = []string{"-c", "synchronous_standby_names=*"}
	d.primary.Kill()
	return d.primary.StartAgain()
}

// close ends both and removes their data.
func (d *database) close() error {
	var errs []error
	for _, s := range []*pgtest.Server{d.standby, d.primary} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// dsn names both, of which the server takes the one that can be written to.
func (d *database) dsn() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable&target_session_attrs=read-write&connect_timeout=2",
		d.primary.Port(), d.standby.Port())
}

// disturb breaks the database at a third and at two thirds of the attack. It returns when the context ends, or with what failed.
func (d *database) disturb(ctx context.Context, minutes float64) error {
	third := time.Duration(minutes * float64(time.Minute) / 3)
	for _, step := range []struct {
		what string
		mend func() error
	}{
		{"kill -9 of PostgreSQL", d.primary.StartAgain},
		{"kill -9 of PostgreSQL, and its standby takes over", d.standby.TakeOver},
	} {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(third):
		}
		if err := d.breakOff(step.what, step.mend); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

func (d *database) breakOff(what string, mend func() error) error {
	d.mu.Lock()
	d.away = append(d.away, outage{what: what, begin: time.Now()})
	d.mu.Unlock()
	d.primary.Kill()
	if err := mend(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	last := &d.away[len(d.away)-1]
	last.end = time.Now()
	fmt.Printf("%s: back after %v\n", what, last.end.Sub(last.begin).Round(time.Millisecond))
	return nil
}

// during tells whether the database was away, or had just come back, at some time between the two. Without a database it never is.
func (d *database) during(begin, end time.Time) bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.away {
		if end.After(o.begin) && (o.end.IsZero() || begin.Before(o.end.Add(recovery))) {
			return true
		}
	}
	return false
}

// stored is the version of a cluster that the server has.
func (s *server) stored(ctx context.Context, cluster string) (uint64, error) {
	body, err := s.get(ctx, "/api/v1/clusters/"+cluster)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	var answer struct {
		Version uint64 `json:"version"`
	}
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return 0, fmt.Errorf("the server's answer: %w", err)
	}
	return answer.Version, nil
}
