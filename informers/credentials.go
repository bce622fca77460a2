package informers

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
)

// credentialsInterval is the longest time for which a file with a token, certificate or authority is taken for unchanged.
const credentialsInterval = 30 * time.Second

// credentials is the connection to the apiserver with what the files of its configuration hold. They are read again
// every credentialsInterval, and at once when the apiserver refuses the token or certificate, or cannot be verified: with
// client-go alone, a replaced token takes up to a minute to be used, a replaced authority or certificate up to five, which
// is too long where the old one ends abruptly.
type credentials struct {
	cfg    *rest.Config
	logger *slog.Logger

	mu      sync.Mutex
	held    files
	next    http.RoundTripper
	checked time.Time
	trouble string // what was last logged about files that cannot be used
}

// files are the contents of the files of a configuration; nil where it names none.
type files struct{ ca, cert, key, token []byte }

// HTTPClient returns a client of the apiserver of cfg, with its credentials. A file that cfg names and that is replaced is
// used at once when the apiserver refuses what was there before, and within half a minute otherwise. Redirections are not
// followed: they would take the token elsewhere.
func HTTPClient(cfg *rest.Config, logger *slog.Logger) (*http.Client, error) {
	c, err := newCredentials(cfg, logger)
	if err != nil {
		return nil, fmt.Errorf("set up the connection to the apiserver: %w", err)
	}
	return &http.Client{
		Transport: c, Timeout: cfg.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// newCredentials returns an error if a file cannot be read, except for a token's for which cfg holds a token as well.
func newCredentials(cfg *rest.Config, logger *slog.Logger) (*credentials, error) {
	c := &credentials{cfg: cfg, logger: logger, checked: time.Now()}
	var err error
	if c.held, err = c.read(files{token: []byte(cfg.BearerToken)}); err != nil {
		return nil, err
	}
	if c.next, err = c.transport(c.held); err != nil {
		return nil, err
	}
	return c, nil
}

// RoundTrip makes a request. One that only reads is made a second time if the first was made with outdated credentials.
func (c *credentials) RoundTrip(req *http.Request) (*http.Response, error) {
	used := c.current()
	resp, err := used.RoundTrip(req)
	if err == nil && resp.StatusCode != http.StatusUnauthorized || req.Context().Err() != nil {
		return resp, err
	}
	next := c.renew()
	if next == used || req.Method != http.MethodGet {
		return resp, err
	}
	if err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096)) // so that the connection can be used again
		_ = resp.Body.Close()
	}
	return next.RoundTrip(req)
}

// CloseIdleConnections is found by http.Client's method of that name.
func (c *credentials) CloseIdleConnections() {
	c.mu.Lock()
	defer c.mu.Unlock()
	utilnet.CloseIdleConnectionsFor(c.next)
}

func (c *credentials) current() http.RoundTripper {
	c.mu.Lock()
	next, fresh := c.next, time.Since(c.checked) < credentialsInterval
	c.mu.Unlock()
	if fresh {
		return next
	}
	return c.renew()
}

// renew reads the files and returns the connection to be used from now on: the old one if they are unchanged or of no use.
func (c *credentials) renew() http.RoundTripper {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked = time.Now()
	found, err := c.read(c.held)
	changed := c.held.differ(found)
	if err == nil && changed == "" {
		c.trouble = ""
		return c.next
	}
	var next http.RoundTripper
	if err == nil {
		next, err = c.transport(found)
	}
	if err != nil {
		// Perhaps it is being replaced at this moment: a certificate before its key, for example.
		if text := err.Error(); text != c.trouble {
			c.trouble = text
			c.logger.Warn("credentials for the apiserver cannot be read again; the old ones stay in use", "error", err)
		}
		return c.next
	}
	c.logger.Info("credentials for the apiserver have been read again", "changed", changed)
	utilnet.CloseIdleConnectionsFor(c.next)
	c.held, c.next, c.trouble = found, next, ""
	return c.next
}

// read returns what the files hold now. A token that cannot be read is as before, if there is one.
func (c *credentials) read(before files) (files, error) {
	cfg := c.cfg
	var f files
	type source struct {
		into *[]byte
		path string
		name string
	}
	var sources []source
	if len(cfg.CAData) == 0 {
		sources = append(sources, source{&f.ca, cfg.CAFile, "certificate authority"})
	}
	if len(cfg.CertData) == 0 && len(cfg.KeyData) == 0 {
		sources = append(sources, source{&f.cert, cfg.CertFile, "client certificate"}, source{&f.key, cfg.KeyFile, "client key"})
	}
	sources = append(sources, source{&f.token, cfg.BearerTokenFile, "token"})
	for _, s := range sources {
		if s.path == "" {
			continue
		}
		data, err := os.ReadFile(s.path)
		if data = bytes.TrimSpace(data); err == nil && len(data) == 0 {
			// An empty authority would make client-go trust those of the system.
			err = fmt.Errorf("%s is empty", s.path)
		}
		if err != nil && s.into == &f.token && len(before.token) > 0 {
			data, err = before.token, nil
		}
		if err != nil {
			return files{}, fmt.Errorf("read the %s: %w", s.name, err)
		}
		*s.into = data
	}
	return f, nil
}

// differ names what is not the same, empty if nothing.
func (f files) differ(other files) string {
	var names []string
	for _, d := range []struct {
		name string
		a, b []byte
	}{{"certificate authority", f.ca, other.ca}, {"client certificate", f.cert, other.cert}, {"client key", f.key, other.key}, {"token", f.token, other.token}} {
		if !bytes.Equal(d.a, d.b) {
			names = append(names, d.name)
		}
	}
	return strings.Join(names, ", ")
}

// transport makes the connection with what was read. client-go gives those of the same certificates one pool of connections.
func (c *credentials) transport(f files) (http.RoundTripper, error) {
	cfg := rest.CopyConfig(c.cfg)
	if f.ca != nil {
		cfg.CAFile, cfg.CAData = "", f.ca
	}
	if f.cert != nil && f.key != nil {
		cfg.CertFile, cfg.CertData = "", f.cert
		cfg.KeyFile, cfg.KeyData = "", f.key
	}
	if f.token != nil {
		cfg.BearerTokenFile, cfg.BearerToken = "", string(f.token)
	}
	return rest.TransportFor(cfg)
}
