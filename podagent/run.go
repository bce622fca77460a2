package podagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/pseudo-agent/pseudo-agent/attachments"
	"github.com/pseudo-agent/pseudo-agent/attachments/cni"
	"github.com/pseudo-agent/pseudo-agent/attachments/cri"
	"github.com/pseudo-agent/pseudo-agent/attachments/noderoot"
	"github.com/pseudo-agent/pseudo-agent/attachments/pods"
	"github.com/pseudo-agent/pseudo-agent/attachments/reconcile"
	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/internal/logging"
	"github.com/pseudo-agent/pseudo-agent/operate"
)

// gcPercent is Go's default: little lives long, and a node has little of it.
const gcPercent = 100

// sourceCNI is the network_source by which the node's default network is asked.
const sourceCNI = "cni"

// daemon wires the parts.
type daemon struct {
	cfg        *config.PodAgent
	log        *slog.Logger
	level      *slog.LevelVar
	runtime    *cri.Client
	store      *attachments.Store
	plugins    *cni.Plugins
	controller *pods.Controller
	// definitions are nil in network_source cni, events if none are made.
	definitions *definitions
	events      *events
	damaged     []error // records that cannot be read
}

// runDaemon is the daemon from its configuration to its end.
func runDaemon(ctx context.Context, flags *pflag.FlagSet, build operate.Build) (err error) {
	loaded, err := config.LoadPodAgent(flags)
	if err != nil {
		return err //nolint:wrapcheck // it names every mistake with its place
	}
	log, level, err := logging.New(os.Stderr, loaded.Config.Log.Format, loaded.Config.Log.Level)
	if err != nil {
		return err //nolint:wrapcheck // it names the key and the value
	}
	if _, err := operate.LimitMemory(gcPercent, operate.ClientShare, log); err != nil {
		log.Warn("no memory limit", "error", err)
	}
	registry := operate.NewRegistry("pod_agent", build)
	d := &daemon{cfg: &loaded.Config, log: log, level: level}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(build, registry); err != nil {
		return err
	}
	log.Info("pod-agent starts", "version", build.Version, "revision", build.Revision, "go", build.Go, "node", d.cfg.NodeName, "network_source", d.cfg.NetworkSource)
	web := operate.New(operate.Options{
		Program: "pod-agent", Build: build, Address: d.cfg.HTTP.Address, Pprof: d.cfg.HTTP.PProf, Registry: registry, Logger: log,
		Ready: []operate.Check{{Name: "pods", Probe: d.ready}},
		Parts: []operate.Part{{Name: "networks", Status: d.status, Problems: d.problems}}, Summary: d.summary,
	})
	ctx = klog.NewContext(ctx, logging.ClientGo(log))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return web.Run(ctx) })
	g.Go(func() error {
		// Nothing is changed before what an earlier process began has ended.
		if err := d.plugins.Claim(ctx); errors.Is(err, cni.ErrStillRunning) {
			log.Warn("going on", "error", err)
		} else if err != nil {
			return err //nolint:wrapcheck // it names the file
		}
		if d.definitions != nil {
			d.definitions.wait(ctx)
		}
		return d.controller.Run(ctx)
	})
	if d.definitions != nil {
		g.Go(func() error { return d.definitions.run(ctx, d.controller.Redefined) })
	}
	if d.events != nil {
		g.Go(func() error { return d.events.run(ctx) })
	}
	g.Go(func() error {
		config.WatchPodAgent(ctx, flags, loaded, d.reload)
		return nil
	})
	if err = g.Wait(); err != nil {
		err = fmt.Errorf("run: %w", err)
	}
	log.Info("pod-agent ends", "ok", err == nil)
	return err
}

