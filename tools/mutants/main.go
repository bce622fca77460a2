// Mutants breaks one rule of the code after the other and tells which test notices.
//
// The rules are in mutants.txt, one line of code each. The tree is left as it is: the go command is given the broken file in
// place of the real one. A mutant that no test notices is an error, unless the list says why it is harmless.
//
//	go run ./tools/mutants [-run REGEXP] [-parallel N]
package main

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

//go:embed mutants.txt
var list string

// mutant is one rule broken.
type mutant struct {
	Rule     string
	File     string
	Old, New string // a line each, without the blanks around it
	Harmless string // why no test can notice; empty: one has to
}

// simulation is the random histories of whole systems.
var simulation = [2]string{"./test/simulation", "^TestSimulation$"}

// tests are those that are to notice, by folder: exploration, random histories, the tests of the rules, whole systems. They are
// run in this order, each until the first failure.
var tests = map[string][][2]string{
	"reporter":        {{"./reporter", "^(TestExplore|TestRandomHistories)"}, {"./reporter", "."}, simulation},
	"server/elector":  {{"./server/elector", "^(TestExplore|TestSimulation$)"}, {"./server/elector", "."}, simulation},
	"server/store":    {{"./server/store", "^TestExplore"}, {"./server/store", "^(TestRestored|TestConformance|TestKill|TestCrash)"}, simulation},
	"snapshot":        {{"./snapshot", "."}, {"./reporter", "^(TestExplore|TestRandomHistories)"}},
	"relations":       {{"./relations", "^(TestAnyOrder|TestConcurrentSources)"}, {"./relations", "."}},
	"informers":       {{"./informers", "^TestRandom$"}, {"./informers", "^(TestGate|TestVerdict|TestStateChanges|TestStore)"}, {"./informers", "."}, simulation},
	"internal/leader": {{"./internal/leader", "."}, simulation},
	"server/receiver": {{"./server/receiver", "."}, simulation},
	"server/upstream": {{"./server/upstream", "Silent|AnswersNothing|Forgotten|Unreachable"}, {"./server/upstream", "."}, simulation},
}

// parse reads the list.
func parse(text string) ([]mutant, error) {
	var all []mutant
	for block := range strings.SplitSeq(text, "\n\n") {
		lines := slices.DeleteFunc(strings.Split(block, "\n"), func(l string) bool { return l == "" || strings.HasPrefix(l, "#") })
		if len(lines) == 0 {
			continue
		}
		if len(lines) < 4 {
			return nil, fmt.Errorf("mutant %q has %d lines, want rule, file, - and +", lines[0], len(lines))
		}
		m := mutant{Rule: lines[0], File: lines[1]}
		old, isOld := strings.CutPrefix(lines[2], "- ")
		next, isNew := strings.CutPrefix(lines[3], "+ ")
		if !isOld || !isNew {
			return nil, fmt.Errorf("mutant %q: the third line has to begin with -, the fourth with +", m.Rule)
		}
		m.Old, m.New = old, next
		for _, l := range lines[4:] {
			why, ok := strings.CutPrefix(l, "harmless: ")
			if !ok {
				return nil, fmt.Errorf("mutant %q: %q is not expected", m.Rule, l)
			}
			m.Harmless = why
		}
		all = append(all, m)
	}
	return all, nil
}

