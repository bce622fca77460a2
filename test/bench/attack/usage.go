package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is where the memory of a server was at one moment, in bytes.
type usage struct {
	anon, file int64 // of the process: its own memory, and pages of files that it has mapped, which the kernel may take back
	cgroup     int64 // all that the cgroup counts
	cgroupAnon int64 // what of it can not be taken back
	counted    int64 // what the server's budget counts
	// What the Go runtime has: objects, some of them dead; what was given back to the kernel; all that it ever had.
	heap, released, system int64
}

func (u usage) String() string {
	mib := func(n int64) int64 { return n >> 20 }
	return fmt.Sprintf("own memory %d MiB, mapped files %d MiB; the cgroup %d MiB, of which %d MiB can not be taken back; objects of Go %d MiB of %d MiB; the budget counts %d MiB",
		mib(u.anon), mib(u.file), mib(u.cgroup), mib(u.cgroupAnon), mib(u.heap), mib(u.system-u.released), mib(u.counted))
}

// watch looks at the server's memory five times a second until the context ends, and keeps the moment with the most memory of its own.
// A heap profile of each such moment goes to the folder, if one is given.
func (s *server) watch(ctx context.Context, profiles string) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	var saved int64
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		u := usage{anon: s.kib("RssAnon:"), file: s.kib("RssFile:"), cgroup: s.cgroupUsage(), cgroupAnon: s.cgroupAnon()}
		s.cgroupAnonPeak = max(s.cgroupAnonPeak, u.cgroupAnon)
		if u.anon <= s.most.anon {
			continue
		}
		s.metrics(ctx, &u)
		s.most = u
		if profiles != "" && u.anon > saved+saved/10 {
			saved = u.anon
			fmt.Println(u)
			s.profile(ctx, filepath.Join(profiles, fmt.Sprintf("heap-%04d.pprof", u.anon>>20)))
		}
	}
}

// kib is a value of the process's status.
func (s *server) kib(key string) int64 {
	text, _, _ := strings.Cut(s.field("/proc/"+strconv.Itoa(s.cmd.Process.Pid)+"/status", key), " ")
	n, _ := strconv.ParseInt(text, 10, 64)
	return n << 10
}

func (s *server) cgroupUsage() int64 {
	name := "memory.current"
	if s.v1 {
		name = "memory.usage_in_bytes"
	}
	b, err := os.ReadFile(filepath.Join(s.cgroup, name))
	if s.cgroup == "" || err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

func (s *server) cgroupAnon() int64 {
	if s.cgroup == "" {
		return 0
	}
	key := "anon "
	if s.v1 {
		key = "rss "
	}
	n, _ := strconv.ParseInt(s.field(filepath.Join(s.cgroup, "memory.stat"), key), 10, 64)
	return n
}

// metrics reads what the server says of itself. What can not be read stays 0: under attack an answer may take longer than a moment.
func (s *server) metrics(ctx context.Context, u *usage) {
	body, err := s.get(ctx, "/metrics")
	if err != nil {
		return
	}
	defer func() { _ = body.Close() }()
	for lines := bufio.NewScanner(body); lines.Scan(); {
		name, text, _ := strings.Cut(lines.Text(), " ")
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			continue
		}
		switch name {
		case "go_memstats_heap_alloc_bytes":
			u.heap = int64(value)
		case "go_memstats_heap_released_bytes":
			u.released = int64(value)
		case "go_memstats_sys_bytes":
			u.system = int64(value)
		case "pseudo_server_clusters_memory_bytes":
			u.counted = int64(value)
		}
	}
}

func (s *server) profile(ctx context.Context, file string) {
	body, err := s.get(ctx, "/debug/pprof/heap")
	if err != nil {
		fmt.Println("no heap profile:", err)
		return
	}
	defer func() { _ = body.Close() }()
	b, err := io.ReadAll(body)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		fmt.Println("no heap profile:", err)
	}
}

func (s *server) get(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.target.http+path, nil)
	if err != nil {
		return nil, err //nolint:wrapcheck // it says everything
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err //nolint:wrapcheck // it says everything
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return resp.Body, nil
}
