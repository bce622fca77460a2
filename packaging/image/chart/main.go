// Command chart packs a Helm chart and pushes it to a registry as an OCI artefact if it is told to.
//
// helm package writes the time of day into the archive; this writes the date that it is given, so that the same chart and
// arguments give the same bytes. What Helm would leave out by .helmignore is left out.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"sigs.k8s.io/yaml"

	"github.com/pseudo-agent/pseudo-agent/packaging/image/artefact"
)

// The media types of a chart in a registry, by Helm's document "Use OCI-based registries".
const (
	configType = types.MediaType("application/vnd.cncf.helm.config.v1+json")
	layerType  = types.MediaType("application/vnd.cncf.helm.chart.content.v1.tar+gzip")
)

// semantic is a version as Chart.yaml needs it.
var semantic = regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("chart", flag.ContinueOnError)
	dir := flags.String("chart", "", "`folder` of the chart")
	version := flags.String("version", "", "version of the programs, which is the tag of their images and, as 1.2.3, the chart's version")
	created := flags.Int64("created", 0, "date of all files in `seconds` since 1970")
	folder := flags.String("o", "", "`folder` to write NAME-VERSION-chart.tgz to")
	push := flags.String("push", "", "`prefix` to push to, for example registry.example/observability/charts/")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	if *dir == "" || *version == "" || *folder == "" {
		return errors.New("-chart, -version and -o are needed")
	}
	archive, about, err := pack(os.DirFS(*dir), *version, time.Unix(*created, 0).UTC())
	if err != nil {
		return fmt.Errorf("%s: %w", *dir, err)
	}
	file := path.Join(*folder, about.Name+"-"+*version+"-chart.tgz")
	if err := os.WriteFile(file, archive, 0o644); err != nil { //nolint:gosec // for everybody to read
		return fmt.Errorf("write: %w", err)
	}
	fmt.Fprintf(out, "chart  %s\n", file)
	if *push == "" {
		return nil
	}
	// Tags have no +; Helm puts _ for it, too.
	ref, err := name.ParseReference(*push + about.Name + ":" + strings.ReplaceAll(about.Version, "+", "_"))
	if err != nil {
		return fmt.Errorf("-push: %w", err)
	}
	config, err := json.Marshal(about.all)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	image, err := artefact.New(artefact.Content{
		Config: config, ConfigType: configType, File: archive, FileType: layerType,
		Annotations: map[string]string{"org.opencontainers.image.title": about.Name, "org.opencontainers.image.version": about.Version},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", *dir, err)
	}
	digest, err := image.Digest()
	if err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	if err := remote.Write(ref, image, remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	fmt.Fprintf(out, "pushed  %s@%s\n", ref, digest)
	return nil
}

// metadata is what Chart.yaml says, as the registry's configuration of a chart repeats it.
type metadata struct {
	Name    string
	Version string
	all     map[string]any
}

// pack makes the archive of a chart, of the version of the programs.
func pack(chart fs.FS, version string, when time.Time) ([]byte, *metadata, error) {
	ignored, err := ignore(chart)
	if err != nil {
		return nil, nil, err
	}
	about, text, err := described(chart, version)
	if err != nil {
		return nil, nil, err
	}
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	w := tar.NewWriter(compressed)
	add := func(file string, content []byte) error {
		h := &tar.Header{Name: about.Name + "/" + file, Mode: 0o644, ModTime: when, Size: int64(len(content)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		_, err := w.Write(content)
		return err
	}
	// Helm reads the whole archive, other programs look at its first file.
	err = add("Chart.yaml", text)
	if err == nil {
		err = fs.WalkDir(chart, ".", func(file string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || file == ".":
				return err
			case d.IsDir():
				if ignored(file, true) {
					return fs.SkipDir
				}
				return nil
			case file == "Chart.yaml" || ignored(file, false):
				return nil
			}
			content, err := fs.ReadFile(chart, file)
			if err != nil {
				return fmt.Errorf("read: %w", err)
			}
			return add(file, content)
		})
	}
	if err := errors.Join(err, w.Close(), compressed.Close()); err != nil {
		return nil, nil, fmt.Errorf("pack: %w", err)
	}
	return out.Bytes(), about, nil
}

var (
	// versionLines are those of Chart.yaml that the version of a release replaces.
	versionLines = regexp.MustCompile(`(?m)^(version|appVersion):.*$`)
	// prereleaseLine tells catalogues whether the version is one that may still break its users.
	prereleaseLine = regexp.MustCompile(`(?m)^( +artifacthub\.io/prerelease:).*$`)
)

// described is Chart.yaml with the version: the programs' as it is, the chart's without the v of a tag.
func described(chart fs.FS, version string) (*metadata, []byte, error) {
	text, err := fs.ReadFile(chart, "Chart.yaml")
	if err != nil {
		return nil, nil, fmt.Errorf("read: %w", err)
	}
	own := strings.TrimPrefix(version, "v")
	if !semantic.MatchString(own) {
		own = "0.0.0-" + strings.ReplaceAll(own, "_", "-") // of a commit without a tag
	}
	text = versionLines.ReplaceAllFunc(text, func(line []byte) []byte {
		if bytes.HasPrefix(line, []byte("version")) {
			return []byte("version: " + own)
		}
		return fmt.Appendf(nil, "appVersion: %q", version)
	})
	prerelease := strings.HasPrefix(own, "0.") || strings.Contains(own, "-")
	text = prereleaseLine.ReplaceAll(text, fmt.Appendf(nil, "$1 %q", strconv.FormatBool(prerelease)))
	about := &metadata{}
	if err := yaml.Unmarshal(text, &about.all); err != nil {
		return nil, nil, fmt.Errorf("read Chart.yaml: %w", err)
	}
	about.Name, _ = about.all["name"].(string)
	about.Version, _ = about.all["version"].(string)
	if about.Name == "" || about.Version != own || about.all["appVersion"] != version {
		return nil, nil, fmt.Errorf("no line for each of name, version and appVersion in Chart.yaml: %v", about.all)
	}
	return about, text, nil
}

// ignore reads .helmignore: patterns of names, or of paths if they hold a slash; a slash at the end means folders only.
func ignore(chart fs.FS) (func(file string, folder bool) bool, error) {
	text, err := fs.ReadFile(chart, ".helmignore")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read: %w", err)
	}
	var patterns []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if _, err := path.Match(line, ""); err != nil || strings.ContainsAny(line, "!") || strings.HasPrefix(line, "/") {
			return nil, fmt.Errorf(".helmignore: %q is not understood here", line)
		}
		patterns = append(patterns, line)
	}
	return func(file string, folder bool) bool {
		for _, p := range patterns {
			name, ofFolders := strings.CutSuffix(p, "/")
			if ofFolders && !folder {
				continue
			}
			what := path.Base(file)
			if strings.Contains(name, "/") {
				what = file
			}
			if ok, _ := path.Match(name, what); ok {
				return true
			}
		}
		return false
	}, nil
}
