package e2e

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
)

// electorTTL is as short as it can be with agents that Sync once a minute.
const electorTTL = 90 * time.Second

// watchers are agents of one cluster, by policy, on one host: they have ip, mac and name in common.
type watchers struct {
	*pair
	agents map[string]*harness.Daemon
}

func newWatchers(t *testing.T) *watchers {
	t.Helper()
	dir := t.TempDir()
	w := &watchers{agents: map[string]*harness.Daemon{}, pair: newPair(t, options{
		server: harness.Settings{
			"elector.ttl": electorTTL.String(), "elector.refuse_others": true,
			"store.type": "embedded", "store.path": filepath.Join(dir, "server.db"),
		},
		agent: harness.Settings{"watch_policy": "watch-only"},
	})}
	w.agents["watch-only"] = w.agent
	for _, policy := range []string{"normal", "watch-disabled"} {
		settings := maps.Clone(harness.Settings{
			"watch_policy": policy, "register_as_agent": true, "report.debounce": "100ms", "report.heartbeat_interval": "1s",
			"projection.hash_key_file": filepath.Join(filepath.Dir(w.agent.ConfigFile), "hash.key"), "log.level": "debug", "log.format": "text",
		})
		a, err := harness.NewAgent(bins, dir, policy, w.account.Kubeconfig, w.server.GRPC, w.clusterID, settings)
		w.must(err)
		w.agents[policy] = a
		t.Cleanup(func() {
			a.Kill()
			if t.Failed() {
				t.Logf("the last words of %s:\n%s", policy, a.Tail(10))
			}
		})
	}
	return w
}

// holder returns the policy of the agent that the server says has the role, empty if nobody has.
func (w *watchers) holder() (string, error) {
	info, err := w.server.Watchers(w.ctx, w.clusterID)
	if err != nil || info.Holder == nil {
		return "", err
	}
	return info.Holder.Policy, nil
}

// becomes waits until the agent has the role. Until then only one of the others named may have it.
func (w *watchers) becomes(policy string, within time.Duration, others ...string) {
	w.t.Helper()
	began := time.Now()
	for {
		holder, err := w.holder()
		switch {
		case err == nil && holder == policy:
			w.t.Logf("%s has the role after %s", policy, time.Since(began).Round(100*time.Millisecond))
			return
		case err == nil && holder != "" && !slices.Contains(others, holder):
			w.t.Fatalf("%s got the role, want %s", holder, policy)
		case time.Since(began) > within:
			w.t.Fatalf("%s does not have the role within %s: %q, %v", policy, within, holder, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// reports waits until the reports of an agent arrive.
func (w *watchers) reports(policy string) {
	w.t.Helper()
	w.eventuallyOf(time.Minute, policy+" reports", func() error {
		before, err := w.server.Cluster(w.ctx, w.clusterID)
		if err != nil {
			return err
		}
		time.Sleep(3 * time.Second)
		after, err := w.server.Cluster(w.ctx, w.clusterID)
		if err == nil && !after.LastReport.After(before.LastReport) {
			err = errors.New("no report came")
		}
		return err
	})
}

// eventuallyOf is eventually for a test in which agents end.
func (w *watchers) eventuallyOf(within time.Duration, what string, f func() error) {
	w.t.Helper()
	deadline := time.Now().Add(within)
	err := f()
	for ; err != nil && time.Now().Before(deadline); err = f() {
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		w.t.Fatalf("%s: not within %s: %v", what, within, err)
	}
}

func TestWatcherElection(t *testing.T) {
	const sync = time.Minute + 15*time.Second // until an agent has Synced, with its retries
	w := newWatchers(t)
	load(t, nil)
	w.must(w.server.Start(w.ctx))
	w.must(w.agents["watch-only"].Start(w.ctx))
	w.becomes("watch-only", 20*time.Second)
	w.synced(time.Minute)
	w.must(w.agents["normal"].Start(w.ctx))
	w.must(w.agents["watch-disabled"].Start(w.ctx))
	w.eventuallyOf(20*time.Second, "three agents Sync", func() error {
		info, err := w.server.Watchers(w.ctx, w.clusterID)
		if err == nil && len(info.Candidates) != 3 {
			err = fmt.Errorf("%d agents are known", len(info.Candidates))
		}
		for _, c := range info.Candidates {
			if (c.Policy == "watch-disabled") != (c.State == "excluded") {
				err = fmt.Errorf("%s is in state %s", c.Policy, c.State)
			}
		}
		return err
	})
	w.becomes("watch-only", time.Second)

	t.Log("the server is restarted")
	w.server.Kill()
	w.must(w.server.Start(w.ctx))
	w.becomes("watch-only", time.Second)
	w.reports("watch-only")

	t.Log("the watcher is ended, and gives its role back")
	w.must(w.agents["watch-only"].Stop())
	w.becomes("normal", sync, "watch-only")
	w.reports("normal")

	t.Log("the watcher is frozen")
	w.must(syscall.Kill(w.agents["normal"].Process().PID(), syscall.SIGSTOP))
	w.must(w.agents["watch-only"].Start(w.ctx))
	w.becomes("watch-only", electorTTL+sync, "normal")
	w.reports("watch-only")
	w.must(syscall.Kill(w.agents["normal"].Process().PID(), syscall.SIGCONT))
	w.eventuallyOf(sync, "the agent that was frozen learns that it is no longer the watcher", func() error {
		status, err := w.agents["normal"].Status(w.ctx)
		if err == nil && !strings.Contains(status, "refused") {
			err = errors.New("its status does not say so")
		}
		return err
	})
	w.becomes("watch-only", time.Second)

	t.Log("the watcher is killed")
	w.agents["watch-only"].Kill()
	w.becomes("normal", electorTTL+sync, "watch-only")
	w.reports("normal")
}
