package informers

import (
	"strconv"
	"strings"
	"testing"

	"github.com/pseudo-agent/pseudo-agent/internal/testing/apisim"
)

// costRow is a row of the table of costs in docs/informers.md.
type costRow struct {
	verb     string
	resource string // "each" stands for every resource
	bounds   map[string][2]int
}

func (r costRow) matches(c apisim.Count) bool {
	return r.resource == c.Resource || r.resource == "each"
}

// costTable reads the table that follows the heading "What it costs the apiserver".
func costTable(t *testing.T, doc string) []costRow {
	t.Helper()
	_, doc, ok := strings.Cut(doc, "## What it costs the apiserver")
	if !ok {
		t.Fatal("docs/informers.md has no section on costs")
	}
	var rows []costRow
	for line := range strings.SplitSeq(doc, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 8 || strings.Contains(line, "---") || strings.Contains(line, "at start") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		row := costRow{verb: cells[1], resource: cells[2], bounds: map[string][2]int{}}
		if row.resource == "–" {
			row.resource = ""
		}
		for i, column := range []string{"start", "quiet", "churning", "awaiting"} {
			row.bounds[column] = bounds(t, cells[3+i])
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		t.Fatal("docs/informers.md has no table of costs")
	}
	return rows
}

// bounds reads "3" or "3–5".
func bounds(t *testing.T, cell string) [2]int {
	t.Helper()
	low, high, ok := strings.Cut(cell, "–")
	if !ok {
		high = low
	}
	l, err := strconv.Atoi(low)
	if err != nil {
		t.Fatalf("cell %q: %v", cell, err)
	}
	h, err := strconv.Atoi(high)
	if err != nil {
		t.Fatalf("cell %q: %v", cell, err)
	}
	return [2]int{l, h}
}
