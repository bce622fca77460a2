package store

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// TestUnknownClusters asks for clusters that are not stored: they must not stay in memory.
func TestUnknownClusters(t *testing.T) {
	ctx := context.Background()
	s := New(NewMemory(), Options{})
	for i := range 100 {
		if _, err := s.View(ctx, fmt.Sprint(i)); !errors.Is(err, ErrNotFound) {
			t.Fatalf("got %v, want ErrNotFound", err)
		}
	}
	tx, err := s.Begin(ctx, "forgotten")
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Save(ctx, 1, Touch{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := tx.Forget(ctx); err != nil {
		t.Fatal(err)
	}
	tx.Close()
	if n := len(s.clusters); n != 0 {
		t.Errorf("got %d clusters in memory, want none", n)
	}
}

// TestBeginWaits gives a cluster to one at a time, and does not wait longer than its context.
func TestBeginWaits(t *testing.T) {
	s := New(NewMemory(), Options{})
	tx, err := s.Begin(context.Background(), "c")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Begin(ctx, "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	got := make(chan error, 1)
	go func() {
		second, err := s.Begin(context.Background(), "c")
		if err == nil {
			second.Close()
		}
		got <- err
	}()
	tx.Close()
	if err := <-got; err != nil {
		t.Errorf("after Close: %v", err)
	}
}
