package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/testseed"
)

// The child is this test binary, run again to be killed, in the folder of the file. The variable has what it does to that.
const (
	childDoes = "PSEUDO_TEST_STORE_CHILD"
	childFile = "test.db"
	// childLarge at the end of what it does has it take the file for a large one.
	childLarge = " of a large file"
)

func TestMain(m *testing.M) {
	const path = childFile
	does, large := strings.CutSuffix(os.Getenv(childDoes), childLarge)
	if large {
		readLater = 1
	}
	var err error
	switch does {
	case "":
		os.Exit(m.Run())
	case "write":
		err = childWrites(path)
	case "compact":
		_, err = Compact(context.Background(), path)
	case "backup":
		err = Backup(context.Background(), path, path+".copy")
	case "restore":
		_, err = Restore(path, path+".copy", time.Now())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

const crashClusters = 3

// crashObject is an object of a version: which only the cluster and the version decide, so that right is told from wrong.
func crashObject(cluster string, version uint64, i int) []byte {
	if i%5 != int(version%5) {
		version -= version % 5 // most stay for five versions
	}
	rng := rand.New(rand.NewPCG(version, uint64(i)))
	b := fmt.Appendf(nil, "%s %d %d ", cluster, version, i)
	for range 20 + rng.IntN(200) {
		b = fmt.Appendf(b, "%x", rng.Uint64())
	}
	return b
}

const crashObjects = 60

// childWrites writes versions, each as soon as the one before is stored, and tells of each; meanwhile it compacts the file
// and takes backups, one after the other, until it is killed.
func childWrites(path string) error {
	e, err := OpenEmbedded(path)
	if err != nil {
		return err
	}
	s := New(e, Options{Keep: 2})
	failed := make(chan error, 1)
	var say sync.Mutex
	tell := func(format string, args ...any) {
		say.Lock()
		defer say.Unlock()
		_, _ = fmt.Printf(format+"\n", args...)
	}
	for n := range crashClusters {
		go func() {
			for {
				if err := saveNext(s, fmt.Sprint("d-", n), tell); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	go func() {
		for n := 0; ; n++ {
			copied := fmt.Sprintf("%s.copy-%d", path, n)
			_ = os.Remove(copied)
			tell("backup %s", copied)
			if err := e.backup(context.Background(), copied, atOnce); err != nil {
				failed <- err
				return
			}
			tell("done %s", copied)
			if _, err := e.compact(context.Background(), atOnce); err != nil {
				failed <- err
				return
			}
			tell("compacted")
		}
	}()
	return <-failed
}

func saveNext(s *Store, cluster string, tell func(string, ...any)) error {
	ctx := context.Background()
	tx, err := s.Begin(ctx, cluster)
	if err != nil {
		return err
	}
	defer tx.Close()
	version := tx.View().State.Latest.Version + 1
	var in []Incoming
	for i := range crashObjects {
		payload := crashObject(cluster, version, i)
		sum := SumOf("*v1.Pod", payload)
		if known := tx.Known(sum); known != nil {
			in = append(in, Incoming{Known: known})
			continue
		}
		in = append(in, Incoming{Payload: payload, Entry: &Entry{
			Key: KeyOf("*v1.Pod", fmt.Append(nil, i)), Sum: sum, Type: "*v1.Pod", Name: fmt.Sprint(i), Size: uint32(len(payload)),
		}})
	}
	tell("begin %s %d", cluster, version)
	if err := tx.Save(ctx, version, Touch{}, in); err != nil {
		return err
	}
	tell("acked %s %d", cluster, version)
	return nil
}

// told is what a child told: the last version of each cluster that was begun and that was stored, and the same as of each
// complete backup's beginning and end.
type told struct {
	begun, acked map[string]uint64
	backups      []backupTold
	compactions  int
}

type backupTold struct {
	path        string
	least, most map[string]uint64
	done        bool
}

func (o *told) read(from io.Reader, dir string, event func(word string)) {
	for in := bufio.NewScanner(from); in.Scan(); {
		var cluster string
		var version uint64
		line := in.Text()
		copied := line[strings.IndexByte(line, ' ')+1:]
		switch word, _, _ := strings.Cut(line, " "); word {
		case "begin", "acked":
			if n, err := fmt.Sscanf(line, word+" %s %d", &cluster, &version); n != 2 || err != nil {
				continue // its end was cut off
			}
			if word == "begin" {
				o.begun[cluster] = version
				break
			}
			o.acked[cluster] = version
			event(word)
		case "backup":
			o.backups = append(o.backups, backupTold{path: filepath.Join(dir, copied), least: maps.Clone(o.acked)})
		case "done":
			b := &o.backups[len(o.backups)-1]
			b.done, b.most = filepath.Base(b.path) == copied, maps.Clone(o.begun)
		case "compacted":
			o.compactions++
			event("compacted")
		}
	}
}

// child runs the test binary and kills it after a while, at most.
func child(t *testing.T, does, path string, after func() <-chan time.Time, out func(io.Reader)) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^$")
	cmd.Dir = filepath.Dir(path)
	cmd.Env = append(os.Environ(), childDoes+"="+does)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		out(stdout)
	}()
	select {
	case <-after():
	case <-read: // it has ended
	}
	_ = cmd.Process.Kill()
	<-read
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		t.Fatalf("the child that is to %s: %v\n%s", does, err, complaints.String())
	}
}

// verify opens a file and looks whether each cluster has a version between these, and all kept ones are right.
func verify(t *testing.T, what, path string, least, most map[string]uint64) {
	t.Helper()
	ctx := context.Background()
	e, err := openExisting(path)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	s := New(e, Options{Keep: 2})
	for cluster, version := range least {
		v, err := s.View(ctx, cluster)
		if err != nil {
			t.Fatalf("%s: cluster %s of which version %d was acknowledged: %v", what, cluster, version, err)
		}
		if got := v.State.Latest.Version; got < version || got > most[cluster] {
			t.Fatalf("%s: cluster %s has version %d, want %d to %d", what, cluster, got, version, most[cluster])
		}
		for _, snap := range v.Snapshots {
			_, entries, err := v.At(snap.Version)
			if err != nil || len(entries) != crashObjects {
				t.Fatalf("%s: cluster %s version %d: %d objects, %v", what, cluster, snap.Version, len(entries), err)
			}
			payloads, err := s.Payloads(ctx, cluster, entries)
			if err != nil {
				t.Fatal(err)
			}
			for i, entry := range entries {
				var n int
				if _, err := fmt.Sscan(entry.Name, &n); err != nil || string(payloads[i]) != string(crashObject(cluster, snap.Version, n)) {
					t.Fatalf("%s: cluster %s version %d: object %s is another than was stored", what, cluster, snap.Version, entry.Name)
				}
			}
		}
	}
}

// TestInvariantKilledCopies kills pseudo-server's store with kill -9 while it is written, compacted and backed up, then the
// commands that compact, back up and restore a file: what was acknowledged is there, and a backup has what was acknowledged
// before it was begun and nothing that was begun after it was done.
func TestInvariantKilledCopies(t *testing.T) {
	if testing.Short() {
		t.Skip("crashes take a while")
	}
	rng := rand.New(rand.NewPCG(testseed.New(t), 0))
	within := func(d time.Duration) func() <-chan time.Time {
		return func() <-chan time.Time { return time.After(time.Duration(rng.Int64N(int64(d)))) }
	}
	dir := t.TempDir()
	path := filepath.Join(dir, childFile)
	o := told{begun: map[string]uint64{}, acked: map[string]uint64{}}
	backups, rounds := 0, testseed.Rounds(t, 8)
	for round := range rounds {
		o.backups = nil
		// By turns it is killed in its first steps, and when a backup and a compaction were made.
		since := []string{"acked", "compacted"}[round%2]
		first := make(chan struct{})
		once := sync.OnceFunc(func() { close(first) })
		child(t, "write", path, func() <-chan time.Time {
			<-first
			return time.After(time.Duration(rng.IntN(400)) * time.Millisecond)
		}, func(r io.Reader) {
			o.read(r, dir, func(word string) {
				if word == since {
					once()
				}
			})
			once()
		})
		verify(t, "killed while it was written", path, o.acked, o.begun)
		if left, err := filepath.Glob(path + ".compacting"); err != nil || len(left) > 0 {
			t.Errorf("left by a compaction: %v, %v", left, err)
		}
		var last *backupTold
		for i := range o.backups {
			if b := &o.backups[i]; b.done {
				last = b
				backups++
				verify(t, "backup", b.path, b.least, b.most)
			}
		}
		quiet := func(io.Reader) {}
		child(t, "compact", path, within(150*time.Millisecond), quiet)
		verify(t, "killed while it was compacted", path, o.acked, o.begun)
		if last != nil {
			restoreKilled(t, rng, path, last, &o)
		}
		// What a killed backup leaves has another name than a complete one.
		child(t, "backup", path, within(150*time.Millisecond), quiet)
		if _, err := os.Stat(path + ".copy"); err == nil {
			verify(t, "backup of a file", path+".copy", o.acked, o.begun)
		}
		for _, pattern := range []string{path + ".copy*", path + ".before-*"} {
			names, err := filepath.Glob(pattern)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if err := os.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	t.Logf("%d rounds, %d versions acknowledged, %d complete backups, %d compactions", rounds, o.acked["d-0"]+o.acked["d-1"]+o.acked["d-2"], backups, o.compactions)
	if rounds > 1 && (backups == 0 || o.compactions == 0) {
		t.Errorf("got %d complete backups and %d compactions: too few to show anything", backups, o.compactions)
	}
}

// restoreKilled puts a backup in the place of the file and kills that: what is there then is either of the two.
func restoreKilled(t *testing.T, rng *rand.Rand, path string, b *backupTold, o *told) {
	t.Helper()
	// The former file is kept as it was; it is put back to go on.
	former, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(b.path, path+".copy"); err != nil {
		t.Fatal(err)
	}
	child(t, "restore", path, func() <-chan time.Time { return time.After(time.Duration(rng.IntN(150)) * time.Millisecond) }, func(io.Reader) {})
	verify(t, "killed while it was restored", path, b.least, o.begun)
	kept, err := filepath.Glob(path + ".before-*")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kept {
		verify(t, "kept by a restore", k, o.acked, o.begun)
	}
	if err := os.Remove(path + ".copy"); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, former, 0o600); err != nil {
		t.Fatal(err)
	}
}
