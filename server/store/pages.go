package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// The layout of bbolt's files. They are read here without bbolt, which panics on damaged pages, some of them in goroutines
// of its own, where nobody can recover.
const (
	pageHeader    = 16 // id, flags, count, overflow
	pageElement   = 16 // of a branch: position, key size, page; of a leaf: flags, position, key size, value size
	branchPage    = 0x01
	leafPage      = 0x02
	metaPage      = 0x04
	freelistPage  = 0x10
	manyFree      = 0xFFFF             // the number of free pages follows
	noFreelist    = 0xffffffffffffffff // the list is not in the file
	bucketElement = 0x01
	bucketHeader  = 16 // page and sequence
	metaMagic     = 0xED0CDAED
	metaSize      = 64 // with its checksum at the end
	maxDepth      = 64 // of pages; that many levels would hold more than any disk
	maxPageBytes  = 1 << 30
	maxTold       = 20
)

// pageWalk reads all pages of a database file that are in use.
type pageWalk struct {
	file  io.ReaderAt
	size  int64
	page  int64  // bytes
	limit uint64 // pages
	seen  []uint64
	// visit is called with each key and value, and the names of the buckets that it is in; nil: values are not read.
	visit func(path [][]byte, key, value []byte) error
	// damaged is called with what is damaged, and the buckets that it is in.
	damaged func(path [][]byte, what string)
	// enter tells which of the outermost buckets are read; nil: all.
	enter func(bucket []byte) bool
}

// order is that of the machine, as bbolt's.
var order = binary.NativeEndian

// meta is the page that tells where all others are.
type meta struct {
	page        int64
	root, limit uint64
	freelist    uint64
	transaction uint64
	raw         []byte
}

func parseMeta(b []byte) (meta, bool) {
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	if order.Uint32(b) != metaMagic || order.Uint64(b[metaSize-8:]) != sum.Sum64() {
		return meta{}, false
	}
	m := meta{
		page: int64(order.Uint32(b[8:])), root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]), limit: order.Uint64(b[40:]),
		transaction: order.Uint64(b[48:]), raw: b[:metaSize],
	}
	return m, m.page >= 512 && m.page <= 1<<20 && m.page&(m.page-1) == 0
}

// readMeta returns the newest of the two meta pages that is valid.
func readMeta(file io.ReaderAt) (meta, error) {
	var best meta
	at := func(offset int64) {
		b := make([]byte, metaSize)
		if _, err := file.ReadAt(b, offset+pageHeader); err != nil {
			return
		}
		if m, ok := parseMeta(b); ok && (offset == 0 || offset == m.page) && (best.page == 0 || m.transaction > best.transaction) {
			best = m
		}
	}
	at(0)
	if best.page != 0 {
		at(best.page)
		return best, nil
	}
	for page := int64(512); page <= 1<<20; page *= 2 {
		at(page)
	}
	if best.page == 0 {
		return meta{}, errors.New("both pages that tell where all others are, at its beginning, are damaged, or it is no database")
	}
	return best, nil
}

// run reads the whole file. An error means that nothing of it can be read, or that visit failed.
func (w *pageWalk) run() error {
	m, err := readMeta(w.file)
	if err != nil {
		return err
	}
	w.page, w.limit = m.page, m.limit
	if need := int64(min(m.limit, 1<<40)) * m.page; need > w.size {
		w.damaged(nil, fmt.Sprintf("it has %d bytes and should have at least %d: its end is missing", w.size, need))
		w.limit = uint64(w.size / w.page)
	}
	w.seen = make([]uint64, w.limit/64+1)
	if err := w.walk(nil, m.root, 0, nil, nil); err != nil {
		return err
	}
	w.freelist(m)
	return nil
}

// walk reads a page and those beneath it. Keys are from low (inclusive) to high (exclusive); nil: not bounded.
func (w *pageWalk) walk(path [][]byte, id uint64, depth int, low, high []byte) error {
	if id < 2 || id >= w.limit {
		w.damaged(path, fmt.Sprintf("page %d is referred to and does not exist", id))
		return nil
	}
	if w.seen[id/64]&(1<<(id%64)) != 0 {
		w.damaged(path, fmt.Sprintf("page %d is in use twice", id))
		return nil
	}
	w.seen[id/64] |= 1 << (id % 64)
	offset := int64(id) * w.page
	header := make([]byte, pageHeader)
	if _, err := w.file.ReadAt(header, offset); err != nil {
		w.damaged(path, fmt.Sprintf("page %d cannot be read: %v", id, err))
		return nil
	}
	overflow := uint64(order.Uint32(header[12:]))
	total := int64(overflow+1) * w.page
	if order.Uint64(header) != id || overflow >= w.limit-id || total > maxPageBytes {
		w.damaged(path, fmt.Sprintf("page %d is damaged: its header is not its own", id))
		return nil
	}
	for next := id + 1; next <= id+overflow; next++ {
		if w.seen[next/64]&(1<<(next%64)) != 0 {
			w.damaged(path, fmt.Sprintf("page %d is in use twice", next))
			return nil
		}
		w.seen[next/64] |= 1 << (next % 64)
	}
	data := make([]byte, total)
	if _, err := w.file.ReadAt(data, offset); err != nil {
		w.damaged(path, fmt.Sprintf("page %d cannot be read: %v", id, err))
		return nil
	}
	return w.content(path, data, fmt.Sprintf("page %d", id), depth, low, high)
}

