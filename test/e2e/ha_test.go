package e2e

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/harness"
	"github.com/pseudo-agent/pseudo-agent/test/e2e/sample"
)

const (
	leaseNamespace = "kube-system"
	leaseName      = "pseudo-agent-e2e"
	// takeover is the longest time until a standby follows a leader that is gone, with the durations that are the default.
	takeover = 20 * time.Second
)

// shortLease are durations that let a test wait for the end of a lease.
var shortLease = harness.Settings{
	"high_availability.lease_duration": "5s",
	"high_availability.renew_deadline": "3s",
	"high_availability.retry_period":   "500ms",
}

// replica is one of several agents that report the same cluster.
type replica struct {
	*harness.Daemon
	relay *relay
}

func (r *replica) leads(ctx context.Context) error {
	v, err := r.Metric(ctx, "pseudo_agent_leader")
	if err != nil {
		return err
	}
	if v != 1 {
		return fmt.Errorf("%s does not lead", r.Name)
	}
	return nil
}

// signal sends the signal to the replica.
func (r *replica) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(r.Process().PID(), s); err != nil {
		t.Fatal(err)
	}
}

// ended waits until the replica has ended by itself, and fails the test if it does not say why.
func (p *pair) ended(r *replica, why string) {
	p.t.Helper()
	select {
	case <-r.Process().Done():
	case <-time.After(time.Minute):
		p.t.Fatalf("%s goes on", r.Name)
	}
	if !strings.Contains(r.Tail(20), why) {
		p.t.Errorf("%s has ended without saying %q:\n%s", r.Name, why, r.Tail(20))
	}
}

