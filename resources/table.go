package resources

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/pseudo-agent/pseudo-agent/internal/jsonscan"
)

// projection names a table.
type projection int

const (
	nodeProjection projection = iota
	namespaceProjection
	podProjection
	serviceProjection
	workloadProjection
	replicaSetProjection
	ingressProjection
	routeProjection
	configMapProjection
	ipPoolProjection
)

// row says what becomes of one field. What no row names is not sent.
type row struct {
	// path is the way from the object's root to the field, separated by dots.
	path string
	// rule makes the output; nil if the field is only needed to decide about others.
	rule rule
	// of lists, separated by spaces, the paths below the field that the rule needs; empty means all of it.
	of string
	// always calls the rule even if the field is absent.
	always bool
	// when tells whether the row applies; nil means always.
	when func(*Options) bool
	// note is what docs/projection.md says about the row.
	note string
}

// rule appends what becomes of a field to p.out. If it returns false the field is left out, whatever it appended.
type rule func(p *Projector, v jsonscan.Value) bool

type table struct {
	rows []row
	// reported tells whether the object is reported at all; nil means always.
	reported func(root jsonscan.Value) bool
	// unreported says why an object may not be reported.
	unreported string
	// typed is what an apiserver knows the objects as; without it they are read as JSON only.
	typed typed
}

// meta returns the rows that every kind has, and extra ones.
func meta(extra ...row) []row {
	return append([]row{
		{path: "metadata.name", rule: text, note: "identity"},
		{path: "metadata.namespace", rule: text, note: "identity"},
		{path: "metadata.uid", rule: text, note: "identity"},
		{path: "metadata.resourceVersion", note: "read for the watch, not sent: it changes with every heartbeat"},
	}, extra...)
}

var (
	labelsRow = row{path: "metadata.labels", rule: nonEmpty, note: "as they are"}

	annotationsRow = row{
		path: "metadata.annotations", rule: annotations,
		note: "as projection.annotations says, without last-applied configurations and leader-election records; a value longer than " +
			"annotation_limit is replaced by its length and keyed hash or, if it is JSON, left out; what the server or a network plugin parses is whole",
	}

	ownersRow = row{
		path: "metadata.ownerReferences", of: "apiVersion controller kind name uid", rule: owners,
		note: "apiVersion, controller, kind, name, uid; the controlling owner first, since the server reads only the first",
	}

	createdRow = row{path: "metadata.creationTimestamp", rule: text, note: "as it is"}
)

