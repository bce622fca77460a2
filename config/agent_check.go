package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// onlyWatchVariable is deepflow-agent's former variable; K8S_WATCH_POLICY replaced it.
const onlyWatchVariable = "ONLY_WATCH_K8S_RESOURCE"

// ErrOnlyWatchVariable is among the errors of LoadAgent if the environment has ONLY_WATCH_K8S_RESOURCE, whatever its
// value. As with deepflow-agent, the program then logs it, waits for 60 s and ends with a failure.
var ErrOnlyWatchVariable = errors.New("environment variable " + onlyWatchVariable +
	" is no longer supported; remove it and set K8S_WATCH_POLICY=watch-only instead")

var agentProgram = &program[Agent]{
	name:    "pseudo-agent",
	prefix:  "PSEUDO_AGENT",
	schema:  newSection(reflect.TypeFor[Agent](), "", nil),
	preset:  DefaultAgent,
	aliases: map[string]string{"watch_policy": "K8S_WATCH_POLICY"},
	foreign: readForeign,
	check:   checkAgent,
}

// AgentFlags registers --config and a flag for each key of Agent: --server-addresses for server.addresses.
func AgentFlags(fs *pflag.FlagSet) { agentProgram.flags(fs) }

// LoadAgent reads pseudo-agent's configuration. In rising precedence: the defaults, DeepFlow's files, the file of --config
// or PSEUDO_AGENT_CONFIG, the environment, the flags of fs (registered by AgentFlags; nil for none).
//
// The error joins one *Mistake for each thing that is wrong in any of them, and ErrOnlyWatchVariable.
func LoadAgent(fs *pflag.FlagSet) (*Loaded[Agent], error) {
	loaded, err := agentProgram.load(fs)
	if _, ok := os.LookupEnv(onlyWatchVariable); ok {
		err = errors.Join(ErrOnlyWatchVariable, err)
	}
	if err != nil {
		return nil, err
	}
	return loaded, nil
}

func checkAgent(a *Agent, ls layers) []*Mistake {
	var ms []*Mistake
	fail := func(key, value, problem, allowed string) {
		ms = append(ms, &Mistake{Key: key, Value: value, Problem: problem, Allowed: allowed, Source: ls.source(key)})
	}
	// A program that neither watches nor registers needs no server.
	if len(a.Server.Addresses) == 0 && (a.WatchPolicy != "watch-disabled" || a.RegisterAsAgent) {
		fail(keyAddresses, "", "is empty: no server to report to",
			"at least one host:port, for example deepflow-server.deepflow:20035, or deepflow_files with controller-ips")
	}
	for i, addr := range a.Server.Addresses {
		if slices.Contains(a.Server.Addresses[:i], addr) {
			fail(fmt.Sprintf("%s[%d]", keyAddresses, i), addr, "is given twice; keep one of them", "")
		}
	}
	if a.WatchPolicy == "normal" && !a.RegisterAsAgent {
		fail("watch_policy", a.WatchPolicy,
			"needs register_as_agent: true, because a deepflow-server registers the sender of such a Sync as an agent",
			"watch-only, watch-disabled, or normal with register_as_agent: true")
	}
	if a.ConfigFromServer {
		claims := a.WatchPolicy == "watch-only" && a.ClaimWatcher
		switch {
		case !claims && !a.RegisterAsAgent:
			fail("config_from_server", "true", "needs Sync requests, which neither claim_watcher nor register_as_agent allows",
				"true with watch_policy: watch-only and claim_watcher: true, or with register_as_agent: true")
		case a.Server.Service == "trident":
			fail("config_from_server", "true", "needs the service agent: trident's Sync does not carry the agent group's configuration in this form",
				"true with server.service: auto or agent")
		}
	}
	if a.Server.TokenFile != "" && !a.Server.TLS.Enabled {
		fail("server.token_file", a.Server.TokenFile, "needs TLS: in plain text everybody on the way could read the token",
			"with server.tls.enabled: true")
	}
	ms = append(ms, checkClientTLS("server.tls", a.Server.TLS, ls)...)
	ms = append(ms, checkResources(&a.Inputs.Resources.Kubernetes, a.Selection, ls)...)
	ms = append(ms, mistakesOf(resources.CheckAnnotations(a.Projection.Annotations), "projection", "projection.annotations", ls)...)
	return append(ms, checkLease(a.HighAvailability, ls)...)
}

