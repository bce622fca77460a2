package e2e

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// An agent among liars has memoryOfAgent, as a container would give it, and is to stay below peakOfAgent: its bound is that of
// Go's heap, to which the runtime adds its own and what is not collected yet.
var memoryOfAgent = []string{"GOMEMLIMIT=160MiB"}

const peakOfAgent = 256 << 20

// lie is what a liar answers to requests for Pods.
type lie struct {
	name string
	// list answers a list; truth is what the apiserver answers. nil: the truth.
	list func(w http.ResponseWriter, r *http.Request, truth []byte)
	// watch answers a watch. nil: the truth.
	watch func(w http.ResponseWriter, r *http.Request)
	// says are words of the agent's status; none: it can take the truth out of the answer.
	says []string
}

const chunk = 1 << 20

// forever writes until nobody reads any more.
func forever(w io.Writer, next func() string) {
	for {
		if _, err := io.WriteString(w, next()); err != nil {
			return
		}
	}
}

func always(s string) func() string { return func() string { return s } }

// items are made-up Pods.
func items() func() string {
	var count atomic.Int64
	return func() string {
		n := count.Add(1)
		return fmt.Sprintf(`{"metadata":{"uid":"made-up-%d","name":"made-up-%d","namespace":"default","resourceVersion":"%d"}},`, n, n, n)
	}
}

const (
	beginning = `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[`
	huge      = `{"metadata":{"uid":"huge","name":"`
)

func answerJSON(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, body) // the agent may have gone
}

// amend changes a list.
func amend(change func(list map[string]any, items []any)) func(http.ResponseWriter, *http.Request, []byte) {
	return func(w http.ResponseWriter, _ *http.Request, truth []byte) {
		var list map[string]any
		if err := json.Unmarshal(truth, &list); err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		items, _ := list["items"].([]any)
		change(list, items)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(list) // the agent may have gone
	}
}

// lies are those that an apiserver, or what poses as one, may tell. elsewhere is a path of the liar's.
func lies(elsewhere string) []lie {
	var pages atomic.Int64
	more := items()
	return []lie{
		{name: "a list without an end", says: []string{"more than"}, list: func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			answerJSON(w, beginning)
			forever(w, items())
		}},
		{name: "pages without an end", says: []string{"more than"}, list: func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			var page strings.Builder
			for range 1000 {
				page.WriteString(more())
			}
			head := strings.Replace(beginning, `"5"`, fmt.Sprintf(`"5","continue":"page-%d"`, pages.Add(1)), 1)
			answerJSON(w, head+strings.TrimSuffix(page.String(), ",")+"]}")
		}},
		{name: "a huge object", says: []string{"bytes"}, list: func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			answerJSON(w, beginning+huge)
			forever(w, always(strings.Repeat("A", chunk)))
		}},
		{name: "a bomb", says: []string{"damaged answers"}, list: func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Type", "application/json")
			g, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
			if err != nil {
				return
			}
			_, _ = io.WriteString(g, beginning+huge)
			forever(g, always(strings.Repeat("A", chunk)))
		}},
		{name: "half an answer", says: []string{"unexpected EOF"}, list: func(w http.ResponseWriter, _ *http.Request, truth []byte) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(truth[:len(truth)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}},
		{name: "a header without an end", says: []string{"header"}, list: func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: ")
			forever(conn, always(strings.Repeat("A", chunk)))
		}},
		{name: "deep nesting", says: []string{"deep"}, list: func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			const depth = 5_000_000
			answerJSON(w, beginning+`{"metadata":{"uid":"d","name":"d","namespace":"default"},"spec":`+strings.Repeat("[", depth)+strings.Repeat("]", depth)+"}]}")
		}},
		{name: "a page to log in", says: []string{"damaged answers"}, list: func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>Log in</html>")
		}},
		{name: "a redirection", says: []string{"redirection"}, list: func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
		}},
		{name: "items of wrong types", says: []string{"pods"}, list: amend(func(list map[string]any, items []any) {
			list["items"] = append(items, "x", 5, nil, []any{}, map[string]any{"metadata": map[string]any{"uid": 5, "name": []any{}}})
		})},
		{name: "items given twice", list: amend(func(list map[string]any, items []any) { list["items"] = append(items, items...) })},
		{name: "an impossible version", list: amend(func(list map[string]any, _ []any) {
			list["metadata"] = map[string]any{"resourceVersion": "-99999999999999999999"}
		})},
		{name: "nonsense in a watch", watch: func(w http.ResponseWriter, _ *http.Request) {
			answerJSON(w, strings.Repeat(`{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p"}}}{"type":"ZZZ","object":{}}{"type":"MODIFIED","object":[1]}`+"\n", 200))
		}},
		{name: "a huge object in a watch", watch: func(w http.ResponseWriter, _ *http.Request) {
			answerJSON(w, `{"type":"ADDED","object":`+huge)
			forever(w, always(strings.Repeat("A", chunk)))
		}},
	}
}

// liar stands between an agent and the apiserver.
type liar struct {
	server *httptest.Server
	pass   *httputil.ReverseProxy

	mu      sync.Mutex
	cut     context.CancelFunc // ends the requests for Pods that are under way
	ctx     context.Context
	lie     *lie
	lies    int      // how often it was told
	strayed []string // requests that came elsewhere, with their authorization
}

