package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

var when = time.Unix(1700000000, 0).UTC()

func sample() fstest.MapFS {
	return fstest.MapFS{
		"Chart.yaml":             {Data: []byte("apiVersion: v2\nname: it\nversion: 0.2.0\nappVersion: \"0.1.0\"\nannotations:\n  artifacthub.io/prerelease: \"true\"\n")},
		".helmignore":            {Data: []byte("# why\n*.tgz\nci/\nrules/*_test.yaml\n")},
		"values.yaml":            {Data: []byte("a: b\n")},
		"templates/a.yaml":       {Data: []byte("{}")},
		"ci/x-values.yaml":       {Data: []byte("{}")},
		"rules/a.yaml":           {Data: []byte("{}")},
		"rules/a_test.yaml":      {Data: []byte("{}")},
		"charts/old-1.0.0.tgz":   {Data: []byte("x")},
		"templates/ci/deep.yaml": {Data: []byte("{}")},
	}
}

// files are an archive's by name; each belongs to root and has the given date.
func files(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	zipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for in := tar.NewReader(zipped); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Mode != 0o644 || !h.ModTime.Equal(when) {
			t.Errorf("%s: owner %d, mode %o, date %s", h.Name, h.Uid, h.Mode, h.ModTime)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = string(content)
	}
}

func TestPack(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3": "1.2.3", "v0.3.0": "0.3.0", "1.2.3-rc.1+build.5": "1.2.3-rc.1+build.5", "94baf87-dirty": "0.0.0-94baf87-dirty",
	} {
		archive, about, err := pack(sample(), version, when)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := pack(sample(), version, when)
		if err != nil || !bytes.Equal(archive, again) {
			t.Errorf("packed twice it differs (%v)", err)
		}
		got := files(t, archive)
		names := []string{"it/.helmignore", "it/Chart.yaml", "it/rules/a.yaml", "it/templates/a.yaml", "it/values.yaml"}
		if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, names) {
			t.Errorf("got the files %q, want %q", have, names)
		}
		if about.Version != want || !strings.Contains(got["it/Chart.yaml"], "version: "+want+"\n") || !strings.Contains(got["it/Chart.yaml"], "appVersion: \""+version+"\"\n") {
			t.Errorf("%s: got %s\n%s", version, about.Version, got["it/Chart.yaml"])
		}
		if prerelease := strconv.FormatBool(version != "v1.2.3"); !strings.Contains(got["it/Chart.yaml"], "artifacthub.io/prerelease: \""+prerelease+"\"\n") {
			t.Errorf("%s: want a prerelease: %s, got\n%s", version, prerelease, got["it/Chart.yaml"])
		}
	}
}

func TestPackRefuses(t *testing.T) {
	for file, content := range map[string]string{
		".helmignore": "!values.yaml\n",
		"Chart.yaml":  "name: it\n",
	} {
		chart := sample()
		chart[file] = &fstest.MapFile{Data: []byte(content)}
		if _, _, err := pack(chart, "v1.2.3", when); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v, want an error that names it", file, err)
		}
	}
}

// TestPush: what the registry has is what Helm looks for.
func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	dir := t.TempDir()
	if err := os.CopyFS(dir, sample()); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	prefix := strings.TrimPrefix(server.URL, "http://") + "/charts/"
	var told bytes.Buffer
	args := []string{"-chart", dir, "-version", "1.2.3+build.5", "-created", "1700000000", "-o", out, "-push", prefix}
	if err := run(args, &told); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(prefix + "it:1.2.3_build.5")
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil || !strings.Contains(told.String(), "pushed  "+ref.String()+"@"+digest.String()+"\n") {
		t.Errorf("the registry has %s (%v), told was\n%s", digest, err, &told)
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if manifest.Config.MediaType != configType || len(manifest.Layers) != 1 || manifest.Layers[0].MediaType != layerType {
		t.Errorf("got the manifest %+v", manifest)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var about map[string]any
	if err := json.Unmarshal(config, &about); err != nil || about["name"] != "it" || about["version"] != "1.2.3+build.5" {
		t.Errorf("the configuration is %s (%v)", config, err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(filepath.Join(out, "it-1.2.3+build.5-chart.tgz"))
	if err != nil || !bytes.Equal(written, pushed) {
		t.Errorf("the file differs from what was pushed (%v)", err)
	}
}
