package operate

import (
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Tone says how something is meant: it gives the colour on the page, and the order of rows.
type Tone string

// The tones.
const (
	Good  Tone = "good"
	Warn  Tone = "warn"
	Bad   Tone = "bad"
	Quiet Tone = "quiet"
)

// Overview is what the status page shows between the problems and the details.
type Overview struct {
	Way     []Stage  // of the data, in its order
	Lag     *Trace   // nil: none is kept
	Listing *Listing // nil: none
}

// Stage is a step of the way of the data.
type Stage struct {
	Name   string
	State  string // in one or two words
	Tone   Tone
	Number string    // what it holds
	Since  time.Time // of the last sign of life; zero: none
}

// Listing is a table. Its rows are shown in their order: those in trouble should come first.
type Listing struct {
	Name   string
	Header []string
	Rows   []ListingRow
}

// ListingRow is a row of a Listing.
type ListingRow struct {
	Tone  Tone
	Cells []ListingCell // as many as the header has
}

// ListingCell is a text, or if At is set how long ago that was.
type ListingCell struct {
	Text string
	At   time.Time
}

// cell is what is shown of a cell.
func (l *language) cell(c ListingCell, now time.Time) string {
	if c.At.IsZero() {
		return l.say(c.Text)
	}
	return l.ago(now, c.At)
}

// Bytes is a size for people.
func Bytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	size, prefix := float64(n)/unit, 0
	for size >= unit && prefix < 4 {
		size, prefix = size/unit, prefix+1
	}
	return fmt.Sprintf("%.1f %ciB", size, "KMGTP"[prefix])
}

// Trace keeps how long changes waited for an acknowledgement, within a bounded time. It is safe for concurrent use.
type Trace struct {
	keep time.Duration

	mu     sync.Mutex
	points []tracePoint // oldest first
}

type tracePoint struct {
	at              time.Time
	lag             time.Duration
	report, failing bool
}

// maxTrace bounds a Trace, in points.
const maxTrace = 720

// NewTrace returns a Trace of the last keep, of which at most 720 points are kept.
func NewTrace(keep time.Duration) *Trace { return &Trace{keep: keep} }

// Add notes the lag at a moment, whether a report was acknowledged since the last one, and whether reporting fails.
func (t *Trace) Add(at time.Time, lag time.Duration, report, failing bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.points = append(t.points, tracePoint{at, lag, report, failing})
	old := max(0, len(t.points)-maxTrace)
	for old < len(t.points) && at.Sub(t.points[old].at) > t.keep {
		old++
	}
	// Copied now and then only, and never more than twice the bound is kept.
	if t.points = t.points[old:]; cap(t.points) > 4*maxTrace {
		t.points = append(make([]tracePoint, 0, 2*maxTrace), t.points...)
	}
}

// The size of the drawn Trace, in the units of its picture.
const (
	traceWidth  = 600
	traceHeight = 60
)

// drawnTrace is a Trace as a picture.
type drawnTrace struct {
	Width, Height int
	Line          string // of an SVG polyline
	Reports       []int  // x of acknowledged reports
	Failing       []bar
	Most          string // lag
	From          string // how long ago the picture begins
	Words         string // the same as a sentence
}

type bar struct{ X, Width int }

// draw returns the picture as of now; nil if there is too little to draw.
func (t *Trace) draw(l *language, now time.Time) *drawnTrace {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	points := append([]tracePoint(nil), t.points...)
	t.mu.Unlock()
	const least = 2
	if len(points) < least {
		return nil
	}
	span := max(now.Sub(points[0].at), time.Second)
	most, failing, reports := time.Duration(0), time.Duration(0), 0
	for _, p := range points {
		most = max(most, p.lag)
	}
	d := &drawnTrace{Width: traceWidth, Height: traceHeight, From: l.span(span)}
	scale := max(most, time.Second)
	x := func(at time.Time) int { return int(at.Sub(points[0].at) * traceWidth / span) }
	var line strings.Builder
	for i, p := range points {
		fmt.Fprintf(&line, "%d,%d ", x(p.at), traceHeight-2-int(p.lag*(traceHeight-6)/scale))
		if p.report {
			reports++
			if n := len(d.Reports); n == 0 || d.Reports[n-1] != x(p.at) {
				d.Reports = append(d.Reports, x(p.at))
			}
		}
		if i == 0 || !p.failing {
			continue
		}
		failing += p.at.Sub(points[i-1].at)
		d.Failing = append(d.Failing, bar{X: x(points[i-1].at), Width: max(1, x(p.at)-x(points[i-1].at))})
	}
	d.Line, d.Most = line.String(), l.span(most)
	d.Words = l.t("lagWords", d.From, d.Most, reports)
	if failing > 0 {
		d.Words += l.t("lagFailing", l.span(failing))
	}
	return d
}

// width is how many columns a text takes in a terminal: those of East Asian scripts are twice as wide.
func width(text string) int {
	n := 0
	for _, r := range text {
		if n++; wide(r) {
			n++
		}
	}
	return n
}

func wide(r rune) bool {
	return unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul) || r >= 0x3000 && r < 0x3040 || r >= 0xff00 && r < 0xff61
}

// piece is what a line is not broken within; spaced: a space comes before it, where it does not begin a line.
type piece struct {
	text   string
	spaced bool
}

// pieces are the words of a text, and every character of scripts that are written without spaces.
func pieces(text string) []piece {
	var out []piece
	for word := range strings.FieldsSeq(text) {
		spaced, begun := len(out) > 0, 0
		for at, r := range word {
			// A sign that ends something stays with what it ends.
			if at == begun || !wide(r) || strings.ContainsRune("，。；：、）”", r) {
				continue
			}
			out, spaced, begun = append(out, piece{word[begun:at], spaced}), false, at
		}
		out = append(out, piece{word[begun:], spaced})
	}
	return out
}

// wrap breaks a text into lines of at most most columns, all but the first with an indent. Words that are longer stay
// whole: they are names, or commands to copy.
func wrap(text string, most int, indent string) string {
	var out strings.Builder
	column := 0
	for i, p := range pieces(text) {
		n := width(p.text)
		space := 0
		if p.spaced {
			space = 1
		}
		switch {
		case i == 0:
		case column+space+n > most:
			out.WriteString("\n" + indent)
			column = width(indent)
		case p.spaced:
			out.WriteByte(' ')
			column++
		}
		out.WriteString(p.text)
		column += n
	}
	return out.String()
}

// columns lays rows out in columns that are as wide as their longest cell.
func columns(rows [][]string) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(cell))
		}
	}
	var out strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-width(cell)+2))
		}
		out.WriteString("  " + strings.TrimRight(line.String(), " ") + "\n")
	}
	return out.String()
}
