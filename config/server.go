package config

import (
	"net"
	"net/netip"
	"time"
)

// Server is the whole configuration of pseudo-server. config.server.example.yaml explains each key to operators. The
// tags are those of Agent; secret keeps a value out of messages.
type Server struct {
	// Listen are the addresses of the two ports.
	Listen ServerListen `mapstructure:"listen"`
	// TLS protects the gRPC port.
	TLS ServerTLS `mapstructure:"tls"`
	// HTTP is the API, the page, metrics, probes and status.
	HTTP ServerHTTP `mapstructure:"http"`
	// Store is where snapshots and decisions are kept.
	Store ServerStore `mapstructure:"store"`
	// Retention says how long a silent cluster is kept.
	Retention ServerRetention `mapstructure:"retention"`
	// Limits bound what clients can make the server do.
	Limits ServerLimits `mapstructure:"limits"`
	// Validation says which reports are refused beyond what is always refused.
	Validation ServerValidation `mapstructure:"validation"`
	// Access says who may report and who may use the API.
	Access ServerAccess `mapstructure:"access"`
	// Plugins bounds the Lua plugins.
	Plugins ServerPlugins `mapstructure:"plugins"`
	// Viewer holds the inventories.
	Viewer ServerViewer `mapstructure:"viewer"`
	// Elector elects each cluster's watcher.
	Elector ServerElector `mapstructure:"elector"`
	// Upstream makes pseudo-server stand between the agents and deepflow-servers.
	Upstream ServerUpstream `mapstructure:"upstream"`
	// Log is the program's log.
	Log Log `mapstructure:"log"`
}

// ServerListen are the addresses to listen on, as host:port; an empty host means all addresses.
type ServerListen struct {
	// GRPC takes Sync, KubernetesAPISync and GetKubernetesClusterID.
	GRPC string `mapstructure:"grpc" check:"listen_address" needed:"true" usage:"host:port of the gRPC services"`
	// HTTP takes the API, the page, metrics, probes and status.
	HTTP string `mapstructure:"http" check:"listen_address" needed:"true" usage:"host:port of API, page, metrics and probes"`
}

// ServerTLS is the server's side of TLS connections. All files are read again when they change.
type ServerTLS struct {
	// Enabled turns TLS on.
	Enabled bool `mapstructure:"enabled" usage:"use TLS"`
	// CertFile is the server's certificate chain in PEM.
	CertFile string `mapstructure:"cert_file" usage:"PEM file with the server certificate"`
	// KeyFile is the certificate's key in PEM.
	KeyFile string `mapstructure:"key_file" usage:"PEM file with the server certificate's key"`
	// ClientCAFile holds the certificates that sign clients', in PEM.
	ClientCAFile string `mapstructure:"client_ca_file" usage:"PEM file with the CA of client certificates"`
	// RequireClientCert refuses clients without a certificate signed by ClientCAFile.
	RequireClientCert bool `mapstructure:"require_client_cert" usage:"refuse clients without a certificate"`
}

// ServerHTTP is the HTTP port beyond its address.
type ServerHTTP struct {
	// TLS protects the HTTP port.
	TLS ServerTLS `mapstructure:"tls"`
	// AllowedHosts are names by which browsers may ask without a token, besides addresses, localhost, names without a dot, names
	// below .svc and .svc.cluster.local, and the name in listen.http. "*.parent" and "*" are allowed.
	AllowedHosts []string `mapstructure:"allowed_hosts" check:"host_name" usage:"names by which this server may be asked without a token"`
	// PProf serves Go's profiles under /debug/pprof.
	PProf bool `mapstructure:"pprof" usage:"serve Go profiles under /debug/pprof"`
}

