package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const created = 1700000000

// programs makes a folder with a program and its bill for each platform, and returns the arguments that name them.
func programs(t *testing.T) []string {
	t.Helper()
	var args []string
	for _, platform := range []string{"linux/arm64", "linux/amd64"} {
		dir := t.TempDir()
		for file, content := range map[string]string{"it": "program for " + platform, "it.cdx.json": "{}"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		args = append(args, "-platform", platform+"="+dir)
	}
	return append(args, "-program", "it", "-tag", "v1.2.3", "-revision", "abc", "-created", fmt.Sprint(created))
}

// files are the contents of a tar file by name.
func files(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	found := map[string]string{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Mode&0o022 != 0 || !h.ModTime.Equal(time.Unix(created, 0)) {
			t.Errorf("%s belongs to %d:%d, has mode %o and date %s; want root's, writable by nobody else, of the given date",
				h.Name, h.Uid, h.Gid, h.Mode, h.ModTime)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = string(content)
	}
}

func TestImageIsTheSameEachTime(t *testing.T) {
	args := programs(t)
	var contents [2][]byte
	var told [2]bytes.Buffer
	for i := range contents {
		file := filepath.Join(t.TempDir(), "image.tar")
		if err := run(append(slices.Clone(args), "-o", file), &told[i]); err != nil {
			t.Fatal(err)
		}
		var err error
		if contents[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(contents[0], contents[1]) || told[0].String() != told[1].String() {
		t.Errorf("two images of the same programs differ: %s%s", &told[0], &told[1])
	}
	all := files(t, bytes.NewReader(contents[0]))
	for _, want := range []string{"oci-layout", "index.json", "manifest.json"} {
		if all[want] == "" {
			t.Errorf("the file has no %s", want)
		}
	}
}

// TestDockerFindsEachPlatform reads the file as `docker load` does.
func TestDockerFindsEachPlatform(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := run(append(programs(t), "-o", file), io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		tag, err := name.NewTag("it:v1.2.3-" + arch)
		if err != nil {
			t.Fatal(err)
		}
		image, err := tarball.ImageFromPath(file, &tag)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != arch {
			t.Errorf("got the image for %s, want %s", config.Architecture, arch)
		}
	}
}

// pushed pushes the image to a registry, and returns it as that has it, with what was told.
func pushed(t *testing.T, options ...registry.Option) (name.Reference, v1.ImageIndex, string) {
	t.Helper()
	server := httptest.NewServer(registry.New(append(options, registry.Logger(log.New(io.Discard, "", 0)))...))
	t.Cleanup(server.Close)
	prefix := strings.TrimPrefix(server.URL, "http://") + "/observability/"
	var told bytes.Buffer
	if err := run(append(programs(t), "-o", filepath.Join(t.TempDir(), "image.tar"), "-push", prefix), &told); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(prefix + "it:v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	return ref, index, told.String()
}

func TestPushedImage(t *testing.T) {
	ref, index, told := pushed(t)
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(told, digest.String()); n != 2 {
		t.Errorf("the registry has %s, which was told %d times, want 2:\n%s", digest, n, told)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		image, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}))
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c := config.Config
		if c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/it"}) || config.Created.Unix() != created {
			t.Errorf("got user %s, entrypoint %v, created %s, want nobody's, the program, the given date", c.User, c.Entrypoint, config.Created)
		}
		for key, want := range map[string]string{"version": "v1.2.3", "revision": "abc", "title": "it"} {
			if got := c.Labels["org.opencontainers.image."+key]; got != want {
				t.Errorf("label %s: got %q, want %q", key, got, want)
			}
		}
		holds(t, image, arch)
	}
}

// TestBillsAreReferrers: a registry tells of each platform's image its bill of materials, whether it knows referrers by
// itself or by the tags that stand for them.
func TestBillsAreReferrers(t *testing.T) {
	for _, knows := range []bool{true, false} {
		ref, index, _ := pushed(t, registry.WithReferrersSupport(knows))
		images, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		for _, image := range images.Manifests {
			referrers, err := remote.Referrers(ref.Context().Digest(image.Digest.String()))
			if err != nil {
				t.Fatal(err)
			}
			list, err := referrers.IndexManifest()
			if err != nil || len(list.Manifests) != 1 || list.Manifests[0].ArtifactType != bill {
				t.Fatalf("%s: got the referrers %+v (%v), want one bill of materials", image.Platform, list, err)
			}
			about, err := remote.Image(ref.Context().Digest(list.Manifests[0].Digest.String()))
			if err != nil {
				t.Fatal(err)
			}
			layers, err := about.Layers()
			if err != nil || len(layers) != 1 {
				t.Fatalf("got %d files (%v), want one", len(layers), err)
			}
			content, err := layers[0].Compressed()
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(content); err != nil || string(text) != "{}" {
				t.Errorf("%s: got %q (%v), want the bill of the program", image.Platform, text, err)
			}
		}
	}
}

// holds checks an image's files.
func holds(t *testing.T, image v1.Image, arch string) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("got %d layers, want one: %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	got := files(t, content)
	const roots = "etc/ssl/certs/ca-certificates.crt"
	want := []string{"etc/", "etc/ssl/", "etc/ssl/certs/", roots, "it", "it.cdx.json"}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		t.Errorf("got the files %v, want %v", names, want)
	}
	if got["it"] != "program for linux/"+arch {
		t.Errorf("the image for %s holds the %s", arch, got["it"])
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM([]byte(got[roots])) || strings.Count(got[roots], "BEGIN") < 50 {
		t.Errorf("the authorities cannot be read or are few: %d bytes", len(got[roots]))
	}
}

func TestMistakes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image.tar")
	good := append(programs(t), "-o", file)
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"nothing", "are needed", nil},
		{"platform without a folder", "want OS/ARCH=FOLDER", append(slices.Clone(good), "-platform", "linux/amd64")},
		{"no program", "no such file", append(slices.Clone(good), "-platform", "linux/riscv64="+t.TempDir())},
		{"wrong prefix", "-push", append(slices.Clone(good), "-push", "UPPER/")},
	} {
		if err := run(c.args, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
	}
}
