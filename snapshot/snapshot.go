// Package snapshot folds the current entries of all resources into immutable, versioned snapshots.
package snapshot
