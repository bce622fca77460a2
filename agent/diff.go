package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	udiff "github.com/aymanbagabas/go-udiff"
	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/check/explain"
)

func newLines(text []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(text)) }

// printObjectDiff prints a unified diff from the object to what is sent of it, both as YAML.
func printObjectDiff(w io.Writer, r *explain.Report) error {
	before, err := yaml.JSONToYAML(r.Object())
	if err != nil {
		return fmt.Errorf("the object as YAML: %w", err)
	}
	sent := r.Sent
	if sent == nil {
		sent = json.RawMessage("{}")
	}
	after, err := yaml.JSONToYAML(sent)
	if err != nil {
		return fmt.Errorf("what is sent as YAML: %w", err)
	}
	_, err = fmt.Fprint(w, udiff.Unified("apiserver", "sent", string(before), string(after)))
	return err
}
