package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/pseudo-agent/pseudo-agent/config"
	"github.com/pseudo-agent/pseudo-agent/operate"
)

// maxSupportFile bounds each file of the bundle, in bytes. Of a longer log the end is taken, of all else the beginning. Tests that
// search through it with the race detector make it smaller.
var maxSupportFile = 4 << 20

const supportTimeout = 20 * time.Second

func newSupportCommand(build operate.Build) *cobra.Command {
	var output, from, log string
	cmd := &cobra.Command{
		Use:   "support",
		Short: "Writes one file with all that is needed to help, credentials cut",
		Long: `support writes a tarball to attach to an issue: the configuration, what the running daemon says of itself (status,
metrics, probes, goroutines if http.pprof is on), what check --quick finds, and the end of the log if it is given.

It holds names of your objects. Files that the configuration names (tokens, keys, kubeconfig) are not read, and whatever looks like
a credential is cut from the rest; what has neither a name nor a form that tells is not known as one. Look into it before you pass it on: tar -xzOf FILE | less.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := config.LoadAgent(cmd.Flags())
			if err != nil {
				return err
			}
			b := &bundle{at: time.Now()}
			b.add("version.txt", fmt.Appendf(nil, "%s %s %s\n", build.Version, build.Revision, build.Go))
			b.collectConfig(&loaded.Config)
			if from == "" {
				from = localAddress(loaded.Config.HTTP.Address)
			}
			b.collectDaemon(cmd.Context(), from)
			b.collectCheck(cmd.Context(), &loaded.Config, build)
			if err := b.collectLog(cmd.InOrStdin(), log); err != nil {
				return err
			}
			if err := b.write(output); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has %s\n", output, strings.Join(b.names(), ", "))
			return err
		},
	}
	config.AgentFlags(cmd.Flags())
	cmd.Flags().StringVarP(&output, "output", "o", "pseudo-agent-support.tgz", "file to write")
	cmd.Flags().StringVar(&from, "from", "", "address of the daemon, for example http://localhost:8080 (default: http.address on this machine)")
	cmd.Flags().StringVar(&log, "log", "", "file with the daemon's log, - for standard input")
	return cmd
}

// localAddress is how a daemon that listens on an address is reached from the same machine.
func localAddress(listen string) string {
	if strings.HasPrefix(listen, ":") {
		listen = "localhost" + listen
	}
	return "http://" + listen
}

// bundle is the files of a support tarball. What cannot be had is a file that says why.
type bundle struct {
	at    time.Time
	files []supportFile
}

type supportFile struct {
	name string
	text []byte
}

func (b *bundle) add(name string, text []byte) {
	b.files = append(b.files, supportFile{name, redact(text[:min(len(text), maxSupportFile)])})
}

// addOr adds what was found or, with an error, why not.
func (b *bundle) addOr(name string, text []byte, err error) {
	if err != nil {
		text = append(text, "not to be had: "+err.Error()+"\n"...)
	}
	b.add(name, text)
}

func (b *bundle) names() []string {
	names := make([]string, 0, len(b.files))
	for _, f := range b.files {
		names = append(names, f.name)
	}
	return names
}

func (b *bundle) collectConfig(cfg *config.Agent) {
	text, err := yaml.Marshal(config.AgentTree(cfg))
	b.addOr("config.yaml", text, err)
}

func (b *bundle) collectDaemon(ctx context.Context, address string) {
	for _, f := range []struct{ name, path string }{
		{"status.txt", "/status?format=text"},
		{"status.json", "/status?format=json"},
		{"metrics.txt", "/metrics"},
		{"ready.txt", "/healthz/ready?verbose"},
		{"goroutines.txt", "/debug/pprof/goroutine?debug=1"},
	} {
		text, err := fetch(ctx, strings.TrimSuffix(address, "/")+f.path)
		b.addOr(f.name, text, err)
	}
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, supportTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, int64(maxSupportFile)))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return text, err
}

func (b *bundle) collectCheck(ctx context.Context, cfg *config.Agent, build operate.Build) {
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(ctx, 3*supportTimeout)
	defer cancel()
	report, err := preflightReport(ctx, cfg, build, true, supportTimeout)
	if err == nil {
		err = report.Print(&out)
	}
	b.addOr("check.txt", out.Bytes(), err)
}

// collectLog adds the end of a log.
func (b *bundle) collectLog(stdin io.Reader, name string) error {
	if name == "" {
		return nil
	}
	in := stdin
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // the operator names it
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	var end []byte
	buf := make([]byte, 1<<16)
	for {
		n, err := in.Read(buf)
		end = append(end, buf[:n]...)
		if extra := len(end) - maxSupportFile; extra > maxSupportFile {
			end = slices.Delete(end, 0, extra)
		}
		if err != nil {
			break
		}
	}
	b.add("log.txt", end[max(0, len(end)-maxSupportFile):])
	return nil
}

func (b *bundle) write(name string) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // likewise
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Chmod(0o600); err != nil { // it may have been there, readable by others
		return fmt.Errorf("--output: %w", err)
	}
	zw := gzip.NewWriter(f)
	tw := tar.NewWriter(zw)
	for _, file := range b.files {
		head := &tar.Header{Name: "pseudo-agent-support/" + file.name, Mode: 0o600, Size: int64(len(file.text)), ModTime: b.at}
		if err := tw.WriteHeader(head); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if _, err := tw.Write(file.text); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// secretName is how the name of a credential ends, whatever program chose it: PGPASSWORD, X-Auth-Token, client-key-data.
const secretName = `(?:password|passwd|passphrase|secret|token|credentials?|api[-_]?key|access[-_]?key|client-key-data|client-certificate-data)`

// credentials are what looks like one, whoever wrote it; what stays is the first group. Rather too much is cut than too little.
var credentials = []*regexp.Regexp{
	// A key in PEM, with headers or without its end; then one whose beginning was before the end of the log.
	regexp.MustCompile(`(?s)()-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\z)`),
	regexp.MustCompile(`()(?:[A-Za-z0-9+/=\s]|\\[nr])*-----END [A-Z0-9 ]+-----`),
	regexp.MustCompile(`()\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`), // a JSON web token
	// Headers have schemes and quotes of their own: to the end of the line.
	regexp.MustCompile(`(?i)((?:authorization|cookie)["'\\]*\s*[:=])[^\r\n]+`),
	regexp.MustCompile(`(?i)(\b(?:bearer|basic|digest|negotiate)\s+)[A-Za-z0-9+/=._~-]{6,}`),
	// Before the last @: a password may hold slashes and more of them.
	regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s"'<>]*@`),
	// A line of YAML, with the block below it.
	regexp.MustCompile(`(?im)(^[ \t-]*["']?[\w.-]*` + secretName + `["']?:[ \t]+)(?:[|>][-+0-9]*[ \t]*\r?\n(?:[ \t]+.*\n?)+|.+)`),
	// Quoted, quoted inside of a quotation, or up to the next space.
	regexp.MustCompile(`(?i)(` + secretName + `["'\\]*\s*[:=]\s*)(?:\\+"[^"]*"?|"(?:[^"\\]|\\.)*"?|'[^']*'?|[^\s"'}\]]+)`),
	regexp.MustCompile(`(?i)(--[\w-]*` + secretName + `\s+)\S+`),
}

// redact cuts what looks like a credential. Names of files and of keys of the configuration stay.
func redact(text []byte) []byte {
	for _, c := range credentials {
		text = c.ReplaceAll(text, []byte("${1}[cut]"))
	}
	return text
}