// newLiar makes the account's kubeconfig lead to the liar.
func newLiar(p *pair) *liar {
	p.t.Helper()
	cfg, err := clientcmd.LoadFromFile(p.account.Kubeconfig)
	p.must(err)
	behind, err := url.Parse(cfg.Clusters["e2e"].Server)
	p.must(err)
	ca, err := os.ReadFile(cfg.Clusters["e2e"].CertificateAuthority)
	p.must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	l := &liar{pass: &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(behind) },
		FlushInterval: -1,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}}
	l.ctx, l.cut = context.WithCancel(p.ctx)
	l.server = httptest.NewTLSServer(l)
	p.t.Cleanup(func() {
		p.agent.Kill() // its watches would go on
		l.server.Close()
	})
	p.must(p.account.Rewrite(func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) {
		c.Server, c.CertificateAuthority = l.server.URL, ""
		c.CertificateAuthorityData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.server.Certificate().Raw})
	}))
	return l
}

// tell begins to lie, or to tell the truth, and ends the requests for Pods that are under way.
func (l *liar) tell(what *lie) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut()
	l.ctx, l.cut = context.WithCancel(context.WithoutCancel(l.ctx))
	l.lie, l.lies = what, 0
}

// times is how often the lie was told.
func (l *liar) times() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lies
}

func (l *liar) elsewhere() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.strayed)
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/elsewhere") {
		l.mu.Lock()
		l.strayed = append(l.strayed, r.URL.Path+" "+r.Header.Get("Authorization"))
		l.mu.Unlock()
		return
	}
	if r.URL.Path != "/api/v1/pods" {
		l.pass.ServeHTTP(w, r)
		return
	}
	query := r.URL.Query()
	watches, streams := query.Get("watch") != "", query.Get("sendInitialEvents") != ""
	l.mu.Lock()
	now, before, ends := l.lie, l.lies, l.ctx
	if now != nil && !streams && watches == (now.watch != nil) {
		l.lies++
	}
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stop := context.AfterFunc(ends, cancel)
	defer stop()
	r = r.WithContext(ctx)
	switch {
	case now == nil:
		l.pass.ServeHTTP(w, r)
	case streams:
		refuse(w, http.StatusUnprocessableEntity, "Invalid", "sendInitialEvents is forbidden for watch")
	case watches && now.watch != nil:
		now.watch(w, r)
	case watches && before == 0: // so that it lists anew
		refuse(w, http.StatusGone, "Expired", "too old resource version")
	case watches || now.list == nil:
		l.pass.ServeHTTP(w, r)
	default:
		now.list(w, r, l.truth(r))
	}
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":%d,"reason":%q,"message":%q}`, code, reason, message)
}

// truth is what the apiserver answers, whole and in JSON.
func (l *liar) truth(r *http.Request) []byte {
	all := r.Clone(r.Context())
	all.URL.RawQuery = ""
	all.Header.Set("Accept", "application/json")
	said := httptest.NewRecorder()
	l.pass.ServeHTTP(said, all)
	return said.Body.Bytes()
}

// TestLyingApiserver: whatever poses as an apiserver, the server keeps what it has, the agent stays within its memory, says
// what is wrong, takes its token nowhere else, and recovers as soon as it is told the truth.
//
//nolint:tparallel // the cluster is the same for all tests
func TestLyingApiserver(t *testing.T) {
	load(t, nil)
	for _, lie := range lies("/elsewhere") {
		t.Run(lie.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, options{})
			l := newLiar(p)
			p.agent.Env = memoryOfAgent
			p.start()
			p.eventually(time.Minute, "the agent has reported", func() error { return p.agent.Ready(p.ctx) })
			p.synced(time.Minute)
			held := p.snapshot()
			l.tell(&lie)
			p.eventually(time.Minute, "the lie is told", func() error {
				if l.times() == 0 {
					return fmt.Errorf("not yet:\n%s", p.agent.Tail(5))
				}
				return nil
			})
			if len(lie.says) > 0 {
				p.eventually(2*time.Minute, "the agent says what is wrong", func() error { return p.statusSays(append(lie.says, "pods")...) })
			}
			p.heartbeats(2)
			l.tell(nil)
			p.eventually(2*time.Minute, "all is well again", func() error {
				if err := p.errorSays(""); err != nil {
					return err
				}
				n, err := p.agent.Metric(p.ctx, "pseudo_agent_resource_state", `resource="pods"`, `state="Synced"`)
				if err == nil && n != 1 {
					err = errors.New("the Pods are not synced")
				}
				return err
			})
			if d := cmp.Diff(held, p.snapshot()); d != "" {
				t.Errorf("the server holds something else (-before +after):\n%s", d)
			}
			p.bounded()
			if strayed := l.elsewhere(); len(strayed) > 0 {
				t.Errorf("the agent followed a redirection: %q", strayed)
			}
		})
	}
}

// bounded fails the test if the agent has ever used too much memory.
func (p *pair) bounded() {
	p.t.Helper()
	peak := p.agent.Process().PeakMemory()
	p.t.Logf("the agent has used %d MiB at its peak", peak>>20)
	if peak > peakOfAgent {
		p.t.Errorf("the agent has used %d MiB, want at most %d", peak>>20, peakOfAgent>>20)
	}
}
