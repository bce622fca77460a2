package config

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// write makes files in a fresh working directory.
func write(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, content := range files {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// mistakes takes an error of this package apart.
func mistakes(t *testing.T, err error) []*Mistake {
	t.Helper()
	var out []*Mistake
	for _, e := range split(err) {
		m := (*Mistake)(nil)
		if !errors.As(e, &m) {
			t.Fatalf("got error %v of type %T, want a *Mistake", e, e)
		}
		out = append(out, m)
	}
	return out
}

func TestPrecedence(t *testing.T) {
	const group = "inputs: {resources: {push_interval: 20s}}"
	const own = "inputs: {resources: {push_interval: 30s}}"
	for _, c := range []struct {
		name, group, own, env, flag string
		want                        time.Duration
	}{
		{name: "default", want: 10 * time.Second},
		{name: "DeepFlow's file", group: group, want: 20 * time.Second},
		{name: "own file", group: group, own: own, want: 30 * time.Second},
		{name: "environment", group: group, own: own, env: "40s", want: 40 * time.Second},
		{name: "flag", group: group, own: own, env: "40s", flag: "50s", want: 50 * time.Second},
		{name: "flag alone", flag: "50s", want: 50 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, map[string]string{"group.yaml": "max_memory: 1\n" + c.group, "own.yaml": "deepflow_files: [group.yaml]\n" + c.own})
			t.Setenv("PSEUDO_AGENT_SERVER_ADDRESSES", "a:1, b:2")
			t.Setenv("PSEUDO_AGENT_INPUTS_RESOURCES_PUSH_INTERVAL", c.env)
			args := []string{"--config=own.yaml"}
			if c.flag != "" {
				args = append(args, "--inputs-resources-push-interval="+c.flag)
			}
			loaded, err := LoadAgent(flagsOf(t, agentProgram, args...))
			if err != nil {
				t.Fatal(err)
			}
			if got := loaded.Config.Inputs.Resources.PushInterval; got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if got, want := loaded.Config.Server.Addresses, []string{"a:1", "b:2"}; !slices.Equal(got, want) {
				t.Errorf("got addresses %q, want %q", got, want)
			}
			if got, want := loaded.Files, []string{"own.yaml", "group.yaml"}; !slices.Equal(got, want) {
				t.Errorf("got files %q, want %q", got, want)
			}
			overridden := c.group != "" && c.want != 20*time.Second
			for _, p := range loaded.Taken {
				if p.Key != "" && (p.Overridden != Source{}) != overridden {
					t.Errorf("%s: got overridden by %q, want overridden: %v", p, p.Overridden, overridden)
				}
			}
		})
	}
}

