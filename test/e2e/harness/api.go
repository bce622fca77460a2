package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pseudo-agent/pseudo-agent/test/e2e/expect"
)

// ClusterInfo is what a pseudo-server says of one cluster.
type ClusterInfo struct {
	Version    uint64    `json:"version"`
	State      string    `json:"state"`
	ErrorMsg   string    `json:"error_msg"`
	LastReport time.Time `json:"last_report"`
	Objects    int       `json:"objects"`
	Bytes      int64     `json:"bytes"`
}

// Cluster asks the server for one cluster. It is an error if the server does not know it.
func (s *Server) Cluster(ctx context.Context, id string) (ClusterInfo, error) {
	var info ClusterInfo
	err := s.getJSON(ctx, "/api/v1/clusters/"+url.PathEscape(id), &info)
	return info, err
}

// Inventory reads what the server says that deepflow-server would make of a cluster: all items of one kind (pods, services,
// ingresses …) into items, a pointer to a slice.
func (s *Server) Inventory(ctx context.Context, id, kind string, items any) error {
	var page struct {
		Total int             `json:"total"`
		Items json.RawMessage `json:"items"`
	}
	if err := s.getJSON(ctx, "/api/v1/clusters/"+url.PathEscape(id)+"/inventory/"+kind+"?limit=1000", &page); err != nil {
		return err
	}
	if page.Total > 1000 {
		return fmt.Errorf("%d %s are more than one page", page.Total, kind)
	}
	return json.Unmarshal(page.Items, items)
}

// Snapshot reads all objects that the server holds of a cluster, and the version to which they belong.
func (s *Server) Snapshot(ctx context.Context, id string) (uint64, expect.Snapshot, error) {
	out := expect.Snapshot{}
	query := url.Values{"limit": {"1000"}}
	for {
		var page struct {
			Version  uint64 `json:"version"`
			Continue string `json:"continue"`
			Objects  []struct {
				Type   string         `json:"type"`
				Object map[string]any `json:"object"`
			} `json:"objects"`
		}
		if err := s.getJSON(ctx, "/api/v1/clusters/"+url.PathEscape(id)+"/objects?"+query.Encode(), &page); err != nil {
			return 0, nil, err
		}
		for _, o := range page.Objects {
			id := expect.ID{Type: o.Type}
			if meta, ok := o.Object["metadata"].(map[string]any); ok {
				id.UID, _ = meta["uid"].(string)
			}
			if _, twice := out[id]; twice {
				return 0, nil, fmt.Errorf("the server holds %s %s twice", id.Type, id.UID)
			}
			out[id] = o.Object
		}
		if page.Continue == "" {
			return page.Version, out, nil
		}
		query.Set("continue", page.Continue) // it carries the version, so that all pages are of one
	}
}

// Metric returns the sum of the samples of a metric that have all the labels, given as name="value".
func (d *Daemon) Metric(ctx context.Context, name string, labels ...string) (float64, error) {
	body, err := d.read(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	sum := 0.0
	lines := bufio.NewScanner(strings.NewReader(string(body)))
	for lines.Scan() {
		sample, value, ok := cutLast(lines.Text())
		found, rest, _ := strings.Cut(sample, "{")
		if !ok || found != name || !containsAll(rest, labels) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", sample, err)
		}
		sum += v
	}
	return sum, lines.Err()
}

// Status reads the status page of the program.
func (d *Daemon) Status(ctx context.Context) (string, error) {
	body, err := d.read(ctx, "/status")
	return string(body), err
}

func cutLast(line string) (sample, value string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 || strings.HasPrefix(line, "#") {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

func containsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

func (d *Daemon) getJSON(ctx context.Context, path string, into any) error {
	body, err := d.read(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s of %s: %w", path, d.Name, err)
	}
	return nil
}

// read gets a page of the program.
func (d *Daemon) read(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.HTTP+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s of %s: %s: %s", path, d.Name, resp.Status, body)
	}
	return body, nil
}

// WatcherInfo is what a pseudo-server says of the watcher election of one cluster.
type WatcherInfo struct {
	State  string `json:"state"`
	Holder *struct {
		Policy string `json:"policy"`
	} `json:"holder"`
	Candidates []struct {
		Policy string `json:"policy"`
		State  string `json:"state"`
	} `json:"candidates"`
}

// Watchers asks the server for the election of one cluster.
func (s *Server) Watchers(ctx context.Context, id string) (WatcherInfo, error) {
	var info WatcherInfo
	err := s.getJSON(ctx, "/api/v1/watchers/"+url.PathEscape(id), &info)
	return info, err
}
