package explore

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// jugs is the puzzle of two jugs, of 3 and 5 litres, of which one is to hold 4. Its shortest solution has 6 steps.
type jugs struct {
	small, large int
	story        []string
}

func (j *jugs) Events() []string {
	return []string{"fill small", "fill large", "empty small", "empty large", "small to large", "large to small"}
}

func (j *jugs) Do(i int) {
	j.story = append(j.story, j.Events()[i])
	switch i {
	case 0:
		j.small = 3
	case 1:
		j.large = 5
	case 2:
		j.small = 0
	case 3:
		j.large = 0
	case 4:
		n := min(j.small, 5-j.large)
		j.small, j.large = j.small-n, j.large+n
	case 5:
		n := min(j.large, 3-j.small)
		j.large, j.small = j.large-n, j.small+n
	}
}

func (j *jugs) Key() string     { return fmt.Sprint(j.small, j.large) }
func (j *jugs) Settle() error   { return nil }
func (j *jugs) Story() []string { return j.story }

func (j *jugs) Err() error {
	if j.large == 4 {
		return errors.New("4 litres")
	}
	return nil
}

func TestShortestStory(t *testing.T) {
	r := Run(func() Model { return &jugs{} }, 10)
	want := []string{"fill large", "large to small", "empty small", "large to small", "fill large", "large to small"}
	if r.Err == nil || !slices.Equal(r.Broken, want) {
		t.Errorf("got %v by %v, want the 6 steps %v", r.Err, r.Broken, want)
	}
}

// harmless are the jugs when nobody minds.
type harmless struct{ *jugs }

func (harmless) Err() error { return nil }

func TestAllStates(t *testing.T) {
	r := Run(func() Model { return harmless{&jugs{}} }, 100)
	// One of the jugs is always full or empty: 2·6 + 2·4 − 4 states.
	if r.States != 16 || !r.Complete {
		t.Errorf("got %d states, complete: %v, want all 16", r.States, r.Complete)
	}
	if r = Run(func() Model { return harmless{&jugs{}} }, 2); r.Complete || r.Depth != 2 {
		t.Errorf("got depth %d, complete: %v, want depth 2 and more to come", r.Depth, r.Complete)
	}
}
