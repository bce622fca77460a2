//go:build !unix

package store

// lockFile does nothing where bbolt locks in another way.
func lockFile(string) (unlock func() error, err error) { return func() error { return nil }, nil }
