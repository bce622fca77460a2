package harness

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// The release of axe-core that tests look at pages with, and what its script must be.
const (
	axeVersion = "4.10.3"
	axeSum     = "880970c081707360e64f34cea25ff91892f5bc95675b0776925b9709dd8a68bb"
	maxAxe     = 4 << 20 // bytes
)

// ErrNoNPM means that axe-core cannot be fetched here.
var ErrNoNPM = errors.New("there is no npm (Debian: apt-get install npm)")

// Axe returns the script of axe-core, which npm fetches once into the cache. It is for tests only.
func Axe(ctx context.Context) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	file := filepath.Join(cache, "axe-core-"+axeVersion+".js")
	if text, err := os.ReadFile(file); err == nil {
		return checkedAxe(text)
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", ErrNoNPM
	}
	dir, err := os.MkdirTemp("", "axe")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cmd := exec.CommandContext(ctx, npm, "pack", "axe-core@"+axeVersion, "--pack-destination", dir)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm pack axe-core: %w: %s", err, out)
	}
	text, err := fileOf(filepath.Join(dir, "axe-core-"+axeVersion+".tgz"), "package/axe.min.js")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return "", err
	}
	return checkedAxe(text)
}

func checkedAxe(text []byte) (string, error) {
	sum := sha256.Sum256(text)
	if got := hex.EncodeToString(sum[:]); got != axeSum {
		return "", fmt.Errorf("axe-core %s: got a script with sha256 %s, want %s", axeVersion, got, axeSum)
	}
	return string(text), nil
}

// fileOf returns a file of a compressed tar archive.
func fileOf(archive, name string) ([]byte, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	zr, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", archive, err)
	}
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", archive, name, err)
		}
		if h.Name == name {
			return io.ReadAll(io.LimitReader(tr, maxAxe))
		}
	}
}
