package config

import (
	"strconv"
	"time"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// Agent is the whole configuration of pseudo-agent. config.example.yaml explains each key to operators.
//
// The tags are the rules: mapstructure is the key, min and max are inclusive, oneof lists the words and alias another
// spelling of one, check names a rule of checks.go, unquoted admits a bare number as text, needed marks what an element
// of a list must have, why says where a limit comes from, live marks what a running process takes over from a changed
// file, usage is the flag's help.
type Agent struct {
	// ClusterID names the cluster, as deepflow-agent's kubernetes-cluster-id. Empty: the server is asked for it.
	ClusterID string `mapstructure:"cluster_id" check:"cluster_id" usage:"cluster id, like d-rrcmIdbEph (empty: ask the server)"`
	// ClusterName is the name that the server gives to a cluster that it does not know yet.
	ClusterName string `mapstructure:"cluster_name" usage:"name for a cluster that the server does not know yet"`
	// TeamID is the DeepFlow team that the cluster belongs to. Empty: the default team.
	TeamID string `mapstructure:"team_id" usage:"DeepFlow team (empty: the default team)"`
	// AgentGroupID is the agent group named in Sync, as deepflow-agent's vtap-group-id-request.
	AgentGroupID string `mapstructure:"agent_group_id" usage:"agent group to ask for in Sync"`
	// DeepFlowFiles are deepflow-agent.yaml files and agent-group configurations to take the keys from that concern us.
	DeepFlowFiles []string `mapstructure:"deepflow_files" usage:"deepflow-agent.yaml or agent-group files to take keys from"`
	// Server is where and how reports are sent.
	Server AgentServer `mapstructure:"server"`
	// Kubernetes is the access to the apiserver.
	Kubernetes AgentKubernetes `mapstructure:"kubernetes"`
	// Inputs holds the resource keys, spelled as in DeepFlow's agent-group configuration.
	Inputs AgentInputs `mapstructure:"inputs"`
	// Selection restricts what is watched, beyond DeepFlow's own keys.
	Selection AgentSelection `mapstructure:"selection"`
	// Report says when reports are sent.
	Report AgentReport `mapstructure:"report"`
	// Projection says how much of each object is reported.
	Projection AgentProjection `mapstructure:"projection"`
	// WatchPolicy is this program's part in the election of the cluster's watcher. K8S_WATCH_POLICY sets it too.
	WatchPolicy string `mapstructure:"watch_policy" oneof:"watch-only normal watch-disabled" alias:"only-watch=watch-only" usage:"part in the election of the watcher"`
	// ClaimWatcher claims the watcher role by Sync in policy watch-only.
	ClaimWatcher bool `mapstructure:"claim_watcher" usage:"claim the watcher role by Sync"`
	// RegisterAsAgent allows Sync requests upon which a deepflow-server registers the sender as an agent.
	RegisterAsAgent bool `mapstructure:"register_as_agent" usage:"allow the server to register this program as an agent"`
	// ConfigFromServer takes inputs.resources.kubernetes from the agent group's configuration in the Sync response.
	ConfigFromServer bool `mapstructure:"config_from_server" usage:"take inputs.resources.kubernetes from the agent group"`
	// HighAvailability lets several replicas stand by for each other.
	HighAvailability HighAvailability `mapstructure:"high_availability"`
	// Log is the program's log.
	Log Log `mapstructure:"log"`
	// HTTP serves metrics, probes and status.
	HTTP AgentHTTP `mapstructure:"http"`
}

// AgentServer is where and how reports are sent.
type AgentServer struct {
	// Addresses are host:port of the servers, one used at a time, the next after a failure.
	Addresses []string `mapstructure:"addresses" check:"server_address" usage:"servers as host:port, one used at a time"`
	// Service is the gRPC service: agent (DeepFlow 6.6.8 and later), trident (up to 7.0.1), auto tries both.
	Service string `mapstructure:"service" oneof:"auto agent trident" usage:"gRPC service name of the server"`
	// AgentID is auto, a number from 1 to 4294967295, or 0 for none (no handshake). See ParseAgentID.
	AgentID string `mapstructure:"agent_id" check:"agent_id" needed:"true" unquoted:"true" usage:"auto, a number, or 0 for no handshake"`
	// SourceIP is the address reported as the sender's. Empty: the local address of the connection.
	SourceIP string `mapstructure:"source_ip" check:"ip" usage:"address to report as the sender's (empty: the connection's)"`
	// ConnectTimeout limits one attempt to connect.
	ConnectTimeout time.Duration `mapstructure:"connect_timeout" min:"1s" max:"1m" usage:"limit of one attempt to connect"`
	// RequestTimeout is the deadline of one request.
	RequestTimeout time.Duration `mapstructure:"request_timeout" min:"1s" max:"10m" usage:"deadline of one request"`
	// MaxMessageSize is the largest request in bytes. A larger snapshot is not sent but told.
	MaxMessageSize int64 `mapstructure:"max_message_size" min:"65536" max:"2147483647" usage:"largest request in bytes"`
	// TokenFile holds a token that is sent as "authorization: Bearer …", to a pseudo-server that binds the cluster to it.
	// It is read again before each request, and needs TLS.
	TokenFile string `mapstructure:"token_file" usage:"file with the token that a pseudo-server asks for"`
	// TLS protects the connection; without it requests go in plain text, as deepflow-agent sends them by default.
	TLS ClientTLS `mapstructure:"tls"`
}

// ClientTLS is the client's side of a TLS connection. All files are read again when they change.
type ClientTLS struct {
	// Enabled turns TLS on.
	Enabled bool `mapstructure:"enabled" usage:"use TLS"`
	// CAFile holds the certificates that sign the server's, in PEM. Empty: the system's.
	CAFile string `mapstructure:"ca_file" usage:"PEM file with the server's CA (empty: the system's)"`
	// CertFile is the client's certificate in PEM, for mutual TLS.
	CertFile string `mapstructure:"cert_file" usage:"PEM file with the client certificate"`
	// KeyFile is the client certificate's key in PEM.
	KeyFile string `mapstructure:"key_file" usage:"PEM file with the client certificate's key"`
	// ServerName replaces the host of the address when the server's certificate is verified.
	ServerName string `mapstructure:"server_name" usage:"name to expect in the server's certificate"`
}

// AgentKubernetes is the access to the apiserver.
type AgentKubernetes struct {
	// Kubeconfig is a kubeconfig file. Empty: the Pod's service account, or outside a Pod KUBECONFIG and ~/.kube/config.
	Kubeconfig string `mapstructure:"kubeconfig" usage:"kubeconfig file (empty: the Pod's service account)"`
	// Context is the context of the kubeconfig. Empty: its current one.
	Context string `mapstructure:"context" usage:"context of the kubeconfig (empty: the current one)"`
	// QPS is the sustained rate of requests to the apiserver, in requests per second.
	QPS float64 `mapstructure:"qps" min:"0.1" max:"1000" usage:"sustained requests per second to the apiserver"`
	// Burst is how many requests may go at once before QPS holds them back.
	Burst int `mapstructure:"burst" min:"1" max:"10000" usage:"requests that may go at once"`
	// ContentType is how objects are asked for: auto asks for Pods and Nodes in protobuf, which costs the apiserver half as
	// much, and takes JSON from whoever has nothing else; json asks for JSON only.
	ContentType string `mapstructure:"content_type" oneof:"auto json" usage:"how objects are asked for"`
}

// AgentInputs mirrors the place of the resource keys in DeepFlow's agent-group configuration.
type AgentInputs struct {
	// Resources holds what is watched.
	Resources AgentResources `mapstructure:"resources"`
}

// AgentResources is inputs.resources of DeepFlow's agent-group configuration, as far as it concerns us.
type AgentResources struct {
	// PushInterval is the least time between two changed reports.
	PushInterval time.Duration `mapstructure:"push_interval" min:"10s" max:"1h" usage:"least time between two changed reports"`
	// Kubernetes selects the objects.
	Kubernetes KubernetesResources `mapstructure:"kubernetes"`
}

// KubernetesResources is inputs.resources.kubernetes of DeepFlow's agent-group configuration.
type KubernetesResources struct {
	// KubernetesNamespace limits namespaced resources to one namespace. Empty: all. Nodes and Namespaces are exempt.
	KubernetesNamespace string `mapstructure:"kubernetes_namespace" live:"true" usage:"watch only this namespace (empty: all)"`
	// APIResources change the selection of resources (docs/protocol.md, section 5).
	APIResources []resources.Request `mapstructure:"api_resources" live:"true" usage:"changes to the watched resources, as a YAML list"`
	// APIListPageSize is the limit of one page of a list, in objects.
	APIListPageSize int64 `mapstructure:"api_list_page_size" min:"10" max:"4294967295" usage:"objects per page of a list"`
	// APIListMaxInterval is the longest time without a complete list of a resource.
	APIListMaxInterval time.Duration `mapstructure:"api_list_max_interval" min:"10m" max:"30d" usage:"longest time without a complete list"`
}

// AgentSelection restricts the namespaces of which objects are watched, beyond kubernetes_namespace.
type AgentSelection struct {
	// Namespaces are the only ones. Empty: all.
	Namespaces []string `mapstructure:"namespaces" live:"true" usage:"watch only these namespaces (empty: all)"`
	// ExcludeNamespaces are left out.
	ExcludeNamespaces []string `mapstructure:"exclude_namespaces" live:"true" usage:"namespaces to leave out"`
	// NamespaceSelector is a label selector for namespaces. Empty: all.
	NamespaceSelector string `mapstructure:"namespace_selector" live:"true" usage:"watch only namespaces with these labels (empty: all)"`
}

// In returns the namespaces of which objects are watched, together with those that DeepFlow's own keys say.
func (s AgentSelection) In(k *KubernetesResources) resources.Namespaces {
	return resources.Namespaces{One: k.KubernetesNamespace, Only: s.Namespaces, Exclude: s.ExcludeNamespaces, Selector: s.NamespaceSelector}
}

// AgentReport says when reports are sent. deepflow-server forgets a cluster 24 h after its last report, hence the
// limits of the intervals.
type AgentReport struct {
	// Debounce is how long the first change after quiet waits for others.
	Debounce time.Duration `mapstructure:"debounce" min:"10ms" max:"1m" usage:"how long a change waits for others"`
	// HeartbeatInterval is the time between two requests when nothing changes, if agent_id is not 0.
	HeartbeatInterval time.Duration `mapstructure:"heartbeat_interval" min:"1s" max:"12h" why:"deepflow-server forgets a cluster after 24h without a request" usage:"time between requests when nothing changes"`
	// KeepaliveInterval is the time between two full reports when nothing changes, if agent_id is 0.
	KeepaliveInterval time.Duration `mapstructure:"keepalive_interval" min:"10s" max:"12h" why:"deepflow-server forgets a cluster after 24h without a request" usage:"time between full reports if agent_id is 0"`
	// FullResyncInterval is the longest time without a full report under a new version: the server may have lost what
	// it acknowledged.
	FullResyncInterval time.Duration `mapstructure:"full_resync_interval" min:"1m" max:"12h" usage:"longest time without a full report"`
	// ShutdownTimeout limits the sending of a pending change after SIGTERM.
	ShutdownTimeout time.Duration `mapstructure:"shutdown_timeout" min:"100ms" max:"10m" usage:"limit for sending a pending change at the end"`
}

// AgentProjection says how much of each object is reported beyond what every deepflow-server reads.
type AgentProjection struct {
	// PodEnv reports the environment of Pods' containers (read by DeepFlow's enterprise edition only).
	PodEnv bool `mapstructure:"pod_env" usage:"report the environment of Pods' containers"`
	// ConfigMapData reports the data of ConfigMaps, if configmaps are selected.
	ConfigMapData bool `mapstructure:"configmap_data" usage:"report the data of ConfigMaps"`
	// LiteralEnv reports literal env values inside workload specs instead of a keyed hash of each.
	LiteralEnv bool `mapstructure:"literal_env" usage:"report literal env values of workloads instead of hashes"`
	// GenerateName reports generateName of Pods. deepflow-server then confuses Pods whose names begin alike.
	GenerateName bool `mapstructure:"generate_name" usage:"report generateName of Pods (harmful, see docs)"`
	// NodeExternalIP reports the ExternalIP of a Node that has no InternalIP in its place; the server drops it otherwise.
	NodeExternalIP bool `mapstructure:"node_external_ip" usage:"report a Node's ExternalIP if it has no InternalIP"`
	// Annotations say which annotations are reported, by resource.
	Annotations []resources.AnnotationRule `mapstructure:"annotations" usage:"which annotations to report, as a YAML list"`
	// AnnotationLimit is the longest annotation value that is reported, in bytes.
	AnnotationLimit int `mapstructure:"annotation_limit" min:"1" max:"262144" usage:"longest annotation value to report, in bytes"`
	// WhenTooLarge is what happens to a snapshot that exceeds server.max_message_size.
	WhenTooLarge string `mapstructure:"when_too_large" oneof:"refuse drop_annotations" usage:"what to do with a snapshot that is too large"`
	// CredentialWords tell which names in command lines, headers and specs of workloads stand for credentials, whose values
	// are then reported as a keyed hash. An empty list leaves them as they are.
	CredentialWords []string `mapstructure:"credential_words" usage:"words by which credentials in workloads are known"`
	// HashKeyFile holds the key of the hashes that stand for literal env values and other credentials. Empty: derived from the apiserver's CA.
	HashKeyFile string `mapstructure:"hash_key_file" usage:"file with the key of the hashes of env values"`
}

// HighAvailability lets several replicas elect by a Lease the one that watches and reports.
type HighAvailability struct {
	// Enabled turns the election on. Needed with more than one replica.
	Enabled bool `mapstructure:"enabled" usage:"elect one of several replicas by a Lease"`
	// LeaseName is the Lease's name.
	LeaseName string `mapstructure:"lease_name" check:"lease_name" needed:"true" usage:"name of the Lease"`
	// LeaseNamespace is the Lease's namespace. Empty: the Pod's own.
	LeaseNamespace string `mapstructure:"lease_namespace" check:"namespace" usage:"namespace of the Lease (empty: the Pod's)"`
	// Identity names this replica. Empty: the host name and a random part.
	Identity string `mapstructure:"identity" usage:"name of this replica (empty: host name and a random part)"`
	// LeaseDuration is how long a standby waits for a silent leader.
	LeaseDuration time.Duration `mapstructure:"lease_duration" min:"5s" max:"5m" usage:"how long a standby waits for a silent leader"`
	// RenewDeadline is how long the leader tries to renew before it gives up; less than LeaseDuration.
	RenewDeadline time.Duration `mapstructure:"renew_deadline" min:"3s" max:"4m" usage:"how long the leader tries to renew"`
	// RetryPeriod is the time between two attempts; less than RenewDeadline / 1.2.
	RetryPeriod time.Duration `mapstructure:"retry_period" min:"500ms" max:"1m" usage:"time between attempts to get or renew the Lease"`
}

// Log is a program's log, on standard error.
type Log struct {
	// Level is the least severe level that is written.
	Level string `mapstructure:"level" oneof:"debug info warn error" live:"true" usage:"least severe level that is logged"`
	// Format is json or text, one event per line.
	Format string `mapstructure:"format" oneof:"json text" usage:"format of the log"`
}

// AgentHTTP serves metrics, probes and status.
type AgentHTTP struct {
	// Address is host:port to listen on; an empty host means all addresses.
	Address string `mapstructure:"address" check:"listen_address" needed:"true" usage:"host:port of metrics, probes and status"`
	// PProf serves Go's profiles under /debug/pprof.
	PProf bool `mapstructure:"pprof" usage:"serve Go profiles under /debug/pprof"`
}

// DefaultAgent returns the defaults. They lack only what has no default: a server's address.
func DefaultAgent() Agent {
	return Agent{
		Server: AgentServer{
			Service: "auto", AgentID: "auto",
			ConnectTimeout: 5 * time.Second, RequestTimeout: 30 * time.Second, MaxMessageSize: 104857600,
		},
		Kubernetes: AgentKubernetes{QPS: 20, Burst: 40, ContentType: "auto"},
		Inputs: AgentInputs{Resources: AgentResources{
			PushInterval: 10 * time.Second,
			Kubernetes:   KubernetesResources{APIListPageSize: 1000, APIListMaxInterval: 10 * time.Minute},
		}},
		Report: AgentReport{
			Debounce: time.Second, HeartbeatInterval: time.Minute, KeepaliveInterval: 10 * time.Minute,
			FullResyncInterval: time.Hour, ShutdownTimeout: 10 * time.Second,
		},
		Projection:   AgentProjection{NodeExternalIP: true, AnnotationLimit: 4096, WhenTooLarge: "refuse", CredentialWords: resources.DefaultCredentialWords()},
		WatchPolicy:  "watch-only",
		ClaimWatcher: true,
		HighAvailability: HighAvailability{
			LeaseName: "pseudo-agent", LeaseDuration: 12 * time.Second, RenewDeadline: 8 * time.Second, RetryPeriod: time.Second,
		},
		Log:  Log{Level: "info", Format: "json"},
		HTTP: AgentHTTP{Address: ":8080"},
	}
}

// ParseAgentID returns what agent_id says: auto, or a number of which 0 means none. A valid configuration has no other.
func (s AgentServer) ParseAgentID() (auto bool, id uint32) {
	if s.AgentID == "auto" {
		return true, 0
	}
	n, err := strconv.ParseUint(s.AgentID, 10, 32)
	if err != nil {
		return true, 0
	}
	return false, uint32(n)
}