// ServerStore is where snapshots, decisions and plugins are kept.
type ServerStore struct {
	// Type is embedded (one file, one replica), postgres (several replicas), or memory (nothing survives).
	Type string `mapstructure:"type" oneof:"embedded postgres memory" usage:"embedded, postgres or memory"`
	// Path is the embedded database's file.
	Path string `mapstructure:"path" usage:"file of the embedded database"`
	// Compact says whether the embedded database's file is compacted when more than half of it is free.
	Compact bool `mapstructure:"compact" usage:"compact the embedded database's file when more than half of it is free"`
	// IndexMemory is how many bytes of indexes of clusters that nobody uses stay in memory, 0: all. Others are read again when they
	// report a change or are looked at.
	IndexMemory int64 `mapstructure:"index_memory" min:"0" max:"1099511627776" usage:"bytes of indexes kept for clusters that nobody uses, 0: not bounded"`
	// DSN is PostgreSQL's connection string. Give it by environment or DSNFile if it holds a password.
	DSN string `mapstructure:"dsn" secret:"true" usage:"PostgreSQL connection string"`
	// DSNFile is a file that holds the connection string, for example of a mounted Secret.
	DSNFile string `mapstructure:"dsn_file" usage:"file that holds the PostgreSQL connection string"`
	// StandbyDSN is the connection string of a standby, from which is read what may be old: the list of clusters, and the
	// contents of objects, which their hashes prove. Empty: everything is read from the primary.
	StandbyDSN string `mapstructure:"standby_dsn" secret:"true" usage:"connection string of a PostgreSQL standby to read from"`
	// StandbyDSNFile is a file that holds it.
	StandbyDSNFile string `mapstructure:"standby_dsn_file" usage:"file that holds the connection string of the standby"`
	// StandbyMaxAge is how old a list from the standby may be; otherwise the primary is asked.
	StandbyMaxAge time.Duration `mapstructure:"standby_max_age" min:"20s" max:"24h" usage:"how old a list from the standby may be"`
	// MaxConnections bounds the connections to PostgreSQL.
	MaxConnections int `mapstructure:"max_connections" min:"2" max:"1000" usage:"most connections to PostgreSQL"`
	// KeepVersions is how many versions of each cluster stay readable.
	KeepVersions int `mapstructure:"keep_versions" min:"1" max:"10000" usage:"versions of each cluster that stay readable"`
	// KeepVersionsFor is how long superseded versions stay readable. The latest always does.
	KeepVersionsFor time.Duration `mapstructure:"keep_versions_for" min:"0s" max:"365d" usage:"how long superseded versions stay readable"`
}

// ServerRetention says what becomes of a cluster after its last report.
type ServerRetention struct {
	// StaleAfter is when a silent cluster is shown as stale.
	StaleAfter time.Duration `mapstructure:"stale_after" min:"1m" max:"365d" usage:"when a silent cluster is shown as stale"`
	// GoneAfter is when a silent cluster is deleted, which is logged.
	GoneAfter time.Duration `mapstructure:"gone_after" min:"1m" max:"3650d" usage:"when a silent cluster is deleted"`
}

