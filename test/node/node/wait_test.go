package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What is missing is told, not that the request during which the time ran out was cancelled.
func TestWaitTellsWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := Wait(ctx, "deployment", func(ctx context.Context) error {
			time.Sleep(300 * time.Millisecond)
			if err := ctx.Err(); err != nil {
				return err
			}
			return errors.New("1 of 2 replicas")
		})
		if err == nil || !strings.Contains(err.Error(), "deployment: not in time: 1 of 2 replicas") {
			t.Errorf("got %v", err)
		}
	})
}
