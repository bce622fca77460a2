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

// credentials is the connection to the apiserver with what the configuration and the files that it names hold. They are
// read again every credentialsInterval, and at once when the apiserver refuses the token or certificate, or cannot be
// verified: with client-go alone, a replaced token takes up to a minute to be used, a replaced authority or certificate up
// to five, which is too long where the old one ends abruptly, and the configuration is never read again.
type credentials struct {
	cfg    *rest.Config
	reload func() (*rest.Config, error) // nil: cfg stays as it is
	logger *slog.Logger

	mu      sync.Mutex
	held    secrets
	next    http.RoundTripper
	checked time.Time
	trouble string // what was last logged about credentials that cannot be used
}

// secrets are what a configuration and its files hold; nil where there is nothing.
type secrets struct{ ca, cert, key, token []byte }

// HTTPClient returns a client of the apiserver of cfg, with its credentials. A file that cfg names and that is replaced is
// used at once when the apiserver refuses what was there before, and within half a minute otherwise. The same goes for what
// reload returns, which rereads cfg and may be nil. Redirections are not followed: they would take the token elsewhere.
func HTTPClient(cfg *rest.Config, reload func() (*rest.Config, error), logger *slog.Logger) (*http.Client, error) {
	c := &credentials{cfg: cfg, reload: reload, logger: logger, checked: time.Now()}
	var err error
	if c.held, err = read(cfg, []byte(cfg.BearerToken)); err == nil {
		c.next, err = c.transport(c.held)
	}
	if err != nil {
		return nil, fmt.Errorf("set up the connection to the apiserver: %w", err)
	}
	return &http.Client{
		Transport: c, Timeout: cfg.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
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

// renew reads everything and returns the connection to be used from now on: the old one if nothing changed or can be used.
func (c *credentials) renew() http.RoundTripper {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked = time.Now()
	found, err := c.readAgain()
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

// readAgain returns what holds now.
func (c *credentials) readAgain() (secrets, error) {
	cfg := c.cfg
	if c.reload != nil {
		var err error
		if cfg, err = c.reload(); err != nil {
			return secrets{}, err
		}
		if cfg.Host != c.cfg.Host {
			return secrets{}, fmt.Errorf("the kubeconfig names another apiserver (%s instead of %s): restart, if that is meant", cfg.Host, c.cfg.Host)
		}
	}
	return read(cfg, c.held.token)
}

// read returns what cfg and its files hold. A token whose file cannot be read is as before, if there was one.
func read(cfg *rest.Config, token []byte) (secrets, error) {
	s := secrets{cfg.CAData, cfg.CertData, cfg.KeyData, []byte(cfg.BearerToken)}
	for _, f := range []struct {
		into *[]byte
		path string
		name string
	}{
		{&s.ca, cfg.CAFile, "certificate authority"},
		{&s.cert, cfg.CertFile, "client certificate"},
		{&s.key, cfg.KeyFile, "client key"},
		{&s.token, cfg.BearerTokenFile, "token"},
	} {
		if f.path == "" || len(*f.into) > 0 && f.into != &s.token { // as client-go does
			continue
		}
		data, err := os.ReadFile(f.path)
		if data = bytes.TrimSpace(data); err == nil && len(data) == 0 {
			// An empty authority would make client-go trust those of the system.
			err = fmt.Errorf("%s is empty", f.path)
		}
		switch {
		case err == nil:
			*f.into = data
		case f.into == &s.token && len(token) > 0:
			*f.into = token
		default:
			return secrets{}, fmt.Errorf("read the %s: %w", f.name, err)
		}
	}
	return s, nil
}

// differ names what is not the same, empty if nothing.
func (s secrets) differ(other secrets) string {
	var names []string
	for _, d := range []struct {
		name string
		a, b []byte
	}{{"certificate authority", s.ca, other.ca}, {"client certificate", s.cert, other.cert}, {"client key", s.key, other.key}, {"token", s.token, other.token}} {
		if !bytes.Equal(d.a, d.b) {
			names = append(names, d.name)
		}
	}
	return strings.Join(names, ", ")
}

// transport makes the connection with what was read. client-go gives those of the same certificates one pool of connections.
func (c *credentials) transport(s secrets) (http.RoundTripper, error) {
	cfg := rest.CopyConfig(c.cfg)
	cfg.CAFile, cfg.CAData = "", s.ca
	cfg.CertFile, cfg.CertData = "", s.cert
	cfg.KeyFile, cfg.KeyData = "", s.key
	cfg.BearerTokenFile, cfg.BearerToken = "", string(s.token)
	return rest.TransportFor(cfg)
}