// newReplicas prepares a server and two agents with an election, each behind a relay. Nothing is started but the server.
func newReplicas(t *testing.T, settings harness.Settings) (*pair, *ledger, []*replica) {
	t.Helper()
	all := harness.Settings{
		"high_availability.enabled":         true,
		"high_availability.lease_namespace": leaseNamespace,
		"high_availability.lease_name":      leaseName,
	}
	maps.Copy(all, settings)
	p := newPair(t, options{agent: all})
	p.must(p.account.GrantIn(p.ctx, leaseNamespace, "lease",
		rbacv1.PolicyRule{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create"}},
		rbacv1.PolicyRule{
			APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{leaseName},
			Verbs: []string{"get", "update"},
		}))
	t.Cleanup(func() {
		err := cluster.Client.CoordinationV1().Leases(leaseNamespace).Delete(context.Background(), leaseName, metav1.DeleteOptions{})
		if err != nil {
			t.Error(err)
		}
	})
	p.must(p.server.Start(p.ctx))
	l := &ledger{}
	var replicas []*replica
	for _, name := range []string{"first", "second"} {
		r := &replica{relay: newRelay(t, name, p.server.GRPC, l)}
		var err error
		dir := filepath.Dir(p.agent.ConfigFile)
		each := harness.Settings{
			"report.debounce": "100ms", "report.heartbeat_interval": "1s", "log.level": "debug", "log.format": "text",
			"projection.hash_key_file": filepath.Join(dir, "hash.key"), "high_availability.identity": name,
		}
		maps.Copy(each, all)
		r.Daemon, err = harness.NewAgent(bins, dir, name, p.account.Kubeconfig, r.relay.address, p.clusterID, each)
		p.must(err)
		t.Cleanup(func() {
			r.Kill()
			if t.Failed() {
				t.Logf("the last words of %s:\n%s", name, r.Tail(30))
			}
		})
		replicas = append(replicas, r)
	}
	return p, l, replicas
}

// elect starts the replicas one after the other, so that the first one leads and the second one is on standby.
func (p *pair) elect(l *ledger, replicas []*replica) {
	p.t.Helper()
	first, second := replicas[0], replicas[1]
	p.agent = first.Daemon
	p.must(first.Start(p.ctx))
	p.eventually(time.Minute, "the first replica leads", func() error { return first.leads(p.ctx) })
	p.must(second.Start(p.ctx))
	p.synced(time.Minute)
	p.eventually(time.Minute, "the second replica is on standby and is ready", func() error {
		if err := second.Ready(p.ctx); err != nil {
			return err
		}
		return p.says(second, "standing by", "first")
	})
	if got := l.turns(); !slices.Equal(got, []string{"first"}) {
		p.t.Fatalf("requests came from %v in turn, want only the first replica's", got)
	}
}

func (p *pair) says(r *replica, words ...string) error {
	q := *p
	q.agent = r.Daemon
	return q.statusSays(words...)
}

// churn changes an object of the cluster again and again until the returned function is called.
func churn(t *testing.T, loader *sample.Loader, obj *unstructured.Unstructured) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			patch(t, loader, obj, labelled("e2e.example.com/turn", fmt.Sprint(i)))
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// neverPartial looks at the server all the time until the returned function is called. The number of objects, which the
// churn does not change, must stay what it is.
func (p *pair) neverPartial() (stop func()) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.ctx)
	before, err := p.server.Cluster(ctx, p.clusterID)
	p.must(err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if info, err := p.server.Cluster(ctx, p.clusterID); err == nil && info.Objects != before.Objects {
				p.t.Errorf("version %d has %d objects, want %d as before", info.Version, info.Objects, before.Objects)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	p.t.Cleanup(stop)
	return stop
}

func TestStandbyFollowsAKilledLeader(t *testing.T) {
	p, l, replicas := newReplicas(t, nil)
	loader, objs := load(t, nil)
	p.elect(l, replicas)
	first, second := replicas[0], replicas[1]
	stop := churn(t, loader, pick(t, objs, "Pod", "web-6d5f8b9c4-x7k2p"))
	looked := p.neverPartial()

	p.agent = second.Daemon
	first.Kill()
	p.eventually(takeover, "the standby leads", func() error { return second.leads(p.ctx) })
	p.eventually(time.Minute, "the new leader reports", func() error {
		if l.count("second") == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	stop()
	p.synced(time.Minute)
	if got, want := l.turns(), []string{"first", "second"}; !slices.Equal(got, want) {
		t.Errorf("requests came from %v in turn, want %v", got, want)
	}

	// The other way round, in order: the lease is given back at the end, so nobody waits for it to run out.
	p.must(first.Start(p.ctx))
	p.must(second.Stop())
	p.agent = first.Daemon
	p.eventually(takeover, "the restarted replica leads", func() error { return first.leads(p.ctx) })
	patch(t, loader, pick(t, objs, "Pod", "web-6d5f8b9c4-x7k2p"), labelled("e2e.example.com/turn", "last"))
	p.synced(time.Minute)
	looked()
	if got, want := l.turns(), []string{"first", "second", "first"}; !slices.Equal(got, want) {
		t.Errorf("requests came from %v in turn, want %v", got, want)
	}
}

func TestFrozenLeaderEndsAndWhatItHadInFlightIsCorrected(t *testing.T) {
	settings := maps.Clone(shortLease)
	settings["claim_watcher"] = false // so that every request is a heartbeat or a report
	p, l, replicas := newReplicas(t, settings)
	loader, objs := load(t, nil)
	p.elect(l, replicas)
	first, second := replicas[0], replicas[1]
	pod := pick(t, objs, "Pod", "web-6d5f8b9c4-x7k2p")
	stop := churn(t, loader, pod)
	looked := p.neverPartial()

	// A report leaves the leader, but the network keeps it, and the leader freezes.
	caught := first.relay.catch()
	select {
	case <-caught:
	case <-time.After(time.Minute):
		t.Fatal("the leader sends no report although the cluster changes")
	}
	first.signal(t, syscall.SIGSTOP)
	t.Cleanup(func() {
		if !first.Ended() {
			first.signal(t, syscall.SIGCONT)
		}
	})
	p.agent = second.Daemon
	p.eventually(time.Minute, "the standby leads", func() error { return second.leads(p.ctx) })
	stop()
	p.synced(time.Minute)
	begun := l.count("first")

	// Now the old report arrives, and the old leader wakes up. The new leader's requests wait meanwhile, so that all that
	// reach the server afterwards are sent or answered after the old report was stored.
	stored := p.stored()
	second.relay.hold()
	first.relay.release()
	p.eventually(time.Minute, "the old report has arrived", func() error {
		if p.stored() == stored {
			return fmt.Errorf("%d reports were stored", stored)
		}
		return nil
	})
	arrived, seen := time.Now(), len(l.after(0))
	second.relay.release()
	first.signal(t, syscall.SIGCONT)
	p.synced(time.Minute)
	t.Logf("the server was exact again %s after the old report had arrived; the heartbeat interval is 1s", time.Since(arrived).Round(time.Millisecond))
	p.ended(first, "the leader's lease was lost")
	looked()
	// The first heartbeat that is answered after the arrival is followed by the report that corrects it. None was under way
	// at the arrival, or one was.
	heartbeats := slices.IndexFunc(l.after(seen), func(r request) bool { return r.report })
	if heartbeats != 0 && heartbeats != 1 {
		t.Errorf("%d heartbeats began between the arrival of the old report and the report that corrects it, want at most one:\n%v",
			heartbeats, l.after(seen))
	}
	if got := l.count("first"); got != begun {
		t.Errorf("the thawed leader began %d requests, want none", got-begun)
	}
	if got, want := l.turns(), []string{"first", "second"}; !slices.Equal(got, want) {
		t.Errorf("requests came from %v in turn, want %v", got, want)
	}

	// The server was corrected by the heartbeat that came next, not by a change.
	before := p.quiet()
	if after := p.heartbeats(2); after.Version != before.Version {
		t.Errorf("the version went from %d to %d without a change", before.Version, after.Version)
	}
}

func TestLeaderWithoutItsLeaseEnds(t *testing.T) {
	p, l, replicas := newReplicas(t, shortLease)
	load(t, nil)
	p.elect(l, replicas)
	first, second := replicas[0], replicas[1]

	name := p.account.Name + "-lease"
	bindings := cluster.Client.RbacV1().RoleBindings(leaseNamespace)
	binding, err := bindings.Get(p.ctx, name, metav1.GetOptions{})
	p.must(err)
	p.must(bindings.Delete(p.ctx, name, metav1.DeleteOptions{}))
	p.agent = second.Daemon
	p.ended(first, "the leader's lease was lost")
	if err := second.leads(p.ctx); err == nil {
		t.Error("the standby leads although it may not write the lease")
	}
	held := l.count("second")
	if held != 0 {
		t.Errorf("the standby began %d requests, want none", held)
	}

	binding.ResourceVersion = ""
	_, err = bindings.Create(p.ctx, binding, metav1.CreateOptions{})
	p.must(err)
	p.eventually(time.Minute, "the standby leads", func() error { return second.leads(p.ctx) })
	p.synced(time.Minute)
}
