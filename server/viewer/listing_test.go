package viewer

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/paging"
)

// TestOneListAtATime: the list of a large cluster takes much memory, so that only one is made at a time, however many ask.
func TestOneListAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &Viewer{collecting: make(chan struct{}, 1)}
		var making, made atomic.Int64
		var readers sync.WaitGroup
		for i := range 8 {
			readers.Go(func() {
				_, err := v.listed(t.Context(), &cluster{}, fmt.Sprint(i), func() []paging.Row {
					if n := making.Add(1); n > 1 {
						t.Errorf("%d lists are made at once, want 1", n)
					}
					time.Sleep(time.Second)
					making.Add(-1)
					made.Add(1)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		readers.Wait()
		if made.Load() != 8 {
			t.Errorf("%d lists were made, want 8", made.Load())
		}
	})
}
