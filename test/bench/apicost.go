package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/client-go/rest"
)

// Apicost is what reading the Pods costs the apiserver in one form: CPU seconds of its process, and bytes of the answers.
type Apicost struct {
	Form                          string // json or protobuf
	List, Stream, Events          float64
	ListBytes, StreamBytes, Bytes int64
	Count                         int // events
}

// costEvents is how many events are read. The apiserver's watch cache has to remember them all.
const costEvents = 10000

// leastCostRuns are made whatever RUNS says: beside the rest they take little time.
const leastCostRuns = 3

// costs measures what lists, streaming lists and events cost the apiserver, in either form. Nobody else reads meanwhile.
func (k *kube) costs(ctx context.Context, runs int) ([]Apicost, error) {
	cfg := rest.CopyConfig(k.cluster.Config)
	cfg.DisableCompression = true
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	reader := &costReader{kube: k, client: client}
	var all []Apicost
	for n := range max(runs, leastCostRuns) {
		progress("what a watcher costs the apiserver: run %d", n+1)
		from, err := reader.version(ctx)
		if err != nil {
			return nil, err
		}
		// Writes cost more than what is to be measured, so the watches begin when they are over, before them.
		if _, err := k.churn(costEvents, true); err != nil {
			return nil, err
		}
		for _, form := range []string{"json", "protobuf"} {
			c := Apicost{Form: form, Count: costEvents}
			if c.List, c.ListBytes, err = reader.measure(ctx, form, url.Values{"resourceVersion": {"0"}}, endOfList); err != nil {
				return nil, fmt.Errorf("list as %s: %w", form, err)
			}
			if c.Stream, c.StreamBytes, err = reader.measure(ctx, form, url.Values{
				"watch": {"true"}, "sendInitialEvents": {"true"}, "resourceVersionMatch": {"NotOlderThan"}, "allowWatchBookmarks": {"true"},
			}, endOfStreamingList); err != nil {
				return nil, fmt.Errorf("streaming list as %s: %w", form, err)
			}
			if c.Events, c.Bytes, err = reader.measure(ctx, form, url.Values{"watch": {"true"}, "resourceVersion": {from}}, endOfEvents(costEvents)); err != nil {
				return nil, fmt.Errorf("%d events as %s: %w", costEvents, form, err)
			}
			progress("%s: list %.2f s, streaming list %.2f s, %d events %.2f s", form, c.List, c.Stream, costEvents, c.Events)
			all = append(all, c)
		}
	}
	return all, nil
}

// costReader reads and throws away, so that the apiserver is never held up.
type costReader struct {
	kube   *kube
	client *http.Client
}

func (c *costReader) get(ctx context.Context, accept string, params url.Values) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.kube.cluster.URL, "/")+"/api/v1/pods?"+params.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	resp, err := c.client.Do(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		err = fmt.Errorf("the apiserver answers %s", resp.Status)
	}
	return resp, err
}

// version is the present resourceVersion of Pods.
func (c *costReader) version(ctx context.Context) (string, error) {
	resp, err := c.get(ctx, "application/json", url.Values{"limit": {"1"}})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	head, err := bufio.NewReader(resp.Body).Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	_, rest, _ := strings.Cut(string(head), `"resourceVersion":"`)
	rv, _, ok := strings.Cut(rest, `"`)
	if !ok {
		return "", fmt.Errorf("no resourceVersion in %s", head)
	}
	return rv, nil
}

func (c *costReader) measure(ctx context.Context, form string, params url.Values, end func(r *bufio.Reader, framed bool) error) (float64, int64, error) {
	accept := "application/json"
	if form == "protobuf" {
		accept = "application/vnd.kubernetes.protobuf"
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	before, err := c.kube.cpu()
	if err != nil {
		return 0, 0, err
	}
	resp, err := c.get(ctx, accept, params)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	counted := &countingReader{r: resp.Body}
	if err := end(bufio.NewReaderSize(counted, 1<<20), form == "protobuf"); err != nil {
		return 0, 0, err
	}
	after, err := c.kube.cpu()
	return (after - before).Seconds(), counted.n, err
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func endOfList(r *bufio.Reader, _ bool) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// nextEvent reads one event of a watch.
func nextEvent(r *bufio.Reader, framed bool) ([]byte, error) {
	if !framed {
		return r.ReadBytes('\n')
	}
	var size uint32
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		return nil, err
	}
	frame := make([]byte, size)
	_, err := io.ReadFull(r, frame)
	return frame, err
}

func endOfStreamingList(r *bufio.Reader, framed bool) error {
	for {
		ev, err := nextEvent(r, framed)
		if err != nil {
			return err
		}
		if len(ev) < 4096 && bytes.Contains(ev, []byte("k8s.io/initial-events-end")) {
			return nil
		}
	}
}

func endOfEvents(n int) func(r *bufio.Reader, framed bool) error {
	return func(r *bufio.Reader, framed bool) error {
		for range n {
			ev, err := nextEvent(r, framed)
			if err != nil {
				return err
			}
			if !bytes.Contains(ev[:min(64, len(ev))], []byte("MODIFIED")) {
				return fmt.Errorf("got %.200q, want a modification", ev)
			}
		}
		return nil
	}
}

func (r *Result) apicostTable(b *strings.Builder) {
	if len(r.Apicosts) == 0 {
		return
	}
	middle := func(form string, f func(Apicost) float64) float64 {
		var values []float64
		for _, c := range r.Apicosts {
			if c.Form == form {
				values = append(values, f(c))
			}
		}
		return median(values)
	}
	type figure struct {
		of     func(Apicost) float64
		format func(float64) string
	}
	table := func(title, events string, figures ...figure) {
		fmt.Fprintf(b, "| %s | list of %d Pods | streaming list | %s |\n|---|---:|---:|---:|\n", title, r.Pods, events)
		for _, row := range []struct{ form, title string }{{"json", "JSON"}, {"protobuf", "protobuf"}} {
			fmt.Fprintf(b, "| %s |", row.title)
			for _, g := range figures {
				fmt.Fprintf(b, " %s |", g.format(middle(row.form, g.of)))
			}
			b.WriteByte('\n')
		}
		b.WriteString("| protobuf to JSON |")
		for _, g := range figures {
			fmt.Fprintf(b, " %.2f |", middle("protobuf", g.of)/middle("json", g.of))
		}
		b.WriteString("\n\n")
	}
	events := fmt.Sprintf("%d events", r.Apicosts[0].Count)
	table(
		"what a watcher costs the apiserver, CPU of its process", events,
		figure{func(c Apicost) float64 { return c.List }, seconds},
		figure{func(c Apicost) float64 { return c.Stream }, seconds},
		figure{func(c Apicost) float64 { return c.Events }, seconds},
	)
	table(
		"what a watcher reads", events,
		figure{func(c Apicost) float64 { return float64(c.ListBytes) }, megaFloat},
		figure{func(c Apicost) float64 { return float64(c.StreamBytes) }, megaFloat},
		figure{func(c Apicost) float64 { return float64(c.Bytes) }, megaFloat},
	)
}
