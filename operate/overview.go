package operate

import (
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
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

// text is what is shown of a cell.
func (c ListingCell) text(now time.Time) string {
	if c.At.IsZero() {
		return c.Text
	}
	return Ago(now, c.At)
}

// Span is a duration for people: the two largest units at most.
func Span(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return strings.TrimSuffix(fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60), " 0 min")
	default:
		return strings.TrimSuffix(fmt.Sprintf("%d d %d h", int(d.Hours())/24, int(d.Hours())%24), " 0 h")
	}
}

// Ago is how long before now something was, "in …" if it comes.
func Ago(now, t time.Time) string {
	if d := t.Sub(now); d > time.Second {
		return "in " + Span(d)
	}
	return Span(now.Sub(t)) + " ago"
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
func (t *Trace) draw(now time.Time) *drawnTrace {
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
	d := &drawnTrace{Width: traceWidth, Height: traceHeight, From: Span(span)}
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
	d.Line, d.Most = line.String(), Span(most)
	d.Words = fmt.Sprintf("in the last %s changes waited %s at most; %d reports acknowledged", d.From, d.Most, reports)
	if failing > 0 {
		d.Words += ", failing for " + Span(failing)
	}
	return d
}

// wrap breaks a text into lines of at most width characters, all but the first with an indent. Words that are longer stay
// whole: they are names, or commands to copy.
func wrap(text string, width int, indent string) string {
	var out strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+n > width:
			out.WriteString("\n" + indent)
			column = utf8.RuneCountInString(indent)
		default:
			out.WriteByte(' ')
			column++
		}
		out.WriteString(word)
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
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var out strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		out.WriteString("  " + strings.TrimRight(line.String(), " ") + "\n")
	}
	return out.String()
}
