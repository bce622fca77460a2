package reconcile_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/cni"
	"github.com/pseudo-agent/pseudo-agent/attachments/noderoot"
	"github.com/pseudo-agent/pseudo-agent/attachments/reconcile"
)

const (
	inside         = "PSEUDO_TEST_NAMESPACES_PLUGINS" // the plugins' folder, in the process that has namespaces of its own
	pluginsVersion = "v1.10.0"
)

// TestMain runs the tests again in a network and a mount namespace of their own: all that they make goes with it.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	// Inside, no module proxy can be reached.
	plugins, err := buildPlugins()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+plugins)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "no namespaces can be made here, so the tests with real plugins are skipped:", err)
		os.Exit(m.Run())
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// node is a node's folders with real plugins, in this process's namespaces.
type node struct {
	t       *testing.T
	dir     string
	plugins *cni.Plugins
	configs map[string]string
}

// buildPlugins builds the plugins from their module, once into the cache, and returns their folder.
func buildPlugins() (string, error) {
	cache := os.Getenv("PSEUDO_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("set PSEUDO_CACHE: %w", err)
		}
		cache = filepath.Join(user, "pseudo-agent")
	}
	dir := filepath.Join(cache, "pod-agent-plugins-"+pluginsVersion+"-"+runtime.Version())
	const module = "github.com/containernetworking/plugins/plugins/"
	for _, p := range []string{"main/bridge", "main/macvlan", "ipam/host-local"} {
		if _, err := os.Stat(filepath.Join(dir, filepath.Base(p))); err == nil {
			continue
		}
		cmd := exec.Command("go", "install", module+p+"@"+pluginsVersion)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build plugin %s: %w\n%s", p, err, out)
		}
	}
	return dir, nil
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("needs root on Linux, to make network namespaces")
	}
	n := &node{t: t, dir: t.TempDir(), configs: map[string]string{}}
	n.plugins = cni.New(cni.Options{Dirs: []string{os.Getenv(inside)}, CacheDir: filepath.Join(n.dir, "cache"), Timeout: 30 * time.Second})
	return n
}

// bridge defines a network of a bridge of its own; its addresses are 10.<net>.0.0/24.
func (n *node) bridge(name string, number int, more string) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":"bridge","bridge":"br%d"%s,"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.%d.0.0/24"}]]}}]}`,
		name, number, more, filepath.Join(n.dir, "addresses"), number)
}

