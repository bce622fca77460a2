package server

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zlib"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/operate"
	"github.com/pseudo-agent/pseudo-agent/protocol/agent"
	"github.com/pseudo-agent/pseudo-agent/server/cli"
	"github.com/pseudo-agent/pseudo-agent/server/cli/apiclient"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

var update = flag.Bool("update", false, "write the output of the commands into docs/cli*.md")

func TestMain(m *testing.M) {
	plugin.WorkerMain()
	daemonMain()
	os.Exit(m.Run())
}

// demo are the objects of the examples: wire types and JSON by turns.
var demo = []string{
	"*version.Info", `{"gitVersion":"v1.36.0"}`,
	"*v1.Node", `{"metadata":{"uid":"n1","name":"node-1"},"spec":{"podCIDR":"10.1.0.0/24"},"status":{"capacity":{"cpu":"4","memory":"8388608Ki"},"conditions":[{"reason":"KubeletReady","status":"True"}],"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}`,
	"*v1.Namespace", `{"metadata":{"uid":"ns1","name":"shop"}}`,
	"*v1.Deployment", `{"metadata":{"uid":"d1","name":"cart","namespace":"shop"},"spec":{"replicas":2,"template":{"metadata":{"labels":{"app":"cart"}}}}}`,
	"*v1.ReplicaSet", `{"metadata":{"uid":"r1","name":"cart-1","namespace":"shop","ownerReferences":[{"kind":"Deployment","name":"cart","uid":"d1"}]},"spec":{"replicas":2}}`,
	"*v1.Service", `{"metadata":{"uid":"s1","name":"cart","namespace":"shop"},"spec":{"type":"ClusterIP","clusterIP":"10.2.0.1","selector":{"app":"cart"},"ports":[{"port":80,"targetPort":8080,"protocol":"TCP","name":"http"}]}}`,
	"*v1.Pod", `{"metadata":{"uid":"p1","name":"cart-1-a","namespace":"shop","labels":{"app":"cart"},"ownerReferences":[{"kind":"ReplicaSet","name":"cart-1","uid":"r1"}]},"status":{"hostIP":"10.0.0.1","podIP":"10.1.0.5","conditions":[{"type":"Ready","status":"True"}]}}`,
	"*v1.Pod", `{"metadata":{"uid":"p2","name":"game-0","namespace":"shop","labels":{"app":"game"},"ownerReferences":[{"kind":"GameServerSet","name":"game","uid":"g1"}]},"status":{"hostIP":"10.0.0.1","podIP":"10.1.0.6"}}`,
}

const demoVersion = 1763629200000000