// open makes all parts.
func (d *daemon) open(build operate.Build, registry *prometheus.Registry) error {
	access, err := restConfig(d.cfg.Kubernetes, build)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(access)
	if err != nil {
		return fmt.Errorf("access to the apiserver: %w", err)
	}
	if d.runtime, err = openRuntime(d.cfg); err != nil {
		return err
	}
	if d.store, err = attachments.Open(recordsDir(d.cfg)); err != nil {
		return err //nolint:wrapcheck // it names the folder
	}
	d.plugins = newPlugins(d.cfg)
	o := reconcile.Options{Store: d.store, Plugins: d.plugins}
	if d.cfg.NetworkSource == sourceCNI {
		o.NodeConfig = func() (json.RawMessage, error) {
			return cni.NodeConfig(noderoot.Root(d.cfg.NodeRoot), d.cfg.CNI.ConfigDir)
		}
	}
	r, damaged, err := reconcile.New(o)
	if err != nil {
		return err //nolint:wrapcheck // it names the folder
	}
	d.damaged = damaged
	for _, wrong := range damaged {
		d.log.Error("a record cannot be read; it stays where it is", "error", wrong)
	}
	po := pods.Options{
		Client: client, Node: d.cfg.NodeName, Namespaces: d.cfg.Namespaces,
		Annotations: attachments.Annotations{Networks: d.cfg.Annotations.Networks, List: d.cfg.Annotations.List},
		Limits:      attachments.Limits{Bytes: d.cfg.Limits.AnnotationSize, Networks: d.cfg.Limits.Networks},
		Reconciler:  r, Sandbox: d.runtime.Sandbox, Workers: d.cfg.Work.Parallel, MinRetry: d.cfg.Work.MinRetry, MaxRetry: d.cfg.Work.MaxRetry,
		DamagedRecords: len(damaged), TellStatus: d.cfg.Report.NetworkStatus, Log: d.log, Registerer: registry,
	}
	if d.cfg.NetworkSource != sourceCNI {
		if d.definitions, err = newDefinitions(client); err != nil {
			return err
		}
		po.Definition = d.definitions.get
	}
	if d.cfg.Report.Events {
		if d.events, err = newEvents(access, d.cfg.NodeName); err != nil {
			return err
		}
		po.Events = d.events.recorder
	}
	d.controller = pods.New(po)
	return nil
}

func recordsDir(c *config.PodAgent) string { return filepath.Join(c.StateDir, "records") }

func newPlugins(c *config.PodAgent) *cni.Plugins {
	return cni.New(cni.Options{Root: noderoot.Root(c.NodeRoot), Dirs: c.CNI.BinDirs, CacheDir: filepath.Join(c.StateDir, "cni"), Timeout: c.CNI.Timeout})
}

func (d *daemon) close() error {
	var errs []error
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if d.runtime != nil {
		errs = append(errs, d.runtime.Close())
	}
	return errors.Join(errs...)
}

func openRuntime(c *config.PodAgent) (*cri.Client, error) {
	root, socket := noderoot.Root(c.NodeRoot), c.CRI.Socket
	if socket == "" {
		var err error
		if socket, err = cri.FindSocket(root); err != nil {
			return nil, err //nolint:wrapcheck // it names the places
		}
	}
	return cri.New(root, socket) //nolint:wrapcheck // it names the key
}

// At the start up to 256 Pods may need their status annotation written. Of 1,000 nodes that start at once few do.
const (
	qps   = 20
	burst = 40
)

// restConfig is the access to the apiserver.
func restConfig(k config.PodAgentKubernetes, build operate.Build) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = k.Kubeconfig
	// Without a kubeconfig this falls back to the service account.
	access, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: k.Context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubernetes.kubeconfig %q, kubernetes.context %q: %w", k.Kubeconfig, k.Context, err)
	}
	if access.Insecure {
		return nil, fmt.Errorf("access to the apiserver %s: insecure-skip-tls-verify is refused; give certificate-authority or certificate-authority-data", access.Host)
	}
	access.UserAgent = "pod-agent/" + build.Version
	access.QPS, access.Burst = qps, burst
	return access, nil
}

// reload takes over a changed configuration file: the log's level at once, everything else is named and holds from the next
// start.
func (d *daemon) reload(loaded *config.Loaded[config.PodAgent], err error) {
	if err == nil {
		err = logging.SetLevel(d.level, loaded.Config.Log.Level)
	}
	if err != nil {
		d.log.Error("configuration file refused; the former configuration stays in force", "error", err)
		return
	}
	for _, c := range config.PodAgentChanges(d.cfg, &loaded.Config) {
		d.log.Info("configuration changed", "change", c.String(), "from_next_start", !c.Live)
	}
}
