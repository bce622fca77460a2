package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the messages of today into docs/configuration*.md")

var block = regexp.MustCompile("(?ms)^```(\\w+)(?: ([^\n]+))?\n(.*?)^```$")

// TestDocument runs the examples of docs/configuration*.md and compares what they print with what stands there: the blocks
// before one of text, log or live are its input.
func TestDocument(t *testing.T) {
	pages, err := filepath.Glob("../docs/configuration*.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for _, page := range pages {
		examples += runExamples(t, page)
	}
	if examples < 15 {
		t.Errorf("found %d examples, want at least 15", examples)
	}
}

// runExamples returns how many the page has.
func runExamples(t *testing.T, page string) (examples int) {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(data)
	var out strings.Builder
	last := 0
	var ex example
	for _, at := range block.FindAllStringSubmatchIndex(doc, -1) {
		lang, content := doc[at[2]:at[3]], doc[at[6]:at[7]]
		name := ""
		if at[4] >= 0 {
			name = doc[at[4]:at[5]]
		}
		var got string
		switch lang {
		case "yaml":
			ex.file(name, content)
			continue
		case "sh":
			ex.command = strings.TrimSpace(content)
			continue
		case "text":
			got = ex.run(t)
		case "log":
			got = ex.run(t)
		case "live":
			got = liveKeys()
		default:
			t.Fatalf("block of unknown language %q", lang)
		}
		examples++
		ex = example{}
		if content != got+"\n" && !*update {
			t.Errorf("%s prints at offset %d:\n%s\nwant\n%s", page, at[0], content, got)
		}
		out.WriteString(doc[last:at[6]] + got + "\n")
		last = at[7]
	}
	if *update {
		if err := os.WriteFile(page, []byte(out.String()+doc[last:]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return examples
}

type example struct {
	files   map[string]string
	own     string // name of the program's own file
	command string
}

func (e *example) file(name, content string) {
	if e.files == nil {
		e.files = map[string]string{}
	}
	switch name {
	case "", "pseudo-agent.yaml":
		name, e.own = "pseudo-agent.yaml", "pseudo-agent.yaml"
	case "pseudo-server.yaml":
		e.own = name
	}
	e.files[name] = content
}

// run loads the example's configuration and returns the messages, or what was taken from where if there are none.
func (e *example) run(t *testing.T) (out string) {
	t.Helper()
	t.Run("", func(t *testing.T) {
		t.Chdir(t.TempDir())
		for name, content := range e.files {
			if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var args []string
		if e.own != "" {
			args = append(args, "--config", e.own)
		}
		for word := range strings.FieldsSeq(e.command) {
			if name, value, ok := strings.Cut(word, "="); ok && !strings.HasPrefix(word, "-") {
				t.Setenv(name, value)
			} else if ok {
				args = append(args, word)
			}
		}
		if e.own == "pseudo-server.yaml" {
			_, err := LoadServer(flagsOf(t, serverProgram, args...))
			if err == nil {
				t.Fatal("no mistake found")
			}
			out = err.Error()
			return
		}
		if !strings.Contains(e.files[e.own], "addresses:") && !strings.Contains(e.files["deepflow-agent.yaml"], "controller-ips") {
			t.Setenv("PSEUDO_AGENT_SERVER_ADDRESSES", "deepflow-server.deepflow:20035")
		}
		loaded, err := LoadAgent(flagsOf(t, agentProgram, args...))
		if err != nil {
			out = err.Error()
			if strings.HasPrefix(e.command, "ONLY_WATCH") && !errors.Is(err, ErrOnlyWatchVariable) {
				t.Errorf("got %v, want ErrOnlyWatchVariable", err)
			}
			return
		}
		var lines []string
		for _, p := range loaded.Taken {
			lines = append(lines, p.String())
		}
		out = strings.Join(lines, "\n")
	})
	return out
}

func liveKeys() string {
	var lines []string
	for _, l := range agentProgram.schema.all() {
		if l.live {
			lines = append(lines, "pseudo-agent   "+l.key)
		}
	}
	for _, l := range serverProgram.schema.all() {
		if l.live {
			lines = append(lines, "pseudo-server  "+l.key)
		}
	}
	return strings.Join(lines, "\n")
}
