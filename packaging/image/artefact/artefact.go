// Package artefact makes what a registry keeps beside images: one file, described by a manifest.
package artefact

import (
	"bytes"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Content is what an artefact is made of.
type Content struct {
	// Type is what kind of artefact it is; empty: the type of the configuration says it.
	Type string
	// Config and its type. Without one it is empty and has the artefact's type, by which registries before OCI 1.1 know it.
	Config     []byte
	ConfigType types.MediaType
	// File and its type.
	File     []byte
	FileType types.MediaType
	// Subject is the manifest that the artefact is about; nil: none.
	Subject *v1.Descriptor
	// Annotations are of the manifest.
	Annotations map[string]string
}

// New makes the artefact. The same content gives the same bytes.
func New(c Content) (v1.Image, error) {
	if c.Config == nil {
		c.Config, c.ConfigType = []byte("{}"), types.MediaType(c.Type)
	}
	hash, size, err := v1.SHA256(bytes.NewReader(c.Config))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	a := &artefact{config: c.Config, file: static.NewLayer(c.File, c.FileType)}
	layer, err := partial.Descriptor(a.file)
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	a.manifest, err = json.Marshal(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: c.Type,
		Config: v1.Descriptor{MediaType: c.ConfigType, Size: size, Digest: hash}, Layers: []v1.Descriptor{*layer},
		Subject: c.Subject, Annotations: c.Annotations,
	})
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	image, err := partial.CompressedToImage(a)
	if err != nil {
		return nil, fmt.Errorf("artefact: %w", err)
	}
	return image, nil
}

// artefact is a partial.CompressedImageCore.
type artefact struct {
	config, manifest []byte
	file             v1.Layer
}

// RawConfigFile is the configuration's text.
func (a *artefact) RawConfigFile() ([]byte, error) { return a.config, nil }

// MediaType is that of the manifest.
func (a *artefact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// RawManifest is the manifest's text.
func (a *artefact) RawManifest() ([]byte, error) { return a.manifest, nil }

// LayerByDigest is the file: there is no other.
func (a *artefact) LayerByDigest(v1.Hash) (partial.CompressedLayer, error) { return a.file, nil }