// Every kind of value gets through every source.
func TestKindsFromEverySource(t *testing.T) {
	yes := true
	want := DefaultAgent()
	want.ClusterID = "d-rrcmIdbEph"
	want.Server.Addresses = []string{"a:1", "[::1]:2"}
	want.Server.AgentID = "42"
	want.Server.MaxMessageSize = 70000
	want.Kubernetes.QPS = 2.5
	want.HTTP.PProf = true
	want.ClaimWatcher = false
	want.WatchPolicy = "watch-only"
	want.Report.Debounce = 90 * time.Minute / 100
	want.Inputs.Resources.Kubernetes.APIResources = []resources.Request{
		{Name: "ingresses", Disabled: true},
		{Name: "rollouts", Group: "argoproj.io", As: "deployments", Required: &yes},
	}
	const list = `[{name: ingresses, disabled: true}, {name: rollouts, group: argoproj.io, as: deployments, required: true}]`
	values := [][2]string{
		{"cluster_id", "d-rrcmIdbEph"},
		{"server.addresses", "a:1,[::1]:2"},
		{"server.agent_id", "42"},
		{"server.max_message_size", "70000"},
		{"kubernetes.qps", "2.5"},
		{"http.pprof", "true"},
		{"claim_watcher", "false"},
		{"watch_policy", "only-watch"},
		{"report.debounce", "54s"},
		{"inputs.resources.kubernetes.api_resources", list},
	}
	leaves := map[string]*leaf{}
	for _, l := range agentProgram.schema.all() {
		leaves[l.key] = l
	}
	check := func(t *testing.T, args ...string) {
		t.Helper()
		loaded, err := LoadAgent(flagsOf(t, agentProgram, args...))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, loaded.Config); d != "" {
			t.Errorf("wrong configuration (-want +got):\n%s", d)
		}
	}
	t.Run("file", func(t *testing.T) {
		write(t, map[string]string{"own.yaml": `
cluster_id: d-rrcmIdbEph
server: {addresses: ["a:1", "[::1]:2"], agent_id: 42, max_message_size: 0x11170}
kubernetes: {qps: 2.5, kubeconfig: }
http: {pprof: true}
claim_watcher: false
watch_policy: only-watch
report: {debounce: 0.9min}
high_availability:
inputs: {resources: {kubernetes: {api_resources: ` + list + `}}}
`})
		t.Setenv("PSEUDO_AGENT_CONFIG", "own.yaml")
		check(t)
	})
	t.Run("environment", func(t *testing.T) {
		for _, v := range values {
			t.Setenv(leaves[v[0]].env("PSEUDO_AGENT"), v[1])
		}
		check(t)
	})
	t.Run("flags", func(t *testing.T) {
		var args []string
		for _, v := range values {
			args = append(args, "--"+leaves[v[0]].flag()+"="+v[1])
		}
		check(t, args...)
	})
}

