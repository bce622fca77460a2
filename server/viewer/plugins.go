package viewer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/pseudo-agent/pseudo-agent/inventory/plugin"
	"github.com/pseudo-agent/pseudo-agent/server/receiver"
	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// pluginKind is the kind of the documents that hold plugins.
const pluginKind = "plugin"

// maxConflicts is how often a plugin is written again because another replica wrote meanwhile.
const maxConflicts = 5

type pluginStore struct {
	documents store.Backend
}

// PluginStore keeps plugins as documents of a backend.
func PluginStore(documents store.Backend) plugin.Store { return pluginStore{documents} }

// Load implements plugin.Store.
func (s pluginStore) Load(ctx context.Context) ([]plugin.Plugin, error) {
	documents, err := s.documents.Documents(ctx, pluginKind)
	if err != nil {
		return nil, fmt.Errorf("read plugins: %w", err)
	}
	plugins := make([]plugin.Plugin, 0, len(documents))
	for _, d := range documents {
		var p plugin.Plugin
		if err := json.Unmarshal(d.Value, &p); err != nil {
			return nil, fmt.Errorf("read plugin %q: %w", d.Key, err)
		}
		plugins = append(plugins, p)
	}
	return plugins, nil
}

// Save implements plugin.Store.
func (s pluginStore) Save(ctx context.Context, p plugin.Plugin) error {
	value, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("write plugin %q: %w", p.Name, err)
	}
	return s.put(ctx, p.Name, value)
}

// Delete implements plugin.Store.
func (s pluginStore) Delete(ctx context.Context, name string) error { return s.put(ctx, name, nil) }

// put writes a document whatever is there; no value removes it.
func (s pluginStore) put(ctx context.Context, name string, value []byte) error {
	var err error
	for range maxConflicts {
		var d store.Document
		d, err = s.documents.Document(ctx, pluginKind, name)
		switch {
		case errors.Is(err, store.ErrNotFound) && value == nil:
			return nil
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return fmt.Errorf("read plugin %q: %w", name, err)
		}
		_, err = s.documents.PutDocument(ctx, pluginKind, store.Document{Key: name, Value: value, Revision: d.Revision})
		if !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("write plugin %q: %w", name, err)
	}
	return nil
}

func (v *Viewer) apiPlugins(*http.Request) (any, error) {
	return map[string]any{"plugins": v.opts.Plugins.Status()}, nil
}

// NewPlugin is the body of the request that creates a plugin.
type NewPlugin struct {
	Name   string `json:"name"`
	Type   string `json:"type"` // "lua", which is the default
	User   string `json:"user"` // "server", which is the default
	Script string `json:"script"`
}

func (v *Viewer) apiCreatePlugin(req *http.Request) (any, error) {
	var p NewPlugin
	if err := body(req, &p); err != nil {
		return nil, err
	}
	if err := v.opts.Plugins.Create(req.Context(), plugin.Plugin{Name: p.Name, Type: p.Type, User: p.User, Script: p.Script}); err != nil {
		return nil, pluginError(err)
	}
	v.answers.Add(1)
	for _, s := range v.opts.Plugins.Status() {
		if s.Name == p.Name {
			return s, nil
		}
	}
	return nil, pluginError(fmt.Errorf("plugin %q was deleted meanwhile: %w", p.Name, plugin.ErrNotFound))
}

func (v *Viewer) apiDeletePlugin(req *http.Request) (any, error) {
	name := req.PathValue("name")
	if err := v.opts.Plugins.Delete(req.Context(), name); err != nil {
		return nil, pluginError(err)
	}
	v.answers.Add(1)
	return map[string]any{"deleted": name}, nil
}

func pluginError(err error) error {
	switch {
	case errors.Is(err, plugin.ErrInvalid):
		return &receiver.APIError{Status: http.StatusBadRequest, Message: clipLong(err.Error()), Advice: "docs/plugins.md says what a plugin may be"}
	case errors.Is(err, plugin.ErrNotFound):
		return &receiver.APIError{Status: http.StatusNotFound, Message: err.Error(), Advice: "GET " + receiver.APIPrefix + "/plugins lists all"}
	default:
		return err
	}
}

