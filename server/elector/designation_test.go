package elector

import (
	"math/rand/v2"
	"path"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

func TestPodOf(t *testing.T) {
	long := strings.Repeat("w", 56)
	for _, tt := range []struct {
		kind, workload, pod string
		want                bool
	}{
		{"Deployment", "pseudo-agent", "pseudo-agent-6d5f8b9c4-x7k2p", true},
		{"deployment", "pseudo-agent", "pseudo-agent-6d5f8b9c4-x7k2p", true},
		{"Deployment", "pseudo-agent", "pseudo-agent-other-6d5f8b9c4-x7k2p", false},
		{"Deployment", "pseudo-agent", "pseudo-agent-x7k2p", false},
		{"Deployment", "pseudo-agent", "pseudo-agent-6d5f8b9c4-x7k2", false},
		{"Deployment", "pseudo-agent", "pseudo-agent-6d5f8b9c4-aeiou", false},
		{"Deployment", "pseudo-agent", "pseudo-agent--x7k2p", false},
		{"Deployment", "pseudo-agent", "pseudo-agent", false},
		{"Deployment", "pseudo", "pseudo-agent-6d5f8b9c4-x7k2p", false},
		{"Deployment", "w", "", false},
		{"Deployment", long, long + "-6" + "x7k2p", true}, // 56 + 1 + 1 is where the base is cut
		{"Deployment", long, long + "-a" + "x7k2p", false},
		{"Deployment", long + "www", long + "ww" + "x7k2p", true},
		{"Deployment", long + "www", long + "wx" + "x7k2p", false},
		{"Rollout", "canary", "canary-6d5f8b9c4-x7k2p", true},
		{"ReplicaSet", "pseudo-agent-6d5f8b9c4", "pseudo-agent-6d5f8b9c4-x7k2p", true},
		{"DaemonSet", "agent", "agent-x7k2p", true},
		{"DaemonSet", "agent", "agent-6d5f8b9c4-x7k2p", false},
		{"DaemonSet", long + "www", long + "ww" + "x7k2p", true},
		{"CloneSet", "agent", "agent-x7k2p", true},
		{"StatefulSet", "agent", "agent-0", true},
		{"StatefulSet", "agent", "agent-12", true},
		{"StatefulSet", "agent", "agent-", false},
		{"StatefulSet", "agent", "agent-x7k2p", false},
		{"Pod", "agent", "agent", true},
		{"Pod", "agent", "agent-0", false},
	} {
		if got := podOf(tt.kind, tt.workload, tt.pod); got != tt.want {
			t.Errorf("%s %s, Pod %s: got %v, want %v", tt.kind, tt.workload, tt.pod, got, tt.want)
		}
	}
}

// like is compared with path.Match, which means the same by patterns of letters and stars and names without slashes.
func TestLike(t *testing.T) {
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	word := func(alphabet string) string {
		b := make([]byte, rng.IntN(8))
		for i := range b {
			b[i] = alphabet[rng.IntN(len(alphabet))]
		}
		return string(b)
	}
	for range 100000 {
		pattern, name := word("ab**"), word("ab")
		want, err := path.Match(pattern, name)
		if err != nil {
			t.Fatal(err)
		}
		if got := like(pattern, strings.ToUpper(name)); got != want {
			t.Fatalf("pattern %q, name %q: got %v, want %v", pattern, name, got, want)
		}
	}
}

func TestDesignationCheck(t *testing.T) {
	for _, tt := range []struct {
		d  Designation
		ok bool
	}{
		{Designation{}, false},
		{Designation{Workload: "deepflow/Deployment/pseudo-agent"}, true},
		{Designation{Workload: "deepflow/pseudo-agent"}, false},
		{Designation{Workload: "deepflow/Deployment/pseudo/agent"}, false},
		{Designation{AgentGroup: "g-1"}, true},
		{Designation{HostPattern: "node-*"}, true},
		{Designation{HostPattern: strings.Repeat("x", 513)}, false},
		{Designation{Agent: "192.168.4.46-52:54:00:d5:d0:8e"}, true},
		{Designation{Agent: "fe80::1-52:54:00:d5:d0:8e"}, true},
		{Designation{Agent: "192.168.4.46"}, false},
		{Designation{AgentGroup: "g-1", HostPattern: "node-*"}, false},
	} {
		if err := tt.d.Check(); (err == nil) != tt.ok {
			t.Errorf("%+v: got %v, want ok %v", tt.d, err, tt.ok)
		}
	}
}

func FuzzPodOf(f *testing.F) {
	f.Add("Deployment", "pseudo-agent", "pseudo-agent-6d5f8b9c4-x7k2p")
	f.Fuzz(func(t *testing.T, kind, workload, pod string) {
		if podOf(kind, workload, pod) && workload != "" && !strings.HasPrefix(pod, workload[:min(len(workload), maxPodBase)]) {
			t.Errorf("%s %q, Pod %q: it is taken for one although the name is another", kind, workload, pod)
		}
	})
}
