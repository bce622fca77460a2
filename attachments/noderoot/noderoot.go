// Package noderoot finds the node's files where its root file system is mounted somewhere in a container.
//
// It promises that symbolic links, which the node means from its own root, lead nowhere else.
package noderoot

import (
	"fmt"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// Root is the folder under which the node's root file system is mounted; empty: it is this process's own.
type Root string

// Path is where a path of the node is for this process. The last element may be a link; those before are followed, from
// the node's root. The errors are those of reading links.
func (r Root) Path(path string) (string, error) {
	if r == "" {
		return path, nil
	}
	dir, err := securejoin.SecureJoin(string(r), filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("find %s under node_root %s: %w", path, r, err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// Follow is Path with the last element followed, too.
func (r Root) Follow(path string) (string, error) {
	if r == "" {
		return path, nil
	}
	full, err := securejoin.SecureJoin(string(r), path)
	if err != nil {
		return "", fmt.Errorf("find %s under node_root %s: %w", path, r, err)
	}
	return full, nil
}

// Inside is the node's path of what Path or Follow have returned.
func (r Root) Inside(full string) string {
	if r == "" {
		return full
	}
	return "/" + strings.TrimPrefix(strings.TrimPrefix(full, filepath.Clean(string(r))), "/")
}
