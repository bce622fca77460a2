package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// ErrBusy means that the file is being copied already, for a backup or a compaction.
var ErrBusy = errors.New("a backup or a compaction of the file is under way")

// ErrNoRoom means that the disk has too little room for a copy of the file. Nothing was tried: reports need what is left.
var ErrNoRoom = errors.New("there is too little room on the disk")

// spareBytes is what a copy leaves free on the disk, for reports that come meanwhile.
const spareBytes = 64 << 20

// Usage is how much of the file is in use, in bytes.
type Usage struct {
	File int64 `json:"file_bytes"` // its size
	Free int64 `json:"free_bytes"` // of these, pages that nothing is in; they are used again
	lost int64 // the same, but not before the file was compacted, because a crash has left no list of them
}

// MostlyFree tells whether more than half of the file is free, or lost.
func (u Usage) MostlyFree() bool { return u.Free+u.lost > u.File/2 }

// Usage returns how much of the file is in use.
func (e *Embedded) Usage() (Usage, error) {
	db := e.db.Load()
	info, err := os.Stat(e.path)
	if err != nil {
		return Usage{}, e.classify(err)
	}
	s := db.Stats()
	return Usage{File: info.Size(), Free: int64(s.FreePageN+s.PendingPageN) * db.page, lost: e.lost.Load()}, nil
}

// Compaction is what one has done to the size of the file, in bytes.
type Compaction struct{ Before, After int64 }

func (c Compaction) String() string {
	return "it had " + megabytes(c.Before) + ", now " + megabytes(c.After)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// The pace of a copy: how long it rests, in multiples of the time that it works.
const (
	atOnce  = 0
	inPeace = 1
)

// Compact writes all that is in the file to a new one, which takes its place, while the file is used. It needs as much room
// on the disk as is in use. An error that wraps ErrBusy or ErrNoRoom says that it was not begun. After any error the file is
// as it was.
func (e *Embedded) Compact(ctx context.Context) (Compaction, error) { return e.compact(ctx, inPeace) }

func (e *Embedded) compact(ctx context.Context, pace float64) (Compaction, error) {
	before, err := e.Usage()
	if err != nil {
		return Compaction{}, err
	}
	path := e.path + compactSuffix
	err = e.copyOnce(ctx, path, before, pace, func(to *database) error {
		if err := e.sameFile(); err != nil {
			return err
		}
		if err := os.Rename(path, e.path); err != nil {
			return err
		}
		// From here on the new file is the one; nothing may fail any more.
		former := e.db.Swap(to)
		e.lost.Store(0)
		if err := syncFolder(filepath.Dir(e.path)); err != nil {
			// After a power failure the former file may be there again, without what would be written to this one.
			e.broken = fmt.Errorf("the name of the compacted file may not be on the disk: %w; restart pseudo-server", err)
		}
		// It waits for reads under way. The file has no name any more: an error loses nothing.
		_ = guarded(former.Close)
		return nil
	})
	if err != nil {
		return Compaction{}, err
	}
	after, err := e.Usage()
	return Compaction{Before: before.File, After: after.File}, err
}

// Backup writes a copy of the file to path, as it is at one moment before Backup returns, while it is used. Everything that
// was acknowledged before the call is in it. What is at path is replaced. Errors are as those of Compact.
func (e *Embedded) Backup(ctx context.Context, path string) error {
	return e.backup(ctx, path, inPeace)
}

func (e *Embedded) backup(ctx context.Context, path string, pace float64) error {
	usage, err := e.Usage()
	if err != nil {
		return err
	}
	return e.copyOnce(ctx, path, usage, pace, func(to *database) error { return to.Close() })
}

// OpenBackup makes a copy beside the file and opens it to be read. It is gone when it is closed, or when the process ends.
func (e *Embedded) OpenBackup(ctx context.Context) (*os.File, error) {
	path := e.path + backupSuffix
	var file *os.File
	usage, err := e.Usage()
	if err != nil {
		return nil, err
	}
	err = e.copyOnce(ctx, path, usage, inPeace, func(to *database) error {
		err := to.Close()
		if err == nil {
			file, err = os.Open(path) //nolint:gosec // ours
		}
		return errors.Join(err, os.Remove(path))
	})
	return file, err
}

// copyOnce is liveCopy for one at a time, and only if there is room for it.
func (e *Embedded) copyOnce(ctx context.Context, path string, usage Usage, pace float64, finish func(*database) error) error {
	if !e.copying.TryLock() {
		return fmt.Errorf("database %s: %w", e.path, ErrBusy)
	}
	defer e.copying.Unlock()
	need := usage.File - usage.Free + spareBytes
	if free, err := diskFree(filepath.Dir(path)); err == nil && free < need {
		return fmt.Errorf("database %s: %w: %s are free in %s, %s are needed", e.path, ErrNoRoom, megabytes(free), filepath.Dir(path), megabytes(need))
	}
	err := guarded(func() error { return e.liveCopy(ctx, path, pace, finish) })
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("copy database %s to %s: %w", e.path, path, err)
	}
	return err
}

// Compact makes the file at path, which no pseudo-server may have open, as small as what is in it.
func Compact(ctx context.Context, path string) (done Compaction, err error) {
	e, err := openExisting(path) //nolint:contextcheck // what it does in the background lasts until Close
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	return e.compact(ctx, atOnce)
}

// openExisting is OpenEmbedded for a file that must be there.
func openExisting(path string) (*Embedded, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	return OpenEmbedded(path)
}

// Backup writes a copy of the file at path, which no pseudo-server may have open, to a new file.
func Backup(ctx context.Context, path, to string) (err error) {
	e, err := openExisting(path) //nolint:contextcheck // what it does in the background lasts until Close
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	return newFile(to, func(part string) error { return e.backup(ctx, part, atOnce) })
}

// SaveBackup writes a backup, as a running pseudo-server sends it, to a new file. size is how many bytes are to come.
func SaveBackup(from io.Reader, size int64, to string) error {
	return newFile(to, func(part string) (err error) {
		out, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // the operator names it
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, out.Close()) }()
		n, err := io.CopyN(out, from, size)
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("only %d of %d bytes came: %w", n, size, io.ErrUnexpectedEOF)
		}
		return errors.Join(err, out.Sync())
	})
}

// newFile makes a database file that is not there yet. It has its name when it is complete and was read to its end without
// damage; what another attempt left is replaced.
func newFile(path string, write func(part string) error) error {
	part := path + ".part"
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s is there already: name another file", path))
	}
	err := write(part)
	if err == nil {
		var x *Examined
		if x, err = Examine(part); err == nil && x.Damaged > 0 {
			err = fmt.Errorf("the copy: %w", damage(x.Damage[0]))
		}
	}
	if err == nil {
		// Not Rename: another file of that name may have come meanwhile.
		err = os.Link(part, path)
		if err != nil && !errors.Is(err, os.ErrExist) {
			err = os.Rename(part, path) // a file system without second names
			part = ""
		}
	}
	if part != "" {
		if e := os.Remove(part); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncFolder(filepath.Dir(path))
}
