package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	codeSpan = regexp.MustCompile("`[^`]+`")
	// ourCommand is a command of ours at the beginning of a line for a shell, or run in a container, up to what the shell
	// does with its output.
	ourCommand = regexp.MustCompile(`(?:^(?:bin/)?| -- /)(pseudo-agent|pseudo-server)((?: +(?:[-\w./:=,+]+|'[^']*'|"[^"]*"))+)`)
)

// TestDocumentsNameCommandsThatExist asks both programs for the help of every command in the documents, with its flags.
// Those of docs/install*.md and docs/cli*.md are run by tests of their own.
func TestDocumentsNameCommandsThatExist(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../../charts/*/templates/NOTES.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range append(append(files, more...), "../../README.md", "../../README.zh.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			spans := codeSpan.FindAllString(line, -1)
			if strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "  kubectl") {
				spans = []string{"`" + strings.TrimPrefix(strings.TrimSpace(line), "$ ") + "`"}
			}
			for _, span := range spans {
				span, _, _ = strings.Cut(strings.Trim(span, "`"), " #")
				for _, m := range ourCommand.FindAllStringSubmatch(span, -1) {
					if command := m[1] + m[2]; !seen[command] {
						seen[command] = true
						exists(t, file, m[1], strings.Fields(m[2]))
					}
				}
			}
		}
	}
	if len(seen) < 20 {
		t.Errorf("only %d commands were found: %v", len(seen), seen)
	}
}

func exists(t *testing.T, file, program string, args []string) {
	t.Helper()
	bin := bins.Agent
	if program == "pseudo-server" {
		bin = bins.Server
	}
	out, err := exec.CommandContext(t.Context(), bin, append(args, "--help")...).CombinedOutput()
	usage := program + " " + args[0]
	if err != nil || !strings.HasPrefix(args[0], "-") && !strings.Contains(string(out), usage) {
		t.Errorf("%s: %s %s: %v; its help is not that of %q:\n%.300s", file, program, strings.Join(args, " "), err, usage, out)
	}
}
