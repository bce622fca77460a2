package receiver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"github.com/klauspost/compress/zlib"
	"golang.org/x/sync/errgroup"

	"github.com/pseudo-agent/pseudo-agent/server/store"
)

// versionInfo is the wire type without which deepflow-server fails the whole cluster (docs/protocol.md, section 3).
const versionInfo = "*version.Info"

// Bounds of strings that are kept in the index, in bytes; Kubernetes' own are 253 and 36.
const (
	maxTypeLength = 128
	maxTypes      = 256
	maxNameLength = 512
)

var wireTypePattern = regexp.MustCompile(`^\*[A-Za-z0-9_./-]*[A-Za-z0-9]\.[A-Za-z][A-Za-z0-9_]*$`)

// validator turns the raw entries of a request into what the store takes, or says why that is not possible.
type validator struct {
	limits  Limits
	lenient bool
	// known finds entries that were accepted before; their payloads are not looked into again.
	known func(store.Sum) *store.Entry
	// cost is what a new entry will take in memory, reserve takes room for that, and await does so after a while if it must; nil:
	// nobody counts.
	cost           func(*store.Entry) int64
	reserve, await func(int64) error
	// large is where entries wait that are more than keepBuffer decompressed; nil: they do not.
	large chan struct{}
	// slots has a place for each goroutine that checks entries; nil: there is no bound.
	slots chan struct{}

	rawBytes     atomic.Int64
	splitObjects atomic.Int64
}

// collect is how many elements of an array or List are of interest.
func (v *validator) collect() int {
	if v.lenient {
		return v.limits.MaxEntries
	}
	return 0
}