// clipLong bounds the text of an error that quotes a script.
func clipLong(s string) string {
	const most = 2000
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// PluginTest is the body of the request that tests a script.
type PluginTest struct {
	Script    string `json:"script"`
	Namespace string `json:"namespace"` // only Pods of this namespace
}

// PluginResult is what a script would do to the Pods of a cluster.
type PluginResult struct {
	Cluster string `json:"cluster"`
	Version uint64 `json:"version"`
	Pods    int    `json:"pods"` // that were asked about
	plugin.Result
	// Truncated says that there are more outcomes than are listed.
	Truncated bool `json:"truncated,omitempty"`
}

// The bounds of a test.
const (
	testBatch    = 5000     // Pods asked about by one process
	testBytes    = 64 << 20 // of JSON of those Pods
	testOutcomes = 5000     // outcomes listed
)

// apiTestPlugin lists only the Pods to which the script does something.
func (v *Viewer) apiTestPlugin(req *http.Request) (any, error) {
	var test PluginTest
	if err := body(req, &test); err != nil {
		return nil, err
	}
	view, err := v.view(req.Context(), req.PathValue("cluster"))
	if err != nil {
		return nil, err
	}
	var pods []*store.Entry
	for _, e := range view.Entries {
		if e.Type == podType && (test.Namespace == "" || test.Namespace == e.Namespace) {
			pods = append(pods, e)
		}
	}
	out := &PluginResult{Cluster: view.State.ID, Version: view.State.Latest.Version, Result: plugin.Result{Outcomes: []plugin.Outcome{}}}
	for first := true; first || len(pods) > 0 && out.Stopped == ""; first = false {
		n := portion(pods, testBatch, testBytes)
		if err := v.testBatch(req.Context(), view.State.ID, test.Script, pods[:n], out); err != nil {
			return nil, pluginError(err)
		}
		pods = pods[n:]
	}
	return out, nil
}

// portion returns how many entries, from the first on, are at most so many and not larger than size; one if there is any.
func portion(entries []*store.Entry, most, size int) int {
	n := 0
	for n < min(most, len(entries)) {
		if size -= int(entries[n].RawSize); size < 0 && n > 0 {
			break
		}
		n++
	}
	return n
}

// testBatch adds what the script does to some Pods.
func (v *Viewer) testBatch(ctx context.Context, id, script string, pods []*store.Entry, out *PluginResult) error {
	metadata := make([][]byte, 0, len(pods))
	for len(pods) > 0 {
		n := portion(pods, batchEntries, batchBytes)
		changes, err := v.read(ctx, id, pods[:n])
		if err != nil {
			return err
		}
		for _, c := range changes {
			var pod struct {
				Metadata json.RawMessage `json:"metadata"`
			}
			if json.Unmarshal(c.JSON, &pod) == nil {
				metadata = append(metadata, fmt.Appendf(nil, `{"metadata":%s}`, pod.Metadata))
			}
		}
		pods = pods[n:]
	}
	result, err := v.opts.Plugins.Test(ctx, script, metadata)
	if err != nil {
		return err
	}
	out.Pods += len(result.Outcomes)
	out.Mapped += result.Mapped
	out.Refused += result.Refused
	out.Failed += result.Failed
	out.Stopped, out.Line = result.Stopped, result.Line
	for _, o := range result.Outcomes {
		switch {
		case o.Effect == plugin.EffectNone:
		case len(out.Outcomes) < testOutcomes:
			out.Outcomes = append(out.Outcomes, o)
		default:
			out.Truncated = true
		}
	}
	return nil
}

// maxBody bounds the body of a request: a script of 256 KiB, written as JSON.
const maxBody = 1 << 20

func body(req *http.Request, into any) error {
	data, err := io.ReadAll(io.LimitReader(req.Body, maxBody+1))
	if err == nil && len(data) > maxBody {
		err = fmt.Errorf("it is longer than %d bytes", maxBody)
	}
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		err = dec.Decode(into)
	}
	if err != nil {
		return bad("the body is not what is expected: %v", err)
	}
	return nil
}
