package store

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
)

// forgetFree makes the start after a crash quick. The list of free pages is not in the file then, and bbolt would read the whole file
// to find out which pages are in use. Instead it gets an empty list: what is written from then on goes to the end of the file, so that
// no page that may be in use is written to. What was free is lost until the file is compacted, see Usage.
//
// It is one more transaction of the file: the list lies where nothing is, then the older of the two meta pages becomes the newest. A
// crash in between leaves the file as it was. The caller has the lock of the file.
func forgetFree(path string) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // the operator names it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	m, err := readMeta(file)
	if err != nil {
		return damage(err)
	}
	if list, err := freePages(file, m); err == nil && list != nil && order.Uint16(list[10:]) == 0 {
		return nil // it was begun to be opened like this before
	}
	list := make([]byte, m.page)
	order.PutUint64(list, m.limit)
	order.PutUint16(list[8:], freelistPage)
	if _, err := file.WriteAt(list, int64(m.limit)*m.page); err != nil {
		return fmt.Errorf("write an empty list of free pages: %w", err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("write an empty list of free pages: %w", err)
	}
	next := make([]byte, m.page)
	slot := (m.transaction + 1) % 2
	order.PutUint64(next, slot)
	order.PutUint16(next[8:], metaPage)
	body := next[pageHeader:]
	copy(body, m.raw)
	order.PutUint64(body[32:], m.limit)
	order.PutUint64(body[40:], m.limit+1)
	order.PutUint64(body[48:], m.transaction+1)
	sum := fnv.New64a()
	_, _ = sum.Write(body[:metaSize-8])
	order.PutUint64(body[metaSize-8:], sum.Sum64())
	if _, err := file.WriteAt(next, int64(slot)*m.page); err != nil {
		return fmt.Errorf("write the page that tells where all others are: %w", err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("write the page that tells where all others are: %w", err)
	}
	return nil
}

// left tells how a file was left that is to be opened.
type left int

const (
	leftSmall   left = iota // it was read to its end, however it was left
	leftClosed              // it is large and was closed as it should be: it is read while it is in use
	leftCrashed             // it is large and was not: it is read while it is in use, and what was free in it is lost for now
)

// lostPages is about how much of the file of a crashed process is lost, from what its keys and values take: pages are seldom less than
// half full.
func lostPages(file, inUse int64) int64 { return max(0, file-2*inUse) }
