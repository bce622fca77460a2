package config

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/pflag"
)

const (
	// settle is how long a burst of file events may last before the files are read: editors and the kubelet write in
	// several steps.
	settle = 200 * time.Millisecond
	// pollInterval bounds the delay where the file system tells nothing (NFS, no inotify instance left).
	pollInterval = 30 * time.Second
	// configMapLink is what the kubelet replaces in the folder of a mounted ConfigMap.
	configMapLink = "..data"
)

// WatchAgent follows the files that the configuration in force was loaded from, ConfigMap volumes included, until ctx
// ends. After a change of their content f gets the new configuration if it differs from the one last given, or every
// mistake of it; what is in force then stays in force, and a later valid content is given to f even if it is the same.
// Environment and flags count as at the start. f is called by one goroutine at a time, and not after WatchAgent has
// returned.
func WatchAgent(ctx context.Context, fs *pflag.FlagSet, current *Loaded[Agent], f func(*Loaded[Agent], error)) {
	watch(ctx, agentProgram, fs, current, pollInterval, f)
}

// WatchServer does for pseudo-server what WatchAgent does for pseudo-agent.
func WatchServer(ctx context.Context, fs *pflag.FlagSet, current *Loaded[Server], f func(*Loaded[Server], error)) {
	watch(ctx, serverProgram, fs, current, pollInterval, f)
}

// WatchPodAgent does for pod-agent what WatchAgent does for pseudo-agent.
func WatchPodAgent(ctx context.Context, fs *pflag.FlagSet, current *Loaded[PodAgent], f func(*Loaded[PodAgent], error)) {
	watch(ctx, podAgentProgram, fs, current, pollInterval, f)
}

func watch[T any](ctx context.Context, p *program[T], fs *pflag.FlagSet, current *Loaded[T], poll time.Duration, f func(*Loaded[T], error)) {
	var events chan fsnotify.Event
	var faults chan error
	w, err := fsnotify.NewWatcher()
	if err == nil { // otherwise polling has to do
		defer w.Close() //nolint:errcheck // nothing to lose
		events, faults = w.Events, w.Errors
	}
	ticks := time.NewTicker(poll)
	defer ticks.Stop()
	// The first look finds what changed between loading and watching.
	quiet := time.NewTimer(0)
	defer quiet.Stop()

	files := current.Files
	var seen [sha256.Size]byte
	told := "" // the mistakes of the content that is refused now
	names := follow(w, files)
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if names[filepath.Base(e.Name)] {
				quiet.Reset(settle)
			}
			continue
		case <-faults: //nolint:errcheck // an overflow of the queue, for example: events may be missing
			quiet.Reset(settle)
			continue
		case <-quiet.C:
		case <-ticks.C:
		}
		names = follow(w, files)
		sum := fingerprint(files)
		if sum == seen {
			continue
		}
		loaded, err := p.load(fs)
		if slices.Equal(files, loaded.Files) {
			seen = sum
		} else {
			files = loaded.Files
			names = follow(w, files)
			quiet.Reset(settle) // once more, now that the new files are followed
		}
		switch {
		case err != nil:
			if told != err.Error() {
				told = err.Error()
				f(nil, err)
			}
		case told != "" || len(changes(p, &current.Config, &loaded.Config)) > 0:
			told, current = "", loaded
			f(loaded, nil)
		}
	}
}

// follow watches the folders of the files, and of what they link to: a ConfigMap's files are links to a folder that is
// replaced as a whole, and a file's own watch would end with the file. It returns the names in these folders that matter.
func follow(w *fsnotify.Watcher, files []string) map[string]bool {
	names := map[string]bool{configMapLink: true}
	if w == nil {
		return names
	}
	for _, file := range files {
		paths := []string{file}
		if target, err := filepath.EvalSymlinks(file); err == nil {
			paths = append(paths, target)
		}
		for _, path := range paths {
			names[filepath.Base(path)] = true
			if dir := filepath.Dir(path); !slices.Contains(w.WatchList(), dir) {
				_ = w.Add(dir) // a folder that is not there yet is found by polling
			}
		}
	}
	return names
}

// fingerprint changes with the content of the files.
func fingerprint(files []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, file := range files {
		data, m := readFile(file)
		if m != nil {
			_, _ = fmt.Fprintf(h, "%q missing: %s\n", file, m.Problem)
			continue
		}
		_, _ = fmt.Fprintf(h, "%q %d\n", file, len(data))
		_, _ = h.Write(data)
	}
	h.Sum(sum[:0])
	return sum
}
