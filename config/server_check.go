package config

import (
	"fmt"
	"net"
	"reflect"

	"github.com/spf13/pflag"
)

var serverProgram = &program[Server]{
	name:   "pseudo-server",
	prefix: "PSEUDO_SERVER",
	schema: newSection(reflect.TypeFor[Server](), "", nil),
	preset: DefaultServer,
	check:  checkServer,
}

// ServerFlags registers --config and a flag for each key of Server: --listen-grpc for listen.grpc.
func ServerFlags(fs *pflag.FlagSet) { serverProgram.flags(fs) }

// LoadServer reads pseudo-server's configuration. In rising precedence: the defaults, the file of --config or
// PSEUDO_SERVER_CONFIG, the environment, the flags of fs (registered by ServerFlags; nil for none).
//
// The error joins one *Mistake for each thing that is wrong in any of them.
func LoadServer(fs *pflag.FlagSet) (*Loaded[Server], error) {
	loaded, err := serverProgram.load(fs)
	if err != nil {
		return nil, err
	}
	return loaded, nil
}

func checkServer(s *Server, ls layers) []*Mistake {
	c := &serverCheck{ls: ls}
	c.listen(s.Listen)
	c.tls("tls", s.TLS)
	c.tls("http.tls", s.HTTP.TLS)
	c.store(s.Store)
	if s.Retention.GoneAfter < s.Retention.StaleAfter {
		c.fail("retention.gone_after", formatDuration(s.Retention.GoneAfter), "is less than retention.stale_after",
			"at least "+formatDuration(s.Retention.StaleAfter))
	}
	if s.Limits.MaxEntrySize > s.Limits.MaxSnapshotSize {
		c.fail("limits.max_entry_size", fmt.Sprint(s.Limits.MaxEntrySize), "is more than limits.max_snapshot_size",
			fmt.Sprintf("at most %d", s.Limits.MaxSnapshotSize))
	}
	c.access(s.Access, s.TLS)
	c.designations(s.Elector.Designations)
	c.upstream(s.Upstream)
	return c.mistakes
}

type serverCheck struct {
	ls       layers
	mistakes []*Mistake
}

func (c *serverCheck) fail(key, value, problem, allowed string) {
	c.mistakes = append(c.mistakes, &Mistake{Key: key, Value: value, Problem: problem, Allowed: allowed, Source: c.ls.source(key)})
}

func (c *serverCheck) listen(l ServerListen) {
	_, port, err := net.SplitHostPort(l.HTTP)
	if err == nil && port != "0" && l.GRPC == l.HTTP {
		c.fail("listen.http", l.HTTP, "is the address of listen.grpc too", "two addresses, for example :20035 and :20080")
	}
}

func (c *serverCheck) tls(key string, t ServerTLS) {
	if !t.Enabled {
		for _, f := range []struct{ name, value string }{
			{"cert_file", t.CertFile}, {"key_file", t.KeyFile}, {"client_ca_file", t.ClientCAFile},
		} {
			if f.value != "" {
				c.mistakes = append(c.mistakes, notEnabled(key, f.name, f.value, c.ls))
			}
		}
	}
	c.mistakes = append(c.mistakes, checkPair(key, t.CertFile, t.KeyFile, c.ls)...)
	if t.Enabled && t.CertFile == "" && t.KeyFile == "" {
		c.fail(key+".enabled", "true", "needs "+key+".cert_file and "+key+".key_file", "with both files, or false")
	}
	if t.RequireClientCert && t.ClientCAFile == "" {
		c.fail(key+".require_client_cert", "true", "needs "+key+".client_ca_file", "with "+key+".client_ca_file, or false")
	}
}

