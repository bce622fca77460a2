// Package protocol holds the messages that pseudo-agent, pseudo-server and deepflow-server exchange.
//
// It consists of two generated packages, agent and trident, which are what newer and older deepflow-servers call the
// same service. The messages of KubernetesAPISync and GetKubernetesClusterID are identical on the wire in both; those
// of Sync differ in the response. It relies on nothing and promises the field numbers of docs/protocol.md, section 1.
package protocol

// Full names of the gRPC services, newest first: a client tries them in this order.
const (
	AgentService   = "agent.Synchronizer"
	TridentService = "trident.Synchronizer"
)

// Full method names of the calls, to be used with either service: "/" + service + "/" + method.
const (
	MethodSync                   = "Sync"
	MethodKubernetesAPISync      = "KubernetesAPISync"
	MethodGetKubernetesClusterID = "GetKubernetesClusterID"
)

// MaxMessageSize is the largest request that a deepflow-server accepts, in bytes.
const MaxMessageSize = 100 << 20

// Headers by which pseudo-agent and pseudo-server agree on more than deepflow-server offers. Other peers ignore them.
const (
	// ServerHeader is in each answer of a pseudo-server; its value is the version.
	ServerHeader = "pseudo-server"
	// GoodbyeHeader is in the Sync by which a watcher that ends gives the role back. It is sent only to servers that
	// sent ServerHeader: another would take the Sync for one more claim.
	GoodbyeHeader = "pseudo-agent-goodbye"
	// ClusterHeader is in each Sync and report of a pseudo-agent; its value is the id of the cluster, for load balancers,
	// which cannot read the message. Servers do not heed it.
	ClusterHeader = "pseudo-cluster-id"
)

//go:generate make -C .. generate-protocol