// content reads a page, which may lie in the value of a small bucket.
func (w *pageWalk) content(path [][]byte, data []byte, name string, depth int, low, high []byte) error {
	flags, count := order.Uint16(data[8:]), int(order.Uint16(data[10:]))
	branch := flags == branchPage
	if (!branch && flags != leafPage) || pageHeader+count*pageElement > len(data) || depth > maxDepth || (branch && count == 0) {
		w.damaged(path, name+" is damaged: it is neither a branch nor a leaf")
		return nil
	}
	keys, problem := keysOf(data, branch, count, low, high)
	if problem != "" {
		w.damaged(path, name+" is damaged: "+problem)
		return nil
	}
	for i, k := range keys {
		e := data[pageHeader+i*pageElement:]
		if branch {
			next := high
			if i+1 < count {
				next = keys[i+1]
			}
			if err := w.walk(path, order.Uint64(e[8:]), depth+1, k, next); err != nil {
				return err
			}
			continue
		}
		start := pageHeader + i*pageElement + int(order.Uint32(e[4:])) + len(k)
		if err := w.element(path, order.Uint32(e), k, data[start:start+int(order.Uint32(e[12:]))], name, depth); err != nil {
			return err
		}
	}
	return nil
}

// keysOf returns the keys of a page whose elements and values all lie within it, or what is wrong with them.
func keysOf(data []byte, branch bool, count int, low, high []byte) (keys [][]byte, problem string) {
	keys = make([][]byte, 0, count)
	for i := range count {
		at := pageHeader + i*pageElement
		e := data[at:]
		position, size, value := order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
		if branch {
			position, size, value = order.Uint32(e), order.Uint32(e[4:]), 0
		}
		key := at + int(position)
		if key < pageHeader+count*pageElement || int64(key)+int64(size)+int64(value) > int64(len(data)) {
			return nil, fmt.Sprintf("its element %d lies outside", i)
		}
		k := data[key : key+int(size)]
		if (i > 0 && bytes.Compare(keys[i-1], k) >= 0) || (low != nil && bytes.Compare(k, low) < 0) || (high != nil && bytes.Compare(k, high) >= 0) {
			return nil, "its keys are not in order"
		}
		keys = append(keys, k)
	}
	return keys, ""
}

func (w *pageWalk) element(path [][]byte, flags uint32, key, value []byte, name string, depth int) error {
	switch {
	case flags == 0 && w.visit != nil:
		return w.visit(path, key, value)
	case flags == 0:
		return nil
	case flags != bucketElement || len(value) < bucketHeader:
		w.damaged(path, name+" is damaged: it has an element that is neither a value nor a bucket")
		return nil
	}
	if len(path) == 0 && w.enter != nil && !w.enter(key) {
		return nil
	}
	inner := append(append([][]byte{}, path...), key)
	if root := order.Uint64(value); root != 0 {
		return w.walk(inner, root, depth+1, nil, nil)
	}
	if len(value) < bucketHeader+pageHeader || order.Uint16(value[bucketHeader+8:]) != leafPage {
		w.damaged(inner, name+" is damaged: it has a bucket without a page")
		return nil
	}
	return w.content(inner, value[bucketHeader:], name, depth+1, nil, nil)
}

// walkFile reads the database file at path, without a lock. Without visit only its structure is looked at.
func walkFile(path string, visit func(path [][]byte, key, value []byte) error, damaged func(path [][]byte, what string)) error {
	return (&pageWalk{visit: visit, damaged: damaged}).open(path)
}

// open reads the file at path.
func (w *pageWalk) open(path string) (err error) {
	file, err := os.Open(path) //nolint:gosec // the operator names it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return errors.New("it has zero bytes: what was in it is lost")
	}
	w.file, w.size = file, info.Size()
	return w.run()
}
