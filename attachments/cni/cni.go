// Package cni runs CNI plugins for attachments, by libcni, and looks into network namespaces.
//
// It relies on what an attachments.Attachment says and keeps no state but libcni's own cache. It promises that a plugin
// that hangs is ended with all its children after a timeout, that what a plugin writes is bounded, and that a namespace
// that is gone keeps nothing from being released.
package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/noderoot"
)

// Options of Plugins.
type Options struct {
	// Root is where the node's root file system is mounted. Plugins run with it as theirs; all other paths but CacheDir are
	// the node's.
	Root noderoot.Root
	// Dirs are searched for plugins, in their order.
	Dirs []string
	// CacheDir is libcni's cache of results, which CHECK and DEL hand to the plugins.
	CacheDir string
	// Timeout ends a plugin; 0: DefaultTimeout.
	Timeout time.Duration
}

// DefaultTimeout is far above what a plugin needs: a kubelet gives a whole Pod 4 minutes.
const DefaultTimeout = time.Minute

// Plugins runs CNI plugins. Its methods may be called at once for different Pods.
type Plugins struct {
	root    noderoot.Root
	timeout time.Duration
	cache   string
	lib     *libcni.CNIConfig
	run     *runner
}

// New returns Plugins for the options.
func New(o Options) *Plugins {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	run := &runner{root: o.Root}
	return &Plugins{root: o.Root, timeout: o.Timeout, lib: libcni.NewCNIConfigWithCacheDir(o.Dirs, o.CacheDir, run), run: run, cache: o.CacheDir}
}

// ErrStillRunning is the error of Claim when plugins that an earlier process started have not ended in time.
var ErrStillRunning = errors.New("plugins that an earlier pod-agent started still run")