// apply breaks the rule in the first line that is m.Old.
func (m mutant) apply(source string) (string, error) {
	lines := strings.Split(source, "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.TrimSpace(l) == m.Old })
	if i < 0 {
		return "", fmt.Errorf("mutant %q: %s has no line %q", m.Rule, m.File, m.Old)
	}
	lines[i] = m.New
	return strings.Join(lines, "\n"), nil
}

// verdict is what became of a mutant.
type verdict struct {
	mutant
	by   string // the test that noticed; empty: none
	took time.Duration
	err  error
}

var (
	failedTest  = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
	buildFailed = regexp.MustCompile(`(?m)\[(build|setup) failed\]$`)
	timedOut    = regexp.MustCompile(`(?m)^panic: test timed out`)
	stopped     = regexp.MustCompile(`(?m)^(panic: .*|fatal error: .*)$`)
)

// try runs the tests upon the tree with one rule broken.
func try(ctx context.Context, m mutant, dir string) verdict {
	begin := time.Now()
	v := verdict{mutant: m}
	v.by, v.err = m.noticed(ctx, dir)
	v.took = time.Since(begin).Round(time.Second)
	return v
}

func (m mutant) noticed(ctx context.Context, dir string) (string, error) {
	file, err := filepath.Abs(m.File)
	if err != nil {
		return "", err
	}
	source, err := os.ReadFile(file) //nolint:gosec // the list is ours
	if err != nil {
		return "", err
	}
	broken, err := m.apply(string(source))
	if err != nil {
		return "", err
	}
	place := filepath.Join(dir, filepath.Base(m.File))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {file: place}})
	if err != nil {
		return "", err
	}
	instead := filepath.Join(dir, "overlay.json")
	if err := errors.Join(os.WriteFile(place, []byte(broken), 0o600), os.WriteFile(instead, overlay, 0o600)); err != nil { //nolint:gosec // the list is ours
		return "", err
	}
	for _, t := range tests[path.Dir(m.File)] {
		cmd := exec.CommandContext(ctx, "go", "test", "-overlay", instead, "-vet=off", "-count=1", "-failfast", "-short", "-timeout", "150s", t[0], "-run", t[1]) //nolint:gosec // the table above
		cmd.Env = append(os.Environ(), "PSEUDO_TEST_SEED=1")
		out, err := cmd.CombinedOutput()
		switch failed := failedTest.FindAllStringSubmatch(string(out), -1); {
		case buildFailed.Match(out):
			return "", fmt.Errorf("it does not compile: %s", out)
		case err == nil, timedOut.Match(out): // one that takes too long shows nothing: the machine may be busy
			continue
		case ctx.Err() != nil:
			return "", ctx.Err()
		case len(failed) > 0:
			return failed[len(failed)-1][1], nil
		default:
			return cmp.Or(string(stopped.Find(out)), err.Error()), nil
		}
	}
	return "", nil
}

func run(ctx context.Context, only string, parallel int) error {
	all, err := parse(list)
	if err != nil {
		return err
	}
	pattern, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	all = slices.DeleteFunc(all, func(m mutant) bool { return !pattern.MatchString(m.Rule) })
	var mu sync.Mutex
	var wg sync.WaitGroup
	caught, harmless, bad := 0, 0, 0
	places := make(chan struct{}, max(parallel, 1))
	for _, m := range all {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			v := verdict{mutant: m}
			dir, err := os.MkdirTemp("", "mutant")
			if v.err = err; err == nil {
				v = try(ctx, m, dir)
				v.err = errors.Join(v.err, os.RemoveAll(dir))
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case v.err != nil:
				bad++
				fmt.Printf("ERROR    %s: %v\n", m.Rule, v.err)
			case v.by != "":
				caught++
				fmt.Printf("caught   %-85s %s (%v)\n", m.Rule, v.by, v.took)
			case m.Harmless != "":
				harmless++
				fmt.Printf("harmless %-85s %s\n", m.Rule, m.Harmless)
			default:
				bad++
				fmt.Printf("MISSED   %s (%v)\n", m.Rule, v.took)
			}
		})
	}
	wg.Wait()
	fmt.Printf("%d mutants: %d caught, %d harmless, %d missed\n", len(all), caught, harmless, bad)
	if bad > 0 {
		return fmt.Errorf("%d mutants were not caught", bad)
	}
	return nil
}

func main() {
	only := flag.String("run", "", "mutants whose rule matches")
	parallel := flag.Int("parallel", 2, "mutants at a time")
	flag.Parse()
	if err := run(context.Background(), *only, *parallel); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
