package harness

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testport"
)

// Settings are configuration keys, written as in the documentation with dots between the levels, and their values.
type Settings map[string]any

// write makes a configuration file of the settings.
func (s Settings) write(path string) error {
	tree := map[string]any{}
	for key, value := range s {
		at := tree
		levels := strings.Split(key, ".")
		for _, level := range levels[:len(levels)-1] {
			next, ok := at[level].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[level] = next
			}
			at = next
		}
		at[levels[len(levels)-1]] = value
	}
	content, err := yaml.Marshal(tree)
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// Daemon is a pseudo-agent or pseudo-server with a configuration file, which can be ended and started again.
type Daemon struct {
	Name string
	// HTTP is the base URL of its status and API.
	HTTP string
	// ConfigFile is the configuration that it is started with.
	ConfigFile string
	Env        []string // in addition to the tests' own

	path     string
	dir      string
	settings Settings
	proc     *Process
}

// Server is a pseudo-server.
type Server struct {
	Daemon
	// GRPC is the host:port that agents report to.
	GRPC string
}

// NewServer prepares a pseudo-server that listens on free loopback ports and keeps its data in memory unless the
// settings say otherwise.
func NewServer(bins Binaries, dir, name string, settings Settings) (*Server, error) {
	ports, err := testport.Free(2)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Daemon: Daemon{
			Name: name, HTTP: fmt.Sprintf("http://127.0.0.1:%d", ports[1]),
			ConfigFile: filepath.Join(dir, name+".yaml"), path: bins.Server, dir: dir,
		},
		GRPC: fmt.Sprintf("127.0.0.1:%d", ports[0]),
	}
	all := Settings{
		"listen.grpc": s.GRPC,
		"listen.http": strings.TrimPrefix(s.HTTP, "http://"),
		"store.type":  "memory",
		// Tests send heartbeats more often than agents do.
		"limits.requests_per_minute": 6000,
	}
	return s, s.Configure(all, settings)
}

// NewAgent prepares a pseudo-agent that reports the cluster of kubeconfig to the server under the cluster id.
func NewAgent(bins Binaries, dir, name, kubeconfig, server, clusterID string, settings Settings) (*Daemon, error) {
	ports, err := testport.Free(1)
	if err != nil {
		return nil, err
	}
	a := &Daemon{
		Name: name, HTTP: fmt.Sprintf("http://127.0.0.1:%d", ports[0]),
		ConfigFile: filepath.Join(dir, name+".yaml"), path: bins.Agent, dir: dir,
	}
	all := Settings{
		"cluster_id":            clusterID,
		"cluster_name":          name,
		"server.addresses":      []string{server},
		"kubernetes.kubeconfig": kubeconfig,
		"http.address":          strings.TrimPrefix(a.HTTP, "http://"),
	}
	return a, a.Configure(all, settings)
}

// Configure changes settings and rewrites the configuration file. A running program sees the file change.
func (d *Daemon) Configure(changes ...Settings) error {
	if d.settings == nil {
		d.settings = Settings{}
	}
	for _, c := range changes {
		maps.Copy(d.settings, c)
	}
	return d.settings.write(d.ConfigFile)
}

// Start starts the program and waits until it answers on its HTTP port, which does not yet mean that it is ready.
func (d *Daemon) Start(ctx context.Context) error {
	p, err := StartProcess(Command{Name: d.Name, Path: d.path, Dir: d.dir, Args: []string{"run", "--config", d.ConfigFile}, Env: d.Env})
	if err != nil {
		return err
	}
	d.proc = p
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return p.WaitReady(ctx, func(ctx context.Context) error { return get(ctx, http.DefaultClient, d.HTTP+"/healthz/live", "") })
}

// Ready asks the program's readiness probe. The error names the checks that fail.
func (d *Daemon) Ready(ctx context.Context) error {
	return get(ctx, http.DefaultClient, d.HTTP+"/healthz/ready", "")
}

// Process is the running program, nil before the first Start.
func (d *Daemon) Process() *Process { return d.proc }

// Kill ends the program as a crash would.
func (d *Daemon) Kill() {
	if d.proc != nil {
		d.proc.Kill()
	}
}

// Stop ends the program with SIGTERM.
func (d *Daemon) Stop() error {
	if d.proc == nil {
		return nil
	}
	return d.proc.Stop()
}

// Ended tells whether the program was started and is no longer running.
func (d *Daemon) Ended() bool {
	if d.proc == nil {
		return false
	}
	select {
	case <-d.proc.Done():
		return true
	default:
		return false
	}
}

// Tail returns the last lines of the program's log.
func (d *Daemon) Tail(lines int) string {
	if d.proc == nil {
		return "(not started)"
	}
	return d.proc.Tail(lines)
}