// Claim waits until no plugin of an earlier process runs, which could bring back what is released now, at most for the
// timeout of a plugin. A plugin ends with the process that started it, but its own children may not.
func (p *Plugins) Claim(ctx context.Context) error {
	if err := os.MkdirAll(p.cache, 0o700); err != nil {
		return fmt.Errorf("make the cache of results: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(p.cache, "running"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("claim the plugins: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	for !tryLock(f) {
		select {
		case <-ctx.Done():
			_ = f.Close() // holds nothing
			return ErrStillRunning
		case <-time.After(claimPause):
		}
	}
	p.run.held = f
	return nil
}

// claimPause is the time between two looks.
const claimPause = 50 * time.Millisecond

// Add attaches and returns the plugins' result.
func (p *Plugins) Add(ctx context.Context, a attachments.Attachment) (json.RawMessage, error) {
	list, rt, err := prepare(a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	result, err := p.lib.AddNetworkList(ctx, list, rt)
	if err != nil {
		return nil, p.explain(ctx, "ADD", err)
	}
	text, err := json.Marshal(result)
	if err != nil {
		return nil, fmt.Errorf("write the result of ADD: %w", err)
	}
	return text, nil
}

// Del detaches. It succeeds if nothing is attached, and releases addresses if the namespace is gone.
func (p *Plugins) Del(ctx context.Context, a attachments.Attachment) error {
	list, rt, err := prepare(a)
	if err != nil {
		return err
	}
	if at, err := p.root.Path(rt.NetNS); err != nil || !namespaceExists(at) {
		rt.NetNS = ""
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if err := p.lib.DelNetworkList(ctx, list, rt); err != nil {
		return p.explain(ctx, "DEL", err)
	}
	return nil
}

// checkVersion is the first version of CNI that has CHECK.
const checkVersion = "0.4.0"

// Check asks the plugins whether an attachment that Add made is still as they made it. Of configurations of older versions
// they cannot tell.
func (p *Plugins) Check(ctx context.Context, a attachments.Attachment) error {
	list, rt, err := prepare(a)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if gtet, err := version.GreaterThanOrEqualTo(list.CNIVersion, checkVersion); err != nil || !gtet {
		return nil // has no CHECK
	}
	if err := p.lib.CheckNetworkList(ctx, list, rt); err != nil {
		return p.explain(ctx, "CHECK", err)
	}
	return nil
}

// Look tells whether the interface of an attachment is there, with the MAC that was asked for.
func (p *Plugins) Look(_ context.Context, a attachments.Attachment) error {
	found, err := p.Interfaces(a.NetNS)
	if err != nil {
		return err
	}
	return a.Among(found) //nolint:wrapcheck // it names the interface
}

// Interfaces returns the interfaces in a network namespace, by name.
func (p *Plugins) Interfaces(netns string) (map[string]attachments.Interface, error) {
	at, err := p.root.Path(netns)
	if err != nil {
		return nil, err //nolint:wrapcheck // it names the path
	}
	return interfaces(at)
}

// Error is a plugin's failure.
type Error struct {
	// Command is ADD, DEL or CHECK.
	Command string
	// TimedOut says that the plugin was ended.
	TimedOut bool
	// Err holds the plugin's own message.
	Err error
}

func (e *Error) Error() string { return "CNI " + e.Command + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

func (p *Plugins) explain(ctx context.Context, command string, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &Error{Command: command, TimedOut: true, Err: fmt.Errorf("the plugin had not ended after %s (cni.timeout) and was killed: %w", p.timeout, err)}
	}
	return &Error{Command: command, Err: err}
}

func prepare(a attachments.Attachment) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := libcni.NetworkConfFromBytes(a.Config)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration of network %s: %w", a.Path(), err)
	}
	return list, &libcni.RuntimeConf{ContainerID: a.Sandbox, NetNS: a.NetNS, IfName: a.Interface, Args: a.Args, CapabilityArgs: a.Capabilities}, nil
}

// maxConfig bounds a configuration in bytes.
const maxConfig = 256 << 10

// NodeConfig returns the node's default network: the first configuration file of the folder in the order of names, as
// container runtimes choose it.
func NodeConfig(root noderoot.Root, dir string) (json.RawMessage, error) {
	dir, err := root.Follow(dir)
	if err != nil {
		return nil, fmt.Errorf("cni.config_dir: %w", err)
	}
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("cni.config_dir: %w", err)
	}
	slices.Sort(files)
	if len(files) == 0 {
		return nil, fmt.Errorf("cni.config_dir %s holds no network configuration: is the node's network plugin installed?", dir)
	}
	first, err := root.Follow(root.Inside(files[0]))
	if err != nil {
		return nil, fmt.Errorf("cni.config_dir: %w", err)
	}
	f, err := os.Open(first) //nolint:gosec // the operator names the folder
	if err != nil {
		return nil, fmt.Errorf("cni.config_dir: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("cni.config_dir: %w", err)
	}
	config, err := Normalise(data, strings.TrimSuffix(filepath.Base(files[0]), filepath.Ext(files[0])))
	if err != nil {
		return nil, fmt.Errorf("network configuration %s: %w", files[0], err)
	}
	return config, nil
}

// Normalise makes a configuration list of a configuration or list, named if it has no name.
func Normalise(data []byte, name string) (json.RawMessage, error) {
	if len(data) > maxConfig {
		return nil, fmt.Errorf("has more than %d bytes", maxConfig)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, fmt.Errorf("is no JSON object: %w", err)
	}
	if members == nil {
		return nil, errors.New("is no JSON object: null")
	}
	var given string
	if members["name"] != nil {
		if err := json.Unmarshal(members["name"], &given); err != nil {
			return nil, fmt.Errorf("name: %w", err)
		}
	}
	if given == "" {
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, fmt.Errorf("name: %w", err)
		}
		members["name"] = quoted
		if data, err = json.Marshal(members); err != nil {
			return nil, fmt.Errorf("name: %w", err)
		}
	}
	if members["plugins"] == nil {
		list := map[string]any{"name": name, "plugins": []json.RawMessage{data}}
		if given != "" {
			list["name"] = given
		}
		if version := members["cniVersion"]; version != nil {
			list["cniVersion"] = version
		}
		var err error
		if data, err = json.Marshal(list); err != nil {
			return nil, fmt.Errorf("is no network configuration: %w", err)
		}
	}
	if _, err := libcni.NetworkConfFromBytes(data); err != nil {
		return nil, fmt.Errorf("is no list of network configurations: %w", err)
	}
	return data, nil
}

// maxOutput bounds what is kept of a plugin's output, in bytes.
const maxOutput = 1 << 20

// runner runs one plugin, in a process group of its own.
type runner struct {
	version.PluginDecoder
	root noderoot.Root
	held *os.File // whose lock lasts until the last plugin and its children have ended
}

// FindInPath returns the plugin's path from the node's root.
func (r *runner) FindInPath(plugin string, paths []string) (string, error) {
	here := make([]string, 0, len(paths))
	for _, p := range paths {
		at, err := r.root.Follow(p)
		if err != nil {
			return "", err //nolint:wrapcheck // it names the path
		}
		here = append(here, at)
	}
	found, err := invoke.FindInPath(plugin, here)
	if err != nil {
		return "", err //nolint:wrapcheck // it names plugin and folders
	}
	return r.root.Inside(found), nil
}

// outputGrace is how long the output of a plugin that was ended is waited for.
const outputGrace = 2 * time.Second

func (r *runner) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Stdin = environ, bytes.NewReader(stdin)
	var stdout, stderr bounded
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = outputGrace
	if r.held != nil {
		cmd.ExtraFiles = []*os.File{r.held}
	}
	err := runBound(cmd, r.root)
	if err == nil && stdout.over {
		return nil, fmt.Errorf("plugin %s: wrote more than %d bytes", filepath.Base(path), maxOutput)
	}
	if err == nil {
		return stdout.kept.Bytes(), nil
	}
	own := &types.Error{}
	if json.Unmarshal(stdout.kept.Bytes(), own) == nil && own.Msg != "" {
		return nil, own
	}
	return nil, fmt.Errorf("plugin %s: %w: %s", filepath.Base(path), err, clip(strings.TrimSpace(stderr.kept.String()+" "+stdout.kept.String())))
}

// clip shortens what a message shows of a plugin's output.
func clip(s string) string {
	const most = 512
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// bounded keeps the first maxOutput bytes. It hides the buffer, whose ReadFrom would take in any number.
type bounded struct {
	kept bytes.Buffer
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), maxOutput-b.kept.Len())
	b.over = b.over || n < len(p)
	_, _ = b.kept.Write(p[:n]) // never fails
	return len(p), nil
}
