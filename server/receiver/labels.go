package receiver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Labels are those that something must have.
type Labels map[string]string

// maxLabels bounds how many may be asked for.
const maxLabels = 10

// ParseLabels reads key=value,key=value; an empty text is none. The error is an *APIError.
func ParseLabels(text string) (Labels, error) {
	if text == "" {
		return nil, nil
	}
	l := Labels{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || key == "" || len(l) == maxLabels {
			return nil, badParam("label is %q, at most %d of the form key=value,key=value are allowed", clip(text), maxLabels)
		}
		l[key] = value
	}
	return l, nil
}

// Match tells whether all are among the given ones.
func (l Labels) Match(given map[string]string) bool {
	for key, value := range l {
		if got, ok := given[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// matchObject tells whether an object's JSON has all labels.
func (l Labels) matchObject(object []byte) bool {
	if len(l) == 0 {
		return true
	}
	var o struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
	}
	return json.Unmarshal(object, &o) == nil && l.Match(o.Metadata.Labels)
}

// Bounds of the labels that an operator gives a cluster, lengths in bytes. They are written with every heartbeat of it.
const (
	maxClusterLabels = 16
	maxLabelKey      = 63
	maxLabelValue    = 63
)

var labelKeyPattern = regexp.MustCompile(`^[0-9A-Za-z]([-_./0-9A-Za-z]*[0-9A-Za-z])?$`)

// LabelChange is the body of the request that changes the labels of a cluster.
type LabelChange struct {
	Set map[string]string `json:"set,omitempty"`
	// Remove are keys; one that the cluster does not have is no error.
	Remove []string `json:"remove,omitempty"`
}

// Check returns an error that says what is wrong with a change, whatever the cluster has.
func (c *LabelChange) Check() error {
	if len(c.Set)+len(c.Remove) == 0 {
		return errors.New("nothing is to be set or removed")
	}
	for _, key := range slices.Sorted(maps.Keys(c.Set)) {
		value := c.Set[key]
		switch {
		case len(key) > maxLabelKey || !labelKeyPattern.MatchString(key):
			return fmt.Errorf("label %q: a key has at most %d bytes and matches %s", clip(key), maxLabelKey, labelKeyPattern)
		case value == "" || len(value) > maxLabelValue || !utf8.ValidString(value) || strings.ContainsFunc(value, notInLabels):
			return fmt.Errorf("label %s: a value has 1 to %d bytes of text without commas, equals signs and control characters", key, maxLabelValue)
		case slices.Contains(c.Remove, key):
			return fmt.Errorf("label %s is to be set and removed", key)
		}
	}
	return nil
}

// notInLabels are what would hurt a terminal, or could not be filtered by.
func notInLabels(r rune) bool {
	return r == ',' || r == '=' || unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
}

// apply returns the labels that there are after the change.
func (c *LabelChange) apply(before map[string]string) (map[string]string, error) {
	after := maps.Clone(before)
	if after == nil {
		after = map[string]string{}
	}
	for _, key := range c.Remove {
		delete(after, key)
	}
	maps.Copy(after, c.Set)
	if len(after) > maxClusterLabels {
		return nil, fmt.Errorf("the cluster would have %d labels, at most %d are kept", len(after), maxClusterLabels)
	}
	return after, nil
}

func (r *Receiver) apiLabel(req *http.Request) (any, error) {
	const advice = "docs/api.md describes labels"
	var change LabelChange
	if err := ReadJSON(req, 16<<10, &change); err != nil {
		return nil, &APIError{Status: http.StatusBadRequest, Message: err.Error(), Advice: advice}
	}
	tx, err := r.begin(req)
	if err != nil {
		return nil, err
	}
	defer tx.Close()
	st := tx.View().State
	if err := change.Check(); err != nil {
		return nil, &APIError{Status: http.StatusBadRequest, Message: err.Error(), Advice: advice}
	}
	labels, err := change.apply(st.Labels)
	if err != nil {
		return nil, &APIError{Status: http.StatusConflict, Message: err.Error(), Advice: "remove some first"}
	}
	if !maps.Equal(labels, st.Labels) {
		if err := tx.Label(req.Context(), labels); err != nil {
			return nil, err
		}
	}
	return r.info(tx.View().State), nil
}

// ReadJSON reads the body of a request of the API, of at most so many bytes, into what it must be like. No body leaves it as it is.
func ReadJSON(req *http.Request, most int, into any) error {
	text, err := io.ReadAll(io.LimitReader(req.Body, int64(most)+1))
	if err == nil && len(text) > most {
		err = fmt.Errorf("it is longer than %d bytes", most)
	}
	if err == nil && len(bytes.TrimSpace(text)) > 0 {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		err = dec.Decode(into)
	}
	if err != nil {
		return fmt.Errorf("the body is not what is expected: %w", err)
	}
	return nil
}
