//go:build !linux

package store

import "errors"

// diskFree is not known elsewhere.
func diskFree(string) (int64, error) { return 0, errors.ErrUnsupported }