// ServerLimits bound what clients can make the server do.
type ServerLimits struct {
	// MaxMessageSize is the largest request in bytes; deepflow-server's own limit is the default.
	MaxMessageSize int64 `mapstructure:"max_message_size" min:"65536" max:"2147483647" usage:"largest request in bytes"`
	// MaxEntrySize is the largest object in bytes, decompressed.
	MaxEntrySize int64 `mapstructure:"max_entry_size" min:"1024" max:"1073741824" usage:"largest object in bytes, decompressed"`
	// MaxSnapshotSize is the largest report in bytes, decompressed.
	MaxSnapshotSize int64 `mapstructure:"max_snapshot_size" min:"65536" max:"1099511627776" usage:"largest report in bytes, decompressed"`
	// MaxEntries is the largest number of objects of one report.
	MaxEntries int `mapstructure:"max_entries" min:"1" max:"100000000" usage:"most objects in one report"`
	// MaxClusters is the largest number of clusters.
	MaxClusters int `mapstructure:"max_clusters" min:"1" max:"1000000" usage:"most clusters"`
	// MaxRetainedEntries is the largest number of entries of all kept versions of all clusters.
	MaxRetainedEntries int `mapstructure:"max_retained_entries" min:"1000" max:"1000000000" usage:"most entries of all kept versions of all clusters"`
	// MaxConcurrentRequests is how many reports are worked on at once; others wait.
	MaxConcurrentRequests int `mapstructure:"max_concurrent_requests" min:"1" max:"10000" usage:"reports worked on at once"`
	// MaxWaitingRequests is how many wait until they are worked on; others are refused.
	MaxWaitingRequests int `mapstructure:"max_waiting_requests" min:"1" max:"1000000" usage:"requests that wait to be worked on"`
	// MaxConnections is the largest number of gRPC connections.
	MaxConnections int `mapstructure:"max_connections" min:"1" max:"1000000" usage:"most gRPC connections"`
	// RequestsPerMinute is the sustained rate of reports of one cluster.
	RequestsPerMinute int `mapstructure:"requests_per_minute" min:"1" max:"60000" usage:"sustained reports per minute of one cluster"`
	// RequestTimeout is how long a client may take to send one request.
	RequestTimeout time.Duration `mapstructure:"request_timeout" min:"1s" max:"10m" usage:"how long sending one request may take"`
	// Memory is what the program may use in bytes, 0: the container's limit, or GOMEMLIMIT. Clusters have three eighths of it,
	// larger requests a quarter.
	Memory int64 `mapstructure:"memory" min:"0" max:"1099511627776" usage:"memory of the program in bytes, 0: what the container has"`
	// MinReceiveRate is the least bytes per second at which a request may come in, after the first five seconds.
	MinReceiveRate int `mapstructure:"min_receive_rate" min:"1" max:"1073741824" usage:"least bytes per second of a request"`
}

// ServerValidation says which reports are refused beyond what is always refused.
type ServerValidation struct {
	// LenientClusters may send arrays and Lists, which are split. For senders that cannot be changed.
	LenientClusters []string `mapstructure:"lenient_clusters" check:"cluster_id" usage:"clusters whose arrays and Lists are split"`
	// Suspicion refuses reports that would remove too much at once.
	Suspicion ServerSuspicion `mapstructure:"suspicion"`
}

// ServerSuspicion refuses a report that would remove more than a share of a cluster, until it comes again after a while
// or an operator accepts it.
type ServerSuspicion struct {
	// OtherCluster refuses reports of another cluster under the same id, until the stored one is silent for ConfirmAfter.
	OtherCluster bool `mapstructure:"other_cluster" usage:"refuse reports of another cluster under the same id"`
	// Enabled turns it on.
	Enabled bool `mapstructure:"enabled" usage:"refuse reports that would remove too much at once"`
	// MaxRemovedShare is the share of the cluster's objects that one report may remove, from 0.01 to 1.
	MaxRemovedShare float64 `mapstructure:"max_removed_share" min:"0.01" max:"1" usage:"share of objects that one report may remove"`
	// ConfirmAfter is the least time after which the same content is accepted.
	ConfirmAfter time.Duration `mapstructure:"confirm_after" min:"10m" max:"24h" usage:"time after which the same content is accepted"`
}