func (n *node) macvlan(name, master string, number int) string {
	return fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[{"type":"macvlan","master":%q,"mode":"bridge","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.%d.0.0/24"}]]}}]}`,
		name, master, filepath.Join(n.dir, "addresses"), number)
}

// addresses are those that host-local has given out, as network/address.
func (n *node) addresses() []string {
	n.t.Helper()
	found := []string{}
	paths, err := filepath.Glob(filepath.Join(n.dir, "addresses", "*", "10.*"))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range paths {
		found = append(found, filepath.Base(filepath.Dir(p))+"/"+filepath.Base(p))
	}
	return found
}

// inNamespace runs f in a namespace, with a thread that ends with it.
func inNamespace(t *testing.T, path string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// sandbox makes a network namespace, as a container runtime does. Its first interface is eth0 with the default route.
func (n *node) sandbox(id string) reconcile.Sandbox {
	n.t.Helper()
	path := filepath.Join(n.dir, "netns-"+id)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		n.t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "none", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) }) // a test may have done it
	s := reconcile.Sandbox{ID: id, NetNS: path}
	_, err := n.plugins.Add(n.t.Context(), attachments.Attachment{
		Network: attachments.Network{Namespace: "kube", Name: "default", Interface: "eth0"}, Sandbox: id, NetNS: path,
		Config: json.RawMessage(n.bridge("default", 1, `,"isGateway":true,"isDefaultGateway":true`)),
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

func (n *node) removeSandbox(s reconcile.Sandbox) {
	n.t.Helper()
	if err := unix.Unmount(s.NetNS, unix.MNT_DETACH); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Remove(s.NetNS); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) interfaces(s reconcile.Sandbox) map[string]attachments.Interface {
	n.t.Helper()
	found, err := n.plugins.Interfaces(s.NetNS)
	if err != nil {
		n.t.Fatal(err)
	}
	return found
}

// defaultRoutes are the lines of the routing table whose destination is everything.
func defaultRoutes(t *testing.T, s reconcile.Sandbox) []string {
	t.Helper()
	var routes []string
	inNamespace(t, s.NetNS, func() error {
		text, err := os.ReadFile("/proc/thread-self/net/route")
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 2 && f[1] == "00000000" {
				routes = append(routes, f[0]+" by "+f[2])
			}
		}
		return err
	})
	return routes
}

// open is a process's start.
func (n *node) open() (*reconcile.Reconciler, func()) {
	n.t.Helper()
	store, err := attachments.Open(filepath.Join(n.dir, "state"))
	if err != nil {
		n.t.Fatal(err)
	}
	r, wrong, err := reconcile.New(reconcile.Options{Store: store, Plugins: n.plugins})
	if err != nil || len(wrong) > 0 {
		n.t.Fatal(err, wrong)
	}
	return r, func() {
		if err := store.Close(); err != nil {
			n.t.Error(err)
		}
	}
}

// wanted parses an annotation and looks the definitions up.
func (n *node) wanted(annotation string) []attachments.Wanted {
	n.t.Helper()
	names := attachments.Annotations{Networks: "n"}
	networks, err := attachments.Parse(map[string]string{"n": annotation}, names, "shop", attachments.DefaultLimits())
	if err != nil {
		n.t.Fatal(err)
	}
	var wanted []attachments.Wanted
	for _, network := range networks {
		wanted = append(wanted, attachments.Wanted{Network: network, Config: json.RawMessage(n.configs[network.Name])})
	}
	return wanted
}

func reconcilePod(t *testing.T, r *reconcile.Reconciler, pod reconcile.Pod) []string {
	t.Helper()
	outcomes, err := r.Reconcile(context.WithoutCancel(t.Context()), pod)
	if err != nil {
		t.Fatal(err)
	}
	done := []string{}
	for _, o := range outcomes {
		if o.Err != nil {
			t.Errorf("%s: %v", o.Step.Action, o.Err)
		}
		network := o.Step.Wanted.Network
		if o.Step.Action == attachments.Detach {
			network = o.Step.Attachment.Network
		}
		done = append(done, string(o.Step.Action)+" "+network.Name)
	}
	return done
}

func expect(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// TestRealPlugins attaches, changes and detaches networks of a running Pod with the real bridge, macvlan and host-local.
func TestRealPlugins(t *testing.T) { testRealPlugins(t, newNode(t)) }

// TestNodeRoot does the same where the node's root file system is mounted elsewhere, as in a container.
func TestNodeRoot(t *testing.T) {
	n := newNode(t)
	root := filepath.Join(n.dir, "host")
	err := os.Mkdir(root, 0o700)
	for _, m := range []struct {
		source, target string
		flags          uintptr
	}{{"", "/", unix.MS_REC | unix.MS_PRIVATE}, {"", "/", unix.MS_REC | unix.MS_SHARED}, {"/", root, unix.MS_REC | unix.MS_BIND}} {
		if err == nil {
			err = unix.Mount(m.source, m.target, "", m.flags, "")
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(unix.Mount("", root, "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Unmount(root, unix.MNT_DETACH)); err != nil {
			t.Error(err)
		}
	}()
	// What is found by the process's own root is not the node's.
	dirs := filepath.Join(n.dir, "plugins")
	if err := os.Symlink(os.Getenv(inside), dirs); err != nil {
		t.Fatal(err)
	}
	n.plugins = cni.New(cni.Options{Root: noderoot.Root(root), Dirs: []string{dirs}, CacheDir: filepath.Join(n.dir, "cache"), Timeout: 30 * time.Second})
	testRealPlugins(t, n)
}

// TestPluginsRoot: a plugin has the node's root for its own.
func TestPluginsRoot(t *testing.T) {
	n := newNode(t)
	program, err := os.ReadFile(filepath.Join(os.Getenv(inside), "host-local"))
	if err == nil {
		err = os.MkdirAll(filepath.Join(n.dir, "opt/bin"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(n.dir, "opt/bin/host-local"), program, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	plugins := cni.New(cni.Options{Root: noderoot.Root(n.dir), Dirs: []string{"/opt/bin"}, CacheDir: filepath.Join(n.dir, "cache"), Timeout: 30 * time.Second})
	if _, err := plugins.Add(t.Context(), attachments.Attachment{
		Network: attachments.Network{Namespace: "shop", Name: "green", Interface: "net0"}, Sandbox: "sandbox1", NetNS: "/none",
		Config: json.RawMessage(`{"cniVersion":"1.0.0","name":"green","plugins":[{"type":"host-local","ipam":{"type":"host-local","dataDir":"/addresses","ranges":[[{"subnet":"10.2.0.0/24"}]]}}]}`),
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, "addresses", n.addresses(), []string{"green/10.2.0.2"})
}

func testRealPlugins(t *testing.T, n *node) {
	t.Helper()
	s := n.sandbox("sandbox1")
	n.configs["green"] = n.bridge("green", 2, "")
	n.configs["red"] = n.bridge("red", 3, `,"isGateway":true`)
	n.configs["data"] = n.macvlan("data", "br1", 4)
	routes := defaultRoutes(t, s)
	if len(routes) != 1 {
		t.Fatalf("got default routes %q, want one", routes)
	}
	r, end := n.open()
	defer func() { end() }()
	pod := reconcile.Pod{UID: "uid-1", Namespace: "shop", Name: "web-0", Sandbox: &s}

	pod.Wanted = n.wanted("green,red,data")
	expect(t, "three networks", reconcilePod(t, r, pod), []string{"attach green", "attach red", "attach data"})
	found := n.interfaces(s)
	for _, name := range []string{"eth0", "net9f27410725ab", "netbda9643ac660", "net8d777f385d3d"} {
		if _, ok := found[name]; !ok {
			t.Errorf("the Pod has no interface %s: %v", name, found)
		}
	}
	expect(t, "addresses", n.addresses(), []string{"data/10.4.0.2", "default/10.1.0.2", "green/10.2.0.2", "red/10.3.0.2"})
	expect(t, "default routes", defaultRoutes(t, s), routes)
	for _, a := range r.Attachments(pod.UID) {
		if err := n.plugins.Check(t.Context(), a); err != nil {
			t.Errorf("CHECK of %s: %v", a.Name, err)
		}
		if err := n.plugins.Look(t.Context(), a); err != nil {
			t.Errorf("a look at %s: %v", a.Name, err)
		}
		a.MAC = "02:00:00:00:00:99"
		if err := n.plugins.Look(t.Context(), a); err == nil || !strings.Contains(err.Error(), "instead of") {
			t.Errorf("a look for another MAC: got %v", err)
		}
		a.Interface = "none"
		if err := n.plugins.Look(t.Context(), a); err == nil || !strings.Contains(err.Error(), "no such interface") {
			t.Errorf("a look for another interface: got %v", err)
		}
	}
	expect(t, "nothing to do", reconcilePod(t, r, pod), []string{})

	// A restart changes nothing.
	end()
	r, end = n.open()
	expect(t, "after a restart", reconcilePod(t, r, pod), []string{})

	// A MAC makes a detach and an attach, for a plugin that takes it as an argument.
	pod.Wanted = n.wanted(`[{"name":"green","mac":"02:00:00:00:00:77"},{"name":"red"},{"name":"data","mac":"02:00:00:00:00:78"}]`)
	expect(t, "MACs", reconcilePod(t, r, pod), []string{"detach data", "detach green", "attach green", "attach data"})
	if found := n.interfaces(s); found["net9f27410725ab"].MAC != "02:00:00:00:00:77" || found["net8d777f385d3d"].MAC != "02:00:00:00:00:78" {
		t.Errorf("got MACs %v", found)
	}
	// So does another definition.
	n.configs["red"] = n.bridge("red", 5, "")
	pod.Wanted = n.wanted("red,green@store0")
	expect(t, "change", reconcilePod(t, r, pod), []string{"detach data", "detach green", "detach red", "attach red", "attach green"})
	if found := n.interfaces(s); len(found) != 4 || found["store0"].MAC == "" {
		t.Errorf("got %v, want lo, eth0, store0 and red", found)
	}
	pod.Wanted = nil
	expect(t, "detach", reconcilePod(t, r, pod), []string{"detach green", "detach red"})
	if found := n.interfaces(s); len(found) != 2 {
		t.Errorf("got %v, want lo and eth0", found)
	}
	expect(t, "addresses", n.addresses(), []string{"default/10.1.0.2"})
	expect(t, "default routes", defaultRoutes(t, s), routes)
	if left := r.Recorded(); len(left) > 0 {
		t.Errorf("records are left: %v", left)
	}
}

// TestNamespaceGone: a Pod whose namespace is gone gives its addresses back.
func TestNamespaceGone(t *testing.T) {
	n := newNode(t)
	n.configs["green"], n.configs["data"] = n.bridge("green", 2, ""), n.macvlan("data", "br1", 4)
	s := n.sandbox("sandbox1")
	r, end := n.open()
	defer func() { end() }()
	pod := reconcile.Pod{UID: "uid-1", Namespace: "shop", Name: "web-0", Sandbox: &s, Wanted: n.wanted("green,data")}
	reconcilePod(t, r, pod)
	n.removeSandbox(s)
	end()
	r, end = n.open()
	if got := r.Recorded(); len(got) != 1 {
		t.Fatalf("got records of %v, want one Pod", got)
	}
	expect(t, "gone while we were down", reconcilePod(t, r, r.Recorded()[0]), []string{"detach data", "detach green"})
	expect(t, "addresses", n.addresses(), []string{"default/10.1.0.2"})
}

// TestAdopted: what was there before is taken over, by its name or by what the meta plugin says, and can be detached.
func TestAdopted(t *testing.T) {
	n := newNode(t)
	n.configs["green"], n.configs["red"] = n.bridge("green", 2, ""), n.bridge("red", 3, "")
	s := n.sandbox("sandbox1")
	for name, iface := range map[string]string{"green": "net9f27410725ab", "red": "net1"} {
		if _, err := n.plugins.Add(t.Context(), attachments.Attachment{
			Network: attachments.Network{Name: name, Interface: iface}, Sandbox: s.ID, NetNS: s.NetNS, Config: json.RawMessage(n.configs[name]),
		}); err != nil {
			t.Fatal(err)
		}
	}
	before := n.interfaces(s)
	r, end := n.open()
	defer end()
	pod := reconcile.Pod{UID: "uid-1", Namespace: "shop", Name: "web-0", Sandbox: &s, Wanted: n.wanted("green,red"), Made: map[string]string{"shop/red": "net1"}}
	expect(t, "first sight", reconcilePod(t, r, pod), []string{"adopt green", "adopt red"})
	if after := n.interfaces(s); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the interfaces were %v and are %v", before, after)
	}
	pod.Wanted = nil
	expect(t, "detach", reconcilePod(t, r, pod), []string{"detach red", "detach green"})
	expect(t, "addresses", n.addresses(), []string{"default/10.1.0.2"})
}
