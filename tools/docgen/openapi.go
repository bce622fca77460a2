package main

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/inventory"
	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/elector"
	"github.com/pseudo-agent/pseudo-agent/server/fleet"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/upkeep"
	"github.com/pseudo-agent/pseudo-agent/server/upstream"
	"github.com/pseudo-agent/pseudo-agent/server/viewer"
)

// The answers and bodies that have no type of their own in the code.
type (
	versionList struct {
		Cluster  string             `json:"cluster"`
		Versions []receiver.Version `json:"versions"`
	}
	eventList struct {
		Events []receiver.Event `json:"events"`
	}
	forgotten struct {
		Forgotten string `json:"forgotten"`
	}
	watcherList struct {
		Clusters []elector.ClusterInfo `json:"clusters"`
	}
	electionWish struct {
		HolderIsGone bool `json:"holder_is_gone,omitempty"`
	}
	pluginList struct {
		Plugins []plugin.Status `json:"plugins"`
	}
	// file is an answer that is no JSON.
	file    struct{}
	deleted struct {
		Deleted string `json:"deleted"`
	}
	findingList struct {
		Cluster  string              `json:"cluster"`
		Version  uint64              `json:"version"`
		Total    int                 `json:"total"`
		Items    []inventory.Finding `json:"items"`
		Continue string              `json:"continue,omitempty"`
	}
)

// content is what is sent in one direction.
type content struct{ body, answer any }

// contents of all operations by method and path.
var contents = map[string]content{
	"GET /clusters":                             {nil, fleet.List{}},
	"GET /fleet":                                {nil, fleet.Overview{}},
	"POST /clusters/{cluster}/labels":           {receiver.LabelChange{}, receiver.ClusterInfo{}},
	"GET /clusters/{cluster}":                   {nil, receiver.ClusterInfo{}},
	"DELETE /clusters/{cluster}":                {nil, forgotten{}},
	"GET /clusters/{cluster}/versions":          {nil, versionList{}},
	"GET /clusters/{cluster}/objects":           {nil, receiver.ObjectList{}},
	"POST /clusters/{cluster}/suspicion/accept": {nil, receiver.ClusterInfo{}},
	"GET /events":                               {nil, eventList{}},
	"GET /store":                                {nil, upkeep.Status{}},
	"GET /store/backup":                         {nil, file{}},
	"GET /upstream":                             {nil, upstream.Status{}},
	"GET /watchers":                             {nil, watcherList{}},
	"GET /watchers/{cluster}":                   {nil, elector.ClusterInfo{}},
	"POST /watchers/{cluster}/designations":     {elector.Designation{}, elector.ClusterInfo{}},
	"DELETE /watchers/{cluster}/designations":   {elector.Designation{}, elector.ClusterInfo{}},
	"POST /watchers/{cluster}/elect":            {electionWish{}, elector.ClusterInfo{}},
	"GET /clusters/{cluster}/inventory":         {nil, viewer.Summary{}},
	"GET /clusters/{cluster}/inventory/{kind}":  {nil, viewer.List{}},
	"GET /clusters/{cluster}/dropped":           {nil, findingList{}},
	"GET /clusters/{cluster}/dropped/reasons":   {nil, viewer.ReasonList{}},
	"GET /clusters/{cluster}/object":            {nil, viewer.ObjectView{}},
	"GET /clusters/{cluster}/graph":             {nil, viewer.GraphView{}},
	"GET /clusters/{cluster}/differences":       {nil, viewer.DifferenceList{}},
	"GET /clusters/{cluster}/changes":           {nil, nil},
	"GET /plugins":                              {nil, pluginList{}},
	"POST /plugins":                             {viewer.NewPlugin{}, plugin.Status{}},
	"DELETE /plugins/{name}":                    {nil, deleted{}},
	"POST /clusters/{cluster}/plugin-test":      {viewer.PluginTest{}, viewer.PluginResult{}},
}

// kindTypes are the items of GET /clusters/{cluster}/inventory/{kind}.
var kindTypes = []any{
	inventory.Node{}, inventory.Namespace{}, inventory.Workload{}, inventory.ReplicaSet{}, inventory.Pod{}, inventory.Service{}, inventory.Ingress{}, inventory.ConfigMap{},
}