// checkResources applies the selection's rules.
func checkResources(k *KubernetesResources, s AgentSelection, ls layers) []*Mistake {
	_, err := resources.Select(k.APIResources, s.In(k))
	return mistakesOf(err, keyKubernetes, keyAPIResources, ls)
}

// mistakesOf are the *resources.Mistake of err, whose keys are relative to the key at; any other error is about the key
// otherwise.
func mistakesOf(err error, at, otherwise string, ls layers) []*Mistake {
	var ms []*Mistake
	for _, e := range split(err) {
		m := &Mistake{Key: otherwise, Problem: e.Error()}
		if r := (*resources.Mistake)(nil); errors.As(e, &r) {
			m = &Mistake{Key: at + "." + r.Key, Value: r.Value, Problem: r.Reason}
			if strings.HasPrefix(r.Key, "selection.") {
				m.Key = r.Key // it is whole
			}
		}
		m.Source = ls.source(m.Key)
		ms = append(ms, m)
	}
	return ms
}

// split takes errors.Join apart.
func split(err error) []error {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	return []error{err}
}

func checkClientTLS(key string, t ClientTLS, ls layers) []*Mistake {
	var ms []*Mistake
	for _, f := range []struct{ name, value string }{
		{"ca_file", t.CAFile}, {"cert_file", t.CertFile}, {"key_file", t.KeyFile}, {"server_name", t.ServerName},
	} {
		if f.value != "" && !t.Enabled {
			ms = append(ms, notEnabled(key, f.name, f.value, ls))
		}
	}
	return append(ms, checkPair(key, t.CertFile, t.KeyFile, ls)...)
}

func notEnabled(key, name, value string, ls layers) *Mistake {
	return &Mistake{
		Key: key + "." + name, Value: value, Problem: "has no effect, because " + key + ".enabled is false: the connection would be plain text",
		Allowed: "with " + key + ".enabled: true", Source: ls.source(key + "." + name),
	}
}

// checkPair refuses a certificate without its key, and the other way round.
func checkPair(key, cert, private string, ls layers) []*Mistake {
	switch {
	case cert != "" && private == "":
		return []*Mistake{{
			Key: key + ".key_file", Problem: "is empty, but " + key + ".cert_file is given",
			Allowed: "both or none", Source: ls.source(key + ".cert_file"),
		}}
	case cert == "" && private != "":
		return []*Mistake{{
			Key: key + ".cert_file", Problem: "is empty, but " + key + ".key_file is given",
			Allowed: "both or none", Source: ls.source(key + ".key_file"),
		}}
	}
	return nil
}

func checkLease(h HighAvailability, ls layers) []*Mistake {
	var ms []*Mistake
	less := func(key string, d time.Duration, than string, limit time.Duration, factor float64) {
		if float64(d)*factor >= float64(limit) {
			problem, allowed := "is not less than "+than, "less than "+formatDuration(limit)
			if factor != 1 {
				by := strconv.FormatFloat(factor, 'f', -1, 64)
				problem, allowed = "times "+by+" is not less than "+than, "less than "+formatDuration(limit)+" / "+by
			}
			ms = append(ms, &Mistake{
				Key: key, Value: formatDuration(d), Problem: problem, Allowed: allowed, Source: ls.source(key),
			})
		}
	}
	const key = "high_availability."
	// client-go's leader election insists on both.
	less(key+"renew_deadline", h.RenewDeadline, key+"lease_duration", h.LeaseDuration, 1)
	less(key+"retry_period", h.RetryPeriod, key+"renew_deadline", h.RenewDeadline, 1.2)
	return ms
}
