// Package rooms checks that packages import only what the table in docs/design.md, "Who may import whom", lets them.
//
// It relies on the go command and on the table, which is the only place of the rules.
package rooms

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pseudo-agent/pseudo-agent"

// room is a row of the table.
type room struct {
	name    string
	folders []string // "x": the folder alone; "x/...": all below it, too
	imports []string // names of rooms, or "all"
}

var code = regexp.MustCompile("`([^`]+)`")

// readRooms reads the table.
func readRooms(t *testing.T) []room {
	t.Helper()
	text, err := os.ReadFile("../../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "## Who may import whom\n")
	if !found {
		t.Fatal("docs/design.md has no section \"Who may import whom\"")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var rooms []room
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || !strings.Contains(line, "`") {
			continue
		}
		r := room{name: strings.TrimSpace(cells[1])}
		for _, m := range code.FindAllStringSubmatch(cells[2], -1) {
			r.folders = append(r.folders, m[1])
		}
		r.imports = strings.FieldsFunc(cells[3], func(c rune) bool { return c == ',' || c == ' ' })
		rooms = append(rooms, r)
	}
	if len(rooms) < 8 {
		t.Fatalf("got %d rows of the table, want all rooms", len(rooms))
	}
	return rooms
}

// find returns the room with the longest folder that holds a package.
func find(rooms []room, pkg string) *room {
	var best *room
	length := -1
	for i := range rooms {
		for _, f := range rooms[i].folders {
			prefix, below := strings.CutSuffix(f, "/...")
			if (pkg == prefix || below && strings.HasPrefix(pkg, prefix+"/")) && len(prefix) > length {
				best, length = &rooms[i], len(prefix)
			}
		}
	}
	return best
}

// list runs go list and decodes its JSON.
func list(t *testing.T, args ...string) []struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
} {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []struct {
		ImportPath                         string
		Imports, TestImports, XTestImports []string
	}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// check returns what a package imports against the rules.
func check(rooms []room, pkg string, imports []string) []string {
	from := find(rooms, pkg)
	if from == nil {
		return []string{fmt.Sprintf("%s is in no room of docs/design.md: add its folder to a row", pkg)}
	}
	var wrong []string
	for _, i := range imports {
		i, ours := strings.CutPrefix(i, module+"/")
		if !ours {
			continue
		}
		to := find(rooms, i)
		if to != nil && to.name != "mains" && (slices.Contains(from.imports, "all") || slices.Contains(from.imports, to.name)) {
			continue
		}
		name := "no room"
		if to != nil {
			name = to.name
		}
		wrong = append(wrong, fmt.Sprintf("%s (%s) imports %s (%s); docs/design.md lets it import %s", pkg, from.name, i, name, strings.Join(from.imports, ", ")))
	}
	return wrong
}

func TestImports(t *testing.T) {
	rooms := readRooms(t)
	for _, p := range list(t, "-json=ImportPath,Imports", "./...") {
		pkg := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		for _, w := range check(rooms, pkg, p.Imports) {
			t.Error(w)
		}
	}
}

// What only tests and developers need is in neither program.
func TestBinariesHoldNoDoubles(t *testing.T) {
	rooms := readRooms(t)
	for _, p := range list(t, "-deps", "-json=ImportPath", "./cmd/...") {
		pkg, ours := strings.CutPrefix(p.ImportPath, module+"/")
		if !ours {
			continue
		}
		if r := find(rooms, pkg); r != nil && (r.name == "doubles" || r.name == "tools") {
			t.Errorf("%s is linked into a program; it is for tests and developers", pkg)
		}
	}
}

// The rules can be broken: each of these imports is refused.
func TestRulesRefuse(t *testing.T) {
	rooms := readRooms(t)
	for _, broken := range [][2]string{
		{"informers", "server/store"},
		{"reporter", "server/receiver"},
		{"server/viewer", "snapshot"},
		{"server/elector", "reporter"},
		{"config", "informers"},
		{"resources", "server/store"},
		{"inventory", "agent"},
		{"operate", "server"},
		{"agent", "cmd/pseudo-agent"},
		{"server", "agent"},
		{"agent", "server"},
		{"check/advisor", "server/store"},
		{"snapshot", "check/advisor"},
		{"internal/jsonscan", "resources"},
		{"reporter", "internal/testing/faultserver"},
		{"server/store", "server"},
		{"snapshot", "tools/docgen"},
		{"tools/docgen", "cmd/pseudo-server"},
	} {
		if len(check(rooms, broken[0], []string{module + "/" + broken[1]})) == 0 {
			t.Errorf("%s may import %s", broken[0], broken[1])
		}
	}
}

// TestProgramsStayApart: pseudo-agent and pseudo-server hold nothing of pod-agent, not even what it depends on.
func TestProgramsStayApart(t *testing.T) {
	for _, program := range []string{"./cmd/pseudo-agent", "./cmd/pseudo-server"} {
		for _, p := range list(t, "-deps", "-json=ImportPath", program) {
			for _, foreign := range []string{module + "/attachments", module + "/podagent", "github.com/containernetworking/", "k8s.io/cri-api"} {
				if strings.HasPrefix(p.ImportPath, foreign) {
					t.Errorf("%s holds %s, which is pod-agent's", program, p.ImportPath)
				}
			}
		}
	}
}