// entries checks all entries on all processors.
func (v *validator) entries(ctx context.Context, raw []rawEntry) ([]store.Incoming, error) {
	if r := v.types(raw); r != nil {
		return nil, r
	}
	b := batch{v: v, raw: raw, all: make([]store.Incoming, len(raw)), first: len(raw), splits: map[int][]store.Incoming{}}
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), (len(raw)+chunkSize-1)/chunkSize) {
		g.Go(func() error { return b.work(ctx) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if b.err != nil {
		return nil, b.err
	}
	if len(b.splits) > 0 {
		b.all = inPlace(b.all, b.splits)
	}
	return v.whole(b.all)
}

// batch is the entries of one report while several goroutines check them.
type batch struct {
	v    *validator
	raw  []rawEntry
	next atomic.Int64 // the first entry that no goroutine has begun
	// all has a place for each entry, so that nothing has to be put together in the end; only arrays and Lists, which are
	// split where that is allowed, give more than one.
	all []store.Incoming

	mu     sync.Mutex
	splits map[int][]store.Incoming
	// first is the first bad entry, which the message names, so that the same request always gets the same answer.
	first int
	err   error
}

// chunkSize is how many entries a goroutine of a batch takes at a time.
const chunkSize = 256

// work checks chunks of entries until none is left, or one is bad.
func (b *batch) work(ctx context.Context) error {
	d := decoder{namespaces: map[string]string{}}
	for {
		if b.v.slots != nil {
			select {
			case b.v.slots <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		more := ctx.Err() == nil && b.chunk(&d)
		if b.v.slots != nil {
			<-b.v.slots
		}
		if !more {
			return context.Cause(ctx)
		}
	}
}

// chunk checks the next chunk, and tells whether there may be more.
func (b *batch) chunk(d *decoder) bool {
	from := int(b.next.Add(chunkSize)) - chunkSize
	for i := from; i < min(from+chunkSize, len(b.raw)); i++ {
		f, err := b.v.entry(d, i, b.raw[i])
		if err == nil {
			err = b.v.takeIn(d, f)
		}
		d.leave(b.v.large)
		if err != nil {
			b.fail(i, err)
			return false
		}
		if f.split != nil {
			b.split(i, f.split)
		}
		b.all[i] = f.one
	}
	return from+chunkSize < len(b.raw)
}

// takeIn takes the room for what an entry holds.
func (v *validator) takeIn(d *decoder, f found) error {
	if v.reserve == nil {
		return nil
	}
	if f.one.Entry != nil {
		f.split = []store.Incoming{f.one}
	}
	for _, in := range f.split {
		if in.Entry == nil {
			continue
		}
		n := v.cost(in.Entry)
		if d.room < n {
			// Some are reserved at once; near the end of the room one by one.
			if v.reserve(roomStep) == nil {
				d.room += roomStep
			} else if err := v.await(n); err != nil {
				return orFull(err)
			} else {
				d.room += n
			}
		}
		d.room -= n
	}
	return nil
}

// roomStep is how much room is reserved at once for entries, in bytes; more than one of them takes.
const roomStep = 64 << 10

// fail notes a bad entry and ends the batch: earlier entries are with other goroutines, which end their chunks; later ones
// are not begun.
func (b *batch) fail(i int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i < b.first {
		b.first, b.err = i, err
	}
	b.next.Store(int64(len(b.raw)))
}

func (b *batch) split(i int, items []store.Incoming) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.splits[i] = items
}

// inPlace puts the objects of arrays and Lists where these stood, so that the same request is always the same report.
func inPlace(all []store.Incoming, splits map[int][]store.Incoming) []store.Incoming {
	var out []store.Incoming
	for i, in := range all {
		if split, ok := splits[i]; ok {
			out = append(out, split...)
		} else {
			out = append(out, in)
		}
	}
	return out
}

// found is what one entry holds: an object, or the objects of an array or List.
type found struct {
	one   store.Incoming
	split []store.Incoming
}

// types checks the wire types, of which there are few.
func (v *validator) types(raw []rawEntry) *refusal {
	seen := map[string]struct{}{}
	for i, e := range raw {
		if _, ok := seen[e.wireType]; ok {
			continue
		}
		if !wireTypePattern.MatchString(e.wireType) {
			return invalid(ruleType, `set KubernetesAPIInfo.type to the Go type, for example "*v1.Pod"`,
				"entry %d: its type %q is not of the form *package.Kind", i, clip(e.wireType))
		}
		if len(seen) == maxTypes {
			return invalid(ruleType, "send only the types that deepflow-server knows",
				"entry %d: more than %d different types in one report", i, maxTypes)
		}
		seen[e.wireType] = struct{}{}
	}
	return nil
}

// whole checks what concerns all entries together, and settles duplicates.
func (v *validator) whole(all []store.Incoming) ([]store.Incoming, error) {
	if len(all) > v.limits.MaxEntries {
		return nil, v.tooManyEntries()
	}
	at := make(map[store.Key]int, len(all))
	hasVersion := false
	out := all[:0]
	for _, in := range all {
		e := entryOf(in)
		hasVersion = hasVersion || e.Type == versionInfo
		before, duplicate := at[e.Key]
		if !duplicate {
			at[e.Key] = len(out)
			out = append(out, in)
			continue
		}
		if !v.lenient {
			return nil, invalid(ruleDuplicate, "report each object once under each type",
				"%s is in the report twice", describe(e))
		}
		// The last one wins, as in deepflow-server.
		out[before] = in
	}
	if !hasVersion {
		return nil, invalid(ruleVersionInfo,
			`add one entry of type *version.Info with the JSON of the apiserver's /version; without it deepflow-server fails the whole cluster`,
			"the report of %d entries has no *version.Info", len(all))
	}
	return out, nil
}

func (v *validator) tooManyEntries() *refusal {
	return invalid(ruleEntries, "report fewer types or raise limits.max_entries of pseudo-server",
		"the report has more than %d entries", v.limits.MaxEntries)
}

func describe(e *store.Entry) string {
	name := e.Name
	if e.Namespace != "" {
		name = e.Namespace + "/" + name
	}
	return strings.TrimSpace(e.Type + " " + name)
}

// entry checks one entry.
func (v *validator) entry(d *decoder, i int, raw rawEntry) (found, error) {
	sum := store.SumOf(raw.wireType, raw.payload)
	if known := v.known(sum); known != nil {
		if r := v.count(i, raw.wireType, int64(known.RawSize)); r != nil {
			return found{}, r
		}
		return found{one: store.Incoming{Known: known}}, nil
	}
	data, r := d.decompress(i, raw, v.limits.MaxEntrySize, v.large)
	if r == nil {
		r = v.count(i, raw.wireType, int64(len(data)))
	}
	if r != nil {
		return found{}, r
	}
	if !utf8.Valid(data) {
		return found{}, invalid(ruleUTF8, "send the object's JSON as the apiserver gives it", "entry %d (%s): its JSON is not UTF-8", i, raw.wireType)
	}
	o, err := inspect(data, v.collect())
	if err != nil {
		return found{}, invalid(ruleJSON, "send one complete JSON object in each entry; deepflow-server would fail the whole cluster",
			"entry %d (%s): its content is not valid JSON: %v", i, raw.wireType, err)
	}
	if o.shape == "object" {
		e, r := d.makeEntry(i, raw.wireType, o)
		if r != nil {
			return found{}, r
		}
		e.Sum, e.Size, e.RawSize = sum, uint32(len(raw.payload)), uint32(len(data))
		return found{one: store.Incoming{Entry: e, Payload: raw.payload}}, nil
	}
	if !v.lenient || o.shape == "null" || o.shape == "scalar" {
		advice := "send one JSON object in each entry"
		if o.shape == "array" || o.shape == "List" {
			advice = "send each object as an entry of its own, or let an operator of pseudo-server name the cluster in validation.lenient_clusters"
		}
		return found{}, invalid(ruleObject, advice, "entry %d (%s): its content is %s and not one object; deepflow-server would drop it silently",
			i, raw.wireType, article(o.shape))
	}
	if o.count > v.limits.MaxEntries || v.splitObjects.Add(int64(o.count)) > int64(v.limits.MaxEntries) {
		return found{}, v.tooManyEntries()
	}
	split, err := v.split(d, i, raw.wireType, o.items)
	return found{split: split}, err
}

func article(shape string) string {
	switch shape {
	case "array":
		return "an array"
	case "null":
		return "null"
	default:
		return "a " + shape
	}
}

// split makes an entry of each element of an array or List.
func (v *validator) split(d *decoder, i int, wireType string, items [][]byte) ([]store.Incoming, error) {
	out := make([]store.Incoming, 0, len(items))
	// The items lie in the decoder's buffer, which compressing them does not touch.
	for n, item := range items {
		o, err := inspect(item, 0)
		if err != nil || o.shape != "object" {
			return nil, invalid(ruleObject, "send each object as an entry of its own",
				"entry %d (%s): element %d is not an object", i, wireType, n)
		}
		e, r := d.makeEntry(i, wireType, o)
		if r != nil {
			return nil, r
		}
		payload := d.compress(item)
		e.Sum, e.Size, e.RawSize = store.SumOf(wireType, payload), uint32(len(payload)), uint32(len(item))
		if known := v.known(e.Sum); known != nil {
			out = append(out, store.Incoming{Known: known})
		} else {
			out = append(out, store.Incoming{Entry: e, Payload: payload})
		}
	}
	return out, nil
}

// count adds to the decompressed size of the whole report.
func (v *validator) count(i int, wireType string, n int64) *refusal {
	if v.rawBytes.Add(n) <= v.limits.MaxSnapshotSize {
		return nil
	}
	return invalid(ruleSnapshotSize, "report fewer types or raise limits.max_snapshot_size of pseudo-server",
		"entry %d (%s): the report has more than %d bytes decompressed", i, wireType, v.limits.MaxSnapshotSize)
}

func (d *decoder) makeEntry(i int, wireType string, o object) (*store.Entry, *refusal) {
	if wireType == versionInfo {
		if len(o.gitVersion) == 0 {
			return nil, invalid(ruleVersionInfo, "send the JSON of the apiserver's /version",
				"entry %d (%s): it has no gitVersion", i, wireType)
		}
		return &store.Entry{Key: store.KeyOf(wireType, nil), Type: wireType}, nil
	}
	for _, f := range []struct {
		field string
		value []byte
	}{{"uid", o.uid}, {"name", o.name}, {"namespace", o.namespace}} {
		if len(f.value) == 0 && f.field != "namespace" {
			return nil, invalid(ruleMetadata, "send the object with its metadata; deepflow-server would drop it silently",
				"entry %d (%s): metadata.%s is missing", i, wireType, f.field)
		}
		if len(f.value) > maxNameLength || bytes.ContainsFunc(f.value, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }) {
			return nil, invalid(ruleMetadata, "send the object as the apiserver gives it",
				"entry %d (%s): metadata.%s %q is longer than %d bytes or has control characters", i, wireType, f.field, clip(string(f.value)), maxNameLength)
		}
	}
	namespace, ok := d.namespaces[string(o.namespace)]
	if !ok {
		namespace = string(o.namespace)
		d.namespaces[namespace] = namespace
	}
	return &store.Entry{Key: store.KeyOf(wireType, o.uid), Type: wireType, Namespace: namespace, Name: string(o.name)}, nil
}

// clip shortens what a sender chose for a message.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// decoder holds what decompressing needs, to be used again for the next entry.
type decoder struct {
	// namespaces are shared by the entries in them.
	namespaces map[string]string

	room   int64 // reserved for entries and not yet used, in bytes
	inside bool  // it is one of those with a large entry

	in  bytes.Reader
	zr  io.ReadCloser
	buf []byte
	zw  *zlib.Writer
	out bytes.Buffer
}

// keepBuffer is the largest buffer that a decoder keeps for the next entry, in bytes.
const keepBuffer = 1 << 20

// decompress returns the content of an entry, valid until the next call.
// If that is large, leave must be called after it.
func (d *decoder) decompress(i int, raw rawEntry, limit int64, large chan struct{}) ([]byte, *refusal) {
	const advice = "compress each object's JSON with zlib (RFC 1950) into compressed_info; deepflow-server would lose the whole snapshot"
	if len(raw.payload) == 0 {
		return nil, invalid(ruleZlib, advice, "entry %d (%s): compressed_info is empty", i, raw.wireType)
	}
	err := d.read(raw.payload, limit, large)
	if errors.Is(err, errEntrySize) {
		return nil, invalid(ruleEntrySize, "leave huge values out or raise limits.max_entry_size of pseudo-server",
			"entry %d (%s): it has more than %d bytes decompressed", i, raw.wireType, limit)
	}
	if err != nil {
		return nil, invalid(ruleZlib, advice, "entry %d (%s): its content is not valid zlib: %v", i, raw.wireType, err)
	}
	return d.buf, nil
}

var errEntrySize = errors.New("entry too large")

// leave lets another one decompress a large entry.
func (d *decoder) leave(large chan struct{}) {
	if d.inside {
		d.inside, d.buf = false, nil
		<-large
	}
}

// read decompresses payload into the buffer. The size of what is large is found out first, so that what is too large costs no
// memory, and the rest no more than it needs.
func (d *decoder) read(payload []byte, limit int64, large chan struct{}) error {
	if err := d.reset(payload); err != nil {
		return err
	}
	if cap(d.buf) == 0 || cap(d.buf) > keepBuffer {
		d.buf = make([]byte, 0, 16<<10)
	}
	d.buf = d.buf[:0]
	for len(d.buf) < keepBuffer {
		if len(d.buf) == cap(d.buf) {
			d.buf = slices.Grow(d.buf, len(d.buf))
		}
		n, err := d.zr.Read(d.buf[len(d.buf):min(cap(d.buf), keepBuffer)])
		d.buf = d.buf[:len(d.buf)+n]
		if int64(len(d.buf)) > limit {
			return errEntrySize
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	rest, err := io.Copy(io.Discard, io.LimitReader(d.zr, limit-keepBuffer+1))
	if err != nil {
		return err
	}
	if keepBuffer+rest > limit {
		return errEntrySize
	}
	if large != nil {
		large <- struct{}{} // each of those inside needs nobody else to come out again
		d.inside = true
	}
	d.buf = make([]byte, keepBuffer+rest)
	if err := d.reset(payload); err != nil {
		return err
	}
	_, err = io.ReadFull(d.zr, d.buf)
	return err
}

func (d *decoder) reset(payload []byte) (err error) {
	d.in.Reset(payload)
	if d.zr == nil {
		d.zr, err = zlib.NewReader(&d.in)
	} else if resetter, ok := d.zr.(zlib.Resetter); ok {
		err = resetter.Reset(&d.in, nil)
	}
	return err
}

func (d *decoder) compress(data []byte) []byte {
	d.out.Reset()
	if d.zw == nil {
		d.zw = zlib.NewWriter(&d.out)
	} else {
		d.zw.Reset(&d.out)
	}
	// Writing to a bytes.Buffer cannot fail.
	_, _ = d.zw.Write(data)
	_ = d.zw.Close()
	return bytes.Clone(d.out.Bytes())
}