func send(t *testing.T, address string, version uint64, typesAndJSON ...string) {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	req := &agent.KubernetesAPISyncRequest{
		ClusterId: new("d-demo"), Version: new(version), AgentId: proto.Uint32(1), SourceIp: new("10.0.0.1"),
	}
	for i := 0; i < len(typesAndJSON); i += 2 {
		var b bytes.Buffer
		w := zlib.NewWriter(&b)
		_, _ = w.Write([]byte(typesAndJSON[i+1]))
		_ = w.Close()
		req.Entries = append(req.Entries, &agent.KubernetesAPIInfo{Type: new(typesAndJSON[i]), CompressedInfo: b.Bytes()})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := agent.NewSynchronizerClient(conn).KubernetesAPISync(ctx, req); err != nil {
		t.Fatal(err)
	}
}

// syncAs sends a Sync of the cluster d-demo.
func syncAs(t *testing.T, address, host, ip string, policy agent.KubernetesWatchPolicy) {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err = agent.NewSynchronizerClient(conn).Sync(ctx, &agent.SyncRequest{
		KubernetesClusterId: new("d-demo"), Host: new(host), CtrlIp: new(ip), CtrlMac: new("52:54:00:d5:d0:8e"), KubernetesWatchPolicy: policy.Enum(),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// command runs a command line of pseudo-server and returns what it writes to both outputs.
func command(t *testing.T, given ...string) (out, errs string, err error) {
	t.Helper()
	var o, e bytes.Buffer
	cmd := NewCommand(operate.NewBuild("dev", ""))
	cmd.SetArgs(given)
	cmd.SetOut(&o)
	cmd.SetErr(&e)
	err = cmd.ExecuteContext(context.Background())
	return o.String(), e.String(), err
}

// demoServer runs a daemon that holds two versions of the cluster d-demo.
func demoServer(t *testing.T) (grpcAddress, api string) {
	t.Helper()
	cfg := testConfig(t)
	cfg.Access.Anonymous = "administer"
	log, _, stop := start(t, cfg, func(ctx context.Context) { <-ctx.Done() })
	t.Cleanup(stop)
	line := log.wait(t, "pseudo-server runs")
	grpcAddress, api = text(line["grpc"]), "http://"+text(line["http"])
	send(t, grpcAddress, demoVersion, demo[:len(demo)-2]...)
	send(t, grpcAddress, demoVersion+1, demo...)
	syncAs(t, grpcAddress, "node-1", "10.0.0.1", agent.KubernetesWatchPolicy_KWP_NORMAL)
	syncAs(t, grpcAddress, "node-2", "10.0.0.2", agent.KubernetesWatchPolicy_KWP_NORMAL)
	syncAs(t, grpcAddress, "sidecar-1", "10.1.0.7", agent.KubernetesWatchPolicy_KWP_WATCH_DISABLED)
	return grpcAddress, api
}

var varying = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?|(\d+[hms])+ ago|expires in \d+ s|\d+ reports, \d+ bytes| +`)

// same makes outputs comparable that differ in times and, because of them, in widths.
func same(s string) string {
	return varying.ReplaceAllStringFunc(s, func(m string) string {
		if strings.Trim(m, " ") == "" {
			return " "
		}
		return "TIME"
	})
}

const prompt = "    $ pseudo-server "

// TestDocumentedCommands runs every command of docs/cli*.md, those of each page with a server of its own.
func TestDocumentedCommands(t *testing.T) {
	pages, err := filepath.Glob("../docs/cli*.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := map[string]bool{}
	for _, page := range pages {
		t.Run(filepath.Base(page), func(t *testing.T) { runPage(t, page, ran) })
	}
	for _, cmd := range NewCommand(operate.NewBuild("dev", "")).Commands() {
		if name := cmd.Name(); name != "run" && name != "completion" && name != "help" && !ran[name] {
			t.Errorf("docs/cli*.md has no example of pseudo-server %s", name)
		}
	}
}

func runPage(t *testing.T, file string, ran map[string]bool) {
	t.Helper()
	grpcAddress, api := demoServer(t)
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	image, stored, folder := documentedPlugin(t), documentedStore(t), t.TempDir()+"/"
	lines := strings.Split(string(doc), "\n")
	var written []string
	for i := 0; i < len(lines); i++ {
		written = append(written, lines[i])
		line, ok := strings.CutPrefix(lines[i], prompt)
		if !ok {
			continue
		}
		var want []string
		for i+1 < len(lines) && !strings.HasPrefix(lines[i+1], prompt) && (strings.HasPrefix(lines[i+1], "    ") || lines[i+1] == "" && continued(lines[i+1:])) {
			i++
			want = append(want, lines[i])
		}
		given := strings.Fields(strings.NewReplacer("games.lua", image, "store.db", stored, "copy.db", folder+"copy.db").Replace(line))
		if given[0] != "store" || given[1] == "backup" {
			given = append(given, "--server", api)
		}
		ran[given[0]] = true
		var text string
		if given[0] == "follow" {
			text = followed(t, given, func() { send(t, grpcAddress, demoVersion+2, demo[:len(demo)-4]...) })
		} else {
			out, errs, err := command(t, given...)
			if err != nil {
				t.Errorf("pseudo-server %s: %v", line, err)
			}
			text = strings.ReplaceAll(out+errs, folder, "")
		}
		var got []string
		for l := range strings.Lines(text) {
			got = append(got, strings.TrimRight("    "+l, " \n"))
		}
		written = append(written, got...)
		if g, w := same(strings.Join(got, "\n")), same(strings.Join(want, "\n")); g != w && !*update {
			t.Errorf("pseudo-server %s:\ngot\n%s\nwant, as in %s (go test -update writes it),\n%s", line, g, file, w)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(strings.Join(written, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// documentedStore returns the file of a store that holds a cluster.
func documentedStore(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	backend, err := store.OpenEmbedded(path)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := store.New(backend, store.Options{}).Begin(t.Context(), "d-demo")
	if err != nil {
		t.Fatal(err)
	}
	err = tx.Save(t.Context(), 1, store.Touch{}, nil)
	tx.Close()
	if err := errors.Join(err, backend.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// continued tells whether more of the same block follows empty lines.
func continued(lines []string) bool {
	for _, l := range lines {
		if l != "" {
			return strings.HasPrefix(l, "    ") && !strings.HasPrefix(l, prompt)
		}
	}
	return false
}

// documentedPlugin writes the script of docs/plugins.md to a file.
func documentedPlugin(t *testing.T) string {
	t.Helper()
	plugins, err := os.ReadFile("../docs/plugins.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(plugins), "```lua\n")
	script, _, _ = strings.Cut(script, "```")
	image := filepath.Join(t.TempDir(), "games.lua")
	if err := os.WriteFile(image, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	return image
}

// followed runs a follow command that has something to show at once, makes a change when it has shown that, and
// interrupts the command when it has shown the change. It returns all that was shown.
func followed(t *testing.T, given []string, change func()) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out := &watched{}
	cmd := NewCommand(operate.NewBuild("dev", ""))
	cmd.SetArgs(given)
	cmd.SetOut(out)
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	out.wait(t, "game-0")
	change()
	out.wait(t, "cart-1-a")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("pseudo-server %s: got %v after an interrupt, want nil", strings.Join(given, " "), err)
	}
	return out.buf.String()
}

// TestMentionedCommands looks at every command line of pseudo-server that any other document mentions: the command and its
// flags exist. Those of docs/plugins.md are run, too.
func TestMentionedCommands(t *testing.T) {
	_, api := demoServer(t)
	image := documentedPlugin(t)
	files, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	charts, err := filepath.Glob("../charts/*/README.md")
	if err != nil {
		t.Fatal(err)
	}
	files = append(append(files, charts...), "../README.md")
	mention := regexp.MustCompile("(?m)(?:`|^(?:    )?(?:\\$ )?(?:[A-Z_]+=\\S+ )*)pseudo-server ([a-z][^`\n]*)")
	checked := 0
	for _, file := range files {
		doc, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mention.FindAllStringSubmatch(string(doc), -1) {
			if !strings.HasPrefix(m[0], "`") && !strings.HasPrefix(m[0], " ") && filepath.Base(file) != "plugins.md" {
				continue // the beginning of a line of prose
			}
			line, _, _ := strings.Cut(m[1], "#")
			line = strings.NewReplacer("[", "", "]", "", "…", "x", "games.lua", image).Replace(line)
			checked++
			if filepath.Base(file) == "plugins.md" && !strings.HasPrefix(m[0], "`") {
				if _, _, err := command(t, append(strings.Fields(line), "--server", api)...); err != nil {
					t.Errorf("%s: pseudo-server %s: %v", file, line, err)
				}
				continue
			}
			cmd, rest, err := NewCommand(operate.NewBuild("dev", "")).Find(strings.Fields(line))
			if err == nil && !cmd.Runnable() {
				err = errors.New("it does nothing")
			}
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err != nil {
				t.Errorf("%s mentions pseudo-server %s: %v", file, line, err)
			}
		}
	}
	if checked < 20 {
		t.Errorf("got %d command lines, want at least 20", checked)
	}
}

// watched is an output that can be waited for.
type watched struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func (w *watched) wait(t *testing.T, part string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		text := w.buf.String()
		w.mu.Unlock()
		if strings.Contains(text, part) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want it to contain %q", text, part)
		}
	}
}

