package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// UsageError is a mistake in the command line.
type UsageError struct{ Err error }

func (u UsageError) Error() string { return u.Err.Error() }

// Unwrap returns the mistake.
func (u UsageError) Unwrap() error { return u.Err }

// Exit statuses; docs/cli.md tells them.
const (
	ExitFailed = 1
	ExitUsage  = 2
)

// ExitStatus returns the status with which the process ends after an error of a command.
func ExitStatus(err error) int {
	var usage UsageError
	text := err.Error()
	// These two are cobra's own, which have no type.
	if errors.As(err, &usage) || strings.HasPrefix(text, "unknown command") || strings.HasPrefix(text, "required flag") {
		return ExitUsage
	}
	return ExitFailed
}

// Args makes the mistakes that a check of arguments finds UsageErrors.
func Args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := check(cmd, given); err != nil {
			return UsageError{Err: fmt.Errorf("%w; it is used as: %s", err, cmd.UseLine())}
		}
		return nil
	}
}

// table is an answer for people.
type table struct {
	header []string // nil: none
	rows   [][]string
	// colour is the column whose texts are coloured by colours, -1 for none.
	colour int
	// names are what -o name prints, one for each row.
	names []string
}

// colours by the text of a cell; others have none.
var colours = map[string]string{
	"ok": "32", "held": "32", "holder": "32", "active": "32", "RUNNING": "32", "NORMAL": "32", "added": "32",
	"stale": "33", "stopping": "33", "waiting": "33", "silent": "33", "EXCEPTION": "33", "changed": "33", "object": "33",
	"error": "31", "without_candidate": "31", "stopped": "31", "removed": "31", "crash": "31", "cluster": "31", "failed": "31", "refused": "31",
}

// printer writes answers in the form that the user wants.
type printer struct {
	format string
	out    io.Writer
	width  int // of the terminal, 0: it is none
}

var formats = []string{"table", "json", "yaml", "name"}

func newPrinter(cmd *cobra.Command, format string) (*printer, error) {
	if !slices.Contains(formats, format) {
		return nil, UsageError{Err: fmt.Errorf("--output %q is unknown: use %s", format, strings.Join(formats, ", "))}
	}
	p := &printer{format: format, out: cmd.OutOrStdout()}
	if f, ok := p.out.(*os.File); ok {
		p.width = terminalWidth(f)
	}
	return p, nil
}

// print writes v, for people as the table.
func (p *printer) print(v any, t table) error {
	var text []byte
	var err error
	switch p.format {
	case "json":
		if text, err = json.MarshalIndent(v, "", "  "); err == nil {
			text = append(escaped(text), '\n')
		}
	case "yaml":
		text, err = yaml.Marshal(v)
	case "name":
		for _, name := range t.names {
			text = append(text, clean(name)+"\n"...)
		}
	default:
		text = []byte(t.text(p.width, p.width > 0 && os.Getenv("NO_COLOR") == ""))
	}
	if err != nil {
		return fmt.Errorf("write the answer as %s: %w", p.format, err)
	}
	if _, err = p.out.Write(text); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// Harmless replaces what could control a terminal in the text of an error, which may quote a cluster or a server.
func Harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, s)
}

// escaped writes what could control a terminal in the strings of a JSON text as \uXXXX, which is the same text to a program.
func escaped(text []byte) []byte {
	controls := func(r rune) bool { return unicode.IsControl(r) && r != '\n' || unicode.Is(unicode.Cf, r) }
	if !bytes.ContainsFunc(text, controls) {
		return text
	}
	var b bytes.Buffer
	for _, r := range string(text) {
		if !controls(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			_, _ = fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.Bytes()
}

// clean makes a text that a cluster chose harmless for a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == utf8.RuneError {
			return '\uFFFD'
		}
		return r
	}, strings.Join(strings.Fields(s), " "))
}

// gap separates columns.
const gap = 2

// text lays the table out. On a terminal the widest columns are cut so that each row fits into one line.
func (t table) text(width int, coloured bool) string {
	cells := t.rows
	if t.header != nil {
		cells = slices.Insert(slices.Clone(t.rows), 0, t.header)
	}
	lines, widths := measure(cells)
	shrink(widths, width)
	var b strings.Builder
	for i, row := range lines {
		isHeader := i == 0 && t.header != nil
		for j, cell := range row {
			if utf8.RuneCountInString(cell) > widths[j] {
				cell = string([]rune(cell)[:widths[j]-1]) + "…"
			}
			pad := strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell)+gap)
			if j == len(row)-1 {
				pad = ""
			}
			if coloured && !isHeader && j == t.colour {
				cell = inColour(cell)
			}
			b.WriteString(cell + pad)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// measure returns the cells as they are shown, and the width of each column.
func measure(cells [][]string) (lines [][]string, widths []int) {
	lines = make([][]string, len(cells))
	for i, row := range cells {
		row = slices.Clone(row)
		for j := range row {
			if j == len(widths) {
				widths = append(widths, 0)
			}
			if row[j] = clean(row[j]); row[j] == "" {
				row[j] = "-"
			}
			widths[j] = max(widths[j], utf8.RuneCountInString(row[j]))
		}
		lines[i] = row
	}
	return lines, widths
}

func inColour(cell string) string {
	colour := colours[cell]
	if colour == "" {
		return cell
	}
	return "\x1b[" + colour + "m" + cell + "\x1b[0m"
}

// narrowest is the least width of a column that is cut.
const narrowest = 8

// shrink makes the widest columns narrower until all fit into a terminal of a width, if they can.
func shrink(widths []int, width int) {
	if width == 0 {
		return
	}
	sum := gap * (len(widths) - 1)
	for _, w := range widths {
		sum += w
	}
	for ; sum > width; sum-- {
		widest := slices.Index(widths, slices.Max(widths))
		if widths[widest] <= narrowest {
			return
		}
		widths[widest]--
	}
}

// progress tells on a terminal how far a long transfer is.
type progress struct {
	out   *os.File // nil: nobody looks
	shown bool
}

func newProgress(cmd *cobra.Command) *progress {
	f, ok := cmd.ErrOrStderr().(*os.File)
	if !ok || terminalWidth(f) == 0 {
		return &progress{}
	}
	return &progress{out: f}
}

func (p *progress) at(done, total int) {
	if p.out != nil {
		p.shown = true
		_, _ = fmt.Fprintf(p.out, "\r%d of %d", done, total)
	}
}

func (p *progress) end() {
	if p.shown {
		_, _ = fmt.Fprint(p.out, "\r\x1b[K")
	}
}