// eventTypes are the data of the events of a stream.
var eventTypes = []any{viewer.VersionEvent{}, viewer.StateEvent{}, viewer.ResetEvent{}}

// parameter is a parameter's schema and description.
type parameter struct {
	schema      map[string]any
	description string
	required    bool
}

func textSchema() map[string]any { return map[string]any{"type": "string"} }

func versionSchema() map[string]any { return map[string]any{"type": "integer", "minimum": 1} }

func countSchema() map[string]any { return map[string]any{"type": "integer", "minimum": 0} }

// described are the parameters by name. Where one has another meaning in some operation, the method and path come first.
var described = map[string]parameter{
	"cluster":   {schema: map[string]any{"type": "string", "pattern": "^[0-9a-zA-Z][-0-9a-zA-Z]{0,31}$"}, description: "Cluster id."},
	"kind":      {schema: map[string]any{"type": "string", "enum": viewer.KindNames()}, description: "Kind of resources."},
	"limit":     {schema: map[string]any{"type": "integer", "minimum": 1, "maximum": 5000, "default": 100}, description: "Longest page."},
	"continue":  {schema: textSchema(), description: "From the answer before, for the next page."},
	"type":      {schema: textSchema(), description: "Wire type, for example *v1.Pod; objects and differences take v1.Pod and Pod, too."},
	"namespace": {schema: textSchema(), description: "Only this namespace."},
	"label":     {schema: map[string]any{"type": "string", "pattern": "^[^=,]+=[^,]*(,[^=,]+=[^,]*)*$"}, description: "Only with these labels: key=value,key=value; at most 10."},
	"version":   {schema: versionSchema(), description: "This version instead of the latest."},
	"contains":  {schema: textSchema(), description: "Only names (of Pods, Nodes and Services addresses, too) that contain this text, in any case."},
	"workload":  {schema: textSchema(), description: "Of pods only: of this workload, as Type/namespace/name."},
	"node":      {schema: textSchema(), description: "Of pods only: on this node."},
	"reason":    {schema: map[string]any{"type": "string", "enum": reasons()}, description: "Only this reason."},
	"scope":     {schema: map[string]any{"type": "string", "enum": []string{"crash", "cluster", "object", "relation"}}, description: "How much is lost."},
	"from":      {schema: versionSchema(), description: "The earlier version; by default the one before to."},
	"to":        {schema: versionSchema(), description: "The later version; by default the latest."},
	"content":   {schema: map[string]any{"type": "string", "enum": []string{"true", "false"}}, description: "Whether to send the objects before and after."},
	"since":     {schema: versionSchema(), description: "Begin after this version; by default with the next one. The header Last-Event-ID overrides it."},
	"name":      {schema: textSchema(), description: "Only this name; in the path of a plugin its name."},

	"GET /clusters contains":    {schema: textSchema(), description: "Only clusters whose id, address of the reporter, watcher, error_msg or label (as key=value) contains this text, in any case."},
	"GET /clusters trouble":     {schema: map[string]any{"type": "string", "enum": fleet.Troubles()}, description: "Only with this cause of trouble, with any or with none."},
	"GET /clusters watcher":     {schema: map[string]any{"type": "string", "enum": fleet.Watchers()}, description: "Only with this state of the election; none: no agent has ever sent a Sync."},
	"GET /clusters min_age":     {schema: countSchema(), description: "Only with at least so many seconds since the last report."},
	"GET /clusters max_age":     {schema: countSchema(), description: "Only with at most so many seconds since the last report."},
	"GET /clusters min_objects": {schema: countSchema(), description: "Only with at least so many objects."},
	"GET /clusters max_objects": {schema: countSchema(), description: "Only with at most so many objects."},
	"GET /clusters version":     {schema: versionSchema(), description: "Only those whose latest version is this one."},
	"GET /clusters sort": {
		schema:      map[string]any{"type": "string", "pattern": "^-?(" + strings.Join(fleet.Orders(), "|") + "|label[.].+)$", "default": "cluster"},
		description: "The order: " + strings.Join(fleet.Orders(), ", ") + ", or label.KEY; trouble has the worst first. A minus before it turns it around.",
	},

	"GET /clusters/{cluster}/object type":      {schema: textSchema(), description: "Wire type, for example *v1.Pod; v1.Pod and Pod, too.", required: true},
	"GET /clusters/{cluster}/object namespace": {schema: textSchema(), description: "Its namespace, if it is in one."},
	"GET /clusters/{cluster}/object name":      {schema: textSchema(), description: "Its name."},
	"GET /clusters/{cluster}/object uid":       {schema: textSchema(), description: "Its uid, instead of namespace and name."},
	"GET /clusters/{cluster}/graph namespace":  {schema: textSchema(), description: "The namespace to draw.", required: true},
	"GET /clusters/{cluster}/graph limit":      {schema: map[string]any{"type": "integer", "minimum": 1, "maximum": 500, "default": 500}, description: "Most boxes."},
}

