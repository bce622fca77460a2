package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/pseudo-agent/pseudo-agent/test/bench/rival"
)

// panel is one figure over the number of Pods, both axes logarithmic: what is linear is a straight line that rises by one
// decade per decade, like the grid's diagonal.
type panel struct {
	title  string
	figure func(Sample) float64
}

var panels = []panel{
	{"CPU of the initial sync, s", func(s Sample) float64 { return s.SyncCPU }},
	{"peak RSS, MB", func(s Sample) float64 { return float64(s.PeakRSS) / 1e6 }},
	{"live heap, MB", func(s Sample) float64 { return float64(s.LiveHeap) / 1e6 }},
}

const (
	panelWidth, panelHeight = 300., 300.
	marginLeft, marginTop   = 60., 50.
	panelGap                = 70.
)

// svg draws the curve.
func (r *Result) svg() []byte {
	var b strings.Builder
	width := marginLeft + float64(len(panels))*(panelWidth+panelGap)
	height := marginTop + panelHeight + 80
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	for i, p := range panels {
		r.drawPanel(&b, p, marginLeft+float64(i)*(panelWidth+panelGap), marginTop)
	}
	y := height - 18
	fmt.Fprintf(&b, `<circle cx="%.0f" cy="%.0f" r="4" fill="#0b6"/><text x="%.0f" y="%.0f">pseudo-agent</text>`+"\n", marginLeft, y-4, marginLeft+10, y)
	fmt.Fprintf(&b, `<circle cx="%.0f" cy="%.0f" r="4" fill="#c33"/><text x="%.0f" y="%.0f">stock dynamic informer</text>`+"\n", marginLeft+130, y-4, marginLeft+140, y)
	fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" fill="#888">dashed: proportional to the number of Pods, through the largest cluster</text>`+"\n</svg>\n", marginLeft+310, y)
	return []byte(b.String())
}

func (r *Result) drawPanel(b *strings.Builder, p panel, left, top float64) {
	loX, hiX, loY, hiY := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, pt := range r.Curve {
		x, y := math.Log10(float64(pt.Pods)), math.Log10(p.figure(pt.Sample))
		loX, hiX, loY, hiY = min(loX, x), max(hiX, x), min(loY, y), max(hiY, y)
	}
	loX, hiX, loY, hiY = math.Floor(loX), math.Ceil(hiX), math.Floor(loY), math.Ceil(hiY)
	px := func(x float64) float64 { return left + (x-loX)/(hiX-loX)*panelWidth }
	py := func(y float64) float64 { return top + panelHeight - (y-loY)/(hiY-loY)*panelHeight }
	fmt.Fprintf(b, `<text x="%.0f" y="%.0f" font-size="14" font-weight="bold">%s</text>`+"\n", left, top-14, p.title)
	for x := loX; x <= hiX; x++ {
		fmt.Fprintf(b, `<path d="M%.1f %.1fV%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n",
			px(x), top, top+panelHeight, px(x), top+panelHeight+16, decade(x))
	}
	for y := loY; y <= hiY; y++ {
		fmt.Fprintf(b, `<path d="M%.1f %.1fH%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, py(y), left+panelWidth, left-6, py(y)+4, decade(y))
	}
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">Pods</text>`+"\n", left+panelWidth/2, top+panelHeight+32)
	r.drawLine(b, p, rival.Stock, "#c33", px, py)
	r.drawLine(b, p, pseudoAgent, "#0b6", px, py)
	r.drawProportional(b, p, px, py, loY, loX)
}

func (r *Result) drawLine(b *strings.Builder, p panel, name, colour string, px, py func(float64) float64) {
	var path strings.Builder
	for _, pt := range r.Curve {
		if pt.Name != name {
			continue
		}
		x, y := px(math.Log10(float64(pt.Pods))), py(math.Log10(p.figure(pt.Sample)))
		step := "L"
		if path.Len() == 0 {
			step = "M"
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", step, x, y)
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"><title>%d Pods: %.3g</title></circle>`+"\n", x, y, colour, pt.Pods, p.figure(pt.Sample))
	}
	if path.Len() > 0 {
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", path.String(), colour)
	}
}

// drawProportional draws what would be strictly proportional, through pseudo-agent's largest cluster.
func (r *Result) drawProportional(b *strings.Builder, p panel, px, py func(float64) float64, loY, loX float64) {
	var last *Point
	for i := range r.Curve {
		if r.Curve[i].Name == pseudoAgent {
			last = &r.Curve[i]
		}
	}
	if last == nil {
		return
	}
	x, y := math.Log10(float64(last.Pods)), math.Log10(p.figure(last.Sample))
	down := min(x-loX, y-loY)
	fmt.Fprintf(b, `<path d="M%.1f %.1fL%.1f %.1f" stroke="#888" stroke-dasharray="5 4"/>`+"\n", px(x), py(y), px(x-down), py(y-down))
}

// decade writes a power of ten.
func decade(exponent float64) string {
	v := math.Pow(10, exponent)
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%gk", v/1e3)
	default:
		return fmt.Sprintf("%g", v)
	}
}