func (c *serverCheck) store(s ServerStore) {
	const one = "one of store.dsn and store.dsn_file"
	switch {
	case s.Type == "embedded" && s.Path == "":
		c.fail("store.path", "", "is empty, but store.type is embedded", "a file, for example /var/lib/pseudo-server/pseudo-server.db")
	case s.Type == "postgres" && s.DSN == "" && s.DSNFile == "":
		c.fail("store.type", s.Type, "needs a connection string", one)
	case s.Type == "postgres" && s.DSN != "" && s.DSNFile != "":
		c.fail("store.dsn_file", s.DSNFile, "and store.dsn are both given", one)
	case s.StandbyDSN != "" && s.StandbyDSNFile != "":
		c.fail("store.standby_dsn_file", s.StandbyDSNFile, "and store.standby_dsn are both given", "one of store.standby_dsn and store.standby_dsn_file")
	}
	if s.Type != "postgres" {
		for _, given := range []struct{ key, value string }{
			{"store.dsn", s.DSN}, {"store.dsn_file", s.DSNFile}, {"store.standby_dsn", s.StandbyDSN}, {"store.standby_dsn_file", s.StandbyDSNFile},
		} {
			if key := given.key; given.value != "" && c.ls.source(key) != (Source{}) {
				c.fail(key, "", "has no effect, because store.type is "+s.Type, "with store.type: postgres")
			}
		}
	}
}

func (c *serverCheck) access(a ServerAccess, t ServerTLS) {
	seen := map[string]bool{}
	for i, cl := range a.Clusters {
		key := fmt.Sprintf("access.clusters[%d]", i)
		if seen[cl.ClusterID] {
			c.fail(key+".cluster_id", cl.ClusterID, "is given twice; keep one of them", "")
		}
		seen[cl.ClusterID] = true
		if len(cl.CertificateNames) == 0 && cl.TokenFile == "" {
			c.fail(key, "", "binds the cluster to nothing", "certificate_names, token_file or both")
		}
		if len(cl.CertificateNames) > 0 && t.ClientCAFile == "" {
			c.fail(key+".certificate_names", "", "needs tls.client_ca_file, by which client certificates are verified", "with tls.client_ca_file")
		}
	}
	if a.OnlyBound && len(a.Clusters) == 0 {
		c.fail("access.only_bound", "true", "refuses every cluster, because access.clusters is empty", "with access.clusters, or false")
	}
	if a.Enroll != "open" && a.OnlyBound {
		c.fail("access.enroll", a.Enroll, "has no effect, because access.only_bound refuses every cluster that access.clusters does not name",
			"open, or access.only_bound: false")
	}
	if a.Enroll == "token" && len(a.EnrollTokens) == 0 {
		c.fail("access.enroll", a.Enroll, "lets no new cluster in, because access.enroll_tokens is empty", "closed, or with access.enroll_tokens")
	}
	if a.Enroll == "open" && len(a.EnrollTokens) > 0 {
		c.fail("access.enroll_tokens", "", "have no effect, because access.enroll is open", "with access.enroll: token")
	}
	enroll := map[string]bool{}
	for i, t := range a.EnrollTokens {
		if enroll[t.Name] {
			c.fail(fmt.Sprintf("access.enroll_tokens[%d].name", i), t.Name, "is given twice; each token has a name of its own", "")
		}
		enroll[t.Name] = true
	}
	names := map[string]bool{}
	for i, u := range a.Tokens {
		if names[u.Name] {
			c.fail(fmt.Sprintf("access.tokens[%d].name", i), u.Name, "is given twice; each user has a name of its own", "")
		}
		names[u.Name] = true
	}
}

func (c *serverCheck) designations(ds []Designation) {
	for i, d := range ds {
		given := 0
		for _, s := range []string{d.Workload, d.AgentGroup, d.HostPattern, d.Agent} {
			if s != "" {
				given++
			}
		}
		if given != 1 {
			c.fail(fmt.Sprintf("elector.designations[%d]", i), "", fmt.Sprintf("says in %d ways whom it designates", given),
				"exactly one of workload, agent_group, host_pattern and agent")
		}
	}
}

func (c *serverCheck) upstream(u ServerUpstream) {
	if len(u.Addresses) == 0 && u.Advertise != "" {
		c.fail("upstream.advertise", u.Advertise, "has no effect, because upstream.addresses is empty", "with upstream.addresses")
	}
	if !u.TLS.Enabled {
		for _, f := range []struct{ name, value string }{
			{"ca_file", u.TLS.CAFile}, {"cert_file", u.TLS.CertFile}, {"key_file", u.TLS.KeyFile}, {"server_name", u.TLS.ServerName},
		} {
			if f.value != "" {
				c.mistakes = append(c.mistakes, notEnabled("upstream.tls", f.name, f.value, c.ls))
			}
		}
	}
	c.mistakes = append(c.mistakes, checkPair("upstream.tls", u.TLS.CertFile, u.TLS.KeyFile, c.ls)...)
}
