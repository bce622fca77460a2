package informers

import (
	"fmt"
	"sync/atomic"

	"github.com/pseudo-agent/pseudo-agent/resources"
)

// room bounds what lists may add to what is held already: a list that does not end would otherwise take the whole memory.
// Watches are not bounded, since what they bring is the truth about what was listed.
type room struct {
	limit   int64 // bytes of all entries, 0: no bound
	objects int   // of one list
	used    atomic.Int64
}

// entryOverhead is what an entry takes besides its wire form, in bytes: in the maps of its resource, of the list under way and
// of the snapshot.
const entryOverhead = 250

func entrySize(e *resources.Entry) int64 { return int64(len(e.Wire())) + entryOverhead }

// take takes room for n bytes, or says why there is none.
func (r *room) take(n int64) error {
	if used := r.used.Add(n); r.limit > 0 && used > r.limit {
		r.used.Add(-n)
		return &tooLargeError{fmt.Sprintf("the list would bring all objects to more than %d bytes, which is what the memory allows", r.limit)}
	}
	return nil
}

// tooLargeError ends a list that would be more than this process can hold.
type tooLargeError struct{ msg string }

func (e *tooLargeError) Error() string { return e.msg }
