package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
)

// client is a good one: an agent that was there before, Syncs and reports its cluster, of which one Pod changes each time.
type client struct {
	cluster string
	token   string
	conn    *grpc.ClientConn
	entries []*agent.KubernetesAPIInfo
	n       int

	took   []time.Duration
	failed int
	why    string
	acked  uint64 // the last version that the server has taken
	// The database that the server has, nil for a file, and how many requests fell into the time when it was away, and failed then.
	database      *database
	away, refused int
}

// goodPods is how many Pods a good client has.
const goodPods = 1000

func newClient(t target, cluster, from, secret string) *client {
	c := &client{cluster: cluster, token: secret, conn: dial(t.grpc, from), entries: []*agent.KubernetesAPIInfo{versionEntry()}}
	for i := range goodPods {
		c.entries = append(c.entries, goodPod(i, 0))
	}
	return c
}

func goodPod(i, changed int) *agent.KubernetesAPIInfo {
	return entry("*v1.Pod", fmt.Sprintf(`{"metadata":{"uid":"u%d","name":"p%d","namespace":"ns","labels":{"app":"a%d","changed":"%d"}},"status":{"podIP":"10.0.%d.%d"}}`,
		i, i, i/10, changed, i/250, i%250))
}

// begin makes the first report.
func (c *client) begin(ctx context.Context) error { return c.call(ctx, true) }

// run goes on until the context ends: two requests a second, the Sync and the report by turns.
func (c *client) run(ctx context.Context) {
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.n++
		start := time.Now()
		err := c.call(ctx, c.n%4 == 0)
		if ctx.Err() != nil {
			return
		}
		if c.database.during(start, time.Now()) {
			c.away++
			if err != nil {
				c.refused++
			}
			continue
		}
		c.took = append(c.took, time.Since(start))
		if err != nil {
			c.failed++
			c.why = err.Error()
		}
	}
}

func (c *client) call(ctx context.Context, reports bool) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if c.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
	}
	client := agent.NewSynchronizerClient(c.conn)
	if !reports {
		_, err := client.Sync(ctx, &agent.SyncRequest{
			KubernetesClusterId: new(c.cluster), CtrlIp: new("10.0.0.1"), CtrlMac: new("aa:bb:cc:dd:ee:01"), Host: new("good"), ProcessName: new("agent"),
		})
		return err //nolint:wrapcheck // it says everything
	}
	i := c.n % goodPods
	c.entries[1+i] = goodPod(i, c.n+1)
	version := uint64(time.Now().UnixMicro())
	_, err := client.KubernetesAPISync(ctx, &agent.KubernetesAPISyncRequest{
		ClusterId: new(c.cluster), Version: new(version), AgentId: new(uint32(1)), SourceIp: new("10.0.0.1"), Entries: c.entries,
	})
	if err == nil {
		c.acked = version
	}
	return err //nolint:wrapcheck // it says everything
}

// summary is a line about all requests, and what 99 % of them took at most.
func (c *client) summary() (line string, p99 time.Duration) {
	if len(c.took) == 0 {
		return c.cluster + ": no requests", 0
	}
	slices.Sort(c.took)
	at := func(percent int) time.Duration { return c.took[(len(c.took)-1)*percent/100].Round(time.Millisecond) }
	line = fmt.Sprintf("%s: %d requests, %d failed; half took up to %v, 99 %% up to %v, the slowest %v", c.cluster, len(c.took), c.failed, at(50), at(99), at(100))
	if c.away > 0 {
		line += fmt.Sprintf("; %d more while the database was away, of which %d were refused", c.away, c.refused)
	}
	return line, at(99)
}
