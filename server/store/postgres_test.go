package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/server/store"
	"github.com/pseudo-agent/pseudo-agent/server/store/pgtest"
)

// mutePostgres opens a database over a connection that mute makes silent: it stays open, and nothing comes any more.
func mutePostgres(t *testing.T) (p *store.Postgres, mute func()) {
	t.Helper()
	server := pgtest.Start(t)
	dsn, err := url.Parse(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	address := dsn.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dsn.Host = l.Addr().String()
	muted := make(chan struct{})
	var running sync.WaitGroup
	pipe := func(to, from net.Conn) {
		running.Go(func() {
			b := make([]byte, 4096)
			for {
				n, err := from.Read(b)
				if err != nil {
					_ = to.Close()
					return
				}
				select {
				case <-muted:
				default:
					_, _ = to.Write(b[:n])
				}
			}
		})
	}
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", address)
			if err != nil {
				_ = c.Close()
				continue
			}
			pipe(to, c)
			pipe(c, to)
		}
	})
	p, err = store.OpenPostgres(t.Context(), dsn.String(), 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		server.Kill()
		_ = p.Close()
		running.Wait()
	})
	return p, sync.OnceFunc(func() { close(muted) })
}

// TestMutePostgres: a database that does not answer is one that is not available, for whoever gives up for that reason. It
// is not for somebody who no longer waits for reasons of his own.
func TestMutePostgres(t *testing.T) {
	p, mute := mutePostgres(t)
	if err := p.Check(t.Context()); err != nil {
		t.Fatalf("Check: got %v before the database is silent", err)
	}
	mute()
	if err := p.Check(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Check: got %v, want ErrUnavailable", err)
	}
	why := fmt.Errorf("%w: no answer", store.ErrUnavailable)
	for name, tt := range map[string]struct {
		cause error
		want  bool
	}{"a loop": {why, true}, "a client": {io.EOF, false}} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, tt.cause)
		_, err := p.Clusters(ctx)
		cancel()
		if err == nil || errors.Is(err, store.ErrUnavailable) != tt.want {
			t.Errorf("%s gives up: got %v, want ErrUnavailable %v", name, err, tt.want)
		}
	}
}

// TestReadOnlyPostgres: a server that cannot be written to, such as a standby that the address led to, is not read from
// either: what it has may be old.
func TestReadOnlyPostgres(t *testing.T) {
	server := pgtest.Start(t, "fsync = off", "default_transaction_read_only = on")
	p, err := store.OpenPostgres(t.Context(), server.DSN(), 2)
	if err == nil {
		_ = p.Close()
		t.Fatal("got no error, want the server refused")
	}
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}