// tables say, for each projection, what is sent (docs/protocol.md, section 6). The order of rows does not matter: members
// of the output are sorted by key.
var tables = map[projection]table{
	nodeProjection: {typed: typedAs[corev1.Node]("", "v1", "nodes", "Node"), rows: meta(labelsRow,
		row{path: "spec.podCIDR", rule: prefix, note: "left out unless it is an address with a mask: the server fails on others"},
		row{
			path: "status.addresses", of: "address type", rule: nodeIP,
			note: "the first InternalIP that is an address: the server fails on others, and reads no further. Without one, unless " +
				"projection.node_external_ip is off, the first ExternalIP, as both, since the kubelet takes it for the hostIP of Pods",
		},
		row{path: "status.capacity.cpu", rule: cores, note: "whole cores, rounded up, as a string: the server takes other forms for 0"},
		row{path: "status.capacity.memory", rule: kibibytes, note: "in Ki: the server takes other units for 0 or for Ki"},
		row{
			path: "status.conditions", of: "reason status type", rule: nodeReady,
			note: "only Ready; with reason KubeletReady exactly if its status is True, which is how the server tells",
		},
	)},
	namespaceProjection: {rows: meta(labelsRow)},
	podProjection: {typed: typedAs[corev1.Pod]("", "v1", "pods", "Pod"), rows: meta(annotationsRow, ownersRow, createdRow,
		row{
			path: "metadata.labels", rule: labelsOrEmpty, always: true,
			note: "as they are; `{}` if there are none: without it the server can crash",
		},
		row{
			path: "metadata.generateName", rule: text, when: func(o *Options) bool { return o.GenerateName },
			note: "only with projection.generate_name: the server confuses Pods by it",
		},
		row{
			path: "spec.containers", of: "name env", rule: podEnv, when: func(o *Options) bool { return o.PodEnv },
			note: "only with projection.pod_env: name and env of each container",
		},
		row{path: "status.phase", note: "read to tell finished Pods, not sent"},
		row{path: "status.hostIP", rule: address, note: "left out unless it is an address"},
		row{
			path: "status.podIP", rule: podIP,
			note: "left out unless it is an address (the server crashes on others), and of finished Pods (they would take a live Pod's address)",
		},
		row{path: "status.conditions", of: "status type", rule: podReady, note: "only Ready: type and status"},
		row{path: "status.containerStatuses", of: "containerID", rule: containerIDs, note: "only containerID"},
	)},
	serviceProjection: {rows: meta(labelsRow, annotationsRow, ownersRow,
		row{
			path: "spec", rule: serviceSpec,
			note: "the whole, for the server's change events; a clusterIP that is no address is left out (None stays); targetPort " +
				"as a number where it is one, and the port's own number where it is missing: the server drops the ports otherwise",
		},
		row{
			path: "status.loadBalancer.ingress", of: "ip", rule: loadBalancerIPs,
			note: "ip of each point that has one that is an address: points with a hostname only add an empty item",
		},
	)},
	workloadProjection: {rows: meta(labelsRow, annotationsRow, ownersRow,
		row{
			path: "spec", rule: workloadSpec,
			note: "the whole, for the server's change events; literal env values, probe headers and credentials as keyed hash " +
				"(projection.literal_env, credential_words); annotations inside (templates) as above",
		},
	)},
	replicaSetProjection: {
		rows: meta(labelsRow, ownersRow,
			row{path: "spec.replicas", rule: keep, note: "as it is"},
			row{
				path: "spec.template", rule: workloadSpec,
				note: "as inside a workload's spec; taken away again when the owner is reported",
			},
		),
		reported:   hasReplicasAndOwner,
		unreported: "it has 0 replicas or no owner, and deepflow-server skips those",
	},
	ingressProjection: {rows: meta(labelsRow,
		row{path: "spec.rules", of: "host http.paths.path http.paths.backend", rule: nonEmpty, note: "host, path and backend; port names are replaced by the Service's port numbers"},
		row{path: "spec.defaultBackend", rule: nonEmpty, note: "likewise"},
		row{path: "spec.backend", rule: nonEmpty, note: "likewise (before networking.k8s.io/v1)"},
	)},
	routeProjection: {rows: meta(labelsRow,
		row{path: "spec.host", rule: routeHost, note: "becomes the host of an Ingress's rule as long as no router has said which hosts it serves"},
		row{path: "spec.wildcardPolicy", note: "read, not sent: with Subdomain the host `www.a.example` stands for `*.a.example`"},
		row{path: "spec.path", rule: text, note: "becomes the path"},
		row{path: "spec.to", of: "kind name weight", rule: routeBackend, note: "becomes the backend, unless its weight is 0"},
		row{
			path: "spec.alternateBackends", of: "kind name weight", rule: routeBackends,
			note: "become further backends of the path, but for those of weight 0",
		},
		row{path: "spec.port", rule: nonEmpty, note: "becomes the backends' port, by number"},
		row{
			path: "status.ingress", of: "host wildcardPolicy conditions.type conditions.status", rule: routers,
			note: "the hosts at routers that do not reject the Route (Admitted is False) become one rule each; without any, there is none",
		},
	)},
	configMapProjection: {
		rows: meta(labelsRow, createdRow,
			row{path: "metadata.annotations", note: "read to tell leader-election records, not sent"},
			row{
				path: "data", rule: nonEmpty, when: func(o *Options) bool { return o.ConfigMapData },
				note: "only with projection.configmap_data",
			},
		),
		reported:   isConfiguration,
		unreported: "it is the platform's bookkeeping (kube-root-ca.crt or a record of a leader election)",
	},
	ipPoolProjection: {rows: meta(labelsRow, row{path: "spec", rule: workloadSpec, note: "the whole"})},
}

// compile makes a filter for the input and a tree for the output from the rows that apply.
func compile(rows []row, opts *Options) (*jsonscan.Filter, *field) {
	filter, root := jsonscan.NewFilter(), &field{}
	for _, r := range rows {
		if r.when != nil && !r.when(opts) {
			continue
		}
		path := strings.Split(r.path, ".")
		if r.of == "" {
			filter.Add(path...)
		}
		for sub := range strings.FieldsSeq(r.of) {
			filter.Add(append(slices.Clone(path), strings.Split(sub, ".")...)...)
		}
		if r.rule != nil {
			f := root.child(path)
			f.rule, f.always = r.rule, r.always
		}
	}
	return filter, root
}

// child returns the field at path, which it makes if there is none.
func (f *field) child(path []string) *field {
	if len(path) == 0 {
		return f
	}
	i, ok := slices.BinarySearchFunc(f.children, path[0], func(c *field, name string) int { return strings.Compare(c.name, name) })
	if !ok {
		f.children = slices.Insert(f.children, i, &field{name: path[0], key: `"` + path[0] + `":`})
	}
	return f.children[i].child(path[1:])
}
