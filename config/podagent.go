package config

import (
	"reflect"
	"time"

	"github.com/spf13/pflag"
)

// PodAgent is the whole configuration of pod-agent. config.podagent.example.yaml explains each key to operators. The tags
// are those of Agent.
type PodAgent struct {
	// NodeName is the node whose Pods are kept; the chart takes it from the Pod's spec.nodeName.
	NodeName string `mapstructure:"node_name" usage:"name of the node whose Pods are kept"`
	// Kubernetes is the access to the apiserver.
	Kubernetes PodAgentKubernetes `mapstructure:"kubernetes"`
	// Namespaces are those whose Pods are kept. Empty: all.
	Namespaces []string `mapstructure:"namespaces" check:"namespace" usage:"namespaces whose Pods are kept (empty: all)"`
	// Annotations are what says which networks a Pod is to have.
	Annotations PodAgentAnnotations `mapstructure:"annotations"`
	// NetworkSource is cni (the node's default network, a meta plugin, is asked for each network) or definitions (the
	// configuration of each network's NetworkAttachmentDefinition is used).
	NetworkSource string `mapstructure:"network_source" oneof:"cni definitions" usage:"cni: ask the meta plugin; definitions: use NetworkAttachmentDefinitions"`
	// StateDir keeps the records.
	StateDir string `mapstructure:"state_dir" needed:"true" usage:"folder of the records"`
	// NodeRoot is where the node's root file system is mounted.
	NodeRoot string `mapstructure:"node_root" usage:"folder under which the node's root file system is mounted (empty: the program runs in it)"`
	// CNI says where the node's plugins are.
	CNI PodAgentCNI `mapstructure:"cni"`
	// CRI says where the container runtime listens.
	CRI PodAgentCRI `mapstructure:"cri"`
	// Report says what is told on the Pods themselves.
	Report PodAgentReport `mapstructure:"report"`
	// Work bounds the work.
	Work PodAgentWork `mapstructure:"work"`
	// Limits bound what annotations can ask for.
	Limits PodAgentLimits `mapstructure:"limits"`
	// Log is the program's log.
	Log Log `mapstructure:"log"`
	// HTTP serves metrics, probes and status.
	HTTP AgentHTTP `mapstructure:"http"`
}

// PodAgentKubernetes is the access to the apiserver.
type PodAgentKubernetes struct {
	// Kubeconfig is a kubeconfig file. Empty: the Pod's service account.
	Kubeconfig string `mapstructure:"kubeconfig" usage:"kubeconfig file (empty: the Pod's service account)"`
	// Context is the context of the kubeconfig. Empty: its current one.
	Context string `mapstructure:"context" usage:"context of the kubeconfig (empty: the current one)"`
}

// PodAgentAnnotations names the annotations.
type PodAgentAnnotations struct {
	// Networks holds the short form or JSON. Empty: none is read.
	Networks string `mapstructure:"networks" usage:"annotation in short form or JSON (empty: none)"`
	// List holds JSON, as Kaloom's podagent read it. Empty: none is read.
	List string `mapstructure:"list" usage:"annotation with a JSON list (empty: none)"`
}

// PodAgentCNI says where the node's plugins are.
type PodAgentCNI struct {
	// BinDirs are searched for plugins, in their order.
	BinDirs []string `mapstructure:"bin_dirs" usage:"folders of CNI plugins"`
	// ConfigDir has the node's default network, in network_source cni.
	ConfigDir string `mapstructure:"config_dir" usage:"folder of the node's CNI configuration"`
	// Timeout ends a plugin that hangs.
	Timeout time.Duration `mapstructure:"timeout" min:"1s" max:"10m" usage:"when a plugin that hangs is ended"`
}

// PodAgentCRI says where the container runtime listens.
type PodAgentCRI struct {
	// Socket is its path. Empty: the usual places are searched.
	Socket string `mapstructure:"socket" usage:"socket of the container runtime (empty: search)"`
}