// ServerAccess says who may report and who may use the API.
type ServerAccess struct {
	// TeamIDs are the teams whose requests are taken. Empty: every team's.
	TeamIDs []string `mapstructure:"team_ids" usage:"teams whose requests are taken (empty: all)"`
	// Clusters binds clusters to certificates or tokens.
	Clusters []ClusterAccess `mapstructure:"clusters" usage:"clusters bound to certificates or tokens, as a YAML list"`
	// OnlyBound refuses clusters that Clusters does not name.
	OnlyBound bool `mapstructure:"only_bound" usage:"refuse clusters that access.clusters does not name"`
	// Enroll says which clusters may report that neither Clusters nor the store has: open (all), token (who shows one of
	// EnrollTokens, by which the cluster is bound from then on) or closed (none).
	Enroll string `mapstructure:"enroll" oneof:"open token closed" usage:"which new clusters may report: open, token or closed"`
	// EnrollTokens let new clusters in.
	EnrollTokens []EnrollToken `mapstructure:"enroll_tokens" usage:"tokens that let new clusters in, as a YAML list"`
	// Anonymous is what the API, the metrics and the status grant without a token: none, read, administer, or auto: read if
	// listen.http is a loopback address, else none.
	Anonymous string `mapstructure:"anonymous" oneof:"auto none read administer" usage:"what API, metrics and status grant without a token"`
	// Tokens are the API's users.
	Tokens []TokenAccess `mapstructure:"tokens" usage:"users of the API, as a YAML list"`
	// AuditFile gets a line of JSON for each refusal and each act of administration. Empty: the log.
	AuditFile string `mapstructure:"audit_file" usage:"file of the audit log (empty: the log)"`
}

// ClusterAccess binds one cluster: it may be reported only by one of the certificates or by who has the token.
type ClusterAccess struct {
	// ClusterID is the cluster.
	ClusterID string `mapstructure:"cluster_id" check:"cluster_id" needed:"true"`
	// CertificateNames are common names or DNS names of client certificates.
	CertificateNames []string `mapstructure:"certificate_names"`
	// TokenFile holds the token that a client sends as gRPC metadata "authorization: Bearer …".
	TokenFile string `mapstructure:"token_file"`
}

// EnrollToken lets new clusters in, and binds them to its holders.
type EnrollToken struct {
	// Name is what a cluster's binding refers to: the token may change, the name may not.
	Name string `mapstructure:"name" needed:"true"`
	// TokenFile holds the token that a client sends as gRPC metadata "authorization: Bearer …".
	TokenFile string `mapstructure:"token_file" needed:"true"`
}

// AnonymousRole is what readers without a token get: none, read or administer.
func (s *Server) AnonymousRole() string {
	switch {
	case s.Access.Anonymous != "auto":
		return s.Access.Anonymous
	case isLoopback(s.Listen.HTTP):
		return "read"
	default:
		return "none"
	}
}

// isLoopback tells whether only programs of this machine reach an address of the form host:port.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// TokenAccess is one user of the API.
type TokenAccess struct {
	// Name is shown in the audit log.
	Name string `mapstructure:"name" needed:"true"`
	// Clusters are the ids of those that the role holds for. Empty: all.
	Clusters []string `mapstructure:"clusters" check:"cluster_id"`
	// Role is read or administer.
	Role string `mapstructure:"role" oneof:"read administer" needed:"true"`
	// TokenFile holds the token that a client sends as "Authorization: Bearer …".
	TokenFile string `mapstructure:"token_file" needed:"true"`
}

// ServerPlugins bounds each call of a Lua plugin.
type ServerPlugins struct {
	// Timeout is the longest time of one call.
	Timeout time.Duration `mapstructure:"timeout" min:"1ms" max:"1m" usage:"longest time of one call of a plugin"`
	// MaxMemory is the most memory of one plugin in bytes.
	MaxMemory int64 `mapstructure:"max_memory" min:"8388608" max:"1073741824" usage:"most memory of one plugin, in bytes"`
}

// ServerViewer holds the inventories.
type ServerViewer struct {
	// Memory is how many bytes the inventories of clusters that nobody looks at may take, 0: not bounded.
	Memory int64 `mapstructure:"memory" min:"0" max:"1099511627776" usage:"bytes of inventories kept for clusters that nobody looks at, 0: not bounded"`
}

