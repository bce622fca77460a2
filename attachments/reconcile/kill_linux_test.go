package reconcile_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/cni"
	"github.com/pseudo-agent/pseudo-agent/attachments/reconcile"
	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

// order is what a process that is killed is to do.
type order struct {
	Dir, Bin string
	Pod      reconcile.Pod
	// KillAt is the number of the fault point, from 1, at which it kills itself; 0: none.
	KillAt int
}

// killed is how TestKilledProcess gets its order.
const killed = "PSEUDO_TEST_KILLED"

// TestKilledProcess is the process that others start; it is no test of its own.
func TestKilledProcess(t *testing.T) {
	var o order
	text := os.Getenv(killed)
	if text == "" {
		t.Skip("runs as a process of other tests")
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	plugins := cni.New(cni.Options{Dirs: []string{o.Bin}, CacheDir: filepath.Join(o.Dir, "cache"), Timeout: 20 * time.Second})
	if err := plugins.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	store, err := attachments.Open(filepath.Join(o.Dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	points := 0
	r, wrong, err := reconcile.New(reconcile.Options{Store: store, Plugins: plugins, Fault: func(string) {
		if points++; points == o.KillAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // ends this process
			select {}
		}
	}})
	if err != nil || len(wrong) > 0 {
		t.Fatal(err, wrong)
	}
	outcomes, err := r.Reconcile(context.WithoutCancel(t.Context()), o.Pod)
	for _, out := range outcomes {
		err = errors.Join(err, out.Err)
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(7)
	}
}

// process runs an order in a process of its own and returns whether it was killed, and whether a step of it failed.
func (n *node) process(bin string, pod reconcile.Pod, killAt int) (wasKilled, stepFailed bool) {
	n.t.Helper()
	text, err := json.Marshal(order{Dir: n.dir, Bin: bin, Pod: pod, KillAt: killAt})
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.CommandContext(n.t.Context(), os.Args[0], "-test.run=^TestKilledProcess$")
	cmd.Env = append(os.Environ(), killed+"="+string(text))
	out, err := cmd.CombinedOutput()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case err == nil:
		return false, false
	case ok && status.Signaled() && status.Signal() == syscall.SIGKILL:
		return true, false
	case ok && status.ExitStatus() == 7:
		return false, true
	}
	n.t.Fatalf("%v\n%s", err, out)
	return false, false
}

// agree fails unless namespace, addresses and records are what the Pod wants, and nothing more. The Pod's networks are
// those of bridges.
func (n *node) agree(what string, pods ...reconcile.Pod) {
	n.t.Helper()
	records, end := n.open()
	defer end()
	addresses := map[string]int{}
	recorded := 0
	for _, pod := range pods {
		var names []string
		for _, a := range records.Attachments(pod.UID) {
			recorded++
			names = append(names, a.Interface)
			if a.State != attachments.Attached {
				n.t.Errorf("%s: %s is recorded as %s", what, a.Path(), a.State)
			}
		}
		want := []string{}
		for _, w := range pod.Wanted {
			want = append(want, w.Interface)
			addresses[w.Name]++
		}
		slices.Sort(names)
		slices.Sort(want)
		if !slices.Equal(names, want) {
			n.t.Errorf("%s: %s has records of %v, want %v", what, pod.Name, names, want)
		}
		if pod.Sandbox == nil {
			continue
		}
		addresses["default"]++
		found := n.interfaces(*pod.Sandbox)
		for _, w := range pod.Wanted {
			seen, there := found[w.Interface]
			if !there || w.MAC != "" && seen.MAC != w.MAC {
				n.t.Errorf("%s: %s has %v, want %s with MAC %q", what, pod.Name, found, w.Interface, w.MAC)
			}
		}
		told, err := records.Status(pod)
		if err != nil {
			n.t.Fatal(err)
		}
		for _, s := range told {
			if seen := found[s.Interface]; seen.MAC != s.Seen.MAC || !slices.Equal(seen.IPs, s.Seen.IPs) || len(seen.IPs) != 1 {
				n.t.Errorf("%s: %s is told of as %+v, the namespace has %+v", what, pod.Name, s, seen)
			}
		}
		if len(told) != len(pod.Wanted) {
			n.t.Errorf("%s: %d networks of %s are told of, want %d", what, len(told), pod.Name, len(pod.Wanted))
		}
		if len(found) != 2+len(pod.Wanted) {
			n.t.Errorf("%s: %s has %v, want lo, eth0 and %v", what, pod.Name, found, want)
		}
	}
	got := map[string]int{}
	for _, a := range n.addresses() {
		network, _, _ := strings.Cut(a, "/")
		got[network]++
	}
	if fmt.Sprint(got) != fmt.Sprint(addresses) {
		n.t.Errorf("%s: the address store has %v, want %v", what, got, addresses)
	}
	if others := records.Recorded(); recorded == 0 && len(others) > 0 {
		n.t.Errorf("%s: records of %v are left", what, others)
	}
}

// TestKilledAtEachPoint kills the process at each fault point of attaching, changing and detaching two networks: the next
// process finishes or undoes what was begun.
func TestKilledAtEachPoint(t *testing.T) {
	n := newNode(t)
	bin := os.Getenv(inside)
	n.configs["green"], n.configs["red"] = n.bridge("green", 2, ""), n.bridge("red", 3, "")
	histories := map[string][2]string{
		"attach": {"", "green,red"},
		"change": {"green,red", `[{"name":"green","mac":"02:00:00:00:00:77"},{"name":"red"}]`},
		"detach": {"green,red", ""},
	}
	total := 0
	for name, h := range histories {
		for point := 1; ; point++ {
			s := n.sandbox(fmt.Sprintf("%s-%d", name, point))
			pod := reconcile.Pod{UID: "uid-" + s.ID, Namespace: "shop", Name: s.ID, Sandbox: &s, Wanted: n.wanted(h[0])}
			n.process(bin, pod, 0)
			pod.Wanted = n.wanted(h[1])
			wasKilled, _ := n.process(bin, pod, point)
			if _, failed := n.process(bin, pod, 0); failed {
				t.Errorf("%s: killed at point %d: a step of the next process fails", name, point)
			}
			n.agree(fmt.Sprintf("%s: killed at point %d", name, point), pod)
			pod.Wanted, pod.Sandbox = nil, nil
			n.removeSandbox(s)
			n.process(bin, pod, 0)
			n.releaseDefault(s)
			n.agree(fmt.Sprintf("%s: killed at point %d, the Pod gone", name, point), pod)
			if !wasKilled {
				break // the last point was the one before
			}
			total++
		}
	}
	t.Logf("killed at %d points", total)
	if total < 20 {
		t.Errorf("killed at %d points, want all", total)
	}
}

// releaseDefault does what the container runtime does for eth0.
func (n *node) releaseDefault(s reconcile.Sandbox) {
	n.t.Helper()
	if err := n.plugins.Del(n.t.Context(), attachments.Attachment{
		Network: attachments.Network{Namespace: "kube", Name: "default", Interface: "eth0"}, Sandbox: s.ID, NetNS: s.NetNS,
		Config: json.RawMessage(n.bridge("default", 1, `,"isGateway":true,"isDefaultGateway":true`)),
	}); err != nil {
		n.t.Error(err)
	}
}

// faulty makes a folder of plugins, of which the bridge fails before or after its work, or hangs, as a file says.
func (n *node) faulty() (bin string, set func(fault string)) {
	n.t.Helper()
	bin = filepath.Join(n.dir, "faulty")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		n.t.Fatal(err)
	}
	plugins := os.Getenv(inside)
	if err := os.Symlink(filepath.Join(plugins, "host-local"), filepath.Join(bin, "host-local")); err != nil {
		n.t.Fatal(err)
	}
	fault := filepath.Join(bin, "fault")
	script := fmt.Sprintf(`#!/bin/sh
fault=$(cat %[1]s 2>/dev/null)
fail() { echo '{"cniVersion":"1.0.0","code":11,"msg":"made to fail"}'; exit 1; }
case "$fault" in
before) fail ;;
after) %[2]s/bridge >/dev/null; fail ;;
esac
exec %[2]s/bridge
`, fault, plugins)
	if err := os.WriteFile(filepath.Join(bin, "bridge"), []byte(script), 0o700); err != nil {
		n.t.Fatal(err)
	}
	return bin, func(f string) {
		if err := os.WriteFile(fault, []byte(f), 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
}

// TestRandomHistories plays annotations that change, Pods that come and go, processes that are killed and plugins that
// fail. Invariant: in the end namespaces, address store and records agree with what is wanted, and nothing leaks.
func TestRandomHistories(t *testing.T) {
	n := newNode(t)
	bin, fault := n.faulty()
	networks := []string{"green", "red", "data"}
	for i, name := range networks {
		n.configs[name] = n.bridge(name, 2+i, "")
	}
	seed := testseed.New(t)
	for round := range testseed.Rounds(t, 10) {
		rnd := rand.New(rand.NewPCG(seed+uint64(round), 0))
		pods := map[int]*reconcile.Pod{}
		made := 0
		for range 6 {
			slot := rnd.IntN(2)
			pod := pods[slot]
			switch {
			case pod == nil:
				s := n.sandbox(fmt.Sprintf("r%d-%d", round, made))
				made++
				pod = &reconcile.Pod{UID: "uid-" + s.ID, Namespace: "shop", Name: s.ID, Sandbox: &s}
				pods[slot] = pod
			case rnd.IntN(5) == 0:
				n.gone(bin, fault, pod)
				delete(pods, slot)
				continue
			}
			pod.Wanted = n.wanted(randomAnnotation(rnd, networks))
			fault([]string{"", "", "before", "after"}[rnd.IntN(4)])
			n.process(bin, *pod, rnd.IntN(12))
		}
		fault("")
		var left []reconcile.Pod
		for _, pod := range pods {
			if _, failed := n.process(bin, *pod, 0); failed {
				t.Errorf("round %d: a step fails without a fault", round)
			}
			left = append(left, *pod)
		}
		n.agree(fmt.Sprintf("round %d", round), left...)
		for _, pod := range pods {
			n.gone(bin, fault, pod)
		}
		n.agree(fmt.Sprintf("round %d, all Pods gone", round))
		if t.Failed() {
			t.FailNow()
		}
	}
}

func randomAnnotation(rnd *rand.Rand, networks []string) string {
	var elements []string
	for _, i := range rnd.Perm(len(networks))[:rnd.IntN(len(networks)+1)] {
		mac := ""
		if rnd.IntN(3) == 0 {
			mac = fmt.Sprintf(`,"mac":"02:00:00:00:00:%02x"`, 16+rnd.IntN(200))
		}
		elements = append(elements, fmt.Sprintf(`{"name":%q%s}`, networks[i], mac))
	}
	return "[" + strings.Join(elements, ",") + "]"
}

// gone ends a Pod's sandbox and cleans up behind it.
func (n *node) gone(bin string, fault func(string), pod *reconcile.Pod) {
	n.t.Helper()
	fault("")
	s := *pod.Sandbox
	n.removeSandbox(s)
	n.releaseDefault(s)
	pod.Sandbox, pod.Wanted = nil, nil
	n.process(bin, *pod, 0)
}
