// Command image makes a container image of one program for several platforms, without a daemon and without a base image,
// and pushes it to a registry if it is told to.
//
// The program is all that the image holds, beside its bill of materials and the certificates of public authorities. The
// result is an OCI image layout in a tar file, which podman, skopeo, crane and containerd read as it is, and in which
// docker finds the list that it wants too. The same programs and arguments give the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/pseudo-agent/pseudo-agent/packaging/image/artefact"
)

// user is whom the program runs as: nobody that a machine knows, as the charts ask for.
const user = "65532:65532"

// options are what differs between images.
type options struct {
	program  string // its file's name, which is the image's name too
	tag      string
	revision string
	source   string    // where the code is, empty: not told
	created  time.Time // the date of all files
	// platforms are folders with the program and its bill of materials, by platform as in linux/amd64.
	platforms map[string]string
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	o := options{platforms: map[string]string{}}
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.StringVar(&o.program, "program", "", "`name` of the program and of its image")
	flags.StringVar(&o.tag, "tag", "dev", "the image's tag, which is the program's version")
	flags.StringVar(&o.revision, "revision", "", "commit that the program was built from")
	flags.StringVar(&o.source, "source", "", "`URL` of the code")
	created := flags.Int64("created", 0, "date of all files in `seconds` since 1970")
	file := flags.String("o", "", "tar `file` to write")
	push := flags.String("push", "", "`prefix` to push to, for example registry.example/observability/")
	flags.Func("platform", "`OS/ARCH=FOLDER` that holds the program and its NAME.cdx.json; once for each platform", func(s string) error {
		platform, dir, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want OS/ARCH=FOLDER")
		}
		o.platforms[platform] = dir
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	o.created = time.Unix(*created, 0).UTC()
	if o.program == "" || *file == "" || len(o.platforms) == 0 {
		return errors.New("-program, -platform and -o are needed")
	}
	index, err := build(o)
	if err != nil {
		return err
	}
	if err := write(*file, index, o); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	fmt.Fprintf(out, "%s  %s:%s\n", digest, o.program, o.tag)
	if *push == "" {
		return nil
	}
	ref, err := name.ParseReference(*push + o.program + ":" + o.tag)
	if err != nil {
		return fmt.Errorf("-push: %w", err)
	}
	if err := remote.WriteIndex(ref, index, remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	if err := attachBills(ref.Context(), index, o); err != nil {
		return fmt.Errorf("push the bills of materials of %s: %w", ref, err)
	}
	fmt.Fprintf(out, "pushed  %s@%s\n", ref, digest)
	return nil
}

// bill is the type of a bill of materials.
const bill = "application/vnd.cyclonedx+json"

// attachBills gives the image of each platform its bill of materials as a referrer, where scanners look for one.
func attachBills(where name.Repository, index v1.ImageIndex, o options) error {
	manifests, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	for _, image := range manifests.Manifests {
		content, err := os.ReadFile(filepath.Join(o.platforms[image.Platform.String()], o.program+".cdx.json"))
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		about, err := artefact.New(artefact.Content{
			Type: bill, File: content, FileType: bill, Annotations: map[string]string{"org.opencontainers.image.created": o.created.Format(time.RFC3339)},
			Subject: &v1.Descriptor{MediaType: image.MediaType, Size: image.Size, Digest: image.Digest},
		})
		if err != nil {
			return err
		}
		digest, err := about.Digest()
		if err != nil {
			return fmt.Errorf("digest: %w", err)
		}
		if err := remote.Write(where.Digest(digest.String()), about, remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
			return fmt.Errorf("%s: %w", image.Platform, err)
		}
	}
	return nil
}

// build makes the image of each platform and the index that lists them.
func build(o options) (v1.ImageIndex, error) {
	about := map[string]string{
		"org.opencontainers.image.title":    o.program,
		"org.opencontainers.image.version":  o.tag,
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.created":  o.created.Format(time.RFC3339),
	}
	if o.revision != "" {
		about["org.opencontainers.image.revision"] = o.revision
	}
	if o.source != "" {
		about["org.opencontainers.image.source"] = o.source
	}
	var list []mutate.IndexAddendum
	for _, platform := range slices.Sorted(maps.Keys(o.platforms)) {
		image, p, err := buildFor(o, platform, about)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", platform, err)
		}
		list = append(list, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: p}})
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), list...)
	annotated, ok := mutate.Annotations(index, about).(v1.ImageIndex)
	if !ok {
		return nil, errors.New("an annotated index is no index")
	}
	return annotated, nil
}

