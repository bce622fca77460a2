// Package apiclient speaks to the HTTP API of a pseudo-server, for the commands of pseudo-server.
//
// It relies on the API's form of errors (receiver.APIError). It promises errors that tell what to do, and that a token is
// sent to the configured server only.
package apiclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// DefaultServer is where a pseudo-server of the same host listens by default.
const DefaultServer = "http://127.0.0.1:20080"

// Options say which server to ask, and as whom.
type Options struct {
	// Server is the base URL, for example https://pseudo-server.example.com:20080.
	Server string
	// TokenFile holds the token; empty: anonymous.
	TokenFile string
	// CAFile holds the certificates in PEM that sign the server's; empty: those of the system.
	CAFile string
	// Timeout bounds each request.
	Timeout time.Duration
}

// Flags registers --server, --token-file, --ca-file and --timeout, with their defaults.
func (o *Options) Flags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Server, "server", DefaultServer, "URL of pseudo-server's API")
	fs.StringVar(&o.TokenFile, "token-file", "", "file that holds the token (empty: anonymous)")
	fs.StringVar(&o.CAFile, "ca-file", "", "PEM file with the CA of the server's certificate (empty: the system's)")
	fs.DurationVar(&o.Timeout, "timeout", 30*time.Second, "longest time of one request")
}

// Client asks one server.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// New returns a client.
func New(o Options) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(o.Server, "/"))
	if err != nil {
		return nil, fmt.Errorf("--server: %w", err)
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("--server %q is no URL like %s", o.Server, DefaultServer)
	}
	c := &Client{base: base}
	if o.TokenFile != "" {
		b, err := os.ReadFile(o.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		if c.token = strings.TrimSpace(string(b)); c.token == "" {
			return nil, fmt.Errorf("--token-file: %s is empty", o.TokenFile)
		}
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca-file: %s holds no certificate in PEM", o.CAFile)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	c.http = &http.Client{
		Transport: transport, Timeout: o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the API does not redirect; correct --server")
		},
	}
	return c, nil
}

// Error is a refusal by the server.
type Error struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
	Advice  string `json:"advice"`
}

func (e *Error) Error() string {
	if e.Advice == "" {
		return fmt.Sprintf("the server refuses (%d): %s", e.Status, e.Message)
	}
	return fmt.Sprintf("the server refuses (%d): %s; %s", e.Status, e.Message, e.Advice)
}

// maxAnswer bounds an answer in bytes.
const maxAnswer = 256 << 20

// Do sends a request to a path below /api/v1, made of its elements, and reads the JSON of the answer into out. in is sent
// as JSON unless it is nil; a nil out is not filled. What the server refuses is an *Error.
func (c *Client) Do(ctx context.Context, method string, path []string, in, out any) error {
	resp, err := c.send(ctx, c.http, method, path, nil, in) //nolint:bodyclose // read does
	if err != nil {
		return err
	}
	return c.read(resp, out)
}

// Get is Do for a request that only reads, with a query.
func (c *Client) Get(ctx context.Context, path []string, query url.Values, out any) error {
	resp, err := c.send(ctx, c.http, http.MethodGet, path, query, nil) //nolint:bodyclose // read does
	if err != nil {
		return err
	}
	return c.read(resp, out)
}

// Open is Get for a stream, which has no timeout; the caller reads and closes it.
func (c *Client) Open(ctx context.Context, path []string, query url.Values) (io.ReadCloser, error) {
	endless := *c.http
	endless.Timeout = 0
	resp, err := c.send(ctx, &endless, http.MethodGet, path, query, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Download is Open for a file, whose size in bytes it returns; -1: the server does not say.
func (c *Client) Download(ctx context.Context, path []string) (io.ReadCloser, int64, error) {
	endless := *c.http
	endless.Timeout = 0
	resp, err := c.send(ctx, &endless, http.MethodGet, path, nil, nil)
	if err != nil {
		return nil, 0, err
	}
	return resp.Body, resp.ContentLength, nil
}

// send returns the server's answer unless it is a refusal. Its body is to be closed.
func (c *Client) send(ctx context.Context, client *http.Client, method string, path []string, query url.Values, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	var target strings.Builder
	target.WriteString(c.base.JoinPath("api", "v1").String())
	for _, p := range path {
		target.WriteString("/" + url.PathEscape(p))
	}
	if len(query) > 0 {
		target.WriteString("?" + query.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s (see --server): %w", c.base, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // everything of use has been read
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", c.base, err)
	}
	refusal := &Error{Status: resp.StatusCode}
	if json.Unmarshal(answer, refusal) != nil || refusal.Message == "" {
		refusal.Message, refusal.Advice = resp.Status, "is --server the API of a pseudo-server?"
	}
	return nil, refusal
}

// read decodes an answer and closes it.
func (c *Client) read(resp *http.Response, out any) error {
	defer func() { _ = resp.Body.Close() }() // everything of use has been read
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.base, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("the answer of %s is not what is expected (is it a pseudo-server?): %w", c.base, err)
	}
	return nil
}