func TestWatchPolicyFromEnvironment(t *testing.T) {
	for _, c := range []struct{ k8s, own, want string }{
		{"", "", "watch-only"},
		{"watch-only", "", "watch-only"},
		{"only-watch", "", "watch-only"},
		{"watch-disabled", "", "watch-disabled"},
		{"watch-disabled", "watch-only", "watch-only"},
		{"only-watch", "watch-disabled", "watch-disabled"},
	} {
		t.Run(c.k8s+","+c.own, func(t *testing.T) {
			t.Setenv("K8S_WATCH_POLICY", c.k8s)
			t.Setenv("PSEUDO_AGENT_WATCH_POLICY", c.own)
			loaded, err := LoadAgent(flagsOf(t, agentProgram, "--server-addresses=a:1"))
			if err != nil {
				t.Fatal(err)
			}
			if got := loaded.Config.WatchPolicy; got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// The variable counts even if it is empty, and the other mistakes are told beside it.
func TestOnlyWatchVariable(t *testing.T) {
	t.Setenv(onlyWatchVariable, "")
	loaded, err := LoadAgent(flagsOf(t, agentProgram, "--log-level=loud"))
	if !errors.Is(err, ErrOnlyWatchVariable) || loaded != nil {
		t.Errorf("got %v and error %v, want ErrOnlyWatchVariable", loaded, err)
	}
	for _, part := range []string{"K8S_WATCH_POLICY", "--log-level", "server.addresses"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got error %q, want it to name %s", err, part)
		}
	}
}

// Kubernetes sets these for Services named pseudo-agent and pseudo-agent-metrics.
func TestServiceLinksAreNotOurs(t *testing.T) {
	for _, name := range []string{
		"PSEUDO_AGENT_SERVICE_HOST", "PSEUDO_AGENT_SERVICE_PORT", "PSEUDO_AGENT_SERVICE_PORT_HTTP", "PSEUDO_AGENT_PORT",
		"PSEUDO_AGENT_PORT_8080_TCP", "PSEUDO_AGENT_PORT_8080_TCP_PROTO", "PSEUDO_AGENT_PORT_8080_TCP_PORT",
		"PSEUDO_AGENT_PORT_8080_TCP_ADDR", "PSEUDO_AGENT_METRICS_SERVICE_HOST", "PSEUDO_AGENT_METRICS_PORT_53_UDP",
	} {
		t.Setenv(name, "tcp://10.96.0.10:8080")
	}
	if _, err := LoadAgent(flagsOf(t, agentProgram, "--server-addresses=a:1")); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

// Each key has a variable and a flag of its own, and none that a Service could set.
func TestNamesAreUnique(t *testing.T) {
	seen := map[string]string{}
	check := func(name, key string) {
		if other := seen[name]; other != "" {
			t.Errorf("%s stands for %s and %s", name, other, key)
		}
		if serviceLink.MatchString(name) {
			t.Errorf("%s of %s can be set by Kubernetes", name, key)
		}
		seen[name] = key
	}
	check("--config", "config")
	check("PSEUDO_AGENT_CONFIG", "config")
	for _, l := range agentProgram.schema.all() {
		check(l.env("PSEUDO_AGENT"), l.key)
		check("--"+l.flag(), l.key)
		if l.usage == "" {
			t.Errorf("%s has no usage", l.key)
		}
	}
	clear(seen)
	check("--config", "config")
	check("PSEUDO_SERVER_CONFIG", "config")
	for _, l := range serverProgram.schema.all() {
		check(l.env("PSEUDO_SERVER"), l.key)
		check("--"+l.flag(), l.key)
		if l.usage == "" {
			t.Errorf("%s has no usage", l.key)
		}
	}
}

// A default that breaks its own rule could not be written into a file.
func TestDefaultsAreValid(t *testing.T) {
	if _, err := LoadServer(nil); err != nil {
		t.Errorf("the defaults of pseudo-server are refused: %v", err)
	}
	agent, server := DefaultAgent(), DefaultServer()
	agent.Server.Addresses = []string{"a:1"}
	reload(t, agentProgram, &agent)
	reload(t, serverProgram, &server)
}

// Who gets what without a token follows from the address, unless it is given.
func TestAnonymousRole(t *testing.T) {
	for _, c := range []struct{ listen, anonymous, want string }{
		{"127.0.0.1:1", "auto", "read"},
		{"127.1.2.3:1", "auto", "read"},
		{"[::1]:1", "auto", "read"},
		{"localhost:1", "auto", "read"},
		{"[::ffff:127.0.0.1]:1", "auto", "read"},
		{":1", "auto", "none"},
		{"0.0.0.0:1", "auto", "none"},
		{"[::]:1", "auto", "none"},
		{"10.0.0.1:1", "auto", "none"},
		{"localhost.example:1", "auto", "none"},
		{"", "auto", "none"},
		{":1", "read", "read"},
		{":1", "administer", "administer"},
		{"127.0.0.1:1", "none", "none"},
	} {
		s := Server{Listen: ServerListen{HTTP: c.listen}, Access: ServerAccess{Anonymous: c.anonymous}}
		if got := s.AnonymousRole(); got != c.want {
			t.Errorf("listen.http %q, access.anonymous %s: got %s, want %s", c.listen, c.anonymous, got, c.want)
		}
	}
}

// What cannot let in the clusters that it is meant for is refused.
func TestEnrollMistakes(t *testing.T) {
	const token = "{name: a, token_file: /a}"
	for text, want := range map[string]string{
		"access: {enroll: token}":                                                                   "access.enroll: \"token\" lets no new cluster in, because access.enroll_tokens is empty",
		"access: {enroll_tokens: [" + token + "]}":                                                  "access.enroll_tokens: have no effect",
		"access: {enroll: token, enroll_tokens: [" + token + ", " + token + "]}":                    "access.enroll_tokens[1].name: \"a\" is given twice",
		"access: {enroll: closed, only_bound: true, clusters: [{cluster_id: d-a, token_file: /a}]}": "access.enroll: \"closed\" has no effect",
		"access: {enroll: never}":                                                                   "allowed: open, token, closed",
		"access: {enroll: token, enroll_tokens: [" + token + "]}":                                   "",
		"access: {enroll: closed}":                                                                  "",
	} {
		write(t, map[string]string{"own.yaml": text + "\n"})
		_, err := LoadServer(flagsOf(t, serverProgram, "--config=own.yaml"))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// The words of a mistake stand in its fields too, for programs.
func TestMistakeFields(t *testing.T) {
	write(t, map[string]string{"own.yaml": "server:\n  addresses: [a:1]\nlog:\n  levle: info\n"})
	_, err := LoadAgent(flagsOf(t, agentProgram, "--config=own.yaml", "--report-debounce=2m"))
	got := mistakes(t, err)
	want := []*Mistake{
		{
			Key: "log.levle", Problem: "is not a known key", Allowed: "format, level", Nearest: "level",
			Source: Source{File: "own.yaml", Line: 4},
		},
		{
			Key: "report.debounce", Value: "2m", Problem: "is too large", Allowed: "10ms to 1m", Nearest: "1m",
			Source: Source{Flag: "report-debounce"},
		},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(Mistake{})); d != "" {
		t.Errorf("wrong mistakes (-want +got):\n%s", d)
	}
}

// What a mistake causes elsewhere is not told as another one.
func TestConsequencesAreNotTold(t *testing.T) {
	for _, c := range []struct {
		name, own string
		want      []string // keys
	}{
		{"address", "server: {addresses: [a]}", []string{"server.addresses[0]"}},
		{"section", "server: a:1", []string{"server"}},
		{"element", "server: {addresses: [a:1]}\ninputs: {resources: {kubernetes: {api_resources: [{name: 5}, {name: pod}]}}}", []string{
			"inputs.resources.kubernetes.api_resources[0].name", "inputs.resources.kubernetes.api_resources[1].name",
		}},
		{"certificate", "server: {addresses: [a:1], tls: {enabled: true, cert_file: 1, key_file: a}}", []string{"server.tls.cert_file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, map[string]string{"own.yaml": c.own})
			_, err := LoadAgent(flagsOf(t, agentProgram, "--config=own.yaml"))
			var got []string
			for _, m := range mistakes(t, err) {
				got = append(got, m.Key)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got mistakes about %q, want %q: %v", got, c.want, err)
			}
		})
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	const secret = "hunter2"
	t.Setenv("PSEUDO_SERVER_STORE_DSN", "postgres://u:"+secret+"@db/x")
	_, err := LoadServer(nil)
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("got error %v, want one without the password", err)
	}
	write(t, map[string]string{"own.yaml": "store: {type: postgres, dsn: [" + secret + "]}"})
	_, err = LoadServer(flagsOf(t, serverProgram, "--config=own.yaml"))
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("got error %v, want one without the password", err)
	}
	a, b := DefaultServer(), DefaultServer()
	b.Store.DSN = secret
	if got := ServerChanges(&a, &b); len(got) != 1 || strings.Contains(got[0].String(), secret) {
		t.Errorf("got changes %v, want one without the password", got)
	}
}

func TestFileLimits(t *testing.T) {
	write(t, map[string]string{"own.yaml": strings.Repeat("#", maxFile) + "\n", "two.yaml": "log: {level: info}\n---\nlog: {level: warn}\n"})
	for _, c := range []struct{ file, want string }{
		{"own.yaml", "is larger than"}, {"two.yaml", "more than one YAML document"}, {".", "is a directory"}, {"none.yaml", "no such file"},
	} {
		_, err := LoadAgent(flagsOf(t, agentProgram, "--server-addresses=a:1", "--config="+c.file))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want %q", c.file, err, c.want)
		}
	}
}

// A file that is wrong throughout costs a bounded number of messages, and no more than seconds.
func TestManyMistakes(t *testing.T) {
	for name, data := range map[string]string{
		"keys":     strings.Repeat("inputs: {resources: {a: 1}}\nzzz: 1\n", 20000),
		"entries":  "inputs: {resources: {kubernetes: {api_resources: [" + strings.Repeat("{name: pod}, ", maxElements) + "]}}}",
		"elements": "inputs: {resources: {kubernetes: {api_resources: [" + strings.Repeat("{name: pod}, ", maxElements+1) + "]}}}",
		"scalars":  "inputs: {resources: {kubernetes: {api_resources: [" + strings.Repeat("pods, ", maxElements) + "]}}}",
	} {
		write(t, map[string]string{"own.yaml": data})
		_, err := LoadAgent(flagsOf(t, agentProgram, "--config=own.yaml"))
		if got := len(mistakes(t, err)); got == 0 || got > maxMistakes+1 {
			t.Errorf("%s: got %d mistakes, want 1 to %d", name, got, maxMistakes+1)
		}
	}
}

func TestParseAgentID(t *testing.T) {
	for _, c := range []struct {
		s    string
		auto bool
		id   uint32
	}{{"auto", true, 0}, {"0", false, 0}, {"4294967295", false, 4294967295}} {
		if auto, id := (AgentServer{AgentID: c.s}).ParseAgentID(); auto != c.auto || id != c.id {
			t.Errorf("%s: got %v, %d, want %v, %d", c.s, auto, id, c.auto, c.id)
		}
	}
}

func TestDurations(t *testing.T) {
	for _, c := range []struct {
		s    string
		want time.Duration
		err  error
	}{
		{"0", 0, nil},
		{"10s", 10 * time.Second, nil},
		{"1h30m", 90 * time.Minute, nil},
		{"1.5h", 90 * time.Minute, nil},
		{"1h 30min", 90 * time.Minute, nil},
		{"30d", 30 * day, nil},
		{"2 weeks", 14 * day, nil},
		{" 500ms ", 500 * time.Millisecond, nil},
		{"10", 0, errNoUnit},
		{"1h30", 0, errNoUnit},
		{"-1s", 0, errNegative},
		{"", 0, errNotDuration},
		{"s", 0, errNotDuration},
		{"1y", 0, errNotDuration},
		{"1.2.3s", 0, errNotDuration},
		{"999999d", 0, errLongDuration},
		{"ten", 0, errNotDuration},
	} {
		got, err := parseDuration(c.s)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%q: got %s, %v, want %s, %v", c.s, got, err, c.want, c.err)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 10 * time.Second: "10s", 90 * time.Second: "1m30s", 10 * time.Minute: "10m", time.Hour: "1h", 90 * time.Minute: "1h30m",
		day: "24h", 30 * day: "30d", 49 * time.Hour: "49h", 500 * time.Millisecond: "500ms",
	} {
		got := formatDuration(d)
		if got != want {
			t.Errorf("%d: got %s, want %s", d, got, want)
		}
		if back, err := parseDuration(got); back != d || err != nil {
			t.Errorf("%s is read as %s, %v", got, back, err)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"addresses", "service", "heartbeat_interval", "info", "warn", "true", "false"}
	for s, want := range map[string]string{
		"adresses": "addresses", "Addresses": "addresses", "sevrice": "service", "heartbeat": "heartbeat_interval", "warning": "warn",
		"zzz": "", "": "", "x": "", "inof": "info", strings.Repeat("a", 1000): "",
	} {
		if got := nearest(s, words); got != want {
			t.Errorf("nearest to %q: got %q, want %q", s, got, want)
		}
	}
}

func TestChanges(t *testing.T) {
	a, b := DefaultAgent(), DefaultAgent()
	a.DeepFlowFiles = []string{} // the same as none
	b.Inputs.Resources.PushInterval = time.Minute
	b.Inputs.Resources.Kubernetes.APIResources = []resources.Request{{Name: "routes"}}
	b.Server.Addresses = []string{"a:1"}
	b.Log.Level = "debug"
	got := AgentChanges(&a, &b)
	want := []Change{
		{Key: "server.addresses", Old: "[]", New: `["a:1"]`},
		{Key: "inputs.resources.push_interval", Old: "10s", New: "1m"},
		{Key: "inputs.resources.kubernetes.api_resources", Old: "[]", New: `[{"name":"routes"}]`, Live: true},
		{Key: "log.level", Old: `"info"`, New: `"debug"`, Live: true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("wrong changes (-want +got):\n%s", d)
	}
	if got, want := NeedRestart(got), []string{"server.addresses", "inputs.resources.push_interval"}; !slices.Equal(got, want) {
		t.Errorf("got %q that need a restart, want %q", got, want)
	}
	if got := AgentChanges(&b, &b); len(got) > 0 {
		t.Errorf("got changes %v of equal configurations", got)
	}
}