// TestWrongCommands looks at messages and exit statuses.
func TestWrongCommands(t *testing.T) {
	_, api := demoServer(t)
	for _, tt := range []struct {
		line    string
		status  int
		message string
	}{
		{"objects", cli.ExitUsage, "pseudo-server objects CLUSTER"},
		{"clusters --nope", cli.ExitUsage, "--nope"},
		{"nope", cli.ExitUsage, "unknown command"},
		{"plugin create --type lua", cli.ExitUsage, "required flag"},
		{"plugin create --type lua --image /none --name x", cli.ExitUsage, "--image"},
		{"clusters -o xml", cli.ExitUsage, "use table, json, yaml, name"},
		{"inventory d-demo jobs", cli.ExitUsage, "use configmaps"},
		{"clusters d-none", cli.ExitFailed, "lists all"},
		{"diff d-demo 5", cli.ExitFailed, "is not stored"},
		{"objects d-demo --limit 0", cli.ExitFailed, "from 1 to 5000"},
	} {
		_, _, err := command(t, append(strings.Fields(tt.line), "--server", api)...)
		if tt.line == "nope" {
			_, _, err = command(t, "nope")
		}
		if err == nil || cli.ExitStatus(err) != tt.status || !strings.Contains(err.Error(), tt.message) {
			t.Errorf("%s: got %v, want status %d and a message with %q", tt.line, err, tt.status, tt.message)
		}
	}
	_, _, err := command(t, "clusters", "--server", "http://127.0.0.1:1")
	if err == nil || !strings.Contains(err.Error(), "--server") {
		t.Errorf("got %v without a server, want advice about --server", err)
	}
	var refusal *apiclient.Error
	_, _, err = command(t, "plugin", "delete", "none", "--server", api)
	if !errors.As(err, &refusal) || refusal.Status != http.StatusNotFound {
		t.Errorf("got %v, want not found", err)
	}
}

