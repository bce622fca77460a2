// Command modules asks the module proxy about the modules that packages of ours import, in the folders that it is given. It fails,
// and names each, if a version was retracted by its authors, if a direct dependency is deprecated, or if one had no release for
// three years and docs/dependencies.md does not say why that is well. What others import and is deprecated is only told.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	reasons = "docs/dependencies.md"
	// heading begins the list of modules that need no releases, in reasons.
	heading = "## Without a release for three years\n"
)

// dependency is what `go list -m -u -retracted -json` says of a module.
type dependency struct {
	Path, Version string
	Time          *time.Time
	Indirect      bool
	Retracted     []string // the authors' reasons
	Deprecated    string   // the authors' words
	Update        *struct {
		Version string
		Time    *time.Time
	}
}

func main() {
	if err := run(context.Background(), os.Args[1:], time.Now(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run looks at the modules in the folders, in the root of the repository.
func run(ctx context.Context, dirs []string, now time.Time, out io.Writer) error {
	text, err := os.ReadFile(reasons)
	if err != nil {
		return fmt.Errorf("read the reasons: %w", err)
	}
	quiet := complete(string(text))
	var errs []error
	for _, dir := range dirs {
		deps, err := dependencies(ctx, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		faults, remarks := judge(deps, now, quiet)
		for _, r := range remarks {
			fmt.Fprintf(out, "%s: %s\n", dir, r)
		}
		for _, f := range faults {
			errs = append(errs, fmt.Errorf("%s: %s", dir, f))
		}
	}
	for path, used := range quiet {
		if !used {
			errs = append(errs, fmt.Errorf("%s: %s is listed as without a release for three years, but is not: remove it", reasons, path))
		}
	}
	return errors.Join(errs...)
}

var item = regexp.MustCompile("(?m)^- `([^`]+)`: .")

// complete are the modules that the document says need no releases; none was found yet.
func complete(document string) map[string]bool {
	quiet := map[string]bool{}
	_, list, _ := strings.Cut(document, heading)
	list, _, _ = strings.Cut(list, "\n## ")
	for _, m := range item.FindAllStringSubmatch(list, -1) {
		quiet[m[1]] = false
	}
	return quiet
}

// dependencies are the modules that packages and tests in dir import, whether directly or not.
func dependencies(ctx context.Context, dir string) ([]dependency, error) {
	out, err := goList(ctx, dir, "-deps", "-test", "-f", "{{with .Module}}{{if not (or .Main .Replace)}}{{.Path}}{{end}}{{end}}", "./...")
	if err != nil {
		return nil, err
	}
	paths := strings.Fields(string(out))
	slices.Sort(paths)
	if paths = slices.Compact(paths); len(paths) == 0 {
		return nil, nil
	}
	out, err = goList(ctx, dir, append([]string{"-m", "-u", "-retracted", "-json"}, paths...)...)
	if err != nil {
		return nil, err
	}
	return parse(out)
}

func goList(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list"}, args...)...) //nolint:gosec // of our own arguments and the modules it named
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// parse reads objects, one after the other.
func parse(list []byte) ([]dependency, error) {
	var deps []dependency
	for d := json.NewDecoder(bytes.NewReader(list)); ; {
		var dep dependency
		if err := d.Decode(&dep); errors.Is(err, io.EOF) {
			return deps, nil
		} else if err != nil {
			return nil, fmt.Errorf("what go list says: %w", err)
		}
		deps = append(deps, dep)
	}
}

// judge tells what has to be changed, and what others should change. It marks those modules as used that it found quiet.
func judge(deps []dependency, now time.Time, quiet map[string]bool) (faults, remarks []string) {
	for _, d := range deps {
		newest, released := d.Version, d.Time
		if d.Update != nil {
			newest, released = d.Update.Version, d.Update.Time
		}
		if len(d.Retracted) > 0 {
			faults = append(faults, fmt.Sprintf("%s %s is retracted: %s; the newest version is %s", d.Path, d.Version, strings.Join(d.Retracted, "; "), newest))
		}
		if d.Deprecated != "" {
			text := fmt.Sprintf("%s is deprecated: %s", d.Path, d.Deprecated)
			if d.Indirect {
				remarks = append(remarks, text+" (imported by others only)")
			} else {
				faults = append(faults, text)
			}
		}
		if d.Indirect || released == nil || released.After(now.AddDate(-3, 0, 0)) {
			continue
		}
		if _, listed := quiet[d.Path]; listed {
			quiet[d.Path] = true
			continue
		}
		faults = append(faults, fmt.Sprintf("%s has had no release since %s: replace it, or say in %s, %q, why it needs none",
			d.Path, released.Format(time.DateOnly), reasons, strings.TrimSpace(strings.TrimPrefix(heading, "## "))))
	}
	return faults, remarks
}
