package config

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

func TestExamplesAreTheDefaults(t *testing.T) {
	t.Run("agent", func(t *testing.T) {
		t.Setenv("PSEUDO_AGENT_SERVER_ADDRESSES", "deepflow-server.deepflow:20035") // has no default
		want := DefaultAgent()
		want.Server.Addresses = []string{"deepflow-server.deepflow:20035"}
		isDefault(t, agentProgram, "../config.example.yaml", want)
	})
	t.Run("pod-agent", func(t *testing.T) {
		t.Setenv("POD_AGENT_NODE_NAME", "node-1") // has no default
		want := DefaultPodAgent()
		want.NodeName = "node-1"
		isDefault(t, podAgentProgram, "../config.podagent.example.yaml", want)
	})
	t.Run("server", func(t *testing.T) {
		isDefault(t, serverProgram, "../config.server.example.yaml", DefaultServer())
	})
}

func isDefault[T any](t *testing.T, p *program[T], file string, want T) {
	t.Helper()
	loaded, err := p.load(flagsOf(t, p, "--config", file))
	if err != nil {
		t.Fatalf("%s is refused: %v", file, err)
	}
	if d := cmp.Diff(want, loaded.Config, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s does not show the defaults (-want +got):\n%s", file, d)
	}
}

func flagsOf[T any](t *testing.T, p *program[T], args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet(p.name, pflag.ContinueOnError)
	p.flags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestExamplesExplainEveryKey(t *testing.T) {
	explainsAll(t, "../config.example.yaml", agentProgram.schema)
	explainsAll(t, "../config.podagent.example.yaml", podAgentProgram.schema)
	explainsAll(t, "../config.server.example.yaml", serverProgram.schema)
}

// explainsAll checks that each key stands in the file with a comment above it that tells its range and words, and whether
// it is live.
func explainsAll(t *testing.T, file string, s *section) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	comments := map[string]string{}
	commentsOf(doc.Content[0], "", comments)
	var walk func(s *section, path string)
	walk = func(s *section, path string) {
		for _, name := range s.names {
			key := join(path, name)
			comment, ok := comments[key]
			if !ok {
				t.Errorf("%s has no key %s", file, key)
				continue
			}
			if len(comment) < 20 {
				t.Errorf("%s: %s is explained by %q only", file, key, comment)
			}
			if sub := s.sections[name]; sub != nil {
				walk(sub, key)
				continue
			}
			l := s.leaves[name]
			if got := strings.Contains(comment, "Live."); got != l.live {
				t.Errorf("%s: the comment of %s says that it is live: %v, want %v", file, key, got, l.live)
			}
			for _, w := range l.words {
				if !strings.Contains(comment, w) {
					t.Errorf("%s: the comment of %s does not name the word %s", file, key, w)
				}
			}
			if l.min > -1e300 {
				if limits := l.format(l.min) + " to " + l.format(l.max); !strings.Contains(comment, limits) {
					t.Errorf("%s: the comment of %s does not give the limits %s", file, key, limits)
				}
			}
		}
	}
	walk(s, "")
}

func commentsOf(n *yaml.Node, path string, out map[string]string) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		key := join(path, k.Value)
		out[key] = strings.Join(strings.Fields(strings.ReplaceAll(k.HeadComment, "#", "")), " ")
		if v.Kind == yaml.MappingNode {
			commentsOf(v, key, out)
		}
	}
}

// The commented lists of the examples are as valid as the rest.
func TestExamplesInComments(t *testing.T) {
	t.Setenv("PSEUDO_AGENT_SERVER_ADDRESSES", "deepflow-server.deepflow:20035")
	t.Run("agent", func(t *testing.T) { commentedLists(t, agentProgram, "../config.example.yaml", 1) })
	t.Run("server", func(t *testing.T) { commentedLists(t, serverProgram, "../config.server.example.yaml", 4) })
}

var commentedList = regexp.MustCompile(`(?m)^ *# Example:\n((?: *#   .*\n)+)( *)(\w+): \[\]$`)

func commentedLists[T any](t *testing.T, p *program[T], file string, want int) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	uncommented := commentedList.ReplaceAllStringFunc(string(data), func(found string) string {
		count++
		m := commentedList.FindStringSubmatch(found)
		var b strings.Builder
		for line := range strings.Lines(m[1]) {
			_, rest, _ := strings.Cut(line, "#   ")
			fmt.Fprintf(&b, "%s%s", m[2], rest)
		}
		return strings.TrimSuffix(b.String(), "\n")
	})
	if count != want {
		t.Fatalf("%s has %d commented lists, want %d", file, count, want)
	}
	uncommented = strings.NewReplacer("[agent.example]", "[]", "enroll: open", "enroll: token").Replace(uncommented)
	t.Chdir(t.TempDir())
	if err := os.WriteFile("uncommented.yaml", []byte(uncommented), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.load(flagsOf(t, p, "--config", "uncommented.yaml")); err != nil {
		t.Errorf("the commented lists of %s, uncommented, are refused: %v", file, err)
	}
}