// TestPluginsSurvive restarts the daemon: the plugin is there, and the inventory is computed with it.
func TestPluginsSurvive(t *testing.T) {
	cfg := testConfig(t)
	cfg.Access.Anonymous = "administer"
	none := func(ctx context.Context) { <-ctx.Done() }
	image := filepath.Join(t.TempDir(), "games.lua")
	script := `function GetWorkloadTypeAndName(m) if string.find(m, "GameServerSet") then return "StatefulSet", "game" end return "", "" end`
	if err := os.WriteFile(image, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	log, _, stop := start(t, cfg, none)
	line := log.wait(t, "pseudo-server runs")
	send(t, text(line["grpc"]), demoVersion, demo...)
	if _, _, err := command(t, "plugin", "create", "--type", "lua", "--image", image, "--name", "games", "--server", "http://"+text(line["http"])); err != nil {
		t.Error(err)
	}
	stop()
	log, _, stop = start(t, cfg, none)
	defer stop()
	line = log.wait(t, "pseudo-server runs")
	out, _, err := command(t, "inventory", "d-demo", "pods", "-o", "name", "--server", "http://"+text(line["http"]))
	if want := "shop/cart-1-a\nshop/game-0\n"; err != nil || out != want {
		t.Errorf("got %q, %v after a restart, want %q", out, err, want)
	}
}

// TestCompletion completes clusters and kinds from a running server.
func TestCompletion(t *testing.T) {
	_, api := demoServer(t)
	for line, want := range map[string]string{
		"objects --server " + api + " ":               "d-demo\n",
		"inventory --server " + api + " d-demo ":      "configmaps\ningresses\n",
		"clusters -o ":                                "table\njson\nyaml\nname\n",
		"plugin test --server " + api + " --cluster ": "d-demo\n",
	} {
		out, _, err := command(t, append([]string{"__complete"}, strings.Split(line, " ")...)...)
		if err != nil || !strings.HasPrefix(out, want) {
			t.Errorf("%s: got %q, %v, want %q first", line, out, err, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, _, err := command(t, "completion", shell); err != nil || len(out) < 100 {
			t.Errorf("completion %s: got %d bytes, %v", shell, len(out), err)
		}
	}
}