func reasons() []string {
	var names []string
	for _, r := range inventory.Reasons() {
		names = append(names, string(r.Reason))
	}
	return names
}

// schemas collects the types that answers are made of.
type schemas map[string]any

var rawMessage = reflect.TypeFor[json.RawMessage]()

// of returns the schema of a type.
func (s schemas) of(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t == rawMessage, t.Kind() == reflect.Interface:
		return map[string]any{}
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return textSchema()
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.String:
		return textSchema()
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		return s.object(t)
	default:
		return map[string]any{"type": "integer"}
	}
}

// object returns a reference to the schema of a struct.
func (s schemas) object(t reflect.Type) map[string]any {
	name := title(t.Name())
	pkg := t.PkgPath()[strings.LastIndexByte(t.PkgPath(), '/')+1:]
	if pkg != "docgen" && pkg != "main" {
		name = title(pkg) + name
	}
	if s[name] == nil {
		schema := map[string]any{"type": "object", "additionalProperties": false}
		s[name] = schema
		properties, required := map[string]any{}, []string{}
		s.fields(t, func(key string, optional bool, of map[string]any) {
			properties[key] = of
			if !optional {
				required = append(required, key)
			}
		})
		schema["properties"] = properties
		if len(required) > 0 {
			slices.Sort(required)
			schema["required"] = required
		}
	}
	return map[string]any{"$ref": "#/components/schemas/" + name}
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// fields calls f for what encoding/json writes of a struct. Names of outer fields win over those of embedded ones.
func (s schemas) fields(t reflect.Type, f func(key string, optional bool, of map[string]any)) {
	seen := map[string]bool{}
	var embedded []reflect.Type
	for field := range t.Fields() {
		tag := field.Tag.Get("json")
		key, options, _ := strings.Cut(tag, ",")
		switch {
		case field.Anonymous && key == "":
			embedded = append(embedded, field.Type)
		case field.IsExported() && tag != "-" && key != "":
			seen[key] = true
			f(key, strings.Contains(options, "omit"), s.of(field.Type))
		}
	}
	for _, e := range embedded {
		s.fields(e, func(key string, optional bool, of map[string]any) {
			if !seen[key] {
				f(key, optional, of)
			}
		})
	}
}

var wildcard = regexp.MustCompile(`\{([a-z]+)\}`)

// openAPI is docs/openapi.yaml.
func openAPI() ([]byte, error) {
	log := slog.New(slog.DiscardHandler)
	kept := store.New(store.NewMemory(), store.Options{})
	routes := receiver.New(receiver.Options{Store: kept, Logger: log}).Routes()
	routes = append(routes, fleet.New(fleet.Options{}).Routes()...)
	routes = append(routes, elector.New(elector.Options{Documents: kept.Backend(), Logger: log}).Routes()...)
	routes = append(routes, viewer.New(viewer.Options{Store: kept, Logger: log}).Routes()...)
	routes = append(routes, upkeep.New(upkeep.Options{Backend: kept.Backend(), Logger: log}).Routes()...)
	routes = append(routes, (*upstream.Front)(nil).Routes()...)
	s := schemas{}
	failure := s.of(reflect.TypeFor[receiver.APIError]())
	paths := map[string]map[string]any{}
	for _, route := range routes {
		op, err := operation(route, s, failure)
		if err != nil {
			return nil, err
		}
		if paths[route.Path] == nil {
			paths[route.Path] = map[string]any{}
		}
		paths[route.Path][strings.ToLower(route.Method)] = op
	}
	var items []any
	for _, v := range kindTypes {
		items = append(items, s.of(reflect.TypeOf(v)))
	}
	if list, ok := s["ViewerList"].(map[string]any); ok {
		if properties, ok := list["properties"].(map[string]any); ok {
			properties["items"] = map[string]any{"type": "array", "items": map[string]any{"anyOf": items}}
		}
	}
	for _, v := range eventTypes {
		s.of(reflect.TypeOf(v))
	}
	doc, err := yaml.Marshal(map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title": "pseudo-server", "version": "v1", "license": map[string]any{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "What pseudo-server holds of Kubernetes clusters. docs/api.md explains it.",
		},
		"servers":  []any{map[string]any{"url": receiver.APIPrefix}},
		"security": []any{map[string]any{"token": []string{}}, map[string]any{}},
		"paths":    paths,
		"components": map[string]any{
			"schemas": s,
			"securitySchemes": map[string]any{"token": map[string]any{
				"type": "http", "scheme": "bearer", "description": "A token of access.tokens; not needed for what access.anonymous grants.",
			}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("write the description of the API: %w", err)
	}
	var out bytes.Buffer
	out.WriteString("# Generated by `make generate` from the routes and types of the code; do not edit.\n")
	out.Write(doc)
	return out.Bytes(), nil
}

func operation(route receiver.Route, s schemas, failure map[string]any) (map[string]any, error) {
	name := route.Method + " " + route.Path
	c, ok := contents[name]
	if !ok {
		return nil, fmt.Errorf("tools/docgen/openapi.go does not say what %s sends and answers", name)
	}
	role := map[receiver.Role]string{receiver.RoleRead: "read", receiver.RoleAdminister: "administer"}[route.Role]
	parameters := []any{}
	for _, m := range wildcard.FindAllStringSubmatch(route.Path, -1) {
		p := described[m[1]]
		parameters = append(parameters, map[string]any{"name": m[1], "in": "path", "required": true, "schema": p.schema, "description": p.description})
	}
	for _, key := range route.Params {
		p, ok := described[name+" "+key]
		if !ok {
			p, ok = described[key]
		}
		if !ok {
			return nil, fmt.Errorf("tools/docgen/openapi.go does not describe the parameter %s of %s", key, name)
		}
		parameter := map[string]any{"name": key, "in": "query", "schema": p.schema, "description": p.description}
		if p.required {
			parameter["required"] = true
		}
		parameters = append(parameters, parameter)
	}
	answer := map[string]any{"description": "The answer."}
	switch c.answer.(type) {
	case nil:
		answer["description"] = "Events \"version\", \"cluster\", \"reset\" and \"gone\", whose data are ViewerVersionEvent, ViewerStateEvent and, of the last two, ViewerResetEvent."
		answer["content"] = map[string]any{"text/event-stream": map[string]any{"schema": textSchema()}}
	case file:
		answer["content"] = map[string]any{"application/octet-stream": map[string]any{"schema": map[string]any{"type": "string", "format": "binary"}}}
	default:
		answer["content"] = map[string]any{"application/json": map[string]any{"schema": s.of(reflect.TypeOf(c.answer))}}
	}
	refusal := map[string]any{
		"description": "A refusal: " + strconv.Quote("error") + " says what is wrong, " + strconv.Quote("advice") + " what to do.",
		"content":     map[string]any{"application/json": map[string]any{"schema": failure}},
	}
	op := map[string]any{
		"summary": route.Summary, "description": "Needs the role " + role + ".", "x-role": role, "operationId": operationID(route),
		"parameters": parameters, "responses": map[string]any{"200": answer, "4XX": refusal, "5XX": refusal},
	}
	if c.body != nil {
		op["requestBody"] = map[string]any{"content": map[string]any{"application/json": map[string]any{"schema": s.of(reflect.TypeOf(c.body))}}}
	}
	return op, nil
}

// operationID is a name for the code of clients: getClustersClusterObjects.
func operationID(route receiver.Route) string {
	var id strings.Builder
	id.WriteString(strings.ToLower(route.Method))
	for part := range strings.FieldsFuncSeq(route.Path, func(r rune) bool { return strings.ContainsRune("/{}-", r) }) {
		id.WriteString(title(part))
	}
	return id.String()
}