// ServerElector elects each cluster's watcher.
type ServerElector struct {
	// TTL is how long a silent holder keeps the role.
	TTL time.Duration `mapstructure:"ttl" min:"10s" max:"1h" usage:"how long a silent watcher keeps the role"`
	// Grace is how long a cluster may be without a candidate before that is told.
	Grace time.Duration `mapstructure:"grace" min:"0s" max:"24h" usage:"how long a cluster may be without a candidate"`
	// RefuseOthers refuses the reports of agents that are not the elected watcher.
	RefuseOthers bool `mapstructure:"refuse_others" usage:"refuse reports of agents that are not elected"`
	// Designations prefer candidates.
	Designations []Designation `mapstructure:"designations" usage:"preferred candidates, as a YAML list"`
}

// ServerUpstream are the deepflow-servers behind pseudo-server. Without addresses there are none.
type ServerUpstream struct {
	// Addresses of the deepflow-servers as host:port. A cluster stays on one of them while that is healthy.
	Addresses []string `mapstructure:"addresses" check:"server_address" usage:"deepflow-servers to stand in front of, as host:port"`
	// TLS protects the connections to them.
	TLS ClientTLS `mapstructure:"tls"`
	// Advertise is where agents reach pseudo-server, as host:port. It replaces the controller's address in answers.
	Advertise string `mapstructure:"advertise" check:"server_address" usage:"host:port by which agents reach pseudo-server (empty: answers keep the server's)"`
	// Reports is forward (as they came), refuse (what validation refuses) or mend (what the server would fail on is fixed).
	Reports string `mapstructure:"reports" oneof:"forward refuse mend" usage:"forward, refuse or mend reports"`
}

// Designation prefers the candidates of one cluster that match it. Exactly one of Workload, AgentGroup, HostPattern and
// Agent is given.
type Designation struct {
	// ClusterID is the cluster.
	ClusterID string `mapstructure:"cluster_id" check:"cluster_id" needed:"true"`
	// Workload is namespace/kind/name, for example "deepflow/Deployment/pseudo-agent".
	Workload string `mapstructure:"workload" check:"workload"`
	// AgentGroup is the agent group id of the candidates.
	AgentGroup string `mapstructure:"agent_group"`
	// HostPattern is a pattern of host names in which * stands for any characters.
	HostPattern string `mapstructure:"host_pattern"`
	// Agent is the old form: ip-mac.
	Agent string `mapstructure:"agent" check:"ip_mac"`
}

// DefaultServer returns the defaults, which are a valid configuration.
func DefaultServer() Server {
	return Server{
		Listen: ServerListen{GRPC: ":20035", HTTP: ":20080"},
		Store: ServerStore{
			Type: "embedded", Path: "/var/lib/pseudo-server/pseudo-server.db", Compact: true, IndexMemory: 256 << 20, StandbyMaxAge: time.Minute, MaxConnections: 16,
			KeepVersions: 10, KeepVersionsFor: 24 * time.Hour,
		},
		Retention: ServerRetention{StaleAfter: 24 * time.Hour, GoneAfter: 7 * 24 * time.Hour},
		Limits: ServerLimits{
			MaxMessageSize: 104857600, MaxEntrySize: 16 << 20, MaxSnapshotSize: 2 << 30, MaxEntries: 2000000, MaxClusters: 20000,
			MaxRetainedEntries: 20000000, MaxConcurrentRequests: 8, MaxWaitingRequests: 1024, MaxConnections: 20000, RequestsPerMinute: 60,
			RequestTimeout: time.Minute, MinReceiveRate: 65536,
		},
		Validation: ServerValidation{Suspicion: ServerSuspicion{OtherCluster: true, MaxRemovedShare: 0.5, ConfirmAfter: 10 * time.Minute}},
		Access:     ServerAccess{Enroll: "open", Anonymous: "auto"},
		Plugins:    ServerPlugins{Timeout: 5 * time.Second, MaxMemory: 64 << 20},
		Viewer:     ServerViewer{Memory: 256 << 20},
		Elector:    ServerElector{TTL: 10 * time.Minute, Grace: 10 * time.Minute},
		Upstream:   ServerUpstream{Reports: "mend"},
		Log:        Log{Level: "info", Format: "json"},
	}
}