// PodAgentReport says what is told on the Pods themselves.
type PodAgentReport struct {
	// NetworkStatus keeps the Pods' annotation k8s.v1.cni.cncf.io/network-status true; patch of Pods is then needed.
	NetworkStatus bool `mapstructure:"network_status" usage:"keep the Pods' annotation k8s.v1.cni.cncf.io/network-status true"`
	// Events makes Events of what was attached, detached and failed; create and patch of Events is then needed.
	Events bool `mapstructure:"events" usage:"make Events of what was attached, detached and failed"`
}

// PodAgentWork bounds the work.
type PodAgentWork struct {
	// Parallel is how many Pods are worked on at once.
	Parallel int `mapstructure:"parallel" min:"1" max:"64" usage:"Pods worked on at once"`
	// MinRetry is the first pause after a failure; each next one is twice as long.
	MinRetry time.Duration `mapstructure:"min_retry" min:"100ms" max:"1m" usage:"first pause after a failure"`
	// MaxRetry is the longest pause.
	MaxRetry time.Duration `mapstructure:"max_retry" min:"1s" max:"1h" usage:"longest pause after failures"`
}

// PodAgentLimits bound what annotations can ask for.
type PodAgentLimits struct {
	// AnnotationSize is the largest annotation in bytes.
	AnnotationSize int `mapstructure:"annotation_size" min:"256" max:"262144" usage:"largest annotation in bytes"`
	// Networks is how many networks a Pod may have.
	Networks int `mapstructure:"networks" min:"1" max:"256" usage:"most networks of a Pod"`
}

// DefaultPodAgent returns the defaults. They lack only what has no default: the node's name.
func DefaultPodAgent() PodAgent {
	return PodAgent{
		Annotations:   PodAgentAnnotations{Networks: "k8s.v1.cni.cncf.io/networks", List: "networks"},
		NetworkSource: "cni", StateDir: "/var/lib/pod-agent",
		CNI:    PodAgentCNI{BinDirs: []string{"/opt/cni/bin"}, ConfigDir: "/etc/cni/net.d", Timeout: time.Minute},
		Report: PodAgentReport{NetworkStatus: true, Events: true},
		Work:   PodAgentWork{Parallel: 4, MinRetry: time.Second, MaxRetry: 5 * time.Minute},
		Limits: PodAgentLimits{AnnotationSize: 65536, Networks: 32},
		Log:    Log{Level: "info", Format: "json"},
		HTTP:   AgentHTTP{Address: ":8090"},
	}
}

var podAgentProgram = &program[PodAgent]{
	name:   "pod-agent",
	prefix: "POD_AGENT",
	schema: newSection(reflect.TypeFor[PodAgent](), "", nil),
	preset: DefaultPodAgent,
	check:  checkPodAgent,
}

// PodAgentFlags registers --config and a flag for each key of PodAgent: --node-name for node_name.
func PodAgentFlags(fs *pflag.FlagSet) { podAgentProgram.flags(fs) }

// LoadPodAgent reads pod-agent's configuration. In rising precedence: the defaults, the file of --config or
// POD_AGENT_CONFIG, the environment, the flags of fs (registered by PodAgentFlags; nil for none).
//
// The error joins one *Mistake for each thing that is wrong in any of them.
func LoadPodAgent(fs *pflag.FlagSet) (*Loaded[PodAgent], error) {
	loaded, err := podAgentProgram.load(fs)
	if err != nil {
		return nil, err
	}
	return loaded, nil
}

func checkPodAgent(a *PodAgent, ls layers) []*Mistake {
	var ms []*Mistake
	fail := func(key, value, problem, allowed string) {
		ms = append(ms, &Mistake{Key: key, Value: value, Problem: problem, Allowed: allowed, Source: ls.source(key)})
	}
	if a.NodeName == "" {
		fail("node_name", "", "is not given", "the name of this node, as in kubectl get nodes")
	}
	if a.Annotations.Networks == "" && a.Annotations.List == "" {
		fail("annotations.networks", "", "is empty, and so is annotations.list", "at least one annotation")
	}
	if len(a.CNI.BinDirs) == 0 {
		fail("cni.bin_dirs", "", "is empty", "at least one folder")
	}
	if a.Work.MaxRetry < a.Work.MinRetry {
		fail("work.max_retry", formatDuration(a.Work.MaxRetry), "is less than work.min_retry", "at least "+formatDuration(a.Work.MinRetry))
	}
	return ms
}