// buildFor makes the image of one platform.
func buildFor(o options, platform string, about map[string]string) (v1.Image, *v1.Platform, error) {
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, nil, fmt.Errorf("platform: %w", err)
	}
	content, err := rootFS(o, o.platforms[platform])
	if err != nil {
		return nil, nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, nil, fmt.Errorf("layer: %w", err)
	}
	when := v1.Time{Time: o.created}
	image, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer: layer, MediaType: types.OCILayer, History: v1.History{Created: when, CreatedBy: "packaging/image"},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("append the layer: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	config = config.DeepCopy()
	config.Created, config.OS, config.Architecture, config.Variant = when, p.OS, p.Architecture, p.Variant
	config.Config = v1.Config{User: user, Entrypoint: []string{"/" + o.program}, Labels: about}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	annotated, ok := mutate.Annotations(mutate.ConfigMediaType(image, types.OCIConfigJSON), about).(v1.Image)
	if !ok {
		return nil, nil, errors.New("an annotated image is no image")
	}
	return annotated, p, nil
}

// rootFS is all that the image holds, as a tar file.
func rootFS(o options, dir string) ([]byte, error) {
	built := os.DirFS(dir)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range []struct {
		name string
		mode int64
		read func() ([]byte, error)
	}{
		{"etc/", 0o755, nil},
		{"etc/ssl/", 0o755, nil},
		{"etc/ssl/certs/", 0o755, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o644, authorities},
		{o.program, 0o755, func() ([]byte, error) { return fs.ReadFile(built, o.program) }},
		{o.program + ".cdx.json", 0o644, func() ([]byte, error) { return fs.ReadFile(built, o.program+".cdx.json") }},
	} {
		var content []byte
		if f.read != nil {
			var err error
			if content, err = f.read(); err != nil {
				return nil, fmt.Errorf("read: %w", err)
			}
		}
		if err := add(w, f.name, f.mode, o.created, content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write the layer: %w", err)
	}
	return out.Bytes(), nil
}

// authorities are the certificates that Mozilla trusts without conditions, of the release that go.mod names.
func authorities() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue // a file of certificates cannot tell the condition
		}
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("write certificates: %w", err)
		}
	}
	return out.Bytes(), nil
}

// write makes the tar file of an image layout that holds the index.
func write(file string, index v1.ImageIndex, o options) (err error) {
	tmp, err := os.MkdirTemp("", "image-")
	if err != nil {
		return fmt.Errorf("working folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	l, err := layout.Write(tmp, empty.Index)
	if err != nil {
		return fmt.Errorf("layout: %w", err)
	}
	names := map[string]string{"org.opencontainers.image.ref.name": o.tag, "io.containerd.image.name": "docker.io/library/" + o.program + ":" + o.tag}
	if err := l.AppendIndex(index, layout.WithAnnotations(names)); err != nil {
		return fmt.Errorf("layout: %w", err)
	}
	list, err := dockerList(index, o)
	if err != nil {
		return err
	}
	if err := l.WriteFile("manifest.json", list, 0o644); err != nil {
		return fmt.Errorf("layout: %w", err)
	}
	files := os.DirFS(tmp)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err = fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if d.IsDir() {
			return add(w, name+"/", 0o755, o.created, nil)
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return fmt.Errorf("read the layout: %w", err)
		}
		return add(w, name, 0o644, o.created, content)
	})
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil { //nolint:gosec // for everybody to read
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// dockerList is the manifest.json that `docker load` looks for. It cannot hold one name for several platforms, so the
// platform is part of the tag.
func dockerList(index v1.ImageIndex, o options) ([]byte, error) {
	manifests, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	blob := func(h v1.Hash) string { return path.Join("blobs", h.Algorithm, h.Hex) }
	var list tarball.Manifest
	for _, d := range manifests.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			return nil, fmt.Errorf("image of the index: %w", err)
		}
		m, err := image.Manifest()
		if err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
		entry := tarball.Descriptor{
			Config: blob(m.Config.Digest), RepoTags: []string{fmt.Sprintf("%s:%s-%s", o.program, o.tag, d.Platform.Architecture)},
		}
		for _, l := range m.Layers {
			entry.Layers = append(entry.Layers, blob(l.Digest))
		}
		list = append(list, entry)
	}
	content, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	return content, nil
}

// add writes one file, or a folder if the name ends with a slash, that belongs to root.
func add(w *tar.Writer, name string, mode int64, when time.Time, content []byte) error {
	h := &tar.Header{Name: name, Mode: mode, ModTime: when, Size: int64(len(content)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
	if strings.HasSuffix(name, "/") {
		h.Typeflag = tar.TypeDir
	}
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
